//! What asks the committer for a record, and how it is answered.

use std::sync::Arc;

use tokio::sync::oneshot;

use crate::engine::allowance::PutClaim;
use crate::engine::counters::Written;
use crate::engine::error::{Error, Result};
use crate::engine::in_flight::Holder;
use crate::engine::write::NewPack;
use crate::format::record::metadata_len;
use crate::format::{ChunkRef, Content, ObjectName, ObjectVersion, PackName, PackNumber};

/// What must hold for a write to happen.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Precondition {
    /// Nothing: the later commit wins.
    #[default]
    None,
    /// No object has this name.
    CreateOnly,
    /// The object is at this version.
    IfVersion(u64),
}

/// An object that waits for its record.
pub(crate) struct NewObject {
    pub(crate) name: ObjectName,
    pub(crate) size: u64,
    pub(crate) chunks: u64,
    pub(crate) crc32c: u32,
    pub(crate) created_ms: i64,
    pub(crate) put_id: Option<[u8; 16]>,
    pub(crate) metadata: Vec<(String, String)>,
    pub(crate) content: Content,
    /// What it is counted with.
    pub(crate) written: Written,
}

/// Something that wants a record.
pub(crate) enum Request {
    Put {
        object: Box<NewObject>,
        precondition: Precondition,
        /// Keeps the packs of the object from being condemned until its record is applied.
        holder: Arc<Holder>,
        /// What the object adds to the repository; given back once that is in its totals, or will not be.
        claim: Option<PutClaim>,
        reply: oneshot::Sender<Result<ObjectVersion>>,
    },
    Delete {
        name: ObjectName,
        precondition: Precondition,
        reply: oneshot::Sender<Result<bool>>,
    },
    /// Condemns those of the packs that are dead and that nobody holds.
    Condemn {
        packs: Vec<PackNumber>,
        reply: oneshot::Sender<Result<Vec<PackName>>>,
    },
    /// Introduces a durable pack that puts do not wait for: one that took what is in use out of others.
    Introduce {
        pack: Box<NewPack>,
        reply: oneshot::Sender<Result<()>>,
    },
    /// Writes a checkpoint at the present tip.
    Checkpoint { reply: oneshot::Sender<Result<()>> },
}

/// What a request is told once its commit is acknowledged.
pub(super) enum Answer {
    Put(oneshot::Sender<Result<ObjectVersion>>, ObjectVersion),
    Delete(oneshot::Sender<Result<bool>>),
    Condemn(oneshot::Sender<Result<Vec<PackName>>>, Vec<PackName>),
    Introduce(oneshot::Sender<Result<()>>),
}

impl Request {
    /// The most that its record can take in a commit pack.
    pub(super) fn record_len_max(&self) -> usize {
        // More than everything of fixed length in any record, its frame and counts included.
        const FIXED: usize = 256;
        FIXED
            + match self {
                Request::Put { object, .. } => {
                    let content = match &object.content {
                        Content::Inline(chunks) => chunks.len() * ChunkRef::LEN,
                        Content::Root(_) => 0,
                    };
                    object.name.as_str().len() + metadata_len(&object.metadata) + content
                }
                Request::Delete { name, .. } => name.as_str().len(),
                Request::Condemn { packs, .. } => packs.len() * PackName::LEN,
                // One reference to a pack; FIXED has room for it.
                Request::Introduce { .. } => 0,
                Request::Checkpoint { .. } => 0,
            }
    }

    /// The pack that it introduces, if it introduces one.
    pub(super) fn introduces(&self) -> Option<PackNumber> {
        match self {
            Request::Introduce { pack, .. } => Some(pack.pack.name.number),
            _ => None,
        }
    }

    pub(super) fn refuse(self, error: Error) {
        match self {
            Request::Put { reply, .. } => drop(reply.send(Err(error))),
            Request::Delete { reply, .. } => drop(reply.send(Err(error))),
            Request::Condemn { reply, .. } => drop(reply.send(Err(error))),
            Request::Introduce { reply, .. } => drop(reply.send(Err(error))),
            Request::Checkpoint { reply } => drop(reply.send(Err(error))),
        }
    }
}

impl Answer {
    pub(super) fn send(self, outcome: &Result<()>) {
        let outcome = outcome.clone();
        match self {
            Answer::Put(reply, version) => drop(reply.send(outcome.map(|()| version))),
            Answer::Delete(reply) => drop(reply.send(outcome.map(|()| true))),
            Answer::Condemn(reply, names) => drop(reply.send(outcome.map(|()| names))),
            Answer::Introduce(reply) => drop(reply.send(outcome)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::codec::ChunkId;
    use crate::format::directory::RECORDS_LEN_MAX;
    use crate::format::record::{INLINE_CHUNKS_MAX, METADATA_LEN_MAX};
    use crate::format::{Hash32, PackId, PackKind, PackRef, Record};

    #[test]
    fn no_record_is_longer_than_was_reckoned() {
        let name = ObjectName::new("n".repeat(1024)).unwrap();
        let chunk = ChunkRef {
            id: ChunkId([1; 32]),
            len: 1,
        };
        let version = ObjectVersion {
            name: name.clone(),
            sequence: 1,
            size: INLINE_CHUNKS_MAX as u64,
            chunks: INLINE_CHUNKS_MAX as u64,
            crc32c: 0,
            created_ms: 0,
            put_id: Some([1; 16]),
            metadata: vec![("k".to_owned(), "v".repeat(METADATA_LEN_MAX - 5))],
            content: Content::Inline(vec![chunk; INLINE_CHUNKS_MAX]),
        };
        let object = NewObject {
            name: name.clone(),
            size: version.size,
            chunks: version.chunks,
            crc32c: 0,
            created_ms: 0,
            put_id: Some([1; 16]),
            metadata: version.metadata.clone(),
            content: version.content.clone(),
            written: Written::default(),
        };
        let put = Request::Put {
            object: Box::new(object),
            precondition: Precondition::None,
            holder: Arc::new(Arc::<crate::engine::in_flight::InFlight>::default().holder()),
            claim: None,
            reply: oneshot::channel().0,
        };
        assert!(Record::Put(version).encoded_len() <= put.record_len_max());
        let delete = Request::Delete {
            name: name.clone(),
            precondition: Precondition::None,
            reply: oneshot::channel().0,
        };
        assert!(Record::Delete { name, sequence: 1 }.encoded_len() <= delete.record_len_max());
        let number = PackNumber { epoch: 1, counter: 1 };
        let packs = vec![number; 4096];
        let condemn = Request::Condemn {
            packs,
            reply: oneshot::channel().0,
        };
        let names = vec![
            PackName {
                number,
                id: PackId([0; 32])
            };
            4096
        ];
        assert!(Record::Condemn(names).encoded_len() <= condemn.record_len_max());
        let pack = PackRef {
            name: PackName {
                number,
                id: PackId([0; 32]),
            },
            size: 1,
            trailer_hash: Hash32::ZERO,
        };
        let introduce = Request::Introduce {
            pack: Box::new(NewPack::of(
                pack,
                PackKind::Chunk,
                Default::default(),
                Default::default(),
            )),
            reply: oneshot::channel().0,
        };
        assert!(Record::Introduce(vec![pack]).encoded_len() <= introduce.record_len_max());
        assert!(
            condemn.record_len_max() < RECORDS_LEN_MAX / 2,
            "one request always fits"
        );
    }
}
