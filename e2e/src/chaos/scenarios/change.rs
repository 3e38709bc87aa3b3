//! What happens on purpose, or to nobody's fault: updates, and clocks that are set.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use mongodb::bson::RawDocument;

use super::{Scenario, Stage};
use crate::{
    bare::Kind,
    chaos::{Length, deployment::Plan, ledger::shown, load::Mix},
    until::{SOON, until_true},
};

pub(super) const SCENARIOS: &[Scenario] = &[
    Scenario::new(
        "rolling-update",
        "every service is replaced: the new one starts and is ready, the old one is told to stop",
        |stage| Box::pin(rolling_update(stage)),
    )
    .with_errors(&[])
    .once(),
    Scenario::new(
        "clock-jumps",
        "the clock of one service jumps by an hour and back; others start with a wrong one",
        |stage| Box::pin(clock_jumps(stage)),
    )
    .with_errors(&[])
    .once()
    .looking(times_are_in_order),
    Scenario::new(
        "texts-left-out",
        "events services that leave the documents of short texts out die; others come and write them",
        |stage| Box::pin(texts_left_out(stage)),
    )
    .planned(leaving_texts_out),
];

async fn rolling_update(stage: &mut Stage<'_>) -> Result<()> {
    for kind in [
        Kind::Backend,
        Kind::Effect,
        Kind::EventsService,
        Kind::Frontend,
    ] {
        let count = match stage.length {
            Length::Short => 1,
            Length::Full => stage.deployment.of(kind).count(),
        };
        for _ in 0..count {
            stage.fault(format!("{} is replaced", kind.one()));
            replace(stage, kind).await?;
        }
    }
    Ok(())
}

/// Starts a new one, then stops the oldest.
async fn replace(stage: &mut Stage<'_>, kind: Kind) -> Result<()> {
    stage.add(kind).await?;
    // The new one is the last: the first of its kind is the oldest.
    let members = &stage.deployment.members;
    let old = members
        .iter()
        .position(|member| member.kind == kind)
        .context("one was just added")?;
    if kind == Kind::Frontend {
        // As a balancer does it before a stop.
        stage.load.remove(members[old].service.http);
    }
    stage.deployment.stop(old).await?;
    stage.over();
    Ok(())
}

fn leaving_texts_out() -> Plan {
    Plan {
        settings: vec![("TEXT_DOCUMENTS", "long".to_owned())],
        ..Plan::default()
    }
}

/// The judge looks for every answer's document: none may be missing in the end.
async fn texts_left_out(stage: &mut Stage<'_>) -> Result<()> {
    let dying = stage.deployment.of(Kind::EventsService).count();
    for _ in 0..dying {
        stage.fault("an events service that leaves texts out dies");
        stage.kill(Kind::EventsService).await?;
        stage.calm().await;
        stage.add(Kind::EventsService).await?;
        stage.calm().await;
    }
    stage.deployment.set("TEXT_DOCUMENTS", "all");
    for _ in 0..stage.deployment.of(Kind::EventsService).count() {
        stage.fault("an events service that leaves texts out is replaced");
        replace(stage, Kind::EventsService).await?;
    }
    Ok(())
}

/// An hour, in seconds.
const HOUR: i64 = 3_600;
/// More than a deadline, in seconds, and less than the longest that is believed.
const A_LITTLE: i64 = 20;

async fn clock_jumps(stage: &mut Stage<'_>) -> Result<()> {
    // Open for a while, so that whoever takes a moment for another meets records that are not due.
    stage.load.mix(Mix {
        effect_ms: 300,
        ..Mix::USUAL
    });
    for kind in [Kind::EventsService, Kind::Frontend, Kind::Effect] {
        let clocked = stage.add_with_clock(kind, 0).await?;
        for (what, seconds) in [("on", HOUR), ("back", -HOUR)] {
            stage.fault(format!("the clock of {} jumps an hour {what}", kind.one()));
            stage.deployment.clock(clocked, seconds)?;
            stage.calm().await;
        }
        stage.deployment.clock(clocked, 0)?;
    }
    for (kind, seconds) in [
        (Kind::EventsService, HOUR),
        (Kind::Frontend, HOUR),
        (Kind::Effect, -HOUR),
        // Little enough to be taken for a deadline that has passed.
        (Kind::Frontend, -A_LITTLE),
        (Kind::EventsService, -A_LITTLE),
    ] {
        stage.fault(format!(
            "{} starts with a clock {seconds} s off",
            kind.one()
        ));
        stage.add_with_clock(kind, seconds).await?;
        stage.calm().await;
    }
    every_events_service_is_used(stage).await
}

/// Without that the scenario would show nothing.
async fn every_events_service_is_used(stage: &Stage<'_>) -> Result<()> {
    let records = stage.deployment.records().await?;
    let expected = stage.deployment.of(Kind::EventsService).count();
    until_true("every events service to be used", SOON, async || {
        let used = records.distinct("serviceContainerId").await?.len();
        ensure!(used == expected, "{used} of {expected}");
        Ok(true)
    })
    .await
}

/// The times of a record are those of one clock, however wrong: they are in the order of what
/// happened, and no task took longer than its deadline allows.
fn times_are_in_order(stage: &mut Stage<'_>, records: &[&RawDocument]) {
    let longest = Duration::from_secs(3);
    let mut wrong = 0;
    let mut example = None;
    for record in records {
        let times: Vec<_> = ["fromReceivedTime", "toReceivedTime", "fromSentTime"]
            .into_iter()
            .filter_map(|field| record.get_datetime(field).ok())
            .map(|time| time.timestamp_millis())
            .collect();
        let span = times
            .last()
            .zip(times.first())
            .map(|(last, first)| last - first);
        let fits = span.is_none_or(|span| {
            (0..=i64::try_from(longest.as_millis()).unwrap_or(i64::MAX)).contains(&span)
        });
        if !times.is_sorted() || !fits {
            wrong += 1;
            example.get_or_insert_with(|| shown(record));
        }
    }
    stage.check(
        wrong == 0,
        format!("{wrong} records whose times are not in order, such as {example:?}"),
    );
}
