//! Bad networks: between the services and Redis, and between the events services and the database.

use std::time::Duration;

use anyhow::{Context, Result};
use rand::RngExt;

use super::{Plan, Scenario, Stage};
use crate::{
    bare::Kind,
    chaos::{Length, deployment::long},
    forward::{Forward, Way},
};

pub(super) const SCENARIOS: &[Scenario] = &[
    Scenario::new(
        "network-resets",
        "connections to Redis and the database are reset in the middle of a message",
        |stage| Box::pin(resets(stage)),
    )
    .planned(behind_forwards),
    Scenario::new(
        "network-one-way",
        "an events service does not hear Redis, then is not heard by it; then connections go dead and nobody is told",
        |stage| Box::pin(one_way(stage)),
    )
    .planned(behind_forwards),
    Scenario::new(
        "network-lossy",
        "50 ms to everywhere, and of a hundred packets 5 are lost",
        |stage| Box::pin(lossy(stage)),
    )
    .planned(behind_forwards),
    Scenario::new(
        "network-sliced",
        "everything arrives in pieces of 64 bytes",
        |stage| Box::pin(sliced(stage)),
    )
    .planned(behind_forwards)
    .with_errors(&[])
    .once(),
];

fn behind_forwards() -> Plan {
    Plan {
        redis_behind_forwards: true,
        database_behind_forward: true,
        ..Plan::default()
    }
}

impl Stage<'_> {
    /// Every way to a server.
    fn forwards(&self) -> impl Iterator<Item = &Forward> {
        let to_redis = self.deployment.members.iter();
        to_redis
            .filter_map(|member| member.redis.as_ref())
            .chain(&self.deployment.database_way)
    }

    fn set_all(&self, there: Way, back: Way) {
        for forward in self.forwards() {
            forward.network.ways(there, back);
        }
    }
}

async fn resets(stage: &mut Stage<'_>) -> Result<()> {
    let before = stage.receivers().await?;
    let times = match stage.length {
        Length::Short => 4,
        Length::Full => 20,
    };
    for _ in 0..times {
        let count = stage.forwards().count();
        let chosen = stage.seed.random_range(0..count);
        let whose = match stage.deployment.members.get(chosen) {
            Some(member) => member.kind.one(),
            None => "the way to the database",
        };
        stage.fault(format!("a reset for {whose}"));
        stage
            .forwards()
            .nth(chosen)
            .context("there are so many")?
            .network
            .reset();
        stage.calm().await;
    }
    stage.receivers_are(&before).await;
    Ok(())
}

async fn one_way(stage: &mut Stage<'_>) -> Result<()> {
    let before = stage.receivers().await?;
    let victim = stage
        .deployment
        .choose(Kind::EventsService, &mut stage.seed)?;
    let time = long(stage.length);
    for (what, there, back) in [
        ("an events service hears nothing", Way::Clear, Way::Stalled),
        ("an events service is not heard", Way::Stalled, Way::Clear),
    ] {
        stage.fault(what);
        way_of(stage, victim)?.network.ways(there, back);
        stage.pass(time, time).await;
        way_of(stage, victim)?.network.ways(Way::Clear, Way::Clear);
        stage.over();
        stage.receivers_are(&before).await;
        stage.calm().await;
    }
    for kind in [Kind::EventsService, Kind::Frontend] {
        let victim = stage.deployment.choose(kind, &mut stage.seed)?;
        stage.fault(format!("the connections of {} go dead", kind.one()));
        way_of(stage, victim)?.network.strand();
        stage.pass(time, time).await;
        stage.receivers_are(&before).await;
        stage.calm().await;
    }
    Ok(())
}

fn way_of<'s>(stage: &'s Stage<'_>, member: usize) -> Result<&'s Forward> {
    let way = stage.deployment.members[member].redis.as_ref();
    way.context("the plan has forwarders")
}

async fn lossy(stage: &mut Stage<'_>) -> Result<()> {
    let way = Way::Lossy {
        lost: 5,
        delay: Duration::from_millis(50),
        // The shortest that Linux waits for a confirmation.
        resent_after: Duration::from_millis(200),
    };
    stage.fault("5 % loss, 50 ms");
    stage.set_all(way, way);
    let time = long(stage.length);
    stage.pass(time, time).await;
    stage.set_all(Way::Clear, Way::Clear);
    stage.over();
    Ok(())
}

async fn sliced(stage: &mut Stage<'_>) -> Result<()> {
    stage.fault("pieces of 64 bytes");
    stage.set_all(Way::Sliced(64), Way::Sliced(64));
    let time = long(stage.length);
    stage.pass(time, time).await;
    stage.set_all(Way::Clear, Way::Clear);
    stage.over();
    Ok(())
}
