//! Rows of a catalog for chunks that were never put.

use cairn_agent::catalog::{ChunkRow, EntriesRow};
use cairn_agent::codec::{ChunkId, Codec};
use cairn_agent::format::{BlobKind, Entry, PackNumber};

/// Of a data chunk as they are on average.
pub(crate) fn chunk_row(id: ChunkId, pack: PackNumber, index: u32) -> ChunkRow {
    ChunkRow {
        id,
        kind: BlobKind::Data,
        count: 1,
        pack,
        index,
        stored_len: 40_000,
        plain_len: 65_536,
        quarantined: false,
    }
}

/// What is in a pack of such chunks.
pub(crate) fn entries_row(ids: &[ChunkId]) -> EntriesRow {
    let entry = |(ordinal, id): (u32, &ChunkId)| Entry {
        id: *id,
        kind: BlobKind::Data,
        offset: ordinal * 40_000,
        stored_len: 40_000,
        plain_len: 65_536,
        codec: Codec::Zstd,
        birth: 0,
        ordinal,
    };
    EntriesRow {
        births: Vec::new(),
        entries: (0..).zip(ids).map(entry).collect(),
    }
}
