//! Running a backend: as a part of a process, and as a process of its own.

use std::{process::ExitCode, sync::Arc, time::Duration};

use anyhow::Context;
use shared::{
    bus::BusError,
    contract::{Addressee, direct_channel},
    node::{Hears, Node},
    ops::{self, Ops, Readiness},
    outbox::outbox,
    settings, shutdown, telemetry,
};
use tokio::{net::TcpListener, sync::Semaphore, task::JoinSet, time::Instant};
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use crate::{
    flow::{Flow, Metrics},
    memory::Memory,
    registry::Worker,
    settings::{Command, Settings, WorkerSettings},
};

/// A draining backend ends when nothing was dispatched to it for so long: by then every events
/// service of ours has heard that it drains, and older ones have picked another.
const QUIET: Duration = Duration::from_millis(500);

/// Why a backend ended.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    /// The bus was closed.
    #[error("the bus cannot be subscribed to")]
    Bus(#[from] BusError),
}

/// Serves tasks until `stop`, then finishes what is in flight.
///
/// # Errors
/// [`RunError`]; an outage of the bus is none, it is waited out.
pub async fn run(
    mut node: Node,
    worker: Worker,
    settings: WorkerSettings,
    ops_listener: Option<TcpListener>,
    stop: CancellationToken,
) -> Result<(), RunError> {
    let me = node.identity.address.clone();
    info!(container_id = %me.container, service = %me.service, "backend starts");
    let consuming = &node.channels.consuming;
    let channels = vec![consuming.clone(), direct_channel(consuming, &me.container)];
    let mut heard = node.bus.subscribe(channels).await?;
    let metrics = Metrics::register(&mut node.registry);
    // An answer that finds nobody is asked for again, and is then in memory.
    let (outbox, postman) = outbox(
        node.bus.clone(),
        node.roster.clone(),
        &node.channels.event,
        &mut node.registry,
        |(), _| {},
    );
    let serving_check = node.readiness.check("serving");
    serving_check.pass();
    let running = node.start();
    let sending = tokio::spawn(postman.run());
    let ending = CancellationToken::new();
    let ops = Ops {
        readiness: node.readiness,
        metrics: Arc::new(node.registry),
    };
    let serving =
        ops_listener.map(|listener| tokio::spawn(ops::serve(listener, ops, ending.clone())));
    let mut flow = Flow {
        me: Addressee::new(me),
        worker,
        clock: node.clock,
        roster: node.roster.clone(),
        condition: node.condition,
        outbox,
        memory: Memory::default(),
        running: JoinSet::new(),
        places: Arc::new(Semaphore::new(settings.concurrency_max)),
        settings: settings.clone(),
        metrics,
        last_dispatch: Instant::now(),
    };
    tokio::select! {
        () = flow.serve(&mut heard) => {}
        () = stop.cancelled() => {
            serving_check.wait("stopping");
            drain(&mut flow, &mut heard, settings.drain_timeout).await;
        }
    }
    // The last handle: the postman sends what is queued and ends.
    drop(flow);
    if tokio::time::timeout(settings.drain_timeout, sending)
        .await
        .is_err()
    {
        warn!("results were left unsent");
    }
    running.leave().await;
    ending.cancel();
    if let Some(serving) = serving {
        serving.abort();
    }
    info!("backend ended");
    Ok(())
}

/// Takes nothing new from those who listen to presence, serves the others until it is quiet.
async fn drain(
    flow: &mut Flow,
    heard: &mut tokio::sync::mpsc::Receiver<shared::bus::Message>,
    limit: Duration,
) {
    flow.condition.drain();
    let (begun, deadline) = (Instant::now(), Instant::now() + limit);
    loop {
        let quiet_at = flow.last_dispatch.max(begun) + QUIET.min(limit);
        let now = Instant::now();
        if now >= quiet_at && flow.is_idle() {
            return;
        }
        if now >= deadline {
            warn!(
                left = flow.running.len(),
                "drain timeout, tasks are left undone"
            );
            return;
        }
        let until = if now < quiet_at {
            quiet_at
        } else {
            now + Duration::from_millis(20)
        };
        tokio::select! {
            () = flow.serve(heard) => return,
            () = tokio::time::sleep_until(until.min(deadline)) => {}
        }
    }
}

impl Worker {
    /// A whole backend process: reads settings, serves until SIGTERM or SIGINT, gives the exit code.
    pub fn main(self) -> ExitCode {
        let settings = match settings::read::<Settings>() {
            Ok(settings) => settings,
            Err(error) => return ExitCode::from(error.report()),
        };
        settings::exit_code(block_on(self, settings))
    }
}

#[tokio::main(flavor = "current_thread")]
async fn block_on(worker: Worker, settings: Settings) -> anyhow::Result<()> {
    if let Some(Command::Health) = settings.command {
        let port = settings
            .ops
            .ops_port
            .context("OPS_PORT is not set: there is nothing to ask")?;
        return ops::health(port).await.map_err(anyhow::Error::msg);
    }
    telemetry::init(&settings.process.log, settings.process.log_format)
        .map_err(anyhow::Error::msg)?;
    let stop = shutdown::on_signals().context("signals cannot be listened to")?;
    let listener = settings.ops.listen().await?;
    let readiness = Readiness::default();
    let node = Node::join(
        &settings.bus,
        &settings.discovery,
        "backend",
        Hears::Consuming,
        readiness,
        &stop,
    )
    .await?;
    let Some(node) = node else { return Ok(()) };
    let bus = node.bus.clone();
    run(node, worker, settings.worker(), listener, stop).await?;
    bus.close().await;
    Ok(())
}
