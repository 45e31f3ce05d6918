//! Cairn.

pub mod catalog;
pub mod codec;
pub mod format;
