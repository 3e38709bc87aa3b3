//! End-to-end tests of the product: `cargo xtask test` brings what they need.
//!
//! `one_process` is the program `roundtrip` alone; `bare` are processes on a real Redis and
//! MongoDB; `chaos` breaks things under load and adds up what is left; `foreign` are containers, ours
//! beside stand-ins for the older images; `swarm` is the users' stack file on a real swarm.

mod bare;
mod chaos;
mod foreign;
mod one_process;
mod swarm;
