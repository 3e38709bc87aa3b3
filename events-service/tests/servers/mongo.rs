//! The suite on MongoDB, and how its documents look.

use std::sync::Arc;

use events_service::{
    audit::{AuditLog, Outcome, Record, Write, Written, mongo::MongoAuditLog},
    settings::Durability,
};
use mongodb::{
    Client, Database,
    bson::{Bson, DateTime, Document, doc, oid::ObjectId},
};

use crate::suite::{
    audit::{Place, audit_suite, check},
    records::{THEN, answered, ended, failed, inserts, open, stored},
};

audit_suite!(crate::mongo::place);

/// The server that `cargo xtask test` has started.
pub(crate) fn address() -> String {
    std::env::var("ROUNDTRIP_TEST_MONGO").expect(
        "ROUNDTRIP_TEST_MONGO (mongodb:// address of a MongoDB server) is not set; run `cargo xtask \
         test`, which starts one",
    )
}

/// A database of its own.
pub(crate) struct Own {
    client: Client,
    pub(crate) name: String,
}

pub(crate) async fn place() -> Own {
    let client = Client::with_uri_str(address())
        .await
        .expect("ROUNDTRIP_TEST_MONGO is an address");
    Own {
        client,
        name: format!("roundtrip-test-{:016x}", rand::random::<u64>()),
    }
}

impl Own {
    pub(crate) fn raw(&self) -> Database {
        self.client.database(&self.name)
    }

    async fn document(&self, id: impl Into<Bson>) -> Document {
        let tasks = self.raw().collection::<Document>("tasks");
        tasks
            .find_one(doc! { "_id": id.into() })
            .await
            .unwrap()
            .expect("a document")
    }
}

impl Place for Own {
    fn log(&self) -> Arc<dyn AuditLog> {
        Arc::new(MongoAuditLog::new(&address(), &self.name, Durability::Majority).unwrap())
    }

    async fn count(&self, collection: &str) -> u64 {
        let collection = self.raw().collection::<Document>(collection);
        collection.count_documents(doc! {}).await.unwrap()
    }

    async fn tamper(&self, record: &Record, field: &str, value: &str) {
        let tasks = self.raw().collection::<Document>("tasks");
        let id = ObjectId::from_bytes(record.id.0);
        let changed = tasks.update_one(doc! { "_id": id }, doc! { "$set": { field: value } });
        assert_eq!(changed.await.unwrap().modified_count, 1);
    }

    async fn drop_indexes(&self) {
        let tasks = self.raw().collection::<Document>("tasks");
        tasks.drop_indexes().await.unwrap();
    }

    async fn empty(&self, collection: &str) {
        self.raw()
            .collection::<Document>(collection)
            .delete_many(doc! {})
            .await
            .unwrap();
    }

    async fn remove(self) {
        self.raw().drop().await.unwrap();
    }
}

fn keys(document: &Document) -> Vec<&str> {
    let mut keys: Vec<_> = document.keys().map(String::as_str).collect();
    keys.sort_unstable();
    keys
}

/// What every record has, and what more those have that ended.
const FIELDS: [&str; 19] = [
    "_id",
    "attempts",
    "deadline",
    "fromContainerId",
    "fromContainerService",
    "fromReceivedTime",
    "fromRequestId",
    "pure",
    "request",
    "requestBodyId",
    "salt",
    "seal",
    "serviceContainerId",
    "serviceContainerService",
    "status",
    "subtask",
    "task",
    "v",
    "toContainerId",
];

#[tokio::test]
async fn documents_have_the_fields_of_the_contract() {
    check(place().await, async |place| {
        let log = place.ready().await;
        let older = open();
        let record = Record {
            request_id: older.id.to_string().parse().unwrap(),
            ..older.clone()
        };
        let older = Record {
            id: open().id,
            ..older
        };
        log.write(&inserts(&[record.clone(), older.clone()]))
            .await
            .unwrap();
        // Where the request's id is not the record's, the unique index on it must hold it.
        let marked = place.document(ObjectId::from_bytes(older.id.0)).await;
        assert!(marked.get_bool("ownId").unwrap());
        let id = ObjectId::from_bytes(record.id.0);
        let document = place.document(id).await;
        assert_eq!(keys(&document), FIELDS[..18]);
        assert_eq!(document.get_i32("v").unwrap(), 2);
        assert_eq!(document.get("seal"), Some(&Bson::Null));
        assert_eq!(document.get_binary_generic("salt").unwrap().len(), 16);
        let received = i64::try_from(THEN).unwrap();
        let received = DateTime::from_millis(received);
        assert_eq!(
            document.get_datetime("fromReceivedTime").unwrap(),
            &received
        );

        let record = ended(record, Outcome::Answered("15".into()));
        log.write(&[Write::Complete(record.clone())]).await.unwrap();
        let document = place.document(id).await;
        for field in [
            "toReceivedTime",
            "fromSentTime",
            "dispatchedTime",
            "deadline",
        ] {
            assert!(document.get_datetime(field).is_ok(), "{field}");
        }
        assert_eq!(
            document.get_str("toContainerService").unwrap(),
            "app_backend"
        );
        let texts = [
            ("requests", "request", "requestBodyId", record.body.as_str()),
            ("responses", "response", "toResponseBodyId", "15"),
        ];
        for (collection, field, reference, text) in texts {
            let id = ObjectId::parse_str(document.get_str(reference).unwrap()).unwrap();
            let collection = place.raw().collection::<Document>(collection);
            let stored = collection
                .find_one(doc! { "_id": id })
                .await
                .unwrap()
                .unwrap();
            assert_eq!(stored, doc! { "_id": id, field: text });
            // A short one stands in the record, too.
            assert_eq!(document.get_str(field).unwrap(), text);
        }

        let record = ended(
            open(),
            failed(shared::contract::FailureCode::DivisionByZero),
        );
        log.write(&inserts(std::slice::from_ref(&record)))
            .await
            .unwrap();
        let document = place.document(ObjectId::from_bytes(record.id.0)).await;
        assert!(!document.contains_key("toResponseBodyId"));
        assert_eq!(document.get_str("reason").unwrap(), "division_by_zero");
    })
    .await;
}

#[tokio::test]
async fn every_durability_is_accepted() {
    check(place().await, async |place| {
        use Durability::{Acknowledged, Journaled, Majority};
        for durability in [Majority, Journaled, Acknowledged] {
            let log = MongoAuditLog::new(&address(), &place.name, durability).unwrap();
            log.prepare().await.unwrap();
            let record = answered("15");
            let written = log
                .write(&inserts(std::slice::from_ref(&record)))
                .await
                .unwrap();
            assert_eq!(written, [Written::Done]);
            assert_eq!(log.show(record.id).await.unwrap(), Some(stored(&record)));
            log.close().await;
        }
    })
    .await;
}

/// The names of the indexes that a query's plan uses.
fn indexes_in(plan: &Bson, names: &mut Vec<String>) {
    match plan {
        Bson::Document(document) => {
            if let Ok(name) = document.get_str("indexName") {
                names.push(name.to_owned());
            }
            document.values().for_each(|value| indexes_in(value, names));
        }
        Bson::Array(values) => values.iter().for_each(|value| indexes_in(value, names)),
        _ => {}
    }
}

#[tokio::test]
async fn what_is_asked_often_has_an_index() {
    check(place().await, async |place| {
        let log = place.ready().await;
        log.prepare().await.unwrap();
        let records: Vec<_> = (0..100).map(|_| answered("15")).collect();
        log.write(&inserts(&records)).await.unwrap();
        let names = place
            .raw()
            .collection::<Document>("tasks")
            .list_index_names()
            .await
            .unwrap();
        assert_eq!(names.len(), 6, "{names:?}");
        let body = place.document(ObjectId::from_bytes(records[0].id.0)).await;
        let body = body.get_str("requestBodyId").unwrap().to_owned();
        let queries = [
            (
                doc! { "requestBodyId": { "$in": [body] }, "reusable": true },
                "roundtrip_reusable",
            ),
            (
                doc! { "requestBodyId": { "$gte": "" }, "reusable": true },
                "roundtrip_reusable",
            ),
            (
                doc! { "status": "open", "v": 2, "deadline": { "$lt": DateTime::now() } },
                "roundtrip_open",
            ),
            (
                doc! { "fromRequestId": "x", "ownId": true },
                "roundtrip_request",
            ),
            (doc! { "callerRequestId": "x" }, "roundtrip_caller"),
        ];
        for (filter, index) in queries {
            let explain = doc! { "explain": { "find": "tasks", "filter": filter.clone() } };
            let plan = place.raw().run_command(explain).await.unwrap();
            let mut used = Vec::new();
            let winning = plan
                .get_document("queryPlanner")
                .unwrap()
                .get("winningPlan")
                .unwrap();
            indexes_in(winning, &mut used);
            assert!(used.iter().any(|used| used == index), "{filter}: {plan}");
        }
    })
    .await;
}
