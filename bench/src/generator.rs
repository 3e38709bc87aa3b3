//! The load generator: one thread, connections that are kept alive, every answer checked.
//!
//! *Closed loop*: each connection asks again when it has its answer; what is measured is how much
//! goes through. *Open loop*: requests are due at fixed moments, whatever the answers do, and a
//! latency counts from the moment the request was due: a service that stands still for a second has
//! made all who came in that second wait (no coordinated omission).
//!
//! **Invariant**: a run with a wrong answer has no result.

mod connection;
mod recorder;
mod schedule;
#[cfg(test)]
mod tests;

use std::{
    cell::{Cell, RefCell},
    net::SocketAddr,
    rc::Rc,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail};
use tokio::task::{JoinSet, LocalSet};

use crate::{
    questions::{Kind, Question, Questions},
    report::{Point, Run},
};

use connection::Connection;
use recorder::Recorder;
use schedule::{Due, Schedule};

/// How long after its end a run waits for answers. A request ends at its deadline of 5 s.
const HANG: Duration = Duration::from_secs(15);
/// How often whoever watches is told.
const TELL_EVERY: Duration = Duration::from_millis(200);

/// Whom to ask what.
#[derive(Debug)]
pub(crate) struct Target {
    /// The frontends, asked in turn by connections.
    pub(crate) addresses: Vec<SocketAddr>,
    /// What is asked.
    pub(crate) kind: Kind,
    /// Shared by all runs on one deployment.
    pub(crate) questions: Rc<Questions>,
}

/// How it is asked.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) enum Load {
    /// So many connections, each with one request under way.
    Closed {
        /// Connections.
        connections: usize,
    },
    /// So many requests each second, whatever becomes of them.
    Open {
        /// Requests.
        per_second: f64,
        /// Connections they are sent on. A request that finds none free waits, and its latency counts
        /// from when it was due.
        connections: usize,
    },
}

/// How long.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Extent {
    /// Warmed up and measured for so long.
    Time {
        /// Not measured.
        warm_up: Duration,
        /// Measured.
        measured: Duration,
    },
    /// Exactly so many requests.
    Requests(u64),
}

/// What happens at the edges of the measured time, and while it lasts.
pub(crate) trait Watch {
    /// The warm-up is over.
    fn begun(&mut self);
    /// So much is done.
    fn at(&mut self, answers: u64, elapsed: Duration);
    /// The measured time is over.
    fn ended(&mut self);
}

/// Whoever does not look.
pub(crate) struct Nobody;

impl Watch for Nobody {
    fn begun(&mut self) {}
    fn at(&mut self, _: u64, _: Duration) {}
    fn ended(&mut self) {}
}

/// Asks, and measures.
///
/// # Errors
/// A connection fails, an answer is not the one expected, or none comes.
pub(crate) async fn run(
    target: &Target,
    load: Load,
    extent: Extent,
    watch: &mut dyn Watch,
) -> Result<Run> {
    let (Load::Closed { connections } | Load::Open { connections, .. }) = load;
    let measured = match extent {
        Extent::Time { measured, .. } => measured,
        Extent::Requests(_) => Duration::from_secs(60),
    };
    let caller = Rc::new(Caller {
        kind: target.kind,
        questions: target.questions.clone(),
        recorder: RefCell::new(Recorder::new(measured)),
        left: Cell::new(match extent {
            Extent::Time { .. } => u64::MAX,
            Extent::Requests(count) => count,
        }),
        due: match load {
            Load::Closed { .. } => None,
            Load::Open { .. } => Some(Due::default()),
        },
    });
    let mut open = Vec::with_capacity(connections);
    for address in target.addresses.iter().cycle().take(connections) {
        open.push((*address, Connection::open(*address).await?));
    }
    let set = LocalSet::new();
    let mut callers = JoinSet::new();
    for (address, connection) in open {
        callers.spawn_local_on(caller.clone().ask(address, connection), &set);
    }
    if let Load::Open { per_second, .. } = load {
        let caller = caller.clone();
        let fill = async move { caller.fill(Schedule::new(Instant::now(), per_second)).await };
        callers.spawn_local_on(fill, &set);
    }
    set.run_until(measure(&caller, extent, &mut callers, watch))
        .await?;
    drop(set);
    let caller = Rc::into_inner(caller).context("a caller is left over")?;
    Ok(caller.recorder.into_inner().finish(Instant::now()))
}

/// Waits through a run; fails as soon as a caller does.
async fn measure(
    caller: &Caller,
    extent: Extent,
    callers: &mut JoinSet<Result<()>>,
    watch: &mut dyn Watch,
) -> Result<()> {
    let end = match extent {
        Extent::Time { warm_up, measured } => {
            wait(callers, Some(Instant::now() + warm_up), &mut || ()).await?;
            Some(Instant::now() + measured)
        }
        Extent::Requests(_) => None,
    };
    let began = Instant::now();
    caller.recorder.borrow_mut().begin(began);
    watch.begun();
    wait(callers, end, &mut || {
        watch.at(caller.recorder.borrow().count(), began.elapsed());
    })
    .await?;
    caller.end();
    watch.ended();
    let hung = Instant::now() + HANG;
    wait(callers, Some(hung), &mut || ()).await?;
    if !callers.is_empty() {
        bail!("{} requests got no answer within {HANG:?}", callers.len());
    }
    Ok(())
}

/// Until the moment given, or until all callers are done.
async fn wait(
    callers: &mut JoinSet<Result<()>>,
    end: Option<Instant>,
    tell: &mut dyn FnMut(),
) -> Result<()> {
    loop {
        let now = Instant::now();
        if end.is_some_and(|end| end <= now) {
            return Ok(());
        }
        let next = end.map_or(now + TELL_EVERY, |end| end.min(now + TELL_EVERY));
        tokio::select! {
            // Cancel-safe; a caller that fails ends the run.
            done = callers.join_next() => match done {
                Some(done) => done.context("a caller panicked")??,
                None => return Ok(()),
            },
            () = tokio::time::sleep_until(next.into()) => tell(),
        }
    }
}

/// What the connections of a run share.
struct Caller {
    kind: Kind,
    questions: Rc<Questions>,
    recorder: RefCell<Recorder>,
    left: Cell<u64>,
    /// In an open loop, when to ask.
    due: Option<Due>,
}

impl Caller {
    /// One connection.
    async fn ask(self: Rc<Self>, address: SocketAddr, mut connection: Connection) -> Result<()> {
        let mut question = Question::default();
        let mut body = Vec::new();
        while self.takes_one() {
            let from = match &self.due {
                None => Instant::now(),
                Some(due) => match due.next().await {
                    Some(moment) => moment,
                    None => break,
                },
            };
            self.questions.next(self.kind, address, &mut question);
            let status = connection.exchange(&question.request, &mut body).await?;
            check(&question, status, &body)?;
            let done = Instant::now();
            let belongs = if self.due.is_some() { from } else { done };
            self.recorder.borrow_mut().record(from, done, belongs);
        }
        Ok(())
    }

    /// Lets requests be due until the run ends.
    async fn fill(&self, schedule: Schedule) -> Result<()> {
        match &self.due {
            Some(due) => tokio::select! {
                filled = due.fill(schedule) => filled,
                () = due.over() => Ok(()),
            },
            None => Ok(()),
        }
    }

    /// What is asked from now on does not count, and soon nothing is asked.
    fn end(&self) {
        let now = Instant::now();
        let mut recorder = self.recorder.borrow_mut();
        for moment in self.due.iter().flat_map(Due::end) {
            recorder.never_sent(moment, now);
        }
        recorder.end(now);
        self.left.set(0);
    }

    fn takes_one(&self) -> bool {
        let left = self.left.get();
        self.left.set(left.saturating_sub(1));
        left > 0
    }
}

/// The one thing that makes a measurement worth its name.
fn check(question: &Question, status: u16, body: &[u8]) -> Result<()> {
    if status != 200 || body != question.expected {
        bail!(
            "a wrong answer: {:?} was answered {status} {:?} instead of 200 {:?}",
            String::from_utf8_lossy(&question.request),
            String::from_utf8_lossy(body),
            String::from_utf8_lossy(&question.expected),
        );
    }
    Ok(())
}

impl Load {
    /// A point at which a system is measured under this load.
    pub(crate) fn point(self, series: &str) -> Point {
        match self {
            Self::Closed { connections } => {
                Point::new(series, format!("{connections} connections"))
                    .at(connections as f64, "connections")
            }
            Self::Open { per_second, .. } => Point::new(series, format!("{per_second} due/s"))
                .at(per_second, "requests due per second"),
        }
    }
}
