use std::{net::SocketAddr, sync::Arc, time::Duration};

use shared::ops::{self, Ops, Readiness};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
};
use tokio_util::sync::CancellationToken;

use crate::suite::LIMIT;

async fn serve() -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let at = listener.local_addr().unwrap();
    let ops = Ops {
        readiness: Readiness::default(),
        metrics: Arc::default(),
    };
    tokio::spawn(ops::serve(listener, ops, CancellationToken::new()));
    at
}

async fn read_to_end(connection: &mut TcpStream) -> String {
    let mut text = String::new();
    let reading = tokio::time::timeout(LIMIT, connection.read_to_string(&mut text));
    reading.await.expect("closed in time").unwrap();
    text
}

#[tokio::test(start_paused = true)]
async fn a_connection_that_asks_for_nothing_is_closed() {
    let mut silent = TcpStream::connect(serve().await).await.unwrap();
    assert_eq!(read_to_end(&mut silent).await, "");
}

#[tokio::test]
async fn whoever_is_one_too_many_waits_until_another_has_gone() {
    let at = serve().await;
    let mut silent = Vec::new();
    for _ in 0..ops::CONNECTIONS_MAX {
        silent.push(TcpStream::connect(at).await.unwrap());
    }
    let mut asks = TcpStream::connect(at).await.unwrap();
    asks.write_all(b"GET /livez HTTP/1.1\r\nhost: x\r\n\r\n")
        .await
        .unwrap();
    let early = tokio::time::timeout(Duration::from_millis(100), asks.readable());
    assert!(early.await.is_err(), "answered before its turn");
    silent.pop();
    let answer = read_to_end(&mut asks).await;
    assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
}
