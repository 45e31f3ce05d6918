//! What callers give and get of objects.

use std::sync::Arc;

use crate::engine::log::requests::Precondition;
use crate::engine::write::{Draft, PutProgress};
use crate::format::ObjectVersion;

/// Metadata of an object: pairs of strings, kept with its record.
pub type Metadata = Vec<(String, String)>;

/// How a put is to be done.
#[derive(Clone, Debug, Default)]
pub struct PutOptions {
    /// What must hold for the put to happen; decided when its record is written.
    pub precondition: Precondition,
    /// The same id again returns the first result instead of putting twice. All zeros are refused. Without one the put
    /// cannot be repeated safely.
    pub put_id: Option<[u8; 16]>,
    /// Kept with the object; at most 16 KiB in all.
    pub metadata: Metadata,
    /// How many bytes it will have at least, if that is known: what does not fit is then refused before any of them.
    pub expected_bytes: Option<u64>,
    /// Told how far the put is.
    pub progress: Option<Arc<PutProgress>>,
}

/// The result of a put.
#[derive(Clone, Debug)]
pub struct PutOutcome {
    /// The object as it is now.
    pub object: ObjectInfo,
    /// Chunks that were not in the repository before.
    pub new_chunks: u64,
    /// Bytes of those, as written by the caller.
    pub new_bytes: u64,
    /// Bytes this put added to the backend: its share of the packs it wrote to.
    pub stored_bytes: u64,
}

/// What is known about an object without reading it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ObjectInfo {
    /// Its name.
    pub name: String,
    /// Its version: the sequence number of its record, growing over all writes of the repository.
    pub version: u64,
    /// Its length in bytes.
    pub bytes: u64,
    /// Its chunks.
    pub chunks: u64,
    /// CRC-32C of the whole.
    pub crc32c: u32,
    /// When its record was made, in milliseconds since 1970 UTC by the agent's clock.
    pub created_ms: i64,
    /// What the caller attached.
    pub metadata: Metadata,
}

/// A page of a listing. The order is stable but not that of names.
#[derive(Clone, Debug)]
pub struct Page {
    /// Objects of this page.
    pub objects: Vec<ObjectInfo>,
    /// Where the next page starts; absent at the end. Survives restarts.
    pub next: Option<[u8; 16]>,
}

impl From<ObjectVersion> for ObjectInfo {
    fn from(object: ObjectVersion) -> Self {
        Self {
            name: object.name.as_str().to_owned(),
            version: object.sequence,
            bytes: object.size,
            chunks: object.chunks,
            crc32c: object.crc32c,
            created_ms: object.created_ms,
            metadata: object.metadata,
        }
    }
}

pub(super) fn outcome(version: ObjectVersion, draft: &Draft) -> PutOutcome {
    PutOutcome {
        object: ObjectInfo::from(version),
        new_chunks: draft.new_chunks,
        new_bytes: draft.new_bytes,
        stored_bytes: draft.stored_bytes(),
    }
}
