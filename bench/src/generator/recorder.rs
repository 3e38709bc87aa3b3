//! What a run measured: a histogram of the latencies, and the same in slices of time.

use std::time::{Duration, Instant};

use hdrhistogram::Histogram;

use crate::report::{Quantile, Run, Slice};

/// Latencies are kept in nanoseconds with three digits, up to a minute.
const LATENCY_MAX: Duration = Duration::from_secs(60);
/// Slices of a run: as many as a plot shows well.
const SLICES: u32 = 60;
/// A slice is at least so long that it holds some answers.
const SLICE_MIN: Duration = Duration::from_millis(100);

/// The quantiles that are reported; the last is the maximum.
const QUANTILES: [f64; 15] = [
    0.0, 0.1, 0.25, 0.5, 0.75, 0.9, 0.95, 0.975, 0.99, 0.995, 0.999, 0.9995, 0.9999, 0.99999, 1.0,
];

/// Takes latencies while it is on.
#[derive(Debug)]
pub(crate) struct Recorder {
    latencies: Histogram<u64>,
    /// From when on; `None` before the warm-up is over.
    began: Option<Instant>,
    ended: Option<Instant>,
    slice_length: Duration,
    slice: Histogram<u64>,
    slices: Vec<Slice>,
    answers: u64,
    never_sent: u64,
}

impl Recorder {
    /// For a run that is measured for about so long.
    pub(crate) fn new(measured: Duration) -> Self {
        Self {
            latencies: histogram(),
            began: None,
            ended: None,
            slice_length: (measured / SLICES).max(SLICE_MIN),
            slice: histogram(),
            slices: Vec::new(),
            answers: 0,
            never_sent: 0,
        }
    }

    /// What is done from now on counts.
    pub(crate) fn begin(&mut self, now: Instant) {
        self.began = Some(now);
    }

    /// What is done from now on does not count.
    pub(crate) fn end(&mut self, now: Instant) {
        self.ended = Some(now);
    }

    /// How many answers there were.
    pub(crate) fn count(&self) -> u64 {
        self.answers
    }

    /// An answer that came at `done` to a request that was due (or sent) at `from`. It is an answer of
    /// the run if it came while the run lasted. Its latency is one of the run's if `belongs` lies in
    /// the run: in a closed loop the moment of the answer, in an open one that at which it was due, so
    /// that those count whose answer comes when the run is over.
    pub(crate) fn record(&mut self, from: Instant, done: Instant, belongs: Instant) {
        let nanos = nanos(done.saturating_duration_since(from));
        if let Some(began) = self.began_before(done) {
            self.close_slices(began, done);
            self.answers += 1;
            self.slice.saturating_record(nanos);
        }
        if self.began_before(belongs).is_some() {
            self.latencies.saturating_record(nanos);
        }
    }

    /// When the run began, if this moment lies in it.
    fn began_before(&self, moment: Instant) -> Option<Instant> {
        let is_over = self.ended.is_some_and(|ended| ended < moment);
        self.began.filter(|&began| began <= moment && !is_over)
    }

    /// A request that was due at `due` and for which no connection was free until `now`, the end. It
    /// would have taken longer than that; to leave it out would make a system look the better the more
    /// it is behind.
    pub(crate) fn never_sent(&mut self, due: Instant, now: Instant) {
        if self.began_before(due).is_some() {
            self.latencies
                .saturating_record(nanos(now.saturating_duration_since(due)));
            self.never_sent += 1;
        }
    }

    /// The run.
    pub(crate) fn finish(mut self, now: Instant) -> Run {
        let began = self.began.unwrap_or(now);
        let ended = self.ended.unwrap_or(now);
        self.close_slices(began, now);
        Run {
            requests: self.answers,
            never_sent: self.never_sent,
            seconds: ended.saturating_duration_since(began).as_secs_f64(),
            mean_ms: self.latencies.mean() / 1e6,
            quantiles: QUANTILES
                .iter()
                .map(|&q| Quantile {
                    q,
                    ms: millis(self.latencies.value_at_quantile(q)),
                })
                .collect(),
            slices: self.slices,
        }
    }

    fn close_slices(&mut self, began: Instant, now: Instant) {
        while let Ok(done) = u32::try_from(self.slices.len())
            && now.saturating_duration_since(began) >= self.slice_length * (done + 1)
        {
            let length = self.slice_length.as_secs_f64();
            self.slices.push(Slice {
                begins_s: f64::from(done) * length,
                per_second: self.slice.len() as f64 / length,
                p50_ms: millis(self.slice.value_at_quantile(0.5)),
                p99_ms: millis(self.slice.value_at_quantile(0.99)),
                max_ms: millis(self.slice.max()),
            });
            self.slice.reset();
        }
    }
}

fn histogram() -> Histogram<u64> {
    let max = u64::try_from(LATENCY_MAX.as_nanos()).unwrap_or(u64::MAX);
    Histogram::new_with_bounds(1_000, max, 3).expect("the bounds are in order")
}

fn nanos(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}

fn millis(nanos: u64) -> f64 {
    nanos as f64 / 1e6
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: Duration = Duration::from_millis(1);

    #[test]
    fn what_is_outside_of_the_run_does_not_count() {
        let start = Instant::now();
        let mut recorder = Recorder::new(Duration::from_secs(6));
        let answer = |recorder: &mut Recorder, at: u32| {
            let done = start + MS * at;
            recorder.record(done - MS, done, done);
        };
        answer(&mut recorder, 10);
        recorder.begin(start + MS * 20);
        answer(&mut recorder, 30);
        answer(&mut recorder, 150);
        recorder.end(start + MS * 220);
        answer(&mut recorder, 230);
        let run = recorder.finish(start + MS * 230);
        assert_eq!(run.requests, 2);
        assert!((run.seconds - 0.2).abs() < 1e-9);
        assert_eq!(run.never_sent, 0);
        assert_eq!(run.slices.len(), 2);
        assert!((run.slices[0].per_second - 10.0).abs() < 1e-9);
    }

    #[test]
    fn a_request_that_was_never_sent_has_waited_at_least_until_the_end() {
        let start = Instant::now();
        let mut recorder = Recorder::new(Duration::from_secs(1));
        recorder.begin(start);
        recorder.record(start, start + MS, start);
        recorder.never_sent(start + MS * 100, start + MS * 1_000);
        recorder.end(start + MS * 1_000);
        let run = recorder.finish(start + MS * 1_000);
        assert_eq!((run.requests, run.never_sent), (1, 1));
        assert!((run.latency_ms(1.0) - 900.0).abs() < 2.0);
    }
}
