//! What the services count, as their `/metrics` say it.

use std::{collections::BTreeMap, net::SocketAddr};

use anyhow::{Result, ensure};
use e2e::{bare::Service, http};

/// The sums of all metrics by name, over labels and services.
#[derive(Debug, Clone, Default)]
pub(crate) struct Metrics(BTreeMap<String, f64>);

impl Metrics {
    /// Asks these services.
    ///
    /// # Errors
    /// One does not answer.
    pub(crate) async fn of(services: impl Iterator<Item = &Service>) -> Result<Self> {
        let mut metrics = Self::default();
        for address in services
            .map(|service| service.http)
            .collect::<Vec<SocketAddr>>()
        {
            let answer = http::get(address, "/metrics").await?;
            ensure!(answer.status == 200, "/metrics of {address}: {answer:?}");
            metrics.add(&answer.text());
        }
        Ok(metrics)
    }

    /// A sum; 0 if nobody has counted it yet.
    pub(crate) fn get(&self, name: &str) -> f64 {
        self.0.get(name).copied().unwrap_or(0.0)
    }

    /// What came to a sum since.
    pub(crate) fn since(&self, earlier: &Self, name: &str) -> f64 {
        self.get(name) - earlier.get(name)
    }

    fn add(&mut self, text: &str) {
        for line in text.lines().filter(|line| !line.starts_with('#')) {
            let Some((name, value)) = line.rsplit_once(' ') else {
                continue;
            };
            let name = name.split('{').next().unwrap_or(name);
            if let Ok(value) = value.parse::<f64>() {
                *self.0.entry(name.to_owned()).or_default() += value;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn labels_are_summed_up() {
        let mut metrics = Metrics::default();
        metrics.add(
            "# TYPE a counter\na_total{kind=\"x y\"} 2\na_total{kind=\"z\"} 3\nb 0.5\n# EOF\n",
        );
        assert!((metrics.get("a_total") - 5.0).abs() < 1e-9);
        assert!((metrics.get("b") - 0.5).abs() < 1e-9);
    }
}
