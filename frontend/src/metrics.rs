//! The frontend's side of the ledger: offered = answered + failed + in flight, at any moment.

use std::sync::Arc;

use prometheus_client::{
    encoding::EncodeLabelSet,
    metrics::{counter::Counter, family::Family, gauge::Gauge, histogram::Histogram},
    registry::Registry,
};
use tokio::time::Instant;

/// What the frontend counts.
#[derive(Debug)]
pub(crate) struct Metrics {
    offered: Counter,
    answered: Counter,
    failed: Family<Code, Counter>,
    in_flight: Gauge,
    latency: Histogram,
    messages: Family<Kind, Counter>,
    pub(crate) connections: Gauge,
    pub(crate) connections_refused: Counter,
    pub(crate) connections_timed_out: Counter,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Code {
    code: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Kind {
    kind: &'static str,
}

/// A request in the ledger. When it is dropped without an outcome, its client has hung up.
#[derive(Debug)]
pub(crate) struct Offered {
    metrics: Arc<Metrics>,
    since: Instant,
    is_settled: bool,
}

impl Metrics {
    pub(crate) fn register(registry: &mut Registry) -> Arc<Self> {
        let buckets = [
            0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0,
        ];
        let metrics = Self {
            offered: Counter::default(),
            answered: Counter::default(),
            failed: Family::default(),
            in_flight: Gauge::default(),
            latency: Histogram::new(buckets),
            messages: Family::default(),
            connections: Gauge::default(),
            connections_refused: Counter::default(),
            connections_timed_out: Counter::default(),
        };
        let m = &metrics;
        registry.register("requests_offered", "Requests for a task", m.offered.clone());
        registry.register(
            "requests_answered",
            "Requests that got a result",
            m.answered.clone(),
        );
        registry.register(
            "requests_failed",
            "Requests that got an error, by its code",
            m.failed.clone(),
        );
        registry.register(
            "requests_in_flight",
            "Requests that wait",
            m.in_flight.clone(),
        );
        registry.register("request_seconds", "Time to the result", m.latency.clone());
        registry.register(
            "frontend_messages",
            "Messages heard that answered nobody, by reason",
            m.messages.clone(),
        );
        registry.register("connections", "Open connections", m.connections.clone());
        registry.register(
            "connections_refused",
            "Connections over the limit",
            m.connections_refused.clone(),
        );
        registry.register(
            "connections_timed_out",
            "Connections closed for slowness or silence",
            m.connections_timed_out.clone(),
        );
        Arc::new(metrics)
    }

    /// Requests in the ledger that have no outcome yet.
    pub(crate) fn in_flight(&self) -> usize {
        usize::try_from(self.in_flight.get()).unwrap_or(0)
    }

    /// A request has come.
    pub(crate) fn offer(self: &Arc<Self>) -> Offered {
        self.offered.inc();
        self.in_flight.inc();
        Offered {
            metrics: self.clone(),
            since: Instant::now(),
            is_settled: false,
        }
    }

    /// A message that answered nobody.
    pub(crate) fn unused(&self, kind: &'static str) {
        self.messages.get_or_create(&Kind { kind }).inc();
    }
}

impl Offered {
    pub(crate) fn answered(mut self) {
        self.is_settled = true;
        self.metrics.answered.inc();
        self.metrics
            .latency
            .observe(self.since.elapsed().as_secs_f64());
    }

    pub(crate) fn failed(mut self, code: &'static str) {
        self.fail(code);
    }

    fn fail(&mut self, code: &'static str) {
        self.is_settled = true;
        self.metrics.failed.get_or_create(&Code { code }).inc();
    }
}

impl Drop for Offered {
    fn drop(&mut self) {
        if !self.is_settled {
            self.fail("client_gone");
        }
        self.metrics.in_flight.dec();
    }
}
