//! NATS request and reply, as its client's documentation has it.

use std::net::SocketAddr;

use anyhow::{Context, Result};
use clap::Args;
use futures_util::StreamExt as _;

use super::{add, answer, http};

/// The subject of tasks.
const SUBJECT: &str = "task";

/// HTTP in front.
#[derive(Debug, Args)]
pub(crate) struct Front {
    /// Where callers are answered.
    #[arg(long)]
    listen: SocketAddr,
    /// `host:port` of NATS.
    #[arg(long)]
    nats: SocketAddr,
}

/// Does the tasks.
#[derive(Debug, Args)]
pub(crate) struct Responder {
    /// `host:port` of NATS.
    #[arg(long)]
    nats: SocketAddr,
}

impl Front {
    /// Runs it.
    pub(super) async fn run(&self) -> Result<()> {
        let client = connect(self.nats).await?;
        http::serve(self.listen, async move |body| {
            let reply = client.request(SUBJECT, body).await?;
            Ok(answer(std::str::from_utf8(&reply.payload)?))
        })
        .await
    }
}

impl Responder {
    /// Runs it.
    pub(super) async fn run(&self) -> Result<()> {
        let client = connect(self.nats).await?;
        let mut tasks = client.queue_subscribe(SUBJECT, SUBJECT.to_owned()).await?;
        while let Some(task) = tasks.next().await {
            let reply = task.reply.context("a task that wants no reply")?;
            client.publish(reply, add(&task.payload)?.into()).await?;
        }
        Ok(())
    }
}

async fn connect(nats: SocketAddr) -> Result<async_nats::Client> {
    Ok(async_nats::connect(nats.to_string()).await?)
}
