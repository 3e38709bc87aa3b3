//! The audit log alone. Its crate has the benchmark; here it gets a server and becomes a report.

use std::{collections::BTreeMap, process::Stdio};

use anyhow::{Context, Result, ensure};
use e2e::case::Case;
use serde::Deserialize;

use crate::{
    cli::AuditArgs,
    deployment::{Database, cargo_bench},
    report::{Better, Point},
};

use super::Found;

/// A line of the benchmark.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Line {
    store: String,
    batch: u32,
    under_way: u32,
    records_per_second: f64,
}

/// Starts a database and runs the benchmark.
///
/// # Errors
/// It does not compile, or a write fails.
pub(crate) async fn run(args: &AuditArgs) -> Result<Found> {
    let mut points: Vec<Point> = Vec::new();
    let mut settings = BTreeMap::from([
        ("each point".to_owned(), format!("{} s", args.seconds)),
        ("repetitions".to_owned(), args.repeat.to_string()),
    ]);
    for _ in 0..args.repeat {
        let case = Case::new()?;
        let database = Database::start(&case, args.sync_on_commit).await?;
        let sync = if args.sync_on_commit {
            ", sync on commit"
        } else {
            ""
        };
        settings.insert("mongo".to_owned(), format!("{}{sync}", database.program));
        let file = case.folder().join("audit.db");
        let output = cargo_bench(&["audit"])
            .args([
                "--mongo",
                &database.uri(),
                "--seconds",
                &args.seconds.to_string(),
            ])
            .arg("--sqlite")
            .arg(&file)
            .stderr(Stdio::inherit())
            .output()
            .await
            .context("start cargo")?;
        ensure!(
            output.status.success(),
            "the benchmark of the audit log failed"
        );
        for line in String::from_utf8(output.stdout)?.lines() {
            let line: Line = serde_json::from_str(line).with_context(|| format!("{line:?}"))?;
            let new = Point::new(
                format!("{}, {} under way", line.store, line.under_way),
                format!("batches of {}", line.batch),
            );
            let same = |point: &&mut Point| point.series == new.series && point.load == new.load;
            if points.iter_mut().find(same).is_none() {
                points.push(new.clone().at(f64::from(line.batch), "records in a batch"));
            }
            if let Some(point) = points.iter_mut().find(same) {
                point.add(
                    "records",
                    "records/s",
                    Better::Higher,
                    line.records_per_second,
                );
            }
        }
    }
    Ok(Found {
        title: "The audit log alone: records a second".to_owned(),
        settings,
        points,
        ..Found::default()
    })
}
