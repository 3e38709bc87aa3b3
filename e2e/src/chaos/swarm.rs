//! The second mode: the users' stack on a real swarm, and an engine that goes away or falls silent.
//!
//! The services reach the engine through a forwarder of its socket. So the engine is away or silent
//! for them and for nobody else: the swarm itself, and what the harness asks of it, go on.

use std::{fmt, path::Path, time::Duration};

use anyhow::{Context, Result};
use futures_util::future::LocalBoxFuture;
use rand::{RngExt, SeedableRng, rngs::StdRng};
use tokio::{task::LocalSet, time::sleep};

use super::{
    AFTERMATH, NOTHING_IN_FLIGHT, Settings, ledger,
    ledger::Ledger,
    load::{Load, Mix},
    scenarios::fingerprint,
    tell_every_second,
    verdict::{Fault, Verdict},
};
use crate::{
    case::{Case, free_port},
    docker::{Engine, docker, socket},
    forward::{SocketForward, Way},
    http, mongo,
    records::Records,
    stack::Stack,
    until::until,
};

/// The database of the stack file.
const DATABASE: &str = "roundtrip";

/// Longer than the half minute after which a service asks the engine for the whole list again.
const SILENT: Duration = Duration::from_secs(40);

/// How long the engine is away: a restart takes less.
const AWAY: Duration = Duration::from_secs(10);

type Act = for<'s, 'c> fn(&'s mut SwarmStage<'c>) -> LocalBoxFuture<'s, Result<()>>;

/// One thing that goes wrong on the swarm.
pub struct SwarmScenario {
    /// By which it is chosen.
    pub name: &'static str,
    /// What happens, in a sentence.
    pub about: &'static str,
    act: Act,
}

impl fmt::Debug for SwarmScenario {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name)
    }
}

/// All scenarios on the swarm, in the order in which they are played.
pub const SCENARIOS: &[SwarmScenario] = &[
    SwarmScenario {
        name: "engine-restarts",
        about: "the engine's interface is away for 10 s; meanwhile a backend dies and another is added",
        act: |stage| Box::pin(engine_restarts(stage)),
    },
    SwarmScenario {
        name: "engine-events-stall",
        about: "the engine's event stream and answers stall for 40 s; meanwhile a backend dies and another is added",
        act: |stage| Box::pin(engine_events_stall(stage)),
    },
];

/// The errors that callers may see: a backend is killed.
const ERRORS: &[&str] = &["503 no_backend", "503 overloaded", "504 deadline_exceeded"];

/// A scenario at work.
struct SwarmStage<'c> {
    stack: &'c Stack<'c>,
    engine: &'c SocketForward,
    load: Load,
    seed: StdRng,
    faults: Vec<Fault>,
}

/// Plays one scenario on the swarm and judges it. Once a second it tells how far it is.
///
/// # Errors
/// When something cannot be done at all: there is no engine, or the stack does not come up.
pub async fn play(
    case: &Case,
    scenario: &SwarmScenario,
    settings: Settings,
    tell: impl Fn(&str),
) -> Result<Verdict> {
    tell("starts");
    let _alone = Engine::alone().await?;
    let path = case.folder().join("engine.sock");
    let engine = SocketForward::start(&path, &socket()?)?;
    let port = free_port()?;
    let variables = [
        ("DOCKER_SOCKET", path.to_string_lossy().into_owned()),
        ("MONGO_PORT", port.to_string()),
    ];
    let stack = Stack::deploy_over(case, &["e2e/docker-stack-chaos.yaml"], &variables).await?;
    let records = Records::of(&mongo::Server::uri(([127, 0, 0, 1], port).into()), DATABASE).await?;
    let set = LocalSet::new();
    set.run_until(async {
        let rate = f64::from(settings.rate);
        let load = Load::start(case.id(), vec![stack.http()], rate);
        load.mix(Mix::PURE);
        let mut stage = SwarmStage {
            stack: &stack,
            engine: &engine,
            load: load.clone(),
            seed: StdRng::seed_from_u64(settings.seed ^ fingerprint(scenario.name)),
            faults: Vec::new(),
        };
        stage.calm().await;
        let acted = tokio::select! {
            acted = (scenario.act)(&mut stage) => acted,
            () = tell_every_second(&load, &tell) => Ok(()),
        };
        acted.with_context(|| format!("{}, seed {}", scenario.name, settings.seed))?;
        sleep(AFTERMATH).await;
        let offered = load.stop().await;
        tell("waits for the records to end");
        let added_up = until(
            "the frontend's ledger to add up",
            NOTHING_IN_FLIGHT,
            async || ledger::frontend_adds_up(&http::metrics(stack.http()).await?).map(Some),
        )
        .await;
        let ledger = Ledger::read(&records, Path::new("")).await?;
        let balance = ledger.balance(&offered.done);
        let mut verdict = Verdict::of(
            scenario.name,
            settings.seed,
            &offered,
            &balance,
            stage.faults,
        );
        verdict.allow_errors(|error| ERRORS.contains(&error));
        if let Err(error) = added_up {
            verdict.failures.push(format!("{error:#}"));
        }
        Ok(verdict)
    })
    .await
}

impl SwarmStage<'_> {
    async fn calm(&mut self) {
        sleep(Duration::from_millis(self.seed.random_range(1_500..2_500))).await;
    }

    fn fault(&mut self, what: &str) {
        let now = self.load.elapsed();
        self.faults.push(Fault {
            what: what.to_owned(),
            begun: now,
            over: now,
        });
    }

    fn over(&mut self) {
        let now = self.load.elapsed();
        if let Some(fault) = self.faults.last_mut() {
            fault.over = now;
        }
    }

    /// Kills a backend's container, and asks for one more backend: nobody is told of either by the
    /// engine.
    async fn backends_come_and_go(&mut self) -> Result<()> {
        let backends = self.stack.containers("backend").await?;
        let victim = &backends[self.seed.random_range(0..backends.len())];
        docker(["kill", victim]).await?;
        self.stack
            .scale("backend", u32::try_from(backends.len())? + 1)
            .await
    }
}

async fn engine_restarts(stage: &mut SwarmStage<'_>) -> Result<()> {
    stage.fault("the engine is away");
    stage.engine.network.close(true);
    stage.backends_come_and_go().await?;
    sleep(AWAY).await;
    stage.engine.network.close(false);
    stage.over();
    stage.calm().await;
    Ok(())
}

async fn engine_events_stall(stage: &mut SwarmStage<'_>) -> Result<()> {
    stage.fault("the engine's answers stall");
    stage.engine.network.ways(Way::Clear, Way::Stalled);
    stage.backends_come_and_go().await?;
    sleep(SILENT).await;
    stage.engine.network.ways(Way::Clear, Way::Clear);
    stage.over();
    stage.calm().await;
    Ok(())
}
