//! Counting references, from the objects down.

use super::Rebuild;
use super::ahead::ReadAhead;
use super::manifests::{Run, runs};
use crate::catalog::{ChunkRow, Lookup};
use crate::codec::ChunkId;
use crate::engine::error::{Error, Reason, Result};
use crate::engine::log::apply::Change;
use crate::format::{BlobKind, ChunkRef, Content, Leaf, PackNumber, Root};

/// Objects counted at a time.
const OBJECTS_AT_ONCE: usize = 64;
/// References counted in one transaction, and manifests whose runs are looked for together.
const REFERENCES_AT_ONCE: usize = 4096;

/// Blobs that something refers to, each with its plain length, 0 where what refers to it does not say.
pub(super) struct References {
    kind: BlobKind,
    blobs: Vec<(ChunkId, u32)>,
}

impl References {
    /// What a manifest of this kind refers to.
    pub(super) fn of_manifest(kind: BlobKind, plain: &[u8]) -> std::result::Result<Self, crate::format::Error> {
        Ok(match kind {
            BlobKind::Root => Self {
                kind: BlobKind::Leaf,
                blobs: Root::decode(plain)?.leaves.iter().map(|leaf| (leaf.id, 0)).collect(),
            },
            _ => Self {
                kind: BlobKind::Data,
                blobs: lengths(&Leaf::decode(plain)?.chunks).collect(),
            },
        })
    }
}

fn lengths(chunks: &[ChunkRef]) -> impl Iterator<Item = (ChunkId, u32)> {
    chunks.iter().map(|chunk| (chunk.id, chunk.len))
}

impl Rebuild<'_> {
    /// Counts references from every object down.
    pub(super) async fn count(&mut self) -> Result<()> {
        let mut after = None;
        loop {
            let page = self.core.catalog.objects_page(after, OBJECTS_AT_ONCE)?;
            let Some((last, _)) = page.last() else {
                return Ok(());
            };
            after = Some(*last);
            let (mut chunks, mut roots) = (Vec::new(), Vec::new());
            let objects = page.len();
            for (_, object) in page {
                self.tip.stats.objects += 1;
                self.tip.stats.logical_bytes += object.size;
                match &object.content {
                    Content::Inline(listed) => chunks.extend(lengths(listed)),
                    Content::Root(root) => roots.push((*root, 0)),
                }
            }
            self.count_blobs(BlobKind::Data, &chunks)?;
            // Manifests that lie together are asked for together, so all roots of a page come before their leaves.
            let leaves = self.count_manifests(BlobKind::Root, &roots).await?;
            self.count_manifests(BlobKind::Leaf, &leaves).await?;
            (0..objects).for_each(|_| self.progress.object());
        }
    }

    /// Counts references to manifests, and to the chunks of those reached for the first time. Returns the leaves that such
    /// roots refer to. What is held: the manifests that are being read, and the leaves of one page of objects.
    async fn count_manifests(&mut self, kind: BlobKind, blobs: &[(ChunkId, u32)]) -> Result<Vec<(ChunkId, u32)>> {
        let mut leaves = Vec::new();
        for blobs in blobs.chunks(REFERENCES_AT_ONCE) {
            let reached = self.count_blobs(kind, blobs)?;
            let (core, remembered) = (self.core.clone(), self.manifests.clone());
            let bytes = |run: &Result<Run>| run.as_ref().map_or(0, Run::bytes);
            let mut reads = ReadAhead::new(&core, runs(&core, &remembered, reached), bytes, |run: Result<Run>| {
                let core = core.clone();
                async move { run?.read(core).await }
            });
            while let Some(read) = reads.next().await? {
                let read = read.what?;
                if let Some((key, bytes)) = read.read {
                    self.progress.read(bytes.len() as u64);
                    remembered.lock().add(key, bytes);
                }
                for (row, references) in read.references {
                    match references {
                        Ok(below) if below.kind == BlobKind::Data => drop(self.count_blobs(below.kind, &below.blobs)?),
                        Ok(below) => leaves.extend(below.blobs),
                        Err(error) if error.reason() == Reason::DataLoss => self.lose(&row, &error)?,
                        Err(error) => return Err(error),
                    }
                }
            }
        }
        Ok(leaves)
    }

    /// Counts one reference to each of these. Returns the manifests among them that were reached for the first time.
    fn count_blobs(&mut self, kind: BlobKind, blobs: &[(ChunkId, u32)]) -> Result<Vec<ChunkRow>> {
        let mut reached = Vec::new();
        for blobs in blobs.chunks(REFERENCES_AT_ONCE) {
            let mut change = Change::begin(&self.core, self.tip.stats);
            for (id, plain_len) in blobs {
                if !change.knows(id)? {
                    let bearer = self.bearer()?;
                    change.refer_to_lost(id, kind, *plain_len, bearer)?;
                    continue;
                }
                let row = change.increment(id)?;
                if row.kind != BlobKind::Data && row.count == 1 && !row.is_lost() {
                    reached.push(row);
                }
            }
            self.tip.stats = change.keep()?;
        }
        Ok(reached)
    }

    fn lose(&mut self, row: &ChunkRow, error: &Error) -> Result<()> {
        tracing::error!(%error, "a manifest cannot be read; what only it leads to is lost unless it is put again");
        let mut change = Change::begin(&self.core, self.tip.stats);
        change.lose(row)?;
        self.tip.stats = change.keep()?;
        Ok(())
    }

    /// The pack that lost blobs hang on: one that cannot be read, or else the newest, which is never dropped.
    fn bearer(&mut self) -> Result<PackNumber> {
        let newest = self.packs.last_key_value().map(|(number, _)| *number);
        let bearer = self.bearer.or(newest);
        bearer.ok_or_else(|| Error::data_loss("the log refers to a chunk and introduces no pack"))
    }
}
