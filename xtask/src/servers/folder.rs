//! The folders that servers keep their files in, and what must go with them.

use std::{
    fs,
    path::{Path, PathBuf},
    time::{SystemTime, UNIX_EPOCH},
};

use anyhow::{Context as _, Result};
use nix::mount::{MntFlags, umount2};

use super::{engine, is_server};
use crate::process;

/// What the names of the folders begin with.
const PREFIX: &str = "roundtrip-";

/// Removes a folder of servers that have ended.
///
/// An engine leaves the networks of its last containers mounted there. While they are, their addresses
/// and the numbers of their overlays stay taken, and the next engine on this machine makes networks
/// that fail (`error creating vxlan interface: file exists`) or lead to nobody.
fn remove(path: &Path) {
    let mounts = fs::read_to_string("/proc/mounts").unwrap_or_default();
    let below = |line: &&str| Path::new(line).starts_with(path) && Path::new(line) != path;
    let places = mounts.lines().filter_map(|line| line.split(' ').nth(1));
    // The innermost first.
    for place in places.filter(below).collect::<Vec<_>>().into_iter().rev() {
        if let Err(error) = umount2(place, MntFlags::MNT_DETACH) {
            eprintln!("warning: cannot unmount {place}: {error}");
        }
    }
    if let Err(error) = fs::remove_dir_all(path) {
        eprintln!("warning: cannot remove {}: {error}", path.display());
    }
}

/// Removes the folders of engines that were killed, and with them the networks that they hold.
pub(super) fn remove_those_of_the_dead() {
    let Ok(entries) = fs::read_dir(std::env::temp_dir()) else {
        return;
    };
    for path in entries.flatten().map(|entry| entry.path()) {
        let is_ours = path
            .file_name()
            .is_some_and(|name| name.to_string_lossy().starts_with(PREFIX));
        let engine = fs::read_to_string(path.join("docker.pid")).ok();
        let is_dead = match engine.and_then(|pid| pid.trim().parse().ok()) {
            Some(pid) => !process::is_alive(pid) || !is_server(pid),
            // It has ended, or is about to start.
            None => fs::metadata(&path)
                .and_then(|folder| folder.modified())
                .is_ok_and(|at| at.elapsed().is_ok_and(|age| age > engine::START_MAX)),
        };
        if is_ours && path.join("engine").is_dir() && is_dead {
            remove(&path);
        }
    }
}

/// A folder for what servers keep while they run.
pub(super) struct Folder {
    path: PathBuf,
    owned: bool,
}

impl Folder {
    /// In the system's folder for temporary files: the path of a socket must be short.
    pub(super) fn create() -> Result<Self> {
        let moment = SystemTime::now()
            .duration_since(UNIX_EPOCH)
            .unwrap_or_default();
        let path = std::env::temp_dir().join(format!(
            "{PREFIX}{}-{:x}",
            std::process::id(),
            moment.as_millis()
        ));
        fs::create_dir(&path)
            .with_context(|| format!("cannot make the folder {}", path.display()))?;
        Ok(Self::created(path))
    }

    /// One that an earlier command made and left.
    pub(super) fn created(path: PathBuf) -> Self {
        Self { path, owned: true }
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    pub(super) fn keep(mut self) {
        self.owned = false;
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        if self.owned && self.path.exists() {
            remove(&self.path);
        }
    }
}
