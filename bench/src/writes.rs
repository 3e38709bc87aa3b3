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
    /// Looks at a record and the indexes in the database of an events service, and makes a database
    /// with the same indexes beside it.
    ///
    /// # Errors
    /// The server cannot be reached, or there is no record.
    pub(crate) async fn as_in(uri: &str, name: &str) -> Result<Self> {
        let client = Client::with_uri_str(uri).await?;
        let theirs = client.database(name);
        let ours = client.database(&format!("{name}floor"));
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
                texts.push((collection, Template::of(&text, &[])?));
            }
        }
        Ok(Self {
            texts,
            record: Template::of(
                &record,
                &["fromRequestId", "requestBodyId", "toResponseBodyId"],
            )?,
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
            let due = if waiting >= TEXTS_AT_ONCE {
                std::mem::take(&mut waiting)
            } else {
                0
            };
            let texts = self.texts.iter();
            let texts = texts.map(|(collection, text)| self.write(collection, text, due));
            tokio::try_join!(
                self.write("tasks", &self.record, batch),
                try_join_all(texts)
            )?;
        }
        Ok(records as f64 / began.elapsed().as_secs_f64())
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

/// The bytes of a document, and where its ids stand in them.
#[derive(Debug)]
struct Template {
    bytes: Vec<u8>,
    id: usize,
    texts: Vec<(usize, usize)>,
}

impl Template {
    fn of(document: &Document, ids: &[&str]) -> Result<Self> {
        let bytes = RawDocumentBuf::try_from(document)?.into_bytes();
        let place = |value: &[u8]| {
            memchr::memmem::find(&bytes, value).context("a value that is not in its document")
        };
        let id = place(&document.get_object_id("_id")?.bytes())?;
        let texts = ids
            .iter()
            .map(|field| {
                let value = document.get_str(field)?;
                Ok((place(value.as_bytes())?, value.len()))
            })
            .collect::<Result<_>>()?;
        Ok(Self { bytes, id, texts })
    }

    /// The document under ids that no other has.
    fn fresh(&self) -> Result<RawDocumentBuf> {
        let mut bytes = self.bytes.clone();
        let id = ObjectId::new();
        bytes[self.id..self.id + 12].copy_from_slice(&id.bytes());
        let hex = id.to_hex();
        for &(begin, length) in &self.texts {
            let common = length.min(hex.len());
            // The counter is at the end of an id.
            let end = begin + length;
            bytes[end - common..end].copy_from_slice(&hex.as_bytes()[hex.len() - common..]);
        }
        Ok(RawDocumentBuf::from_bytes(bytes)?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_fresh_document_differs_in_its_ids_only() {
        let document = doc! {
            "_id": ObjectId::new(), "fromRequestId": "0123456789abcdef0123456789abcdef", "task": "NUMBER",
        };
        let template = Template::of(&document, &["fromRequestId"]).unwrap();
        let (one, two) = (template.fresh().unwrap(), template.fresh().unwrap());
        let read = |raw: &RawDocumentBuf| Document::try_from(raw.clone()).unwrap();
        let (one, two) = (read(&one), read(&two));
        assert_ne!(one.get("_id"), two.get("_id"));
        assert_ne!(one.get("fromRequestId"), two.get("fromRequestId"));
        assert_eq!(one.get_str("fromRequestId").unwrap().len(), 32);
        assert_eq!(one.get("task"), document.get("task"));
    }
}
