//! What a scenario showed, and the table of all.

use std::{collections::BTreeMap, fmt, time::Duration};

use super::{
    ledger::Balance,
    load::{Done, LATE, Offered, Outcome, percentile},
};

/// How many examples of what must not be are kept.
const EXAMPLES: usize = 3;

/// A fault while the load went on.
#[derive(Debug, Clone)]
pub struct Fault {
    /// What was done.
    pub what: String,
    /// When it began, from the start of the load.
    pub begun: Duration,
    /// When it was over: for the death of a process the same moment.
    pub over: Duration,
}

/// When requests succeeded again after a fault.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Recovery {
    /// No request failed.
    Unharmed,
    /// From so long after the fault was over on, none failed. Zero: only while it lasted.
    After(Duration),
    /// Not before the next fault, or the end.
    Never,
}

/// Problem documents of one code.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Errors {
    /// How many.
    pub count: usize,
    /// When the first of these requests was due, from the start of the load.
    pub first: Duration,
    /// And the last.
    pub last: Duration,
}

impl Errors {
    fn at(due: Duration) -> Self {
        Self {
            count: 0,
            first: due,
            last: due,
        }
    }

    fn add(&mut self, due: Duration) {
        self.count += 1;
        self.first = self.first.min(due);
        self.last = self.last.max(due);
    }
}

/// What one scenario showed.
#[derive(Debug, Default)]
pub struct Verdict {
    /// Its name.
    pub scenario: String,
    /// The seed that repeats it.
    pub seed: u64,
    /// All requests sent.
    pub offered: usize,
    /// 200 with the right result.
    pub right: usize,
    /// 200 with anything else.
    pub wrong: usize,
    /// Problem documents by status and code.
    pub errors: BTreeMap<String, Errors>,
    /// No answer within a second after the deadline.
    pub hung: usize,
    /// Connections that ended without an answer although nobody killed the frontend.
    pub broken: usize,
    /// Connections that ended since their frontend was killed.
    pub cut_off: usize,
    /// Tasks whose effect happened more than once.
    pub twice: usize,
    /// Answered, and not exactly one completed record with the same answer.
    pub unrecorded: usize,
    /// Records that did not end.
    pub open: usize,
    /// Due, but not sent, since too many requests were outstanding.
    pub held_back: u64,
    /// How late the harness itself sent the latest request.
    pub late_max: Duration,
    /// The latency that half of the right answers did not exceed, and 99 of a hundred.
    pub latency: Option<(Duration, Duration)>,
    /// Each fault, and when requests succeeded again.
    pub faults: Vec<(Fault, Recovery)>,
    /// What else was measured.
    pub notes: Vec<String>,
    /// What must not be, in sentences.
    pub failures: Vec<String>,
}

impl Verdict {
    /// Counts.
    pub(super) fn of(
        scenario: &str,
        seed: u64,
        offered: &Offered,
        balance: &Balance,
        faults: Vec<Fault>,
    ) -> Self {
        let mut verdict = Self {
            scenario: scenario.to_owned(),
            seed,
            offered: offered.done.len(),
            held_back: offered.held_back,
            late_max: offered.late_max,
            twice: balance.twice,
            unrecorded: balance.unrecorded.len(),
            open: balance.open,
            ..Self::default()
        };
        let mut examples = Vec::new();
        for done in &offered.done {
            match &done.outcome {
                Outcome::Right => verdict.right += 1,
                Outcome::Problem(code) => verdict
                    .errors
                    .entry(code.clone())
                    .or_insert_with(|| Errors::at(done.due))
                    .add(done.due),
                Outcome::Hung => {
                    verdict.hung += 1;
                    examples.push(format!("{} hung", describe(done)));
                }
                Outcome::Wrong(what) => {
                    verdict.wrong += 1;
                    examples.push(format!("{}: {what}", describe(done)));
                }
                Outcome::Broken(_)
                    if done.frontend.is_some_and(|at| offered.killed.contains(&at)) =>
                {
                    verdict.cut_off += 1;
                }
                Outcome::Broken(what) => {
                    verdict.broken += 1;
                    examples.push(format!("{}: {what}", describe(done)));
                }
            }
        }
        let right = || {
            offered
                .done
                .iter()
                .filter(|done| done.outcome == Outcome::Right)
        };
        verdict.latency = percentile(50, right()).zip(percentile(99, right()));
        verdict.faults = recoveries(faults, &offered.done);
        verdict.judge(balance);
        verdict.failures.extend(examples.into_iter().take(EXAMPLES));
        verdict
    }

    fn judge(&mut self, balance: &Balance) {
        let counted = [
            (self.wrong, "wrong answers"),
            (
                self.hung,
                "requests without an answer a second after their deadline",
            ),
            (self.broken, "connections that ended without an answer"),
            (
                self.unrecorded,
                "answers without one completed record of them",
            ),
            (
                balance.answered_not_run.len(),
                "answers of an effect that never happened",
            ),
            (self.open, "records that never ended"),
        ];
        for (count, what) in counted {
            if count > 0 {
                self.failures.push(format!("{count} {what}"));
            }
        }
        if self.right == 0 {
            self.failures.push("not one right answer".to_owned());
        }
        let examples = balance.unrecorded.iter().chain(&balance.answered_not_run);
        self.failures.extend(examples.take(EXAMPLES).cloned());
        for (fault, recovery) in &self.faults {
            if *recovery == Recovery::Never {
                let what = format!("requests did not succeed again after: {}", fault.what);
                self.failures.push(what);
            }
        }
    }

    /// Counts errors that a fault of this kind must not cause.
    pub(super) fn allow_errors(&mut self, allowed: impl Fn(&str) -> bool) {
        for (code, errors) in &self.errors {
            if !allowed(code) {
                self.failures.push(format!("{} × {code}", errors.count));
            }
        }
    }

    /// Whether nothing was seen that must not be.
    #[must_use]
    pub fn holds(&self) -> bool {
        self.failures.is_empty()
    }
}

fn describe(done: &Done) -> String {
    format!("{}, due at {:.3?}", done.asked.key, done.due)
}

/// Looks for each fault at the requests that ended after it began and before the next one did: those
/// that the next one cannot have harmed.
fn recoveries(faults: Vec<Fault>, done: &[Done]) -> Vec<(Fault, Recovery)> {
    let begins: Vec<_> = faults.iter().map(|fault| fault.begun).collect();
    let next = begins.into_iter().skip(1).chain([Duration::MAX]);
    faults
        .into_iter()
        .zip(next)
        .map(|(fault, next)| {
            let window = fault.begun..next;
            let seen = || {
                done.iter()
                    .filter(|done| window.contains(&(done.due + done.took)))
            };
            let due = |right: bool| {
                seen()
                    .filter(move |done| (done.outcome == Outcome::Right) == right)
                    .map(|done| done.due)
                    .max()
            };
            let recovery = match (due(false), due(true)) {
                (None, _) => Recovery::Unharmed,
                (Some(failed), Some(right)) if right > failed => {
                    Recovery::After(failed.saturating_sub(fault.over))
                }
                _ => Recovery::Never,
            };
            (fault, recovery)
        })
        .collect()
}

impl fmt::Display for Recovery {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unharmed => f.write_str("none failed"),
            Self::After(Duration::ZERO) => f.write_str("0 s"),
            Self::After(time) => write!(f, "{:.2} s", time.as_secs_f64()),
            Self::Never => f.write_str("never"),
        }
    }
}

/// The names of the columns.
const HEADER: [&str; 13] = [
    "scenario",
    "offered",
    "right",
    "wrong",
    "errors",
    "hung",
    "broken",
    "cut off",
    "twice",
    "unrecorded",
    "open",
    "p50 / p99",
    "succeed again after",
];

fn row(verdict: &Verdict) -> [String; 13] {
    let errors: Vec<_> = verdict
        .errors
        .iter()
        .map(|(code, errors)| format!("{} × {code}", errors.count))
        .collect();
    let recoveries: Vec<_> = verdict
        .faults
        .iter()
        .map(|(fault, recovery)| format!("{}: {recovery}", fault.what))
        .collect();
    [
        verdict.scenario.clone(),
        verdict.offered.to_string(),
        verdict.right.to_string(),
        verdict.wrong.to_string(),
        errors.join(", "),
        verdict.hung.to_string(),
        verdict.broken.to_string(),
        verdict.cut_off.to_string(),
        verdict.twice.to_string(),
        verdict.unrecorded.to_string(),
        verdict.open.to_string(),
        verdict.latency.map_or_else(String::new, |(half, most)| {
            format!("{} / {} ms", half.as_millis(), most.as_millis())
        }),
        recoveries.join("; "),
    ]
}

/// The verdicts as a Markdown table.
#[must_use]
pub fn markdown(verdicts: &[Verdict]) -> String {
    let line = |cells: [String; 13]| format!("| {} |\n", cells.join(" | "));
    let mut text = line(HEADER.map(str::to_owned));
    text += &line(HEADER.map(|_| "---".to_owned()));
    for verdict in verdicts {
        text += &line(row(verdict));
    }
    text
}

/// The verdicts for a terminal: a table of the numbers, and under it what is too long for a column.
#[must_use]
pub fn table(verdicts: &[Verdict]) -> String {
    const ERRORS: usize = 4;
    const COLUMNS: usize = 12;
    let counted = |verdict: &Verdict| {
        let mut cells = row(verdict);
        let errors: usize = verdict.errors.values().map(|errors| errors.count).sum();
        cells[ERRORS] = errors.to_string();
        cells
    };
    let rows: Vec<_> = [HEADER.map(str::to_owned)]
        .into_iter()
        .chain(verdicts.iter().map(counted))
        .collect();
    let mut text = String::new();
    for cells in &rows {
        for (column, cell) in cells.iter().enumerate().take(COLUMNS) {
            let width = rows.iter().map(|row| row[column].len()).max().unwrap_or(0);
            text += &if column == 0 {
                format!("{cell:<width$}")
            } else {
                format!("  {cell:>width$}")
            };
        }
        text.push('\n');
    }
    for verdict in verdicts {
        text += &details(verdict);
    }
    text
}

fn details(verdict: &Verdict) -> String {
    let mut text = format!("\n{} (seed {})\n", verdict.scenario, verdict.seed);
    let mut line = |what: &str| text = format!("{text}  {what}\n");
    for (fault, recovery) in &verdict.faults {
        line(&format!(
            "{:.1} s: {}; requests succeed again after: {recovery}",
            fault.begun.as_secs_f64(),
            fault.what
        ));
    }
    for (code, errors) in &verdict.errors {
        line(&format!(
            "{} × {code}, due from {:.1} to {:.1} s",
            errors.count,
            errors.first.as_secs_f64(),
            errors.last.as_secs_f64()
        ));
    }
    if verdict.held_back > 0 {
        line(&format!(
            "{} requests were due and not sent: too many were outstanding",
            verdict.held_back
        ));
    }
    if verdict.late_max > LATE {
        line(&format!(
            "the harness itself sent requests up to {:.0?} late",
            verdict.late_max
        ));
    }
    for note in &verdict.notes {
        line(note);
    }
    for failure in &verdict.failures {
        line(&format!("FAILED: {failure}"));
    }
    text
}
