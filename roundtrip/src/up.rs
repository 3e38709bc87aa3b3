//! `roundtrip up`: everything in one process. The same libraries as in a deployment, on the bus in
//! memory and the audit log in a file; there is no second code path.

use std::{io::Write, sync::Arc, time::Duration};

use anyhow::{Context, bail};
use backend::settings::WorkerSettings;
use events_service::{
    audit::{AuditLog, sqlite::SqliteAuditLog},
    settings::FlowSettings,
    task_maps::TaskMapsFile,
};
use frontend::settings::{Limits, RequestLimits};
use shared::{
    bus::{Bus, memory::MemoryBus},
    contract::ServiceName,
    identity,
    node::{Hears, Node},
    ops::Readiness,
    settings::{self, Channels},
    shutdown, telemetry,
};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use crate::cli::Up;

/// Backends in the process: two, so that one sees that work is spread.
const BACKENDS: usize = 2;
/// By then the services of one process have found one another.
const READY_WITHIN: Duration = Duration::from_secs(10);

/// Connections read at one turn of the runtime. The work of these goes all the way to the log before the
/// next are read, and is written while they are worked at. With all at once, thread and log would wait
/// for each other: the log for the last of them, then the thread for the log.
const CONNECTIONS_AT_ONCE: usize = 8;

/// Runs everything until a signal.
///
/// # Errors
/// The port or a file cannot be used, or a service broke down.
pub(crate) fn up(options: Up) -> anyhow::Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .max_io_events_per_tick(CONNECTIONS_AT_ONCE)
        .enable_all()
        .build();
    runtime
        .context("the runtime cannot be made")?
        .block_on(run(options))
}

async fn run(options: Up) -> anyhow::Result<()> {
    telemetry::init(&options.process.log, options.process.log_format)
        .map_err(anyhow::Error::msg)?;
    let stop = shutdown::on_signals().context("signals cannot be listened to")?;
    let listener = settings::listen("PORT", (options.address, options.port).into()).await?;
    let port = listener.local_addr().map_or(options.port, |at| at.port());
    let log = SqliteAuditLog::open(&options.database, options.sync)?;
    log.prepare().await?;
    let maps = TaskMapsFile::open(options.task_maps.clone())?;
    let bus: Arc<dyn Bus> = Arc::new(MemoryBus::default());
    let drain_timeout = options.process.drain_timeout_ms;

    // Stopped one after the other, in the order of a request's path, so that each finds the next
    // still there to finish what it has.
    let (events_stop, backends_stop) = (CancellationToken::new(), CancellationToken::new());
    let mut backends = JoinSet::new();
    for _ in 0..BACKENDS {
        let settings = WorkerSettings {
            drain_timeout,
            ..WorkerSettings::default()
        };
        backends.spawn(backend::run(
            node(&bus, "backend", Hears::Consuming),
            backend::tasks::examples(),
            settings,
            None,
            backends_stop.clone(),
        ));
    }
    let flow = FlowSettings {
        usual_deadline: options.deadline_ms,
        longest_deadline: FlowSettings::default()
            .longest_deadline
            .max(options.deadline_ms),
        drain_timeout,
        ..FlowSettings::default()
    };
    let events = tokio::spawn(events_service::run(
        node(&bus, "events-service", Hears::Event),
        Arc::new(log),
        maps,
        flow,
        None,
        events_stop.clone(),
    ));
    let limits = Limits {
        requests: RequestLimits {
            deadline: options.deadline_ms,
            ..RequestLimits::default()
        },
        drain_timeout,
        ..Limits::default()
    };
    let frontend_node = node(&bus, "frontend", Hears::Consuming);
    let readiness = frontend_node.readiness.clone();
    let mut frontend = tokio::spawn(frontend::run(frontend_node, limits, listener, stop.clone()));

    tokio::select! {
        ready = wait_until_ready(&readiness) => {
            ready?;
            greet(port, &options);
        }
        () = stop.cancelled() => {}
        ended = &mut frontend => bail!("the frontend ended at start: {ended:?}"),
    }
    frontend.await.context("the frontend broke down")??;
    events_stop.cancel();
    events.await.context("the events service broke down")??;
    backends_stop.cancel();
    while let Some(ended) = backends.join_next().await {
        ended.context("a backend broke down")??;
    }
    bus.close().await;
    Ok(())
}

fn node(bus: &Arc<dyn Bus>, name: &str, hears: Hears) -> Node {
    let service: ServiceName = name
        .parse()
        .expect("the names of our services are not empty");
    let image = Some(format!("roundtrip {}", env!("CARGO_PKG_VERSION")));
    let identity = identity::of_process(service, None, image);
    Node::new(bus.clone(), identity, Channels::default(), hears)
}

async fn wait_until_ready(readiness: &Readiness) -> anyhow::Result<()> {
    let ready = async {
        while !readiness.is_ready() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(READY_WITHIN, ready)
        .await
        .with_context(|| format!("the services did not find one another within {READY_WITHIN:?}"))
}

/// Says where it listens. Should nobody read it (a closed pipe), it runs all the same.
fn greet(port: u16, options: &Up) {
    let greeting = format!(
        "Roundtrip listens on http://localhost:{port}, the audit log is {}.\n\
         Try:  curl -s localhost:{port}/task -d '{{\"a1\": 5, \"a2\": 10}}'\n",
        options.database.display()
    );
    let mut out = std::io::stdout();
    if out
        .write_all(greeting.as_bytes())
        .and_then(|()| out.flush())
        .is_err()
    {
        tracing::debug!("nobody reads the greeting");
    }
}
