//! An audit log in memory with faults: it is slow, out of reach for a while, or its answer is lost
//! though the write took effect. Records and the texts of their responses are written at once and
//! arrive each at its own time, or one of them not at all, as with a database that has collections
//! for both. What it writes and refuses is as the port's suite has it.

use std::{
    collections::{HashMap, HashSet},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Duration,
};

use async_trait::async_trait;
use events_service::audit::{
    Answer, AuditError, AuditLog, Balance, BalanceQuery, End, Filter, Outcome, Overdue, Question,
    Record, Status, StoredRecord, Write, Written,
};
use shared::contract::{Address, ContainerId, Failure, FailureCode, RecordId, RequestId};

use crate::{dice::Dice, history::History, life::Life, weather::Weather};

/// The database.
pub(crate) struct Store {
    records: Mutex<Records>,
    dice: Dice,
    history: History,
    weather: Weather,
    is_down: AtomicBool,
    slowness_ms: AtomicU64,
    commands: AtomicU64,
}

#[derive(Default)]
pub(crate) struct Records {
    by_id: HashMap<RecordId, Record>,
    by_request: HashMap<RequestId, RecordId>,
    responses: HashSet<String>,
}

/// One process's connection to it.
pub(crate) struct Log {
    store: Arc<Store>,
    life: Life,
}

impl Store {
    pub(crate) fn new(dice: Dice, weather: Weather, history: History) -> Arc<Self> {
        Arc::new(Self {
            records: Mutex::default(),
            dice,
            history,
            weather,
            is_down: AtomicBool::new(false),
            slowness_ms: AtomicU64::new(0),
            commands: AtomicU64::new(0),
        })
    }

    pub(crate) fn connect(self: &Arc<Self>, life: Life) -> Arc<Log> {
        Arc::new(Log {
            store: self.clone(),
            life,
        })
    }

    pub(crate) fn set_down(&self, is_down: bool) {
        self.history.note(|| format!("log is down: {is_down}"));
        self.is_down.store(is_down, Ordering::Relaxed);
    }

    pub(crate) fn set_slowness(&self, slowness: Duration) {
        self.history.note(|| format!("log takes {slowness:?}"));
        let ms = u64::try_from(slowness.as_millis()).unwrap_or(u64::MAX);
        self.slowness_ms.store(ms, Ordering::Relaxed);
    }

    /// All records.
    pub(crate) fn all(&self) -> Vec<Record> {
        self.records().by_id.values().cloned().collect()
    }

    /// Whether some record fulfils this.
    pub(crate) fn any(&self, of: impl FnMut(&Record) -> bool) -> bool {
        self.records().by_id.values().any(of)
    }

    /// Whether the text of a response is there.
    pub(crate) fn has_response(&self, text: &str) -> bool {
        self.records().responses.contains(text)
    }

    fn records(&self) -> MutexGuard<'_, Records> {
        self.records.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A command on its way there and back.
    async fn command<T>(
        &self,
        life: &Life,
        run: impl FnOnce(&mut Records) -> T,
    ) -> Result<T, AuditError> {
        life.go_on().await;
        let nth = self.commands.fetch_add(1, Ordering::Relaxed);
        let mut dice = self.dice.on(("log", nth));
        let slowness = Duration::from_millis(self.slowness_ms.load(Ordering::Relaxed));
        // Some wait for others that write to the same place.
        let usual = if dice.is(0.05) {
            dice.ms(0..=200)
        } else {
            dice.ms(0..=2)
        };
        // A crash of the process does not call it back: it is with the database.
        tokio::time::sleep(usual + slowness).await;
        let was_there = !self.is_down.load(Ordering::Relaxed);
        let done = was_there.then(|| run(&mut self.records()));
        if !usual.is_zero() {
            tokio::time::sleep(usual).await;
        }
        life.go_on().await;
        let answer_comes =
            self.weather.answer_comes(&mut dice) && !self.is_down.load(Ordering::Relaxed);
        match done {
            Some(done) if answer_comes => Ok(done),
            _ => Err(AuditError::Unavailable {
                at: "simulation".into(),
                source: "simulated".into(),
            }),
        }
    }
}

impl Records {
    fn write(&mut self, write: &Write) -> Written {
        match write {
            Write::Insert(record) => self.insert(record),
            Write::Complete(record) => self.complete(record),
            Write::Reassign {
                id,
                from,
                by,
                backend,
            } => self.reassign(*id, from, by, backend.as_ref()),
        }
    }

    fn write_response(&mut self, write: &Write) {
        let (Write::Insert(record) | Write::Complete(record)) = write else {
            return;
        };
        let end = record.end.as_ref();
        if let Some(text) = end.and_then(|end| end.outcome.text()) {
            self.responses.insert(text.to_owned());
        }
    }

    fn insert(&mut self, record: &Record) -> Written {
        if let Some(known) = self.by_id.get(&record.id) {
            // Our own insert, repeated, or another events service's record of the same request.
            let is_ours = known.events_service == record.events_service && known.end == record.end;
            return if is_ours {
                Written::Done
            } else {
                Written::DuplicateRequest
            };
        }
        if self.by_request.contains_key(&record.request_id) {
            return Written::DuplicateRequest;
        }
        self.by_request.insert(record.request_id.clone(), record.id);
        self.by_id.insert(record.id, record.clone());
        Written::Done
    }

    fn complete(&mut self, record: &Record) -> Written {
        let Some(known) = self.by_id.get_mut(&record.id) else {
            return Written::AlreadyEnded;
        };
        match &known.end {
            None => {
                known.progress = record.progress.clone();
                known.end = record.end.clone();
                Written::Done
            }
            // The same end is this very completion, in an earlier try.
            Some(end) if Some(end) == record.end.as_ref() => Written::Done,
            Some(_) => Written::AlreadyEnded,
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
            // It was taken in an earlier try.
            Some(known) if known.end.is_none() && known.events_service == *by => Written::Done,
            _ => Written::AlreadyEnded,
        }
    }

    fn answer(&self, question: &Question) -> Option<Answer> {
        let mut records = self.by_id.values();
        records.find_map(|record| match &record.end.as_ref()?.outcome {
            Outcome::Answered(text)
                if record.pure
                    && self.responses.contains(text)
                    && record.frontend.service.as_str() == question.from_service
                    && record.task == question.task
                    && record.subtask == question.subtask
                    && record.body == question.body =>
            {
                Some(Answer {
                    record: record.id,
                    text: text.clone(),
                })
            }
            _ => None,
        })
    }

    /// A record as it is read back, but for what only people read.
    fn stored(&self, record: &Record) -> StoredRecord {
        let outcome = record.end.as_ref().map(|end| &end.outcome);
        let status = outcome.map_or(Status::Open, Outcome::status);
        let failure = match outcome {
            Some(Outcome::Failed(failure)) => Some(failure),
            _ => None,
        };
        let backend = record.progress.backend.as_ref();
        StoredRecord {
            id: record.id.to_string(),
            status: status.as_str().into(),
            reason: failure.map(|failure| failure.code.to_string()),
            detail: failure.map(|failure| failure.detail.clone()),
            request_id: Some(record.request_id.to_string()),
            caller_request_id: record.caller_request_id.clone(),
            task: Some(record.task.clone()),
            subtask: Some(record.subtask.clone()),
            request: Some(record.body.clone()),
            response: outcome
                .and_then(Outcome::text)
                .filter(|text| self.responses.contains(*text))
                .map(str::to_owned),
            frontend_container: Some(record.frontend.container.to_string()),
            frontend_service: Some(record.frontend.service.to_string()),
            events_container: Some(record.events_service.container.to_string()),
            events_service: Some(record.events_service.service.to_string()),
            backend_container: backend.map(|backend| backend.container.to_string()),
            backend_service: backend.map(|backend| backend.service.to_string()),
            attempts: Some(record.progress.attempts),
            pure: Some(record.pure),
            ..StoredRecord::default()
        }
    }

    fn close_overdue(&mut self, overdue: &Overdue) -> u64 {
        let mut closed = 0;
        for record in self.by_id.values_mut() {
            let is_overdue = record.deadline_unix_ms < overdue.before_unix_ms
                && !overdue.spared.contains(&record.events_service.container);
            if record.end.is_none() && is_overdue {
                let failure = Failure::new(FailureCode::Abandoned, "nobody ended it");
                record.end = Some(End {
                    outcome: Outcome::Failed(failure),
                    at_unix_ms: overdue.now_unix_ms,
                    waited_us: None,
                    ran_us: None,
                });
                closed += 1;
            }
        }
        closed
    }
}

/// A write in words.
fn told(write: &Write) -> String {
    let (kind, record) = match write {
        Write::Insert(record) => ("inserts", record),
        Write::Complete(record) => ("completes", record),
        Write::Reassign {
            id,
            from,
            by,
            backend,
        } => {
            let by = &by.container;
            return format!("{by} takes {id} from {from} and asks {backend:?}");
        }
    };
    let (id, by) = (record.id, &record.events_service.container);
    let caller = record.caller_request_id.as_deref().unwrap_or_default();
    let end = record.end.as_ref().map(|end| &end.outcome);
    format!("{by} {kind} {id} of {caller} as {end:?}")
}

#[async_trait]
impl AuditLog for Log {
    async fn prepare(&self) -> Result<(), AuditError> {
        self.store.command(&self.life, |_| ()).await
    }

    /// As MongoDB's.
    fn gather(&self) -> Duration {
        Duration::from_millis(1)
    }

    async fn write(&self, batch: &[Write]) -> Result<Vec<Written>, AuditError> {
        let history = &self.store.history;
        let records = self.store.command(&self.life, |records| {
            let mut written = Vec::with_capacity(batch.len());
            for write in batch {
                written.push(records.write(write));
                history.note(|| format!("log: {} {:?}", told(write), written.last()));
            }
            written
        });
        let responses = self.store.command(&self.life, |records| {
            batch.iter().for_each(|write| records.write_response(write));
        });
        let (written, responses) = tokio::join!(records, responses);
        responses.and(written)
    }

    async fn find_answers(
        &self,
        questions: &[Question],
    ) -> Result<Vec<Option<Answer>>, AuditError> {
        let find = |records: &mut Records| questions.iter().map(|q| records.answer(q)).collect();
        self.store.command(&self.life, find).await
    }

    async fn close_overdue(&self, overdue: &Overdue) -> Result<u64, AuditError> {
        let close = |records: &mut Records| records.close_overdue(overdue);
        self.store.command(&self.life, close).await
    }

    async fn has_answers(&self) -> Result<bool, AuditError> {
        let has = |records: &mut Records| {
            let is_answered = |r: &Record| {
                matches!(
                    &r.end,
                    Some(End {
                        outcome: Outcome::Answered(_),
                        ..
                    })
                )
            };
            records.by_id.values().any(|r| r.pure && is_answered(r))
        };
        self.store.command(&self.life, has).await
    }

    async fn list(&self, filter: &Filter) -> Result<Vec<StoredRecord>, AuditError> {
        let list = |records: &mut Records| {
            let is_meant = |record: &&Record| {
                let of_request = |id: &String| {
                    id == record.request_id.as_str()
                        || Some(id) == record.caller_request_id.as_ref()
                };
                let status = record
                    .end
                    .as_ref()
                    .map_or(Status::Open, |end| end.outcome.status());
                filter.request_id.as_ref().is_none_or(of_request)
                    && filter.status.is_none_or(|wanted| wanted == status)
                    && filter
                        .since_unix_ms
                        .is_none_or(|ms| ms <= record.received_unix_ms)
                    && filter
                        .until_unix_ms
                        .is_none_or(|ms| ms > record.received_unix_ms)
            };
            let mut listed: Vec<_> = records.by_id.values().filter(is_meant).collect();
            listed.sort_by_key(|record| std::cmp::Reverse((record.received_unix_ms, record.id)));
            listed.truncate(filter.records_max as usize);
            listed.into_iter().map(|r| records.stored(r)).collect()
        };
        self.store.command(&self.life, list).await
    }

    async fn show(&self, id: RecordId) -> Result<Option<StoredRecord>, AuditError> {
        let show = |records: &mut Records| records.by_id.get(&id).map(|r| records.stored(r));
        self.store.command(&self.life, show).await
    }

    async fn balance(&self, _: &BalanceQuery) -> Result<Balance, AuditError> {
        Err(AuditError::Unusable {
            at: "simulation".into(),
            why: "the simulation counts the records itself".into(),
        })
    }

    async fn ping(&self) -> Result<(), AuditError> {
        self.store.command(&self.life, |_| ()).await
    }

    async fn close(&self) {}
}
