//! Presence: each of our services says every few seconds who it is and how busy, and says goodbye
//! when it ends.
//!
//! Announcements have channels of their own beside the two of the contract (`<channel>:presence`),
//! since an older service would not know what to make of them. Who hears the event channel announces
//! itself beside it, to everyone; who hears the consuming channel announces itself beside that one,
//! to events services only: the number of deliveries grows with the number of containers, not with
//! its square.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Duration,
};

use async_trait::async_trait;
use bytes::Bytes;
use rand::RngExt;
use serde::{Deserialize, Serialize};
use tokio::{
    sync::{Notify, mpsc},
    time::Instant,
};
use tokio_util::sync::CancellationToken;
use tracing::{debug, info};

use super::{Discovery, Present, Roster};
use crate::{
    bus::{Bus, Message, Publication},
    clock::Clock,
    contract::Address,
};

/// How often a service announces itself.
const ANNOUNCE_EVERY: Duration = Duration::from_secs(2);
/// A service that was not heard for so long gets no work: three announcements may be lost.
const SILENT_AFTER: Duration = Duration::from_secs(7);
const _: () = assert!(ANNOUNCE_EVERY.as_millis() * 3 < SILENT_AFTER.as_millis());
/// Upon a newcomer, everyone announces itself within this time, so that it need not wait.
const WELCOME_WITHIN: Duration = Duration::from_millis(100);

/// A newcomer takes nothing until everyone has had the time to welcome it: an events service that
/// knows no backend yet would fail what it is given.
const SETTLE: Duration = Duration::from_millis(250);
const _: () = assert!(WELCOME_WITHIN.as_millis() * 2 <= SETTLE.as_millis());

/// The presence channel beside one of the contract's two channels.
pub fn presence_channel(channel: &str) -> String {
    format!("{channel}:presence")
}

/// What a service says of itself while it runs. Shared with the parts that know.
#[derive(Debug, Default)]
pub struct Condition {
    is_draining: AtomicBool,
    in_flight: AtomicU64,
    changed: Notify,
}

impl Condition {
    /// It takes nothing new from now on; announced at once.
    pub fn drain(&self) {
        self.is_draining.store(true, Ordering::Relaxed);
        self.changed.notify_one();
    }

    /// Whether it drains.
    pub fn is_draining(&self) -> bool {
        self.is_draining.load(Ordering::Relaxed)
    }

    /// How much it has in flight; goes out with the next announcement.
    pub fn set_in_flight(&self, count: u64) {
        self.in_flight.store(count, Ordering::Relaxed);
    }
}

/// One announcement on the bus.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Announcement {
    presence: u8,
    container_id: String,
    service: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    image: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    stack: Option<String>,
    #[serde(default)]
    draining: bool,
    #[serde(default)]
    gone: bool,
    #[serde(default)]
    in_flight: u64,
    /// Whether it knows several events in one message.
    #[serde(default)]
    lines: bool,
    /// What time it is by its clock, in ms since 1970.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    now: Option<u64>,
}

/// What a service announces itself as.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    /// There, and not to be given anything yet.
    Settling,
    /// There; whether it drains, its condition says.
    There,
    /// Gone.
    Gone,
}

/// Who announces itself, and where.
#[derive(Debug, Clone)]
pub struct Announcer {
    /// Who we are.
    pub address: Address,
    /// Our image, where we know it.
    pub image: Option<String>,
    /// Our stack, where we know it.
    pub stack: Option<String>,
    /// What time it is by us.
    pub clock: Clock,
    /// The channel of the contract that we hear.
    pub announce_beside: String,
    /// The channels of the contract beside which we listen for others.
    pub listen_beside: Vec<String>,
}

/// Presence messages on the bus.
pub struct PresenceDiscovery {
    bus: Arc<dyn Bus>,
    announcer: Announcer,
    condition: Arc<Condition>,
}

impl PresenceDiscovery {
    /// Announces and listens once it runs.
    pub fn new(bus: Arc<dyn Bus>, announcer: Announcer, condition: Arc<Condition>) -> Self {
        Self {
            bus,
            announcer,
            condition,
        }
    }

    async fn announce(&self, state: State) {
        let announcement = Announcement {
            presence: 1,
            container_id: self.announcer.address.container.to_string(),
            service: self.announcer.address.service.to_string(),
            image: self.announcer.image.clone(),
            stack: self.announcer.stack.clone(),
            draining: state == State::Settling || self.condition.is_draining(),
            gone: state == State::Gone,
            in_flight: self.condition.in_flight.load(Ordering::Relaxed),
            lines: true,
            now: Some(self.announcer.clock.now_unix_ms()),
        };
        let payload = match serde_json::to_vec(&announcement) {
            Ok(payload) => Bytes::from(payload),
            Err(error) => {
                debug!(%error, "announcement");
                return;
            }
        };
        let channel = presence_channel(&self.announcer.announce_beside);
        for answer in self
            .bus
            .publish(vec![Publication::new(channel, payload)])
            .await
        {
            if let Err(error) = answer {
                debug!(%error, "announcement not published, the next one follows");
            }
        }
    }

    /// Takes an announcement; whether it is that of a newcomer.
    fn hear(&self, payload: &[u8], roster: &Roster) -> bool {
        let heard: Announcement = match serde_json::from_slice(payload) {
            Ok(heard) => heard,
            Err(error) => {
                debug!(%error, "not an announcement");
                return false;
            }
        };
        let Ok(address) = Address::new(&heard.container_id, &heard.service) else {
            debug!("an announcement without an address");
            return false;
        };
        if address == self.announcer.address {
            return false;
        }
        if heard.gone {
            info!(container_id = %address.container, service = %address.service, "gone");
            roster.goodbye(&address.container);
            return false;
        }
        let is_new = roster.present(Present {
            address: address.clone(),
            image: heard.image.map(Into::into),
            stack: heard.stack.map(Into::into),
            is_draining: heard.draining,
            in_flight: heard.in_flight,
            takes_lines: heard.lines,
            clock_ahead_ms: heard.now.map(|now| self.announcer.clock.ahead_ms(now)),
        });
        if is_new {
            info!(container_id = %address.container, service = %address.service, "present");
        }
        is_new
    }

    async fn listen(&self) -> Option<mpsc::Receiver<Message>> {
        let channels = self
            .announcer
            .listen_beside
            .iter()
            .map(|c| presence_channel(c))
            .collect();
        self.bus
            .subscribe(channels)
            .await
            .inspect_err(|error| debug!(%error, "closed"))
            .ok()
    }
}

#[async_trait]
impl Discovery for PresenceDiscovery {
    async fn run(self: Box<Self>, roster: Arc<Roster>, stop: CancellationToken) {
        let Some(mut heard) = self.listen().await else {
            return;
        };
        let mut link = self.bus.link();
        let mut up_since = Instant::now();
        let mut next = Instant::now();
        let (mut state, mut settled_at) = (State::Settling, None);
        loop {
            tokio::select! {
                () = stop.cancelled() => break,
                () = self.condition.changed.notified() => next = Instant::now(),
                changed = link.changed() => {
                    if changed.is_err() {
                        break;
                    }
                    if link.borrow_and_update().is_up {
                        // Nobody could be heard while it was down: silence counts from now.
                        up_since = Instant::now();
                        next = up_since;
                    }
                }
                message = heard.recv() => {
                    let Some(message) = message else { break };
                    if self.hear(&message.payload, &roster) {
                        let within = rand::rng().random_range(Duration::ZERO..WELCOME_WITHIN);
                        next = next.min(Instant::now() + within);
                    }
                }
                // Not before we hear what an announcement brings us.
                () = tokio::time::sleep_until(next), if link.borrow().is_up => {
                    self.announce(state).await;
                    if state == State::Settling {
                        let settled = *settled_at.get_or_insert_with(|| Instant::now() + SETTLE);
                        if Instant::now() < settled {
                            next = settled;
                            continue;
                        }
                        state = State::There;
                        self.announce(state).await;
                    }
                    let jitter = rand::rng().random_range(0.9..1.1);
                    next = Instant::now() + ANNOUNCE_EVERY.mul_f64(jitter);
                    if let Some(silent_since) = Instant::now().checked_sub(SILENT_AFTER)
                        && link.borrow().is_up
                        && up_since < silent_since
                    {
                        roster.silence(silent_since);
                    }
                }
            }
        }
        self.announce(State::Gone).await;
    }
}
