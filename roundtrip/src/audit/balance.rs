//! `roundtrip audit balance`: both sides of the ledger, and whether they hold.

use std::{collections::BTreeSet, fmt::Write};

use anyhow::bail;
use events_service::audit::{Balance, BalanceQuery, Finding, SETTLED_AFTER};
use serde_json::json;
use shared::contract::FailureCode;

use super::{counters::Counters, open, printable};
use crate::{
    cli::{self, Output, Window},
    moment::now_unix_ms,
    out::print,
};

/// Widths of the first column and of the numbers.
const NAME: usize = 38;
const NUMBER: usize = 12;

pub(crate) async fn balance(options: cli::Balance) -> anyhow::Result<()> {
    let named: BTreeSet<_> = options.frontend.iter().collect();
    if named.len() < options.frontend.len() {
        bail!("a frontend is named twice with --frontend: it would count twice");
    }
    let log = open(&options.store).await?;
    // The frontends first: an answer that they have counted by now is in the log by then.
    let mut frontends = Vec::new();
    for url in &options.frontend {
        frontends.push(Counters::of(url).await?);
    }
    let settled_after = u64::try_from(SETTLED_AFTER.as_millis()).unwrap_or(u64::MAX);
    let query = BalanceQuery {
        since_unix_ms: options.window.since,
        until_unix_ms: options.window.until,
        settled_before_unix_ms: now_unix_ms().saturating_sub(settled_after),
    };
    let counted = log.balance(&query).await;
    log.close().await;
    let ledger = Ledger {
        window: options.window,
        frontends,
        log: counted?,
    };
    let faults = ledger.faults();
    print(match options.output {
        Output::Text => ledger.text(&faults)?,
        Output::Json => format!("{:#}\n", ledger.json(&faults)),
    })?;
    if !faults.is_empty() {
        bail!("the ledger does not hold");
    }
    Ok(())
}

struct Ledger {
    window: Window,
    frontends: Vec<Counters>,
    log: Balance,
}

impl Ledger {
    /// Frontends count since they started, so they can be compared with the whole log only.
    fn is_compared(&self) -> bool {
        !self.frontends.is_empty() && !self.is_cut()
    }

    fn is_cut(&self) -> bool {
        self.window.since.is_some() || self.window.until.is_some()
    }

    /// Answers that the frontends have given.
    fn given(&self) -> u64 {
        self.frontends
            .iter()
            .map(|frontend| frontend.answered)
            .sum()
    }

    /// Answers that stand in the log, whoever wrote them.
    fn recorded(&self) -> u64 {
        self.log.answered_in_all() + self.log.older.answered
    }

    /// What does not hold, a sentence each.
    fn faults(&self) -> Vec<String> {
        let broken = self.frontends.iter().filter(|frontend| !frontend.holds());
        let mut faults: Vec<String> = broken
            .map(|frontend| {
                format!(
                    "{}: {} offered are not {} answered, {} failed and {} in flight",
                    frontend.url,
                    frontend.offered,
                    frontend.answered,
                    frontend.failed_in_all(),
                    frontend.in_flight
                )
            })
            .collect();
        let (given, recorded) = (self.given(), self.recorded());
        if self.is_compared() && given > recorded {
            faults.push(format!(
                "the frontends gave {given} answers, and {recorded} stand in the log"
            ));
        }
        let log = &self.log;
        for (finding, what) in [
            (&log.overdue, "open past the deadline"),
            (
                &log.contradictory,
                "records that contradict themselves (two results, or an end and none)",
            ),
            (&log.without_response, "answered records without a response"),
            (&log.recorded_twice, "requests with more than one record"),
        ] {
            if let Some(names) = named(finding) {
                faults.push(format!("{} {what}: {names}", finding.count));
            }
        }
        faults
    }

    fn json(&self, faults: &[String]) -> serde_json::Value {
        let mut log = json!(self.log);
        log["executions"] = self.log.executions().into();
        json!({
            "balanced": faults.is_empty(),
            "faults": faults,
            "sinceUnixMs": self.window.since,
            "untilUnixMs": self.window.until,
            "frontends": self.frontends.iter().map(Counters::json).collect::<Vec<_>>(),
            "log": log,
        })
    }

    fn text(&self, faults: &[String]) -> Result<String, std::fmt::Error> {
        let mut out = String::new();
        self.write_sides(&mut out)?;
        self.write_failures(&mut out)?;
        self.write_log(&mut out)?;
        self.write_notes(&mut out)?;
        if faults.is_empty() {
            writeln!(out, "balanced")?;
        }
        for fault in faults {
            writeln!(out, "not balanced: {fault}")?;
        }
        Ok(out)
    }

    /// The equation: what was offered is the sum of the rest.
    fn write_sides(&self, out: &mut String) -> std::fmt::Result {
        let heads = ["OFFERED", "ANSWERED", "FAILED", "IN FLIGHT"];
        row(out, "", heads)?;
        for frontend in &self.frontends {
            let numbers = [
                frontend.offered,
                frontend.answered,
                frontend.failed_in_all(),
                frontend.in_flight,
            ];
            row(out, &frontend.url, numbers)?;
        }
        let log = &self.log;
        let failed = log.failed.values().sum::<u64>() + log.timed_out + log.abandoned;
        let numbers = [log.records, log.answered_in_all(), failed, log.in_flight];
        row(out, "audit log", numbers)
    }

    /// Failures by code.
    fn write_failures(&self, out: &mut String) -> std::fmt::Result {
        let mut logged = self.log.failed.clone();
        for (code, count) in [
            (FailureCode::DeadlineExceeded, self.log.timed_out),
            (FailureCode::Abandoned, self.log.abandoned),
        ] {
            if count > 0 {
                logged.insert(code.to_string(), count);
            }
        }
        let told = self
            .frontends
            .iter()
            .flat_map(|frontend| frontend.failed.keys());
        let codes: BTreeSet<_> = logged.keys().chain(told).collect();
        if codes.is_empty() {
            return Ok(());
        }
        let mut heads = vec!["AUDIT LOG"];
        if !self.frontends.is_empty() {
            heads.insert(0, "FRONTENDS");
        }
        out.push('\n');
        row(out, "FAILED", heads)?;
        for code in codes {
            let told = self
                .frontends
                .iter()
                .filter_map(|frontend| frontend.failed.get(code));
            let told = (!self.frontends.is_empty()).then(|| told.sum::<u64>());
            // What the frontend refuses by itself, under codes of its own, has no record.
            let logged = match logged.get(code) {
                None if FailureCode::from_name(code).is_none() => "-".to_owned(),
                count => count.copied().unwrap_or_default().to_string(),
            };
            let told = told.map(|count| count.to_string());
            row(out, &printable(code), told.into_iter().chain([logged]))?;
        }
        Ok(())
    }

    fn write_log(&self, out: &mut String) -> std::fmt::Result {
        let log = &self.log;
        out.push('\n');
        row(out, "AUDIT LOG", ["RECORDS"])?;
        for (name, number) in [
            ("answered by a backend", log.answered),
            ("answered from another record", log.repeated),
            ("executed by a backend", log.executions()),
            ("open past the deadline", log.overdue.count),
            ("contradictory", log.contradictory.count),
            ("answered without a response", log.without_response.count),
            ("requests with more than one", log.recorded_twice.count),
            ("of older services, not checked", log.older.records),
        ] {
            row(out, name, [number])?;
        }
        out.push('\n');
        row(out, "DISPATCHES", [log.attempts])?;
        row(out, "repeated", [log.attempts_repeated])
    }

    fn write_notes(&self, out: &mut String) -> std::fmt::Result {
        out.push('\n');
        if self.is_compared()
            && let Some(more) = self.recorded().checked_sub(self.given())
            && more > 0
        {
            writeln!(
                out,
                "{more} more answers are recorded than these frontends gave: too late, for a caller \
                 that had gone, by another frontend, or before a restart"
            )?;
        }
        if !self.frontends.is_empty() && self.is_cut() {
            writeln!(
                out,
                "frontends count since they started, and the log's side is cut by --since or \
                 --until: the two are not compared"
            )?;
        }
        Ok(())
    }
}

fn row(
    out: &mut String,
    name: &str,
    cells: impl IntoIterator<Item = impl std::fmt::Display>,
) -> std::fmt::Result {
    write!(out, "{name:<NAME$}")?;
    for cell in cells {
        write!(out, "{cell:>NUMBER$}")?;
    }
    writeln!(out)
}

/// The ids that a finding names, if it found anything.
fn named(finding: &Finding) -> Option<String> {
    if finding.count == 0 {
        return None;
    }
    let mut names = printable(&finding.first.join(", "));
    if finding.count > finding.first.len() as u64 {
        names.push_str(", …");
    }
    Some(names)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ledger(given: &[u64], recorded: u64) -> Ledger {
        let frontend = |answered: &u64| Counters {
            url: "http://f".into(),
            offered: answered + 3,
            answered: *answered,
            failed: [("body_empty".into(), 2)].into(),
            in_flight: 1,
        };
        Ledger {
            window: Window {
                since: None,
                until: None,
            },
            frontends: given.iter().map(frontend).collect(),
            log: Balance {
                records: recorded,
                answered: recorded,
                ..Balance::default()
            },
        }
    }

    #[test]
    fn no_frontend_may_have_given_more_answers_than_are_recorded() {
        assert!(ledger(&[], 5).faults().is_empty());
        assert!(ledger(&[2, 3], 5).faults().is_empty());
        assert!(ledger(&[2, 3], 6).faults().is_empty());
        let faults = ledger(&[2, 3], 4).faults();
        assert_eq!(
            faults,
            ["the frontends gave 5 answers, and 4 stand in the log"]
        );
        let mut older = ledger(&[2, 3], 4);
        older.log.older.answered = 1;
        assert!(older.faults().is_empty());
    }

    #[test]
    fn a_part_of_the_log_is_not_compared() {
        let mut part = ledger(&[2, 3], 4);
        part.window.since = Some(1);
        let text = part.text(&part.faults()).expect("memory");
        assert!(text.contains("not compared") && text.ends_with("\nbalanced\n"));
    }

    #[test]
    fn a_frontend_whose_sum_does_not_hold_is_named() {
        let mut broken = ledger(&[2], 2);
        broken.frontends[0].offered += 1;
        let faults = broken.faults();
        assert_eq!(faults.len(), 1);
        assert!(faults[0].starts_with("http://f: 6 offered"), "{faults:?}");
    }

    #[test]
    fn what_must_not_be_is_counted_and_named() {
        let mut log = ledger(&[], 5);
        log.log.overdue = Finding {
            count: 3,
            first: vec!["a".into(), "b\u{7}".into()],
        };
        assert_eq!(log.faults(), ["3 open past the deadline: a, b\\u{7}, …"]);
        let text = log.text(&log.faults()).expect("memory");
        assert!(text.ends_with("not balanced: 3 open past the deadline: a, b\\u{7}, …\n"));
    }
}
