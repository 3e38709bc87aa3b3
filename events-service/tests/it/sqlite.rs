//! The suite on SQLite, and what only a file can do.

use std::{path::PathBuf, sync::Arc};

use events_service::audit::{
    AuditError, AuditLog, Filter, Outcome, Record, Write, Written,
    sqlite::{SqliteAuditLog, SyncMode},
};
use tempfile::TempDir;

use crate::suite::{
    audit::{Place, audit_suite},
    records::{answered, ended, inserts, long, open, question, stored},
};

audit_suite!(crate::sqlite::place);

struct File {
    folder: TempDir,
}

async fn place() -> File {
    File {
        folder: tempfile::tempdir().unwrap(),
    }
}

impl File {
    fn path(&self) -> PathBuf {
        self.folder.path().join("audit.db")
    }

    fn raw(&self) -> rusqlite::Connection {
        let connection = rusqlite::Connection::open(self.path()).unwrap();
        connection
            .busy_timeout(std::time::Duration::from_secs(5))
            .unwrap();
        connection
    }
}

impl Place for File {
    fn log(&self) -> Arc<dyn AuditLog> {
        Arc::new(SqliteAuditLog::open(&self.path(), SyncMode::Normal).unwrap())
    }

    async fn count(&self, collection: &str) -> u64 {
        let sql = format!("select count(*) from {collection}");
        let count: i64 = self.raw().query_row(&sql, [], |row| row.get(0)).unwrap();
        u64::try_from(count).unwrap()
    }

    async fn tamper(&self, record: &Record, field: &str, value: &str) {
        let sql = format!("update tasks set {field} = ?1 where _id = ?2");
        let changed = self.raw().execute(&sql, (value, record.id.to_string()));
        assert_eq!(changed.unwrap(), 1);
    }

    async fn drop_indexes(&self) {
        let raw = self.raw();
        let sql = "select name from sqlite_schema where type = 'index' and tbl_name = 'tasks'
            and sql is not null";
        let names: Vec<String> = raw
            .prepare(sql)
            .unwrap()
            .query_map([], |row| row.get(0))
            .unwrap()
            .map(Result::unwrap)
            .collect();
        for name in names {
            raw.execute_batch(&format!("drop index {name}")).unwrap();
        }
    }

    async fn empty(&self, collection: &str) {
        self.raw()
            .execute(&format!("delete from {collection}"), [])
            .unwrap();
    }

    async fn remove(self) {}
}

fn why(opened: Result<SqliteAuditLog, AuditError>) -> String {
    match opened.err() {
        Some(error @ AuditError::Unusable { .. }) => error.to_string(),
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn a_file_that_cannot_be_used_is_named_with_the_cause() {
    let folder = tempfile::tempdir().unwrap();
    let no_folder = folder.path().join("nowhere/audit.db");
    let no_database = folder.path().join("notes.txt");
    std::fs::write(
        &no_database,
        "not a database, but long enough to look at".repeat(100),
    )
    .unwrap();
    let not_there = folder.path().join("other.db");
    let other = folder.path().join("others.db");
    rusqlite::Connection::open(&other)
        .unwrap()
        .execute_batch("create table tasks (x)")
        .unwrap();

    for path in [&no_folder, &no_database, &folder.path().to_path_buf()] {
        let told = why(SqliteAuditLog::open(path, SyncMode::Full));
        assert!(told.contains(path.to_str().unwrap()), "{told}");
    }
    for path in [
        &no_folder,
        &no_database,
        &not_there,
        &other,
        &folder.path().to_path_buf(),
    ] {
        let told = why(SqliteAuditLog::open_read_only(path));
        assert!(told.contains(path.to_str().unwrap()), "{told}");
        assert!(!not_there.exists());
    }
    let foreign = SqliteAuditLog::open(&other, SyncMode::Full).unwrap();
    assert!(matches!(
        foreign.prepare().await,
        Err(AuditError::Unusable { .. })
    ));
}

#[tokio::test]
async fn short_texts_stand_in_their_record() {
    let place = place().await;
    let log = place.ready().await;
    let record = answered("15");
    let later = open();
    log.write(&inserts(&[record.clone(), later.clone()]))
        .await
        .unwrap();
    let later = ended(later, Outcome::Answered("16".into()));
    let completion = Write::Complete(later.clone());
    for _ in 0..2 {
        let written = log.write(std::slice::from_ref(&completion)).await;
        assert_eq!(written.unwrap(), [Written::Done]);
    }
    let other = Write::Complete(ended(later.clone(), Outcome::Answered("17".into())));
    assert_eq!(log.write(&[other]).await.unwrap(), [Written::AlreadyEnded]);
    for record in [&record, &later] {
        assert_eq!(log.show(record.id).await.unwrap(), Some(stored(record)));
    }
    let found = log.find_answers(&[question(&later)]).await.unwrap();
    assert_eq!(found[0].as_ref().unwrap().text, "16");
    assert_eq!(place.count("requests").await, 0);
    assert_eq!(place.count("responses").await, 0);
}

/// A file from before short texts stood in their records, and answers in a table of their own.
#[tokio::test]
async fn a_file_of_an_older_version_is_gone_on_with() {
    let place = place().await;
    let body = long("a body");
    let record = Record {
        body,
        ..answered(&long("15"))
    };
    let log = place.ready().await;
    log.write(&inserts(std::slice::from_ref(&record)))
        .await
        .unwrap();
    log.close().await;
    place
        .raw()
        .execute_batch(
            "alter table tasks drop column request; alter table tasks drop column response;
             drop table answers;
             create index roundtrip_answers on tasks (requestBodyId)
                 where status = 'answered' and pure = 1 and answeredFromId is null;",
        )
        .unwrap();

    let told = why(SqliteAuditLog::open_read_only(&place.path()));
    assert!(told.contains("older version"), "{told}");
    let log = place.ready().await;
    let next = answered("16");
    log.write(&inserts(std::slice::from_ref(&next)))
        .await
        .unwrap();
    let reader = SqliteAuditLog::open_read_only(&place.path()).unwrap();
    for record in [&record, &next] {
        assert_eq!(reader.show(record.id).await.unwrap(), Some(stored(record)));
    }
    let found = log.find_answers(&[question(&record)]).await.unwrap();
    assert_eq!(found[0].as_ref().unwrap().text, long("15"));
    // It costs as much as all else of a record, and nothing looks there any more.
    let index = "select count(*) from sqlite_schema where name = 'roundtrip_answers'";
    let indexes: i64 = place.raw().query_row(index, [], |row| row.get(0)).unwrap();
    assert_eq!(indexes, 0);
}

#[tokio::test]
async fn a_file_is_read_while_it_is_written() {
    let place = place().await;
    let log = place.ready().await;
    let record = answered("15");
    assert_eq!(
        log.write(&inserts(std::slice::from_ref(&record)))
            .await
            .unwrap(),
        [Written::Done]
    );

    let reader = SqliteAuditLog::open_read_only(&place.path()).unwrap();
    reader.prepare().await.unwrap();
    let writing = tokio::spawn(async move {
        for _ in 0..50 {
            let batch: Vec<_> = (0..20).map(|_| open()).collect();
            log.write(&inserts(&batch)).await.unwrap();
        }
    });
    let mut counts = Vec::new();
    while !writing.is_finished() {
        assert_eq!(reader.show(record.id).await.unwrap(), Some(stored(&record)));
        let all = Filter {
            records_max: u32::MAX,
            ..Filter::default()
        };
        counts.push(reader.list(&all).await.unwrap().len());
    }
    writing.await.unwrap();
    assert!(
        counts.is_sorted() && counts.iter().all(|count| count % 20 == 1),
        "{counts:?}"
    );
    let refused = reader.write(&[Write::Insert(open())]).await;
    assert!(refused.is_err());
}

#[tokio::test]
async fn a_closed_file_holds_everything_and_goes_on() {
    let place = place().await;
    let (log, record) = (place.ready().await, answered("15"));
    log.write(&inserts(std::slice::from_ref(&record)))
        .await
        .unwrap();
    log.close().await;
    // The file alone is all there is: what was beside it has been put in.
    let beside = std::fs::read_dir(place.folder.path()).unwrap().count();
    assert_eq!(beside, 1);
    let reader = SqliteAuditLog::open_read_only(&place.path()).unwrap();
    assert_eq!(reader.show(record.id).await.unwrap(), Some(stored(&record)));
    let log = place.ready().await;
    let found = log.find_answers(&[question(&record)]).await.unwrap();
    assert_eq!(
        found[0].as_ref().map(|answer| answer.record),
        Some(record.id)
    );
}

#[tokio::test]
async fn a_log_that_is_dropped_without_being_closed_keeps_what_it_acknowledged() {
    let place = place().await;
    let (log, record) = (place.ready().await, open());
    log.write(&inserts(std::slice::from_ref(&record)))
        .await
        .unwrap();
    drop(log);
    assert_eq!(
        place.ready().await.show(record.id).await.unwrap(),
        Some(stored(&record))
    );
}
