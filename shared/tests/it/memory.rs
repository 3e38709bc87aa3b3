use std::sync::Arc;

use shared::bus::{Bus, Publication, memory::MemoryBus};

#[tokio::test]
async fn the_bus_in_memory_is_a_bus() {
    crate::suite::bus::holds(Arc::new(MemoryBus::default()), "memory").await;
}

#[tokio::test]
async fn a_reader_that_does_not_read_loses_messages_and_is_counted() {
    let bus = MemoryBus::default();
    let _heard = bus.subscribe(vec!["c".into()]).await.unwrap();
    let message = Publication::new("c", "x");
    let count = shared::bus::HAND_OFF_MAX + 10;
    let answers = bus.publish(vec![message; count]).await;
    let delivered = answers
        .iter()
        .filter(|answer| matches!(answer, Ok(1)))
        .count();
    assert_eq!(delivered, shared::bus::HAND_OFF_MAX);
    assert_eq!(bus.counters().lagged.get(), 10);
}
