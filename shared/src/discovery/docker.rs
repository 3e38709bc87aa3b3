//! Discovery by the Docker engine: a list at start, the event stream after that, and a full list
//! now and then to heal gaps.

use std::{collections::HashMap, sync::Arc, time::Duration};

use async_trait::async_trait;
use bollard::{
    Docker,
    query_parameters::{EventsOptionsBuilder, ListContainersOptions},
};
use futures_util::StreamExt;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use super::{Discovery, Listed, Roster};
use crate::{contract::Address, ops::Check};

/// The label that holds a container's service name (contract, "Address").
const SERVICE_LABEL: &str = "com.docker.swarm.service.name";
/// The label that holds a container's stack.
const STACK_LABEL: &str = "com.docker.stack.namespace";
/// How the status of a container ends whose health check has not passed yet; of one without a health
/// check nothing of the kind is said.
const STARTING: &str = "(health: starting)";
/// How often the full list is read: an event that was missed is healed after so long.
const LIST_EVERY: Duration = Duration::from_secs(30);
/// Several containers start together: one list for all of them.
const SETTLE: Duration = Duration::from_millis(30);
/// First and longest wait while the engine cannot be reached.
const BACKOFF: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(3));
/// An engine that takes longer to answer is taken for absent, in seconds.
const ENGINE_TIMEOUT_S: u64 = 10;

/// Why the engine was not asked.
#[derive(Debug, thiserror::Error)]
pub enum DockerError {
    /// The address is none that can be connected to.
    #[error("`{host}` is no address of a Docker engine (unix:///path or tcp://host:port)")]
    BadAddress {
        /// The address as it was given.
        host: String,
    },
    /// The engine is not there or refuses.
    #[error("the Docker engine does not answer")]
    Engine(#[from] bollard::errors::Error),
    /// The engine took too long.
    #[error("the Docker engine did not answer within {ENGINE_TIMEOUT_S} s")]
    Timeout(#[from] tokio::time::error::Elapsed),
}

/// The Docker engine as a source of containers. Cheap to clone; the engine need not be there yet.
#[derive(Debug, Clone)]
pub struct Engine {
    host: String,
}

impl Engine {
    /// The engine at an address such as `unix:///var/run/docker.sock` or `tcp://host:2375`.
    ///
    /// # Errors
    /// [`DockerError::BadAddress`].
    pub fn new(host: &str) -> Result<Self, DockerError> {
        if ["unix://", "tcp://", "http://"]
            .iter()
            .any(|scheme| host.starts_with(scheme))
        {
            Ok(Self { host: host.into() })
        } else {
            Err(DockerError::BadAddress { host: host.into() })
        }
    }

    /// A client that speaks a version of the API that the engine knows: engines in the field speak
    /// 1.41 to 1.5x, and one may be replaced while we run.
    async fn connect(&self) -> Result<Docker, DockerError> {
        let version = bollard::API_DEFAULT_VERSION;
        let docker = match self.host.strip_prefix("unix://") {
            Some(path) => Docker::connect_with_socket(path, ENGINE_TIMEOUT_S, version),
            None => Docker::connect_with_http(&self.host, ENGINE_TIMEOUT_S, version),
        }?;
        Ok(tokio::time::timeout(limit(), docker.negotiate_version()).await??)
    }

    /// All running containers of swarm services, or labelled like them.
    ///
    /// # Errors
    /// [`DockerError`].
    pub async fn list(&self) -> Result<Vec<Listed>, DockerError> {
        let docker = self.connect().await?;
        let options = ListContainersOptions {
            filters: Some(HashMap::from([(
                "label".to_owned(),
                vec![SERVICE_LABEL.to_owned()],
            )])),
            ..ListContainersOptions::default()
        };
        let containers =
            tokio::time::timeout(limit(), docker.list_containers(Some(options))).await??;
        let listed = containers.into_iter().filter_map(|container| {
            let labels = container.labels?;
            Some(Listed {
                address: Address::new(&container.id?, labels.get(SERVICE_LABEL)?).ok()?,
                image: container.image.map(Into::into),
                stack: labels.get(STACK_LABEL).map(|stack| stack.as_str().into()),
                is_starting: container
                    .status
                    .is_some_and(|status| status.ends_with(STARTING)),
            })
        });
        Ok(listed.collect())
    }
}

/// Discovery by the engine.
pub struct DockerDiscovery {
    engine: Engine,
    check: Check,
}

impl DockerDiscovery {
    /// Lists once it runs; `check` says whether the engine is there.
    pub fn new(engine: Engine, check: Check) -> Self {
        Self { engine, check }
    }

    /// Lists, then follows the event stream until it ends or a full list is due.
    async fn follow(&self, roster: &Roster) -> Result<(), DockerError> {
        // The stream begins before the list: what happens in between is in one of them.
        let started = unix_seconds_now();
        roster.list(self.engine.list().await?);
        self.check.pass();
        let docker = self.engine.connect().await?;
        let filters = HashMap::from([
            ("type", vec!["container"]),
            ("event", vec!["start", "die", "health_status"]),
            ("label", vec![SERVICE_LABEL]),
        ]);
        let options = EventsOptionsBuilder::default()
            .since(&started)
            .filters(&filters)
            .build();
        let mut events = std::pin::pin!(docker.events(Some(options)));
        let mut list_at = Instant::now() + LIST_EVERY;
        loop {
            tokio::select! {
                event = events.next() => {
                    let Some(event) = event else { return Ok(()) };
                    let event = event?;
                    let id = event.actor.and_then(|actor| actor.id).unwrap_or_default();
                    match event.action.as_deref() {
                        Some("die") => if let Ok(id) = id.parse() {
                            roster.died(&id);
                        },
                        _ => list_at = list_at.min(Instant::now() + SETTLE),
                    }
                }
                () = tokio::time::sleep_until(list_at) => {
                    roster.list(self.engine.list().await?);
                    list_at = Instant::now() + LIST_EVERY;
                }
            }
        }
    }
}

#[async_trait]
impl Discovery for DockerDiscovery {
    async fn run(self: Box<Self>, roster: Arc<Roster>, stop: CancellationToken) {
        let mut backoff = BACKOFF.0;
        let mut was_told = false;
        loop {
            let started = Instant::now();
            let outcome = tokio::select! {
                outcome = self.follow(&roster) => outcome,
                () = stop.cancelled() => return,
            };
            let lasted = started.elapsed() > Duration::from_secs(1);
            match outcome {
                Ok(()) => info!(
                    engine = self.engine.host,
                    "the event stream ended, listing anew"
                ),
                Err(error) => {
                    // The roster stays as it is: presence and unanswered messages tell who is gone.
                    self.check.fail(&error);
                    if lasted || !was_told {
                        let error = &error as &dyn std::error::Error;
                        warn!(
                            engine = self.engine.host,
                            error, "waiting for the Docker engine"
                        );
                    }
                    was_told = true;
                }
            }
            backoff = if lasted {
                BACKOFF.0
            } else {
                (backoff * 2).min(BACKOFF.1)
            };
            tokio::select! {
                () = tokio::time::sleep(backoff) => {}
                () = stop.cancelled() => return,
            }
        }
    }
}

fn limit() -> Duration {
    Duration::from_secs(ENGINE_TIMEOUT_S)
}

fn unix_seconds_now() -> String {
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
    now.unwrap_or_default().as_secs().to_string()
}
