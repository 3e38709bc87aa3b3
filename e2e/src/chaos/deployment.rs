//! What a scenario breaks: servers and services of its own, as bare processes.

use std::{
    collections::BTreeMap,
    fs,
    net::{IpAddr, Ipv4Addr, SocketAddr},
    path::{Path, PathBuf},
    time::Duration,
};

use anyhow::{Context, Result, bail};
use rand::{RngExt, rngs::StdRng};

use super::{DEADLINE, Length};
use crate::{
    bare::{self, Bare, Kind, Service},
    case::Case,
    forward::Forward,
    mongo,
    process::{Launch, Signal},
    redis,
    until::{SOON, until, until_true},
};

const LOOPBACK: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);

/// The time a service gets to end by itself: its own limit to drain, and the steps after it.
const STOPPED: Duration = Duration::from_secs(14);

/// What a scenario needs to be different from the usual deployment.
#[derive(Debug, Clone, Default)]
pub struct Plan {
    /// Settings of all services.
    pub settings: Vec<(&'static str, String)>,
    /// Options of the Redis server.
    pub redis: Vec<&'static str>,
    /// Each service reaches Redis through a forwarder of its own.
    pub redis_behind_forwards: bool,
    /// The events services reach the database through a forwarder.
    pub database_behind_forward: bool,
    /// The events services reach the database through one that can refuse writes.
    pub database_behind_refusal: bool,
    /// The database is killed: what it acknowledges must be on the disk. Elsewhere its syncs would
    /// only measure what else the disk is used for.
    pub database_syncs: bool,
}

/// A service and its way to Redis.
#[derive(Debug)]
pub struct Member {
    /// What it is.
    pub kind: Kind,
    /// The process.
    pub service: Service,
    /// Its way to Redis, where the plan says so.
    pub redis: Option<Forward>,
    /// The file with its clock, if that can be set.
    clock: Option<PathBuf>,
}

impl Member {
    /// The id it gave itself, from its log.
    ///
    /// # Errors
    /// When it says none.
    pub fn container_id(&self) -> Result<String> {
        let log = self.service.process.log();
        let (_, rest) = log
            .split_once("container_id=")
            .context("the log names no container_id")?;
        let is_hex = |character: char| character.is_ascii_hexdigit();
        Ok(rest.chars().take_while(|&c| is_hex(c)).collect())
    }
}

/// How many of each there are in the beginning.
const START: [(Kind, usize); 4] = [
    (Kind::Backend, 3),
    (Kind::Effect, 3),
    (Kind::EventsService, 2),
    (Kind::Frontend, 2),
];

/// Servers and services, running.
#[derive(Debug)]
pub struct Deployment<'c> {
    case: &'c Case,
    plan: Plan,
    /// Its Redis.
    pub redis: redis::Server,
    /// Its database.
    pub database: mongo::Server,
    /// The events services' way to the database, where the plan says so.
    pub database_way: Option<Forward>,
    /// What refuses the events services' writes, where the plan says so.
    pub database_refusal: Option<mongo::Refusal>,
    bare: Bare<'c>,
    /// The services that are meant to run.
    pub members: Vec<Member>,
}

impl<'c> Deployment<'c> {
    /// Starts the servers and two frontends, two events services, three backends and three
    /// backends with an effect, and waits until the frontends answer.
    ///
    /// # Errors
    /// When they do not.
    pub async fn start(case: &'c Case, plan: Plan) -> Result<Self> {
        let mut redis = redis::Server::planned()?.with(&plan.redis);
        let sync = if plan.database_syncs {
            mongo::Sync::OnCommit
        } else {
            mongo::Sync::Usual
        };
        let mut database = mongo::Server::planned(case, sync)?;
        redis.start(case).await?;
        database.start(case).await?;
        let mut reached_at = database.address;
        let mut database_way = None;
        if plan.database_behind_forward {
            let way = Forward::start(LOOPBACK, &reached_at.to_string()).await?;
            reached_at = database_way.insert(way).address;
        }
        let mut database_refusal = None;
        if plan.database_behind_refusal {
            let refusal = mongo::Refusal::start(reached_at).await?;
            reached_at = database_refusal.insert(refusal).address;
        }
        let uri = mongo::Server::uri(reached_at);
        let mut bare = Bare::on(case, &redis.address.to_string(), &uri)?
            .with("DEADLINE_MS", &DEADLINE.as_millis().to_string());
        for (name, value) in &plan.settings {
            bare = bare.with(name, value);
        }
        let mut deployment = Self {
            case,
            plan,
            redis,
            database,
            database_way,
            database_refusal,
            bare,
            members: Vec::new(),
        };
        for (kind, count) in START {
            for _ in 0..count {
                let member = deployment.launch(kind, None).await?;
                deployment.members.push(member);
            }
        }
        for member in &mut deployment.members {
            member.service.ready().await?;
        }
        deployment.answers().await?;
        Ok(deployment)
    }

    /// Waits until every frontend answers every kind of task.
    async fn answers(&self) -> Result<()> {
        for address in self.frontends() {
            bare::answers(address).await?;
            until_true(
                "a frontend to answer a task with an effect",
                SOON,
                async || {
                    let body = format!(r#"{{"key": "{}"}}"#, bare::WARM_UP);
                    let answer = crate::http::post(address, "/task/EFFECT/APPEND", body).await?;
                    let expected =
                        format!(r#"{{"message":"OK","result":"done {}"}}"#, bare::WARM_UP);
                    answer.expect_body(&expected).map(|()| true)
                },
            )
            .await?;
        }
        Ok(())
    }

    /// The test it belongs to.
    #[must_use]
    pub fn case(&self) -> &'c Case {
        self.case
    }

    /// Its names and addresses.
    #[must_use]
    pub fn bare(&self) -> &Bare<'c> {
        &self.bare
    }

    /// Adds a setting for all that is started from now on.
    pub fn set(&mut self, name: &str, value: &str) {
        self.bare.set(name, value);
    }

    /// Where the effects are written, a line each.
    #[must_use]
    pub fn effects(&self) -> PathBuf {
        self.case.folder().join("effects")
    }

    /// The audit log, read past any forwarder.
    ///
    /// # Errors
    /// When the address is none.
    pub async fn records(&self) -> Result<crate::records::Records> {
        let uri = mongo::Server::uri(self.database.address);
        crate::records::Records::of(&uri, self.case.id()).await
    }

    /// The addresses of the frontends.
    #[must_use]
    pub fn frontends(&self) -> Vec<SocketAddr> {
        self.of(Kind::Frontend)
            .map(|member| member.service.http)
            .collect()
    }

    /// The services of a kind.
    pub fn of(&self, kind: Kind) -> impl Iterator<Item = &Member> {
        self.members
            .iter()
            .filter(move |member| member.kind == kind)
    }

    /// One of a kind, by the seed.
    ///
    /// # Errors
    /// When there is none.
    pub fn choose(&self, kind: Kind, seed: &mut StdRng) -> Result<usize> {
        let of_kind: Vec<_> = self
            .members
            .iter()
            .enumerate()
            .filter(|(_, member)| member.kind == kind)
            .map(|(index, _)| index)
            .collect();
        if of_kind.is_empty() {
            bail!("no {kind:?} is left");
        }
        Ok(of_kind[seed.random_range(0..of_kind.len())])
    }

    /// Kills one, and answers where it was.
    ///
    /// # Errors
    /// When the system refuses.
    pub async fn kill(&mut self, index: usize) -> Result<SocketAddr> {
        let mut member = self.members.remove(index);
        member.service.process.kill().await?;
        Ok(member.service.http)
    }

    /// Stops one gracefully and checks its exit code.
    ///
    /// # Errors
    /// When it does not end in time, or with another code than 0.
    pub async fn stop(&mut self, index: usize) -> Result<()> {
        let mut member = self.members.remove(index);
        bare::stop_gracefully([&mut member.service].into_iter(), STOPPED).await
    }

    /// Sends a signal to one.
    ///
    /// # Errors
    /// When it has ended.
    pub fn signal(&self, index: usize, signal: Signal) -> Result<()> {
        self.members[index].service.process.signal(signal)
    }

    /// Starts one more, waits until it is ready, and answers where it is.
    ///
    /// # Errors
    /// When it is not in time.
    pub async fn add(&mut self, kind: Kind) -> Result<SocketAddr> {
        self.add_launched(kind, None).await?;
        Ok(self.members[self.members.len() - 1].service.http)
    }

    /// Starts one more, whose clock is so many seconds off, waits until it is ready, and answers
    /// which member it is.
    ///
    /// # Errors
    /// When it is not in time.
    pub async fn add_with_clock(&mut self, kind: Kind, seconds: i64) -> Result<usize> {
        let file = format!("clock-{}", self.members.len());
        let clock = self.case.write(&file, &format!("{seconds:+}"))?;
        self.add_launched(kind, Some(clock)).await?;
        Ok(self.members.len() - 1)
    }

    async fn add_launched(&mut self, kind: Kind, clock: Option<PathBuf>) -> Result<()> {
        let mut member = self.launch(kind, clock).await?;
        member.service.ready().await?;
        self.members.push(member);
        Ok(())
    }

    async fn launch(&self, kind: Kind, clock: Option<PathBuf>) -> Result<Member> {
        let redis = if self.plan.redis_behind_forwards {
            Some(Forward::start(LOOPBACK, &self.redis.address.to_string()).await?)
        } else {
            None
        };
        let (mut launch, http) = self.bare.prepare(kind)?;
        if let Some(forward) = &redis {
            launch = launch.env("REDIS_PORT", forward.address.port().to_string());
        }
        if kind == Kind::Effect {
            launch = launch.env("EFFECTS_FILE", self.effects());
        }
        if let Some(clock) = &clock {
            launch = with_clock(launch, clock)?;
        }
        let service = Service {
            process: launch.start()?,
            http,
        };
        Ok(Member {
            kind,
            service,
            redis,
            clock,
        })
    }

    /// Sets the clock of one that has one of its own: how far it is from the right one.
    ///
    /// # Errors
    /// When it has none, or the file cannot be written.
    pub fn clock(&self, index: usize, seconds: i64) -> Result<()> {
        let file = self.members[index].clock.as_ref();
        let file = file.context("its clock is that of the machine")?;
        fs::write(file, format!("{seconds:+}")).context("set a clock")
    }

    /// The receivers of each kind of channel: those of a container count as one kind.
    ///
    /// # Errors
    /// When Redis does not answer.
    pub async fn receivers(&self) -> Result<Receivers> {
        let mut redis = redis::Redis::connect(&self.redis.address.to_string()).await?;
        let prefix = self.bare.channel_prefix();
        let mut receivers = Receivers::default();
        for (name, count) in redis.channels(&prefix).await? {
            let kind: Vec<_> = name
                .split(':')
                .map(|part| if is_container_id(part) { "*" } else { part })
                .collect();
            receivers.0.entry(kind.join(":")).or_default().push(count);
        }
        Ok(receivers)
    }

    /// Waits until the channels have the receivers that they had before.
    ///
    /// # Errors
    /// When they have not in time: what they have instead.
    pub async fn receivers_are(&self, before: &Receivers, limit: Duration) -> Result<()> {
        until("the receivers to be as before", limit, async || {
            let now = self.receivers().await?;
            if now != *before {
                bail!("{now:?} instead of {before:?}");
            }
            Ok(Some(()))
        })
        .await
    }

    /// Fails when one that is meant to run has ended.
    ///
    /// # Errors
    /// With the end of its log.
    pub fn ensure_all_running(&mut self) -> Result<()> {
        self.members
            .iter_mut()
            .try_for_each(|member| member.service.process.ensure_running())
    }
}

/// The process reads the time from the file, all but the monotonic.
fn with_clock(launch: Launch, file: &Path) -> Result<Launch> {
    Ok(launch
        .env("LD_PRELOAD", crate::environment::faketime_library()?)
        .env("FAKETIME_TIMESTAMP_FILE", file)
        .env("FAKETIME_NO_CACHE", "1")
        .env("FAKETIME_DONT_FAKE_MONOTONIC", "1"))
}

fn is_container_id(text: &str) -> bool {
    text.len() == 64 && text.bytes().all(|byte| byte.is_ascii_hexdigit())
}

/// How many subscriptions each channel has; the channels of single containers stand together.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Receivers(BTreeMap<String, Vec<i64>>);

/// How long a fault lasts that lasts long: ten seconds, or less where tests must be quick.
#[must_use]
pub fn long(length: Length) -> Duration {
    match length {
        Length::Short => Duration::from_secs(3),
        Length::Full => Duration::from_secs(10),
    }
}
