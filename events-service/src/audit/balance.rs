//! The log's side of the ledger: what became of every record.
//!
//! Each record counts as one [`Kind`], so that the sum holds by construction; what must not be is a
//! [`Finding`] of its own, with the first of those that it was found in.

use std::{collections::BTreeMap, time::Duration};

use serde::Serialize;
use shared::contract::FailureCode;

/// So long after its deadline a record has been closed by a sweep, unless nobody sweeps or the sweep
/// cannot write; and so long after its end its response is there: the two are written at once, in
/// whatever order.
pub const SETTLED_AFTER: Duration = Duration::from_secs(6);
/// Records that a finding names.
pub(super) const NAMED_MAX: u32 = 5;

/// Which records are counted.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct BalanceQuery {
    /// Only received at or after this moment.
    pub since_unix_ms: Option<u64>,
    /// Only received before this moment.
    pub until_unix_ms: Option<u64>,
    /// Open records with a deadline before this moment are overdue, and records that ended before it
    /// must have their response: usually [`SETTLED_AFTER`] ago.
    pub settled_before_unix_ms: u64,
}

/// What became of the records, in numbers. What older events services wrote is in `older` only.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Balance {
    /// All of them: the requests that were offered to the events services and taken.
    pub records: u64,
    /// Answered by a backend.
    pub answered: u64,
    /// Answered from another record.
    pub repeated: u64,
    /// Failed, by code. Timed out and abandoned ones have counts of their own.
    pub failed: BTreeMap<String, u64>,
    /// Their deadline passed.
    pub timed_out: u64,
    /// Closed by the sweep.
    pub abandoned: u64,
    /// Open, and not overdue.
    pub in_flight: u64,
    /// Open although the deadline has passed: never ended.
    pub overdue: Finding,
    /// Records whose fields contradict one another: two results, or an end and none. Nothing we do
    /// writes that. What is checked: the status is one of ours; an end has a time and what is open
    /// has none; a failure's code stands in what failed, timed out or was abandoned, and nowhere
    /// else; a response only in what was answered.
    pub contradictory: Finding,
    /// Answered records, of those above, whose response is not there although they are settled.
    pub without_response: Finding,
    /// Requests with more than one record; they are named by `requestId`.
    pub recorded_twice: Finding,
    /// Dispatches. Of identical tasks that shared one, it counts with the first.
    pub attempts: u64,
    /// Those that were not the first of their record.
    pub attempts_repeated: u64,
    /// What older events services wrote, which is not checked.
    pub older: Older,
}

/// Something that must not be, and where it was found.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Finding {
    /// How often.
    pub count: u64,
    /// The ids of the first few.
    pub first: Vec<String>,
}

/// Records of older events services.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct Older {
    /// All of them.
    pub records: u64,
    /// Those that name a response.
    pub answered: u64,
}

impl Balance {
    /// All records that got a result.
    pub fn answered_in_all(&self) -> u64 {
        self.answered + self.repeated
    }

    /// Records that a backend executed: answered, or failed in the handler. A failure that identical
    /// tasks shared counts with each of them.
    pub fn executions(&self) -> u64 {
        let failed = self.failed.iter().filter(|(code, _)| {
            FailureCode::from_name(code).is_some_and(FailureCode::comes_of_running)
        });
        self.answered + failed.map(|(_, count)| count).sum::<u64>()
    }
}

/// What a record counts as.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    Answered,
    Repeated,
    Failed,
    TimedOut,
    Abandoned,
    InFlight,
    Overdue,
    Contradictory,
}

impl Kind {
    const ALL: [Self; 8] = [
        Self::Answered,
        Self::Repeated,
        Self::Failed,
        Self::TimedOut,
        Self::Abandoned,
        Self::InFlight,
        Self::Overdue,
        Self::Contradictory,
    ];

    /// As the stores' queries name it.
    pub(super) fn as_str(self) -> &'static str {
        match self {
            Self::Answered => "answered",
            Self::Repeated => "repeated",
            Self::Failed => "failed",
            Self::TimedOut => "timed_out",
            Self::Abandoned => "abandoned",
            Self::InFlight => "in_flight",
            Self::Overdue => "overdue",
            Self::Contradictory => "contradictory",
        }
    }

    /// The kind of that name. Whatever a store cannot name is no record that we wrote.
    pub(super) fn from_name(name: &str) -> Self {
        let known = Self::ALL.into_iter().find(|kind| kind.as_str() == name);
        known.unwrap_or(Self::Contradictory)
    }
}

/// Records of one kind and, for failed ones, one code.
pub(super) struct Group {
    pub(super) kind: Kind,
    pub(super) code: Option<String>,
    pub(super) records: u64,
    pub(super) attempts: u64,
    pub(super) attempts_repeated: u64,
}

impl Balance {
    /// Adds records to the sum.
    pub(super) fn add(&mut self, group: Group) {
        let Group { kind, records, .. } = group;
        self.records += records;
        match kind {
            Kind::Answered => self.answered += records,
            Kind::Repeated => self.repeated += records,
            Kind::Failed => {
                *self
                    .failed
                    .entry(group.code.unwrap_or_default())
                    .or_default() += records
            }
            Kind::TimedOut => self.timed_out += records,
            Kind::Abandoned => self.abandoned += records,
            Kind::InFlight => self.in_flight += records,
            Kind::Overdue => self.overdue.count += records,
            Kind::Contradictory => self.contradictory.count += records,
        }
        // What was answered from another record was not dispatched.
        if kind != Kind::Repeated {
            self.attempts += group.attempts;
            self.attempts_repeated += group.attempts_repeated;
        }
    }
}
