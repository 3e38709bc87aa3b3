//! Waiting for facts.

use std::time::{Duration, Instant};

use anyhow::{Result, bail};

/// How often a fact is looked at while waiting for it.
const LOOK_AGAIN_AFTER: Duration = Duration::from_millis(50);

/// How long an ordinary change may take on a busy machine: processes start and find each other.
/// Containers of the slowest stand-in need a few seconds of it when ten start at once.
pub const SOON: Duration = Duration::from_secs(60);

/// Looks until the answer is `Some`, and returns it.
///
/// # Errors
/// When `limit` has passed first: `what` was waited for, and what was seen last.
pub async fn until<T>(
    what: &str,
    limit: Duration,
    mut look: impl AsyncFnMut() -> Result<Option<T>>,
) -> Result<T> {
    let deadline = Instant::now() + limit;
    loop {
        let seen = match look().await {
            Ok(Some(fact)) => return Ok(fact),
            Ok(None) => "not yet".to_owned(),
            Err(error) => format!("{error:#}"),
        };
        if Instant::now() >= deadline {
            bail!("waited {limit:?} for {what}: {seen}");
        }
        tokio::time::sleep(LOOK_AGAIN_AFTER).await;
    }
}

/// Looks until the answer is `true`.
///
/// # Errors
/// When `limit` has passed first.
pub async fn until_true(
    what: &str,
    limit: Duration,
    mut look: impl AsyncFnMut() -> Result<bool>,
) -> Result<()> {
    until(what, limit, async || Ok(look().await?.then_some(()))).await
}
