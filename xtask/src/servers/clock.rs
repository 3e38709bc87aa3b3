//! A library that shows one process another time than the rest: libfaketime.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};

use crate::install;

const PACKAGE: &str = "libfaketime";

/// What a person can do when it cannot be had.
pub(super) const ADVICE: &str = "the tests of wrong clocks need libfaketime: install it, or name the \
    file libfaketime.so.1 by ROUNDTRIP_TEST_FAKETIME";

/// Where it is, if it is there or can be installed.
///
/// # Errors
/// It can be installed, but that fails.
pub(super) fn library() -> Result<Option<PathBuf>> {
    match find() {
        None if install::can_install_packages() => {
            install::packages(&[PACKAGE])?;
            let installed = find();
            installed
                .map(Some)
                .with_context(|| format!("the package {PACKAGE} brings no library"))
        }
        found => Ok(found),
    }
}

/// In the folders of Debian (one for each architecture) and of others.
fn find() -> Option<PathBuf> {
    let folders = ["/usr/lib", "/usr/lib64", "/usr/local/lib"].map(PathBuf::from);
    let of_architectures = fs::read_dir("/usr/lib")
        .into_iter()
        .flatten()
        .flatten()
        .map(|entry| entry.path());
    folders
        .into_iter()
        .chain(of_architectures)
        .map(|folder| folder.join("faketime/libfaketime.so.1"))
        .find(|library| Path::is_file(library))
}
