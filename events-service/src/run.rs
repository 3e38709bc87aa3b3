//! Running an events service: as a part of a process, and as a process of its own.

use std::{
    process::ExitCode,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use anyhow::Context;
use futures_util::StreamExt;
use shared::{
    bus::{BusError, Link, Message},
    contract::{Addressee, direct_channel},
    discovery::{EVENTS_KEYWORD, Member, presence::Condition},
    node::{Hears, Node},
    object_ids::ObjectIds,
    ops::{self, Check, Ops, Readiness},
    outbox::{Undelivered, outbox},
    placement::Placement,
    repeats::RetryBudget,
    settings, shutdown, telemetry,
};
use tokio::{
    net::TcpListener,
    sync::{mpsc, watch},
    task::JoinHandle,
    time::Instant,
};
use tokio_util::{sync::CancellationToken, time::DelayQueue};
use tracing::{info, warn};

use crate::{
    answers::{AnswerCache, Found, LookupWorth, look_up},
    audit::{
        AuditError, AuditLog,
        batch::{self, group_commit},
        mongo::MongoAuditLog,
    },
    flights::Flights,
    flow::{Flow, Tag},
    listening::Listening,
    metrics::Metrics,
    recovery::Keeper,
    settings::{Command, Durability, FlowSettings, MongoSettings, Settings},
    task_maps::TaskMapsFile,
};

/// Messages taken at one wake-up.
const BATCH_MAX: usize = 256;
/// Look-ups that wait; beyond, a task is done without asking the log.
const LOOKUPS_MAX: usize = 4_096;
/// Batches of outcomes that wait for the flow.
const OUTCOMES_MAX: usize = 64;
/// Undelivered letters that wait for the flow. What is dropped beyond counts as silent.
const UNDELIVERED_MAX: usize = 8_192;
/// A draining events service ends when no task came for so long: by then every frontend of ours has
/// heard that it drains.
const QUIET: Duration = Duration::from_millis(500);
/// After the drain, all that is queued is flushed within this time: together less than the grace
/// that the stack file gives.
const FLUSH_WITHIN: Duration = Duration::from_secs(3);

/// How a stop goes.
struct Draining {
    condition: Arc<Condition>,
    check: Check,
    timeout: Duration,
}

/// An events service whose log is not there yet announces itself after so long: the first attempt to
/// reach it takes 2 s at most, and another one is made.
const ANNOUNCED_WITHIN: Duration = Duration::from_secs(3);

/// Why an events service ended.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    /// The bus was closed.
    #[error("the bus cannot be subscribed to")]
    Bus(#[from] BusError),
}

/// What the flow listens to.
struct Inputs {
    heard: mpsc::Receiver<Message>,
    written: mpsc::Receiver<Vec<batch::Outcome>>,
    found: mpsc::Receiver<Vec<Found>>,
    undelivered: mpsc::Receiver<(Tag, Undelivered)>,
    members: watch::Receiver<Arc<[Member]>>,
    link: watch::Receiver<Link>,
}

/// Serves tasks until `stop`, then finishes what is in flight.
///
/// # Errors
/// [`RunError`]; an outage of the bus or the log is none, it is waited out.
pub async fn run(
    mut node: Node,
    log: Arc<dyn AuditLog>,
    maps: TaskMapsFile,
    settings: FlowSettings,
    ops_listener: Option<TcpListener>,
    stop: CancellationToken,
) -> Result<(), RunError> {
    let me = node.identity.address.clone();
    info!(container_id = %me.container, service = %me.service, "events service starts");
    let event = &node.channels.event;
    let heard = node
        .bus
        .subscribe(vec![event.clone(), direct_channel(event, &me.container)])
        .await?;
    let metrics = Metrics::register(&mut node.registry);

    let (undelivered_sender, undelivered) = mpsc::channel(UNDELIVERED_MAX);
    let not_told = metrics.clone();
    let (outbox, postman) = outbox(
        node.bus.clone(),
        node.roster.clone(),
        &node.channels.consuming,
        &mut node.registry,
        move |tag, why| {
            if undelivered_sender.try_send((tag, why)).is_err() {
                not_told.dropped("undelivered_not_told");
            }
        },
    );
    let is_up = watch::Sender::new(false);
    let log_is_up = is_up.subscribe();
    let (written_sender, written) = mpsc::channel(OUTCOMES_MAX);
    // Every request in flight has at most one write under way.
    let (writer, commit) = group_commit(
        log.clone(),
        settings.in_flight_max,
        written_sender,
        is_up.clone(),
        &mut node.registry,
    );
    let (lookups, lookups_queue) = mpsc::channel(LOOKUPS_MAX);
    let (found_sender, found) = mpsc::channel(OUTCOMES_MAX);
    let log_may_hold_answers = Arc::new(AtomicBool::new(false));

    let inputs = Inputs {
        heard,
        written,
        found,
        undelivered,
        members: node.roster.members(),
        link: node.bus.link(),
    };
    let flow = Flow {
        me: Addressee::new(me),
        clock: node.clock,
        settings: settings.clone(),
        maps: maps.maps(),
        roster: node.roster.clone(),
        placement: Placement::new(node.roster.members(), node.identity.stack.clone()),
        outbox,
        link: node.bus.link(),
        log: writer,
        log_is_up,
        lookups,
        log_may_hold_answers: log_may_hold_answers.clone(),
        lookup_worth: LookupWorth::default(),
        answers: AnswerCache::new(),
        ids: ObjectIds::default(),
        in_flight: Flights::default(),
        timers: DelayQueue::new(),
        budget: RetryBudget::default(),
        metrics,
        last_task: Instant::now(),
    };

    let ending = CancellationToken::new();
    let check = node.readiness.check("audit log");
    let listening = Listening::new(node.bus.clone(), &node.channels.event);
    let keeper = Keeper {
        log: log.clone(),
        clock: node.clock,
        me: flow.me.address().container.clone(),
        roster: node.roster.clone(),
        listening: listening.clone(),
        is_up,
        may_hold_answers: log_may_hold_answers,
        check,
    };
    let keeping = tokio::spawn(keeper.keep(ending.clone()));
    let attending = tokio::spawn({
        let (log, me) = (log.clone(), flow.me.address().container.clone());
        async move { log.attend(&me).await }
    });
    let following = tokio::spawn(maps.follow(ending.clone()));
    let serving_check = node.readiness.check("serving");
    serving_check.pass();
    // It is announced when it can record what it is given: until then the others of an update are
    // there. With the log away for longer, it is the one that says so.
    let mut log_is_there = flow.log_is_up.clone();
    tokio::select! {
        _ = tokio::time::timeout(ANNOUNCED_WITHIN, log_is_there.wait_for(|is_up| *is_up)) => {}
        () = stop.cancelled() => {}
    }
    let running = node.start();
    let condition = node.condition.clone();
    let ops = Ops {
        readiness: node.readiness,
        metrics: Arc::new(node.registry),
    };
    let serving =
        ops_listener.map(|listener| tokio::spawn(ops::serve(listener, ops, ending.clone())));
    let sending = tokio::spawn(postman.run());
    let committing = tokio::spawn(commit.run());
    let looking = tokio::spawn(look_up(log.clone(), listening, lookups_queue, found_sender));

    let draining = Draining {
        condition,
        check: serving_check,
        timeout: settings.drain_timeout,
    };
    serve(flow, inputs, &draining, stop).await;

    // The flow was the last to hold their senders: they finish what is queued and end.
    let flush = Instant::now() + FLUSH_WITHIN;
    finish("replies", sending, flush).await;
    finish("audit log", committing, flush).await;
    finish("look-ups", looking, flush).await;
    running.leave().await;
    ending.cancel();
    finish("audit log keeper", keeping, flush).await;
    finish("task map", following, flush).await;
    if let Some(serving) = serving {
        serving.abort();
    }
    attending.abort();
    log.close().await;
    info!("events service ended");
    Ok(())
}

/// The loop: wait for one kind of input, change state, act. After `stop` it goes on until nothing is
/// in flight and no task has come for a while.
async fn serve(mut flow: Flow, mut inputs: Inputs, draining: &Draining, stop: CancellationToken) {
    let (condition, drain_timeout) = (&draining.condition, draining.timeout);
    let mut messages = Vec::with_capacity(BATCH_MAX);
    let mut letters = Vec::with_capacity(BATCH_MAX);
    let mut stopped_at: Option<Instant> = None;
    loop {
        // Every branch is cancel-safe: what was not taken stays where it is.
        tokio::select! {
            count = inputs.heard.recv_many(&mut messages, BATCH_MAX) => {
                if count == 0 {
                    return;
                }
                messages.drain(..).for_each(|message| flow.hear(&message.payload));
            }
            Some(written) = inputs.written.recv() => flow.log_answered(written),
            Some(found) = inputs.found.recv() => {
                found.into_iter().for_each(|found| flow.found(found));
            }
            _ = inputs.undelivered.recv_many(&mut letters, BATCH_MAX) => {
                letters.drain(..).for_each(|(tag, why)| flow.undelivered(tag, why));
            }
            Some(due) = flow.timers.next() => flow.due(due.into_inner()),
            Ok(()) = inputs.members.changed() => {
                let is_alone = !inputs
                    .members
                    .borrow_and_update()
                    .iter()
                    .any(|member| member.matches(EVENTS_KEYWORD) && member.address != *flow.me.address());
                if !is_alone {
                    // Another events service writes answers that we have not seen.
                    flow.log_may_hold_answers.store(true, Ordering::Relaxed);
                }
                flow.members_changed();
            }
            Ok(()) = inputs.link.changed() => {
                let link = *inputs.link.borrow_and_update();
                if link.is_up && link.generation > 1 {
                    flow.link_is_back();
                }
            }
            () = stop.cancelled(), if stopped_at.is_none() => {
                stopped_at = Some(Instant::now());
                condition.drain();
                draining.check.wait("stopping");
            }
            () = tokio::time::sleep(Duration::from_millis(20)), if stopped_at.is_some() => {}
        }
        flow.metrics.set_in_flight(flow.in_flight.len());
        flow.log.expect(flow.in_flight.works.len());
        condition.set_in_flight(flow.in_flight.len() as u64);
        if let Some(stopped_at) = stopped_at {
            let quiet_since = flow.last_task.max(stopped_at);
            let is_done =
                flow.in_flight.len() == 0 && quiet_since.elapsed() >= QUIET.min(drain_timeout);
            if is_done {
                return;
            }
            if stopped_at.elapsed() >= drain_timeout {
                warn!(
                    left = flow.in_flight.len(),
                    "drain timeout, records are left open"
                );
                return;
            }
        }
    }
}

async fn finish(what: &str, task: JoinHandle<()>, until: Instant) {
    match tokio::time::timeout_at(until, task).await {
        Ok(Ok(())) => {}
        Ok(Err(error)) => warn!(%error, what, "ended badly"),
        Err(_) => warn!(what, "not finished in time"),
    }
}

/// The audit log that the settings name.
///
/// # Errors
/// [`AuditError::Unusable`] for an address that is none.
pub fn mongo_log(settings: &MongoSettings) -> Result<MongoAuditLog, AuditError> {
    let log = MongoAuditLog::new(
        &settings.address(),
        &settings.mongodatabase,
        settings.write_concern,
    )?;
    Ok(log.with_text_documents(settings.text_documents))
}

/// A whole events-service process: reads settings, serves until SIGTERM or SIGINT, gives the exit
/// code.
pub fn main() -> ExitCode {
    match settings::read::<Settings>() {
        Ok(settings) => settings::exit_code(block_on(settings)),
        Err(error) => ExitCode::from(error.report()),
    }
}

#[tokio::main(flavor = "current_thread")]
async fn block_on(settings: Settings) -> anyhow::Result<()> {
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
    let maps = TaskMapsFile::open(settings.task_maps.clone())?;
    let log = mongo_log(&settings.mongo).context("MONGOURI, MONGOPORT or MONGODATABASE")?;
    let log = Arc::new(log);
    if settings.mongo.write_concern == Durability::Acknowledged {
        warn!(
            "WRITE_CONCERN=acknowledged: records of the last moments are lost with a crash of MongoDB"
        );
    }
    let joined = Node::join(
        &settings.bus,
        &settings.discovery,
        "events-service",
        Hears::Event,
        Readiness::default(),
        &stop,
    );
    let Some(node) = joined.await? else {
        return Ok(());
    };
    let bus = node.bus.clone();
    run(node, log, maps, settings.flow(), listener, stop).await?;
    bus.close().await;
    Ok(())
}
