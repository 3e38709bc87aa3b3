//! What was executed: a record that is dispatched again is answered from memory.

use std::collections::{HashMap, VecDeque};

use shared::contract::{Address, Ended, RecordId, Timing};

/// Records that are remembered: at 12,000 a second those of the last four seconds, and an events
/// service dispatches again after a third of a deadline. A little less than what fills half of the
/// table: beyond, the places of those that were forgotten would make it double at some time.
const RECORDS_MAX: usize = 49_152;
/// Bytes of results that are remembered.
const BYTES_MAX: usize = 16 << 20;

/// What is known of a record.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Executed {
    /// It waits or runs; its result goes to whoever asked last, since the others may have died.
    Running(Address),
    /// It has ended.
    Ended(Ended, Timing),
}

/// The records executed last. Bounded in number and bytes; what runs is never forgotten.
#[derive(Debug, Default)]
pub(crate) struct Memory {
    records: HashMap<RecordId, Executed>,
    /// Ended records, oldest first.
    ended: VecDeque<RecordId>,
    bytes: usize,
}

impl Memory {
    pub(crate) fn get(&self, record: RecordId) -> Option<&Executed> {
        self.records.get(&record)
    }

    /// It waits or runs, and was last asked for by this events service.
    pub(crate) fn running(&mut self, record: RecordId, asked_by: Address) {
        self.records.insert(record, Executed::Running(asked_by));
    }

    pub(crate) fn ended(&mut self, record: RecordId, ended: Ended, timing: Timing) {
        self.bytes += bytes(&ended);
        self.records.insert(record, Executed::Ended(ended, timing));
        self.ended.push_back(record);
        while self.ended.len() > RECORDS_MAX || self.bytes > BYTES_MAX {
            let Some(oldest) = self.ended.pop_front() else {
                return;
            };
            if let Some(Executed::Ended(ended, _)) = self.records.remove(&oldest) {
                self.bytes -= bytes(&ended);
            }
        }
    }
}

fn bytes(ended: &Ended) -> usize {
    match ended {
        Ended::Final(text) | Ended::Raw(text) => text.len(),
        Ended::Failed(failure) => failure.detail.len(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NO_TIME: Timing = Timing {
        waited_us: 0,
        ran_us: 0,
    };

    fn id(n: usize) -> RecordId {
        let mut id = [0; 12];
        id[..8].copy_from_slice(&n.to_be_bytes());
        RecordId(id)
    }

    #[test]
    fn the_table_does_not_grow_with_time() {
        let mut memory = Memory::default();
        let mut largest = |records: std::ops::Range<usize>| {
            let capacities = records.map(|n| {
                memory.ended(id(n), Ended::Final(String::new()), NO_TIME);
                memory.records.capacity()
            });
            capacities.max()
        };
        let at_first = largest(0..3 * RECORDS_MAX);
        assert!(largest(3 * RECORDS_MAX..1_000_000) <= at_first);
    }

    #[test]
    fn the_oldest_results_are_forgotten_first() {
        let mut memory = Memory::default();
        let asked_by = Address::new("e", "s").unwrap();
        memory.running(id(usize::MAX), asked_by.clone());
        for n in 0..RECORDS_MAX + 10 {
            memory.ended(id(n), Ended::Final("x".into()), NO_TIME);
        }
        assert_eq!(memory.get(id(9)), None);
        assert!(memory.get(id(10)).is_some());
        assert_eq!(
            memory.get(id(usize::MAX)),
            Some(&Executed::Running(asked_by))
        );
        memory.ended(id(3), Ended::Final("x".repeat(BYTES_MAX + 1)), NO_TIME);
        assert_eq!((memory.bytes, memory.ended.len()), (0, 0));
    }
}
