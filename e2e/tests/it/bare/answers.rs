//! Right answers.

use anyhow::{Result, ensure};
use e2e::{
    bare::Bare,
    bodies::{FIVE, awkward, empty, quoted},
    case::run,
    http, load,
    records::says,
};
use http_body_util::Full;
use hyper::Request;

#[test]
fn the_five_bodies_answer_exactly() {
    run(async |case| {
        let bare = Bare::new(case)?;
        let up = bare.up(1, 1, 1).await?;
        for (body, answer) in FIVE {
            http::task(up.http(), body).await?.expect_body(answer)?;
        }
        http::get(up.http(), "/")
            .await?
            .expect_body(r#"{"message":"OK"}"#)
    });
}

#[test]
fn strings_and_numbers_that_are_easily_spoilt_come_back_right() {
    run(async |case| {
        let bare = Bare::new(case)?;
        let up = bare.up(1, 1, 1).await?;
        for question in awkward().into_iter().chain(quoted()).chain([empty()]) {
            let answer = http::task(up.http(), question.body.clone()).await?;
            ensure!(answer.status == 200, "{question:?}: {}", answer.text());
            let result = &answer.json()?["result"];
            ensure!(
                *result == question.result,
                "{question:?}: {}",
                answer.text()
            );
        }
        Ok(())
    });
}

#[test]
fn a_repeated_body_gets_the_same_answer_from_the_log() {
    run(async |case| {
        let bare = Bare::new(case)?;
        let up = bare.up(1, 1, 1).await?;
        for _ in 0..3 {
            http::task(up.http(), FIVE[3].0)
                .await?
                .expect_body(FIVE[3].1)?;
        }
        let records = bare.records().await?;
        let tasks = records.tasks().await?;
        let divisions: Vec<_> = tasks
            .iter()
            .filter(|task| says(task, "subtask", "DIVIDE"))
            .collect();
        ensure!(
            divisions.len() == 3,
            "each request has its record: {divisions:?}"
        );
        let first = divisions[0].get_object_id("_id")?.to_hex();
        for task in divisions {
            let (_, response) = records.check_answered(task).await?;
            ensure!(response == "0.5714285714285714", "{response}");
            if let Ok(from) = task.get_str("answeredFromId") {
                ensure!(from == first, "it points to the first: {task}");
            }
        }
        Ok(())
    });
}

#[test]
fn the_answer_to_identical_bodies_at_once_is_right_for_each() {
    run(async |case| {
        let bare = Bare::new(case)?;
        let up = bare.up(2, 2, 2).await?;
        let addresses = up.addresses();
        let asked = (0..100).map(|n| http::task(addresses[n % 2], FIVE[2].0));
        for answer in futures_util::future::join_all(asked).await {
            answer?.expect_body(FIVE[2].1)?;
        }
        Ok(())
    });
}

#[test]
fn any_content_type_or_none_is_accepted() {
    run(async |case| {
        let bare = Bare::new(case)?;
        let up = bare.up(1, 1, 1).await?;
        for content_type in [
            "application/json",
            "application/x-www-form-urlencoded",
            "text/plain; charset=iso-8859-1",
            "multipart/form-data",
            "nonsense",
        ] {
            let header = ("content-type", content_type);
            let answer = http::task_with(up.http(), FIVE[0].0, header).await?;
            answer.expect_body(FIVE[0].1)?;
            ensure!(
                answer.header("content-type") == Some("application/json"),
                "{answer:?}"
            );
        }
        Ok(())
    });
}

#[test]
fn a_body_of_almost_the_limit_comes_through_all_services() {
    run(async |case| {
        let bare = Bare::new(case)?;
        let up = bare.up(1, 1, 1).await?;
        let long = "😀".repeat((1 << 18) - 10);
        let body = format!(r#"{{"a1":"{long}","a2":"!"}}"#);
        ensure!(body.len() < 1 << 20);
        let answer = http::task(up.http(), body).await?;
        ensure!(
            answer.status == 200,
            "{} {:.200}",
            answer.status,
            answer.text()
        );
        ensure!(
            answer.json()?["result"] == format!("{long}!"),
            "another text came back"
        );
        Ok(())
    });
}

#[test]
fn a_chunked_body_is_a_body() {
    run(async |case| {
        let bare = Bare::new(case)?;
        let up = bare.up(1, 1, 1).await?;
        let mut raw = http::Raw::connect(up.http()).await?;
        raw.send(
            b"POST /task HTTP/1.1\r\nhost: x\r\nconnection: close\r\ntransfer-encoding: chunked\r\n\r\n\
              9\r\n{\"a1\": 5,\r\n9\r\n\"a2\": 10}\r\n0\r\n\r\n",
        )
        .await?;
        let answer = raw.read_until_closed(http::HANG).await?;
        ensure!(
            answer.starts_with("HTTP/1.1 200") && answer.ends_with(FIVE[0].1),
            "{answer}"
        );
        Ok(())
    });
}

#[test]
fn a_query_and_a_head_request_change_nothing() {
    run(async |case| {
        let bare = Bare::new(case)?;
        let up = bare.up(1, 1, 1).await?;
        let answer = http::post(up.http(), "/task?trace=1", FIVE[0].0).await?;
        answer.expect_body(FIVE[0].1)?;
        let head = http::send(up.http(), Request::head("/").body(Full::default())?).await?;
        ensure!(head.status == 200 && head.body.is_empty(), "{head:?}");
        Ok(())
    });
}

#[test]
fn two_hundred_distinct_bodies_at_once_are_right_and_recorded() {
    run(async |case| {
        let bare = Bare::new(case)?;
        let up = bare.up(2, 2, 3).await?;
        load::ask(&up.addresses(), 0, 200, 200)
            .await?
            .ensure_all_right()?;
        // No waiting: what is answered is recorded.
        check_records(&bare, 200).await
    });
}

async fn check_records(bare: &Bare<'_>, count: usize) -> Result<()> {
    let records = bare.records().await?;
    let mut answered = std::collections::BTreeMap::new();
    let mut request_ids = std::collections::BTreeSet::new();
    for task in records.asked().await? {
        let (request, response) = records.check_answered(&task).await?;
        ensure!(says(&task, "status", "answered"), "{task}");
        let is_new = request_ids.insert(task.get_str("fromRequestId")?.to_owned());
        ensure!(is_new, "two records of one request: {task}");
        let request: serde_json::Value = serde_json::from_str(&request)?;
        ensure!(
            answered.insert(request.to_string(), response).is_none(),
            "twice: {request}"
        );
    }
    ensure!(
        answered.len() == count,
        "{} records, not {count}",
        answered.len()
    );
    for number in 0..u32::try_from(count)? {
        let question = e2e::bodies::question(number);
        let body: serde_json::Value = serde_json::from_str(&question.body)?;
        let response = answered.get(&body.to_string());
        ensure!(
            response == Some(&question.result),
            "{question:?} is recorded as {response:?}"
        );
    }
    Ok(())
}
