//! The server that speaks MongoDB's protocol.

use std::{fs, net::SocketAddr};

use anyhow::Result;
use e2e::{
    case::{Case, free_port},
    environment,
    process::{Launch, Process},
    records::Records,
    until::{SOON, until},
};

/// A server of the scenario's own.
#[derive(Debug)]
pub(crate) struct Database {
    address: SocketAddr,
    /// It.
    pub(crate) process: Process,
    /// What it is, for the report.
    pub(crate) program: String,
}

impl Database {
    /// Starts it and waits until it answers. `sync_on_commit` makes the stand-in for MongoDB as durable
    /// as MongoDB is with a journal.
    ///
    /// # Errors
    /// There is no such program, or it does not come up.
    pub(crate) async fn start(case: &Case, sync_on_commit: bool) -> Result<Self> {
        environment::provide_servers()?;
        let path = environment::mongo_program()?;
        let folder = case.folder().join("database");
        fs::create_dir_all(&folder)?;
        let port = free_port()?;
        let program = path.file_name().unwrap_or_default().to_string_lossy();
        let launch = Launch::new(case, "database", &path).args(["--port", &port.to_string()]);
        let launch = if program == "mongod" {
            launch.args(["--bind_ip", "127.0.0.1", "--dbpath"])
        } else {
            let sync = sync_on_commit.then_some("--sync-on-commit");
            launch.args(sync).args([
                "--host",
                "127.0.0.1",
                "--standalone",
                "--cache-size",
                "256M",
                "--storage-path",
            ])
        };
        let database = Self {
            address: SocketAddr::from(([127, 0, 0, 1], port)),
            process: launch.args([&folder]).start()?,
            program: program.into_owned(),
        };
        let uri = database.uri();
        until("the database to answer", SOON, async || {
            Records::of(&uri, "probe")
                .await?
                .task_count()
                .await
                .map(Some)
        })
        .await?;
        Ok(database)
    }

    /// Its `mongodb://` address.
    pub(crate) fn uri(&self) -> String {
        format!("mongodb://{}", self.address)
    }
}
