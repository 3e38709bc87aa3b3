//! What the services of Roundtrip have in common.
//!
//! Read in this order: [`contract`] is what stands on the wire (pure, no I/O); [`bus`] carries it;
//! [`outbox`] sends it, direct channel first; [`discovery`] says who is there and [`identity`] who
//! we are; the rest is what every process needs.
//!
//! **Invariant**: nothing in this crate knows about HTTP tasks, the audit log or handlers, and
//! nothing but [`contract`] knows the wire format.

pub mod bus;
pub mod clock;
pub mod contract;
pub mod discovery;
pub mod identity;
pub mod node;
pub mod object_ids;
pub mod ops;
pub mod outbox;
pub mod placement;
pub mod repeats;
pub mod settings;
pub mod shutdown;
pub mod telemetry;
