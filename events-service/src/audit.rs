//! The audit log: a record of every request that became a task.
//!
//! This is the port. Two stores stand behind it, and one suite (`tests/suite/audit.rs`) holds for
//! both: [`mongo`] for deployments, [`sqlite`] for one process. [`batch`] collects what arrives
//! while the last write is under way into the next one.
//!
//! **Invariant**: a record that has ended never changes again. Completion is a compare-and-set on
//! `status: open`; the first result wins.
//!
//! Collections and field names: wire contract, "Audit collections". What we add to them is listed
//! at [`Record`].

use std::time::Duration;

use async_trait::async_trait;
use shared::contract::{Address, ContainerId, Failure, FailureCode, RecordId, RequestId};

mod balance;
pub mod batch;
pub mod mongo;
pub mod sqlite;
mod text_id;

pub use balance::{Balance, BalanceQuery, Finding, Older, SETTLED_AFTER};

/// The sentence in records that [`AuditLog::close_overdue`] closed.
const ABANDONED_DETAIL: &str = "the services that held the task ended before it did";

/// A record as we write it.
///
/// In the store, beside the contract's fields: `v` (2), `status`, `reason` (the failure's code) and
/// `detail`, `attempts`, `pure`, `image` of the container that answered, `callerRequestId`,
/// `deadline`, `dispatchedTime`, `waitedUs` and `ranUs` as the backend measured them,
/// `answeredFromId` (the record whose answer this one repeats), `reusable` (an answer that may be
/// repeated so), `salt` (16 random bytes, so that a seal over the record cannot be guessed from its
/// content) and `seal` (reserved, null); and `request` and `response`, if these texts are short.
#[derive(Debug, Clone, PartialEq)]
pub struct Record {
    /// Chosen by the events service; `_id` in the store.
    pub id: RecordId,
    /// The frontend's id of the request; unique among our records.
    pub request_id: RequestId,
    /// The `X-Request-Id` that the HTTP caller chose.
    pub caller_request_id: Option<String>,
    /// The frontend.
    pub frontend: Address,
    /// The events service that handles the request.
    pub events_service: Address,
    /// Name of the task.
    pub task: String,
    /// Name of the subtask.
    pub subtask: String,
    /// The request body as text.
    pub body: String,
    /// Whether the task has no effect, so that its answer may be given again.
    pub pure: bool,
    /// When the task arrived.
    pub received_unix_ms: u64,
    /// When nobody waits for it any more.
    pub deadline_unix_ms: u64,
    /// How far it got.
    pub progress: Progress,
    /// How it ended; `None` while it is open.
    pub end: Option<End>,
}

/// What was done about a record.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Progress {
    /// Number of dispatches.
    pub attempts: u32,
    /// When it was last dispatched.
    pub dispatched_unix_ms: Option<u64>,
    /// The backend that it was last dispatched to, or that answered.
    pub backend: Option<Address>,
    /// The image of that backend, where it is known.
    pub image: Option<String>,
}

/// How a record ended.
#[derive(Debug, Clone, PartialEq)]
pub struct End {
    /// The result, or why there is none.
    pub outcome: Outcome,
    /// When the result arrived, or it was given up.
    pub at_unix_ms: u64,
    /// Microseconds that it waited in the backend, where the backend says so.
    pub waited_us: Option<u64>,
    /// Microseconds that it ran in the backend, where the backend says so.
    pub ran_us: Option<u64>,
}

/// The result of a record, or why there is none.
#[derive(Debug, Clone, PartialEq)]
pub enum Outcome {
    /// A backend answered with this text.
    Answered(String),
    /// Answered with the text of another, earlier record.
    Repeated {
        /// The text.
        text: String,
        /// The record that a backend answered.
        from: RecordId,
    },
    /// It failed: status `timed_out` for [`FailureCode::DeadlineExceeded`], `abandoned` for
    /// [`FailureCode::Abandoned`], else `failed`.
    Failed(Failure),
}

impl Outcome {
    /// The status of a record that ended so.
    pub fn status(&self) -> Status {
        match self {
            Outcome::Answered(_) | Outcome::Repeated { .. } => Status::Answered,
            Outcome::Failed(failure) => match failure.code {
                FailureCode::DeadlineExceeded => Status::TimedOut,
                FailureCode::Abandoned => Status::Abandoned,
                _ => Status::Failed,
            },
        }
    }

    /// The response text, if there is one.
    pub fn text(&self) -> Option<&str> {
        match self {
            Outcome::Answered(text) | Outcome::Repeated { text, .. } => Some(text),
            Outcome::Failed(_) => None,
        }
    }
}

/// The state of a record, as the field `status` says it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Status {
    /// Not ended.
    Open,
    /// A backend answered, or an earlier record did.
    Answered,
    /// It failed, for the reason given.
    Failed,
    /// Its deadline passed.
    TimedOut,
    /// Those who held it died; closed by whoever came back.
    Abandoned,
}

impl Status {
    /// Every status, for help texts and counts.
    pub const ALL: [Status; 5] = [
        Status::Open,
        Status::Answered,
        Status::Failed,
        Status::TimedOut,
        Status::Abandoned,
    ];

    /// The status as it is stored.
    pub fn as_str(self) -> &'static str {
        match self {
            Status::Open => "open",
            Status::Answered => "answered",
            Status::Failed => "failed",
            Status::TimedOut => "timed_out",
            Status::Abandoned => "abandoned",
        }
    }
}

/// One write to the log.
#[derive(Debug, Clone, PartialEq)]
pub enum Write {
    /// A new record, open or already ended. Repeating it is harmless: who wrote it is part of it.
    Insert(Record),
    /// Ends a record that was inserted as open. `end` must be set.
    Complete(Record),
    /// Says anew who is at work on an open record: another events service takes it from one that has
    /// died, or its holder asks another backend. A compare-and-set on the events service, so that of
    /// several only one gets it.
    Reassign {
        /// The record.
        id: RecordId,
        /// Who held it.
        from: ContainerId,
        /// Who holds it from now on.
        by: Address,
        /// The backend that is asked from now on; `None` leaves what stands there.
        backend: Option<Address>,
    },
}

impl Write {
    /// The record that is written.
    pub fn id(&self) -> RecordId {
        match self {
            Write::Insert(record) | Write::Complete(record) => record.id,
            Write::Reassign { id, .. } => *id,
        }
    }
}

/// What became of a write. It is durable by then, as far as the store's setting goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Written {
    /// As asked.
    Done,
    /// The record had ended before, does not exist, or is no longer held by whom it was to be taken
    /// from: nothing was changed.
    AlreadyEnded,
    /// The request has a record already, written by another events service or ended otherwise:
    /// nothing was written.
    DuplicateRequest,
}

/// What an answer from the log is found by: the same frontend service asked for the same.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Question {
    /// The frontend's service.
    pub from_service: String,
    /// Name of the task.
    pub task: String,
    /// Name of the subtask.
    pub subtask: String,
    /// The request body as text.
    pub body: String,
}

/// An answer that stands in the log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Answer {
    /// The record that a backend answered.
    pub record: RecordId,
    /// Its response.
    pub text: String,
}

/// A record as it is read back: whatever is there, of ours and of older events services.
#[derive(Debug, Clone, Default, PartialEq, serde::Serialize)]
#[serde(rename_all = "camelCase")]
pub struct StoredRecord {
    /// `_id`, 24 hex digits.
    pub id: String,
    /// One of [`Status`]; for older records `answered` where there is a response, else `open`.
    pub status: String,
    /// Why it failed.
    pub reason: Option<String>,
    /// The sentence that goes with it.
    pub detail: Option<String>,
    /// The frontend's id of the request.
    pub request_id: Option<String>,
    /// The caller's own id of the request.
    pub caller_request_id: Option<String>,
    /// Name of the task.
    pub task: Option<String>,
    /// Name of the subtask.
    pub subtask: Option<String>,
    /// The request body, where its document exists.
    pub request: Option<String>,
    /// The response, where its document exists.
    pub response: Option<String>,
    /// The frontend.
    pub frontend_container: Option<String>,
    /// The frontend's service.
    pub frontend_service: Option<String>,
    /// The events service's container.
    pub events_container: Option<String>,
    /// The events service's service.
    pub events_service: Option<String>,
    /// The backend's container.
    pub backend_container: Option<String>,
    /// The backend's service.
    pub backend_service: Option<String>,
    /// The image of the backend.
    pub image: Option<String>,
    /// Number of dispatches.
    pub attempts: Option<u32>,
    /// Whether the task was marked as pure.
    pub pure: Option<bool>,
    /// The record whose answer was repeated.
    pub answered_from: Option<String>,
    /// When it arrived: RFC 3339 in UTC with milliseconds, or the text that an older service wrote.
    pub received_time: Option<String>,
    /// When it was last dispatched.
    pub dispatched_time: Option<String>,
    /// When the result arrived or it was given up.
    pub ended_time: Option<String>,
    /// When the reply was sent.
    pub sent_time: Option<String>,
    /// When nobody waits any more.
    pub deadline: Option<String>,
    /// Microseconds that it waited in the backend.
    pub waited_us: Option<u64>,
    /// Microseconds that it ran in the backend.
    pub ran_us: Option<u64>,
}

/// Which records to list, newest first.
#[derive(Debug, Clone, Default)]
pub struct Filter {
    /// Only of this status.
    pub status: Option<Status>,
    /// Only of this request (`requestId` or the caller's own id).
    pub request_id: Option<String>,
    /// Only received at or after this moment.
    pub since_unix_ms: Option<u64>,
    /// Only received before this moment.
    pub until_unix_ms: Option<u64>,
    /// At most so many.
    pub records_max: u32,
}

/// Which open records nobody will end, and who lives.
#[derive(Debug, Clone)]
pub struct Overdue {
    /// Those whose deadline lies before this moment,
    pub before_unix_ms: u64,
    /// but none of those that these events services hold: they live and end theirs by themselves.
    /// Deadlines were written by their clocks, which may be others than ours.
    pub spared: Vec<ContainerId>,
    /// The moment of closing.
    pub now_unix_ms: u64,
}

/// Why the log could not be written or read.
#[derive(Debug, thiserror::Error)]
pub enum AuditError {
    /// The store is out of reach or refuses for now: try again later. Whether a write took effect
    /// is not known; writing it again is harmless.
    #[error("the audit log cannot be reached at {at}")]
    Unavailable {
        /// The address or path, without credentials.
        at: String,
        /// The store's own words.
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// The store is there and will not serve us: too old a server, no permission, a file that is
    /// no database. Trying again is of no use until an operator has acted.
    #[error("the audit log at {at} cannot be used: {why}")]
    Unusable {
        /// The address or path, without credentials.
        at: String,
        /// What is wrong, and what to do.
        why: String,
    },
}

/// The audit log. Every method may be called at any time after [`AuditLog::prepare`] succeeded.
#[async_trait]
pub trait AuditLog: Send + Sync + 'static {
    /// Creates what the log needs (indexes, tables, the key of the text ids). Harmless to repeat.
    ///
    /// # Errors
    /// [`AuditError`]; call again after [`AuditError::Unavailable`].
    async fn prepare(&self) -> Result<(), AuditError>;

    /// How long a small batch waits for more, while the service is busy: something where a batch
    /// costs much by itself. Rounded up to whole ms.
    fn gather(&self) -> Duration {
        Duration::ZERO
    }

    /// Work of the log's own that goes on beside the writes, until it is dropped: for a log that writes
    /// later what nobody waits for. It is done in the name of the events service `me`; what it leaves
    /// undone, [`AuditLog::close`] does, or [`AuditLog::close_overdue`] of whoever finds it dead.
    async fn attend(&self, _me: &ContainerId) {
        std::future::pending().await
    }

    /// Writes a batch; the answer has one entry per write, in order, once all are durable.
    /// A batch never holds two writes of one record.
    ///
    /// # Errors
    /// [`AuditError`]: for each write it is then unknown whether it took effect.
    async fn write(&self, batch: &[Write]) -> Result<Vec<Written>, AuditError>;

    /// The answers that the log holds, in the order of the questions: only from records of pure
    /// tasks that a backend answered successfully, and whose response is really there.
    ///
    /// # Errors
    /// [`AuditError`].
    async fn find_answers(&self, questions: &[Question])
    -> Result<Vec<Option<Answer>>, AuditError>;

    /// Closes as `abandoned` every open record of ours that is overdue, and does what those left undone
    /// who are not spared. Returns how many records it closed.
    ///
    /// # Errors
    /// [`AuditError`].
    async fn close_overdue(&self, overdue: &Overdue) -> Result<u64, AuditError>;

    /// Whether the log holds any answered record: if not, no question needs to be asked of it.
    ///
    /// # Errors
    /// [`AuditError`].
    async fn has_answers(&self) -> Result<bool, AuditError>;

    /// Lists records, newest first, with their texts.
    ///
    /// # Errors
    /// [`AuditError`].
    async fn list(&self, filter: &Filter) -> Result<Vec<StoredRecord>, AuditError>;

    /// One record.
    ///
    /// # Errors
    /// [`AuditError`].
    async fn show(&self, id: RecordId) -> Result<Option<StoredRecord>, AuditError>;

    /// Counts records by what became of them, and looks for what must not be.
    ///
    /// # Errors
    /// [`AuditError`].
    async fn balance(&self, query: &BalanceQuery) -> Result<Balance, AuditError>;

    /// Whether the store answers now.
    ///
    /// # Errors
    /// [`AuditError`].
    async fn ping(&self) -> Result<(), AuditError>;

    /// Ends the store's connections; what was acknowledged stays.
    async fn close(&self);
}
