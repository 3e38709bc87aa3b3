//! The product from outside: what the end-to-end tests in `tests/it` are written with.
//!
//! Nothing here knows our crates. A test sees HTTP ([`http`]), Redis ([`redis`]), the database
//! ([`records`]), processes ([`process`]) and the Docker engine ([`docker`]), and nothing else.
//! Start reading at [`case::run`]; every test is one call of it. The chaos harness ([`chaos`]) is
//! built from the same parts.
//!
//! **Invariants.** A test never sleeps to synchronise: it waits for a fact with a deadline
//! ([`until`]). Nothing it needs is optional: what is missing fails the test with a sentence that
//! says what to do ([`environment`]). Every test has channels, a database and ports of its own,
//! and ends what it started also when it fails.

pub mod bare;
pub mod bodies;
pub mod case;
pub mod chaos;
pub mod containers;
pub mod docker;
pub mod environment;
pub mod forward;
pub mod http;
pub mod load;
pub mod mongo;
pub mod process;
pub mod records;
pub mod redis;
pub mod stack;
pub mod until;
