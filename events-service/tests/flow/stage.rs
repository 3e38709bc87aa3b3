//! The others: a frontend and backends that say what the test wants.

use std::{collections::HashMap, sync::Arc, time::Duration};

use events_service::{run, settings::FlowSettings, task_maps::TaskMapsFile};
use shared::{
    bus::{Bus, Message, Publication, memory::MemoryBus},
    clock::Clock,
    contract::{
        Address, Addressee, ConsumingMessage, Dispatch, Ended, FailureCode, Task, TaskResult,
    },
    discovery::{
        Discovery,
        presence::{Announcer, Condition, PresenceDiscovery},
    },
    identity::Identity,
    node::{Hears, Node},
    settings::Channels,
};
use tokio::{sync::mpsc, task::JoinHandle};
use tokio_util::sync::CancellationToken;

use crate::memory_log::MemoryLog;

/// Longer than anything takes, in simulated time.
const LIMIT: Duration = Duration::from_secs(60);
const MAPS: &str = r#"{
    "NUMBER": {"service": "backend", "pure": true},
    "PAYMENT": "backend"
}"#;

/// An events service and those around it.
pub(crate) struct Stage {
    bus: Arc<MemoryBus>,
    pub(crate) log: MemoryLog,
    me: Addressee,
    events: Address,
    heard: mpsc::Receiver<Message>,
    replies: HashMap<String, Ended>,
    stop: CancellationToken,
    running: JoinHandle<()>,
}

impl Stage {
    pub(crate) async fn new() -> Self {
        Self::with(|_| {}).await
    }

    /// With a log that was prepared before the service started.
    pub(crate) async fn with(prepare: impl FnOnce(&MemoryLog)) -> Self {
        let (bus, log) = (Arc::new(MemoryBus::default()), MemoryLog::default());
        prepare(&log);
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("task-maps.json");
        std::fs::write(&path, MAPS).unwrap();
        let maps = TaskMapsFile::open(Some(path)).unwrap();
        let events = Address::new("events1", "events-service").unwrap();
        let identity = Identity {
            address: events.clone(),
            stack: None,
            image: None,
        };
        let node = Node::new(bus.clone(), identity, Channels::default(), Hears::Event);
        let stop = CancellationToken::new();
        let service = run(
            node,
            Arc::new(log.clone()),
            maps,
            FlowSettings::default(),
            None,
            stop.clone(),
        );
        let running = tokio::spawn(async move {
            service.await.unwrap();
            drop(directory);
        });
        let me = Address::new("frontend1", "frontend").unwrap();
        let channels = ["Consuming_Service", "Consuming_Service:frontend1"];
        let heard = bus
            .subscribe(channels.map(str::to_owned).to_vec())
            .await
            .unwrap();
        // By then it has read its log and announced itself.
        tokio::time::sleep(Duration::from_millis(500)).await;
        Self {
            bus,
            log,
            me: Addressee::new(me),
            events,
            heard,
            replies: HashMap::new(),
            stop,
            running,
        }
    }

    pub(crate) fn stop(&self) {
        self.stop.cancel();
    }

    pub(crate) async fn ended(&mut self) {
        tokio::time::timeout(LIMIT, &mut self.running)
            .await
            .expect("it ends")
            .unwrap();
    }

    pub(crate) async fn publish_raw(&self, payload: &[u8]) {
        self.publish_on("Event_Service", payload).await;
    }

    async fn publish_on(&self, channel: &str, payload: &[u8]) {
        self.bus
            .publish(vec![Publication::new(channel, payload.to_vec())])
            .await;
    }

    /// The frontend says what time it is.
    pub(crate) async fn announce_time(&self, unix_ms: u64) {
        let announcement = format!(
            r#"{{"presence":1,"containerId":"frontend1","service":"frontend","now":{unix_ms}}}"#
        );
        self.publish_on("Consuming_Service:presence", announcement.as_bytes())
            .await;
    }

    pub(crate) async fn ask(&self, request: &str, task: &str, body: &str) {
        self.ask_until(None, request, task, body).await;
    }

    /// With a deadline, in ms since 1970 by the frontend's clock.
    pub(crate) async fn ask_until(
        &self,
        deadline_unix_ms: Option<u64>,
        request: &str,
        task: &str,
        body: &str,
    ) {
        let task = Task {
            request_id: request.parse().unwrap(),
            from: self.me.address().clone(),
            to: self.events.clone(),
            task: task.into(),
            subtask: "ADD".into(),
            body: body.into(),
            deadline_unix_ms,
            caller_request_id: None,
            traceparent: None,
        };
        self.publish_raw(&task.encode()).await;
    }

    /// The reply to a request, in whatever order they come.
    pub(crate) async fn reply(&mut self, request: &str) -> Ended {
        loop {
            if let Some(ended) = self.replies.remove(request) {
                return ended;
            }
            let heard = tokio::time::timeout(LIMIT, self.heard.recv());
            let message = heard.await.expect("a reply in time").unwrap();
            if let Ok(ConsumingMessage::Reply(reply)) = self.me.consuming(&message.payload) {
                let before = self
                    .replies
                    .insert(reply.request_id.to_string(), reply.ended);
                assert_eq!(before, None, "a request was answered twice");
            }
        }
    }

    pub(crate) async fn failure(&mut self, request: &str) -> FailureCode {
        match self.reply(request).await {
            Ended::Failed(failure) => failure.code,
            other => panic!("answered {other:?}"),
        }
    }

    pub(crate) async fn no_reply_for(&mut self, time: Duration) -> bool {
        tokio::time::timeout(time, self.heard.recv()).await.is_err()
    }

    /// A backend that is announced and listens.
    pub(crate) async fn backend(&self, id: &str) -> Backend {
        let backend = self.unheard_of_backend(id).await;
        self.ghost(id).await;
        backend
    }

    /// A backend that listens and of which nothing has been heard yet.
    pub(crate) async fn unheard_of_backend(&self, id: &str) -> Backend {
        let channels = vec![
            "Consuming_Service".to_owned(),
            format!("Consuming_Service:{id}"),
        ];
        let heard = self.bus.subscribe(channels).await.unwrap();
        Backend {
            bus: self.bus.clone(),
            me: Addressee::new(Address::new(id, "backend").unwrap()),
            heard,
        }
    }

    /// Hears a channel and does nothing else.
    pub(crate) async fn listen(&self, channel: &str) -> mpsc::Receiver<Message> {
        self.bus.subscribe(vec![channel.to_owned()]).await.unwrap()
    }

    /// A backend that is announced and does not listen.
    pub(crate) async fn ghost(&self, id: &str) -> Address {
        let address = Address::new(id, "backend").unwrap();
        let announcer = Announcer {
            address: address.clone(),
            image: Some("image".into()),
            stack: None,
            clock: Clock::start(),
            announce_beside: "Consuming_Service".into(),
            listen_beside: vec!["Event_Service".into()],
        };
        let condition = Arc::new(Condition::default());
        let discovery = PresenceDiscovery::new(self.bus.clone(), announcer, condition);
        tokio::spawn(Box::new(discovery).run(Arc::default(), CancellationToken::new()));
        tokio::time::sleep(Duration::from_millis(500)).await;
        address
    }
}

/// A backend.
pub(crate) struct Backend {
    bus: Arc<MemoryBus>,
    me: Addressee,
    heard: mpsc::Receiver<Message>,
}

impl Backend {
    pub(crate) async fn dispatch(&mut self) -> Dispatch {
        loop {
            let heard = tokio::time::timeout(LIMIT, self.heard.recv());
            let message = heard.await.expect("a dispatch in time").unwrap();
            if let Ok(ConsumingMessage::Dispatch(dispatch)) = self.me.consuming(&message.payload) {
                return dispatch;
            }
        }
    }

    /// How many dispatches are there.
    pub(crate) fn count(&mut self) -> usize {
        let mut count = 0;
        while let Ok(message) = self.heard.try_recv() {
            count += usize::from(self.me.consuming(&message.payload).is_ok());
        }
        count
    }

    pub(crate) async fn nothing_for(&mut self, time: Duration) -> bool {
        tokio::time::timeout(time, self.dispatch()).await.is_err()
    }

    pub(crate) async fn answer(&self, dispatch: &Dispatch, ended: Ended) {
        let result = TaskResult {
            record_id: dispatch.record_id,
            from: dispatch.to.clone(),
            to: dispatch.from.clone(),
            ended,
            timing: None,
        };
        let publication = Publication::new("Event_Service", result.encode());
        self.bus.publish(vec![publication]).await;
    }
}

/// The text of a result.
pub(crate) fn ended_text(ended: &Ended) -> &str {
    match ended {
        Ended::Final(text) | Ended::Raw(text) => text,
        Ended::Failed(failure) => &failure.detail,
    }
}
