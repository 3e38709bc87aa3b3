//! The command line.

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand, ValueEnum};
use e2e::case::Case;

use crate::{
    deployment::{Binaries, Counts, Servers, Services},
    parts::Part,
    questions::Kind,
};

/// Measures Roundtrip and what it can be compared with.
///
/// Each scenario starts what it needs, checks every answer, prints a table, and writes JSON, Markdown
/// and plots. A run with a wrong answer has no result.
#[derive(Debug, Parser)]
#[command(name = "bench", max_term_width = 100)]
pub(crate) struct Cli {
    #[command(subcommand)]
    pub(crate) command: Command,
    /// Folder for the results; `target/bench/<scenario>-<time>` if none is named.
    #[arg(long, global = true, value_name = "DIR")]
    pub(crate) out: Option<PathBuf>,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// `POST /task` on the full path: one body, distinct bodies, every kind of task.
    Task(TaskArgs),
    /// The parts of a request beside the whole: HTTP alone, bare hops through Redis, batched writes.
    Floor(FloorArgs),
    /// The same task behind Moleculer over Redis and behind NATS.
    Peers(PeersArgs),
    /// Two reports beside each other: ratios, and what the repetitions allow them to be.
    Compare {
        /// `report.json` of the earlier one.
        before: PathBuf,
        /// `report.json` of the later one.
        after: PathBuf,
        /// Every figure, also what each process cost.
        #[arg(long)]
        all: bool,
    },
    /// `GET /`: the HTTP edge alone.
    Frontend(FrontendArgs),
    /// `POST /task` at services that run already, ours or any others that speak the contract.
    Mix(MixArgs),
    /// More backends, frontends and events services: throughput, and messages for each request.
    Scale(ScaleArgs),
    /// The audit log alone: records a second, in MongoDB and SQLite.
    Audit(AuditArgs),
    /// Resident memory: idle, with many requests in flight, after a million.
    Memory(MemoryArgs),
    /// Single operations, by criterion: codec, classification, registry, placement.
    Micro(MicroArgs),
    /// A part that is measured, as a process of its own.
    #[command(hide = true)]
    Part {
        #[command(subcommand)]
        part: Part,
    },
}

/// What `frontend` is told.
#[derive(Debug, Args)]
pub(crate) struct FrontendArgs {
    /// Requests due each second in the open loop.
    #[arg(long, value_delimiter = ',', default_value = "1000,5000,10000")]
    pub(crate) open: Vec<f64>,
    #[command(flatten)]
    pub(crate) deployment: Deploying,
    #[command(flatten)]
    pub(crate) measuring: Measuring,
}

/// What `mix` is told.
#[derive(Debug, Args)]
pub(crate) struct MixArgs {
    /// Address of a frontend, such as http://127.0.0.1:4000; several are asked in turn.
    #[arg(long)]
    pub(crate) url: Vec<String>,
    /// A stack on this machine's Docker engine, whose service `frontend` publishes a port.
    #[arg(long)]
    pub(crate) stack: Option<String>,
    /// What the report calls it.
    #[arg(long, default_value = "mix")]
    pub(crate) name: String,
    #[command(flatten)]
    pub(crate) bodies: Asked,
    #[command(flatten)]
    pub(crate) measuring: Measuring,
}

/// What `scale` is told.
#[derive(Debug, Args)]
pub(crate) struct ScaleArgs {
    /// Folder with programs that are built already.
    #[arg(long, value_name = "DIR")]
    pub(crate) binaries: Option<PathBuf>,
    /// Connections of the closed loop.
    #[arg(long, default_value_t = 64)]
    pub(crate) load: usize,
    #[command(flatten)]
    pub(crate) measuring: Measuring,
}

/// What `audit` is told.
#[derive(Debug, Args)]
pub(crate) struct AuditArgs {
    /// The database writes through to the disk before it acknowledges.
    #[arg(long)]
    pub(crate) sync_on_commit: bool,
    /// Seconds for each point.
    #[arg(long, short = 's', default_value_t = 0.5)]
    pub(crate) seconds: f64,
    /// How often everything is measured.
    #[arg(long, short = 'r', default_value_t = 1)]
    pub(crate) repeat: usize,
}

/// What `memory` is told.
#[derive(Debug, Args)]
pub(crate) struct MemoryArgs {
    /// Connections that have a request under way at once.
    #[arg(long, default_value_t = 1_000)]
    pub(crate) in_flight: usize,
    /// Requests after which nothing may have grown.
    #[arg(long, default_value_t = 1_000_000)]
    pub(crate) requests: u64,
    /// Connections on which they are asked.
    #[arg(long, default_value_t = 64)]
    pub(crate) load: usize,
    #[command(flatten)]
    pub(crate) deployment: Deploying,
}

/// What `micro` is told.
#[derive(Debug, Args)]
pub(crate) struct MicroArgs {
    /// Seconds for each operation.
    #[arg(long, short = 's', default_value_t = 3.0)]
    pub(crate) seconds: f64,
}

/// What `floor` is told.
#[derive(Debug, Args)]
pub(crate) struct FloorArgs {
    #[command(flatten)]
    pub(crate) deployment: Deploying,
    #[command(flatten)]
    pub(crate) measuring: Measuring,
}

/// What `peers` is told.
#[derive(Debug, Args)]
pub(crate) struct PeersArgs {
    #[command(flatten)]
    pub(crate) deployment: Deploying,
    #[command(flatten)]
    pub(crate) measuring: Measuring,
}

/// How long and how often.
#[derive(Debug, Clone, Args)]
pub(crate) struct Measuring {
    /// Connections of the closed loop.
    #[arg(
        long,
        short = 'c',
        value_delimiter = ',',
        default_value = "1,10,64,256,1000"
    )]
    pub(crate) connections: Vec<usize>,
    /// Open loop in place of the closed one: so many requests due each second.
    #[arg(long, value_delimiter = ',', value_name = "PER_SECOND")]
    pub(crate) rate: Vec<f64>,
    /// Connections of the open loop.
    #[arg(long, default_value_t = 256)]
    pub(crate) open_connections: usize,
    /// Seconds that each point is measured.
    #[arg(long, short = 's', default_value_t = 5.0)]
    pub(crate) seconds: f64,
    /// Seconds of load before that.
    #[arg(long, default_value_t = 2.0)]
    pub(crate) warm_up: f64,
    /// How often everything is measured; the table then shows medians and min..max.
    #[arg(long, short = 'r', default_value_t = 1)]
    pub(crate) repeat: usize,
}

/// What is started.
#[derive(Debug, Clone, Args)]
pub(crate) struct Deploying {
    /// Folder with programs that are built already, such as those of another commit.
    #[arg(long, value_name = "DIR")]
    pub(crate) binaries: Option<PathBuf>,
    /// Number of frontends.
    #[arg(long, default_value_t = 1)]
    pub(crate) frontends: u32,
    /// Number of events services.
    #[arg(long, default_value_t = 1)]
    pub(crate) events_services: u32,
    /// Number of backends.
    #[arg(long, default_value_t = 1)]
    pub(crate) backends: u32,
    /// The database writes through to the disk before it acknowledges.
    #[arg(long)]
    pub(crate) sync_on_commit: bool,
    /// A setting of the services, such as TEXT_DOCUMENTS=long. Can be given more than once.
    #[arg(long, value_name = "NAME=VALUE", value_parser = setting)]
    pub(crate) set: Vec<(String, String)>,
}

fn setting(text: &str) -> Result<(String, String), String> {
    match text.split_once('=') {
        Some((name, value)) if !name.is_empty() => Ok((name.to_owned(), value.to_owned())),
        _ => Err("expected NAME=VALUE".to_owned()),
    }
}

impl Deploying {
    /// Starts the services on these servers.
    ///
    /// # Errors
    /// One does not come up.
    pub(crate) async fn start(
        &self,
        case: &Case,
        servers: &Servers,
        binaries: &Binaries,
    ) -> anyhow::Result<Services> {
        let counts = Counts {
            frontends: self.frontends,
            events_services: self.events_services,
            backends: self.backends,
        };
        Services::start(case, servers, &binaries.0, counts, &self.set).await
    }

    /// For the report.
    pub(crate) fn describe(&self, servers: &Servers) -> String {
        let set: String = self
            .set
            .iter()
            .map(|(name, value)| format!("; {name}={value}"))
            .collect();
        format!(
            "{} frontend, {} events service, {} backend as bare processes; Redis; audited in {}{}{set}",
            self.frontends,
            self.events_services,
            self.backends,
            servers.database.program,
            if self.sync_on_commit {
                " with sync on commit"
            } else {
                ""
            }
        )
    }
}

/// What `task` is told.
#[derive(Debug, Args)]
pub(crate) struct TaskArgs {
    #[command(flatten)]
    pub(crate) bodies: Asked,
    /// `roundtrip up` with SQLite in place of services, Redis and the database.
    #[arg(long)]
    pub(crate) one_process: bool,
    /// What durable means to SQLite.
    #[arg(long, default_value = "full", value_parser = ["full", "normal"])]
    pub(crate) sqlite_sync: String,
    /// Folder with the programs of another build, on servers of its own; asked in turn with the first,
    /// so that a slower moment of the machine is one for all. Can be given more than once.
    #[arg(long, value_name = "DIR")]
    pub(crate) beside: Vec<PathBuf>,
    #[command(flatten)]
    pub(crate) deployment: Deploying,
    #[command(flatten)]
    pub(crate) measuring: Measuring,
}

/// What is asked.
#[derive(Debug, Args)]
pub(crate) struct Asked {
    /// What is asked; everything if nothing is named.
    #[arg(long, value_delimiter = ',', value_enum)]
    pub(crate) bodies: Vec<Bodies>,
}

impl Asked {
    pub(crate) fn kinds(&self) -> Vec<Kind> {
        let all = [Bodies::One, Bodies::Distinct, Bodies::EveryKind];
        let chosen = if self.bodies.is_empty() {
            &all[..]
        } else {
            &self.bodies
        };
        chosen.iter().map(|&bodies| bodies.into()).collect()
    }
}

/// Bodies of tasks.
#[derive(Debug, Clone, Copy, ValueEnum)]
pub(crate) enum Bodies {
    /// The same again and again.
    One,
    /// Each asked once.
    Distinct,
    /// The operations in turn, each body asked once.
    EveryKind,
}

impl From<Bodies> for Kind {
    fn from(bodies: Bodies) -> Self {
        match bodies {
            Bodies::One => Self::OneBody,
            Bodies::Distinct => Self::Distinct,
            Bodies::EveryKind => Self::EveryOperation,
        }
    }
}
