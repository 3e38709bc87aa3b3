//! Our services as a stack on the real swarm, and a caller inside its network.

use std::{
    fmt,
    fs::File,
    net::SocketAddr,
    path::Path,
    process::Stdio,
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};
use serde_json::Value;
use tokio::{
    io::AsyncReadExt,
    process::{Child, Command},
    time::timeout,
};

use crate::{
    case::{Case, free_port},
    docker::{
        LABEL, STACK_PREFIX, build_foreign, docker, docker_blocking, docker_with, socket,
        socket_group,
    },
    environment, http,
    until::until_true,
};

/// Every container of a stack starts and becomes healthy in this time, on two busy cores.
const DEPLOYED: Duration = Duration::from_secs(180);

/// A removed stack's containers end gracefully first.
const REMOVED: Duration = Duration::from_secs(90);

/// How often a stack is deployed whose network the engine cannot make.
const DEPLOYMENTS_MAX: usize = 3;

/// What an engine says of a network that it cannot make, where an engine that was killed on the same
/// machine still holds the overlay's number. Only another network helps:
/// <https://github.com/moby/libnetwork/issues/1765>.
const NETWORK_IS_BROKEN: &str = "error creating vxlan interface: file exists";

/// After its input has ended, a caller waits for the answers that are due.
const CALLER_ENDS: Duration = Duration::from_secs(60);

/// A deployed stack. It is removed when dropped, and its logs kept.
#[derive(Debug)]
pub struct Stack<'c> {
    case: &'c Case,
    name: String,
    port: u16,
}

impl<'c> Stack<'c> {
    /// Deploys the users' stack file, with the changes a test needs laid over it, and waits until
    /// it answers on its published port. The engine must be held: see [`crate::docker::Engine`].
    ///
    /// # Errors
    /// When it does not come up.
    pub async fn deploy(case: &'c Case) -> Result<Self> {
        Self::deploy_over(case, &[], &[]).await
    }

    /// The same with further files laid over it, which are named from the workspace's folder, and
    /// with variables that go before the usual ones.
    ///
    /// # Errors
    /// When it does not come up.
    #[expect(clippy::print_stderr, reason = "the runner keeps it with the test")]
    pub async fn deploy_over(
        case: &'c Case,
        files: &[&str],
        variables: &[(&str, String)],
    ) -> Result<Self> {
        for _ in 1..DEPLOYMENTS_MAX {
            let stack = Self::start(case, files, variables).await?;
            tokio::select! {
                comes_up = stack.comes_up() => return comes_up.map(|()| stack),
                () = stack.network_is_broken() => {}
            }
            eprintln!("the engine could not make the network of {stack:?}: deployed again");
        }
        let stack = Self::start(case, files, variables).await?;
        stack.comes_up().await?;
        Ok(stack)
    }

    async fn start(case: &'c Case, files: &[&str], variables: &[(&str, String)]) -> Result<Self> {
        let stack = Self {
            case,
            name: format!("{STACK_PREFIX}{}", case.id()),
            port: free_port()?,
        };
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
        let file = |name: &str| root.join(name).to_string_lossy().into_owned();
        let mut arguments: Vec<String> = ["stack", "deploy", "--resolve-image", "never"]
            .map(str::to_owned)
            .into();
        let usual = ["docker-stack.yaml", "e2e/docker-stack-test.yaml"];
        for name in usual.iter().chain(files) {
            arguments.extend(["-c".to_owned(), file(name)]);
        }
        arguments.push(stack.name.clone());
        let usual = [
            ("VERSION", environment::image_tag()?),
            ("FRONTEND_PORT", stack.port.to_string()),
            ("DOCKER_SOCKET", socket()?.to_string_lossy().into_owned()),
            ("SOCKET_USER", format!("65532:{}", socket_group()?)),
        ];
        // Of two values for one variable, the later counts.
        let variables: Vec<(&str, &str)> = usual
            .iter()
            .chain(variables)
            .map(|(name, value)| (*name, value.as_str()))
            .collect();
        docker_with(arguments, &variables).await?;
        Ok(stack)
    }

    async fn comes_up(&self) -> Result<()> {
        self.answers().await?;
        self.healthy().await
    }

    /// Waits until the engine says that it cannot make the network; perhaps for ever.
    async fn network_is_broken(&self) {
        loop {
            tokio::time::sleep(Duration::from_secs(3)).await;
            let tasks = docker(["stack", "ps", "--no-trunc", &self.name]).await;
            if tasks.is_ok_and(|tasks| tasks.contains(NETWORK_IS_BROKEN)) {
                return;
            }
        }
    }

    /// Waits until all of its containers are healthy: before that, the network's names do not lead
    /// to them.
    async fn healthy(&self) -> Result<()> {
        let filter = format!("name={}", self.service(""));
        let command = ["service", "ls", "--format", "{{.Name}} {{.Replicas}}"];
        until_true("every container to be healthy", DEPLOYED, async || {
            let services = docker(command.into_iter().chain(["--filter", &filter])).await?;
            for service in services.lines() {
                let replicas = service.split_whitespace().nth(1);
                let both = replicas.and_then(|replicas| replicas.split_once('/'));
                ensure!(both.is_some_and(|(is, wanted)| is == wanted), "{service}");
            }
            Ok(!services.is_empty())
        })
        .await
    }

    /// Where the published port is.
    #[must_use]
    pub fn http(&self) -> SocketAddr {
        SocketAddr::from(([127, 0, 0, 1], self.port))
    }

    /// The full name of one of its services.
    #[must_use]
    pub fn service(&self, name: &str) -> String {
        format!("{}_{name}", self.name)
    }

    /// Waits until the published port answers a task.
    ///
    /// # Errors
    /// When it does not in time.
    pub async fn answers(&self) -> Result<()> {
        let mut attempt = 0;
        until_true("the stack to answer a task", DEPLOYED, async || {
            attempt += 1;
            let body = format!(r#"{{"a1": "warm-up ", "a2": "{attempt}"}}"#);
            let answer = http::task(self.http(), body).await?;
            ensure!(answer.status == 200, "{}", answer.text());
            Ok(true)
        })
        .await
    }

    /// Scales a service and waits until the swarm says that it is done.
    ///
    /// # Errors
    /// When it is not in time.
    pub async fn scale(&self, service: &str, replicas: u32) -> Result<()> {
        let scaled = format!("{}={replicas}", self.service(service));
        docker(["service", "scale", &scaled]).await?;
        Ok(())
    }

    /// Changes a service and waits until the swarm says that it is done.
    ///
    /// # Errors
    /// When it rolled back or is not done in time.
    pub async fn update(&self, service: &str, arguments: &[&str]) -> Result<()> {
        let name = self.service(service);
        let command = ["service", "update", "--no-resolve-image"].into_iter();
        let all = command
            .chain(arguments.iter().copied())
            .chain([name.as_str()]);
        docker(all).await?;
        let state = "{{if .UpdateStatus}}{{.UpdateStatus.State}}{{end}}";
        let state = docker(["service", "inspect", "--format", state, &name]).await?;
        ensure!(
            state.is_empty() || state == "completed",
            "the update of {service} ended as {state}"
        );
        Ok(())
    }

    /// Swaps a service's image for that of the next version: every container of it is replaced.
    ///
    /// # Errors
    /// When it rolled back or is not done in time.
    pub async fn swap(&self, service: &str) -> Result<()> {
        let before = self.containers(service).await?;
        let next = environment::next_image(service)?;
        self.update(service, &["--image", &next]).await?;
        let after = self.containers(service).await?;
        ensure!(
            after.iter().all(|container| !before.contains(container)),
            "not every container was replaced: {before:?} {after:?}"
        );
        Ok(())
    }

    /// The ids of a service's running containers.
    ///
    /// # Errors
    /// When the engine does not answer.
    pub async fn containers(&self, service: &str) -> Result<Vec<String>> {
        let label = format!(
            "label=com.docker.swarm.service.name={}",
            self.service(service)
        );
        let running = docker(["ps", "--quiet", "--no-trunc", "--filter", &label]).await?;
        Ok(running.lines().map(str::to_owned).collect())
    }

    /// Starts a container in the stack's network that can call its frontends.
    ///
    /// # Errors
    /// When it cannot be started.
    pub async fn inside(&self) -> Result<Inside<'_>> {
        let image = build_foreign().await?;
        let network = format!("{}_roundtrip", self.name);
        let arguments = ["run", "--detach", "--label", LABEL, "--network", &network];
        let command = ["--entrypoint", "sleep", &image, "infinity"];
        let id = docker(arguments.into_iter().chain(command)).await?;
        Ok(Inside { stack: self, id })
    }
}

impl Drop for Stack<'_> {
    fn drop(&mut self) {
        for service in ["frontend", "events-service", "backend", "redis", "mongodb"] {
            let log = File::create(self.case.log_path(service)).ok();
            let arguments = [
                "service",
                "logs",
                "--raw",
                "--timestamps",
                &self.service(service),
            ];
            docker_blocking(arguments, log);
        }
        let tasks = File::create(self.case.log_path("tasks")).ok();
        docker_blocking(["stack", "ps", "--no-trunc", &self.name], tasks);
        docker_blocking(["stack", "rm", &self.name], None);
        // The next test must find neither its containers nor its networks.
        let started = Instant::now();
        let volume = self.service("mongodb");
        let network = self.service("roundtrip");
        while started.elapsed() < REMOVED
            && (docker_blocking(["network", "inspect", &network], None)
                || docker_blocking(["volume", "inspect", &volume], None))
        {
            docker_blocking(["volume", "rm", &volume], None);
            thread::sleep(Duration::from_millis(200));
        }
    }
}

/// A container in the stack's network. It is removed when dropped.
#[derive(Debug)]
pub struct Inside<'s> {
    stack: &'s Stack<'s>,
    id: String,
}

impl Inside<'_> {
    /// Asks `count` questions from `first` on, `callers` at a time.
    ///
    /// # Errors
    /// When the caller itself fails.
    pub async fn ask(&self, first: u32, count: u32, callers: u32) -> Result<Calls> {
        let caller = self.start(first, callers, Some(count))?;
        finish(caller).await
    }

    /// Asks questions from `first` on, `callers` at a time, for as long as `meanwhile` runs.
    ///
    /// # Errors
    /// Those of `meanwhile`, or when the caller itself fails.
    pub async fn ask_while(
        &self,
        first: u32,
        callers: u32,
        meanwhile: impl AsyncFnOnce() -> Result<()>,
    ) -> Result<Calls> {
        let mut caller = self.start(first, callers, None)?;
        let done = meanwhile().await;
        // The end of its input is the sign to stop.
        drop(caller.stdin.take());
        let calls = finish(caller).await;
        done?;
        calls
    }

    fn start(&self, first: u32, callers: u32, count: Option<u32>) -> Result<Child> {
        let host = format!("tasks.{}", self.stack.service("frontend"));
        let mut command = Command::new("docker");
        command
            .args([
                "exec",
                "--interactive",
                &self.id,
                "python3",
                "client.py",
                "--host",
                &host,
            ])
            .args([
                "--first",
                &first.to_string(),
                "--callers",
                &callers.to_string(),
            ])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(File::create(self.stack.case.log_path("client"))?)
            .kill_on_drop(true);
        if let Some(count) = count {
            command.args(["--count", &count.to_string()]);
        }
        command.spawn().context("start the caller")
    }
}

impl Drop for Inside<'_> {
    fn drop(&mut self) {
        docker_blocking(["rm", "--force", &self.id], None);
    }
}

async fn finish(mut caller: Child) -> Result<Calls> {
    let mut output = String::new();
    let mut stdout = caller.stdout.take().context("its output is piped")?;
    timeout(CALLER_ENDS, stdout.read_to_string(&mut output))
        .await
        .context("the caller does not end")??;
    let tally = serde_json::from_str(&output)
        .with_context(|| format!("what the caller printed: {output:?}"))?;
    Ok(Calls(tally))
}

/// What became of the requests of a caller inside: the tally that `client.py` prints.
#[derive(Debug)]
pub struct Calls(Value);

impl fmt::Display for Calls {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let count = |field: &str| self.0[field].as_u64().unwrap_or_default();
        let several = count("right") + count("wrongCount") + count("brokenCount") + count("hung");
        let problems: u64 = self.0["problems"]
            .as_object()
            .into_iter()
            .flat_map(serde_json::Map::values)
            .filter_map(Value::as_u64)
            .sum();
        write!(
            f,
            "{} requests, {} right, {} wrong, problems {}, {} broken, {} hung, longest {} ms, \
             {} connections to another address",
            several + problems,
            count("right"),
            count("wrongCount"),
            self.0["problems"],
            count("brokenCount"),
            count("hung"),
            count("longestMs"),
            count("staleAddresses"),
        )?;
        let lines = |field: &str| self.0[field].as_array().cloned().unwrap_or_default();
        for line in lines("wrong").iter().chain(&lines("broken")).take(5) {
            write!(f, "\n  {line}")?;
        }
        Ok(())
    }
}

impl Calls {
    /// Checks that every request got the right answer.
    ///
    /// # Errors
    /// When one did not.
    pub fn ensure_all_right(&self) -> Result<()> {
        self.ensure_right_or_clear(Duration::MAX)?;
        let none = self.0["problems"]
            .as_object()
            .is_some_and(serde_json::Map::is_empty);
        ensure!(none, "not all answers are right: {self}");
        Ok(())
    }

    /// Checks that nobody got a wrong answer or hung, that every failure was a problem document,
    /// and that every answer came within `limit`.
    ///
    /// # Errors
    /// When one did not.
    pub fn ensure_right_or_clear(&self, limit: Duration) -> Result<()> {
        let count = |field: &str| self.0[field].as_u64().unwrap_or(u64::MAX);
        ensure!(count("right") > 0, "not one answer was right: {self}");
        for field in ["wrongCount", "brokenCount", "hung"] {
            ensure!(count(field) == 0, "{field}: {self}");
        }
        let longest = Duration::from_millis(count("longestMs"));
        ensure!(
            longest <= limit,
            "an answer took longer than {limit:?}: {self}"
        );
        Ok(())
    }
}
