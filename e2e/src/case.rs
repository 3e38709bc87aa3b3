//! One test: its names, its folder, its logs, its end.

use std::{
    fs,
    net::TcpListener,
    panic::{self, AssertUnwindSafe},
    path::{Path, PathBuf},
    process,
    sync::atomic::{AtomicU32, Ordering},
    thread,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use anyhow::{Context, Result, anyhow, bail};
use rand::RngExt;
use tempfile::TempDir;
use tokio::runtime::Runtime;

use crate::docker::Engine;

/// No test may take longer: a hang is a failure with logs, not a runner that must be killed.
/// The swarm tests, which wait for rolling updates, are the longest.
const TEST_LIMIT: Duration = Duration::from_secs(600);

/// How many of a log's last lines a failed test prints; the whole is kept.
const LOG_LINES_PRINTED: usize = 80;

/// What one test calls its own.
#[derive(Debug)]
pub struct Case {
    id: String,
    folder: TempDir,
}

/// Runs a test. When it fails, the logs of all it started are printed and kept.
///
/// # Panics
/// When the test fails: this is how a test says so.
pub fn run(test: impl AsyncFnOnce(&Case) -> Result<()>) {
    run_in(&runtime(), test);
}

/// Runs a test that has the Docker engine for itself. The time it waits for that does not count.
///
/// # Panics
/// When the test fails.
pub fn run_on_engine(test: impl AsyncFnOnce(&Case) -> Result<()>) {
    let runtime = runtime();
    let _alone = runtime
        .block_on(Engine::alone())
        .expect("the Docker engine can be used");
    run_in(&runtime, test);
}

fn runtime() -> Runtime {
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .expect("a runtime can be made")
}

fn run_in(runtime: &Runtime, test: impl AsyncFnOnce(&Case) -> Result<()>) {
    let case = Case::new().expect("a folder for the test can be made");
    let outcome = panic::catch_unwind(AssertUnwindSafe(|| {
        runtime.block_on(async {
            tokio::time::timeout(TEST_LIMIT, test(&case))
                .await
                .unwrap_or_else(|_| Err(anyhow!("the test is not done after {TEST_LIMIT:?}")))
        })
    }));
    match outcome {
        Ok(Ok(())) => {}
        Ok(Err(error)) => {
            case.show_logs();
            // The causes in one line; a backtrace leads only to where a sentence was made.
            panic!("{error:#}");
        }
        Err(panicked) => {
            case.show_logs();
            panic::resume_unwind(panicked);
        }
    }
}

impl Case {
    /// Its names and its folder.
    ///
    /// # Errors
    /// When the folder cannot be made.
    pub fn new() -> Result<Self> {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let now = SystemTime::now().duration_since(UNIX_EPOCH)?.as_millis() % 100_000_000;
        let count = COUNT.fetch_add(1, Ordering::Relaxed);
        Ok(Self {
            id: format!("e{now}x{}x{count}", process::id()),
            folder: tempfile::Builder::new()
                .prefix("roundtrip-e2e-")
                .tempdir()?,
        })
    }

    /// A word no other test has: for channels, databases, containers.
    #[must_use]
    pub fn id(&self) -> &str {
        &self.id
    }

    /// A folder no other test has; it is removed when the test succeeds.
    #[must_use]
    pub fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// Where the log of one process or container belongs.
    #[must_use]
    pub fn log_path(&self, name: &str) -> PathBuf {
        self.folder().join(format!("{name}.log"))
    }

    /// Writes a file into the test's folder.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn write(&self, name: &str, text: &str) -> Result<PathBuf> {
        let path = self.folder().join(name);
        fs::write(&path, text).with_context(|| format!("write {}", path.display()))?;
        Ok(path)
    }

    #[expect(
        clippy::print_stderr,
        reason = "the runner shows it with the failed test"
    )]
    fn show_logs(&self) {
        let thread = thread::current();
        eprintln!("---- logs of {}", thread.name().unwrap_or("a test"));
        for path in self.logs() {
            let log = fs::read(&path).unwrap_or_default();
            let log = String::from_utf8_lossy(&log);
            let lines: Vec<_> = log.lines().collect();
            let skipped = lines.len().saturating_sub(LOG_LINES_PRINTED);
            eprintln!("---- {} ({skipped} lines before)", path.display());
            for line in &lines[skipped..] {
                eprintln!("{line}");
            }
        }
        if self.logs().is_empty() {
            return;
        }
        match self.keep() {
            Ok(kept) => eprintln!("---- whole logs in {}", kept.display()),
            Err(error) => eprintln!("---- the logs cannot be kept: {error:#}"),
        }
    }

    fn logs(&self) -> Vec<PathBuf> {
        let mut logs: Vec<_> = fs::read_dir(self.folder())
            .into_iter()
            .flatten()
            .flatten()
            .map(|entry| entry.path())
            .filter(|path| path.extension().is_some_and(|extension| extension == "log"))
            .collect();
        logs.sort();
        logs
    }

    /// Copies the logs to a place that outlives the test, and answers where.
    ///
    /// # Errors
    /// When they cannot be copied.
    pub fn keep(&self) -> Result<PathBuf> {
        let kept = std::env::temp_dir().join(format!("roundtrip-e2e-failed-{}", self.id));
        fs::create_dir_all(&kept).with_context(|| format!("make {}", kept.display()))?;
        for log in self.logs() {
            let name = log.file_name().unwrap_or_default();
            fs::copy(&log, kept.join(name)).with_context(|| format!("copy {}", log.display()))?;
        }
        Ok(kept)
    }
}

/// Below the ports that Linux gives to outgoing connections: one of those could take a port between
/// its choice here and its use by a server.
const PORTS: std::ops::Range<u16> = 10_000..32_000;

/// A port that is free now. Another process may choose it too before it is used; from so many that
/// is rare.
///
/// # Errors
/// When the system has none.
pub fn free_port() -> Result<u16> {
    for _ in 0..100 {
        let port = rand::rng().random_range(PORTS);
        if TcpListener::bind(("127.0.0.1", port)).is_ok() {
            return Ok(port);
        }
    }
    bail!("no port from {PORTS:?} is free")
}
