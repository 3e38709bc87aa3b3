//! What is due: records to be opened, deadlines that have passed, and those who wait no longer.

use shared::contract::{FailureCode, RecordId};
use tokio::time::Instant;

use crate::{
    flights::Stored,
    flow::{Flow, Timer},
};

impl Flow {
    pub(crate) fn due(&mut self, timer: Timer) {
        match timer {
            Timer::Work(id) => self.silent(id),
            Timer::Flight(id) => {
                let Some(flight) = self.in_flight.flights.get_mut(&id) else {
                    return;
                };
                flight.timer = None;
                if Instant::now() < flight.due {
                    flight.timer = Some(self.timers.insert_at(timer, flight.due));
                    if flight.stored == Stored::Not {
                        self.open(id);
                    }
                    return;
                }
                let work = flight.work.take();
                let how_far = work
                    .and_then(|work| self.in_flight.works.get(&work))
                    .map(|work| {
                        flight.record.progress = work.progress_so_far(id);
                        work.how_far()
                    })
                    .unwrap_or_else(|| "it was not dispatched".into());
                if let Some(work) = work {
                    self.stop_waiting(id, work);
                }
                self.fail(
                    id,
                    FailureCode::DeadlineExceeded,
                    format!("the deadline passed: {how_far}"),
                );
            }
        }
    }

    /// One of those who wait for a work has gone. The others go on: where the work was known by the
    /// one that has gone, it is begun anew under the next.
    pub(crate) fn stop_waiting(&mut self, id: RecordId, work_id: RecordId) {
        let Some(work) = self.in_flight.works.get_mut(&work_id) else {
            return;
        };
        work.waiting.retain(|waiting| *waiting != id);
        if id != work_id && !work.waiting.is_empty() {
            return;
        }
        if let Some(work) = self.leave_work(work_id)
            && !work.waiting.is_empty()
        {
            self.work(work.waiting, work.question, work.service);
        }
    }
}
