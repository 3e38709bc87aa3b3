//! Time: one clock per process that never runs backwards.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use tokio::time::Instant;

/// Wall time at start plus monotonic time since: a clock that is set while we run neither reorders
/// our records nor misfires our deadlines.
#[derive(Debug, Clone, Copy)]
pub struct Clock {
    start: Instant,
    start_unix: Duration,
}

impl Clock {
    /// Reads the wall clock, once.
    pub fn start() -> Self {
        let start_unix = SystemTime::now()
            .duration_since(UNIX_EPOCH)
            .unwrap_or_default();
        Self {
            start: Instant::now(),
            start_unix,
        }
    }

    /// Now, as Unix time in ms.
    pub fn now_unix_ms(&self) -> u64 {
        self.unix_ms(Instant::now())
    }

    /// A moment of this process, as Unix time in ms.
    pub fn unix_ms(&self, moment: Instant) -> u64 {
        let since_start = moment.saturating_duration_since(self.start);
        u64::try_from((self.start_unix + since_start).as_millis()).unwrap_or(u64::MAX)
    }

    /// How far a clock is ahead of ours that shows `unix_ms` now.
    pub fn ahead_ms(&self, unix_ms: u64) -> i64 {
        let ahead = i128::from(unix_ms) - i128::from(self.now_unix_ms());
        i64::try_from(ahead).unwrap_or(if ahead < 0 { i64::MIN } else { i64::MAX })
    }

    /// When a deadline that came over the wire is due here, at most `longest` from now. Its sender's
    /// clock is ahead of ours by so many ms, as far as is known.
    ///
    /// Messages are never stored, so one whose deadline passed longer ago than `longest` was sent by
    /// a machine whose clock is wrong: it gets `usual` from now instead.
    pub fn deadline(
        &self,
        unix_ms: Option<u64>,
        ahead_ms: i64,
        usual: Duration,
        longest: Duration,
    ) -> Instant {
        let now = Instant::now();
        let now_ms = self.unix_ms(now);
        let unix_ms = unix_ms.map(|due| due.saturating_add_signed(ahead_ms.saturating_neg()));
        let longest_ms = u64::try_from(longest.as_millis()).unwrap_or(u64::MAX);
        match unix_ms {
            Some(due) if due >= now_ms => {
                now + Duration::from_millis((due - now_ms).min(longest_ms))
            }
            Some(due) if now_ms - due <= longest_ms => now,
            _ => now + usual,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_deadline_of_a_wrong_clock_becomes_the_usual_one() {
        let clock = Clock::start();
        let (usual, longest) = (Duration::from_secs(5), Duration::from_secs(60));
        let now = clock.now_unix_ms();
        for (due, wanted_ms) in [
            (Some(now + 700), 700),
            (Some(now.saturating_sub(10)), 0),
            (Some(now + 3_600_000), 60_000),
            (Some(now - 3_600_000), 5_000),
            (Some(u64::MAX), 60_000),
            (Some(0), 5_000),
            (None, 5_000),
        ] {
            let left = clock.deadline(due, 0, usual, longest) - Instant::now();
            assert_eq!(left.as_millis(), wanted_ms, "{due:?}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_deadline_of_a_clock_that_is_known_to_be_off_is_meant_as_it_was() {
        let clock = Clock::start();
        let (usual, longest) = (Duration::from_secs(5), Duration::from_secs(60));
        for off in [-20_000, 20_000] {
            let now_there = clock.now_unix_ms().saturating_add_signed(off);
            let ahead = clock.ahead_ms(now_there);
            assert_eq!(ahead, off);
            for (due, wanted_ms) in [(now_there + 700, 700), (now_there - 700, 0)] {
                let left = clock.deadline(Some(due), ahead, usual, longest) - Instant::now();
                assert_eq!(left.as_millis(), wanted_ms, "{off} {due}");
            }
        }
        clock.deadline(Some(0), i64::MAX, usual, longest);
        clock.deadline(Some(u64::MAX), i64::MIN, usual, longest);
    }

    #[tokio::test(start_paused = true)]
    async fn the_clock_follows_monotonic_time() {
        let clock = Clock::start();
        let before = clock.now_unix_ms();
        tokio::time::advance(Duration::from_millis(1_500)).await;
        assert_eq!(clock.now_unix_ms() - before, 1_500);
    }
}
