//! What an operator asks a process: is it alive, is it ready, how is it doing.

use std::{
    collections::BTreeMap,
    error::Error,
    net::SocketAddr,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use axum::{
    Json, Router,
    extract::State,
    http::{StatusCode, header},
    response::{IntoResponse, Response},
    routing::get,
};
use hyper::server::conn::http1;
use hyper_util::{rt::TokioIo, service::TowerToHyperService};
use prometheus_client::registry::Registry;
use serde_json::json;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    task::JoinSet,
};
use tokio_util::sync::CancellationToken;
use tracing::debug;

/// Connections at once. Those beyond wait in the listener's queue until one ends: file descriptors must
/// be left for the service's own connections. Some ask every few seconds, each for milliseconds.
pub const CONNECTIONS_MAX: usize = 64;
/// A connection is closed after so long, whatever it is at: as long as Prometheus usually waits.
const CONNECTION_WITHIN: Duration = Duration::from_secs(10);
/// Pause after `accept` failed for want of file descriptors.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);
/// How long the `health` command waits for an answer.
const HEALTH_TIMEOUT: Duration = Duration::from_secs(2);

/// What a process needs in order to do its work. Cheap to clone.
#[derive(Debug, Clone, Default)]
pub struct Readiness {
    shared: Arc<Shared>,
}

#[derive(Debug, Default)]
struct Shared {
    /// `None` when all is well, else what it waits for. Short sections, no await inside.
    checks: Mutex<BTreeMap<&'static str, Option<String>>>,
    was_ready: AtomicBool,
}

impl Readiness {
    /// A dependency that does not hold until [`Check::pass`] is called.
    pub fn check(&self, name: &'static str) -> Check {
        let check = Check {
            name,
            shared: self.shared.clone(),
        };
        check.set(Some("not there yet".into()));
        check
    }

    /// Whether every dependency holds.
    pub fn is_ready(&self) -> bool {
        self.shared.checks().values().all(Option::is_none)
    }

    /// Whether it has been ready: a service that has lost a dependency waits for it to come back,
    /// and it is of no use to replace its container for that.
    pub fn is_healthy(&self) -> bool {
        self.shared.was_ready.load(Ordering::Relaxed)
    }
}

impl Shared {
    fn checks(&self) -> MutexGuard<'_, BTreeMap<&'static str, Option<String>>> {
        self.checks.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// One dependency.
#[derive(Debug, Clone)]
pub struct Check {
    name: &'static str,
    shared: Arc<Shared>,
}

impl Check {
    /// The dependency holds.
    pub fn pass(&self) {
        self.set(None);
    }

    /// The dependency does not hold.
    pub fn fail(&self, error: &dyn Error) {
        self.set(Some(chain(error)));
    }

    /// The dependency does not hold, for a reason that is no error.
    pub fn wait(&self, why: impl Into<String>) {
        self.set(Some(why.into()));
    }

    fn set(&self, state: Option<String>) {
        let mut checks = self.shared.checks();
        checks.insert(self.name, state);
        if checks.values().all(Option::is_none) {
            self.shared.was_ready.store(true, Ordering::Relaxed);
        }
    }
}

/// An error and its causes as one sentence.
pub fn chain(error: &dyn Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        text.push_str(": ");
        text.push_str(&cause.to_string());
        source = cause.source();
    }
    text
}

/// What the routes show.
#[derive(Debug, Clone)]
pub struct Ops {
    /// What the process needs.
    pub readiness: Readiness,
    /// What it counts.
    pub metrics: Arc<Registry>,
}

/// `GET /livez`, `/readyz` (per dependency), `/healthz` (has been ready), `/metrics` (Prometheus).
pub fn routes(ops: Ops) -> Router {
    Router::new()
        .route("/livez", get(async || Json(json!({"live": true}))))
        .route("/readyz", get(readyz))
        .route("/healthz", get(healthz))
        .route("/metrics", get(metrics))
        .with_state(ops)
}

async fn readyz(State(ops): State<Ops>) -> Response {
    let is_ready = ops.readiness.is_ready();
    let checks: BTreeMap<_, _> = ops
        .readiness
        .shared
        .checks()
        .iter()
        .map(|(name, state)| (*name, state.clone().unwrap_or_else(|| "ok".into())))
        .collect();
    (
        status(is_ready),
        Json(json!({"ready": is_ready, "checks": checks})),
    )
        .into_response()
}

async fn healthz(State(ops): State<Ops>) -> Response {
    let is_healthy = ops.readiness.is_healthy();
    (status(is_healthy), Json(json!({"healthy": is_healthy}))).into_response()
}

fn status(is_well: bool) -> StatusCode {
    if is_well {
        StatusCode::OK
    } else {
        StatusCode::SERVICE_UNAVAILABLE
    }
}

async fn metrics(State(ops): State<Ops>) -> Response {
    let mut text = String::new();
    match prometheus_client::encoding::text::encode(&mut text, &ops.metrics) {
        Ok(()) => {
            let kind = "application/openmetrics-text; version=1.0.0; charset=utf-8";
            ([(header::CONTENT_TYPE, kind)], text).into_response()
        }
        Err(error) => (StatusCode::INTERNAL_SERVER_ERROR, error.to_string()).into_response(),
    }
}

/// Serves the routes on a listener of their own until `stop`, then finishes what was asked. One request
/// for each connection: a limit for the whole of it then cuts nobody who asks now and then.
pub async fn serve(listener: TcpListener, ops: Ops, stop: CancellationToken) {
    let routes = TowerToHyperService::new(routes(ops));
    let mut connections = JoinSet::new();
    loop {
        // Every branch is cancel-safe: who was not accepted stays in the queue.
        tokio::select! {
            accepted = listener.accept(), if connections.len() < CONNECTIONS_MAX => match accepted {
                Ok((stream, _)) => {
                    let serving = http1::Builder::new()
                        .keep_alive(false)
                        .serve_connection(TokioIo::new(stream), routes.clone());
                    // Its end, even by a panic in a route, ends one connection.
                    connections.spawn(tokio::time::timeout(CONNECTION_WITHIN, serving));
                }
                Err(error) => {
                    debug!(%error, "accept");
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                }
            },
            Some(ended) = connections.join_next() => debug!(?ended, "connection ended"),
            () = stop.cancelled() => break,
        }
    }
    drop(listener);
    while connections.join_next().await.is_some() {}
}

/// What `<service> health` does: asks the process at this port of this machine for `/healthz`.
///
/// # Errors
/// A sentence that says what it answered instead.
pub async fn health(port: u16) -> Result<(), String> {
    let at = SocketAddr::from(([127, 0, 0, 1], port));
    let ask = async {
        let mut connection = TcpStream::connect(at).await?;
        let request = b"GET /healthz HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n";
        connection.write_all(request).await?;
        let mut answer = Vec::new();
        // The answer is a few hundred bytes; whatever sends more is not ours.
        connection.take(16_384).read_to_end(&mut answer).await?;
        std::io::Result::Ok(answer)
    };
    match tokio::time::timeout(HEALTH_TIMEOUT, ask).await {
        Ok(Ok(answer)) if answer.starts_with(b"HTTP/1.1 200") => Ok(()),
        Ok(Ok(answer)) => {
            let text = String::from_utf8_lossy(&answer);
            let line = text.lines().next().unwrap_or("nothing");
            Err(format!("http://{at}/healthz answers {line}"))
        }
        Ok(Err(error)) => Err(format!("http://{at}/healthz cannot be asked: {error}")),
        Err(_) => Err(format!(
            "http://{at}/healthz does not answer within {HEALTH_TIMEOUT:?}"
        )),
    }
}
