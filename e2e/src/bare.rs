//! Our services as bare processes that find each other by presence.

use std::{
    net::SocketAddr,
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use anyhow::{Result, bail, ensure};

use crate::{
    case::{Case, free_port},
    environment, http,
    process::{Launch, Process},
    records::Records,
    redis::Redis,
    until::{SOON, until_true},
};

/// The tasks of the images, and those of the example backends.
const TASK_MAPS: &str = r#"{
  "NUMBER": { "service": "backend", "pure": true },
  "STRING": { "service": "backend", "pure": true },
  "GREETING": { "service": "greeting", "pure": true },
  "SLOW": "slow",
  "EFFECT": "effect"
}
"#;

/// The kinds of processes a deployment is made of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// The HTTP edge.
    Frontend,
    /// Records and routes.
    EventsService,
    /// The arithmetic and concatenation.
    Backend,
    /// The example that greets.
    Greeting,
    /// The example that takes its time, panics and counts.
    Slow,
    /// The example whose effect is counted from outside.
    Effect,
}

impl Kind {
    fn program(self) -> &'static str {
        match self {
            Self::Frontend => "frontend",
            Self::EventsService => "events-service",
            Self::Backend => "backend",
            Self::Greeting => "examples/greeting",
            Self::Slow => "examples/slow",
            Self::Effect => "examples/effect",
        }
    }

    /// One of them, as people say it.
    #[must_use]
    pub fn one(self) -> &'static str {
        match self {
            Self::Frontend => "a frontend",
            Self::EventsService => "an events service",
            Self::Backend => "a backend",
            Self::Greeting => "a backend that greets",
            Self::Slow => "a slow backend",
            Self::Effect => "a backend with an effect",
        }
    }

    fn service_name(self) -> &'static str {
        match self {
            Self::Frontend => "e2e_frontend",
            Self::EventsService => "e2e_events-service",
            Self::Backend => "e2e_backend",
            Self::Greeting => "e2e_greeting",
            Self::Slow => "e2e_slow",
            Self::Effect => "e2e_effect",
        }
    }
}

/// One of our services, running.
#[derive(Debug)]
pub struct Service {
    /// The process.
    pub process: Process,
    /// Where it answers HTTP: requests at the frontend, `/readyz` and the like at all.
    pub http: SocketAddr,
}

impl Service {
    /// Waits until it says that it is ready.
    ///
    /// # Errors
    /// When it is not in time, or ends.
    pub async fn ready(&mut self) -> Result<()> {
        let http = self.http;
        until_true("a service to be ready", SOON, async || {
            self.process.ensure_running()?;
            let answer = http::get(http, "/readyz").await?;
            ensure!(answer.status == 200, "{}", answer.text());
            Ok(true)
        })
        .await
    }
}

/// A deployment of bare processes: what they have in common, and how they are started.
#[derive(Debug)]
pub struct Bare<'c> {
    case: &'c Case,
    redis: String,
    mongo: String,
    task_maps: PathBuf,
    settings: Vec<(String, String)>,
    binaries: Option<PathBuf>,
    started: std::cell::Cell<u32>,
}

impl<'c> Bare<'c> {
    /// On the servers that all tests share, with channels and a database of its own.
    ///
    /// # Errors
    /// When a server is not named in the environment.
    pub fn new(case: &'c Case) -> Result<Self> {
        Self::on(
            case,
            &environment::redis_address()?,
            &environment::mongo_uri()?,
        )
    }

    /// On the servers given.
    ///
    /// # Errors
    /// When its files cannot be written.
    pub fn on(case: &'c Case, redis: &str, mongo: &str) -> Result<Self> {
        Ok(Self {
            case,
            redis: redis.to_owned(),
            mongo: mongo.to_owned(),
            task_maps: case.write("task-maps.json", TASK_MAPS)?,
            settings: Vec::new(),
            binaries: None,
            started: std::cell::Cell::new(0),
        })
    }

    /// Adds a setting for all that is started from now on.
    #[must_use]
    pub fn with(mut self, name: &str, value: &str) -> Self {
        self.set(name, value);
        self
    }

    /// Adds a setting for all that is started from now on; a later one of the same name wins.
    pub fn set(&mut self, name: &str, value: &str) {
        self.settings.push((name.to_owned(), value.to_owned()));
    }

    /// Takes the binaries from this folder instead of the one that the environment names.
    #[must_use]
    pub fn binaries_in(mut self, folder: &Path) -> Self {
        self.binaries = Some(folder.to_owned());
        self
    }

    /// What every channel of this deployment begins with.
    #[must_use]
    pub fn channel_prefix(&self) -> String {
        format!("{}:", self.case.id())
    }

    /// The event channel.
    #[must_use]
    pub fn event_channel(&self) -> String {
        format!("{}events", self.channel_prefix())
    }

    /// The consuming channel.
    #[must_use]
    pub fn consuming_channel(&self) -> String {
        format!("{}consuming", self.channel_prefix())
    }

    /// `host:port` of its Redis.
    #[must_use]
    pub fn redis_address(&self) -> &str {
        &self.redis
    }

    /// The `mongodb://` address of its database server, and the database's name.
    #[must_use]
    pub fn database(&self) -> (&str, &str) {
        (&self.mongo, self.case.id())
    }

    /// Its audit log.
    ///
    /// # Errors
    /// When the server's address is none.
    pub async fn records(&self) -> Result<Records> {
        Records::of(&self.mongo, self.case.id()).await
    }

    /// Its Redis.
    ///
    /// # Errors
    /// When nobody listens there.
    pub async fn redis(&self) -> Result<Redis> {
        Redis::connect(&self.redis).await
    }

    /// The file that says which service does which task.
    #[must_use]
    pub fn task_maps(&self) -> &PathBuf {
        &self.task_maps
    }

    /// A service that is about to be started, and where it will answer HTTP.
    ///
    /// # Errors
    /// When the binary is not there.
    pub fn prepare(&self, kind: Kind) -> Result<(Launch, SocketAddr)> {
        let number = self.started.get();
        self.started.set(number + 1);
        let port = free_port()?;
        let (redis_host, redis_port) = self.redis.rsplit_once(':').unwrap_or((&self.redis, "6379"));
        let name = format!("{number:02}-{}", kind.program().replace('/', "-"));
        let port_setting = if kind == Kind::Frontend {
            "PORT"
        } else {
            "OPS_PORT"
        };
        let program = match &self.binaries {
            Some(folder) => folder.join(kind.program()),
            None => environment::binary(kind.program())?,
        };
        let launch = Launch::new(self.case, &name, &program)
            .env("REDIS_HOST", redis_host)
            .env("REDIS_PORT", redis_port)
            .env("EVENT_SERVICE_EVENT", self.event_channel())
            .env("CONSUMING_SERVICE_EVENT", self.consuming_channel())
            .env("SERVICE_NAME", kind.service_name())
            .env("DISCOVERY", "presence")
            .env("RUST_LOG", "info")
            .env(port_setting, port.to_string());
        let launch = if kind == Kind::EventsService {
            launch
                .env("MONGOURI", &self.mongo)
                .env("MONGODATABASE", self.case.id())
                .env("TASK_MAPS", &self.task_maps)
        } else {
            launch
        };
        let launch = launch.envs(self.settings.iter().map(|(name, value)| (name, value)));
        Ok((launch, SocketAddr::from(([127, 0, 0, 1], port))))
    }

    /// Starts a service and does not wait for it.
    ///
    /// # Errors
    /// When it cannot be started.
    pub fn start(&self, kind: Kind) -> Result<Service> {
        let (launch, http) = self.prepare(kind)?;
        Ok(Service {
            process: launch.start()?,
            http,
        })
    }

    /// Starts so many of each and waits until the frontends answer tasks.
    ///
    /// # Errors
    /// When they do not.
    pub async fn up(&self, frontends: u32, events_services: u32, backends: u32) -> Result<Up> {
        let start = |kind, count| {
            (0..count)
                .map(|_| self.start(kind))
                .collect::<Result<Vec<_>>>()
        };
        let mut up = Up {
            backends: start(Kind::Backend, backends)?,
            events_services: start(Kind::EventsService, events_services)?,
            frontends: start(Kind::Frontend, frontends)?,
        };
        up.ready().await?;
        up.answers().await?;
        Ok(up)
    }
}

/// The processes of a deployment.
#[derive(Debug)]
pub struct Up {
    /// The frontends.
    pub frontends: Vec<Service>,
    /// The events services.
    pub events_services: Vec<Service>,
    /// The backends.
    pub backends: Vec<Service>,
}

impl Up {
    /// The first frontend's address.
    #[must_use]
    pub fn http(&self) -> SocketAddr {
        self.frontends[0].http
    }

    /// Every frontend's address.
    #[must_use]
    pub fn addresses(&self) -> Vec<SocketAddr> {
        self.frontends
            .iter()
            .map(|frontend| frontend.http)
            .collect()
    }

    /// All processes.
    pub fn all(&mut self) -> impl Iterator<Item = &mut Service> {
        self.frontends
            .iter_mut()
            .chain(&mut self.events_services)
            .chain(&mut self.backends)
    }

    /// Waits until all say that they are ready.
    ///
    /// # Errors
    /// When one is not in time.
    pub async fn ready(&mut self) -> Result<()> {
        for service in self.all() {
            service.ready().await?;
        }
        Ok(())
    }

    /// Waits until every frontend answers a task, which begins with the text [`WARM_UP`].
    ///
    /// # Errors
    /// When one does not in time.
    pub async fn answers(&self) -> Result<()> {
        for address in self.addresses() {
            answers(address).await?;
        }
        Ok(())
    }

    /// Fails when one of them has ended by itself.
    ///
    /// # Errors
    /// With the end of its log.
    pub fn ensure_all_running(&mut self) -> Result<()> {
        self.all()
            .try_for_each(|service| service.process.ensure_running())
    }
}

/// What the bodies of warm-up tasks contain, to tell their records from those of the test.
pub const WARM_UP: &str = "warm-up";

/// Waits until a frontend answers a task.
///
/// # Errors
/// When it does not in time.
pub async fn answers(address: SocketAddr) -> Result<()> {
    let mut attempt = 0;
    until_true("a frontend to answer a task", SOON, async || {
        attempt += 1;
        let body = format!(r#"{{"a1": "{WARM_UP} {address} ", "a2": "{attempt}"}}"#);
        let answer = http::task(address, body).await?;
        let expected = format!(r#"{{"message":"OK","result":"{WARM_UP} {address} {attempt}"}}"#);
        answer.expect_body(&expected)?;
        Ok(true)
    })
    .await
}

/// Stops processes gracefully and checks that each ends with exit code 0.
///
/// # Errors
/// When one does not.
pub async fn stop_gracefully<'s>(
    services: impl Iterator<Item = &'s mut Service>,
    limit: Duration,
) -> Result<()> {
    let mut stopping: Vec<_> = services.collect();
    for service in &stopping {
        service.process.signal(crate::process::Signal::TERM)?;
    }
    let started = Instant::now();
    for service in &mut stopping {
        let left = limit.saturating_sub(started.elapsed());
        let code = service.process.exit_code(left).await?;
        if code != 0 {
            bail!("exit code {code}\n{}", service.process.log());
        }
    }
    Ok(())
}
