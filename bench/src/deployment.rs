//! What is measured, started for it: servers of its own, and our release binaries as bare processes.

mod alone;
mod binaries;
mod cost;
mod database;

use std::{net::SocketAddr, path::Path, rc::Rc};

use anyhow::Result;
use e2e::{
    bare::{Bare, Up},
    case::{Case, free_port},
    environment, http,
    process::{Launch, Process},
    redis,
    until::{SOON, until_true},
};

use crate::{
    generator::Target,
    measure::System,
    questions::{Kind, Questions},
};

pub(crate) use alone::Alone;
pub(crate) use binaries::{Binaries, cargo, cargo_bench, target_folder, workspace};
pub(crate) use cost::{Cost, Spent};
pub(crate) use database::Database;

/// How many of each service.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Counts {
    /// HTTP edges.
    pub(crate) frontends: u32,
    /// Keepers of the audit log.
    pub(crate) events_services: u32,
    /// Workers.
    pub(crate) backends: u32,
}

/// Redis and the database that a scenario has for itself.
#[derive(Debug)]
pub(crate) struct Servers {
    /// The bus.
    pub(crate) redis: redis::Server,
    /// The audit log's.
    pub(crate) database: Database,
}

impl Servers {
    /// Starts them.
    ///
    /// # Errors
    /// A program is missing or does not come up.
    pub(crate) async fn start(case: &Case, sync_on_commit: bool) -> Result<Self> {
        environment::provide_servers()?;
        let mut redis = redis::Server::planned()?;
        redis.start(case).await?;
        let database = Database::start(case, sync_on_commit).await?;
        Ok(Self { redis, database })
    }

    /// The processes, by name, for what they cost.
    pub(crate) fn processes(&mut self) -> Vec<(String, u32)> {
        let redis = self.redis.process().ok().and_then(|redis| redis.id());
        let database = self.database.server.process().ok();
        let database = database.and_then(|database| database.id());
        [("redis", redis), ("database", database)]
            .into_iter()
            .filter_map(|(name, id)| Some((name.to_owned(), id?)))
            .collect()
    }
}

/// Our services as bare processes.
#[derive(Debug)]
pub(crate) struct Services {
    /// The processes.
    pub(crate) up: Up,
    /// What they were asked so far.
    pub(crate) questions: Rc<Questions>,
}

impl Services {
    /// Starts them on the servers given and waits until they answer.
    ///
    /// # Errors
    /// One does not come up.
    pub(crate) async fn start(
        case: &Case,
        servers: &Servers,
        binaries: &Path,
        counts: Counts,
        settings: &[(String, String)],
    ) -> Result<Self> {
        let redis = servers.redis.address.to_string();
        let mut bare = Bare::on(case, &redis, &servers.database.uri())?.binaries_in(binaries);
        for (name, value) in settings {
            bare.set(name, value);
        }
        let up = bare
            .up(counts.frontends, counts.events_services, counts.backends)
            .await?;
        Ok(Self {
            up,
            questions: Rc::default(),
        })
    }

    /// These services, asked this.
    pub(crate) fn system(&self, servers: &mut Servers, name: String, kind: Kind) -> System {
        let mut processes = self.processes();
        processes.extend(servers.processes());
        System {
            name,
            target: Target {
                addresses: self.up.addresses(),
                kind,
                questions: self.questions.clone(),
            },
            processes,
        }
    }

    /// The processes, by the name of their service, for what they cost.
    pub(crate) fn processes(&self) -> Vec<(String, u32)> {
        let all = [
            ("frontend", &self.up.frontends),
            ("events", &self.up.events_services),
            ("backend", &self.up.backends),
        ];
        all.into_iter()
            .flat_map(|(name, services)| services.iter().map(move |service| (name, service)))
            .filter_map(|(name, service)| Some((name.to_owned(), service.process.id()?)))
            .collect()
    }
}

/// Everything in one process, the log in SQLite.
#[derive(Debug)]
pub(crate) struct OneProcess {
    /// Where it answers.
    pub(crate) http: SocketAddr,
    /// It.
    pub(crate) process: Process,
    /// What it was asked so far.
    pub(crate) questions: Rc<Questions>,
}

impl OneProcess {
    /// Starts it and waits until it answers.
    ///
    /// # Errors
    /// It does not come up.
    pub(crate) async fn start(case: &Case, binaries: &Path, sync: &str) -> Result<Self> {
        let http = SocketAddr::from(([127, 0, 0, 1], free_port()?));
        let database = case.folder().join("audit.db");
        let mut process = Launch::new(case, "roundtrip", &binaries.join("roundtrip"))
            .args(["up", "--address", "127.0.0.1", "--sync", sync])
            .args(["--port", &http.port().to_string(), "--database"])
            .args([&database])
            .start()?;
        until_true("roundtrip to answer", SOON, async || {
            process.ensure_running()?;
            Ok(http::get(http, "/readyz").await?.status == 200)
        })
        .await?;
        Ok(Self {
            http,
            process,
            questions: Rc::default(),
        })
    }
}
