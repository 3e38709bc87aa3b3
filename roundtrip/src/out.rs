//! What a command prints.

use std::io::{ErrorKind, Write};

use anyhow::Context;

/// Writes to standard output. A reader that has seen enough and closed the pipe (`… | head -1`) is
/// no error.
///
/// # Errors
/// Anything else that keeps it from being written, such as a full disk.
pub(crate) fn print(bytes: impl AsRef<[u8]>) -> anyhow::Result<()> {
    let mut out = std::io::stdout().lock();
    match out.write_all(bytes.as_ref()).and_then(|()| out.flush()) {
        Err(error) if error.kind() == ErrorKind::BrokenPipe => Ok(()),
        written => written.context("standard output cannot be written"),
    }
}
