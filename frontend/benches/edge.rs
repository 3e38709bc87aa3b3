//! What the frontend does with a request besides HTTP and the bus.

use std::{hint::black_box, sync::Arc};

use criterion::{Criterion, criterion_group, criterion_main};
use frontend::{classify::classify, pending::PendingRegistry};
use shared::contract::{Address, Ended, RequestId, Task};

fn classification(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("classify");
    for (name, body) in [
        ("numbers", r#"{"a1": 5, "a2": 10}"#),
        ("strings", r#"{"a1": "some words", "a2": " and more"}"#),
        ("refused", r#"{"a1": 5, "s2": 10}"#),
    ] {
        group.bench_function(name, |b| b.iter(|| classify(black_box(body.as_bytes()))));
    }
}

fn task(number: u64) -> Arc<Task> {
    let address =
        |digit: &str, service: &str| Address::new(&digit.repeat(64), service).expect("it is one");
    let request_id: RequestId = format!("{number:024x}").parse().expect("it is an id");
    Arc::new(Task {
        request_id,
        from: address("a", "app_frontend"),
        to: address("b", "app_events-service"),
        task: "NUMBER".to_owned(),
        subtask: "ADD".to_owned(),
        body: r#"{"a1":5,"a2":10}"#.to_owned(),
        deadline_unix_ms: Some(1_700_000_005_000),
        caller_request_id: None,
        traceparent: None,
    })
}

fn registry(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("registry");
    for waiting in [0, 1_000] {
        let registry = Arc::new(PendingRegistry::default());
        let others: Vec<_> = (0..waiting).map(|n| registry.register(task(n))).collect();
        let task = task(u64::MAX);
        group.bench_function(format!("register and resolve beside {waiting}"), |b| {
            b.iter(|| {
                let place = registry.register(task.clone());
                let asked = registry.resolve(&task.request_id, Ended::Final("15".to_owned()));
                black_box((place, asked))
            });
        });
        drop(others);
    }
}

criterion_group!(benches, classification, registry);
criterion_main!(benches);
