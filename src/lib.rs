//! Cairn.

pub mod catalog;
