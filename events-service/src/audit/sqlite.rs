//! The audit log in a SQLite file: for one process, without a server.
//!
//! The same records under the same names as in MongoDB; ids are 24 hex digits, times are Unix time
//! in ms. While the service writes, others may read: `roundtrip audit`, or
//! `sqlite3 -readonly roundtrip.db 'select * from tasks order by fromReceivedTime desc limit 10'`.
//!
//! Read on in [`store`] (tables and writes), [`statements`], [`answers`],
//! [`checkpoint`], [`read`] and [`balance`].

mod answers;
mod balance;
mod checkpoint;
mod open;
mod read;
mod statements;
mod store;

use std::{path::Path, sync::Mutex, thread::JoinHandle};

use async_trait::async_trait;
use clap::ValueEnum;
use shared::contract::RecordId;
use tokio::sync::{mpsc, oneshot};

use self::store::Store;
use super::{
    Answer, AuditError, AuditLog, Balance, BalanceQuery, Filter, Overdue, Question, StoredRecord,
    Write, Written,
};

/// Commands that wait for the thread. The group commit, look-ups and the keeper have one each under
/// way; whoever finds the queue full waits.
const COMMANDS_MAX: usize = 64;

/// When a write to the file counts as durable.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, ValueEnum)]
pub enum SyncMode {
    /// It is on the disk: no acknowledged record is lost
    #[default]
    Full,
    /// The operating system has it: records of the last moments are lost with a crash of the machine
    Normal,
}

/// The audit log in a SQLite file.
///
/// One thread of its own has the connection: SQLite blocks, and has one writer at a time anyway.
pub struct SqliteAuditLog {
    at: String,
    commands: mpsc::Sender<Command>,
    /// Taken by whoever closes the log, to wait for its end.
    thread: Mutex<Option<JoinHandle<()>>>,
}

/// What the thread is asked to do. Whoever asked may have gone: then the answer is dropped.
enum Command {
    Prepare(Reply<()>),
    Write(Vec<Write>, Reply<Vec<Written>>),
    FindAnswers(Vec<Question>, Reply<Vec<Option<Answer>>>),
    CloseOverdue(Overdue, Reply<u64>),
    HasAnswers(Reply<bool>),
    List(Filter, Reply<Vec<StoredRecord>>),
    Show(RecordId, Reply<Option<StoredRecord>>),
    Balance(BalanceQuery, Reply<Balance>),
    Ping(Reply<()>),
    Close,
}

type Reply<T> = oneshot::Sender<Result<T, AuditError>>;

impl SqliteAuditLog {
    /// Opens the log, making the file if there is none.
    ///
    /// ```no_run
    /// use events_service::audit::sqlite::{SqliteAuditLog, SyncMode};
    ///
    /// let log = SqliteAuditLog::open("roundtrip.db".as_ref(), SyncMode::Full)?;
    /// # Ok::<(), events_service::audit::AuditError>(())
    /// ```
    ///
    /// # Errors
    /// [`AuditError::Unusable`] for a file that cannot be made or written, or is no database;
    /// [`AuditError::Unavailable`] while another process keeps it locked.
    pub fn open(path: &Path, sync: SyncMode) -> Result<Self, AuditError> {
        Self::serve(open::for_writing(path, sync)?)
    }

    /// Opens the log for reading only: nothing is made or changed, and whoever writes to it is not
    /// disturbed. [`AuditLog::prepare`] does nothing; writes fail.
    ///
    /// # Errors
    /// [`AuditError::Unusable`] for a file that is not there, cannot be read, or is no audit log.
    pub fn open_read_only(path: &Path) -> Result<Self, AuditError> {
        Self::serve(open::for_reading(path)?)
    }

    fn serve(store: Store) -> Result<Self, AuditError> {
        let at = store.at().to_owned();
        let (commands, queue) = mpsc::channel(COMMANDS_MAX);
        let thread = std::thread::Builder::new().name("audit log".to_owned());
        let thread =
            thread
                .spawn(move || serve(store, queue))
                .map_err(|error| AuditError::Unavailable {
                    at: at.clone(),
                    source: error.into(),
                })?;
        Ok(Self {
            at,
            commands,
            thread: Mutex::new(Some(thread)),
        })
    }

    async fn ask<T>(&self, command: impl FnOnce(Reply<T>) -> Command) -> Result<T, AuditError> {
        let (reply, answer) = oneshot::channel();
        let ended = || AuditError::Unavailable {
            at: self.at.clone(),
            source: "it is closed".into(),
        };
        self.commands
            .send(command(reply))
            .await
            .map_err(|_| ended())?;
        answer.await.map_err(|_| ended())?
    }
}

/// The thread: one command after the other, until it is told to close or nobody can ask any more.
fn serve(mut store: Store, mut queue: mpsc::Receiver<Command>) {
    while let Some(command) = queue.blocking_recv() {
        match command {
            Command::Prepare(reply) => answer(reply, store.prepare()),
            Command::Write(batch, reply) => answer(reply, store.write(&batch)),
            Command::FindAnswers(questions, reply) => answer(reply, store.find_answers(&questions)),
            Command::CloseOverdue(overdue, reply) => answer(reply, store.close_overdue(&overdue)),
            Command::HasAnswers(reply) => answer(reply, store.has_answers()),
            Command::List(filter, reply) => answer(reply, store.list(&filter)),
            Command::Show(id, reply) => answer(reply, store.show(id)),
            Command::Balance(query, reply) => answer(reply, store.balance(&query)),
            Command::Ping(reply) => answer(reply, store.ping()),
            Command::Close => break,
        }
    }
    // What was sent after the close is answered by being dropped.
    store.close();
}

fn answer<T>(reply: Reply<T>, outcome: Result<T, AuditError>) {
    // An error means that whoever asked does not wait any more.
    drop(reply.send(outcome));
}

#[async_trait]
impl AuditLog for SqliteAuditLog {
    async fn prepare(&self) -> Result<(), AuditError> {
        self.ask(Command::Prepare).await
    }

    async fn write(&self, batch: &[Write]) -> Result<Vec<Written>, AuditError> {
        self.ask(|reply| Command::Write(batch.to_vec(), reply))
            .await
    }

    async fn find_answers(
        &self,
        questions: &[Question],
    ) -> Result<Vec<Option<Answer>>, AuditError> {
        self.ask(|reply| Command::FindAnswers(questions.to_vec(), reply))
            .await
    }

    async fn close_overdue(&self, overdue: &Overdue) -> Result<u64, AuditError> {
        self.ask(|reply| Command::CloseOverdue(overdue.clone(), reply))
            .await
    }

    async fn has_answers(&self) -> Result<bool, AuditError> {
        self.ask(Command::HasAnswers).await
    }

    async fn list(&self, filter: &Filter) -> Result<Vec<StoredRecord>, AuditError> {
        self.ask(|reply| Command::List(filter.clone(), reply)).await
    }

    async fn show(&self, id: RecordId) -> Result<Option<StoredRecord>, AuditError> {
        self.ask(|reply| Command::Show(id, reply)).await
    }

    async fn balance(&self, query: &BalanceQuery) -> Result<Balance, AuditError> {
        self.ask(|reply| Command::Balance(*query, reply)).await
    }

    async fn ping(&self) -> Result<(), AuditError> {
        self.ask(Command::Ping).await
    }

    async fn close(&self) {
        if self.commands.send(Command::Close).await.is_err() {
            return;
        }
        let thread = self
            .thread
            .lock()
            .unwrap_or_else(std::sync::PoisonError::into_inner)
            .take();
        if let Some(thread) = thread {
            // The thread ends with what is queued, so this is a wait for a disk, not for a network.
            let waiting = tokio::task::spawn_blocking(move || thread.join().is_err());
            if matches!(waiting.await, Ok(true)) {
                tracing::error!("the thread of the audit log panicked");
            }
        }
    }
}
