//! `roundtrip up`: everything in one process. The same libraries as in a deployment, on the bus in
//! memory and the audit log in a file; there is no second code path.

use std::{future::poll_fn, io::Write, sync::Arc, task::Poll, time::Duration};

use anyhow::{Context, anyhow};
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
use tokio::task::{JoinError, JoinSet};
use tokio_util::sync::CancellationToken;
use tracing::error;

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

    let mut backends = Service::new("backend");
    for _ in 0..BACKENDS {
        let settings = WorkerSettings {
            drain_timeout,
            ..WorkerSettings::default()
        };
        backends.start(backend::run(
            node(&bus, "backend", Hears::Consuming),
            backend::tasks::examples(),
            settings,
            None,
            backends.stop.clone(),
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
    let mut events = Service::new("events service");
    events.start(events_service::run(
        node(&bus, "events-service", Hears::Event),
        Arc::new(log),
        maps,
        flow,
        None,
        events.stop.clone(),
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
    let mut frontend = Service::new("frontend");
    frontend.start(frontend::run(
        frontend_node,
        limits,
        listener,
        frontend.stop.clone(),
    ));

    let mut serving = std::pin::pin!(watch_over([frontend, events, backends], &stop));
    tokio::select! {
        outcome = &mut serving => return outcome,
        ready = wait_until_ready(&readiness) => {
            ready?;
            greet(port, &options);
        }
        () = stop.cancelled() => {}
    }
    serving.await?;
    bus.close().await;
    Ok(())
}

/// A service of this process, once or several times. It runs until its own `stop`.
struct Service {
    name: &'static str,
    stop: CancellationToken,
    running: JoinSet<anyhow::Result<()>>,
}

impl Service {
    fn new(name: &'static str) -> Self {
        Self {
            name,
            stop: CancellationToken::new(),
            running: JoinSet::new(),
        }
    }

    /// `watch_over` waits for its end.
    fn start<E>(&mut self, service: impl Future<Output = Result<(), E>> + Send + 'static)
    where
        E: Into<anyhow::Error> + 'static,
    {
        self.running
            .spawn(async { service.await.map_err(Into::into) });
    }
}

/// Waits until `stop`, or until one of the services ends by itself: without it the others could only
/// say that it is not there. Then stops them one after the other, in the order of a request's path, so
/// that each finds the next still there to finish what it has.
async fn watch_over(mut services: [Service; 3], stop: &CancellationToken) -> anyhow::Result<()> {
    let mut outcome = tokio::select! {
        () = stop.cancelled() => Ok(()),
        failure = first_failure(&mut services) => {
            error!(error = &*failure, "stopping the other services");
            Err(failure)
        }
    };
    for service in &mut services {
        service.stop.cancel();
        while let Some(ended) = service.running.join_next().await {
            outcome = outcome.and(end_of(service.name, ended));
        }
    }
    outcome
}

/// Why a service has ended that was not told to.
async fn first_failure(services: &mut [Service]) -> anyhow::Error {
    let (name, ended) = poll_fn(|context| {
        for service in &mut *services {
            if let Poll::Ready(Some(ended)) = service.running.poll_join_next(context) {
                return Poll::Ready((service.name, ended));
            }
        }
        Poll::Pending
    })
    .await;
    match end_of(name, ended) {
        Ok(()) => anyhow!("the {name} ended, and was not told to"),
        Err(failure) => failure,
    }
}

fn end_of(name: &str, ended: Result<anyhow::Result<()>, JoinError>) -> anyhow::Result<()> {
    ended
        .map_err(anyhow::Error::from)
        .flatten()
        .with_context(|| format!("the {name} broke down"))
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

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use shared::bus::BusError;

    use super::*;

    /// The names of services, as they ended.
    type Ended = Arc<Mutex<Vec<&'static str>>>;

    /// A service that ends when it is told to.
    fn obedient(name: &'static str, ended: &Ended) -> Service {
        let mut service = Service::new(name);
        let (stop, ended) = (service.stop.clone(), ended.clone());
        service.start(async move {
            stop.cancelled().await;
            ended.lock().unwrap().push(name);
            Ok::<_, BusError>(())
        });
        service
    }

    #[tokio::test]
    async fn the_services_are_stopped_one_after_the_other() {
        let (ended, stop) = (Ended::default(), CancellationToken::new());
        stop.cancel();
        let services = ["frontend", "events service", "backend"];
        let outcome = watch_over(services.map(|name| obedient(name, &ended)), &stop).await;
        outcome.unwrap();
        assert_eq!(*ended.lock().unwrap(), services);
    }

    /// Whatever an events service ends with that nobody has stopped: the process ends with an error
    /// that names it, and after the other services.
    async fn check_that_it_ends_the_process(
        events: impl Future<Output = Result<(), BusError>> + Send + 'static,
    ) {
        let ended = Ended::default();
        let mut broken = Service::new("events service");
        broken.start(events);
        let services = [
            obedient("frontend", &ended),
            broken,
            obedient("backend", &ended),
        ];
        let failure = watch_over(services, &CancellationToken::new()).await;
        let failure = failure.unwrap_err().to_string();
        assert!(failure.starts_with("the events service "), "{failure}");
        assert_eq!(*ended.lock().unwrap(), ["frontend", "backend"]);
    }

    #[tokio::test]
    async fn a_service_that_ends_ends_the_process() {
        check_that_it_ends_the_process(async { Ok(()) }).await;
    }

    #[tokio::test]
    async fn a_service_that_fails_ends_the_process() {
        check_that_it_ends_the_process(async { Err(BusError::Unavailable("closed".into())) }).await;
    }

    #[tokio::test]
    async fn a_service_that_panics_ends_the_process() {
        check_that_it_ends_the_process(async { panic!("a bug") }).await;
    }
}
