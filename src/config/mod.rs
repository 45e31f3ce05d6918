//! From what a user wrote to what the engine takes: where things are when not said, sizes in words, keys out of files.
//!
//! Owns the defaults of places and the messages about them. Knows no parser of flags and never touches a store: that a
//! store is missing or held is the engine's to say.

mod error;
mod place;
#[cfg(feature = "serve")]
pub mod serve;
mod size;

#[cfg(test)]
mod tests;

pub use error::Error;
pub use place::{KeyFile, Place, PlaceFlags};
pub use size::{Size, SizeError};
