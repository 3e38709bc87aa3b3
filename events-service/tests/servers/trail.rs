//! Short texts stand in their records, and follow into collections of their own.

use std::{sync::Arc, time::Duration};

use events_service::{
    audit::{AuditLog, Outcome, Overdue, Record, Write, Written, mongo::MongoAuditLog},
    settings::{Durability, TextDocuments},
};
use futures_util::TryStreamExt;
use mongodb::bson::{Bson, DateTime, Document, doc, oid::ObjectId};
use shared::contract::ContainerId;
use tokio::task::JoinHandle;

use crate::{
    mongo::{Own, address, place},
    suite::{
        audit::{Place, check},
        records::{THEN, answered, ended, inserts, long, open, question, stored},
    },
};

/// An instance that writes short texts later, in the name of its own events service.
async fn attended(place: &Own) -> (Arc<dyn AuditLog>, JoinHandle<()>) {
    attend(place, place.ready().await).await
}

async fn attend(place: &Own, log: Arc<dyn AuditLog>) -> (Arc<dyn AuditLog>, JoinHandle<()>) {
    let attending = tokio::spawn({
        let log = log.clone();
        async move { log.attend(&me()).await }
    });
    // Texts may follow once there is a mark, and there is none before the first record.
    while place.marks().await.is_empty() {
        write(&*log, &[answered("first")]).await;
    }
    (log, attending)
}

/// An instance that leaves the documents of short texts out.
async fn leaving_out(place: &Own) -> Arc<dyn AuditLog> {
    let log = MongoAuditLog::new(&address(), &place.name, Durability::Majority).unwrap();
    let log = log.with_text_documents(TextDocuments::Long);
    log.prepare().await.unwrap();
    Arc::new(log)
}

/// The same, at work.
async fn attended_leaving_out(place: &Own) -> (Arc<dyn AuditLog>, JoinHandle<()>) {
    let (log, attending) = attend(place, leaving_out(place).await).await;
    // The mark is there; a moment later the log knows.
    loop {
        let record = answered("early");
        write(&*log, std::slice::from_ref(&record)).await;
        if place.both_texts(&record).await.is_none() {
            return (log, attending);
        }
    }
}

fn me() -> ContainerId {
    open().events_service.container
}

async fn write(log: &dyn AuditLog, records: &[Record]) {
    let written = log.write(&inserts(records)).await.unwrap();
    assert_eq!(written, vec![Written::Done; records.len()]);
}

/// A sweep of somebody else, who takes these for alive.
fn sweep(spared: &[ContainerId]) -> Overdue {
    Overdue {
        before_unix_ms: 0,
        now_unix_ms: THEN,
        spared: spared.to_vec(),
    }
}

impl Own {
    async fn marks(&self) -> Vec<Document> {
        let own = self.raw().collection::<Document>("roundtrip");
        let found = own.find(doc! { "textsSince": { "$exists": true } });
        found.await.unwrap().try_collect().await.unwrap()
    }

    /// The text that a record names, as an older events service would look for it.
    async fn text(&self, record: &Record, reference: &str) -> Option<String> {
        let (collection, field) = match reference {
            "requestBodyId" => ("requests", "request"),
            _ => ("responses", "response"),
        };
        let tasks = self.raw().collection::<Document>("tasks");
        let id = Bson::from(ObjectId::from_bytes(record.id.0));
        let task = tasks.find_one(doc! { "_id": id }).await.unwrap().unwrap();
        let id = ObjectId::parse_str(task.get_str(reference).unwrap()).unwrap();
        let texts = self.raw().collection::<Document>(collection);
        let text = texts.find_one(doc! { "_id": id }).await.unwrap()?;
        Some(text.get_str(field).unwrap().to_owned())
    }

    async fn both_texts(&self, record: &Record) -> Option<(String, String)> {
        let request = self.text(record, "requestBodyId").await?;
        Some((request, self.text(record, "toResponseBodyId").await?))
    }

    async fn has_all_texts_and_no_mark(&self, records: &[Record]) {
        for record in records {
            let text = record.end.as_ref().unwrap().outcome.text().unwrap();
            let texts = self.both_texts(record).await;
            assert_eq!(texts, Some((record.body.clone(), text.to_owned())));
        }
        assert_eq!(self.marks().await, []);
    }

    async fn both_texts_follow(&self, record: &Record) -> (String, String) {
        loop {
            if let Some(texts) = self.both_texts(record).await {
                return texts;
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }
}

#[tokio::test]
async fn a_record_is_complete_before_its_texts_follow() {
    check(place().await, async |place| {
        let (log, _attending) = attended(place).await;
        let record = answered("15");
        write(&*log, std::slice::from_ref(&record)).await;
        let other = place.ready().await;
        assert_eq!(
            other.show(record.id).await.unwrap(),
            Some(stored(&record)),
            "another events service reads it at once"
        );
        let answers = other.find_answers(&[question(&record)]).await.unwrap();
        assert_eq!(answers[0].as_ref().unwrap().text, "15");
        let texts = place.both_texts_follow(&record).await;
        assert_eq!(texts, (record.body, "15".to_owned()));
    })
    .await;
}

#[tokio::test]
async fn texts_follow_a_record_that_was_completed_later() {
    check(place().await, async |place| {
        let (log, _attending) = attended(place).await;
        let record = open();
        write(&*log, std::slice::from_ref(&record)).await;
        let record = ended(record, Outcome::Answered("16".into()));
        let completed = log.write(&[Write::Complete(record.clone())]).await.unwrap();
        assert_eq!(completed, [Written::Done]);
        let texts = place.both_texts_follow(&record).await;
        assert_eq!(texts, (record.body, "16".to_owned()));
    })
    .await;
}

#[tokio::test]
async fn a_text_follows_once() {
    check(place().await, async |place| {
        let (log, _attending) = attended(place).await;
        let records: Vec<_> = (0..300).map(|n| answered(&format!("{}", n % 10))).collect();
        write(&*log, &records[..200]).await;
        write(&*log, &records[200..]).await;
        log.close().await;
        // Ten results, and that of the first record.
        assert_eq!(place.count("responses").await, 11);
        for record in &records {
            let (request, _) = place.both_texts(record).await.unwrap();
            assert_eq!(request, record.body);
        }
    })
    .await;
}

#[tokio::test]
async fn what_may_not_follow_is_written_with_its_record() {
    check(place().await, async |place| {
        let (log, attending) = attended(place).await;
        attending.abort();
        let large = answered(&long("17"));
        // Its text would be lost with us: whoever looks for it begins at the mark.
        let old = Record {
            received_unix_ms: THEN - 1,
            ..answered("18")
        };
        write(&*log, &[large.clone(), old.clone()]).await;
        let response = place.text(&large, "toResponseBodyId").await;
        assert_eq!(response, Some(long("17")));
        let texts = place.both_texts(&old).await;
        assert_eq!(texts, Some((old.body, "18".to_owned())));
    })
    .await;
}

#[tokio::test]
async fn a_log_that_is_closed_leaves_nothing_to_do() {
    check(place().await, async |place| {
        let (log, attending) = attended(place).await;
        let records: Vec<_> = (0..500).map(|n| answered(&n.to_string())).collect();
        write(&*log, &records).await;
        attending.abort();
        log.close().await;
        for record in &records {
            assert!(place.both_texts(record).await.is_some());
        }
        assert_eq!(place.marks().await, []);
    })
    .await;
}

#[tokio::test]
async fn a_container_that_is_started_again_writes_what_it_left() {
    check(place().await, async |place| {
        let (log, attending) = attended(place).await;
        let record = answered("19");
        write(&*log, std::slice::from_ref(&record)).await;
        attending.abort();
        place.empty("requests").await;
        place.empty("responses").await;

        let again = place.ready().await;
        let _attending = tokio::spawn(async move { again.attend(&me()).await });
        let texts = place.both_texts_follow(&record).await;
        assert_eq!(texts, (record.body, "19".to_owned()));
    })
    .await;
}

#[tokio::test]
async fn the_texts_of_a_dead_events_service_are_written_from_its_records() {
    check(place().await, async |place| {
        let (log, attending) = attended(place).await;
        let records: Vec<_> = (0..500).map(|n| answered(&n.to_string())).collect();
        write(&*log, &records).await;
        attending.abort();
        // As if it had died before any of them was written.
        place.empty("requests").await;
        place.empty("responses").await;

        let other = place.ready().await;
        other.close_overdue(&sweep(&[me()])).await.unwrap();
        assert_eq!(place.count("responses").await, 0, "it may be at work on it");
        assert_eq!(place.marks().await.len(), 1);

        other.close_overdue(&sweep(&[])).await.unwrap();
        place.has_all_texts_and_no_mark(&records).await;
    })
    .await;
}

#[tokio::test]
async fn short_texts_that_are_left_out_stand_in_their_records() {
    check(place().await, async |place| {
        let (log, _attending) = attended_leaving_out(place).await;
        let records: Vec<_> = (0..100).map(|n| answered(&n.to_string())).collect();
        let large = answered(&long("20"));
        let before = place.count("requests").await;
        write(&*log, &records).await;
        write(&*log, std::slice::from_ref(&large)).await;
        log.close().await;
        assert_eq!(place.count("requests").await, before);
        let response = place.text(&large, "toResponseBodyId").await;
        assert_eq!(response, Some(long("20")), "it is in no record");

        let other = place.ready().await;
        for record in &records {
            let shown = other.show(record.id).await.unwrap();
            assert_eq!(shown, Some(stored(record)));
        }
        let answers = other.find_answers(&[question(&records[7])]).await.unwrap();
        assert_eq!(answers[0].as_ref().unwrap().text, "7");
    })
    .await;
}

#[tokio::test]
async fn texts_that_were_left_out_are_written_when_they_are_wanted() {
    check(place().await, async |place| {
        let (log, attending) = attended_leaving_out(place).await;
        let records: Vec<_> = (0..300).map(|n| answered(&n.to_string())).collect();
        write(&*log, &records).await;
        attending.abort();
        log.close().await;

        // One of the same setting comes and goes; it writes none, and keeps in mind where they begin.
        let (log, attending) = attend(place, leaving_out(place).await).await;
        log.close_overdue(&sweep(&[])).await.unwrap();
        assert!(place.both_texts(&records[0]).await.is_none());
        attending.abort();
        log.close().await;
        assert_eq!(place.marks().await.len(), 1);

        let other = place.ready().await;
        other.close_overdue(&sweep(&[])).await.unwrap();
        place.has_all_texts_and_no_mark(&records).await;
    })
    .await;
}

#[tokio::test]
async fn whoever_leaves_texts_out_draws_the_marks_of_the_dead_into_its_own() {
    check(place().await, async |place| {
        let own = place.raw().collection::<Document>("roundtrip");
        let earlier = DateTime::from_millis(THEN as i64 - 60_000);
        let dead = doc! { "_id": "d".repeat(64), "textsSince": earlier };
        own.insert_one(dead).await.unwrap();
        let (log, _attending) = attended_leaving_out(place).await;
        loop {
            log.close_overdue(&sweep(&[])).await.unwrap();
            let marks = place.marks().await;
            if marks[0].get_str("_id").unwrap() == me().as_str() {
                assert_eq!(marks[0].get_datetime("textsSince").unwrap(), &earlier);
                assert_eq!(marks.len(), 1);
                break;
            }
        }

        // Somebody takes it for dead; it lives, and more is left out after that.
        let found_dead = doc! { "$set": { "textsUntil": DateTime::from_millis(THEN as i64) } };
        let ours = doc! { "textsSince": earlier };
        let changed = own.update_one(ours, found_dead).await.unwrap();
        assert_eq!(changed.modified_count, 1);
        log.close_overdue(&sweep(&[])).await.unwrap();
        assert!(!place.marks().await[0].contains_key("textsUntil"));
    })
    .await;
}

#[tokio::test]
async fn much_that_was_left_is_written_sweep_by_sweep() {
    check(place().await, async |place| {
        let log = place.ready().await;
        let record = |n: i64| {
            doc! {
                "v": 2, "fromReceivedTime": DateTime::from_millis(n),
                "requestBodyId": format!("{n:024x}"), "request": n.to_string(),
            }
        };
        let tasks = place.raw().collection::<Document>("tasks");
        tasks.insert_many((0..30_000).map(record)).await.unwrap();
        // Of a time when it was known to be dead: whoever wrote it sees to its texts.
        let later = DateTime::now().timestamp_millis() + 60_000;
        tasks.insert_one(record(later)).await.unwrap();
        let own = place.raw().collection::<Document>("roundtrip");
        let dead = doc! { "_id": "d".repeat(64), "textsSince": DateTime::from_millis(0) };
        own.insert_one(dead).await.unwrap();

        log.close_overdue(&sweep(&[])).await.unwrap();
        assert_eq!(place.count("requests").await, 20_000);
        let mark = place.marks().await.pop().unwrap();
        let since = mark.get_datetime("textsSince").unwrap();
        assert_eq!(*since, DateTime::from_millis(19_999));
        log.close_overdue(&sweep(&[])).await.unwrap();
        assert_eq!(place.count("requests").await, 30_000);
        assert_eq!(place.marks().await, []);
    })
    .await;
}
