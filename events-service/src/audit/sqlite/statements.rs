//! The statements of a batch: a record and its texts as rows.

use rusqlite::{CachedStatement, Connection, OptionalExtension, named_params, params};
use shared::contract::{Address, ContainerId, RecordId};

use super::store::{VERSION, whole};
use crate::audit::{End, Outcome, Record, Status, Written, text_id::TextId};

/// Bytes of a text that stands in its record. A text of its own is a row at a place that chance
/// decides (its id is a hash), and so a page more to write for every record; a short one is not much
/// longer than the reference to it. Longer ones are stored once each.
const SHORT_MAX: usize = 128;

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
where _id = :id and status = 'open'
returning rowid";

const REASSIGN_TASK: &str = "
update tasks set serviceContainerId = :by, serviceContainerService = :byService,
    toContainerId = coalesce(:backend, toContainerId),
    toContainerService = coalesce(:backendService, toContainerService)
where _id = :id and status = 'open' and serviceContainerId = :from";

const INSERT_REQUEST: &str =
    "insert into requests (_id, request) values (?1, ?2) on conflict do nothing";
const INSERT_RESPONSE: &str =
    "insert into responses (_id, response) values (?1, ?2) on conflict do nothing";

/// Whether a text stands in its record.
pub(super) fn is_short(text: &str) -> bool {
    text.len() <= SHORT_MAX
}

/// Where the text of a response is: in its record, or apart under its id. Neither for none.
#[derive(Default)]
pub(super) struct Placed<'a> {
    id: Option<String>,
    text: Option<&'a str>,
}

impl<'a> Placed<'a> {
    pub(super) fn here(text: &'a str) -> Self {
        Self {
            id: None,
            text: Some(text),
        }
    }

    pub(super) fn apart(id: TextId) -> Self {
        Self {
            id: Some(id.to_hex()),
            text: None,
        }
    }
}

/// What tells whether a record is stored as we wrote it.
struct Stored {
    row: i64,
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
pub(super) struct Statements<'c> {
    connection: &'c Connection,
    insert: CachedStatement<'c>,
    complete: CachedStatement<'c>,
    request: CachedStatement<'c>,
    response: CachedStatement<'c>,
    reassign: CachedStatement<'c>,
    stored: CachedStatement<'c>,
}

impl<'c> Statements<'c> {
    pub(super) fn prepare(connection: &'c Connection) -> rusqlite::Result<Self> {
        Ok(Self {
            connection,
            insert: connection.prepare_cached(INSERT_TASK)?,
            complete: connection.prepare_cached(COMPLETE_TASK)?,
            request: connection.prepare_cached(INSERT_REQUEST)?,
            response: connection.prepare_cached(INSERT_RESPONSE)?,
            reassign: connection.prepare_cached(REASSIGN_TASK)?,
            stored: connection.prepare_cached(
                "select rowid, status, toReceivedTime, toResponseBodyId, response, serviceContainerId
                 from tasks where _id = ?1",
            )?,
        })
    }

    pub(super) fn store_request(&mut self, id: TextId, text: &str) -> rusqlite::Result<()> {
        self.request.execute(params![id.to_hex(), text]).map(drop)
    }

    pub(super) fn store_response(&mut self, id: TextId, text: &str) -> rusqlite::Result<()> {
        self.response.execute(params![id.to_hex(), text]).map(drop)
    }

    /// Also returns the row, if the record is there as we wrote it.
    pub(super) fn insert(
        &mut self,
        record: &Record,
        request: TextId,
        response: &Placed<'_>,
    ) -> rusqlite::Result<(Written, Option<i64>)> {
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
            return Ok((Written::Done, Some(self.connection.last_insert_rowid())));
        }
        // Our own insert, repeated, or another events service's record of the same request.
        let ours = self.stored(&id)?.filter(|stored| {
            stored.events_service == record.events_service.container.as_str()
                && stored.is_ended_so(status, ended.at, response)
        });
        Ok(match ours {
            Some(stored) => (Written::Done, Some(stored.row)),
            None => (Written::DuplicateRequest, None),
        })
    }

    /// Also returns the row, if the record ended so.
    pub(super) fn complete(
        &mut self,
        record: &Record,
        end: &End,
        response: &Placed<'_>,
    ) -> rusqlite::Result<(Written, Option<i64>)> {
        let id = record.id.to_string();
        let backend = record.progress.backend.as_ref();
        let ended = Ended::of(end);
        let status = end.outcome.status();
        let values = named_params! {
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
        };
        let completed = self.complete.query_row(values, |row| row.get(0));
        if let Some(row) = completed.optional()? {
            return Ok((Written::Done, Some(row)));
        }
        // The same end is this very completion, in an earlier try whose outcome was not known.
        let ours = self
            .stored(&id)?
            .filter(|stored| stored.is_ended_so(status, ended.at, response));
        Ok(match ours {
            Some(stored) => (Written::Done, Some(stored.row)),
            None => (Written::AlreadyEnded, None),
        })
    }

    pub(super) fn reassign(
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
                row: row.get(0)?,
                status: row.get(1)?,
                ended_at: row.get(2)?,
                response_id: row.get(3)?,
                response: row.get(4)?,
                events_service: row.get(5)?,
            })
        });
        stored.optional()
    }
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
