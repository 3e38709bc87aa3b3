//! Every error of the HTTP edge, line by line.

use std::{net::SocketAddr, time::Duration};

use anyhow::{Context, Result, ensure};
use e2e::{
    bare::{Bare, Kind, Service, Up},
    case::{Case, run},
    http::{self, Raw},
    records::says,
};
use http_body_util::Full;
use hyper::{Method, Request};

/// Answers that wait for nobody.
const AT_ONCE: Duration = Duration::from_millis(800);

/// A frontend with nobody behind it: what is refused at the door needs nobody.
async fn door<'c>(case: &'c Case) -> Result<(Bare<'c>, Service)> {
    let bare = Bare::new(case)?;
    let frontend = bare.start(Kind::Frontend)?;
    e2e::until::until_true("the frontend to listen", e2e::until::SOON, async || {
        Ok(http::get(frontend.http, "/livez").await?.status == 200)
    })
    .await?;
    Ok((bare, frontend))
}

#[test]
fn a_body_that_is_no_json_is_refused_with_line_and_column() {
    run(async |case| {
        let (_bare, frontend) = door(case).await?;
        for (body, line, column) in [
            ("{\"a1\": 5, \"a2\": 10", 1, None),
            ("{\"a1\": 5,\n \"a2\": }", 2, Some(8)),
            ("{\"a1\": 5,\n\n  a2: 10}", 3, Some(3)),
            ("hello", 1, Some(1)),
            ("{\"a1\": 05, \"a2\": 1}", 1, None),
            ("{\"a1\": NaN, \"a2\": 1}", 1, None),
            ("{'a1': 5, 'a2': 1}", 1, None),
            ("{\"a1\": 5, \"a2\": 10,}", 1, None),
            ("{\"a1\": 5, \"a2\": 10} x", 1, None),
            ("{\"a1\": 5, \"a2\": 10}{}", 1, None),
            ("{\"a1\": \"a\tb\", \"a2\": \"\"}", 1, None),
            ("{\"a1\": \"\\x41\", \"a2\": \"\"}", 1, None),
            (r#"{"a1": "\ud800", "a2": "x"}"#, 1, None),
            (r#"{"a1": "\udc00\ud800", "a2": "x"}"#, 1, None),
            ("\u{feff}{\"a1\": 5, \"a2\": 10}", 1, None),
        ] {
            let answer = http::task(frontend.http, body).await?;
            let problem = answer.expect_problem(400, "malformed_json").context(body)?;
            let detail = problem["detail"].as_str().unwrap_or_default();
            ensure!(
                detail.contains(&format!("line {line}")),
                "{body:?}: {detail}"
            );
            ensure!(detail.contains("column"), "{body:?}: {detail}");
            if let Some(column) = column {
                ensure!(
                    detail.contains(&format!("column {column}")),
                    "{body:?}: {detail}"
                );
            }
            ensure!(problem["retryable"] == false, "{body:?}: {problem}");
            ensure!(answer.took < AT_ONCE, "{body:?} took {:?}", answer.took);
        }
        Ok(())
    });
}

#[test]
fn a_body_that_is_no_task_is_refused_with_the_rule() {
    run(async |case| {
        let (_bare, frontend) = door(case).await?;
        let deep = format!("{}{}", "[".repeat(10_000), "]".repeat(10_000));
        let deep_in_object = format!(r#"{{"a1": {deep}, "a2": 1}}"#);
        for (body, status, code) in [
            ("", 400, "body_empty"),
            (" \r\n\t", 400, "malformed_json"),
            (r#"{"a1": 5, "a1": 10}"#, 400, "duplicate_key"),
            (r#"{"a1": 5, "\u0061\u0031": 10}"#, 400, "duplicate_key"),
            (r#"{"a1": 5, "a2": 10, "a1": 5}"#, 400, "duplicate_key"),
            ("[1, 2]", 422, "not_an_object"),
            ("\"text\"", 422, "not_an_object"),
            ("5", 422, "not_an_object"),
            ("null", 422, "not_an_object"),
            ("true", 422, "not_an_object"),
            ("{}", 422, "property_count"),
            (r#"{"a1": 5}"#, 422, "property_count"),
            (r#"{"a1": 5, "a2": 10, "a3": 15}"#, 422, "property_count"),
            (r#"{"a1": true, "a2": false}"#, 422, "unsupported_value"),
            (r#"{"a1": null, "a2": 5}"#, 422, "unsupported_value"),
            (r#"{"a1": [5], "a2": 10}"#, 422, "unsupported_value"),
            (r#"{"a1": {"x": 5}, "a2": 10}"#, 422, "unsupported_value"),
            (r#"{"a1": 5, "a2": "10"}"#, 422, "mixed_types"),
            (r#"{"a1": "5", "a2": 10}"#, 422, "mixed_types"),
            (r#"{"x1": 5, "x2": 10}"#, 422, "unknown_operation"),
            (r#"{"": 5, "1": 10}"#, 422, "unknown_operation"),
            (r#"{"a1": 5, "s2": 10}"#, 422, "names_disagree"),
            (r#"{"m1": 5, "d2": 10}"#, 422, "names_disagree"),
            (r#"{"a1": 1e400, "a2": 1}"#, 422, "number_out_of_range"),
            (r#"{"a1": 1, "a2": -1e400}"#, 422, "number_out_of_range"),
        ] {
            let answer = http::task(frontend.http, body).await?;
            let problem = answer.expect_problem(status, code).context(body)?;
            ensure!(problem["retryable"] == false, "{body}: {problem}");
            ensure!(answer.took < AT_ONCE, "{body} took {:?}", answer.took);
        }
        // Too deep for any parser's stack: refused as one or the other, never a crash.
        for body in [deep, deep_in_object] {
            let answer = http::task(frontend.http, body).await?;
            ensure!(matches!(answer.status, 400 | 422), "{answer:?}");
            let code = answer.code().context("no code")?;
            answer.expect_problem(answer.status, &code)?;
        }
        http::get(frontend.http, "/")
            .await?
            .expect_body(r#"{"message":"OK"}"#)
    });
}

#[test]
fn a_name_with_two_letters_goes_by_the_order_of_precedence() {
    run(async |case| {
        let bare = Bare::new(case)?;
        let up = bare.up(1, 1, 1).await?;
        for (body, result) in [
            // "damages" contains all four: a wins; "sum" has s before m; "md" has m before d.
            (r#"{"damages1": 8, "damages2": 2}"#, "10"),
            (r#"{"sum1": 8, "sum2": 2}"#, "6"),
            (r#"{"md1": 8, "md2": 2}"#, "16"),
            (r#"{"d1": 8, "d2": 2}"#, "4"),
            (r#"{"zz": "x", "yy": "y"}"#, "yx"),
        ] {
            let answer = http::task(up.http(), body).await?;
            answer
                .expect_body(&format!(r#"{{"message":"OK","result":"{result}"}}"#))
                .context(body)?;
        }
        Ok(())
    });
}

#[test]
fn work_that_cannot_be_done_is_a_problem_and_is_recorded() {
    run(async |case| {
        let bare = Bare::new(case)?;
        let up = bare.up(1, 1, 1).await?;
        let cannot = [
            (r#"{"d1": 5, "d2": 0}"#, "division_by_zero"),
            (r#"{"d1": 0, "d2": 0}"#, "division_by_zero"),
            (r#"{"d1": 5, "d2": -0.0}"#, "division_by_zero"),
            (r#"{"m1": 1e300, "m2": 1e300}"#, "result_not_finite"),
            (r#"{"a1": 1.7e308, "a2": 1.7e308}"#, "result_not_finite"),
            (r#"{"d1": 1e300, "d2": 1e-300}"#, "result_not_finite"),
        ];
        for (body, code) in cannot {
            let problem = http::task(up.http(), body)
                .await?
                .expect_problem(422, code)
                .context(body)?;
            ensure!(problem["retryable"] == false, "{body}: {problem}");
        }
        let records = bare.records().await?;
        let tasks = records.tasks().await?;
        for (body, code) in cannot {
            let mut found = false;
            for task in &tasks {
                let request = records
                    .referenced("requests", "request", task, "requestBodyId")
                    .await?;
                let same: serde_json::Value = serde_json::from_str(&request)?;
                if same == serde_json::from_str::<serde_json::Value>(body)? {
                    ensure!(says(task, "status", "failed"), "{task}");
                    ensure!(says(task, "reason", code), "{task}");
                    found = true;
                }
            }
            ensure!(found, "no record of {body}");
        }
        Ok(())
    });
}

#[test]
fn what_was_refused_at_the_door_is_not_recorded() {
    run(async |case| {
        let bare = Bare::new(case)?;
        let up = bare.up(1, 1, 1).await?;
        let records = bare.records().await?;
        let before = records.task_count().await?;
        for body in ["", "{", r#"{"a1": 1}"#, r#"{"a1": 5, "s2": 10}"#] {
            let answer = http::task(up.http(), body).await?;
            ensure!(matches!(answer.status, 400 | 422), "{answer:?}");
        }
        ensure!(
            records.task_count().await? == before,
            "a refused request was recorded"
        );
        let metrics = http::get(up.http(), "/metrics").await?.text();
        for code in [
            "body_empty",
            "malformed_json",
            "property_count",
            "names_disagree",
        ] {
            ensure!(metrics.contains(code), "{code} is not counted: {metrics}");
        }
        Ok(())
    });
}

#[test]
fn invalid_utf8_is_refused() {
    run(async |case| {
        let (_bare, frontend) = door(case).await?;
        for body in [
            b"{\"a1\": \"\xff\", \"a2\": \"x\"}".to_vec(),
            b"{\"a1\": \"\xed\xa0\x80\", \"a2\": \"x\"}".to_vec(),
            b"{\"a1\": \"\xc0\x80\", \"a2\": \"x\"}".to_vec(),
            b"\xff\xfe{\x00}\x00".to_vec(),
        ] {
            let answer = http::task(frontend.http, body.clone()).await?;
            answer
                .expect_problem(400, "invalid_utf8")
                .with_context(|| format!("{body:?}"))?;
        }
        Ok(())
    });
}

#[test]
fn a_body_over_the_limit_is_refused() {
    run(async |case| {
        let (_bare, frontend) = door(case).await?;
        let two_mib = vec![b' '; 2 << 20];
        let answer = http::task(frontend.http, two_mib).await?;
        answer.expect_problem(413, "body_too_large")?;

        // Announced: refused before it is sent.
        let mut raw = Raw::connect(frontend.http).await?;
        raw.send(b"POST /task HTTP/1.1\r\nhost: x\r\ncontent-length: 2097152\r\n\r\n")
            .await?;
        let answer = raw.read_until("}", AT_ONCE).await?;
        ensure!(answer.starts_with("HTTP/1.1 413"), "{answer}");

        // Not announced: refused once it is over.
        let mut raw = Raw::connect(frontend.http).await?;
        raw.send(b"POST /task HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\n\r\n")
            .await?;
        let chunk = [b"10000\r\n".to_vec(), vec![b' '; 0x10000], b"\r\n".to_vec()].concat();
        for _ in 0..17 {
            raw.send(&chunk).await?;
        }
        let answer = raw.read_until("}", Duration::from_secs(5)).await?;
        ensure!(answer.starts_with("HTTP/1.1 413"), "{answer}");
        Ok(())
    });
}

#[test]
fn the_limit_of_the_body_is_a_setting() {
    run(async |case| {
        let bare = Bare::new(case)?.with("BODY_BYTES_MAX", "64");
        let up = up_without_answers(&bare).await?;
        let answer = http::task(up.frontends[0].http, vec![b' '; 65]).await?;
        answer.expect_problem(413, "body_too_large")?;
        let answer = http::task(up.frontends[0].http, vec![b' '; 64]).await?;
        answer.expect_problem(400, "malformed_json")?;
        Ok(())
    });
}

async fn up_without_answers(bare: &Bare<'_>) -> Result<Up> {
    let mut up = Up {
        frontends: vec![bare.start(Kind::Frontend)?],
        events_services: vec![bare.start(Kind::EventsService)?],
        backends: vec![bare.start(Kind::Backend)?],
    };
    up.ready().await?;
    Ok(up)
}

#[test]
fn unknown_paths_and_wrong_methods_are_told() {
    run(async |case| {
        let (_bare, frontend) = door(case).await?;
        for path in [
            "/nothing",
            "/task/",
            "/task/NUMBER",
            "/task/NUMBER/ADD/x",
            "//",
        ] {
            let answer = http::get(frontend.http, path).await?;
            answer.expect_problem(404, "not_found").context(path)?;
        }
        for (method, path, allow) in [
            (Method::GET, "/task", &["POST"][..]),
            (Method::PUT, "/task", &["POST"]),
            (Method::DELETE, "/task", &["POST"]),
            (Method::GET, "/task/NUMBER/ADD", &["POST"]),
            (Method::POST, "/", &["GET", "HEAD"]),
            (Method::DELETE, "/metrics", &["GET", "HEAD"]),
            (Method::POST, "/readyz", &["GET", "HEAD"]),
        ] {
            let request = Request::builder()
                .method(&method)
                .uri(path)
                .body(Full::default())?;
            let answer = http::send(frontend.http, request).await?;
            answer
                .expect_problem(405, "method_not_allowed")
                .with_context(|| format!("{method} {path}"))?;
            let allowed = answer.header("allow").context("no Allow")?;
            for method in allow {
                ensure!(allowed.contains(method), "{path}: Allow: {allowed}");
            }
        }
        Ok(())
    });
}

#[test]
fn a_header_that_is_malformed_is_told() {
    run(async |case| {
        let (_bare, frontend) = door(case).await?;
        for value in ["soon", "-1", "0", "1.5", "99999999999999999999", ""] {
            let answer = http::task_with(
                frontend.http,
                r#"{"a1":1,"a2":2}"#,
                ("x-request-timeout-ms", value),
            )
            .await?;
            let problem = answer.expect_problem(400, "bad_header").context(value)?;
            let detail = problem["detail"]
                .as_str()
                .unwrap_or_default()
                .to_lowercase();
            ensure!(detail.contains("x-request-timeout-ms"), "{value}: {detail}");
        }
        Ok(())
    });
}

#[test]
fn nobody_there_is_said_at_once() {
    run(async |case| {
        let (bare, frontend) = door(case).await?;
        let body = r#"{"a1": 5, "a2": 10}"#;
        refused_at_once(frontend.http, body, "no_events_service").await?;

        let mut events_service = bare.start(Kind::EventsService)?;
        events_service.ready().await?;
        refused_at_once(frontend.http, body, "no_backend").await?;

        let mut backend = bare.start(Kind::Backend)?;
        backend.ready().await?;
        e2e::bare::answers(frontend.http).await
    });
}

/// Waits until this is what the frontend says, then holds it to the time.
async fn refused_at_once(frontend: SocketAddr, body: &str, code: &str) -> Result<()> {
    e2e::until::until_true("the refusal", e2e::until::SOON, async || {
        http::task(frontend, body.to_owned())
            .await?
            .expect_problem(503, code)
            .map(|_| true)
    })
    .await?;
    for _ in 0..5 {
        let answer = http::task(frontend, body.to_owned()).await?;
        let problem = answer.expect_problem(503, code)?;
        ensure!(problem["retryable"] == true, "{problem}");
        ensure!(answer.took < AT_ONCE, "took {:?}", answer.took);
        let after: u32 = answer
            .header("retry-after")
            .context("no Retry-After")?
            .parse()?;
        ensure!(after > 0, "Retry-After: {after}");
    }
    Ok(())
}

#[test]
fn a_request_that_is_no_http_is_closed_and_harms_nobody() {
    run(async |case| {
        let (_bare, frontend) = door(case).await?;
        let many_headers = format!("GET / HTTP/1.1\r\n{}\r\n", "x: y\r\n".repeat(10_000));
        let long_header = format!("GET / HTTP/1.1\r\nx: {}\r\n\r\n", "y".repeat(2_000_000));
        for bytes in [
            "\0\0\0\0\r\n\r\n",
            "\x16\x03\x01\x02\0\x01\0\x01\u{7f}",
            "POST /task HTTP/1.1\r\ncontent-length: many\r\n\r\n",
            "GET / HTTP/9.9\r\n\r\n",
            &many_headers,
            &long_header,
        ] {
            let mut raw = Raw::connect(frontend.http).await?;
            // It may be closed before all is sent.
            let sent = raw.send(bytes.as_bytes()).await;
            if sent.is_ok() {
                drop(raw.finish_sending().await);
            }
            raw.read_until_closed(Duration::from_secs(20)).await?;
        }
        http::get(frontend.http, "/")
            .await?
            .expect_body(r#"{"message":"OK"}"#)
    });
}
