//! Counters: the catalog's are what its own tables and the manifests in the store say.
//!
//! All is read from one moment of the catalog, whatever is written meanwhile, and packs are held so that the manifests of
//! that moment stay. Ids are counted in shares, so that memory is bounded however many there are; each share reads all
//! manifests again.

use std::collections::HashMap;
use std::sync::Arc;

use super::walk::Walk;
use crate::catalog::{ChunkRow, EntriesRow, Lookup, PackRow, RepositorySnapshot, Stats};
use crate::codec::ChunkId;
use crate::engine::core::Core;
use crate::engine::error::{Error, Reason, Result};
use crate::engine::in_flight::Holder;
use crate::engine::packs::{children_of, read_manifest};
use crate::format::{BlobKind, Content, PackNumber};

/// Ids counted at a time: about 16 MiB.
const IDS_MAX: u64 = 1 << 18;
/// Rows read at a time.
const PAGE: usize = 256;

/// Compares all counters, unless damaged manifests make that impossible.
pub(super) async fn check(core: &Arc<Core>, walk: &Walk<'_>) -> Result<()> {
    let (view, _held) = moment(core).await?;
    let mut recount = Recount {
        core,
        walk,
        view,
        sums: Stats::default(),
        packs: HashMap::new(),
    };
    match recount.run().await {
        Err(error) if error.reason() == Reason::DataLoss => {
            tracing::warn!(%error, "counters cannot be checked while manifests are damaged");
            Ok(())
        }
        done => done,
    }
}

/// The catalog as it is now, and all its packs held.
async fn moment(core: &Arc<Core>) -> Result<(RepositorySnapshot, Holder)> {
    let _applying = core.apply.lock().await;
    let view = core.catalog.snapshot();
    let holder = core.in_flight.holder();
    let mut after = None;
    loop {
        let page = view.packs_page(after, PAGE)?;
        let Some(last) = page.last() else { break };
        after = Some(last.name.number);
        // What cannot be held is dead: it has no manifest that counts.
        page.iter().for_each(|row| {
            holder.pin(row.name.number);
        });
    }
    Ok((view, holder))
}

struct Recount<'a> {
    core: &'a Arc<Core>,
    walk: &'a Walk<'a>,
    view: RepositorySnapshot,
    sums: Stats,
    /// What lost chunks add to the rows of packs; they are in no list of entries.
    packs: HashMap<PackNumber, Use>,
}

/// What a pack's row counts.
#[derive(Clone, Copy, Default, PartialEq, Eq)]
struct Use {
    current: u32,
    live: u32,
    live_bytes: u64,
    idle_manifests: u32,
    damaged: u32,
}

impl Use {
    fn add(&mut self, row: &ChunkRow) {
        let (live, idle) = (row.count > 0, row.count == 0 && row.kind != BlobKind::Data);
        self.current += 1;
        self.live += u32::from(live);
        self.live_bytes += if live { u64::from(row.stored_len) } else { 0 };
        self.idle_manifests += u32::from(idle);
        self.damaged += u32::from(row.quarantined);
    }

    fn of(row: &PackRow) -> Self {
        Self {
            current: row.current,
            live: row.live,
            live_bytes: row.live_bytes,
            idle_manifests: row.idle_manifests,
            damaged: row.damaged,
        }
    }
}

/// References counted of those ids that belong to a share.
struct Share {
    number: u32,
    of: u32,
    counts: HashMap<ChunkId, u64>,
}

impl Share {
    fn has(&self, id: &ChunkId) -> bool {
        let word = u32::from_le_bytes([id.0[28], id.0[29], id.0[30], id.0[31]]);
        word % self.of == self.number
    }

    fn count(&mut self, id: &ChunkId) {
        if self.has(id) {
            *self.counts.entry(*id).or_insert(0) += 1;
        }
    }
}

impl Recount<'_> {
    async fn run(&mut self) -> Result<()> {
        let (mut entries, mut after) = (0, None);
        while let Some(rows) = self.next_packs(&mut after).await? {
            entries += rows.iter().map(|row| u64::from(row.entries)).sum::<u64>();
        }
        let of = entries.div_ceil(IDS_MAX).max(1) as u32;
        for number in 0..of {
            let mut share = Share {
                number,
                of,
                counts: HashMap::new(),
            };
            self.count_objects(&mut share).await?;
            self.count_children(&mut share).await?;
            self.compare(share).await?;
        }
        self.compare_packs().await
    }

    /// The next packs that are not condemned; none at the end.
    async fn next_packs(&self, after: &mut Option<PackNumber>) -> Result<Option<Vec<PackRow>>> {
        self.core.revocation.check()?;
        self.walk.check_current()?;
        tokio::task::yield_now().await;
        let mut page = self.view.packs_page(*after, PAGE)?;
        let Some(last) = page.last() else { return Ok(None) };
        *after = Some(last.name.number);
        page.retain(|row| row.condemned_at == 0);
        Ok(Some(page))
    }

    fn entries(&self, pack: &PackRow) -> Result<EntriesRow> {
        Ok(self.view.entries(pack.name.number)?.unwrap_or_default())
    }

    async fn count_objects(&mut self, share: &mut Share) -> Result<()> {
        let mut after = None;
        loop {
            let page = self.view.objects_page(after, PAGE)?;
            let Some((last, _)) = page.last() else { return Ok(()) };
            after = Some(*last);
            for (_, object) in page {
                if share.number == 0 {
                    self.sums.objects += 1;
                    self.sums.logical_bytes += object.size;
                }
                match &object.content {
                    Content::Inline(chunks) => chunks.iter().for_each(|chunk| share.count(&chunk.id)),
                    Content::Root(root) => share.count(root),
                }
            }
            tokio::task::yield_now().await;
        }
    }

    async fn count_children(&self, share: &mut Share) -> Result<()> {
        let mut after = None;
        while let Some(packs) = self.next_packs(&mut after).await? {
            for pack in packs {
                let entries = self.entries(&pack)?;
                for (index, entry) in (0..).zip(&entries.entries) {
                    if entry.kind == BlobKind::Data {
                        continue;
                    }
                    let Some(row) = self.present(&pack, index, &entry.id)? else {
                        continue;
                    };
                    let released = self.view.released(&row)? as usize;
                    self.walk.spend(entry.stored_len.into()).await;
                    let birth = &entries.births[usize::from(entry.birth)];
                    let plain = read_manifest(self.core, &pack.name, entry, birth).await?;
                    let children = children_of(entry.kind, &plain).map_err(Error::from)?;
                    children.iter().skip(released).for_each(|child| share.count(child));
                }
            }
        }
        Ok(())
    }

    /// The row of a blob, if its place is this one.
    fn present(&self, pack: &PackRow, index: u32, id: &ChunkId) -> Result<Option<ChunkRow>> {
        let row = self.view.chunk(id)?;
        Ok(row.filter(|row| (row.pack, row.index) == (pack.name.number, index)))
    }

    async fn compare(&mut self, mut share: Share) -> Result<()> {
        let mut after = None;
        while let Some(packs) = self.next_packs(&mut after).await? {
            for pack in packs {
                for (index, entry) in (0..).zip(&self.entries(&pack)?.entries) {
                    if share.has(&entry.id)
                        && let Some(row) = self.present(&pack, index, &entry.id)?
                    {
                        let counted = share.counts.remove(&entry.id).unwrap_or(0);
                        self.compare_row(&row, counted);
                        add_row(&mut self.sums, &row);
                    }
                }
            }
        }
        for (id, counted) in share.counts {
            match self.view.chunk(&id)? {
                Some(row) if row.is_lost() => {
                    self.compare_row(&row, counted);
                    add_row(&mut self.sums, &row);
                    self.packs.entry(row.pack).or_default().add(&row);
                }
                _ => self.contradict("something refers to a chunk that the catalog does not know".to_owned()),
            }
        }
        Ok(())
    }

    fn compare_row(&self, row: &ChunkRow, counted: u64) {
        if row.count != counted {
            self.contradict(format!(
                "a blob of pack {}, entry {}, counts {} references and has {counted}",
                row.pack, row.index, row.count
            ));
        }
    }

    async fn compare_packs(&mut self) -> Result<()> {
        let mut after = None;
        while let Some(packs) = self.next_packs(&mut after).await? {
            for pack in packs {
                self.compare_pack(&pack)?;
            }
        }
        let sums = self.sums;
        let stated = self.view.tip()?.unwrap_or_default().stats;
        if sums != stated {
            self.contradict(format!("the totals are {stated:?} and should be {sums:?}"));
        }
        Ok(())
    }

    fn compare_pack(&mut self, pack: &PackRow) -> Result<()> {
        let mut found = self.packs.get(&pack.name.number).copied().unwrap_or_default();
        for (index, entry) in (0..).zip(&self.entries(pack)?.entries) {
            if let Some(row) = self.present(pack, index, &entry.id)? {
                found.add(&row);
            }
        }
        if pack.is_unreadable() {
            found.damaged = pack.damaged;
        }
        if found != Use::of(pack) {
            let number = pack.name.number;
            self.contradict(format!("what is in use of pack {number} is not what was counted"));
        }
        self.sums.packs += 1;
        self.sums.pack_bytes += pack.size;
        self.sums.blob_bytes += pack.blob_bytes;
        Ok(())
    }

    fn contradict(&self, line: String) {
        self.walk.contradicted(line);
    }
}

fn add_row(sums: &mut Stats, row: &ChunkRow) {
    if row.count == 0 {
        return;
    }
    sums.live_bytes += u64::from(row.stored_len);
    if row.kind == BlobKind::Data {
        sums.chunks += 1;
        sums.unique_bytes += u64::from(row.plain_len);
    }
}
