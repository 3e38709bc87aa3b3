//! Group commit: whatever arrived while the last write was under way goes into the next one. No
//! timer: an idle system writes at once, a busy one in large batches.

use std::{sync::Arc, time::Duration};

use futures_util::{StreamExt, stream::FuturesUnordered};
use prometheus_client::{
    metrics::{counter::Counter, histogram::Histogram},
    registry::Registry,
};
use shared::contract::RecordId;
use tokio::{
    sync::{mpsc, watch},
    time::Instant,
};
use tracing::warn;

use super::{AuditError, AuditLog, Write, Written};

/// Writes in one batch: about 1 MB of documents.
const BATCH_MAX: usize = 1_024;
/// Batches under way at once. With two, the store works on one while we make the other.
const UNDER_WAY_MAX: usize = 2;
/// How long a batch is tried again before its requests fail: a third of the usual deadline, so that
/// the caller gets a clear answer in time.
const RETRY_FOR: Duration = Duration::from_millis(1_700);
/// Pause between tries.
const RETRY_PAUSE: Duration = Duration::from_millis(50);

/// What became of a write: `None` when the log could not be written.
pub type Outcome = (RecordId, Option<Written>);

/// Takes writes; [`GroupCommit::run`] makes them durable.
#[derive(Debug, Clone)]
pub struct LogWriter {
    queue: mpsc::Sender<Write>,
}

/// The log has more to write than it can take.
#[derive(Debug, thiserror::Error)]
#[error("the audit log takes no more at present")]
pub struct Full;

impl LogWriter {
    /// Queues a write without waiting.
    ///
    /// # Errors
    /// [`Full`]; it is not written.
    pub fn write(&self, write: Write) -> Result<(), Full> {
        self.queue.try_send(write).map_err(|_| Full)
    }
}

/// The task that writes.
pub struct GroupCommit {
    log: Arc<dyn AuditLog>,
    queue: mpsc::Receiver<Write>,
    written: mpsc::Sender<Vec<Outcome>>,
    is_up: watch::Sender<bool>,
    batch_size: Histogram,
    failures: Counter,
}

/// Makes a group commit whose queue holds `writes_max`. Outcomes go to `written`, a batch at a time;
/// `is_up` is set to false when a batch had to be given up.
pub fn group_commit(
    log: Arc<dyn AuditLog>,
    writes_max: usize,
    written: mpsc::Sender<Vec<Outcome>>,
    is_up: watch::Sender<bool>,
    registry: &mut Registry,
) -> (LogWriter, GroupCommit) {
    let (sender, queue) = mpsc::channel(writes_max);
    let batch_size = Histogram::new([1.0, 4.0, 16.0, 64.0, 256.0, 1024.0]);
    let failures = Counter::default();
    registry.register(
        "audit_batch_writes",
        "Writes in one batch",
        batch_size.clone(),
    );
    registry.register("audit_batches_failed", "Batches given up", failures.clone());
    let commit = GroupCommit {
        log,
        queue,
        written,
        is_up,
        batch_size,
        failures,
    };
    (LogWriter { queue: sender }, commit)
}

impl GroupCommit {
    /// Writes until every [`LogWriter`] is dropped and all is written.
    pub async fn run(mut self) {
        let mut under_way = FuturesUnordered::new();
        let mut is_open = true;
        while is_open || !under_way.is_empty() {
            let mut batch = Vec::new();
            // Both are cancel-safe: `recv_many` takes nothing unless it completes.
            tokio::select! {
                count = self.queue.recv_many(&mut batch, BATCH_MAX),
                    if is_open && under_way.len() < UNDER_WAY_MAX =>
                {
                    if count == 0 {
                        is_open = false;
                        continue;
                    }
                    self.batch_size.observe(count as f64);
                    under_way.push(write(self.log.clone(), batch));
                }
                Some(written) = under_way.next() => {
                    if written.iter().any(|(_, outcome)| outcome.is_none()) {
                        self.failures.inc();
                        self.is_up.send_replace(false);
                    }
                    if self.written.send(written).await.is_err() {
                        // Whoever waited has ended; what was queued is still written.
                        continue;
                    }
                }
            }
        }
    }
}

async fn write(log: Arc<dyn AuditLog>, batch: Vec<Write>) -> Vec<Outcome> {
    let begun = Instant::now();
    let ids = batch.iter().map(Write::id);
    loop {
        match log.write(&batch).await {
            Ok(written) => return ids.zip(written.into_iter().map(Some)).collect(),
            Err(AuditError::Unavailable { .. }) if begun.elapsed() < RETRY_FOR => {
                tokio::time::sleep(RETRY_PAUSE).await;
            }
            Err(error) => {
                let error = &error as &dyn std::error::Error;
                warn!(
                    error,
                    writes = batch.len(),
                    "the audit log cannot be written"
                );
                return ids.map(|id| (id, None)).collect();
            }
        }
    }
}
