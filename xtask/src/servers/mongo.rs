//! A server that speaks MongoDB's protocol.
//!
//! MongoDB itself is in no package of Debian's. What stands in for it there is built by cargo from a
//! crate; it is only ever run as a program of its own.

use std::fs;
use std::io::{Read as _, Write as _};
use std::net::{Ipv4Addr, TcpStream};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context as _, Result};

use super::{
    Found, Keeper, START_MAX,
    container::{self, Container},
    engine_that_pulls, free_port, no_way,
    state::State,
};
use crate::install::{self, CargoTool};
use crate::process::{Server, check_interrupted, find_program};

const VARIABLE: &str = "ROUNDTRIP_TEST_MONGO";
const IMAGE: &str = "mongo:7";

/// What a person can do when it cannot be had.
pub(super) const ADVICE: &str = "the tests need a server that speaks MongoDB's protocol: install mongod, \
    or name a server by ROUNDTRIP_TEST_MONGO=mongodb://host:port";

/// A WiredTiger-based server that MongoDB's drivers take for MongoDB.
pub(crate) const SECANTUS: CargoTool = CargoTool {
    program: "secantusd-rs",
    package: "secantus-mdb",
    version: "0.5.3-beta.196",
    options: &["--ignore-rust-version"],
    build_packages: &[
        ("cmake", "cmake"),
        ("make", "make"),
        ("ninja", "ninja-build"),
        ("clang", "clang"),
        ("g++", "g++"),
        // It has no program of its own; the one that never is there makes sure that it is installed.
        ("libclang", "libclang-dev"),
    ],
};

/// Finds or starts one.
///
/// # Errors
/// None can be had.
pub(super) fn get(left_up: Option<&State>, folder: &Path) -> Result<Found> {
    if let Some(found) = Found::elsewhere(VARIABLE, left_up) {
        return Ok(found);
    }
    if let Some(program) = found_program() {
        return start(&program, folder);
    }
    if let Some(host) = engine_that_pulls() {
        if let Ok((container, port)) = Container::start(&host, IMAGE, 27017) {
            return in_container(container, port);
        }
        check_interrupted()?;
    }
    start(&program()?.ok_or_else(|| no_way("mongod"))?, folder)
}

/// The program, if it is there or can be installed.
///
/// # Errors
/// It can be installed, but that fails.
pub(super) fn program() -> Result<Option<PathBuf>> {
    match found_program() {
        None if install::can_install_packages() => SECANTUS.find_or_install().map(Some),
        found => Ok(found),
    }
}

/// The database itself, or what stands in for it.
fn found_program() -> Option<PathBuf> {
    find_program("mongod").or_else(|| SECANTUS.find())
}

fn start(program: &Path, folder: &Path) -> Result<Found> {
    let port = free_port()?;
    let data = folder.join("mongo");
    fs::create_dir_all(&data)
        .with_context(|| format!("cannot make the folder {}", data.display()))?;
    let mut command = Command::new(program);
    if program.ends_with(SECANTUS.program) {
        command.args([
            "--host",
            "127.0.0.1",
            "--standalone",
            "--cache-size",
            "256M",
        ]);
        command.arg("--storage-path");
    } else {
        command.args(["--bind_ip", "127.0.0.1", "--dbpath"]);
    }
    command.arg(&data).args(["--port", &port.to_string()]);
    let mut server = Server::start(
        "the MongoDB-protocol server",
        &command,
        folder.join("mongo.log"),
    )?;
    server.wait_until(START_MAX, || answers(port))?;
    Ok(Found {
        variable: VARIABLE,
        address: format!("mongodb://127.0.0.1:{port}"),
        origin: format!("started {}", program.display()),
        keeper: Keeper::Process(server),
    })
}

fn in_container(container: Container, port: u16) -> Result<Found> {
    container::wait_for(IMAGE, || answers(port))?;
    Ok(Found {
        variable: VARIABLE,
        address: format!("mongodb://127.0.0.1:{port}"),
        origin: format!("started a container of {IMAGE}"),
        keeper: Keeper::Container(container),
    })
}

/// Whether a server that speaks the protocol answers there. A published port of a container accepts
/// connections before there is a server behind it, so it is asked something.
fn answers(port: u16) -> bool {
    let ask = || -> std::io::Result<bool> {
        let mut stream = TcpStream::connect((Ipv4Addr::LOCALHOST, port))?;
        stream.set_read_timeout(Some(Duration::from_secs(1)))?;
        stream.write_all(&hello())?;
        let mut header = [0; 16];
        stream.read_exact(&mut header)?;
        // The last number of the header says what kind of message it is.
        Ok(header[12..] == OP_MSG.to_le_bytes())
    };
    ask().unwrap_or(false)
}

/// The only kind of message that servers of our day exchange with their clients.
const OP_MSG: i32 = 2013;

/// The message `{hello: 1, $db: "admin"}`.
fn hello() -> Vec<u8> {
    let mut document = Vec::new();
    document.extend(b"\x10hello\0");
    document.extend(1_i32.to_le_bytes());
    document.extend(b"\x02$db\0");
    document.extend(6_i32.to_le_bytes());
    document.extend(b"admin\0");
    document.push(0);
    let mut body = Vec::new();
    // No flags; one section, of kind 0: a single document, which begins with its own length.
    body.extend(0_i32.to_le_bytes());
    body.push(0);
    body.extend(length(document.len() + 4).to_le_bytes());
    body.extend(document);
    let mut message = Vec::new();
    message.extend(length(body.len() + 16).to_le_bytes());
    for number in [1, 0, OP_MSG] {
        message.extend(number.to_le_bytes());
    }
    message.extend(body);
    message
}

fn length(bytes: usize) -> i32 {
    i32::try_from(bytes).expect("a message of some dozen bytes")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_greeting_says_its_own_length() {
        let message = hello();
        assert_eq!(message[..4], length(message.len()).to_le_bytes());
        let document = &message[21..];
        assert_eq!(document[..4], length(document.len()).to_le_bytes());
        assert_eq!(document.last(), Some(&0));
    }
}
