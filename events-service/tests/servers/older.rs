//! Records as older events services left them, in Go, NodeJS and Java, beside ours.

use events_service::audit::{
    AuditLog, Balance, BalanceQuery, Filter, Older, Status, StoredRecord, Written,
};
use mongodb::bson::{DateTime, Document, doc, oid::ObjectId};

use crate::{
    mongo::{Own, place},
    suite::{
        audit::{Place, check},
        records::{THEN, answered, inserts, question, stored},
    },
};

/// An ObjectId of so many seconds after [`THEN`].
fn id(seconds: u32) -> ObjectId {
    let then = u32::try_from(THEN / 1_000).unwrap();
    ObjectId::from_parts(then + seconds, [1; 5], [2; 3])
}

fn task(id: impl Into<mongodb::bson::Bson>, more: Document) -> Document {
    let mut task = doc! {
        "_id": id.into(),
        "fromRequestId": "an older request",
        "fromContainerId": "f".repeat(64),
        "fromContainerService": "app_frontend",
        "task": "NUMBER",
        "subtask": "ADD",
        "toContainerId": "b".repeat(64),
        "toContainerService": "app_backend",
        "serviceContainerId": "e".repeat(64),
        "serviceContainerService": "app_events",
    };
    task.extend(more);
    task
}

/// What there is, newest first.
async fn older_records(place: &Own) {
    let (request, response, lost) = (id(900), id(901), id(902));
    let raw = place.raw();
    let requests = raw.collection::<Document>("requests");
    requests
        .insert_one(doc! { "_id": request, "request": r#"{"a1":5,"a2":10}"# })
        .await
        .unwrap();
    let responses = raw.collection::<Document>("responses");
    responses
        .insert_one(doc! { "_id": response, "response": "15" })
        .await
        .unwrap();
    let tasks = [
        // As a program with dates of its own writes it.
        task(
            id(5),
            doc! {
                "fromReceivedTime": DateTime::from_millis(1_700_000_005_120),
                "toReceivedTime": DateTime::from_millis(1_700_000_005_340),
                "fromSentTime": DateTime::from_millis(1_700_000_005_350),
                "requestBodyId": request.to_hex(),
                "toResponseBodyId": response.to_hex(),
            },
        ),
        // Times as text, upper case and ObjectIds as references.
        task(
            id(4),
            doc! {
                "fromReceivedTime": "2023-11-14 22:13:24.5 +0000 UTC m=+12.3",
                "toReceivedTime": "2023-11-14 22:13:24.6 +0000 UTC m=+12.4",
                "requestBodyId": request.to_hex().to_uppercase(),
                "toResponseBodyId": response,
            },
        ),
        // Not answered, and says so.
        task(
            id(3),
            doc! {
                "fromReceivedTime": "Tue Nov 14 2023 22:13:23 GMT+0000 (Coordinated Universal Time)",
                "requestBodyId": request,
                "toResponseBodyId": "no response yet",
            },
        ),
        // Answered, but the response is lost.
        task(
            id(2),
            doc! {
                "fromReceivedTime": "",
                "requestBodyId": request.to_hex(),
                "toResponseBodyId": lost.to_hex(),
            },
        ),
        // Hardly anything, and that of wrong types; the id as text.
        doc! { "_id": id(1).to_hex(), "fromRequestId": 7, "task": null, "toResponseBodyId": [1] },
    ];
    raw.collection::<Document>("tasks")
        .insert_many(tasks)
        .await
        .unwrap();
}

fn all() -> Filter {
    Filter {
        records_max: 100,
        ..Filter::default()
    }
}

async fn ids(log: &dyn AuditLog, filter: Filter) -> Vec<String> {
    let mut ids: Vec<_> = log
        .list(&filter)
        .await
        .unwrap()
        .into_iter()
        .map(|record| record.id)
        .collect();
    ids.sort_unstable();
    ids
}

fn hex(seconds: &[u32]) -> Vec<String> {
    seconds
        .iter()
        .map(|seconds| id(*seconds).to_hex())
        .collect()
}

#[tokio::test]
async fn older_records_are_shown() {
    check(place().await, async |place| {
        older_records(place).await;
        let log = place.ready().await;
        let show = async |seconds: u32| log.show(id(seconds).to_hex().parse().unwrap()).await;
        let expected = StoredRecord {
            id: id(5).to_hex(),
            status: "answered".into(),
            request_id: Some("an older request".into()),
            task: Some("NUMBER".into()),
            subtask: Some("ADD".into()),
            request: Some(r#"{"a1":5,"a2":10}"#.into()),
            response: Some("15".into()),
            frontend_container: Some("f".repeat(64)),
            frontend_service: Some("app_frontend".into()),
            events_container: Some("e".repeat(64)),
            events_service: Some("app_events".into()),
            backend_container: Some("b".repeat(64)),
            backend_service: Some("app_backend".into()),
            received_time: Some("2023-11-14T22:13:25.120Z".into()),
            ended_time: Some("2023-11-14T22:13:25.340Z".into()),
            sent_time: Some("2023-11-14T22:13:25.350Z".into()),
            ..StoredRecord::default()
        };
        assert_eq!(show(5).await.unwrap(), Some(expected.clone()));
        let as_text = StoredRecord {
            id: id(4).to_hex(),
            received_time: Some("2023-11-14 22:13:24.5 +0000 UTC m=+12.3".into()),
            ended_time: Some("2023-11-14 22:13:24.6 +0000 UTC m=+12.4".into()),
            sent_time: None,
            ..expected
        };
        assert_eq!(show(4).await.unwrap(), Some(as_text));
        for (seconds, request) in [(3, true), (2, true), (1, false)] {
            let read = show(seconds).await.unwrap().unwrap();
            assert_eq!((read.status.as_str(), read.response), ("open", None));
            assert_eq!(read.request.is_some(), request);
        }
    })
    .await;
}

#[tokio::test]
async fn older_records_are_listed_beside_ours() {
    check(place().await, async |place| {
        older_records(place).await;
        let log = place.ready().await;
        let ours = answered("15");
        log.write(&inserts(std::slice::from_ref(&ours)))
            .await
            .unwrap();
        let our_id = ours.id.to_string();

        let listed = log.list(&all()).await.unwrap();
        assert_eq!(listed.len(), 6);
        assert_eq!(listed[0].id, id(5).to_hex());
        assert_eq!(listed[1], stored(&ours));

        let with = |status| Filter {
            status: Some(status),
            ..all()
        };
        assert_eq!(ids(&*log, with(Status::Open)).await, hex(&[1, 2, 3]));
        let mut answered = hex(&[4, 5]);
        answered.push(our_id.clone());
        answered.sort_unstable();
        assert_eq!(ids(&*log, with(Status::Answered)).await, answered);
        assert!(ids(&*log, with(Status::Failed)).await.is_empty());

        let of = |request: &str| Filter {
            request_id: Some(request.into()),
            ..all()
        };
        assert_eq!(ids(&*log, of("an older request")).await, hex(&[2, 3, 4, 5]));
        assert_eq!(ids(&*log, of(ours.request_id.as_str())).await, [our_id]);

        // When a record was made whose time is text, its id says; ours was received first of all.
        let since = Filter {
            since_unix_ms: Some(THEN + 2_000),
            ..all()
        };
        let until = Filter {
            until_unix_ms: Some(THEN + 5_000),
            ..since.clone()
        };
        assert_eq!(ids(&*log, since).await, hex(&[2, 3, 4, 5]));
        assert_eq!(ids(&*log, until).await, hex(&[2, 3, 4]));
    })
    .await;
}

#[tokio::test]
async fn older_records_are_counted_apart() {
    check(place().await, async |place| {
        older_records(place).await;
        let log = place.ready().await;
        log.write(&inserts(&[answered("15")])).await.unwrap();
        let count = async |since: Option<u64>, until: Option<u64>| {
            let query = BalanceQuery {
                since_unix_ms: since.map(|ms| THEN + ms),
                until_unix_ms: until.map(|ms| THEN + ms),
                settled_before_unix_ms: u64::MAX,
            };
            log.balance(&query).await.unwrap()
        };
        let expected = |ours: u64, records: u64, answered: u64| Balance {
            records: ours,
            answered: ours,
            attempts: ours,
            older: Older { records, answered },
            ..Balance::default()
        };
        // A lost response is not looked for.
        assert_eq!(count(None, None).await, expected(1, 5, 3));
        assert_eq!(count(Some(3_000), None).await, expected(0, 3, 2));
        assert_eq!(count(None, Some(4_000)).await, expected(1, 2, 1));
    })
    .await;
}

#[tokio::test]
async fn older_records_are_left_alone_and_answer_nobody() {
    check(place().await, async |place| {
        older_records(place).await;
        let tasks = place.raw().collection::<Document>("tasks");
        // Several with one request id, as older services leave them, do not stop the start.
        let before = tasks.find_one(doc! { "_id": id(3) }).await.unwrap();
        let log = place.ready().await;
        assert_eq!(
            log.close_overdue(&crate::suite::records::overdue(u64::MAX, THEN))
                .await
                .unwrap(),
            0
        );
        assert!(!log.has_answers().await.unwrap());
        let mut asked = answered("15");
        asked.body = r#"{"a1":5,"a2":10}"#.into();
        assert_eq!(log.find_answers(&[question(&asked)]).await.unwrap(), [None]);

        // The same request id as theirs is none of ours.
        asked.request_id = "an older request".parse().unwrap();
        let written = log
            .write(&inserts(std::slice::from_ref(&asked)))
            .await
            .unwrap();
        assert_eq!(written, [Written::Done]);
        let found = log.find_answers(&[question(&asked)]).await.unwrap();
        assert_eq!(
            found[0].as_ref().map(|answer| answer.record),
            Some(asked.id)
        );
        assert_eq!(tasks.find_one(doc! { "_id": id(3) }).await.unwrap(), before);
    })
    .await;
}
