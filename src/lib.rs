//! Cairn.

pub mod catalog;
pub mod codec;
