//! What the tests need from outside, by environment variables that `cargo xtask test` sets.
//!
//! A program of its own, such as the chaos harness, calls [`provide`] first: it builds and gets
//! what no variable names.

use std::{
    collections::BTreeMap,
    env,
    ffi::OsString,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    sync::OnceLock,
};

use anyhow::{Context, Result, bail, ensure};

/// What [`provide`] found. A process must not change its own environment while others read it.
static PROVIDED: OnceLock<BTreeMap<String, OsString>> = OnceLock::new();

/// The tag that `cargo xtask images` gives unless told otherwise.
const USUAL_IMAGE_TAG: &str = "test";

const IMAGE_TAG: &str = "ROUNDTRIP_TEST_IMAGE_TAG";
const BIN_DIR: &str = "ROUNDTRIP_TEST_BIN_DIR";
const REDIS_PROGRAM: &str = "ROUNDTRIP_TEST_REDIS_PROGRAM";
const MONGO_PROGRAM: &str = "ROUNDTRIP_TEST_MONGO_PROGRAM";
const FAKETIME: &str = "ROUNDTRIP_TEST_FAKETIME";

/// Builds our services with the profile of the running program and finds or installs the programs
/// that servers are started from, as far as no variable names them. What cargo prints goes to
/// stderr. Needs the sources and cargo; blocks, the first time for minutes.
///
/// # Errors
/// When something does not compile or a program cannot be had.
pub fn provide() -> Result<()> {
    let mut provided = BTreeMap::new();
    if variable(BIN_DIR).is_none() {
        provided.insert(BIN_DIR.to_owned(), build()?.into());
    }
    if variable(IMAGE_TAG).is_none() {
        provided.insert(IMAGE_TAG.to_owned(), USUAL_IMAGE_TAG.into());
    }
    if are_missing(&[REDIS_PROGRAM, MONGO_PROGRAM, FAKETIME]) {
        provided.extend(programs()?);
    }
    // A second call finds everything and brings nothing new.
    PROVIDED.get_or_init(|| provided);
    Ok(())
}

/// The programs that servers are started from, without building anything of ours: for whoever measures
/// other binaries than those of these sources.
///
/// # Errors
/// When one cannot be had.
pub fn provide_servers() -> Result<()> {
    if are_missing(&[REDIS_PROGRAM, MONGO_PROGRAM]) {
        let provided = programs()?;
        PROVIDED.get_or_init(|| provided);
    }
    Ok(())
}

fn are_missing(names: &[&str]) -> bool {
    names.iter().any(|name| variable(name).is_none())
}

/// Builds the services and examples, and answers the folder they are in: the one that this
/// program was built into.
fn build() -> Result<PathBuf> {
    let program = env::current_exe().context("find this program")?;
    let mut folder = program.parent().context("a program lies in a folder")?;
    // Test programs lie one deeper.
    if folder.ends_with("deps") {
        folder = folder.parent().context("deps lies in a folder")?;
    }
    let profile = match folder.file_name().and_then(|name| name.to_str()) {
        Some("debug") | None => "dev",
        Some(name) => name,
    };
    let target = folder.parent().context("a profile has a folder above")?;
    let status = cargo()
        .args(["build", "--bins", "--examples", "--profile", profile])
        .arg("--target-dir")
        .arg(target)
        .stdout(Stdio::null())
        .status()
        .context("start cargo")?;
    ensure!(status.success(), "the services do not compile");
    Ok(folder.to_owned())
}

/// Asks `cargo xtask programs`.
fn programs() -> Result<BTreeMap<String, OsString>> {
    let output = cargo()
        .args(["run", "--quiet", "--package", "xtask", "--", "programs"])
        .stderr(Stdio::inherit())
        .output()
        .context("start cargo")?;
    ensure!(
        output.status.success(),
        "`cargo xtask programs` failed: see above"
    );
    let text = String::from_utf8(output.stdout)?;
    let line = |line: &str| {
        let (name, value) = line.strip_prefix("export ")?.split_once('=')?;
        Some((name.to_owned(), value.trim_matches('\'').into()))
    };
    text.lines()
        .map(|text| line(text).with_context(|| format!("`cargo xtask programs` says {text:?}")))
        .collect()
}

/// The cargo that runs us, in the workspace.
fn cargo() -> Command {
    let mut command = Command::new(env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    command
        .current_dir(concat!(env!("CARGO_MANIFEST_DIR"), "/.."))
        .stdin(Stdio::null());
    command
}

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
    let folder = required(BIN_DIR, "the folder with the built binaries")?;
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
        IMAGE_TAG,
        "the tag of the built images roundtrip-frontend, -events-service and -backend",
    )
}

/// The program `redis-server`, for tests that start and stop a server of their own.
///
/// # Errors
/// A sentence that says what to do when there is none.
pub fn redis_program() -> Result<PathBuf> {
    program(REDIS_PROGRAM, "redis-server")
}

/// A program that speaks the MongoDB protocol, for tests that start and stop a server of their
/// own: `secantusd-rs` of the crate `secantus-mdb`, or a `mongod`.
///
/// # Errors
/// A sentence that says what to do when there is none.
pub fn mongo_program() -> Result<PathBuf> {
    program(MONGO_PROGRAM, "secantusd-rs")
        .or_else(|error| program(MONGO_PROGRAM, "mongod").map_err(|_| error))
}

/// The library libfaketime, which shows a process another time.
///
/// # Errors
/// A sentence that says what to do when there is none.
pub fn faketime_library() -> Result<PathBuf> {
    program(FAKETIME, "libfaketime.so.1")
}

/// A variable that is set, here or by [`provide`].
fn variable(name: &str) -> Option<OsString> {
    let provided = || PROVIDED.get()?.get(name).cloned();
    env::var_os(name)
        .filter(|value| !value.is_empty())
        .or_else(provided)
}

fn required(name: &str, meaning: &str) -> Result<String> {
    let value = variable(name).with_context(|| {
        format!("{name} is not set ({meaning}): run the tests by `cargo xtask test`")
    })?;
    match value.into_string() {
        Ok(value) => Ok(value),
        Err(value) => bail!("{name} is no text: {}", value.display()),
    }
}

fn program(variable_name: &str, name: &str) -> Result<PathBuf> {
    if let Some(path) = variable(variable_name) {
        let path = PathBuf::from(path);
        ensure!(
            path.is_file(),
            "{variable_name} names {}, which is no file",
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
                "{variable_name} is not set and {name} is not on the PATH: run the tests by \
                 `cargo xtask test`"
            )
        })
}
