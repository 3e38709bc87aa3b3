//! What is in flight: the requests that were taken and have not ended, and the work done for them.

use std::{
    collections::{HashMap, HashSet},
    sync::Arc,
};

use shared::{
    contract::{Address, ContainerId, RecordId, RequestId},
    discovery::Member,
};
use tokio::time::Instant;
use tokio_util::time::delay_queue;

use crate::audit::{Progress, Question, Record};

/// A request that was taken and has not ended.
#[derive(Debug)]
pub(crate) struct Flight {
    pub(crate) record: Record,
    /// When nobody waits for it any more.
    pub(crate) due: Instant,
    pub(crate) stored: Stored,
    /// The work that it waits for.
    pub(crate) work: Option<RecordId>,
    pub(crate) timer: Option<delay_queue::Key>,
}

/// How far the record has got in the log.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Stored {
    /// Not written.
    Not,
    /// Being written as open.
    Opening,
    /// Written as open.
    Open,
    /// Open, and being taken over from an events service that has died.
    TakingOver,
    /// Open, and being written to be at another backend.
    Moving,
    /// Being written as ended.
    Ending,
}

/// A task at a backend, for one request or several identical ones (single flight). It is known by
/// the record of the first.
#[derive(Debug)]
pub(crate) struct Work {
    /// The requests that wait for it; the first is the one it is known by.
    pub(crate) waiting: Vec<RecordId>,
    /// Whose answer it will be, for pure tasks.
    pub(crate) question: Option<Arc<Question>>,
    /// Keyword of the service that does it.
    pub(crate) service: String,
    pub(crate) attempts: u32,
    pub(crate) dispatched_unix_ms: Option<u64>,
    pub(crate) backend: Option<Member>,
    /// The backend that another events service had chosen, when nothing has been heard of it here:
    /// that does not mean that it has gone.
    pub(crate) unheard_of: Option<ContainerId>,
    /// Containers where nobody was there.
    pub(crate) tried: Vec<ContainerId>,
    pub(crate) timer: Option<delay_queue::Key>,
}

impl Work {
    /// The dispatches that the record of one of those who wait accounts for: all are those of the
    /// first, so that the records add up.
    fn attempts_of(&self, id: RecordId) -> u32 {
        if self.waiting.first() == Some(&id) {
            self.attempts
        } else {
            0
        }
    }

    /// For the record of a request that was answered.
    pub(crate) fn progress(&self, id: RecordId, answered_by: &Address) -> Progress {
        let dispatched_to = self
            .backend
            .as_ref()
            .filter(|backend| backend.address == *answered_by);
        Progress {
            attempts: self.attempts_of(id),
            dispatched_unix_ms: self.dispatched_unix_ms,
            backend: Some(answered_by.clone()),
            image: dispatched_to.and_then(|backend| backend.image.as_deref().map(str::to_owned)),
        }
    }

    /// For the record of a request that was not.
    pub(crate) fn progress_so_far(&self, id: RecordId) -> Progress {
        Progress {
            attempts: self.attempts_of(id),
            dispatched_unix_ms: self.dispatched_unix_ms,
            backend: self.backend.as_ref().map(|backend| backend.address.clone()),
            image: self
                .backend
                .as_ref()
                .and_then(|b| b.image.as_deref().map(str::to_owned)),
        }
    }

    pub(crate) fn how_far(&self) -> String {
        match &self.backend {
            Some(backend) => format!(
                "it was dispatched {} time(s), last to {}, and there was no result",
                self.attempts, backend.address
            ),
            None => "no backend could be reached".into(),
        }
    }
}

/// Everything in flight.
#[derive(Debug, Default)]
pub(crate) struct Flights {
    pub(crate) flights: HashMap<RecordId, Flight>,
    pub(crate) works: HashMap<RecordId, Work>,
    pub(crate) by_question: HashMap<Arc<Question>, RecordId>,
    by_request: HashSet<RequestId>,
}

impl Flights {
    pub(crate) fn len(&self) -> usize {
        self.flights.len()
    }

    pub(crate) fn has_request(&self, request: &RequestId) -> bool {
        self.by_request.contains(request)
    }

    pub(crate) fn insert(&mut self, flight: Flight) {
        self.by_request.insert(flight.record.request_id.clone());
        self.flights.insert(flight.record.id, flight);
    }

    pub(crate) fn remove(&mut self, id: RecordId) -> Option<Flight> {
        let flight = self.flights.remove(&id)?;
        self.by_request.remove(&flight.record.request_id);
        Some(flight)
    }

    /// Lets a request wait for the work that answers the same question; whether there is one.
    pub(crate) fn join(&mut self, id: RecordId, question: &Question) -> bool {
        let Some(work_id) = self.by_question.get(question).copied() else {
            return false;
        };
        match (self.works.get_mut(&work_id), self.flights.get_mut(&id)) {
            (Some(work), Some(flight)) => {
                work.waiting.push(id);
                flight.work = Some(work_id);
                true
            }
            _ => false,
        }
    }

    /// Takes a work out, with its place among the questions.
    pub(crate) fn remove_work(&mut self, id: RecordId) -> Option<Work> {
        let work = self.works.remove(&id)?;
        if let Some(question) = &work.question
            && self.by_question.get(question) == Some(&id)
        {
            self.by_question.remove(question);
        }
        Some(work)
    }

    /// When the last of those who wait for a work gives up.
    pub(crate) fn due(&self, work: &Work) -> Option<Instant> {
        work.waiting
            .iter()
            .filter_map(|id| self.flights.get(id))
            .map(|flight| flight.due)
            .max()
    }
}
