//! What was said on the bus: counted, and put into words for those who read a run.

use std::{
    collections::HashMap,
    sync::{Mutex, PoisonError},
};

use serde_json::Value;
use shared::bus::Publication;

/// Counts by sender.
#[derive(Debug, Default)]
pub(crate) struct Traffic {
    dispatches: Mutex<HashMap<String, Dispatches>>,
}

/// The dispatches of one events service.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Dispatches {
    pub(crate) first: u64,
    pub(crate) repeated: u64,
    /// Of all of them, those that reached nobody and so cost nobody anything.
    pub(crate) unheard: u64,
}

impl Traffic {
    pub(crate) fn published(&self, from: &str, publication: &Publication, receivers: usize) {
        let Some(attempt) = attempt_of(&publication.payload) else {
            return;
        };
        let mut dispatches = self
            .dispatches
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        let of_sender = dispatches.entry(from.to_owned()).or_default();
        match (receivers, attempt) {
            (0, _) => of_sender.unheard += 1,
            (_, 1) => of_sender.first += 1,
            _ => of_sender.repeated += 1,
        }
    }

    pub(crate) fn dispatches(&self) -> HashMap<String, Dispatches> {
        self.dispatches
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }
}

/// The attempt that a dispatch says it is. Other messages say none.
fn attempt_of(payload: &[u8]) -> Option<u64> {
    let text = std::str::from_utf8(payload).ok()?;
    let (_, rest) = text.split_once("\"attempt\":")?;
    let digits = rest.find(|c: char| !c.is_ascii_digit())?;
    rest[..digits].parse().ok()
}

/// A message in words: the fields that are set, but for addresses.
pub(crate) fn describe(payload: &[u8]) -> String {
    let Ok(Value::Object(fields)) = serde_json::from_slice(payload) else {
        return "not an object".into();
    };
    let is_told = |name: &str, value: &Value| {
        let is_set = !value.is_null() && *value != "";
        let is_known = matches!(name, "v" | "deadline" | "timing" | "image" | "stack");
        is_set && !is_known
    };
    let told = fields.iter().filter(|(name, value)| is_told(name, value));
    let told: Vec<_> = told
        .map(|(name, value)| format!("{name}={value}"))
        .collect();
    told.join(" ")
}
