//! What happens by chance, fixed by the seed.
//!
//! Each decision is drawn from what it is about (which message on which way, which write), not from
//! one stream for all: two that happen in the same moment may come in either order, and neither
//! changes the other.

use std::{
    hash::{DefaultHasher, Hash, Hasher},
    ops::RangeInclusive,
    time::Duration,
};

use rand::{RngExt, SeedableRng, rngs::SmallRng};

/// The dice of one run.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Dice {
    seed: u64,
}

/// The dice for one decision.
pub(crate) struct Throw(SmallRng);

impl Dice {
    pub(crate) fn new(seed: u64) -> Self {
        Self { seed }
    }

    /// The dice for what is known by this.
    pub(crate) fn on(self, what: impl Hash) -> Throw {
        let mut hasher = DefaultHasher::new();
        (self.seed, what).hash(&mut hasher);
        Throw(SmallRng::seed_from_u64(hasher.finish()))
    }
}

impl Throw {
    /// Whether something of this probability happens.
    pub(crate) fn is(&mut self, probability: f64) -> bool {
        probability > 0.0 && self.0.random_bool(probability)
    }

    pub(crate) fn number(&mut self, range: RangeInclusive<u64>) -> u64 {
        self.0.random_range(range)
    }

    pub(crate) fn index(&mut self, count: usize) -> usize {
        self.0.random_range(0..count)
    }

    pub(crate) fn one_of<T: Copy>(&mut self, values: &[T]) -> T {
        values[self.index(values.len())]
    }

    pub(crate) fn ms(&mut self, range: RangeInclusive<u64>) -> Duration {
        Duration::from_millis(self.number(range))
    }
}
