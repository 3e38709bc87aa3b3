//! A server in a container, where there is an engine and no such program.

use std::time::{Duration, Instant};

use anyhow::{Result, bail};

use super::{START_MAX, docker, free_port, stop_quietly};
use crate::process;

/// A container of ours that holds a server.
pub(super) struct Container {
    pub(super) host: String,
    pub(super) id: String,
    owned: bool,
}

impl Container {
    /// Starts `image` with `port` published on a free port of 127.0.0.1, and returns that port too.
    pub(super) fn start(host: &str, image: &str, port: u16) -> Result<(Self, u16)> {
        let published = free_port()?;
        let id = process::output(docker(host).args([
            "run",
            "--detach",
            "--rm",
            "--publish",
            &format!("127.0.0.1:{published}:{port}"),
            image,
        ]))?;
        Ok((Self::started(host, id.trim()), published))
    }

    /// One that runs already.
    pub(super) fn started(host: &str, id: &str) -> Self {
        Self {
            host: host.to_owned(),
            id: id.to_owned(),
            owned: true,
        }
    }

    pub(super) fn keep(mut self) {
        self.owned = false;
    }
}

impl Drop for Container {
    fn drop(&mut self) {
        if self.owned {
            // Not through `process`: it must be stopped also after an interrupt.
            stop_quietly(docker(&self.host).args(["rm", "--force", "--volumes", &self.id]));
        }
    }
}

/// Waits until the server in a container answers.
pub(super) fn wait_for(image: &str, ready: impl Fn() -> bool) -> Result<()> {
    let deadline = Instant::now() + START_MAX;
    while !ready() {
        process::check_interrupted()?;
        if Instant::now() >= deadline {
            bail!(
                "a container of {image} did not answer within {} s",
                START_MAX.as_secs()
            );
        }
        std::thread::sleep(Duration::from_millis(100));
    }
    Ok(())
}
