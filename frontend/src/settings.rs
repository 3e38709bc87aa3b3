//! The settings of a frontend.

use std::{net::IpAddr, time::Duration};

use clap::{Args, Parser, Subcommand};
use shared::settings::{BusSettings, DiscoverySettings, ProcessSettings, millis, port, whole};

/// A Roundtrip frontend: answers HTTP requests by way of events.
///
/// Every setting is an environment variable and a flag; NAME_FILE reads the variable NAME from a
/// file.
#[derive(Debug, Clone, Parser)]
#[command(
    version,
    after_help = "Examples:\n  frontend\n  PORT=8080 REDIS_HOST=redis frontend\n  frontend --deadline-ms 2000 --log debug\n  frontend health"
)]
pub struct Settings {
    /// Port of the HTTP interface
    #[arg(long, env = "PORT", default_value = "4000", value_parser = port)]
    pub port: u16,
    /// Address that the port is opened on
    #[arg(long, env = "ADDRESS", default_value = "0.0.0.0")]
    pub address: IpAddr,
    /// Where the bus is.
    #[command(flatten)]
    pub bus: BusSettings,
    /// Who we are.
    #[command(flatten)]
    pub discovery: DiscoverySettings,
    /// What is taken over HTTP.
    #[command(flatten)]
    pub http: HttpArgs,
    /// What every process has.
    #[command(flatten)]
    pub process: ProcessSettings,
    /// What to do; without one: serve.
    #[command(subcommand)]
    pub command: Option<Command>,
}

/// What a frontend does other than serve.
#[derive(Debug, Clone, Copy, Subcommand)]
pub enum Command {
    /// Ask the frontend on this machine whether it is healthy (exit code 0) or not (1)
    Health,
}

/// What is taken over HTTP, as it is set.
#[derive(Debug, Clone, Args)]
#[command(next_help_heading = "HTTP")]
pub struct HttpArgs {
    /// How long a request may take, in ms; the header X-Request-Timeout-Ms shortens it
    #[arg(long, env = "DEADLINE_MS", default_value = "5000", value_parser = millis(1..=600_000))]
    pub deadline_ms: Duration,
    /// Largest body that is taken, in bytes
    #[arg(long, env = "BODY_BYTES_MAX", default_value = "1048576", value_parser = whole(1..=8_388_608))]
    pub body_bytes_max: u64,
    /// How long the head of a request may take to arrive, in ms
    #[arg(long, env = "HEADER_TIMEOUT_MS", default_value = "10000", value_parser = millis(1..=600_000))]
    pub header_timeout_ms: Duration,
    /// How long the body of a request may take to arrive, in ms
    #[arg(long, env = "BODY_TIMEOUT_MS", default_value = "10000", value_parser = millis(1..=600_000))]
    pub body_timeout_ms: Duration,
    /// How long a connection may be idle, in ms
    #[arg(long, env = "IDLE_TIMEOUT_MS", default_value = "75000", value_parser = millis(1..=3_600_000))]
    pub idle_timeout_ms: Duration,
    /// Most connections at once; beyond, a connection gets a 503 and is closed
    #[arg(long, env = "CONNECTIONS_MAX", default_value = "10000", value_parser = whole(1..=1_000_000))]
    pub connections_max: u64,
    /// Most requests in flight; beyond, a request gets a 429
    #[arg(long, env = "IN_FLIGHT_MAX", default_value = "8192", value_parser = whole(1..=1_000_000))]
    pub in_flight_max: u64,
}

/// What a frontend takes on.
#[derive(Debug, Clone, Default)]
pub struct Limits {
    /// Of requests.
    pub requests: RequestLimits,
    /// Of connections.
    pub connections: ConnectionLimits,
    /// How long to finish what is in flight.
    pub drain_timeout: Duration,
}

/// Limits of requests.
#[derive(Debug, Clone)]
pub struct RequestLimits {
    /// How long a request may take.
    pub deadline: Duration,
    /// Largest body.
    pub body_bytes_max: usize,
    /// How long a body may take to arrive.
    pub body_timeout: Duration,
    /// Most requests in flight.
    pub in_flight_max: usize,
}

/// Limits of connections.
#[derive(Debug, Clone)]
pub struct ConnectionLimits {
    /// How long the head of a request may take to arrive.
    pub header_timeout: Duration,
    /// How long a connection may be idle.
    pub idle_timeout: Duration,
    /// Most connections at once.
    pub connections_max: usize,
}

impl Default for RequestLimits {
    fn default() -> Self {
        Self {
            deadline: Duration::from_secs(5),
            body_bytes_max: 1 << 20,
            body_timeout: Duration::from_secs(10),
            in_flight_max: 8_192,
        }
    }
}

impl Default for ConnectionLimits {
    fn default() -> Self {
        Self {
            header_timeout: Duration::from_secs(10),
            idle_timeout: Duration::from_secs(75),
            connections_max: 10_000,
        }
    }
}

impl Settings {
    /// What the frontend takes on.
    pub fn limits(&self) -> Limits {
        let size = |count| usize::try_from(count).unwrap_or(usize::MAX);
        Limits {
            requests: RequestLimits {
                deadline: self.http.deadline_ms,
                body_bytes_max: size(self.http.body_bytes_max),
                body_timeout: self.http.body_timeout_ms,
                in_flight_max: size(self.http.in_flight_max),
            },
            connections: ConnectionLimits {
                header_timeout: self.http.header_timeout_ms,
                idle_timeout: self.http.idle_timeout_ms,
                connections_max: size(self.http.connections_max),
            },
            drain_timeout: self.process.drain_timeout_ms,
        }
    }
}
