//! Runs other programs. Every one gets a process group of its own, so that Ctrl-C reaches only us,
//! and we end the others in order: first what is running, then the servers it was using.

use std::fs::File;
use std::io::{BufRead as _, BufReader, Read as _};
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use nix::sys::signal::{Signal, kill, killpg};
use nix::unistd::Pid;

/// Set by Ctrl-C, SIGTERM or SIGHUP, and never cleared.
static INTERRUPTED: AtomicBool = AtomicBool::new(false);

/// How often a running program and its deadline are looked at. Twice this is what a start or stop of
/// a server takes longer than it had to; at a tenth of it the looking would cost CPU time that the
/// tests want.
const POLL: Duration = Duration::from_millis(50);

/// How long a program that was told to stop may take before it is killed.
const STOP_MAX: Duration = Duration::from_secs(10);

/// From now on, Ctrl-C does not end us but makes what is running fail, so that the way out through
/// the callers stops what was started. A second one changes nothing: stopping has a limit anyway.
///
/// # Errors
/// The system refuses the handler.
pub(crate) fn watch_interrupts() -> Result<()> {
    ctrlc::set_handler(|| INTERRUPTED.store(true, Ordering::SeqCst))
        .context("cannot watch for Ctrl-C")
}

/// Fails if we were told to stop.
///
/// # Errors
/// We were told to stop.
pub(crate) fn check_interrupted() -> Result<()> {
    if INTERRUPTED.load(Ordering::SeqCst) {
        bail!("interrupted");
    }
    Ok(())
}

/// The command as one would type it, for messages.
fn shown(command: &Command) -> String {
    let mut text = command.get_program().to_string_lossy().into_owned();
    for argument in command.get_args() {
        text.push(' ');
        text.push_str(&argument.to_string_lossy());
    }
    text
}

fn spawn(command: &mut Command) -> Result<Child> {
    command
        .process_group(0)
        .stdin(Stdio::null())
        .spawn()
        .with_context(|| format!("cannot start `{}`", shown(command)))
}

/// Waits for the end of a program; ends it when we are interrupted or the deadline passes.
fn wait(child: &mut Child, deadline: Option<Instant>) -> Result<ExitStatus> {
    loop {
        if let Some(status) = child.try_wait().context("cannot wait for a program")? {
            // A program that ended because of the same Ctrl-C must not look like a failure of its own.
            check_interrupted()?;
            return Ok(status);
        }
        let late = deadline.is_some_and(|deadline| Instant::now() >= deadline);
        if late || INTERRUPTED.load(Ordering::SeqCst) {
            end_group(child.id());
            child.wait().context("cannot wait for a program")?;
            check_interrupted()?;
            bail!("it took too long and was stopped");
        }
        thread::sleep(POLL);
    }
}

/// Runs a program whose output goes where ours goes.
///
/// # Errors
/// It cannot be started, fails, or we are interrupted.
pub(crate) fn run(command: &mut Command) -> Result<()> {
    let mut child = spawn(command)?;
    let status = wait(&mut child, None).with_context(|| format!("`{}`", shown(command)))?;
    if !status.success() {
        bail!("`{}` failed ({status})", shown(command));
    }
    Ok(())
}

/// Runs a program that chats on its standard output, which goes to our standard error: our own
/// output is for results.
///
/// # Errors
/// As [`run`].
pub(crate) fn run_aside(command: &mut Command) -> Result<()> {
    run(command.stdout(std::io::stderr()))
}

/// Runs a program quietly and returns what it wrote to its standard output.
///
/// # Errors
/// As [`run`]; the message ends with what the program wrote to its standard error.
pub(crate) fn output(command: &mut Command) -> Result<String> {
    capture(command, None)
}

/// [`output`], with a limit on how long it may take.
///
/// # Errors
/// As [`output`], and it took too long.
pub(crate) fn output_within(limit: Duration, command: &mut Command) -> Result<String> {
    capture(command, Some(Instant::now() + limit))
}

fn capture(command: &mut Command, deadline: Option<Instant>) -> Result<String> {
    let mut child = spawn(command.stdout(Stdio::piped()).stderr(Stdio::piped()))?;
    // Both pipes are emptied while it runs: a full one would stop it for ever.
    let readers = [
        child.stdout.take().map(|pipe| read_all(Box::new(pipe))),
        child.stderr.take().map(|pipe| read_all(Box::new(pipe))),
    ];
    let status = wait(&mut child, deadline).with_context(|| format!("`{}`", shown(command)))?;
    let [stdout, stderr] = readers.map(|reader| {
        reader
            .and_then(|reader| reader.join().ok())
            .unwrap_or_default()
    });
    if !status.success() {
        bail!(
            "`{}` failed ({status}): {}",
            shown(command),
            last_lines(&stderr, 5)
        );
    }
    Ok(stdout)
}

fn read_all(mut pipe: Box<dyn std::io::Read + Send>) -> thread::JoinHandle<String> {
    thread::spawn(move || {
        let mut bytes = Vec::new();
        // What was read before an error is still worth showing.
        if let Err(error) = pipe.read_to_end(&mut bytes) {
            bytes.extend_from_slice(format!("\n(reading stopped: {error})").as_bytes());
        }
        String::from_utf8_lossy(&bytes).into_owned()
    })
}

/// Runs a program, hands on its standard output line by line as it comes, and says how it ended.
///
/// # Errors
/// It cannot be started, exceeds `limit`, or we are interrupted.
pub(crate) fn run_with_lines(
    limit: Duration,
    command: &mut Command,
    mut line_seen: impl FnMut(&str) + Send,
) -> Result<ExitStatus> {
    let mut child = spawn(command.stdout(Stdio::piped()))?;
    let stdout = child.stdout.take().context("no pipe to read from")?;
    thread::scope(|scope| {
        let reader = scope.spawn(move || -> std::io::Result<()> {
            let mut lines = BufReader::new(stdout);
            let mut line = Vec::new();
            while lines.read_until(b'\n', &mut line)? > 0 {
                line_seen(String::from_utf8_lossy(&line).trim_end_matches('\n'));
                line.clear();
            }
            Ok(())
        });
        let status = wait(&mut child, Some(Instant::now() + limit))
            .with_context(|| format!("`{}`", shown(command)));
        match reader.join() {
            Ok(read) => {
                read.with_context(|| format!("cannot read what `{}` prints", shown(command)))?
            }
            Err(_) => bail!("reading what `{}` prints failed", shown(command)),
        }
        status
    })
}

/// A server that runs until this value is dropped.
pub(crate) struct Server {
    name: &'static str,
    child: Child,
    log: PathBuf,
    /// Whether dropping stops it.
    owned: bool,
}

impl Server {
    /// Starts a program in a session of its own, its output in a log file.
    ///
    /// # Errors
    /// It cannot be started.
    pub(crate) fn start(name: &'static str, command: &Command, log: PathBuf) -> Result<Self> {
        let file = File::create(&log).with_context(|| format!("cannot write {}", log.display()))?;
        let copy = file.try_clone().context("cannot share the log file")?;
        // `setsid` replaces itself by the program and leaves it in a session of its own, out of reach
        // of the terminal; the process id stays the same.
        let mut session = Command::new("setsid");
        session.arg(command.get_program()).args(command.get_args());
        for (name, value) in command.get_envs() {
            match value {
                Some(value) => session.env(name, value),
                None => session.env_remove(name),
            };
        }
        let child = session
            .stdin(Stdio::null())
            .stdout(file)
            .stderr(copy)
            .spawn()
            .with_context(|| format!("cannot start {name}: `{}`", shown(command)))?;
        Ok(Self {
            name,
            child,
            log,
            owned: true,
        })
    }

    /// Waits until `ready` says yes.
    ///
    /// # Errors
    /// The server ended, the limit passed, or we were interrupted; with the end of its log.
    pub(crate) fn wait_until(&mut self, limit: Duration, ready: impl Fn() -> bool) -> Result<()> {
        let deadline = Instant::now() + limit;
        loop {
            check_interrupted()?;
            if ready() {
                return Ok(());
            }
            let ended = self.child.try_wait().context("cannot wait for a program")?;
            let late = Instant::now() >= deadline;
            if ended.is_some() || late {
                let what = match ended {
                    Some(status) => format!("ended at once ({status})"),
                    None => format!("did not answer within {} s", limit.as_secs()),
                };
                bail!(
                    "{} {what}; its log {} ends with:\n{}",
                    self.name,
                    self.log.display(),
                    self.log_end()
                );
            }
            thread::sleep(POLL);
        }
    }

    fn log_end(&self) -> String {
        std::fs::read_to_string(&self.log).map_or_else(
            |error| format!("(unreadable: {error})"),
            |log| last_lines(&log, 15),
        )
    }

    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Leaves it running when this value is dropped.
    pub(crate) fn keep(mut self) {
        self.owned = false;
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        if self.owned {
            end_group(self.child.id());
            if let Err(error) = self.child.wait() {
                eprintln!("warning: cannot wait for the end of {}: {error}", self.name);
            }
        }
    }
}

/// Whether a process is there.
pub(crate) fn is_alive(pid: u32) -> bool {
    i32::try_from(pid).is_ok_and(|pid| {
        // A zombie answers signals; only its parent, perhaps us, can still wait for it.
        kill(Pid::from_raw(pid), None).is_ok() && !is_zombie(pid)
    })
}

fn is_zombie(pid: i32) -> bool {
    std::fs::read_to_string(format!("/proc/{pid}/stat")).is_ok_and(|stat| {
        stat.rsplit(')')
            .next()
            .is_some_and(|rest| rest.trim_start().starts_with('Z'))
    })
}

/// Tells the leader of a process group to stop, waits for it, and then kills what is left of the
/// group. Only the leader is told: it knows in which order its children must go.
pub(crate) fn end_group(leader: u32) {
    let Ok(pid) = i32::try_from(leader).map(Pid::from_raw) else {
        return;
    };
    // A failure means that it has ended already.
    if kill(pid, Signal::SIGTERM).is_ok() {
        let deadline = Instant::now() + STOP_MAX;
        while is_alive(leader) && Instant::now() < deadline {
            thread::sleep(POLL);
        }
    }
    // As above: nobody left is what we want.
    if killpg(pid, Signal::SIGKILL).is_ok() {
        thread::sleep(POLL);
    }
}

/// The program's full path, if it is on the PATH or where system programs are.
pub(crate) fn find_program(name: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    // A user's PATH often lacks the folders where dockerd and debootstrap are.
    std::env::split_paths(&path)
        .chain(["/usr/local/sbin", "/usr/sbin", "/sbin"].map(PathBuf::from))
        .map(|dir| dir.join(name))
        .find(|candidate| is_executable(candidate))
}

/// Whether this is a file that may be run.
pub(crate) fn is_executable(path: &Path) -> bool {
    use std::os::unix::fs::PermissionsExt as _;
    path.metadata()
        .is_ok_and(|file| file.is_file() && file.permissions().mode() & 0o111 != 0)
}

fn last_lines(text: &str, count: usize) -> String {
    let lines: Vec<&str> = text.trim_end().lines().collect();
    lines[lines.len().saturating_sub(count)..].join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn last_lines_are_the_last_lines() {
        assert_eq!(last_lines("a\nb\nc\n", 2), "b\nc");
        assert_eq!(last_lines("a", 2), "a");
        assert_eq!(last_lines("", 2), "");
    }

    #[test]
    fn a_failed_command_is_told_with_its_words() {
        let error = output(Command::new("sh").args(["-c", "echo what went wrong >&2; exit 3"]))
            .expect_err("exit code 3 is a failure");
        let text = format!("{error:#}");
        assert!(
            text.contains("what went wrong") && text.contains("exit status: 3"),
            "{text}"
        );
    }

    #[test]
    fn a_program_that_takes_too_long_is_stopped() {
        let start = Instant::now();
        let error = output_within(Duration::from_millis(100), Command::new("sleep").arg("30"))
            .expect_err("it takes longer than its limit");
        assert!(format!("{error:#}").contains("took too long"), "{error:#}");
        assert!(start.elapsed() < Duration::from_secs(20));
    }

    #[test]
    fn lines_come_one_by_one() {
        let mut lines = Vec::new();
        let status = run_with_lines(
            Duration::from_secs(20),
            Command::new("printf").arg("one\\ntwo"),
            |line| lines.push(line.to_owned()),
        )
        .expect("printf works");
        assert!(status.success());
        assert_eq!(lines, ["one", "two"]);
    }
}
