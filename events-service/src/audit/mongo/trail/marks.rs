//! Where documents of texts begin to be missing, and who writes them when their owner has died.

use futures_util::TryStreamExt;
use mongodb::bson::{
    DateTime, Document, RawDocumentBuf, doc,
    oid::ObjectId,
    raw::{CStr, cstr},
    rawdoc,
};
use shared::contract::ContainerId;

use super::super::{
    COMMAND_MAX, MongoAuditLog, WORK_MAX,
    documents::{self, TextKind},
    prepare::OWN_COLLECTION,
    read,
};
use crate::audit::{AuditError, text_id::TextId};

/// Texts in one command when they are restored, with nobody waiting.
const RESTORED_TOGETHER: usize = 128;
/// Records that are read at a sweep to restore their texts: about a second's work. The rest is left to
/// the next sweep, which has other things to do as well.
const RESTORED_AT_A_SWEEP: i64 = 20_000;
/// Field of a mark, a document of our own collection whose `_id` is the container's.
const SINCE: &CStr = cstr!("textsSince");
/// Field of the mark of a container that was found dead: what was received later it has not held.
/// Without, whoever restores its texts could run after those of its own new records for ever.
const UNTIL: &CStr = cstr!("textsUntil");
/// How far the clock of the dead may have been ahead.
const AHEAD_MAX_MS: u64 = 5_000;

/// Where texts begin to be missing.
pub(super) struct Mark {
    pub(super) owner: ContainerId,
    pub(super) since_unix_ms: u64,
    /// Where they end, once somebody has found the owner dead.
    until_unix_ms: Option<u64>,
}

impl MongoAuditLog {
    /// Sets the mark of one who lives.
    pub(super) async fn put_mark(
        &self,
        owner: &ContainerId,
        since_unix_ms: u64,
    ) -> Result<(), AuditError> {
        let change = rawdoc! {
            "$set": { SINCE: documents::date(since_unix_ms) },
            "$unset": { UNTIL: "" },
        };
        self.change_mark(owner, change, true).await
    }

    /// Sets the mark of one who has died, if it is still there.
    async fn put_end(&self, mark: &Mark, until_unix_ms: u64) -> Result<(), AuditError> {
        let change = rawdoc! { "$set": {
            SINCE: documents::date(mark.since_unix_ms),
            UNTIL: documents::date(until_unix_ms),
        } };
        self.change_mark(&mark.owner, change, false).await
    }

    async fn change_mark(
        &self,
        owner: &ContainerId,
        change: RawDocumentBuf,
        upsert: bool,
    ) -> Result<(), AuditError> {
        let changing = rawdoc! { "q": { "_id": owner.as_str() }, "u": change, "upsert": upsert };
        let command = rawdoc! {
            "update": OWN_COLLECTION,
            "updates": [changing],
            "writeConcern": self.write_concern(),
        };
        self.run_write(command, COMMAND_MAX).await.map(drop)
    }

    pub(super) async fn remove_mark(&self, owner: &ContainerId) -> Result<(), AuditError> {
        let command = rawdoc! {
            "delete": OWN_COLLECTION,
            "deletes": [{ "q": { "_id": owner.as_str() }, "limit": 1 }],
            "writeConcern": self.write_concern(),
        };
        self.run_write(command, COMMAND_MAX).await.map(drop)
    }

    /// Sees to the texts of events services which are neither among the living nor us: writes them, or
    /// sees that whoever is to write them one day finds them.
    pub(in crate::audit::mongo) async fn finish_trails(
        &self,
        living: &[ContainerId],
    ) -> Result<(), AuditError> {
        let own = self.trail.state().owner.clone();
        let is_dead = |owner: &ContainerId| !living.contains(owner) && own.as_ref() != Some(owner);
        match &own {
            _ if !self.trail.is_left_out() => self.finish_trails_of(is_dead).await.map(drop),
            Some(own) => self.take_over(own, is_dead).await,
            None => Ok(()),
        }
    }

    /// Draws the marks of others into our own, which may have been removed by somebody who took us for
    /// dead.
    async fn take_over(
        &self,
        own: &ContainerId,
        is_meant: impl Fn(&ContainerId) -> bool,
    ) -> Result<(), AuditError> {
        let Some(mark) = self.trail.state().mark_unix_ms else {
            return Ok(());
        };
        let marks = self.marks().await?;
        let is_ours = |one: &Mark| one.owner == *own && one.until_unix_ms.is_none();
        let is_there = marks.iter().any(is_ours);
        let taken: Vec<_> = marks.iter().filter(|one| is_meant(&one.owner)).collect();
        let since = taken.iter().map(|one| one.since_unix_ms);
        let earliest = since.fold(mark, u64::min);
        if !is_there || earliest < mark {
            self.put_mark(own, earliest).await?;
            self.trail.state().mark_unix_ms = Some(earliest);
        }
        for other in taken {
            self.remove_mark(&other.owner).await?;
        }
        Ok(())
    }

    /// Writes the texts of these owners, or as many as is reasonable at once. Whether that was all.
    pub(super) async fn finish_trails_of(
        &self,
        is_meant: impl Fn(&ContainerId) -> bool,
    ) -> Result<bool, AuditError> {
        let mut marks = self.marks().await?;
        marks.retain(|mark| is_meant(&mark.owner));
        let now = u64::try_from(DateTime::now().timestamp_millis()).unwrap_or_default();
        let mut since = u64::MAX;
        let mut until = 0;
        for mark in &marks {
            let end = match mark.until_unix_ms {
                Some(end) => end,
                None => {
                    let end = now.max(mark.since_unix_ms).saturating_add(AHEAD_MAX_MS);
                    self.put_end(mark, end).await?;
                    end
                }
            };
            since = since.min(mark.since_unix_ms);
            until = until.max(end);
        }
        if marks.is_empty() {
            return Ok(true);
        }
        let (texts, reached) = self.restore(since, until).await?;
        for mark in &mut marks {
            match reached {
                // The next time goes on here.
                Some(reached) => {
                    mark.since_unix_ms = mark.since_unix_ms.max(reached);
                    self.put_end(mark, until).await?;
                }
                None => self.remove_mark(&mark.owner).await?,
            }
        }
        if texts > 0 {
            tracing::info!(texts, "wrote texts of records that events services left");
        }
        Ok(reached.is_none())
    }

    pub(super) async fn marks(&self) -> Result<Vec<Mark>, AuditError> {
        let finding = async {
            let own = self
                .database()
                .await?
                .collection::<Document>(OWN_COLLECTION);
            let finding = own
                .find(doc! { (SINCE.as_str()): { "$exists": true } })
                .max_time(WORK_MAX);
            read::all(finding)
                .await
                .map_err(|error| self.failure(&error))
        };
        let marks = self.within(COMMAND_MAX, finding).await?;
        let mark = |mark: &Document| {
            Some(Mark {
                owner: mark.get_str("_id").ok()?.parse().ok()?,
                since_unix_ms: moment(mark, SINCE)?,
                until_unix_ms: moment(mark, UNTIL),
            })
        };
        Ok(marks.iter().filter_map(mark).collect())
    }

    /// Writes the texts that records received in this time hold. Returns how many were missing, and how
    /// far it came if there are more.
    async fn restore(
        &self,
        since_unix_ms: u64,
        until_unix_ms: u64,
    ) -> Result<(usize, Option<u64>), AuditError> {
        let tasks = self.database().await?.collection::<Document>("tasks");
        let finding = tasks
            .find(doc! {
                "fromReceivedTime": {
                    "$gte": documents::date(since_unix_ms),
                    "$lte": documents::date(until_unix_ms),
                },
                "v": documents::VERSION,
            })
            .sort(doc! { "fromReceivedTime": 1, "_id": 1 })
            .limit(RESTORED_AT_A_SWEEP)
            .projection(doc! {
                "fromReceivedTime": 1,
                "requestBodyId": 1, "request": 1, "toResponseBodyId": 1, "response": 1,
            });
        let finding = async { finding.await.map_err(|error| self.failure(&error)) };
        let mut found = self.within(COMMAND_MAX, finding).await?;
        let mut records = 0;
        let mut restored = 0;
        let mut reached = since_unix_ms;
        let mut texts: [Vec<RawDocumentBuf>; 2] = Default::default();
        loop {
            // Limited step by step: there may be much to do, and a server that stalls must not keep
            // whoever waits for this.
            let next = async { found.try_next().await.map_err(|error| self.failure(&error)) };
            let record = self.within(COMMAND_MAX, next).await?;
            let is_last = record.is_none();
            for (kind, texts) in TextKind::ALL.into_iter().zip(&mut texts) {
                let text = record.as_ref().and_then(|record| text_in(record, kind));
                texts.extend(text);
                if texts.len() >= RESTORED_TOGETHER || is_last && !texts.is_empty() {
                    restored += self.write_texts(kind, std::mem::take(texts)).await?;
                }
            }
            let Some(record) = record else {
                break;
            };
            records += 1;
            reached = moment(&record, cstr!("fromReceivedTime")).unwrap_or(reached);
        }
        let is_more = records == RESTORED_AT_A_SWEEP && reached > since_unix_ms;
        Ok((restored, is_more.then_some(reached)))
    }
}

fn moment(document: &Document, field: &CStr) -> Option<u64> {
    let moment = document.get_datetime(field.as_str()).ok()?;
    u64::try_from(moment.timestamp_millis()).ok()
}

/// The document of a text that a record holds.
fn text_in(record: &Document, kind: TextKind) -> Option<RawDocumentBuf> {
    let text = record.get_str(kind.field().as_str()).ok()?;
    let id = read::id(record.get(kind.reference()))?;
    let id = ObjectId::parse_str(id).ok()?;
    Some(documents::text(TextId(id.bytes()), kind, text))
}
