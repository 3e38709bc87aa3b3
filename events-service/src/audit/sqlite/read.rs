//! Reading records back: answers, lists, one record.

use rusqlite::{Connection, OptionalExtension, Row, named_params, params};
use shared::contract::RecordId;

use super::{
    answers::Answers,
    store::{Store, whole},
};
use crate::audit::{Answer, AuditError, Filter, Question, StoredRecord, text_id::TextKey};

const FIND_ANSWER: &str = "
select tasks._id, coalesce(tasks.response, responses.response) as text
from tasks left join responses on responses._id = toResponseBodyId
where tasks.rowid = ?1 and requestBodyId = ?2 and status = 'answered' and pure = 1
    and answeredFromId is null and task = ?3 and subtask = ?4 and fromContainerService = ?5
    and text is not null";

const SELECT: &str = "
select tasks._id as id, status, reason, detail, fromRequestId, callerRequestId, task, subtask,
    coalesce(tasks.request, requests.request) as request,
    coalesce(tasks.response, responses.response) as response, fromContainerId, fromContainerService, serviceContainerId, serviceContainerService,
    toContainerId, toContainerService, image, attempts, pure, answeredFromId, waitedUs, ranUs,
    strftime('%Y-%m-%dT%H:%M:%fZ', fromReceivedTime / 1000.0, 'unixepoch') as received,
    strftime('%Y-%m-%dT%H:%M:%fZ', dispatchedTime / 1000.0, 'unixepoch') as dispatched,
    strftime('%Y-%m-%dT%H:%M:%fZ', toReceivedTime / 1000.0, 'unixepoch') as ended,
    strftime('%Y-%m-%dT%H:%M:%fZ', fromSentTime / 1000.0, 'unixepoch') as sent,
    strftime('%Y-%m-%dT%H:%M:%fZ', deadline / 1000.0, 'unixepoch') as due
from tasks
    left join requests on requests._id = requestBodyId
    left join responses on responses._id = toResponseBodyId";

impl Store {
    pub(super) fn find_answers(
        &mut self,
        questions: &[Question],
    ) -> Result<Vec<Option<Answer>>, AuditError> {
        let Some(key) = self.key.clone() else {
            return Err(self.unavailable("the log is not prepared yet"));
        };
        self.with_answers(|connection, answers| find(connection, &key, answers, questions))
    }

    pub(super) fn has_answers(&mut self) -> Result<bool, AuditError> {
        self.with_answers(|connection, answers| answers.is_any(connection))
    }

    pub(super) fn list(&self, filter: &Filter) -> Result<Vec<StoredRecord>, AuditError> {
        // Only the conditions that are asked for: so that each finds its index.
        let mut conditions = Vec::new();
        if filter.status.is_some() {
            conditions.push("status = :status");
        }
        if filter.request_id.is_some() {
            // Each of these has an index.
            conditions.push(
                "((tasks._id = :request and fromRequestId = :request)
                  or (fromRequestId = :request and fromRequestId <> tasks._id)
                  or callerRequestId = :request)",
            );
        }
        if filter.since_unix_ms.is_some() {
            conditions.push("fromReceivedTime >= :since");
        }
        if filter.until_unix_ms.is_some() {
            conditions.push("fromReceivedTime < :until");
        }
        let condition = if conditions.is_empty() {
            "true".to_owned()
        } else {
            conditions.join(" and ")
        };
        let sql = format!(
            "{SELECT} where {condition} order by fromReceivedTime desc, tasks._id desc limit :max"
        );
        let values = named_params! {
            ":status": filter.status.map(|status| status.as_str()),
            ":request": filter.request_id,
            ":since": filter.since_unix_ms.map(whole),
            ":until": filter.until_unix_ms.map(whole),
            ":max": filter.records_max,
        };
        let listing = || {
            let mut statement = self.connection.prepare(&sql)?;
            for (name, value) in values {
                if let Some(place) = statement.parameter_index(name)? {
                    statement.raw_bind_parameter(place, value)?;
                }
            }
            statement
                .raw_query()
                .mapped(stored_record)
                .collect::<rusqlite::Result<Vec<_>>>()
        };
        listing().map_err(|error| self.failure(&error))
    }

    pub(super) fn show(&self, id: RecordId) -> Result<Option<StoredRecord>, AuditError> {
        let sql = format!("{SELECT} where tasks._id = ?1");
        let showing = self
            .connection
            .query_row(&sql, [id.to_string()], stored_record)
            .optional();
        showing.map_err(|error| self.failure(&error))
    }
}

fn find(
    connection: &Connection,
    key: &TextKey,
    answers: &Answers,
    questions: &[Question],
) -> rusqlite::Result<Vec<Option<Answer>>> {
    let mut statement = connection.prepare_cached(FIND_ANSWER)?;
    let mut find = |question: &Question| {
        let body = key.id(&question.body);
        for row in answers.of(connection, body)? {
            let Question {
                task,
                subtask,
                from_service,
                ..
            } = question;
            let asked = params![row, body.to_hex(), task, subtask, from_service];
            let found = statement.query_row(asked, |row| {
                let record = row.get_ref(0)?.as_str()?.parse::<RecordId>().ok();
                let text: String = row.get(1)?;
                Ok(record.map(|record| Answer { record, text }))
            });
            if let Some(answer) = found.optional()?.flatten() {
                return Ok(Some(answer));
            }
        }
        Ok(None)
    };
    questions.iter().map(&mut find).collect()
}

fn stored_record(row: &Row<'_>) -> rusqlite::Result<StoredRecord> {
    Ok(StoredRecord {
        id: row.get("id")?,
        status: row.get("status")?,
        reason: row.get("reason")?,
        detail: row.get("detail")?,
        request_id: row.get("fromRequestId")?,
        caller_request_id: row.get("callerRequestId")?,
        task: row.get("task")?,
        subtask: row.get("subtask")?,
        request: row.get("request")?,
        response: row.get("response")?,
        frontend_container: row.get("fromContainerId")?,
        frontend_service: row.get("fromContainerService")?,
        events_container: row.get("serviceContainerId")?,
        events_service: row.get("serviceContainerService")?,
        backend_container: row.get("toContainerId")?,
        backend_service: row.get("toContainerService")?,
        image: row.get("image")?,
        attempts: row.get("attempts")?,
        pure: row.get("pure")?,
        answered_from: row.get("answeredFromId")?,
        received_time: row.get("received")?,
        dispatched_time: row.get("dispatched")?,
        ended_time: row.get("ended")?,
        sent_time: row.get("sent")?,
        deadline: row.get("due")?,
        waited_us: micros(row, "waitedUs")?,
        ran_us: micros(row, "ranUs")?,
    })
}

fn micros(row: &Row<'_>, column: &str) -> rusqlite::Result<Option<u64>> {
    let number: Option<i64> = row.get(column)?;
    Ok(number.and_then(|number| u64::try_from(number).ok()))
}
