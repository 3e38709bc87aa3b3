//! `STRING`: concatenation of two strings.

use shared::contract::STRING;

use super::Operands;
use crate::registry::Worker;

pub(super) fn register(worker: Worker) -> Worker {
    worker.on(STRING, "ADD", |job| {
        let Operands::<String>(mut text, end) = job.body()?;
        text.push_str(&end);
        Ok(text)
    })
}
