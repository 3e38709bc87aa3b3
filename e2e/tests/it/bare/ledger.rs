//! The ledger: what the frontends counted and what the audit log holds.

use anyhow::{Context, Result, ensure};
use e2e::{
    bare::{Bare, Kind, Up},
    bodies::FIVE,
    case::{Case, run},
    http, load,
    process::Output,
    records::{Records, says},
};
use mongodb::bson::{Document, doc};
use serde_json::Value;

use super::{custom::found, deadline_ms, records::audit_output};

/// Runs `roundtrip audit balance` on both sides.
async fn balance(case: &Case, bare: &Bare<'_>, up: &Up, more: &[&str]) -> Result<Output> {
    let mut arguments = vec!["balance".to_owned()];
    for address in up.addresses() {
        arguments.extend(["--frontend".to_owned(), format!("http://{address}")]);
    }
    let mut arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    arguments.extend(more);
    audit_output(case, bare, &arguments).await
}

fn ensure_balanced(output: Output) -> Result<()> {
    let table = output.success()?;
    ensure!(table.lines().last() == Some("balanced"), "{table}");
    Ok(())
}

async fn answered(records: &Records) -> Result<Document> {
    let tasks = records.tasks().await?;
    let mut answered = tasks
        .into_iter()
        .filter(|task| says(task, "status", "answered"));
    answered.next().context("an answered record")
}

#[test]
fn it_is_balanced_at_any_moment_also_when_requests_fail() {
    run(async |case| {
        let bare = Bare::new(case)?.with("DEADLINE_MS", &deadline_ms());
        let mut up = bare.up(2, 2, 2).await?;
        let mut slow = bare.start(Kind::Slow)?;
        slow.ready().await?;
        found(up.http(), "/task/SLOW/SLEEP", r#"{"ms": 1}"#).await?;
        let addresses = up.addresses();
        let mut victim = up.backends.pop().context("two backends")?;
        load::ask_while(&addresses, 0, 16, async |progress| {
            progress.wait_for_right(100).await?;
            for address in &addresses {
                http::task(*address, r#"{"d1": 1, "d2": 0}"#).await?;
                http::task(*address, r#"{"d1": 1}"#).await?;
                http::post(*address, "/task/NOBODY/KNOWS", "{}").await?;
                http::post(*address, "/task/SLOW/SLEEP", r#"{"ms": 4000}"#).await?;
            }
            ensure_balanced(balance(case, &bare, &up, &[]).await?)?;
            victim.process.kill().await?;
            ensure_balanced(balance(case, &bare, &up, &[]).await?)?;
            progress.wait_for_right(100).await?;
            ensure_balanced(balance(case, &bare, &up, &[]).await?)
        })
        .await?;
        let ledger = balance(case, &bare, &up, &["-o", "json"])
            .await?
            .success()?;
        let ledger: Value = serde_json::from_str(&ledger)?;
        for (side, code, count) in [
            (&ledger["log"], "division_by_zero", 2),
            (&ledger["log"], "unknown_task", 2),
            (&ledger["frontends"][0], "property_count", 1),
            (&ledger["frontends"][1], "unknown_task", 1),
        ] {
            ensure!(side["failed"][code] == count, "{code}: {ledger}");
        }
        let timed_out = ledger["log"]["timedOut"].as_u64().unwrap_or_default();
        ensure!(timed_out >= 2, "{ledger}");
        up.ensure_all_running()
    });
}

#[test]
fn a_record_that_was_tampered_with_is_named() {
    run(async |case| {
        let bare = Bare::new(case)?;
        let up = bare.up(2, 1, 1).await?;
        for address in up.addresses() {
            http::task(address, FIVE[0].0)
                .await?
                .expect_body(FIVE[0].1)?;
        }
        ensure_balanced(balance(case, &bare, &up, &[]).await?)?;
        let records = bare.records().await?;
        let task = answered(&records).await?;
        records
            .tamper(&task, doc! { "reason": "task_failed" })
            .await?;
        let id = task.get_object_id("_id")?.to_hex();

        let output = balance(case, &bare, &up, &[]).await?;
        ensure!(output.code == Some(1), "{output:?}");
        let last = output.stdout.lines().last().unwrap_or_default();
        ensure!(
            last.starts_with("not balanced") && last.contains(&id),
            "{output:?}"
        );
        ensure!(
            output.stderr.contains("the ledger does not hold"),
            "{output:?}"
        );
        let output = balance(case, &bare, &up, &["-o", "json"]).await?;
        ensure!(output.code == Some(1), "{output:?}");
        let ledger: Value = serde_json::from_str(&output.stdout)?;
        ensure!(ledger["balanced"] == false, "{ledger}");
        let expected = serde_json::json!({ "count": 1, "first": [id] });
        ensure!(ledger["log"]["contradictory"] == expected, "{ledger}");
        Ok(())
    });
}

#[test]
fn an_answer_whose_record_is_gone_is_noticed() {
    run(async |case| {
        let bare = Bare::new(case)?;
        let up = bare.up(1, 1, 1).await?;
        http::task(up.http(), FIVE[0].0)
            .await?
            .expect_body(FIVE[0].1)?;
        ensure_balanced(balance(case, &bare, &up, &[]).await?)?;
        let records = bare.records().await?;
        records.remove(&answered(&records).await?).await?;
        let output = balance(case, &bare, &up, &[]).await?;
        ensure!(output.code == Some(1), "{output:?}");
        let last = output.stdout.lines().last().unwrap_or_default();
        ensure!(last.contains("stand in the log"), "{output:?}");
        Ok(())
    });
}
