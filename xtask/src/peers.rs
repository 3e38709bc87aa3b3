//! What `bench peers` measures beside ours and does not bring along.

use anyhow::Result;

use crate::install::program_of_package;

/// Programs and the packages of Debian that have them.
const PROGRAMS: [(&str, &str); 3] = [
    ("nats-server", "nats-server"),
    ("node", "nodejs"),
    ("npm", "npm"),
];

/// `cargo xtask peers`.
///
/// # Errors
/// One of them is not there and cannot be installed.
pub(crate) fn get() -> Result<()> {
    for (program, package) in PROGRAMS {
        println!("{}", program_of_package(program, package)?.display());
    }
    Ok(())
}
