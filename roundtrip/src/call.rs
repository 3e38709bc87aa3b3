//! `roundtrip call`: one request to a frontend.

use std::io::Read;

use anyhow::{Context, bail};
use http_body_util::{BodyExt, Full, Limited};
use hyper::{Request, Uri, body::Bytes, client::conn::http1};
use hyper_util::rt::TokioIo;
use serde_json::Value;
use tokio::net::TcpStream;

use crate::{
    cli::{Call, Output},
    out::print,
};

/// Largest answer that is read.
const ANSWER_BYTES_MAX: usize = 64 << 20;

#[tokio::main(flavor = "current_thread")]
pub(crate) async fn call(options: &Call) -> anyhow::Result<()> {
    let body = match options.body.as_str() {
        "-" => {
            let mut body = Vec::new();
            std::io::stdin()
                .read_to_end(&mut body)
                .context("standard input cannot be read")?;
            body
        }
        body => body.as_bytes().to_vec(),
    };
    let (status, answer) = tokio::time::timeout(options.timeout_ms, post(options, body))
        .await
        .with_context(|| {
            format!(
                "no answer of {} within {:?}",
                options.url, options.timeout_ms
            )
        })??;
    let document: Value = serde_json::from_slice(&answer)
        .with_context(|| format!("{} answers {status} and no JSON", options.url))?;
    if options.output == Output::Json {
        print(format!("{document}\n"))?;
    }
    if !status.is_success() {
        let text = |name: &str| document.get(name).and_then(Value::as_str).unwrap_or("-");
        bail!(
            "{status}: {} ({}, request {})",
            text("detail"),
            text("code"),
            text("requestId")
        );
    }
    if options.output == Output::Text {
        let result = document.get("result").and_then(Value::as_str);
        print(format!("{}\n", result.context("the answer has no result")?))?;
    }
    Ok(())
}

async fn post(options: &Call, body: Vec<u8>) -> anyhow::Result<(hyper::StatusCode, Bytes)> {
    let uri: Uri = options
        .url
        .parse()
        .with_context(|| format!("`{}` is no address; expected http://HOST:PORT", options.url))?;
    if uri.scheme_str() != Some("http") {
        bail!(
            "`{}` is no address that can be called; expected http://HOST:PORT",
            options.url
        );
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
    let path = match &options.task {
        Some((task, subtask)) => format!("{base}/task/{task}/{subtask}"),
        None => format!("{base}/task"),
    };
    let request = Request::post(path)
        .header("host", authority.as_str())
        .header("content-type", "application/json")
        .body(Full::new(Bytes::from(body)))
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
