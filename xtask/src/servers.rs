//! The servers that the tests need: found, or started and stopped.
//!
//! Each of [`redis`], [`mongo`] and [`engine`] knows one server: how to find it, how to start it, how
//! to tell that it answers. Here is what they have in common; [`state`] remembers servers that stay up.

mod clock;
mod container;
mod engine;
mod folder;
mod mongo;
mod redis;
mod state;

use std::fs;
use std::net::{Ipv4Addr, TcpListener};
use std::os::unix::process::CommandExt as _;
use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use serde_json::{Value, json};

use crate::install::can_install_packages;
use crate::process::Server;

use container::Container;
use engine::Engine;
use folder::Folder;
pub(crate) use mongo::SECANTUS;
use state::State;

/// How long a server may take until it answers. They take less than a second here; on a machine busy
/// with compiling they may take some.
const START_MAX: Duration = Duration::from_secs(30);

/// A server that can be reached, and what must be stopped when it is no longer needed.
pub(crate) struct Found {
    /// What the tests connect to, and the variable that tells them.
    variable: &'static str,
    address: String,
    /// Where it came from, for people.
    origin: String,
    keeper: Keeper,
}

impl Found {
    /// One that is there and stays there: named in the environment, or left up by an earlier command.
    fn elsewhere(variable: &'static str, left_up: Option<&State>) -> Option<Self> {
        let (address, origin) = match from_environment(variable) {
            Some(address) => (address, "from the environment"),
            None => (left_up?.variable(variable)?.to_owned(), "left up"),
        };
        Some(Self {
            variable,
            address,
            origin: origin.to_owned(),
            keeper: Keeper::Foreign,
        })
    }
}

/// What keeps a server running.
enum Keeper {
    /// Somebody else.
    Foreign,
    /// A process of ours, ended when dropped.
    Process(Server),
    /// A container of ours.
    Container(Container),
}

/// All servers for a run of the tests. Dropping it stops those that were started for it.
pub(crate) struct Servers {
    // Dropped in this order: the engine goes last, since a server can be one of its containers.
    redis: Found,
    mongo: Found,
    engine: Option<Engine>,
    _folder: Option<Folder>,
}

impl Servers {
    /// Finds or starts them.
    ///
    /// # Errors
    /// One of them cannot be had; the message says which, and what to do.
    pub(crate) fn get(with_engine: bool) -> Result<Self> {
        let left_up = State::read()?;
        let folder = Folder::create()?;
        let redis = redis::get(left_up.as_ref(), folder.path()).context(redis::ADVICE)?;
        let mongo = mongo::get(left_up.as_ref(), folder.path()).context(mongo::ADVICE)?;
        let engine = if with_engine {
            Some(engine::get(left_up.as_ref(), folder.path()).context(engine::ADVICE)?)
        } else {
            None
        };
        let servers = Self {
            redis,
            mongo,
            engine,
            _folder: Some(folder),
        };
        for (name, origin) in servers.origins() {
            eprintln!("{name}: {origin}");
        }
        Ok(servers)
    }

    fn origins(&self) -> Vec<(&'static str, String)> {
        let mut origins = Vec::new();
        for found in [&self.redis, &self.mongo] {
            origins.push((
                found.variable,
                format!("{} ({})", found.address, found.origin),
            ));
        }
        if let Some(engine) = &self.engine {
            origins.push((
                "DOCKER_HOST",
                format!("{} ({})", engine.host, engine.origin),
            ));
        }
        origins
    }

    /// The environment in which the tests find them, and the programs from which a test starts a
    /// server of its own, one that it may kill.
    ///
    /// # Errors
    /// A program can be installed, but that fails.
    pub(crate) fn environment(&self) -> Result<Vec<(&'static str, String)>> {
        let mut environment = vec![
            (self.redis.variable, self.redis.address.clone()),
            (self.mongo.variable, self.mongo.address.clone()),
        ];
        for Program { variable, path, .. } in programs()? {
            environment.extend(path.map(|path| (variable, path.display().to_string())));
        }
        if let Some(engine) = &self.engine {
            environment.extend(engine.environment());
        }
        Ok(environment)
    }

    /// Where the engine is, if there is one.
    pub(crate) fn docker_host(&self) -> Option<&str> {
        self.engine.as_ref().map(|engine| engine.host.as_str())
    }

    /// Leaves all of them running, and remembers how to stop them.
    fn keep(mut self) -> Result<()> {
        let environment: serde_json::Map<String, Value> = self
            .environment()?
            .into_iter()
            .map(|(name, value)| (name.to_owned(), Value::String(value)))
            .collect();
        let pids: Vec<u32> = [&self.redis.keeper, &self.mongo.keeper]
            .into_iter()
            .filter_map(|keeper| match keeper {
                Keeper::Process(server) => Some(server.pid()),
                Keeper::Foreign | Keeper::Container(_) => None,
            })
            .chain(self.engine.as_ref().and_then(Engine::pid))
            .collect();
        let containers: Vec<&str> = [&self.redis.keeper, &self.mongo.keeper]
            .into_iter()
            .filter_map(|keeper| match keeper {
                Keeper::Container(container) => Some(container.id.as_str()),
                Keeper::Foreign | Keeper::Process(_) => None,
            })
            .collect();
        let folder = self._folder.take().context("the servers have no folder")?;
        State {
            value: json!({
                "environment": environment,
                "pids": pids,
                "containers": containers,
                "leaveSwarm": self.engine.as_ref().is_some_and(Engine::made_swarm),
                "folder": folder.path(),
            }),
        }
        .write()?;
        folder.keep();
        for found in [self.redis, self.mongo] {
            match found.keeper {
                Keeper::Process(server) => server.keep(),
                Keeper::Container(container) => container.keep(),
                Keeper::Foreign => {}
            }
        }
        if let Some(engine) = self.engine {
            engine.keep();
        }
        Ok(())
    }
}

/// A program, or a library that is loaded into one, from which a test starts what it may break.
struct Program {
    /// The variable that tells the tests where it is, and by which a person chooses another.
    variable: &'static str,
    path: Option<PathBuf>,
    /// What a person can do when there is none.
    advice: &'static str,
}

impl Program {
    fn get(
        variable: &'static str,
        find_or_install: fn() -> Result<Option<PathBuf>>,
        advice: &'static str,
    ) -> Result<Self> {
        let path = match from_environment(variable) {
            Some(path) => Some(path.into()),
            None => find_or_install()?,
        };
        Ok(Self {
            variable,
            path,
            advice,
        })
    }
}

/// All of them; what is missing is installed where that is possible.
fn programs() -> Result<[Program; 3]> {
    Ok([
        Program::get(
            "ROUNDTRIP_TEST_REDIS_PROGRAM",
            redis::program,
            redis::ADVICE,
        )?,
        Program::get(
            "ROUNDTRIP_TEST_MONGO_PROGRAM",
            mongo::program,
            mongo::ADVICE,
        )?,
        Program::get("ROUNDTRIP_TEST_FAKETIME", clock::library, clock::ADVICE)?,
    ])
}

/// `cargo xtask programs`. One that cannot be had is told on stderr: whether that is an error knows
/// who wants to use it.
///
/// # Errors
/// One can be installed, but that fails.
pub(crate) fn print_programs() -> Result<()> {
    for program in programs()? {
        match program.path {
            Some(path) => println!("export {}='{}'", program.variable, path.display()),
            None => eprintln!("warning: {}", program.advice),
        }
    }
    Ok(())
}

/// `cargo xtask servers up`.
///
/// # Errors
/// A server cannot be had, or what is needed to stop it later cannot be written down.
pub(crate) fn up(with_engine: bool) -> Result<()> {
    if let Some(state) = State::read()? {
        if !with_engine || state.variable("DOCKER_HOST").is_some() {
            return env();
        }
        bail!(
            "servers without a Docker engine are up; stop them first with `cargo xtask servers down`"
        );
    }
    Servers::get(with_engine)?.keep()?;
    env()
}

/// `cargo xtask servers env`.
///
/// # Errors
/// None are up.
pub(crate) fn env() -> Result<()> {
    let Some(state) = State::read()? else {
        bail!("no servers are up; start them with `cargo xtask servers up`");
    };
    for (name, value) in state.environment() {
        println!("export {name}='{value}'");
    }
    Ok(())
}

/// `cargo xtask servers down`.
///
/// # Errors
/// What is known about them cannot be read or removed.
pub(crate) fn down() -> Result<()> {
    let Some(state) = State::read_any()? else {
        eprintln!("no servers are up");
        return Ok(());
    };
    state.stop()
}

/// Whether the process is one of the programs that we start.
fn is_server(pid: u32) -> bool {
    fs::read_to_string(format!("/proc/{pid}/comm")).is_ok_and(|name| {
        ["redis-server", "mongod", mongo::SECANTUS.program, "dockerd"].contains(&name.trim())
    })
}

/// A command that cleans up: it runs even after an interrupt, and what it says matters only if it fails.
fn stop_quietly(command: &mut Command) {
    // A group of its own: a second Ctrl-C must not end it.
    match command.process_group(0).output() {
        Ok(output) if output.status.success() => {}
        Ok(output) => {
            eprintln!(
                "warning: cleaning up failed: {}",
                String::from_utf8_lossy(&output.stderr).trim()
            );
        }
        Err(error) => eprintln!("warning: cleaning up failed: {error}"),
    }
}

/// The Docker client, talking to this engine.
pub(crate) fn docker(host: &str) -> Command {
    let mut command = Command::new("docker");
    command.env("DOCKER_HOST", host);
    command
}

/// An engine that is already there and can be asked for containers, for servers that are found in no
/// other way. Does not start one: where that is possible, packages are too.
fn engine_that_pulls() -> Option<String> {
    engine::running().map(|(host, _)| host)
}

/// A variable of the environment; an empty one is none.
fn from_environment(name: &str) -> Option<String> {
    std::env::var(name).ok().filter(|value| !value.is_empty())
}

/// A port on 127.0.0.1 that nobody listens on now. Somebody could take it before the server does, which
/// then fails and says so.
fn free_port() -> Result<u16> {
    let listener =
        TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).context("no port is free on 127.0.0.1")?;
    Ok(listener
        .local_addr()
        .context("a listener without an address")?
        .port())
}

/// What to say when there is no other way left.
fn no_way(what: &str) -> anyhow::Error {
    let packages = if can_install_packages() {
        ""
    } else {
        ", and packages are installed only on Debian and as root"
    };
    anyhow::anyhow!(
        "no {what} on the PATH, no Docker engine that has or pulls an image with it{packages}"
    )
}
