//! A process in the deployment: what a service is given to take part.

use std::sync::Arc;

use prometheus_client::registry::Registry;
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use crate::{
    bus::{Bus, BusError, redis::RedisBus},
    clock::Clock,
    contract::ServiceName,
    discovery::{
        Discovery, Roster,
        docker::{DockerDiscovery, DockerError, Engine},
        presence::{Announcer, Condition, PresenceDiscovery},
    },
    identity::{self, Identity},
    ops::{Check, Readiness},
    settings::{BusSettings, Channels, DiscoverySettings},
};

/// Which of the contract's channels a service hears.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Hears {
    /// An events service.
    Event,
    /// A frontend or a backend.
    Consuming,
}

/// A process in the deployment.
pub struct Node {
    /// Who we are.
    pub identity: Identity,
    /// What carries our messages.
    pub bus: Arc<dyn Bus>,
    /// The contract's channels.
    pub channels: Channels,
    /// Who else is there.
    pub roster: Arc<Roster>,
    /// What we say of ourselves.
    pub condition: Arc<Condition>,
    /// What we need.
    pub readiness: Readiness,
    /// What time it is.
    pub clock: Clock,
    /// What we count.
    pub registry: Registry,
    hears: Hears,
    engine: Option<DockerDiscovery>,
    bus_check: Check,
}

/// Why a process cannot take part.
#[derive(Debug, thiserror::Error)]
pub enum JoinError {
    /// The bus cannot be set up.
    #[error("the bus cannot be set up")]
    Bus(#[from] BusError),
    /// Discovery cannot be set up.
    #[error("discovery cannot be set up")]
    Docker(#[from] DockerError),
}

impl Node {
    /// A node with given parts, found by presence.
    pub fn new(bus: Arc<dyn Bus>, identity: Identity, channels: Channels, hears: Hears) -> Self {
        Self::with(bus, identity, channels, hears, Readiness::default())
    }

    fn with(
        bus: Arc<dyn Bus>,
        identity: Identity,
        channels: Channels,
        hears: Hears,
        readiness: Readiness,
    ) -> Self {
        let mut registry = Registry::with_prefix("roundtrip");
        bus.counters().register(&mut registry);
        Self {
            identity,
            bus,
            channels,
            roster: Arc::new(Roster::default()),
            condition: Arc::default(),
            // From the beginning: a service whose other checks pass before it starts its node has not
            // been ready.
            bus_check: readiness.check("bus"),
            readiness,
            clock: Clock::start(),
            registry,
            hears,
            engine: None,
        }
    }

    /// Takes part in a deployment: connects to Redis and finds others by presence and, where the
    /// settings say so, by the Docker engine. Waits for the engine where our own address is only
    /// known there. `None` when told to stop first.
    ///
    /// # Errors
    /// [`JoinError`] for settings that cannot work; an outage is waited out.
    pub async fn join(
        bus: &BusSettings,
        discovery: &DiscoverySettings,
        usual_name: &str,
        hears: Hears,
        readiness: Readiness,
        stop: &CancellationToken,
    ) -> Result<Option<Self>, JoinError> {
        let engine = match discovery.uses_docker() {
            true => Some((
                Engine::new(&discovery.docker_host)?,
                readiness.check("docker"),
            )),
            false => None,
        };
        let identity = match (&engine, &discovery.service_name) {
            (Some((engine, check)), None) => identity::of_container(engine, check, stop).await,
            (_, name) => {
                let usual: ServiceName = usual_name
                    .parse()
                    .expect("a service's usual name is not empty");
                Some(identity::of_process(
                    name.clone().unwrap_or(usual),
                    discovery.stack_name.clone(),
                    discovery.service_image.clone(),
                ))
            }
        };
        let Some(identity) = identity else {
            return Ok(None);
        };
        let redis = RedisBus::start(&bus.redis())?;
        let mut node = Self::with(Arc::new(redis), identity, bus.channels(), hears, readiness);
        node.engine = engine.map(|(engine, check)| DockerDiscovery::new(engine, check));
        Ok(Some(node))
    }

    /// Starts the discoveries and follows the bus; they run until the guard's token is cancelled.
    pub fn start(&mut self) -> Running {
        let (stop, tasks) = (CancellationToken::new(), TaskTracker::new());
        let presence = PresenceDiscovery::new(
            self.bus.clone(),
            announcer(&self.identity, self.clock, &self.channels, self.hears),
            self.condition.clone(),
        );
        // They run until `stop`; an outage is waited out inside.
        tasks.spawn(Box::new(presence).run(self.roster.clone(), stop.clone()));
        if let Some(engine) = self.engine.take() {
            tasks.spawn(Box::new(engine).run(self.roster.clone(), stop.clone()));
        }
        let (bus, check) = (self.bus.clone(), self.bus_check.clone());
        let mut link = bus.link();
        let stopping = stop.clone();
        tasks.spawn(async move {
            loop {
                if link.borrow_and_update().is_up {
                    check.pass();
                } else {
                    let why = bus.why_down();
                    check.wait(why.unwrap_or_else(|| "the bus is not connected".into()));
                }
                tokio::select! {
                    () = stopping.cancelled() => return,
                    changed = link.changed() => if changed.is_err() { return },
                }
            }
        });
        Running {
            stop,
            tasks,
            bus: self.bus.clone(),
        }
    }
}

/// The background work of a node.
pub struct Running {
    stop: CancellationToken,
    tasks: TaskTracker,
    bus: Arc<dyn Bus>,
}

impl Running {
    /// Says goodbye. The bus is left open: several nodes of one process share it.
    pub async fn leave(self) -> Arc<dyn Bus> {
        self.stop.cancel();
        self.tasks.close();
        self.tasks.wait().await;
        self.bus
    }
}

fn announcer(identity: &Identity, clock: Clock, channels: &Channels, hears: Hears) -> Announcer {
    let (announce_beside, listen_beside) = match hears {
        Hears::Event => (
            channels.event.clone(),
            vec![channels.event.clone(), channels.consuming.clone()],
        ),
        Hears::Consuming => (channels.consuming.clone(), vec![channels.event.clone()]),
    };
    Announcer {
        address: identity.address.clone(),
        image: identity.image.clone(),
        stack: identity.stack.clone(),
        clock,
        announce_beside,
        listen_beside,
    }
}
