use shared::{
    node::{Hears, Node},
    ops::Readiness,
    settings::{BusSettings, DiscoveryMode, DiscoverySettings},
};
use tokio_util::sync::CancellationToken;

use crate::suite::free_port;

#[tokio::test]
async fn a_service_has_not_been_ready_before_it_reached_the_bus() {
    let bus = BusSettings {
        redis_host: "127.0.0.1".into(),
        redis_port: free_port(),
        redis_password: None,
        event_service_event: "e".into(),
        consuming_service_event: "c".into(),
    };
    let discovery = DiscoverySettings {
        discovery: DiscoveryMode::Presence,
        docker_host: "unix:///nowhere".into(),
        service_name: None,
        stack_name: None,
        service_image: None,
    };
    let (readiness, stop) = (Readiness::default(), CancellationToken::new());
    let joined = Node::join(
        &bus,
        &discovery,
        "backend",
        Hears::Consuming,
        readiness.clone(),
        &stop,
    );
    let mut node = joined.await.unwrap().unwrap();
    // What a service needs beside the bus is there before it starts the node.
    readiness.check("serving").pass();
    let running = node.start();
    assert!(!readiness.is_healthy());
    running.leave().await.close().await;
}
