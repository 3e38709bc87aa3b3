//! The bus: broadcast channels with a count of receivers.
//!
//! The port [`Bus`] has two implementations, and one suite (`tests/suite/bus.rs`) holds for both:
//! [`redis`] for deployments, [`memory`] for one process.
//!
//! **Invariant**: delivery is at most once, and nothing here stores a message. What must arrive is
//! sent again by whoever waits for the answer.

use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use tokio::sync::{mpsc, watch};

mod lines;
pub mod memory;
pub mod redis;

/// Messages that wait between the bus and a reader. At 30,000 messages a second this is half a
/// second of a reader that does nothing; with messages of 400 bytes, 6 MiB. When it is full, further
/// messages are dropped and counted as lag: the sender's retry brings them back.
pub const HAND_OFF_MAX: usize = 16_384;

/// A message to publish.
#[derive(Debug, Clone)]
pub struct Publication {
    /// The channel.
    pub channel: Arc<str>,
    /// The message.
    pub payload: Bytes,
    /// Whether all who hear the channel know several events in one message for what they are: a bus
    /// on which messages cost something may then join it with others.
    pub takes_lines: bool,
}

impl Publication {
    /// A message that goes as it is.
    pub fn new(channel: impl Into<Arc<str>>, payload: impl Into<Bytes>) -> Self {
        Self {
            channel: channel.into(),
            payload: payload.into(),
            takes_lines: false,
        }
    }
}

/// A message received.
#[derive(Debug, Clone)]
pub struct Message {
    /// Index of its channel in the list given to [`Bus::subscribe`].
    pub channel: usize,
    /// The message.
    pub payload: Bytes,
}

/// Whether messages can pass at present.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Link {
    /// Connected, and subscribed to all that was asked for.
    pub is_up: bool,
    /// How often the link has come up. Whoever sees it grow may have missed messages.
    pub generation: u64,
}

/// Why a message was not published.
#[derive(Debug, Clone, thiserror::Error)]
pub enum BusError {
    /// Not connected, or the connection broke before the answer: whether the message was delivered
    /// is not known.
    #[error("the bus cannot be reached: {0}")]
    Unavailable(String),
}

/// Broadcast channels.
///
/// ```
/// # tokio_test();
/// # fn tokio_test() { tokio::runtime::Builder::new_current_thread().build().unwrap().block_on(async {
/// use shared::bus::{Bus, Publication, memory::MemoryBus};
/// let bus = MemoryBus::default();
/// let mut heard = bus.subscribe(vec!["news".into()]).await.unwrap();
/// let receivers = bus
///     .publish(vec![Publication::new("news", "hello")])
///     .await;
/// assert!(matches!(receivers[..], [Ok(1)]));
/// assert_eq!(heard.recv().await.unwrap().payload, "hello");
/// # }) }
/// ```
#[async_trait]
pub trait Bus: Send + Sync + 'static {
    /// Publishes a batch in order. One answer per message: the number of receivers.
    ///
    /// # Errors
    /// Per message: [`BusError::Unavailable`].
    async fn publish(&self, batch: Vec<Publication>) -> Vec<Result<u64, BusError>>;

    /// Hears the channels from now on, also again after a reconnect. Call it at start, a constant
    /// number of times per process.
    ///
    /// # Errors
    /// [`BusError::Unavailable`] when the bus has been closed. An outage is no error: the
    /// subscription begins when the bus is there.
    async fn subscribe(&self, channels: Vec<String>) -> Result<mpsc::Receiver<Message>, BusError>;

    /// The state of the link, now and on every change.
    fn link(&self) -> watch::Receiver<Link>;

    /// Why the link is down, where that is known. `link` tells of its changes, too.
    fn why_down(&self) -> Option<String> {
        None
    }

    /// Counts of what went wrong, for the metrics.
    fn counters(&self) -> &BusCounters;

    /// Ends subscriptions and connections.
    async fn close(&self);
}

/// What a bus counts.
#[derive(Debug, Default, Clone)]
pub struct BusCounters {
    /// Messages dropped because a reader was too slow.
    pub lagged: prometheus_client::metrics::counter::Counter,
    /// How often the link came up after the first time.
    pub reconnects: prometheus_client::metrics::counter::Counter,
    /// Messages heard, each by itself where several shared one of Redis.
    pub heard: prometheus_client::metrics::counter::Counter,
    /// Messages published, each by itself, too.
    pub published: prometheus_client::metrics::counter::Counter,
}

impl BusCounters {
    /// Adds the counters to the registry of the process.
    pub fn register(&self, registry: &mut prometheus_client::registry::Registry) {
        let registry = registry.sub_registry_with_prefix("bus");
        registry.register(
            "lagged",
            "Messages dropped: a reader was too slow",
            self.lagged.clone(),
        );
        registry.register(
            "reconnects",
            "Times the link came up again",
            self.reconnects.clone(),
        );
        registry.register("heard", "Messages received", self.heard.clone());
        registry.register("published", "Messages published", self.published.clone());
    }
}

/// Where the messages of one subscription go.
#[derive(Debug, Clone)]
struct Reader {
    /// Index of the channel in the reader's own list.
    channel: usize,
    hand_off: mpsc::Sender<Message>,
}

impl Reader {
    /// Hands a message on without waiting; whether the reader took it.
    fn hand_off(&self, payload: Bytes, counters: &BusCounters) -> bool {
        counters.heard.inc();
        let message = Message {
            channel: self.channel,
            payload,
        };
        match self.hand_off.try_send(message) {
            Ok(()) => true,
            Err(mpsc::error::TrySendError::Full(_)) => {
                counters.lagged.inc();
                false
            }
            Err(mpsc::error::TrySendError::Closed(_)) => false,
        }
    }
}
