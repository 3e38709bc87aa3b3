//! Time limits, really enforced.

use std::time::Duration;

use anyhow::ensure;
use e2e::{
    bare::{Bare, Kind},
    bodies::FIVE,
    case::run,
    http::{self, Raw},
    process::Signal,
};

use super::{DEADLINE, GRACE, deadline_ms};

/// The limit that these tests set, and how long they wait for it at most.
const LIMIT_MS: &str = "1000";
const ENFORCED: Duration = Duration::from_secs(6);

/// Often enough that a timeout which is only between two bytes never fires.
const DRIP: Duration = Duration::from_millis(100);

#[test]
fn a_client_that_drips_its_headers_is_closed() {
    run(async |case| {
        let bare = Bare::new(case)?.with("HEADER_TIMEOUT_MS", LIMIT_MS);
        let up = bare.up(1, 1, 1).await?;
        let mut raw = Raw::connect(up.http()).await?;
        raw.send(b"POST /task HTTP/1.1\r\nhost: x\r\nx-drip: ")
            .await?;
        raw.drip(b'x', DRIP, ENFORCED).await?;
        http::task(up.http(), FIVE[0].0)
            .await?
            .expect_body(FIVE[0].1)
    });
}

#[test]
fn a_client_that_drips_its_body_is_told_and_closed() {
    run(async |case| {
        let bare = Bare::new(case)?.with("BODY_TIMEOUT_MS", LIMIT_MS);
        let up = bare.up(1, 1, 1).await?;
        let mut raw = Raw::connect(up.http()).await?;
        raw.send(b"POST /task HTTP/1.1\r\nhost: x\r\ncontent-length: 1000\r\n\r\n{")
            .await?;
        let (_, said) = raw.drip(b' ', DRIP, ENFORCED).await?;
        ensure!(said.starts_with("HTTP/1.1 408"), "{said:?}");
        ensure!(
            said.contains("body_timeout") && said.contains(r#""message":"FAIL""#),
            "{said}"
        );
        Ok(())
    });
}

#[test]
fn a_client_that_says_nothing_is_closed() {
    run(async |case| {
        let bare = Bare::new(case)?
            .with("HEADER_TIMEOUT_MS", LIMIT_MS)
            .with("IDLE_TIMEOUT_MS", LIMIT_MS);
        let up = bare.up(1, 1, 1).await?;
        Raw::connect(up.http())
            .await?
            .read_until_closed(ENFORCED)
            .await?;
        Ok(())
    });
}

#[test]
fn a_connection_idle_after_an_answer_is_closed() {
    run(async |case| {
        let bare = Bare::new(case)?.with("IDLE_TIMEOUT_MS", LIMIT_MS);
        let up = bare.up(1, 1, 1).await?;
        let mut raw = Raw::connect(up.http()).await?;
        raw.send(b"GET / HTTP/1.1\r\nhost: x\r\n\r\n").await?;
        let answer = raw.read_until_closed(ENFORCED).await?;
        ensure!(answer.starts_with("HTTP/1.1 200"), "{answer}");
        Ok(())
    });
}

#[test]
fn a_backend_that_is_there_but_silent_is_a_504_at_the_deadline() {
    run(async |case| {
        let bare = Bare::new(case)?.with("DEADLINE_MS", &deadline_ms());
        let up = bare.up(1, 1, 1).await?;
        up.backends[0].process.signal(Signal::STOP)?;
        let answer = http::task(up.http(), FIVE[3].0).await?;
        // At once it may still count as there; once its silence is noticed it is nobody.
        ensure!(matches!(answer.status, 503 | 504), "{answer:?}");
        let code = answer.code().unwrap_or_default();
        ensure!(
            matches!(code.as_str(), "deadline_exceeded" | "no_backend"),
            "{answer:?}"
        );
        answer.expect_problem(answer.status, &code)?;
        ensure!(answer.took <= DEADLINE + GRACE, "took {:?}", answer.took);
        up.backends[0].process.signal(Signal::CONT)?;
        e2e::bare::answers(up.http()).await
    });
}

#[test]
fn an_events_service_that_is_there_but_silent_is_a_504_at_the_deadline() {
    run(async |case| {
        let bare = Bare::new(case)?.with("DEADLINE_MS", &deadline_ms());
        let up = bare.up(1, 1, 1).await?;
        up.events_services[0].process.signal(Signal::STOP)?;
        let answer = http::task(up.http(), FIVE[3].0).await?;
        ensure!(matches!(answer.status, 503 | 504), "{answer:?}");
        let code = answer.code().unwrap_or_default();
        ensure!(
            matches!(code.as_str(), "deadline_exceeded" | "no_events_service"),
            "{answer:?}"
        );
        ensure!(answer.took <= DEADLINE + GRACE, "took {:?}", answer.took);
        up.events_services[0].process.signal(Signal::CONT)?;
        e2e::bare::answers(up.http()).await
    });
}

#[test]
fn a_slow_task_is_a_504_at_the_deadline_and_its_record_says_so() {
    run(async |case| {
        let bare = Bare::new(case)?.with("DEADLINE_MS", &deadline_ms());
        let up = bare.up(1, 1, 1).await?;
        let mut slow = bare.start(Kind::Slow)?;
        slow.ready().await?;
        super::custom::found(up.http(), "/task/SLOW/SLEEP", r#"{"ms": 1}"#).await?;
        let answer = http::post(up.http(), "/task/SLOW/SLEEP", r#"{"ms": 20000}"#).await?;
        let problem = answer.expect_problem(504, "deadline_exceeded")?;
        ensure!(
            answer.took >= DEADLINE - GRACE,
            "too early: {:?}",
            answer.took
        );
        ensure!(
            answer.took <= DEADLINE + GRACE,
            "too late: {:?}",
            answer.took
        );
        ensure!(problem["retryable"].is_boolean(), "{problem}");
        let records = bare.records().await?;
        e2e::until::until_true("the record to end", e2e::until::SOON, async || {
            records.any_is("timed_out").await
        })
        .await
    });
}

#[test]
fn a_caller_may_shorten_the_deadline_but_not_lengthen_it() {
    run(async |case| {
        let bare = Bare::new(case)?.with("DEADLINE_MS", &deadline_ms());
        let up = bare.up(1, 1, 1).await?;
        let mut slow = bare.start(Kind::Slow)?;
        slow.ready().await?;
        super::custom::found(up.http(), "/task/SLOW/SLEEP", r#"{"ms": 1}"#).await?;
        for (header, limit) in [("300", Duration::from_millis(300)), ("60000", DEADLINE)] {
            let mut request = http::post_request("/task/SLOW/SLEEP", r#"{"ms": 20000}"#)?;
            request
                .headers_mut()
                .insert("x-request-timeout-ms", header.parse()?);
            let answer = http::send(up.http(), request).await?;
            answer.expect_problem(504, "deadline_exceeded")?;
            ensure!(answer.took <= limit + GRACE, "{header}: {:?}", answer.took);
            ensure!(answer.took >= limit / 2, "{header}: {:?}", answer.took);
        }
        Ok(())
    });
}
