//! Servers that stay up between two commands: remembered in a file, stopped from it.

use std::{fs, path::PathBuf};

use anyhow::{Context as _, Result};
use serde_json::Value;

use super::{container::Container, engine, folder::Folder, is_server};
use crate::{process, workspace};

/// What is known about servers that were left up.
pub(super) struct State {
    pub(super) value: Value,
}

impl State {
    fn file() -> PathBuf {
        workspace::state_dir().join("servers.json")
    }

    /// Servers that are up. Those of which one has ended meanwhile (a restart of the machine, say) are
    /// cleared away.
    pub(super) fn read() -> Result<Option<Self>> {
        let Some(state) = Self::read_any()? else {
            return Ok(None);
        };
        if state.pids().into_iter().all(process::is_alive) {
            return Ok(Some(state));
        }
        eprintln!("of the servers that were left up one has ended: stopping the others");
        state.stop()?;
        Ok(None)
    }

    pub(super) fn read_any() -> Result<Option<Self>> {
        let file = Self::file();
        if !file.exists() {
            return Ok(None);
        }
        let text =
            fs::read_to_string(&file).with_context(|| format!("cannot read {}", file.display()))?;
        let value = serde_json::from_str(&text).with_context(|| {
            format!(
                "{} is not what was written there; delete it",
                file.display()
            )
        })?;
        Ok(Some(Self { value }))
    }

    pub(super) fn write(&self) -> Result<()> {
        let file = Self::file();
        fs::create_dir_all(workspace::state_dir())
            .context("cannot make the folder target/xtask")?;
        fs::write(&file, format!("{:#}\n", self.value))
            .with_context(|| format!("cannot write {}", file.display()))
    }

    pub(super) fn variable(&self, name: &str) -> Option<&str> {
        self.value["environment"][name].as_str()
    }

    pub(super) fn environment(&self) -> impl Iterator<Item = (&String, &str)> {
        self.value["environment"]
            .as_object()
            .into_iter()
            .flatten()
            .filter_map(|(name, value)| Some((name, value.as_str()?)))
    }

    fn pids(&self) -> Vec<u32> {
        let pids = self.value["pids"].as_array().into_iter().flatten();
        pids.filter_map(Value::as_u64)
            .filter_map(|pid| u32::try_from(pid).ok())
            .collect()
    }

    pub(super) fn stop(self) -> Result<()> {
        if let Some(host) = self.variable("DOCKER_HOST") {
            for id in self.value["containers"]
                .as_array()
                .into_iter()
                .flatten()
                .filter_map(Value::as_str)
            {
                drop(Container::started(host, id));
            }
            if self.value["leaveSwarm"] == true {
                engine::leave_swarm(host);
            }
        }
        for pid in self.pids() {
            // A number from a file may have been given to another program since.
            if process::is_alive(pid) && is_server(pid) {
                process::end_group(pid);
            }
        }
        if let Some(folder) = self.value["folder"].as_str() {
            drop(Folder::created(folder.into()));
        }
        let file = Self::file();
        fs::remove_file(&file).with_context(|| format!("cannot remove {}", file.display()))
    }
}
