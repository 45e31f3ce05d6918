//! Where a key encryption key comes from: one file per provider.
//!
//! A provider hands out a key and its id. The id is shown in listings and stored in the clear beside what the key wraps, so
//! it must tell keys apart and nothing else.

mod file;
pub mod watch;

#[cfg(test)]
mod tests;

#[cfg(any(test, feature = "testkit"))]
pub(crate) use file::kek_in;
pub use file::{Error, FileKek, create_key_file, load_key_file};
