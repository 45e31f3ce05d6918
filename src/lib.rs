//! Cairn.

pub mod backend;
pub mod keys;
