//! The ports' suites on real servers: Redis and a Docker engine. Run by `cargo xtask test`, which
//! starts them and says where they are.

#[path = "../suite/mod.rs"]
mod suite;

mod docker;
mod redis;
