//! What the tests need from outside, by environment variables that `cargo xtask test` sets.

use std::{
    env,
    path::{Path, PathBuf},
};

use anyhow::{Context, Result, ensure};

/// `host:port` of the Redis server the tests share.
///
/// # Errors
/// A sentence that says what to do when the variable is missing.
pub fn redis_address() -> Result<String> {
    required("ROUNDTRIP_TEST_REDIS", "host:port of a Redis server")
}

/// The `mongodb://` address of the server the tests share.
///
/// # Errors
/// A sentence that says what to do when the variable is missing.
pub fn mongo_uri() -> Result<String> {
    let uri = required(
        "ROUNDTRIP_TEST_MONGO",
        "the mongodb:// address of a MongoDB server",
    )?;
    ensure!(
        uri.starts_with("mongodb://"),
        "ROUNDTRIP_TEST_MONGO must begin with mongodb://, it is {uri:?}"
    );
    Ok(uri)
}

/// One of our built binaries: `frontend`, `events-service`, `backend`, `roundtrip`, or
/// `examples/…`.
///
/// # Errors
/// A sentence that says what to do when it is not built.
pub fn binary(name: &str) -> Result<PathBuf> {
    let folder = required(
        "ROUNDTRIP_TEST_BIN_DIR",
        "the folder with the built binaries",
    )?;
    let path = Path::new(&folder).join(name);
    ensure!(
        path.is_file(),
        "{} is not there: build it, or run the tests by `cargo xtask test`",
        path.display()
    );
    // Tests start processes in folders of their own.
    path.canonicalize()
        .with_context(|| format!("resolve {}", path.display()))
}

/// The image of one of our services: `frontend`, `events-service` or `backend`.
///
/// # Errors
/// A sentence that says what to do when the variable is missing.
pub fn image(service: &str) -> Result<String> {
    Ok(format!("roundtrip-{service}:{}", image_tag()?))
}

/// The image that one of our services is updated to: the same service under another tag.
///
/// # Errors
/// A sentence that says what to do when the variable is missing.
pub fn next_image(service: &str) -> Result<String> {
    let tag = required(
        "ROUNDTRIP_TEST_IMAGE_TAG_NEXT",
        "another tag of the same images",
    )?;
    Ok(format!("roundtrip-{service}:{tag}"))
}

/// The tag of the images under test.
///
/// # Errors
/// A sentence that says what to do when the variable is missing.
pub fn image_tag() -> Result<String> {
    required(
        "ROUNDTRIP_TEST_IMAGE_TAG",
        "the tag of the built images roundtrip-frontend, -events-service and -backend",
    )
}

/// The program `redis-server`, for tests that start and stop a server of their own.
///
/// # Errors
/// A sentence that says what to do when there is none.
pub fn redis_program() -> Result<PathBuf> {
    program("ROUNDTRIP_TEST_REDIS_PROGRAM", "redis-server")
}

/// A program that speaks the MongoDB protocol, for tests that start and stop a server of their
/// own: `secantusd-rs` of the crate `secantus-mdb`, or a `mongod`.
///
/// # Errors
/// A sentence that says what to do when there is none.
pub fn mongo_program() -> Result<PathBuf> {
    program("ROUNDTRIP_TEST_MONGO_PROGRAM", "secantusd-rs")
        .or_else(|error| program("ROUNDTRIP_TEST_MONGO_PROGRAM", "mongod").map_err(|_| error))
}

fn required(variable: &str, meaning: &str) -> Result<String> {
    env::var(variable)
        .ok()
        .filter(|value| !value.is_empty())
        .with_context(|| {
            format!("{variable} is not set ({meaning}): run the tests by `cargo xtask test`")
        })
}

fn program(variable: &str, name: &str) -> Result<PathBuf> {
    if let Some(path) = env::var_os(variable) {
        let path = PathBuf::from(path);
        ensure!(
            path.is_file(),
            "{variable} names {}, which is no file",
            path.display()
        );
        return Ok(path);
    }
    let path = env::var_os("PATH").unwrap_or_default();
    env::split_paths(&path)
        .map(|folder| folder.join(name))
        .find(|candidate| candidate.is_file())
        .with_context(|| {
            format!(
                "{variable} is not set and {name} is not on the PATH: run the tests by \
                 `cargo xtask test`"
            )
        })
}
