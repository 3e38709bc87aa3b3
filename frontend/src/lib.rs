//! The frontend: HTTP on one side, events on the other.
//!
//! What it promises: every accepted request is answered with its own result or with an error that
//! says what happened, at its deadline at the latest; everything that waits is bounded.
//!
//! Read [`flow`] from top to bottom: it is the path of a request. [`classify`] makes a task of a
//! body, [`pending`] is the registry of those who wait, [`problem`] the only place that turns an
//! error into a response, [`http`] what is enforced on connections, [`routes`] which path is what.

pub mod classify;
mod flow;
mod http;
mod metrics;
pub mod pending;
mod problem;
mod routes;
mod run;
pub mod settings;

pub use routes::Requests;
pub use run::{Frontend, RunError, main, run};
