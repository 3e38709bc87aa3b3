//! What is measured beside ours: our own parts of the work, and others that do the same.

use std::{
    fs, io,
    net::SocketAddr,
    path::{Path, PathBuf},
    process::Stdio,
    rc::Rc,
};

use anyhow::{Context, Result, ensure};
use e2e::{
    case::{Case, free_port},
    http,
    process::{Launch, Process},
    until::{SOON, until_true},
};
use tokio::process::Command;

use crate::{generator::Target, measure::System, questions::Kind};

use super::{cargo, target_folder, workspace};

/// Processes that answer `POST /task` among them.
#[derive(Debug)]
pub(crate) struct Alone {
    name: String,
    http: SocketAddr,
    processes: Vec<(String, Process)>,
}

impl Alone {
    fn new(name: &str) -> Result<Self> {
        Ok(Self {
            name: name.to_owned(),
            http: SocketAddr::from(([127, 0, 0, 1], free_port()?)),
            processes: Vec::new(),
        })
    }

    /// The HTTP exchange without the events.
    ///
    /// # Errors
    /// It does not come up.
    pub(crate) async fn http(case: &Case) -> Result<Self> {
        let mut alone = Self::new("HTTP exchange alone")?;
        let listen = alone.http.to_string();
        alone.part(case, "http", &["http", "--listen", &listen])?;
        alone.answers().await
    }

    /// Bare hops through Redis, 2 (as when the log has the answer) or 4 (the full path); with a
    /// `mongodb`, whose database of this case has records, one like them is written for each request.
    ///
    /// # Errors
    /// They do not come up.
    pub(crate) async fn hops(
        case: &Case,
        redis: SocketAddr,
        hops: u8,
        mongodb: Option<&str>,
    ) -> Result<Self> {
        let mut alone = Self::new(&match mongodb {
            Some(_) => format!("HTTP, {hops} bare hops and a record"),
            None => format!("HTTP and {hops} bare hops"),
        })?;
        let (listen, redis) = (alone.http.to_string(), redis.to_string());
        let deployment = format!("{}hops{}", case.id(), alone.http.port());
        let channel = |name: &str| format!("{deployment}:{name}");
        let (front, middle, end) = (channel("front"), channel("middle"), channel("end"));
        let hop = |own: &str, before: &str| {
            let words = ["hop", "--redis", &redis, "--own", own, "--before", before];
            words.map(str::to_owned).to_vec()
        };
        let mut second = hop(&middle, &front);
        if hops > 2 {
            alone.part(case, "end", &hop(&end, &middle))?;
            second.extend(["--behind".to_owned(), end]);
        }
        if let Some(mongodb) = mongodb {
            let log = [
                "--mongodb",
                mongodb,
                "--like",
                case.id(),
                "--database",
                &deployment,
            ];
            second.extend(log.map(str::to_owned));
        }
        alone.part(case, "middle", &second)?;
        let words = [
            "hops-front",
            "--listen",
            &listen,
            "--redis",
            &redis,
            "--own",
            &front,
            "--next",
            &middle,
        ];
        alone.part(case, "front", &words)?;
        alone.answers().await
    }

    /// NATS request and reply.
    ///
    /// # Errors
    /// There is no `nats-server`, or something does not come up.
    pub(crate) async fn nats(case: &Case) -> Result<Self> {
        let mut alone = Self::new("NATS request/reply, no audit")?;
        let nats = SocketAddr::from(([127, 0, 0, 1], free_port()?)).to_string();
        let (host, port) = nats.split_once(':').context("an address without a port")?;
        let program = program("nats-server").await?;
        let server = Launch::new(case, "nats-server", &program).args(["-a", host, "-p", port]);
        alone.processes.push(("nats".to_owned(), server.start()?));
        until_true("NATS to listen", SOON, async || {
            Ok(tokio::net::TcpStream::connect(&nats).await.is_ok())
        })
        .await?;
        let listen = alone.http.to_string();
        alone.part(case, "responder", &["nats-responder", "--nats", &nats])?;
        alone.part(
            case,
            "front",
            &["nats-front", "--listen", &listen, "--nats", &nats],
        )?;
        alone.answers().await
    }

    /// Moleculer over Redis, its own HTTP gateway in front.
    ///
    /// # Errors
    /// Node or npm is missing, or something does not come up.
    pub(crate) async fn moleculer(case: &Case, redis: SocketAddr) -> Result<Self> {
        let mut alone = Self::new("Moleculer over Redis, no audit")?;
        let folder = install_moleculer().await?;
        let node = program("node").await?;
        for (name, file) in [("worker", "worker.js"), ("front", "gateway.js")] {
            let launch = Launch::new(case, &format!("moleculer-{name}"), &node)
                .args([folder.join(file)])
                .env("NODE_ENV", "production")
                .env("PORT", alone.http.port().to_string())
                .env("NAMESPACE", case.id())
                .env("TRANSPORTER", format!("redis://{redis}"));
            alone.processes.push((name.to_owned(), launch.start()?));
        }
        alone.answers().await
    }

    /// For a measurement; `others` take part in its work.
    pub(crate) fn system(&self, kind: Kind, others: &[(String, u32)]) -> System {
        let own = self.processes.iter();
        let own = own.filter_map(|(name, process)| Some((name.clone(), process.id()?)));
        System {
            name: self.name.clone(),
            target: Target {
                addresses: vec![self.http],
                kind,
                questions: Rc::default(),
            },
            processes: own.chain(others.iter().cloned()).collect(),
        }
    }

    /// Starts a hidden command of ours.
    fn part<S: AsRef<str>>(&mut self, case: &Case, name: &str, words: &[S]) -> Result<()> {
        let program = std::env::current_exe().context("find this program")?;
        let log = format!("part-{}-{name}", self.http.port());
        let words = words.iter().map(AsRef::as_ref);
        let launch = Launch::new(case, &log, &program).args(std::iter::once("part").chain(words));
        self.processes.push((name.to_owned(), launch.start()?));
        Ok(())
    }

    async fn answers(mut self) -> Result<Self> {
        let http = self.http;
        let what = format!("{} to answer", self.name);
        until_true(&what, SOON, async || {
            for (_, process) in &mut self.processes {
                process.ensure_running()?;
            }
            let json = ("content-type", "application/json");
            let answer = http::task_with(http, r#"{"a1": 5, "a2": 10}"#, json).await?;
            answer.expect_body(r#"{"message":"OK","result":"15"}"#)?;
            Ok(true)
        })
        .await?;
        Ok(self)
    }
}

/// Copies the program out of the sources, and has npm fetch exactly what its lock file names.
async fn install_moleculer() -> Result<PathBuf> {
    let source = workspace().join("bench/peers/moleculer");
    let folder = target_folder().join("bench/peers/moleculer");
    fs::create_dir_all(&folder).with_context(|| format!("make {}", folder.display()))?;
    let lock = "package-lock.json";
    let is_installed = folder.join("node_modules").is_dir()
        && fs::read(folder.join(lock)).is_ok_and(|installed| {
            fs::read(source.join(lock)).is_ok_and(|wanted| wanted == installed)
        });
    for file in ["package.json", lock, "gateway.js", "worker.js"] {
        fs::copy(source.join(file), folder.join(file)).with_context(|| format!("copy {file}"))?;
    }
    if !is_installed {
        let output = Command::new(program("npm").await?)
            .args(["ci", "--no-audit", "--no-fund", "--ignore-scripts"])
            .current_dir(&folder)
            .output()
            .await
            .context("start npm")?;
        // Half of it must not be taken for all of it the next time.
        if !output.status.success() {
            remove(&folder.join(lock))?;
        }
        ensure!(
            output.status.success(),
            "npm ci in {}: {}",
            folder.display(),
            String::from_utf8_lossy(&output.stderr)
        );
    }
    folder.canonicalize().context("resolve the peer's folder")
}

fn remove(file: &Path) -> io::Result<()> {
    match fs::remove_file(file) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

/// A program of others; the chore gets all of them where that is possible.
async fn program(name: &str) -> Result<PathBuf> {
    if let Some(path) = find(name) {
        return Ok(path);
    }
    let status = cargo()
        .args(["run", "--quiet", "--package", "xtask", "--", "peers"])
        .stdout(Stdio::null())
        .status()
        .await
        .context("start cargo")?;
    ensure!(status.success(), "`cargo xtask peers` failed: see above");
    find(name).with_context(|| format!("there is no program {name}"))
}

/// On the PATH, or where Debian keeps servers.
fn find(name: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path)
        .chain(["/usr/sbin".into(), "/usr/local/sbin".into()])
        .map(|folder| folder.join(name))
        .find(|candidate| candidate.is_file())
}
