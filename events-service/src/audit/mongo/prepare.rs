//! What the log needs in the database: a server that is new enough, indexes, and the key of the text
//! ids.

use std::sync::{Arc, Mutex};

use mongodb::bson::{Binary, Document, RawArrayBuf, doc, rawdoc, spec::BinarySubtype};

use super::{LONG_COMMAND_MAX, MongoAuditLog, Texts, documents, failure, old_server, read};
use crate::audit::{
    AuditError, Status,
    text_id::{KnownIds, TextKey},
};

/// Where the key and the marks are kept: a collection of our own, so that an older events service never
/// meets it.
pub(super) const OWN_COLLECTION: &str = "roundtrip";
/// `_id` of the key's document.
const KEY_ID: &str = "textKey";

impl MongoAuditLog {
    pub(super) async fn prepare_all(&self) -> Result<(), AuditError> {
        self.check_version().await?;
        let command = rawdoc! { "createIndexes": "tasks", "indexes": indexes() };
        self.run(command, LONG_COMMAND_MAX).await?;
        let texts = Texts {
            key: self.key().await?,
            requests: Mutex::new(KnownIds::default()),
            responses: Mutex::new(KnownIds::default()),
        };
        let mut prepared = self
            .texts
            .lock()
            .unwrap_or_else(std::sync::PoisonError::into_inner);
        *prepared = Some(Arc::new(texts));
        Ok(())
    }

    async fn check_version(&self) -> Result<(), AuditError> {
        // Not `hello`: the first servers of 4.4 do not know that name.
        let asking = self
            .database()
            .await?
            .run_raw_command(rawdoc! { "isMaster": 1 })
            .await;
        let version = match asking {
            Ok(reply) => read::integer(reply.get("maxWireVersion")),
            // The driver cannot talk to a very old server at all; we can, for one question.
            Err(error) if failure::is_no_server(&error) => {
                match old_server::wire_version(&self.address.host_info).await {
                    Some(version) if version < old_server::WIRE_VERSION_MIN => Some(version),
                    _ => return Err(self.failure(&error)),
                }
            }
            Err(error) => return Err(self.failure(&error)),
        };
        let version = version.unwrap_or_default();
        if version < old_server::WIRE_VERSION_MIN {
            return Err(self.unusable(old_server::sentence(version)));
        }
        Ok(())
    }

    /// The key of the text ids: whichever of those who start at once writes it first, all read the
    /// same.
    async fn key(&self) -> Result<TextKey, AuditError> {
        if let Some(key) = self.stored_key().await? {
            return Ok(key);
        }
        let bytes = TextKey::random_bytes().map_err(|error| self.unavailable(error))?;
        let key = Binary {
            subtype: BinarySubtype::Generic,
            bytes: bytes.to_vec(),
        };
        let command = rawdoc! {
            "insert": OWN_COLLECTION,
            "documents": [{ "_id": KEY_ID, "key": key }],
            // As durable as the server can, whatever the setting: with another key, every text
            // would be stored again and no answer would be found.
            "writeConcern": { "w": "majority", "j": true, "wtimeout": documents::millis(super::WORK_MAX) },
        };
        self.run_write(command, LONG_COMMAND_MAX).await?;
        let stored = self.stored_key().await?;
        stored
            .ok_or_else(|| self.unavailable("the key of the text ids was written and is not there"))
    }

    async fn stored_key(&self) -> Result<Option<TextKey>, AuditError> {
        let own = self
            .database()
            .await?
            .collection::<Document>(OWN_COLLECTION);
        let found = own.find_one(doc! { "_id": KEY_ID }).await;
        let Some(found) = found.map_err(|error| self.failure(&error))? else {
            return Ok(None);
        };
        let key = found
            .get_binary_generic("key")
            .ok()
            .and_then(|bytes| TextKey::from_bytes(bytes));
        let why = || {
            format!(
                "the document `{KEY_ID}` of the collection `{OWN_COLLECTION}` holds no key; it was \
                 changed by someone else"
            )
        };
        key.map(Some).ok_or_else(|| self.unusable(why()))
    }
}

fn indexes() -> RawArrayBuf {
    let open = Status::Open.as_str();
    let indexes = [
        // One record per request, where `_id` does not say so. Partial, since older records may hold
        // one request twice.
        rawdoc! {
            "name": "roundtrip_request",
            "key": { "fromRequestId": 1 },
            "unique": true,
            "partialFilterExpression": { (documents::OWN_ID): true },
        },
        // Answers from the log: a question that was asked a million times is one entry, the record
        // that a backend answered.
        rawdoc! {
            "name": "roundtrip_reusable",
            "key": { "requestBodyId": 1 },
            "partialFilterExpression": { (documents::REUSABLE): true },
        },
        // Records past their deadline. Few are open at any time.
        rawdoc! {
            "name": "roundtrip_open",
            "key": { "deadline": 1 },
            "partialFilterExpression": { "status": open },
        },
        // Listing, newest first.
        rawdoc! { "name": "roundtrip_received", "key": { "fromReceivedTime": -1, "_id": -1 } },
        // Looking for a caller's own id; few callers send one.
        rawdoc! {
            "name": "roundtrip_caller",
            "key": { "callerRequestId": 1 },
            "partialFilterExpression": { "callerRequestId": { "$exists": true } },
        },
    ];
    indexes.iter().map(|index| &**index).collect()
}
