//! Records to write, and what they are read back as.

use events_service::audit::{
    End, Outcome, Overdue, Progress, Question, Record, StoredRecord, Write,
};
use mongodb::bson::DateTime;
use proptest::prelude::*;
use shared::contract::{Address, Failure, FailureCode, RecordId};

/// 2023-11-14T22:13:20Z.
pub(crate) const THEN: u64 = 1_700_000_000_000;

/// An open record of a pure task, with an id and a request id of its own.
pub(crate) fn open() -> Record {
    let id = RecordId(rand::random());
    Record {
        id,
        request_id: format!("request-{id}").parse().unwrap(),
        caller_request_id: None,
        frontend: Address::new(&"f".repeat(64), "app_frontend").unwrap(),
        events_service: Address::new(&"e".repeat(64), "app_events-service").unwrap(),
        task: "NUMBER".into(),
        subtask: "ADD".into(),
        body: format!(r#"{{"a1":1,"a2":"{id}"}}"#),
        pure: true,
        received_unix_ms: THEN,
        deadline_unix_ms: THEN + 5_000,
        progress: Progress::default(),
        end: None,
    }
}

/// A record as [`open`], answered by a backend.
pub(crate) fn answered(text: &str) -> Record {
    ended(open(), Outcome::Answered(text.into()))
}

/// The record, dispatched and ended so.
pub(crate) fn ended(mut record: Record, outcome: Outcome) -> Record {
    record.progress = Progress {
        attempts: 1,
        dispatched_unix_ms: Some(record.received_unix_ms + 2),
        backend: Some(Address::new(&"b".repeat(64), "app_backend").unwrap()),
        image: Some("registry/backend:1@sha256:0123".into()),
    };
    let at_unix_ms = record.received_unix_ms + 7;
    record.end = Some(End {
        outcome,
        at_unix_ms,
        waited_us: Some(15),
        ran_us: Some(1_200),
    });
    record
}

/// A text that is stored apart from its record in every store.
pub(crate) fn long(text: &str) -> String {
    format!("{text}{}", ".".repeat(1_000))
}

pub(crate) fn failed(code: FailureCode) -> Outcome {
    Outcome::Failed(Failure::new(code, "a sentence"))
}

/// What the record would be found by.
pub(crate) fn question(record: &Record) -> Question {
    Question {
        from_service: record.frontend.service.to_string(),
        task: record.task.clone(),
        subtask: record.subtask.clone(),
        body: record.body.clone(),
    }
}

pub(crate) fn inserts(records: &[Record]) -> Vec<Write> {
    records.iter().cloned().map(Write::Insert).collect()
}

/// What was due before that moment, whoever holds it.
pub(crate) fn overdue(before_unix_ms: u64, now_unix_ms: u64) -> Overdue {
    Overdue {
        before_unix_ms,
        now_unix_ms,
        spared: Vec::new(),
    }
}

/// RFC 3339 in UTC with milliseconds.
pub(crate) fn shown(unix_ms: u64) -> String {
    let unix_ms = i64::try_from(unix_ms).unwrap();
    let seconds = DateTime::from_millis(unix_ms / 1_000 * 1_000)
        .try_to_rfc3339_string()
        .unwrap();
    format!(
        "{}.{:03}Z",
        seconds.strip_suffix('Z').unwrap(),
        unix_ms % 1_000
    )
}

/// What a record is read back as.
pub(crate) fn stored(record: &Record) -> StoredRecord {
    let end = record.end.as_ref();
    let backend = record.progress.backend.as_ref();
    let (failure, from) = match end.map(|end| &end.outcome) {
        Some(Outcome::Failed(failure)) => (Some(failure), None),
        Some(Outcome::Repeated { from, .. }) => (None, Some(from.to_string())),
        _ => (None, None),
    };
    StoredRecord {
        id: record.id.to_string(),
        status: end
            .map_or("open", |end| end.outcome.status().as_str())
            .into(),
        reason: failure.map(|failure| failure.code.to_string()),
        detail: failure.map(|failure| failure.detail.clone()),
        request_id: Some(record.request_id.to_string()),
        caller_request_id: record.caller_request_id.clone(),
        task: Some(record.task.clone()),
        subtask: Some(record.subtask.clone()),
        request: Some(record.body.clone()),
        response: end.and_then(|end| end.outcome.text()).map(str::to_owned),
        frontend_container: Some(record.frontend.container.to_string()),
        frontend_service: Some(record.frontend.service.to_string()),
        events_container: Some(record.events_service.container.to_string()),
        events_service: Some(record.events_service.service.to_string()),
        backend_container: backend.map(|backend| backend.container.to_string()),
        backend_service: backend.map(|backend| backend.service.to_string()),
        image: record.progress.image.clone(),
        attempts: Some(record.progress.attempts),
        pure: Some(record.pure),
        answered_from: from,
        received_time: Some(shown(record.received_unix_ms)),
        dispatched_time: record.progress.dispatched_unix_ms.map(shown),
        ended_time: end.map(|end| shown(end.at_unix_ms)),
        sent_time: end.map(|end| shown(end.at_unix_ms)),
        deadline: Some(shown(record.deadline_unix_ms)),
        waited_us: end.and_then(|end| end.waited_us),
        ran_us: end.and_then(|end| end.ran_us),
    }
}

/// Texts of all kinds.
pub(crate) fn texts() -> impl Strategy<Value = String> {
    prop_oneof![
        Just(String::new()),
        "\\PC{0,20}",
        any::<String>(),
        Just("\0".into()),
        Just("a\0b\u{1F600}\u{FEFF}\r\n\u{2028}$where.x".into()),
    ]
}

fn addresses() -> impl Strategy<Value = Address> {
    ("[0-9a-f]{64}", "\\PC{1,20}").prop_map(|(id, name)| Address::new(&id, &name).unwrap())
}

fn outcomes() -> impl Strategy<Value = Outcome> {
    let failures = (proptest::sample::select(FailureCode::ALL), texts())
        .prop_map(|(code, detail)| Outcome::Failed(Failure::new(code, detail)));
    prop_oneof![
        texts().prop_map(Outcome::Answered),
        (texts(), any::<[u8; 12]>()).prop_map(|(text, from)| Outcome::Repeated {
            text,
            from: RecordId(from)
        }),
        failures,
    ]
}

/// Until the year 2096.
const TIMES: std::ops::Range<u64> = 0..4_000_000_000_000;

fn ends() -> impl Strategy<Value = End> {
    (
        outcomes(),
        TIMES,
        any::<Option<u32>>(),
        any::<Option<u32>>(),
    )
        .prop_map(|(outcome, at_unix_ms, waited, ran)| End {
            outcome,
            at_unix_ms,
            waited_us: waited.map(u64::from),
            ran_us: ran.map(u64::from),
        })
}

fn progresses() -> impl Strategy<Value = Progress> {
    let some = proptest::option::of::<std::ops::Range<u64>>;
    (
        0..i32::MAX as u32,
        some(TIMES),
        proptest::option::of(addresses()),
        any::<Option<String>>(),
    )
        .prop_map(|(attempts, dispatched_unix_ms, backend, image)| Progress {
            attempts,
            dispatched_unix_ms,
            backend,
            image,
        })
}

/// Records of all kinds, open or ended; their ids are their own.
pub(crate) fn records() -> impl Strategy<Value = Record> {
    let names = (texts(), texts(), texts(), any::<Option<String>>());
    let addresses = (addresses(), addresses());
    let progress = (progresses(), proptest::option::of(ends()));
    (names, addresses, progress, (TIMES, TIMES, any::<bool>())).prop_map(
        |((task, subtask, body, caller), (frontend, events_service), (progress, end), times)| {
            let (received_unix_ms, deadline_unix_ms, pure) = times;
            Record {
                caller_request_id: caller,
                frontend,
                events_service,
                task,
                subtask,
                body,
                pure,
                received_unix_ms,
                deadline_unix_ms,
                progress,
                end,
                ..open()
            }
        },
    )
}
