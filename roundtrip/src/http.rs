//! As much of an HTTP client as the commands need: one request, on a connection of its own.

use std::time::Duration;

use anyhow::{Context, bail};
use http_body_util::{BodyExt, Full, Limited};
use hyper::{Method, Request, StatusCode, Uri, body::Bytes, client::conn::http1};
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;

/// Largest answer that is read.
const ANSWER_BYTES_MAX: usize = 64 << 20;

/// `GET` of a path under the address.
///
/// # Errors
/// A sentence that names the address, when there is no whole answer within the limit.
pub(crate) async fn get(
    url: &str,
    path: &str,
    limit: Duration,
) -> anyhow::Result<(StatusCode, Bytes)> {
    within(limit, url, send(url, Method::GET, path, Vec::new())).await
}

/// `POST` of a JSON document.
///
/// # Errors
/// A sentence that names the address, when there is no whole answer within the limit.
pub(crate) async fn post(
    url: &str,
    path: &str,
    json: Vec<u8>,
    limit: Duration,
) -> anyhow::Result<(StatusCode, Bytes)> {
    within(limit, url, send(url, Method::POST, path, json)).await
}

async fn within<T>(
    limit: Duration,
    url: &str,
    asking: impl Future<Output = anyhow::Result<T>>,
) -> anyhow::Result<T> {
    tokio::time::timeout(limit, asking)
        .await
        .with_context(|| format!("no answer of {url} within {limit:?}"))?
}

async fn send(
    url: &str,
    method: Method,
    path: &str,
    json: Vec<u8>,
) -> anyhow::Result<(StatusCode, Bytes)> {
    let uri: Uri = url
        .parse()
        .with_context(|| format!("`{url}` is no address; expected http://HOST:PORT"))?;
    if uri.scheme_str() != Some("http") {
        bail!("`{url}` is no address that can be called; expected http://HOST:PORT");
    }
    let authority = uri.authority().context("the address has no host")?;
    let (host, port) = (
        authority.host().trim_matches(['[', ']']),
        authority.port_u16().unwrap_or(80),
    );
    let stream = TcpStream::connect((host, port)).await.with_context(|| {
        format!(
            "{host}:{port} cannot be connected to; is Roundtrip running there (`roundtrip up`)?"
        )
    })?;
    let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await?;
    // Ends with the answer, or with an error that the request sees as well.
    let driving = tokio::spawn(connection);
    let base = uri.path().trim_end_matches('/');
    let request = Request::builder()
        .method(method)
        .uri(format!("{base}{path}"))
        .header("host", authority.as_str())
        .header("content-type", "application/json")
        .body(Full::new(Bytes::from(json)))
        .context("the request cannot be made of these parts")?;
    let response = sender
        .send_request(request)
        .await
        .context("the connection broke")?;
    let status = response.status();
    let answer = Limited::new(response.into_body(), ANSWER_BYTES_MAX)
        .collect()
        .await
        .map_err(|error| anyhow::anyhow!("the answer broke off: {error}"))?;
    driving.abort();
    Ok((status, answer.to_bytes()))
}
