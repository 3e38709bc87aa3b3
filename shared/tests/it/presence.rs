use std::{collections::HashMap, sync::Arc, time::Duration};

use shared::{
    bus::{Bus, Publication, memory::MemoryBus},
    clock::Clock,
    contract::Address,
    discovery::{
        Discovery, Roster,
        presence::{Announcer, Condition, PresenceDiscovery},
    },
};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use crate::suite::{discovery::World, eventually};

fn announcer(id: &str, service: &str) -> Announcer {
    Announcer {
        address: Address::new(id, service).unwrap(),
        image: Some("image".into()),
        stack: None,
        clock: Clock::start(),
        announce_beside: "e".into(),
        listen_beside: vec!["e".into()],
    }
}

fn presence(bus: &Arc<dyn Bus>, id: &str, service: &str) -> (PresenceDiscovery, Arc<Condition>) {
    let condition = Arc::new(Condition::default());
    let discovery = PresenceDiscovery::new(bus.clone(), announcer(id, service), condition.clone());
    (discovery, condition)
}

struct Processes {
    bus: Arc<dyn Bus>,
    running: HashMap<Address, (CancellationToken, JoinHandle<()>)>,
}

impl World for Processes {
    async fn start(&mut self, service: &str) -> Address {
        let id = format!("process{}", self.running.len());
        let (discovery, _) = presence(&self.bus, &id, service);
        let stop = CancellationToken::new();
        let running = tokio::spawn(Box::new(discovery).run(Arc::default(), stop.clone()));
        let address = Address::new(&id, service).unwrap();
        self.running.insert(address.clone(), (stop, running));
        address
    }

    async fn end(&mut self, address: &Address) {
        let (stop, _) = &self.running[address];
        stop.cancel();
    }
}

#[tokio::test]
async fn presence_is_a_discovery() {
    let bus: Arc<dyn Bus> = Arc::new(MemoryBus::default());
    let (discovery, _) = presence(&bus, "me", "frontend");
    let world = Processes {
        bus,
        running: HashMap::new(),
    };
    crate::suite::discovery::holds(Box::new(discovery), world).await;
}

#[tokio::test(start_paused = true)]
async fn who_is_silent_is_passed_over_until_heard_again() {
    let bus: Arc<dyn Bus> = Arc::new(MemoryBus::default());
    let (roster, stop) = (Arc::new(Roster::default()), CancellationToken::new());
    let (me, _) = presence(&bus, "me", "frontend");
    let me = tokio::spawn(Box::new(me).run(roster.clone(), stop.clone()));
    let (other, _) = presence(&bus, "other", "backend");
    let other = tokio::spawn(Box::new(other).run(Arc::default(), CancellationToken::new()));
    eventually("heard", async || roster.members().borrow().len() == 1).await;

    // Killed: no goodbye.
    other.abort();
    tokio::time::sleep(Duration::from_secs(5)).await;
    assert_eq!(
        roster.members().borrow().len(),
        1,
        "two announcements may be lost"
    );
    tokio::time::sleep(Duration::from_secs(6)).await;
    assert_eq!(roster.members().borrow().len(), 0);

    let (other, _) = presence(&bus, "other", "backend");
    tokio::spawn(Box::new(other).run(Arc::default(), CancellationToken::new()));
    eventually("heard again", async || roster.members().borrow().len() == 1).await;
    stop.cancel();
    me.await.unwrap();
}

#[tokio::test]
async fn who_drains_gets_nothing_new_but_is_alive() {
    let bus: Arc<dyn Bus> = Arc::new(MemoryBus::default());
    let (roster, stop) = (Arc::new(Roster::default()), CancellationToken::new());
    let (me, _) = presence(&bus, "me", "frontend");
    tokio::spawn(Box::new(me).run(roster.clone(), stop.clone()));
    let (other, condition) = presence(&bus, "other", "backend");
    tokio::spawn(Box::new(other).run(Arc::default(), stop.clone()));
    eventually("heard", async || roster.members().borrow().len() == 1).await;
    condition.drain();
    eventually("passed over", async || roster.members().borrow().is_empty()).await;
    assert!(roster.is_alive(&"other".parse().unwrap()));
    stop.cancel();
}

#[tokio::test]
async fn who_knows_lines_says_so() {
    let bus: Arc<dyn Bus> = Arc::new(MemoryBus::default());
    let (roster, stop) = (Arc::new(Roster::default()), CancellationToken::new());
    let (me, _) = presence(&bus, "me", "frontend");
    tokio::spawn(Box::new(me).run(roster.clone(), stop.clone()));
    let (other, _) = presence(&bus, "other", "backend");
    tokio::spawn(Box::new(other).run(Arc::default(), stop.clone()));
    // Of a version that knows nothing of them.
    let before = r#"{"presence":1,"containerId":"before","service":"backend"}"#;
    eventually("heard", async || {
        bus.publish(vec![Publication::new("e:presence", before)])
            .await;
        roster.members().borrow().len() == 2
    })
    .await;
    assert!(roster.takes_lines(&"other".parse().unwrap()));
    assert!(!roster.takes_lines(&"before".parse().unwrap()));
    stop.cancel();
}
