//! Answers that stand in the log: a cache in memory, and the task that asks the log.

use std::{sync::Arc, time::Duration};

use futures_util::future::{join, join_all};
use hashlink::LruCache;
use shared::contract::{ContainerId, RecordId, RequestId};
use tokio::sync::mpsc;
use tracing::debug;

use crate::{
    audit::{Answer, AuditLog, Filter, Question, Status, StoredRecord},
    listening::Listening,
};

/// Answers kept in memory.
const ANSWERS_MAX: usize = 65_536;
/// Bytes of questions and answers kept in memory.
const BYTES_MAX: usize = 6 << 20;
/// Questions put to the log at once.
const BATCH_MAX: usize = 256;
/// After so many look-ups in a row that found nothing, one of so many questions is looked up, until an
/// answer is found.
const IN_VAIN_MAX: u32 = 1_024;
/// A record that is not found within this time is not waited for: other look-ups wait behind it.
const RECORD_WITHIN: Duration = Duration::from_secs(2);

/// The answers used last. Bounded in number and bytes.
pub(crate) struct AnswerCache {
    answers: LruCache<Question, Answer>,
    bytes: usize,
}

impl AnswerCache {
    pub(crate) fn new() -> Self {
        Self {
            // One more, so that it forgets none by itself.
            answers: LruCache::new(ANSWERS_MAX + 1),
            bytes: 0,
        }
    }

    pub(crate) fn get(&mut self, question: &Question) -> Option<&Answer> {
        self.answers.get(question)
    }

    /// Keeps an answer. Whether all that it was given is still there.
    pub(crate) fn insert(&mut self, question: Question, answer: Answer) -> bool {
        let size = size(&question, &answer);
        if self.answers.contains_key(&question) {
            return true;
        }
        // One huge answer must not drive out thousands of small ones.
        if size > BYTES_MAX / 64 {
            return false;
        }
        let mut is_whole = true;
        self.bytes += size;
        self.answers.insert(question, answer);
        while self.bytes > BYTES_MAX || self.answers.len() > ANSWERS_MAX {
            self.evict();
            is_whole = false;
        }
        is_whole
    }

    fn evict(&mut self) {
        if let Some((question, answer)) = self.answers.remove_lru() {
            self.bytes -= size(&question, &answer);
        }
    }
}

fn size(question: &Question, answer: &Answer) -> usize {
    /// What an entry costs beside its texts.
    const OVERHEAD: usize = 250;
    question.body.len() + answer.text.len() + OVERHEAD
}

/// Whether it is worth asking the log for an answer. A look-up costs as much as a simple task. While
/// they find nothing, few are made; what is missed by it is less than a thousandth of the tasks, and
/// pure: they are done again.
#[derive(Debug, Default)]
pub(crate) struct LookupWorth {
    in_vain: u32,
    left_out: u32,
}

impl LookupWorth {
    /// Whether to look up the next.
    pub(crate) fn is_worth_one(&mut self) -> bool {
        if self.in_vain < IN_VAIN_MAX {
            return true;
        }
        self.left_out = (self.left_out + 1) % IN_VAIN_MAX;
        self.left_out == 0
    }

    /// A look-up has come back.
    pub(crate) fn came_back(&mut self, found: bool) {
        self.in_vain = if found {
            0
        } else {
            self.in_vain.saturating_add(1)
        };
    }
}

/// Something to look up, for a record of ours.
#[derive(Debug)]
pub(crate) enum Lookup {
    /// Whether the log holds an answer.
    Answer(RecordId, Question),
    /// The record that the request has already, and whether its holder lives.
    Record(RecordId, RequestId),
}

/// A request's record.
#[derive(Debug)]
pub(crate) struct Known {
    pub(crate) stored: Box<StoredRecord>,
    /// The events service that holds it, if it listens.
    pub(crate) living_holder: Option<ContainerId>,
}

/// What was found.
#[derive(Debug)]
pub(crate) enum Found {
    Answer(RecordId, Option<Answer>),
    Record(RecordId, Option<Known>),
}

/// Looks up in batches until the sender is dropped. A log that cannot be read holds no answer: the
/// task is then done anew, and its own write tells that the log is down.
pub(crate) async fn look_up(
    log: Arc<dyn AuditLog>,
    listening: Listening,
    mut lookups: mpsc::Receiver<Lookup>,
    found: mpsc::Sender<Vec<Found>>,
) {
    let mut batch = Vec::with_capacity(BATCH_MAX);
    while lookups.recv_many(&mut batch, BATCH_MAX).await > 0 {
        let (mut askers, mut questions, mut records) = (Vec::new(), Vec::new(), Vec::new());
        for lookup in batch.drain(..) {
            match lookup {
                Lookup::Answer(asker, question) => {
                    askers.push(asker);
                    questions.push(question);
                }
                Lookup::Record(id, request_id) => {
                    records.push(record_of(&*log, &listening, id, request_id));
                }
            }
        }
        let (mut results, answers) = join(join_all(records), answers_to(&*log, &questions)).await;
        let answered = askers.into_iter().zip(answers);
        results.extend(answered.map(|(asker, answer)| Found::Answer(asker, answer)));
        if found.send(results).await.is_err() {
            return;
        }
    }
}

/// An answer, or none, for each question.
async fn answers_to(log: &dyn AuditLog, questions: &[Question]) -> Vec<Option<Answer>> {
    if questions.is_empty() {
        return Vec::new();
    }
    let mut answers = log.find_answers(questions).await.unwrap_or_else(|error| {
        debug!(%error, "answers not looked up");
        Vec::new()
    });
    answers.resize(questions.len(), None);
    answers
}

async fn record_of(
    log: &dyn AuditLog,
    listening: &Listening,
    id: RecordId,
    request_id: RequestId,
) -> Found {
    let known = tokio::time::timeout(RECORD_WITHIN, by_request(log, listening, &request_id));
    Found::Record(id, known.await.unwrap_or_default())
}

async fn by_request(
    log: &dyn AuditLog,
    listening: &Listening,
    request_id: &RequestId,
) -> Option<Known> {
    let stored = match RecordId::of_request(request_id) {
        Some(id) => log.show(id).await.map(Vec::from_iter),
        None => {
            let filter = Filter {
                request_id: Some(request_id.to_string()),
                records_max: 8,
                ..Filter::default()
            };
            log.list(&filter).await
        }
    };
    let stored = stored.unwrap_or_else(|error| {
        debug!(%error, "record not looked up");
        Vec::new()
    });
    // The filter also finds callers' ids.
    let stored = stored
        .into_iter()
        .find(|record| record.request_id.as_deref() == Some(request_id.as_str()))?;
    let holder = stored.events_container.as_deref();
    let holder = holder.and_then(|holder| holder.parse().ok());
    let living_holder = match holder {
        Some(holder) if stored.status == Status::Open.as_str() => {
            listening.among(vec![holder]).await.pop()
        }
        _ => None,
    };
    Some(Known {
        stored: Box::new(stored),
        living_holder,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn question(body: String) -> Question {
        Question {
            from_service: "f".into(),
            task: "T".into(),
            subtask: "S".into(),
            body,
        }
    }

    fn answer(text: String) -> Answer {
        Answer {
            record: RecordId([0; 12]),
            text,
        }
    }

    #[test]
    fn the_cache_is_bounded_in_bytes_and_forgets_the_least_used() {
        let mut cache = AnswerCache::new();
        for n in 0..2_000 {
            cache.insert(question(n.to_string()), answer("x".repeat(8_000)));
            assert!(cache.get(&question("0".into())).is_some());
        }
        assert!(cache.bytes <= BYTES_MAX);
        assert!(cache.get(&question("1".into())).is_none());
        cache.insert(question("huge".into()), answer("x".repeat(BYTES_MAX)));
        assert!(cache.get(&question("huge".into())).is_none());
    }
}
