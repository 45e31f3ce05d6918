//! Bodies of the fuzz targets: each takes any bytes and panics if a claim does not hold for them.
//!
//! | body | claim |
//! |---|---|
//! | [`chunker`] | cuts are those of the `fastcdc` crate, however a stream arrives, and depend on content alone |
//! | [`lanes`] | the vectorised part of the chunker finds what a scan by bytes finds |
//! | [`decompression`] | stored bytes give the promised length or an error, which leaves no trace |
//! | [`structures`] | what a decoder takes, the encoder writes: no structure has two spellings |
//! | [`catalog_rows`] | the same of the catalog's rows |
//! | [`catalog_files`] | a catalog that was changed says what it was told, or nothing |
//! | [`damage`] | a stored object that differs from what was written is refused, or reads as what was written |
//! | [`names`] | a path that is taken for an object's is the path of that object |
//! | [`metadata`] | `metadata.yaml` may say anything |
//! | [`texts`] | places, sizes and cursors that are taken are printed as ones that mean the same |
//! | [`key_files`] | a key file has one of two forms, and no other key opens a keyring |
//! | [`operations`] | a store that is used, disturbed and killed holds what was acknowledged, as a model does |
//! | [`reclaims`] | so it does if space is given back after every step |
//! | `messages` | messages of the contract give values or an error, and values arrive as what was sent |
//! | `settings` | a configuration is taken or refused in one line, and opens nothing that it does not say |
//!
//! The last two are there with the feature `serve`.
//!
//! The bytes are decisions: sizes, edits, lengths of runs. So a few of them make a long stream or a nearly valid object,
//! and a change of one is a small change of what is tried. `fuzz/` makes targets of the bodies and keeps inputs to begin
//! with; their tests run each for a moment, hold those inputs to what makes them, and look for parsers that no body calls.

mod catalog;
mod chunker;
mod compression;
mod damage;
mod golden;
mod input;
mod names;
mod operations;
#[cfg(feature = "serve")]
mod service;
mod structures;
mod texts;

pub use catalog::{catalog_files, catalog_rows};
pub use chunker::{chunker, lanes};
pub use compression::decompression;
pub use damage::damage;
pub use names::{metadata, names};
pub use operations::{operations, reclaims};
#[cfg(feature = "serve")]
pub use service::{messages, settings};
pub use structures::structures;
pub use texts::{key_files, texts};

#[cfg(test)]
mod tests;
