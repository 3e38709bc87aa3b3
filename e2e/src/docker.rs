//! The Docker engine, by its command line.

use std::{
    env,
    ffi::OsStr,
    fs::File,
    path::{Path, PathBuf},
    process::Stdio,
    time::Duration,
};

use anyhow::{Context, Result, bail};
use tokio::{process::Command, time::timeout};

/// The longest command is a rolling update of ten containers.
const COMMAND_LIMIT: Duration = Duration::from_secs(300);

/// What every container and network of the tests is labelled with, so that what a killed run left
/// behind can be told from everything else.
pub const LABEL: &str = "roundtrip.e2e";

/// Runs `docker …` and answers its standard output, trimmed.
///
/// # Errors
/// When it fails, with what it said.
pub async fn docker<S: AsRef<OsStr>>(arguments: impl IntoIterator<Item = S>) -> Result<String> {
    docker_with(arguments, &[]).await
}

/// Runs `docker …` with additional environment variables.
///
/// # Errors
/// When it fails, with what it said.
pub async fn docker_with<S: AsRef<OsStr>>(
    arguments: impl IntoIterator<Item = S>,
    variables: &[(&str, &str)],
) -> Result<String> {
    let mut command = Command::new("docker");
    command
        .args(arguments)
        .envs(variables.iter().copied())
        .stdin(Stdio::null())
        .kill_on_drop(true);
    let shown = format!("{:?}", command.as_std());
    let output = timeout(COMMAND_LIMIT, command.output())
        .await
        .with_context(|| format!("{shown} did not end within {COMMAND_LIMIT:?}"))?
        .context("run `docker`: is it installed? `cargo xtask test` sees to it")?;
    let stdout = String::from_utf8_lossy(&output.stdout).trim().to_owned();
    if !output.status.success() {
        let stderr = String::from_utf8_lossy(&output.stderr);
        bail!("{shown} failed: {} {stdout}", stderr.trim());
    }
    Ok(stdout)
}

/// Runs `docker …` while nothing else can run, for destructors; its failure is theirs to ignore.
pub(crate) fn docker_blocking<S: AsRef<OsStr>>(
    arguments: impl IntoIterator<Item = S>,
    output: Option<File>,
) -> bool {
    let mut command = std::process::Command::new("docker");
    command.args(arguments).stdin(Stdio::null());
    match output.and_then(|file| Some((file.try_clone().ok()?, file))) {
        Some((out, err)) => command.stdout(out).stderr(err),
        None => command.stdout(Stdio::null()).stderr(Stdio::null()),
    };
    command.status().is_ok_and(|status| status.success())
}

/// The engine's socket on this machine, to be mounted into containers.
///
/// # Errors
/// When the engine is reached otherwise.
pub fn socket() -> Result<PathBuf> {
    let path = match env::var("DOCKER_HOST") {
        Ok(host) if !host.is_empty() => PathBuf::from(
            host.strip_prefix("unix://")
                .with_context(|| format!("DOCKER_HOST must be a unix:// socket, it is {host}"))?,
        ),
        _ => PathBuf::from("/var/run/docker.sock"),
    };
    if !path.exists() {
        bail!(
            "no Docker engine at {}: run the tests by `cargo xtask test`",
            path.display()
        );
    }
    Ok(path)
}

/// The group that may use the engine's socket.
///
/// # Errors
/// When there is no socket.
pub fn socket_group() -> Result<u32> {
    use std::os::unix::fs::MetadataExt;
    Ok(socket()?.metadata()?.gid())
}

/// Holds the engine for one test: discovery lists every container there is, so that two
/// deployments on one engine would find each other.
#[derive(Debug)]
pub struct Engine {
    // The lock goes with the file, also when the process is killed.
    _lock: File,
}

impl Engine {
    /// Waits until no other test uses the engine, and removes what a killed run left behind.
    ///
    /// # Errors
    /// When there is no engine.
    pub async fn alone() -> Result<Self> {
        socket()?;
        let path = env::temp_dir().join("roundtrip-e2e-engine.lock");
        let file = File::create(&path).with_context(|| format!("create {}", path.display()))?;
        let lock = tokio::task::spawn_blocking(move || file.lock().map(|()| file)).await??;
        remove_leftovers().await?;
        Ok(Self { _lock: lock })
    }
}

async fn remove_leftovers() -> Result<()> {
    let filter = format!("label={LABEL}");
    for kind in ["container", "network"] {
        let all = if kind == "container" {
            Some("--all")
        } else {
            None
        };
        let list = [kind, "ls", "--quiet", "--filter", &filter]
            .into_iter()
            .chain(all);
        let left = docker(list).await?;
        for id in left.lines() {
            // One that goes by itself meanwhile is no failure.
            let force = if kind == "container" {
                Some("--force")
            } else {
                None
            };
            drop(docker([kind, "rm"].into_iter().chain(force).chain([id])).await);
        }
    }
    Ok(())
}

/// Builds the image of the stand-ins for the older services, once per call: the engine's cache
/// makes it cheap.
///
/// # Errors
/// When its base image is missing.
pub async fn build_foreign() -> Result<String> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("foreign");
    let tag = "roundtrip-foreign:e2e";
    docker([
        OsStr::new("build"),
        OsStr::new("--quiet"),
        OsStr::new("--tag"),
        OsStr::new(tag),
        folder.as_os_str(),
    ])
    .await
    .context(
        "the stand-ins need the image python:3-slim-bookworm; `cargo xtask test` sees to it",
    )?;
    Ok(tag.to_owned())
}
