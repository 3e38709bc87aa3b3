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
/// After the drain, what is queued is sent within this time: together less than the grace that the
/// stack file gives.
const FLUSH_WITHIN: Duration = Duration::from_secs(3);
/// Threads beside those of the handlers. The name of Redis is looked up on one, by two connections at
/// once, and an attempt that was given up may still hold its own; fewer, and handlers would keep
/// the backend from finding Redis again.
const THREADS_BESIDE: usize = 8;

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
    if tokio::time::timeout(FLUSH_WITHIN, sending).await.is_err() {
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
        let concurrency_max = settings.worker().concurrency_max;
        let outcome = block_on(concurrency_max, process(self, settings));
        settings::exit_code(outcome)
    }
}

/// Runs a future to its end on a runtime on which so many handlers can block at once. What still
/// blocks then is left behind: a thread cannot be stopped, and the process is about to end.
fn block_on(
    concurrency_max: usize,
    process: impl Future<Output = anyhow::Result<()>>,
) -> anyhow::Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .max_blocking_threads(concurrency_max + THREADS_BESIDE)
        .build()
        .context("the runtime cannot be made")?;
    let outcome = runtime.block_on(process);
    // Dropped, it would wait for its threads without limit.
    runtime.shutdown_background();
    outcome
}

async fn process(worker: Worker, settings: Settings) -> anyhow::Result<()> {
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

#[cfg(test)]
mod tests {
    use std::sync::Barrier;

    use super::*;

    /// Longer than what is tested takes.
    const LIMIT: Duration = Duration::from_secs(5);

    #[test]
    fn a_handler_that_blocks_does_not_hold_up_the_end() {
        let begun = std::time::Instant::now();
        let (started, has_started) = tokio::sync::oneshot::channel();
        let process = async {
            tokio::task::spawn_blocking(|| {
                started.send(()).unwrap();
                std::thread::sleep(LIMIT);
            });
            Ok(has_started.await?)
        };
        block_on(1, process).unwrap();
        assert!(begun.elapsed() < LIMIT);
    }

    #[test]
    fn as_many_handlers_block_at_once_as_may_run() {
        const MANY: usize = 600;
        let process = async {
            let barrier = Arc::new(Barrier::new(MANY));
            let mut handlers = JoinSet::new();
            for _ in 0..MANY {
                let barrier = barrier.clone();
                handlers.spawn_blocking(move || barrier.wait());
            }
            tokio::time::timeout(LIMIT, handlers.join_all()).await?;
            Ok(())
        };
        block_on(MANY, process).unwrap();
    }
}
