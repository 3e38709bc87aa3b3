//! What is shown while a scenario runs: a bar on a terminal, else a line for each run.

use std::{
    io::IsTerminal as _,
    time::{Duration, Instant},
};

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

use crate::report::{Run, number};

/// Steps of the bar for each run.
const STEPS: u64 = 100;

/// The progress of a scenario.
#[derive(Debug)]
pub(crate) struct Progress {
    bar: Option<ProgressBar>,
    runs_done: u64,
    runs: u64,
    label: String,
    told: Instant,
    told_answers: u64,
}

impl Progress {
    /// For so many runs.
    pub(crate) fn new(runs: usize) -> Self {
        let runs = runs as u64;
        let bar = std::io::stderr().is_terminal().then(|| {
            let bar = ProgressBar::with_draw_target(
                Some(runs * STEPS),
                ProgressDrawTarget::stderr_with_hz(5),
            );
            let style = "{elapsed_precise} [{bar:30}] {percent:>3}%  {msg}";
            let style = ProgressStyle::with_template(style).expect("the template is one");
            bar.set_style(style.progress_chars("━╸ "));
            bar
        });
        Self {
            bar,
            runs_done: 0,
            runs,
            label: String::new(),
            told: Instant::now(),
            told_answers: 0,
        }
    }

    /// A run begins.
    pub(crate) fn begin(&mut self, label: &str) {
        label.clone_into(&mut self.label);
        self.told = Instant::now();
        self.told_answers = 0;
        if let Some(bar) = &self.bar {
            bar.set_message(format!("{label}: warming up"));
        }
    }

    /// So much of it is done.
    pub(crate) fn at(&mut self, answers: u64, elapsed: Duration, measured: Option<Duration>) {
        let Some(bar) = &self.bar else { return };
        let since = self.told.elapsed().as_secs_f64();
        let per_second = (answers - self.told_answers.min(answers)) as f64 / since.max(1e-3);
        (self.told, self.told_answers) = (Instant::now(), answers);
        if let Some(measured) = measured {
            let part = elapsed.as_secs_f64() / measured.as_secs_f64();
            bar.set_position(self.runs_done * STEPS + (part.min(1.0) * STEPS as f64) as u64);
        }
        bar.set_message(format!("{}: {per_second:.0} req/s", self.label));
    }

    /// A run is over.
    pub(crate) fn done(&mut self, run: &Run) {
        self.runs_done += 1;
        match &self.bar {
            Some(bar) => bar.set_position(self.runs_done * STEPS),
            None => line(&format!(
                "{}/{} {}: {} req/s, p50 {} ms, p99 {} ms",
                self.runs_done,
                self.runs,
                self.label,
                number(run.per_second()),
                number(run.latency_ms(0.5)),
                number(run.latency_ms(0.99)),
            )),
        }
    }

    /// Everything is over.
    pub(crate) fn finish(&self) {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
    }
}

#[expect(clippy::print_stderr, reason = "progress is told on the terminal")]
fn line(text: &str) {
    eprintln!("{text}");
}
