//! Every byte that reaches a backend. Pure: bytes and randomness come as arguments, and nothing here reads a clock, a file
//! or a socket.
//!
//! | file | owns |
//! |---|---|
//! | [`names`] | paths of objects, ids, names people choose |
//! | [`marker`] | `metadata.yaml` and owner files |
//! | [`keyring`] | the wrapped secrets, and every key derived from them |
//! | [`pack`] | header, blobs, block sums, trailer; the writer and the reader of a pack |
//! | [`directory`] | what a pack contains, sealed |
//! | [`record`] | the lines of the log |
//! | [`manifest`] | chunk lists of large objects |
//! | [`checkpoint`] | snapshots of object table and pack table |
//! | [`padme`] | how lengths are rounded |
//! | [`wire`] | checked reading |
//!
//! `docs/format.md` says the same for a reader in another language, byte by byte; golden objects in `tests/golden` hold
//! both. A change of bytes is a new [`FORMAT`] that keeps reading the old.

mod error;

pub mod checkpoint;
pub mod directory;
pub mod keyring;
pub mod manifest;
pub mod marker;
pub mod names;
pub mod pack;
pub mod padme;
pub mod record;
pub mod wire;

#[cfg(test)]
mod tests;

pub use checkpoint::{CheckpointKind, CheckpointRoot, ObjectSegment, PackSegment, PackTableRow, SegmentRef};
pub use directory::{Birth, BlobKind, CommitSection, Directory, Entry};
pub use error::Error;
pub use keyring::{CatalogKeys, Kek, KeyringHeader, RepositoryParameters, Secrets};
pub use manifest::{Leaf, LeafCutter, LeafRef, Root};
pub use names::{
    CheckpointId, CheckpointName, Hash32, Layout, NameError, ObjectName, PackId, PackName, PackNumber, RepositoryName,
    StoredKind, StoredName,
};
pub use pack::{BlobOpener, FinishedPack, PackBuffer, PackHeader, PackKind, PackWriter, Trailer};
pub use record::{ChunkRef, Content, ObjectVersion, PackRef, Record, Tip};

/// The format number in every structure.
pub const FORMAT: u16 = 1;
/// The one cipher suite: AES-256-GCM, HKDF-SHA-256, BLAKE3.
pub const SUITE: u16 = 1;

/// The log head after a commit pack: a hash over the whole history, so that one comparison shows whether two logs are one.
pub fn next_head(previous: &Hash32, trailer: &Hash32) -> Hash32 {
    let mut hasher = blake3::Hasher::new();
    hasher.update(b"cairn/1 head").update(&previous.0).update(&trailer.0);
    Hash32(*hasher.finalize().as_bytes())
}
