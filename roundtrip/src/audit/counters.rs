//! The frontends' side of the ledger, as their `/metrics` tell it.

use std::{collections::BTreeMap, time::Duration};

use anyhow::{Context, bail};
use serde_json::{Value, json};

use crate::http;

/// A frontend answers this at once.
const ANSWER_MAX: Duration = Duration::from_secs(5);

/// What a frontend has counted since its start.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Counters {
    pub(super) url: String,
    pub(super) offered: u64,
    pub(super) answered: u64,
    /// By code.
    pub(super) failed: BTreeMap<String, u64>,
    pub(super) in_flight: u64,
}

impl Counters {
    pub(super) async fn of(url: &str) -> anyhow::Result<Self> {
        let (status, text) = http::get(url, "/metrics", ANSWER_MAX).await?;
        if !status.is_success() {
            bail!("{url}/metrics answers {status}; expected the address of a frontend");
        }
        let text = String::from_utf8_lossy(&text);
        read(url, &text).with_context(|| {
            format!("{url}/metrics holds no ledger; expected the address of a frontend")
        })
    }

    pub(super) fn failed_in_all(&self) -> u64 {
        self.failed.values().sum()
    }

    /// What was offered has an outcome or waits for one.
    pub(super) fn holds(&self) -> bool {
        self.offered == self.answered + self.failed_in_all() + self.in_flight
    }

    pub(super) fn json(&self) -> Value {
        json!({
            "url": self.url,
            "offered": self.offered,
            "answered": self.answered,
            "failed": self.failed,
            "inFlight": self.in_flight,
        })
    }
}

/// Reads the OpenMetrics text, one sample a line: `name{code="…"} value`.
fn read(url: &str, text: &str) -> Option<Counters> {
    let (mut offered, mut answered, mut in_flight) = (None, None, None);
    let mut failed = BTreeMap::new();
    for line in text.lines() {
        let Some((name, value)) = line.rsplit_once(' ') else {
            continue;
        };
        match name {
            "roundtrip_requests_offered_total" => offered = value.parse().ok(),
            "roundtrip_requests_answered_total" => answered = value.parse().ok(),
            "roundtrip_requests_in_flight" => in_flight = value.parse().ok(),
            _ => {
                let code = name
                    .strip_prefix("roundtrip_requests_failed_total{code=\"")
                    .and_then(|rest| rest.strip_suffix("\"}"));
                if let Some(code) = code {
                    failed.insert(code.to_owned(), value.parse().ok()?);
                }
            }
        }
    }
    Some(Counters {
        url: url.to_owned(),
        offered: offered?,
        answered: answered?,
        failed,
        in_flight: in_flight?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_ledger_is_found_among_the_other_metrics() {
        let text = "\
# HELP roundtrip_requests_offered Requests for a task.
# TYPE roundtrip_requests_offered counter
roundtrip_requests_offered_total 12
roundtrip_requests_answered_total 8
# TYPE roundtrip_requests_failed counter
roundtrip_requests_failed_total{code=\"body_empty\"} 2
roundtrip_requests_failed_total{code=\"division_by_zero\"} 1
roundtrip_requests_in_flight 1
roundtrip_connections_refused_total 7
# EOF
";
        let counters = read("http://f", text).expect("a ledger");
        let failed = [("body_empty".into(), 2), ("division_by_zero".into(), 1)];
        let expected = Counters {
            url: "http://f".into(),
            offered: 12,
            answered: 8,
            failed: failed.into(),
            in_flight: 1,
        };
        assert_eq!(counters, expected);
        assert!(counters.holds());
        assert!(
            !Counters {
                offered: 13,
                ..counters
            }
            .holds()
        );
        assert_eq!(
            read("http://f", "roundtrip_events_in_flight 0\n# EOF\n"),
            None
        );
    }
}
