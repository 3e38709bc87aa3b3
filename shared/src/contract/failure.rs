//! Why a task failed: the extension field `error`, and the codes that travel in it.

use std::fmt;

macro_rules! failure_codes {
    ($($(#[$doc:meta])* $name:ident = $text:literal,)*) => {
        /// Every reason for which a task that was accepted can fail. What the HTTP edge refuses
        /// before there is a task has codes of its own there.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
        pub enum FailureCode { $($(#[$doc])* $name,)* }

        impl FailureCode {
            /// All codes, for metrics and documentation.
            pub const ALL: &'static [FailureCode] = &[$(FailureCode::$name,)*];

            /// The code on the wire, in the audit log, in metrics and in the HTTP answer.
            pub fn as_str(self) -> &'static str {
                match self { $(FailureCode::$name => $text,)* }
            }

            /// The code of that name, if it is one of ours.
            pub fn from_name(name: &str) -> Option<Self> {
                match name { $($text => Some(FailureCode::$name),)* _ => None }
            }
        }
    };
}

failure_codes! {
    /// The second number of a division is zero.
    DivisionByZero = "division_by_zero",
    /// The result is no finite number (overflow, or a backend that answered no number).
    ResultNotFinite = "result_not_finite",
    /// The body is not what the handler of the task takes.
    BadOperands = "bad_operands",
    /// No service or no handler does this task.
    UnknownTask = "unknown_task",
    /// The handler ended the task with an error of its own.
    TaskFailed = "task_failed",
    /// The handler panicked.
    TaskPanicked = "task_panicked",
    /// A queue on the way is full.
    Overloaded = "overloaded",
    /// Nobody there to take the task.
    NoEventsService = "no_events_service",
    /// Nobody there to do the task.
    NoBackend = "no_backend",
    /// The bus (Redis) cannot be reached.
    BusUnavailable = "bus_unavailable",
    /// The audit log cannot be written.
    AuditUnavailable = "audit_unavailable",
    /// The deadline has passed.
    DeadlineExceeded = "deadline_exceeded",
    /// The services that held the task died before it ended.
    Abandoned = "abandoned",
}

impl FailureCode {
    /// Whether the same request may well succeed when it is sent again.
    pub fn is_retryable(self) -> bool {
        use FailureCode::*;
        match self {
            Overloaded | NoEventsService | NoBackend | BusUnavailable | AuditUnavailable
            | DeadlineExceeded | Abandoned => true,
            DivisionByZero | ResultNotFinite | BadOperands | UnknownTask | TaskFailed
            | TaskPanicked => false,
        }
    }

    /// Whether a backend ran the task and this came of it.
    pub fn comes_of_running(self) -> bool {
        use FailureCode::*;
        match self {
            DivisionByZero | ResultNotFinite | BadOperands | TaskFailed | TaskPanicked => true,
            UnknownTask | Overloaded | NoEventsService | NoBackend | BusUnavailable
            | AuditUnavailable | DeadlineExceeded | Abandoned => false,
        }
    }
}

impl fmt::Display for FailureCode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// A failed task: a code for programs and a sentence for people.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{detail}")]
pub struct Failure {
    /// What kind of failure.
    pub code: FailureCode,
    /// What was wrong, where, and what to do.
    pub detail: String,
}

impl Failure {
    /// A failure with its sentence.
    pub fn new(code: FailureCode, detail: impl Into<String>) -> Self {
        Self {
            code,
            detail: detail.into(),
        }
    }
}
