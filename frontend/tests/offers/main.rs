//! What the frontend does with a task that nobody takes, on the bus in memory and in simulated time.

use std::{sync::Arc, time::Duration};

use axum::{body::Body, http::Request};
use frontend::{Frontend, settings::RequestLimits};
use shared::{
    bus::memory::MemoryBus,
    contract::Address,
    discovery::Listed,
    identity::Identity,
    node::{Hears, Node},
    settings::Channels,
};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

#[tokio::test(start_paused = true)]
async fn older_events_services_that_do_not_listen_yet_are_told_at_once() {
    let identity = Identity {
        address: Address::new("frontend1", "frontend").unwrap(),
        stack: None,
        image: None,
    };
    let bus = Arc::new(MemoryBus::default());
    let node = Node::new(bus, identity, Channels::default(), Hears::Consuming);
    let listed = ["events1", "events2"].map(|id| Listed {
        address: Address::new(id, "events-service").unwrap(),
        image: None,
        stack: None,
        is_starting: false,
    });
    node.roster.list(listed.into());
    let frontend = Frontend::start(node, RequestLimits::default())
        .await
        .unwrap();
    let requests = frontend.requests();
    let stop = CancellationToken::new();
    let driving = tokio::spawn(frontend.drive(stop.clone().cancelled_owned(), stop.clone()));

    let body = Body::from(r#"{"a1": 5, "a2": 10}"#);
    let asked = Instant::now();
    let answer = requests
        .answer(Request::post("/task").body(body).unwrap())
        .await;
    assert_eq!(answer.status(), 503);
    assert!(asked.elapsed() < Duration::from_millis(100));
    let problem = axum::body::to_bytes(answer.into_body(), 65_536)
        .await
        .unwrap();
    let problem: serde_json::Value = serde_json::from_slice(&problem).unwrap();
    assert_eq!(problem["code"], "no_events_service");

    stop.cancel();
    driving.await.unwrap();
}
