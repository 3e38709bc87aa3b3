//! The audit log as it lies in the database.

use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use futures_util::TryStreamExt;
use mongodb::{
    Client, Database,
    bson::{Bson, Document, doc, oid::ObjectId},
    options::ClientOptions,
};
use serde::de::DeserializeOwned;

use crate::{bare::WARM_UP, until::until};

/// A test that cannot reach its database should say so soon.
const SELECTION_LIMIT: Duration = Duration::from_secs(10);

/// The texts of a record follow it within this, also on a busy machine.
const TEXTS_FOLLOW: Duration = Duration::from_secs(5);

/// Whether a text field of a document is there and has this value.
#[must_use]
pub fn says(document: &Document, field: &str, value: &str) -> bool {
    document.get_str(field).is_ok_and(|text| text == value)
}

/// One database of the audit log. It is dropped by [`Records::discard`].
#[derive(Debug, Clone)]
pub struct Records(Database);

impl Records {
    /// The database `name` of a server.
    ///
    /// # Errors
    /// When the address is none.
    pub async fn of(uri: &str, name: &str) -> Result<Self> {
        let mut options = ClientOptions::parse(uri).await?;
        options.server_selection_timeout = Some(SELECTION_LIMIT);
        Ok(Self(Client::with_options(options)?.database(name)))
    }

    /// All tasks, in the order of their ids.
    ///
    /// # Errors
    /// When the database cannot be read.
    pub async fn tasks(&self) -> Result<Vec<Document>> {
        self.all("tasks").await
    }

    /// How many tasks there are.
    ///
    /// # Errors
    /// When the database cannot be read.
    pub async fn task_count(&self) -> Result<u64> {
        let tasks = self.0.collection::<Document>("tasks");
        Ok(tasks.count_documents(doc! {}).await?)
    }

    /// How many tasks have not ended.
    ///
    /// # Errors
    /// When the database cannot be read.
    pub async fn open_count(&self) -> Result<u64> {
        let tasks = self.0.collection::<Document>("tasks");
        Ok(tasks.count_documents(doc! { "status": "open" }).await?)
    }

    /// Everything in one collection, in the order of the ids: as [`Document`]s, or as
    /// [`RawDocumentBuf`](mongodb::bson::RawDocumentBuf)s where they are many.
    ///
    /// # Errors
    /// When the database cannot be read.
    pub async fn all<D>(&self, collection: &str) -> Result<Vec<D>>
    where
        D: DeserializeOwned + Unpin + Send + Sync,
    {
        let found = self
            .0
            .collection::<D>(collection)
            .find(doc! {})
            .sort(doc! { "_id": 1 })
            .await
            .with_context(|| format!("read {collection}"))?;
        Ok(found.try_collect().await?)
    }

    /// Puts a document into a collection, as an older service would.
    ///
    /// # Errors
    /// When the database refuses it.
    pub async fn insert(&self, collection: &str, document: Document) -> Result<()> {
        self.0
            .collection::<Document>(collection)
            .insert_one(document)
            .await?;
        Ok(())
    }

    /// Sets fields of a task, past everything that guards it.
    ///
    /// # Errors
    /// When it is not there.
    pub async fn tamper(&self, task: &Document, fields: Document) -> Result<()> {
        let tasks = self.0.collection::<Document>("tasks");
        let which = doc! { "_id": task.get("_id") };
        let changed = tasks.update_one(which, doc! { "$set": fields }).await?;
        ensure!(changed.matched_count == 1, "not there: {task}");
        Ok(())
    }

    /// Removes a task, which nothing of ours does.
    ///
    /// # Errors
    /// When it is not there.
    pub async fn remove(&self, task: &Document) -> Result<()> {
        let tasks = self.0.collection::<Document>("tasks");
        let removed = tasks.delete_one(doc! { "_id": task.get("_id") }).await?;
        ensure!(removed.deleted_count == 1, "not there: {task}");
        Ok(())
    }

    /// The text behind a reference: `requests` by `requestBodyId`, `responses` by
    /// `toResponseBodyId`. It may follow its record.
    ///
    /// # Errors
    /// When the reference leads nowhere.
    pub async fn referenced(
        &self,
        collection: &str,
        field: &str,
        task: &Document,
        reference: &str,
    ) -> Result<String> {
        let id = task
            .get_str(reference)
            .with_context(|| format!("{reference} of {task}"))?;
        let id = ObjectId::parse_str(id).with_context(|| format!("{reference} of {task}"))?;
        let texts = self.0.collection::<Document>(collection);
        let document = until("a text to follow its record", TEXTS_FOLLOW, async || {
            Ok(texts.find_one(doc! { "_id": id }).await?)
        });
        let document = document
            .await
            .with_context(|| format!("{collection} has no {id}, {reference} of {task}"))?;
        Ok(document.get_str(field)?.to_owned())
    }

    /// Checks everything the contract says about the record of an answered task; answers request
    /// body and response.
    ///
    /// # Errors
    /// When something is missing or of another type.
    pub async fn check_answered(&self, task: &Document) -> Result<(String, String)> {
        ensure!(
            matches!(task.get("_id"), Some(Bson::ObjectId(_))),
            "_id is no ObjectId: {task}"
        );
        // No backend was asked for an answer that stood in the log already.
        let backend: &[&str] = match task.get_str("answeredFromId") {
            Ok(_) => &[],
            Err(_) => &["toContainerId", "toContainerService"],
        };
        for field in [
            "fromRequestId",
            "fromContainerId",
            "fromContainerService",
            "task",
            "subtask",
            "serviceContainerId",
            "serviceContainerService",
        ]
        .into_iter()
        .chain(backend.iter().copied())
        {
            // An answer that stood in the log was computed by nobody for this request.
            if field.starts_with("toContainer") && task.contains_key("answeredFromId") {
                continue;
            }
            let filled = task.get_str(field).is_ok_and(|text| !text.is_empty());
            ensure!(filled, "{field} is no text or empty: {task}");
        }
        for field in ["fromReceivedTime", "toReceivedTime", "fromSentTime"] {
            ensure!(
                task.get_datetime(field).is_ok(),
                "{field} is no date: {task}"
            );
        }
        let request = self
            .referenced("requests", "request", task, "requestBodyId")
            .await?;
        let response = self
            .referenced("responses", "response", task, "toResponseBodyId")
            .await?;
        Ok((request, response))
    }

    /// The tasks that a test has asked for. Those of warming up are left out: they are asked until one
    /// is answered, and the first may find nobody there.
    ///
    /// # Errors
    /// When the database cannot be read, or a request's text is not there.
    pub async fn asked(&self) -> Result<Vec<Document>> {
        let mut asked = Vec::new();
        for task in self.tasks().await? {
            let request = self
                .referenced("requests", "request", &task, "requestBodyId")
                .await?;
            if !request.contains(WARM_UP) {
                asked.push(task);
            }
        }
        Ok(asked)
    }

    /// The distinct values of a text field of the tasks.
    ///
    /// # Errors
    /// When the database cannot be read.
    pub async fn distinct(&self, field: &str) -> Result<Vec<String>> {
        let tasks = self.tasks().await?;
        let mut values: Vec<_> = tasks
            .iter()
            .filter_map(|task| task.get_str(field).ok().map(str::to_owned))
            .collect();
        values.sort_unstable();
        values.dedup();
        Ok(values)
    }

    /// Whether any task has this `status`.
    ///
    /// # Errors
    /// When the database cannot be read.
    pub async fn any_is(&self, status: &str) -> Result<bool> {
        Ok(self
            .tasks()
            .await?
            .iter()
            .any(|task| says(task, "status", status)))
    }

    /// Checks that no task is open: each has an end that its `status` names.
    ///
    /// # Errors
    /// When one is open.
    pub async fn ensure_all_ended(&self) -> Result<()> {
        for task in self.tasks().await? {
            match task.get_str("status") {
                Ok("open") | Err(_) => bail!("not ended: {task}"),
                Ok(_) => {}
            }
        }
        Ok(())
    }

    /// Drops the database.
    ///
    /// # Errors
    /// When the server refuses.
    pub async fn discard(&self) -> Result<()> {
        Ok(self.0.drop().await?)
    }
}
