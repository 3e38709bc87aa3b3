//! Stopping: the first signal asks, the second insists.

use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

/// The exit code of a process that was told twice (128 + SIGINT, as shells have it).
const INSISTED: i32 = 130;

/// Cancels the token on the first SIGTERM or SIGINT and ends the process on the second. Only
/// `main.rs` calls this: a library takes the token.
///
/// # Errors
/// The operating system does not let us listen to signals.
pub fn on_signals() -> std::io::Result<CancellationToken> {
    let stop = CancellationToken::new();
    let (mut terminate, mut interrupt) = (
        signal(SignalKind::terminate())?,
        signal(SignalKind::interrupt())?,
    );
    let stopping = stop.clone();
    // Ends with the process.
    tokio::spawn(async move {
        loop {
            let name = tokio::select! {
                _ = terminate.recv() => "SIGTERM",
                _ = interrupt.recv() => "SIGINT",
            };
            if stopping.is_cancelled() {
                warn!(signal = name, "second signal, ending at once");
                std::process::exit(INSISTED);
            }
            stopping.cancel();
            info!(signal = name, "stopping: finishing what is in flight");
        }
    });
    Ok(stop)
}
