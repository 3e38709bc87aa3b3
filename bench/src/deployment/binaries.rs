//! Our programs, built as they are shipped.

use std::{
    path::{Path, PathBuf},
    process::Stdio,
};

use anyhow::{Context, Result, ensure};
use serde_json::Value;
use tokio::process::Command;

/// What is measured.
const PACKAGES: [&str; 4] = ["frontend", "events-service", "backend", "roundtrip"];

/// The folder of the workspace.
pub(crate) fn workspace() -> PathBuf {
    let here = Path::new(env!("CARGO_MANIFEST_DIR"));
    here.parent().unwrap_or(here).to_owned()
}

/// The folder that cargo builds into.
pub(crate) fn target_folder() -> PathBuf {
    std::env::var_os("CARGO_TARGET_DIR").map_or_else(|| workspace().join("target"), PathBuf::from)
}

/// A cargo command in the workspace.
pub(crate) fn cargo() -> Command {
    let mut command = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    command.current_dir(workspace());
    command
}

/// Benchmarks of the crates. All of their crates are named, whichever are run: with others, cargo would
/// choose other features for what they depend on and compile everything anew.
pub(crate) fn cargo_bench(benches: &[&str]) -> Command {
    let mut command = cargo();
    command.args(["bench", "--quiet"]);
    command.args(
        ["shared", "frontend", "events-service"]
            .iter()
            .flat_map(|package| ["--package", package]),
    );
    command.args(benches.iter().flat_map(|bench| ["--bench", bench]));
    command.arg("--");
    command
}

/// Where our programs are.
#[derive(Debug, Clone)]
pub(crate) struct Binaries(pub(crate) PathBuf);

impl Binaries {
    /// The name of their folder.
    pub(crate) fn name(&self) -> String {
        let name = self.0.file_name().unwrap_or(self.0.as_os_str());
        name.to_string_lossy().into_owned()
    }

    /// Those in a folder, or else built with the release profile.
    ///
    /// # Errors
    /// They cannot be built.
    pub(crate) async fn get(folder: Option<&Path>) -> Result<Self> {
        if let Some(folder) = folder {
            // Processes are started in folders of their own.
            let folder = folder
                .canonicalize()
                .with_context(|| format!("resolve {}", folder.display()))?;
            return Ok(Self(folder));
        }
        let output = cargo()
            .args(["build", "--release", "--bins"])
            .arg("--message-format=json-render-diagnostics")
            .args(PACKAGES.iter().flat_map(|package| ["--package", package]))
            .stderr(Stdio::inherit())
            .output()
            .await
            .context("start cargo")?;
        ensure!(output.status.success(), "our programs cannot be built");
        let messages = String::from_utf8_lossy(&output.stdout);
        let built = messages
            .lines()
            .filter_map(|line| serde_json::from_str::<Value>(line).ok())
            .find_map(|message| Some(PathBuf::from(message["executable"].as_str()?)))
            .context("cargo has built no program")?;
        let folder = built.parent().context("a program in no folder")?;
        Ok(Self(folder.to_owned()))
    }
}
