//! A backend between events services that the test plays itself, on the bus in memory and in
//! simulated time.

#![expect(clippy::unwrap_used, reason = "where a test cannot go on, it fails")]

use std::{sync::Arc, time::Duration};

use async_trait::async_trait;
use backend::{RunError, Worker, settings::WorkerSettings};
use shared::{
    bus::{Bus, BusCounters, BusError, Link, Message, Publication, memory::MemoryBus},
    contract::{Address, Addressee, Dispatch, Ended, EventMessage, RecordId},
    identity::Identity,
    node::{Hears, Node},
    settings::Channels,
};
use tokio::{
    sync::{mpsc, watch},
    task::JoinHandle,
};
use tokio_util::sync::CancellationToken;

/// Longer than anything takes, in simulated time.
const LIMIT: Duration = Duration::from_secs(60);

/// An events service.
struct EventsService {
    bus: Arc<MemoryBus>,
    me: Addressee,
    heard: mpsc::Receiver<Message>,
}

impl EventsService {
    async fn new(bus: &Arc<MemoryBus>, id: &str) -> Self {
        let channels = vec![format!("Event_Service:{id}")];
        Self {
            bus: bus.clone(),
            me: Addressee::new(Address::new(id, "events-service").unwrap()),
            heard: bus.subscribe(channels).await.unwrap(),
        }
    }

    async fn dispatch(&self, attempt: u32) {
        let dispatch = Dispatch {
            record_id: RecordId([1; 12]),
            to: Address::new("b1", "backend").unwrap(),
            from: self.me.address().clone(),
            task: "WAIT".into(),
            subtask: "LONG".into(),
            body: "{}".into(),
            // Cut to the longest that is believed.
            deadline_unix_ms: Some(u64::MAX),
            attempt: Some(attempt),
            traceparent: None,
        };
        let publication = Publication::new("Consuming_Service:b1", dispatch.encode());
        let answers = self.bus.publish(vec![publication]).await;
        assert!(matches!(answers[..], [Ok(1)]));
    }

    async fn result(&mut self) -> Ended {
        let heard = tokio::time::timeout(LIMIT, self.heard.recv());
        let message = heard.await.expect("a result in time").unwrap();
        match self.me.event(&message.payload) {
            Ok(EventMessage::Result(result)) => result.ended,
            other => panic!("{other:?}"),
        }
    }
}

/// A bus on which the backend hears, and which takes nothing from it.
struct OneWay(Arc<MemoryBus>);

#[async_trait]
impl Bus for OneWay {
    async fn publish(&self, batch: Vec<Publication>) -> Vec<Result<u64, BusError>> {
        vec![Err(BusError::Unavailable("one way".into())); batch.len()]
    }

    async fn subscribe(&self, channels: Vec<String>) -> Result<mpsc::Receiver<Message>, BusError> {
        self.0.subscribe(channels).await
    }

    fn link(&self) -> watch::Receiver<Link> {
        self.0.link()
    }

    fn counters(&self) -> &BusCounters {
        self.0.counters()
    }

    async fn close(&self) {
        self.0.close().await;
    }
}

/// Starts a backend whose task takes a second. It stops after the token.
async fn start(bus: Arc<dyn Bus>) -> (CancellationToken, JoinHandle<Result<(), RunError>>) {
    let identity = Identity {
        address: Address::new("b1", "backend").unwrap(),
        stack: None,
        image: None,
    };
    let node = Node::new(bus, identity, Channels::default(), Hears::Consuming);
    let worker = Worker::new().on_async("WAIT", "LONG", async |_| {
        tokio::time::sleep(Duration::from_secs(1)).await;
        Ok("done".into())
    });
    let (settings, stop) = (WorkerSettings::default(), CancellationToken::new());
    let running = backend::run(node, worker, settings, None, stop.clone());
    let running = tokio::spawn(running);
    tokio::time::sleep(Duration::from_millis(100)).await;
    (stop, running)
}

#[tokio::test(start_paused = true)]
async fn a_result_goes_to_whoever_asked_last() {
    let bus = Arc::new(MemoryBus::default());
    let mut first = EventsService::new(&bus, "e1").await;
    let mut other = EventsService::new(&bus, "e2").await;
    start(bus.clone()).await;
    first.dispatch(1).await;
    tokio::time::sleep(Duration::from_millis(500)).await;
    // The first has died, and the other has taken its record over.
    other.dispatch(2).await;
    assert_eq!(other.result().await, Ended::Final("done".into()));
    let nothing = tokio::time::timeout(LIMIT, first.heard.recv()).await;
    assert!(nothing.is_err(), "{nothing:?}");
}

#[tokio::test(start_paused = true)]
async fn what_was_done_is_answered_from_memory() {
    let bus = Arc::new(MemoryBus::default());
    let mut first = EventsService::new(&bus, "e1").await;
    let mut other = EventsService::new(&bus, "e2").await;
    start(bus.clone()).await;
    first.dispatch(1).await;
    assert_eq!(first.result().await, Ended::Final("done".into()));
    let begun = tokio::time::Instant::now();
    other.dispatch(2).await;
    assert_eq!(other.result().await, Ended::Final("done".into()));
    assert!(begun.elapsed() < Duration::from_millis(100));
}

#[tokio::test(start_paused = true)]
async fn what_cannot_be_sent_holds_up_a_stop_for_less_than_the_grace() {
    let bus = Arc::new(MemoryBus::default());
    let first = EventsService::new(&bus, "e1").await;
    let (stop, running) = start(Arc::new(OneWay(bus.clone()))).await;
    first.dispatch(1).await;
    tokio::time::sleep(Duration::from_secs(2)).await;
    let begun = tokio::time::Instant::now();
    stop.cancel();
    running.await.unwrap().unwrap();
    // The drain has nothing to wait for, and takes half a second.
    assert!(begun.elapsed() < Duration::from_secs(4));
}
