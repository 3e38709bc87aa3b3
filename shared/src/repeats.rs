//! Repeating messages that nobody answers: when, and how many.

use std::time::Duration;

/// Whoever was asked is silent when it has not answered within this share of the time that is left:
/// there is time for two more tries.
const SILENT_SHARE: u32 = 3;
/// But it is given at least so long.
const SILENT_AFTER_MIN: Duration = Duration::from_millis(100);
/// Repeats per first message: at most a tenth more messages than requests.
const REPEATS_PER_FIRST: f64 = 0.1;
/// Repeats that an idle system has saved up.
const REPEATS_SAVED_MAX: f64 = 20.0;

/// How long to wait for an answer before asking again, when so much time is left.
pub fn silent_after(left: Duration) -> Duration {
    (left / SILENT_SHARE).max(SILENT_AFTER_MIN)
}

/// A budget for repeats: without one, repeats would keep an overload alive. One owner.
#[derive(Debug)]
pub struct RetryBudget {
    saved: f64,
}

impl Default for RetryBudget {
    /// As of an idle system.
    fn default() -> Self {
        Self {
            saved: REPEATS_SAVED_MAX,
        }
    }
}

impl RetryBudget {
    /// A first message earns a tenth of a repeat.
    pub fn earn(&mut self) {
        self.saved = (self.saved + REPEATS_PER_FIRST).min(REPEATS_SAVED_MAX);
    }

    /// A repeat; whether it may be.
    pub fn spend(&mut self) -> bool {
        let may = self.saved >= 1.0;
        if may {
            self.saved -= 1.0;
        }
        may
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn repeats_stay_within_a_tenth_and_what_was_saved() {
        let mut budget = RetryBudget::default();
        let spent = (0..1_000)
            .filter(|_| {
                budget.earn();
                budget.spend()
            })
            .count();
        assert!((118..=121).contains(&spent), "{spent}");
    }
}
