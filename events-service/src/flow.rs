//! The path of a request through the events service, from top to bottom.
//!
//! A *task* is taken, its record opened (or an answer found that stands in the log), a backend
//! chosen and the *dispatch* published; a *result* completes the record, and then the *reply* is
//! published. One task of the runtime owns all the state here; what happens when a dispatch goes
//! nowhere is in [`delivery`](crate::delivery).

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use shared::{
    bus::Link,
    clock::Clock,
    contract::{
        Address, Addressee, ContainerId, Dispatch, Ended, EventMessage, Failure, FailureCode,
        RecordId, Rejected, Reply, RequestId, Task, TaskResult, excerpt, normalize_result,
    },
    discovery::Roster,
    object_ids::ObjectIds,
    outbox::{Letter, Outbox},
    placement::Placement,
    repeats::{RetryBudget, silent_after},
};
use tokio::{
    sync::{mpsc, watch},
    time::Instant,
};
use tokio_util::time::DelayQueue;
use tracing::debug;

use crate::{
    answers::{AnswerCache, Lookup, LookupWorth},
    audit::{
        Answer, End, Outcome, Progress, Question, Record, Write, Written,
        batch::{self, LogWriter},
    },
    delivery::ATTEMPTS_MAX,
    flights::{Flight, Flights, Stored, Work},
    known::question_of,
    metrics::Metrics,
    settings::FlowSettings,
    task_maps::TaskMaps,
};

/// A pure task whose result takes longer is written as open; most are then written once, when they
/// have ended. Several times the latency under full load, so that a busy system does not begin to
/// write everything twice.
const OPEN_AFTER: Duration = Duration::from_millis(100);

/// Largest body and result: a document of MongoDB holds 16 MiB at most.
pub(crate) const TEXT_BYTES_MAX: usize = 8 << 20;
/// Largest task beside its body: names and ids, which stand in its record.
const HEAD_BYTES_MAX: usize = 64 << 10;
/// As much as is recorded of the sentence of a failed task.
const DETAIL_BYTES_MAX: usize = 64 << 10;
/// A reply is of use for so long after the deadline: older frontends wait for longer than that, or
/// for ever.
const REPLY_GRACE: Duration = Duration::from_secs(1);

/// What a letter of ours was about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Tag {
    /// A dispatch: its work, and which attempt.
    Dispatch(RecordId, u32),
    /// A reply.
    Reply,
}

/// What is due.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Timer {
    /// A request is to be written as open, or its deadline has passed.
    Flight(RecordId),
    /// A backend has been silent for too long.
    Work(RecordId),
}

/// The state of the events service.
pub(crate) struct Flow {
    pub(crate) me: Addressee,
    pub(crate) clock: Clock,
    pub(crate) settings: FlowSettings,
    pub(crate) maps: watch::Receiver<Arc<TaskMaps>>,
    pub(crate) roster: Arc<Roster>,
    pub(crate) placement: Placement,
    pub(crate) outbox: Outbox<Tag>,
    pub(crate) link: watch::Receiver<Link>,
    pub(crate) log: LogWriter,
    pub(crate) log_is_up: watch::Receiver<bool>,
    pub(crate) lookups: mpsc::Sender<Lookup>,
    /// Whether the log may hold answers that are not in the cache.
    pub(crate) log_may_hold_answers: Arc<AtomicBool>,
    pub(crate) lookup_worth: LookupWorth,
    pub(crate) answers: AnswerCache,
    /// For requests whose id is none of a record.
    pub(crate) ids: ObjectIds,
    pub(crate) in_flight: Flights,
    pub(crate) timers: DelayQueue<Timer>,
    pub(crate) budget: RetryBudget,
    pub(crate) metrics: Metrics,
    pub(crate) last_task: Instant,
}

impl Flow {
    /// A message on the event channel.
    pub(crate) fn hear(&mut self, payload: &[u8]) {
        match self.me.event(payload) {
            Ok(EventMessage::Task(task)) => self.take_task(task),
            Ok(EventMessage::Result(result)) => self.take_result(result),
            Err(Rejected::NotForMe) => self.metrics.dropped("not_for_me"),
            Err(rejected) => {
                self.metrics.dropped("malformed");
                let payload = excerpt(&String::from_utf8_lossy(payload));
                debug!(error = %rejected, payload, "dropped");
            }
        }
    }

    // 1. The task.

    fn take_task(&mut self, task: Task) {
        self.last_task = Instant::now();
        if self.in_flight.has_request(&task.request_id) {
            // The frontend sends it again after an outage; it is still being worked on.
            return self.metrics.dropped("task_repeated");
        }
        if self.in_flight.len() >= self.settings.in_flight_max {
            let detail = format!(
                "{} requests are in flight already",
                self.settings.in_flight_max
            );
            return self.refuse(&task, Failure::new(FailureCode::Overloaded, detail));
        }
        if !*self.log_is_up.borrow() {
            let detail = "the audit log cannot be written at present, so nothing is started";
            return self.refuse(&task, Failure::new(FailureCode::AuditUnavailable, detail));
        }
        if let Some(failure) = too_large(&task) {
            return self.refuse(&task, failure);
        }
        let maps = self.maps.borrow().clone();
        let map = maps.get(&task.task);
        let (usual, longest) = (self.settings.usual_deadline, self.settings.longest_deadline);
        let ahead = self.roster.clock_ahead_ms(&task.from.container);
        let mut due = self
            .clock
            .deadline(task.deadline_unix_ms, ahead, usual, longest);
        if let Some(timeout) = map.and_then(|map| map.timeout) {
            due = due.min(Instant::now() + timeout);
        }
        let left = due.saturating_duration_since(self.last_task);
        if self.log.is_behind(self.last_task, left) {
            let detail = "the audit log takes records more slowly than tasks come";
            return self.refuse(&task, Failure::new(FailureCode::Overloaded, detail));
        }
        self.metrics.taken.inc();
        let is_pure = map.is_some_and(|map| map.pure);
        let id = RecordId::of_request(&task.request_id).unwrap_or_else(|| self.ids.next());
        self.board(id, task, is_pure, due);
        match map {
            None => {
                let (name, known) = (self.name_of(id), maps.names().join(", "));
                self.fail(
                    id,
                    FailureCode::UnknownTask,
                    format!("no service does the task `{name}`; known are {known}"),
                );
            }
            Some(_) if due <= Instant::now() => {
                self.fail(
                    id,
                    FailureCode::DeadlineExceeded,
                    "the deadline had passed when the task arrived",
                );
            }
            Some(map) if is_pure => self.answer_or_work(id, &map.service),
            Some(map) => self.work(vec![id], None, map.service.clone()),
        }
    }

    /// The request is ours from now on: it ends, and its record with it.
    fn board(&mut self, id: RecordId, task: Task, pure: bool, due: Instant) {
        let record = Record {
            id,
            request_id: task.request_id,
            caller_request_id: task.caller_request_id,
            frontend: task.from,
            events_service: task.to,
            task: task.task,
            subtask: task.subtask,
            body: task.body,
            pure,
            received_unix_ms: self.clock.unix_ms(self.last_task),
            deadline_unix_ms: self.clock.unix_ms(due),
            progress: Progress::default(),
            end: None,
        };
        let first_due = if pure {
            due.min(self.last_task + OPEN_AFTER)
        } else {
            due
        };
        let timer = Some(self.timers.insert_at(Timer::Flight(id), first_due));
        self.in_flight.insert(Flight {
            record,
            due,
            stored: Stored::Not,
            work: None,
            timer,
        });
    }

    // 2. The record, or what the log knows already (`known`).

    /// Writes the record as open.
    pub(crate) fn open(&mut self, id: RecordId) {
        let Some(flight) = self.in_flight.flights.get_mut(&id) else {
            return;
        };
        flight.stored = Stored::Opening;
        if let Some(work) = flight.work.and_then(|work| self.in_flight.works.get(&work)) {
            flight.record.progress = work.progress_so_far(id);
        }
        let write = Write::Insert(flight.record.clone());
        self.write(write);
    }

    fn name_of(&self, id: RecordId) -> String {
        let flight = self.in_flight.flights.get(&id);
        flight
            .map(|flight| flight.record.task.clone())
            .unwrap_or_default()
    }

    pub(crate) fn service_of(&self, id: RecordId) -> Option<String> {
        let flight = self.in_flight.flights.get(&id)?;
        Some(self.maps.borrow().get(&flight.record.task)?.service.clone())
    }

    // 3. The dispatch.

    /// Begins the work that these requests wait for.
    pub(crate) fn work(
        &mut self,
        waiting: Vec<RecordId>,
        question: Option<Arc<Question>>,
        service: String,
    ) {
        let Some(&id) = waiting.first() else { return };
        for waiting in &waiting {
            if let Some(flight) = self.in_flight.flights.get_mut(waiting) {
                flight.work = Some(id);
            }
        }
        if let Some(question) = &question {
            self.in_flight.by_question.insert(question.clone(), id);
        }
        let work = Work {
            waiting,
            question,
            service,
            attempts: 0,
            dispatched_unix_ms: None,
            backend: None,
            unheard_of: None,
            tried: Vec::new(),
            timer: None,
        };
        self.in_flight.works.insert(id, work);
        self.place(id);
    }

    /// Publishes a dispatch to the backend that was chosen, and waits for its result. A task that is
    /// not pure is dispatched only when its open record is durable and names that backend: whoever
    /// takes the record over has to ask there.
    pub(crate) fn dispatch(&mut self, id: RecordId) {
        let Some(work) = self.in_flight.works.get(&id) else {
            return;
        };
        let (Some(due), Some(flight)) = (self.in_flight.due(work), self.in_flight.flights.get(&id))
        else {
            return;
        };
        match flight.stored {
            _ if flight.record.pure => {}
            Stored::Open if !is_at(&flight.record, work) => return self.reassign(id, None),
            Stored::Open => {}
            Stored::Not => return self.open(id),
            // `opened` follows.
            Stored::Opening | Stored::TakingOver | Stored::Moving | Stored::Ending => return,
        }
        let Some(work) = self.in_flight.works.get_mut(&id) else {
            return;
        };
        let Some(backend) = &work.backend else { return };
        work.attempts += 1;
        if work.attempts == 1 {
            self.metrics.dispatched.inc();
            self.budget.earn();
        }
        let now = Instant::now();
        work.dispatched_unix_ms = Some(self.clock.unix_ms(now));
        let dispatch = Dispatch {
            record_id: id,
            to: backend.address.clone(),
            from: self.me.address().clone(),
            task: flight.record.task.clone(),
            subtask: flight.record.subtask.clone(),
            body: flight.record.body.clone(),
            deadline_unix_ms: Some(self.clock.unix_ms(due)),
            attempt: Some(work.attempts),
            traceparent: None,
        };
        let letter = Letter {
            to: dispatch.to.clone(),
            payload: dispatch.encode().into(),
            expires: due,
            has_alternatives: true,
            tag: Tag::Dispatch(id, work.attempts),
        };
        if let Some(timer) = work.timer.take() {
            self.timers.try_remove(&timer);
        }
        let silent_at = now + silent_after(due.saturating_duration_since(now));
        work.timer = Some(self.timers.insert_at(Timer::Work(id), silent_at));
        if self.outbox.send(letter).is_err() {
            // It counts as silent: sent again in time, or failed at the deadline.
            self.metrics.dropped("outbox_full");
        }
    }

    /// Writes which backend an open record is at, and whose it is: ours, taken `from` another events
    /// service where there is one.
    pub(crate) fn reassign(&mut self, id: RecordId, from: Option<ContainerId>) {
        let (Some(flight), Some(work)) = (
            self.in_flight.flights.get_mut(&id),
            self.in_flight.works.get(&id),
        ) else {
            return;
        };
        let by = self.me.address().clone();
        let backend = work.backend.as_ref().map(|member| member.address.clone());
        flight.record.progress.backend = backend.clone();
        flight.stored = match from {
            Some(_) => Stored::TakingOver,
            None => Stored::Moving,
        };
        let from = from.unwrap_or_else(|| by.container.clone());
        self.write(Write::Reassign {
            id,
            from,
            by,
            backend,
        });
    }

    // 4. The result.

    fn take_result(&mut self, result: TaskResult) {
        let Some(work) = self.in_flight.works.get(&result.record_id) else {
            // The first result has won, or the deadline had.
            return self.metrics.unused_result("late");
        };
        if let Ended::Failed(failure) = &result.ended
            && failure.code == FailureCode::Overloaded
        {
            let backend = work.backend.as_ref().map(|member| &member.address);
            if backend != Some(&result.from) {
                // It refuses what is at another by now.
                return self.metrics.unused_result("late");
            }
            if work.attempts < ATTEMPTS_MAX && self.another_backend(result.record_id, "refused") {
                return self.metrics.unused_result("refused");
            }
        }
        self.metrics.results_taken.inc();
        let Some(mut work) = self.leave_work(result.record_id) else {
            return;
        };
        if let Ended::Failed(failure) = &result.ended
            && failure.code == FailureCode::DeadlineExceeded
            && work.waiting.len() > 1
        {
            // It was not run: the deadline was that of the first. Who joined later has time left.
            let later = work.waiting.split_off(1);
            self.work(later, work.question.clone(), work.service.clone());
        }
        let Some(first) = self.in_flight.flights.get(&result.record_id) else {
            return;
        };
        let outcome = match result.ended {
            Ended::Final(text) | Ended::Raw(text) if text.len() > TEXT_BYTES_MAX => {
                let size = text.len();
                let detail = format!(
                    "the result has {size} bytes, more than the {TEXT_BYTES_MAX} that can be recorded"
                );
                Err(Failure::new(FailureCode::TaskFailed, detail))
            }
            Ended::Final(text) => Ok(text),
            Ended::Raw(text) => normalize_result(&first.record.task, text),
            Ended::Failed(mut failure) => {
                let end = failure.detail.floor_char_boundary(DETAIL_BYTES_MAX);
                failure.detail.truncate(end);
                Err(failure)
            }
        };
        for (nth, id) in work.waiting.iter().enumerate() {
            if let Some(flight) = self.in_flight.flights.get_mut(id) {
                flight.record.progress = work.progress(*id, &result.from);
            }
            let outcome = match &outcome {
                Ok(text) if nth == 0 => Outcome::Answered(text.clone()),
                Ok(text) => Outcome::Repeated {
                    text: text.clone(),
                    from: result.record_id,
                },
                Err(failure) => Outcome::Failed(failure.clone()),
            };
            self.end(*id, outcome, result.timing);
        }
    }

    /// Takes a work out of flight: nobody waits for its backend any more.
    pub(crate) fn leave_work(&mut self, id: RecordId) -> Option<Work> {
        let work = self.in_flight.remove_work(id)?;
        if let Some(backend) = &work.backend {
            self.placement.done(&backend.address.container);
        }
        if let Some(timer) = &work.timer {
            self.timers.try_remove(timer);
        }
        Some(work)
    }

    /// Ends a request with a failure.
    pub(crate) fn fail(&mut self, id: RecordId, code: FailureCode, detail: impl Into<String>) {
        self.end(id, Outcome::Failed(Failure::new(code, detail)), None);
    }

    /// Ends a request: its record is completed, and when that is durable it is answered.
    pub(crate) fn end(
        &mut self,
        id: RecordId,
        outcome: Outcome,
        timing: Option<shared::contract::Timing>,
    ) {
        let at_unix_ms = self.clock.now_unix_ms();
        let Some(flight) = self.in_flight.flights.get_mut(&id) else {
            return;
        };
        if flight.record.end.is_some() {
            return;
        }
        flight.work = None;
        if let Some(timer) = flight.timer.take() {
            self.timers.try_remove(&timer);
        }
        flight.record.end = Some(End {
            outcome,
            at_unix_ms,
            waited_us: timing.map(|timing| timing.waited_us),
            ran_us: timing.map(|timing| timing.ran_us),
        });
        let write = match flight.stored {
            Stored::Not => Write::Insert(flight.record.clone()),
            Stored::Open => Write::Complete(flight.record.clone()),
            // Completed when the opening is durable.
            Stored::Opening | Stored::TakingOver | Stored::Moving | Stored::Ending => return,
        };
        flight.stored = Stored::Ending;
        self.write(write);
    }

    pub(crate) fn write(&mut self, write: Write) {
        let id = write.id();
        if self.log.write(write).is_err() {
            self.written((id, None));
        }
    }

    // 5. The reply.

    /// The log has answered.
    pub(crate) fn log_answered(&mut self, outcomes: Vec<batch::Outcome>) {
        self.log.came_back(outcomes.len());
        outcomes
            .into_iter()
            .for_each(|outcome| self.written(outcome));
    }

    /// What became of a write.
    fn written(&mut self, (id, written): batch::Outcome) {
        let Some(flight) = self.in_flight.flights.get_mut(&id) else {
            return;
        };
        let was = flight.stored;
        match written {
            Some(Written::Done) => match was {
                Stored::Opening | Stored::Moving => {
                    flight.stored = Stored::Open;
                    self.opened(id);
                }
                Stored::TakingOver => {
                    flight.stored = Stored::Open;
                    self.taken_over(id);
                }
                Stored::Not | Stored::Open | Stored::Ending => self.reply(id),
            },
            // Somebody else has it, or had it and ended it.
            Some(Written::DuplicateRequest | Written::AlreadyEnded) => self.look_up_record(id),
            // A pure task is done all the same: its last write decides.
            None if was == Stored::Opening && flight.record.pure && flight.record.end.is_none() => {
                flight.stored = Stored::Not;
            }
            None => {
                let detail = "the audit log could not be written, so the result is not given out";
                self.answer(
                    id,
                    Ended::Failed(Failure::new(FailureCode::AuditUnavailable, detail)),
                );
            }
        }
    }

    /// A record is durable as open.
    pub(crate) fn opened(&mut self, id: RecordId) {
        let Some(flight) = self.in_flight.flights.get_mut(&id) else {
            return;
        };
        if flight.record.end.is_some() {
            flight.stored = Stored::Ending;
            let write = Write::Complete(flight.record.clone());
            return self.write(write);
        }
        if !flight.record.pure {
            self.dispatch(id);
        }
    }

    /// Answers a request whose record is complete and durable.
    fn reply(&mut self, id: RecordId) {
        let Some(flight) = self.in_flight.flights.get(&id) else {
            return;
        };
        let Some(end) = &flight.record.end else {
            return;
        };
        let ended = match &end.outcome {
            Outcome::Answered(text) => {
                self.metrics.answered.inc();
                if flight.record.pure {
                    let answer = Answer {
                        record: id,
                        text: text.clone(),
                    };
                    if !self.answers.insert(question_of(&flight.record), answer) {
                        self.log_may_hold_answers.store(true, Ordering::Relaxed);
                    }
                }
                Ended::Final(text.clone())
            }
            Outcome::Repeated { text, .. } => {
                self.metrics.repeated.inc();
                Ended::Final(text.clone())
            }
            Outcome::Failed(failure) => Ended::Failed(failure.clone()),
        };
        self.answer(id, ended);
    }

    /// Publishes the reply, and the request is over.
    pub(crate) fn answer(&mut self, id: RecordId, ended: Ended) {
        let Some(flight) = self.over(id) else { return };
        if let Ended::Failed(failure) = &ended {
            self.metrics.failed(failure.code.as_str());
        }
        let expires = flight.due.max(Instant::now()) + REPLY_GRACE;
        self.send_reply(
            flight.record.request_id,
            flight.record.frontend,
            ended,
            expires,
        );
    }

    /// The request is over without a reply of ours.
    pub(crate) fn drop_flight(&mut self, id: RecordId, why: &'static str) {
        self.metrics.failed(why);
        self.over(id);
    }

    fn over(&mut self, id: RecordId) -> Option<Flight> {
        let flight = self.in_flight.remove(id)?;
        if let Some(timer) = &flight.timer {
            self.timers.try_remove(timer);
        }
        if let Some(work) = flight.work {
            self.stop_waiting(id, work);
        }
        Some(flight)
    }

    /// Answers a task that is not taken: it leaves no record (design, "Errors over HTTP").
    fn refuse(&mut self, task: &Task, failure: Failure) {
        self.metrics.refused(failure.code.as_str());
        let expires = Instant::now() + self.settings.usual_deadline;
        let to = task.from.clone();
        self.send_reply(task.request_id.clone(), to, Ended::Failed(failure), expires);
    }

    fn send_reply(&mut self, request_id: RequestId, to: Address, ended: Ended, expires: Instant) {
        let reply = Reply {
            request_id,
            to,
            ended,
        };
        let payload = reply.encode(self.me.address()).into();
        let letter = Letter {
            to: reply.to,
            payload,
            expires,
            has_alternatives: false,
            tag: Tag::Reply,
        };
        if self.outbox.send(letter).is_err() {
            // The frontend offers the request again, and the log has the answer.
            self.metrics.dropped("outbox_full");
        }
    }
}

/// Why a task cannot be recorded. Our own frontends send none that is so large.
fn too_large(task: &Task) -> Option<Failure> {
    let caller = task.caller_request_id.as_deref().unwrap_or_default();
    let head = [&task.task, &task.subtask, task.request_id.as_str(), caller];
    let (head, body) = (head.map(str::len).iter().sum::<usize>(), task.body.len());
    let detail = if body > TEXT_BYTES_MAX {
        format!("the body has {body} bytes, more than the {TEXT_BYTES_MAX} that can be recorded")
    } else if head > HEAD_BYTES_MAX {
        format!(
            "names and ids have {head} bytes, more than the {HEAD_BYTES_MAX} that can be recorded"
        )
    } else {
        return None;
    };
    Some(Failure::new(FailureCode::BadOperands, detail))
}

/// Whether the record names the backend that the work is at.
fn is_at(record: &Record, work: &Work) -> bool {
    let backend = work.backend.as_ref().map(|member| &member.address);
    backend == record.progress.backend.as_ref()
}
