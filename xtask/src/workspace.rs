//! Where things lie.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result};

use crate::process;

/// The folder of the workspace's `Cargo.toml`.
pub(crate) fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .parent()
        .expect("this crate is a folder of the workspace")
}

/// What belongs to this clone and may be deleted any time nothing is running: state of servers, the
/// data of an engine of our own, folders to build images from.
pub(crate) fn state_dir() -> PathBuf {
    root().join("target").join("xtask")
}

/// What took long to get and is good for every clone on this machine: installed programs, base
/// images. `ROUNDTRIP_CACHE_DIR`, or `roundtrip` in the user's cache folder.
pub(crate) fn cache_dir() -> PathBuf {
    let from = |name: &str| std::env::var_os(name).filter(|value| !value.is_empty());
    if let Some(dir) = from("ROUNDTRIP_CACHE_DIR") {
        return dir.into();
    }
    if let Some(dir) = from("XDG_CACHE_HOME") {
        return PathBuf::from(dir).join("roundtrip");
    }
    match from("HOME") {
        Some(home) => PathBuf::from(home).join(".cache").join("roundtrip"),
        None => state_dir().join("cache"),
    }
}

/// A `cargo` command in the workspace: the cargo that runs us.
pub(crate) fn cargo() -> Command {
    let mut command = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    command.current_dir(root());
    command
}

/// The folder cargo puts binaries of this profile in.
///
/// # Errors
/// Cargo cannot read the workspace.
pub(crate) fn bin_dir(release: bool) -> Result<PathBuf> {
    let metadata =
        process::output(cargo().args(["metadata", "--no-deps", "--format-version", "1"]))?;
    let metadata: serde_json::Value =
        serde_json::from_str(&metadata).context("cannot read what cargo metadata printed")?;
    let target = metadata["target_directory"]
        .as_str()
        .context("cargo metadata names no target directory")?;
    Ok(Path::new(target).join(if release { "release" } else { "debug" }))
}
