//! The check of the dependencies.

use std::process::{Command, ExitCode};

use anyhow::Result;

use crate::install::CargoTool;
use crate::{process, workspace};

const CARGO_DENY: CargoTool = CargoTool {
    program: "cargo-deny",
    package: "cargo-deny",
    version: "0.20.2",
    options: &["--locked"],
    build_packages: &[],
};

/// Runs cargo-deny by `deny.toml`: all checks where the database of advisories can be had, and
/// otherwise, with a clear word, all but that one.
///
/// # Errors
/// cargo-deny cannot be had, or finds something.
pub(crate) fn run() -> Result<ExitCode> {
    let program = CARGO_DENY.find_or_install()?;
    let deny = || {
        let mut command = Command::new(&program);
        command.arg("--workspace").current_dir(workspace::root());
        command
    };
    process::run(deny().args([
        "check",
        "--hide-inclusion-graph",
        "bans",
        "licenses",
        "sources",
    ]))?;
    match process::output(deny().args(["fetch", "db"])) {
        Ok(_) => process::run(deny().args(["check", "--disable-fetch", "advisories"]))?,
        Err(error) => {
            process::check_interrupted()?;
            let error = format!("{error:#}");
            let reason = error.lines().last().unwrap_or_default();
            eprintln!("advisories NOT checked: their database cannot be fetched here ({reason})");
        }
    }
    Ok(ExitCode::SUCCESS)
}
