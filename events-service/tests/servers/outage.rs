//! A server that goes away and comes back.

use std::time::{Duration, Instant};

use events_service::{
    audit::{AuditError, AuditLog, Written, mongo::MongoAuditLog},
    settings::Durability,
};
use tokio::{
    net::{TcpListener, TcpStream},
    task::JoinHandle,
};

use crate::{
    mongo::{address, place},
    suite::{
        audit::check,
        records::{answered, inserts, open, question, stored},
    },
};

/// Longer than a write may take to give up: no request may wait longer than its deadline for it.
const GIVEN_UP: Duration = Duration::from_secs(4);
const LIMIT: Duration = Duration::from_secs(30);

/// The way to the server, which can be cut.
struct Way {
    port: u16,
    server: String,
    open: Option<JoinHandle<()>>,
}

impl Way {
    /// A way that is cut.
    async fn to(server: &str) -> Self {
        let free = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = free.local_addr().unwrap().port();
        Self {
            port,
            server: server.to_owned(),
            open: None,
        }
    }

    async fn open(&mut self) {
        let listener = TcpListener::bind(("127.0.0.1", self.port)).await.unwrap();
        let server = self.server.clone();
        self.open = Some(tokio::spawn(async move {
            let mut connections = tokio::task::JoinSet::new();
            while let Ok((mut client, _)) = listener.accept().await {
                let mut server = TcpStream::connect(&server).await.unwrap();
                connections.spawn(async move {
                    // Ends when one of them hangs up.
                    drop(tokio::io::copy_bidirectional(&mut client, &mut server).await);
                });
            }
        }));
    }

    /// Ends all connections, too.
    async fn cut(&mut self) {
        if let Some(open) = self.open.take() {
            open.abort();
            assert!(open.await.is_err());
        }
    }
}

/// Host and port of the server that the tests share.
fn server() -> String {
    let address = address();
    let hosts = address
        .strip_prefix("mongodb://")
        .expect("mongodb:// address");
    let hosts = hosts
        .rsplit('@')
        .next()
        .unwrap()
        .split(['/', '?', ','])
        .next()
        .unwrap();
    if hosts.contains(':') {
        hosts.to_owned()
    } else {
        format!("{hosts}:27017")
    }
}

async fn is_given_up(log: &MongoAuditLog) {
    let begun = Instant::now();
    let refused = log.write(&inserts(&[open()])).await;
    assert!(
        matches!(refused, Err(AuditError::Unavailable { .. })),
        "{refused:?}"
    );
    assert!(begun.elapsed() < GIVEN_UP, "{:?}", begun.elapsed());
}

/// Tries again until it works, as the events service does.
async fn again<T>(mut work: impl AsyncFnMut() -> Result<T, AuditError>) -> T {
    let trying = async {
        loop {
            match work().await {
                Ok(value) => return value,
                Err(AuditError::Unavailable { .. }) => {
                    tokio::time::sleep(Duration::from_millis(20)).await;
                }
                Err(error) => panic!("{error}"),
            }
        }
    };
    tokio::time::timeout(LIMIT, trying)
        .await
        .expect("works again")
}

#[tokio::test]
async fn a_log_works_again_when_its_server_comes_back() {
    check(place().await, async |place| {
        let mut way = Way::to(&server()).await;
        // The driver would go to the server by itself if it were told of it.
        let address = address().replace(&server(), &format!("127.0.0.1:{}", way.port));
        let address = match address.split_once('?') {
            Some((hosts, options)) => format!("{hosts}?{options}&directConnection=true"),
            None => format!("{}/?directConnection=true", address.trim_end_matches('/')),
        };
        let log = MongoAuditLog::new(&address, &place.name, Durability::Majority).unwrap();

        let begun = Instant::now();
        let refused = log.prepare().await;
        assert!(
            matches!(refused, Err(AuditError::Unavailable { .. })),
            "{refused:?}"
        );
        assert!(begun.elapsed() < GIVEN_UP, "{:?}", begun.elapsed());
        way.open().await;
        again(async || log.prepare().await).await;

        let record = answered("15");
        log.write(&inserts(std::slice::from_ref(&record)))
            .await
            .unwrap();
        for _ in 0..2 {
            way.cut().await;
            is_given_up(&log).await;
            is_given_up(&log).await;
            assert!(log.ping().await.is_err());
            assert!(log.find_answers(&[question(&record)]).await.is_err());
            way.open().await;
            // What is repeated after an outage is written once.
            let batch = inserts(&[record.clone(), answered("16")]);
            let written = again(async || log.write(&batch).await).await;
            assert_eq!(written, [Written::Done; 2]);
            assert_eq!(log.show(record.id).await.unwrap(), Some(stored(&record)));
        }
        log.close().await;
    })
    .await;
}
