//! Redis as a test has it: single commands, an own server, and an observer of what is published.

use std::{collections::BTreeMap, net::SocketAddr, time::Duration};

use anyhow::{Context, Result, bail, ensure};
use serde_json::Value;
use tokio::{
    io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader},
    net::TcpStream,
    time::timeout,
};

use crate::{
    case::{Case, free_port},
    environment,
    process::{Launch, Process},
    until::{SOON, until},
};

/// No single command takes longer on a healthy server.
const COMMAND_LIMIT: Duration = Duration::from_secs(10);

/// A reply of the server.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Reply {
    /// Text or bytes.
    Bytes(Vec<u8>),
    /// A number.
    Number(i64),
    /// Several replies.
    Many(Vec<Reply>),
    /// Nothing.
    Nil,
}

/// A connection.
#[derive(Debug)]
pub struct Redis(BufReader<TcpStream>);

impl Redis {
    /// Connects to `host:port`.
    ///
    /// # Errors
    /// When nobody listens there.
    pub async fn connect(address: &str) -> Result<Self> {
        let stream = TcpStream::connect(address)
            .await
            .with_context(|| format!("connect to Redis at {address}"))?;
        Ok(Self(BufReader::new(stream)))
    }

    /// Our side of the connection, as the server names it.
    ///
    /// # Errors
    /// When the system does not know it.
    pub fn local_address(&self) -> Result<SocketAddr> {
        Ok(self.0.get_ref().local_addr()?)
    }

    /// How often the server has run a command since it was started.
    ///
    /// # Errors
    /// When the server refuses it or does not answer.
    pub async fn calls(&mut self, command: &str) -> Result<u64> {
        let Reply::Bytes(text) = self.command(&[b"INFO", b"commandstats"]).await? else {
            bail!("INFO answered no text");
        };
        let text = String::from_utf8(text)?;
        let before = format!("cmdstat_{command}:calls=");
        let Some(rest) = text.lines().find_map(|line| line.strip_prefix(&before)) else {
            return Ok(0);
        };
        let calls = rest.split(',').next().unwrap_or(rest);
        calls
            .parse()
            .with_context(|| format!("INFO says {before}{rest}"))
    }

    /// Runs one command.
    ///
    /// # Errors
    /// When the server refuses it or does not answer.
    pub async fn command(&mut self, words: &[&[u8]]) -> Result<Reply> {
        let mut request = format!("*{}\r\n", words.len()).into_bytes();
        for word in words {
            request.extend_from_slice(format!("${}\r\n", word.len()).as_bytes());
            request.extend_from_slice(word);
            request.extend_from_slice(b"\r\n");
        }
        self.0.write_all(&request).await?;
        timeout(COMMAND_LIMIT, self.read())
            .await
            .context("Redis does not answer")?
    }

    /// Publishes, and answers the number of receivers.
    ///
    /// # Errors
    /// When the server refuses it or does not answer.
    pub async fn publish(&mut self, channel: &str, payload: &[u8]) -> Result<i64> {
        match self
            .command(&[b"PUBLISH", channel.as_bytes(), payload])
            .await?
        {
            Reply::Number(receivers) => Ok(receivers),
            other => bail!("PUBLISH answered {other:?}"),
        }
    }

    /// How many connections have subscribed to a channel.
    ///
    /// # Errors
    /// When the server refuses it or does not answer.
    pub async fn subscribers(&mut self, channel: &str) -> Result<i64> {
        let words: [&[u8]; 3] = [b"PUBSUB", b"NUMSUB", channel.as_bytes()];
        match self.command(&words).await? {
            Reply::Many(pair) => match pair.as_slice() {
                [_, Reply::Number(count)] => Ok(*count),
                other => bail!("PUBSUB NUMSUB answered {other:?}"),
            },
            other => bail!("PUBSUB NUMSUB answered {other:?}"),
        }
    }

    /// The receivers of every channel that begins with a prefix.
    ///
    /// # Errors
    /// When the server refuses it or does not answer.
    pub async fn channels(&mut self, prefix: &str) -> Result<BTreeMap<String, i64>> {
        let pattern = format!("{prefix}*");
        let words: [&[u8]; 3] = [b"PUBSUB", b"CHANNELS", pattern.as_bytes()];
        let Reply::Many(names) = self.command(&words).await? else {
            bail!("PUBSUB CHANNELS answered no list");
        };
        let mut channels = BTreeMap::new();
        for name in names {
            let Reply::Bytes(name) = name else {
                bail!("PUBSUB CHANNELS answered {name:?}");
            };
            let name = String::from_utf8(name)?;
            let receivers = self.subscribers(&name).await?;
            channels.insert(name, receivers);
        }
        Ok(channels)
    }

    async fn read(&mut self) -> Result<Reply> {
        let line = self.read_line().await?;
        let (kind, rest) = line.split_at_checked(1).context("an empty reply")?;
        Ok(match kind {
            "+" => Reply::Bytes(rest.as_bytes().to_vec()),
            "-" => bail!("Redis refused: {rest}"),
            ":" => Reply::Number(rest.parse()?),
            "$" if rest == "-1" => Reply::Nil,
            "$" => {
                let mut bytes = vec![0; rest.parse::<usize>()? + 2];
                self.0.read_exact(&mut bytes).await?;
                bytes.truncate(bytes.len() - 2);
                Reply::Bytes(bytes)
            }
            "*" => {
                let mut many = Vec::new();
                for _ in 0..rest.parse::<usize>()? {
                    many.push(Box::pin(self.read()).await?);
                }
                Reply::Many(many)
            }
            _ => bail!("not RESP: {line:?}"),
        })
    }

    async fn read_line(&mut self) -> Result<String> {
        let mut line = Vec::new();
        self.0.read_until(b'\n', &mut line).await?;
        ensure!(line.ends_with(b"\r\n"), "Redis closed the connection");
        line.truncate(line.len() - 2);
        Ok(String::from_utf8(line)?)
    }
}

/// The four messages of the contract.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Message {
    /// From a frontend to an events service.
    Task,
    /// From an events service to a backend.
    Dispatch,
    /// From a backend to an events service.
    Result,
    /// From an events service to a frontend.
    Reply,
}

impl Message {
    /// What the contract calls it.
    #[must_use]
    pub fn title(self) -> &'static str {
        match self {
            Self::Task => "task",
            Self::Dispatch => "dispatch",
            Self::Result => "result",
            Self::Reply => "reply",
        }
    }
}

/// What a message says of itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Event {
    /// Which of the four it is.
    pub message: Message,
    /// The request of a task or reply, the record of a dispatch or result.
    pub id: String,
    /// The events service that it comes from or goes to, where it says so.
    pub events_service: String,
}

/// One `PUBLISH` that the server executed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Published {
    /// The channel.
    pub channel: String,
    /// The payload.
    pub payload: Vec<u8>,
    /// The connection that published it, by its address.
    pub publisher: String,
}

impl Published {
    /// The messages in it, one a line; none for announcements and the like.
    pub fn events(&self) -> impl Iterator<Item = Event> {
        self.payload
            .split(|&byte| byte == b'\n')
            .filter_map(Event::read)
    }
}

impl Event {
    fn read(payload: &[u8]) -> Option<Self> {
        let event: Value = serde_json::from_slice(payload).ok()?;
        let text = |field: &str| event[field].as_str().filter(|text| !text.is_empty());
        text("containerId")?;
        let is_answer = text("requestBody").is_none();
        let (message, id) = match (text("requestId"), text("recordId")) {
            (Some(request), None) if is_answer => (Message::Reply, request),
            (Some(request), None) => (Message::Task, request),
            (None, Some(record)) if is_answer => (Message::Result, record),
            (None, Some(record)) => (Message::Dispatch, record),
            _ => return None,
        };
        Some(Event {
            message,
            id: id.to_owned(),
            events_service: text("serviceContainerId").unwrap_or_default().to_owned(),
        })
    }
}

/// Sees every `PUBLISH` on channels that begin with a prefix.
///
/// It listens with `MONITOR`: a subscription of the test's own would count as a receiver, and
/// the services decide by the number of receivers.
#[derive(Debug)]
pub struct Observer {
    monitor: Redis,
    prefix: String,
}

impl Observer {
    /// Begins to observe.
    ///
    /// # Errors
    /// When the server cannot be reached.
    pub async fn start(address: &str, prefix: &str) -> Result<Self> {
        let mut monitor = Redis::connect(address).await?;
        monitor.command(&[b"MONITOR"]).await?;
        Ok(Self {
            monitor,
            prefix: prefix.to_owned(),
        })
    }

    /// All that was published so far, in the server's order.
    ///
    /// # Errors
    /// When the server closes the connection.
    pub async fn seen(&mut self, address: &str) -> Result<Vec<Published>> {
        // The monitor shows this command behind all that came before it.
        let mark = format!("{}-mark-{:p}", self.prefix, self);
        let mut redis = Redis::connect(address).await?;
        redis.publish(&mark, b"").await?;
        let mut seen = Vec::new();
        loop {
            let published = self.read().await?;
            if published.channel == mark {
                return Ok(seen);
            }
            if published.channel.starts_with(&self.prefix) {
                seen.push(published);
            }
        }
    }

    /// The next one.
    ///
    /// # Errors
    /// When none comes for long, or the server closes the connection.
    pub async fn next(&mut self) -> Result<Published> {
        loop {
            let published = self.read().await?;
            if published.channel.starts_with(&self.prefix) {
                return Ok(published);
            }
        }
    }

    async fn read(&mut self) -> Result<Published> {
        loop {
            let line = timeout(COMMAND_LIMIT, self.monitor.read_line())
                .await
                .context("the monitor says nothing")??;
            if let Some(published) = parse_monitor(&line) {
                return Ok(published);
            }
        }
    }
}

/// `+1339518083.107412 [0 127.0.0.1:60866] "PUBLISH" "channel" "payload"`
fn parse_monitor(line: &str) -> Option<Published> {
    let (before, words) = line.split_once("] ")?;
    let publisher = before.rsplit(' ').next()?.to_owned();
    let mut words = parse_quoted(words.as_bytes()).into_iter();
    if !words.next()?.eq_ignore_ascii_case(b"publish") {
        return None;
    }
    Some(Published {
        channel: String::from_utf8(words.next()?).ok()?,
        payload: words.next()?,
        publisher,
    })
}

/// The quoted words of a line, in the server's own escapes.
fn parse_quoted(line: &[u8]) -> Vec<Vec<u8>> {
    let mut words = Vec::new();
    let mut bytes = line.iter().copied();
    while bytes.any(|byte| byte == b'"') {
        let mut word = Vec::new();
        while let Some(byte) = bytes.next() {
            match byte {
                b'"' => break,
                b'\\' => match bytes.next() {
                    Some(b'n') => word.push(b'\n'),
                    Some(b'r') => word.push(b'\r'),
                    Some(b't') => word.push(b'\t'),
                    Some(b'a') => word.push(0x07),
                    Some(b'b') => word.push(0x08),
                    Some(b'x') => {
                        let digits: Vec<_> = bytes.by_ref().take(2).collect();
                        let digits = String::from_utf8_lossy(&digits).into_owned();
                        word.push(u8::from_str_radix(&digits, 16).unwrap_or(b'?'));
                    }
                    Some(other) => word.push(other),
                    None => {}
                },
                other => word.push(other),
            }
        }
        words.push(word);
    }
    words
}

/// A server of the test's own, to be stopped and started.
#[derive(Debug)]
pub struct Server {
    /// `host:port`.
    pub address: SocketAddr,
    arguments: Vec<String>,
    process: Option<Process>,
}

impl Server {
    /// Takes a port; nothing listens on it yet.
    ///
    /// # Errors
    /// When there is no free port.
    pub fn planned() -> Result<Self> {
        Ok(Self {
            address: SocketAddr::from(([127, 0, 0, 1], free_port()?)),
            arguments: Vec::new(),
            process: None,
        })
    }

    /// Adds options for its starts.
    #[must_use]
    pub fn with(mut self, arguments: &[&str]) -> Self {
        self.arguments
            .extend(arguments.iter().map(|&argument| argument.to_owned()));
        self
    }

    /// Starts it and waits until it answers.
    ///
    /// # Errors
    /// When the program is missing or does not come up.
    pub async fn start(&mut self, case: &Case) -> Result<()> {
        let port = self.address.port().to_string();
        let arguments = ["--port", &port, "--bind", "127.0.0.1", "--save", ""];
        let launch = Launch::new(case, "redis-server", &environment::redis_program()?);
        self.process = Some(launch.args(arguments).args(&self.arguments).start()?);
        let address = self.address.to_string();
        until("the test's own Redis", SOON, async || {
            Redis::connect(&address)
                .await?
                .command(&[b"PING"])
                .await
                .map(Some)
        })
        .await?;
        Ok(())
    }

    /// Its process.
    ///
    /// # Errors
    /// When it does not run.
    pub fn process(&mut self) -> Result<&mut Process> {
        self.process.as_mut().context("it does not run")
    }

    /// Closes all connections of clients, subscribers or not. It goes on running.
    ///
    /// # Errors
    /// When it does not answer.
    pub async fn cut_everyone(&self) -> Result<()> {
        let mut redis = Redis::connect(&self.address.to_string()).await?;
        for kind in [&b"pubsub"[..], b"normal"] {
            redis.command(&[b"CLIENT", b"KILL", b"TYPE", kind]).await?;
        }
        Ok(())
    }

    /// Kills it.
    ///
    /// # Errors
    /// When it does not run.
    pub async fn stop(&mut self) -> Result<()> {
        let mut process = self.process.take().context("it does not run")?;
        process.kill().await
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_of_the_monitor_is_read() {
        let line = r#"+1.5 [0 127.0.0.1:1] "PUBLISH" "c:1" "{\"a\":\"\xc3\xa9\\n\"}\n""#;
        let published = parse_monitor(line).expect("it is a PUBLISH");
        assert_eq!(published.channel, "c:1");
        assert_eq!(published.publisher, "127.0.0.1:1");
        assert_eq!(published.payload, "{\"a\":\"é\\n\"}\n".as_bytes());
        assert_eq!(parse_monitor(r#"+1.5 [0 127.0.0.1:1] "PING""#), None);
    }

    #[test]
    fn each_line_of_a_message_is_an_event() {
        let event = |id| format!(r#"{{"containerId":"c","requestId":"{id}","requestBody":"b"}}"#);
        let published = Published {
            channel: "c:1".to_owned(),
            payload: format!("{}\n{}", event("r1"), event("r2")).into_bytes(),
            publisher: String::new(),
        };
        let ids: Vec<String> = published.events().map(|event| event.id).collect();
        assert_eq!(ids, ["r1", "r2"]);
    }
}
