//! Settings: environment variables, each also a flag, each readable from a file.
//!
//! A setting is parsed once, at start, into its final type. A malformed value stops the start with a
//! sentence that names the variable, the value and what is accepted. Names: wire contract,
//! "Environment".

use std::{ffi::OsString, net::IpAddr, ops::RangeInclusive, time::Duration};

use clap::{Args, Command, CommandFactory, FromArgMatches, builder::OsStr, error::ContextKind};

use crate::{bus::redis::RedisAddress, contract::ServiceName, telemetry::LogFormat};

/// Why the settings were not taken.
#[derive(Debug, thiserror::Error)]
pub enum SettingsError {
    /// A value is malformed or a flag unknown; also `--help` and `--version`.
    #[error("{0}")]
    Usage(String, #[source] clap::Error),
    /// `NAME_FILE` names a file that cannot be read.
    #[error("{variable}: the file `{path}` cannot be read")]
    File {
        /// The variable, with `_FILE`.
        variable: String,
        /// Its value.
        path: String,
        /// Why not.
        #[source]
        source: std::io::Error,
    },
    /// Both are set.
    #[error("both {0} and {0}_FILE are set: unset one of them")]
    Both(String),
}

impl SettingsError {
    /// Prints it as a command line does (help on stdout, errors on stderr) and gives the exit code:
    /// 0 for help that was asked for, else 2.
    #[expect(
        clippy::print_stderr,
        reason = "this is where a command line reports its misuse"
    )]
    pub fn report(&self) -> u8 {
        match self {
            Self::Usage(_, error) if !error.use_stderr() => {
                // Help that cannot be printed has no one to tell.
                drop(error.print());
                0
            }
            Self::Usage(sentence, _) => {
                eprintln!("error: {sentence}");
                2
            }
            other => {
                eprintln!("error: {}", crate::ops::chain(other));
                2
            }
        }
    }
}

/// Reads the settings of this process.
///
/// # Errors
/// [`SettingsError`].
pub fn read<T: CommandFactory + FromArgMatches>() -> Result<T, SettingsError> {
    read_from(std::env::args_os(), |name| std::env::var_os(name))
}

/// Reads settings from given arguments; the variables themselves are clap's to read, `variable` only
/// finds those of files.
///
/// # Errors
/// [`SettingsError`].
pub fn read_from<T: CommandFactory + FromArgMatches>(
    arguments: impl IntoIterator<Item = OsString>,
    variable: impl Fn(&str) -> Option<OsString>,
) -> Result<T, SettingsError> {
    let command = with_files(T::command(), &variable)?;
    let usage = |command: &Command, error: clap::Error| {
        SettingsError::Usage(sentence(command, &error), error)
    };
    let mut matches = command
        .clone()
        .try_get_matches_from(arguments)
        .map_err(|error| usage(&command, error))?;
    T::from_arg_matches_mut(&mut matches).map_err(|error| usage(&command, error))
}

/// Gives every setting whose `NAME_FILE` is set the content of that file (Docker secrets).
fn with_files(
    mut command: Command,
    variable: &impl Fn(&str) -> Option<OsString>,
) -> Result<Command, SettingsError> {
    let names: Vec<(clap::Id, String)> = command
        .get_arguments()
        .filter_map(|arg| Some((arg.get_id().clone(), arg.get_env()?.to_str()?.to_owned())))
        .collect();
    for (id, name) in names {
        let file_variable = format!("{name}_FILE");
        let Some(path) = variable(&file_variable) else {
            continue;
        };
        if variable(&name).is_some() {
            return Err(SettingsError::Both(name));
        }
        let content = std::fs::read_to_string(&path).map_err(|source| SettingsError::File {
            variable: file_variable,
            path: path.to_string_lossy().into_owned(),
            source,
        })?;
        let value = OsStr::from(content.trim_end_matches(['\r', '\n']).to_owned());
        // Often a secret, which `--help` must not show.
        command = command.mut_arg(id, |arg| arg.default_value(value).hide_default_value(true));
    }
    let commands: Vec<String> = command
        .get_subcommands()
        .map(|sub| sub.get_name().to_owned())
        .collect();
    for name in commands {
        let mut failed = None;
        command = command.mut_subcommand(name, |sub| {
            with_files(sub.clone(), variable).unwrap_or_else(|error| {
                failed = Some(error);
                sub
            })
        });
        if let Some(error) = failed {
            return Err(error);
        }
    }
    Ok(command)
}

/// clap names the flag; whoever deploys knows the variable.
fn sentence(command: &Command, error: &clap::Error) -> String {
    use std::error::Error as _;
    let context = |kind| error.get(kind).map(ToString::to_string);
    let (Some(flag), Some(value)) = (
        context(ContextKind::InvalidArg),
        context(ContextKind::InvalidValue),
    ) else {
        let text = error.to_string();
        return text
            .strip_prefix("error: ")
            .unwrap_or(&text)
            .trim_end()
            .to_owned();
    };
    let long = flag
        .trim_start_matches('-')
        .split([' ', '='])
        .next()
        .unwrap_or_default();
    let variable = variable_of(command, long);
    let accepted = error
        .source()
        .map(ToString::to_string)
        .or_else(|| {
            context(ContextKind::ValidValue).map(|valid| format!("expected one of {valid}"))
        })
        .unwrap_or_default();
    match variable {
        Some(variable) => format!("{variable} (or {flag}): `{value}` is not accepted: {accepted}"),
        None => format!("{flag}: `{value}` is not accepted: {accepted}"),
    }
}

fn variable_of<'a>(command: &'a Command, long: &str) -> Option<&'a str> {
    let own = command
        .get_arguments()
        .find(|arg| arg.get_long() == Some(long));
    own.and_then(|arg| arg.get_env()?.to_str()).or_else(|| {
        command
            .get_subcommands()
            .find_map(|sub| variable_of(sub, long))
    })
}

/// Parses a duration in ms within bounds.
///
/// # Errors
/// A sentence with the bounds.
pub fn millis(range: RangeInclusive<u64>) -> impl Fn(&str) -> Result<Duration, String> + Clone {
    move |text| whole(range.clone())(text).map(Duration::from_millis)
}

/// Parses a whole number within bounds.
///
/// # Errors
/// A sentence with the bounds.
pub fn whole(range: RangeInclusive<u64>) -> impl Fn(&str) -> Result<u64, String> + Clone {
    move |text| match text.parse() {
        Ok(number) if range.contains(&number) => Ok(number),
        _ => Err(format!(
            "expected a whole number from {} to {}",
            range.start(),
            range.end()
        )),
    }
}

/// Parses a port.
///
/// # Errors
/// A sentence with the bounds.
pub fn port(text: &str) -> Result<u16, String> {
    whole(1..=65_535)(text).map(|port| port.try_into().unwrap_or(u16::MAX))
}

/// Parses a name that must not be empty.
///
/// # Errors
/// A sentence.
pub fn name(text: &str) -> Result<String, String> {
    if text.trim().is_empty() {
        Err("expected a name that is not empty".into())
    } else {
        Ok(text.into())
    }
}

/// Where the bus is and what its channels are called.
#[derive(Debug, Clone, Args)]
#[command(next_help_heading = "Bus")]
pub struct BusSettings {
    /// Host name or address of Redis
    #[arg(long, env = "REDIS_HOST", default_value = "localhost", value_parser = name)]
    pub redis_host: String,
    /// Port of Redis
    #[arg(long, env = "REDIS_PORT", default_value = "6379", value_parser = port)]
    pub redis_port: u16,
    /// Password of Redis, where it asks for one
    #[arg(long, env = "REDIS_PASSWORD", hide_env_values = true)]
    pub redis_password: Option<String>,
    /// Channel that carries tasks and results
    #[arg(long, env = "EVENT_SERVICE_EVENT", default_value = "Event_Service", value_parser = name)]
    pub event_service_event: String,
    /// Channel that carries dispatches and replies
    #[arg(long, env = "CONSUMING_SERVICE_EVENT", default_value = "Consuming_Service", value_parser = name)]
    pub consuming_service_event: String,
}

impl BusSettings {
    /// Where Redis is.
    pub fn redis(&self) -> RedisAddress {
        RedisAddress {
            host: self.redis_host.clone(),
            port: self.redis_port,
            password: self.redis_password.clone(),
        }
    }

    /// The contract's two channels.
    pub fn channels(&self) -> Channels {
        Channels {
            event: self.event_service_event.clone(),
            consuming: self.consuming_service_event.clone(),
        }
    }
}

/// The contract's two channels.
#[derive(Debug, Clone)]
pub struct Channels {
    /// Carries tasks and results.
    pub event: String,
    /// Carries dispatches and replies.
    pub consuming: String,
}

impl Default for Channels {
    fn default() -> Self {
        Self {
            event: "Event_Service".into(),
            consuming: "Consuming_Service".into(),
        }
    }
}

/// How a process learns who it is and who else is there.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum DiscoveryMode {
    /// `docker` in a container that has the engine's socket, else `presence`
    Auto,
    /// The Docker engine lists the containers
    Docker,
    /// Our services announce themselves on the bus
    Presence,
}

/// Who we are and how others are found.
#[derive(Debug, Clone, Args)]
#[command(next_help_heading = "Discovery")]
pub struct DiscoverySettings {
    /// How containers are found
    #[arg(long, env = "DISCOVERY", default_value = "auto", value_enum)]
    pub discovery: DiscoveryMode,
    /// Address of the Docker engine
    #[arg(long, env = "DOCKER_HOST", default_value = "unix:///var/run/docker.sock", value_parser = name)]
    pub docker_host: String,
    /// Name of this service; without it a container asks the engine for its label
    #[arg(long, env = "SERVICE_NAME", value_parser = |text: &str| text.parse::<ServiceName>())]
    pub service_name: Option<ServiceName>,
    /// Name of the stack, which takes no part in finding a service by its name
    #[arg(long, env = "STACK_NAME", value_parser = name)]
    pub stack_name: Option<String>,
    /// Image of this service, for the audit log
    #[arg(long, env = "SERVICE_IMAGE", value_parser = name)]
    pub service_image: Option<String>,
}

impl DiscoverySettings {
    /// Whether the Docker engine is asked.
    pub fn uses_docker(&self) -> bool {
        match self.discovery {
            DiscoveryMode::Docker => true,
            DiscoveryMode::Presence => false,
            DiscoveryMode::Auto => {
                let has_engine = match self.docker_host.strip_prefix("unix://") {
                    Some(path) => std::path::Path::new(path).exists(),
                    None => true,
                };
                crate::identity::own_container_id().is_some() && has_engine
            }
        }
    }
}

/// What every process has.
#[derive(Debug, Clone, Args)]
#[command(next_help_heading = "Process")]
pub struct ProcessSettings {
    /// How long to finish what is in flight after SIGTERM, in ms
    #[arg(long, env = "DRAIN_TIMEOUT_MS", default_value = "10000", value_parser = millis(0..=600_000))]
    pub drain_timeout_ms: Duration,
    /// What is logged: `info`, `warn,frontend=debug`, …
    #[arg(long = "log", env = "RUST_LOG", default_value = "info")]
    pub log: String,
    /// How it is logged
    #[arg(long, env = "LOG_FORMAT", default_value = "text", value_enum)]
    pub log_format: LogFormat,
}

/// Where `/livez`, `/readyz`, `/healthz` and `/metrics` are served, by services that serve nothing
/// else over HTTP.
#[derive(Debug, Clone, Args)]
#[command(next_help_heading = "Process")]
pub struct OpsSettings {
    /// Port of /livez, /readyz, /healthz and /metrics; without it they are not served
    #[arg(long, env = "OPS_PORT", value_parser = port)]
    pub ops_port: Option<u16>,
    /// Address that the port is opened on
    #[arg(long, env = "OPS_ADDRESS", default_value = "0.0.0.0")]
    pub ops_address: IpAddr,
}

impl OpsSettings {
    /// Opens the port, if one is set.
    ///
    /// # Errors
    /// A sentence that names the setting.
    pub async fn listen(&self) -> Result<Option<tokio::net::TcpListener>, ListenError> {
        match self.ops_port {
            Some(port) => listen("OPS_PORT", (self.ops_address, port).into())
                .await
                .map(Some),
            None => Ok(None),
        }
    }
}

/// A port that cannot be opened.
#[derive(Debug, thiserror::Error)]
#[error("{variable}: cannot listen on {at}{}", match source.kind() {
    std::io::ErrorKind::AddrInUse => ": another process has this port, choose another one",
    std::io::ErrorKind::PermissionDenied => ": this user may not open this port",
    _ => "",
})]
pub struct ListenError {
    variable: &'static str,
    at: std::net::SocketAddr,
    #[source]
    source: std::io::Error,
}

/// Opens a port that a setting names.
///
/// # Errors
/// [`ListenError`].
pub async fn listen(
    variable: &'static str,
    at: std::net::SocketAddr,
) -> Result<tokio::net::TcpListener, ListenError> {
    tokio::net::TcpListener::bind(at)
        .await
        .map_err(|source| ListenError {
            variable,
            at,
            source,
        })
}

/// The end of a `main`: an error goes to stderr with all its causes.
#[expect(
    clippy::print_stderr,
    reason = "this is where a command line reports its failure"
)]
pub fn exit_code<E: std::fmt::Display>(outcome: Result<(), E>) -> std::process::ExitCode {
    match outcome {
        Ok(()) => std::process::ExitCode::SUCCESS,
        Err(error) => {
            // `{:#}` prints the causes of an `anyhow::Error`.
            eprintln!("error: {error:#}");
            std::process::ExitCode::FAILURE
        }
    }
}

#[cfg(test)]
mod tests;
