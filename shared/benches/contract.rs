//! The codec: writing the four messages, reading them, and turning away what is meant for others.

use std::hint::black_box;

use criterion::{Criterion, criterion_group, criterion_main};
use shared::contract::{
    Address, Addressee, Dispatch, Ended, RecordId, Reply, Task, TaskResult, Timing,
};

fn address(digit: &str, service: &str) -> Address {
    Address::new(&digit.repeat(64), service).expect("it is one")
}

struct Messages {
    frontend: Address,
    events_service: Address,
    backend: Address,
    task: Task,
    dispatch: Dispatch,
    result: TaskResult,
    reply: Reply,
}

impl Messages {
    fn new() -> Self {
        let frontend = address("a", "app_frontend");
        let events_service = address("b", "app_events-service");
        let backend = address("c", "app_backend");
        let record_id = RecordId(*b"twelve bytes");
        let request_id: shared::contract::RequestId =
            "6b06e32079eaeeb671b39638".parse().expect("it is an id");
        Self {
            task: Task {
                request_id: request_id.clone(),
                from: frontend.clone(),
                to: events_service.clone(),
                task: "NUMBER".to_owned(),
                subtask: "ADD".to_owned(),
                body: r#"{"a1":5,"a2":10}"#.to_owned(),
                deadline_unix_ms: Some(1_700_000_005_000),
                caller_request_id: None,
                traceparent: None,
            },
            dispatch: Dispatch {
                record_id,
                to: backend.clone(),
                from: events_service.clone(),
                task: "NUMBER".to_owned(),
                subtask: "ADD".to_owned(),
                body: r#"{"a1":5,"a2":10}"#.to_owned(),
                deadline_unix_ms: Some(1_700_000_005_000),
                attempt: Some(1),
                traceparent: None,
            },
            result: TaskResult {
                record_id,
                from: backend.clone(),
                to: events_service.clone(),
                ended: Ended::Final("15".to_owned()),
                timing: Some(Timing {
                    waited_us: 15,
                    ran_us: 2,
                }),
            },
            reply: Reply {
                request_id,
                to: frontend.clone(),
                ended: Ended::Final("15".to_owned()),
            },
            frontend,
            events_service,
            backend,
        }
    }
}

fn encode(criterion: &mut Criterion) {
    let messages = Messages::new();
    let mut group = criterion.benchmark_group("encode");
    group.bench_function("task", |b| b.iter(|| black_box(&messages.task).encode()));
    group.bench_function("dispatch", |b| {
        b.iter(|| black_box(&messages.dispatch).encode())
    });
    group.bench_function("result", |b| {
        b.iter(|| black_box(&messages.result).encode())
    });
    group.bench_function("reply", |b| {
        b.iter(|| black_box(&messages.reply).encode(&messages.events_service))
    });
}

fn read(criterion: &mut Criterion) {
    let messages = Messages::new();
    let [frontend, events_service, backend] = [
        &messages.frontend,
        &messages.events_service,
        &messages.backend,
    ]
    .map(|me| Addressee::new(me.clone()));
    let (task, dispatch) = (messages.task.encode(), messages.dispatch.encode());
    let (result, reply) = (
        messages.result.encode(),
        messages.reply.encode(&messages.events_service),
    );
    let mut group = criterion.benchmark_group("read");
    group.bench_function("task", |b| {
        b.iter(|| events_service.event(black_box(&task)))
    });
    group.bench_function("dispatch", |b| {
        b.iter(|| backend.consuming(black_box(&dispatch)))
    });
    group.bench_function("result", |b| {
        b.iter(|| events_service.event(black_box(&result)))
    });
    group.bench_function("reply", |b| {
        b.iter(|| frontend.consuming(black_box(&reply)))
    });
    group.bench_function("for another", |b| {
        let other = Addressee::new(address("d", "app_backend"));
        b.iter(|| other.consuming(black_box(&dispatch)));
    });
    // As the older Go services write it: a literal within a literal.
    let quoted = serde_json::to_vec(&String::from_utf8_lossy(&result)).expect("text is JSON");
    group.bench_function("result as a literal", |b| {
        b.iter(|| events_service.event(black_box(&quoted)))
    });
}

criterion_group!(benches, encode, read);
criterion_main!(benches);
