//! Messages that come twice, or too late.

use std::time::Duration;

use anyhow::Result;
use tokio::time::sleep;

use super::{Plan, Scenario, Stage};
use crate::{
    bare::Kind,
    chaos::{DEADLINE, deployment::long},
    forward::Way,
    redis::{Observer, Redis},
};

pub(super) const SCENARIOS: &[Scenario] = &[
    Scenario::new(
        "duplicates",
        "every message is delivered twice, as to a service that has subscribed twice",
        |stage| Box::pin(duplicates(stage)),
    )
    .with_errors(&[])
    .once(),
    Scenario::new(
        "late-replies",
        "replies reach the frontends after the deadline",
        |stage| Box::pin(late_replies(stage)),
    )
    .planned(|| Plan {
        redis_behind_forwards: true,
        ..Plan::default()
    }),
];

async fn duplicates(stage: &mut Stage<'_>) -> Result<()> {
    stage.fault("every message twice");
    let bare = stage.deployment.bare();
    let (address, prefix) = (bare.redis_address().to_owned(), bare.channel_prefix());
    let mut repeated = 0;
    tokio::select! {
        repeating = publish_again(&address, &prefix, &mut repeated) => repeating?,
        () = sleep(long(stage.length)) => {}
    }
    stage.over();
    stage.note(format!("{repeated} messages were delivered twice"));
    stage.check(repeated > 0, "no message was delivered twice");
    Ok(())
}

/// Publishes once more what anybody publishes, but not what it publishes itself. It sees them
/// through `MONITOR`: as a subscriber it would count as a receiver.
async fn publish_again(address: &str, prefix: &str, repeated: &mut u64) -> Result<()> {
    let mut observer = Observer::start(address, prefix).await?;
    let mut redis = Redis::connect(address).await?;
    let own = redis.local_address()?.to_string();
    loop {
        let published = observer.next().await?;
        if published.publisher != own {
            redis
                .publish(&published.channel, &published.payload)
                .await?;
            *repeated += 1;
        }
    }
}

async fn late_replies(stage: &mut Stage<'_>) -> Result<()> {
    let late = DEADLINE + Duration::from_millis(300);
    stage.fault("replies are late");
    set_way_back(stage, Way::Delayed(late));
    let time = long(stage.length);
    stage.pass(time, time).await;
    set_way_back(stage, Way::Clear);
    stage.over();
    // What is under way comes in its order: nothing overtakes the late ones.
    stage.pass(late, late).await;
    stage.over();
    let late = stage
        .metric(Kind::Frontend, "roundtrip_frontend_messages_total")
        .await?;
    stage.note(format!(
        "the frontends heard {late} messages that nobody waited for"
    ));
    Ok(())
}

fn set_way_back(stage: &Stage<'_>, back: Way) {
    for frontend in stage.deployment.of(Kind::Frontend) {
        if let Some(way) = &frontend.redis {
            way.network.ways(Way::Clear, back);
        }
    }
}
