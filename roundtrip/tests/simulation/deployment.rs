//! The services, as processes that are started, stopped and killed.

use std::{
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use backend::settings::WorkerSettings;
use events_service::{settings::FlowSettings, task_maps::TaskMapsFile};
use frontend::{Frontend, Requests, settings::RequestLimits};
use shared::{
    clock::Clock,
    contract::Address,
    identity::Identity,
    node::{Hears, Node},
    settings::Channels,
};
use tokio::{task::JoinHandle, time::Instant};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use crate::{history::History, life::Life, network::Network, store::Store, work::Workshop};

const TASK_MAPS: &str = concat!(
    env!("CARGO_MANIFEST_DIR"),
    "/tests/simulation/task-maps.json"
);
/// How long a process that is told to stop may take.
const DRAIN_TIMEOUT: Duration = Duration::from_secs(4);
/// A new process has said that it is ready by then.
const READY_AFTER: Duration = Duration::from_secs(1);

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum Kind {
    Frontend,
    EventsService,
    Backend,
}

/// The places that processes run in.
pub(crate) const PLACES: [Kind; 7] = [
    Kind::Frontend,
    Kind::Frontend,
    Kind::EventsService,
    Kind::EventsService,
    Kind::Backend,
    Kind::Backend,
    Kind::Backend,
];
pub(crate) const FRONTENDS: usize = 2;

/// Everything that runs.
pub(crate) struct Deployment {
    pub(crate) network: Arc<Network>,
    pub(crate) store: Arc<Store>,
    workshop: Workshop,
    deadline: Duration,
    /// One for all: a process that starts reads the time of the simulation, not that of the machine.
    clock: Clock,
    pub(crate) history: History,
    places: Mutex<Vec<Place>>,
    /// Of all frontends that there ever were.
    doors: Mutex<Vec<Door>>,
    /// Times when a process or its link was in trouble.
    troubles: Mutex<Vec<Trouble>>,
}

struct Place {
    kind: Kind,
    started: u32,
    process: Option<Process>,
}

struct Process {
    name: String,
    life: Life,
    stop: CancellationToken,
    task: JoinHandle<()>,
    door: Option<Door>,
}

/// Where a frontend is asked.
#[derive(Clone)]
pub(crate) struct Door {
    pub(crate) frontend: String,
    pub(crate) requests: Requests,
    pub(crate) life: Life,
    /// Callers that are being answered.
    pub(crate) callers: TaskTracker,
}

/// A process died, left, or could not be reached, at this moment.
#[derive(Debug, Clone)]
pub(crate) struct Trouble {
    pub(crate) process: String,
    pub(crate) at: Instant,
}

impl Deployment {
    pub(crate) fn new(
        network: Arc<Network>,
        store: Arc<Store>,
        workshop: Workshop,
        deadline: Duration,
        history: History,
    ) -> Arc<Self> {
        let places = PLACES.map(|kind| Place {
            kind,
            started: 0,
            process: None,
        });
        Arc::new(Self {
            network,
            store,
            workshop,
            deadline,
            clock: Clock::start(),
            history,
            places: Mutex::new(places.into()),
            doors: Mutex::default(),
            troubles: Mutex::default(),
        })
    }

    /// Starts a process where none runs.
    pub(crate) async fn start(&self, index: usize) {
        if self.places()[index].process.is_none() {
            let process = self.launch(index).await;
            self.places()[index].process = Some(process);
        }
    }

    /// Starts a new process, and stops the old one when the new one is ready.
    pub(crate) async fn replace(&self, index: usize) {
        let new = self.launch(index).await;
        tokio::time::sleep(READY_AFTER).await;
        let old = self.places()[index].process.replace(new);
        if let Some(old) = old {
            self.finish(old).await;
        }
    }

    async fn launch(&self, index: usize) -> Process {
        let (kind, name) = {
            let place = &mut self.places()[index];
            place.started += 1;
            let service = service(place.kind);
            (place.kind, format!("{service}-{index}-{}", place.started))
        };
        self.history.note(|| format!("start {name}"));
        let (life, stop) = (Life::default(), CancellationToken::new());
        let node = self.node(kind, &name, &life);
        let mut door = None;
        let task = match kind {
            Kind::Frontend => {
                let limits = RequestLimits {
                    deadline: self.deadline,
                    ..RequestLimits::default()
                };
                let frontend = Frontend::start(node, limits).await.unwrap();
                let opened = Door {
                    frontend: name.clone(),
                    requests: frontend.requests(),
                    life: life.clone(),
                    callers: TaskTracker::new(),
                };
                self.doors().push(opened.clone());
                let (callers, stopped) = (opened.callers.clone(), stop.clone());
                door = Some(opened);
                let serving = async move {
                    stopped.cancelled().await;
                    callers.close();
                    callers.wait().await;
                };
                tokio::spawn(frontend.drive(serving, stop.clone()))
            }
            Kind::EventsService => {
                let settings = FlowSettings {
                    drain_timeout: DRAIN_TIMEOUT,
                    ..FlowSettings::default()
                };
                let maps = TaskMapsFile::open(Some(TASK_MAPS.into())).unwrap();
                let log = self.store.connect(life.clone());
                let running = events_service::run(node, log, maps, settings, None, stop.clone());
                tokio::spawn(async move { running.await.unwrap() })
            }
            Kind::Backend => {
                let settings = WorkerSettings {
                    drain_timeout: DRAIN_TIMEOUT,
                    ..WorkerSettings::default()
                };
                let worker = self.workshop.worker(&name);
                let running = backend::run(node, worker, settings, None, stop.clone());
                tokio::spawn(async move { running.await.unwrap() })
            }
        };
        Process {
            name,
            life,
            stop,
            task,
            door,
        }
    }

    /// Kills a process: what it had in its hands is gone.
    pub(crate) fn kill(&self, index: usize) {
        let Some(process) = self.places()[index].process.take() else {
            return;
        };
        self.history.note(|| format!("kill {}", process.name));
        self.trouble(&process.name);
        process.life.end();
        process.task.abort();
        self.network.leave(&process.name);
    }

    /// Tells a process to stop, and waits for it.
    pub(crate) async fn stop(&self, index: usize) {
        let process = self.places()[index].process.take();
        if let Some(process) = process {
            self.finish(process).await;
        }
    }

    async fn finish(&self, process: Process) {
        self.history.note(|| format!("stop {}", process.name));
        // From its goodbye on, what it was last asked for may be asked of another one.
        self.trouble(&process.name);
        process.stop.cancel();
        // What a panic said is found by the hook.
        drop(process.task.await);
        self.history
            .note(|| format!("{} has stopped", process.name));
        self.network.leave(&process.name);
    }

    /// The process that runs at a place.
    pub(crate) fn name(&self, index: usize) -> Option<String> {
        let places = self.places();
        places[index].process.as_ref().map(|p| p.name.clone())
    }

    /// Where a frontend is asked, if it runs.
    pub(crate) fn door(&self, index: usize) -> Option<Door> {
        self.places()[index].process.as_ref()?.door.clone()
    }

    pub(crate) fn trouble(&self, process: &str) {
        self.troubles
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .push(Trouble {
                process: process.to_owned(),
                at: Instant::now(),
            });
    }

    /// All troubles, also those that nobody but the weather made.
    pub(crate) fn troubles(&self) -> Vec<Trouble> {
        let silenced = self.network.silenced().into_iter();
        let silenced = silenced.map(|(process, at)| Trouble { process, at });
        let made = self.troubles.lock().unwrap_or_else(PoisonError::into_inner);
        made.iter().cloned().chain(silenced).collect()
    }

    /// The doors of all frontends that have not been killed: also of one that has stopped, whose
    /// ledger must be right.
    pub(crate) fn open_doors(&self) -> Vec<Door> {
        let is_open = |door: &&Door| !door.life.has_ended();
        self.doors().iter().filter(is_open).cloned().collect()
    }

    fn node(&self, kind: Kind, name: &str, life: &Life) -> Node {
        let identity = Identity {
            address: Address::new(name, service(kind)).unwrap(),
            stack: None,
            image: None,
        };
        let hears = match kind {
            Kind::EventsService => Hears::Event,
            Kind::Frontend | Kind::Backend => Hears::Consuming,
        };
        let bus = self.network.join(name, life.clone());
        let mut node = Node::new(bus, identity, Channels::default(), hears);
        node.clock = self.clock;
        node
    }

    fn places(&self) -> MutexGuard<'_, Vec<Place>> {
        self.places.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn doors(&self) -> MutexGuard<'_, Vec<Door>> {
        self.doors.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn service(kind: Kind) -> &'static str {
    match kind {
        Kind::Frontend => "frontend",
        Kind::EventsService => "events-service",
        Kind::Backend => "backend",
    }
}
