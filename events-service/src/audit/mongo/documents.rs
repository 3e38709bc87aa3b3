//! A record as a document: the contract's fields in the contract's order, then ours.
//!
//! The documents are built as bytes, without a tree of values between: this is the hot path.

use std::time::Duration;

use mongodb::bson::{
    Binary, DateTime, RawBson, RawDocumentBuf,
    oid::ObjectId,
    raw::{BindRawBsonRef, CStr, cstr},
    spec::BinarySubtype,
};

use shared::contract::{Address, ContainerId, RecordId};

use crate::audit::{End, Outcome, Progress, Record, Status, text_id::TextId};

/// Set in the record of a request whose id is not the record's, as those of older frontends: the
/// unique index on `fromRequestId` holds only these. It would cost every other record a tenth of its
/// write, for what `_id` says already.
pub(super) const OWN_ID: &CStr = cstr!("ownId");
/// Set in the record of a pure task that a backend answered: the answer may be given again.
pub(super) const REUSABLE: &CStr = cstr!("reusable");
/// Field `v` of our records.
pub(super) const VERSION: i32 = 2;

/// Bytes of a text that stands in its record, too. Longer ones are not written twice.
const SHORT_MAX: usize = 512;

/// The two kinds of texts.
#[derive(Debug, Clone, Copy)]
pub(super) enum TextKind {
    Request,
    Response,
}

impl TextKind {
    pub(super) const ALL: [TextKind; 2] = [TextKind::Request, TextKind::Response];

    /// The collection of its documents.
    pub(super) fn collection(self) -> &'static str {
        match self {
            TextKind::Request => "requests",
            TextKind::Response => "responses",
        }
    }

    /// The field of the text, there and in a record.
    pub(super) fn field(self) -> &'static CStr {
        match self {
            TextKind::Request => cstr!("request"),
            TextKind::Response => cstr!("response"),
        }
    }

    /// The field of a record that names the text's document.
    pub(super) fn reference(self) -> &'static str {
        match self {
            TextKind::Request => "requestBodyId",
            TextKind::Response => "toResponseBodyId",
        }
    }
}

/// Whether a text stands in its record, too: the record is then complete without the text's document.
pub(super) fn is_short(text: &str) -> bool {
    text.len() <= SHORT_MAX
}

/// A moment as a BSON date.
pub(super) fn date(unix_ms: u64) -> DateTime {
    DateTime::from_millis(i64::try_from(unix_ms).unwrap_or(i64::MAX))
}

/// A duration as the server's options take it.
pub(super) fn millis(duration: Duration) -> i32 {
    i32::try_from(duration.as_millis()).unwrap_or(i32::MAX)
}

/// A document of `requests` or `responses`.
pub(super) fn text(id: TextId, kind: TextKind, text: &str) -> RawDocumentBuf {
    let mut document = RawDocumentBuf::new();
    document.append(cstr!("_id"), ObjectId::from_bytes(id.0));
    document.append(kind.field(), text);
    document
}

/// A document of `tasks`.
pub(super) fn record(record: &Record, request: TextId, response: Option<TextId>) -> RawDocumentBuf {
    let mut document = RawDocumentBuf::new();
    document.append(cstr!("_id"), ObjectId::from_bytes(record.id.0));
    document.append(cstr!("fromRequestId"), record.request_id.as_str());
    document.append(cstr!("fromContainerId"), record.frontend.container.as_str());
    document.append(
        cstr!("fromContainerService"),
        record.frontend.service.as_str(),
    );
    document.append(cstr!("fromReceivedTime"), date(record.received_unix_ms));
    document.append(cstr!("task"), record.task.as_str());
    document.append(cstr!("subtask"), record.subtask.as_str());
    document.append(cstr!("requestBodyId"), request.to_hex());
    document.append(
        cstr!("serviceContainerId"),
        record.events_service.container.as_str(),
    );
    document.append(
        cstr!("serviceContainerService"),
        record.events_service.service.as_str(),
    );
    if RecordId::of_request(&record.request_id) != Some(record.id) {
        document.append(OWN_ID, true);
    }
    document.append(cstr!("v"), VERSION);
    document.append(cstr!("pure"), record.pure);
    set(
        &mut document,
        cstr!("callerRequestId"),
        record.caller_request_id.as_deref(),
    );
    document.append(cstr!("deadline"), date(record.deadline_unix_ms));
    set(
        &mut document,
        TextKind::Request.field(),
        Some(record.body.as_str()).filter(|text| is_short(text)),
    );
    progress(&mut document, &record.progress);
    match &record.end {
        Some(ended) => end(&mut document, record, ended, response),
        None => document.append(cstr!("status"), Status::Open.as_str()),
    }
    let salt: [u8; 16] = rand::random();
    let salt = Binary {
        subtype: BinarySubtype::Generic,
        bytes: salt.to_vec(),
    };
    document.append(cstr!("salt"), salt);
    document.append(cstr!("seal"), RawBson::Null);
    document
}

/// A statement of an `update` command: ends a record, if it is open.
pub(super) fn completion(record: &Record, ended: &End, response: Option<TextId>) -> RawDocumentBuf {
    let mut which = RawDocumentBuf::new();
    which.append(cstr!("_id"), ObjectId::from_bytes(record.id.0));
    which.append(cstr!("status"), Status::Open.as_str());
    let mut fields = RawDocumentBuf::new();
    progress(&mut fields, &record.progress);
    end(&mut fields, record, ended, response);
    statement(which, fields)
}

/// A statement of an `update` command: says anew who is at work on an open record of `from`.
pub(super) fn reassign(
    id: RecordId,
    from: &ContainerId,
    by: &Address,
    backend: Option<&Address>,
) -> RawDocumentBuf {
    let mut which = RawDocumentBuf::new();
    which.append(cstr!("_id"), ObjectId::from_bytes(id.0));
    which.append(cstr!("status"), Status::Open.as_str());
    which.append(cstr!("serviceContainerId"), from.as_str());
    let mut fields = RawDocumentBuf::new();
    fields.append(cstr!("serviceContainerId"), by.container.as_str());
    fields.append(cstr!("serviceContainerService"), by.service.as_str());
    if let Some(backend) = backend {
        fields.append(cstr!("toContainerId"), backend.container.as_str());
        fields.append(cstr!("toContainerService"), backend.service.as_str());
    }
    statement(which, fields)
}

fn statement(which: RawDocumentBuf, fields: RawDocumentBuf) -> RawDocumentBuf {
    let mut change = RawDocumentBuf::new();
    change.append(cstr!("$set"), fields);
    let mut statement = RawDocumentBuf::new();
    statement.append(cstr!("q"), which);
    statement.append(cstr!("u"), change);
    statement
}

fn progress(document: &mut RawDocumentBuf, progress: &Progress) {
    let attempts = i32::try_from(progress.attempts).unwrap_or(i32::MAX);
    document.append(cstr!("attempts"), attempts);
    set(
        document,
        cstr!("dispatchedTime"),
        progress.dispatched_unix_ms.map(date),
    );
    if let Some(backend) = &progress.backend {
        document.append(cstr!("toContainerId"), backend.container.as_str());
        document.append(cstr!("toContainerService"), backend.service.as_str());
    }
    set(document, cstr!("image"), progress.image.as_deref());
}

fn end(document: &mut RawDocumentBuf, record: &Record, end: &End, response: Option<TextId>) {
    document.append(cstr!("status"), end.outcome.status().as_str());
    document.append(cstr!("toReceivedTime"), date(end.at_unix_ms));
    set(
        document,
        cstr!("toResponseBodyId"),
        response.map(TextId::to_hex),
    );
    set(
        document,
        TextKind::Response.field(),
        end.outcome.text().filter(|text| is_short(text)),
    );
    // The reply goes out after the record is durable, so this is the moment just before: another
    // write after the reply would cost as much as this one and could be lost.
    document.append(cstr!("fromSentTime"), date(end.at_unix_ms));
    match &end.outcome {
        Outcome::Answered(_) if record.pure => document.append(REUSABLE, true),
        Outcome::Answered(_) => {}
        Outcome::Repeated { from, .. } => {
            document.append(cstr!("answeredFromId"), from.to_string());
        }
        Outcome::Failed(failure) => {
            document.append(cstr!("reason"), failure.code.as_str());
            document.append(cstr!("detail"), failure.detail.as_str());
        }
    }
    set(document, cstr!("waitedUs"), end.waited_us.map(whole));
    set(document, cstr!("ranUs"), end.ran_us.map(whole));
}

fn whole(number: u64) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX)
}

fn set(document: &mut RawDocumentBuf, field: &CStr, value: Option<impl BindRawBsonRef>) {
    if let Some(value) = value {
        document.append(field, value);
    }
}
