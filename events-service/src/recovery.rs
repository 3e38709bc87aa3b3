//! Keeping the audit log: waiting for it at start, closing what nobody will end, noticing when it
//! comes back.

use std::{sync::Arc, time::Duration};

use shared::{clock::Clock, ops::Check};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use crate::audit::{AuditError, AuditLog, SETTLED_AFTER};

/// How often open records are looked for whose deadline has passed.
const SWEEP_EVERY: Duration = Duration::from_secs(2);
/// Whoever holds a record ends it at its deadline. A record that is open for so long after it was
/// held by someone who died.
const ABANDONED_AFTER: Duration = Duration::from_secs(2);
// A record is overdue when a sweep must have closed it, whoever's clock is a second off.
const _: () = assert!(
    ABANDONED_AFTER.as_millis() + SWEEP_EVERY.as_millis() + 1_000 < SETTLED_AFTER.as_millis()
);
/// First and longest wait while the log cannot be reached.
const BACKOFF: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(2));

/// Prepares the log, then sweeps it, until `stop`. `is_up` says whether requests may rely on it;
/// `has_answers` is set once, when the log is first reached.
pub(crate) async fn keep(
    log: Arc<dyn AuditLog>,
    clock: Clock,
    is_up: watch::Sender<bool>,
    may_hold_answers: Arc<std::sync::atomic::AtomicBool>,
    check: Check,
    stop: CancellationToken,
) {
    tokio::select! {
        () = stop.cancelled() => {}
        () = keep_forever(&*log, clock, is_up, &may_hold_answers, &check) => {}
    }
}

async fn keep_forever(
    log: &dyn AuditLog,
    clock: Clock,
    is_up: watch::Sender<bool>,
    may_hold_answers: &std::sync::atomic::AtomicBool,
    check: &Check,
) {
    let mut is_prepared = false;
    let mut changed = is_up.subscribe();
    let mut backoff = BACKOFF.0;
    loop {
        let outcome = if is_prepared {
            log.ping().await
        } else {
            prepare(log, may_hold_answers).await
        };
        let outcome = match outcome {
            Ok(()) => {
                is_prepared = true;
                sweep(log, &clock).await
            }
            Err(error) => Err(error),
        };
        match outcome {
            Ok(()) => {
                if !*is_up.borrow() {
                    info!("the audit log is ready");
                }
                check.pass();
                is_up.send_replace(true);
                changed.borrow_and_update();
                backoff = BACKOFF.0;
                tokio::select! {
                    () = tokio::time::sleep(SWEEP_EVERY) => {}
                    // A batch was given up: look at once.
                    _ = changed.changed() => {}
                }
            }
            Err(error) => {
                if backoff == BACKOFF.0 || matches!(error, AuditError::Unusable { .. }) {
                    let error = &error as &dyn std::error::Error;
                    warn!(error, "waiting for the audit log");
                }
                check.fail(&error);
                is_up.send_replace(false);
                tokio::time::sleep(backoff).await;
                backoff = (backoff * 2).min(BACKOFF.1);
            }
        }
    }
}

async fn prepare(
    log: &dyn AuditLog,
    may_hold_answers: &std::sync::atomic::AtomicBool,
) -> Result<(), AuditError> {
    log.prepare().await?;
    may_hold_answers.fetch_or(
        log.has_answers().await?,
        std::sync::atomic::Ordering::Relaxed,
    );
    Ok(())
}

async fn sweep(log: &dyn AuditLog, clock: &Clock) -> Result<(), AuditError> {
    let now = clock.now_unix_ms();
    let grace = u64::try_from(ABANDONED_AFTER.as_millis()).unwrap_or(u64::MAX);
    let closed = log.close_overdue(now.saturating_sub(grace), now).await?;
    if closed > 0 {
        warn!(
            records = closed,
            "closed records that were left open past their deadline"
        );
    }
    Ok(())
}
