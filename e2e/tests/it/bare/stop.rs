//! Graceful stop: what is in flight finishes, and nothing new begins.

use std::time::{Duration, Instant};

use anyhow::ensure;
use e2e::{
    bare::{Bare, Kind, stop_gracefully},
    bodies::FIVE,
    case::run,
    http, load,
    process::Signal,
    until::{SOON, until_true},
};

use super::custom::found;

/// The default time to drain, and what the steps after it may take.
const STOPPED: Duration = Duration::from_secs(13);

#[test]
fn idle_services_end_at_once_with_exit_code_0() {
    run(async |case| {
        let bare = Bare::new(case)?;
        let mut up = bare.up(1, 1, 1).await?;
        let started = Instant::now();
        stop_gracefully(up.all(), STOPPED).await?;
        ensure!(
            started.elapsed() < Duration::from_secs(5),
            "took {:?}",
            started.elapsed()
        );
        Ok(())
    });
}

/// Stops one kind of service while a slow request is in flight through it.
fn finishes_what_is_in_flight(stopped: Kind) {
    run(async |case| {
        let bare = Bare::new(case)?;
        let mut up = bare.up(1, 1, 1).await?;
        let mut slow = bare.start(Kind::Slow)?;
        slow.ready().await?;
        found(up.http(), "/task/SLOW/SLEEP", r#"{"ms": 1}"#).await?;

        let records = bare.records().await?;
        let http = up.http();
        let in_flight = tokio::spawn(http::post(http, "/task/SLOW/SLEEP", r#"{"ms": 2500}"#));
        // A task with an effect is recorded as open before it runs.
        until_true("the task to be on its way", SOON, async || {
            records.any_is("open").await
        })
        .await?;
        let service = match stopped {
            Kind::Frontend => &mut up.frontends[0],
            Kind::EventsService => &mut up.events_services[0],
            _ => &mut slow,
        };
        service.process.signal(Signal::TERM)?;
        let answer = in_flight.await??;
        ensure!(answer.status == 200, "{} {}", answer.status, answer.text());
        ensure!(
            answer.json()?["result"] == "slept 2500",
            "{}",
            answer.text()
        );
        let code = service.process.exit_code(STOPPED).await?;
        ensure!(code == 0, "exit code {code}");
        records.ensure_all_ended().await
    });
}

#[test]
fn a_frontend_that_stops_answers_what_it_has() {
    finishes_what_is_in_flight(Kind::Frontend);
}

#[test]
fn an_events_service_that_stops_ends_what_it_has() {
    finishes_what_is_in_flight(Kind::EventsService);
}

#[test]
fn a_backend_that_stops_ends_what_it_has() {
    finishes_what_is_in_flight(Kind::Slow);
}

#[test]
fn a_request_on_a_connection_made_before_the_stop_is_answered() {
    run(async |case| {
        let bare = Bare::new(case)?;
        let mut up = bare.up(1, 1, 1).await?;
        let mut connections = Vec::new();
        for _ in 0..20 {
            connections.push(http::Raw::connect(up.http()).await?);
        }
        let http = up.http();
        let frontend = &mut up.frontends[0].process;
        frontend.signal(Signal::TERM)?;
        until_true("the port to be closed", SOON, async || {
            Ok(http::Raw::connect(http).await.is_err())
        })
        .await?;
        let (body, answer) = FIVE[0];
        for mut connection in connections {
            let length = body.len();
            let head =
                format!("POST /task HTTP/1.1\r\nhost: x\r\ncontent-length: {length}\r\n\r\n");
            connection.send(format!("{head}{body}").as_bytes()).await?;
            connection.read_until(answer, SOON).await?;
        }
        let code = frontend.exit_code(STOPPED).await?;
        ensure!(code == 0, "exit code {code}");
        Ok(())
    });
}

#[test]
fn a_stopping_service_is_not_ready_and_takes_nothing_new() {
    run(async |case| {
        let bare = Bare::new(case)?;
        let mut up = bare.up(1, 1, 1).await?;
        let mut slow = bare.start(Kind::Slow)?;
        slow.ready().await?;
        found(up.http(), "/task/SLOW/SLEEP", r#"{"ms": 1}"#).await?;
        let http = up.http();
        // On this connection a request comes after the stop began.
        let mut kept = http::Caller::new(http);
        kept.send(http::post_request("/task", FIVE[0].0)?)
            .await?
            .expect_body(FIVE[0].1)?;
        let in_flight = tokio::spawn(http::post(http, "/task/SLOW/SLEEP", r#"{"ms": 2500}"#));
        let records = bare.records().await?;
        until_true("the task to be on its way", SOON, async || {
            records.any_is("open").await
        })
        .await?;
        up.frontends[0].process.signal(Signal::TERM)?;
        until_true("new work to be refused", SOON, async || {
            let request = http::post_request("/task", r#"{"a1": 1, "a2": 1}"#)?;
            Ok(kept.send(request).await.is_err())
        })
        .await?;
        let answer = in_flight.await??;
        ensure!(answer.status == 200, "{answer:?}");
        ensure!(up.frontends[0].process.exit_code(STOPPED).await? == 0);
        Ok(())
    });
}

#[test]
fn a_second_signal_ends_it_at_once() {
    run(async |case| {
        let bare = Bare::new(case)?;
        let mut up = bare.up(1, 1, 1).await?;
        let mut slow = bare.start(Kind::Slow)?;
        slow.ready().await?;
        found(up.http(), "/task/SLOW/SLEEP", r#"{"ms": 1}"#).await?;
        let http = up.http();
        let _in_flight = tokio::spawn(http::post(http, "/task/SLOW/SLEEP", r#"{"ms": 4500}"#));
        let records = bare.records().await?;
        until_true("the task to be on its way", SOON, async || {
            records.any_is("open").await
        })
        .await?;
        let frontend = &mut up.frontends[0].process;
        frontend.signal(Signal::TERM)?;
        until_true("the first signal to be seen", SOON, async || {
            Ok(http::get(http, "/readyz")
                .await
                .map_or(true, |answer| answer.status != 200))
        })
        .await?;
        frontend.signal(Signal::TERM)?;
        let started = Instant::now();
        // Whatever it says of itself, it must be gone: by exit code or by the signal.
        drop(frontend.exit_code(Duration::from_secs(2)).await);
        ensure!(
            started.elapsed() < Duration::from_secs(2),
            "it waited all the same"
        );
        Ok(())
    });
}

#[test]
fn a_drain_that_takes_too_long_is_cut_at_its_limit() {
    run(async |case| {
        let bare = Bare::new(case)?
            .with("DRAIN_TIMEOUT_MS", "500")
            .with("DEADLINE_MS", "20000");
        let mut up = bare.up(1, 1, 1).await?;
        let mut slow = bare.start(Kind::Slow)?;
        slow.ready().await?;
        found(up.http(), "/task/SLOW/SLEEP", r#"{"ms": 1}"#).await?;
        let in_flight = tokio::spawn(http::post(
            up.http(),
            "/task/SLOW/SLEEP",
            r#"{"ms": 15000}"#,
        ));
        let records = bare.records().await?;
        until_true("the task to be on its way", SOON, async || {
            records.any_is("open").await
        })
        .await?;
        let frontend = &mut up.frontends[0].process;
        frontend.signal(Signal::TERM)?;
        frontend.exit_code(Duration::from_secs(5)).await?;
        // Told, or the connection closed: not left hanging.
        if let Ok(answer) = in_flight.await? {
            ensure!(answer.status == 503, "{answer:?}");
        }
        Ok(())
    });
}

#[test]
fn rolling_restarts_under_load_cost_no_failed_request() {
    run(async |case| {
        let bare = Bare::new(case)?;
        let mut up = bare.up(1, 2, 2).await?;
        let addresses = up.addresses();
        let tally = load::ask_while(&addresses, 0, 8, async |progress| {
            for kind in [Kind::Backend, Kind::EventsService] {
                progress.wait_for_right(50).await?;
                let mut new = bare.start(kind)?;
                new.ready().await?;
                let running = if kind == Kind::Backend {
                    &mut up.backends
                } else {
                    &mut up.events_services
                };
                let mut old = running.remove(0);
                running.push(new);
                stop_gracefully([&mut old].into_iter(), STOPPED).await?;
            }
            progress.wait_for_right(100).await
        })
        .await?;
        tally.ensure_all_right()
    });
}
