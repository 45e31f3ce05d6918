//! Cairn.

pub mod codec;
pub mod format;
