//! The bus of one process: channels in memory.

use std::{
    collections::HashMap,
    sync::{Mutex, PoisonError},
};

use async_trait::async_trait;
use tokio::sync::{mpsc, watch};

use super::{Bus, BusCounters, BusError, HAND_OFF_MAX, Link, Message, Publication, Reader};

/// Channels in memory; the handle is shared by the services of the process.
#[derive(Debug)]
pub struct MemoryBus {
    /// Short sections, no await inside.
    readers: Mutex<HashMap<String, Vec<Reader>>>,
    link: watch::Sender<Link>,
    counters: BusCounters,
}

impl Default for MemoryBus {
    fn default() -> Self {
        Self {
            readers: Mutex::default(),
            link: watch::Sender::new(Link {
                is_up: true,
                generation: 1,
            }),
            counters: BusCounters::default(),
        }
    }
}

#[async_trait]
impl Bus for MemoryBus {
    async fn publish(&self, batch: Vec<Publication>) -> Vec<Result<u64, BusError>> {
        let mut readers = self.readers.lock().unwrap_or_else(PoisonError::into_inner);
        self.counters.published.inc_by(batch.len() as u64);
        batch
            .into_iter()
            .map(|publication| {
                let Publication {
                    channel, payload, ..
                } = publication;
                let Some(channel_readers) = readers.get_mut(&*channel) else {
                    return Ok(0);
                };
                channel_readers.retain(|reader| !reader.hand_off.is_closed());
                let taken = channel_readers
                    .iter()
                    .filter(|reader| reader.hand_off(payload.clone(), &self.counters))
                    .count();
                Ok(taken as u64)
            })
            .collect()
    }

    async fn subscribe(&self, channels: Vec<String>) -> Result<mpsc::Receiver<Message>, BusError> {
        let (hand_off, heard) = mpsc::channel(HAND_OFF_MAX);
        let mut readers = self.readers.lock().unwrap_or_else(PoisonError::into_inner);
        for (index, channel) in channels.into_iter().enumerate() {
            let reader = Reader {
                channel: index,
                hand_off: hand_off.clone(),
            };
            readers.entry(channel).or_default().push(reader);
        }
        Ok(heard)
    }

    fn link(&self) -> watch::Receiver<Link> {
        self.link.subscribe()
    }

    fn counters(&self) -> &BusCounters {
        &self.counters
    }

    async fn close(&self) {
        self.readers
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clear();
        self.link.send_modify(|link| link.is_up = false);
    }
}
