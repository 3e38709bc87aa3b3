//! Running a frontend: as a part of a process, and as a process of its own.

use std::{
    process::ExitCode,
    sync::{Arc, Mutex, OnceLock, Weak},
};

use anyhow::Context;
use shared::{
    bus::{BusError, Message},
    contract::{Addressee, direct_channel},
    discovery::{EVENTS_KEYWORD, Member, presence::Condition},
    node::{Hears, Node, Running},
    ops::{self, Check, Ops, Readiness},
    outbox::outbox,
    placement::Placement,
    repeats::RetryBudget,
    settings, shutdown, telemetry,
};
use tokio::{
    net::TcpListener,
    sync::{mpsc, watch},
    task::JoinSet,
};
use tokio_util::sync::CancellationToken;
use tracing::info;

use crate::{
    flow::Flow,
    http,
    metrics::Metrics,
    pending::PendingRegistry,
    routes::{App, Requests},
    settings::{Command, Limits, RequestLimits, Settings},
};

/// Why a frontend ended.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    /// The bus was closed.
    #[error("the bus cannot be subscribed to")]
    Bus(#[from] BusError),
}

/// A frontend that has joined and not yet opened a port: it answers requests while it is driven.
pub struct Frontend {
    requests: Requests,
    flow: Arc<Flow>,
    heard: mpsc::Receiver<Message>,
    condition: Arc<Condition>,
    serving: Check,
    running: Running,
    /// The postman, and who watches for events services. They end with the frontend.
    background: JoinSet<()>,
}

impl Frontend {
    /// Subscribes, and makes itself known.
    ///
    /// # Errors
    /// [`RunError`]; an outage of the bus is none, it is waited out.
    pub async fn start(mut node: Node, limits: RequestLimits) -> Result<Self, RunError> {
        let me = node.identity.address.clone();
        info!(container_id = %me.container, service = %me.service, "frontend starts");
        let consuming = &node.channels.consuming;
        let channels = vec![consuming.clone(), direct_channel(consuming, &me.container)];
        let heard = node.bus.subscribe(channels).await?;
        let metrics = Metrics::register(&mut node.registry);

        // The postman reports to the flow, which holds the postman's queue.
        let report_to: Arc<OnceLock<Weak<Flow>>> = Arc::default();
        let reporter = report_to.clone();
        let (outbox, postman) = outbox(
            node.bus.clone(),
            node.roster.clone(),
            &node.channels.event,
            &mut node.registry,
            move |offer, why| {
                if let Some(flow) = reporter.get().and_then(Weak::upgrade) {
                    flow.undelivered(&offer, why);
                }
            },
        );
        let placement = Placement::new(node.roster.members(), node.identity.stack.clone());
        let flow = Arc::new(Flow {
            me: Addressee::new(me),
            clock: node.clock,
            pending: Arc::new(PendingRegistry::default()),
            roster: node.roster.clone(),
            placement: Mutex::new(placement),
            budget: Mutex::new(RetryBudget::default()),
            outbox,
            link: node.bus.link(),
            metrics: metrics.clone(),
        });
        report_to.get_or_init(|| Arc::downgrade(&flow));

        let mut background = JoinSet::new();
        let check = node.readiness.check("events service");
        background.spawn(watch_events_services(node.roster.members(), check));
        let running = node.start();
        background.spawn(postman.run());
        let serving = node.readiness.check("serving");
        let ops = Ops {
            readiness: node.readiness.clone(),
            metrics: Arc::new(node.registry),
        };
        let app = App {
            flow: flow.clone(),
            limits,
            metrics,
        };
        Ok(Self {
            requests: Requests::new(app, ops),
            flow,
            heard,
            condition: node.condition,
            serving,
            running,
            background,
        })
    }

    /// What answers requests.
    pub fn requests(&self) -> Requests {
        self.requests.clone()
    }

    /// Hears replies until `serving` ends, which it does some time after `stop`; then says goodbye.
    pub async fn drive(self, serving: impl Future<Output = ()>, stop: CancellationToken) {
        let members = self.flow.roster.members();
        let listening = self.flow.listen(self.heard, members);
        self.serving.pass();
        tokio::select! {
            () = serving => {}
            () = listening => {}
            () = async {
                stop.cancelled().await;
                self.serving.wait("stopping");
                self.condition.drain();
                std::future::pending::<()>().await;
            } => {}
        }
        drop(self.background);
        self.running.leave().await;
        info!("frontend ended");
    }
}

/// Answers requests on a listener until `stop`, then finishes those in flight.
///
/// # Errors
/// [`RunError`]; an outage of the bus is none, it is waited out.
pub async fn run(
    node: Node,
    limits: Limits,
    listener: TcpListener,
    stop: CancellationToken,
) -> Result<(), RunError> {
    let frontend = Frontend::start(node, limits.requests).await?;
    let serving = http::serve(
        listener,
        frontend.requests(),
        limits.connections,
        limits.drain_timeout,
        stop.clone(),
    );
    frontend.drive(serving, stop).await;
    Ok(())
}

/// Ready means that somebody is there to take a task.
async fn watch_events_services(mut members: watch::Receiver<Arc<[Member]>>, check: Check) {
    loop {
        if members
            .borrow_and_update()
            .iter()
            .any(|member| member.matches(EVENTS_KEYWORD))
        {
            check.pass();
        } else {
            check.wait("no events service is there");
        }
        if members.changed().await.is_err() {
            return;
        }
    }
}

/// A whole frontend process: reads settings, serves until SIGTERM or SIGINT, gives the exit code.
pub fn main() -> ExitCode {
    match settings::read::<Settings>() {
        Ok(settings) => settings::exit_code(block_on(settings)),
        Err(error) => ExitCode::from(error.report()),
    }
}

#[tokio::main(flavor = "current_thread")]
async fn block_on(settings: Settings) -> anyhow::Result<()> {
    if let Some(Command::Health) = settings.command {
        return ops::health(settings.port).await.map_err(anyhow::Error::msg);
    }
    telemetry::init(&settings.process.log, settings.process.log_format)
        .map_err(anyhow::Error::msg)?;
    let stop = shutdown::on_signals().context("signals cannot be listened to")?;
    let listener = settings::listen("PORT", (settings.address, settings.port).into()).await?;
    let joined = Node::join(
        &settings.bus,
        &settings.discovery,
        "frontend",
        Hears::Consuming,
        Readiness::default(),
        &stop,
    );
    let Some(node) = joined.await? else {
        return Ok(());
    };
    let bus = node.bus.clone();
    info!(port = settings.port, "listening");
    run(node, settings.limits(), listener, stop).await?;
    bus.close().await;
    Ok(())
}
