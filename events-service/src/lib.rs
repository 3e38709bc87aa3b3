//! The events service: records every task in the audit log, hands it to a backend, and answers when
//! the record is complete.
//!
//! What it promises: no reply before the completed record is durable; no dispatch of a task that is
//! not pure before its open record is; every record ends; the first result wins.
//!
//! Read [`flow`] from top to bottom: it is the path of a request. [`known`] is what happens when the
//! log knows the answer or the request already, [`delivery`] when a dispatch goes nowhere,
//! [`deadline`] what is due. [`audit`] is the log's port and its two stores, [`recovery`] what keeps
//! the log, [`task_maps`] which service does which task.

mod answers;
pub mod audit;
mod deadline;
mod delivery;
mod flights;
mod flow;
mod known;
mod listening;
mod metrics;
mod recovery;
mod run;
pub mod settings;
pub mod task_maps;

pub use run::{RunError, main, mongo_log, run};
