//! Sends messages to containers: direct channel first, broadcast where there is none.
//!
//! One task owns the sending. Whatever queued up while the last batch was under way goes out in the
//! next, as one pipeline: an idle system sends at once, a busy one in large batches.
//!
//! `PUBLISH` answers with the number of receivers (contract, "Direct channel"). On a direct channel
//! 1 means delivered, 0 that the container is of an older image or gone: the message then goes to
//! the broadcast channel if the container never had a direct channel and discovery still lists it
//! (or the message is for that container only), and is otherwise undelivered. Which containers have a direct channel is remembered.

use std::{
    collections::{HashMap, VecDeque},
    sync::Arc,
    time::Duration,
};

use bytes::Bytes;
use prometheus_client::{
    encoding::EncodeLabelSet,
    metrics::{counter::Counter, family::Family},
    registry::Registry,
};
use tokio::{
    sync::{mpsc, watch},
    time::Instant,
};

use crate::{
    bus::{Bus, BusError, Link, Publication},
    contract::{Address, ContainerId, direct_channel},
    discovery::Roster,
};

/// Messages that wait to be sent. When it is full the sender is told at once.
const QUEUE_MAX: usize = 16_384;
/// Messages in one pipeline: large enough to amortize the round trip, small enough that the first
/// answer does not wait for long.
const BATCH_MAX: usize = 512;
/// Pause after a batch that the bus did not take.
const RETRY_PAUSE: Duration = Duration::from_millis(20);
/// After the bus has come back, the others may need so long to subscribe again: until then, nobody
/// there is not yet nobody left, and the letter is tried again.
const LINK_GRACE: Duration = Duration::from_secs(2);
/// Containers whose kind of channel is remembered; past that it is learned anew.
const CONTAINERS_MAX: usize = 4_096;

/// A message to a container.
#[derive(Debug, Clone)]
pub struct Letter<T> {
    /// Whom it is addressed to.
    pub to: Address,
    /// The message.
    pub payload: Bytes,
    /// Until when it is of use: so long is it tried again while the bus is down.
    pub expires: Instant,
    /// Whether the sender would rather choose another container than broadcast to one that nobody
    /// lists: so it is with tasks and dispatches. A result or a reply is for one container only,
    /// and a process without an engine to ask does not know whether an older one is there.
    pub has_alternatives: bool,
    /// What the sender knows it by.
    pub tag: T,
}

/// Why a letter did not arrive.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Undelivered {
    /// Nobody listens at that address.
    NobodyThere,
    /// Nobody listens to the broadcast channel: no container is there that could have taken it.
    NobodyAtAll,
    /// It expired, because the bus was down or too slow.
    Expired,
}

/// The queue has no room, or the outbox has ended.
#[derive(Debug, thiserror::Error)]
#[error("the outbox takes nothing at present")]
pub struct Full;

/// Handle to the task that sends. Cheap to clone.
#[derive(Debug)]
pub struct Outbox<T> {
    queue: mpsc::Sender<Letter<T>>,
}

impl<T> Clone for Outbox<T> {
    fn clone(&self) -> Self {
        Self {
            queue: self.queue.clone(),
        }
    }
}

impl<T> Outbox<T> {
    /// Queues a letter without waiting.
    ///
    /// # Errors
    /// [`Full`]; the letter is not sent.
    pub fn send(&self, letter: Letter<T>) -> Result<(), Full> {
        self.queue.try_send(letter).map_err(|_| Full)
    }
}

/// The task that sends; [`Postman::run`] ends when every [`Outbox`] is dropped and all is sent.
pub struct Postman<T, F> {
    queue: mpsc::Receiver<Letter<T>>,
    bus: Arc<dyn Bus>,
    roster: Arc<Roster>,
    broadcast: Arc<str>,
    on_undelivered: F,
    direct: HashMap<ContainerId, Direct>,
    again: VecDeque<Letter<T>>,
    link: watch::Receiver<Link>,
    /// Until when the others may still be subscribing again.
    grace_until: Instant,
    counters: Counters,
}

/// What is known of a container's direct channel.
#[derive(Debug, Clone)]
struct Direct {
    channel: Arc<str>,
    kind: DirectKind,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum DirectKind {
    Unknown,
    Has,
    Lacks,
}

#[derive(Debug, Clone, Default)]
struct Counters {
    letters: Family<Labels, Counter>,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Labels {
    outcome: &'static str,
}

/// Makes an outbox whose letters go to `broadcast` or the direct channels beside it.
/// `on_undelivered` is called with the tag of every letter that did not arrive; it must not block.
pub fn outbox<T, F: FnMut(T, Undelivered)>(
    bus: Arc<dyn Bus>,
    roster: Arc<Roster>,
    broadcast: &str,
    registry: &mut Registry,
    on_undelivered: F,
) -> (Outbox<T>, Postman<T, F>) {
    let (sender, queue) = mpsc::channel(QUEUE_MAX);
    let counters = Counters::default();
    registry.register(
        "outbox_letters",
        "Messages to containers, by how they went",
        counters.letters.clone(),
    );
    let link = bus.link();
    let postman = Postman {
        queue,
        bus,
        link,
        grace_until: Instant::now(),
        roster,
        broadcast: broadcast.into(),
        on_undelivered,
        direct: HashMap::new(),
        again: VecDeque::new(),
        counters,
    };
    (Outbox { queue: sender }, postman)
}

impl<T, F: FnMut(T, Undelivered)> Postman<T, F> {
    /// Sends until every handle is gone and the queue is empty.
    pub async fn run(mut self) {
        let mut batch = Vec::with_capacity(BATCH_MAX);
        let sent = |outcome| {
            self.counters
                .letters
                .get_or_create_owned(&Labels { outcome })
        };
        let outcomes = Outcomes {
            direct: sent("direct"),
            broadcast: sent("broadcast"),
            nobody: sent("nobody_there"),
            expired: sent("expired"),
            again: sent("sent_again"),
        };
        loop {
            if self.again.is_empty() {
                if self.queue.recv_many(&mut batch, BATCH_MAX).await == 0 {
                    return;
                }
            } else {
                let count = self.again.len().min(BATCH_MAX);
                batch.extend(self.again.drain(..count));
                while batch.len() < BATCH_MAX
                    && let Ok(letter) = self.queue.try_recv()
                {
                    batch.push(letter);
                }
            }
            let refused = self.send(&mut batch, &outcomes).await;
            if refused {
                tokio::time::sleep(RETRY_PAUSE).await;
            }
        }
    }

    /// Sends a batch, and what the direct channels did not take once more by broadcast. Whether the
    /// bus refused any of it.
    async fn send(&mut self, batch: &mut Vec<Letter<T>>, outcomes: &Outcomes) -> bool {
        let now = Instant::now();
        let mut letters = Vec::with_capacity(batch.len());
        let mut publications = Vec::with_capacity(batch.len());
        for letter in batch.drain(..) {
            if letter.expires <= now {
                outcomes.expired.inc();
                (self.on_undelivered)(letter.tag, Undelivered::Expired);
                continue;
            }
            let (channel, is_direct) = self.channel_of(&letter.to.container);
            publications.push(Publication {
                channel,
                payload: letter.payload.clone(),
                takes_lines: is_direct && self.roster.takes_lines(&letter.to.container),
            });
            letters.push((letter, is_direct));
        }
        if publications.is_empty() {
            return false;
        }
        let mut refused = false;
        let mut to_all = Vec::new();
        let answers = self.bus.publish(publications).await;
        let is_grace = self.is_grace();
        for ((letter, is_direct), answer) in letters.into_iter().zip(answers) {
            if matches!(answer, Ok(0)) && is_direct && self.has_no_direct(&letter) {
                to_all.push(letter);
            } else {
                refused |= self.settle(letter, is_direct, answer, is_grace, outcomes);
            }
        }
        if to_all.is_empty() {
            return refused;
        }
        let publication =
            |letter: &Letter<T>| Publication::new(self.broadcast.clone(), letter.payload.clone());
        let publications = to_all.iter().map(publication).collect();
        let answers = self.bus.publish(publications).await;
        for (letter, answer) in to_all.into_iter().zip(answers) {
            refused |= self.settle(letter, false, answer, is_grace, outcomes);
        }
        refused
    }

    /// What became of a letter. Whether it is to be sent again.
    fn settle(
        &mut self,
        letter: Letter<T>,
        is_direct: bool,
        answer: Result<u64, BusError>,
        is_grace: bool,
        outcomes: &Outcomes,
    ) -> bool {
        let container = &letter.to.container;
        match answer {
            Ok(0) if !is_grace || !self.roster.is_alive(container) => {
                outcomes.nobody.inc();
                let why = if is_direct {
                    self.roster.suspect(container);
                    Undelivered::NobodyThere
                } else {
                    Undelivered::NobodyAtAll
                };
                (self.on_undelivered)(letter.tag, why);
                false
            }
            Ok(0) | Err(_) => {
                outcomes.again.inc();
                self.again.push_back(letter);
                true
            }
            Ok(_) if is_direct => {
                outcomes.direct.inc();
                if let Some(direct) = self.direct.get_mut(container) {
                    direct.kind = DirectKind::Has;
                }
                false
            }
            Ok(_) => {
                outcomes.broadcast.inc();
                false
            }
        }
    }

    /// Whether the others may still be subscribing again. So it is also while our own link is down: a
    /// new connection publishes before it is known to hear.
    fn is_grace(&mut self) -> bool {
        let has_changed = self.link.has_changed().unwrap_or(false);
        let link = *self.link.borrow_and_update();
        let was_up_before = link.generation > u64::from(link.is_up);
        if was_up_before && (has_changed || !link.is_up) {
            self.grace_until = Instant::now() + LINK_GRACE;
        }
        Instant::now() < self.grace_until
    }

    /// The channel to try first, and whether it is the direct one.
    fn channel_of(&mut self, container: &ContainerId) -> (Arc<str>, bool) {
        if self.direct.len() >= CONTAINERS_MAX {
            self.direct.clear();
        }
        if !self.direct.contains_key(container) {
            let channel = direct_channel(&self.broadcast, container).into();
            self.direct.insert(
                container.clone(),
                Direct {
                    channel,
                    kind: DirectKind::Unknown,
                },
            );
        }
        match &self.direct[container] {
            Direct {
                kind: DirectKind::Lacks,
                ..
            } if !self.roster.is_ours(container) => (self.broadcast.clone(), false),
            direct => (direct.channel.clone(), true),
        }
    }

    /// After nobody heard a message on its direct channel: whether that is because the container is
    /// of an image that has none (and is still there).
    fn has_no_direct(&mut self, letter: &Letter<T>) -> bool {
        let container = &letter.to.container;
        let Some(direct) = self.direct.get_mut(container) else {
            return false;
        };
        if direct.kind == DirectKind::Has || self.roster.is_ours(container) {
            return false;
        }
        direct.kind = DirectKind::Lacks;
        !letter.has_alternatives || self.roster.is_listed(container)
    }
}

/// Counters by outcome, resolved once.
struct Outcomes {
    direct: Counter,
    broadcast: Counter,
    nobody: Counter,
    expired: Counter,
    again: Counter,
}

#[cfg(test)]
mod tests;
