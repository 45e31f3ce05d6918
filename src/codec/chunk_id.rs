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

#[cfg(test)]
mod tests {
    use super::*;

    /// From the test vectors published with BLAKE3.
    #[test]
    fn ids_are_keyed_blake3() {
        let key = IdKey::new(&Secret::from_bytes(*b"whats the Elvish word for friend"));
        for (plain, id) in [
            (
                &[][..],
                "92b2b75604ed3c761f9d6f62392c8a9227ad0ea3f09573e783f1498a4ed60d26",
            ),
            (
                &[0][..],
                "6d7878dfff2f485635d39013278ae14f1454b8c0a3a2d34bc1ab38228a80c95b",
            ),
        ] {
            assert_eq!(hex::encode(key.id(plain).0), id);
        }
    }

    #[test]
    fn ids_of_two_keys_are_unrelated() {
        let [data, leaf] = [1, 2].map(|byte| IdKey::new(&Secret::from_bytes([byte; 32])));
        assert_ne!(data.id(b"same"), leaf.id(b"same"));
    }

    #[test]
    fn an_id_is_not_printed_whole() {
        assert_eq!(format!("{:?}", ChunkId([0xab; 32])), "ChunkId(abababab..)");
    }
}
