//! Finding the answers to a question by the id of its text.
//!
//! Ids of texts are places of chance. In an index, each record changes a page of its own, which is
//! written to the log beside the file and then into the file: half of what a record cost. So the
//! entries wait in memory and go into the table `answers` later, a few with each batch, in rounds
//! through the order of the ids: of so many that wait, neighbours share a page.
//!
//! **Invariant**: an answer stands in the table, waits in memory, or its record lies after the *mark*:
//! a row of `tasks`, kept in `meta`. What lies after it is read again when the file is opened, and
//! after a failed write, since nobody knows what was committed. Records are never deleted, so their
//! rows keep their numbers.
//!
//! Another process that writes to the same file finds an answer of ours only when it is in the table,
//! and may lose some with a crash: it then asks a backend again.

use std::{
    collections::BTreeSet,
    ops::Bound::{Excluded, Unbounded},
};

use rusqlite::{Connection, OptionalExtension, Transaction, params};
use shared::contract::RecordId;

use super::store::begin;
use crate::audit::text_id::TextId;

/// Entries that wait, 2 MB. In a round come twice as many: 20 for a page of the table when the log holds
/// a million answers, and still two when it holds ten million.
const WAITING_MAX: usize = 65_536;
/// Of so many places one goes into the table at once: neighbours, so that they share pages, and few
/// enough that no batch waits for them.
const PART: usize = 128;
/// Name of the mark in `meta`.
const MARK_NAME: &str = "answersUpTo";

pub(super) const SCHEMA: &str = "
create table if not exists answers (
    text integer not null,
    record integer not null,
    primary key (text, record)
) without rowid;
-- Of earlier versions.
drop index if exists roundtrip_answers;
";

const ANSWERED_AFTER: &str = "
select rowid, requestBodyId from tasks
where rowid > ?1 and status = 'answered' and pure = 1 and answeredFromId is null order by rowid";

/// An answered record: the first bytes of the id of its question's text, and its row in `tasks`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Entry {
    text: i64,
    row: i64,
}

impl Entry {
    pub(super) fn new(TextId(id): TextId, row: i64) -> Self {
        let [a, b, c, d, e, f, g, h, ..] = id;
        let text = i64::from_be_bytes([a, b, c, d, e, f, g, h]);
        Self { text, row }
    }
}

/// Which answers there are.
pub(super) struct Answers {
    waiting: BTreeSet<Entry>,
    waiting_max: usize,
    /// Where the round is: what waits before it came too late for this round.
    at: Option<Entry>,
    /// The mark, once this round is over.
    next_mark: i64,
}

/// What went into the table with a transaction that is not committed yet.
#[derive(Default)]
pub(super) struct PutIn {
    entries: Vec<Entry>,
    /// The mark after the round that begins now.
    next_mark: Option<i64>,
}

impl Answers {
    /// Reads what follows the mark.
    pub(super) fn load(connection: &Connection) -> rusqlite::Result<Self> {
        Self::load_with(connection, WAITING_MAX)
    }

    fn load_with(connection: &Connection, waiting_max: usize) -> rusqlite::Result<Self> {
        let transaction = begin(connection)?;
        let mark: Option<i64> = transaction
            .query_row(
                "select value from meta where name = ?1",
                [MARK_NAME],
                |row| row.get(0),
            )
            .optional()?;
        let mut answers = Self {
            waiting: BTreeSet::new(),
            waiting_max,
            at: None,
            next_mark: mark.unwrap_or(0),
        };
        let next_mark = settled(&transaction)?;
        {
            let mut after = transaction.prepare(ANSWERED_AFTER)?;
            let mut rows = after.query([answers.next_mark])?;
            while let Some(row) = rows.next()? {
                let number = row.get(0)?;
                // An id that is none is no answer's that could be asked for.
                if let Ok(RecordId(id)) = row.get_ref(1)?.as_str()?.parse() {
                    answers.waiting.insert(Entry::new(TextId(id), number));
                }
                // After a crash those of two rounds are left; in a file of an earlier version, all.
                if answers.waiting.len() > waiting_max {
                    insert(&transaction, answers.waiting.iter())?;
                    answers.waiting.clear();
                    put_mark(&transaction, number.min(next_mark))?;
                }
            }
        }
        answers.next_mark = next_mark;
        transaction.commit()?;
        Ok(answers)
    }

    /// Puts some of those that wait into the table, if with `arriving` more they are too many. To be
    /// called before the transaction adds records, and told of its commit.
    pub(super) fn put_some(
        &self,
        transaction: &Transaction<'_>,
        arriving: usize,
    ) -> rusqlite::Result<PutIn> {
        let over = (self.waiting.len() + arriving).saturating_sub(self.waiting_max);
        if over == 0 {
            return Ok(PutIn::default());
        }
        let count = over.max(self.waiting_max / PART);
        let from = self.at.map_or(Unbounded, Excluded);
        let due = self.waiting.range((from, Unbounded)).take(count);
        let entries: Vec<Entry> = due.copied().collect();
        insert(transaction, entries.iter())?;
        let is_round_over = entries.len() < count;
        let next_mark = match is_round_over {
            true => {
                put_mark(transaction, self.next_mark)?;
                Some(settled(transaction)?)
            }
            false => None,
        };
        Ok(PutIn { entries, next_mark })
    }

    /// The transaction is committed, and with it these answers.
    pub(super) fn committed(&mut self, put_in: &PutIn, new: Vec<Entry>) {
        for entry in &put_in.entries {
            self.waiting.remove(entry);
        }
        self.waiting.extend(new);
        match put_in.next_mark {
            Some(mark) => {
                self.next_mark = mark;
                self.at = None;
            }
            None => self.at = put_in.entries.last().copied().or(self.at),
        }
    }

    /// Rows of records that may answer a question with this text.
    pub(super) fn of(&self, connection: &Connection, text: TextId) -> rusqlite::Result<Vec<i64>> {
        let (first, last) = (Entry::new(text, i64::MIN), Entry::new(text, i64::MAX));
        let mut rows: Vec<i64> = self
            .waiting
            .range(first..=last)
            .map(|entry| entry.row)
            .collect();
        let mut in_table =
            connection.prepare_cached("select record from answers where text = ?1")?;
        for row in in_table.query_map([first.text], |row| row.get(0))? {
            rows.push(row?);
        }
        Ok(rows)
    }

    /// Whether there is any.
    pub(super) fn is_any(&self, connection: &Connection) -> rusqlite::Result<bool> {
        if !self.waiting.is_empty() {
            return Ok(true);
        }
        connection.query_row("select exists (select 1 from answers)", [], |row| {
            row.get(0)
        })
    }
}

fn insert<'e>(
    connection: &Connection,
    entries: impl Iterator<Item = &'e Entry>,
) -> rusqlite::Result<()> {
    // One that is read again after a crash may be there.
    let mut insert = connection.prepare_cached(
        "insert into answers (text, record) values (?1, ?2) on conflict do nothing",
    )?;
    for entry in entries {
        insert.execute([entry.text, entry.row])?;
    }
    Ok(())
}

fn put_mark(connection: &Connection, mark: i64) -> rusqlite::Result<()> {
    let put = "insert into meta (name, value) values (?1, ?2)
        on conflict do update set value = excluded.value";
    connection.execute(put, params![MARK_NAME, mark]).map(drop)
}

/// The last row up to which nothing can become an answer any more: what is open still may.
fn settled(connection: &Connection) -> rusqlite::Result<i64> {
    // The sign has SQLite look at the few that are open, not at all rows from the first on.
    let oldest_open = "select min(+rowid) from tasks where status = 'open'";
    let oldest_open: Option<i64> = connection.query_row(oldest_open, [], |row| row.get(0))?;
    let newest = "select coalesce(max(rowid), 0) from tasks";
    match oldest_open {
        Some(row) => Ok(row - 1),
        None => connection.query_row(newest, [], |row| row.get(0)),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Small, so that rounds end often; a part of it is two.
    const MAX: usize = 2 * PART;

    /// What happens to a log.
    #[derive(Debug, Clone)]
    enum Step {
        /// A batch of so many answered records, from this text on.
        Answered(u8, usize),
        /// A record that stays open.
        Open(u8),
        /// The oldest that is open is answered.
        Completed,
        /// A batch that is not committed.
        Failed(usize),
        /// The process dies.
        Killed,
    }

    fn step() -> impl Strategy<Value = Step> {
        prop_oneof![
            8 => (any::<u8>(), 1..120_usize).prop_map(|(text, count)| Step::Answered(text, count)),
            1 => any::<u8>().prop_map(Step::Open),
            1 => Just(Step::Completed),
            1 => (1..60_usize).prop_map(Step::Failed),
            1 => Just(Step::Killed),
        ]
    }

    /// Spread over all ids, as a hash is.
    fn text(n: usize) -> TextId {
        let mut id = [0; 12];
        let spread = (n as u64).wrapping_mul(0x9E37_79B9_7F4A_7C15);
        id[..8].copy_from_slice(&spread.to_be_bytes());
        TextId(id)
    }

    struct Log {
        connection: Connection,
        answers: Answers,
        answered: Vec<(TextId, i64)>,
        open: Vec<(TextId, i64)>,
        texts: usize,
    }

    impl Log {
        fn new() -> Self {
            let connection = Connection::open_in_memory().unwrap();
            let tables = "create table meta (name text primary key, value);
                create table tasks (requestBodyId text, status text, pure integer, answeredFromId text);";
            connection.execute_batch(tables).unwrap();
            connection.execute_batch(SCHEMA).unwrap();
            Self {
                answers: Answers::load_with(&connection, MAX).unwrap(),
                connection,
                answered: Vec::new(),
                open: Vec::new(),
                texts: 0,
            }
        }

        /// A batch: so many records of this status.
        fn write(&mut self, status: &str, count: usize, is_committed: bool) {
            let transaction = begin(&self.connection).unwrap();
            let put_in = self.answers.put_some(&transaction, count).unwrap();
            let mut new = Vec::new();
            for _ in 0..count {
                let text = text(self.texts);
                self.texts += 1;
                let insert = "insert into tasks values (?1, ?2, 1, null)";
                transaction
                    .execute(insert, (text.to_hex(), status))
                    .unwrap();
                new.push((text, transaction.last_insert_rowid()));
            }
            if !is_committed {
                return;
            }
            transaction.commit().unwrap();
            let entries = |new: &[(TextId, i64)]| {
                new.iter()
                    .map(|(text, row)| Entry::new(*text, *row))
                    .collect()
            };
            match status {
                "open" => {
                    self.answers.committed(&put_in, Vec::new());
                    self.open.extend(new);
                }
                _ => {
                    self.answers.committed(&put_in, entries(&new));
                    self.answered.extend(new);
                }
            }
        }

        fn complete(&mut self) {
            if self.open.is_empty() {
                return;
            }
            let (text, row) = self.open.remove(0);
            let transaction = begin(&self.connection).unwrap();
            let put_in = self.answers.put_some(&transaction, 1).unwrap();
            let update = "update tasks set status = 'answered' where rowid = ?1";
            transaction.execute(update, [row]).unwrap();
            transaction.commit().unwrap();
            self.answers.committed(&put_in, vec![Entry::new(text, row)]);
            self.answered.push((text, row));
        }

        fn finds(&self, text: TextId, row: i64) -> bool {
            self.answers
                .of(&self.connection, text)
                .unwrap()
                .contains(&row)
        }

        fn mark(&self) -> i64 {
            let mark = "select value from meta where name = ?1";
            let mark = self
                .connection
                .query_row(mark, [MARK_NAME], |row| row.get(0));
            mark.optional().unwrap().unwrap_or(0)
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]
        #[test]
        fn every_answer_is_found_whatever_happens(steps in prop::collection::vec(step(), 1..60)) {
            let mut log = Log::new();
            for step in steps {
                match step {
                    Step::Answered(text, count) => {
                        log.texts += usize::from(text);
                        log.write("answered", count, true);
                    }
                    Step::Open(text) => {
                        log.texts += usize::from(text);
                        log.write("open", 1, true);
                    }
                    Step::Completed => log.complete(),
                    Step::Failed(count) => log.write("answered", count, false),
                    Step::Killed => {
                        log.answers = Answers::load_with(&log.connection, MAX).unwrap();
                    }
                }
                // A batch can come when the round ends.
                prop_assert!(log.answers.waiting.len() <= MAX + 2 * 120);
            }
            for is_killed in [false, true] {
                if is_killed {
                    log.answers = Answers::load_with(&log.connection, MAX).unwrap();
                }
                for (text, row) in &log.answered {
                    prop_assert!(log.finds(*text, *row), "row {row}");
                }
                for (text, row) in &log.open {
                    prop_assert!(!log.finds(*text, *row), "row {row} is open");
                }
            }
        }
    }

    #[test]
    fn little_is_read_again_after_a_crash() {
        let mut log = Log::new();
        for _ in 0..200 {
            log.write("answered", 30, true);
            let last = i64::try_from(log.answered.len()).unwrap();
            let again = last - log.mark();
            // Two rounds, and those that waited before the first.
            let most = i64::try_from(5 * MAX + 30).unwrap();
            assert!(again <= most, "{again} of {last}");
        }
        assert!(log.mark() > 0);
    }

    #[test]
    fn a_file_of_an_earlier_version_is_read_whole_and_once() {
        let mut log = Log::new();
        let insert = "insert into tasks values (?1, 'answered', 1, null)";
        for n in 0..10 * MAX {
            log.connection.execute(insert, [text(n).to_hex()]).unwrap();
            log.answered
                .push((text(n), log.connection.last_insert_rowid()));
        }
        log.answers = Answers::load_with(&log.connection, MAX).unwrap();
        assert!(
            log.answered
                .iter()
                .all(|(text, row)| log.finds(*text, *row))
        );
        assert!(log.answers.waiting.len() <= MAX);
        assert!(log.mark() > i64::try_from(8 * MAX).unwrap());
    }
}
