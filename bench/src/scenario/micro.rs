//! The criterion benchmarks of the crates, collected into one report.

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
    process::Stdio,
    time::SystemTime,
};

use anyhow::{Context, Result, ensure};
use serde_json::Value;

use crate::{
    cli::MicroArgs,
    deployment::{cargo_bench, target_folder},
    report::{Better, Point},
};

use super::Found;

/// The benchmarks that criterion runs.
const BENCHES: [&str; 3] = ["contract", "placement", "edge"];

/// Runs them all.
///
/// # Errors
/// One does not compile or fails.
pub(crate) async fn run(args: &MicroArgs) -> Result<Found> {
    let begun = SystemTime::now();
    let status = cargo_bench(&BENCHES)
        .args([
            "--noplot",
            "--quiet",
            "--measurement-time",
            &args.seconds.to_string(),
        ])
        .args(["--warm-up-time", &(args.seconds / 3.0).to_string()])
        .stdout(Stdio::null())
        .stderr(Stdio::inherit())
        .status()
        .await
        .context("start cargo")?;
    ensure!(status.success(), "a benchmark failed");
    Ok(Found {
        title: "Single operations, by criterion".to_owned(),
        settings: BTreeMap::from([("each".to_owned(), format!("{} s", args.seconds))]),
        points: results(&target_folder().join("criterion"), begun)?,
        ..Found::default()
    })
}

/// What criterion has written since.
fn results(folder: &Path, since: SystemTime) -> Result<Vec<Point>> {
    let mut points = Vec::new();
    for file in estimates(folder)? {
        if file.metadata()?.modified()? < since {
            continue;
        }
        let read = |path: &Path| -> Result<Value> {
            let text =
                fs::read_to_string(path).with_context(|| format!("read {}", path.display()))?;
            Ok(serde_json::from_str(&text)?)
        };
        let (estimates, names) = (read(&file)?, read(&file.with_file_name("benchmark.json"))?);
        let name = |field: &str| names[field].as_str().context("a benchmark without a name");
        let (group, operation) = (name("group_id")?, name("full_id")?);
        let operation = operation.strip_prefix(group).unwrap_or(operation);
        let mut point = Point::new(group, operation.trim_start_matches('/'));
        let mean = &estimates["mean"];
        let nanos = |value: &Value| value.as_f64().context("no estimate");
        let interval = &mean["confidence_interval"];
        // The bounds stand in for repetitions: criterion has repeated it.
        for value in [
            &interval["lower_bound"],
            &mean["point_estimate"],
            &interval["upper_bound"],
        ] {
            point.add("time", "ns", Better::Lower, nanos(value)?);
        }
        points.push(point);
    }
    points.sort_by(|one, other| (&one.series, &one.load).cmp(&(&other.series, &other.load)));
    Ok(points)
}

/// Every `new/estimates.json` below a folder.
fn estimates(folder: &Path) -> Result<Vec<PathBuf>> {
    let mut found = Vec::new();
    for entry in fs::read_dir(folder).with_context(|| format!("list {}", folder.display()))? {
        let path = entry?.path();
        if path.ends_with("new") && path.join("estimates.json").is_file() {
            found.push(path.join("estimates.json"));
        } else if path.is_dir() {
            found.extend(estimates(&path)?);
        }
    }
    Ok(found)
}
