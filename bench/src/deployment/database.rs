//! The server that speaks MongoDB's protocol.

use anyhow::Result;
use e2e::{
    case::Case,
    environment,
    mongo::{Server, Sync},
};

/// A server of the scenario's own.
#[derive(Debug)]
pub(crate) struct Database {
    /// It.
    pub(crate) server: Server,
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
        let program = environment::mongo_program()?;
        let program = program.file_name().unwrap_or_default().to_string_lossy();
        let sync = if sync_on_commit {
            Sync::OnCommit
        } else {
            Sync::Usual
        };
        let mut server = Server::planned(case, sync)?;
        server.start(case).await?;
        Ok(Self {
            server,
            program: program.into_owned(),
        })
    }

    /// Its `mongodb://` address.
    pub(crate) fn uri(&self) -> String {
        Server::uri(self.server.address)
    }
}
