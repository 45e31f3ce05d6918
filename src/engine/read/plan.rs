//! Which chunks a range needs, and where they are.

use std::collections::VecDeque;
use std::ops::Range;
use std::sync::Arc;

use super::WINDOW_BYTES;
use crate::catalog::{ChunkRow, EntriesRow, Lookup};
use crate::codec::ChunkId;
use crate::engine::core::Core;
use crate::engine::error::{Error, Reason, Result};
use crate::engine::in_flight::Holder;
use crate::engine::packs::{damaged, read_manifest};
use crate::engine::scrub::quarantine;
use crate::format::{ChunkRef, Content, Leaf, LeafRef, ObjectVersion, PackName, PackNumber, Root};

/// Packs whose entries a reader keeps at hand. Streams are stored in runs, so a few suffice.
const RECENT_PACKS: usize = 8;

/// A chunk of a window and the part of it that is wanted.
#[derive(Clone, Debug)]
pub(crate) struct Wanted {
    pub(crate) chunk: ChunkRef,
    pub(crate) part: Range<usize>,
    /// Where the part begins in the object.
    pub(crate) offset: u64,
}

/// Where a blob is.
#[derive(Clone)]
pub(crate) struct Place {
    pub(crate) pack: PackName,
    pub(crate) entries: Arc<EntriesRow>,
    pub(crate) index: usize,
}

/// Finds the places of blobs, and holds their packs.
pub(crate) struct Finder {
    core: Arc<Core>,
    holder: Arc<Holder>,
    recent: Vec<Recent>,
    /// Whether the read is one of many of a pack, as far as can be known: what it reads of the catalog is kept for others.
    is_short: bool,
    /// The place after the last one found: in a run, the next.
    next: Option<(PackNumber, usize)>,
}

#[derive(Clone)]
struct Recent {
    pack: PackName,
    entries: Arc<EntriesRow>,
    /// [`PackRow::is_whole`](crate::catalog::PackRow::is_whole). Else a blob that is found here by its neighbours may be the damaged
    /// copy of one that was put again since.
    is_whole: bool,
}

impl Finder {
    pub(crate) fn new(core: Arc<Core>, holder: Arc<Holder>) -> Self {
        Self {
            core,
            holder,
            recent: Vec::new(),
            is_short: false,
            next: None,
        }
    }

    /// The place of the blob with this id.
    ///
    /// # Errors
    /// `DataLoss` if no pack holds it.
    pub(crate) fn find(&mut self, id: &ChunkId) -> Result<Place> {
        if let Some(place) = self.follow_run(id) {
            return Ok(place);
        }
        let row = self.hold(id)?;
        if row.is_lost() {
            return Err(Error::data_loss("a chunk of it is in no pack that can be read"));
        }
        // One in quarantine is tried all the same: its pack may have been restored since.
        self.place(row.pack, row.index as usize)
    }

    /// Holds the pack in which the blob with this id is.
    fn hold(&self, id: &ChunkId) -> Result<ChunkRow> {
        hold(&self.core, &self.holder, id)
    }

    /// In a run the next chunk lies behind the last, in a pack that is held already.
    fn follow_run(&mut self, id: &ChunkId) -> Option<Place> {
        let (number, index) = self.next?;
        let recent = self.recent.iter().find(|recent| recent.pack.number == number)?;
        if recent.entries.entries.get(index)?.id != *id {
            return None;
        }
        self.next = Some((number, index + 1));
        Some(Place {
            pack: recent.pack,
            entries: recent.entries.clone(),
            index,
        })
    }

    fn place(&mut self, number: PackNumber, index: usize) -> Result<Place> {
        let Recent {
            pack,
            entries,
            is_whole,
        } = self.entries(number)?;
        if index >= entries.entries.len() {
            return Err(Error::data_loss(
                "the catalog names a place its pack does not have; run `cairn rebuild`",
            ));
        }
        self.next = is_whole.then_some((number, index + 1));
        Ok(Place { pack, entries, index })
    }

    fn entries(&mut self, number: PackNumber) -> Result<Recent> {
        if let Some(recent) = self.recent.iter().find(|recent| recent.pack.number == number) {
            return Ok(recent.clone());
        }
        let recent = self.read_entries(number)?;
        if self.recent.len() == RECENT_PACKS {
            self.recent.remove(0);
        }
        self.recent.push(recent.clone());
        Ok(recent)
    }

    fn read_entries(&self, number: PackNumber) -> Result<Recent> {
        let core = &self.core;
        let repository = core.secrets.repository();
        // So that nothing is kept that was read before a rebuild began.
        let _places = core.places.read();
        let state = core.catalog_state()?;
        let kept = core.pack_entries.get(repository, number);
        let is_kept = kept.is_some();
        let entries = match kept {
            Some(entries) => Some(entries),
            None => core.catalog.entries(number)?.map(Arc::new),
        };
        let (Some(row), Some(entries)) = (core.catalog.pack(number)?, entries) else {
            let error = Error::data_loss("the catalog does not know a pack of it; run `cairn rebuild`");
            return Err(core.absent(state, error));
        };
        if self.is_short && !is_kept {
            core.pack_entries.keep(repository, number, entries.clone());
        }
        Ok(Recent {
            pack: row.name,
            entries,
            is_whole: row.is_whole(),
        })
    }

    async fn manifest(&mut self, id: &ChunkId) -> Result<Vec<u8>> {
        let place = self.find(id)?;
        let entry = &place.entries.entries[place.index];
        let birth = &place.entries.births[entry.birth as usize];
        let read = read_manifest(&self.core, &place.pack, entry, birth).await;
        if let Err(error) = &read
            && error.reason() == Reason::DataLoss
        {
            quarantine_found(&self.core, place.pack.number, &[(*id, place.index as u32)]).await;
        }
        read
    }
}

/// Quarantines what a read found damaged. The read fails whether or not this succeeds.
pub(crate) async fn quarantine_found(core: &Core, pack: PackNumber, blobs: &[(ChunkId, u32)]) {
    if let Err(error) = quarantine(core, pack, blobs).await {
        tracing::warn!(%error, "a damaged chunk could not be quarantined");
    }
}

/// Finds a blob that something refers to, and holds its pack.
///
/// # Errors
/// `DataLoss` if no pack holds it: what referred to it has gone meanwhile, or the store is damaged.
pub(crate) fn hold(core: &Core, holder: &Holder, id: &ChunkId) -> Result<ChunkRow> {
    let state = core.catalog_state()?;
    let _places = core.places.read();
    let mut row = core.catalog.chunk(id)?;
    if let Some(found) = &row
        && core.catalog.released(found)? > 0
    {
        // What it leads to may be gone.
        row = None;
    }
    let row = row.filter(|row| holder.pin(row.pack));
    row.ok_or_else(|| core.absent(state, Error::data_loss("a chunk of it is in no pack of the store")))
}

/// The leaves of an object, checked to be those of this object.
pub(crate) async fn manifest_leaves(
    core: &Arc<Core>,
    holder: &Arc<Holder>,
    object: &ObjectVersion,
    root: &ChunkId,
) -> Result<Vec<LeafRef>> {
    let mut finder = Finder::new(core.clone(), holder.clone());
    read_root(&mut finder, object, root).await
}

async fn read_root(finder: &mut Finder, object: &ObjectVersion, root: &ChunkId) -> Result<Vec<LeafRef>> {
    let plain = finder.manifest(root).await?;
    let root = Root::decode(&plain).map_err(|error| damaged("its manifest", error))?;
    let bytes: u64 = root.leaves.iter().map(|leaf| leaf.bytes).sum();
    if root.name != object.name || root.size != object.size || bytes != object.size {
        return Err(Error::data_loss("its manifest belongs to another object"));
    }
    Ok(root.leaves)
}

/// Hands out the chunks of a range, window by window, reading leaves as they are needed.
pub(crate) struct Plan {
    pub(crate) finder: Finder,
    leaves: std::vec::IntoIter<LeafRef>,
    chunks: VecDeque<ChunkRef>,
    /// Where the next chunk begins in the object.
    at: u64,
    range: Range<u64>,
    object_bytes: u64,
}

impl Plan {
    pub(crate) async fn new(
        core: Arc<Core>,
        holder: Arc<Holder>,
        object: &ObjectVersion,
        range: Range<u64>,
    ) -> Result<Self> {
        let mut finder = Finder::new(core, holder);
        finder.is_short = range.end - range.start <= WINDOW_BYTES as u64;
        let (leaves, chunks) = match &object.content {
            Content::Inline(chunks) => (Vec::new(), chunks.clone()),
            Content::Root(root) => (read_root(&mut finder, object, root).await?, Vec::new()),
        };
        let mut plan = Self {
            finder,
            leaves: leaves.into_iter(),
            chunks: chunks.into(),
            at: 0,
            range,
            object_bytes: object.size,
        };
        plan.skip_leaves();
        plan.hold_listed()?;
        Ok(plan)
    }

    /// Holds the packs of chunks that the record itself lists. Others need no hold of their own: what a root leads to
    /// is released after the root, and whose pack is held is not released. Where they are is looked up again when they are read:
    /// a damaged one may have been put again by then, and whoever holds its pack holds the new one too.
    fn hold_listed(&self) -> Result<()> {
        let mut at = 0;
        for chunk in &self.chunks {
            let end = at + u64::from(chunk.len);
            if at < self.range.end && end > self.range.start {
                self.finder.hold(&chunk.id)?;
            }
            at = end;
        }
        Ok(())
    }

    /// Passes over leaves that end before the range begins, without reading them.
    fn skip_leaves(&mut self) {
        while let Some(leaf) = self.leaves.as_slice().first() {
            if self.at + leaf.bytes > self.range.start {
                break;
            }
            self.at += leaf.bytes;
            self.leaves.next();
        }
    }

    /// Whether all chunks of the range were handed out.
    pub(crate) fn is_over(&self) -> bool {
        self.at >= self.range.end
    }

    /// About what the next window has at most, if it is to have about `bytes`.
    pub(crate) fn window_bytes_at_most(&self, bytes: usize) -> usize {
        // What is left of the range, with the rest of the chunks that it begins and ends in.
        let left = self.range.end - self.at.max(self.range.start).min(self.range.end);
        let around = 2 * u64::from(self.finder.core.secrets.parameters().chunk_sizes.max());
        (left + around).min(self.object_bytes).min(bytes as u64) as usize
    }

    /// The next chunks, at least one, of together about `bytes`; none at the end.
    pub(crate) async fn window(&mut self, bytes: usize) -> Result<Vec<Wanted>> {
        let mut window = Vec::new();
        let mut sum = 0;
        while sum < bytes && self.at < self.range.end {
            let Some(chunk) = self.next_chunk().await? else {
                return Err(Error::data_loss("its manifest ends before its last byte"));
            };
            let (start, end) = (self.at, self.at + u64::from(chunk.len));
            self.at = end;
            if end <= self.range.start {
                continue;
            }
            let first = self.range.start.saturating_sub(start);
            let last = end.min(self.range.end) - start;
            sum += chunk.len as usize;
            window.push(Wanted {
                chunk,
                part: first as usize..last as usize,
                offset: start + first,
            });
        }
        Ok(window)
    }

    async fn next_chunk(&mut self) -> Result<Option<ChunkRef>> {
        while self.chunks.is_empty() {
            let Some(leaf) = self.leaves.next() else {
                return Ok(None);
            };
            let plain = self.finder.manifest(&leaf.id).await?;
            let decoded = Leaf::decode(&plain).map_err(|error| damaged("its manifest", error))?;
            if decoded.bytes() != leaf.bytes {
                return Err(Error::data_loss(
                    "a leaf of its manifest has another length than its root says",
                ));
            }
            self.chunks = decoded.chunks.into();
        }
        Ok(self.chunks.pop_front())
    }

    /// Finds where the chunks of a window are, and holds their packs.
    pub(crate) fn places(&mut self, window: &[Wanted]) -> Result<Vec<Place>> {
        window.iter().map(|wanted| self.finder.find(&wanted.chunk.id)).collect()
    }
}
