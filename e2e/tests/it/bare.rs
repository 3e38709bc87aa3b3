//! Bare processes that find each other by presence, on a real Redis and MongoDB.

mod answers;
mod custom;
mod edge;
mod errors;
mod ledger;
mod outage;
mod records;
mod several;
mod stop;
mod texts;
mod timeouts;

use std::time::Duration;

/// The deadline that tests set where they wait for it to pass.
const DEADLINE: Duration = Duration::from_millis(2_000);

/// What an answer at the deadline may take longer on a busy machine.
const GRACE: Duration = Duration::from_millis(1_000);

/// `DEADLINE` as a setting.
fn deadline_ms() -> String {
    DEADLINE.as_millis().to_string()
}
