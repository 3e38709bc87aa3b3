//! Every scenario of the chaos harness that needs no swarm: short, with a fixed seed. The long runs
//! are `cargo run --release -p e2e --bin chaos -- --help`.

use anyhow::ensure;
use e2e::{
    case::run,
    chaos::{self, Length, Settings, scenarios, verdict},
};

/// The same faults at the same moments in every run of the tests.
const SEED: u64 = 20_261_125;

/// Requests a second. Test builds are slow, and what is tested is not speed.
const RATE: u32 = 100;

/// Plays a scenario and prints its row, also when it holds: `--nocapture` shows what happened.
#[expect(
    clippy::print_stdout,
    reason = "the runner shows it with a failed test"
)]
fn holds(name: &str) {
    run(async |case| {
        let scenario = scenarios::named(name).expect("a test names a scenario that there is");
        let settings = Settings {
            seed: SEED,
            rate: RATE,
            length: Length::Short,
            requests: 0,
        };
        let verdict = chaos::play(case, scenario, settings, |line| println!("{line}")).await?;
        println!("{}", verdict::table(std::slice::from_ref(&verdict)));
        ensure!(verdict.holds(), "seed {SEED}: {:#?}", verdict.failures);
        Ok(())
    });
}

#[test]
fn every_scenario_has_a_test() {
    let tests = include_str!("chaos.rs");
    for scenario in scenarios::all() {
        let call = format!("holds(\"{}\")", scenario.name);
        assert!(tests.contains(&call), "no test plays {}", scenario.name);
    }
}

#[test]
fn backend_dies() {
    holds("backend-dies");
}

#[test]
fn backend_freezes() {
    holds("backend-freezes");
}

#[test]
fn events_service_dies() {
    holds("events-service-dies");
}

#[test]
fn events_service_freezes() {
    holds("events-service-freezes");
}

#[test]
fn frontend_dies() {
    holds("frontend-dies");
}

#[test]
fn redis_restarts() {
    holds("redis-restarts");
}

#[test]
fn redis_freezes() {
    holds("redis-freezes");
}

#[test]
fn redis_refuses() {
    holds("redis-refuses");
}

#[test]
fn redis_cuts_subscriber() {
    holds("redis-cuts-subscriber");
}

#[test]
fn redis_cuts_everyone() {
    holds("redis-cuts-everyone");
}

#[test]
fn database_killed() {
    holds("database-killed");
}

#[test]
fn database_freezes() {
    holds("database-freezes");
}

#[test]
fn database_refuses() {
    holds("database-refuses");
}

#[test]
fn database_refuses_writes() {
    holds("database-refuses-writes");
}

#[test]
fn database_slow() {
    holds("database-slow");
}

#[test]
fn network_resets() {
    holds("network-resets");
}

#[test]
fn network_one_way() {
    holds("network-one-way");
}

#[test]
fn network_lossy() {
    holds("network-lossy");
}

#[test]
fn network_sliced() {
    holds("network-sliced");
}

#[test]
fn duplicates() {
    holds("duplicates");
}

#[test]
fn late_replies() {
    holds("late-replies");
}

#[test]
fn overload() {
    holds("overload");
}

#[test]
fn overload_cpu() {
    holds("overload-cpu");
}

#[test]
fn backends_stall() {
    holds("backends-stall");
}

#[test]
fn backends_die() {
    holds("backends-die");
}

#[test]
fn drippers() {
    holds("drippers");
}

#[test]
fn rolling_update() {
    holds("rolling-update");
}

#[test]
fn clock_jumps() {
    holds("clock-jumps");
}

#[test]
fn texts_left_out() {
    holds("texts-left-out");
}
