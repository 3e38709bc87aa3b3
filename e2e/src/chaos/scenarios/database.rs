//! The audit log's database dies, stands still, refuses or takes its time.

use std::time::Duration;

use anyhow::{Context, Result};

use super::{Plan, Scenario, Stage};
use crate::{
    chaos::{Length, deployment::long},
    forward::{Forward, Way},
    process::Signal,
};

pub(super) const SCENARIOS: &[Scenario] = &[
    Scenario::new(
        "database-killed",
        "the database, which syncs on commit, is killed and started again, ten times",
        |stage| Box::pin(killed(stage)),
    )
    .planned(|| Plan {
        database_syncs: true,
        ..Plan::default()
    }),
    Scenario::new(
        "database-freezes",
        "the database stops for 3 s and goes on",
        |stage| Box::pin(freezes(stage)),
    ),
    Scenario::new(
        "database-refuses",
        "the database refuses connections for 10 s",
        |stage| Box::pin(refuses(stage)),
    )
    .planned(behind_forward),
    Scenario::new(
        "database-refuses-writes",
        "the database answers every write with an error for 10 s",
        |stage| Box::pin(refuses_writes(stage)),
    )
    .planned(|| Plan {
        database_behind_refusal: true,
        ..Plan::default()
    }),
    Scenario::new(
        "database-slow",
        "every answer of the database takes 200 ms more",
        |stage| Box::pin(slow(stage)),
    )
    .planned(behind_forward),
];

fn behind_forward() -> Plan {
    Plan {
        database_behind_forward: true,
        ..Plan::default()
    }
}

fn way<'s>(stage: &'s mut Stage<'_>) -> Result<&'s mut Forward> {
    let way = stage.deployment.database_way.as_mut();
    way.context("the plan has a forwarder")
}

async fn killed(stage: &mut Stage<'_>) -> Result<()> {
    let times = match stage.length {
        Length::Short => 2,
        Length::Full => 10,
    };
    for _ in 0..times {
        stage.fault("the database is killed");
        let case = stage.deployment.case();
        stage.deployment.database.kill().await?;
        stage.deployment.database.start(case).await?;
        stage.over();
        stage.calm().await;
    }
    Ok(())
}

async fn freezes(stage: &mut Stage<'_>) -> Result<()> {
    stage.fault("the database freezes");
    stage.deployment.database.process()?.signal(Signal::STOP)?;
    stage
        .pass(Duration::from_secs(3), Duration::from_secs(3))
        .await;
    stage.deployment.database.process()?.signal(Signal::CONT)?;
    stage.over();
    stage.calm().await;
    Ok(())
}

async fn refuses(stage: &mut Stage<'_>) -> Result<()> {
    stage.fault("the database refuses connections");
    way(stage)?.cut().await;
    let time = long(stage.length);
    stage.pass(time, time).await;
    way(stage)?.restore().await?;
    stage.over();
    stage.calm().await;
    Ok(())
}

async fn refuses_writes(stage: &mut Stage<'_>) -> Result<()> {
    stage.fault("the database refuses writes");
    refuse_writes(stage, true)?;
    let time = long(stage.length);
    stage.pass(time, time).await;
    refuse_writes(stage, false)?;
    stage.over();
    stage.calm().await;
    Ok(())
}

fn refuse_writes(stage: &Stage<'_>, refuses: bool) -> Result<()> {
    let refusal = stage.deployment.database_refusal.as_ref();
    refusal.context("the plan has one")?.refuse(refuses);
    Ok(())
}

async fn slow(stage: &mut Stage<'_>) -> Result<()> {
    stage.fault("the database answers slowly");
    way(stage)?
        .network
        .ways(Way::Clear, Way::Delayed(Duration::from_millis(200)));
    let time = long(stage.length);
    stage.pass(time, time).await;
    way(stage)?.network.ways(Way::Clear, Way::Clear);
    stage.over();
    Ok(())
}
