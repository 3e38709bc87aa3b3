//! What needs nothing but cargo: the audit log's suite on SQLite, and servers that refuse.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

#[path = "../suite/mod.rs"]
mod suite;

mod refusing;
mod sqlite;
