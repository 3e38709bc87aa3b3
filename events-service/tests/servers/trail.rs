//! Short texts stand in their records, and follow into collections of their own.

use std::{sync::Arc, time::Duration};

use events_service::audit::{AuditLog, Outcome, Overdue, Record, Write, Written};
use mongodb::bson::{Bson, Document, doc, oid::ObjectId};
use shared::contract::ContainerId;
use tokio::task::JoinHandle;

use crate::{
    mongo::{Own, place},
    suite::{
        audit::{Place, check},
        records::{THEN, answered, ended, inserts, long, open, question, stored},
    },
};

/// An instance that writes short texts later, in the name of its own events service.
async fn attended(place: &Own) -> (Arc<dyn AuditLog>, JoinHandle<()>) {
    let log = place.ready().await;
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
        let found = own
            .find_one(doc! { "textsSince": { "$exists": true } })
            .await;
        found.unwrap().into_iter().collect()
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
        for record in &records {
            let text = record.end.as_ref().unwrap().outcome.text().unwrap();
            let texts = place.both_texts(record).await;
            assert_eq!(texts, Some((record.body.clone(), text.to_owned())));
        }
        assert_eq!(place.marks().await, []);
    })
    .await;
}
