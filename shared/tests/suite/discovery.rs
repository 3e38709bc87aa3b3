//! What holds for every discovery.

use std::sync::Arc;

use shared::{
    contract::Address,
    discovery::{Discovery, Roster},
};
use tokio_util::sync::CancellationToken;

use super::eventually;

/// Containers that a test starts and ends, where the discovery under test finds them.
pub(crate) trait World {
    /// Starts a container of a service.
    async fn start(&mut self, service: &str) -> Address;
    /// Ends it at once.
    async fn end(&mut self, address: &Address);
}

fn knows(roster: &Roster, address: &Address) -> bool {
    roster
        .members()
        .borrow()
        .iter()
        .any(|member| member.address == *address)
}

/// Runs all of it.
pub(crate) async fn holds(discovery: Box<dyn Discovery>, mut world: impl World) {
    let (roster, stop) = (Arc::new(Roster::default()), CancellationToken::new());
    let before = world.start("stack_backend").await;
    let running = tokio::spawn(discovery.run(roster.clone(), stop.clone()));

    eventually("who was there before is found", async || {
        knows(&roster, &before)
    })
    .await;
    let after = world.start("stack_events-service").await;
    eventually("who comes later is found", async || knows(&roster, &after)).await;
    assert!(roster.is_alive(&before.container));

    world.end(&before).await;
    eventually("who has gone is noticed", async || !knows(&roster, &before)).await;
    assert!(!roster.is_alive(&before.container));
    assert!(knows(&roster, &after));

    world.end(&after).await;
    stop.cancel();
    running.await.unwrap();
}
