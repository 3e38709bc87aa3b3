//! The tables, and writing to them. Runs on the log's own thread.

use std::collections::HashSet;

use rusqlite::{
    CachedStatement, Connection, OptionalExtension, Transaction, TransactionBehavior, named_params,
    params,
};
use shared::contract::{Address, ContainerId, FailureCode, RecordId};

use super::{checkpoint::Checkpoints, open};
use crate::audit::{
    ABANDONED_DETAIL, AuditError, End, Outcome, Overdue, Record, Status, Write, Written,
    text_id::{KnownIds, TextId, TextKey},
};

/// Field `v` of our records.
pub(super) const VERSION: i64 = 2;
/// Name under which the key of the text ids is kept in `meta`.
const KEY_NAME: &str = "textKey";

/// Bytes of a text that stands in its record. A text of its own is a row at a place that chance
/// decides (its id is a hash), and so a page more to write for every record; a short one is not much
/// longer than the reference to it. Longer ones are stored once each.
const SHORT_MAX: usize = 128;

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
-- Answers from the log: only what a backend answered.
create index if not exists roundtrip_answers on tasks (requestBodyId)
    where status = 'answered' and pure = 1 and answeredFromId is null;
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

const INSERT_TASK: &str = "
insert into tasks (
    _id, fromRequestId, fromContainerId, fromContainerService, fromReceivedTime, task, subtask,
    requestBodyId, toContainerId, toContainerService, serviceContainerId, serviceContainerService,
    toReceivedTime, toResponseBodyId, fromSentTime, v, status, reason, detail, attempts, pure, image,
    callerRequestId, deadline, dispatchedTime, waitedUs, ranUs, answeredFromId, salt, request, response
) values (
    ?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12, ?13, ?14, ?15, ?16, ?17, ?18, ?19, ?20, ?21,
    ?22, ?23, ?24, ?25, ?26, ?27, ?28, ?29, ?30, ?31
) on conflict do nothing";

const COMPLETE_TASK: &str = "
update tasks set
    toContainerId = coalesce(:toContainerId, toContainerId),
    toContainerService = coalesce(:toContainerService, toContainerService),
    toReceivedTime = :at, toResponseBodyId = :responseId, response = :response, fromSentTime = :at,
    status = :status,
    reason = :reason, detail = :detail, attempts = :attempts, image = coalesce(:image, image),
    dispatchedTime = coalesce(:dispatched, dispatchedTime), waitedUs = :waited, ranUs = :ran,
    answeredFromId = :answeredFrom
where _id = :id and status = 'open'";

const REASSIGN_TASK: &str = "
update tasks set serviceContainerId = :by, serviceContainerService = :byService,
    toContainerId = coalesce(:backend, toContainerId),
    toContainerService = coalesce(:backendService, toContainerService)
where _id = :id and status = 'open' and serviceContainerId = :from";

const INSERT_REQUEST: &str =
    "insert into requests (_id, request) values (?1, ?2) on conflict do nothing";
const INSERT_RESPONSE: &str =
    "insert into responses (_id, response) values (?1, ?2) on conflict do nothing";

/// The connection and what is known of its content.
pub(super) struct Store {
    pub(super) connection: Connection,
    at: String,
    /// `None` where nothing is written.
    checkpoints: Option<Checkpoints>,
    pub(super) key: Option<TextKey>,
    requests: KnownIds,
    responses: KnownIds,
}

/// How a record ended, as columns.
#[derive(Default)]
struct Ended<'a> {
    at: Option<i64>,
    reason: Option<&'static str>,
    detail: Option<&'a str>,
    waited: Option<i64>,
    ran: Option<i64>,
    answered_from: Option<String>,
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
        Ok(())
    }

    pub(super) fn write(&mut self, batch: &[Write]) -> Result<Vec<Written>, AuditError> {
        let Some(key) = self.key.clone() else {
            return Err(self.unavailable("the log is not prepared yet"));
        };
        let mut texts = NewTexts::default();
        match self.write_with(&key, batch, &mut texts) {
            Ok(written) => {
                texts
                    .requests
                    .into_iter()
                    .for_each(|id| self.requests.insert(id));
                texts
                    .responses
                    .into_iter()
                    .for_each(|id| self.responses.insert(id));
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
        new: &mut NewTexts,
    ) -> rusqlite::Result<Vec<Written>> {
        let transaction = begin(&self.connection)?;
        let mut written = Vec::with_capacity(batch.len());
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
                        statements.response.execute(params![id.to_hex(), text])?;
                    }
                    Ok(Placed::apart(id))
                };
                written.push(match write {
                    Write::Insert(record) => {
                        let response = response(&mut statements, record)?;
                        let id = key.id(&record.body);
                        let is_there = is_short(&record.body) || self.requests.contains(id);
                        if !is_there && new.requests.insert(id) {
                            statements
                                .request
                                .execute(params![id.to_hex(), record.body])?;
                        }
                        statements.insert(record, id, &response)?
                    }
                    Write::Complete(record) => {
                        debug_assert!(record.end.is_some(), "a completion without an end");
                        let response = response(&mut statements, record)?;
                        match &record.end {
                            Some(end) => statements.complete(record, end, &response)?,
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
        Ok(written)
    }

    fn forget(&mut self) {
        self.requests.clear();
        self.responses.clear();
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

/// Texts that this batch stores; they count as stored once it is committed.
#[derive(Default)]
struct NewTexts {
    requests: HashSet<TextId>,
    responses: HashSet<TextId>,
}

/// Whether a text stands in its record.
fn is_short(text: &str) -> bool {
    text.len() <= SHORT_MAX
}

/// Where the text of a response is: in its record, or apart under its id. Neither for none.
#[derive(Default)]
struct Placed<'a> {
    id: Option<String>,
    text: Option<&'a str>,
}

impl<'a> Placed<'a> {
    fn here(text: &'a str) -> Self {
        Self {
            id: None,
            text: Some(text),
        }
    }

    fn apart(id: TextId) -> Self {
        Self {
            id: Some(id.to_hex()),
            text: None,
        }
    }
}

/// What tells whether a record is stored as we wrote it.
struct Stored {
    status: String,
    ended_at: Option<i64>,
    response_id: Option<String>,
    response: Option<String>,
    events_service: String,
}

impl Stored {
    fn is_ended_so(&self, status: Status, at: Option<i64>, response: &Placed<'_>) -> bool {
        self.status == status.as_str()
            && self.ended_at == at
            && self.response_id == response.id
            && self.response.as_deref() == response.text
    }
}

/// The statements of a batch. They are kept by the connection from batch to batch.
struct Statements<'c> {
    insert: CachedStatement<'c>,
    complete: CachedStatement<'c>,
    request: CachedStatement<'c>,
    response: CachedStatement<'c>,
    reassign: CachedStatement<'c>,
    stored: CachedStatement<'c>,
}

impl<'c> Statements<'c> {
    fn prepare(connection: &'c Connection) -> rusqlite::Result<Self> {
        Ok(Self {
            insert: connection.prepare_cached(INSERT_TASK)?,
            complete: connection.prepare_cached(COMPLETE_TASK)?,
            request: connection.prepare_cached(INSERT_REQUEST)?,
            response: connection.prepare_cached(INSERT_RESPONSE)?,
            reassign: connection.prepare_cached(REASSIGN_TASK)?,
            stored: connection.prepare_cached(
                "select status, toReceivedTime, toResponseBodyId, response, serviceContainerId
                 from tasks where _id = ?1",
            )?,
        })
    }

    fn insert(
        &mut self,
        record: &Record,
        request: TextId,
        response: &Placed<'_>,
    ) -> rusqlite::Result<Written> {
        let id = record.id.to_string();
        let backend = record.progress.backend.as_ref();
        let status = record
            .end
            .as_ref()
            .map_or(Status::Open, |end| end.outcome.status());
        let ended = record.end.as_ref().map(Ended::of).unwrap_or_default();
        let salt: [u8; 16] = rand::random();
        let inserted = self.insert.execute(params![
            id,
            record.request_id.as_str(),
            record.frontend.container.as_str(),
            record.frontend.service.as_str(),
            whole(record.received_unix_ms),
            record.task,
            record.subtask,
            request.to_hex(),
            backend.map(|backend| backend.container.as_str()),
            backend.map(|backend| backend.service.as_str()),
            record.events_service.container.as_str(),
            record.events_service.service.as_str(),
            ended.at,
            response.id,
            // The reply goes out after the record is durable, so this is the moment just before.
            ended.at,
            VERSION,
            status.as_str(),
            ended.reason,
            ended.detail,
            record.progress.attempts,
            record.pure,
            record.progress.image,
            record.caller_request_id,
            whole(record.deadline_unix_ms),
            record.progress.dispatched_unix_ms.map(whole),
            ended.waited,
            ended.ran,
            ended.answered_from,
            salt,
            is_short(&record.body).then_some(&record.body),
            response.text,
        ])?;
        if inserted == 1 {
            return Ok(Written::Done);
        }
        // Our own insert, repeated, or another events service's record of the same request.
        let stored = self.stored(&id)?;
        let is_ours = stored.is_some_and(|stored| {
            stored.events_service == record.events_service.container.as_str()
                && stored.is_ended_so(status, ended.at, response)
        });
        Ok(if is_ours {
            Written::Done
        } else {
            Written::DuplicateRequest
        })
    }

    fn complete(
        &mut self,
        record: &Record,
        end: &End,
        response: &Placed<'_>,
    ) -> rusqlite::Result<Written> {
        let id = record.id.to_string();
        let backend = record.progress.backend.as_ref();
        let ended = Ended::of(end);
        let status = end.outcome.status();
        let completed = self.complete.execute(named_params! {
            ":id": id,
            ":toContainerId": backend.map(|backend| backend.container.as_str()),
            ":toContainerService": backend.map(|backend| backend.service.as_str()),
            ":at": ended.at,
            ":responseId": response.id,
            ":response": response.text,
            ":status": status.as_str(),
            ":reason": ended.reason,
            ":detail": ended.detail,
            ":attempts": record.progress.attempts,
            ":image": record.progress.image,
            ":dispatched": record.progress.dispatched_unix_ms.map(whole),
            ":waited": ended.waited,
            ":ran": ended.ran,
            ":answeredFrom": ended.answered_from,
        })?;
        if completed == 1 {
            return Ok(Written::Done);
        }
        // The same end is this very completion, in an earlier try whose outcome was not known.
        let stored = self.stored(&id)?;
        let is_ended_so =
            stored.is_some_and(|stored| stored.is_ended_so(status, ended.at, response));
        Ok(if is_ended_so {
            Written::Done
        } else {
            Written::AlreadyEnded
        })
    }

    fn reassign(
        &mut self,
        id: RecordId,
        from: &ContainerId,
        by: &Address,
        backend: Option<&Address>,
    ) -> rusqlite::Result<Written> {
        let id = id.to_string();
        let taken = self.reassign.execute(named_params! {
            ":id": id,
            ":from": from.as_str(),
            ":by": by.container.as_str(),
            ":byService": by.service.as_str(),
            ":backend": backend.map(|backend| backend.container.as_str()),
            ":backendService": backend.map(|backend| backend.service.as_str()),
        })?;
        // Or it was taken in an earlier try whose outcome was not known.
        let is_ours = taken == 1
            || self.stored(&id)?.is_some_and(|stored| {
                stored.status == Status::Open.as_str()
                    && stored.events_service == by.container.as_str()
            });
        Ok(if is_ours {
            Written::Done
        } else {
            Written::AlreadyEnded
        })
    }

    fn stored(&mut self, id: &str) -> rusqlite::Result<Option<Stored>> {
        let stored = self.stored.query_row([id], |row| {
            Ok(Stored {
                status: row.get(0)?,
                ended_at: row.get(1)?,
                response_id: row.get(2)?,
                response: row.get(3)?,
                events_service: row.get(4)?,
            })
        });
        stored.optional()
    }
}

impl<'a> Ended<'a> {
    fn of(end: &'a End) -> Self {
        let (reason, detail, answered_from) = match &end.outcome {
            Outcome::Answered(_) => (None, None, None),
            Outcome::Repeated { from, .. } => (None, None, Some(from.to_string())),
            Outcome::Failed(failure) => (
                Some(failure.code.as_str()),
                Some(failure.detail.as_str()),
                None,
            ),
        };
        Self {
            at: Some(whole(end.at_unix_ms)),
            reason,
            detail,
            waited: end.waited_us.map(whole),
            ran: end.ran_us.map(whole),
            answered_from,
        }
    }
}

/// Takes the write lock at once: taken later, it could not be waited for.
fn begin(connection: &Connection) -> rusqlite::Result<Transaction<'_>> {
    Transaction::new_unchecked(connection, TransactionBehavior::Immediate)
}

pub(super) fn whole(number: u64) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX)
}
