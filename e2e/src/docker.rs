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

use crate::until::{SOON, until_true};

/// The longest command is a rolling update of ten containers.
const COMMAND_LIMIT: Duration = Duration::from_secs(300);

/// What every container and network of the tests is labelled with, so that what a killed run left
/// behind can be told from everything else.
pub const LABEL: &str = "roundtrip.e2e";

/// What the name of every stack of the tests begins with, for the same reason.
pub(crate) const STACK_PREFIX: &str = "rte2e";

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
    let containers = ["container", "ls", "--all", "--quiet", "--filter", &filter];
    for id in docker(containers).await?.lines() {
        // One that goes by itself meanwhile is no failure; nor is any of the next.
        drop(docker(["container", "rm", "--force", "--volumes", id]).await);
    }
    // An engine that is no swarm has no stacks.
    let stacks = docker(["stack", "ls", "--format", "{{.Name}}"]).await;
    for name in stacks
        .unwrap_or_default()
        .lines()
        .filter(|name| name.starts_with(STACK_PREFIX))
    {
        drop(docker(["stack", "rm", name]).await);
    }
    for kind in ["network", "volume"] {
        // Names contain the filter's value anywhere; a network is free once its containers went.
        let filter = format!("name={STACK_PREFIX}");
        until_true("what a killed run left behind to go", SOON, async || {
            let left = docker([kind, "ls", "--quiet", "--filter", &filter]).await?;
            for id in left.lines() {
                drop(docker([kind, "rm", id]).await);
            }
            Ok(left.is_empty())
        })
        .await?;
    }
    let networks = ["network", "ls", "--quiet", "--filter", &filter];
    for id in docker(networks).await?.lines() {
        drop(docker(["network", "rm", id]).await);
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
