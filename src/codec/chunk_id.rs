//! What a piece of plaintext is called: its BLAKE3 hash, keyed per repository.
//!
//! Data chunks, manifest leaves and manifest roots each have their own key, so equal bytes of two kinds get unrelated
//! ids, and nobody without the key can test whether a known file is stored.

use std::fmt;

use super::Secret;

/// A keyed hash of a plaintext; equal ids mean equal bytes.
///
/// Ids are secrets of a kind: they are not printed whole, and there is no `Display`.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ChunkId(pub [u8; 32]);

impl fmt::Debug for ChunkId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [a, b, c, d, ..] = self.0;
        write!(f, "ChunkId({a:02x}{b:02x}{c:02x}{d:02x}..)")
    }
}

/// Names plaintexts of one kind in one repository.
#[derive(Clone, Debug)]
pub struct IdKey(Secret);

impl IdKey {
    /// The key of one kind, as derived for it.
    pub fn new(secret: &Secret) -> Self {
        Self(secret.clone())
    }

    /// The id of `plain`. One pass over the bytes, on the calling thread.
    pub fn id(&self, plain: &[u8]) -> ChunkId {
        ChunkId(blake3::keyed_hash(self.0.expose(), plain).into())
    }
}
