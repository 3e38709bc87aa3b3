//! The audit log alone: records a second by the size of a batch and the number of batches under way.
//! A line of JSON for each; `bench audit` runs it and makes tables of them.

#![expect(
    clippy::print_stdout,
    reason = "the results are read by whoever runs this"
)]

use std::{
    path::PathBuf,
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering},
    },
    time::{Duration, Instant},
};

use anyhow::{Result, ensure};
use clap::Parser;
use events_service::{
    audit::{
        AuditLog, End, Outcome, Progress, Record, Write, Written,
        mongo::MongoAuditLog,
        sqlite::{SqliteAuditLog, SyncMode},
    },
    settings::Durability,
};
use futures_util::{StreamExt as _, stream::FuturesUnordered};
use shared::contract::{Address, RecordId};

/// The time of every record; what they hold does not matter, how large they are does.
const THEN: u64 = 1_700_000_000_000;

#[derive(Parser)]
struct Cli {
    /// Writes into a database of this server.
    #[arg(long, value_name = "URI")]
    mongo: Option<String>,
    /// Writes into this SQLite file; one in a folder of its own if no store is named.
    #[arg(long, value_name = "FILE")]
    sqlite: Option<PathBuf>,
    /// Records in a batch.
    #[arg(long, value_delimiter = ',', default_value = "1,4,16,64,256,1024")]
    batch: Vec<usize>,
    /// Batches under way at once.
    #[arg(long, value_delimiter = ',', default_value = "1,2,4")]
    under_way: Vec<usize>,
    /// Seconds for each pair.
    #[arg(long, default_value_t = 0.5)]
    seconds: f64,
    /// Set by `cargo bench`.
    #[arg(long, hide = true)]
    bench: bool,
}

fn main() -> Result<()> {
    let cli = Cli::parse();
    // As the service: one thread.
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    runtime.block_on(measure_all(&cli))
}

async fn measure_all(cli: &Cli) -> Result<()> {
    let folder = tempfile::tempdir()?;
    let mut logs: Vec<(&str, Arc<dyn AuditLog>)> = Vec::new();
    if let Some(uri) = &cli.mongo {
        let name = format!("audit{}", std::process::id());
        logs.push((
            "mongo",
            Arc::new(MongoAuditLog::new(uri, &name, Durability::Majority)?),
        ));
    }
    if cli.sqlite.is_some() || cli.mongo.is_none() {
        for (name, mode) in [
            ("sqlite full", SyncMode::Full),
            ("sqlite normal", SyncMode::Normal),
        ] {
            let file = format!("{name}.db").replace(' ', "-");
            let path = match &cli.sqlite {
                Some(path) => path.with_file_name(file),
                None => folder.path().join(file),
            };
            logs.push((name, Arc::new(SqliteAuditLog::open(&path, mode)?)));
        }
    }
    for (name, log) in logs {
        log.prepare().await?;
        for &batch in &cli.batch {
            for &under_way in &cli.under_way {
                let seconds = Duration::from_secs_f64(cli.seconds);
                let per_second = measure(&*log, batch, under_way, seconds).await?;
                println!(
                    "{}",
                    serde_json::json!({
                        "store": name, "batch": batch, "underWay": under_way, "recordsPerSecond": per_second,
                    })
                );
            }
        }
        log.close().await;
    }
    Ok(())
}

async fn measure(
    log: &dyn AuditLog,
    batch: usize,
    under_way: usize,
    limit: Duration,
) -> Result<f64> {
    let write = async || {
        let records: Vec<Write> = (0..batch).map(|_| Write::Insert(record())).collect();
        let written = log.write(&records).await?;
        ensure!(
            written.iter().all(|written| *written == Written::Done),
            "a record was not written"
        );
        anyhow::Ok(())
    };
    let mut writes: FuturesUnordered<_> = (0..under_way).map(|_| write()).collect();
    let began = Instant::now();
    let mut records = 0;
    while let Some(written) = writes.next().await {
        written?;
        records += batch;
        if began.elapsed() >= limit {
            break;
        }
        writes.push(write());
    }
    let per_second = records as f64 / began.elapsed().as_secs_f64();
    while let Some(written) = writes.next().await {
        written?;
    }
    Ok(per_second)
}

/// A record of a pure task that a backend has answered, with texts of its own. Ids grow, as the
/// service's do: an index that is written at its end is another one than one that is written all over.
fn record() -> Record {
    static COUNT: AtomicU32 = AtomicU32::new(0);
    let mut id = *b"a process...";
    id[8..].copy_from_slice(&COUNT.fetch_add(1, Ordering::Relaxed).to_be_bytes());
    let id = RecordId(id);
    let address =
        |digit: &str, service: &str| Address::new(&digit.repeat(64), service).expect("it is one");
    Record {
        id,
        request_id: format!("{id}{id}").parse().expect("it is an id"),
        caller_request_id: None,
        frontend: address("a", "app_frontend"),
        events_service: address("b", "app_events-service"),
        task: "NUMBER".to_owned(),
        subtask: "ADD".to_owned(),
        body: format!(r#"{{"a1":"{id}","a2":10}}"#),
        pure: true,
        received_unix_ms: THEN,
        deadline_unix_ms: THEN + 5_000,
        progress: Progress {
            attempts: 1,
            dispatched_unix_ms: Some(THEN),
            backend: Some(address("c", "app_backend")),
            image: None,
        },
        end: Some(End {
            outcome: Outcome::Answered(id.to_string()),
            at_unix_ms: THEN + 1,
            waited_us: Some(15),
            ran_us: Some(2),
        }),
    }
}
