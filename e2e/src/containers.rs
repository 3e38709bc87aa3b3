//! A deployment of plain containers, ours and stand-ins mixed, on a bridge network of its own.
//!
//! Containers reach the tests' Redis and database through forwarders on the network's gateway, and
//! the test reaches a frontend at its container's address.

use std::{
    fs::File,
    net::{IpAddr, SocketAddr},
    path::PathBuf,
    time::Duration,
};

use anyhow::{Context, Result, bail, ensure};

use crate::{
    bare,
    case::Case,
    docker::{LABEL, build_foreign, docker, docker_blocking, socket, socket_group},
    environment,
    forward::Forward,
    http,
    records::Records,
    redis::Redis,
    until::{SOON, until_true},
};

/// The stack the containers pretend to belong to. Its name contains every keyword: no service may
/// be found by it.
const STACK: &str = "backend-event";

/// A position in the deployment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Role {
    /// HTTP in, tasks out.
    Frontend,
    /// Records and routes.
    Events,
    /// Executes.
    Backend,
}

impl Role {
    fn foreign_name(self) -> &'static str {
        match self {
            Self::Frontend => "frontend",
            Self::Events => "events",
            Self::Backend => "backend",
        }
    }

    fn our_image(self) -> &'static str {
        match self {
            Self::Frontend => "frontend",
            Self::Events => "events-service",
            Self::Backend => "backend",
        }
    }

    fn service_name(self) -> String {
        format!("{STACK}_{}", self.our_image())
    }
}

/// Who fills a position.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Maker {
    /// Our own image.
    Ours,
    /// A stand-in of the Go family.
    Go,
    /// A stand-in of the NodeJS family.
    Node,
    /// A stand-in of the Java family.
    Java,
}

impl Maker {
    /// The families of stand-ins.
    pub const FOREIGN: [Self; 3] = [Self::Go, Self::Node, Self::Java];

    fn dialect(self) -> Option<&'static str> {
        match self {
            Self::Ours => None,
            Self::Go => Some("go"),
            Self::Node => Some("node"),
            Self::Java => Some("java"),
        }
    }
}

/// One container. It is removed when dropped, and its log kept.
#[derive(Debug)]
pub struct Container {
    /// Its full id.
    pub id: String,
    /// Its address in the network.
    pub ip: IpAddr,
    maker: Maker,
    role: Role,
    log: PathBuf,
}

impl Container {
    /// Where its frontend answers.
    #[must_use]
    pub fn http(&self) -> SocketAddr {
        SocketAddr::new(self.ip, 4000)
    }

    /// Fails when it has ended.
    ///
    /// # Errors
    /// With what it said last.
    pub async fn ensure_running(&self) -> Result<()> {
        let state = docker([
            "inspect",
            "--format",
            "{{.State.Status}} {{.State.ExitCode}}",
            &self.id,
        ])
        .await?;
        if !state.starts_with("running") {
            let log = self.log_tail().await?;
            bail!("{:?} {:?} is {state}: {log}", self.maker, self.role);
        }
        Ok(())
    }

    /// Kills it.
    ///
    /// # Errors
    /// When it does not run.
    pub async fn kill(&self) -> Result<()> {
        docker(["kill", &self.id]).await.map(drop)
    }

    async fn ready(&self) -> Result<()> {
        until_true("a container to be ready", SOON, async || {
            self.ensure_running().await?;
            if self.maker != Maker::Ours {
                return Ok(self.log_tail().await?.contains("ready:"));
            }
            let port = if self.role == Role::Frontend {
                4000
            } else {
                9100
            };
            let answer = http::get(SocketAddr::new(self.ip, port), "/readyz").await?;
            ensure!(answer.status == 200, "{}", answer.text());
            Ok(true)
        })
        .await
    }

    async fn log_tail(&self) -> Result<String> {
        let output = tokio::process::Command::new("docker")
            .args(["logs", "--tail", "50", &self.id])
            .output()
            .await?;
        let both = [output.stdout, output.stderr].concat();
        Ok(String::from_utf8_lossy(&both).into_owned())
    }
}

impl Drop for Container {
    fn drop(&mut self) {
        docker_blocking(["logs", &self.id], File::create(&self.log).ok());
        docker_blocking(["rm", "--force", "--volumes", &self.id], None);
    }
}

/// The network, and the way to the servers.
#[derive(Debug)]
pub struct Containers<'c> {
    case: &'c Case,
    network: Network,
    redis: Forward,
    mongo: Forward,
    mongo_uri: String,
    foreign_image: String,
    running: Vec<Container>,
}

// The containers must be gone before their network can be removed: declared in this order inside
// `Containers`, the network would go first, so it has no `Drop` of its own.
#[derive(Debug)]
struct Network {
    name: String,
}

impl Drop for Containers<'_> {
    fn drop(&mut self) {
        self.running.clear();
        docker_blocking(["network", "rm", &self.network.name], None);
    }
}

impl<'c> Containers<'c> {
    /// Makes the network. The engine must be held: see [`crate::docker::Engine`].
    ///
    /// # Errors
    /// When the engine or a server is not there.
    pub async fn new(case: &'c Case) -> Result<Self> {
        let foreign_image = build_foreign().await?;
        let name = format!("{}-net", case.id());
        docker(["network", "create", "--label", LABEL, &name]).await?;
        let network = Network { name };
        let gateway = "{{(index .IPAM.Config 0).Gateway}}";
        let gateway: IpAddr = docker(["network", "inspect", "--format", gateway, &network.name])
            .await?
            .parse()
            .context("the network's gateway")?;
        let redis = Forward::start(gateway, &environment::redis_address()?).await?;
        let uri = environment::mongo_uri()?;
        let host = mongo_host(&uri)?;
        let mongo = Forward::start(gateway, host).await?;
        let mongo_uri = uri.replacen(host, &mongo.address.to_string(), 1);
        Ok(Self {
            case,
            network,
            redis,
            mongo,
            mongo_uri,
            foreign_image,
            running: Vec::new(),
        })
    }

    /// Starts `count` containers of one maker in one position, and waits until they are ready.
    ///
    /// # Errors
    /// When they do not come up.
    pub async fn start(&mut self, maker: Maker, role: Role, count: usize) -> Result<()> {
        let before = self.running.len();
        for _ in 0..count {
            let container = self.run(maker, role).await?;
            self.running.push(container);
        }
        for container in &self.running[before..] {
            container.ready().await?;
        }
        Ok(())
    }

    /// The containers in one position.
    pub fn of(&self, role: Role) -> impl Iterator<Item = &Container> {
        self.running
            .iter()
            .filter(move |container| container.role == role)
    }

    /// Where the frontends answer.
    #[must_use]
    pub fn addresses(&self) -> Vec<SocketAddr> {
        self.of(Role::Frontend).map(Container::http).collect()
    }

    /// Waits until every frontend gets a task through, whatever dialect the answer is in.
    ///
    /// # Errors
    /// When one does not in time.
    pub async fn answers(&self) -> Result<()> {
        for address in self.addresses() {
            let mut attempt = 0;
            until_true("a frontend to answer a task", SOON, async || {
                attempt += 1;
                let body = format!(r#"{{"a1": "{} {attempt}", "a2": ""}}"#, bare::WARM_UP);
                let answer =
                    tokio::time::timeout(Duration::from_secs(5), http::task(address, body));
                let answer = answer.await.context("no answer")??;
                ensure!(answer.status == 200, "{}", answer.text());
                Ok(answer.json()?["result"].is_string())
            })
            .await?;
        }
        Ok(())
    }

    /// Fails when a container has ended by itself.
    ///
    /// # Errors
    /// With what it said last.
    pub async fn ensure_all_running(&self) -> Result<()> {
        for container in &self.running {
            container.ensure_running().await?;
        }
        Ok(())
    }

    /// The audit log.
    ///
    /// # Errors
    /// When the server's address is none.
    pub async fn records(&self) -> Result<Records> {
        Records::of(&environment::mongo_uri()?, self.case.id()).await
    }

    /// The Redis behind the forwarder.
    ///
    /// # Errors
    /// When it is not there.
    pub async fn redis(&self) -> Result<Redis> {
        Redis::connect(&environment::redis_address()?).await
    }

    /// The event channel.
    #[must_use]
    pub fn event_channel(&self) -> String {
        format!("{}:events", self.case.id())
    }

    /// The consuming channel.
    #[must_use]
    pub fn consuming_channel(&self) -> String {
        format!("{}:consuming", self.case.id())
    }

    async fn run(&self, maker: Maker, role: Role) -> Result<Container> {
        let service = role.service_name();
        let mut arguments: Vec<String> = ["run", "--detach", "--network", &self.network.name]
            .map(str::to_owned)
            .to_vec();
        for label in [
            LABEL.to_owned(),
            format!("com.docker.swarm.service.name={service}"),
            format!("com.docker.stack.namespace={STACK}"),
        ] {
            arguments.extend(["--label".to_owned(), label]);
        }
        for (name, value) in self.settings(&service) {
            arguments.extend(["--env".to_owned(), format!("{name}={value}")]);
        }
        // Our backend asks the engine nothing, so it gets no socket; the older ones do.
        if maker != Maker::Ours || role != Role::Backend {
            let mount = format!("{}:/var/run/docker.sock", socket()?.display());
            arguments.extend(["--volume".to_owned(), mount]);
            arguments.extend(["--group-add".to_owned(), socket_group()?.to_string()]);
        }
        match maker.dialect() {
            Some(dialect) => {
                arguments.push(self.foreign_image.clone());
                let chosen = ["--dialect", dialect, "--role", role.foreign_name()];
                arguments.extend(chosen.map(str::to_owned));
            }
            None => {
                if role != Role::Backend {
                    arguments.extend(["--env".to_owned(), "DISCOVERY=docker".to_owned()]);
                }
                arguments.push(environment::image(role.our_image())?);
            }
        }
        let id = docker(arguments).await?;
        let log = format!("{:02}-{maker:?}-{role:?}", self.running.len());
        // From here on it is removed also when something fails.
        let mut container = Container {
            id,
            ip: IpAddr::from([0, 0, 0, 0]),
            maker,
            role,
            log: self.case.log_path(&log),
        };
        let ip = "{{range .NetworkSettings.Networks}}{{.IPAddress}}{{end}}";
        let ip = docker(["inspect", "--format", ip, &container.id]).await?;
        if ip.is_empty() {
            container.ensure_running().await?;
        }
        container.ip = ip
            .parse()
            .with_context(|| format!("the container's address {ip:?}"))?;
        Ok(container)
    }

    fn settings(&self, service: &str) -> Vec<(&'static str, String)> {
        vec![
            ("REDIS_HOST", self.redis.address.ip().to_string()),
            ("REDIS_PORT", self.redis.address.port().to_string()),
            ("MONGOURI", self.mongo_uri.clone()),
            ("MONGOPORT", self.mongo.address.port().to_string()),
            ("MONGODATABASE", self.case.id().to_owned()),
            ("EVENT_SERVICE_EVENT", self.event_channel()),
            ("CONSUMING_SERVICE_EVENT", self.consuming_channel()),
            ("SERVICE_NAME", service.to_owned()),
            ("PORT", "4000".to_owned()),
        ]
    }
}

/// `host:port` in a `mongodb://` address of one server.
fn mongo_host(uri: &str) -> Result<&str> {
    let rest = uri
        .strip_prefix("mongodb://")
        .context("a mongodb:// address")?;
    let authority = rest.split(['/', '?']).next().unwrap_or(rest);
    let host = authority.rsplit('@').next().unwrap_or(authority);
    ensure!(
        host.contains(':') && !host.contains(','),
        "the tests need one server with its port in the mongodb:// address, not {host}"
    );
    Ok(host)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_host_of_an_address_is_found() {
        let uri = "mongodb://127.0.0.1:27018/?directConnection=true";
        assert_eq!(mongo_host(uri).ok(), Some("127.0.0.1:27018"));
        assert_eq!(mongo_host("mongodb://u:p@h:1/db").ok(), Some("h:1"));
        assert!(mongo_host("mongodb://h").is_err());
    }
}
