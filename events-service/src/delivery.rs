//! What happens when a dispatch goes nowhere.
//!
//! The events service repeats a dispatch, and nobody else does: at once when nobody was there to
//! take it, after a share of the deadline when the backend is silent. A backend that sees a record
//! again answers from memory. Repeats have a budget, so that they never keep an overload alive.

use std::time::Duration;

use shared::{
    contract::{FailureCode, RecordId},
    discovery::Roster,
    outbox::Undelivered,
    repeats::silent_after,
};
use tokio::time::Instant;

use crate::{
    flights::{Stored, Work},
    flow::{Flow, Tag, Timer},
};

/// Dispatches of one work at most, but for those that nobody was there to take: the shares become
/// short towards the deadline.
pub(crate) const ATTEMPTS_MAX: u32 = 4;

impl Flow {
    /// Chooses a backend for a work and dispatches it; ends the work where there is none.
    pub(crate) fn place(&mut self, id: RecordId) {
        let Some(work) = self.in_flight.works.get_mut(&id) else {
            return;
        };
        work.backend = self.placement.choose(&work.service, &work.tried);
        if work.backend.is_some() {
            return self.dispatch(id);
        }
        let detail = match work.tried.len() {
            0 => format!(
                "no container of a service named like `{}` is there",
                work.service
            ),
            n => format!("none of the {n} containers of `{}` listens", work.service),
        };
        self.give_up(id, FailureCode::NoBackend, &detail);
    }

    /// A letter did not arrive.
    pub(crate) fn undelivered(&mut self, tag: Tag, why: Undelivered) {
        let Tag::Dispatch(id, attempt) = tag else {
            // The frontend has gone, and with it whoever waited.
            return self.metrics.dropped("reply_undelivered");
        };
        if why == Undelivered::Expired {
            // The deadline is that of the request, which ends by itself.
            return self.metrics.dropped("dispatch_expired");
        }
        let Some(work) = self.in_flight.works.get_mut(&id) else {
            return;
        };
        let stored = self.in_flight.flights.get(&id).map(|flight| flight.stored);
        if work.attempts != attempt || stored == Some(Stored::Moving) {
            // It is on its way to another one already.
            return;
        }
        if let Some(backend) = work.backend.take() {
            self.placement.done(&backend.address.container);
            work.tried.push(backend.address.container);
        }
        self.metrics.dispatched_again("nobody_there");
        self.place(id);
    }

    /// A backend has not answered in time.
    pub(crate) fn silent(&mut self, id: RecordId) {
        let Some(work) = self.in_flight.works.get_mut(&id) else {
            return;
        };
        work.timer = None;
        if !self.link.borrow().is_up {
            // Nobody can answer. When the bus is back, everything is sent again.
            let silent_at = Instant::now() + self.silent_after(id);
            let timer = self.timers.insert_at(Timer::Work(id), silent_at);
            if let Some(work) = self.in_flight.works.get_mut(&id) {
                work.timer = Some(timer);
            }
            return;
        }
        if work.backend.is_none() {
            return self.place(id);
        }
        if work.attempts >= ATTEMPTS_MAX {
            return;
        }
        let is_pure = work.question.is_some();
        if !is_pure && !has_lost_its_backend(work, &self.roster) {
            // Running it elsewhere would run it twice; the same backend knows what it has done.
            if self.budget.spend() {
                self.metrics.dispatched_again("silent_same");
                self.dispatch(id);
            }
            return;
        }
        if !self.another_backend(id, "silent") && self.budget.spend() {
            self.metrics.dispatched_again("silent_same");
            self.dispatch(id);
        }
    }

    /// Dispatches a work to another backend than the present one, where there is one and the budget
    /// allows.
    pub(crate) fn another_backend(&mut self, id: RecordId, why: &'static str) -> bool {
        let Some(work) = self.in_flight.works.get_mut(&id) else {
            return false;
        };
        let mut except = work.tried.clone();
        except.extend(
            work.backend
                .iter()
                .map(|backend| backend.address.container.clone()),
        );
        let Some(other) = self.placement.choose(&work.service, &except) else {
            return false;
        };
        if !self.budget.spend() {
            self.placement.done(&other.address.container);
            return false;
        }
        if let Some(backend) = work.backend.replace(other) {
            self.placement.done(&backend.address.container);
        }
        self.metrics.dispatched_again(why);
        self.dispatch(id);
        true
    }

    /// Containers have come or gone: works whose backend is gone go to another one.
    pub(crate) fn members_changed(&mut self) {
        let mut lost = Vec::new();
        for (id, work) in &mut self.in_flight.works {
            let unheard_of = work.unheard_of.as_ref();
            if unheard_of.is_some_and(|container| self.roster.is_alive(container)) {
                // From now on, it can be missed.
                work.unheard_of = None;
            }
            if has_lost_its_backend(work, &self.roster) {
                lost.push(*id);
            }
        }
        for id in lost {
            self.another_backend(id, "gone");
        }
    }

    /// The bus is back: whatever was under way may have been lost, and is sent again.
    pub(crate) fn link_is_back(&mut self) {
        let works: Vec<RecordId> = self.in_flight.works.keys().copied().collect();
        for id in works {
            self.metrics.dispatched_again("bus_is_back");
            self.dispatch(id);
        }
    }

    /// Ends a work and all who wait for it.
    fn give_up(&mut self, id: RecordId, code: FailureCode, detail: &str) {
        let Some(work) = self.leave_work(id) else {
            return;
        };
        for waiting in &work.waiting {
            if let Some(flight) = self.in_flight.flights.get_mut(waiting) {
                flight.record.progress = work.progress_so_far(*waiting);
            }
            self.fail(*waiting, code, detail);
        }
    }

    pub(crate) fn silent_after(&self, id: RecordId) -> Duration {
        let due = self
            .in_flight
            .works
            .get(&id)
            .and_then(|work| self.in_flight.due(work));
        let left = due.map(|due| due.saturating_duration_since(Instant::now()));
        silent_after(left.unwrap_or_default())
    }
}

/// Whether the backend of a work is gone.
fn has_lost_its_backend(work: &Work, roster: &Roster) -> bool {
    work.backend.as_ref().is_some_and(|backend| {
        let container = &backend.address.container;
        !roster.is_alive(container) && work.unheard_of.as_ref() != Some(container)
    })
}
