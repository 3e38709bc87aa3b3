use std::{
    collections::VecDeque,
    sync::{Mutex, PoisonError},
};

use async_trait::async_trait;
use tokio::task::JoinHandle;

use super::*;
use crate::{
    bus::{BusCounters, Message, memory::MemoryBus},
    discovery::{Listed, Present},
};

type Lost = Arc<Mutex<Vec<(u32, Undelivered)>>>;

struct Set {
    bus: Arc<dyn Bus>,
    roster: Arc<Roster>,
    outbox: Outbox<u32>,
    lost: Lost,
    running: JoinHandle<()>,
}

fn set() -> Set {
    set_on(Arc::new(MemoryBus::default()))
}

fn set_on(bus: Arc<dyn Bus>) -> Set {
    let (roster, lost) = (Arc::new(Roster::default()), Lost::default());
    let into = lost.clone();
    let (outbox, postman) = outbox(
        bus.clone(),
        roster.clone(),
        "all",
        &mut Registry::default(),
        move |tag, why| {
            into.lock().unwrap().push((tag, why));
        },
    );
    Set {
        bus,
        roster,
        outbox,
        lost,
        running: tokio::spawn(postman.run()),
    }
}

fn letter(to: &str, tag: u32) -> Letter<u32> {
    let to = Address::new(to, "backend").unwrap();
    let expires = Instant::now() + Duration::from_secs(1);
    Letter {
        to,
        payload: "x".into(),
        expires,
        has_alternatives: true,
        tag,
    }
}

fn listed(id: &str) -> Listed {
    Listed {
        address: Address::new(id, "backend").unwrap(),
        image: None,
        stack: None,
        is_starting: false,
    }
}

impl Set {
    fn send(&self, to: &str, tag: u32) {
        self.outbox.send(letter(to, tag)).unwrap();
    }

    fn list(&self, id: &str) {
        self.roster.list(vec![listed(id)]);
    }

    fn announce(&self, id: &str) {
        self.announce_as(id, true);
    }

    fn announce_as(&self, id: &str, takes_lines: bool) {
        let address = Address::new(id, "backend").unwrap();
        self.roster.present(Present {
            address,
            image: None,
            stack: None,
            is_draining: false,
            in_flight: 0,
            takes_lines,
            clock_ahead_ms: None,
        });
    }

    async fn hear(&self, channel: &str) -> mpsc::Receiver<Message> {
        self.bus.subscribe(vec![channel.into()]).await.unwrap()
    }

    /// Lets the postman finish; what was lost.
    async fn end(self) -> Vec<(u32, Undelivered)> {
        drop(self.outbox);
        self.running.await.unwrap();
        let lost = self.lost.lock().unwrap();
        lost.clone()
    }
}

#[tokio::test(start_paused = true)]
async fn a_direct_channel_is_preferred() {
    let set = set();
    let (mut direct, mut all) = (set.hear("all:one").await, set.hear("all").await);
    set.list("one");
    set.send("one", 1);
    assert!(direct.recv().await.is_some());
    assert_eq!(set.end().await, []);
    assert!(all.try_recv().is_err());
}

#[tokio::test(start_paused = true)]
async fn an_older_container_is_reached_by_broadcast_and_the_detour_is_paid_once() {
    let set = set();
    let mut all = set.hear("all").await;
    set.list("old");
    set.send("old", 1);
    assert!(all.recv().await.is_some());
    let mut direct = set.hear("all:old").await;
    set.send("old", 2);
    assert!(all.recv().await.is_some());
    assert_eq!(set.end().await, []);
    assert!(
        direct.try_recv().is_err(),
        "the direct channel was tried again"
    );
}

#[tokio::test(start_paused = true)]
async fn a_container_that_nobody_knows_is_not_there() {
    let set = set();
    let mut all = set.hear("all").await;
    set.send("gone", 1);
    assert_eq!(set.end().await, [(1, Undelivered::NobodyThere)]);
    assert!(
        all.try_recv().is_err(),
        "a message for nobody was broadcast"
    );
}

#[tokio::test(start_paused = true)]
async fn where_nobody_hears_the_broadcast_nobody_is_there_at_all() {
    let set = set();
    set.list("old");
    set.send("old", 1);
    set.send("old", 2);
    let lost = [1, 2].map(|tag| (tag, Undelivered::NobodyAtAll));
    assert_eq!(set.end().await, lost);
}

#[tokio::test(start_paused = true)]
async fn what_is_for_one_container_only_is_broadcast_to_it_even_if_nobody_knows_it() {
    let set = set();
    let mut all = set.hear("all").await;
    set.outbox
        .send(Letter {
            has_alternatives: false,
            ..letter("old", 1)
        })
        .unwrap();
    assert!(all.recv().await.is_some());
    assert_eq!(set.end().await, []);
}

#[tokio::test(start_paused = true)]
async fn a_container_of_ours_that_does_not_listen_is_gone_although_it_is_listed() {
    let set = set();
    let _all = set.hear("all").await;
    set.list("ours");
    set.announce("ours");
    set.send("ours", 1);
    let roster = set.roster.clone();
    assert_eq!(set.end().await, [(1, Undelivered::NobodyThere)]);
    assert!(roster.members().borrow().is_empty(), "it is still chosen");
}

#[tokio::test(start_paused = true)]
async fn what_has_expired_is_not_sent() {
    let set = set();
    let mut direct = set.hear("all:one").await;
    set.outbox
        .send(Letter {
            expires: Instant::now(),
            ..letter("one", 1)
        })
        .unwrap();
    assert_eq!(set.end().await, [(1, Undelivered::Expired)]);
    assert!(direct.try_recv().is_err());
}

/// A bus whose link is as it is set, and which answers a publication with the next of these numbers
/// of receivers; then with 1.
struct Scripted {
    link: watch::Sender<Link>,
    receivers: Mutex<VecDeque<u64>>,
    sent: Mutex<Vec<Publication>>,
    counters: BusCounters,
}

impl Scripted {
    fn new(link: Link, receivers: &[u64]) -> Arc<Self> {
        Arc::new(Self {
            link: watch::Sender::new(link),
            receivers: Mutex::new(receivers.iter().copied().collect()),
            sent: Mutex::default(),
            counters: BusCounters::default(),
        })
    }
}

#[async_trait]
impl Bus for Scripted {
    async fn publish(&self, batch: Vec<Publication>) -> Vec<Result<u64, BusError>> {
        self.sent.lock().unwrap().extend(batch.iter().cloned());
        let mut receivers = self
            .receivers
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        batch
            .iter()
            .map(|_| Ok(receivers.pop_front().unwrap_or(1)))
            .collect()
    }

    async fn subscribe(&self, _: Vec<String>) -> Result<mpsc::Receiver<Message>, BusError> {
        Err(BusError::Unavailable("it only publishes".into()))
    }

    fn link(&self) -> watch::Receiver<Link> {
        self.link.subscribe()
    }

    fn counters(&self) -> &BusCounters {
        &self.counters
    }

    async fn close(&self) {}
}

#[tokio::test(start_paused = true)]
async fn nobody_there_while_the_link_comes_back_is_tried_again() {
    for is_up in [false, true] {
        let before = Link {
            is_up: true,
            generation: 1,
        };
        let bus = Scripted::new(before, &[0, 0]);
        let set = set_on(bus.clone());
        set.announce("one");
        // Connected again, and known to hear again, or not yet.
        bus.link.send_replace(Link {
            is_up,
            generation: 1 + u64::from(is_up),
        });
        set.send("one", 1);
        let roster = set.roster.clone();
        assert_eq!(set.end().await, [], "link is up: {is_up}");
        assert_eq!(roster.members().borrow().len(), 1, "it is still chosen");
    }
}

#[tokio::test(start_paused = true)]
async fn an_older_container_also_has_time_to_subscribe_again() {
    let link = |generation| Link {
        is_up: true,
        generation,
    };
    let bus = Scripted::new(link(1), &[0, 0, 0]);
    let set = set_on(bus.clone());
    set.list("old");
    bus.link.send_replace(link(2));
    set.send("old", 1);
    assert_eq!(set.end().await, []);
    assert_eq!(bus.sent.lock().unwrap().len(), 4);
}

#[tokio::test(start_paused = true)]
async fn nobody_there_before_the_link_is_first_up_is_nobody() {
    let set = set_on(Scripted::new(Link::default(), &[0]));
    set.announce("one");
    set.send("one", 1);
    assert_eq!(set.end().await, [(1, Undelivered::NobodyThere)]);
}

#[tokio::test(start_paused = true)]
async fn only_who_knows_several_events_in_a_message_is_sent_them() {
    let link = Link {
        is_up: true,
        generation: 1,
    };
    // The older one has no direct channel.
    let bus = Scripted::new(link, &[1, 1, 0, 1]);
    let set = set_on(bus.clone());
    set.announce_as("knows", true);
    set.announce_as("does_not", false);
    set.send("knows", 1);
    set.send("does_not", 2);
    set.send("older", 3);
    set.roster
        .list(["knows", "does_not", "older"].map(listed).into());
    assert_eq!(set.end().await, []);
    let sent = bus.sent.lock().unwrap();
    let sent: Vec<_> = sent.iter().map(|p| (&*p.channel, p.takes_lines)).collect();
    let expected = [
        ("all:knows", true),
        ("all:does_not", false),
        ("all:older", false),
        ("all", false),
    ];
    assert_eq!(sent, expected);
}
