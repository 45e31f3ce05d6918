//! The manifest of a put: chunks as they are placed become leaves, leaves become a root.
//!
//! Leaves and roots are blobs like chunks, deduplicated by their own ids: an edited stream stores only the leaves that
//! changed. A leaf is placed after everything it names, so it never comes to a pack before its chunks do.

use std::sync::Arc;

use super::lookup::look_up;
use super::packer::{Fresh, Packer, StoredBytes};
use crate::codec::ChunkId;
use crate::engine::core::Core;
use crate::engine::error::Result;
use crate::engine::in_flight::{Holder, Known};
use crate::format::record::INLINE_CHUNKS_MAX;
use crate::format::{BlobKind, ChunkRef, Content, Leaf, LeafCutter, LeafRef, ObjectName, Root};

/// Collects the chunks of one stream.
pub(crate) struct ManifestBuilder {
    core: Arc<Core>,
    packer: Arc<Packer>,
    holder: Arc<Holder>,
    stored: StoredBytes,
    cutter: LeafCutter,
    leaves: Vec<LeafRef>,
}

impl ManifestBuilder {
    pub(crate) fn new(core: Arc<Core>, packer: Arc<Packer>, holder: Arc<Holder>, stored: StoredBytes) -> Self {
        Self {
            core,
            packer,
            holder,
            stored,
            cutter: LeafCutter::default(),
            leaves: Vec::new(),
        }
    }

    /// Adds chunks in stream order and stores the leaves that end among them.
    pub(crate) async fn add(&mut self, chunks: Vec<ChunkRef>) -> Result<()> {
        for chunk in chunks {
            if let Some(leaf) = self.cutter.push(chunk) {
                self.store_leaf(leaf).await?;
            }
        }
        Ok(())
    }

    /// What the record of the object says about its content.
    pub(crate) async fn finish(mut self, name: &ObjectName, size: u64) -> Result<Content> {
        let last = std::mem::take(&mut self.cutter)
            .finish()
            .unwrap_or(Leaf { chunks: Vec::new() });
        if self.leaves.is_empty() && last.chunks.len() <= INLINE_CHUNKS_MAX {
            self.holder.settled().await?;
            return Ok(Content::Inline(last.chunks));
        }
        if !last.chunks.is_empty() {
            self.store_leaf(last).await?;
        }
        let leaves = std::mem::take(&mut self.leaves);
        self.store_root(name, size, leaves).await.map(Content::Root)
    }

    /// Stores a root over leaves that are stored already and held by this builder's holder.
    pub(crate) async fn store_root(&self, name: &ObjectName, size: u64, leaves: Vec<LeafRef>) -> Result<ChunkId> {
        let children = leaves.iter().map(|leaf| leaf.id).collect();
        let root = Root {
            name: name.clone(),
            size,
            leaves,
        };
        self.store(BlobKind::Root, root.encode(), children).await
    }

    async fn store_leaf(&mut self, leaf: Leaf) -> Result<()> {
        let children = leaf.chunks.iter().map(|chunk| chunk.id).collect();
        let id = self.store(BlobKind::Leaf, leaf.encode(), children).await?;
        self.leaves.push(LeafRef {
            id,
            bytes: leaf.bytes(),
            chunks: leaf.chunks.len() as u32,
        });
        Ok(())
    }

    async fn store(&self, kind: BlobKind, plain: Vec<u8>, children: Vec<ChunkId>) -> Result<ChunkId> {
        self.holder.settled().await?;
        let (core, packer, holder) = (self.core.clone(), self.packer.clone(), self.holder.clone());
        let stored = self.stored.clone();
        let work = move || store_manifest(&core, &packer, &holder, &stored, kind, &plain, children);
        let id = self.core.compute.run(work).await??;
        // Another stream may be at the same leaf: what refers to it must come after it.
        self.holder.settled().await?;
        Ok(id)
    }
}

fn store_manifest(
    core: &Core,
    packer: &Packer,
    holder: &Arc<Holder>,
    stored: &StoredBytes,
    kind: BlobKind,
    plain: &[u8],
    children: Vec<ChunkId>,
) -> Result<ChunkId> {
    let key = match kind {
        BlobKind::Root => core.secrets.root_id_key(),
        _ => core.secrets.leaf_id_key(),
    };
    let id = key.id(plain);
    if look_up(core, holder, &[id])? == [Known::Stored] {
        return Ok(id);
    }
    let mut compressor = core.compressors.take();
    let mut bytes = Vec::new();
    let codec = compressor.compress(plain, &mut bytes);
    core.compressors.give_back(compressor);
    let blob = Fresh {
        id,
        kind,
        codec,
        plain_len: plain.len() as u32,
        stored: &bytes,
        children: Some((children, holder.clone())),
    };
    packer
        .place(vec![blob], &mut None, stored)
        .inspect_err(|_| holder.table().give_up([id]))?;
    Ok(id)
}
