//! An audit log in memory that can be told to be slow or broken: faults that a real store cannot be
//! made to have at a given moment.

use std::{
    collections::{HashMap, hash_map::Entry},
    sync::{
        Arc, Mutex, MutexGuard,
        atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering},
    },
    time::Duration,
};

use async_trait::async_trait;
use events_service::audit::{
    Answer, AuditError, AuditLog, Balance, BalanceQuery, End, Filter, Outcome, Overdue, Progress,
    Question, Record, Status, StoredRecord, Write, Written,
};
use shared::contract::{Address, ContainerId, Failure, FailureCode, RecordId};

/// The records.
#[derive(Debug, Default)]
pub(crate) struct Records {
    by_id: HashMap<RecordId, Record>,
    remembered: HashMap<(String, String), String>,
}

impl Records {
    pub(crate) fn insert(&mut self, record: &Record) -> Written {
        let is_duplicate = self
            .by_id
            .values()
            .any(|known| known.request_id == record.request_id && known.id != record.id);
        if is_duplicate {
            return Written::DuplicateRequest;
        }
        match self.by_id.entry(record.id) {
            Entry::Vacant(place) => {
                place.insert(record.clone());
                Written::Done
            }
            // Our own insert, repeated, or another events service's.
            Entry::Occupied(known) => {
                let known = known.get();
                if known.events_service == record.events_service && known.end == record.end {
                    Written::Done
                } else {
                    Written::DuplicateRequest
                }
            }
        }
    }

    fn reassign(
        &mut self,
        id: RecordId,
        from: &ContainerId,
        by: &Address,
        backend: Option<&Address>,
    ) -> Written {
        match self.by_id.get_mut(&id) {
            Some(known) if known.end.is_none() && known.events_service.container == *from => {
                known.events_service = by.clone();
                if let Some(backend) = backend {
                    known.progress.backend = Some(backend.clone());
                }
                Written::Done
            }
            _ => Written::AlreadyEnded,
        }
    }

    pub(crate) fn complete(&mut self, record: &Record) -> Written {
        match self.by_id.get_mut(&record.id) {
            Some(known) if known.end.is_none() => {
                let end = ended(Outcome::Answered(String::new()));
                *known = record.clone();
                known.end.get_or_insert(end);
                Written::Done
            }
            _ => Written::AlreadyEnded,
        }
    }
}

/// An answer whose text is not to be seen yet: a record and its texts are written at the same time.
pub(crate) const NOT_WRITTEN_YET: &str = "not written yet";

/// The log.
#[derive(Clone, Default)]
pub(crate) struct MemoryLog {
    records: Arc<Mutex<Records>>,
    inserts: Arc<AtomicUsize>,
    questions: Arc<AtomicUsize>,
    is_held: Arc<AtomicBool>,
    are_reads_held: Arc<AtomicBool>,
    is_broken: Arc<AtomicBool>,
    /// In ms.
    gather: Arc<AtomicU64>,
    batches: Arc<Mutex<Vec<usize>>>,
}

impl MemoryLog {
    pub(crate) fn hold(&self, held: bool) {
        self.is_held.store(held, Ordering::SeqCst);
    }

    /// Keeps back what is asked of single records.
    pub(crate) fn hold_reads(&self, held: bool) {
        self.are_reads_held.store(held, Ordering::SeqCst);
    }

    pub(crate) fn break_down(&self, broken: bool) {
        self.is_broken.store(broken, Ordering::SeqCst);
    }

    /// Small batches of a busy service wait for so long.
    pub(crate) fn gather_for_ms(&self, ms: u64) {
        self.gather.store(ms, Ordering::SeqCst);
    }

    /// How many writes each batch had.
    pub(crate) fn batches(&self) -> Vec<usize> {
        self.batches.lock().unwrap().clone()
    }

    pub(crate) fn remember(&self, task: &str, body: &str, text: &str) {
        self.records()
            .remembered
            .insert((task.into(), body.into()), text.into());
    }

    /// Puts a record into the log, as another events service would have.
    pub(crate) fn hold_record(&self, record: Record) {
        self.records().by_id.insert(record.id, record);
    }

    pub(crate) fn inserts(&self) -> usize {
        self.inserts.load(Ordering::SeqCst)
    }

    /// How many questions it was asked.
    pub(crate) fn questions(&self) -> usize {
        self.questions.load(Ordering::SeqCst)
    }

    pub(crate) fn all(&self) -> Vec<Record> {
        self.records().by_id.values().cloned().collect()
    }

    pub(crate) fn only(&self) -> Record {
        let mut all = self.all();
        assert_eq!(all.len(), 1, "{all:?}");
        all.remove(0)
    }

    fn records(&self) -> MutexGuard<'_, Records> {
        self.records.lock().unwrap()
    }

    async fn read(
        &self,
        is_wanted: impl Fn(&Record) -> bool,
    ) -> Result<Vec<StoredRecord>, AuditError> {
        while self.are_reads_held.load(Ordering::SeqCst) {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        self.works()?;
        let records = self.records();
        let wanted = records.by_id.values().filter(|record| is_wanted(record));
        Ok(wanted.map(stored).collect())
    }

    fn works(&self) -> Result<(), AuditError> {
        if self.is_broken.load(Ordering::SeqCst) {
            return Err(AuditError::Unavailable {
                at: "memory".into(),
                source: "broken".into(),
            });
        }
        Ok(())
    }
}

fn ended(outcome: Outcome) -> End {
    End {
        outcome,
        at_unix_ms: 0,
        waited_us: None,
        ran_us: None,
    }
}

fn stored(record: &Record) -> StoredRecord {
    let outcome = record.end.as_ref().map(|end| &end.outcome);
    let backend = record.progress.backend.as_ref();
    StoredRecord {
        id: record.id.to_string(),
        request_id: Some(record.request_id.to_string()),
        events_container: Some(record.events_service.container.to_string()),
        backend_container: backend.map(|backend| backend.container.to_string()),
        backend_service: backend.map(|backend| backend.service.to_string()),
        status: if outcome.is_some() {
            "answered"
        } else {
            "open"
        }
        .into(),
        response: outcome.and_then(|outcome| match outcome {
            Outcome::Answered(text) if text == NOT_WRITTEN_YET => None,
            Outcome::Answered(text) | Outcome::Repeated { text, .. } => Some(text.clone()),
            Outcome::Failed(failure) => Some(failure.detail.clone()),
        }),
        ..StoredRecord::default()
    }
}

#[async_trait]
impl AuditLog for MemoryLog {
    async fn prepare(&self) -> Result<(), AuditError> {
        self.works()
    }

    fn gather(&self) -> Duration {
        Duration::from_millis(self.gather.load(Ordering::SeqCst))
    }

    async fn write(&self, batch: &[Write]) -> Result<Vec<Written>, AuditError> {
        self.batches.lock().unwrap().push(batch.len());
        while self.is_held.load(Ordering::SeqCst) {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        tokio::time::sleep(Duration::from_millis(1)).await;
        self.works()?;
        let mut records = self.records();
        let written = batch.iter().map(|write| match write {
            Write::Insert(record) => {
                self.inserts.fetch_add(1, Ordering::SeqCst);
                records.insert(record)
            }
            Write::Complete(record) => records.complete(record),
            Write::Reassign {
                id,
                from,
                by,
                backend,
            } => records.reassign(*id, from, by, backend.as_ref()),
        });
        Ok(written.collect())
    }

    async fn find_answers(
        &self,
        questions: &[Question],
    ) -> Result<Vec<Option<Answer>>, AuditError> {
        self.works()?;
        self.questions.fetch_add(questions.len(), Ordering::SeqCst);
        let records = self.records();
        let find = |question: &Question| {
            let text = records
                .remembered
                .get(&(question.task.clone(), question.body.clone()))?;
            Some(Answer {
                record: RecordId([7; 12]),
                text: text.clone(),
            })
        };
        Ok(questions.iter().map(find).collect())
    }

    async fn close_overdue(&self, overdue: &Overdue) -> Result<u64, AuditError> {
        self.works()?;
        let mut closed = 0;
        for record in self.records().by_id.values_mut() {
            let is_overdue = record.deadline_unix_ms < overdue.before_unix_ms;
            let is_spared = overdue.spared.contains(&record.events_service.container);
            if record.end.is_none() && is_overdue && !is_spared {
                let failure = Failure::new(FailureCode::Abandoned, "closed");
                record.end = Some(ended(Outcome::Failed(failure)));
                closed += 1;
            }
        }
        Ok(closed)
    }

    async fn has_answers(&self) -> Result<bool, AuditError> {
        Ok(!self.records().remembered.is_empty())
    }

    async fn list(&self, filter: &Filter) -> Result<Vec<StoredRecord>, AuditError> {
        let wanted = filter.request_id.as_deref();
        self.read(|record| wanted == Some(record.request_id.as_str()))
            .await
    }

    async fn show(&self, id: RecordId) -> Result<Option<StoredRecord>, AuditError> {
        Ok(self.read(|record| record.id == id).await?.pop())
    }

    async fn balance(&self, query: &BalanceQuery) -> Result<Balance, AuditError> {
        self.works()?;
        let received = query.since_unix_ms.unwrap_or(0)..query.until_unix_ms.unwrap_or(u64::MAX);
        let mut balance = Balance::default();
        for record in self.all() {
            if !received.contains(&record.received_unix_ms) {
                continue;
            }
            balance.records += 1;
            let outcome = record.end.as_ref().map(|end| &end.outcome);
            match outcome.map_or(Status::Open, Outcome::status) {
                Status::Open if record.deadline_unix_ms < query.settled_before_unix_ms => {
                    balance.overdue.count += 1;
                    balance.overdue.first.push(record.id.to_string());
                }
                Status::Open => balance.in_flight += 1,
                Status::TimedOut => balance.timed_out += 1,
                Status::Abandoned => balance.abandoned += 1,
                Status::Answered | Status::Failed => match outcome {
                    Some(Outcome::Repeated { .. }) => {
                        balance.repeated += 1;
                        continue;
                    }
                    Some(Outcome::Failed(failure)) => {
                        *balance.failed.entry(failure.code.to_string()).or_default() += 1;
                    }
                    _ => balance.answered += 1,
                },
            }
            let attempts = u64::from(record.progress.attempts);
            balance.attempts += attempts;
            balance.attempts_repeated += attempts.saturating_sub(1);
        }
        Ok(balance)
    }

    async fn ping(&self) -> Result<(), AuditError> {
        self.works()
    }

    async fn close(&self) {}
}

/// A record and no records.
pub(crate) fn example() -> (Records, Record) {
    let address = Address::new("c", "s").unwrap();
    let record = Record {
        id: RecordId([1; 12]),
        request_id: "r".parse().unwrap(),
        caller_request_id: None,
        frontend: address.clone(),
        events_service: address,
        task: "T".into(),
        subtask: "S".into(),
        body: "{}".into(),
        pure: false,
        received_unix_ms: 0,
        deadline_unix_ms: 0,
        progress: Progress::default(),
        end: None,
    };
    (Records::default(), record)
}
