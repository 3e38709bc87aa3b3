//! Connections: how many, and what they may not do.
//!
//! hyper's own header timeout also runs while a connection is idle between two requests, so one
//! limit would have to serve for both. Here a connection notes what it is at ([`Activity`]) and a
//! timer beside it, which costs a request nothing, closes it when that has lasted for too long.

use std::{
    future::{Future, poll_fn},
    io,
    pin::Pin,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    task::{Context, Poll},
    time::Duration,
};

use axum::body::Body;
use hyper::{body::Incoming, server::conn::http1, service::service_fn};
use hyper_util::rt::TokioIo;
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, ReadBuf},
    net::{TcpListener, TcpStream},
    sync::Semaphore,
    time::Instant,
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use tracing::{debug, warn};

use crate::{metrics::Metrics, routes::Requests, settings::ConnectionLimits};

/// Bytes of a request's head that are buffered. hyper's default, 400 KiB, is a lot for each of ten
/// thousand connections.
const HEAD_BYTES_MAX: usize = 64 * 1024;
/// Pause after `accept` failed for want of file descriptors.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);
/// A connection that was told to close is given so long to do it.
const CLOSE_WITHIN: Duration = Duration::from_secs(1);
/// What a connection over the limit is told.
const TOO_MANY_CONNECTIONS: &str = "{\"type\":\"urn:roundtrip:problem:too_many_connections\",\"title\":\"The task cannot be done at present\",\
    \"status\":503,\"detail\":\"no more connections are taken at present\",\"code\":\"too_many_connections\",\
    \"retryable\":true,\"message\":\"FAIL\"}";
/// Connections that are being told so at once; those beyond are just closed.
const REFUSALS_MAX: usize = 64;

/// Serves connections until `stop`, then lets each finish its request, for at most `drain_timeout`.
pub(crate) async fn serve(
    listener: TcpListener,
    requests: Requests,
    limits: ConnectionLimits,
    drain_timeout: Duration,
    stop: CancellationToken,
) {
    let places = Arc::new(Semaphore::new(limits.connections_max));
    let refusals = Arc::new(Semaphore::new(REFUSALS_MAX));
    let connections = TaskTracker::new();
    let server = Arc::new(Server {
        metrics: requests.metrics(),
        requests,
        limits,
        stop,
    });
    loop {
        let accepted = tokio::select! {
            // First those who had connected when we were told to stop: closing would reset them.
            biased;
            accepted = listener.accept() => accepted,
            () = server.stop.cancelled() => break,
        };
        let stream = match accepted {
            Ok((stream, _)) => stream,
            Err(error) => {
                // Of one connection that is gone already, or of all: no descriptors are left.
                debug!(%error, "accept");
                tokio::time::sleep(ACCEPT_PAUSE).await;
                continue;
            }
        };
        let Ok(place) = places.clone().try_acquire_owned() else {
            server.metrics.connections_refused.inc();
            if let Ok(refusal) = refusals.clone().try_acquire_owned() {
                let refusing = tokio::time::timeout(CLOSE_WITHIN, refuse(stream));
                connections.spawn(async move {
                    let outcome = refusing.await;
                    debug!(?outcome, "connection refused");
                    drop(refusal);
                });
            }
            continue;
        };
        let server = server.clone();
        // Its end, even by a panic in a route, ends one connection; the drain waits for it.
        connections.spawn(async move {
            server.metrics.connections.inc();
            server.clone().connection(stream).await;
            server.metrics.connections.dec();
            drop(place);
        });
    }
    // The port is free for a successor from here on.
    drop(listener);
    connections.close();
    if tokio::time::timeout(drain_timeout, connections.wait())
        .await
        .is_err()
    {
        warn!(
            left = connections.len(),
            "drain timeout, connections are cut"
        );
    }
}

/// Tells a client that there is no place for it. What it has sent is read first: a connection closed
/// with unread bytes is reset, and the answer lost.
async fn refuse(mut stream: TcpStream) -> io::Result<()> {
    let mut request = [0; 4096];
    let read = stream.read(&mut request).await?;
    debug!(read, "unread request");
    let length = TOO_MANY_CONNECTIONS.len();
    let answer = format!(
        "HTTP/1.1 503 Service Unavailable\r\ncontent-type: application/problem+json\r\n\
         retry-after: 1\r\nconnection: close\r\ncontent-length: {length}\r\n\r\n\
         {TOO_MANY_CONNECTIONS}"
    );
    stream.write_all(answer.as_bytes()).await?;
    stream.shutdown().await
}

struct Server {
    requests: Requests,
    limits: ConnectionLimits,
    metrics: Arc<Metrics>,
    stop: CancellationToken,
}

impl Server {
    async fn connection(self: Arc<Self>, stream: TcpStream) {
        if let Err(error) = stream.set_nodelay(true) {
            debug!(%error, "nodelay");
        }
        let activity = Arc::new(Activity::default());
        let watched = Watched {
            stream,
            activity: activity.clone(),
        };
        let service = service_fn(|request: hyper::Request<Incoming>| {
            let (server, activity) = (self.clone(), activity.clone());
            activity.set(Phase::Busy);
            async move {
                let response = server.requests.answer(request.map(Body::new)).await;
                activity.set(Phase::Idle(Instant::now()));
                Ok::<_, std::convert::Infallible>(response)
            }
        });
        let serving = http1::Builder::new()
            .max_buf_size(HEAD_BYTES_MAX)
            .serve_connection(TokioIo::new(watched), service);
        let mut serving = std::pin::pin!(serving);
        let mut look_at = Instant::now() + self.limits.header_timeout.min(self.limits.idle_timeout);
        loop {
            tokio::select! {
                // What has arrived is read before we stop.
                biased;
                ended = serving.as_mut() => {
                    if let Err(error) = ended {
                        debug!(%error, "connection ended");
                    }
                    return;
                }
                () = tokio::time::sleep_until(look_at) => match activity.limit(&self.limits) {
                    Some(limit) if limit <= Instant::now() => {
                        self.metrics.connections_timed_out.inc();
                        break;
                    }
                    // A head may begin to arrive at any moment, and has its limit then.
                    limit => {
                        let next = Instant::now() + self.limits.header_timeout;
                        look_at = limit.map_or(next, |limit| limit.min(next));
                    }
                },
                () = self.stop.cancelled() => {
                    // hyper would close a connection on which nothing has arrived yet, and reset the
                    // request that is on its way.
                    let begun = poll_fn(|context| match serving.as_mut().poll(context) {
                        Poll::Pending if activity.is_new() => Poll::Pending,
                        polled => Poll::Ready(polled.is_ready()),
                    });
                    if let Ok(true) = tokio::time::timeout(CLOSE_WITHIN, begun).await {
                        return;
                    }
                    serving.as_mut().graceful_shutdown();
                    // Half a head will not become a request any more; a request that was read is
                    // answered. `serve` bounds the whole.
                    loop {
                        let pause = tokio::time::sleep(CLOSE_WITHIN);
                        tokio::select! {
                            _ = serving.as_mut() => return,
                            () = pause => if activity.limit(&self.limits).is_some() { return },
                        }
                    }
                }
            }
        }
        serving.as_mut().graceful_shutdown();
        // Ends by itself between two requests; half a head is cut off.
        drop(tokio::time::timeout(CLOSE_WITHIN, serving).await);
    }
}

/// What a connection is at.
#[derive(Debug, Clone, Copy)]
enum Phase {
    /// Before its first request, since.
    New(Instant),
    /// Between two requests, since.
    Idle(Instant),
    /// A part of a request's head has arrived, the first of it then.
    Head(Instant),
    /// A request is being answered. Its body and its answer have limits of their own.
    Busy,
}

#[derive(Debug)]
struct Activity {
    /// Short sections, no await inside.
    phase: Mutex<Phase>,
}

impl Default for Activity {
    fn default() -> Self {
        Self {
            phase: Mutex::new(Phase::New(Instant::now())),
        }
    }
}

impl Activity {
    fn phase(&self) -> MutexGuard<'_, Phase> {
        self.phase.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn set(&self, phase: Phase) {
        *self.phase() = phase;
    }

    fn bytes_arrived(&self) {
        let mut phase = self.phase();
        if let Phase::New(_) | Phase::Idle(_) = *phase {
            *phase = Phase::Head(Instant::now());
        }
    }

    fn is_new(&self) -> bool {
        matches!(*self.phase(), Phase::New(_))
    }

    /// When the present phase has lasted for too long; `None` while that is not ours to say.
    fn limit(&self, limits: &ConnectionLimits) -> Option<Instant> {
        match *self.phase() {
            Phase::New(since) | Phase::Idle(since) => Some(since + limits.idle_timeout),
            Phase::Head(since) => Some(since + limits.header_timeout),
            Phase::Busy => None,
        }
    }
}

/// A stream that tells when bytes arrive.
struct Watched {
    stream: TcpStream,
    activity: Arc<Activity>,
}

impl AsyncRead for Watched {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buffer.filled().len();
        let polled = Pin::new(&mut self.stream).poll_read(context, buffer);
        if buffer.filled().len() > before {
            self.activity.bytes_arrived();
        }
        polled
    }
}

impl AsyncWrite for Watched {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(context, bytes)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        parts: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write_vectored(context, parts)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }
}

#[cfg(test)]
mod tests {
    use shared::{
        bus::memory::MemoryBus,
        contract::Address,
        identity::Identity,
        node::{Hears, Node},
        settings::Channels,
    };

    use super::*;
    use crate::settings::Limits;

    #[tokio::test]
    async fn half_a_head_after_a_long_silence_is_cut_off_like_any_other() {
        let identity = Identity {
            address: Address::new("f1", "frontend").unwrap(),
            stack: None,
            image: None,
        };
        let bus = Arc::new(MemoryBus::default());
        let node = Node::new(bus, identity, Channels::default(), Hears::Consuming);
        let mut limits = Limits::default();
        limits.connections.header_timeout = Duration::from_millis(100);
        limits.connections.idle_timeout = Duration::from_secs(10);
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let at = listener.local_addr().unwrap();
        tokio::spawn(crate::run(
            node,
            limits.clone(),
            listener,
            CancellationToken::new(),
        ));

        let mut client = TcpStream::connect(at).await.unwrap();
        // It has been looked at meanwhile, and was idle.
        tokio::time::sleep(3 * limits.connections.header_timeout).await;
        client.write_all(b"GET /livez HTTP/1.1\r\n").await.unwrap();
        let mut answer = Vec::new();
        let closed = tokio::time::timeout(
            limits.connections.idle_timeout / 2,
            client.read_to_end(&mut answer),
        );
        closed.await.expect("closed in time").unwrap();
    }
}
