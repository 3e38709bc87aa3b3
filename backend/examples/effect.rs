//! A backend whose task has an effect that can be counted from outside: each run appends a line to
//! the file that `EFFECTS_FILE` names. The chaos harness tells by it what ran twice.
//! Its line in `task-maps.json`: `"EFFECT": "effect"`.

use std::{
    fs::{File, OpenOptions},
    io::Write as _,
    process::ExitCode,
    sync::Arc,
    time::Duration,
};

use backend::{Failure, FailureCode, Job, Worker};

#[derive(serde::Deserialize)]
struct Append {
    /// What the line says.
    key: String,
    /// How long it takes from the effect to the result.
    #[serde(default)]
    ms: u64,
}

/// The line is one write to a file that is only appended to, so those of several processes do not mix.
fn append(mut file: &File, key: &str) -> Result<(), Failure> {
    file.write_all(format!("{key}\n").as_bytes())
        .map_err(|error| Failure::new(FailureCode::TaskFailed, error.to_string()))
}

fn main() -> ExitCode {
    let opened = std::env::var_os("EFFECTS_FILE")
        .map(|path| OpenOptions::new().create(true).append(true).open(path));
    let Some(Ok(file)) = opened else {
        #[expect(clippy::print_stderr, reason = "there is no log yet")]
        {
            eprintln!("error: EFFECTS_FILE must name a file that can be written: {opened:?}");
        }
        return ExitCode::from(2);
    };
    let file = Arc::new(file);
    Worker::new()
        .on_async("EFFECT", "APPEND", move |job: Job| {
            let file = Arc::clone(&file);
            async move {
                let Append { key, ms } = job.body()?;
                append(&file, &key)?;
                if ms > 0 {
                    tokio::time::sleep(Duration::from_millis(ms)).await;
                }
                Ok(format!("done {key}"))
            }
        })
        .main()
}
