//! What happened, in order: kept when one seed is looked at.

use std::sync::{Arc, Mutex, PoisonError};

use tokio::time::Instant;

/// Takes notes, if anybody wants to read them.
#[derive(Debug, Clone)]
pub(crate) struct History {
    begun: Instant,
    notes: Option<Arc<Mutex<Vec<String>>>>,
}

impl History {
    pub(crate) fn new(is_kept: bool) -> Self {
        Self {
            begun: Instant::now(),
            notes: is_kept.then(Arc::default),
        }
    }

    pub(crate) fn note(&self, event: impl FnOnce() -> String) {
        if let Some(notes) = &self.notes {
            let at = self.begun.elapsed().as_millis();
            let note = format!("{at:>6} ms  {}", event());
            notes
                .lock()
                .unwrap_or_else(PoisonError::into_inner)
                .push(note);
        }
    }

    pub(crate) fn text(&self) -> String {
        self.notes.as_ref().map_or_else(String::new, |notes| {
            notes
                .lock()
                .unwrap_or_else(PoisonError::into_inner)
                .join("\n")
        })
    }
}
