use std::{sync::Arc, time::Duration};

use shared::bus::{
    Bus, Publication,
    redis::{RedisAddress, RedisBus},
};

use crate::suite::{LIMIT, eventually};

/// The server that `cargo xtask test` has started.
fn server() -> RedisAddress {
    let at = std::env::var("ROUNDTRIP_TEST_REDIS").expect(
        "ROUNDTRIP_TEST_REDIS (host:port of a Redis server) is not set; run `cargo xtask test`",
    );
    let (host, port) = at.rsplit_once(':').expect("host:port");
    RedisAddress {
        host: host.into(),
        port: port.parse().expect("a port"),
        password: None,
    }
}

fn prefix() -> String {
    format!("test:{:016x}", rand::random::<u64>())
}

#[tokio::test]
async fn redis_is_a_bus() {
    let bus = Arc::new(RedisBus::start(&server()).unwrap());
    crate::suite::bus::holds(bus.clone(), &prefix()).await;
    bus.close().await;
}

#[tokio::test]
async fn without_a_server_publishing_fails_at_once_and_nothing_hangs() {
    let nobody = tokio::net::TcpListener::bind("127.0.0.1:0")
        .await
        .unwrap()
        .local_addr()
        .unwrap();
    let at = RedisAddress {
        host: "127.0.0.1".into(),
        port: nobody.port(),
        password: None,
    };
    let bus = RedisBus::start(&at).unwrap();
    let _heard = bus.subscribe(vec!["c".into()]).await.unwrap();
    let message = Publication {
        channel: "c".into(),
        payload: "x".into(),
    };
    let begun = std::time::Instant::now();
    let answers = bus.publish(vec![message; 3]).await;
    assert!(answers.len() == 3 && answers.iter().all(Result::is_err));
    assert!(begun.elapsed() < Duration::from_secs(1));
    assert!(!bus.link().borrow().is_up);
    tokio::time::timeout(LIMIT, bus.close())
        .await
        .expect("closes");
}

#[tokio::test]
async fn a_cut_connection_is_subscribed_again() {
    use fred::{interfaces::ClientLike, types::ClusterHash};
    let (bus, channel) = (RedisBus::start(&server()).unwrap(), prefix());
    let mut heard = bus.subscribe(vec![channel.clone()]).await.unwrap();
    let mut link = bus.link();
    link.wait_for(|link| link.is_up).await.unwrap();
    // The start is no reconnect: whoever takes it for one sends again what nobody has lost.
    tokio::time::sleep(Duration::from_millis(300)).await;
    let generation = link.borrow().generation;
    assert_eq!(generation, 1);

    let at = server();
    let config = fred::types::config::Config {
        server: fred::types::config::ServerConfig::new_centralized(at.host, at.port),
        ..Default::default()
    };
    let operator = fred::types::Builder::from_config(config).build().unwrap();
    operator.init().await.unwrap();
    let kill = fred::types::CustomCommand::new_static("CLIENT", ClusterHash::FirstKey, false);
    let _: u64 = operator
        .custom(kill, vec!["KILL", "TYPE", "pubsub"])
        .await
        .unwrap();

    let again = link.wait_for(|link| link.is_up && link.generation > generation);
    tokio::time::timeout(LIMIT, again)
        .await
        .expect("comes back")
        .unwrap();
    let message = Publication {
        channel: channel.into(),
        payload: "x".into(),
    };
    eventually("heard again", async || {
        matches!(bus.publish(vec![message.clone()]).await[..], [Ok(1)])
    })
    .await;
    assert_eq!(heard.recv().await.unwrap().payload, "x");
    bus.close().await;
}
