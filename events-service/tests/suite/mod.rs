//! One suite for the port, for every implementation of it.

pub(crate) mod audit;
pub(crate) mod records;
