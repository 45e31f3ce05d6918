//! Bodies of the fuzz targets: each takes any bytes and panics if a claim does not hold for them.
//!
//! | body | claim |
//! |---|---|
//! | [`chunker`] | cuts are those of the `fastcdc` crate, for every stream, table, sizes and way of arriving |
//! | [`lanes`] | the vectorised part of the chunker finds what a scan by bytes finds |
//! | [`decompression`] | stored bytes give the promised length or an error, which leaves no trace |
//! | [`structures`] | what a decoder takes, the encoder writes: no structure has two spellings |
//! | [`catalog_rows`] | the same of the catalog's rows |
//! | [`damage`] | a stored object that differs from what was written is refused, or reads as what was written |
//! | [`names`] | a path that is taken for an object's is the path of that object |
//! | [`metadata`] | `metadata.yaml` may say anything |
//! | [`operations`] | a store that is used, disturbed and killed holds what was acknowledged, as a model does |
//!
//! The bytes are decisions: sizes, edits, lengths of runs. So a few of them make a long stream or a nearly valid object,
//! and a change of one is a small change of what is tried. `fuzz/` makes targets of the bodies; their tests run each for a
//! moment.

mod catalog;
mod chunker;
mod compression;
mod damage;
mod golden;
mod input;
mod names;
mod operations;
mod structures;

pub use catalog::catalog_rows;
pub use chunker::{chunker, lanes};
pub use compression::decompression;
pub use damage::damage;
pub use names::{metadata, names};
pub use operations::operations;
pub use structures::structures;

#[cfg(test)]
mod tests;
