//! The other side of the equation: what the audit log and the file of effects say about the
//! requests, each found by its key.

use std::{
    collections::{BTreeMap, HashMap, HashSet},
    fs, io,
    path::Path,
    time::Duration,
};

use anyhow::{Context, Result, bail};
use mongodb::bson::{Document, RawDocument, RawDocumentBuf};

use super::load::{Asked, Done, Outcome};
use crate::{records::Records, until::until};

/// After the load has ended, every record ends within this: its deadline, the time until others
/// take it for abandoned, one sweep; and as much again, for a busy machine.
const RECORDS_END: Duration = Duration::from_secs(12);

/// What the log and the effects say.
#[derive(Debug)]
pub(super) struct Ledger {
    /// The records of each key, as bytes: there may be a million.
    records: HashMap<String, Vec<RawDocumentBuf>>,
    /// The texts of the responses by their ids.
    responses: HashMap<String, String>,
    /// How often each key had its effect.
    effects: HashMap<String, u32>,
}

/// What does not add up.
#[derive(Debug, Default)]
pub(super) struct Balance {
    /// Answered, without exactly one completed record with this answer.
    pub(super) unrecorded: Vec<String>,
    /// Effects that happened more than once.
    pub(super) twice: usize,
    /// Tasks with an effect that were answered although it never happened.
    pub(super) answered_not_run: Vec<String>,
    /// Records that have not ended.
    pub(super) open: usize,
}

impl Ledger {
    /// Waits until all records have ended, or no longer, and reads everything.
    ///
    /// # Errors
    /// When the database cannot be read.
    pub(super) async fn read(records: &Records, effects: &Path) -> Result<Self> {
        // Whether they have is a part of the balance.
        drop(
            until("all records to end", RECORDS_END, async || {
                match records.open_count().await? {
                    0 => Ok(Some(())),
                    open => bail!("{open} are open"),
                }
            })
            .await,
        );
        let mut by_key: HashMap<String, Vec<RawDocumentBuf>> = HashMap::new();
        for task in records.all::<RawDocumentBuf>("tasks").await? {
            let key = task
                .get_str("callerRequestId")
                .unwrap_or_default()
                .to_owned();
            by_key.entry(key).or_default().push(task);
        }
        let named: HashSet<&str> = (by_key.values().flatten())
            .filter_map(|record| record.get_str("toResponseBodyId").ok())
            .collect();
        // Texts follow their records; whether all did is a part of the balance.
        let mut responses = HashMap::new();
        drop(
            until("all responses to follow", RECORDS_END, async || {
                responses = texts(records).await?;
                match named
                    .iter()
                    .filter(|id| !responses.contains_key(**id))
                    .count()
                {
                    0 => Ok(Some(())),
                    missing => bail!("{missing} responses are not there"),
                }
            })
            .await,
        );
        Ok(Self {
            records: by_key,
            responses,
            effects: count_lines(effects)?,
        })
    }

    /// All records.
    pub(super) fn records(&self) -> impl Iterator<Item = &RawDocument> {
        self.records.values().flatten().map(|record| &**record)
    }

    pub(super) fn balance(&self, done: &[Done]) -> Balance {
        let mut balance = Balance {
            open: self.records().filter(|record| !has_ended(record)).count(),
            ..Balance::default()
        };
        for Done { asked, outcome, .. } in done {
            let runs = self.effects.get(&asked.key).copied().unwrap_or_default();
            if runs > 1 {
                balance.twice += 1;
            }
            if *outcome != Outcome::Right {
                continue;
            }
            if let Err(error) = self.is_recorded(asked) {
                balance.unrecorded.push(format!("{}: {error:#}", asked.key));
            }
            if asked.effect && runs == 0 {
                balance.answered_not_run.push(asked.key.clone());
            }
        }
        balance
    }

    /// Exactly one record of this request, completed, with the answer that was given.
    fn is_recorded(&self, asked: &Asked) -> Result<()> {
        let records = self.records.get(&asked.key).map_or(&[][..], Vec::as_slice);
        let [record] = records else {
            let shown: Vec<_> = records.iter().map(|record| shown(record)).collect();
            bail!("{} records instead of one: {shown:?}", records.len());
        };
        if !record.get_str("status").is_ok_and(|is| is == "answered") {
            bail!("not answered: {}", shown(record));
        }
        let id = record
            .get_str("toResponseBodyId")
            .with_context(|| format!("no response: {}", shown(record)))?;
        match self.responses.get(id) {
            Some(text) if *text == asked.result => Ok(()),
            text => bail!("the response is {text:?}, {:?} was answered", asked.result),
        }
    }
}

/// The texts of all responses by their ids.
async fn texts(records: &Records) -> Result<HashMap<String, String>> {
    let mut texts = HashMap::new();
    for response in records.all::<Document>("responses").await? {
        let id = response.get_object_id("_id")?.to_hex();
        texts.insert(id, response.get_str("response")?.to_owned());
    }
    Ok(texts)
}

/// A record to read; what is no document is shown as bytes.
pub(super) fn shown(record: &RawDocument) -> String {
    match Document::try_from(record) {
        Ok(document) => document.to_string(),
        Err(_) => format!("{record:?}"),
    }
}

fn has_ended(record: &RawDocument) -> bool {
    record
        .get_str("status")
        .is_ok_and(|status| status != "open")
}

fn count_lines(file: &Path) -> Result<HashMap<String, u32>> {
    let text = match fs::read_to_string(file) {
        Ok(text) => text,
        Err(error) if error.kind() == io::ErrorKind::NotFound => String::new(),
        Err(error) => return Err(error).context("read the effects"),
    };
    let mut counts = HashMap::new();
    for line in text.lines() {
        *counts.entry(line.to_owned()).or_default() += 1;
    }
    Ok(counts)
}

/// Checks what a frontend says of itself when nothing is in flight: all that was offered was
/// answered or failed.
///
/// # Errors
/// When the sum is another.
pub(super) fn frontend_adds_up(metrics: &BTreeMap<String, f64>) -> Result<()> {
    let sum = |name: &str| -> f64 {
        metrics
            .iter()
            .filter(|(key, _)| key.split('{').next() == Some(name))
            .map(|(_, value)| value)
            .sum()
    };
    let offered = sum("roundtrip_requests_offered_total");
    let answered = sum("roundtrip_requests_answered_total");
    let failed = sum("roundtrip_requests_failed_total");
    let in_flight = sum("roundtrip_requests_in_flight");
    let balanced = (offered - answered - failed).abs() < 0.5 && in_flight == 0.0;
    if !balanced || offered == 0.0 {
        bail!("offered {offered}, answered {answered}, failed {failed}, in flight {in_flight}");
    }
    Ok(())
}
