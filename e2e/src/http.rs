//! HTTP as a caller has it: whole requests, and raw bytes for what no client would send.

use std::{
    collections::BTreeMap,
    net::SocketAddr,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, anyhow, ensure};
use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use hyper::{
    HeaderMap, Request,
    client::conn::http1::{self, SendRequest},
    header::HOST,
};
use hyper_util::rt::TokioIo;
use serde_json::Value;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    time::timeout,
};

/// After this a request counts as hung. The longest deadline a test sets is far below it.
pub const HANG: Duration = Duration::from_secs(30);

/// An answer, whole.
#[derive(Debug, Clone)]
pub struct Answer {
    /// The status code.
    pub status: u16,
    /// All headers.
    pub headers: HeaderMap,
    /// The body.
    pub body: Bytes,
    /// From before the connection was made until the body was there.
    pub took: Duration,
}

impl Answer {
    /// The body as text.
    #[must_use]
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    /// The body as JSON.
    ///
    /// # Errors
    /// When it is none.
    pub fn json(&self) -> Result<Value> {
        serde_json::from_slice(&self.body).with_context(|| format!("no JSON: {:?}", self.text()))
    }

    /// One header as text.
    #[must_use]
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name)?.to_str().ok()
    }

    /// The `code` of a problem document.
    #[must_use]
    pub fn code(&self) -> Option<String> {
        Some(self.json().ok()?.get("code")?.as_str()?.to_owned())
    }

    /// Checks that the answer is a success with this body, to the byte.
    ///
    /// # Errors
    /// When it is anything else.
    pub fn expect_body(&self, expected: &str) -> Result<()> {
        ensure!(
            self.status == 200 && self.text() == expected,
            "expected 200 {expected}, got {} {}",
            self.status,
            self.text()
        );
        Ok(())
    }

    /// Checks that the answer is a problem document with everything the design promises, and
    /// returns it.
    ///
    /// # Errors
    /// When it is anything else.
    pub fn expect_problem(&self, status: u16, code: &str) -> Result<Value> {
        let context = || anyhow!("expected problem {status} {code}, got {self:?}");
        ensure!(self.status == status, context());
        ensure!(
            self.header("content-type") == Some("application/problem+json"),
            context().context("content-type")
        );
        let problem = self.json()?;
        ensure!(problem["code"] == code, context().context("code"));
        ensure!(problem["status"] == status, context().context("status"));
        ensure!(problem["message"] == "FAIL", context().context("message"));
        for field in ["type", "title", "detail", "requestId"] {
            let filled = problem[field].as_str().is_some_and(|text| !text.is_empty());
            ensure!(filled, context().context(field));
        }
        ensure!(
            problem["retryable"].is_boolean(),
            context().context("retryable")
        );
        ensure!(
            self.header("x-request-id") == problem["requestId"].as_str(),
            context().context("x-request-id and requestId differ")
        );
        Ok(problem)
    }
}

/// Sends one request on a connection of its own.
///
/// # Errors
/// When there is no whole answer.
pub async fn send(address: SocketAddr, request: Request<Full<Bytes>>) -> Result<Answer> {
    Caller::new(address).send(request).await
}

/// `GET path`.
///
/// # Errors
/// When there is no whole answer.
pub async fn get(address: SocketAddr, path: &str) -> Result<Answer> {
    send(address, Request::get(path).body(Full::default())?).await
}

/// The numbers under `/metrics`, each by its name with its labels, as it stands there.
///
/// # Errors
/// When there is no whole answer, or it is no metrics text.
pub async fn metrics(address: SocketAddr) -> Result<BTreeMap<String, f64>> {
    let text = get(address, "/metrics").await?.text();
    text.lines()
        .filter(|line| !line.starts_with('#'))
        .map(|line| {
            let (name, value) = line.rsplit_once(' ').context("a metric without a value")?;
            Ok((name.to_owned(), value.parse()?))
        })
        .collect::<Result<_>>()
        .with_context(|| format!("read the metrics {text:?}"))
}

/// `POST path` with a body and no content type.
///
/// # Errors
/// When there is no whole answer.
pub async fn post(address: SocketAddr, path: &str, body: impl Into<Bytes>) -> Result<Answer> {
    send(address, post_request(path, body)?).await
}

/// `POST /task` with a body.
///
/// # Errors
/// When there is no whole answer.
pub async fn task(address: SocketAddr, body: impl Into<Bytes>) -> Result<Answer> {
    post(address, "/task", body).await
}

/// `POST /task` with a body and one header.
///
/// # Errors
/// When there is no whole answer.
pub async fn task_with(
    address: SocketAddr,
    body: impl Into<Bytes>,
    header: (&str, &str),
) -> Result<Answer> {
    let request = Request::post("/task")
        .header(header.0, header.1)
        .body(Full::new(body.into()))?;
    send(address, request).await
}

/// A request to be changed further.
///
/// # Errors
/// When the path is none.
pub fn post_request(path: &str, body: impl Into<Bytes>) -> Result<Request<Full<Bytes>>> {
    Ok(Request::post(path).body(Full::new(body.into()))?)
}

/// A caller that keeps its connection, as a real one does.
#[derive(Debug)]
pub struct Caller {
    address: SocketAddr,
    connection: Option<SendRequest<Full<Bytes>>>,
}

impl Caller {
    /// Connects with the first request.
    #[must_use]
    pub fn new(address: SocketAddr) -> Self {
        Self {
            address,
            connection: None,
        }
    }

    /// Sends one request; connects anew when the server has closed the connection.
    ///
    /// # Errors
    /// When there is no whole answer, or none in time.
    pub async fn send(&mut self, mut request: Request<Full<Bytes>>) -> Result<Answer> {
        let host = self.address.to_string().parse()?;
        request.headers_mut().insert(HOST, host);
        let started = Instant::now();
        let answer = timeout(HANG, self.exchange(request))
            .await
            .map_err(|_| Hung)
            .context("no answer")?;
        if answer.is_err() {
            self.connection = None;
        }
        let mut answer = answer?;
        answer.took = started.elapsed();
        Ok(answer)
    }

    /// Makes sure that there is a connection, as far as one can know.
    ///
    /// # Errors
    /// When nobody listens.
    pub async fn connect(&mut self) -> Result<()> {
        if let Some(kept) = &mut self.connection
            && kept.ready().await.is_ok()
        {
            return Ok(());
        }
        self.connection = Some(connect(self.address).await?);
        Ok(())
    }

    async fn exchange(&mut self, request: Request<Full<Bytes>>) -> Result<Answer> {
        self.connect().await?;
        let mut connection = self.connection.take().context("just connected")?;
        let response = match connection.try_send_request(request).await {
            Ok(response) => response,
            Err(mut failed) => match failed.take_message() {
                // Closed before a byte of it was sent: it may go out on another connection.
                Some(request) => {
                    connection = connect(self.address).await?;
                    connection.send_request(request).await?
                }
                None => return Err(failed.into_error().into()),
            },
        };
        let (parts, body) = response.into_parts();
        let body = body.collect().await?.to_bytes();
        self.connection = Some(connection);
        Ok(Answer {
            status: parts.status.as_u16(),
            headers: parts.headers,
            body,
            took: Duration::ZERO,
        })
    }
}

/// The error of a request that got no answer in any reasonable time.
#[derive(Debug)]
pub struct Hung;

impl std::fmt::Display for Hung {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "hung for {HANG:?}")
    }
}

impl std::error::Error for Hung {}

async fn connect(address: SocketAddr) -> Result<SendRequest<Full<Bytes>>> {
    let stream = TcpStream::connect(address)
        .await
        .with_context(|| format!("connect to {address}"))?;
    stream.set_nodelay(true)?;
    let (sender, connection) = http1::handshake(TokioIo::new(stream)).await?;
    // Ends by itself when the sender is dropped or the server closes.
    tokio::spawn(connection);
    Ok(sender)
}

/// A connection on which the bytes are the test's own.
#[derive(Debug)]
pub struct Raw(TcpStream);

impl Raw {
    /// Connects.
    ///
    /// # Errors
    /// When nobody listens.
    pub async fn connect(address: SocketAddr) -> Result<Self> {
        let stream = TcpStream::connect(address).await?;
        stream.set_nodelay(true)?;
        Ok(Self(stream))
    }

    /// Sends bytes as they are.
    ///
    /// # Errors
    /// When the other side has closed.
    pub async fn send(&mut self, bytes: &[u8]) -> Result<()> {
        Ok(self.0.write_all(bytes).await?)
    }

    /// Says that nothing more will be sent.
    ///
    /// # Errors
    /// When the other side has closed.
    pub async fn finish_sending(&mut self) -> Result<()> {
        Ok(self.0.shutdown().await?)
    }

    /// Everything until the other side closes, which a reset does too.
    ///
    /// # Errors
    /// When it is not closed within `limit`.
    pub async fn read_until_closed(&mut self, limit: Duration) -> Result<String> {
        let mut received = Vec::new();
        // What was received before a reset stays in the buffer, so its error says nothing more.
        let closed = timeout(limit, self.0.read_to_end(&mut received)).await;
        let text = String::from_utf8_lossy(&received).into_owned();
        ensure!(
            closed.is_ok(),
            "still open after {limit:?}, received {text:?}"
        );
        Ok(text)
    }

    /// Everything until the text contains `end`.
    ///
    /// # Errors
    /// When that is not so within `limit`, or the other side closes before.
    pub async fn read_until(&mut self, end: &str, limit: Duration) -> Result<String> {
        let mut received = Vec::new();
        let found = timeout(limit, async {
            while !String::from_utf8_lossy(&received).contains(end) {
                if self.0.read_buf(&mut received).await? == 0 {
                    return Err(anyhow!("closed"));
                }
            }
            Ok(())
        })
        .await
        .map_err(|_| anyhow!("not within {limit:?}"))
        .and_then(|found| found);
        let text = String::from_utf8_lossy(&received).into_owned();
        found.with_context(|| format!("wait for {end:?}, received {text:?}"))?;
        Ok(text)
    }

    /// Sends one byte again and again until the other side closes; answers how long that took,
    /// and what it said.
    ///
    /// # Errors
    /// When it is still open after `limit`.
    pub async fn drip(
        mut self,
        byte: u8,
        interval: Duration,
        limit: Duration,
    ) -> Result<(Duration, String)> {
        let started = Instant::now();
        let mut received = Vec::new();
        loop {
            ensure!(started.elapsed() < limit, "still open after {limit:?}");
            // Cancel-safe: what a cancelled read has not taken stays in the socket.
            match timeout(interval, self.0.read_buf(&mut received)).await {
                Ok(Ok(0) | Err(_)) => break,
                Ok(Ok(_)) => {}
                Err(_) => {
                    if self.0.write_all(&[byte]).await.is_err() {
                        break;
                    }
                }
            }
        }
        let text = String::from_utf8_lossy(&received).into_owned();
        Ok((started.elapsed(), text))
    }
}
