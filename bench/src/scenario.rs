//! The scenarios, one file for each.

pub(crate) mod audit;
pub(crate) mod floor;
pub(crate) mod frontend;
pub(crate) mod memory;
pub(crate) mod micro;
pub(crate) mod mix;
pub(crate) mod peers;
pub(crate) mod scale;
pub(crate) mod task;

use std::{collections::BTreeMap, time::Duration};

use anyhow::Result;
use e2e::case::Case;

use crate::{
    cli::Measuring,
    deployment::workspace,
    generator::{self, Extent, Load, Nobody},
    measure::{System, measure},
    questions::Kind,
    report::{Machine, Point, Report},
};

/// Measures with a folder of its own. Where that fails, the logs of what was started for it are kept,
/// and the error says where.
///
/// # Errors
/// Those of the measurement; there is no such folder.
pub(crate) async fn in_case<T>(measure: impl AsyncFnOnce(&Case) -> Result<T>) -> Result<T> {
    in_cases(1, async |cases| measure(&cases[0]).await).await
}

/// The same with so many folders.
///
/// # Errors
/// Those of the measurement; there are no such folders.
pub(crate) async fn in_cases<T>(
    count: usize,
    measure: impl AsyncFnOnce(&[Case]) -> Result<T>,
) -> Result<T> {
    let cases: Vec<_> = (0..count).map(|_| Case::new()).collect::<Result<_>>()?;
    let error = match measure(&cases).await {
        Ok(measured) => return Ok(measured),
        Err(error) => error,
    };
    let kept = cases.into_iter().map(|case| match case.keep() {
        Ok(kept) => format!("logs in {}", kept.display()),
        Err(lost) => format!("no logs ({lost:#})"),
    });
    let kept = kept.collect::<Vec<_>>().join(", ");
    Err(error.context(format!("no result; {kept}")))
}

/// Asks a deployment of ours until its database holds records of the kind that it writes from then on:
/// with the first ones, documents of texts are written in any case. They are there, if they are written,
/// when this returns.
///
/// # Errors
/// It fails, or has a wrong answer.
pub(crate) async fn leave_records(ours: &System) -> Result<()> {
    let extent = Extent::Time {
        warm_up: Duration::ZERO,
        measured: Duration::from_secs(1),
    };
    let load = Load::Closed { connections: 1 };
    generator::run(&ours.target, load, extent, &mut Nobody).await?;
    tokio::time::sleep(Duration::from_millis(200)).await;
    Ok(())
}

/// What a scenario hands back.
#[derive(Debug, Default)]
pub(crate) struct Found {
    pub(crate) title: String,
    pub(crate) settings: BTreeMap<String, String>,
    pub(crate) points: Vec<Point>,
    pub(crate) findings: Vec<String>,
    pub(crate) others: Vec<String>,
}

impl Found {
    /// The whole report.
    pub(crate) async fn into_report(self, scenario: &str, date: String) -> Result<Report> {
        Ok(Report {
            scenario: scenario.to_owned(),
            title: self.title,
            date,
            commit: commit().await,
            machine: Machine::here(),
            command: command(),
            settings: self.settings,
            points: self.points,
            findings: self.findings,
            others: self.others,
        })
    }
}

impl Measuring {
    /// The loads asked for.
    pub(crate) fn loads(&self) -> Vec<Load> {
        if self.rate.is_empty() {
            let connections = self.connections.iter();
            return connections
                .map(|&connections| Load::Closed { connections })
                .collect();
        }
        let connections = self.open_connections;
        let open = |&per_second| Load::Open {
            per_second,
            connections,
        };
        self.rate.iter().map(open).collect()
    }

    /// How long each is measured.
    pub(crate) fn measured(&self) -> Duration {
        Duration::from_secs_f64(self.seconds)
    }

    /// How long each takes.
    pub(crate) fn extent(&self) -> Extent {
        Extent::Time {
            warm_up: Duration::from_secs_f64(self.warm_up),
            measured: self.measured(),
        }
    }

    /// Measures these systems.
    ///
    /// # Errors
    /// A run fails, or has a wrong answer.
    pub(crate) async fn measure(&self, systems: &[System]) -> Result<Vec<Point>> {
        measure(systems, &self.loads(), self.extent(), self.repeat).await
    }

    /// For the report.
    pub(crate) fn settings(&self) -> BTreeMap<String, String> {
        BTreeMap::from([
            (
                "each run".to_owned(),
                format!("{} s, after {} s of warm-up", self.seconds, self.warm_up),
            ),
            ("repetitions".to_owned(), self.repeat.to_string()),
        ])
    }
}

/// The throughput of one beside another's, load by load.
fn ratios(points: &[Point], one: &str, other: &str) -> Vec<String> {
    let throughput = |series: &str, load: &str| {
        points
            .iter()
            .find(|point| point.series == series && point.load == load)
            .and_then(|point| point.median("throughput"))
    };
    let loads = points.iter().filter(|point| point.series == one);
    let ratios: Vec<_> = loads
        .filter_map(|point| {
            let ratio = throughput(one, &point.load)? / throughput(other, &point.load)?;
            Some(format!("{ratio:.2} at {}", point.load))
        })
        .collect();
    match ratios.is_empty() {
        true => Vec::new(),
        false => vec![format!(
            "throughput, {one} / {other}: {}",
            ratios.join(", ")
        )],
    }
}

/// Where a frontend answers unless it is told otherwise; those of a scenario are gone when its report is
/// read.
const USUAL: &str = "127.0.0.1:4000";

/// How `ab` and `oha` do the same work, as far as they can: neither checks the answers, and neither asks
/// distinct bodies.
fn others(http: &str, kind: Kind, measuring: &Measuring) -> Vec<String> {
    let seconds = measuring.seconds;
    let connections = measuring.connections.iter().copied().max().unwrap_or(1);
    let loop_of = format!("-c {connections}");
    match kind {
        Kind::Root => vec![
            format!("ab -k {loop_of} -t {seconds} -n 10000000 http://{http}/"),
            format!("oha -z {seconds}s {loop_of} http://{http}/"),
        ],
        Kind::OneBody | Kind::Distinct | Kind::EveryOperation => vec![
            "# One body: answered from the log after the first time.".to_owned(),
            r#"echo '{"a1": 5, "a2": 10}' > body.json"#.to_owned(),
            format!(
                "ab -k {loop_of} -t {seconds} -n 10000000 -p body.json -T application/json http://{http}/task"
            ),
            format!("oha -z {seconds}s {loop_of} -m POST -D body.json http://{http}/task"),
        ],
    }
}

/// How we were called, with the program's name alone.
fn command() -> String {
    let arguments = std::env::args().skip(1);
    std::iter::once("bench".to_owned())
        .chain(arguments)
        .collect::<Vec<_>>()
        .join(" ")
}

async fn commit() -> String {
    let git = async |arguments: &[&str]| {
        let output = tokio::process::Command::new("git")
            .args(arguments)
            .current_dir(workspace())
            .output()
            .await
            .ok()?;
        let text = String::from_utf8_lossy(&output.stdout).trim().to_owned();
        output.status.success().then_some(text)
    };
    let Some(commit) = git(&["rev-parse", "--short", "HEAD"]).await else {
        return "unknown".to_owned();
    };
    match git(&["status", "--porcelain", "--untracked-files=no"]).await {
        Some(changes) if !changes.is_empty() => format!("{commit}+"),
        _ => commit,
    }
}
