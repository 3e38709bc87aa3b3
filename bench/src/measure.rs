//! Systems under loads, in turn: when the machine becomes slower for a while, it does so for all of
//! them.

use std::time::Duration;

use anyhow::{Context, Result};

use crate::{
    deployment::{Cost, Spent},
    generator::{self, Extent, Load, Target, Watch},
    progress::Progress,
    report::{Better, Point},
};

/// A system that is up, and what it is asked.
#[derive(Debug)]
pub(crate) struct System {
    /// Its name in the report.
    pub(crate) name: String,
    /// Whom to ask.
    pub(crate) target: Target,
    /// The processes that do the work.
    pub(crate) processes: Vec<(String, u32)>,
}

/// Measures every system under every load, `repeat` times; one point for each pair.
///
/// # Errors
/// A run fails, or has a wrong answer.
pub(crate) async fn measure(
    systems: &[System],
    loads: &[Load],
    extent: Extent,
    repeat: usize,
) -> Result<Vec<Point>> {
    let point = |system: &System, load: Load| load.point(&system.name);
    measure_each(systems, loads, extent, repeat, point).await
}

/// The same, with points that are called otherwise.
///
/// # Errors
/// A run fails, or has a wrong answer.
pub(crate) async fn measure_each(
    systems: &[System],
    loads: &[Load],
    extent: Extent,
    repeat: usize,
    point: impl Fn(&System, Load) -> Point,
) -> Result<Vec<Point>> {
    let mut points: Vec<Point> = systems
        .iter()
        .flat_map(|system| loads.iter().map(|load| point(system, *load)))
        .collect();
    let mut progress = Progress::new(points.len() * repeat);
    for _ in 0..repeat {
        for (place, load) in loads.iter().enumerate() {
            for (number, system) in systems.iter().enumerate() {
                let point = &mut points[number * loads.len() + place];
                once(system, *load, extent, point, &mut progress)
                    .await
                    .with_context(|| format!("{}, {}", point.series, point.load))?;
            }
        }
    }
    progress.finish();
    Ok(points)
}

/// One run, added to its point.
///
/// # Errors
/// It fails, or has a wrong answer.
pub(crate) async fn once(
    system: &System,
    load: Load,
    extent: Extent,
    point: &mut Point,
    progress: &mut Progress,
) -> Result<()> {
    progress.begin(&format!("{}, {}", point.series, point.load));
    let mut watcher = Watcher {
        cost: Cost::of(system.processes.clone()),
        begun: Spent::default(),
        ended: Spent::default(),
        measured: match extent {
            Extent::Time { measured, .. } => Some(measured),
            Extent::Requests(_) => None,
        },
        progress,
    };
    let run = generator::run(&system.target, load, extent, &mut watcher).await?;
    let Watcher { begun, ended, .. } = watcher;
    progress.done(&run);
    let requests = run.requests.max(1) as f64;
    point.add_run(run);
    let mut all = 0.0;
    for (name, nanos) in ended.since(&begun) {
        let micros = nanos as f64 / 1e3 / requests;
        all += micros;
        point.add(&format!("cpu {name}"), "µs/req", Better::Lower, micros);
    }
    point.add("cpu all", "µs/req", Better::Lower, all);
    Ok(())
}

struct Watcher<'p> {
    cost: Cost,
    begun: Spent,
    ended: Spent,
    measured: Option<Duration>,
    progress: &'p mut Progress,
}

impl Watch for Watcher<'_> {
    fn begun(&mut self) {
        self.begun = self.cost.now();
    }

    fn at(&mut self, answers: u64, elapsed: Duration) {
        self.progress.at(answers, elapsed, self.measured);
    }

    fn ended(&mut self) {
        self.ended = self.cost.now();
    }
}
