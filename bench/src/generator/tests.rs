//! The generator against a server that can be told to misbehave.

use std::{cell::Cell, net::SocketAddr, rc::Rc, time::Duration};

use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpListener, TcpStream},
};

use super::*;

const RIGHT: &str = r#"{"message":"OK","result":"15"}"#;

/// Answers one body after the other: `answer` says with what, after it has taken its time.
async fn serve<A>(answer: A) -> SocketAddr
where
    A: AsyncFn(u32) -> String + 'static,
{
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let shared = Rc::new((answer, Cell::new(0)));
    tokio::task::spawn_local(async move {
        loop {
            let (stream, _) = listener.accept().await.unwrap();
            tokio::task::spawn_local(connection(stream, shared.clone()));
        }
    });
    address
}

async fn connection<A>(mut stream: TcpStream, shared: Rc<(A, Cell<u32>)>)
where
    A: AsyncFn(u32) -> String,
{
    let mut read = [0; 1024];
    // A request is small enough to come in one piece.
    while stream.read(&mut read).await.is_ok_and(|count| count > 0) {
        let (answer, asked) = &*shared;
        asked.set(asked.get() + 1);
        let body = answer(asked.get()).await;
        let head = format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n", body.len());
        stream.write_all((head + &body).as_bytes()).await.unwrap();
    }
}

/// One body, asked of such a server.
fn ask(load: Load, extent: Extent, answer: impl AsyncFn(u32) -> String + 'static) -> Result<Run> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    LocalSet::new().block_on(&runtime, async {
        let target = Target {
            addresses: vec![serve(answer).await],
            kind: Kind::OneBody,
            questions: Rc::default(),
        };
        run(&target, load, extent, &mut Nobody).await
    })
}

#[test]
fn so_many_requests_are_exactly_so_many() {
    let load = Load::Closed { connections: 7 };
    let run = ask(load, Extent::Requests(100), async |_| RIGHT.to_owned()).unwrap();
    assert_eq!((run.requests, run.never_sent), (100, 0));
}

#[test]
fn one_wrong_answer_and_there_is_no_result() {
    let load = Load::Closed { connections: 3 };
    let error = ask(load, Extent::Requests(100), async |number| {
        RIGHT.replace("15", if number == 50 { "16" } else { "15" })
    })
    .unwrap_err();
    assert!(error.to_string().starts_with("a wrong answer"), "{error}");
}

#[test]
fn who_comes_while_the_service_stands_still_has_waited() {
    const STILL: Duration = Duration::from_millis(300);
    let load = Load::Open {
        per_second: 200.0,
        connections: 1,
    };
    let extent = Extent::Time {
        warm_up: Duration::ZERO,
        measured: Duration::from_millis(800),
    };
    let run = ask(load, extent, async |number| {
        if number == 20 {
            tokio::time::sleep(STILL).await;
        }
        RIGHT.to_owned()
    })
    .unwrap();
    // 160 are due; the 60 of these 300 ms wait 150 ms on the average, not only the one that was sent.
    assert!(run.latency_ms(1.0) >= 299.0, "{run:?}");
    assert!(run.latency_ms(0.75) >= 50.0, "{run:?}");
    assert!(run.latency_ms(0.5) < 50.0, "{run:?}");
}

#[test]
fn a_service_that_is_too_slow_is_not_made_to_look_fast() {
    let load = Load::Open {
        per_second: 200.0,
        connections: 1,
    };
    let extent = Extent::Time {
        warm_up: Duration::ZERO,
        measured: Duration::from_millis(500),
    };
    let run = ask(load, extent, async |_| {
        tokio::time::sleep(Duration::from_millis(50)).await;
        RIGHT.to_owned()
    })
    .unwrap();
    assert!(run.requests <= 11, "{run:?}");
    assert!(run.never_sent >= 85, "{run:?}");
    assert!(run.latency_ms(0.5) > 200.0, "{run:?}");
}
