//! Servers that are not there yet, go, come back, or stall.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use e2e::{
    bare::{Bare, Kind, Up},
    bodies::FIVE,
    case::{Case, run},
    environment,
    forward::Forward,
    http, load, mongo, redis,
    until::{SOON, until_true},
};

use super::{DEADLINE, GRACE, deadline_ms};

const LOOPBACK: std::net::IpAddr = std::net::IpAddr::V4(std::net::Ipv4Addr::LOCALHOST);

/// A refusal because a server is away needs no waiting for deadlines.
const AT_ONCE: Duration = Duration::from_millis(1_500);

fn start(bare: &Bare<'_>) -> Result<Up> {
    Ok(Up {
        frontends: vec![bare.start(Kind::Frontend)?],
        events_services: vec![bare.start(Kind::EventsService)?],
        backends: vec![bare.start(Kind::Backend)?, bare.start(Kind::Backend)?],
    })
}

#[test]
fn services_may_start_before_redis_and_the_database() {
    run(async |case| {
        let mut server = redis::Server::planned()?;
        let mut database = mongo::Server::planned(case, mongo::Sync::Usual)?;
        let uri = mongo::Server::uri(database.address);
        let bare = Bare::on(case, &server.address.to_string(), &uri)?;
        let mut up = start(&bare)?;
        alive_but_not_ready(&mut up).await?;
        says_what_it_waits_for(&up, &server.address.port().to_string()).await?;

        server.start(case).await?;
        until_true("the frontend to see Redis", SOON, async || {
            Ok(http::get(up.http(), "/readyz").await?.status == 200)
        })
        .await?;
        let events_service = http::get(up.events_services[0].http, "/readyz").await?;
        ensure!(
            events_service.status == 503,
            "ready without a database: {events_service:?}"
        );

        database.start(case).await?;
        up.ready().await?;
        up.answers().await?;
        for (body, answer) in FIVE {
            http::task(up.http(), body).await?.expect_body(answer)?;
        }
        up.ensure_all_running()
    });
}

async fn alive_but_not_ready(up: &mut Up) -> Result<()> {
    for service in up.all() {
        let http = service.http;
        until_true("a service to live and not be ready", SOON, async || {
            service.process.ensure_running()?;
            let live = http::get(http, "/livez").await?;
            let ready = http::get(http, "/readyz").await?;
            ensure!(
                (live.status, ready.status) == (200, 503),
                "{live:?} {ready:?}"
            );
            Ok(true)
        })
        .await?;
    }
    Ok(())
}

async fn says_what_it_waits_for(up: &Up, named: &str) -> Result<()> {
    until_true("the logs to say what is waited for", SOON, async || {
        let log = up.frontends[0].process.log();
        Ok(log.to_lowercase().contains("redis") && log.contains(named))
    })
    .await
}

/// A deployment whose way to one server runs through a forwarder.
async fn behind_redis<'c>(case: &'c Case) -> Result<(Forward, Bare<'c>)> {
    let forward = Forward::start(LOOPBACK, &environment::redis_address()?).await?;
    let bare = Bare::on(
        case,
        &forward.address.to_string(),
        &environment::mongo_uri()?,
    )?;
    Ok((forward, bare.with("DEADLINE_MS", &deadline_ms())))
}

#[test]
fn without_redis_it_is_said_at_once_and_with_it_all_goes_on() {
    run(async |case| {
        let (mut forward, bare) = behind_redis(case).await?;
        let mut up = bare.up(1, 1, 2).await?;
        let addresses = up.addresses();
        let tally = load::ask_while(&addresses, 0, 8, async |progress| {
            for _ in 0..2 {
                progress.wait_for_right(100).await?;
                forward.cut().await;
                until_true("the refusal", SOON, async || {
                    let answer = http::task(addresses[0], FIVE[0].0).await?;
                    answer.expect_problem(503, "bus_unavailable")?;
                    ensure!(answer.header("retry-after").is_some(), "no Retry-After");
                    ensure!(answer.took < AT_ONCE, "took {:?}", answer.took);
                    Ok(true)
                })
                .await?;
                let ready = http::get(addresses[0], "/readyz").await?;
                ensure!(ready.status == 503, "ready without Redis: {ready:?}");
                forward.restore().await?;
            }
            progress.wait_for_right(200).await
        })
        .await?;
        tally.ensure_right_or_clear(DEADLINE + GRACE)?;
        up.ready().await?;
        load::ask(&addresses, 5_000_000, 200, 16)
            .await?
            .ensure_all_right()?;
        subscribed_once(&bare).await?;
        up.ensure_all_running()
    });
}

/// Reconnected and subscribed to nothing, or twice: both have been seen elsewhere.
async fn subscribed_once(bare: &Bare<'_>) -> Result<()> {
    let mut redis = bare.redis().await?;
    let events = redis.subscribers(&bare.event_channel()).await?;
    let consuming = redis.subscribers(&bare.consuming_channel()).await?;
    ensure!(
        (events, consuming) == (1, 3),
        "{events} and {consuming} subscriptions"
    );
    Ok(())
}

#[test]
fn a_short_loss_of_redis_costs_no_wrong_answer_and_no_hang() {
    run(async |case| {
        let (mut forward, bare) = behind_redis(case).await?;
        let up = bare.up(1, 1, 2).await?;
        let addresses = up.addresses();
        let tally = load::ask_while(&addresses, 0, 16, async |progress| {
            for _ in 0..5 {
                progress.wait_for_right(50).await?;
                forward.cut().await;
                forward.restore().await?;
            }
            progress.wait_for_right(200).await
        })
        .await?;
        tally.ensure_right_or_clear(DEADLINE + GRACE)?;
        until_true("all records to end", SOON, async || {
            bare.records()
                .await?
                .ensure_all_ended()
                .await
                .map(|()| true)
        })
        .await
    });
}

#[test]
fn a_redis_that_stalls_is_noticed_and_nobody_hangs() {
    run(async |case| {
        let (forward, bare) = behind_redis(case).await?;
        let up = bare.up(1, 1, 2).await?;
        let addresses = up.addresses();
        let tally = load::ask_while(&addresses, 0, 8, async |progress| {
            progress.wait_for_right(50).await?;
            forward.network.stall(true);
            until_true("a clear error", SOON, async || {
                let answer = http::task(addresses[0], FIVE[1].0).await?;
                ensure!(matches!(answer.status, 503 | 504), "{answer:?}");
                ensure!(answer.took <= DEADLINE + GRACE, "took {:?}", answer.took);
                Ok(true)
            })
            .await?;
            forward.network.stall(false);
            progress.wait_for_right(100).await
        })
        .await?;
        tally.ensure_right_or_clear(DEADLINE + GRACE)
    });
}

#[test]
fn without_the_database_nothing_is_answered_and_with_it_all_goes_on() {
    run(async |case| {
        let uri = environment::mongo_uri()?;
        let host = uri
            .strip_prefix("mongodb://")
            .and_then(|rest| rest.split(['/', '?']).next())
            .context("a mongodb:// address")?;
        let mut forward = Forward::start(LOOPBACK, host).await?;
        let behind = uri.replacen(host, &forward.address.to_string(), 1);
        let bare = Bare::on(case, &environment::redis_address()?, &behind)?
            .with("DEADLINE_MS", &deadline_ms());
        let mut up = bare.up(1, 1, 1).await?;
        forward.cut().await;
        let mut number = 0;
        until_true("the refusal", SOON, async || {
            number += 1;
            let body = format!(r#"{{"a1": "unrecorded ", "a2": "{number}"}}"#);
            let answer = http::task(up.http(), body).await?;
            ensure!(answer.status != 200, "answered unrecorded: {answer:?}");
            ensure!(answer.took <= DEADLINE + GRACE, "took {:?}", answer.took);
            answer
                .expect_problem(503, "audit_unavailable")
                .map(|_| true)
        })
        .await?;
        until_true("the events service to be not ready", SOON, async || {
            Ok(http::get(up.events_services[0].http, "/readyz")
                .await?
                .status
                == 503)
        })
        .await?;
        forward.restore().await?;
        up.ready().await?;
        up.answers().await?;
        load::ask(&up.addresses(), 0, 100, 8)
            .await?
            .ensure_all_right()?;
        up.ensure_all_running()
    });
}

#[test]
fn an_own_redis_may_be_killed_and_started_again() {
    run(async |case| {
        let mut server = redis::Server::planned()?;
        server.start(case).await?;
        let bare = Bare::on(
            case,
            &server.address.to_string(),
            &environment::mongo_uri()?,
        )?
        .with("DEADLINE_MS", &deadline_ms());
        let mut up = bare.up(1, 1, 2).await?;
        let addresses = up.addresses();
        let tally = load::ask_while(&addresses, 0, 8, async |progress| {
            progress.wait_for_right(100).await?;
            server.stop().await?;
            until_true("the refusal", SOON, async || {
                http::task(addresses[0], FIVE[0].0)
                    .await?
                    .expect_problem(503, "bus_unavailable")
                    .map(|_| true)
            })
            .await?;
            server.start(case).await?;
            progress.wait_for_right(200).await
        })
        .await?;
        tally.ensure_right_or_clear(DEADLINE + GRACE)?;
        up.ready().await
    });
}
