//! Puts what was committed from the log beside the file (WAL) into the file while the writer goes
//! on. The writer would do it all at once between two commits, and every request would wait for it:
//! the pages of a full log are at thousands of places of the file.
//!
//! The writer still does the last step. The log is begun anew only after a checkpoint that found
//! nothing more to do, and while somebody writes that can only be the writer's own: it comes when
//! the log is full, and finds little that is not in the file yet.

use std::{
    path::Path,
    sync::mpsc::{Receiver, SyncSender, TrySendError, sync_channel},
    thread::JoinHandle,
};

use rusqlite::{Connection, OpenFlags};

/// Writes between two checkpoints: often enough that little is left for the writer, seldom enough
/// that a page that changes with every batch is not copied with every batch.
const WRITES: usize = 2_000;

/// The thread that does it. It ends when this is dropped.
pub(super) struct Checkpoints {
    wake: Option<SyncSender<()>>,
    thread: Option<JoinHandle<()>>,
    writes: usize,
}

impl Checkpoints {
    /// Starts the thread, with a connection of its own.
    ///
    /// # Errors
    /// The file cannot be opened.
    pub(super) fn start(path: &Path) -> rusqlite::Result<Self> {
        let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
        let connection = Connection::open_with_flags(path, flags)?;
        let (wake, woken) = sync_channel(1);
        let thread = std::thread::Builder::new()
            .name("checkpoints".to_owned())
            .spawn(move || checkpoint(&connection, &woken))
            .inspect_err(|error| tracing::error!(%error, "no thread for the checkpoints"))
            .ok();
        Ok(Self {
            wake: Some(wake),
            thread,
            writes: 0,
        })
    }

    /// So much more is in the log beside the file.
    pub(super) fn written(&mut self, writes: usize) {
        self.writes += writes;
        if self.writes < WRITES {
            return;
        }
        self.writes = 0;
        if let Some(wake) = &self.wake
            && wake.try_send(()) == Err(TrySendError::Disconnected(()))
        {
            // The writer does all of it from now on.
            tracing::error!("the thread of the checkpoints has ended");
            self.wake = None;
        }
    }
}

impl Drop for Checkpoints {
    /// Waits for the checkpoint under way: the last connection to be closed takes the log beside the
    /// file away.
    fn drop(&mut self) {
        self.wake = None;
        if let Some(thread) = self.thread.take()
            && thread.join().is_err()
        {
            tracing::error!("the thread of the checkpoints panicked");
        }
    }
}

fn checkpoint(connection: &Connection, woken: &Receiver<()>) {
    while woken.recv().is_ok() {
        // Passive: it waits for nobody, and nobody waits for it.
        let done = connection.query_row("pragma wal_checkpoint(passive)", [], |_| Ok(()));
        if let Err(error) = done {
            // What it leaves, the writer's own checkpoint does, and tells when it cannot.
            tracing::debug!(%error, "no checkpoint");
        }
    }
}
