//! Group commit: whatever arrived while the last write was under way goes into the next one. An idle
//! system writes at once, a busy one in large batches; where a batch is dear by itself, a small one of
//! a busy system waits a moment for what is still at backends ([`AuditLog::gather`]). One batch is
//! under way at a time: two at once are each half as large, and cost more than they gain
//! (`docs/performance.md`).

use std::{
    collections::VecDeque,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

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
/// A batch of so many writes waits for no more: what a batch costs by itself is shared by then.
const GATHERED: usize = 16;
/// How long a batch is tried again before its requests fail: a third of the usual deadline, so that
/// the caller gets a clear answer in time.
const RETRY_FOR: Duration = Duration::from_millis(1_700);
/// Pause between tries.
const RETRY_PAUSE: Duration = Duration::from_millis(50);

/// Writes of batches that were given up, kept until the log is back. Beyond, the oldest are dropped.
const HALF_WRITTEN_MAX: usize = 8_192;

/// What became of a write: `None` when the log could not be written.
pub type Outcome = (RecordId, Option<Written>);

/// A log is behind when writes take more than this share of a task's time: the task is written twice
/// at most, and has other things to do.
const BEHIND_SHARE: u32 = 3;

/// Takes writes; [`GroupCommit::run`] makes them durable. One owner.
#[derive(Debug)]
pub struct LogWriter {
    queue: mpsc::Sender<Write>,
    /// When the writes that have not come back were queued, oldest first: they come back nearly in
    /// that order. As many as the queue and the batch under way hold.
    waiting: VecDeque<Instant>,
    /// How long the write took that came back last.
    last_took: Duration,
    expected: Arc<AtomicUsize>,
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
    pub fn write(&mut self, write: Write) -> Result<(), Full> {
        self.queue.try_send(write).map_err(|_| Full)?;
        self.waiting.push_back(Instant::now());
        Ok(())
    }

    /// So many results are still at backends: each will be a write before long.
    pub fn expect(&self, results: usize) {
        self.expected.store(results, Ordering::Relaxed);
    }

    /// So many writes have come back.
    pub fn came_back(&mut self, count: usize) {
        let count = count.min(self.waiting.len());
        if let Some(queued) = self.waiting.drain(..count).next_back() {
            self.last_took = queued.elapsed();
        }
    }

    /// Whether a task that has so much time left would spend too much of it waiting for the log.
    /// Without this, a log that is too slow is only ever given what is about to expire, and nothing
    /// is answered.
    ///
    /// Both the write that came back last and the oldest that has not must have taken too long: a log
    /// that was away for a moment takes all that waits in its next batch, and is not behind. One that
    /// stays away is told by the batch that is given up.
    pub fn is_behind(&self, now: Instant, left: Duration) -> bool {
        let Some(oldest) = self.waiting.front() else {
            return false;
        };
        let waits = now.saturating_duration_since(*oldest);
        !left.is_zero() && waits.min(self.last_took) > left / BEHIND_SHARE
    }
}

/// The task that writes.
pub struct GroupCommit {
    log: Arc<dyn AuditLog>,
    queue: mpsc::Receiver<Write>,
    written: mpsc::Sender<Vec<Outcome>>,
    is_up: watch::Sender<bool>,
    expected: Arc<AtomicUsize>,
    /// Ends of records from batches that were given up.
    half_written: VecDeque<Write>,
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
    let expected = Arc::new(AtomicUsize::new(0));
    let commit = GroupCommit {
        log,
        queue,
        written,
        is_up,
        expected: expected.clone(),
        half_written: VecDeque::new(),
        batch_size,
        failures,
    };
    let writer = LogWriter {
        queue: sender,
        waiting: VecDeque::new(),
        last_took: Duration::ZERO,
        expected,
    };
    (writer, commit)
}

impl GroupCommit {
    /// Writes until every [`LogWriter`] is dropped and all is written.
    pub async fn run(mut self) {
        let mut is_up = self.is_up.subscribe();
        let mut is_busy = false;
        loop {
            let mut batch = Vec::new();
            // Both are cancel-safe: `recv_many` takes nothing unless it completes.
            let (writes, is_waited_for) = tokio::select! {
                count = self.queue.recv_many(&mut batch, BATCH_MAX) => {
                    if count == 0 {
                        return;
                    }
                    if is_busy {
                        self.gather(&mut batch).await;
                    }
                    is_busy = batch.len() > 1;
                    self.batch_size.observe(batch.len() as f64);
                    (batch, true)
                }
                true = async { is_up.wait_for(|is_up| *is_up).await.is_ok() },
                    if !self.half_written.is_empty() =>
                {
                    let count = self.half_written.len().min(BATCH_MAX);
                    (self.half_written.drain(..count).collect(), false)
                }
            };
            // While the log is known to be down, whoever waits has waited for it before, or is told at
            // once.
            let patience = match is_waited_for && *self.is_up.borrow() {
                true => RETRY_FOR,
                false => Duration::ZERO,
            };
            let written = write(&*self.log, &writes, patience).await;
            let mut batch = Batch {
                writes,
                written,
                is_waited_for,
            };
            if batch.written.is_none() && is_waited_for {
                // What queued up behind it has waited as well.
                while let Ok(write) = self.queue.try_recv() {
                    batch.writes.push(write);
                }
            }
            self.done(batch).await;
        }
    }

    /// Lets a small batch wait for the results that are still at backends.
    async fn gather(&mut self, batch: &mut Vec<Write>) {
        let limit = self.log.gather();
        if limit.is_zero() {
            return;
        }
        let until = Instant::now() + limit;
        while batch.len() < GATHERED && self.expected.load(Ordering::Relaxed) > 0 {
            let room = BATCH_MAX - batch.len();
            let more = tokio::time::timeout_at(until, self.queue.recv_many(batch, room));
            // The time is over, or nobody writes any more.
            if !matches!(more.await, Ok(1..)) {
                return;
            }
        }
    }

    async fn done(&mut self, batch: Batch) {
        let outcomes = batch.is_waited_for.then(|| batch.outcomes());
        if batch.written.is_none() {
            self.failures.inc();
            self.is_up.send_replace(false);
            self.keep(batch.writes);
        }
        if let Some(outcomes) = outcomes
            && self.written.send(outcomes).await.is_err()
        {
            // Whoever waited has ended; what was queued is still written.
            tracing::debug!("nobody waits for what was written");
        }
    }

    /// Of a batch that was given up, some may be durable: a record as answered, and not the answer's
    /// text. It is written again when the log is back, so that no record stays half written. Nobody
    /// waits for it by then. Of a record that is not ended, nothing is missing.
    fn keep(&mut self, writes: Vec<Write>) {
        let ends = writes.into_iter().filter(|write| match write {
            Write::Insert(record) | Write::Complete(record) => record.end.is_some(),
            Write::Reassign { .. } => false,
        });
        self.half_written.extend(ends);
        let over = self.half_written.len().saturating_sub(HALF_WRITTEN_MAX);
        if over > 0 {
            warn!(writes = over, "given up, their records may be half written");
            self.half_written.drain(..over);
        }
    }
}

/// A batch that was tried.
struct Batch {
    writes: Vec<Write>,
    /// `None` when it was given up.
    written: Option<Vec<Written>>,
    is_waited_for: bool,
}

impl Batch {
    fn outcomes(&self) -> Vec<Outcome> {
        let ids = self.writes.iter().map(Write::id);
        match &self.written {
            Some(written) => ids.zip(written.iter().copied().map(Some)).collect(),
            None => ids.map(|id| (id, None)).collect(),
        }
    }
}

/// Writes a batch, and tries again for so long. `None` when it was given up.
async fn write(log: &dyn AuditLog, writes: &[Write], patience: Duration) -> Option<Vec<Written>> {
    let begun = Instant::now();
    loop {
        match log.write(writes).await {
            Ok(written) => return Some(written),
            Err(AuditError::Unavailable { .. }) if begun.elapsed() < patience => {
                tokio::time::sleep(RETRY_PAUSE).await;
            }
            Err(error) => {
                let error = &error as &dyn std::error::Error;
                warn!(
                    error,
                    writes = writes.len(),
                    "the audit log cannot be written"
                );
                return None;
            }
        }
    }
}
