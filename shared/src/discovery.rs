//! Who is there.
//!
//! The port [`Discovery`] has two implementations, and one suite (`tests/suite/discovery.rs`) holds
//! for both: [`docker`] asks the engine, [`presence`] listens to what our own services say of
//! themselves on the bus. Both report into one [`Roster`]; a deployment on Docker runs both, so that
//! a draining or silent container of ours is passed over although the engine still lists it.
//!
//! **Invariant**: nothing on a request's path asks the engine or waits for a report.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use async_trait::async_trait;
use tokio::{sync::watch, time::Instant};
use tokio_util::sync::CancellationToken;

use crate::contract::{Address, ContainerId};

pub mod docker;
pub mod presence;

/// Keyword by which a frontend finds an events service (contract, "Discovery").
pub const EVENTS_KEYWORD: &str = "event";

/// Clocks of machines that are kept right differ by less, and announcements take as long.
const CLOCK_OFF_MIN_MS: u64 = 1_000;
/// Announcements are compared within this time: several are made.
const CLOCK_HEARD_WITHIN: Duration = Duration::from_secs(10);

/// Reports who is there into a roster, until it is told to stop.
#[async_trait]
pub trait Discovery: Send + 'static {
    /// Runs until `stop`; an outage of its source is waited out and leaves the roster as it is.
    async fn run(self: Box<Self>, roster: Arc<Roster>, stop: CancellationToken);
}

/// A container that may be sent work.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Member {
    /// Its address.
    pub address: Address,
    /// Its image, where that is known.
    pub image: Option<Arc<str>>,
    /// The stack it belongs to, where that is known.
    pub stack: Option<Arc<str>>,
}

impl Member {
    /// Whether a keyword of `task-maps.json` means this container's service: the service name,
    /// lower-cased and without the stack's own name, contains it (contract, "Discovery").
    pub fn matches(&self, keyword: &str) -> bool {
        let name = self.address.service.as_str();
        let own_name = match &self.stack {
            Some(stack) => name
                .strip_prefix(&**stack)
                .and_then(|rest| rest.strip_prefix('_'))
                .unwrap_or(name),
            None => name,
        };
        own_name.to_lowercase().contains(&keyword.to_lowercase())
    }
}

/// What the engine knows of a container.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Listed {
    /// The container and its service label.
    pub address: Address,
    /// Its image.
    pub image: Option<Arc<str>>,
    /// Its label `com.docker.stack.namespace`.
    pub stack: Option<Arc<str>>,
    /// It has a health check, which has not said yet that it is up.
    pub is_starting: bool,
}

/// What a container of ours says of itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Present {
    /// Who it is.
    pub address: Address,
    /// Its image, where it knows it.
    pub image: Option<Arc<str>>,
    /// Its stack, where it knows it.
    pub stack: Option<Arc<str>>,
    /// It finishes what it has and takes nothing new.
    pub is_draining: bool,
    /// Requests or tasks that it has in flight.
    pub in_flight: u64,
    /// It knows several events in one message.
    pub takes_lines: bool,
    /// How far its clock is ahead of ours, where it says what time it is. The way took time, so it
    /// may be further ahead.
    pub clock_ahead_ms: Option<i64>,
}

#[derive(Debug, Default)]
struct Entry {
    listed: Option<Listed>,
    present: Option<(Present, Instant)>,
    /// How far its clock is ahead of ours, and when that was heard.
    clock: Option<(i64, Instant)>,
    /// Nobody heard a message on its direct channel; cleared when it is heard of again.
    is_suspect: bool,
    /// It has said goodbye or was silent for too long.
    is_gone: bool,
}

impl Entry {
    /// Of several announcements, the one that was under way for the shortest time is nearest to the
    /// truth; one that is too old may be about a clock that was set since.
    fn hear_clock(&mut self, ahead_ms: Option<i64>) {
        let now = Instant::now();
        if let Some(ahead) = ahead_ms
            && self.clock.is_none_or(|(known, heard)| {
                ahead >= known || now.saturating_duration_since(heard) > CLOCK_HEARD_WITHIN
            })
        {
            self.clock = Some((ahead, now));
        }
    }

    fn member(&self) -> Option<Member> {
        if self.is_suspect || self.is_gone {
            return None;
        }
        match (&self.listed, &self.present) {
            (_, Some((present, _))) if present.is_draining => None,
            // A message to it would be lost: it does not listen yet. One of ours says when it does.
            (Some(listed), None) if listed.is_starting => None,
            (Some(listed), present) => Some(Member {
                address: listed.address.clone(),
                image: listed.image.clone(),
                stack: listed
                    .stack
                    .clone()
                    .or_else(|| present.as_ref().and_then(|(p, _)| p.stack.clone())),
            }),
            (None, Some((present, _))) => Some(Member {
                address: present.address.clone(),
                image: present.image.clone(),
                stack: present.stack.clone(),
            }),
            (None, None) => None,
        }
    }
}

/// Everyone we know of. Shared by the discoveries, the outbox and placement.
#[derive(Debug)]
pub struct Roster {
    /// Short sections, no await inside.
    entries: Mutex<HashMap<ContainerId, Entry>>,
    members: watch::Sender<Arc<[Member]>>,
}

impl Default for Roster {
    fn default() -> Self {
        Self {
            entries: Mutex::default(),
            members: watch::Sender::new(Arc::from([])),
        }
    }
}

impl Roster {
    /// The containers that may be sent work, now and on every change, in the order of their
    /// addresses.
    pub fn members(&self) -> watch::Receiver<Arc<[Member]>> {
        self.members.subscribe()
    }

    /// Whether the container has said that it is one of ours: then it has a direct channel.
    pub fn is_ours(&self, container: &ContainerId) -> bool {
        self.entries()
            .get(container)
            .is_some_and(|entry| entry.present.is_some())
    }

    /// Whether the container has said that it knows several events in one message.
    pub fn takes_lines(&self, container: &ContainerId) -> bool {
        self.entries()
            .get(container)
            .and_then(|entry| entry.present.as_ref())
            .is_some_and(|(present, _)| present.takes_lines)
    }

    /// How far the container's clock is ahead of ours. One that is less than a second off, or of
    /// which nothing is known, is not.
    pub fn clock_ahead_ms(&self, container: &ContainerId) -> i64 {
        self.entries()
            .get(container)
            .and_then(|entry| entry.clock)
            .map(|(ahead, _)| ahead)
            .filter(|ahead| ahead.unsigned_abs() >= CLOCK_OFF_MIN_MS)
            .unwrap_or_default()
    }

    /// Whether the engine lists the container.
    pub fn is_listed(&self, container: &ContainerId) -> bool {
        self.entries()
            .get(container)
            .is_some_and(|entry| entry.listed.is_some())
    }

    /// Whether the container may still be at work: it is known, and neither suspect nor gone. A
    /// draining one is.
    pub fn is_alive(&self, container: &ContainerId) -> bool {
        self.entries()
            .get(container)
            .is_some_and(|entry| !entry.is_suspect && !entry.is_gone)
    }

    /// All containers that may still be at work.
    pub fn alive(&self) -> Vec<ContainerId> {
        let is_alive = |(id, entry): (&ContainerId, &Entry)| {
            (!entry.is_suspect && !entry.is_gone).then(|| id.clone())
        };
        self.entries().iter().filter_map(is_alive).collect()
    }

    /// Nobody listens on the container's direct channel: it gets no work until it is heard of again.
    pub fn suspect(&self, container: &ContainerId) {
        self.change(|entries| {
            if let Some(entry) = entries.get_mut(container) {
                entry.is_suspect = true;
            }
        });
    }

    /// Replaces what the engine lists.
    pub fn list(&self, listed: Vec<Listed>) {
        self.change(|entries| {
            let mut listed: HashMap<ContainerId, Listed> = listed
                .into_iter()
                .map(|l| (l.address.container.clone(), l))
                .collect();
            for (id, entry) in entries.iter_mut() {
                entry.listed = listed.remove(id);
                // An older one announces nothing: that it is still listed is what is heard of it.
                entry.is_suspect &= entry.present.is_some();
            }
            for (id, new) in listed {
                entries.insert(
                    id,
                    Entry {
                        listed: Some(new),
                        ..Entry::default()
                    },
                );
            }
        });
    }

    /// The engine says that a container has ended.
    pub fn died(&self, container: &ContainerId) {
        self.change(|entries| {
            entries.remove(container);
        });
    }

    /// A container of ours has announced itself. Whether it was not known before.
    pub fn present(&self, present: Present) -> bool {
        let mut is_new = false;
        self.change(|entries| {
            let entry = entries
                .entry(present.address.container.clone())
                .or_default();
            is_new = entry.present.is_none() || entry.is_gone;
            entry.hear_clock(present.clock_ahead_ms);
            entry.is_suspect = false;
            entry.is_gone = false;
            entry.present = Some((present, Instant::now()));
        });
        is_new
    }

    /// A container of ours has said goodbye.
    pub fn goodbye(&self, container: &ContainerId) {
        self.change(|entries| {
            if let Some(entry) = entries.get_mut(container) {
                entry.is_gone = true;
            }
        });
    }

    /// Passes over every container of ours that was last heard before the given moment.
    pub fn silence(&self, heard_before: Instant) {
        self.change(|entries| {
            for entry in entries.values_mut() {
                if let Some((_, heard)) = entry.present
                    && heard < heard_before
                {
                    entry.is_gone = true;
                }
            }
        });
    }

    fn entries(&self) -> MutexGuard<'_, HashMap<ContainerId, Entry>> {
        self.entries.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn change(&self, change: impl FnOnce(&mut HashMap<ContainerId, Entry>)) {
        let mut entries = self.entries();
        change(&mut entries);
        // Who is gone is remembered only while the engine still lists it.
        entries.retain(|_, entry| {
            entry.listed.is_some() || (entry.present.is_some() && !entry.is_gone)
        });
        let mut members: Vec<Member> = entries.values().filter_map(Entry::member).collect();
        drop(entries);
        members.sort_by(|a, b| a.address.cmp(&b.address));
        self.members.send_if_modified(|current| {
            let changed = **current != *members;
            if changed {
                *current = members.into();
            }
            changed
        });
    }
}

#[cfg(test)]
mod tests;
