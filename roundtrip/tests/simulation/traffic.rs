//! What was said on the bus: counted, and put into words for those who read a run.

use std::{
    collections::{HashMap, HashSet},
    sync::{Mutex, PoisonError},
    time::Duration,
};

use serde_json::Value;
use shared::bus::Publication;

/// After its link has come up, an events service repeats within this time what was in flight: that
/// takes nothing from the budget, since it happens once.
const LINK_IS_BACK: Duration = Duration::from_millis(100);

/// Counts by sender.
#[derive(Debug, Default)]
pub(crate) struct Traffic {
    dispatches: Mutex<HashMap<String, Dispatches>>,
}

/// The dispatches of one events service, as they reached somebody: record and attempt.
#[derive(Debug, Clone, Default)]
pub(crate) struct Dispatches {
    pub(crate) first: HashSet<String>,
    pub(crate) repeated: HashSet<(String, u64)>,
    pub(crate) after_link_is_back: u64,
    /// Records whose last dispatch reached nobody: the next takes its place.
    unreached: HashSet<String>,
}

impl Traffic {
    /// A message was published to so many, when the link of its sender had been up for so long.
    pub(crate) fn published(
        &self,
        from: &str,
        publication: &Publication,
        receivers: usize,
        up_for: Duration,
    ) {
        let Some((record, attempt)) = dispatch(&publication.payload) else {
            return;
        };
        let mut dispatches = self
            .dispatches
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        let of_sender = dispatches.entry(from.to_owned()).or_default();
        if receivers == 0 {
            of_sender.unreached.insert(record);
            return;
        }
        let takes_place = of_sender.unreached.remove(&record);
        // One that was taken over from another events service begins with its second attempt.
        if of_sender.first.insert(record.clone()) || takes_place || attempt == 1 {
            return;
        }
        if up_for < LINK_IS_BACK {
            of_sender.after_link_is_back += 1;
        } else {
            of_sender.repeated.insert((record, attempt));
        }
    }

    pub(crate) fn dispatches(&self) -> HashMap<String, Dispatches> {
        self.dispatches
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }
}

/// Record and attempt of a dispatch.
fn dispatch(payload: &[u8]) -> Option<(String, u64)> {
    // Parsing every message would be most of what a run costs.
    if !payload.windows(9).any(|bytes| bytes == b"\"attempt\"") {
        return None;
    }
    let fields: Value = serde_json::from_slice(payload).ok()?;
    let record = fields.get("recordId")?.as_str()?.to_owned();
    Some((record, fields.get("attempt")?.as_u64()?))
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
