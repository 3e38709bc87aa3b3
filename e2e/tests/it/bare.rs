//! Bare processes.
