//! The ports' suites on real servers: Redis and a Docker engine. Run by `cargo xtask test`, which
//! starts them and says where they are.

#![expect(clippy::unwrap_used, reason = "where a test cannot go on, it fails")]

#[path = "../suite/mod.rs"]
mod suite;

mod docker;
mod redis;
