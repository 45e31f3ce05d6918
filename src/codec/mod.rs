//! The transforms every byte passes: cut, identify, compress, seal; and the keys they need.
//!
//! ```text
//! stream ─ chunker ─▶ chunk ─ chunk_id ─▶ id        known? then only a reference is kept
//!                       └──── compression ─▶ sealing ─▶ a blob of a pack
//! derivation: one secret and a label ─▶ the key of each step above
//! ```
//!
//! Both directions of a transform share a file. Everything here is pure: no file, socket, clock, async runtime or source
//! of randomness, so that the same input gives the same bytes on every machine and for ever. What the bytes are *for*
//! (packs, manifests, the log) is `format`'s concern and unknown here.

pub mod chunk_id;
pub mod chunker;
pub mod compression;
pub mod derivation;
pub mod sealing;
mod secret;

pub use chunk_id::{ChunkId, IdKey};
pub use chunker::{ChunkSizes, Chunker, GearTable, More};
pub use compression::{Codec, Compressor, Decompressor, Level};
pub use derivation::{RepositoryId, derive, derive_into};
pub use sealing::{Nonce, SealingKey, SivKey, TAG_LEN};
pub use secret::Secret;

/// Why a transform refused its input.
///
/// Never carries a secret, a plaintext byte or a chunk id.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// Text that should have been a repository id.
    #[error("a repository id is 32 lower-case hexadecimal digits")]
    RepositoryId,
    /// A chunk size outside what the chunker can cut.
    #[error("{which} chunk size {found} is not allowed: it must be {expected}")]
    ChunkSize {
        /// "smallest", "average" or "largest".
        which: &'static str,
        /// The value given, in bytes.
        found: u32,
        /// The rule it breaks.
        expected: &'static str,
    },
    /// A compression level outside the supported ones.
    #[error("compression level {found} is not allowed: it must be 0 (off) to {max}", max = compression::LEVEL_MAX)]
    Level {
        /// The value given.
        found: i32,
    },
    /// A codec number this version does not know.
    #[error("unknown codec {found}")]
    UnknownCodec {
        /// The number found.
        found: u8,
    },
    /// Stored bytes that do not decompress to what their entry says.
    #[error("stored bytes do not decompress: {reason}")]
    Decompression {
        /// What is wrong with them.
        reason: &'static str,
    },
    /// Bytes that were not sealed with this key, nonce and associated data, or were changed since.
    #[error("sealed bytes are damaged, or belong to another key or place")]
    Unauthentic,
}
