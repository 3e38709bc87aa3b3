//! Reading records back: answers, lists, one record. Whatever older events services left there is
//! read without harm: times as text, ids as text or ObjectId, sentences in place of ids, nothing at
//! all.

use std::collections::HashMap;

use futures_util::TryStreamExt;
use mongodb::{
    action::Find,
    bson::{Bson, DateTime, Document, doc, oid::ObjectId},
};
use shared::contract::RecordId;

use super::{
    LONG_COMMAND_MAX, MongoAuditLog, WORK_MAX,
    documents::{OWN_ID, REUSABLE, TextKind, date},
};
use crate::audit::{Answer, AuditError, Filter, Question, Status, StoredRecord, text_id::TextKey};

/// Ids in one look-up of texts: a command of about 500 kB.
const IDS_MAX: usize = 10_000;
/// Records looked at for each question. Usually there is one; more where several events services
/// had the same task done at once, or several tasks have the same body.
const RECORDS_PER_QUESTION_MAX: usize = 8;
/// What an id looks like where it is stored as text.
pub(super) const ID_PATTERN: &str = "^[0-9a-fA-F]{24}$";

/// The years from 1 to 9999; of others, the conversion to text gives the nearest moment.
const FOUR_DIGIT_YEARS_MS: std::ops::Range<i64> = -62_135_596_800_000..253_402_300_800_000;

impl MongoAuditLog {
    pub(super) async fn answers(
        &self,
        key: &TextKey,
        questions: &[Question],
    ) -> Result<Vec<Option<Answer>>, AuditError> {
        let bodies: Vec<String> = questions.iter().map(|q| key.id(&q.body).to_hex()).collect();
        // No other condition: the rest of the question is compared here. Some servers would not take
        // the index for it, and few bodies are asked of several tasks.
        let filter = doc! { "requestBodyId": { "$in": &bodies }, (REUSABLE.as_str()): true };
        let limit = questions.len().saturating_mul(RECORDS_PER_QUESTION_MAX);
        let database = self.database().await?;
        let tasks = database.collection::<Document>("tasks");
        let finding = tasks
            .find(filter)
            .projection(doc! {
                "requestBodyId": 1, "task": 1, "subtask": 1, "fromContainerService": 1,
                "toResponseBodyId": 1, "response": 1,
            })
            .limit(i64::try_from(limit).unwrap_or(i64::MAX))
            .max_time(WORK_MAX);
        let found = all(finding).await.map_err(|error| self.failure(&error))?;
        if found.is_empty() {
            return Ok(vec![None; questions.len()]);
        }
        let responses = self.texts_of(TextKind::Response, &found).await?;
        let mut answers = HashMap::with_capacity(found.len());
        for record in &found {
            let text = |field| record.get_str(field).ok();
            let id_of_record = record.get_object_id("_id").ok();
            let response = text_of(TextKind::Response, record, &responses);
            let asked = [
                text("requestBodyId"),
                text("task"),
                text("subtask"),
                text("fromContainerService"),
            ];
            if let (Some(id), Some(response)) = (id_of_record, response) {
                answers
                    .entry(asked)
                    .or_insert((RecordId(id.bytes()), response));
            }
        }
        let answer = |question: &Question, body: &str| {
            let asked = [
                body,
                &question.task,
                &question.subtask,
                &question.from_service,
            ]
            .map(Some);
            let (record, text) = *answers.get(&asked)?;
            Some(Answer {
                record,
                text: text.to_owned(),
            })
        };
        Ok(questions
            .iter()
            .zip(&bodies)
            .map(|(question, body)| answer(question, body))
            .collect())
    }

    pub(super) async fn listed(&self, filter: &Filter) -> Result<Vec<StoredRecord>, AuditError> {
        if filter.records_max == 0 {
            return Ok(Vec::new());
        }
        let Some(request_id) = &filter.request_id else {
            return self.listed_where(filter, doc! {}).await;
        };
        // Ours have indexes on both; older records are looked for only if there is none of ours.
        let mut ours = vec![
            doc! { "fromRequestId": request_id, OWN_ID.as_str(): true },
            doc! { "callerRequestId": request_id },
        ];
        if let Ok(id) = ObjectId::parse_str(request_id) {
            ours.push(doc! { "_id": id, "fromRequestId": request_id });
        }
        let ours = doc! { "$or": ours };
        let found = self.listed_where(filter, ours).await?;
        if !found.is_empty() {
            return Ok(found);
        }
        self.listed_where(filter, doc! { "fromRequestId": request_id })
            .await
    }

    async fn listed_where(
        &self,
        filter: &Filter,
        request: Document,
    ) -> Result<Vec<StoredRecord>, AuditError> {
        let conditions = [
            Some(request),
            status_is(filter.status),
            received_within(filter.since_unix_ms, filter.until_unix_ms),
        ];
        let conditions: Vec<Document> = conditions
            .into_iter()
            .flatten()
            .filter(|condition| !condition.is_empty())
            .collect();
        let condition = if conditions.is_empty() {
            doc! {}
        } else {
            doc! { "$and": conditions }
        };
        let database = self.database().await?;
        let tasks = database.collection::<Document>("tasks");
        let finding = tasks
            .find(condition)
            .sort(doc! { "fromReceivedTime": -1, "_id": -1 })
            .limit(i64::from(filter.records_max))
            .max_time(LONG_COMMAND_MAX);
        let found = all(finding).await.map_err(|error| self.failure(&error))?;
        let mut records = self.with_texts(found).await?;
        // Whether an older record is answered shows only when its response is looked for.
        records.retain(|record| {
            filter
                .status
                .is_none_or(|status| record.status == status.as_str())
        });
        Ok(records)
    }

    pub(super) async fn shown(&self, id: RecordId) -> Result<Option<StoredRecord>, AuditError> {
        let database = self.database().await?;
        let tasks = database.collection::<Document>("tasks");
        let either = vec![
            Bson::from(ObjectId::from_bytes(id.0)),
            Bson::from(id.to_string()),
        ];
        let found = tasks
            .find_one(doc! { "_id": { "$in": either } })
            .max_time(WORK_MAX)
            .await;
        let found = found.map_err(|error| self.failure(&error))?;
        Ok(self.with_texts(found.into_iter().collect()).await?.pop())
    }

    async fn with_texts(&self, found: Vec<Document>) -> Result<Vec<StoredRecord>, AuditError> {
        let requests = self.texts_of(TextKind::Request, &found).await?;
        let responses = self.texts_of(TextKind::Response, &found).await?;
        let stored = found.iter().map(|record| {
            let text = |kind, texts| text_of(kind, record, texts).map(str::to_owned);
            let request = text(TextKind::Request, &requests);
            let response = text(TextKind::Response, &responses);
            stored_record(record, request, response)
        });
        Ok(stored.collect())
    }

    /// The texts that records name and do not hold, by id as 24 hex digits. The documents' own ids may
    /// be text, too.
    async fn texts_of(
        &self,
        kind: TextKind,
        records: &[Document],
    ) -> Result<HashMap<String, String>, AuditError> {
        let apart = records.iter().filter(|record| held(kind, record).is_none());
        let mut ids: Vec<String> = apart
            .filter_map(|record| id(record.get(kind.reference())))
            .collect();
        ids.sort_unstable();
        ids.dedup();
        let database = self.database().await?;
        let collection = database.collection::<Document>(kind.collection());
        let mut texts = HashMap::with_capacity(ids.len());
        for ids in ids.chunks(IDS_MAX) {
            let either: Vec<Bson> = ids
                .iter()
                .flat_map(|id| {
                    [
                        ObjectId::parse_str(id).ok().map(Bson::from),
                        Some(id.into()),
                    ]
                })
                .flatten()
                .collect();
            let finding = collection
                .find(doc! { "_id": { "$in": either } })
                .max_time(WORK_MAX);
            for document in all(finding).await.map_err(|error| self.failure(&error))? {
                if let (Some(id), Some(text)) = (id(document.get("_id")), held(kind, &document)) {
                    texts.insert(id, text.to_owned());
                }
            }
        }
        Ok(texts)
    }
}

/// The text that a record holds, or that a text's own document does.
fn held(kind: TextKind, document: &Document) -> Option<&str> {
    document.get_str(kind.field().as_str()).ok()
}

/// The text of a record, from itself or from those that stand apart.
fn text_of<'a>(
    kind: TextKind,
    record: &'a Document,
    apart: &'a HashMap<String, String>,
) -> Option<&'a str> {
    let apart = || {
        apart
            .get(&id(record.get(kind.reference()))?)
            .map(String::as_str)
    };
    held(kind, record).or_else(apart)
}

/// Everything that a `find` finds.
pub(super) async fn all(
    finding: Find<'_, Document>,
) -> Result<Vec<Document>, mongodb::error::Error> {
    finding.await?.try_collect().await
}

fn status_is(status: Option<Status>) -> Option<Document> {
    let status = status?;
    let ours = doc! { "status": status.as_str() };
    let older = match status {
        Status::Answered => doc! { "status": null, "$or": [
            { "toResponseBodyId": { "$regex": ID_PATTERN } },
            { "toResponseBodyId": { "$type": "objectId" } },
        ] },
        // Also one that names a response which is not there: sorted out when it was looked for.
        Status::Open => doc! { "status": null },
        Status::Failed | Status::TimedOut | Status::Abandoned => return Some(ours),
    };
    Some(doc! { "$or": [ours, older] })
}

/// Times that are no dates are in formats that we do not know: when such a record was made is told
/// by its id.
pub(super) fn received_within(
    since_unix_ms: Option<u64>,
    until_unix_ms: Option<u64>,
) -> Option<Document> {
    let (mut dates, mut ids) = (Document::new(), Document::new());
    for (operator, limit) in [("$gte", since_unix_ms), ("$lt", until_unix_ms)] {
        let Some(limit) = limit else { continue };
        dates.insert(operator, date(limit));
        let seconds = u32::try_from(limit / 1_000).unwrap_or(u32::MAX);
        ids.insert(operator, ObjectId::from_parts(seconds, [0; 5], [0; 3]));
    }
    if dates.is_empty() {
        return None;
    }
    Some(doc! { "$or": [
        { "fromReceivedTime": dates },
        { "fromReceivedTime": { "$not": { "$type": "date" } }, "_id": ids },
    ] })
}

fn stored_record(
    record: &Document,
    request: Option<String>,
    response: Option<String>,
) -> StoredRecord {
    let text = |field| record.get_str(field).ok().map(str::to_owned);
    let time = |field| record.get(field).and_then(time);
    let whole = |field| integer(record.get(field)).and_then(|number| u64::try_from(number).ok());
    let older_status = if response.is_some() {
        Status::Answered
    } else {
        Status::Open
    };
    StoredRecord {
        id: id(record.get("_id")).unwrap_or_default(),
        status: text("status").unwrap_or_else(|| older_status.as_str().to_owned()),
        reason: text("reason"),
        detail: text("detail"),
        request_id: text("fromRequestId"),
        caller_request_id: text("callerRequestId"),
        task: text("task"),
        subtask: text("subtask"),
        request,
        response,
        frontend_container: text("fromContainerId"),
        frontend_service: text("fromContainerService"),
        events_container: text("serviceContainerId"),
        events_service: text("serviceContainerService"),
        backend_container: text("toContainerId"),
        backend_service: text("toContainerService"),
        image: text("image"),
        attempts: whole("attempts").and_then(|number| u32::try_from(number).ok()),
        pure: record.get_bool("pure").ok(),
        answered_from: id(record.get("answeredFromId")),
        received_time: time("fromReceivedTime"),
        dispatched_time: time("dispatchedTime"),
        ended_time: time("toReceivedTime"),
        sent_time: time("fromSentTime"),
        deadline: time("deadline"),
        waited_us: whole("waitedUs"),
        ran_us: whole("ranUs"),
    }
}

/// An id, as 24 hex digits in lower case. Anything else (a sentence, a number) is none.
pub(super) fn id(value: Option<&Bson>) -> Option<String> {
    match value? {
        Bson::ObjectId(id) => Some(id.to_hex()),
        Bson::String(text) => text.parse::<RecordId>().ok().map(|id| id.to_string()),
        _ => None,
    }
}

/// A whole number, of whatever type.
pub(super) fn integer(value: Option<&Bson>) -> Option<i64> {
    match value? {
        Bson::Int32(number) => Some(i64::from(*number)),
        Bson::Int64(number) => Some(*number),
        #[expect(
            clippy::cast_possible_truncation,
            reason = "saturates, and is compared again"
        )]
        Bson::Double(number) if (*number as i64) as f64 == *number => Some(*number as i64),
        _ => None,
    }
}

/// A time as it is shown.
fn time(value: &Bson) -> Option<String> {
    match value {
        Bson::DateTime(moment) => Some(rfc3339(*moment)),
        Bson::String(text) => Some(text.clone()),
        // Milliseconds, as a program of JavaScript or Java would write them.
        number => integer(Some(number)).map(|ms| rfc3339(DateTime::from_millis(ms))),
    }
}

/// RFC 3339 in UTC, always with milliseconds; the plain number for a year that has not four digits.
fn rfc3339(moment: DateTime) -> String {
    let ms = moment.timestamp_millis();
    let fraction = ms.rem_euclid(1_000);
    let whole = DateTime::from_millis(ms.saturating_sub(fraction));
    match whole.try_to_rfc3339_string() {
        Ok(text) if FOUR_DIGIT_YEARS_MS.contains(&ms) => {
            format!("{}.{fraction:03}Z", text.trim_end_matches('Z'))
        }
        _ => ms.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_have_milliseconds() {
        for (ms, text) in [
            (0, "1970-01-01T00:00:00.000Z"),
            (1_700_000_000_007, "2023-11-14T22:13:20.007Z"),
            (1_700_000_000_990, "2023-11-14T22:13:20.990Z"),
            (-1, "1969-12-31T23:59:59.999Z"),
            (253_402_300_799_999, "9999-12-31T23:59:59.999Z"),
            (253_402_300_800_000, "253402300800000"),
            (i64::MAX, "9223372036854775807"),
            (i64::MIN, "-9223372036854775808"),
        ] {
            assert_eq!(rfc3339(DateTime::from_millis(ms)), text);
        }
    }
}
