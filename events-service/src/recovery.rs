//! Keeping the audit log: waiting for it at start, closing what nobody will end, noticing when it
//! comes back.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use shared::{clock::Clock, contract::ContainerId, discovery::Roster, ops::Check};
use tokio::{sync::watch, time::Instant};
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use crate::{
    audit::{AuditError, AuditLog, Overdue, SETTLED_AFTER},
    listening::Listening,
};

/// How often open records are looked for whose deadline has passed.
const SWEEP_EVERY: Duration = Duration::from_secs(2);
/// Whoever holds a record ends it at its deadline. A record that is open for so long after it was
/// held by someone who died.
const ABANDONED_AFTER: Duration = Duration::from_secs(2);
// A record is overdue when a sweep must have closed it, whoever's clock is a second off.
const _: () = assert!(
    ABANDONED_AFTER.as_millis() + SWEEP_EVERY.as_millis() + 1_000 < SETTLED_AFTER.as_millis()
);
/// A newcomer does not know yet who lives, and would close what they hold if its clock is ahead: all
/// have announced themselves by then.
const HEARS_FIRST: Duration = Duration::from_secs(3);
/// First and longest wait while the log cannot be reached.
const BACKOFF: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(2));

/// What it takes to keep the log.
pub(crate) struct Keeper {
    pub(crate) log: Arc<dyn AuditLog>,
    pub(crate) clock: Clock,
    pub(crate) me: ContainerId,
    pub(crate) roster: Arc<Roster>,
    pub(crate) listening: Listening,
    /// Whether requests may rely on the log.
    pub(crate) is_up: watch::Sender<bool>,
    /// Set when the log is first reached and holds answers.
    pub(crate) may_hold_answers: Arc<AtomicBool>,
    pub(crate) check: Check,
}

impl Keeper {
    /// Prepares the log, then sweeps it, until `stop`.
    pub(crate) async fn keep(self, stop: CancellationToken) {
        tokio::select! {
            () = stop.cancelled() => {}
            () = self.keep_forever() => {}
        }
    }

    async fn keep_forever(&self) {
        let started = Instant::now();
        let mut is_prepared = false;
        let mut changed = self.is_up.subscribe();
        let mut backoff = BACKOFF.0;
        loop {
            let outcome = if is_prepared {
                self.log.ping().await
            } else {
                self.prepare().await
            };
            let outcome = match outcome {
                Ok(()) => {
                    is_prepared = true;
                    if started.elapsed() < HEARS_FIRST {
                        Ok(())
                    } else {
                        self.sweep().await
                    }
                }
                Err(error) => Err(error),
            };
            match outcome {
                Ok(()) => {
                    if !*self.is_up.borrow() {
                        info!("the audit log is ready");
                    }
                    self.check.pass();
                    self.is_up.send_replace(true);
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
                    self.check.fail(&error);
                    self.is_up.send_replace(false);
                    tokio::time::sleep(backoff).await;
                    backoff = (backoff * 2).min(BACKOFF.1);
                }
            }
        }
    }

    async fn prepare(&self) -> Result<(), AuditError> {
        self.log.prepare().await?;
        let has_answers = self.log.has_answers().await?;
        self.may_hold_answers
            .fetch_or(has_answers, Ordering::Relaxed);
        Ok(())
    }

    /// Closes what we hold and have lost sight of, and what those held who are not there any more.
    async fn sweep(&self) -> Result<(), AuditError> {
        let now = self.clock.now_unix_ms();
        let grace = u64::try_from(ABANDONED_AFTER.as_millis()).unwrap_or(u64::MAX);
        let mut others = self.roster.alive();
        others.retain(|container| *container != self.me);
        let mut spared = self.listening.among(others).await;
        if !*self.is_up.borrow() {
            // How these ended is known here, and written once the log is up again.
            spared.push(self.me.clone());
        }
        let overdue = Overdue {
            before_unix_ms: now.saturating_sub(grace),
            now_unix_ms: now,
            spared,
        };
        let closed = self.log.close_overdue(&overdue).await?;
        if closed > 0 {
            warn!(
                records = closed,
                "closed records that were left open past their deadline"
            );
        }
        Ok(())
    }
}
