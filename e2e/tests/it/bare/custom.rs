//! Tasks of people's own: the example backends, and the file that says who does what.

use std::{net::SocketAddr, time::Duration};

use anyhow::{Result, ensure};
use e2e::{
    bare::{Bare, Kind, Up},
    bodies::FIVE,
    case::run,
    http,
    until::{SOON, until_true},
};

/// Waits until a task of its own is answered: its backend is found.
pub(super) async fn found(http: SocketAddr, path: &str, body: &str) -> Result<()> {
    until_true("the backend to be found", SOON, async || {
        let answer = http::post(http, path, body.to_owned()).await?;
        ensure!(answer.status == 200, "{}", answer.text());
        Ok(true)
    })
    .await
}

async fn with_slow(bare: &Bare<'_>) -> Result<Up> {
    let mut up = bare.up(1, 1, 1).await?;
    let mut slow = bare.start(Kind::Slow)?;
    slow.ready().await?;
    found(up.http(), "/task/SLOW/SLEEP", r#"{"ms": 1}"#).await?;
    up.backends.push(slow);
    Ok(up)
}

#[test]
fn a_task_of_ones_own_is_answered() {
    run(async |case| {
        let bare = Bare::new(case)?;
        let up = bare.up(1, 1, 1).await?;
        let mut greeting = bare.start(Kind::Greeting)?;
        greeting.ready().await?;
        found(up.http(), "/task/GREETING/HELLO", r#"{"name": "first"}"#).await?;
        let answer = http::post(up.http(), "/task/GREETING/HELLO", r#"{"name": "Ada 😀"}"#).await?;
        ensure!(answer.status == 200, "{answer:?}");
        let result = answer.json()?["result"]
            .as_str()
            .unwrap_or_default()
            .to_owned();
        ensure!(result.contains("Ada 😀"), "{result}");
        http::task(up.http(), FIVE[0].0)
            .await?
            .expect_body(FIVE[0].1)
    });
}

#[test]
fn arithmetic_is_reached_by_its_own_path_too() {
    run(async |case| {
        let bare = Bare::new(case)?;
        let up = bare.up(1, 1, 1).await?;
        let answer = http::post(up.http(), "/task/NUMBER/DIVIDE", r#"{"x": 1, "y": 4}"#).await?;
        answer.expect_body(r#"{"message":"OK","result":"0.25"}"#)
    });
}

#[test]
fn a_task_nobody_knows_is_told() {
    run(async |case| {
        let bare = Bare::new(case)?;
        let up = bare.up(1, 1, 1).await?;
        let answer = http::post(up.http(), "/task/NONSENSE/AT_ALL", "{}").await?;
        let problem = answer.expect_problem(422, "unknown_task")?;
        let detail = problem["detail"].as_str().unwrap_or_default();
        ensure!(detail.contains("NONSENSE"), "{detail}");
        // The service is there, but has no such handler.
        let answer = http::post(up.http(), "/task/NUMBER/MODULO", r#"{"a": 1, "b": 2}"#).await?;
        answer.expect_problem(422, "unknown_task")?;
        Ok(())
    });
}

#[test]
fn a_handler_that_panics_fails_its_task_and_nothing_else() {
    run(async |case| {
        let bare = Bare::new(case)?;
        let mut up = with_slow(&bare).await?;
        for _ in 0..5 {
            let answer = http::post(up.http(), "/task/SLOW/PANIC", "{}").await?;
            answer.expect_problem(500, "task_panicked")?;
        }
        found(up.http(), "/task/SLOW/SLEEP", r#"{"ms": 2}"#).await?;
        up.ensure_all_running()
    });
}

#[test]
fn a_task_with_an_effect_runs_once_per_request_and_is_never_answered_from_the_log() {
    run(async |case| {
        let bare = Bare::new(case)?;
        let up = with_slow(&bare).await?;
        for expected in 1..=5 {
            let answer = http::post(up.http(), "/task/SLOW/COUNT", r#"{"key": "k"}"#).await?;
            answer.expect_body(&format!(r#"{{"message":"OK","result":"{expected}"}}"#))?;
        }
        Ok(())
    });
}

#[test]
fn a_changed_task_map_is_read_again_and_a_bad_one_changes_nothing() {
    run(async |case| {
        let bare = Bare::new(case)?;
        let up = bare.up(1, 1, 1).await?;
        let mut greeting = bare.start(Kind::Greeting)?;
        greeting.ready().await?;
        found(up.http(), "/task/GREETING/HELLO", r#"{"name": "before"}"#).await?;

        std::fs::write(bare.task_maps(), r#"{"NUMBER": "backend", "STRING": "#)?;
        until_true("the bad file to be noticed", SOON, async || {
            let log = up.events_services[0].process.log();
            Ok(log.contains("task-maps.json") && log.contains("WARN") || log.contains("ERROR"))
        })
        .await?;
        http::task(up.http(), FIVE[0].0)
            .await?
            .expect_body(FIVE[0].1)?;
        found(up.http(), "/task/GREETING/HELLO", r#"{"name": "still"}"#).await?;

        std::fs::write(
            bare.task_maps(),
            r#"{"NUMBER": "backend", "STRING": "backend"}"#,
        )?;
        until_true("the new map", SOON, async || {
            let answer =
                http::post(up.http(), "/task/GREETING/HELLO", r#"{"name": "after"}"#).await?;
            answer.expect_problem(422, "unknown_task")?;
            Ok(true)
        })
        .await?;
        http::task(up.http(), FIVE[0].0)
            .await?
            .expect_body(FIVE[0].1)
    });
}

#[test]
fn the_time_limit_of_a_task_in_the_map_holds() {
    run(async |case| {
        let bare = Bare::new(case)?;
        let up = with_slow(&bare).await?;
        let map = r#"{"NUMBER": "backend", "STRING": "backend",
                      "SLOW": {"service": "slow", "timeoutMs": 500}}"#;
        std::fs::write(bare.task_maps(), map)?;
        until_true("the limit of the map", SOON, async || {
            let answer = http::post(up.http(), "/task/SLOW/SLEEP", r#"{"ms": 3000}"#).await?;
            answer.expect_problem(504, "deadline_exceeded")?;
            ensure!(
                answer.took < Duration::from_secs(2),
                "took {:?}",
                answer.took
            );
            Ok(true)
        })
        .await
    });
}
