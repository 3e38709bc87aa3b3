//! The log in MongoDB against servers that are not there, hang, are too old, or refuse.

use std::time::{Duration, Instant};

use events_service::{
    audit::{AuditError, AuditLog, mongo::MongoAuditLog},
    settings::Durability,
};
use mongodb::bson::{Document, doc};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
};

/// Longer than the log may take to give up.
const LIMIT: Duration = Duration::from_secs(5);

/// Operation codes of the protocol: the old question and its answer, and messages as they are now.
const OP_REPLY: i32 = 1;
const OP_QUERY: i32 = 2004;
const OP_MSG: i32 = 2013;

/// A server that answers commands as told; it hangs up where there is no answer.
async fn server(answer: fn(i32, &str) -> Option<Document>) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            tokio::spawn(serve(stream, answer));
        }
    });
    format!("127.0.0.1:{port}")
}

/// Serves a connection, until there is no answer or the client hangs up.
async fn serve(mut stream: TcpStream, answer: fn(i32, &str) -> Option<Document>) -> Option<()> {
    loop {
        let mut header = [0; 4];
        for number in &mut header {
            *number = stream.read_i32_le().await.ok()?;
        }
        let [length, request, _, code] = header;
        let mut body = vec![0; usize::try_from(length - 16).unwrap()];
        stream.read_exact(&mut body).await.ok()?;
        // Both kinds of message end with the command, after a head of fixed length: flags and kind
        // of section; or flags, the collection's name, and two numbers.
        let head = if code == OP_MSG {
            5
        } else {
            4 + b"admin.$cmd\0".len() + 8
        };
        let command = Document::from_reader(&body[head..]).unwrap();
        let reply = answer(code, command.keys().next().unwrap())?;
        let mut reply_body = match code {
            OP_MSG => vec![0; 5],
            _ => [vec![0; 16], 1i32.to_le_bytes().to_vec()].concat(),
        };
        reply_body.extend(reply.to_vec().unwrap());
        let code = if code == OP_MSG { OP_MSG } else { OP_REPLY };
        let length = i32::try_from(16 + reply_body.len()).unwrap();
        for number in [length, 1, request, code] {
            stream.write_i32_le(number).await.ok()?;
        }
        stream.write_all(&reply_body).await.ok()?;
    }
}

fn hello(version: i32) -> Option<Document> {
    Some(doc! {
        "ok": 1, "isWritablePrimary": true, "ismaster": true, "helloOk": true,
        "minWireVersion": 0, "maxWireVersion": version, "readOnly": false,
        "maxBsonObjectSize": 16 << 20, "maxMessageSizeBytes": 48_000_000, "maxWriteBatchSize": 100_000,
    })
}

async fn prepare(address: &str) -> AuditError {
    let log = MongoAuditLog::new(
        &format!("mongodb://{address}"),
        "test",
        Durability::Majority,
    )
    .unwrap();
    let begun = Instant::now();
    let error = log
        .prepare()
        .await
        .expect_err("no server that could be used");
    assert!(
        begun.elapsed() < LIMIT,
        "{error} after {:?}",
        begun.elapsed()
    );
    error
}

async fn unavailable(address: &str) {
    let error = prepare(address).await;
    assert!(matches!(error, AuditError::Unavailable { .. }), "{error:?}");
}

async fn unusable(address: &str) -> String {
    match prepare(address).await {
        AuditError::Unusable { why, .. } => why,
        error => panic!("{error:?}"),
    }
}

#[tokio::test]
async fn nobody_there_is_unavailable() {
    let nobody = TcpListener::bind("127.0.0.1:0")
        .await
        .unwrap()
        .local_addr()
        .unwrap();
    unavailable(&nobody.to_string()).await;
}

#[tokio::test]
async fn a_server_that_never_answers_is_unavailable() {
    let silent = TcpListener::bind("127.0.0.1:0").await.unwrap();
    unavailable(&silent.local_addr().unwrap().to_string()).await;
}

#[tokio::test]
async fn a_server_that_hangs_up_is_unavailable() {
    unavailable(&server(|_, _| None).await).await;
}

#[tokio::test]
async fn a_server_of_the_old_message_format_is_too_old() {
    let why = unusable(&server(|code, _| hello(5).filter(|_| code == OP_QUERY)).await).await;
    assert!(why.contains("3.4") && why.contains("4.4"), "{why}");
}

#[tokio::test]
async fn a_server_of_4_2_is_too_old() {
    let why = unusable(&server(|_, _| hello(8)).await).await;
    assert!(why.contains("4.2") && why.contains("4.4"), "{why}");
}

#[tokio::test]
async fn a_refused_login_is_unusable_and_not_told() {
    let server = server(|_, command| match command {
        "hello" | "ismaster" | "isMaster" => hello(17),
        _ => Some(doc! { "ok": 0, "code": 18, "errmsg": "Authentication failed." }),
    });
    let address = format!(
        "someone:s3cret@{}/?authMechanism=SCRAM-SHA-256",
        server.await
    );
    let error = prepare(&address).await;
    assert!(matches!(error, AuditError::Unusable { .. }), "{error:?}");
    let told = format!("{error} {error:?}");
    assert!(
        !told.contains("s3cret") && !told.contains("someone"),
        "{told}"
    );
}

#[tokio::test]
async fn a_missing_permission_is_unusable() {
    let server = server(|_, command| match command {
        "hello" | "ismaster" | "isMaster" => hello(17),
        _ => Some(doc! { "ok": 0, "code": 13, "errmsg": "not authorized on test" }),
    });
    let why = unusable(&server.await).await;
    assert!(why.contains("not authorized on test"), "{why}");
}
