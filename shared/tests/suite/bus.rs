//! What holds for every bus.

use std::{collections::HashSet, sync::Arc};

use shared::bus::{Bus, Message, Publication};
use tokio::sync::mpsc;

use super::{LIMIT, eventually};

async fn publish(bus: &dyn Bus, channel: &str, payload: &'static str) -> u64 {
    bus.publish(vec![Publication::new(channel, payload)]).await[0]
        .clone()
        .unwrap()
}

async fn next(heard: &mut mpsc::Receiver<Message>) -> Message {
    tokio::time::timeout(LIMIT, heard.recv())
        .await
        .expect("a message in time")
        .expect("open")
}

async fn up(bus: &dyn Bus) {
    let mut link = bus.link();
    tokio::time::timeout(LIMIT, link.wait_for(|link| link.is_up))
        .await
        .unwrap()
        .unwrap();
}

/// Runs all of it; `prefix` keeps runs on one server apart.
pub(crate) async fn holds(bus: Arc<dyn Bus>, prefix: &str) {
    let bus = &*bus;
    messages_reach_every_reader_of_their_channel_in_order(bus, prefix).await;
    publishing_counts_the_receivers(bus, prefix).await;
    a_large_batch_is_answered_one_by_one(bus, prefix).await;
    payloads_are_bytes(bus, prefix).await;
    events_that_may_share_a_message_are_heard_one_by_one(bus, prefix).await;
    channels_asked_for_in_quick_succession_are_all_heard(bus, prefix).await;
}

async fn messages_reach_every_reader_of_their_channel_in_order(bus: &dyn Bus, prefix: &str) {
    let (a, b) = (format!("{prefix}:a"), format!("{prefix}:b"));
    let mut both = bus.subscribe(vec![a.clone(), b.clone()]).await.unwrap();
    let mut only_b = bus.subscribe(vec![b.clone()]).await.unwrap();
    up(bus).await;
    let channel = |n| if n % 2 == 0 { a.as_str() } else { b.as_str() };
    let batch = (0..100).map(|n| Publication::new(channel(n), n.to_string()));
    bus.publish(batch.collect()).await;
    for n in 0..100 {
        let message = next(&mut both).await;
        assert_eq!(
            (message.channel, message.payload),
            (n % 2, n.to_string().into())
        );
    }
    for n in (1..100).step_by(2) {
        assert_eq!(next(&mut only_b).await.payload, n.to_string());
    }
}

async fn publishing_counts_the_receivers(bus: &dyn Bus, prefix: &str) {
    let channel = format!("{prefix}:count");
    assert_eq!(publish(bus, &channel, "x").await, 0);
    let mut heard = bus.subscribe(vec![channel.clone()]).await.unwrap();
    up(bus).await;
    eventually("subscribed", async || {
        publish(bus, &channel, "x").await == 1
    })
    .await;
    next(&mut heard).await;
}

async fn a_large_batch_is_answered_one_by_one(bus: &dyn Bus, prefix: &str) {
    let channel = format!("{prefix}:large");
    let mut heard = bus.subscribe(vec![channel.clone()]).await.unwrap();
    up(bus).await;
    let batch = (0..5_000).map(|n| {
        let there = n % 10 != 0;
        Publication::new(if there { &channel } else { "nobody" }, n.to_string())
    });
    let answers = bus.publish(batch.collect()).await;
    assert_eq!(answers.len(), 5_000);
    for (n, answer) in answers.into_iter().enumerate() {
        assert_eq!(answer.unwrap(), u64::from(n % 10 != 0), "message {n}");
    }
    let mut seen = HashSet::new();
    while seen.len() < 4_500 {
        assert!(
            seen.insert(next(&mut heard).await.payload),
            "a message came twice"
        );
    }
}

async fn payloads_are_bytes(bus: &dyn Bus, prefix: &str) {
    let channel = format!("{prefix}:bytes");
    let mut heard = bus.subscribe(vec![channel.clone()]).await.unwrap();
    up(bus).await;
    for payload in [
        &b"\x00\xff\xfe"[..],
        "\u{1f600}".as_bytes(),
        &[b'x'; 1 << 20],
    ] {
        bus.publish(vec![Publication::new(channel.as_str(), payload.to_vec())])
            .await;
        assert_eq!(next(&mut heard).await.payload, payload);
    }
}

async fn events_that_may_share_a_message_are_heard_one_by_one(bus: &dyn Bus, prefix: &str) {
    let channel = format!("{prefix}:lines");
    let mut heard = bus.subscribe(vec![channel.clone()]).await.unwrap();
    up(bus).await;
    let events = (0..500).map(|n| format!("{{\"n\":{n}}}"));
    let batch = events.clone().enumerate().map(|(n, event)| Publication {
        takes_lines: true,
        ..Publication::new(if n % 10 == 0 { "nobody" } else { &channel }, event)
    });
    let answers = bus.publish(batch.collect()).await;
    assert_eq!(answers.len(), 500);
    for (n, (answer, event)) in answers.into_iter().zip(events).enumerate() {
        assert_eq!(answer.unwrap(), u64::from(n % 10 != 0), "event {n}");
        if n % 10 != 0 {
            assert_eq!(next(&mut heard).await.payload, event);
        }
    }
}

async fn channels_asked_for_in_quick_succession_are_all_heard(bus: &dyn Bus, prefix: &str) {
    for n in 0..300 {
        let channels = ["first", "second"].map(|which| format!("{prefix}:{which}:{n}"));
        let [first, second] = &channels;
        let _first = bus.subscribe(vec![first.clone()]).await.unwrap();
        // At some of these moments the subscription to the first is under way.
        for _ in 0..n % 60 {
            tokio::task::yield_now().await;
        }
        let _second = bus.subscribe(vec![second.clone()]).await.unwrap();
        up(bus).await;
        for channel in channels {
            assert_eq!(publish(bus, &channel, "x").await, 1, "{channel}");
        }
    }
}
