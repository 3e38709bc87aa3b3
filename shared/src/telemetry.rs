//! Logs: where they go and in which form.

use std::io::IsTerminal;

use tracing_subscriber::EnvFilter;

/// How a log line is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum LogFormat {
    /// One line of text, coloured on a terminal.
    Text,
    /// One JSON object a line.
    Json,
}

/// Writes the log of the process to stderr: output is data, stdout is for it.
///
/// # Errors
/// The filter is not one (`info`, `warn,frontend=debug`, …), or there is a log already.
pub fn init(filter: &str, format: LogFormat) -> Result<(), String> {
    let filter = EnvFilter::try_new(filter).map_err(|error| {
        format!(
            "RUST_LOG: `{filter}` is no log filter ({error}); try `info` or `warn,frontend=debug`"
        )
    })?;
    let log = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        // A closed stderr would be reported to stderr, by a panic.
        .log_internal_errors(false)
        .with_ansi(std::io::stderr().is_terminal());
    let outcome = match format {
        LogFormat::Text => log.with_target(false).try_init(),
        LogFormat::Json => log.json().flatten_event(true).try_init(),
    };
    outcome.map_err(|error| format!("the log cannot be set up: {error}"))
}
