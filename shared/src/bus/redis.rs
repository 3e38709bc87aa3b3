//! The bus of a deployment: Redis pub/sub, through fred.
//!
//! Two connections: one publishes in pipelines, in which events for one container share a message
//! ([`lines`]), one is subscribed. One task ([`drain`]) reads the
//! subscription and only hands off; another ([`watch_over`]) keeps the subscription alive: it
//! subscribes again after a reconnect, and once a second publishes an empty message to a channel of
//! its own, so that a subscription that looks alive but hears nothing is found within seconds.
//!
//! Every default of fred's that matters is set here by hand.

use std::{
    collections::HashMap,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use async_trait::async_trait;
use bytes::Bytes;
use fred::{
    clients::{Client, SubscriberClient},
    error::Error,
    interfaces::{ClientLike, EventInterface, PubsubInterface},
    types::{
        Builder, RespVersion, Value,
        config::{
            Config, ConnectionConfig, PerformanceConfig, ReconnectPolicy, Server, ServerConfig,
            TcpConfig, UnresponsiveConfig,
        },
    },
};
use tokio::sync::{broadcast, mpsc, watch};
use tokio::time::Instant;
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use tracing::{info, warn};

use super::{
    Bus, BusCounters, BusError, HAND_OFF_MAX, Link, Message, Publication, Reader,
    lines::{self, Parcel},
};

/// A command that takes longer has failed. A request lives 5 s by default: this leaves time to try
/// again.
const COMMAND_TIMEOUT: Duration = Duration::from_millis(1_500);
/// A connection that owes an answer for so long is closed and made anew.
const UNRESPONSIVE_AFTER: Duration = Duration::from_secs(2);
/// First and longest wait between attempts to connect.
const RECONNECT_MS: (u32, u32) = (50, 2_000);
/// fred's own broadcast channel between its reader and our drain, which does nothing else. fred
/// makes eight channels of this capacity per client, so 65,536 would cost 50 MiB.
const BROADCAST_CAPACITY: usize = 8_192;
/// Commands that wait in fred. Only batches are sent and each awaits its answer, so few ever wait.
const COMMAND_BUFFER_MAX: usize = 16_384;
/// A server that is there is connected to in this time, though fred pauses before its first try.
const START_GRACE: Duration = Duration::from_millis(500);
/// Reasons that are told during one outage: they take turns.
const REASONS_MAX: usize = 4;
/// How long Redis may take to say goodbye.
const QUIT_TIMEOUT: Duration = Duration::from_millis(300);
/// How long new connections are waited for.
const RECONNECT_WITHIN: Duration = Duration::from_secs(1);
/// How often the subscription is probed.
const PROBE_EVERY: Duration = Duration::from_secs(1);
/// Probes that may go unheard before the connection is made anew.
const PROBES_UNHEARD_MAX: u64 = 2;

/// Where Redis is.
#[derive(Debug, Clone)]
pub struct RedisAddress {
    /// Host name or address.
    pub host: String,
    /// Port.
    pub port: u16,
    /// Password, where Redis asks for one.
    pub password: Option<String>,
}

/// Redis pub/sub. Cheap to clone; [`Bus::close`] ends it.
#[derive(Clone)]
pub struct RedisBus {
    publisher: Client,
    subscriber: SubscriberClient,
    readers: Arc<Mutex<Readers>>,
    link: watch::Sender<Link>,
    /// What fred said last of why the link is down. Short sections, no await inside.
    last_error: Arc<Mutex<Option<String>>>,
    counters: BusCounters,
    stop: CancellationToken,
    tasks: TaskTracker,
}

/// Who hears what. Short sections, no await inside.
#[derive(Debug, Default)]
struct Readers {
    by_channel: HashMap<String, Vec<Reader>>,
    /// Channels were added after they were last subscribed to: the link is not up without them.
    has_new: bool,
}

impl RedisBus {
    /// Starts connecting in the background: Redis need not be there yet. Call inside a runtime.
    ///
    /// # Errors
    /// [`BusError`] for settings that fred does not take.
    pub fn start(at: &RedisAddress) -> Result<Self, BusError> {
        let unavailable = |error: Error| BusError::Unavailable(error.to_string());
        let mut builder = Builder::from_config(Config {
            fail_fast: false,
            server: ServerConfig::new_centralized(at.host.clone(), at.port),
            password: at.password.clone(),
            version: RespVersion::RESP2,
            ..Config::default()
        });
        builder
            .set_policy(ReconnectPolicy::new_exponential(
                0,
                RECONNECT_MS.0,
                RECONNECT_MS.1,
                2,
            ))
            .set_connection_config(connection_config())
            .set_performance_config(PerformanceConfig {
                default_command_timeout: COMMAND_TIMEOUT,
                ..PerformanceConfig::default()
            });
        let publisher = builder.build().map_err(unavailable)?;
        builder.set_performance_config(PerformanceConfig {
            default_command_timeout: COMMAND_TIMEOUT,
            broadcast_channel_capacity: BROADCAST_CAPACITY,
            ..PerformanceConfig::default()
        });
        let subscriber = builder.build_subscriber_client().map_err(unavailable)?;
        let bus = Self {
            publisher,
            subscriber,
            readers: Arc::default(),
            link: watch::Sender::new(Link::default()),
            last_error: Arc::default(),
            counters: BusCounters::default(),
            stop: CancellationToken::new(),
            tasks: TaskTracker::new(),
        };
        let messages = bus.subscriber.message_rx();
        let heard_probes = Arc::new(AtomicU64::new(0));
        // The end of either task is the end of the bus: both run until `close`.
        bus.tasks
            .spawn(drain(bus.clone(), messages, heard_probes.clone()));
        bus.tasks
            .spawn(watch_over(bus.clone(), format!("{at}"), heard_probes));
        Ok(bus)
    }

    fn readers(&self) -> std::sync::MutexGuard<'_, Readers> {
        self.readers.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn last_error(&self) -> std::sync::MutexGuard<'_, Option<String>> {
        self.last_error
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }

    /// Notes why the link is down, and tells those who follow it.
    fn fails(&self, error: &Error) {
        let why = Some(error.to_string());
        if std::mem::replace(&mut *self.last_error(), why.clone()) != why {
            self.link.send_modify(|_| {});
        }
    }

    /// A connection broke or could not be made.
    fn broke(&self, told: Result<(Error, Option<Server>), broadcast::error::RecvError>) {
        self.set_up(false);
        if let Ok((error, _)) = told {
            self.fails(&error);
        }
    }

    /// Says whether the link is up. With channels that are not subscribed to yet, it is not. Returns
    /// what was said.
    fn set_up(&self, is_connected: bool) -> bool {
        let readers = self.readers();
        let is_up = is_connected && !readers.has_new;
        if is_up {
            *self.last_error() = None;
        }
        self.link.send_if_modified(|link| {
            let changes = link.is_up != is_up;
            link.is_up = is_up;
            if changes && is_up {
                link.generation += 1;
                if link.generation > 1 {
                    self.counters.reconnects.inc();
                }
            }
            changes
        });
        is_up
    }

    /// Sends parcels in one pipeline. One answer each.
    async fn send(&self, mut parcels: Vec<Parcel>) -> Vec<Result<u64, BusError>> {
        let count = parcels.len();
        if !self.publisher.is_connected() {
            return vec![Err(BusError::Unavailable("not connected".into())); count];
        }
        let Some(last) = parcels.pop() else {
            return Vec::new();
        };
        let pipeline = self.publisher.pipeline();
        for parcel in parcels {
            let (channel, payload) = parcel.into_message();
            // Only queues the command; the answer comes with the pipeline's.
            let queued: Result<(), _> = pipeline.publish(&*channel, payload).await;
            if let Err(error) = queued {
                return vec![Err(BusError::Unavailable(error.to_string())); count];
            }
        }
        // fred writes to the socket after each command of a pipeline, unless another command waits
        // behind it. So one does, and all of them go out as one.
        let (channel, payload) = last.into_message();
        let (answers, last) = futures_util::future::join(
            pipeline.try_all::<u64>(),
            self.publisher.publish::<u64, _, _>(&*channel, payload),
        )
        .await;
        let unavailable = |error: Error| BusError::Unavailable(error.to_string());
        let mut answers: Vec<Result<u64, BusError>> = answers
            .into_iter()
            .map(|answer| answer.map_err(unavailable))
            .collect();
        // A pipeline that fails as a whole answers once.
        let failed = answers.last().cloned();
        answers.resize_with(count - 1, || match &failed {
            Some(Err(error)) => Err(error.clone()),
            _ => Err(BusError::Unavailable("no answer".into())),
        });
        answers.push(last.map_err(unavailable));
        answers
    }
}

impl std::fmt::Display for RedisAddress {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}:{}", self.host, self.port)
    }
}

#[async_trait]
impl Bus for RedisBus {
    async fn publish(&self, batch: Vec<Publication>) -> Vec<Result<u64, BusError>> {
        let (parcels, places) = lines::join(batch);
        let answers = self.send(parcels).await;
        let answers: Vec<_> = places
            .into_iter()
            .map(|place| answers[place].clone())
            .collect();
        self.counters
            .published
            .inc_by(answers.iter().filter(|a| a.is_ok()).count() as u64);
        answers
    }

    async fn subscribe(&self, channels: Vec<String>) -> Result<mpsc::Receiver<Message>, BusError> {
        let (hand_off, heard) = mpsc::channel(HAND_OFF_MAX);
        if self.stop.is_cancelled() {
            return Err(BusError::Unavailable("closed".into()));
        }
        {
            let mut readers = self.readers();
            for (index, channel) in channels.into_iter().enumerate() {
                let reader = Reader {
                    channel: index,
                    hand_off: hand_off.clone(),
                };
                readers.by_channel.entry(channel).or_default().push(reader);
            }
            readers.has_new = true;
        }
        // `watch_over` subscribes to what is new, now or when Redis is there.
        self.set_up(false);
        Ok(heard)
    }

    fn link(&self) -> watch::Receiver<Link> {
        self.link.subscribe()
    }

    fn why_down(&self) -> Option<String> {
        self.last_error().clone()
    }

    fn counters(&self) -> &BusCounters {
        &self.counters
    }

    async fn close(&self) {
        self.stop.cancel();
        self.tasks.close();
        self.tasks.wait().await;
        self.readers().by_channel.clear();
    }
}

fn connection_config() -> ConnectionConfig {
    ConnectionConfig {
        connection_timeout: Duration::from_secs(2),
        internal_command_timeout: Duration::from_secs(2),
        // A publish that was under way when the connection broke is repeated by the outbox, which
        // knows until when it is of use.
        max_command_attempts: 1,
        max_command_buffer_len: COMMAND_BUFFER_MAX,
        unresponsive: UnresponsiveConfig {
            max_timeout: Some(UNRESPONSIVE_AFTER),
            interval: Duration::from_millis(500),
        },
        tcp: TcpConfig {
            nodelay: Some(true),
            ..TcpConfig::default()
        },
        ..ConnectionConfig::default()
    }
}

/// Hands every message to the readers of its channel and never waits for anything but the bus.
async fn drain(
    bus: RedisBus,
    mut messages: broadcast::Receiver<fred::types::Message>,
    heard_probes: Arc<AtomicU64>,
) {
    loop {
        let message = tokio::select! {
            message = messages.recv() => message,
            () = bus.stop.cancelled() => return,
        };
        match message {
            Ok(message) => {
                let payload = match message.value {
                    Value::Bytes(bytes) => bytes,
                    Value::String(text) => text.into_inner(),
                    other => {
                        tracing::debug!(kind = ?other.kind(), "a message that is no text");
                        continue;
                    }
                };
                hand_off(&bus, &message.channel, payload, &heard_probes);
            }
            Err(broadcast::error::RecvError::Lagged(lost)) => {
                bus.counters.lagged.inc_by(lost);
                warn!(
                    lost,
                    "the subscription was read too slowly, messages are lost"
                );
            }
            Err(broadcast::error::RecvError::Closed) => return,
        }
    }
}

fn hand_off(bus: &RedisBus, channel: &str, payload: Bytes, heard_probes: &AtomicU64) {
    if payload.is_empty() {
        heard_probes.fetch_add(1, Ordering::Relaxed);
        return;
    }
    let readers = bus.readers();
    let Some(channel_readers) = readers.by_channel.get(channel) else {
        return;
    };
    for event in lines::split(payload) {
        for reader in channel_readers {
            reader.hand_off(event.clone(), &bus.counters);
        }
    }
}

/// Connects, subscribes, and finds out when the subscription has gone deaf.
async fn watch_over(bus: RedisBus, at: String, heard_probes: Arc<AtomicU64>) {
    let probe_channel = format!("roundtrip:probe:{:032x}", rand::random::<u128>());
    bus.readers()
        .by_channel
        .entry(probe_channel.clone())
        .or_default();
    let (publishing, subscribing) = (bus.publisher.connect(), bus.subscriber.connect());
    let mut reconnects = bus.subscriber.reconnect_rx();
    // A connection that breaks is told at once, not by the next probe.
    let mut errors = (bus.publisher.error_rx(), bus.subscriber.error_rx());
    let mut changed = bus.link.subscribe();
    let mut probes_unheard = 0;
    // At the first failure it says what it waits for, and again for each other reason; at the start it is
    // given a moment.
    let mut is_told_up = false;
    let mut reasons_told = Vec::new();
    let begun = Instant::now();
    loop {
        let is_connected = if bus.link.borrow().is_up {
            is_heard(&bus, &probe_channel, &heard_probes, &mut probes_unheard).await
        } else {
            subscribe_all(&bus).await
        };
        let is_up = bus.set_up(is_connected);
        changed.borrow_and_update();
        if is_connected && !is_up {
            // Channels were added meanwhile.
            continue;
        }
        if is_up {
            if !is_told_up {
                info!(redis = at, "the bus is connected");
            }
            is_told_up = true;
            reasons_told.clear();
        } else if begun.elapsed() > START_GRACE {
            let why = bus.why_down();
            if reasons_told.len() < REASONS_MAX && !reasons_told.contains(&why) {
                warn!(
                    redis = at,
                    error = why,
                    "the bus cannot be reached, trying again"
                );
                reasons_told.push(why);
            }
            is_told_up = false;
        }
        let pause = if is_up {
            PROBE_EVERY
        } else {
            Duration::from_millis(u64::from(RECONNECT_MS.0))
        };
        tokio::select! {
            () = bus.stop.cancelled() => break,
            () = tokio::time::sleep(pause) => {}
            // New channels: `subscribe` has set the link down.
            _ = changed.changed() => {}
            // The subscriptions went with the connection.
            _ = reconnects.recv() => { bus.set_up(false); }
            error = errors.0.recv() => bus.broke(error),
            error = errors.1.recv() => bus.broke(error),
        }
    }
    for quit in [
        tokio::time::timeout(QUIT_TIMEOUT, bus.subscriber.quit()).await,
        tokio::time::timeout(QUIT_TIMEOUT, bus.publisher.quit()).await,
    ] {
        // Not connected, or not in time: the connection is dropped.
        tracing::debug!(?quit, "quit");
    }
    publishing.abort();
    subscribing.abort();
}

/// Subscribes to every channel that has readers. Harmless to repeat.
async fn subscribe_all(bus: &RedisBus) -> bool {
    if !(bus.subscriber.is_connected() && bus.publisher.is_connected()) {
        return false;
    }
    let channels: Vec<String> = {
        let mut readers = bus.readers();
        readers.has_new = false;
        readers.by_channel.keys().cloned().collect()
    };
    let subscribing = async {
        bus.subscriber.subscribe(channels).await?;
        // fred does not wait for what the server says to it. It answers in order, so that it has
        // subscribed us when it has answered this.
        bus.subscriber.ping::<Value>(None).await
    };
    match subscribing.await {
        Ok(_pong) => true,
        Err(error) => {
            tracing::debug!(%error, "subscribe");
            bus.fails(&error);
            false
        }
    }
}

/// Probes the subscription from end to end. After too many probes that nobody heard, the
/// connection is made anew.
async fn is_heard(
    bus: &RedisBus,
    probe_channel: &str,
    heard_probes: &AtomicU64,
    unheard: &mut u64,
) -> bool {
    if !(bus.subscriber.is_connected() && bus.publisher.is_connected()) {
        return false;
    }
    if heard_probes.swap(0, Ordering::Relaxed) > 0 {
        *unheard = 0;
    }
    let receivers: Result<u64, _> = bus.publisher.publish(probe_channel, Bytes::new()).await;
    match receivers {
        // Redis does not count us: the subscription is gone although the connection is not.
        Ok(0) => {
            *unheard = 0;
            false
        }
        Ok(_) if *unheard < PROBES_UNHEARD_MAX => {
            *unheard += 1;
            true
        }
        Ok(_) => {
            warn!("subscribed but hearing nothing, connecting anew");
            *unheard = 0;
            connect_anew(bus).await;
            false
        }
        Err(error) => {
            tracing::debug!(%error, "probe");
            bus.fails(&error);
            // It owes an answer: perhaps nobody is at the other end any more.
            connect_anew(bus).await;
            false
        }
    }
}

/// Closes both connections and makes new ones. The link is down from the beginning: what is published
/// on the first of them is not heard by everybody yet.
async fn connect_anew(bus: &RedisBus) {
    bus.set_up(false);
    let connecting = futures_util::future::join(
        bus.publisher.force_reconnection(),
        bus.subscriber.force_reconnection(),
    );
    // Should it take longer, fred goes on by itself.
    let connected = tokio::time::timeout(RECONNECT_WITHIN, connecting).await;
    tracing::debug!(?connected, "force reconnection");
}
