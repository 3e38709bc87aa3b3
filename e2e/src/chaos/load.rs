//! The load: requests whose right answers are known, at a fixed rate, whatever becomes of them.
//!
//! It is an open loop. A request is due at its moment and its latency counts from then, so that a
//! system that stands still is not asked less (no coordinated omission). What is outstanding is
//! bounded; a request that is due at the bound is not sent, and that is counted.

use std::{
    cell::{Cell, RefCell},
    collections::{BTreeMap, BTreeSet, HashMap},
    net::SocketAddr,
    rc::Rc,
    time::Duration,
};

use anyhow::Result;
use http_body_util::Full;
use hyper::Request;
use tokio::{
    sync::Notify,
    time::{Instant, sleep, sleep_until, timeout},
};

use super::{DEADLINE, HUNG_AFTER};
use crate::{
    bodies::{large_question, question},
    http::{Answer, Caller},
};

/// How many requests wait for their answers at once, each on a connection: half of the files that a
/// process of this harness may open. Where four times the capacity is offered and nobody is answered
/// before the deadline, it is reached at a capacity of 500 a second.
const OUTSTANDING_MAX: usize = 4_096;

/// How long a frontend may take to accept a connection before the next one is tried.
const CONNECT_LIMIT: Duration = Duration::from_secs(1);

/// How often a load that is paused looks whether it is to go on.
const PAUSED: Duration = Duration::from_millis(10);

/// A harness that does something so much later than it was due is busy with other things.
pub(super) const LATE: Duration = Duration::from_millis(50);

/// Which tasks are asked, and how often of a hundred.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Mix {
    /// Pure tasks that were never asked before.
    pub fresh: u32,
    /// Pure tasks that are asked again and again: answered from the log, or shared.
    pub repeated: u32,
    /// Pure tasks that were never asked before, with texts of so many bytes in their questions and
    /// answers. If not 0, they take the place of the fresh ones.
    pub text_bytes: usize,
    /// How long a task with an effect takes after it. They are the rest.
    pub effect_ms: u64,
}

impl Mix {
    /// Some of everything.
    pub const USUAL: Self = Self {
        fresh: 50,
        repeated: 15,
        text_bytes: 0,
        effect_ms: 0,
    };

    /// What the example backends do.
    pub const PURE: Self = Self {
        fresh: 80,
        repeated: 20,
        text_bytes: 0,
        effect_ms: 0,
    };

    /// Large messages, and some with an effect.
    pub const LARGE: Self = Self {
        fresh: 80,
        repeated: 0,
        text_bytes: 300_000,
        effect_ms: 0,
    };
}

/// How many different questions are asked again and again.
const REPEATED: u32 = 20;

/// One request as it is asked.
#[derive(Debug, Clone)]
pub(super) struct Asked {
    /// Its `X-Request-Id`, by which its record is found.
    pub(super) key: String,
    path: &'static str,
    body: String,
    /// The right `result`.
    pub(super) result: String,
    /// Whether it has an effect.
    pub(super) effect: bool,
}

/// What became of a request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Outcome {
    /// 200 with the right result.
    Right,
    /// 200 with anything else.
    Wrong(String),
    /// A problem document: status and code.
    Problem(String),
    /// A connection that ended without an answer, or an answer that is neither of the above.
    Broken(String),
    /// No answer at all.
    Hung,
}

/// A request and its end.
#[derive(Debug, Clone)]
pub(super) struct Done {
    pub(super) asked: Asked,
    /// When it was due, from the start of the load.
    pub(super) due: Duration,
    /// From when it was due until its end.
    pub(super) took: Duration,
    pub(super) outcome: Outcome,
    /// The frontend it was sent to, if one took the connection.
    pub(super) frontend: Option<SocketAddr>,
}

/// What the load did.
#[derive(Debug, Default)]
pub(super) struct Offered {
    pub(super) done: Vec<Done>,
    /// Requests that were due and not sent, since too many were outstanding.
    pub(super) held_back: u64,
    /// How late the latest request was sent: what this adds to its latency is ours.
    pub(super) late_max: Duration,
    /// Frontends that were killed: their callers' connections had to end.
    pub(super) killed: BTreeSet<SocketAddr>,
}

/// The load while it runs. Must be made within a `LocalSet`.
#[derive(Debug, Clone)]
pub struct Load(Rc<Shared>);

#[derive(Debug)]
struct Shared {
    prefix: String,
    began: Instant,
    mix: Cell<Mix>,
    /// Requests a second.
    rate: Cell<f64>,
    stopped: Cell<bool>,
    number: Cell<u32>,
    outstanding: Cell<usize>,
    /// Told when a request ends.
    ended: Notify,
    frontends: RefCell<Vec<SocketAddr>>,
    idle: RefCell<HashMap<SocketAddr, Vec<Caller>>>,
    offered: RefCell<Offered>,
}

impl Load {
    /// Begins to offer `rate` requests a second to the frontends in turn; their keys begin with
    /// `prefix`.
    pub(super) fn start(prefix: &str, frontends: Vec<SocketAddr>, rate: f64) -> Self {
        let load = Self(Rc::new(Shared {
            prefix: prefix.to_owned(),
            began: Instant::now(),
            mix: Cell::new(Mix::USUAL),
            rate: Cell::new(rate),
            stopped: Cell::new(false),
            number: Cell::new(0),
            outstanding: Cell::new(0),
            ended: Notify::new(),
            frontends: RefCell::new(frontends),
            idle: RefCell::default(),
            offered: RefCell::default(),
        }));
        // Ends with `stop`, and with the set it runs in.
        tokio::task::spawn_local(offer(load.0.clone()));
        load
    }

    /// From when times are counted.
    #[must_use]
    pub fn elapsed(&self) -> Duration {
        self.0.began.elapsed()
    }

    /// Asks other tasks from now on.
    pub fn mix(&self, mix: Mix) {
        self.0.mix.set(mix);
    }

    /// Offers so many requests a second from now on.
    pub fn rate(&self, rate: f64) {
        self.0.rate.set(rate);
    }

    /// What the system can do: right answers a second to so many callers, each of whom asks again
    /// when it has its answer. Meanwhile nothing else is offered.
    pub async fn capacity(&self, callers: usize, time: Duration) -> f64 {
        let rate = self.0.rate.replace(0.0);
        let from = self.elapsed();
        let call = async || {
            while self.elapsed() < from + time {
                self.0.outstanding.set(self.0.outstanding.get() + 1);
                ask(self.0.clone(), Instant::now()).await;
            }
        };
        futures_util::future::join_all((0..callers).map(|_| call())).await;
        let capacity = self.goodput(from, from + time);
        self.0.rate.set(rate);
        capacity
    }

    /// A frontend that gets its share from now on.
    pub fn add(&self, frontend: SocketAddr) {
        self.0.frontends.borrow_mut().push(frontend);
    }

    /// A frontend that gets no new request from now on, as a balancer takes one out that is about
    /// to be stopped. What it has it may answer.
    pub fn remove(&self, frontend: SocketAddr) {
        self.0
            .frontends
            .borrow_mut()
            .retain(|&kept| kept != frontend);
        self.0.idle.borrow_mut().remove(&frontend);
    }

    /// A frontend that is killed in this moment. It is not taken out: its callers find out.
    pub fn killed(&self, frontend: SocketAddr) {
        self.0.offered.borrow_mut().killed.insert(frontend);
    }

    /// Requests sent so far.
    #[must_use]
    pub fn offered(&self) -> u32 {
        self.0.number.get()
    }

    /// What was reached so far.
    #[must_use]
    pub fn progress(&self) -> Progress {
        let offered = self.0.offered.borrow();
        let mut progress = Progress {
            offered: offered.done.len() + self.0.outstanding.get(),
            in_flight: self.0.outstanding.get(),
            ..Progress::default()
        };
        for done in &offered.done {
            match &done.outcome {
                Outcome::Right => progress.right += 1,
                Outcome::Problem(code) => {
                    *progress.problems.entry(code.clone()).or_default() += 1;
                }
                Outcome::Wrong(_) | Outcome::Broken(_) | Outcome::Hung => progress.other += 1,
            }
        }
        progress
    }

    /// The share of right answers a second among what was due between two moments.
    #[must_use]
    pub fn goodput(&self, from: Duration, to: Duration) -> f64 {
        let offered = self.0.offered.borrow();
        let right = offered
            .done
            .iter()
            .filter(|done| done.outcome == Outcome::Right)
            .filter(|done| (from..to).contains(&(done.due + done.took)))
            .count();
        count(right) / (to - from).as_secs_f64()
    }

    /// The latency that so many of a hundred right answers did not exceed, among what was due
    /// between two moments.
    #[must_use]
    pub fn latency(&self, percent: usize, from: Duration, to: Duration) -> Option<Duration> {
        let offered = self.0.offered.borrow();
        percentile(
            percent,
            offered
                .done
                .iter()
                .filter(|done| done.outcome == Outcome::Right)
                .filter(|done| (from..to).contains(&done.due)),
        )
    }

    /// Ends the load, waits for what is outstanding, and answers all.
    pub(super) async fn stop(&self) -> Offered {
        self.0.stopped.set(true);
        while self.0.outstanding.get() > 0 {
            self.0.ended.notified().await;
        }
        self.0.offered.take()
    }
}

/// The latency that so many of a hundred did not exceed.
pub(super) fn percentile<'d>(
    percent: usize,
    done: impl Iterator<Item = &'d Done>,
) -> Option<Duration> {
    let mut took: Vec<_> = done.map(|done| done.took).collect();
    took.sort_unstable();
    let at = (took.len() * percent).div_ceil(100).saturating_sub(1);
    took.get(at).copied()
}

/// A count as a number to divide.
fn count(number: usize) -> f64 {
    u32::try_from(number).map_or(f64::MAX, f64::from)
}

/// What was reached so far.
#[derive(Debug, Default)]
pub struct Progress {
    /// Sent.
    pub offered: usize,
    /// Without an answer yet.
    pub in_flight: usize,
    /// Answered rightly.
    pub right: usize,
    /// Problem documents by status and code.
    pub problems: BTreeMap<String, usize>,
    /// Wrong, broken or hung.
    pub other: usize,
}

async fn offer(shared: Rc<Shared>) {
    let mut due = shared.began;
    loop {
        sleep_until(due).await;
        if shared.stopped.get() {
            return;
        }
        {
            let mut offered = shared.offered.borrow_mut();
            offered.late_max = offered.late_max.max(due.elapsed());
        }
        if shared.rate.get() <= 0.0 {
            due = Instant::now() + PAUSED;
            continue;
        }
        if shared.outstanding.get() < OUTSTANDING_MAX {
            shared.outstanding.set(shared.outstanding.get() + 1);
            // Counted in `outstanding`; its end is in the log.
            tokio::task::spawn_local(ask(shared.clone(), due));
        } else {
            shared.offered.borrow_mut().held_back += 1;
        }
        due += Duration::from_secs_f64(1.0 / shared.rate.get());
    }
}

async fn ask(shared: Rc<Shared>, due: Instant) {
    let number = shared.number.get();
    shared.number.set(number + 1);
    let asked = shared.asked(number);
    let (frontend, outcome) = shared.exchange(number, &asked).await;
    shared.offered.borrow_mut().done.push(Done {
        asked,
        due: due - shared.began,
        took: due.elapsed(),
        outcome,
        frontend,
    });
    shared.outstanding.set(shared.outstanding.get() - 1);
    shared.ended.notify_one();
}

impl Shared {
    /// The request of a number.
    fn asked(&self, number: u32) -> Asked {
        let key = format!("{}-{number}", self.prefix);
        let mix = self.mix.get();
        // Prime to a hundred, so that the kinds alternate instead of coming in rows.
        let share = number.wrapping_mul(37) % 100;
        if share < mix.fresh + mix.repeated {
            let question = if share >= mix.fresh {
                question(number % REPEATED)
            } else if mix.text_bytes > 0 {
                large_question(number, mix.text_bytes)
            } else {
                question(REPEATED + number)
            };
            return Asked {
                key,
                path: "/task",
                body: question.body,
                result: question.result,
                effect: false,
            };
        }
        Asked {
            path: "/task/EFFECT/APPEND",
            body: format!(r#"{{"key": "{key}", "ms": {}}}"#, mix.effect_ms),
            result: format!("done {key}"),
            key,
            effect: true,
        }
    }

    /// Sends a request to the frontend whose turn it is, or to the next that takes a connection.
    async fn exchange(&self, number: u32, asked: &Asked) -> (Option<SocketAddr>, Outcome) {
        let frontends = self.frontends.borrow().clone();
        let first = usize::try_from(number).unwrap_or_default() % frontends.len().max(1);
        let (before, from) = frontends.split_at(first);
        for &address in from.iter().chain(before) {
            let kept = self.idle.borrow_mut().get_mut(&address).and_then(Vec::pop);
            let mut caller = kept.unwrap_or_else(|| Caller::new(address));
            if !matches!(timeout(CONNECT_LIMIT, caller.connect()).await, Ok(Ok(()))) {
                continue;
            }
            let Some(answer) = in_time(caller.send(asked.request())).await else {
                return (Some(address), Outcome::Hung);
            };
            if answer.is_ok() && self.frontends.borrow().contains(&address) {
                self.idle
                    .borrow_mut()
                    .entry(address)
                    .or_default()
                    .push(caller);
            }
            return (Some(address), asked.judge(answer));
        }
        // Nobody refuses for long; and a caller that is refused at once would not come back at once.
        sleep(Duration::from_millis(10)).await;
        (
            None,
            Outcome::Broken("no frontend takes connections".to_owned()),
        )
    }
}

/// The answer, unless it is due and a second has passed. A harness that is late itself gives as much
/// time again: the answer may be there and not be read yet.
async fn in_time<T>(answer: impl Future<Output = T>) -> Option<T> {
    tokio::pin!(answer);
    let mut limit = Instant::now() + DEADLINE + HUNG_AFTER;
    loop {
        tokio::select! {
            biased;
            answer = &mut answer => return Some(answer),
            () = sleep_until(limit) => {}
        }
        let late = limit.elapsed();
        if late < LATE {
            return None;
        }
        limit = Instant::now() + late;
    }
}

impl Asked {
    fn request(&self) -> Request<Full<bytes::Bytes>> {
        Request::post(self.path)
            .header("x-request-id", &self.key)
            .body(Full::from(self.body.clone()))
            .expect("path and header are made of letters and digits")
    }

    fn judge(&self, answer: Result<Answer>) -> Outcome {
        let answer = match answer {
            Ok(answer) => answer,
            Err(error) => return Outcome::Broken(format!("{error:#}")),
        };
        if answer.status == 200 {
            let right = answer
                .json()
                .is_ok_and(|json| json["message"] == "OK" && json["result"] == self.result);
            return if right {
                Outcome::Right
            } else {
                Outcome::Wrong(format!(
                    "{:.300} was answered {:.300}",
                    self.body,
                    answer.text()
                ))
            };
        }
        match answer.code() {
            Some(code) => Outcome::Problem(format!("{} {code}", answer.status)),
            None => Outcome::Broken(format!("{} {}", answer.status, answer.text())),
        }
    }
}
