//! More than there is capacity for, and callers that take up room.

use std::{fmt, time::Duration};

use anyhow::Result;
use tokio::{task::JoinSet, time::timeout};

use super::{Plan, Scenario, Stage};
use crate::{
    bare::Kind,
    chaos::{DEADLINE, Length, load::Mix},
    http::Raw,
    process::Signal,
};

pub(super) const SCENARIOS: &[Scenario] = &[
    Scenario::new(
        "overload",
        "four times what the backends can do, for 30 s; their tasks wait",
        |stage| Box::pin(overload(stage, WAITING, Some(GOODPUT_MIN))),
    )
    .planned(|| Plan {
        settings: vec![
            ("CONCURRENCY_MAX", "2".to_owned()),
            ("QUEUE_MAX", "64".to_owned()),
        ],
        ..Plan::default()
    })
    .with_errors(SHED),
    Scenario::new(
        "overload-cpu",
        "four times what the machine can do, for 30 s; it also has to make the load",
        // What is left for answers depends on what the load itself takes: told, not judged.
        |stage| Box::pin(overload(stage, Mix::USUAL, None)),
    )
    .with_errors(STARVED),
    Scenario::new(
        "backends-stall",
        "every backend stops for longer than the deadline",
        |stage| Box::pin(backends_stall(stage)),
    ),
    Scenario::new(
        "backends-die",
        "every backend is killed; new ones come later",
        |stage| Box::pin(backends_die(stage)),
    ),
    Scenario::new(
        "drippers",
        "2,000 connections send a byte a second",
        |stage| Box::pin(drippers(stage)),
    )
    .planned(|| Plan {
        settings: vec![
            ("HEADER_TIMEOUT_MS", DRIP_LIMIT.as_millis().to_string()),
            ("BODY_TIMEOUT_MS", DRIP_LIMIT.as_millis().to_string()),
        ],
        ..Plan::default()
    })
    .with_errors(&[])
    .once(),
];

/// What is told at once when there is too much. Some requests still end at their deadline: those
/// that were let in before it became clear.
const SHED: &[&str] = &["overloaded", "too_many_in_flight", "deadline_exceeded"];

/// Without CPU time the database does not answer in time either.
const STARVED: &[&str] = &[
    "audit_unavailable",
    "deadline_exceeded",
    "overloaded",
    "too_many_in_flight",
];

/// Tasks that wait: on three backends, two at a time, 20 ms each. That is 300 a second, far below what
/// the machine can do.
const WAITING: Mix = Mix {
    fresh: 0,
    repeated: 0,
    text_bytes: 0,
    effect_ms: 20,
};

/// Callers that wait for one another measure the capacity: more of them wait in queues only.
const CALLERS: usize = 48;

async fn overload(stage: &mut Stage<'_>, mix: Mix, goodput_min: Option<f64>) -> Result<()> {
    let (measured, overloaded) = match stage.length {
        Length::Short => (Duration::from_secs(2), Duration::from_secs(5)),
        Length::Full => (Duration::from_secs(5), Duration::from_secs(30)),
    };
    stage.load.mix(mix);
    let peak = stage.load.capacity(CALLERS, measured).await;
    stage.note(format!("capacity: {peak:.0} right answers a second"));

    let usual_from = stage.load.elapsed();
    stage.load.rate(peak * USUAL);
    stage.pass(measured, measured).await;
    let usual_to = stage.load.elapsed();
    let usual = Latency::of(stage, usual_from, usual_to);

    stage.fault("four times the capacity");
    stage.load.rate(peak * 4.0);
    let from = stage.load.elapsed();
    stage.pass(overloaded, overloaded).await;
    let to = stage.load.elapsed();
    stage.load.rate(peak * USUAL);
    stage.over();
    let good = stage.load.goodput(from, to);
    stage.note(format!("under overload: {good:.0} right answers a second"));
    stage.check(
        goodput_min.is_none_or(|share| good >= peak * share),
        format!("goodput fell from {peak:.0} to {good:.0} a second"),
    );

    stage.pass(BACK_WITHIN, BACK_WITHIN).await;
    let after_from = stage.load.elapsed();
    stage.pass(measured, measured).await;
    let after_to = stage.load.elapsed();
    let after = Latency::of(stage, after_from, after_to);
    stage.note(format!(
        "far below the capacity: {usual} before, {after} after"
    ));
    // By the median: what queues raises that, and what else the machine does does not.
    stage.check(
        after.half <= tolerated(usual.half),
        format!("the latency was {usual} and is {after}, {BACK_WITHIN:?} after the overload"),
    );
    Ok(())
}

/// What half of the right answers took at most, and 99 of a hundred.
struct Latency {
    half: Duration,
    most: Duration,
}

impl Latency {
    /// Of what was due between two moments.
    fn of(stage: &Stage<'_>, from: Duration, to: Duration) -> Self {
        let percentile = |percent| stage.load.latency(percent, from, to).unwrap_or_default();
        Self {
            half: percentile(50),
            most: percentile(99),
        }
    }
}

impl fmt::Display for Latency {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { half, most } = self;
        write!(f, "p50 {half:.0?}, p99 {most:.0?}")
    }
}

/// The share of the capacity that is offered before and after: far enough below for a machine that
/// has other things to do too.
const USUAL: f64 = 0.3;

/// The share of the capacity that is left under overload.
const GOODPUT_MIN: f64 = 0.8;

/// When the latency must be as before.
const BACK_WITHIN: Duration = Duration::from_secs(5);

/// What passes for the same latency on a machine that does other things too.
fn tolerated(usual: Duration) -> Duration {
    (usual * 2).max(usual + Duration::from_millis(100))
}

const BACKENDS: [Kind; 2] = [Kind::Backend, Kind::Effect];

async fn backends_stall(stage: &mut Stage<'_>) -> Result<()> {
    let before = Dispatches::of(stage).await?;
    stage.fault("every backend stalls");
    for kind in BACKENDS {
        for member in stage.deployment.of(kind) {
            member.service.process.signal(Signal::STOP)?;
        }
    }
    let time = DEADLINE * 2;
    stage.pass(time, time).await;
    let after = Dispatches::of(stage).await?;
    for kind in BACKENDS {
        for member in stage.deployment.of(kind) {
            member.service.process.signal(Signal::CONT)?;
        }
    }
    stage.over();
    after.within_budget_since(&before, stage);
    Ok(())
}

async fn backends_die(stage: &mut Stage<'_>) -> Result<()> {
    let before = Dispatches::of(stage).await?;
    stage.fault("every backend dies");
    for kind in BACKENDS {
        while stage.deployment.of(kind).next().is_some() {
            stage.kill(kind).await?;
        }
    }
    stage.calm().await;
    let after = Dispatches::of(stage).await?;
    after.within_budget_since(&before, stage);
    for kind in BACKENDS {
        for _ in 0..3 {
            stage.add(kind).await?;
        }
    }
    stage.over();
    Ok(())
}

/// What the events services have sent to backends.
struct Dispatches {
    tasks: f64,
    first: f64,
    repeated: f64,
}

impl Dispatches {
    async fn of(stage: &Stage<'_>) -> Result<Self> {
        let sum = async |name| stage.metric(Kind::EventsService, name).await;
        Ok(Self {
            tasks: sum("roundtrip_events_tasks_taken_total").await?,
            first: sum("roundtrip_events_dispatches_total").await?,
            repeated: sum("roundtrip_events_dispatches_repeated_total").await?,
        })
    }

    /// At most a tenth more than requests, and what each events service may have saved before.
    fn within_budget_since(&self, before: &Self, stage: &mut Stage<'_>) {
        const SAVED: u32 = 20;
        let services = u32::try_from(stage.deployment.of(Kind::EventsService).count());
        let saved = f64::from(services.unwrap_or(u32::MAX) * SAVED);
        let tasks = self.tasks - before.tasks;
        let first = self.first - before.first;
        let repeated = self.repeated - before.repeated;
        stage.note(format!(
            "{tasks} tasks, {first} first dispatches, {repeated} repeated"
        ));
        stage.check(
            first + repeated <= 1.1 * first.min(tasks) + saved,
            format!("{repeated} dispatches repeated for {first} first ones of {tasks} tasks"),
        );
    }
}

/// How many drip.
const DRIPPERS: usize = 2_000;

/// The limit that the frontends are given for a head or a body.
const DRIP_LIMIT: Duration = Duration::from_secs(3);

/// Of 2,000 connections, the last is closed so much later on a busy machine.
const DRIP_GRACE: Duration = Duration::from_secs(5);

async fn drippers(stage: &mut Stage<'_>) -> Result<()> {
    let usual_from = stage.load.elapsed();
    stage
        .pass(Duration::from_secs(2), Duration::from_secs(2))
        .await;
    let usual_to = stage.load.elapsed();
    let usual = Latency::of(stage, usual_from, usual_to);

    let victim = stage.deployment.choose(Kind::Frontend, &mut stage.seed)?;
    let frontend = stage.deployment.members[victim].service.http;
    stage.fault("2,000 connections drip");
    let from = stage.load.elapsed();
    let dripping = drip(frontend).await?;
    let closed = timeout(DRIP_LIMIT + DRIP_GRACE, dripping.join_all()).await;
    let to = stage.load.elapsed();
    stage.over();
    stage.check(closed.is_ok(), "not all that drip were closed in time");
    let meanwhile = Latency::of(stage, from, to);
    stage.note(format!("the others: {usual} before, {meanwhile} meanwhile"));
    stage.check(
        meanwhile.most <= tolerated(usual.most),
        format!("for the others it was {usual} and became {meanwhile}"),
    );

    let _dripping = drip(frontend).await?;
    stage.load.remove(frontend);
    stage.deployment.stop(victim).await
}

/// Opens connections that send a byte a second, one half within a head and the other within a
/// body.
async fn drip(frontend: std::net::SocketAddr) -> Result<JoinSet<Result<()>>> {
    let mut dripping = JoinSet::new();
    for number in 0..DRIPPERS {
        let mut connection = Raw::connect(frontend).await?;
        let begin: &[u8] = if number % 2 == 0 {
            b"POST /task HTTP/1.1\r\nhost: x\r\nx-drip: "
        } else {
            b"POST /task HTTP/1.1\r\nhost: x\r\ncontent-length: 1000\r\n\r\n"
        };
        connection.send(begin).await?;
        dripping.spawn(async move {
            let limit = DRIP_LIMIT + DRIP_GRACE;
            connection
                .drip(b'x', Duration::from_secs(1), limit)
                .await
                .map(drop)
        });
    }
    Ok(dripping)
}
