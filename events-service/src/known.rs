//! What the log knows already: an answer to the same question, or the request's own record, written
//! by another events service.
//!
//! A frontend offers a request to another events service when the first is gone or silent. Both give
//! it the same record ([`RecordId::of_request`]), so whoever writes second finds the record of the
//! first: it repeats the answer that stands there, finishes a record whose holder has died, and
//! otherwise leaves it to its holder. A record is completed once, whoever does it.

use std::sync::atomic::Ordering;

use shared::contract::{Address, ContainerId, Ended, Failure, FailureCode, RecordId};

use crate::{
    answers::{Found, Known, Lookup},
    audit::{Answer, Outcome, Question, Record, Status, StoredRecord},
    flights::Stored,
    flow::Flow,
};

impl Flow {
    /// A pure task: answered from memory, joined to the same task in flight, looked up in the log,
    /// or done.
    pub(crate) fn answer_or_work(&mut self, id: RecordId, service: &str) {
        let Some(flight) = self.in_flight.flights.get(&id) else {
            return;
        };
        let question = question_of(&flight.record);
        if let Some(answer) = self.answers.get(&question) {
            let Answer { record, text } = answer.clone();
            return self.end(id, Outcome::Repeated { text, from: record }, None);
        }
        if self.in_flight.join(id, &question) {
            return;
        }
        let may_hold = self.log_may_hold_answers.load(Ordering::Relaxed);
        let asked = may_hold
            && self.lookup_worth.is_worth_one()
            && self
                .lookups
                .try_send(Lookup::Answer(id, question.clone()))
                .is_ok();
        if !asked {
            self.work(vec![id], Some(question.into()), service.to_owned());
        }
    }

    /// What was looked up.
    pub(crate) fn found(&mut self, found: Found) {
        match found {
            Found::Answer(id, answer) => self.found_answer(id, answer),
            Found::Record(id, known) => self.found_record(id, known),
        }
    }

    fn found_answer(&mut self, id: RecordId, answer: Option<Answer>) {
        self.lookup_worth.came_back(answer.is_some());
        let Some(flight) = self.in_flight.flights.get(&id) else {
            return;
        };
        if flight.record.end.is_some() {
            // Its deadline passed meanwhile.
            return;
        }
        let question = question_of(&flight.record);
        if let Some(answer) = answer {
            self.answers.insert(question, answer.clone());
            let Answer { record, text } = answer;
            return self.end(id, Outcome::Repeated { text, from: record }, None);
        }
        // Another one may have begun the same meanwhile.
        if !self.in_flight.join(id, &question)
            && let Some(service) = self.service_of(id)
        {
            self.work(vec![id], Some(question.into()), service);
        }
    }

    /// The request has a record that is not as we would write it.
    pub(crate) fn look_up_record(&mut self, id: RecordId) {
        let Some(flight) = self.in_flight.flights.get(&id) else {
            return;
        };
        let lookup = Lookup::Record(id, flight.record.request_id.clone());
        if self.lookups.try_send(lookup).is_err() {
            self.found_record(id, None);
        }
    }

    fn found_record(&mut self, id: RecordId, known: Option<Known>) {
        let Some(flight) = self.in_flight.flights.get_mut(&id) else {
            return;
        };
        let Some(Known {
            stored,
            living_holder,
        }) = known
        else {
            let detail =
                "the request has a record already, which could not be read from the audit log";
            let failure = Failure::new(FailureCode::AuditUnavailable, detail);
            return self.answer(id, Ended::Failed(failure));
        };
        if stored.status == Status::Answered.as_str() && stored.response.is_none() {
            // Its text is being written at this moment, by an events service that then answers.
            return self.drop_flight(id, "held_by_another");
        }
        if stored.status != Status::Open.as_str() {
            return self.answer(id, ended_of(*stored));
        }
        if stored.id != id.to_string() {
            return self.drop_flight(id, "held_by_another");
        }
        if flight.record.pure {
            // Who of those that hold it completes it first does not matter.
            flight.stored = Stored::Open;
            return self.opened(id);
        }
        if flight.record.end.is_some() {
            // Its deadline passed meanwhile, and nobody waits. Whoever holds the record ends it, or
            // the sweep does.
            return self.drop_flight(id, "held_by_another");
        }
        if living_holder.is_some_and(|holder| holder != self.me.address().container) {
            return self.drop_flight(id, "held_by_another");
        }
        let asked = stored
            .backend_container
            .zip(stored.backend_service)
            .and_then(|(container, service)| Address::new(&container, &service).ok());
        match stored
            .events_container
            .and_then(|holder| holder.parse().ok())
        {
            Some(holder) => self.take_over(id, holder, asked),
            None => self.drop_flight(id, "held_by_nobody"),
        }
    }

    /// Takes an open record from an events service that has died. The backend that it had chosen is
    /// asked again: if it has done the task, it answers from memory. So is one that nothing has been
    /// heard of: whoever has just started does not know all that are there. The bus says whether it
    /// is.
    fn take_over(&mut self, id: RecordId, from: ContainerId, asked: Option<Address>) {
        if let Some(work) = self.in_flight.works.get_mut(&id)
            && let Some(asked) = asked
        {
            let container = asked.container.clone();
            work.unheard_of = (!self.roster.is_alive(&container)).then_some(container);
            if let Some(other) = work.backend.replace(self.placement.choose_this(asked)) {
                self.placement.done(&other.address.container);
            }
        }
        self.reassign(id, Some(from));
    }

    /// An open record of another is ours now.
    pub(crate) fn taken_over(&mut self, id: RecordId) {
        self.metrics.dispatched_again("taken_over");
        if let Some(work) = self.in_flight.works.get_mut(&id) {
            // The dispatch of whoever held it before.
            work.attempts += 1;
        }
        self.opened(id);
    }
}

pub(crate) fn question_of(record: &Record) -> Question {
    Question {
        from_service: record.frontend.service.to_string(),
        task: record.task.clone(),
        subtask: record.subtask.clone(),
        body: record.body.clone(),
    }
}

/// How a stored record ended.
fn ended_of(stored: StoredRecord) -> Ended {
    match (stored.status.as_str(), stored.response) {
        ("answered", Some(text)) => Ended::Final(text),
        (_, _) => {
            let code = stored.reason.as_deref().and_then(FailureCode::from_name);
            let code = code.unwrap_or(FailureCode::Abandoned);
            Ended::Failed(Failure::new(code, stored.detail.unwrap_or_default()))
        }
    }
}
