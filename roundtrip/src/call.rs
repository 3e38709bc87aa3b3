//! `roundtrip call`: one request to a frontend.

use std::io::Read;

use anyhow::{Context, bail};
use serde_json::Value;

use crate::{
    cli::{Call, Output},
    http,
    out::print,
};

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
    let path = match &options.task {
        Some((task, subtask)) => format!("/task/{task}/{subtask}"),
        None => "/task".to_owned(),
    };
    let (status, answer) = http::post(&options.url, &path, body, options.timeout_ms).await?;
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
