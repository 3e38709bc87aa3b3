//! `roundtrip audit`: reading the audit log.

mod balance;
mod counters;

use std::fmt::Write;

use anyhow::{Context, bail};
use events_service::audit::{AuditLog, Filter, StoredRecord, sqlite::SqliteAuditLog};
use shared::contract::RecordId;

use crate::{
    cli::{Audit, AuditCommand, List, Output, Show, Store},
    out::print,
};

/// Characters of a body or result in a line of the list.
const CELL_CHARS_MAX: usize = 40;

#[tokio::main(flavor = "current_thread")]
pub(crate) async fn audit(options: Audit) -> anyhow::Result<()> {
    match options.command {
        AuditCommand::List(options) => list(options).await,
        AuditCommand::Show(options) => show(options).await,
        AuditCommand::Balance(options) => balance::balance(options).await,
    }
}

async fn open(store: &Store) -> anyhow::Result<Box<dyn AuditLog>> {
    if let Some(mongo) = store.mongo() {
        return Ok(Box::new(events_service::mongo_log(&mongo)?));
    }
    let path = &store.database;
    // Opening would make an empty one.
    if !path.exists() {
        bail!(
            "there is no audit log at {}; name one with --database, or MongoDB with --mongouri",
            path.display()
        );
    }
    Ok(Box::new(SqliteAuditLog::open_read_only(path)?))
}

async fn list(options: List) -> anyhow::Result<()> {
    let log = open(&options.store).await?;
    let filter = Filter {
        status: options.status,
        request_id: options.request,
        since_unix_ms: options.window.since,
        until_unix_ms: options.window.until,
        records_max: u32::try_from(options.limit).unwrap_or(u32::MAX),
    };
    let records = log.list(&filter).await?;
    log.close().await;
    if options.output == Output::Json {
        return print(serde_json::to_string_pretty(&records)? + "\n");
    }
    let mut out = String::new();
    writeln!(
        out,
        "{:<24}  {:<24}  {:<9}  {:<16}  {:<40}  RESULT",
        "RECORD", "RECEIVED", "STATUS", "TASK", "REQUEST"
    )?;
    for record in &records {
        let result = record.response.as_deref().or(record.reason.as_deref());
        writeln!(
            out,
            "{:<24}  {:<24}  {:<9}  {:<16}  {:<40}  {}",
            record.id,
            record.received_time.as_deref().unwrap_or("-"),
            record.status,
            task(record),
            cell(record.request.as_deref()),
            cell(result),
        )?;
    }
    print(out)
}

async fn show(options: Show) -> anyhow::Result<()> {
    let id: RecordId = options.record.parse()?;
    let log = open(&options.store).await?;
    let record = log.show(id).await?;
    log.close().await;
    let record = record.with_context(|| format!("there is no record {id}"))?;
    let document = serde_json::to_value(&record)?;
    if options.output == Output::Json {
        return print(format!("{document:#}\n"));
    }
    let mut out = String::new();
    for (name, value) in document.as_object().into_iter().flatten() {
        match value {
            serde_json::Value::Null => {}
            serde_json::Value::String(text) => writeln!(out, "{name:<18}  {}", printable(text))?,
            other => writeln!(out, "{name:<18}  {other}")?,
        }
    }
    print(out)
}

fn task(record: &StoredRecord) -> String {
    let name = |name: &Option<String>| name.clone().unwrap_or_else(|| "-".into());
    format!("{}/{}", name(&record.task), name(&record.subtask))
}

fn cell(text: Option<&str>) -> String {
    let text = printable(text.unwrap_or("-"));
    match text.char_indices().nth(CELL_CHARS_MAX) {
        Some((_, _)) => text.chars().take(CELL_CHARS_MAX - 1).chain(['…']).collect(),
        None => text,
    }
}

/// What callers sent may hold control characters, which a terminal would obey.
fn printable(text: &str) -> String {
    text.chars()
        .flat_map(|c| {
            if c.is_control() {
                c.escape_default().collect()
            } else {
                vec![c]
            }
        })
        .collect()
}
