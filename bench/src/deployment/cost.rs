//! What a run costs: the processor time of each process, as the kernel counts it.

use std::{collections::BTreeMap, fs};

/// Processes to look at, by name. Several may have one name.
#[derive(Debug, Clone, Default)]
pub(crate) struct Cost(Vec<(String, u32)>);

/// Processor time by name, in nanoseconds.
#[derive(Debug, Clone, Default)]
pub(crate) struct Spent(BTreeMap<String, u64>);

impl Cost {
    /// Of these, and of ourselves.
    pub(crate) fn of(mut processes: Vec<(String, u32)>) -> Self {
        processes.push(("generator".to_owned(), std::process::id()));
        Self(processes)
    }

    /// What they have spent so far.
    pub(crate) fn now(&self) -> Spent {
        let mut spent = BTreeMap::new();
        for (name, id) in &self.0 {
            *spent.entry(name.clone()).or_default() += nanos(*id);
        }
        Spent(spent)
    }
}

impl Spent {
    /// What was spent since.
    pub(crate) fn since(&self, earlier: &Self) -> impl Iterator<Item = (&str, u64)> {
        self.0.iter().map(|(name, now)| {
            let before = earlier.0.get(name).copied().unwrap_or(0);
            (name.as_str(), now.saturating_sub(before))
        })
    }
}

/// The first number of a thread's `schedstat` is its time on a processor. Unlike the clock ticks in
/// `stat` it is exact.
fn nanos(process: u32) -> u64 {
    let threads = fs::read_dir(format!("/proc/{process}/task"));
    threads
        .into_iter()
        .flatten()
        .flatten()
        .filter_map(|thread| fs::read_to_string(thread.path().join("schedstat")).ok())
        .filter_map(|text| text.split_whitespace().next()?.parse::<u64>().ok())
        .sum()
}
