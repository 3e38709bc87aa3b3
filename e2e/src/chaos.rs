//! The chaos harness: offers load of tasks whose right answers it knows, breaks things meanwhile,
//! and then compares what callers got with what the audit log says.
//!
//! [`play`] runs one scenario from start to verdict, [`scenarios`] says which there are. Each has
//! its own deployment ([`deployment`]), is under the same open-loop load ([`load`]), acts through a
//! [`stage::Stage`], and is judged by the same equation ([`verdict`], and `ledger` for the other
//! side of it). [`swarm`] is the second mode. The program is `src/bin/chaos.rs`, the short run of every scenario
//! `tests/it/chaos.rs`.
//!
//! **Invariants.** What chance decides is decided by the seed: the same seed breaks the same
//! things at the same moments. What counts is seen from outside: HTTP answers, records in the
//! database, lines in the file of effects, `/metrics`.

pub mod deployment;
mod ledger;
pub mod load;
pub mod scenarios;
pub mod stage;
pub mod swarm;
pub mod verdict;

use std::time::Duration;

use anyhow::{Context, Result};
use rand::{SeedableRng, rngs::StdRng};
use tokio::{
    task::LocalSet,
    time::{MissedTickBehavior, interval},
};

use crate::{bare::Kind, case::Case, http, process, until::until};
use deployment::Deployment;
use ledger::Ledger;
use load::{Load, Offered};
use scenarios::{Scenario, fingerprint};
use stage::Stage;
use verdict::Verdict;

/// The deadline of every request: long enough for repeats, short enough that a test can wait for it
/// to pass.
pub const DEADLINE: Duration = Duration::from_secs(2);

/// A request without an answer so long after its deadline has hung.
pub const HUNG_AFTER: Duration = Duration::from_secs(1);

/// The load goes on so long after the last act of a scenario: what it broke must be whole again.
const AFTERMATH: Duration = Duration::from_millis(1_500);

/// How long an idle frontend may show requests that are in flight: those of callers that left.
const NOTHING_IN_FLIGHT: Duration = Duration::from_secs(10);

/// How many files each process may open: connections, mostly. Most systems allow 1,024 unless asked.
const OPEN_FILES: u64 = 10_000;

/// How long a run may take.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Length {
    /// For tests: what lasts ten seconds lasts three.
    Short,
    /// As the scenarios say.
    Full,
}

/// How a scenario is played.
#[derive(Debug, Clone, Copy)]
pub struct Settings {
    /// Decides all that chance decides.
    pub seed: u64,
    /// Requests a second.
    pub rate: u32,
    /// How long faults last.
    pub length: Length,
    /// The load goes on until so many requests have been offered, however short the scenario is.
    pub requests: u32,
}

/// Plays one scenario and judges it. Once a second it tells how far it is.
///
/// # Errors
/// When something cannot be done at all: a server or service does not start or ends by itself. What
/// the scenario shows, good or bad, is in the verdict.
pub async fn play(
    case: &Case,
    scenario: &Scenario,
    settings: Settings,
    tell: impl Fn(&str),
) -> Result<Verdict> {
    let seed = StdRng::seed_from_u64(settings.seed ^ fingerprint(scenario.name));
    tell("starts");
    process::allow_open_files(OPEN_FILES)?;
    let deployment = Deployment::start(case, scenario.plan())
        .await
        .context("start the deployment")?;
    let set = LocalSet::new();
    set.run_until(async {
        let rate = f64::from(settings.rate);
        let load = Load::start(case.id(), deployment.frontends(), rate);
        let mut stage = Stage::new(deployment, load.clone(), seed, settings);
        stage.calm().await;
        let act = async {
            scenario.act(&mut stage).await?;
            stage.offered(1, 1).await;
            anyhow::Ok(())
        };
        let acted = tokio::select! {
            acted = act => acted,
            () = tell_every_second(&load, &tell) => Ok(()),
        };
        acted.with_context(|| format!("{}, seed {}", scenario.name, settings.seed))?;
        stage.pass(AFTERMATH, AFTERMATH).await;
        let offered = load.stop().await;
        tell("waits for the records to end");
        judge(scenario, settings.seed, stage, &offered).await
    })
    .await
}

async fn tell_every_second(load: &Load, tell: &impl Fn(&str)) {
    let mut seconds = interval(Duration::from_secs(1));
    seconds.set_missed_tick_behavior(MissedTickBehavior::Skip);
    loop {
        seconds.tick().await;
        let progress = load.progress();
        let mut line = format!(
            "{:3.0} s: offered {}, right {}, in flight {}",
            load.elapsed().as_secs_f64(),
            progress.offered,
            progress.right,
            progress.in_flight
        );
        for (code, count) in &progress.problems {
            line += &format!(", {count} × {code}");
        }
        if progress.other > 0 {
            line += &format!(", {} wrong, broken or hung", progress.other);
        }
        tell(&line);
    }
}

async fn judge(
    scenario: &Scenario,
    seed: u64,
    mut stage: Stage<'_>,
    offered: &Offered,
) -> Result<Verdict> {
    for frontend in stage.deployment.frontends() {
        let seen = until(
            "a frontend's ledger to add up",
            NOTHING_IN_FLIGHT,
            async || ledger::frontend_adds_up(&http::metrics(frontend).await?).map(Some),
        )
        .await;
        stage.check(seen.is_ok(), format!("ledger of {frontend}: {seen:?}"));
    }
    subscribed_once(&mut stage).await?;
    let records = stage.deployment.records().await?;
    let ledger = Ledger::read(&records, &stage.deployment.effects()).await?;
    let balance = ledger.balance(&offered.done);
    scenario.look_at_records(&mut stage, &ledger.records().collect::<Vec<_>>());
    stage.deployment.ensure_all_running()?;
    let mut verdict = Verdict::of(scenario.name, seed, offered, &balance, stage.faults);
    verdict.allow_errors(|code| scenario.allows(code));
    if scenario.once && verdict.twice > 0 {
        let twice = format!("{} effects happened more than once", verdict.twice);
        verdict.failures.push(twice);
    }
    verdict.notes = stage.notes;
    verdict.failures.extend(stage.failures);
    Ok(verdict)
}

/// Every service that is meant to run has subscribed to its broadcast channel once, and nobody
/// else has.
async fn subscribed_once(stage: &mut Stage<'_>) -> Result<()> {
    let events = stage.deployment.of(Kind::EventsService).count();
    let others = stage.deployment.members.len() - events;
    let bare = stage.deployment.bare();
    let mut redis = bare.redis().await?;
    for (channel, expected) in [
        (bare.event_channel(), events),
        (bare.consuming_channel(), others),
    ] {
        let seen = until(
            "every service to be subscribed once",
            NOTHING_IN_FLIGHT,
            async || {
                let seen = redis.subscribers(&channel).await?;
                anyhow::ensure!(
                    usize::try_from(seen) == Ok(expected),
                    "{channel} has {seen} receivers, not {expected}"
                );
                Ok(Some(()))
            },
        )
        .await;
        if let Err(error) = seen {
            stage.failures.push(format!("{error:#}"));
        }
    }
    Ok(())
}
