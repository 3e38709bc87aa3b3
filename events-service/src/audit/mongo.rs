//! The audit log in MongoDB: for deployments.
//!
//! Read on in [`mod@write`] (a batch becomes a few commands), [`documents`] (a record becomes a
//! document), [`trail`] (whose short texts follow it), [`read`] (and is read back, also an older events
//! service's), [`balance`] (and counted), [`prepare`] (what the log needs), [`failure`] (what the
//! driver's errors mean to us).

mod balance;
mod documents;
mod failure;
mod old_server;
mod prepare;
mod read;
mod trail;
mod write;

use std::{
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use async_trait::async_trait;
use mongodb::{
    Client, Database,
    bson::{Document, RawArrayBuf, RawDocumentBuf, doc, rawdoc},
    options::{ClientOptions, ConnectionString, HostInfo},
};
use shared::contract::{ContainerId, FailureCode, RecordId};
use tokio::sync::OnceCell;

use super::{
    ABANDONED_DETAIL, Answer, AuditError, AuditLog, Balance, BalanceQuery, Filter, Overdue,
    Question, Status, StoredRecord, Write, Written,
    text_id::{KnownIds, TextKey},
};
use crate::settings::{Durability, TextDocuments};
use trail::Trail;

/// How long the driver looks for a server that takes writes. Its own default of 30 s is longer than
/// any request waits. A failover takes longer than this; until it is over, requests fail clearly.
const SERVER_SELECTION_MAX: Duration = Duration::from_secs(2);
/// How long a connection may take to be made.
const CONNECT_MAX: Duration = Duration::from_secs(2);
/// How long the server may work on a write or a look-up, and wait for the write concern. Shorter
/// than [`COMMAND_MAX`], so that the server usually gives up before we do and says why.
const WORK_MAX: Duration = Duration::from_millis(2_500);
/// How long a write or a look-up may take as a whole: the driver has no limit for a connection that
/// stalls. A request's usual deadline is 5 s and its group commit tries again for 1.7 s.
const COMMAND_MAX: Duration = Duration::from_secs(3);
/// How long closing overdue records may take: there are many after a long outage. Whoever sweeps also
/// notices that the server is gone, so it must not wait much longer than a write.
const SWEEP_MAX: Duration = Duration::from_secs(10);
/// How long preparing and listing may take: indexes may have to be built, and records of older
/// services are looked for without an index.
const LONG_COMMAND_MAX: Duration = Duration::from_secs(60);
/// How long each count of a balance may take: it reads all records. Only people ask for it.
const COUNTING_MAX: Duration = Duration::from_secs(300);
/// How long to wait for the driver to close its connections.
const CLOSE_MAX: Duration = Duration::from_secs(2);
/// Connections to the server. A batch of four commands or more is under way, and a look-up or two; more
/// connections would only be memory on the server.
const CONNECTIONS_MAX: u32 = 16;
/// How often the driver looks whether the server takes writes again after it had refused them. A
/// server of a replica set tells by itself; another one would be taken for unable for the driver's
/// usual 10 s.
const HEARTBEAT_EVERY: Duration = Duration::from_secs(2);
/// How long a small batch waits for more: each of its commands costs as much as several documents do.
const GATHER: Duration = Duration::from_millis(1);
/// The server's limit for a database name, in bytes.
const DATABASE_NAME_BYTES_MAX: usize = 63;

const _: () = assert!(WORK_MAX.as_millis() < COMMAND_MAX.as_millis());
const _: () = assert!(SERVER_SELECTION_MAX.as_millis() < COMMAND_MAX.as_millis());

/// The audit log in a MongoDB database.
///
/// A write concern in the address is not used: [`Durability`] decides, and goes with every command.
pub struct MongoAuditLog {
    address: ConnectionString,
    database: String,
    /// Address and database without credentials, for errors.
    at: String,
    durability: Durability,
    /// Made at first use: the addresses of a `mongodb+srv://` have to be resolved.
    client: OnceCell<Client>,
    /// What [`AuditLog::prepare`] found. The lock is held for a moment, never over an await.
    texts: Mutex<Option<Arc<Texts>>>,
    trail: Trail,
}

/// What is known of the stored texts. The locks are held for a look-up, never over an await.
struct Texts {
    key: TextKey,
    requests: Mutex<KnownIds>,
    responses: Mutex<KnownIds>,
}

impl MongoAuditLog {
    /// A log in that database of the server at `address` (`mongodb://…`). The server need not be
    /// there yet.
    ///
    /// ```
    /// use events_service::{audit::mongo::MongoAuditLog, settings::Durability};
    ///
    /// let log = MongoAuditLog::new("mongodb://localhost:27017", "test", Durability::Majority);
    /// assert!(log.is_ok());
    /// ```
    ///
    /// # Errors
    /// [`AuditError::Unusable`] for an address or a database name that is none.
    pub fn new(address: &str, database: &str, durability: Durability) -> Result<Self, AuditError> {
        let unusable = |at: String, why: String| AuditError::Unusable { at, why };
        let parsed = ConnectionString::parse(address).map_err(|error| {
            let why = failure::why_no_address(address, &error);
            unusable(
                failure::host_part(address),
                format!("{why}; expected mongodb://host:port"),
            )
        })?;
        let hosts = match &parsed.host_info {
            HostInfo::HostIdentifiers(hosts) => hosts
                .iter()
                .map(ToString::to_string)
                .collect::<Vec<_>>()
                .join(","),
            HostInfo::DnsRecord(name) => name.clone(),
            _ => failure::host_part(address),
        };
        let at = format!("mongodb://{hosts}/{database}");
        let is_name = !database.is_empty()
            && database.len() <= DATABASE_NAME_BYTES_MAX
            && !database.contains([
                '/', '\\', '.', ' ', '"', '$', '*', '<', '>', ':', '|', '?', '\0',
            ]);
        if !is_name {
            let why = format!(
                "`{database}` is no database name: expected 1 to {DATABASE_NAME_BYTES_MAX} bytes \
                 without spaces, dots and any of / \\ \" $ * < > : | ?"
            );
            return Err(unusable(at, why));
        }
        Ok(Self {
            address: parsed,
            database: database.to_owned(),
            at,
            durability,
            client: OnceCell::new(),
            texts: Mutex::new(None),
            trail: Trail::default(),
        })
    }

    /// The same, with documents for these texts.
    #[must_use]
    pub fn with_text_documents(mut self, which: TextDocuments) -> Self {
        self.trail = Trail::of(which);
        self
    }

    async fn database(&self) -> Result<Database, AuditError> {
        let client = self.client.get_or_try_init(|| async {
            let mut options = ClientOptions::parse(self.address.clone()).await?;
            options
                .app_name
                .get_or_insert_with(|| "roundtrip".to_owned());
            options
                .server_selection_timeout
                .get_or_insert(SERVER_SELECTION_MAX);
            options.connect_timeout.get_or_insert(CONNECT_MAX);
            options.max_pool_size.get_or_insert(CONNECTIONS_MAX);
            options.heartbeat_freq.get_or_insert(HEARTBEAT_EVERY);
            Client::with_options(options)
        });
        Ok(client
            .await
            .map_err(|error| self.failure(&error))?
            .database(&self.database))
    }

    /// Runs a command that ends within `limit`, or is given up.
    async fn run(&self, command: RawDocumentBuf, limit: Duration) -> Result<Document, AuditError> {
        let running = async {
            let database = self.database().await?;
            let reply = database.run_raw_command(command).await;
            reply.map_err(|error| self.failure(&error))
        };
        self.within(limit, running).await
    }

    async fn within<T>(
        &self,
        limit: Duration,
        work: impl Future<Output = Result<T, AuditError>>,
    ) -> Result<T, AuditError> {
        match tokio::time::timeout(limit, work).await {
            Ok(outcome) => outcome,
            Err(_) => Err(self.unavailable(format!("no answer within {limit:?}"))),
        }
    }

    fn failure(&self, error: &mongodb::error::Error) -> AuditError {
        failure::classify(&self.at, error)
    }

    fn unavailable(&self, why: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> AuditError {
        AuditError::Unavailable {
            at: self.at.clone(),
            source: why.into(),
        }
    }

    fn unusable(&self, why: impl Into<String>) -> AuditError {
        AuditError::Unusable {
            at: self.at.clone(),
            why: why.into(),
        }
    }

    /// What [`AuditLog::prepare`] found.
    fn texts(&self) -> Result<Arc<Texts>, AuditError> {
        let texts = self.texts.lock().unwrap_or_else(PoisonError::into_inner);
        texts
            .clone()
            .ok_or_else(|| self.unavailable("the log is not prepared yet"))
    }

    /// `writeConcern` of every write.
    fn write_concern(&self) -> RawDocumentBuf {
        let limit = documents::millis(WORK_MAX);
        match self.durability {
            Durability::Majority => rawdoc! { "w": "majority", "j": true, "wtimeout": limit },
            Durability::Journaled => rawdoc! { "w": 1, "j": true, "wtimeout": limit },
            Durability::Acknowledged => rawdoc! { "w": 1, "wtimeout": limit },
        }
    }
}

#[async_trait]
impl AuditLog for MongoAuditLog {
    async fn prepare(&self) -> Result<(), AuditError> {
        self.within(LONG_COMMAND_MAX, self.prepare_all()).await
    }

    fn gather(&self) -> Duration {
        GATHER
    }

    async fn attend(&self, me: &ContainerId) {
        self.follow(me).await;
    }

    async fn write(&self, batch: &[Write]) -> Result<Vec<Written>, AuditError> {
        let texts = self.texts()?;
        let written = self.write_batch(&texts, batch).await;
        self.trail.batch_is_over();
        if written.is_err() {
            // Whatever comes back may have lost what it acknowledged (see `KnownIds`).
            texts.forget();
        }
        written
    }

    async fn find_answers(
        &self,
        questions: &[Question],
    ) -> Result<Vec<Option<Answer>>, AuditError> {
        let texts = self.texts()?;
        self.within(COMMAND_MAX, self.answers(&texts.key, questions))
            .await
    }

    async fn close_overdue(&self, overdue: &Overdue) -> Result<u64, AuditError> {
        let spared = overdue.spared.iter().map(ContainerId::as_str);
        let closing = rawdoc! {
            // Nobody is told of it, so there is no `fromSentTime`.
            "q": {
                "status": Status::Open.as_str(),
                "v": documents::VERSION,
                "deadline": { "$lt": documents::date(overdue.before_unix_ms) },
                "serviceContainerId": { "$nin": RawArrayBuf::from_iter(spared) },
            },
            "u": { "$set": {
                "status": Status::Abandoned.as_str(),
                "reason": FailureCode::Abandoned.as_str(),
                "detail": ABANDONED_DETAIL,
                "toReceivedTime": documents::date(overdue.now_unix_ms),
            } },
            "multi": true,
        };
        let command = rawdoc! {
            "update": "tasks",
            "updates": [closing],
            "writeConcern": self.write_concern(),
        };
        let reply = self.run(command, SWEEP_MAX).await?;
        write::check_reply(&reply).map_err(|why| self.unavailable(why))?;
        self.finish_trails(&overdue.spared).await?;
        Ok(write::count(&reply, "nModified"))
    }

    async fn has_answers(&self) -> Result<bool, AuditError> {
        let finding = async {
            let tasks = self.database().await?.collection::<Document>("tasks");
            // The condition on the body lets the index be used, whatever it holds.
            let filter = doc! {
                "requestBodyId": { "$gte": "" },
                (documents::REUSABLE.as_str()): true,
            };
            let found = tasks.find_one(filter).max_time(WORK_MAX).await;
            Ok(found.map_err(|error| self.failure(&error))?.is_some())
        };
        self.within(COMMAND_MAX, finding).await
    }

    async fn list(&self, filter: &Filter) -> Result<Vec<StoredRecord>, AuditError> {
        self.within(LONG_COMMAND_MAX, self.listed(filter)).await
    }

    async fn show(&self, id: RecordId) -> Result<Option<StoredRecord>, AuditError> {
        self.within(LONG_COMMAND_MAX, self.shown(id)).await
    }

    async fn balance(&self, query: &BalanceQuery) -> Result<Balance, AuditError> {
        self.balanced(query).await
    }

    async fn ping(&self) -> Result<(), AuditError> {
        self.run(rawdoc! { "ping": 1 }, COMMAND_MAX).await.map(drop)
    }

    async fn close(&self) {
        match tokio::time::timeout(CLOSE_MAX, self.end_trail()).await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => tracing::debug!(%error, "texts are left to whoever sweeps next"),
            Err(_) => tracing::debug!("texts are left to whoever sweeps next"),
        }
        if let Some(client) = self.client.get() {
            let closing = client.clone().shutdown().immediate(true);
            if tokio::time::timeout(CLOSE_MAX, closing.into_future())
                .await
                .is_err()
            {
                tracing::debug!("connections to the audit log not closed in time");
            }
        }
    }
}
