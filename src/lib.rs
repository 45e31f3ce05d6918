//! Cairn.

pub mod backend;
pub mod keys;
#[cfg(any(test, feature = "testkit"))]
pub mod testkit;
