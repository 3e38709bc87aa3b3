//! Ids: checked when parsed, then trusted. Cheap to clone, since every message carries several.

use std::{fmt, str::FromStr, sync::Arc};

/// A text that is no valid id.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{value}` is no {what}: expected {expected}")]
pub struct BadId {
    what: &'static str,
    value: String,
    expected: &'static str,
}

macro_rules! text_id {
    ($(#[$doc:meta])* $name:ident, $what:literal, $expected:literal, $check:expr) => {
        $(#[$doc])*
        #[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
        pub struct $name(Arc<str>);

        impl $name {
            /// The id as text.
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl FromStr for $name {
            type Err = BadId;
            fn from_str(text: &str) -> Result<Self, BadId> {
                let check: fn(&str) -> bool = $check;
                if check(text) {
                    Ok(Self(text.into()))
                } else {
                    Err(BadId { what: $what, value: text.chars().take(80).collect(), expected: $expected })
                }
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }
    };
}

text_id!(
    /// Chosen by the frontend, unique per HTTP request; any text that is not empty.
    RequestId, "request id", "a text that is not empty", |text| !text.is_empty()
);
text_id!(
    /// A full container id. Docker's are 64 hex digits; a foreign sender may use any text that is
    /// not empty.
    ContainerId, "container id", "a text that is not empty", |text| !text.is_empty()
);
text_id!(
    /// The value of a container's label `com.docker.swarm.service.name`.
    ServiceName, "service name", "a text that is not empty", |text| !text.is_empty()
);

/// The audit record of a request: 12 bytes, on the wire 24 hex digits (a BSON ObjectId).
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct RecordId(pub [u8; 12]);

impl RecordId {
    /// The record of a request, where the request's id is itself the id of a record, as those of our
    /// frontends are: whoever is offered the request then gives it the same record.
    pub fn of_request(request: &RequestId) -> Option<Self> {
        let id: Self = request.as_str().parse().ok()?;
        // Only in lower case: two requests must not have one record.
        let is_lower = !request.as_str().bytes().any(|b| b.is_ascii_uppercase());
        is_lower.then_some(id)
    }
}

impl fmt::Display for RecordId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        const DIGITS: &[u8; 16] = b"0123456789abcdef";
        let mut text = [0u8; 24];
        for (pair, byte) in text.chunks_exact_mut(2).zip(self.0) {
            pair[0] = DIGITS[usize::from(byte >> 4)];
            pair[1] = DIGITS[usize::from(byte & 15)];
        }
        f.write_str(std::str::from_utf8(&text).map_err(|_| fmt::Error)?)
    }
}

impl fmt::Debug for RecordId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "RecordId({self})")
    }
}

impl FromStr for RecordId {
    type Err = BadId;
    fn from_str(text: &str) -> Result<Self, BadId> {
        let digit = |byte: u8| {
            char::from(byte)
                .to_digit(16)
                .and_then(|d| u8::try_from(d).ok())
        };
        let mut id = [0u8; 12];
        let parsed = text.len() == 24
            && text
                .as_bytes()
                .chunks_exact(2)
                .zip(&mut id)
                .all(|(pair, byte)| match (digit(pair[0]), digit(pair[1])) {
                    (Some(high), Some(low)) => {
                        *byte = high << 4 | low;
                        true
                    }
                    _ => false,
                });
        if parsed {
            Ok(Self(id))
        } else {
            Err(BadId {
                what: "record id",
                value: text.chars().take(80).collect(),
                expected: "24 hex digits",
            })
        }
    }
}

/// Where a message goes or comes from: both parts must match exactly (contract, "Address").
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Address {
    /// The full container id.
    pub container: ContainerId,
    /// The container's service.
    pub service: ServiceName,
}

impl Address {
    /// Makes an address of two texts, neither of them empty.
    ///
    /// # Errors
    /// [`BadId`] for an empty text.
    pub fn new(container: &str, service: &str) -> Result<Self, BadId> {
        Ok(Self {
            container: container.parse()?,
            service: service.parse()?,
        })
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let id = self.container.as_str();
        write!(f, "{}/{}", self.service, id.get(..12).unwrap_or(id))
    }
}
