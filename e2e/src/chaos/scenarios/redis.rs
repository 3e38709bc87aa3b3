//! The bus goes away, stands still, or throws somebody off.

use std::time::Duration;

use anyhow::Result;

use super::{Plan, Scenario, Stage};
use crate::{
    bare::Kind,
    chaos::{Length, deployment::long, load::Mix},
    process::Signal,
};

pub(super) const SCENARIOS: &[Scenario] = &[
    Scenario::new(
        "redis-restarts",
        "Redis is killed and started again at once",
        |stage| Box::pin(restarts(stage)),
    ),
    Scenario::new(
        "redis-freezes",
        "Redis stops for 3 s and goes on",
        |stage| Box::pin(freezes(stage)),
    ),
    Scenario::new(
        "redis-refuses",
        "nobody listens on Redis's port for 10 s",
        |stage| Box::pin(refuses(stage)),
    ),
    Scenario::new(
        "redis-cuts-subscriber",
        "large messages, a small output buffer, and events services that do not read: Redis cuts them off",
        |stage| Box::pin(cuts_subscriber(stage)),
    )
    .planned(|| Plan {
        redis: vec!["--client-output-buffer-limit", "pubsub 1mb 0 0"],
        ..Plan::default()
    }),
    Scenario::new(
        "redis-cuts-everyone",
        "Redis cuts all connections off, fifty times; nobody is subscribed twice or not at all",
        |stage| Box::pin(cuts_everyone(stage)),
    ),
];

async fn restarts(stage: &mut Stage<'_>) -> Result<()> {
    let before = stage.receivers().await?;
    let times = match stage.length {
        Length::Short => 1,
        Length::Full => 5,
    };
    for _ in 0..times {
        stage.fault("Redis restarts");
        let case = stage.deployment.case();
        stage.deployment.redis.stop().await?;
        stage.deployment.redis.start(case).await?;
        stage.over();
        stage.receivers_are(&before).await;
        stage.calm().await;
    }
    stage.receivers_are(&before).await;
    Ok(())
}

async fn freezes(stage: &mut Stage<'_>) -> Result<()> {
    let before = stage.receivers().await?;
    stage.fault("Redis freezes");
    stage.deployment.redis.process()?.signal(Signal::STOP)?;
    stage
        .pass(Duration::from_secs(3), Duration::from_secs(3))
        .await;
    stage.deployment.redis.process()?.signal(Signal::CONT)?;
    stage.over();
    stage.receivers_are(&before).await;
    Ok(())
}

async fn refuses(stage: &mut Stage<'_>) -> Result<()> {
    let before = stage.receivers().await?;
    stage.fault("Redis refuses connections");
    stage.deployment.redis.stop().await?;
    let time = long(stage.length);
    stage.pass(time, time).await;
    let case = stage.deployment.case();
    stage.deployment.redis.start(case).await?;
    stage.over();
    stage.receivers_are(&before).await;
    Ok(())
}

/// How long the reader does not read. At the rates of this harness the socket's buffers are full
/// and Redis's too long before.
const NOT_READING: Duration = Duration::from_millis(1_500);

async fn cuts_subscriber(stage: &mut Stage<'_>) -> Result<()> {
    let before = stage.receivers().await?;
    stage.load.mix(Mix::LARGE);
    stage.load.rate(LARGE_RATE);
    stage.calm().await;
    // All of one kind: of two, the one that does not read would soon get nothing more.
    stage.fault("the events services do not read");
    for member in stage.deployment.of(Kind::EventsService) {
        member.service.process.signal(Signal::STOP)?;
    }
    stage.pass(NOT_READING, NOT_READING).await;
    for member in stage.deployment.of(Kind::EventsService) {
        member.service.process.signal(Signal::CONT)?;
    }
    stage.over();
    stage.receivers_are(&before).await;
    let log = stage.deployment.redis.process()?.log();
    let cut = log.matches("overcoming of output buffer limits").count();
    stage.note(format!("Redis cut {cut} subscribers off"));
    stage.check(cut > 0, "Redis cut nobody off: the fault did not happen");
    Ok(())
}

async fn cuts_everyone(stage: &mut Stage<'_>) -> Result<()> {
    let before = stage.receivers().await?;
    let times = match stage.length {
        Length::Short => 3,
        Length::Full => 50,
    };
    for nth in 0..times {
        stage.offered(nth, times).await;
        stage.receivers_are(&before).await;
        stage.fault("Redis cuts everybody off");
        stage.deployment.redis.cut_everyone().await?;
        stage.over();
        stage.receivers_are(&before).await;
        stage.calm().await;
    }
    stage.offered(times, times).await;
    stage.receivers_are(&before).await;
    Ok(())
}

/// Large messages a second: twice of this fills two cores with copying them.
const LARGE_RATE: f64 = 60.0;
