//! The settings of an events service.

use std::{path::PathBuf, time::Duration};

use clap::{Args, Parser, Subcommand, ValueEnum};
use shared::settings::{
    BusSettings, DiscoverySettings, OpsSettings, ProcessSettings, millis, name, port, whole,
};

/// A Roundtrip events service: records every task in the audit log, hands it to a backend, and
/// answers when the record is complete.
///
/// Every setting is an environment variable and a flag; NAME_FILE reads the variable NAME from a
/// file.
#[derive(Debug, Clone, Parser)]
#[command(
    version,
    after_help = "Examples:\n  events-service\n  MONGOURI=mongodb MONGODATABASE=roundtrip events-service\n  events-service --task-maps ./task-maps.json --log debug\n  OPS_PORT=9100 events-service health"
)]
pub struct Settings {
    /// Where the bus is.
    #[command(flatten)]
    pub bus: BusSettings,
    /// Who we are.
    #[command(flatten)]
    pub discovery: DiscoverySettings,
    /// Where the log is.
    #[command(flatten)]
    pub mongo: MongoSettings,
    /// Which service does which task
    #[arg(long, env = "TASK_MAPS", help_heading = "Tasks")]
    pub task_maps: Option<PathBuf>,
    /// What it may take on.
    #[command(flatten)]
    pub flow: FlowArgs,
    /// What every process has.
    #[command(flatten)]
    pub process: ProcessSettings,
    /// Where an operator asks.
    #[command(flatten)]
    pub ops: OpsSettings,
    /// What to do; without one: serve.
    #[command(subcommand)]
    pub command: Option<Command>,
}

/// What an events service does other than serve.
#[derive(Debug, Clone, Copy, Subcommand)]
pub enum Command {
    /// Ask the events service on this machine whether it is healthy (exit code 0) or not (1); needs OPS_PORT
    Health,
}

/// Where MongoDB is.
#[derive(Debug, Clone, Args)]
#[command(next_help_heading = "Audit log")]
pub struct MongoSettings {
    /// Host name of MongoDB, or a whole mongodb:// address
    #[arg(long, env = "MONGOURI", default_value = "localhost", value_parser = name, hide_env_values = true)]
    pub mongouri: String,
    /// Port of MongoDB, where MONGOURI is a host name
    #[arg(long, env = "MONGOPORT", default_value = "27017", value_parser = port)]
    pub mongoport: u16,
    /// Database of the audit log
    #[arg(long, env = "MONGODATABASE", default_value = "test", value_parser = name)]
    pub mongodatabase: String,
    /// When a write counts as durable
    #[arg(long, env = "WRITE_CONCERN", default_value = "majority", value_enum)]
    pub write_concern: Durability,
    /// Which texts have a document of their own beside their record
    #[arg(long, env = "TEXT_DOCUMENTS", default_value = "all", value_enum)]
    pub text_documents: TextDocuments,
}

/// Which texts of requests and responses have a document of their own in MongoDB, in `requests` or
/// `responses`. Up to 512 bytes, a text stands in its record in any case.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum TextDocuments {
    /// All, as older events services write them and look for them
    #[default]
    All,
    /// Only those too long for their record: a third faster, where nobody else reads the log
    Long,
}

/// When a write to MongoDB counts as durable: what "no reply before the record is durable" means.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Durability {
    /// A majority of the replica set has it in its journal: no acknowledged record is lost
    Majority,
    /// The primary has it in its journal: records of the last moments are lost with a failover
    Journaled,
    /// The primary has it in memory: records of the last moments are lost with a crash
    Acknowledged,
}

impl MongoSettings {
    /// The whole address.
    pub fn address(&self) -> String {
        let is_whole = ["mongodb://", "mongodb+srv://"]
            .iter()
            .any(|s| self.mongouri.starts_with(s));
        if is_whole {
            self.mongouri.clone()
        } else {
            format!("mongodb://{}:{}", self.mongouri, self.mongoport)
        }
    }
}

/// What it may take on, as it is set.
#[derive(Debug, Clone, Args)]
#[command(next_help_heading = "Tasks")]
pub struct FlowArgs {
    /// Requests in flight; beyond, tasks are refused as overloaded
    #[arg(long, env = "IN_FLIGHT_MAX", default_value = "8192", value_parser = whole(1..=1_000_000))]
    pub in_flight_max: u64,
    /// Deadline of tasks that have none (of older frontends), in ms
    #[arg(long, env = "DEADLINE_MS", default_value = "5000", value_parser = millis(1..=600_000))]
    pub deadline_ms: Duration,
    /// Longest deadline that is believed, in ms
    #[arg(long, env = "DEADLINE_MS_MAX", default_value = "60000", value_parser = millis(1..=3_600_000))]
    pub deadline_ms_max: Duration,
}

/// What it may take on.
#[derive(Debug, Clone)]
pub struct FlowSettings {
    /// Requests in flight.
    pub in_flight_max: usize,
    /// Deadline of tasks that have none.
    pub usual_deadline: Duration,
    /// Longest deadline that is believed.
    pub longest_deadline: Duration,
    /// How long to finish what is in flight.
    pub drain_timeout: Duration,
}

impl Settings {
    /// What it may take on.
    pub fn flow(&self) -> FlowSettings {
        FlowSettings {
            in_flight_max: usize::try_from(self.flow.in_flight_max).unwrap_or(usize::MAX),
            usual_deadline: self.flow.deadline_ms,
            longest_deadline: self.flow.deadline_ms_max.max(self.flow.deadline_ms),
            drain_timeout: self.process.drain_timeout_ms,
        }
    }
}

impl Default for FlowSettings {
    fn default() -> Self {
        Self {
            in_flight_max: 8_192,
            usual_deadline: Duration::from_secs(5),
            longest_deadline: Duration::from_secs(60),
            drain_timeout: Duration::from_secs(10),
        }
    }
}
