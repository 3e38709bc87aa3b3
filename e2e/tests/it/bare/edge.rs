//! What stands around an answer: ids, health, metrics, limits, settings.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use e2e::{
    bare::{Bare, Kind},
    bodies::FIVE,
    case::run,
    environment, http,
    process::Launch,
    records::says,
    until::{SOON, until_true},
};
use serde_json::Value;

#[test]
fn the_callers_request_id_comes_back_and_is_recorded() {
    run(async |case| {
        let bare = Bare::new(case)?;
        let up = bare.up(1, 1, 1).await?;
        let header = ("x-request-id", "caller-7.of_9:x");
        let answer = http::task_with(up.http(), FIVE[0].0, header).await?;
        answer.expect_body(FIVE[0].1)?;
        ensure!(
            answer.header("x-request-id") == Some(header.1),
            "{answer:?}"
        );
        let tasks = bare.records().await?.tasks().await?;
        let task = tasks
            .iter()
            .find(|task| says(task, "callerRequestId", header.1))
            .with_context(|| format!("not recorded: {tasks:?}"))?;
        ensure!(
            !says(task, "fromRequestId", header.1),
            "the wire's id must be our own"
        );
        Ok(())
    });
}

#[test]
fn two_callers_may_send_the_same_request_id() {
    run(async |case| {
        let bare = Bare::new(case)?;
        let up = bare.up(2, 1, 1).await?;
        let addresses = up.addresses();
        let asked = (0..20).map(|n| {
            let body = format!(r#"{{"a1": {n}, "a2": 0}}"#);
            http::task_with(addresses[n % 2], body, ("x-request-id", "same"))
        });
        for (n, answer) in futures_util::future::join_all(asked)
            .await
            .into_iter()
            .enumerate()
        {
            answer?.expect_body(&format!(r#"{{"message":"OK","result":"{n}"}}"#))?;
        }
        Ok(())
    });
}

#[test]
fn a_request_id_that_is_not_sane_is_replaced() {
    run(async |case| {
        let bare = Bare::new(case)?;
        let up = bare.up(1, 1, 1).await?;
        let long = "x".repeat(5_000);
        for insane in ["", "a b", "<script>", "a\"b", &long] {
            let answer = http::task_with(up.http(), FIVE[0].0, ("x-request-id", insane)).await?;
            answer.expect_body(FIVE[0].1)?;
            let ours = answer.header("x-request-id").context("no X-Request-Id")?;
            ensure!(
                ours != insane && !ours.is_empty(),
                "{ours:?} for {insane:?}"
            );
        }
        Ok(())
    });
}

#[test]
fn every_answer_has_a_request_id_of_its_own() {
    run(async |case| {
        let bare = Bare::new(case)?;
        let up = bare.up(1, 1, 1).await?;
        let mut ids = std::collections::BTreeSet::new();
        for answer in [
            http::task(up.http(), FIVE[0].0).await?,
            http::task(up.http(), FIVE[0].0).await?,
            http::task(up.http(), "").await?,
            http::get(up.http(), "/").await?,
            http::get(up.http(), "/nothing").await?,
            http::get(up.http(), "/task").await?,
            http::get(up.http(), "/readyz").await?,
        ] {
            let id = answer
                .header("x-request-id")
                .with_context(|| format!("{answer:?}"))?;
            ensure!(ids.insert(id.to_owned()), "{id} twice");
        }
        Ok(())
    });
}

#[test]
fn the_services_say_that_they_live_and_are_ready() {
    run(async |case| {
        let bare = Bare::new(case)?;
        let mut up = bare.up(1, 1, 1).await?;
        for service in up.all() {
            let live = http::get(service.http, "/livez").await?;
            ensure!(live.status == 200, "{live:?}");
            let ready = http::get(service.http, "/readyz").await?;
            ensure!(ready.status == 200, "{ready:?}");
            ensure!(
                ready.text().to_lowercase().contains("bus") || ready.text().contains("redis"),
                "per dependency: {}",
                ready.text()
            );
        }
        Ok(())
    });
}

#[test]
fn metrics_are_prometheus_text_and_add_up() {
    run(async |case| {
        let bare = Bare::new(case)?;
        let mut up = bare.up(1, 1, 1).await?;
        for (body, answer) in FIVE {
            http::task(up.http(), body).await?.expect_body(answer)?;
        }
        http::task(up.http(), "{")
            .await?
            .expect_problem(400, "malformed_json")?;
        for service in up.all() {
            let answer = http::get(service.http, "/metrics").await?;
            ensure!(answer.status == 200, "{answer:?}");
            let content_type = answer.header("content-type").unwrap_or_default();
            ensure!(content_type.contains("text"), "{content_type}");
            let text = answer.text();
            ensure!(
                text.contains("# TYPE ") && text.contains("# HELP "),
                "{text}"
            );
            for line in text.lines().filter(|line| !line.starts_with('#')) {
                let (_, value) = line
                    .rsplit_once(' ')
                    .with_context(|| format!("no value: {line}"))?;
                value.parse::<f64>().with_context(|| line.to_owned())?;
            }
        }
        Ok(())
    });
}

#[test]
fn too_many_in_flight_is_told_at_once() {
    run(async |case| {
        let bare = Bare::new(case)?.with("IN_FLIGHT_MAX", "2");
        let up = bare.up(1, 1, 1).await?;
        let mut slow = bare.start(Kind::Slow)?;
        slow.ready().await?;
        sleeps(&up.http(), 1).await?;
        let http = up.http();
        let asked = (0..8).map(|n| {
            http::post(
                http,
                "/task/SLOW/SLEEP",
                format!(r#"{{"ms": {}}}"#, 1_500 + n),
            )
        });
        let (mut right, mut refused) = (0, 0);
        for answer in futures_util::future::join_all(asked).await {
            let answer = answer?;
            if answer.status == 200 {
                right += 1;
            } else {
                let code = answer.code().unwrap_or_default();
                ensure!(
                    (answer.status, code.as_str()) == (429, "too_many_in_flight"),
                    "{answer:?}"
                );
                answer.expect_problem(429, "too_many_in_flight")?;
                ensure!(answer.header("retry-after").is_some(), "{answer:?}");
                ensure!(
                    answer.took < Duration::from_secs(1),
                    "took {:?}",
                    answer.took
                );
                refused += 1;
            }
        }
        ensure!(
            (right, refused) == (2, 6),
            "{right} right, {refused} refused"
        );
        Ok(())
    });
}

async fn sleeps(http: &std::net::SocketAddr, ms: u64) -> Result<()> {
    until_true("the slow backend to be found", SOON, async || {
        let answer = http::post(*http, "/task/SLOW/SLEEP", format!(r#"{{"ms": {ms}}}"#)).await?;
        ensure!(answer.status == 200, "{}", answer.text());
        Ok(true)
    })
    .await
}

#[test]
fn connections_over_the_limit_wait_or_are_refused_and_come_right_later() {
    run(async |case| {
        let bare = Bare::new(case)?.with("CONNECTIONS_MAX", "4");
        let up = bare.up(1, 1, 1).await?;
        let mut held = Vec::new();
        // A connection of the start may still have a place when the first of these are made.
        until_true("all places to be taken", SOON, async || {
            for _ in 0..4 {
                held.push(http::Raw::connect(up.http()).await?);
            }
            let asked =
                tokio::time::timeout(Duration::from_millis(300), http::get(up.http(), "/")).await;
            Ok(!matches!(&asked, Ok(Ok(answer)) if answer.status == 200))
        })
        .await?;
        drop(held);
        until_true("the others to be served", SOON, async || {
            http::get(up.http(), "/")
                .await?
                .expect_body(r#"{"message":"OK"}"#)?;
            Ok(true)
        })
        .await
    });
}

#[test]
fn a_malformed_setting_stops_the_start_with_a_sentence() {
    run(async |case| {
        for (service, name, value) in [
            ("frontend", "PORT", "four thousand"),
            ("frontend", "BODY_BYTES_MAX", "-1"),
            ("frontend", "DEADLINE_MS", "0"),
            ("frontend", "DISCOVERY", "magic"),
            ("events-service", "REDIS_PORT", "70000"),
            ("events-service", "MONGOURI", "mongodb://"),
            ("backend", "DRAIN_TIMEOUT_MS", "1s"),
            ("backend", "EVENT_SERVICE_EVENT", ""),
        ] {
            let program = environment::binary(service)?;
            let launch = Launch::new(case, service, &program);
            let output = launch
                .env(name, value)
                .output(Duration::from_secs(20))
                .await;
            let output = output.with_context(|| format!("{service} with {name}={value:?}"))?;
            ensure!(
                matches!(output.code, Some(1 | 2)),
                "{name}={value:?}: {output:?}"
            );
            let said = output.stderr.to_lowercase().replace('-', "_");
            ensure!(
                said.contains(&name.to_lowercase()),
                "the setting is not named: {output:?}"
            );
            ensure!(
                output.stderr.contains(value),
                "the value is not named: {output:?}"
            );
            ensure!(!output.stderr.contains("panicked"), "{output:?}");
        }
        Ok(())
    });
}

#[test]
fn a_setting_can_be_read_from_a_file() {
    run(async |case| {
        let bare = Bare::new(case)?;
        let file = case.write("deadline", "not a number\n")?;
        let (launch, _) = bare.prepare(Kind::Frontend)?;
        let output = launch
            .env("DEADLINE_MS_FILE", &file)
            .output(Duration::from_secs(20))
            .await?;
        ensure!(matches!(output.code, Some(1 | 2)), "{output:?}");
        ensure!(output.stderr.contains("not a number"), "{output:?}");

        let port = e2e::case::free_port()?;
        let file = case.write("port", &format!("{port}\n"))?;
        let frontend = environment::binary("frontend")?;
        let (redis_host, redis_port) =
            bare.redis_address().rsplit_once(':').context("host:port")?;
        let _process = Launch::new(case, "from-file", &frontend)
            .env("PORT_FILE", &file)
            .env("REDIS_HOST", redis_host)
            .env("REDIS_PORT", redis_port)
            .env("EVENT_SERVICE_EVENT", bare.event_channel())
            .env("CONSUMING_SERVICE_EVENT", bare.consuming_channel())
            .env("DISCOVERY", "presence")
            .start()?;
        let address = std::net::SocketAddr::from(([127, 0, 0, 1], port));
        until_true("the frontend on the port of the file", SOON, async || {
            Ok(http::get(address, "/livez").await?.status == 200)
        })
        .await
    });
}

#[test]
fn a_keep_alive_connection_serves_many_requests() {
    run(async |case| {
        let bare = Bare::new(case)?;
        let up = bare.up(1, 1, 1).await?;
        let mut raw = http::Raw::connect(up.http()).await?;
        // Pipelined: the second request is there before the first answer.
        let one = format!(
            "POST /task HTTP/1.1\r\nhost: x\r\ncontent-length: {}\r\n\r\n{}",
            FIVE[0].0.len(),
            FIVE[0].0
        );
        let two = format!(
            "POST /task HTTP/1.1\r\nhost: x\r\nconnection: close\r\ncontent-length: {}\r\n\r\n{}",
            FIVE[4].0.len(),
            FIVE[4].0
        );
        raw.send(format!("{one}{two}").as_bytes()).await?;
        let answers = raw.read_until_closed(http::HANG).await?;
        let (first, second) = answers.split_once(FIVE[0].1).context(answers.clone())?;
        ensure!(
            first.starts_with("HTTP/1.1 200") && second.ends_with(FIVE[4].1),
            "{answers}"
        );
        Ok(())
    });
}

#[test]
fn a_problem_names_a_stable_type() {
    run(async |case| {
        let bare = Bare::new(case)?;
        let up = bare.up(1, 1, 1).await?;
        let of = async |body: &str| -> Result<Value> {
            http::task(up.http(), body.to_owned()).await?.json()
        };
        let (one, same, other) = (of("{").await?, of("[").await?, of("").await?);
        ensure!(
            one["type"] == same["type"] && one["type"] != other["type"],
            "{one} {same} {other}"
        );
        ensure!(one["title"] == same["title"], "{one} {same}");
        Ok(())
    });
}
