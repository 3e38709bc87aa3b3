//! A backend whose tasks take time, count or panic: what the end-to-end tests need, and an example
//! of handlers that wait. Its line in `task-maps.json`: `"SLOW": {"service": "slow"}`.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use backend::{Failure, Job, Worker};

#[derive(serde::Deserialize)]
struct Sleep {
    ms: u64,
}

#[derive(serde::Deserialize)]
struct Count {
    key: String,
}

async fn sleep(job: Job) -> Result<String, Failure> {
    let Sleep { ms } = job.body()?;
    tokio::time::sleep(Duration::from_millis(ms)).await;
    Ok(format!("slept {ms}"))
}

fn main() -> std::process::ExitCode {
    let counts = Arc::new(Mutex::new(HashMap::<String, u64>::new()));
    Worker::new()
        .on_async("SLOW", "SLEEP", sleep)
        .on("SLOW", "PANIC", |_| panic!("as asked"))
        .on("SLOW", "COUNT", move |job| {
            let Count { key } = job.body()?;
            let mut counts = counts.lock().unwrap_or_else(PoisonError::into_inner);
            let count = counts.entry(key).or_default();
            *count += 1;
            Ok(count.to_string())
        })
        .main()
}
