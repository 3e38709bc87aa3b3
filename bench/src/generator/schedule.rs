//! When the requests of an open loop are due, and waiting for these moments.

use std::{
    cell::{Cell, RefCell},
    collections::VecDeque,
    os::fd::OwnedFd,
    time::{Duration, Instant},
};

use anyhow::{Context, Result};
use rustix::time::{
    Itimerspec, TimerfdClockId, TimerfdFlags, TimerfdTimerFlags, Timespec, timerfd_create,
    timerfd_settime,
};
use tokio::{io::unix::AsyncFd, sync::Notify};

/// Request number `n` is due `n` intervals after the start, however the ones before it fare.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Schedule {
    start: Instant,
    per_second: f64,
}

impl Schedule {
    pub(crate) fn new(start: Instant, per_second: f64) -> Self {
        Self { start, per_second }
    }

    /// When request `n` is due.
    pub(crate) fn due(&self, n: u64) -> Instant {
        self.start + Duration::from_secs_f64(n as f64 / self.per_second)
    }
}

/// Requests that are due and wait for a free connection.
#[derive(Debug, Default)]
pub(crate) struct Due {
    moments: RefCell<VecDeque<Instant>>,
    is_over: Cell<bool>,
    changed: Notify,
    ended: Notify,
}

impl Due {
    /// Puts every request in when it is due; does not end by itself.
    ///
    /// # Errors
    /// The system has no timer for us.
    pub(crate) async fn fill(&self, schedule: Schedule) -> Result<()> {
        let timer = Timer::new()?;
        for n in 0.. {
            let due = schedule.due(n);
            if due > Instant::now() {
                timer.wait_until(due).await?;
            }
            self.moments.borrow_mut().push_back(due);
            self.changed.notify_one();
            // A schedule that is behind must not keep the callers from the thread.
            if n % 64 == 63 {
                tokio::task::yield_now().await;
            }
        }
        Ok(())
    }

    /// The next request, by the moment at which it was due; `None` when all is over.
    pub(crate) async fn next(&self) -> Option<Instant> {
        loop {
            if self.is_over.get() {
                return None;
            }
            if let Some(due) = self.moments.borrow_mut().pop_front() {
                return Some(due);
            }
            self.changed.notified().await;
        }
    }

    /// Waits for the end.
    pub(crate) async fn over(&self) {
        self.ended.notified().await;
    }

    /// No more requests; those that were due and never sent.
    pub(crate) fn end(&self) -> VecDeque<Instant> {
        self.is_over.set(true);
        self.changed.notify_waiters();
        self.ended.notify_one();
        self.moments.take()
    }
}

/// A timer of the kernel's: the runtime's own has a resolution of a millisecond, as long as a request
/// takes.
#[derive(Debug)]
struct Timer(AsyncFd<OwnedFd>);

impl Timer {
    #[expect(
        deprecated,
        reason = "its successor is unsafe, for the sake of types that do not own their descriptor"
    )]
    fn new() -> Result<Self> {
        let flags = TimerfdFlags::NONBLOCK | TimerfdFlags::CLOEXEC;
        let timer = timerfd_create(TimerfdClockId::Monotonic, flags).context("make a timer")?;
        Ok(Self(AsyncFd::new(timer)?))
    }

    async fn wait_until(&self, moment: Instant) -> Result<()> {
        let left = moment.saturating_duration_since(Instant::now());
        let zero = Timespec {
            tv_sec: 0,
            tv_nsec: 0,
        };
        // Zero would switch the timer off.
        let left = Timespec::try_from(left.max(Duration::from_nanos(1)))?;
        let setting = Itimerspec {
            it_interval: zero,
            it_value: left,
        };
        timerfd_settime(self.0.get_ref(), TimerfdTimerFlags::empty(), &setting)?;
        let mut ready = self.0.readable().await?;
        let mut count = [0; 8];
        // It has run out, or somebody was wrong and the caller looks at the clock again.
        if rustix::io::read(self.0.get_ref(), &mut count).is_err() {
            ready.clear_ready();
        }
        ready.clear_ready();
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_is_due_at_its_place_whatever_went_before() {
        let start = Instant::now();
        let schedule = Schedule::new(start, 1_000.0);
        assert_eq!(schedule.due(0), start);
        assert_eq!(schedule.due(2_500), start + Duration::from_millis(2_500));
    }

    #[tokio::test(flavor = "current_thread")]
    async fn requests_come_in_order_and_not_before_they_are_due() {
        let due = Due::default();
        let start = Instant::now();
        let take = async {
            for n in 0..200_u32 {
                let moment = due.next().await.unwrap();
                assert_eq!(moment, start + Duration::from_millis(1) * n / 10);
                assert!(Instant::now() >= moment);
            }
        };
        tokio::select! {
            filled = due.fill(Schedule::new(start, 10_000.0)) => panic!("{filled:?}"),
            () = take => {}
        }
        assert!(start.elapsed() >= Duration::from_micros(19_900));
        due.end();
        assert_eq!(due.next().await, None);
    }
}
