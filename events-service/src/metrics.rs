//! What the events service counts.

use prometheus_client::{
    encoding::EncodeLabelSet,
    metrics::{counter::Counter, family::Family, gauge::Gauge},
    registry::Registry,
};

/// Counters, resolved by a short label.
#[derive(Debug, Clone, Default)]
pub(crate) struct Metrics {
    tasks: Family<Label, Counter>,
    refused: Family<Label, Counter>,
    dispatches: Family<Label, Counter>,
    results: Family<Label, Counter>,
    dropped: Family<Label, Counter>,
    in_flight: Gauge,
    pub(crate) answered: Counter,
    pub(crate) repeated: Counter,
    pub(crate) taken: Counter,
    pub(crate) dispatched: Counter,
    pub(crate) results_taken: Counter,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Label {
    kind: &'static str,
}

impl Metrics {
    pub(crate) fn register(registry: &mut Registry) -> Self {
        let metrics = Self::default();
        let registry = registry.sub_registry_with_prefix("events");
        registry.register(
            "tasks_ended",
            "Tasks that did not answer, by reason",
            metrics.tasks.clone(),
        );
        registry.register(
            "tasks_refused",
            "Tasks not taken, by reason",
            metrics.refused.clone(),
        );
        registry.register(
            "tasks_taken",
            "Tasks taken from frontends",
            metrics.taken.clone(),
        );
        registry.register(
            "tasks_answered",
            "Tasks that a backend answered",
            metrics.answered.clone(),
        );
        registry.register(
            "tasks_repeated",
            "Tasks answered from another record",
            metrics.repeated.clone(),
        );
        registry.register(
            "dispatches",
            "First dispatches to backends",
            metrics.dispatched.clone(),
        );
        registry.register(
            "dispatches_repeated",
            "Dispatches after the first, by reason",
            metrics.dispatches.clone(),
        );
        registry.register(
            "results",
            "Results that ended a work",
            metrics.results_taken.clone(),
        );
        registry.register(
            "results_unused",
            "Results that ended nothing, by reason",
            metrics.results.clone(),
        );
        registry.register(
            "messages_dropped",
            "Messages and replies dropped, by reason",
            metrics.dropped.clone(),
        );
        registry.register(
            "in_flight",
            "Requests taken and not ended",
            metrics.in_flight.clone(),
        );
        metrics
    }

    pub(crate) fn failed(&self, kind: &'static str) {
        self.tasks.get_or_create(&Label { kind }).inc();
    }

    pub(crate) fn refused(&self, kind: &'static str) {
        self.refused.get_or_create(&Label { kind }).inc();
    }

    pub(crate) fn dispatched_again(&self, kind: &'static str) {
        self.dispatches.get_or_create(&Label { kind }).inc();
    }

    pub(crate) fn unused_result(&self, kind: &'static str) {
        self.results.get_or_create(&Label { kind }).inc();
    }

    pub(crate) fn dropped(&self, kind: &'static str) {
        self.dropped.get_or_create(&Label { kind }).inc();
    }

    pub(crate) fn set_in_flight(&self, count: usize) {
        self.in_flight.set(i64::try_from(count).unwrap_or(i64::MAX));
    }
}
