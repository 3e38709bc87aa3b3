//! Several of each service at once.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use anyhow::{Context, Result, ensure};
use e2e::{
    bare::{Bare, Kind, Up, WARM_UP},
    case::run,
    load,
    process::Signal,
    records::says,
    redis::{Observer, Published},
    until::{SOON, until_true},
};

use super::{DEADLINE, GRACE, deadline_ms};

#[test]
fn each_message_is_sent_to_exactly_one_and_once() {
    run(async |case| {
        let bare = Bare::new(case)?;
        let mut up = bare.up(2, 2, 3).await?;
        every_container_is_used(&bare, &up, 10_000).await?;

        let redis = bare.redis_address();
        let mut observer = Observer::start(redis, &bare.channel_prefix()).await?;
        load::ask(&up.addresses(), 0, 120, 8)
            .await?
            .ensure_all_right()?;
        let seen = observer.seen(redis).await?;
        let mut counted: BTreeMap<&str, BTreeMap<String, u32>> = BTreeMap::new();
        for event in seen.iter().flat_map(Published::events) {
            let of_message = counted.entry(event.message.title()).or_default();
            *of_message.entry(event.id).or_default() += 1;
        }
        for message in ["task", "dispatch", "result", "reply"] {
            let ids = counted
                .get(message)
                .with_context(|| format!("no {message} in {seen:?}"))?;
            ensure!(ids.len() == 120, "{} of {message}, not 120", ids.len());
            let repeated: Vec<_> = ids.iter().filter(|(_, count)| **count > 1).collect();
            ensure!(
                repeated.is_empty(),
                "{message} more than once: {repeated:?}"
            );
        }
        up.ensure_all_running()
    });
}

/// Asks until every container has had a share.
async fn every_container_is_used(bare: &Bare<'_>, up: &Up, first: u32) -> Result<()> {
    let records = bare.records().await?;
    let mut next = first;
    until_true("every container to be used", SOON, async || {
        load::ask(&up.addresses(), next, 30, 6)
            .await?
            .ensure_all_right()?;
        next += 30;
        for (field, expected) in [
            ("fromContainerId", up.frontends.len()),
            ("serviceContainerId", up.events_services.len()),
            ("toContainerId", up.backends.len()),
        ] {
            let used = records.distinct(field).await?;
            ensure!(used.len() == expected, "{field}: {used:?}");
        }
        Ok(true)
    })
    .await
}

#[test]
fn work_is_shared_and_each_container_has_an_id_of_its_own() {
    run(async |case| {
        let bare = Bare::new(case)?;
        let up = bare.up(2, 2, 3).await?;
        every_container_is_used(&bare, &up, 0).await?;
        let records = bare.records().await?;
        let mut ids = BTreeSet::new();
        for field in ["fromContainerId", "serviceContainerId", "toContainerId"] {
            for id in records.distinct(field).await? {
                ensure!(ids.insert(id.clone()), "{id} is two containers");
            }
        }
        ensure!(ids.len() == 7, "{ids:?}");
        Ok(())
    });
}

#[test]
fn a_service_subscribes_to_its_broadcast_channel_once() {
    run(async |case| {
        let bare = Bare::new(case)?;
        let up = bare.up(2, 2, 3).await?;
        load::ask(&up.addresses(), 0, 100, 20)
            .await?
            .ensure_all_right()?;
        let mut redis = bare.redis().await?;
        let events = redis.subscribers(&bare.event_channel()).await?;
        let consuming = redis.subscribers(&bare.consuming_channel()).await?;
        ensure!(
            (events, consuming) == (2, 5),
            "{events} on the event channel, {consuming} on the consuming channel"
        );
        Ok(())
    });
}

#[test]
fn a_killed_backend_costs_no_wrong_answer_and_no_hang() {
    run(async |case| {
        let bare = Bare::new(case)?.with("DEADLINE_MS", &deadline_ms());
        let mut up = bare.up(1, 1, 3).await?;
        let addresses = up.addresses();
        let mut victim = up.backends.pop().context("three backends")?;
        let tally = load::ask_while(&addresses, 0, 16, async |progress| {
            progress.wait_for_right(300).await?;
            victim.process.kill().await?;
            progress.wait_for_right(600).await
        })
        .await?;
        tally.ensure_right_or_clear(DEADLINE + GRACE)?;
        bare.records().await?.ensure_all_ended().await?;
        // The others go on as if nothing had been.
        load::ask(&addresses, 5_000_000, 200, 16)
            .await?
            .ensure_all_right()?;
        up.ensure_all_running()
    });
}

#[test]
fn a_killed_events_service_costs_no_wrong_answer_and_no_hang() {
    run(async |case| {
        let bare = Bare::new(case)?.with("DEADLINE_MS", &deadline_ms());
        let mut up = bare.up(2, 2, 2).await?;
        let addresses = up.addresses();
        let mut victim = up.events_services.pop().context("two events services")?;
        let tally = load::ask_while(&addresses, 0, 16, async |progress| {
            progress.wait_for_right(300).await?;
            victim.process.kill().await?;
            progress.wait_for_right(600).await
        })
        .await?;
        tally.ensure_right_or_clear(DEADLINE + GRACE)?;
        load::ask(&addresses, 5_000_000, 200, 16)
            .await?
            .ensure_all_right()?;
        up.ensure_all_running()
    });
}

#[test]
fn a_backend_that_falls_silent_is_gone_round() {
    run(async |case| {
        let bare = Bare::new(case)?.with("DEADLINE_MS", &deadline_ms());
        let mut up = bare.up(1, 1, 3).await?;
        let addresses = up.addresses();
        let tally = load::ask_while(&addresses, 0, 8, async |progress| {
            progress.wait_for_right(100).await?;
            // Its connections stay open: nothing but its silence tells.
            up.backends[0].process.signal(Signal::STOP)?;
            progress.wait_for_right(300).await?;
            up.backends[0].process.signal(Signal::CONT)?;
            progress.wait_for_right(300).await
        })
        .await?;
        tally.ensure_right_or_clear(DEADLINE + GRACE)?;
        up.ensure_all_running()
    });
}

#[test]
fn a_service_that_joins_is_used_and_one_that_leaves_is_not_missed() {
    run(async |case| {
        let bare = Bare::new(case)?;
        let mut up = bare.up(1, 1, 1).await?;
        let addresses = up.addresses();
        let records = bare.records().await?;
        let tally = load::ask_while(&addresses, 0, 8, async |progress| {
            progress.wait_for_right(50).await?;
            up.backends.push(bare.start(Kind::Backend)?);
            up.events_services.push(bare.start(Kind::EventsService)?);
            until_true("the new ones to be used", SOON, async || {
                let backends = records.distinct("toContainerId").await?.len();
                let events_services = records.distinct("serviceContainerId").await?.len();
                ensure!(
                    (backends, events_services) == (2, 2),
                    "{backends}, {events_services}"
                );
                Ok(true)
            })
            .await?;
            let leaving = [up.backends.remove(0), up.events_services.remove(0)];
            let mut leaving = leaving;
            e2e::bare::stop_gracefully(leaving.iter_mut(), Duration::from_secs(15)).await?;
            progress.wait_for_right(200).await
        })
        .await?;
        tally.ensure_all_right()?;
        let open = records.tasks().await?;
        let open: Vec<_> = open
            .iter()
            .filter(|task| says(task, "status", "open"))
            .collect();
        ensure!(
            open.is_empty(),
            "open records: {open:?} ({WARM_UP} included)"
        );
        Ok(())
    });
}
