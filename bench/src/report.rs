//! What a scenario found, as data: everything that is printed, written and plotted comes from here.

mod files;
mod machine;
mod table;

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

pub(crate) use files::{folder, write};
pub(crate) use machine::Machine;
pub(crate) use table::{aligned, markdown, number, terminal};

/// One run of a scenario.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Report {
    /// Its name on the command line.
    pub(crate) scenario: String,
    /// What it shows, a sentence.
    pub(crate) title: String,
    /// When it began, RFC 3339.
    pub(crate) date: String,
    /// Of this repository; with `+` when there were changes that are in no commit.
    pub(crate) commit: String,
    /// Where.
    pub(crate) machine: Machine,
    /// How it was called.
    pub(crate) command: String,
    /// Whatever else is needed to do it again.
    pub(crate) settings: BTreeMap<String, String>,
    /// What was measured.
    pub(crate) points: Vec<Point>,
    /// What the numbers say together.
    pub(crate) findings: Vec<String>,
    /// Other programs that do the same work, for those who would rather trust them.
    pub(crate) others: Vec<String>,
}

/// One system under one load, measured once or several times.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Point {
    /// The system, and what it was asked.
    pub(crate) series: String,
    /// The load, for people.
    pub(crate) load: String,
    /// The load as a number, where there is one: connections, requests per second, containers.
    pub(crate) x: Option<f64>,
    /// What `x` counts.
    pub(crate) x_name: String,
    /// What was found, a value for each repetition.
    pub(crate) figures: Vec<Figure>,
    /// The runs of the load generator, one for each repetition.
    pub(crate) runs: Vec<Run>,
}

/// One number of a point.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct Figure {
    /// What it is.
    pub(crate) name: String,
    /// Of what.
    pub(crate) unit: String,
    /// Which direction is an improvement.
    pub(crate) better: Better,
    /// One for each repetition.
    pub(crate) values: Vec<f64>,
}

/// Which direction is an improvement.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Better {
    /// Upwards.
    Higher,
    /// Downwards.
    Lower,
    /// Neither.
    Neither,
}

/// What the load generator measured in one go.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct Run {
    /// Answers while it lasted, all of them right.
    pub(crate) requests: u64,
    /// In an open loop, requests that were due and found no free connection until the end. Their wait
    /// is among the latencies.
    pub(crate) never_sent: u64,
    /// For so long.
    pub(crate) seconds: f64,
    /// The mean latency.
    pub(crate) mean_ms: f64,
    /// The latencies.
    pub(crate) quantiles: Vec<Quantile>,
    /// The same over time.
    pub(crate) slices: Vec<Slice>,
}

/// A latency that this part of the requests did not exceed.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub(crate) struct Quantile {
    /// From 0 to 1.
    pub(crate) q: f64,
    /// The latency.
    pub(crate) ms: f64,
}

/// A short time of a run.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub(crate) struct Slice {
    /// Since the measured time began.
    pub(crate) begins_s: f64,
    /// Answers per second.
    pub(crate) per_second: f64,
    /// Half of the answers took no longer.
    pub(crate) p50_ms: f64,
    /// 99 of 100 took no longer.
    pub(crate) p99_ms: f64,
    /// None took longer.
    pub(crate) max_ms: f64,
}

impl Run {
    /// Answers per second.
    pub(crate) fn per_second(&self) -> f64 {
        self.requests as f64 / self.seconds
    }

    /// A latency by its quantile.
    pub(crate) fn latency_ms(&self, q: f64) -> f64 {
        self.quantiles
            .iter()
            .find(|quantile| (quantile.q - q).abs() < 1e-9)
            .map_or(f64::NAN, |quantile| quantile.ms)
    }

    /// What a table shows of a run.
    fn figures(&self) -> [(&'static str, &'static str, Better, f64); 6] {
        use Better::{Higher, Lower};
        [
            ("throughput", "req/s", Higher, self.per_second()),
            ("mean", "ms", Lower, self.mean_ms),
            ("p50", "ms", Lower, self.latency_ms(0.5)),
            ("p99", "ms", Lower, self.latency_ms(0.99)),
            ("p99.9", "ms", Lower, self.latency_ms(0.999)),
            ("max", "ms", Lower, self.latency_ms(1.0)),
        ]
    }
}

impl Point {
    /// One that nothing has been measured at yet.
    pub(crate) fn new(series: impl Into<String>, load: impl Into<String>) -> Self {
        Self {
            series: series.into(),
            load: load.into(),
            x: None,
            x_name: String::new(),
            figures: Vec::new(),
            runs: Vec::new(),
        }
    }

    /// The same with a place on an axis.
    pub(crate) fn at(mut self, x: f64, x_name: &str) -> Self {
        self.x = Some(x);
        x_name.clone_into(&mut self.x_name);
        self
    }

    /// Adds the value of one repetition.
    pub(crate) fn add(&mut self, name: &str, unit: &str, better: Better, value: f64) {
        match self.figures.iter_mut().find(|figure| figure.name == name) {
            Some(figure) => figure.values.push(value),
            None => self.figures.push(Figure {
                name: name.to_owned(),
                unit: unit.to_owned(),
                better,
                values: vec![value],
            }),
        }
    }

    /// Adds a run, and its figures.
    pub(crate) fn add_run(&mut self, run: Run) {
        for (name, unit, better, value) in run.figures() {
            self.add(name, unit, better, value);
        }
        if run.never_sent > 0 {
            self.add(
                "never sent",
                "requests",
                Better::Lower,
                run.never_sent as f64,
            );
        }
        self.runs.push(run);
    }

    /// A figure by its name.
    pub(crate) fn figure(&self, name: &str) -> Option<&Figure> {
        self.figures.iter().find(|figure| figure.name == name)
    }

    /// The median of a figure.
    pub(crate) fn median(&self, name: &str) -> Option<f64> {
        self.figure(name).map(Figure::median)
    }
}

impl Figure {
    /// The value in the middle.
    pub(crate) fn median(&self) -> f64 {
        let sorted = self.sorted();
        match (sorted.len(), sorted.len() / 2) {
            (0, _) => f64::NAN,
            (count, middle) if count % 2 == 1 => sorted[middle],
            (_, middle) => f64::midpoint(sorted[middle - 1], sorted[middle]),
        }
    }

    /// The smallest and the largest value.
    pub(crate) fn spread(&self) -> (f64, f64) {
        let sorted = self.sorted();
        let end = |value: Option<&f64>| value.copied().unwrap_or(f64::NAN);
        (end(sorted.first()), end(sorted.last()))
    }

    fn sorted(&self) -> Vec<f64> {
        let mut sorted = self.values.clone();
        sorted.sort_by(f64::total_cmp);
        sorted
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_median_is_the_value_in_the_middle() {
        let mut point = Point::new("a", "b");
        for value in [3.0, 1.0, 10.0] {
            point.add("f", "ms", Better::Lower, value);
        }
        assert_eq!(point.median("f"), Some(3.0));
        assert_eq!(point.figures[0].spread(), (1.0, 10.0));
        point.add("f", "ms", Better::Lower, 4.0);
        assert_eq!(point.median("f"), Some(3.5));
    }
}
