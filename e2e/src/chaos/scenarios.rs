//! What can be broken. Each scenario is a function that acts on a [`Stage`] while the load goes on.

mod change;
mod database;
mod delivery;
mod network;
mod pressure;
mod processes;
mod redis;

use std::fmt;

use anyhow::Result;
use futures_util::future::LocalBoxFuture;
use mongodb::bson::RawDocument;

use super::{deployment::Plan, stage::Stage};

/// What a scenario does to its stage.
type Act = for<'s, 'c> fn(&'s mut Stage<'c>) -> LocalBoxFuture<'s, Result<()>>;

/// One thing that goes wrong, and how it is judged.
pub struct Scenario {
    /// By which it is chosen.
    pub name: &'static str,
    /// What happens, in a sentence.
    pub about: &'static str,
    /// What must be different from the usual deployment.
    plan: fn() -> Plan,
    act: Act,
    /// The errors that callers may see, by code.
    errors: &'static [&'static str],
    /// Whether nothing in it excuses an effect that happens twice.
    pub(super) once: bool,
    /// What the records must show beyond the equation.
    look: fn(&mut Stage<'_>, &[&RawDocument]),
}

/// The errors of an outage: clear, and a reason to try again.
const OUTAGE: &[&str] = &[
    "abandoned",
    "audit_unavailable",
    "bus_unavailable",
    "deadline_exceeded",
    "no_backend",
    "no_events_service",
    "overloaded",
];

impl Scenario {
    /// One that is judged by the equation alone.
    const fn new(name: &'static str, about: &'static str, act: Act) -> Self {
        Self {
            name,
            about,
            plan: Plan::default,
            act,
            errors: OUTAGE,
            once: false,
            look: |_, _| {},
        }
    }

    const fn planned(mut self, plan: fn() -> Plan) -> Self {
        self.plan = plan;
        self
    }

    /// Allows these errors instead of those of an outage.
    const fn with_errors(mut self, errors: &'static [&'static str]) -> Self {
        self.errors = errors;
        self
    }

    /// Nothing in it excuses an effect that happens twice.
    const fn once(mut self) -> Self {
        self.once = true;
        self
    }

    /// Looks at the records also otherwise.
    const fn looking(mut self, look: fn(&mut Stage<'_>, &[&RawDocument])) -> Self {
        self.look = look;
        self
    }

    pub(super) fn plan(&self) -> Plan {
        (self.plan)()
    }

    pub(super) async fn act(&self, stage: &mut Stage<'_>) -> Result<()> {
        (self.act)(stage).await
    }

    pub(super) fn look_at_records(&self, stage: &mut Stage<'_>, records: &[&RawDocument]) {
        (self.look)(stage, records);
    }

    /// Whether callers may see this error: a status and a code.
    pub(super) fn allows(&self, error: &str) -> bool {
        let code = error.split_once(' ').map_or(error, |(_, code)| code);
        self.errors.contains(&code)
    }
}

/// A number of a scenario's own, the same in every run: alone it does what it does among others.
pub(super) fn fingerprint(name: &str) -> u64 {
    // FNV-1a.
    name.bytes().fold(0xcbf2_9ce4_8422_2325, |hash, byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
    })
}

impl fmt::Debug for Scenario {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name)
    }
}

/// All scenarios on bare processes, in the order in which they are played.
pub fn all() -> impl Iterator<Item = &'static Scenario> {
    [
        processes::SCENARIOS,
        redis::SCENARIOS,
        database::SCENARIOS,
        network::SCENARIOS,
        delivery::SCENARIOS,
        pressure::SCENARIOS,
        change::SCENARIOS,
    ]
    .into_iter()
    .flatten()
}

/// The scenario of this name.
#[must_use]
pub fn named(name: &str) -> Option<&'static Scenario> {
    all().find(|scenario| scenario.name == name)
}
