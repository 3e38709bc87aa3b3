//! The settings of a backend.

use std::time::Duration;

use clap::{Args, Parser, Subcommand};
use shared::settings::{BusSettings, DiscoverySettings, OpsSettings, ProcessSettings, whole};

/// A Roundtrip backend: takes tasks from the events service, does them and answers.
///
/// Every setting is an environment variable and a flag; NAME_FILE reads the variable NAME from a
/// file.
#[derive(Debug, Clone, Parser)]
#[command(
    version,
    after_help = "Examples:\n  backend\n  REDIS_HOST=redis OPS_PORT=9100 backend\n  OPS_PORT=9100 backend health"
)]
pub struct Settings {
    /// Where the bus is.
    #[command(flatten)]
    pub bus: BusSettings,
    /// Who we are.
    #[command(flatten)]
    pub discovery: DiscoverySettings,
    /// What it may take on.
    #[command(flatten)]
    pub worker: WorkerArgs,
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

/// What a backend does other than serve.
#[derive(Debug, Clone, Copy, Subcommand)]
pub enum Command {
    /// Ask the backend on this machine whether it is healthy (exit code 0) or not (1); needs OPS_PORT
    Health,
}

/// What the worker may take on, as it is set.
#[derive(Debug, Clone, Args)]
#[command(next_help_heading = "Worker")]
pub struct WorkerArgs {
    /// Handlers that may wait or compute at once
    #[arg(long, env = "CONCURRENCY_MAX", default_value = "64", value_parser = whole(1..=10_000))]
    pub concurrency_max: u64,
    /// Tasks that may wait or run; beyond, they are refused as overloaded
    #[arg(long, env = "QUEUE_MAX", default_value = "1024", value_parser = whole(1..=1_000_000))]
    pub queue_max: u64,
}

/// What the worker may take on.
#[derive(Debug, Clone)]
pub struct WorkerSettings {
    /// Handlers that may wait or compute at once.
    pub concurrency_max: usize,
    /// Tasks that may wait or run.
    pub queue_max: usize,
    /// How long to finish what is in flight.
    pub drain_timeout: Duration,
}

impl Settings {
    /// What the worker may take on.
    pub fn worker(&self) -> WorkerSettings {
        let size = |count| usize::try_from(count).unwrap_or(usize::MAX);
        WorkerSettings {
            concurrency_max: size(self.worker.concurrency_max),
            queue_max: size(self.worker.queue_max),
            drain_timeout: self.process.drain_timeout_ms,
        }
    }
}

impl Default for WorkerSettings {
    fn default() -> Self {
        Self {
            concurrency_max: 64,
            queue_max: 1024,
            drain_timeout: Duration::from_secs(10),
        }
    }
}
