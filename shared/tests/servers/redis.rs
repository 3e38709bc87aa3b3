use std::{process, sync::Arc, time::Duration};

use shared::{
    bus::{
        Bus, Publication,
        redis::{RedisAddress, RedisBus},
    },
    identity,
    node::{Hears, Node},
    ops::{self, Ops},
    settings::Channels,
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
};
use tokio_util::sync::CancellationToken;

use crate::suite::{LIMIT, eventually, free_port};

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

/// Clients that are none of the bus.
fn without_the_bus() -> fred::types::Builder {
    let at = server();
    fred::types::Builder::from_config(fred::types::config::Config {
        server: fred::types::config::ServerConfig::new_centralized(at.host, at.port),
        ..Default::default()
    })
}

/// A server of one's own that asks for a password. It ends with the test.
struct Guarded(process::Child);

impl Guarded {
    fn start(port: u16) -> Self {
        let program = std::env::var_os("ROUNDTRIP_TEST_REDIS_PROGRAM").expect(
            "ROUNDTRIP_TEST_REDIS_PROGRAM (path of redis-server) is not set; run `cargo xtask test`",
        );
        let mut command = process::Command::new(program);
        command
            .args(["--bind", "127.0.0.1", "--port", &port.to_string()])
            .args(["--save", "", "--requirepass", "right"])
            .stdout(process::Stdio::null());
        Self(command.spawn().unwrap())
    }
}

impl Drop for Guarded {
    fn drop(&mut self) {
        self.0.kill().unwrap();
        self.0.wait().unwrap();
    }
}

/// One of the tests cuts everybody's connections: those that are connected take turns.
static TURN: tokio::sync::Mutex<()> = tokio::sync::Mutex::const_new(());

fn prefix() -> String {
    format!("test:{:016x}", rand::random::<u64>())
}

#[tokio::test]
async fn redis_is_a_bus() {
    let _turn = TURN.lock().await;
    let bus = Arc::new(RedisBus::start(&server()).unwrap());
    crate::suite::bus::holds(bus.clone(), &prefix()).await;
    bus.close().await;
}

#[tokio::test]
async fn without_a_server_publishing_fails_at_once_and_nothing_hangs() {
    let at = RedisAddress {
        host: "127.0.0.1".into(),
        port: free_port(),
        password: None,
    };
    let bus = RedisBus::start(&at).unwrap();
    let _heard = bus.subscribe(vec!["c".into()]).await.unwrap();
    let message = Publication::new("c", "x");
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
async fn readyz_says_that_the_password_is_wrong() {
    let port = free_port();
    let _server = Guarded::start(port);
    let bus = RedisBus::start(&RedisAddress {
        host: "127.0.0.1".into(),
        port,
        password: Some("wrong".into()),
    });
    let identity = identity::of_process("backend".parse().unwrap(), None, None);
    let channels = Channels::default();
    let mut node = Node::new(Arc::new(bus.unwrap()), identity, channels, Hears::Consuming);
    let running = node.start();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let at = listener.local_addr().unwrap();
    let ops = Ops {
        readiness: node.readiness,
        metrics: Arc::default(),
    };
    tokio::spawn(ops::serve(listener, ops, CancellationToken::new()));
    eventually("the reason is told", async || {
        let mut connection = TcpStream::connect(at).await.unwrap();
        let request = b"GET /readyz HTTP/1.1\r\nhost: x\r\n\r\n";
        connection.write_all(request).await.unwrap();
        let mut answer = String::new();
        connection.read_to_string(&mut answer).await.unwrap();
        answer.contains("WRONGPASS")
    })
    .await;
    running.leave().await.close().await;
}

#[tokio::test]
async fn what_goes_to_one_container_at_once_shares_a_message() {
    use fred::interfaces::{ClientLike, EventInterface, PubsubInterface};
    let _turn = TURN.lock().await;
    let (bus, channel) = (RedisBus::start(&server()).unwrap(), prefix());
    let listener = without_the_bus().build_subscriber_client().unwrap();
    listener.init().await.unwrap();
    let mut raw = listener.message_rx();
    listener.subscribe(channel.as_str()).await.unwrap();
    let mut link = bus.link();
    link.wait_for(|link| link.is_up).await.unwrap();
    for takes_lines in [true, false] {
        let event = |n| Publication {
            takes_lines,
            ..Publication::new(channel.as_str(), format!("{{{n}}}"))
        };
        let answers = bus.publish((0..3).map(event).collect()).await;
        assert!(matches!(answers[..], [Ok(1), Ok(1), Ok(1)]), "{answers:?}");
    }
    for expected in ["{0}\n{1}\n{2}", "{0}", "{1}", "{2}"] {
        let message = tokio::time::timeout(LIMIT, raw.recv()).await.unwrap();
        let text: String = message.unwrap().value.convert().unwrap();
        assert_eq!(text, expected);
    }
    listener.quit().await.unwrap();
    bus.close().await;
}

#[tokio::test]
async fn a_cut_connection_is_subscribed_again() {
    use fred::{interfaces::ClientLike, types::ClusterHash};
    let _turn = TURN.lock().await;
    let (bus, channel) = (RedisBus::start(&server()).unwrap(), prefix());
    let mut heard = bus.subscribe(vec![channel.clone()]).await.unwrap();
    let mut link = bus.link();
    link.wait_for(|link| link.is_up).await.unwrap();
    // The start is no reconnect: whoever takes it for one sends again what nobody has lost.
    tokio::time::sleep(Duration::from_millis(300)).await;
    let generation = link.borrow().generation;
    assert_eq!(generation, 1);

    let operator = without_the_bus().build().unwrap();
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
    let message = Publication::new(channel, "x");
    eventually("heard again", async || {
        matches!(bus.publish(vec![message.clone()]).await[..], [Ok(1)])
    })
    .await;
    assert_eq!(heard.recv().await.unwrap().payload, "x");
    bus.close().await;
}
