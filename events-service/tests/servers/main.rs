//! What needs a server that speaks MongoDB's protocol. Run by `cargo xtask test`, which starts one
//! and says where it is.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

#[path = "../suite/mod.rs"]
mod suite;

mod mongo;
mod older;
mod outage;
mod trail;
