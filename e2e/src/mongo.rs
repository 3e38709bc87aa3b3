//! A database server of a test's own, to be killed, frozen and started again on its data.

mod refusal;

use std::{net::SocketAddr, path::PathBuf};

use anyhow::{Context, Result};

use crate::{
    case::{Case, free_port},
    environment,
    process::{Launch, Process},
    records::Records,
    until::{SOON, until},
};

pub use refusal::Refusal;

/// What the stand-in may keep in memory, where MongoDB takes half of the machine's. It fills as the
/// data grows: with 256 MB, a million requests make it write pages out and read them in again.
const CACHE: &str = "2G";

/// When a write that the server acknowledges is on the disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Sync {
    /// As the server does it by itself.
    Usual,
    /// Before each acknowledgement, also where the server does not heed `j: true`.
    OnCommit,
}

/// A server that speaks the MongoDB protocol.
#[derive(Debug)]
pub struct Server {
    /// `host:port`.
    pub address: SocketAddr,
    folder: PathBuf,
    sync: Sync,
    process: Option<Process>,
}

impl Server {
    /// Takes a port; nothing listens on it yet.
    ///
    /// # Errors
    /// When there is no free port.
    pub fn planned(case: &Case, sync: Sync) -> Result<Self> {
        Ok(Self {
            address: SocketAddr::from(([127, 0, 0, 1], free_port()?)),
            folder: case.folder().join("mongo"),
            sync,
            process: None,
        })
    }

    /// Its `mongodb://` address, or that of a forwarder in front of it.
    #[must_use]
    pub fn uri(at: SocketAddr) -> String {
        format!("mongodb://{at}/?directConnection=true")
    }

    /// Starts it on the data it has, and waits until it answers.
    ///
    /// # Errors
    /// When the program is missing or does not come up.
    pub async fn start(&mut self, case: &Case) -> Result<()> {
        std::fs::create_dir_all(&self.folder)?;
        let program = environment::mongo_program()?;
        let launch = Launch::new(case, "mongo-server", &program);
        let port = self.address.port().to_string();
        let is_mongod = program.file_name().is_some_and(|name| name == "mongod");
        let launch = if is_mongod {
            // It journals before it acknowledges a write with `j: true`, which is what is written.
            launch
                .args(["--port", &port, "--bind_ip", "127.0.0.1", "--dbpath"])
                .args([&self.folder])
        } else {
            let sync: &[&str] = match self.sync {
                Sync::Usual => &[],
                Sync::OnCommit => &["--sync-on-commit"],
            };
            launch
                .args(["--host", "127.0.0.1", "--port", &port, "--standalone"])
                .args(["--cache-size", CACHE])
                .args(sync)
                .args(["--storage-path"])
                .args([&self.folder])
        };
        self.process = Some(launch.start()?);
        let records = Records::of(&Self::uri(self.address), "start").await?;
        until("the test's own database", SOON, async || {
            self.process()?.ensure_running()?;
            records.task_count().await.map(Some)
        })
        .await?;
        Ok(())
    }

    /// Its process.
    ///
    /// # Errors
    /// When it does not run.
    pub fn process(&mut self) -> Result<&mut Process> {
        self.process.as_mut().context("the database does not run")
    }

    /// Kills it.
    ///
    /// # Errors
    /// When it does not run.
    pub async fn kill(&mut self) -> Result<()> {
        let mut process = self.process.take().context("the database does not run")?;
        process.kill().await
    }
}
