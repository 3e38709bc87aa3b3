//! The command line.

use std::{net::IpAddr, path::PathBuf, time::Duration};

use clap::{Args, Parser, Subcommand, ValueEnum};
use clap_complete::Shell;
use events_service::{
    audit::{Status, sqlite::SyncMode},
    settings::{Durability, TextDocuments},
};
use shared::settings::{ProcessSettings, millis, name, port, whole};

use crate::moment::moment;

/// Answers HTTP requests by way of events, and keeps a record of every one.
///
/// Without a command, `up`.
#[derive(Debug, Parser)]
#[command(
    name = "roundtrip",
    version,
    args_conflicts_with_subcommands = true,
    after_help = "\
Examples:
  roundtrip                                   everything in one process, on port 4000
  roundtrip call '{\"a1\": 5, \"a2\": 10}'        ask it something
  roundtrip audit list                        what was asked, newest first
  curl -s localhost:4000/task -d '{\"a1\": 5, \"a2\": 10}'"
)]
pub(crate) struct Cli {
    #[command(subcommand)]
    pub(crate) command: Option<Command>,
    #[command(flatten)]
    pub(crate) up: Up,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Run everything in one process: frontend, events service, two backends, the bus in memory,
    /// the audit log in a SQLite file
    #[command(after_help = "\
Examples:
  roundtrip up
  roundtrip up --port 8080 --database /var/lib/roundtrip/audit.db
  PORT=8080 RUST_LOG=debug roundtrip up")]
    Up(Up),
    /// Send a task to a frontend and print its result
    #[command(after_help = "\
Examples:
  roundtrip call '{\"a1\": 5, \"a2\": 10}'
  echo '{\"a1\": \"a\", \"a2\": \"b\"}' | roundtrip call -
  roundtrip call --task GREETING/HELLO '{\"name\": \"Ada\"}' -o json")]
    Call(Call),
    /// Read the audit log, in a SQLite file or in MongoDB
    #[command(after_help = "\
Examples:
  roundtrip audit list --status failed
  roundtrip audit show 6740a1b2c3d4e5f601234567 -o json
  roundtrip audit balance --frontend http://localhost:4000
  roundtrip audit list --mongouri localhost --mongodatabase roundtrip")]
    Audit(Audit),
    /// Print the completions of a shell
    #[command(after_help = "\
Example:
  roundtrip completions bash > /etc/bash_completion.d/roundtrip")]
    Completions {
        /// The shell
        shell: Shell,
    },
}

#[derive(Debug, Args)]
pub(crate) struct Up {
    /// Port of the HTTP interface
    #[arg(long, env = "PORT", default_value = "4000", value_parser = port)]
    pub(crate) port: u16,
    /// Address that the port is opened on
    #[arg(long, env = "ADDRESS", default_value = "0.0.0.0")]
    pub(crate) address: IpAddr,
    /// File of the audit log
    #[arg(
        long,
        env = "ROUNDTRIP_DATABASE",
        default_value = "roundtrip.db",
        value_name = "PATH"
    )]
    pub(crate) database: PathBuf,
    /// When a record counts as durable
    #[arg(long, env = "SQLITE_SYNC", default_value = "full", value_enum)]
    pub(crate) sync: SyncMode,
    /// Which service does which task; without it: our own two
    #[arg(long, env = "TASK_MAPS", value_name = "PATH")]
    pub(crate) task_maps: Option<PathBuf>,
    /// How long a request may take, in ms; the header X-Request-Timeout-Ms shortens it
    #[arg(long, env = "DEADLINE_MS", default_value = "5000", value_parser = millis(1..=600_000))]
    pub(crate) deadline_ms: Duration,
    #[command(flatten)]
    pub(crate) process: ProcessSettings,
}

#[derive(Debug, Args)]
pub(crate) struct Call {
    /// The body of the request, as JSON; `-` reads it from standard input
    pub(crate) body: String,
    /// Address of the frontend
    #[arg(long, env = "ROUNDTRIP_URL", default_value = "http://localhost:4000")]
    pub(crate) url: String,
    /// Task and subtask, for tasks of your own: TASK/SUBTASK
    #[arg(long, value_parser = task)]
    pub(crate) task: Option<(String, String)>,
    /// How long to wait, in ms
    #[arg(long, default_value = "10000", value_parser = millis(1..=600_000))]
    pub(crate) timeout_ms: Duration,
    /// What to print
    #[arg(short, long, default_value = "text", value_enum)]
    pub(crate) output: Output,
}

/// What is printed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Output {
    /// For people
    Text,
    /// For programs
    Json,
}

#[derive(Debug, Args)]
pub(crate) struct Audit {
    #[command(subcommand)]
    pub(crate) command: AuditCommand,
}

#[derive(Debug, Subcommand)]
pub(crate) enum AuditCommand {
    /// List records, newest first
    #[command(after_help = "\
Examples:
  roundtrip audit list --status failed --limit 100
  roundtrip audit list --since 15m
  roundtrip audit list --since 2026-11-21T10:42:00Z --until 2026-11-21T10:43:00Z
  roundtrip audit list --request 4bf92f3577b34da6 -o json")]
    List(List),
    /// Show one record with everything that is known of it
    #[command(after_help = "\
Example:
  roundtrip audit show 6740a1b2c3d4e5f601234567")]
    Show(Show),
    /// Add up what became of every request, and exit with 1 when the sum does not hold
    ///
    /// Every record has ended or its deadline lies ahead, none has two results, no request has two
    /// records, and every answer has its text. With --frontend also: what a frontend was offered is
    /// what it answered, what failed and what is in flight, and every answer that it gave stands in
    /// the log.
    #[command(after_help = "\
Frontends count since they started. With --since or --until only the log's side is cut to that
time, and the two sides are shown and not compared.

Examples:
  roundtrip audit balance
  roundtrip audit balance --frontend http://localhost:4000
  roundtrip audit balance --since 15m -o json
  roundtrip audit balance --mongouri localhost --frontend http://10.0.0.5:4000")]
    Balance(Balance),
}

#[derive(Debug, Args)]
pub(crate) struct List {
    /// Only records of this status
    #[arg(long, value_parser = status)]
    pub(crate) status: Option<Status>,
    /// Only records of this request: its requestId, or the X-Request-Id of the caller
    #[arg(long, value_parser = name)]
    pub(crate) request: Option<String>,
    #[command(flatten)]
    pub(crate) window: Window,
    /// At most so many
    #[arg(long, default_value = "20", value_parser = whole(1..=100_000))]
    pub(crate) limit: u64,
    /// What to print
    #[arg(short, long, default_value = "text", value_enum)]
    pub(crate) output: Output,
    #[command(flatten)]
    pub(crate) store: Store,
}

#[derive(Debug, Args)]
pub(crate) struct Show {
    /// The record: 24 hex digits
    pub(crate) record: String,
    /// What to print
    #[arg(short, long, default_value = "text", value_enum)]
    pub(crate) output: Output,
    #[command(flatten)]
    pub(crate) store: Store,
}

#[derive(Debug, Args)]
pub(crate) struct Balance {
    /// Address of a frontend, to compare its count with the log; one for each frontend, and not the
    /// address of what stands before them
    #[arg(long, value_name = "URL", value_parser = name)]
    pub(crate) frontend: Vec<String>,
    #[command(flatten)]
    pub(crate) window: Window,
    /// What to print
    #[arg(short, long, default_value = "text", value_enum)]
    pub(crate) output: Output,
    #[command(flatten)]
    pub(crate) store: Store,
}

/// Which records, by the time they were received.
#[derive(Debug, Clone, Copy, Args)]
pub(crate) struct Window {
    /// Only records received since then: a time such as 2026-11-21T10:42:00Z, or how long ago (90s,
    /// 15m, 6h, 7d)
    #[arg(long, value_name = "TIME", value_parser = moment)]
    pub(crate) since: Option<u64>,
    /// Only records received before then
    #[arg(long, value_name = "TIME", value_parser = moment)]
    pub(crate) until: Option<u64>,
}

/// Where the log is.
#[derive(Debug, Args)]
#[command(next_help_heading = "Audit log")]
pub(crate) struct Store {
    /// SQLite file of the audit log
    #[arg(
        long,
        env = "ROUNDTRIP_DATABASE",
        default_value = "roundtrip.db",
        value_name = "PATH"
    )]
    pub(crate) database: PathBuf,
    /// Host name of MongoDB, or a whole mongodb:// address; then the log is read from there
    #[arg(long, env = "MONGOURI", value_parser = name, hide_env_values = true)]
    pub(crate) mongouri: Option<String>,
    /// Port of MongoDB, where MONGOURI is a host name
    #[arg(long, env = "MONGOPORT", default_value = "27017", value_parser = port)]
    pub(crate) mongoport: u16,
    /// Database of the audit log in MongoDB
    #[arg(long, env = "MONGODATABASE", default_value = "test", value_parser = name)]
    pub(crate) mongodatabase: String,
}

impl Store {
    /// The settings of MongoDB, if the log is there.
    pub(crate) fn mongo(&self) -> Option<events_service::settings::MongoSettings> {
        Some(events_service::settings::MongoSettings {
            mongouri: self.mongouri.clone()?,
            mongoport: self.mongoport,
            mongodatabase: self.mongodatabase.clone(),
            write_concern: Durability::Majority,
            text_documents: TextDocuments::All,
        })
    }
}

fn task(text: &str) -> Result<(String, String), String> {
    match text.split_once('/') {
        Some((task, subtask))
            if !task.is_empty() && !subtask.is_empty() && !subtask.contains('/') =>
        {
            Ok((task.into(), subtask.into()))
        }
        _ => Err("expected TASK/SUBTASK, such as GREETING/HELLO".into()),
    }
}

fn status(text: &str) -> Result<Status, String> {
    Status::ALL
        .into_iter()
        .find(|status| status.as_str() == text)
        .ok_or_else(|| {
            format!(
                "expected one of {}",
                Status::ALL.map(Status::as_str).join(", ")
            )
        })
}
