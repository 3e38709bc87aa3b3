//! The three services on a bus and a log that fail, in simulated time: whatever is lost, delayed,
//! doubled, cut, killed and restarted, their promises hold (design, "What is promised").
//!
//! A run is fixed by its seed, as far as that goes: which branch of a `select!` is looked at first
//! and in which order a map is walked is left to chance, as it is in life.
//!
//! - `SIMULATION_SEEDS=10000` sets how many seeds are run.
//! - `SIMULATION_SEED=17` runs only that one, a few times, and prints what happened (`-- --nocapture`).

#![expect(clippy::unwrap_used, reason = "where a test cannot go on, it fails")]

mod deployment;
mod dice;
mod faults;
mod history;
mod life;
mod network;
mod promises;
mod run;
mod store;
mod traffic;
mod weather;
mod work;

use std::{
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::Instant,
};

use deployment::Kind;
use promises::Counts;
use run::{Scenario, run};

/// Seeds of plain `cargo test`.
const SEEDS: u64 = 300;
/// Runs of one seed that is looked at.
const RUNS: u64 = 20;

#[test]
fn in_fair_weather_every_request_gets_its_right_answer() {
    nothing_fails(Scenario::Fair);
}

#[test]
fn when_every_message_arrives_twice_no_request_fails() {
    nothing_fails(Scenario::Doubled);
}

#[test]
fn when_events_services_die_no_request_fails() {
    nothing_fails(Scenario::Deaths(Kind::EventsService));
}

#[test]
fn when_backends_die_no_request_fails() {
    nothing_fails(Scenario::Deaths(Kind::Backend));
}

#[test]
fn while_every_service_is_updated_no_request_fails() {
    nothing_fails(Scenario::Update);
}

fn nothing_fails(scenario: Scenario) {
    for seed in 0..seeds() / 20 {
        let report = run(seed, scenario, true);
        let expected = ["division_by_zero", "result"];
        let mut ended = report.counts.ended.keys();
        assert!(
            report.violations.is_empty() && ended.all(|how| expected.contains(&how.as_str())),
            "seed {seed}: {:#?}, {:#?}\n{}",
            report.counts,
            report.violations,
            report.history.text()
        );
    }
}

#[test]
fn repeats_never_keep_an_overload_alive() {
    for seed in 0..3 {
        let report = run(seed, Scenario::Overload, false);
        assert_eq!(report.violations, Vec::<String>::new(), "seed {seed}");
        assert!(report.counts.dispatches_repeated > 0, "{:?}", report.counts);
    }
}

#[test]
fn whatever_fails_the_promises_hold() {
    if let Some(seed) = number("SIMULATION_SEED") {
        return look_at(seed);
    }
    let begun = Instant::now();
    let (counts, failed) = run_all(seeds());
    println!("{counts:#?}\nin {:?}", begun.elapsed());
    assert!(
        failed.is_empty(),
        "{} of {} seeds broke a promise; SIMULATION_SEED={} shows the first\n{failed:#?}",
        failed.len(),
        counts.runs,
        failed[0].0,
    );
}

/// Runs all seeds on all cores. Those that broke a promise, with what they broke.
fn run_all(seeds: u64) -> (Counts, Vec<(u64, Vec<String>)>) {
    let next = AtomicU64::new(0);
    let sum = Mutex::new((Counts::default(), Vec::new()));
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    std::thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(|| {
                loop {
                    let seed = next.fetch_add(1, Ordering::Relaxed);
                    if seed >= seeds {
                        return;
                    }
                    let report = run(seed, Scenario::Foul, false);
                    let mut sum = sum.lock().unwrap_or_else(PoisonError::into_inner);
                    sum.0.add(report.counts);
                    if !report.violations.is_empty() {
                        sum.1.push((seed, report.violations));
                    }
                }
            });
        }
    });
    let (counts, mut failed) = sum.into_inner().unwrap_or_else(PoisonError::into_inner);
    failed.sort_by_key(|(seed, _)| *seed);
    (counts, failed)
}

/// Runs a seed until it breaks a promise, a few times at most, and prints the last run.
#[expect(clippy::print_stdout, reason = "somebody wants to read it")]
fn look_at(seed: u64) {
    let mut report = run(seed, Scenario::Foul, true);
    for _ in 1..RUNS {
        if !report.violations.is_empty() {
            break;
        }
        report = run(seed, Scenario::Foul, true);
    }
    println!("{}\n{:#?}", report.history.text(), report.counts);
    assert!(report.violations.is_empty(), "{:#?}", report.violations);
}

fn seeds() -> u64 {
    number("SIMULATION_SEEDS").unwrap_or(SEEDS)
}

fn number(variable: &str) -> Option<u64> {
    let text = std::env::var(variable).ok()?;
    Some(
        text.parse()
            .unwrap_or_else(|_| panic!("{variable}={text} is no number")),
    )
}
