//! What needs nothing but cargo: the wire frames of foreign dialects, and the ports' suites on the
//! implementations in memory.

#![expect(clippy::unwrap_used, reason = "where a test cannot go on, it fails")]

#[path = "../suite/mod.rs"]
mod suite;

mod memory;
mod node;
mod ops;
mod presence;
mod wire;
