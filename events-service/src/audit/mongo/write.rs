//! A batch of writes as a few commands, sent at once: the new records, the completions, and those
//! texts that may not follow later ([`super::trail`]).
//!
//! Why the commands need no order among them: a batch holds one write of a record at most, nothing
//! is told before all are acknowledged, and a record whose text is not there yet answers nobody
//! (`find_answers`). Why repeating a batch is harmless: the ids of records and texts are ours, so
//! what is there already is a duplicate `_id` and no second document.

use std::{
    collections::{HashMap, HashSet},
    sync::{MutexGuard, PoisonError},
    time::Duration,
};

use futures_util::future::join_all;
use mongodb::bson::{
    Bson, Document, RawArrayBuf, RawDocumentBuf, doc,
    oid::ObjectId,
    raw::{CStr, cstr},
};

use super::{
    COMMAND_MAX, MongoAuditLog, Texts, WORK_MAX,
    documents::{self, TextKind},
    read,
    trail::Trail,
};
use shared::contract::ContainerId;

use crate::audit::{
    AuditError, Record, Status, Write, Written,
    text_id::{KnownIds, TextId},
};

/// Bytes of documents in one command. A command is one document, of at most 16 MiB; a document of
/// ours is at most a little larger than the largest body or result (8 MiB), so that this one can be
/// passed by one.
const COMMAND_BYTES_MAX: usize = 7 << 20;
const _: () = assert!(COMMAND_BYTES_MAX + crate::flow::TEXT_BYTES_MAX < 16 << 20);
/// Documents in one command, of which servers take 100,000.
const COMMAND_DOCUMENTS_MAX: usize = 10_000;
/// The server's code for a duplicate key.
const DUPLICATE_KEY: i64 = 11000;

/// What a command writes, and for whom.
enum Purpose {
    Texts(TextKind, Vec<TextId>),
    /// New records of the writes at these places of the batch.
    Inserts(Vec<usize>),
    /// Changes of records, of the writes at these places of the batch.
    Updates(Vec<usize>),
}

/// The documents of a batch, each with what it stands for.
#[derive(Default)]
struct Plan {
    requests: Vec<(TextId, RawDocumentBuf)>,
    responses: Vec<(TextId, RawDocumentBuf)>,
    inserts: Vec<(usize, RawDocumentBuf)>,
    updates: Vec<(usize, RawDocumentBuf)>,
}

impl Texts {
    fn known(&self, kind: TextKind) -> MutexGuard<'_, KnownIds> {
        let known = match kind {
            TextKind::Request => &self.requests,
            TextKind::Response => &self.responses,
        };
        known.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Notes that these are stored.
    pub(super) fn remember(&self, kind: TextKind, ids: Vec<TextId>) {
        let mut known = self.known(kind);
        ids.into_iter().for_each(|id| known.insert(id));
    }

    /// Forgets which texts are stored.
    pub(super) fn forget(&self) {
        for kind in TextKind::ALL {
            self.known(kind).clear();
        }
    }
}

impl MongoAuditLog {
    /// Runs a command that writes. Returns the places of the documents that were there already.
    pub(super) async fn run_write(
        &self,
        command: RawDocumentBuf,
        limit: Duration,
    ) -> Result<Vec<usize>, AuditError> {
        let reply = self.run(command, limit).await?;
        check_reply(&reply).map_err(|why| self.unavailable(why))
    }

    pub(super) async fn write_batch(
        &self,
        texts: &Texts,
        batch: &[Write],
    ) -> Result<Vec<Written>, AuditError> {
        let commands = Plan::of(batch, texts, &self.trail).commands(&self.write_concern());
        let running = commands.into_iter().map(|(purpose, command)| async move {
            (purpose, self.run(command, COMMAND_MAX).await)
        });
        // All are waited for, also after a failure: giving up a command closes its connection.
        let replies = join_all(running).await;

        let mut written: Vec<Written> = batch.iter().map(without_doubt).collect();
        let mut doubtful = Vec::new();
        for (purpose, reply) in replies {
            let reply = reply?;
            let duplicates = check_reply(&reply).map_err(|why| self.unavailable(why))?;
            match purpose {
                // A text that was there already is what we wanted.
                Purpose::Texts(kind, ids) => texts.remember(kind, ids),
                Purpose::Inserts(places) => {
                    let at = |n: &usize| places.get(*n).copied();
                    doubtful.extend(duplicates.iter().filter_map(at));
                }
                Purpose::Updates(places) => {
                    if count(&reply, "n") != places.len() as u64 {
                        doubtful.extend(places);
                    }
                }
            }
        }
        if !doubtful.is_empty() {
            self.settle(texts, batch, &doubtful, &mut written).await?;
        }
        Ok(written)
    }

    /// Says of doubtful writes what became of them, from the records as they are stored.
    async fn settle(
        &self,
        texts: &Texts,
        batch: &[Write],
        doubtful: &[usize],
        written: &mut [Written],
    ) -> Result<(), AuditError> {
        let ids: Vec<Bson> = doubtful
            .iter()
            .map(|&n| object_id(&batch[n]).into())
            .collect();
        let stored = self
            .within(COMMAND_MAX, async {
                let tasks = self.database().await?.collection::<Document>("tasks");
                let found = tasks
                    .find(doc! { "_id": { "$in": ids } })
                    .projection(doc! {
                        "status": 1, "toReceivedTime": 1, "toResponseBodyId": 1,
                        "serviceContainerId": 1,
                    })
                    .max_time(WORK_MAX);
                read::all(found).await.map_err(|error| self.failure(&error))
            })
            .await?;
        let stored: HashMap<ObjectId, Document> = stored
            .into_iter()
            .filter_map(|document| Some((document.get_object_id("_id").ok()?, document)))
            .collect();
        for &n in doubtful {
            let stored = stored.get(&object_id(&batch[n]));
            written[n] = match &batch[n] {
                // Our own insert, repeated.
                Write::Insert(record)
                    if stored.is_some_and(|s| {
                        is_held_by(s, &record.events_service.container)
                            && is_ended_so(s, record, texts)
                    }) =>
                {
                    Written::Done
                }
                Write::Insert(_) => Written::DuplicateRequest,
                Write::Complete(record)
                    if stored.is_some_and(|s| is_ended_so(s, record, texts)) =>
                {
                    Written::Done
                }
                Write::Reassign { by, .. }
                    if stored.is_some_and(|s| is_open(s) && is_held_by(s, &by.container)) =>
                {
                    Written::Done
                }
                Write::Complete(_) | Write::Reassign { .. } => Written::AlreadyEnded,
            };
        }
        Ok(())
    }
}

fn is_open(stored: &Document) -> bool {
    stored.get_str("status").ok() == Some(Status::Open.as_str())
}

fn is_held_by(stored: &Document, events_service: &ContainerId) -> bool {
    stored.get_str("serviceContainerId").ok() == Some(events_service.as_str())
}

/// Whether the stored record ended exactly as ours, or is open as ours is. It was then this very
/// write, in this try or in an earlier one whose acknowledgement was lost, or one that cannot be told
/// from it.
fn is_ended_so(stored: &Document, record: &Record, texts: &Texts) -> bool {
    let Some(end) = &record.end else {
        return is_open(stored);
    };
    let response = end.outcome.text().map(|text| texts.key.id(text).to_hex());
    stored.get_str("status").ok() == Some(end.outcome.status().as_str())
        && stored.get_datetime("toReceivedTime").ok() == Some(&documents::date(end.at_unix_ms))
        && stored.get_str("toResponseBodyId").ok() == response.as_deref()
}

impl Plan {
    fn of(batch: &[Write], texts: &Texts, trail: &Trail) -> Self {
        let mut plan = Self::default();
        let mut requests = NewTexts::new(TextKind::Request, texts, trail);
        let mut responses = NewTexts::new(TextKind::Response, texts, trail);
        for (n, write) in batch.iter().enumerate() {
            let mut response = |record: &Record| {
                let text = record.end.as_ref()?.outcome.text()?;
                let id = texts.key.id(text);
                responses.add(id, text, record.received_unix_ms, &mut plan.responses);
                Some(id)
            };
            match write {
                Write::Insert(record) => {
                    let response = response(record);
                    let request = texts.key.id(&record.body);
                    let received = record.received_unix_ms;
                    requests.add(request, &record.body, received, &mut plan.requests);
                    plan.inserts
                        .push((n, documents::record(record, request, response)));
                }
                Write::Complete(record) => {
                    debug_assert!(record.end.is_some(), "a completion without an end");
                    let response = response(record);
                    if let Some(end) = &record.end {
                        plan.updates
                            .push((n, documents::completion(record, end, response)));
                    }
                }
                Write::Reassign {
                    id,
                    from,
                    by,
                    backend,
                } => {
                    let statement = documents::reassign(*id, from, by, backend.as_ref());
                    plan.updates.push((n, statement));
                }
            }
        }
        plan
    }

    fn commands(self, concern: &RawDocumentBuf) -> Vec<(Purpose, RawDocumentBuf)> {
        let mut commands = Vec::with_capacity(4);
        let insert = cstr!("insert");
        for (ids, documents) in chunks(self.inserts) {
            commands.push((
                Purpose::Inserts(ids),
                command(insert, "tasks", &documents, concern),
            ));
        }
        for (ids, documents) in chunks(self.updates) {
            let command = command(cstr!("update"), "tasks", &documents, concern);
            commands.push((Purpose::Updates(ids), command));
        }
        for (kind, texts) in [
            (TextKind::Request, self.requests),
            (TextKind::Response, self.responses),
        ] {
            for (ids, documents) in chunks(texts) {
                let command = command(insert, kind.collection(), &documents, concern);
                commands.push((Purpose::Texts(kind, ids), command));
            }
        }
        commands
    }
}

/// The texts of a batch that are not known to be stored, each once.
struct NewTexts<'a> {
    kind: TextKind,
    known: MutexGuard<'a, KnownIds>,
    trail: &'a Trail,
    in_batch: HashSet<TextId>,
}

impl<'a> NewTexts<'a> {
    fn new(kind: TextKind, texts: &'a Texts, trail: &'a Trail) -> Self {
        Self {
            kind,
            known: texts.known(kind),
            trail,
            in_batch: HashSet::new(),
        }
    }

    /// Plans to write a text with the batch, unless it is there or may follow.
    fn add(
        &mut self,
        id: TextId,
        text: &str,
        received_unix_ms: u64,
        plan: &mut Vec<(TextId, RawDocumentBuf)>,
    ) {
        if self.known.contains(id) || !self.in_batch.insert(id) {
            return;
        }
        if !self.trail.takes(self.kind, id, text, received_unix_ms) {
            plan.push((id, documents::text(id, self.kind, text)));
        }
    }
}

/// What becomes of a write that the server has no objection to.
fn without_doubt(write: &Write) -> Written {
    match write {
        // It was not sent.
        Write::Complete(record) if record.end.is_none() => Written::AlreadyEnded,
        _ => Written::Done,
    }
}

/// Cuts documents into what fits one command.
fn chunks<T>(items: Vec<(T, RawDocumentBuf)>) -> Vec<(Vec<T>, RawArrayBuf)> {
    let mut chunks: Vec<(Vec<T>, RawArrayBuf)> = Vec::new();
    let mut bytes = usize::MAX;
    for (item, document) in items {
        let size = document.as_bytes().len();
        bytes = bytes.saturating_add(size);
        match chunks.last_mut() {
            Some((items, documents))
                if bytes <= COMMAND_BYTES_MAX && items.len() < COMMAND_DOCUMENTS_MAX =>
            {
                items.push(item);
                documents.push(&*document);
            }
            _ => {
                bytes = size;
                chunks.push((vec![item], RawArrayBuf::from_iter([&*document])));
            }
        }
    }
    chunks
}

/// A command that writes documents or statements.
pub(super) fn command(
    name: &CStr,
    collection: &str,
    documents: &RawArrayBuf,
    concern: &RawDocumentBuf,
) -> RawDocumentBuf {
    let is_insert = name == cstr!("insert");
    let mut command = RawDocumentBuf::new();
    command.append(name, collection);
    // Unordered: one duplicate does not keep the rest from being written.
    command.append(cstr!("ordered"), false);
    command.append(cstr!("maxTimeMS"), documents::millis(WORK_MAX));
    command.append(cstr!("writeConcern"), &**concern);
    command.append(
        if is_insert {
            cstr!("documents")
        } else {
            cstr!("updates")
        },
        &**documents,
    );
    command
}

/// The places of the documents that were there already.
///
/// # Errors
/// Something else went wrong, in the server's words: whether the command took effect is not known.
pub(super) fn check_reply(reply: &Document) -> Result<Vec<usize>, String> {
    let mut duplicates = Vec::new();
    let errors = reply
        .get_array("writeErrors")
        .map(Vec::as_slice)
        .unwrap_or_default();
    for error in errors.iter().filter_map(Bson::as_document) {
        let place = read::integer(error.get("index")).and_then(|index| usize::try_from(index).ok());
        match place {
            Some(place) if read::integer(error.get("code")) == Some(DUPLICATE_KEY) => {
                duplicates.push(place);
            }
            _ => return Err(words(error)),
        }
    }
    match reply.get_document("writeConcernError") {
        Ok(error) => Err(words(error)),
        Err(_) => Ok(duplicates),
    }
}

fn words(error: &Document) -> String {
    let message = error.get_str("errmsg").unwrap_or("the server says not why");
    match read::integer(error.get("code")) {
        Some(code) => format!("{message} (code {code})"),
        None => message.to_owned(),
    }
}

/// A count in a reply; servers give it as one or another kind of number.
pub(super) fn count(reply: &Document, field: &str) -> u64 {
    read::integer(reply.get(field))
        .and_then(|count| u64::try_from(count).ok())
        .unwrap_or_default()
}

fn object_id(write: &Write) -> ObjectId {
    ObjectId::from_bytes(write.id().0)
}
