//! Cairn.

pub mod backend;
pub mod catalog;
pub mod codec;
pub mod config;
pub mod engine;
pub mod format;
pub mod keys;
#[cfg(any(test, feature = "testkit"))]
pub mod testkit;
