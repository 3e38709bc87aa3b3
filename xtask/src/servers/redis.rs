//! Redis.

use std::io::{Read as _, Write as _};
use std::net::{Ipv4Addr, TcpStream};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::Result;

use super::{
    Found, Keeper, START_MAX,
    container::{self, Container},
    engine_that_pulls, free_port, no_way,
    state::State,
};
use crate::install;
use crate::process::{Server, check_interrupted, find_program};

const VARIABLE: &str = "ROUNDTRIP_TEST_REDIS";
const PROGRAM: &str = "redis-server";
const IMAGE: &str = "redis:7-bookworm";

/// What a person can do when it cannot be had.
pub(super) const ADVICE: &str = "the tests need Redis: install redis-server, or name a server by \
    ROUNDTRIP_TEST_REDIS=host:port";

/// Finds or starts one.
///
/// # Errors
/// None can be had.
pub(super) fn get(left_up: Option<&State>, folder: &Path) -> Result<Found> {
    if let Some(found) = Found::elsewhere(VARIABLE, left_up) {
        return Ok(found);
    }
    if let Some(program) = find_program(PROGRAM) {
        return start(&program, folder);
    }
    if let Some(host) = engine_that_pulls() {
        if let Ok((container, port)) = Container::start(&host, IMAGE, 6379) {
            return in_container(container, port);
        }
        check_interrupted()?;
    }
    start(&program()?.ok_or_else(|| no_way(PROGRAM))?, folder)
}

/// The program, if it is there or can be installed.
///
/// # Errors
/// It can be installed, but that fails.
pub(super) fn program() -> Result<Option<PathBuf>> {
    match find_program(PROGRAM) {
        None if install::can_install_packages() => {
            install::program_of_package(PROGRAM, "redis-server").map(Some)
        }
        found => Ok(found),
    }
}

fn start(program: &Path, folder: &Path) -> Result<Found> {
    let port = free_port()?;
    let mut command = Command::new(program);
    command
        .args(["--bind", "127.0.0.1", "--port", &port.to_string()])
        .args(["--save", "", "--appendonly", "no"])
        .arg("--dir")
        .arg(folder);
    let mut server = Server::start("Redis", &command, folder.join("redis.log"))?;
    server.wait_until(START_MAX, || answers(port))?;
    Ok(Found {
        variable: VARIABLE,
        address: format!("127.0.0.1:{port}"),
        origin: format!("started {}", program.display()),
        keeper: Keeper::Process(server),
    })
}

fn in_container(container: Container, port: u16) -> Result<Found> {
    container::wait_for(IMAGE, || answers(port))?;
    Ok(Found {
        variable: VARIABLE,
        address: format!("127.0.0.1:{port}"),
        origin: format!("started a container of {IMAGE}"),
        keeper: Keeper::Container(container),
    })
}

/// Whether a Redis answers there.
fn answers(port: u16) -> bool {
    let ask = || -> std::io::Result<bool> {
        let mut stream = TcpStream::connect((Ipv4Addr::LOCALHOST, port))?;
        stream.set_read_timeout(Some(Duration::from_secs(1)))?;
        stream.write_all(b"PING\r\n")?;
        let mut answer = [0; 7];
        stream.read_exact(&mut answer)?;
        Ok(&answer == b"+PONG\r\n")
    };
    ask().unwrap_or(false)
}
