//! The tables, and writing to them ([`statements`](super::statements)). Runs on the log's own thread.

use std::collections::HashSet;

use rusqlite::{Connection, Transaction, TransactionBehavior, params};
use shared::contract::{ContainerId, FailureCode};

use super::{
    answers::{self, Answers, Entry, PutIn},
    checkpoint::Checkpoints,
    open,
    statements::{Placed, Statements, is_short},
};
use crate::audit::{
    ABANDONED_DETAIL, AuditError, Outcome, Overdue, Record, Status, Write, Written,
    text_id::{KnownIds, TextId, TextKey},
};

/// Field `v` of our records.
pub(super) const VERSION: i64 = 2;
/// Name under which the key of the text ids is kept in `meta`.
const KEY_NAME: &str = "textKey";

/// The names of the contract and of MongoDB's collections. Texts are found by id only, and are small
/// on the whole: one tree instead of two. Indexes cost with every record, so each is there for a
/// question that is really asked, and partial where that is possible.
const SCHEMA: &str = "
create table if not exists meta (
    name text primary key not null,
    value blob not null
) without rowid;
create table if not exists requests (
    _id text primary key not null,
    request text not null
) without rowid;
create table if not exists responses (
    _id text primary key not null,
    response text not null
) without rowid;
create table if not exists tasks (
    _id text primary key not null,
    fromRequestId text not null,
    fromContainerId text not null,
    fromContainerService text not null,
    fromReceivedTime integer not null,
    task text not null,
    subtask text not null,
    requestBodyId text not null,
    toContainerId text,
    toContainerService text,
    serviceContainerId text not null,
    serviceContainerService text not null,
    toReceivedTime integer,
    toResponseBodyId text,
    fromSentTime integer,
    v integer not null,
    status text not null,
    reason text,
    detail text,
    attempts integer not null,
    pure integer not null,
    image text,
    callerRequestId text,
    deadline integer not null,
    dispatchedTime integer,
    waitedUs integer,
    ranUs integer,
    answeredFromId text,
    salt blob not null,
    seal blob,
    request text,
    response text
);
-- One record per request, where `_id` does not say so.
create unique index if not exists roundtrip_request on tasks (fromRequestId)
    where fromRequestId <> _id;
-- Records past their deadline. Few are open at any time.
create index if not exists roundtrip_open on tasks (deadline) where status = 'open';
-- Listing, newest first.
create index if not exists roundtrip_received on tasks (fromReceivedTime);
-- Looking for a caller's own id; few callers send one.
create index if not exists roundtrip_caller on tasks (callerRequestId)
    where callerRequestId is not null;
";

/// What `tasks` has got since files were first written: short texts.
const COLUMNS_ADDED: [&str; 2] = ["request", "response"];

/// The connection and what is known of its content.
pub(super) struct Store {
    pub(super) connection: Connection,
    at: String,
    /// `None` where nothing is written.
    checkpoints: Option<Checkpoints>,
    pub(super) key: Option<TextKey>,
    requests: KnownIds,
    responses: KnownIds,
    /// `None` until they are read.
    answers: Option<Answers>,
}

impl Store {
    pub(super) fn new(
        connection: Connection,
        at: String,
        checkpoints: Option<Checkpoints>,
    ) -> Self {
        let (requests, responses) = (KnownIds::default(), KnownIds::default());
        Self {
            connection,
            at,
            checkpoints,
            key: None,
            requests,
            responses,
            answers: None,
        }
    }

    pub(super) fn at(&self) -> &str {
        &self.at
    }

    pub(super) fn failure(&self, error: &rusqlite::Error) -> AuditError {
        open::classify(&self.at, error)
    }

    pub(super) fn unavailable(
        &self,
        why: impl Into<Box<dyn std::error::Error + Send + Sync>>,
    ) -> AuditError {
        AuditError::Unavailable {
            at: self.at.clone(),
            source: why.into(),
        }
    }

    pub(super) fn prepare(&mut self) -> Result<(), AuditError> {
        if self.checkpoints.is_none() {
            return Ok(());
        }
        let new_key = TextKey::random_bytes().map_err(|error| self.unavailable(error))?;
        let preparing = || {
            let transaction = begin(&self.connection)?;
            transaction.execute_batch(SCHEMA)?;
            transaction.execute_batch(answers::SCHEMA)?;
            for column in COLUMNS_ADDED {
                if !open::has_column(&transaction, column)? {
                    transaction
                        .execute(&format!("alter table tasks add column {column} text"), [])?;
                }
            }
            transaction.execute(
                "insert into meta (name, value) values (?1, ?2) on conflict do nothing",
                params![KEY_NAME, new_key],
            )?;
            let key: Vec<u8> = transaction.query_row(
                "select value from meta where name = ?1",
                [KEY_NAME],
                |row| row.get(0),
            )?;
            transaction.commit()?;
            Ok(key)
        };
        let key = preparing().map_err(|error| self.failure(&error))?;
        self.key = TextKey::from_bytes(&key);
        self.forget();
        if self.key.is_none() {
            let why = format!("the row `{KEY_NAME}` of the table `meta` holds no key");
            return Err(AuditError::Unusable {
                at: self.at.clone(),
                why,
            });
        }
        self.with_answers(|_, _| Ok(()))
    }

    pub(super) fn write(&mut self, batch: &[Write]) -> Result<Vec<Written>, AuditError> {
        let Some(key) = self.key.clone() else {
            return Err(self.unavailable("the log is not prepared yet"));
        };
        match self.write_with(&key, batch) {
            Ok((written, new, mut answers)) => {
                new.requests
                    .into_iter()
                    .for_each(|id| self.requests.insert(id));
                new.responses
                    .into_iter()
                    .for_each(|id| self.responses.insert(id));
                answers.committed(&new.put_in, new.answers);
                self.answers = Some(answers);
                if let Some(checkpoints) = &mut self.checkpoints {
                    checkpoints.written(batch.len());
                }
                Ok(written)
            }
            Err(error) => {
                self.forget();
                Err(self.failure(&error))
            }
        }
    }

    fn write_with<'b>(
        &mut self,
        key: &TextKey,
        batch: &'b [Write],
    ) -> rusqlite::Result<(Vec<Written>, New, Answers)> {
        let answers = self.take_answers()?;
        let transaction = begin(&self.connection)?;
        let mut written = Vec::with_capacity(batch.len());
        let mut new = New {
            put_in: answers.put_some(&transaction, batch.len())?,
            ..New::default()
        };
        {
            let mut statements = Statements::prepare(&transaction)?;
            for write in batch {
                let mut response = |statements: &mut Statements<'_>,
                                    record: &'b Record|
                 -> rusqlite::Result<Placed<'b>> {
                    let end = record.end.as_ref();
                    let Some(text) = end.and_then(|end| end.outcome.text()) else {
                        return Ok(Placed::default());
                    };
                    if is_short(text) {
                        return Ok(Placed::here(text));
                    }
                    let id = key.id(text);
                    if !self.responses.contains(id) && new.responses.insert(id) {
                        statements.store_response(id, text)?;
                    }
                    Ok(Placed::apart(id))
                };
                written.push(match write {
                    Write::Insert(record) => {
                        let response = response(&mut statements, record)?;
                        let id = key.id(&record.body);
                        let is_there = is_short(&record.body) || self.requests.contains(id);
                        if !is_there && new.requests.insert(id) {
                            statements.store_request(id, &record.body)?;
                        }
                        let (written, row) = statements.insert(record, id, &response)?;
                        new.add_answer(record, row, || id);
                        written
                    }
                    Write::Complete(record) => {
                        debug_assert!(record.end.is_some(), "a completion without an end");
                        let response = response(&mut statements, record)?;
                        match &record.end {
                            Some(end) => {
                                let (written, row) = statements.complete(record, end, &response)?;
                                new.add_answer(record, row, || key.id(&record.body));
                                written
                            }
                            None => Written::AlreadyEnded,
                        }
                    }
                    Write::Reassign {
                        id,
                        from,
                        by,
                        backend,
                    } => statements.reassign(*id, from, by, backend.as_ref())?,
                });
            }
        }
        transaction.commit()?;
        Ok((written, new, answers))
    }

    /// Asks which answers there are.
    pub(super) fn with_answers<T>(
        &mut self,
        ask: impl FnOnce(&Connection, &Answers) -> rusqlite::Result<T>,
    ) -> Result<T, AuditError> {
        let asking = || {
            let answers = self.take_answers()?;
            let told = ask(&self.connection, &answers)?;
            self.answers = Some(answers);
            Ok(told)
        };
        asking().map_err(|error| self.failure(&error))
    }

    /// The answers, to be put back. Who fails to do so leaves them to be read again.
    fn take_answers(&mut self) -> rusqlite::Result<Answers> {
        match self.answers.take() {
            Some(answers) => Ok(answers),
            None => Answers::load(&self.connection),
        }
    }

    /// Whatever is known of the content.
    fn forget(&mut self) {
        self.requests.clear();
        self.responses.clear();
        self.answers = None;
    }

    pub(super) fn close_overdue(&self, overdue: &Overdue) -> Result<u64, AuditError> {
        let spared: Vec<&str> = overdue.spared.iter().map(ContainerId::as_str).collect();
        let spared = serde_json::to_string(&spared).map_err(|error| self.unavailable(error))?;
        // Nobody is told of it, so there is no `fromSentTime`.
        let closing = self.connection.execute(
            "update tasks set status = ?1, reason = ?2, detail = ?3, toReceivedTime = ?4
             where status = 'open' and deadline < ?5
                and serviceContainerId not in (select value from json_each(?6))",
            params![
                Status::Abandoned.as_str(),
                FailureCode::Abandoned.as_str(),
                ABANDONED_DETAIL,
                whole(overdue.now_unix_ms),
                whole(overdue.before_unix_ms),
                spared,
            ],
        );
        closing
            .map(|count| count as u64)
            .map_err(|error| self.failure(&error))
    }

    pub(super) fn ping(&self) -> Result<(), AuditError> {
        let asking =
            self.connection
                .query_row("select count(*) from sqlite_schema", [], |_| Ok(()));
        asking.map_err(|error| self.failure(&error))
    }

    /// Puts what is in the log beside the file into the file, as far as readers let it.
    pub(super) fn close(self) {
        drop(self.checkpoints);
        if let Err((_, error)) = self.connection.close() {
            tracing::warn!(%error, at = self.at, "audit log not closed");
        }
    }
}

/// What a batch stores; it counts as stored once it is committed.
#[derive(Default)]
struct New {
    requests: HashSet<TextId>,
    responses: HashSet<TextId>,
    answers: Vec<Entry>,
    /// Earlier answers that went into their table with it.
    put_in: PutIn,
}

impl New {
    /// Notes a record in this row, if it may answer others.
    fn add_answer(&mut self, record: &Record, row: Option<i64>, body: impl FnOnce() -> TextId) {
        let end = record.end.as_ref();
        let is_answered = end.is_some_and(|end| matches!(end.outcome, Outcome::Answered(_)));
        if let Some(row) = row.filter(|_| record.pure && is_answered) {
            self.answers.push(Entry::new(body(), row));
        }
    }
}

/// Takes the write lock at once: taken later, it could not be waited for.
pub(super) fn begin(connection: &Connection) -> rusqlite::Result<Transaction<'_>> {
    Transaction::new_unchecked(connection, TransactionBehavior::Immediate)
}

pub(super) fn whole(number: u64) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX)
}
