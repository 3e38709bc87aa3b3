//! The audit log in the database, and the command line that reads it.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use e2e::{
    bare::{Bare, Kind},
    bodies::FIVE,
    case::{Case, run},
    environment, http,
    process::{Launch, Output},
    records::says,
    until::{SOON, until_true},
};
use mongodb::bson::{DateTime, doc, oid::ObjectId};
use serde_json::Value;

use super::custom::found;

/// Runs `roundtrip audit` on the deployment's log.
pub(super) async fn audit_output(
    case: &Case,
    bare: &Bare<'_>,
    arguments: &[&str],
) -> Result<Output> {
    let (uri, name) = bare.database();
    Launch::new(case, "audit", &environment::binary("roundtrip")?)
        .args(["audit"])
        .args(arguments)
        .env("MONGOURI", uri)
        .env("MONGODATABASE", name)
        .output(Duration::from_secs(20))
        .await
}

async fn audit(case: &Case, bare: &Bare<'_>, arguments: &[&str]) -> Result<Value> {
    let arguments = [arguments, &["-o", "json"]].concat();
    let output = audit_output(case, bare, &arguments).await?.success()?;
    serde_json::from_str(&output).with_context(|| output.clone())
}

#[test]
fn a_record_has_the_fields_of_the_contract() {
    run(async |case| {
        let bare = Bare::new(case)?;
        let up = bare.up(1, 1, 1).await?;
        let before = DateTime::now();
        http::task(up.http(), FIVE[3].0)
            .await?
            .expect_body(FIVE[3].1)?;
        let records = bare.records().await?;
        let tasks = records.tasks().await?;
        let task = tasks
            .iter()
            .find(|task| says(task, "subtask", "DIVIDE"))
            .context("no record")?;
        let (request, response) = records.check_answered(task).await?;
        let request: Value = serde_json::from_str(&request)?;
        ensure!(
            request == serde_json::json!({"d1": 4, "d2": 7}),
            "{request}"
        );
        ensure!(response == "0.5714285714285714", "{response}");
        ensure!(says(task, "task", "NUMBER"), "{task}");
        ensure!(says(task, "fromContainerService", "e2e_frontend"), "{task}");
        ensure!(
            says(task, "serviceContainerService", "e2e_events-service"),
            "{task}"
        );
        ensure!(says(task, "toContainerService", "e2e_backend"), "{task}");
        for field in ["fromContainerId", "toContainerId", "serviceContainerId"] {
            let id = task.get_str(field)?;
            let is_id = id.len() == 64 && id.bytes().all(|byte| byte.is_ascii_hexdigit());
            ensure!(is_id, "{field} is no container id: {task}");
        }
        let received = task.get_datetime("fromReceivedTime")?;
        let result = task.get_datetime("toReceivedTime")?;
        let sent = task.get_datetime("fromSentTime")?;
        let slack = Duration::from_secs(1).as_millis() as i64;
        ensure!(
            received.timestamp_millis() >= before.timestamp_millis() - slack,
            "{task}"
        );
        ensure!(received <= result && result <= sent, "{task}");
        ensure!(
            task.get_binary_generic("salt")
                .is_ok_and(|salt| salt.len() == 16),
            "{task}"
        );
        ensure!(task.contains_key("seal"), "{task}");
        Ok(())
    });
}

#[test]
fn equal_texts_are_stored_once() {
    run(async |case| {
        let bare = Bare::new(case)?;
        let up = bare.up(1, 1, 1).await?;
        for body in [
            r#"{"a1": 5, "a2": 10}"#,
            r#"{"a1": 5, "a2": 10}"#,
            r#"{"m1": 3, "m2": 5}"#,
        ] {
            http::task(up.http(), body).await?.expect_body(FIVE[0].1)?;
        }
        let records = bare.records().await?;
        for task in records.asked().await? {
            records.check_answered(&task).await?;
        }
        let responses = records.all("responses").await?;
        let fifteens: Vec<_> = responses
            .iter()
            .filter(|response| says(response, "response", "15"))
            .collect();
        ensure!(fifteens.len() == 1, "{fifteens:?}");
        Ok(())
    });
}

#[test]
fn the_command_line_reads_the_database() {
    run(async |case| {
        let bare = Bare::new(case)?;
        let up = bare.up(1, 1, 1).await?;
        http::task_with(up.http(), FIVE[4].0, ("x-request-id", "find-me")).await?;
        let listed = audit(case, &bare, &["list"]).await?;
        let record = listed
            .as_array()
            .and_then(|records| {
                records
                    .iter()
                    .find(|record| record["callerRequestId"] == "find-me")
            })
            .with_context(|| format!("not listed: {listed}"))?;
        let id = record["id"].as_str().context("no id")?;
        let shown = audit(case, &bare, &["show", id]).await?;
        ensure!(
            shown["response"] == "ab" && shown["status"] == "answered",
            "{shown}"
        );
        Ok(())
    });
}

#[test]
fn older_records_harm_nobody() {
    run(async |case| {
        let bare = Bare::new(case)?;
        let records = bare.records().await?;
        let (request, response) = (ObjectId::new(), ObjectId::new());
        records
            .insert(
                "requests",
                doc! { "_id": request, "request": r#"{"a1":1,"a2":2}"# },
            )
            .await?;
        records
            .insert("responses", doc! { "_id": response, "response": "3" })
            .await?;
        let old = doc! {
            "fromRequestId": "1594824704123-7", "fromContainerId": "f".repeat(64),
            "fromContainerService": "e2e_frontend", "fromReceivedTime": "2020-07-15 14:51:44.123",
            "task": "NUMBER", "subtask": "ADD", "requestBodyId": request.to_hex(),
            "toContainerId": "b".repeat(64), "toContainerService": "old_backend",
            "serviceContainerId": "e".repeat(64), "serviceContainerService": "old_events",
        };
        let mut answered = old.clone();
        answered.extend(doc! {
            "toReceivedTime": "2020-07-15 14:51:44.200", "fromSentTime": "2020-07-15 14:51:44.201",
            "toResponseBodyId": response.to_hex(),
        });
        let mut unanswered = old.clone();
        unanswered.insert("toResponseBodyId", "The request has not been answered yet.");
        for task in [
            old,
            answered,
            unanswered,
            doc! { "task": 7, "requestBodyId": "zzz" },
        ] {
            records.insert("tasks", task).await?;
        }

        let up = bare.up(1, 1, 1).await?;
        let answer = http::task(up.http(), r#"{"a1":1,"a2":2}"#).await?;
        answer.expect_body(r#"{"message":"OK","result":"3"}"#)?;
        let listed = audit(case, &bare, &["list"]).await?;
        let count = listed.as_array().map_or(0, Vec::len);
        ensure!(count >= 5, "{listed}");
        Ok(())
    });
}

#[test]
fn what_a_killed_events_service_left_open_is_ended_by_whoever_comes_back() {
    run(async |case| {
        let bare = Bare::new(case)?.with("DEADLINE_MS", "2000");
        let mut up = bare.up(1, 1, 1).await?;
        let mut slow = bare.start(Kind::Slow)?;
        slow.ready().await?;
        found(up.http(), "/task/SLOW/SLEEP", r#"{"ms": 1}"#).await?;
        let records = bare.records().await?;
        let asked = tokio::spawn(http::post(up.http(), "/task/SLOW/SLEEP", r#"{"ms": 1500}"#));
        until_true("the task to be on its way", SOON, async || {
            records.any_is("open").await
        })
        .await?;
        up.events_services[0].process.kill().await?;
        let mut again = bare.start(Kind::EventsService)?;
        again.ready().await?;
        let answer = asked.await??;
        ensure!(
            answer.status == 200 || answer.code().is_some(),
            "{answer:?}"
        );
        until_true("every record to be ended", SOON, async || {
            records.ensure_all_ended().await.map(|()| true)
        })
        .await
    });
}
