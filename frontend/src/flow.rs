//! The path of a request through the frontend, from top to bottom.
//!
//! The body is parsed and classified ([`classify`](crate::classify)), a place for the reply
//! registered, an events service chosen and the *task* published to it; the *reply* resolves the
//! place, and the request is answered.

use std::{
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use bytes::Bytes;
use shared::{
    bus::{Link, Message},
    clock::Clock,
    contract::{
        Address, Addressee, ConsumingMessage, ContainerId, Ended, Failure, FailureCode, Rejected,
        RequestId, Task, excerpt, normalize_result,
    },
    discovery::{EVENTS_KEYWORD, Member, Roster},
    outbox::{Letter, Outbox, Undelivered},
    placement::Placement,
    repeats::{RetryBudget, silent_after},
};
use tokio::{
    sync::{mpsc, oneshot, watch},
    time::Instant,
};
use tracing::debug;

use crate::{
    classify::{any_json, classify},
    metrics::Metrics,
    pending::{Pending, PendingRegistry},
    problem::Problem,
};

/// Messages taken at one wake-up.
const BATCH_MAX: usize = 256;
/// How often a request is offered, when nobody answers.
const OFFERS_MAX: u32 = 3;

/// What a caller asks.
#[derive(Debug)]
pub(crate) struct Asked {
    /// Our id of the request, unique.
    pub(crate) request_id: RequestId,
    /// The caller's own id.
    pub(crate) caller_request_id: Option<String>,
    /// Task and subtask from the path; else the body says them.
    pub(crate) named: Option<(String, String)>,
    /// The body.
    pub(crate) body: Bytes,
    /// How long the caller waits.
    pub(crate) patience: Duration,
}

/// A letter of ours: which task was offered to whom.
#[derive(Debug, Clone)]
pub(crate) struct Offer {
    request_id: RequestId,
    to: ContainerId,
}

/// What every request of the frontend shares.
pub(crate) struct Flow {
    pub(crate) me: Addressee,
    pub(crate) clock: Clock,
    pub(crate) pending: Arc<PendingRegistry>,
    pub(crate) roster: Arc<Roster>,
    /// Short sections, no await inside.
    pub(crate) placement: Mutex<Placement>,
    /// Of tasks that are offered again because nobody answers. Short sections, no await inside.
    pub(crate) budget: Mutex<RetryBudget>,
    pub(crate) outbox: Outbox<Offer>,
    pub(crate) link: watch::Receiver<Link>,
    pub(crate) metrics: Arc<Metrics>,
}

impl Flow {
    /// The whole path of one request.
    pub(crate) async fn ask(&self, asked: Asked) -> Result<String, Problem> {
        let due = Instant::now() + asked.patience;
        let task = Arc::new(self.task_of(asked, due)?);
        let mut place = Place {
            flow: self,
            pending: self.pending.register(task.clone()),
        };
        self.budget().earn();
        self.offer(&task, due)?;
        match self
            .reply(&task.request_id, &mut place.pending.answer, due)
            .await
        {
            Some(Ended::Final(text)) => Ok(text),
            Some(Ended::Raw(text)) => Ok(normalize_result(&task.task, text)?),
            Some(Ended::Failed(failure)) => Err(failure.into()),
            None => Err(Failure::new(
                FailureCode::DeadlineExceeded,
                format!(
                    "there was no reply of {} within the deadline; the audit log says how far the \
                     request got",
                    place
                        .pending
                        .leave()
                        .map_or(task.to.clone(), |task| place.done(&task))
                ),
            )
            .into()),
        }
    }

    /// Waits for the reply until `due`. Task or reply may have got lost, or the events service may be
    /// unable to say that it cannot go on: when it has been silent for a share of the time that is
    /// left, the task is offered once more.
    async fn reply(
        &self,
        id: &RequestId,
        answer: &mut oneshot::Receiver<Ended>,
        due: Instant,
    ) -> Option<Ended> {
        for _ in 1..OFFERS_MAX {
            let left = due.saturating_duration_since(Instant::now());
            let silent_at = Instant::now() + silent_after(left);
            if silent_at >= due {
                break;
            }
            match tokio::time::timeout_at(silent_at, &mut *answer).await {
                Ok(answer) => return answer.ok(),
                Err(_) => self.offer_after_silence(id),
            }
        }
        // The sender is dropped with the place only.
        tokio::time::timeout_at(due, answer).await.ok()?.ok()
    }

    // 1. Parse and classify; 2. choose an events service.

    fn task_of(&self, asked: Asked, due: Instant) -> Result<Task, Problem> {
        let (task, subtask, body) = match asked.named {
            None => {
                let classified = classify(&asked.body)?;
                (
                    classified.task.to_owned(),
                    classified.subtask.to_owned(),
                    classified.body,
                )
            }
            Some((task, subtask)) => (task, subtask, any_json(&asked.body)?.to_owned()),
        };
        if !self.link.borrow().is_up {
            let detail = "the bus (Redis) cannot be reached at present";
            return Err(Failure::new(FailureCode::BusUnavailable, detail).into());
        }
        let chosen = self.placement().choose(EVENTS_KEYWORD, &[]);
        Ok(Task {
            request_id: asked.request_id,
            from: self.me.address().clone(),
            to: chosen.ok_or_else(no_events_service)?.address,
            task,
            subtask,
            body,
            deadline_unix_ms: Some(self.clock.unix_ms(due)),
            caller_request_id: asked.caller_request_id,
            traceparent: None,
        })
    }

    // 3. Publish the task.

    fn offer(&self, task: &Task, due: Instant) -> Result<(), Failure> {
        let letter = Letter {
            to: task.to.clone(),
            payload: task.encode().into(),
            expires: due,
            has_alternatives: true,
            tag: Offer {
                request_id: task.request_id.clone(),
                to: task.to.container.clone(),
            },
        };
        self.outbox.send(letter).map_err(|_| {
            Failure::new(
                FailureCode::Overloaded,
                "more tasks wait to be sent than can be",
            )
        })
    }

    // 4. Take the reply.

    /// Hears replies and notices what has become of those who owe them, until the bus ends.
    pub(crate) async fn listen(
        &self,
        mut heard: mpsc::Receiver<Message>,
        mut members: watch::Receiver<Arc<[Member]>>,
    ) {
        let mut messages = Vec::with_capacity(BATCH_MAX);
        let mut link = self.link.clone();
        loop {
            // All are cancel-safe: what was not taken stays where it is.
            tokio::select! {
                count = heard.recv_many(&mut messages, BATCH_MAX) => {
                    if count == 0 {
                        return;
                    }
                    messages.drain(..).for_each(|message| self.hear(&message.payload));
                }
                Ok(()) = members.changed() => {
                    members.borrow_and_update();
                    self.offer_elsewhere_what_was_lost();
                }
                Ok(()) = link.changed() => {
                    let link = *link.borrow_and_update();
                    if link.is_up && link.generation > 1 {
                        self.offer_again();
                    }
                }
            }
        }
    }

    fn hear(&self, payload: &[u8]) {
        match self.me.consuming(payload) {
            Ok(ConsumingMessage::Reply(reply)) => {
                if !self.resolve(&reply.request_id, reply.ended) {
                    // Answered before, or given up at its deadline.
                    self.metrics.unused("late");
                }
            }
            // A dispatch is for a backend: it cannot be addressed to us.
            Ok(ConsumingMessage::Dispatch(_)) => self.metrics.unused("not_a_reply"),
            Err(Rejected::NotForMe) => self.metrics.unused("not_for_me"),
            Err(rejected) => {
                self.metrics.unused("malformed");
                let payload = excerpt(&String::from_utf8_lossy(payload));
                debug!(error = %rejected, payload, "dropped");
            }
        }
    }

    /// Resolves a request; whether it still waited.
    fn resolve(&self, id: &RequestId, ended: Ended) -> bool {
        let task = self.pending.resolve(id, ended);
        if let Some(task) = &task {
            self.placement().done(&task.to.container);
        }
        task.is_some()
    }

    fn fail(&self, id: &RequestId, failure: Failure) {
        self.resolve(id, Ended::Failed(failure));
    }

    // When a task got lost on its way.

    /// A letter did not arrive.
    pub(crate) fn undelivered(&self, offer: &Offer, why: Undelivered) {
        match why {
            Undelivered::NobodyThere => {
                // It may have been offered elsewhere already, when the container was seen to go.
                if let Some(task) = self.pending.task(&offer.request_id)
                    && task.to.container == offer.to
                {
                    self.offer_elsewhere(&task);
                }
            }
            // No other would hear it either.
            Undelivered::NobodyAtAll => self.fail(&offer.request_id, no_events_service()),
            // The deadline is that of the request, which ends by itself; but it can be told why.
            Undelivered::Expired => {
                let detail = "the bus (Redis) did not take the task before the deadline";
                self.fail(
                    &offer.request_id,
                    Failure::new(FailureCode::BusUnavailable, detail),
                );
            }
        }
    }

    /// Offers a task to another events service; the request keeps its id, so it is recorded once.
    fn offer_elsewhere(&self, task: &Arc<Task>) {
        match self.other_than(&task.to.container) {
            Some(other) => self.offer_to(other, task),
            None => self.fail(&task.request_id, no_events_service()),
        }
    }

    /// Offers a task once more, to another events service if there is one. One of ours has it
    /// recorded once all the same; an older one would do it twice, so there it waits.
    fn offer_after_silence(&self, id: &RequestId) {
        let Some(task) = self.pending.task(id) else {
            return;
        };
        // While the bus is down nobody can answer; when it is back, everything is offered again.
        let may_help = self.link.borrow().is_up && self.roster.is_ours(&task.to.container);
        if !may_help || !self.budget().spend() {
            return;
        }
        match self.other_than(&task.to.container) {
            Some(other) if self.roster.is_ours(&other.address.container) => {
                self.offer_to(other, &task);
            }
            other => {
                if let Some(older) = other {
                    self.placement().done(&older.address.container);
                }
                self.metrics.unused("offered_again");
                self.offer_pending(&task);
            }
        }
    }

    /// Another events service than this one.
    fn other_than(&self, container: &ContainerId) -> Option<Member> {
        self.placement()
            .choose(EVENTS_KEYWORD, std::slice::from_ref(container))
    }

    /// Offers a task to the events service that was chosen for it, in place of the one before.
    fn offer_to(&self, other: Member, task: &Arc<Task>) {
        let again = Arc::new(Task {
            to: other.address,
            ..Task::clone(task)
        });
        if !self.pending.offered(again.clone()) {
            // It was answered this moment.
            self.placement().done(&again.to.container);
            return;
        }
        self.placement().done(&task.to.container);
        self.metrics.unused("offered_elsewhere");
        self.offer_pending(&again);
    }

    fn offer_elsewhere_what_was_lost(&self) {
        for task in self
            .pending
            .tasks(|container| !self.roster.is_alive(container))
        {
            self.offer_elsewhere(&task);
        }
    }

    /// The bus is back: tasks and replies under way may have been lost. An events service that has
    /// a request in flight takes it only once, and one that has answered it answers again. An older
    /// one also answers again what stands in its log; what it is still at, it does twice.
    fn offer_again(&self) {
        for task in self.pending.tasks(|_| true) {
            self.metrics.unused("offered_again");
            self.offer_pending(&task);
        }
    }

    fn offer_pending(&self, task: &Arc<Task>) {
        let (usual, longest) = (Duration::from_secs(5), Duration::from_secs(3_600));
        let due = self
            .clock
            .deadline(task.deadline_unix_ms, 0, usual, longest);
        if let Err(failure) = self.offer(task, due) {
            self.fail(&task.request_id, failure);
        }
    }

    fn budget(&self) -> MutexGuard<'_, RetryBudget> {
        self.budget.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn placement(&self) -> MutexGuard<'_, Placement> {
        self.placement
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }
}

/// A request's place, which also counts for its events service. Also a client that hangs up leaves.
struct Place<'a> {
    flow: &'a Flow,
    pending: Pending,
}

impl Place<'_> {
    /// Nobody waits for this task any more; whom it was offered to.
    fn done(&self, task: &Task) -> Address {
        self.flow.placement().done(&task.to.container);
        task.to.clone()
    }
}

impl Drop for Place<'_> {
    fn drop(&mut self) {
        if let Some(task) = self.pending.leave() {
            self.done(&task);
        }
    }
}

fn no_events_service() -> Failure {
    Failure::new(
        FailureCode::NoEventsService,
        format!(
            "no container of a service named like `{EVENTS_KEYWORD}` is there to take the task"
        ),
    )
}
