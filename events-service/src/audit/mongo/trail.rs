//! The documents of short texts, which follow their records.
//!
//! A record holds its short texts itself: what is acknowledged is complete. The contract has each
//! text in a document of its own as well, for older events services and for whoever reads those
//! collections. Nobody waits for these documents: they are written a moment later, many at once, since
//! a command costs the server as much as several documents, and in the gaps between two batches of
//! records.
//!
//! **Invariant**: a text that is not written yet is that of a record which was received at or after
//! the *mark* of whoever holds it. The mark is durable before the first text waits, and moves on only
//! when what lies before it is written. So nothing is lost with a service that dies: whoever sweeps
//! next finds its mark and writes the texts from the records ([`MongoAuditLog::finish_trails`]). One
//! that was taken for dead and lives has its mark again with its next step; should it die before, the
//! texts of these seconds stand in their records only. So does the response of a record that was taken
//! over, if both who took it and who held it before die at once.
//!
//! What cannot follow (a long text, a record older than the mark, too many that wait) is written with
//! its record instead.
//!
//! With [`TextDocuments::Long`] the documents of short texts are not written at all. It is the same
//! invariant: the mark stays where it was first set, and whoever sweeps with the same setting draws the
//! marks of the dead into its own. So an events service that is to write all documents again finds
//! where they begin to be missing.

mod marks;

use std::{
    sync::{Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use hashlink::LinkedHashMap;
use mongodb::bson::{RawDocumentBuf, raw::cstr};
use shared::contract::ContainerId;
use tokio::sync::Notify;

use super::{
    COMMAND_MAX, MongoAuditLog,
    documents::{self, TextKind},
    write::command,
};
use crate::{
    audit::{AuditError, text_id::TextId},
    settings::TextDocuments,
};

/// How long a few texts wait for more, and then for a gap between two batches of records. Less than
/// anybody needs to look at them.
const PAUSE: Duration = Duration::from_millis(10);
/// Fewer of a kind are few: a command costs the server as much by itself as so many do.
const FEW: usize = 16;
/// Texts of a kind that wait; beyond, they are written with their records.
const WAITING_MAX: usize = 2_048;
/// Turns of the runtime that the replies to a batch need: through the flow, the outbox and the bus.
/// Somebody waits for them, so they go before its texts.
const TURNS_OF_REPLIES: usize = 5;
/// Of the texts that wait, one in so many goes in a command: the more wait, the larger it is, and none
/// is so large that the next batch of records has to wait for long.
const SHARE: usize = 4;
/// The mark moves in steps of so many milliseconds. So much more than what really waited is read
/// again after a service has died.
const MARK_STEP_MS: u64 = 5_000;
/// Pause after a failure: whoever writes records notices the outage and says so.
const RETRY_PAUSE: Duration = Duration::from_millis(200);
/// Texts that wait. The lock is held for a moment, never over an await.
#[derive(Default)]
pub(super) struct Trail {
    /// Whether short texts follow at all.
    documents: TextDocuments,
    state: Mutex<State>,
    /// There is something to do.
    due: Notify,
    /// A batch of records has come back.
    gap: Notify,
}

#[derive(Default)]
struct State {
    /// Who writes them; without, none is taken.
    owner: Option<ContainerId>,
    /// Texts of records received before are not taken: the mark is here, or on its way to here. `None`
    /// until there is one.
    mark_unix_ms: Option<u64>,
    /// When the newest record was received.
    newest_unix_ms: u64,
    requests: Waiting,
    responses: Waiting,
}

/// Texts of a kind, oldest first.
type Waiting = LinkedHashMap<TextId, Text>;

struct Text {
    document: RawDocumentBuf,
    received_unix_ms: u64,
}

impl Trail {
    pub(super) fn of(documents: TextDocuments) -> Self {
        Self {
            documents,
            ..Self::default()
        }
    }

    /// Whether a record is all that short texts have.
    fn is_left_out(&self) -> bool {
        self.documents == TextDocuments::Long
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes a text, to be written later, or never. One that it does not take has to be written with its
    /// record.
    pub(super) fn takes(
        &self,
        kind: TextKind,
        id: TextId,
        text: &str,
        received_unix_ms: u64,
    ) -> bool {
        if !documents::is_short(text) {
            return false;
        }
        let mut state = self.state();
        if state.owner.is_none() {
            return false;
        }
        state.newest_unix_ms = state.newest_unix_ms.max(received_unix_ms);
        let is_marked = state
            .mark_unix_ms
            .is_some_and(|mark| mark <= received_unix_ms);
        if is_marked && self.is_left_out() {
            return true;
        }
        self.due.notify_one();
        if !is_marked {
            return false;
        }
        let waiting = state.waiting(kind);
        if waiting.contains_key(&id) {
            return true;
        }
        if waiting.len() >= WAITING_MAX {
            return false;
        }
        let document = documents::text(id, kind, text);
        let text = Text {
            document,
            received_unix_ms,
        };
        waiting.insert(id, text);
        true
    }

    /// A batch of records has come back: until the next one, the server has time for texts.
    pub(super) fn batch_is_over(&self) {
        self.gap.notify_waiters();
    }

    /// Waits for the moment to write. Texts that are written while records are slow both down.
    async fn moment(&self) {
        self.due.notified().await;
        if self.state().are_few() {
            tokio::time::sleep(PAUSE).await;
        }
        // If none ends in this time, the server is idle, or late anyway.
        let _no_gap = tokio::time::timeout(PAUSE, self.gap.notified()).await;
        for _ in 0..TURNS_OF_REPLIES {
            tokio::task::yield_now().await;
        }
    }
}

impl State {
    fn are_few(&self) -> bool {
        self.requests.len().max(self.responses.len()) < FEW
    }

    /// The kind of which more wait.
    fn larger(&self) -> TextKind {
        match self.requests.len() < self.responses.len() {
            true => TextKind::Response,
            false => TextKind::Request,
        }
    }

    fn waiting(&mut self, kind: TextKind) -> &mut Waiting {
        match kind {
            TextKind::Request => &mut self.requests,
            TextKind::Response => &mut self.responses,
        }
    }

    /// Where the mark could be: before the oldest text that waits.
    fn next_mark(&self) -> u64 {
        let waiting = self.requests.values().chain(self.responses.values());
        let oldest = waiting.map(|text| text.received_unix_ms).min();
        oldest.unwrap_or(self.newest_unix_ms)
    }
}

impl MongoAuditLog {
    /// Writes what waits, as it comes. May be dropped at any time: what it was at is written again.
    pub(super) async fn follow(&self, owner: &ContainerId) {
        while let Err(error) = self.begin_trail(owner).await {
            tracing::debug!(%error, "texts that were left cannot be written");
            tokio::time::sleep(RETRY_PAUSE).await;
        }
        self.trail.state().owner = Some(owner.clone());
        loop {
            self.trail.moment().await;
            let followed = async {
                self.move_mark(owner).await?;
                self.write_some().await
            };
            let is_more = match followed.await {
                Ok(is_more) => is_more,
                Err(error) => {
                    tracing::debug!(%error, "texts cannot be written");
                    tokio::time::sleep(RETRY_PAUSE).await;
                    true
                }
            };
            if is_more {
                self.trail.due.notify_one();
            }
        }
    }

    /// A container that is started again may have left some.
    async fn begin_trail(&self, owner: &ContainerId) -> Result<(), AuditError> {
        if !self.trail.is_left_out() {
            while !self.finish_trails_of(|one| one == owner).await? {}
            return Ok(());
        }
        let marks = self.marks().await?;
        let Some(own) = marks.into_iter().find(|mark| mark.owner == *owner) else {
            return Ok(());
        };
        self.put_mark(owner, own.since_unix_ms).await?;
        self.trail.state().mark_unix_ms = Some(own.since_unix_ms);
        Ok(())
    }

    /// Writes all that waits and takes the mark away, unless there are texts that are left out.
    pub(super) async fn end_trail(&self) -> Result<(), AuditError> {
        // Nothing more is taken.
        let Some(owner) = self.trail.state().owner.take() else {
            return Ok(());
        };
        if self.trail.is_left_out() {
            return Ok(());
        }
        while self.write_some().await? {}
        self.remove_mark(&owner).await
    }

    /// Writes some of those that wait, in one command. Whether more wait.
    async fn write_some(&self) -> Result<bool, AuditError> {
        let texts = self.texts()?;
        let (kind, ids, documents): (_, Vec<_>, Vec<_>) = {
            let mut state = self.trail.state();
            let kind = state.larger();
            let waiting = state.waiting(kind);
            let count = (waiting.len() / SHARE).max(FEW);
            let oldest = waiting.iter().take(count);
            let (ids, documents) = oldest
                .map(|(id, text)| (*id, text.document.clone()))
                .unzip();
            (kind, ids, documents)
        };
        if ids.is_empty() {
            return Ok(false);
        }
        self.write_texts(kind, documents).await?;
        let mut state = self.trail.state();
        let waiting = state.waiting(kind);
        ids.iter().for_each(|id| drop(waiting.remove(id)));
        let is_more = !state.requests.is_empty() || !state.responses.is_empty();
        drop(state);
        texts.remember(kind, ids);
        Ok(is_more)
    }

    /// Returns how many were not there yet.
    async fn write_texts(
        &self,
        kind: TextKind,
        documents: Vec<RawDocumentBuf>,
    ) -> Result<usize, AuditError> {
        let count = documents.len();
        let documents = documents.iter().map(|document| &**document).collect();
        let concern = self.write_concern();
        let command = command(cstr!("insert"), kind.collection(), &documents, &concern);
        let written = self.run_write(command, COMMAND_MAX).await;
        if written.is_err() {
            self.texts()?.forget();
        }
        // One that was there already is what we wanted.
        Ok(count.saturating_sub(written?.len()))
    }

    /// Moves the mark on if it has fallen behind.
    async fn move_mark(&self, owner: &ContainerId) -> Result<(), AuditError> {
        let (mark, is_first) = {
            let mut state = self.trail.state();
            let next = state.next_mark();
            match state.mark_unix_ms {
                Some(_) if self.trail.is_left_out() => return Ok(()),
                Some(mark) if next < mark.saturating_add(MARK_STEP_MS) => return Ok(()),
                Some(_) => {
                    // At once: what is taken meanwhile must not lie before it.
                    state.mark_unix_ms = Some(next);
                    (next, false)
                }
                None => (next, true),
            }
        };
        self.put_mark(owner, mark).await?;
        if is_first {
            self.trail.state().mark_unix_ms = Some(mark);
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MARK_MS: u64 = 1_000;

    fn trail() -> Trail {
        let trail = Trail::default();
        trail.state().owner = trail_owner();
        trail
    }

    fn trail_owner() -> Option<ContainerId> {
        Some("a".repeat(64).parse().unwrap())
    }

    fn marked() -> Trail {
        let trail = trail();
        trail.state().mark_unix_ms = Some(MARK_MS);
        trail
    }

    fn id(n: usize) -> TextId {
        let mut id = [0; 12];
        id[..8].copy_from_slice(&n.to_le_bytes());
        TextId(id)
    }

    fn takes(trail: &Trail, n: usize, text: &str, received: u64) -> bool {
        trail.takes(TextKind::Request, id(n), text, received)
    }

    #[test]
    fn nothing_is_taken_without_an_owner_and_a_mark() {
        assert!(!takes(&Trail::default(), 1, "a", MARK_MS));
        assert!(!takes(&trail(), 1, "a", MARK_MS));
        assert!(takes(&marked(), 1, "a", MARK_MS));
    }

    #[test]
    fn what_would_be_lost_with_us_is_not_taken() {
        let trail = marked();
        assert!(!takes(&trail, 1, "a", MARK_MS - 1));
        assert!(!takes(&trail, 1, &"a".repeat(10_000), MARK_MS));
    }

    #[test]
    fn short_texts_that_are_left_out_do_not_wait() {
        let trail = Trail::of(TextDocuments::Long);
        trail.state().owner = trail_owner();
        assert!(!takes(&trail, 1, "a", MARK_MS), "nobody would find it");
        trail.state().mark_unix_ms = Some(MARK_MS);
        assert!(takes(&trail, 1, "a", MARK_MS));
        assert!(!takes(&trail, 2, &"a".repeat(10_000), MARK_MS));
        assert!(trail.state().requests.is_empty());
    }

    #[test]
    fn what_waits_is_bounded_and_waits_once() {
        let trail = marked();
        for n in 0..WAITING_MAX {
            assert!(takes(&trail, n, "a", MARK_MS));
        }
        assert!(takes(&trail, 0, "a", MARK_MS), "it waits already");
        assert!(!takes(&trail, WAITING_MAX, "a", MARK_MS));
        assert_eq!(trail.state().requests.len(), WAITING_MAX);
    }

    #[test]
    fn the_mark_stays_before_what_waits() {
        let trail = marked();
        assert!(takes(&trail, 1, "a", MARK_MS + 50));
        assert!(takes(&trail, 2, "b", MARK_MS + 20_000));
        assert_eq!(trail.state().next_mark(), MARK_MS + 50);
        trail.state().requests = Waiting::default();
        assert_eq!(trail.state().next_mark(), MARK_MS + 20_000);
    }

    #[tokio::test(start_paused = true)]
    async fn texts_are_written_between_two_batches_of_records() {
        let trail = marked();
        for n in 0..FEW {
            assert!(takes(&trail, n, "a", MARK_MS));
        }
        let begun = tokio::time::Instant::now();
        let batch = async {
            tokio::time::sleep(PAUSE / 2).await;
            trail.batch_is_over();
        };
        tokio::join!(trail.moment(), batch);
        assert_eq!(begun.elapsed(), PAUSE / 2);
    }

    #[tokio::test(start_paused = true)]
    async fn a_few_wait_for_more_and_none_for_a_batch_that_does_not_come() {
        let trail = marked();
        assert!(takes(&trail, 1, "a", MARK_MS));
        let begun = tokio::time::Instant::now();
        trail.moment().await;
        assert_eq!(begun.elapsed(), PAUSE * 2);
    }

    #[test]
    fn neither_kind_is_forgotten() {
        let trail = marked();
        assert!(trail.takes(TextKind::Response, id(1), "a", MARK_MS));
        assert!(matches!(trail.state().larger(), TextKind::Response));
        assert!(takes(&trail, 1, "a", MARK_MS) && takes(&trail, 2, "b", MARK_MS));
        assert!(matches!(trail.state().larger(), TextKind::Request));
    }
}
