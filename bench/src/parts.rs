//! Programs that are measured beside ours, each a process of its own: hidden commands of `bench`.
//!
//! They do as little as the work allows, in the way ours do it: one thread, one wake-up for whatever
//! waits, publishes in pipelines.

mod hops;
mod http;
mod nats;

use std::net::SocketAddr;

use anyhow::{Context, Result};
use clap::Subcommand;
use serde::Deserialize;

/// Which program.
#[derive(Debug, Subcommand)]
pub(crate) enum Part {
    /// Answers HTTP at once: the exchange without the events.
    Http {
        /// Where.
        #[arg(long)]
        listen: SocketAddr,
    },
    /// The first of the processes that a request hops through, with HTTP in front.
    HopsFront(hops::Front),
    /// A process in the middle or at the end.
    Hop(hops::Hop),
    /// HTTP in front of a NATS request.
    NatsFront(nats::Front),
    /// Answers NATS requests.
    NatsResponder(nats::Responder),
}

impl Part {
    /// Runs it; it does not end by itself.
    ///
    /// # Errors
    /// It cannot listen, or what it needs is not there.
    pub(crate) async fn run(&self) -> Result<()> {
        match self {
            Self::Http { listen } => {
                http::serve(*listen, async |body| add(&body).map(|sum| answer(&sum))).await
            }
            Self::HopsFront(front) => front.run().await,
            Self::Hop(hop) => hop.run().await,
            Self::NatsFront(front) => front.run().await,
            Self::NatsResponder(responder) => responder.run().await,
        }
    }
}

#[derive(Deserialize)]
struct Operands {
    a1: f64,
    a2: f64,
}

/// The task itself.
fn add(body: &[u8]) -> Result<String> {
    let Operands { a1, a2 } = serde_json::from_slice(body).context("not two numbers")?;
    Ok((a1 + a2).to_string())
}

fn answer(result: &str) -> String {
    format!(r#"{{"message":"OK","result":"{result}"}}"#)
}
