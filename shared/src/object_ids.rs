//! Making ids of requests and records.

use std::{
    sync::atomic::{AtomicU32, Ordering},
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use tokio::time::Instant;

use crate::contract::RecordId;

/// Makes ids as MongoDB makes ObjectIds: seconds, a random part per process, a counter. They grow
/// with time, which keeps the index on them compact. Two processes share ids only if both their 40
/// random bits and their counters agree in the same second.
#[derive(Debug)]
pub struct ObjectIds {
    process: [u8; 5],
    counter: AtomicU32,
    start: Instant,
    start_unix: Duration,
}

impl Default for ObjectIds {
    /// A new random part.
    fn default() -> Self {
        Self {
            process: rand::random(),
            counter: AtomicU32::new(rand::random()),
            start: Instant::now(),
            start_unix: SystemTime::now()
                .duration_since(UNIX_EPOCH)
                .unwrap_or_default(),
        }
    }
}

impl ObjectIds {
    /// The next id.
    pub fn next(&self) -> RecordId {
        // The low 32 bits: ObjectIds begin anew in 2106.
        let seconds = (self.start_unix + self.start.elapsed()).as_secs() as u32;
        let count = self.counter.fetch_add(1, Ordering::Relaxed);
        let mut id = [0; 12];
        id[..4].copy_from_slice(&seconds.to_be_bytes());
        id[4..9].copy_from_slice(&self.process);
        id[9..].copy_from_slice(&count.to_be_bytes()[1..]);
        RecordId(id)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn ids_differ_and_grow_with_the_seconds() {
        let (ids, others) = (ObjectIds::default(), ObjectIds::default());
        let first = ids.next();
        assert_ne!(first, ids.next());
        assert_ne!(first.0[4..], others.next().0[4..]);
        tokio::time::advance(Duration::from_secs(2)).await;
        assert!(first < ids.next());
    }
}
