//! The path of a dispatch, from top to bottom: take, run once, publish the result.

use std::{
    panic::{AssertUnwindSafe, catch_unwind},
    sync::Arc,
    time::Duration,
};

use futures_util::{FutureExt, future::Either};
use prometheus_client::{
    encoding::EncodeLabelSet,
    metrics::{counter::Counter, family::Family, gauge::Gauge},
    registry::Registry,
};
use shared::{
    bus::Message,
    clock::Clock,
    contract::{
        Addressee, ConsumingMessage, Dispatch, Ended, Failure, FailureCode, Rejected, TaskResult,
        Timing, excerpt,
    },
    discovery::{Roster, presence::Condition},
    outbox::{Letter, Outbox},
};
use tokio::{sync::Semaphore, sync::mpsc, task::JoinSet, time::Instant};
use tracing::debug;

use crate::{
    memory::{Executed, Memory},
    registry::{Answer, Handler, Job, Worker},
    settings::WorkerSettings,
};

/// Messages taken at one wake-up.
const BATCH_MAX: usize = 256;
/// A dispatch without a deadline is of an older events service, which waits for about as long.
const USUAL_DEADLINE: Duration = Duration::from_secs(5);
/// A deadline further away than this is that of a wrong clock.
const LONGEST_DEADLINE: Duration = Duration::from_secs(600);

/// Takes dispatches and publishes results. One owner; holds all the state.
pub(crate) struct Flow {
    pub(crate) me: Addressee,
    pub(crate) worker: Worker,
    pub(crate) clock: Clock,
    pub(crate) roster: Arc<Roster>,
    pub(crate) condition: Arc<Condition>,
    pub(crate) outbox: Outbox<()>,
    pub(crate) memory: Memory,
    pub(crate) running: JoinSet<Done>,
    /// Permits of handlers that wait or compute for long.
    pub(crate) places: Arc<Semaphore>,
    pub(crate) settings: WorkerSettings,
    pub(crate) metrics: Metrics,
    pub(crate) last_dispatch: Instant,
}

/// A handler that has ended.
pub(crate) struct Done {
    dispatch: Dispatch,
    expires: Instant,
    answer: Answer,
    timing: Timing,
}

/// What the backend counts.
#[derive(Debug, Clone, Default)]
pub(crate) struct Metrics {
    dispatches: Family<Labels, Counter>,
    in_flight: Gauge,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Labels {
    outcome: &'static str,
}

impl Metrics {
    pub(crate) fn register(registry: &mut Registry) -> Self {
        let metrics = Self::default();
        let (dispatches, in_flight) = (metrics.dispatches.clone(), metrics.in_flight.clone());
        registry.register(
            "backend_dispatches",
            "Messages heard, by what became of them",
            dispatches,
        );
        registry.register("backend_in_flight", "Handlers that wait or run", in_flight);
        metrics
    }

    fn count(&self, outcome: &'static str) {
        self.dispatches.get_or_create(&Labels { outcome }).inc();
    }
}

impl Flow {
    /// Serves until the bus ends or `stop_at` (set by the caller's select) drops the future.
    pub(crate) async fn serve(&mut self, heard: &mut mpsc::Receiver<Message>) {
        let mut messages = Vec::with_capacity(BATCH_MAX);
        loop {
            // Both are cancel-safe: what was not taken stays where it is.
            tokio::select! {
                count = heard.recv_many(&mut messages, BATCH_MAX) => {
                    if count == 0 {
                        return;
                    }
                    messages.drain(..).for_each(|message| self.hear(&message));
                }
                Some(done) = self.running.join_next() => match done {
                    Ok(done) => self.finish(done),
                    // Handlers catch their panics, and nobody aborts them.
                    Err(error) => debug!(%error, "a handler's task ended without an answer"),
                },
            }
            self.report_in_flight();
        }
    }

    /// Whether nothing runs.
    pub(crate) fn is_idle(&self) -> bool {
        self.running.is_empty()
    }

    fn report_in_flight(&self) {
        let running = self.running.len();
        self.metrics
            .in_flight
            .set(i64::try_from(running).unwrap_or(i64::MAX));
        self.condition.set_in_flight(running as u64);
    }

    fn hear(&mut self, message: &Message) {
        match self.me.consuming(&message.payload) {
            Ok(ConsumingMessage::Dispatch(dispatch)) => self.take(dispatch),
            // A reply is for a frontend: it cannot be addressed to us.
            Ok(ConsumingMessage::Reply(_)) => self.metrics.count("not_a_dispatch"),
            Err(Rejected::NotForMe) => self.metrics.count("not_for_me"),
            Err(rejected) => {
                self.metrics.count("malformed");
                let payload = excerpt(&String::from_utf8_lossy(&message.payload));
                debug!(error = %rejected, payload, "dropped");
            }
        }
    }

    fn take(&mut self, dispatch: Dispatch) {
        let arrived = Instant::now();
        self.last_dispatch = arrived;
        match self.memory.get(dispatch.record_id) {
            Some(Executed::Running(_)) => {
                self.memory.running(dispatch.record_id, dispatch.from);
                return self.metrics.count("repeated_while_running");
            }
            Some(Executed::Ended(ended, timing)) => {
                let (ended, timing) = (ended.clone(), *timing);
                self.metrics.count("answered_from_memory");
                return self.publish(&dispatch, ended, timing, arrived + USUAL_DEADLINE);
            }
            None => {}
        }
        let ahead = self.roster.clock_ahead_ms(&dispatch.from.container);
        let expires = self.clock.deadline(
            dispatch.deadline_unix_ms,
            ahead,
            USUAL_DEADLINE,
            LONGEST_DEADLINE,
        );
        if expires <= arrived {
            return self.metrics.count("expired");
        }
        let handler = match self.worker.handler(&dispatch.task, &dispatch.subtask) {
            Ok(handler) => handler.clone(),
            Err(failure) => return self.refuse(&dispatch, failure, expires),
        };
        self.run(handler, dispatch, arrived, expires);
    }

    fn run(
        &mut self,
        handler: Handler,
        mut dispatch: Dispatch,
        arrived: Instant,
        expires: Instant,
    ) {
        let job = Job {
            task: dispatch.task.clone(),
            subtask: dispatch.subtask.clone(),
            text: std::mem::take(&mut dispatch.body),
            attempt: dispatch.attempt,
        };
        let answering = match handler {
            Handler::Quick(handler) => {
                let answer = caught(|| handler(&job));
                let timing = timing(arrived, arrived);
                return self.finish(Done {
                    dispatch,
                    expires,
                    answer,
                    timing,
                });
            }
            Handler::Waiting(handler) => Either::Left(async move {
                let handled = AssertUnwindSafe(async { handler(job).await }).catch_unwind();
                handled.await.unwrap_or_else(|panic| Err(panicked(&*panic)))
            }),
            Handler::Long(handler) => Either::Right(async move {
                let thread = tokio::task::spawn_blocking(move || caught(|| handler(&job)));
                thread.await.unwrap_or_else(|error| {
                    Err(Failure::new(FailureCode::TaskPanicked, error.to_string()))
                })
            }),
        };
        if self.running.len() >= self.settings.queue_max {
            let limit = self.settings.queue_max;
            let detail = format!("{limit} tasks wait or run in the backend already");
            return self.refuse(
                &dispatch,
                Failure::new(FailureCode::Overloaded, detail),
                expires,
            );
        }
        self.memory
            .running(dispatch.record_id, dispatch.from.clone());
        let places = self.places.clone();
        // Ends with an answer in every case; `serve` waits for it.
        self.running.spawn(async move {
            let Ok(_place) = tokio::time::timeout_at(expires, places.acquire()).await else {
                let failure = Failure::new(
                    FailureCode::DeadlineExceeded,
                    "the deadline passed while the task waited in the backend",
                );
                return Done {
                    dispatch,
                    expires,
                    answer: Err(failure),
                    timing: timing(arrived, arrived),
                };
            };
            let started = Instant::now();
            let answer = answering.await;
            Done {
                dispatch,
                expires,
                answer,
                timing: timing(arrived, started),
            }
        });
    }

    fn finish(&mut self, mut done: Done) {
        if let Some(Executed::Running(asked_by)) = self.memory.get(done.dispatch.record_id) {
            done.dispatch.from = asked_by.clone();
        }
        let ended = match done.answer {
            Ok(text) => {
                self.metrics.count("done");
                Ended::Final(text)
            }
            Err(failure) => {
                self.metrics.count("failed");
                Ended::Failed(failure)
            }
        };
        self.memory
            .ended(done.dispatch.record_id, ended.clone(), done.timing);
        self.publish(&done.dispatch, ended, done.timing, done.expires);
    }

    /// Answers that it was not done, and does not remember it: it may be done when it comes again.
    fn refuse(&mut self, dispatch: &Dispatch, failure: Failure, expires: Instant) {
        self.metrics.count("refused");
        let no_time = Timing {
            waited_us: 0,
            ran_us: 0,
        };
        self.publish(dispatch, Ended::Failed(failure), no_time, expires);
    }

    fn publish(&mut self, dispatch: &Dispatch, ended: Ended, timing: Timing, expires: Instant) {
        let result = TaskResult {
            record_id: dispatch.record_id,
            from: dispatch.to.clone(),
            to: dispatch.from.clone(),
            ended,
            timing: Some(timing),
        };
        let letter = Letter {
            to: dispatch.from.clone(),
            payload: result.encode().into(),
            expires,
            has_alternatives: false,
            tag: (),
        };
        if self.outbox.send(letter).is_err() {
            // The events service asks again, and the answer is in memory.
            self.metrics.count("outbox_full");
        }
    }
}

/// Runs a handler; a panic becomes a failed task.
fn caught(handler: impl FnOnce() -> Answer) -> Answer {
    catch_unwind(AssertUnwindSafe(handler)).unwrap_or_else(|panic| Err(panicked(&*panic)))
}

fn panicked(panic: &(dyn std::any::Any + Send)) -> Failure {
    let message = panic
        .downcast_ref::<&str>()
        .copied()
        .or_else(|| panic.downcast_ref::<String>().map(String::as_str))
        .unwrap_or("no message");
    Failure::new(
        FailureCode::TaskPanicked,
        format!("the handler panicked: {message}"),
    )
}

fn timing(arrived: Instant, started: Instant) -> Timing {
    let us = |duration: Duration| u64::try_from(duration.as_micros()).unwrap_or(u64::MAX);
    Timing {
        waited_us: us(started - arrived),
        ran_us: us(started.elapsed()),
    }
}
