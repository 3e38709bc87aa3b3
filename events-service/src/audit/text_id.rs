//! Ids of request and response texts, derived from their content: storing a text again is a write
//! without a read, and the same text is stored once.
//!
//! The derivation is keyed. With 96 bits and no key, two texts with one id could be constructed, and
//! the log would answer one request with the result of another.

use std::collections::HashSet;

use hmac::{Hmac, KeyInit, Mac};
use sha2::Sha256;
use shared::contract::RecordId;

/// Length of the key: as long as the hash, which is the most that HMAC makes use of.
pub(super) const KEY_BYTES: usize = 32;
/// Length of an id: that of an ObjectId, which older events services expect.
const ID_BYTES: usize = 12;
/// Ids in one generation of [`KnownIds`]: about 1 MB in memory. At half of it a service with many
/// distinct texts writes some again for nothing; at twice the look-ups leave the processor's cache.
const GENERATION_MAX: usize = 32_768;

/// The id of a text.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) struct TextId(pub(super) [u8; ID_BYTES]);

impl TextId {
    /// As references are stored: 24 hex digits.
    pub(super) fn to_hex(self) -> String {
        RecordId(self.0).to_string()
    }
}

/// The key of the ids, made when a log is first prepared and kept in it.
#[derive(Clone)]
pub(super) struct TextKey(Hmac<Sha256>);

impl TextKey {
    /// A key for a new log.
    ///
    /// # Errors
    /// The operating system has no randomness to give.
    pub(super) fn random_bytes() -> Result<[u8; KEY_BYTES], getrandom::Error> {
        let mut bytes = [0; KEY_BYTES];
        getrandom::fill(&mut bytes)?;
        Ok(bytes)
    }

    /// The key as it was stored; `None` for one of another length.
    pub(super) fn from_bytes(bytes: &[u8]) -> Option<Self> {
        if bytes.len() != KEY_BYTES {
            return None;
        }
        Hmac::new_from_slice(bytes).ok().map(Self)
    }

    /// The id of a text.
    pub(super) fn id(&self, text: &str) -> TextId {
        // The keyed state is cloned: hashing the key anew would double the cost of a short text.
        let mut mac = self.0.clone();
        mac.update(text.as_bytes());
        let mut id = [0; ID_BYTES];
        id.copy_from_slice(&mac.finalize().into_bytes()[..ID_BYTES]);
        TextId(id)
    }
}

/// Ids of texts that are known to be stored, bounded: when the recent ones are many, the older ones
/// are forgotten. A forgotten id costs one write that changes nothing.
///
/// **Invariant**: an id is put in only after the store acknowledged the text, and all are forgotten
/// when the store was out of reach: it may have come back without what it acknowledged last.
#[derive(Debug, Default)]
pub(super) struct KnownIds {
    recent: HashSet<TextId>,
    older: HashSet<TextId>,
}

impl KnownIds {
    /// Whether the text is stored. What is asked for stays known.
    pub(super) fn contains(&mut self, id: TextId) -> bool {
        if self.recent.contains(&id) {
            return true;
        }
        let is_known = self.older.contains(&id);
        if is_known {
            self.insert(id);
        }
        is_known
    }

    /// Notes that a text is stored.
    pub(super) fn insert(&mut self, id: TextId) {
        if self.recent.len() >= GENERATION_MAX {
            self.older = std::mem::take(&mut self.recent);
        }
        self.recent.insert(id);
    }

    /// Forgets all.
    pub(super) fn clear(&mut self) {
        self.recent.clear();
        self.older.clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_id_depends_on_text_and_key() {
        let key = TextKey::from_bytes(&[7; KEY_BYTES]).unwrap();
        let other = TextKey::from_bytes(&[8; KEY_BYTES]).unwrap();
        assert_eq!(key.id("a"), key.id("a"));
        assert_ne!(key.id("a"), key.id("b"));
        assert_ne!(key.id("a"), other.id("a"));
        assert!(TextKey::from_bytes(&[7; KEY_BYTES - 1]).is_none());
    }

    /// The derivation is part of the stored format: with another one, every text would be stored
    /// again and no older answer would be found.
    #[test]
    fn the_derivation_never_changes() {
        let bytes: Vec<u8> = (0..32).collect();
        let id = TextKey::from_bytes(&bytes)
            .unwrap()
            .id(r#"{"a1":5,"a2":10}"#);
        assert_eq!(id.to_hex(), "fc8ccdc0b3fa56af908ab827");
    }

    #[test]
    fn known_ids_are_bounded_and_those_asked_for_stay() {
        let id = |n: usize| {
            let mut bytes = [0; ID_BYTES];
            bytes[..8].copy_from_slice(&n.to_le_bytes());
            TextId(bytes)
        };
        let mut known = KnownIds::default();
        for n in 0..5 * GENERATION_MAX {
            known.insert(id(n));
            assert!(known.contains(id(0)), "after {n}");
        }
        assert!(known.recent.len() + known.older.len() <= 2 * GENERATION_MAX);
        assert!(!known.contains(id(1)));
        known.clear();
        assert!(!known.contains(id(0)));
    }
}
