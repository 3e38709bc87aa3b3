//! stub
pub mod audit;
