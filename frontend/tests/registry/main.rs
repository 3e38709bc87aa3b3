//! The registry of those who wait: on its own, and under a concurrency checker.
//!
//! The frontend runs on one thread, and the registry does not rely on it. `pending.rs` is compiled
//! here once more, as it is, on a map whose every lock the checker (shuttle) controls: it runs the
//! threads of a case in one order after the other. The channel to a waiter is tokio's own; a waiter
//! takes its answer out of it, or finds it closed.

#![expect(clippy::unwrap_used, reason = "where a test cannot go on, it fails")]

// In `pending.rs`, `dashmap` is this crate.
extern crate self as dashmap;

mod map;
#[expect(unreachable_pub, reason = "it is public where it is at home")]
#[path = "../../src/pending.rs"]
mod pending;

use std::sync::{
    Arc, Mutex,
    atomic::{AtomicUsize, Ordering},
};

pub(crate) use map::DashMap;
use pending::{Pending, PendingRegistry};
use shared::contract::{Address, Ended, RequestId, Task};
use shuttle::thread;

/// Orders that are tried of a case that has too many to try all.
const ORDERS: usize = 5_000;

fn id(n: usize) -> RequestId {
    n.to_string().parse().unwrap()
}

fn task(n: usize) -> Arc<Task> {
    let address = Address::new("c", "s").unwrap();
    Arc::new(Task {
        request_id: id(n),
        from: address.clone(),
        to: address,
        task: "T".into(),
        subtask: "S".into(),
        body: "1".into(),
        deadline_unix_ms: None,
        caller_request_id: None,
        traceparent: None,
    })
}

fn answer(n: usize) -> Ended {
    Ended::Final(format!("answer to {n}"))
}

/// Who waits, what each got, and how often its task was given back.
struct Case {
    registry: Arc<PendingRegistry>,
    given_back: Vec<AtomicUsize>,
}

impl Case {
    fn new(requests: usize) -> Arc<Self> {
        Arc::new(Self {
            registry: Arc::default(),
            given_back: (0..requests).map(|_| AtomicUsize::new(0)).collect(),
        })
    }

    fn register(&self, n: usize) -> Pending {
        self.registry.register(task(n))
    }

    fn give_back(&self, n: usize, given: Option<Arc<Task>>) -> bool {
        if let Some(task) = &given {
            assert_eq!(task.request_id, id(n), "a foreign task");
            self.given_back[n].fetch_add(1, Ordering::SeqCst);
        }
        given.is_some()
    }

    /// A reply arrives.
    fn reply(&self, n: usize) {
        self.give_back(n, self.registry.resolve(&id(n), answer(n)));
    }

    /// The deadline passes: either the place is given up, or the answer is there or about to be.
    /// Whether it was given up.
    fn deadline(&self, n: usize, mut pending: Pending) -> bool {
        let has_left = self.give_back(n, pending.leave());
        let got = shuttle::future::block_on(&mut pending.answer).ok();
        assert_eq!(got, (!has_left).then(|| answer(n)), "request {n}");
        assert_eq!(pending.leave(), None, "left twice");
        has_left
    }

    /// The flow notices that an events service is gone: what waits is offered to another one.
    fn offer_elsewhere(&self) {
        for task in self.registry.tasks(|container| container.as_str() == "c") {
            let to = Address::new("other", "s").unwrap();
            let again = Task {
                to,
                ..Task::clone(&task)
            };
            self.registry.offered(Arc::new(again));
        }
    }

    /// All have ended: each gave its task back once, and nothing is left.
    fn is_over(&self) {
        assert_eq!(self.registry.len(), 0);
        assert!(self.registry.is_empty());
        for (n, given_back) in self.given_back.iter().enumerate() {
            assert_eq!(given_back.load(Ordering::SeqCst), 1, "request {n}");
        }
    }
}

/// What one thread of a case does.
type Run = Box<dyn FnOnce(&Case) + Send>;

/// Runs these at once, and holds them to the end of the case.
fn at_once(case: &Arc<Case>, threads: Vec<Run>) {
    let threads: Vec<_> = threads
        .into_iter()
        .map(|run| {
            let case = case.clone();
            thread::spawn(move || run(&case))
        })
        .collect();
    for thread in threads {
        thread.join().unwrap();
    }
    case.is_over();
}

#[test]
fn the_reply_and_the_deadline_meet_in_every_order() {
    // Few enough steps to try every order there is.
    let case = || {
        let case = Case::new(1);
        let pending = case.register(0);
        at_once(
            &case,
            vec![
                Box::new(|case| case.reply(0)),
                Box::new(move |case| {
                    case.deadline(0, pending);
                }),
                Box::new(|case| case.reply(0)),
            ],
        );
    };
    shuttle::check_dfs(case, None);
}

#[test]
fn a_task_that_is_offered_elsewhere_comes_back_once_in_every_order() {
    let case = || {
        let case = Case::new(1);
        let pending = case.register(0);
        at_once(
            &case,
            vec![
                Box::new(|case| case.offer_elsewhere()),
                Box::new(move |case| {
                    case.deadline(0, pending);
                }),
            ],
        );
    };
    shuttle::check_dfs(case, None);
}

#[test]
fn many_at_once_are_each_resolved_once_and_none_leaks() {
    let case = || {
        let case = Case::new(4);
        let mut threads: Vec<Run> = Vec::new();
        for n in 0..3 {
            threads.push(Box::new(move |case| {
                let pending = case.register(n);
                if n == 2 {
                    // Its client hangs up: the guard gives the place up, and the flow does first.
                    case.give_back(n, pending.leave());
                    drop(pending);
                } else {
                    case.deadline(n, pending);
                }
            }));
        }
        let pending = case.register(3);
        threads.push(Box::new(move |case| {
            case.deadline(3, pending);
        }));
        // Replies, some of them twice, and some before anybody waits for them.
        threads.push(Box::new(|case| (0..4).for_each(|n| case.reply(n))));
        threads.push(Box::new(|case| {
            (0..4).rev().for_each(|n| case.reply(n));
        }));
        threads.push(Box::new(|case| {
            case.offer_elsewhere();
            for n in 0..4 {
                let waiting = case.registry.task(&id(n));
                assert!(waiting.is_none_or(|task| task.request_id == id(n)));
            }
            case.offer_elsewhere();
        }));
        at_once(&case, threads);
    };
    shuttle::check_random(case, ORDERS);
    shuttle::check_pct(case, ORDERS, 4);
}

#[test]
fn a_guard_that_is_dropped_leaves_nothing_behind_in_every_order() {
    let case = || {
        let registry: Arc<PendingRegistry> = Arc::default();
        let others = registry.clone();
        let replying = thread::spawn(move || drop(others.resolve(&id(0), answer(0))));
        // Before the reply or after it, with nobody waiting by then.
        drop(registry.register(task(0)));
        replying.join().unwrap();
        assert!(registry.is_empty());
    };
    shuttle::check_dfs(case, None);
}

#[test]
fn the_checker_tries_both_ends_of_a_race() {
    let seen = Arc::new(Mutex::new([0; 2]));
    let counted = seen.clone();
    let case = move || {
        let case = Case::new(1);
        let pending = case.register(0);
        let replying = {
            let case = case.clone();
            thread::spawn(move || case.reply(0))
        };
        let has_left = case.deadline(0, pending);
        replying.join().unwrap();
        counted.lock().unwrap()[usize::from(has_left)] += 1;
    };
    shuttle::check_dfs(case, None);
    let seen = *seen.lock().unwrap();
    assert!(seen.iter().all(|count| *count > 0), "{seen:?}");
}

#[tokio::test]
async fn a_reply_resolves_its_own_request_once() {
    let registry = Arc::new(frontend::pending::PendingRegistry::default());
    let mut one = registry.register(task(1));
    let two = registry.register(task(2));
    assert!(registry.resolve(&id(1), answer(1)).is_some());
    assert!(registry.resolve(&id(1), answer(2)).is_none());
    assert_eq!((&mut one.answer).await, Ok(answer(1)));
    assert_eq!(registry.len(), 1);
    drop(two);
    assert!(registry.is_empty());
}

#[tokio::test]
async fn who_has_left_gets_no_reply() {
    let registry = Arc::new(frontend::pending::PendingRegistry::default());
    drop(registry.register(task(1)));
    assert!(registry.resolve(&id(1), answer(1)).is_none());
}
