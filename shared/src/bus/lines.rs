//! Several events in one message of Redis, one a line (docs/wire.md, "Lines").
//!
//! Redis, and the client at either end, do about the same work for a message whatever is in it. What
//! goes to one container at once shares it.
//!
//! Two events part at `}`, newline, `{`. No JSON document contains these three bytes: in a text a
//! newline is escaped, and between two objects stands a comma. So a receiver need not be told whether
//! a message is one event, also of a sender who breaks lines, or several.

use std::sync::Arc;

use bytes::{Buf, Bytes};

use super::Publication;

/// Events in one message: what a message costs by itself is shared by then.
const EVENTS_MAX: usize = 64;
/// Bytes in one message, so that the first event in it need not wait for long; larger events go
/// alone.
const BYTES_MAX: usize = 32 << 10;

/// One message as it goes out.
#[derive(Debug)]
pub(super) struct Parcel {
    channel: Arc<str>,
    /// Never empty.
    events: Vec<Bytes>,
    bytes: usize,
    is_open: bool,
}

/// Puts together what may share a message. Returns the parcels, and in which of them each of the
/// publications is. What goes to one channel stays in its order.
pub(super) fn join(batch: Vec<Publication>) -> (Vec<Parcel>, Vec<usize>) {
    let mut parcels: Vec<Parcel> = Vec::with_capacity(batch.len());
    let mut places = Vec::with_capacity(batch.len());
    for publication in batch {
        // The newest of a channel: those before it are full.
        let of_channel = |parcel: &Parcel| parcel.channel == publication.channel;
        let may_share = publication.takes_lines && is_object(&publication.payload);
        let newest = match may_share {
            true => parcels.iter().rposition(of_channel),
            false => None,
        };
        let place = match newest {
            Some(place) if parcels[place].has_room(&publication.payload) => {
                parcels[place].add(publication.payload);
                place
            }
            _ => {
                parcels.push(Parcel::new(publication, may_share));
                parcels.len() - 1
            }
        };
        places.push(place);
    }
    (parcels, places)
}

/// The events of a message.
pub(super) fn split(message: Bytes) -> impl Iterator<Item = Bytes> {
    let mut rest = Some(message);
    std::iter::from_fn(move || {
        let mut message = rest.take()?;
        let mut newlines = memchr::memchr_iter(b'\n', &message);
        let Some(at) = newlines.find(|&at| is_boundary(&message, at)) else {
            return Some(message);
        };
        let event = message.split_to(at);
        message.advance(1);
        rest = Some(message);
        Some(event)
    })
}

fn is_boundary(message: &[u8], newline: usize) -> bool {
    newline > 0 && message[newline - 1] == b'}' && message.get(newline + 1) == Some(&b'{')
}

fn is_object(payload: &[u8]) -> bool {
    matches!(payload, [b'{', .., b'}'])
}

impl Parcel {
    fn new(publication: Publication, is_open: bool) -> Self {
        Self {
            channel: publication.channel,
            bytes: publication.payload.len(),
            events: vec![publication.payload],
            is_open,
        }
    }

    fn has_room(&self, event: &Bytes) -> bool {
        self.is_open
            && self.events.len() < EVENTS_MAX
            && self.bytes.saturating_add(event.len()) < BYTES_MAX
    }

    fn add(&mut self, event: Bytes) {
        self.bytes += event.len() + 1;
        self.events.push(event);
    }

    /// Its channel and the message.
    pub(super) fn into_message(mut self) -> (Arc<str>, Bytes) {
        let payload = match self.events.len() {
            1 => self.events.swap_remove(0),
            _ => self.events.join(&b'\n').into(),
        };
        (self.channel, payload)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn publication(channel: &str, payload: impl Into<Bytes>, takes_lines: bool) -> Publication {
        Publication {
            channel: channel.into(),
            payload: payload.into(),
            takes_lines,
        }
    }

    /// What is heard on each channel, one event after the other.
    fn heard(batch: Vec<Publication>) -> Vec<(Arc<str>, Bytes)> {
        let (parcels, _) = join(batch);
        let events = parcels.into_iter().flat_map(|parcel| {
            let (channel, payload) = parcel.into_message();
            split(payload).map(move |event| (channel.clone(), event))
        });
        events.collect()
    }

    #[test]
    fn what_goes_to_one_container_shares_a_message() {
        let batch = ["a", "b", "a", "b", "a"].map(|channel| publication(channel, "{}", true));
        let (parcels, places) = join(batch.into());
        assert_eq!(places, [0, 1, 0, 1, 0]);
        let messages = parcels.into_iter().map(Parcel::into_message);
        let payloads: Vec<Bytes> = messages.map(|(_, payload)| payload).collect();
        assert_eq!(payloads, ["{}\n{}\n{}", "{}\n{}"]);
    }

    #[test]
    fn who_does_not_know_lines_gets_none() {
        let batch = vec![publication("a", "{}", false); 3];
        assert_eq!(join(batch).1, [0, 1, 2]);
    }

    #[test]
    fn what_is_no_object_goes_alone() {
        let batch = ["{}", "", "x", "\"{}\"", "{}"].map(|text| publication("a", text, true));
        assert_eq!(join(batch.into()).1, [0, 1, 2, 3, 4]);
    }

    #[test]
    fn a_message_is_bounded() {
        let (parcels, _) = join(vec![publication("a", "{}", true); 200]);
        assert_eq!(parcels.len(), 200usize.div_ceil(EVENTS_MAX));
        let large = format!("{{{}}}", " ".repeat(BYTES_MAX));
        let (parcels, _) = join(vec![publication("a", large, true); 3]);
        assert_eq!(parcels.len(), 3);
    }

    #[test]
    fn an_event_with_line_breaks_is_one() {
        let event = "{\n  \"a\": [{},\n{}],\n\"b\": {\n}\n}";
        assert_eq!(split(event.into()).collect::<Vec<_>>(), [event]);
    }

    proptest! {
        #[test]
        fn every_event_is_heard_once_and_in_order(
            batch in prop::collection::vec(
                ("[ab]", prop::collection::hash_map(".*", ".*", 0..4), any::<bool>()),
                0..300,
            )
        ) {
            let batch: Vec<Publication> = batch
                .into_iter()
                .map(|(channel, event, takes_lines)| {
                    publication(&channel, serde_json::to_vec(&event).unwrap(), takes_lines)
                })
                .collect();
            let events = heard(batch.clone());
            for channel in ["a", "b"] {
                let sent = batch.iter().filter(|one| &*one.channel == channel);
                let sent: Vec<&Bytes> = sent.map(|one| &one.payload).collect();
                let heard = events.iter().filter(|(to, _)| &**to == channel);
                let heard: Vec<&Bytes> = heard.map(|(_, event)| event).collect();
                prop_assert_eq!(sent, heard);
            }
        }

        #[test]
        fn whatever_comes_is_cut_without_loss(message in prop::collection::vec(
            prop::sample::select(b"{}\n\"a".as_slice()), 0..60,
        )) {
            let parts: Vec<Bytes> = split(message.clone().into()).collect();
            prop_assert_eq!(parts.join(&b'\n'), message);
        }
    }
}
