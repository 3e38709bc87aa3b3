//! The backend: a worker runtime, and the example tasks.
//!
//! A backend of one's own registers a handler per task and subtask and runs:
//!
//! ```no_run
//! use backend::{Failure, Job, Worker};
//!
//! #[derive(serde::Deserialize)]
//! struct Greeting { name: String }
//!
//! fn hello(job: &Job) -> Result<String, Failure> {
//!     let greeting: Greeting = job.body()?;
//!     Ok(format!("Hello, {}!", greeting.name))
//! }
//!
//! fn main() -> std::process::ExitCode {
//!     Worker::new().on("GREETING", "HELLO", hello).main()
//! }
//! ```
//!
//! What it promises: a dispatch is answered once, also when it comes twice ([`memory`]); a panic in
//! a handler is a failed task and nothing more; what waits and what runs is bounded; what nobody
//! waits for any more is not started.
//!
//! The path of a dispatch is in [`flow`].

mod flow;
mod memory;
mod registry;
mod run;
pub mod settings;
pub mod tasks;

pub use registry::{Job, Worker};
pub use run::{RunError, run};
pub use shared::contract::{Failure, FailureCode};
