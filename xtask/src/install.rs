//! Fetches what a machine lacks: packages (on Debian, as root), and programs built by cargo.

use std::path::PathBuf;
use std::process::Command;
use std::sync::Once;

use anyhow::{Context as _, Result, bail};

use crate::process::{self, find_program, is_executable};
use crate::workspace;

/// Whether packages can be installed here: Debian (or a system made from it), as root.
pub(crate) fn can_install_packages() -> bool {
    nix::unistd::geteuid().is_root() && find_program("apt-get").is_some()
}

/// Installs Debian packages.
///
/// # Errors
/// This is not Debian, we are not root, or the package manager fails.
pub(crate) fn packages(names: &[&str]) -> Result<()> {
    if !can_install_packages() {
        bail!(
            "the packages {} are needed; they are installed only on Debian and as root",
            names.join(", ")
        );
    }
    static LISTS: Once = Once::new();
    let mut updated = Ok(());
    LISTS.call_once(|| updated = process::output(apt_get().arg("update")).map(drop));
    updated.context("cannot update the package lists")?;
    eprintln!("installing packages: {}", names.join(" "));
    process::output(
        apt_get()
            .args(["install", "--yes", "--no-install-recommends"])
            .args(names),
    )
    .with_context(|| format!("cannot install the packages {}", names.join(", ")))?;
    Ok(())
}

fn apt_get() -> Command {
    let mut command = Command::new("apt-get");
    command
        .arg("--quiet=2")
        .env("DEBIAN_FRONTEND", "noninteractive")
        // The system's own way to say that this is no moment to start services: the tests start
        // their own, on ports of their own.
        .env("RUNLEVEL", "1");
    command
}

/// The program, installed by its package if it is not there.
///
/// # Errors
/// It is not there and the package cannot be installed, or does not contain it.
pub(crate) fn program_of_package(program: &str, package: &str) -> Result<PathBuf> {
    if let Some(path) = find_program(program) {
        return Ok(path);
    }
    packages(&[package])?;
    find_program(program)
        .with_context(|| format!("the package {package} brings no program {program}"))
}

/// A crate with a program that the tests use.
pub(crate) struct CargoTool {
    pub(crate) program: &'static str,
    pub(crate) package: &'static str,
    pub(crate) version: &'static str,
    /// Further options for `cargo install`.
    pub(crate) options: &'static [&'static str],
    /// Debian packages that building it needs, each with a program by which to tell that it is there.
    pub(crate) build_packages: &'static [(&'static str, &'static str)],
}

impl CargoTool {
    /// Where it is, on the PATH or where an earlier run put it.
    pub(crate) fn find(&self) -> Option<PathBuf> {
        let installed = self.root().join("bin").join(self.program);
        is_executable(&installed)
            .then_some(installed)
            .or_else(|| find_program(self.program))
    }

    /// One folder per version: a newer version wanted is an install, not a confusion.
    fn root(&self) -> PathBuf {
        workspace::cache_dir().join(format!("{}-{}", self.package, self.version))
    }

    /// Where it is; builds it first if it is not there, which takes minutes.
    ///
    /// # Errors
    /// It cannot be built.
    pub(crate) fn find_or_install(&self) -> Result<PathBuf> {
        if let Some(path) = self.find() {
            return Ok(path);
        }
        let missing: Vec<&str> = self
            .build_packages
            .iter()
            .filter(|(program, _)| find_program(program).is_none())
            .map(|(_, package)| *package)
            .collect();
        if !missing.is_empty() {
            packages(&missing)?;
        }
        eprintln!(
            "building {} {} with cargo install; this takes some minutes, once",
            self.package, self.version
        );
        let build_dir = workspace::state_dir().join("install");
        process::output(
            workspace::cargo()
                .args([
                    "install",
                    "--quiet",
                    self.package,
                    "--version",
                    self.version,
                ])
                .args(self.options)
                .arg("--root")
                .arg(self.root())
                .env("CARGO_TARGET_DIR", &build_dir),
        )
        .with_context(|| format!("cannot install {}", self.package))?;
        // Some gigabytes that nobody needs any more.
        std::fs::remove_dir_all(&build_dir)
            .with_context(|| format!("cannot remove {}", build_dir.display()))?;
        self.find()
            .with_context(|| format!("{} brings no program {}", self.package, self.program))
    }
}
