//! Manifests: the ordered chunk list of an object too large for its record, in two levels. Owns the bytes of leaf and
//! root and where a leaf ends; how they are stored (sealed blobs of packs) is `pack`'s.
//!
//! Equal runs of chunks give equal leaves wherever they stand, since a leaf ends where a chunk's id says so: so a copy or
//! a new version of a large object stores few new leaves.

use bytes::BufMut;

use super::Error;
use super::names::ObjectName;
use super::record::{ChunkRef, put_rows, put_text, read_name, read_rows};
use super::wire::Reader;
use crate::codec::ChunkId;

/// Chunks from which on an id may end a leaf.
pub const LEAF_CHUNKS_MIN: usize = 256;
/// Chunks at which a leaf ends in any case.
pub const LEAF_CHUNKS_MAX: usize = 1024;
/// Leaves a root can list, so that it fits one pack: 1 250 000 × 44 bytes and its name are less than 56 MiB.
pub const LEAVES_MAX: usize = 1_250_000;

/// A run of an object's chunks.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Leaf {
    /// In the order of the object; 1 to [`LEAF_CHUNKS_MAX`].
    pub chunks: Vec<ChunkRef>,
}

impl Leaf {
    /// The plaintext of the leaf's blob.
    pub fn encode(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(4 + self.chunks.len() * ChunkRef::LEN);
        put_rows(&mut out, &self.chunks, ChunkRef::encode);
        out
    }

    /// Reads what [`Self::encode`] wrote.
    pub fn decode(plain: &[u8]) -> Result<Self, Error> {
        let mut reader = Reader::new("manifest leaf", plain);
        let chunks = read_rows(&mut reader, ChunkRef::LEN, ChunkRef::decode)?;
        if chunks.is_empty() || chunks.len() > LEAF_CHUNKS_MAX {
            return Err(reader.damaged("the number of its chunks is out of bounds"));
        }
        reader.end()?;
        Ok(Self { chunks })
    }

    /// Bytes of the object the leaf stands for.
    pub fn bytes(&self) -> u64 {
        self.chunks.iter().map(|chunk| u64::from(chunk.len)).sum()
    }
}

/// A leaf in a root's ordered list.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LeafRef {
    /// Id of the leaf's plaintext.
    pub id: ChunkId,
    /// Bytes of the object it stands for.
    pub bytes: u64,
    /// Chunks it lists.
    pub chunks: u32,
}

impl LeafRef {
    /// Length in stored structures.
    pub const LEN: usize = 32 + 8 + 4;

    fn encode(&self, out: &mut Vec<u8>) {
        out.put_slice(&self.id.0);
        out.put_u64_le(self.bytes);
        out.put_u32_le(self.chunks);
    }

    fn decode(reader: &mut Reader<'_>) -> Result<Self, Error> {
        let leaf = Self {
            id: ChunkId(reader.array()?),
            bytes: reader.u64()?,
            chunks: reader.u32()?,
        };
        if leaf.chunks == 0 || leaf.chunks as usize > LEAF_CHUNKS_MAX || leaf.bytes < u64::from(leaf.chunks) {
            return Err(reader.damaged("a leaf's size is out of bounds"));
        }
        Ok(leaf)
    }
}

/// The top of a manifest.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Root {
    /// The object it belongs to; a reader refuses any other.
    pub name: ObjectName,
    /// Bytes of the object.
    pub size: u64,
    /// In the order of the object; 1 to [`LEAVES_MAX`].
    pub leaves: Vec<LeafRef>,
}

impl Root {
    /// The plaintext of the root's blob.
    pub fn encode(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(2 + self.name.as_str().len() + 12 + self.leaves.len() * LeafRef::LEN);
        put_text(&mut out, self.name.as_str());
        out.put_u64_le(self.size);
        put_rows(&mut out, &self.leaves, LeafRef::encode);
        out
    }

    /// Reads what [`Self::encode`] wrote.
    pub fn decode(plain: &[u8]) -> Result<Self, Error> {
        let mut reader = Reader::new("manifest root", plain);
        let name = read_name(&mut reader)?;
        let size = reader.u64()?;
        let leaves = read_rows(&mut reader, LeafRef::LEN, LeafRef::decode)?;
        if leaves.is_empty() || leaves.len() > LEAVES_MAX {
            return Err(reader.damaged("the number of its leaves is out of bounds"));
        }
        let sum = leaves.iter().try_fold(0u64, |sum, leaf| sum.checked_add(leaf.bytes));
        if sum != Some(size) {
            return Err(reader.damaged("its size is not that of its leaves"));
        }
        reader.end()?;
        Ok(Self { name, size, leaves })
    }
}

/// Cuts a sequence of chunks into leaves: a leaf ends at the first chunk from the 256th on whose id starts with a zero
/// byte, or at the 1024th.
#[derive(Debug, Default)]
pub struct LeafCutter {
    chunks: Vec<ChunkRef>,
}

impl LeafCutter {
    /// Starts before an object's first chunk.
    pub fn new() -> Self {
        Self::default()
    }

    /// Takes the next chunk; the leaf it ends, if it ends one.
    pub fn push(&mut self, chunk: ChunkRef) -> Option<Leaf> {
        self.chunks.push(chunk);
        let len = self.chunks.len();
        let ends = len == LEAF_CHUNKS_MAX || (len >= LEAF_CHUNKS_MIN && chunk.id.0[0] == 0);
        ends.then(|| self.take())
    }

    /// The last leaf, unless the last chunk ended one.
    pub fn finish(mut self) -> Option<Leaf> {
        (!self.chunks.is_empty()).then(|| self.take())
    }

    fn take(&mut self) -> Leaf {
        Leaf {
            chunks: std::mem::take(&mut self.chunks),
        }
    }
}

#[cfg(test)]
#[path = "manifest/tests.rs"]
mod tests;
