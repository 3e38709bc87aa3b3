//! The bare hops: the messages of a request through Redis, without anything that makes them reliable;
//! without an audit log, or with the least of one.
//!
//! ```text
//! front ── t ──► middle ── d ──► end        two hops: the middle answers by itself,
//!   ▲              │ ▲            │          as from the log
//!   └───── r ──────┘ └──── b ─────┘
//! ```
//!
//! With a log, the middle writes a record before it answers, whatever waits in one command.

use std::{
    cell::{Cell, RefCell},
    collections::HashMap,
    net::SocketAddr,
    rc::Rc,
    time::Duration,
};

use anyhow::{Context, Result, bail};
use bytes::Bytes;
use clap::Args;
use fred::{
    clients::{Client, SubscriberClient},
    interfaces::{ClientLike, EventInterface, PubsubInterface},
    types::{
        Builder, RespVersion, Value,
        config::{Config, ConnectionConfig, PerformanceConfig, ServerConfig, TcpConfig},
    },
};
use tokio::{
    sync::{mpsc, oneshot},
    task::LocalSet,
};

use super::{add, answer, http};
use crate::writes::{Writes, texts_due};

/// Bytes of a message, about as many as ours have on the average: ten fields with two addresses.
const MESSAGE_BYTES: usize = 400;
/// Letters to publish in one pipeline, as ours.
const PIPELINE_MAX: usize = 512;
/// Letters that may wait. More than requests can be in flight.
const LETTERS_MAX: usize = 16_384;
/// As ours.
const BROADCAST_CAPACITY: usize = 8_192;
/// Records in one command, as ours.
const BATCH_MAX: usize = 1_024;
/// After this an answer is taken for lost. It is an error of the measurement then.
const LOST: Duration = Duration::from_secs(10);

/// HTTP in front of the hops.
#[derive(Debug, Args)]
pub(crate) struct Front {
    /// Where callers are answered.
    #[arg(long)]
    listen: SocketAddr,
    /// Channel of the process behind.
    #[arg(long)]
    next: String,
    #[command(flatten)]
    place: Place,
}

/// A process that hands on.
#[derive(Debug, Args)]
pub(crate) struct Hop {
    #[command(flatten)]
    place: Place,
    /// Channel of the process behind; without it, this is the one that adds.
    #[arg(long)]
    behind: Option<String>,
    /// Channel of the process in front.
    #[arg(long)]
    before: String,
    #[command(flatten)]
    log: Option<Log>,
}

/// Where records are written before the process in front is answered.
#[derive(Debug, Args)]
struct Log {
    /// Address of the database's server.
    #[arg(long, required = false)]
    mongodb: String,
    /// A database with records to write again.
    #[arg(long, required = false)]
    like: String,
    /// The database to write to.
    #[arg(long, required = false)]
    database: String,
}

/// What every one of them is told.
#[derive(Debug, Args)]
struct Place {
    /// `host:port` of Redis.
    #[arg(long)]
    redis: SocketAddr,
    /// Its own channel.
    #[arg(long)]
    own: String,
}

/// A channel and what goes there.
type Letter = (Rc<str>, Vec<u8>);

impl Front {
    /// Runs it.
    pub(super) async fn run(&self) -> Result<()> {
        let (letters, queue) = mpsc::channel(LETTERS_MAX);
        let waiting: Rc<RefCell<HashMap<u64, oneshot::Sender<String>>>> = Rc::default();
        let replies = waiting.clone();
        let hears = move |message: Bytes| {
            let (_, id, text) = read(&message)?;
            if let Some(reply) = replies.borrow_mut().remove(&id)
                && reply.send(text.to_owned()).is_err()
            {
                bail!("a caller hung up");
            }
            Ok(())
        };
        let next_channel: Rc<str> = self.next.as_str().into();
        let next_id = Cell::new(0);
        let front = http::serve(self.listen, async move |body| {
            let id = next_id.get();
            next_id.set(id + 1);
            let (sender, reply) = oneshot::channel();
            waiting.borrow_mut().insert(id, sender);
            let body = std::str::from_utf8(&body)?;
            send(&letters, (next_channel.clone(), write(b't', id, body)))?;
            match tokio::time::timeout(LOST, reply).await {
                Ok(result) => Ok(answer(&result?)),
                Err(_) => {
                    waiting.borrow_mut().remove(&id);
                    bail!("no reply within {LOST:?}")
                }
            }
        });
        self.place.take_part(queue, hears, front).await
    }
}

impl Hop {
    /// Runs it.
    pub(super) async fn run(&self) -> Result<()> {
        let (letters, queue) = mpsc::channel(LETTERS_MAX);
        // What goes to the process in front is recorded first, where there is a log.
        let (answers, log) = match &self.log {
            Some(log) => {
                let (answers, unrecorded) = mpsc::channel(LETTERS_MAX);
                (answers, Some((log, unrecorded, letters.clone())))
            }
            None => (letters.clone(), None),
        };
        // What is answered from the log has texts that are there.
        let has_new_texts = self.behind.is_some();
        let record = async {
            match log {
                Some((log, unrecorded, letters)) => {
                    log.record(unrecorded, letters, has_new_texts).await
                }
                None => std::future::pending().await,
            }
        };
        let before: Rc<str> = self.before.as_str().into();
        let behind: Option<Rc<str>> = self.behind.as_deref().map(Into::into);
        let hears = move |message: Bytes| {
            let (kind, id, text) = read(&message)?;
            let (queue, letter) = match (&behind, kind) {
                (Some(behind), b't') => (&letters, (behind.clone(), write(b'd', id, text))),
                (Some(_), _) => (&answers, (before.clone(), write(b'r', id, text))),
                (None, _) => {
                    let sum = add(text.as_bytes())?;
                    (&answers, (before.clone(), write(b'b', id, &sum)))
                }
            };
            send(queue, letter)
        };
        self.place.take_part(queue, hears, record).await
    }
}

impl Log {
    /// Writes a record for each letter, and lets it go.
    async fn record(
        &self,
        mut unrecorded: mpsc::Receiver<Letter>,
        letters: mpsc::Sender<Letter>,
        has_new_texts: bool,
    ) -> Result<()> {
        let writes = Writes::as_in(&self.mongodb, &self.like, &self.database).await?;
        let writes = Rc::new(writes);
        let mut batch = Vec::with_capacity(BATCH_MAX);
        let mut without_texts = 0;
        let mut following = tokio::task::spawn_local(async { Ok(()) });
        while unrecorded.recv_many(&mut batch, BATCH_MAX).await > 0 {
            writes.records(batch.len()).await?;
            if has_new_texts {
                without_texts += batch.len();
            }
            batch
                .drain(..)
                .try_for_each(|letter| send(&letters, letter))?;
            let due = texts_due(&mut without_texts);
            if due > 0 {
                following.await??;
                let writes = writes.clone();
                following = tokio::task::spawn_local(async move { writes.texts(due).await });
            }
        }
        Ok(())
    }
}

fn send(queue: &mpsc::Sender<Letter>, letter: Letter) -> Result<()> {
    queue
        .try_send(letter)
        .map_err(|_| anyhow::anyhow!("too many letters"))
}

impl Place {
    async fn take_part(
        &self,
        queue: mpsc::Receiver<Letter>,
        hears: impl Fn(Bytes) -> Result<()> + 'static,
        beside: impl Future<Output = Result<()>>,
    ) -> Result<()> {
        let (publisher, subscriber) = self.connect().await?;
        let mut messages = subscriber.message_rx();
        subscriber.subscribe(self.own.as_str()).await?;
        let hear = async move {
            loop {
                let message = messages.recv().await.context("messages were lost")?;
                match message.value {
                    Value::Bytes(bytes) => hears(bytes)?,
                    Value::String(text) => hears(text.into_inner())?,
                    other => bail!("a message of kind {:?}", other.kind()),
                }
            }
        };
        LocalSet::new()
            .run_until(async {
                // Tasks, so that each is woken for its own matters only.
                let hear = tokio::task::spawn_local(hear);
                let post = tokio::task::spawn_local(post(publisher, queue));
                tokio::select! {
                    ended = hear => ended?,
                    ended = post => ended?,
                    ended = beside => ended,
                }
            })
            .await
    }

    async fn connect(&self) -> Result<(Client, SubscriberClient)> {
        let mut builder = Builder::from_config(Config {
            server: ServerConfig::new_centralized(self.redis.ip().to_string(), self.redis.port()),
            version: RespVersion::RESP2,
            ..Config::default()
        });
        builder.set_connection_config(ConnectionConfig {
            tcp: TcpConfig {
                nodelay: Some(true),
                ..TcpConfig::default()
            },
            ..ConnectionConfig::default()
        });
        let publisher = builder.build()?;
        builder.set_performance_config(PerformanceConfig {
            broadcast_channel_capacity: BROADCAST_CAPACITY,
            ..PerformanceConfig::default()
        });
        let subscriber = builder.build_subscriber_client()?;
        publisher.init().await?;
        subscriber.init().await?;
        Ok((publisher, subscriber))
    }
}

/// Publishes whatever waits in one pipeline.
async fn post(publisher: Client, mut queue: mpsc::Receiver<Letter>) -> Result<()> {
    let mut letters = Vec::with_capacity(PIPELINE_MAX);
    while queue.recv_many(&mut letters, PIPELINE_MAX).await > 0 {
        let Some((channel, message)) = letters.pop() else {
            continue;
        };
        let pipeline = publisher.pipeline();
        for (channel, message) in letters.drain(..) {
            let () = pipeline.publish(&*channel, message).await?;
        }
        // As ours: with a command behind it, a pipeline is one write to the socket.
        let (all, last) = tokio::join!(
            pipeline.try_all::<u64>(),
            publisher.publish::<u64, _, _>(&*channel, message)
        );
        for receivers in all.into_iter().chain([last]) {
            receivers.context("a publish failed")?;
        }
    }
    Ok(())
}

/// A kind, an id, a text, and blanks up to the usual length.
fn write(kind: u8, id: u64, text: &str) -> Vec<u8> {
    let mut message = Vec::with_capacity(MESSAGE_BYTES.max(text.len() + 32));
    message.push(kind);
    message.extend_from_slice(format!("{id:016x}").as_bytes());
    message.extend_from_slice(text.as_bytes());
    message.resize(message.len().max(MESSAGE_BYTES), b' ');
    message
}

fn read(message: &[u8]) -> Result<(u8, u64, &str)> {
    let text = std::str::from_utf8(message)?;
    let (head, text) = text.split_at_checked(17).context("too short a message")?;
    let id = u64::from_str_radix(&head[1..], 16)?;
    Ok((message[0], id, text.trim_end()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_read() {
        let message = write(b't', 77, r#"{"a1": 1, "a2": 2}"#);
        assert_eq!(message.len(), MESSAGE_BYTES);
        assert_eq!(read(&message).unwrap(), (b't', 77, r#"{"a1": 1, "a2": 2}"#));
    }
}
