//! Services that die, freeze and come back.

use std::time::Duration;

use anyhow::{Context, Result};
use tokio::time::timeout;

use super::{Scenario, Stage};
use crate::{
    bare::Kind,
    chaos::{DEADLINE, Length},
    process::Signal,
    redis::{Message, Observer},
    until::SOON,
};

pub(super) const SCENARIOS: &[Scenario] = &[
    Scenario::new(
        "backend-dies",
        "a backend of each kind is killed; new ones come later",
        |stage| Box::pin(backend_dies(stage)),
    ),
    Scenario::new(
        "backend-freezes",
        "a backend of each kind stops, and goes on after the deadline",
        |stage| Box::pin(backend_freezes(stage)),
    ),
    Scenario::new(
        "events-service-dies",
        "an events service is killed at each step of the path; a new one comes each time",
        |stage| Box::pin(events_service_dies(stage)),
    ),
    Scenario::new(
        "events-service-freezes",
        "an events service stops with tasks in flight, and goes on after the deadline",
        |stage| Box::pin(events_service_freezes(stage)),
    ),
    Scenario::new(
        "frontend-dies",
        "a frontend is killed: its callers see a closed connection, its tasks end in the log",
        |stage| Box::pin(frontend_dies(stage)),
    ),
];

/// A frozen service goes on when all that it had is past its deadline.
const FROZEN: (Duration, Duration) = (
    DEADLINE.saturating_add(Duration::from_millis(300)),
    DEADLINE.saturating_add(Duration::from_millis(1_000)),
);

async fn backend_dies(stage: &mut Stage<'_>) -> Result<()> {
    for kind in [Kind::Backend, Kind::Effect] {
        stage.fault(format!("{} dies", kind.one()));
        stage.kill(kind).await?;
        stage.calm().await;
    }
    for kind in [Kind::Backend, Kind::Effect] {
        stage.add(kind).await?;
    }
    Ok(())
}

async fn backend_freezes(stage: &mut Stage<'_>) -> Result<()> {
    let victims = [
        stage.deployment.choose(Kind::Backend, &mut stage.seed)?,
        stage.deployment.choose(Kind::Effect, &mut stage.seed)?,
    ];
    stage.fault("backends freeze");
    for victim in victims {
        stage.deployment.signal(victim, Signal::STOP)?;
    }
    stage.pass(FROZEN.0, FROZEN.1).await;
    for victim in victims {
        stage.deployment.signal(victim, Signal::CONT)?;
    }
    stage.over();
    Ok(())
}

async fn events_service_dies(stage: &mut Stage<'_>) -> Result<()> {
    let steps = [
        Message::Task,
        Message::Dispatch,
        Message::Result,
        Message::Reply,
    ];
    for step in steps {
        let victim = stage
            .deployment
            .choose(Kind::EventsService, &mut stage.seed)?;
        let container = stage.deployment.members[victim].container_id()?;
        let bare = stage.deployment.bare();
        let mut observer = Observer::start(bare.redis_address(), &bare.channel_prefix()).await?;
        timeout(SOON, see(&mut observer, step, &container))
            .await
            .with_context(|| format!("no {} of {container}", step.title()))??;
        stage.fault(format!("an events service dies at a {}", step.title()));
        stage.kill_member(victim).await?;
        stage.calm().await;
        stage.add(Kind::EventsService).await?;
        // Ready is not yet known to all.
        stage.calm().await;
    }
    Ok(())
}

/// Waits for a message of this kind from or to an events service.
async fn see(observer: &mut Observer, message: Message, events_service: &str) -> Result<()> {
    loop {
        let published = observer.next().await?;
        if published
            .events()
            .any(|event| event.message == message && event.events_service == events_service)
        {
            return Ok(());
        }
    }
}

async fn events_service_freezes(stage: &mut Stage<'_>) -> Result<()> {
    let victim = stage
        .deployment
        .choose(Kind::EventsService, &mut stage.seed)?;
    stage.fault("an events service freezes");
    stage.deployment.signal(victim, Signal::STOP)?;
    stage.pass(FROZEN.0, FROZEN.1).await;
    stage.deployment.signal(victim, Signal::CONT)?;
    stage.over();
    Ok(())
}

async fn frontend_dies(stage: &mut Stage<'_>) -> Result<()> {
    let times = match stage.length {
        Length::Short => 1,
        Length::Full => 3,
    };
    for _ in 0..times {
        stage.fault("a frontend dies");
        stage.kill(Kind::Frontend).await?;
        stage.calm().await;
        stage.add(Kind::Frontend).await?;
        stage.calm().await;
    }
    Ok(())
}
