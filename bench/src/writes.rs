//! The writes of the audit log without the audit log: the same documents, in batches of the same size,
//! to the same server.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use futures_util::{TryStreamExt as _, future::try_join_all};
use mongodb::{
    Client, Database,
    bson::{Document, RawArrayBuf, RawDocumentBuf, doc, oid::ObjectId, raw::cstr, rawdoc},
};

/// Texts follow their records, about so many of a kind in one command.
const TEXTS_AT_ONCE: usize = 128;

/// A record as the events service wrote it, to be written again under other ids.
#[derive(Debug)]
pub(crate) struct Writes {
    database: Database,
    record: Template,
    /// The documents of its texts, by collection; none with `TEXT_DOCUMENTS=long`.
    texts: Vec<(&'static str, Template)>,
}

impl Writes {
    /// Looks at a record and the indexes in the database of an events service, `theirs`, and makes the
    /// database `ours` with the same indexes beside it.
    ///
    /// # Errors
    /// The server cannot be reached, or there is no record.
    pub(crate) async fn as_in(uri: &str, theirs: &str, ours: &str) -> Result<Self> {
        let client = Client::with_uri_str(uri).await?;
        let theirs = client.database(theirs);
        let ours = client.database(ours);
        let tasks = theirs.collection::<Document>("tasks");
        let record = tasks
            .find_one(doc! { "task": "NUMBER", "status": "answered", "toContainerId": { "$exists": true } })
            // The newest: the documents of the first ones' texts are written in any case.
            .sort(doc! { "fromReceivedTime": -1 })
            .await?
            .context("no record to write again")?;
        let indexes: Vec<_> = tasks.list_indexes().await?.try_collect().await?;
        let new = ours.collection::<Document>("tasks");
        for index in indexes
            .into_iter()
            .filter(|index| !index.keys.contains_key("_id"))
        {
            new.create_index(index).await?;
        }
        let mut texts = Vec::new();
        for (collection, field) in [
            ("requests", "requestBodyId"),
            ("responses", "toResponseBodyId"),
        ] {
            let id = ObjectId::parse_str(record.get_str(field)?)?;
            let found = theirs.collection::<Document>(collection);
            if let Some(text) = found.find_one(doc! { "_id": id }).await? {
                texts.push((collection, Template::of_text(&text)?));
            }
        }
        Ok(Self {
            texts,
            record: Template::of_record(&record)?,
            database: ours,
        })
    }

    /// Writes for so long.
    ///
    /// # Errors
    /// The server refuses something.
    pub(crate) async fn per_second(&self, batch: usize, measured: Duration) -> Result<f64> {
        let began = Instant::now();
        let (mut records, mut waiting) = (0, 0);
        while began.elapsed() < measured {
            // One batch at a time, and texts beside it when they are enough: as the events service
            // writes them.
            records += batch;
            waiting += batch;
            let due = texts_due(&mut waiting);
            tokio::try_join!(self.records(batch), self.texts(due))?;
        }
        Ok(records as f64 / began.elapsed().as_secs_f64())
    }

    /// So many records in one command.
    ///
    /// # Errors
    /// The server refuses something.
    pub(crate) async fn records(&self, count: usize) -> Result<()> {
        self.write("tasks", &self.record, count).await
    }

    /// The texts of so many records, a command for each of their collections.
    ///
    /// # Errors
    /// The server refuses something.
    pub(crate) async fn texts(&self, count: usize) -> Result<()> {
        let texts = self.texts.iter();
        let texts = texts.map(|(collection, text)| self.write(collection, text, count));
        try_join_all(texts).await.map(drop)
    }

    /// One command, if there is anything to write.
    async fn write(&self, collection: &str, template: &Template, count: usize) -> Result<()> {
        if count == 0 {
            return Ok(());
        }
        let documents: Result<RawArrayBuf> = (0..count).map(|_| template.fresh()).try_fold(
            RawArrayBuf::new(),
            |mut all, document| {
                all.push(document?);
                Ok(all)
            },
        );
        let mut command = RawDocumentBuf::new();
        command.append(cstr!("insert"), collection);
        command.append(cstr!("ordered"), false);
        command.append(
            cstr!("writeConcern"),
            rawdoc! { "w": "majority", "j": true },
        );
        command.append(cstr!("documents"), documents?);
        let reply = self.database.run_raw_command(command).await?;
        ensure!(
            !reply.contains_key("writeErrors"),
            "the database refuses documents: {reply}"
        );
        Ok(())
    }
}

/// Of how many records the texts are to be written now, if so many wait.
pub(crate) fn texts_due(waiting: &mut usize) -> usize {
    match *waiting >= TEXTS_AT_ONCE {
        true => std::mem::take(waiting),
        false => 0,
    }
}

/// The bytes of a document, and where its ids stand in them.
#[derive(Debug)]
struct Template {
    bytes: Vec<u8>,
    /// Where `_id` is.
    id: usize,
    /// In a record, where it stands once more, in hexadecimal digits. The ids of records rise; those of
    /// texts are places of chance, which costs an index more.
    same: Option<usize>,
    /// Ids of texts, in hexadecimal digits.
    texts: Vec<usize>,
}

/// Bytes of an id.
const ID_BYTES: usize = 12;

impl Template {
    fn of_record(record: &Document) -> Result<Self> {
        let template = Self::of_text(record)?;
        let place = |field| place(&template.bytes, record.get_str(field)?.as_bytes());
        Ok(Self {
            same: Some(place("fromRequestId")?),
            texts: vec![place("requestBodyId")?, place("toResponseBodyId")?],
            ..template
        })
    }

    fn of_text(text: &Document) -> Result<Self> {
        let bytes = RawDocumentBuf::try_from(text)?.into_bytes();
        Ok(Self {
            id: place(&bytes, &text.get_object_id("_id")?.bytes())?,
            bytes,
            same: None,
            texts: Vec::new(),
        })
    }

    /// The document under ids that no other has.
    fn fresh(&self) -> Result<RawDocumentBuf> {
        let mut bytes = self.bytes.clone();
        let mut put = |at: usize, value: &[u8]| bytes[at..at + value.len()].copy_from_slice(value);
        let by_chance = || ObjectId::from_bytes(rand::random::<[u8; ID_BYTES]>());
        let id = match self.same {
            Some(_) => ObjectId::new(),
            None => by_chance(),
        };
        put(self.id, &id.bytes());
        if let Some(at) = self.same {
            put(at, id.to_hex().as_bytes());
        }
        for &at in &self.texts {
            put(at, by_chance().to_hex().as_bytes());
        }
        Ok(RawDocumentBuf::from_bytes(bytes)?)
    }
}

/// Where an id stands among the bytes of its document.
fn place(document: &[u8], value: &[u8]) -> Result<usize> {
    ensure!(
        value.len() == ID_BYTES || value.len() == 2 * ID_BYTES,
        "an id of {} bytes",
        value.len()
    );
    memchr::memmem::find(document, value).context("a value that is not in its document")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_fresh_document_differs_in_its_ids_only() {
        let (id, text) = (ObjectId::new(), ObjectId::new().to_hex());
        let document = doc! {
            "_id": id, "fromRequestId": id.to_hex(), "task": "NUMBER", "requestBodyId": text,
            "toResponseBodyId": ObjectId::new().to_hex(),
        };
        let template = Template::of_record(&document).unwrap();
        let fresh = || Document::try_from(template.fresh().unwrap()).unwrap();
        let (one, two) = (fresh(), fresh());
        for field in ["_id", "fromRequestId", "requestBodyId", "toResponseBodyId"] {
            assert_ne!(one.get(field), two.get(field), "{field}");
        }
        let id = one.get_object_id("_id").unwrap();
        assert_eq!(one.get_str("fromRequestId").unwrap(), id.to_hex());
        assert!(id < two.get_object_id("_id").unwrap());
        assert_eq!(one.get_str("task").unwrap(), "NUMBER");
    }
}
