//! Cairn.

pub mod codec;
