//! Child processes: started with a log, ended with the test.

use std::{
    env,
    ffi::OsStr,
    fs::{self, File},
    path::{Path, PathBuf},
    process::Stdio,
    time::Duration,
};

use anyhow::{Context, Result, bail, ensure};
use rustix::process::{Pid, Resource, Rlimit, getrlimit, kill_process, setrlimit};
use tokio::{
    process::{Child, Command},
    time::timeout,
};

use crate::case::Case;

pub use rustix::process::Signal;

/// What a child inherits from the environment of the tests; settings of the person who runs them
/// must not leak into the services.
const INHERITED: [&str; 6] = [
    "PATH",
    "HOME",
    "TMPDIR",
    "LD_LIBRARY_PATH",
    "RUST_BACKTRACE",
    "LLVM_PROFILE_FILE",
];

/// Allows us, and what we start from now on, to open so many files at once, if it was less.
///
/// # Errors
/// When the system's limit for us is lower.
pub fn allow_open_files(count: u64) -> Result<()> {
    let limit = getrlimit(Resource::Nofile);
    if limit.current.is_none_or(|current| current >= count) {
        return Ok(());
    }
    let current = Some(count);
    setrlimit(Resource::Nofile, Rlimit { current, ..limit })
        .with_context(|| format!("raise the limit of open files to {count} (ulimit -n)"))
}

/// A process that is about to be started.
#[derive(Debug)]
pub struct Launch {
    name: String,
    log: PathBuf,
    command: Command,
}

impl Launch {
    /// `name` is the log's.
    #[must_use]
    pub fn new(case: &Case, name: &str, program: &Path) -> Self {
        let mut command = Command::new(program);
        command
            .env_clear()
            .envs(
                INHERITED
                    .iter()
                    .filter_map(|&name| Some((name, env::var_os(name)?))),
            )
            .current_dir(case.folder())
            .stdin(Stdio::null())
            .kill_on_drop(true);
        Self {
            name: name.to_owned(),
            log: case.log_path(name),
            command,
        }
    }

    /// Adds one environment variable.
    #[must_use]
    pub fn env(mut self, name: &str, value: impl AsRef<OsStr>) -> Self {
        self.command.env(name, value);
        self
    }

    /// Adds environment variables; a later one of the same name wins.
    #[must_use]
    pub fn envs<N: AsRef<OsStr>, V: AsRef<OsStr>>(
        mut self,
        variables: impl IntoIterator<Item = (N, V)>,
    ) -> Self {
        self.command.envs(variables);
        self
    }

    /// Adds arguments.
    #[must_use]
    pub fn args<S: AsRef<OsStr>>(mut self, arguments: impl IntoIterator<Item = S>) -> Self {
        self.command.args(arguments);
        self
    }

    /// Starts it in the background, both outputs into its log.
    ///
    /// # Errors
    /// When it cannot be started.
    pub fn start(mut self) -> Result<Process> {
        let log = File::options()
            .create(true)
            .append(true)
            .open(&self.log)
            .with_context(|| format!("open {}", self.log.display()))?;
        let child = self
            .command
            .stdout(log.try_clone()?)
            .stderr(log)
            .spawn()
            .with_context(|| format!("start {}", self.name))?;
        Ok(Process {
            name: self.name,
            log: self.log,
            child,
        })
    }

    /// Runs it to its end and keeps both outputs apart.
    ///
    /// # Errors
    /// When it cannot be started, or does not end within `limit`.
    pub async fn output(mut self, limit: Duration) -> Result<Output> {
        let output = timeout(limit, self.command.output())
            .await
            .with_context(|| format!("{} did not end within {limit:?}", self.name))?
            .with_context(|| format!("start {}", self.name))?;
        Ok(Output {
            code: output.status.code(),
            stdout: String::from_utf8_lossy(&output.stdout).into_owned(),
            stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
        })
    }
}

/// What a process that ran to its end left.
#[derive(Debug, Clone)]
pub struct Output {
    /// Its exit code; `None` when a signal ended it.
    pub code: Option<i32>,
    /// All of its standard output.
    pub stdout: String,
    /// All of its standard error.
    pub stderr: String,
}

impl Output {
    /// The output of a process that must have succeeded.
    ///
    /// # Errors
    /// When its exit code is another than 0.
    pub fn success(self) -> Result<String> {
        ensure!(self.code == Some(0), "it failed: {self:?}");
        Ok(self.stdout)
    }
}

/// A running process. It is killed when dropped.
#[derive(Debug)]
pub struct Process {
    name: String,
    log: PathBuf,
    child: Child,
}

impl Process {
    /// Its number in the system; `None` when it has ended.
    #[must_use]
    pub fn id(&self) -> Option<u32> {
        self.child.id()
    }

    /// Sends a signal.
    ///
    /// # Errors
    /// When the process has ended already.
    pub fn signal(&self, signal: Signal) -> Result<()> {
        let pid = self
            .child
            .id()
            .and_then(|id| Pid::from_raw(i32::try_from(id).ok()?))
            .with_context(|| format!("{} has ended already", self.name))?;
        kill_process(pid, signal).with_context(|| format!("signal {}", self.name))
    }

    /// Kills it and waits until it is gone.
    ///
    /// # Errors
    /// When the system refuses.
    pub async fn kill(&mut self) -> Result<()> {
        self.child
            .kill()
            .await
            .with_context(|| format!("kill {}", self.name))
    }

    /// Waits for its end and answers its exit code.
    ///
    /// # Errors
    /// When it does not end within `limit`, or a signal ended it.
    pub async fn exit_code(&mut self, limit: Duration) -> Result<i32> {
        let status = timeout(limit, self.child.wait())
            .await
            .with_context(|| format!("{} did not end within {limit:?}", self.name))??;
        status
            .code()
            .with_context(|| format!("{} was ended by a signal: {status}", self.name))
    }

    /// Fails when the process has ended.
    ///
    /// # Errors
    /// With its exit status and the end of its log.
    pub fn ensure_running(&mut self) -> Result<()> {
        if let Some(status) = self.child.try_wait()? {
            bail!("{} ended by itself: {status}\n{}", self.name, self.log());
        }
        Ok(())
    }

    /// All it has written so far.
    #[must_use]
    pub fn log(&self) -> String {
        String::from_utf8_lossy(&fs::read(&self.log).unwrap_or_default()).into_owned()
    }
}
