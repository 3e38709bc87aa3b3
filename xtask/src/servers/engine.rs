//! The Docker engine, in swarm mode.

use std::fs;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context as _, Result, bail};

use super::{docker, from_environment, no_way, state::State, stop_quietly};
use crate::install;
use crate::process::{self, Server, find_program};
use crate::workspace;

const VARIABLE: &str = "DOCKER_HOST";

/// What a person can do when it cannot be had.
pub(super) const ADVICE: &str = "the tests of containers need a Docker engine: start one, name one by DOCKER_HOST, \
    or leave these tests out with --no-swarm";

/// How long a fresh engine may take until it answers: a second when nothing else runs here, and longer
/// with much data of earlier runs to look through.
pub(super) const START_MAX: Duration = Duration::from_secs(60);

/// How long an engine that is there may take to say so.
const ANSWER_MAX: Duration = Duration::from_secs(10);

/// An engine in swarm mode. Dropping it takes back what was done to it: a swarm that we made ends, an
/// engine that we started stops.
pub(crate) struct Engine {
    pub(crate) host: String,
    pub(super) origin: String,
    server: Option<Server>,
    made_swarm: bool,
}

impl Engine {
    /// The environment in which tests find it. `DOCKER_SOCKET` and `SOCKET_USER` are settings of
    /// `docker-stack.yaml`.
    pub(super) fn environment(&self) -> Vec<(&'static str, String)> {
        let mut environment = vec![(VARIABLE, self.host.clone())];
        if let Some(socket) = self.host.strip_prefix("unix://") {
            environment.push(("DOCKER_SOCKET", socket.to_owned()));
            if let Some(user) = socket_user(Path::new(socket)) {
                environment.push(("SOCKET_USER", user));
            }
        }
        environment
    }

    pub(super) fn pid(&self) -> Option<u32> {
        self.server.as_ref().map(Server::pid)
    }

    pub(super) fn made_swarm(&self) -> bool {
        self.made_swarm
    }

    /// Leaves everything as it is when this value is dropped.
    pub(super) fn keep(mut self) {
        self.made_swarm = false;
        if let Some(server) = self.server.take() {
            server.keep();
        }
    }

    fn enter_swarm(&mut self) -> Result<()> {
        let state = process::output(docker(&self.host).args([
            "info",
            "--format",
            "{{.Swarm.LocalNodeState}} {{.Swarm.ControlAvailable}}",
        ]))?;
        match state.trim() {
            "active true" => Ok(()),
            "active false" => bail!(
                "the Docker engine at {} is a worker of somebody's swarm; the tests need a manager",
                self.host
            ),
            "inactive false" => {
                process::output(docker(&self.host).args([
                    "swarm",
                    "init",
                    "--advertise-addr",
                    "127.0.0.1",
                ]))
                .context("cannot turn the Docker engine into a swarm")?;
                self.made_swarm = true;
                Ok(())
            }
            other => bail!(
                "the swarm of the Docker engine at {} is in the state `{other}`",
                self.host
            ),
        }
    }

    /// An engine of our own can hold what a run that was killed left behind.
    fn clear(&self) {
        leave_swarm_if_active(&self.host);
        remove_containers(&self.host);
    }
}

impl Drop for Engine {
    fn drop(&mut self) {
        if self.made_swarm {
            leave_swarm(&self.host);
        }
        if self.server.is_some() {
            // An engine that is told to stop waits for its containers; these have nothing to lose.
            remove_containers(&self.host);
        }
    }
}

/// Finds or starts one.
///
/// # Errors
/// None can be had.
pub(super) fn get(left_up: Option<&State>, folder: &Path) -> Result<Engine> {
    let mut engine = find_or_start(left_up, folder)?;
    engine.enter_swarm()?;
    Ok(engine)
}

fn find_or_start(left_up: Option<&State>, folder: &Path) -> Result<Engine> {
    let found = |host: &str, origin: &str| Engine {
        host: host.to_owned(),
        origin: origin.to_owned(),
        server: None,
        made_swarm: false,
    };
    if from_environment(VARIABLE).is_none()
        && let Some(host) = left_up.and_then(|state| state.variable(VARIABLE))
    {
        return Ok(found(host, "left up"));
    }
    if let Some((host, origin)) = running() {
        return Ok(found(&host, origin));
    }
    process::check_interrupted()?;
    if let Some(host) = from_environment(VARIABLE) {
        bail!("no Docker engine answers at {host}, which DOCKER_HOST names");
    }
    if find_program("dockerd").is_some() && !nix::unistd::geteuid().is_root() {
        bail!("dockerd is there but not running, and can be started only as root");
    }
    if find_program("dockerd").is_none() || find_program("docker").is_none() {
        if !install::can_install_packages() {
            return Err(no_way("dockerd"));
        }
        install::packages(&["docker.io", "iptables"])?;
    }
    let program = find_program("dockerd").context("the package docker.io brings no dockerd")?;
    start(&program, folder)
}

/// An engine that answers: the one that `DOCKER_HOST` names, or else the one that the Docker client
/// would talk to.
pub(super) fn running() -> Option<(String, &'static str)> {
    let (host, origin) = match from_environment(VARIABLE) {
        Some(host) => (host, "from the environment"),
        None => (host_of_context()?, "already running"),
    };
    answers(&host).then_some((host, origin))
}

fn host_of_context() -> Option<String> {
    find_program("docker")?;
    let mut command = Command::new("docker");
    command.args([
        "context",
        "inspect",
        "--format",
        "{{.Endpoints.docker.Host}}",
    ]);
    let host = process::output_within(ANSWER_MAX, &mut command).ok()?;
    Some(host.trim().to_owned()).filter(|host| !host.is_empty())
}

fn answers(host: &str) -> bool {
    let mut command = docker(host);
    command.args(["version", "--format", "{{.Server.Version}}"]);
    process::output_within(ANSWER_MAX, &mut command).is_ok()
}

/// Starts an engine whose data and socket are our own: it shares nothing with one that the system may
/// be set up to run.
fn start(program: &Path, folder: &Path) -> Result<Engine> {
    super::folder::remove_those_of_the_dead();
    let data = workspace::state_dir().join("engine");
    fs::create_dir_all(&data)
        .with_context(|| format!("cannot make the folder {}", data.display()))?;
    let host = format!("unix://{}", folder.join("docker.sock").display());
    let mut command = Command::new(program);
    command
        .args(["--host", &host, "--data-root"])
        .arg(&data)
        .arg("--exec-root")
        .arg(folder.join("engine"))
        .arg("--pidfile")
        .arg(folder.join("docker.pid"))
        // What it starts (containerd, iptables) is where a user's PATH may not look.
        .env("PATH", path_with_system_programs());
    let mut server = Server::start("the Docker engine", &command, folder.join("docker.log"))?;
    server.wait_until(START_MAX, || answers(&host))?;
    let engine = Engine {
        host,
        origin: format!("started {}", program.display()),
        server: Some(server),
        made_swarm: false,
    };
    engine.clear();
    Ok(engine)
}

fn path_with_system_programs() -> std::ffi::OsString {
    let mut path = std::env::var_os("PATH").unwrap_or_default();
    path.push(":/usr/local/sbin:/usr/sbin:/sbin");
    path
}

/// Ends the swarm of an engine, and with it all its services.
pub(super) fn leave_swarm(host: &str) {
    stop_quietly(docker(host).args(["swarm", "leave", "--force"]));
}

fn leave_swarm_if_active(host: &str) {
    let mut command = docker(host);
    command.args(["info", "--format", "{{.Swarm.LocalNodeState}}"]);
    if process::output(&mut command).is_ok_and(|state| state.trim() != "inactive") {
        leave_swarm(host);
    }
}

/// Removes all containers of an engine of our own.
fn remove_containers(host: &str) {
    let Ok(listed) = docker(host).args(["ps", "--all", "--quiet"]).output() else {
        return;
    };
    let ids = String::from_utf8_lossy(&listed.stdout).into_owned();
    let ids: Vec<&str> = ids.split_whitespace().collect();
    if !ids.is_empty() {
        stop_quietly(docker(host).args(["rm", "--force", "--volumes"]).args(ids));
    }
}

/// A user without any rights but the socket's group, if that group may use the socket.
fn socket_user(socket: &Path) -> Option<String> {
    let socket: PathBuf = fs::canonicalize(socket).ok()?;
    let file = fs::metadata(socket).ok()?;
    let group_may = file.mode() & 0o060 == 0o060;
    (group_may && file.gid() != 0).then(|| format!("65532:{}", file.gid()))
}
