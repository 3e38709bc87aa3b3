//! Two reports beside each other.

use std::{fs, path::Path};

use anyhow::{Context, Result};

use crate::report::{Better, Figure, Report, aligned, number};

/// What the ratio of two figures says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Verdict {
    Better,
    Worse,
    /// Their repetitions overlap, or there are none that could show how far they scatter.
    Unclear,
}

/// A figure of both reports.
#[derive(Debug)]
struct Pair<'r> {
    series: &'r str,
    load: &'r str,
    before: &'r Figure,
    after: &'r Figure,
}

impl Pair<'_> {
    /// The ratio of the medians, and the smallest and largest that the repetitions allow.
    fn ratio(&self) -> (f64, f64, f64) {
        let (before_min, before_max) = self.before.spread();
        let (after_min, after_max) = self.after.spread();
        let ratio = self.after.median() / self.before.median();
        (ratio, after_min / before_max, after_max / before_min)
    }

    fn verdict(&self) -> Verdict {
        let (_, low, high) = self.ratio();
        if self.before.values.len() < 2 || self.after.values.len() < 2 {
            return Verdict::Unclear;
        }
        match self.after.better {
            Better::Higher if low > 1.0 => Verdict::Better,
            Better::Higher if high < 1.0 => Verdict::Worse,
            Better::Lower if high < 1.0 => Verdict::Better,
            Better::Lower if low > 1.0 => Verdict::Worse,
            _ => Verdict::Unclear,
        }
    }
}

/// The table of two report files; `all` with every figure, else without the cost and the rarer
/// percentiles.
///
/// # Errors
/// A file is no report, or they have nothing in common.
pub(crate) fn compare(before: &Path, after: &Path, all: bool) -> Result<String> {
    let (before, after) = (read(before)?, read(after)?);
    let pairs = pairs(&before, &after, all);
    anyhow::ensure!(!pairs.is_empty(), "the reports have no figure in common");
    let mut text = String::new();
    for (name, report) in [("before", &before), ("after", &after)] {
        text += &format!(
            "{name}: {} of {} at {}, {}, {} cores\n",
            report.scenario,
            report.date,
            report.commit,
            report.machine.processor,
            report.machine.cores
        );
    }
    let head = ["what", "load", "figure", "before", "after", "ratio", ""];
    let mut table = vec![head.map(str::to_owned).to_vec()];
    table.extend(pairs.iter().map(row));
    Ok(text + "\n" + &aligned(&table, 3))
}

fn read(path: &Path) -> Result<Report> {
    let text = fs::read_to_string(path).with_context(|| format!("read {}", path.display()))?;
    serde_json::from_str(&text).with_context(|| format!("{} is no report", path.display()))
}

fn pairs<'r>(before: &'r Report, after: &'r Report, all: bool) -> Vec<Pair<'r>> {
    let mut pairs = Vec::new();
    for point in &after.points {
        let same = |other: &&crate::report::Point| {
            other.series == point.series && other.load == point.load
        };
        let Some(other) = before.points.iter().find(same) else {
            continue;
        };
        for figure in &point.figures {
            let is_rare = figure.name.starts_with("cpu") && figure.name != "cpu all"
                || ["mean", "p99.9", "max"].contains(&figure.name.as_str())
                || figure.better == Better::Neither;
            if let Some(before) = other.figure(&figure.name).filter(|_| all || !is_rare) {
                pairs.push(Pair {
                    series: &point.series,
                    load: &point.load,
                    before,
                    after: figure,
                });
            }
        }
    }
    pairs
}

fn row(pair: &Pair<'_>) -> Vec<String> {
    let (ratio, low, high) = pair.ratio();
    let repeated = pair.before.values.len() > 1 || pair.after.values.len() > 1;
    let ratio = if repeated {
        format!("{ratio:.3} ({low:.3}..{high:.3})")
    } else {
        format!("{ratio:.3}")
    };
    let verdict = match pair.verdict() {
        Verdict::Better => "better",
        Verdict::Worse => "worse",
        Verdict::Unclear => "",
    };
    vec![
        pair.series.to_owned(),
        pair.load.to_owned(),
        format!("{} [{}]", pair.after.name, pair.after.unit),
        number(pair.before.median()),
        number(pair.after.median()),
        ratio,
        verdict.to_owned(),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;

    fn figure(better: Better, values: &[f64]) -> Figure {
        Figure {
            name: "f".into(),
            unit: "u".into(),
            better,
            values: values.to_vec(),
        }
    }

    fn verdict(better: Better, before: &[f64], after: &[f64]) -> (f64, Verdict) {
        let (before, after) = (figure(better, before), figure(better, after));
        let pair = Pair {
            series: "s",
            load: "l",
            before: &before,
            after: &after,
        };
        (pair.ratio().0, pair.verdict())
    }

    #[test]
    fn a_ratio_is_of_the_medians() {
        assert_eq!(
            verdict(Better::Higher, &[1.0, 2.0, 9.0], &[3.0, 4.0, 5.0]).0,
            2.0
        );
    }

    #[test]
    fn only_what_lies_apart_is_better_or_worse() {
        use Better::{Higher, Lower};
        assert_eq!(
            verdict(Higher, &[10.0, 11.0], &[12.0, 13.0]).1,
            Verdict::Better
        );
        assert_eq!(
            verdict(Lower, &[10.0, 11.0], &[12.0, 13.0]).1,
            Verdict::Worse
        );
        assert_eq!(
            verdict(Lower, &[12.0, 13.0], &[10.0, 11.0]).1,
            Verdict::Better
        );
        assert_eq!(
            verdict(Higher, &[10.0, 12.5], &[12.0, 13.0]).1,
            Verdict::Unclear
        );
        assert_eq!(verdict(Higher, &[10.0], &[20.0]).1, Verdict::Unclear);
    }
}
