//! How the catalog follows the log: one commit, one transaction.
//!
//! The same function serves a commit that was just written and one that is replayed at start. What it changes:
//!
//! 1. packs that become known, with their entries; an id that was known elsewhere moves its place to the later pack, the
//!    one with the higher number;
//! 2. references of leaves and roots whose ids become known for the first time: each names its children once;
//! 3. objects, as the records say; a record counts its root, or its chunks if they are listed in it;
//! 4. the tip and the totals.
//!
//! A reference count belongs to an id, whatever number of copies of it are stored.

use std::collections::HashSet;
use std::ops::Range;

use crate::catalog::{
    ChunkRow, DirtyKey, EntriesRow, Lookup, PackRow, PutIdRow, ReleaseRow, SealedTransaction, Stats, TipRow,
    Transaction,
};
use crate::codec::ChunkId;
use crate::engine::core::Core;
use crate::engine::error::{Error, Reason, Result};
use crate::engine::write::NewPack;
use crate::format::{BlobKind, CommitSection, Content, ObjectVersion, PackKind, PackName, PackNumber, PackRef, Record};

/// Heads that are kept, newest first.
pub(crate) const HEADS_MAX: u64 = 1024;

/// A durable commit with everything the catalog wants to know.
pub(crate) struct Committed {
    pub(crate) commit: NewPack,
    /// In the order in which they are introduced.
    pub(crate) introduced: Vec<NewPack>,
    pub(crate) section: CommitSection,
    /// The tip after this commit; its totals are still those before it.
    pub(crate) tip: TipRow,
}

/// Brings the catalog from the commit before `entry` to `entry` and returns the new tip. Called under the apply lock.
///
/// # Errors
/// `CatalogFailed` if the catalog cannot be read or written, `DataLoss` if the log contradicts it. Nothing is changed.
pub(crate) fn apply(core: &Core, entry: &Committed) -> Result<TipRow> {
    prepare(entry, core.catalog.begin())?.apply(core, entry)
}

/// Does of [`apply`] what changes nothing yet, so that it can be done while the commit is being written. What is returned holds
/// for as long as the apply lock is not given back, as does what was read in `tx`.
///
/// # Errors
/// As of `apply`.
pub(crate) fn prepare(entry: &Committed, tx: Transaction) -> Result<PreparedChange> {
    let mut change = Change::new(tx, entry.tip.stats);
    for pack in entry.introduced.iter().chain([&entry.commit]) {
        let log_number = match pack.kind {
            PackKind::Commit => entry.section.log_number,
            PackKind::Chunk => 0,
        };
        change.introduce(pack, log_number)?;
        change
            .tx
            .mark_dirty(DirtyKey::of_pack(pack.pack.name.number), entry.section.log_number);
    }
    change.count_children()?;
    let mut put_serial = entry.tip.put_serial;
    for record in &entry.section.records {
        change.record(record, entry.section.log_number, &mut put_serial)?;
    }
    change.queue_unreferenced()?;
    let mut tip = entry.tip.clone();
    tip.put_serial = put_serial;
    Ok(change.seal(tip))
}

/// A change with its tip that is not in the catalog yet. Dropped it leaves nothing.
pub(crate) struct PreparedChange {
    tx: SealedTransaction,
    tip: TipRow,
    moved: Vec<(ChunkId, PackNumber, PackNumber)>,
    condemned: Vec<PackNumber>,
}

impl PreparedChange {
    /// The rest of [`apply`], of the entry that this was prepared of.
    ///
    /// # Errors
    /// As of `apply`.
    pub(crate) fn apply(self, core: &Core, entry: &Committed) -> Result<TipRow> {
        let tip = self.commit(core)?;
        // The catalog knows them now; until here a lookup found them on their way.
        for pack in entry.introduced.iter().chain([&entry.commit]) {
            core.in_flight
                .applied(pack.entries.entries.iter().map(|entry| &entry.id));
        }
        Ok(tip)
    }

    /// Commits the transaction and tells the caches what moved or went. Takes the places for writing if something did.
    fn commit(self, core: &Core) -> Result<TipRow> {
        let _places = (!self.moved.is_empty() || !self.condemned.is_empty()).then(|| core.places.write());
        self.tx.commit()?;
        core.limits.stored(core.secrets.repository(), self.tip.stats.pack_bytes);
        let mut followed = HashSet::new();
        for (id, from, to) in self.moved {
            core.locality.forget_chunk(&id);
            followed.insert((from, to));
        }
        followed
            .into_iter()
            .for_each(|(from, to)| core.in_flight.follow(from, to));
        // Whoever condemned them: when another owner's log is followed, lookups have to learn of it here.
        self.condemned.iter().for_each(|pack| core.locality.forget_pack(*pack));
        core.in_flight.forget_condemned(&self.condemned);
        Ok(self.tip)
    }
}

/// One transaction over the catalog, with the totals and what has to be told to the caches afterwards.
pub(crate) struct Change {
    tx: Transaction,
    stats: Stats,
    /// Manifest blobs whose ids are new in this change, with their children.
    new_manifests: Vec<(ChunkId, Vec<ChunkId>)>,
    moved: Vec<(ChunkId, PackNumber, PackNumber)>,
    condemned: Vec<PackNumber>,
}

impl Change {
    pub(crate) fn begin(core: &Core, stats: Stats) -> Self {
        Self::new(core.catalog.begin(), stats)
    }

    fn new(tx: Transaction, stats: Stats) -> Self {
        Self {
            tx,
            stats,
            new_manifests: Vec::new(),
            moved: Vec::new(),
            condemned: Vec::new(),
        }
    }

    /// Makes a pack and its blobs known.
    pub(crate) fn introduce(&mut self, pack: &NewPack, log_number: u64) -> Result<()> {
        let number = pack.pack.name.number;
        if self.tx.pack(number)?.is_some_and(|row| !row.is_only_read()) {
            return Ok(());
        }
        let mut row = PackRow::new(&pack.pack, pack.kind, log_number);
        for (index, entry) in pack.entries.entries.iter().enumerate() {
            row.entries += 1;
            row.blob_bytes += u64::from(entry.stored_len);
            let mut chunk = ChunkRow {
                id: entry.id,
                kind: entry.kind,
                count: 0,
                pack: number,
                index: index as u32,
                stored_len: entry.stored_len,
                plain_len: entry.plain_len,
                quarantined: false,
            };
            match self.tx.chunk(&entry.id)? {
                // Twice in this very pack: the later entry counts, nothing else changes.
                Some(known) if known.pack == number => {
                    chunk.count = known.count;
                    row.leave(&known);
                    self.stats.live_bytes -= known.live_bytes();
                }
                // A copy that was moved here while a later pack brought the blob anew. The pack with the highest number has the
                // place, in whatever order packs are introduced: a rebuild sees no more than their numbers.
                Some(known) if known.pack > number && !known.is_lost() => {
                    self.moved.push((entry.id, number, known.pack));
                    continue;
                }
                Some(known) => {
                    chunk.count = known.count;
                    let released = self.tx.released(&known)?;
                    if (known.is_lost() || released > 0) && entry.kind != BlobKind::Data {
                        // What it leads to was not counted while nobody could read it, or counts no more.
                        let mut children = pack.children.get(&entry.id).cloned().unwrap_or_default();
                        if released > 0 {
                            children.truncate(released as usize);
                            self.tx.set_release(&ReleaseRow::of(&chunk));
                        }
                        self.new_manifests.push((entry.id, children));
                    }
                    self.leave(&known)?;
                    self.moved.push((entry.id, known.pack, number));
                }
                None if entry.kind != BlobKind::Data => {
                    let children = pack.children.get(&entry.id).cloned().unwrap_or_default();
                    self.new_manifests.push((entry.id, children));
                }
                None => {}
            }
            row.enter(&chunk);
            self.stats.live_bytes += chunk.live_bytes();
            self.tx.set_chunk(&chunk);
        }
        self.stats.packs += 1;
        self.stats.pack_bytes += pack.pack.size;
        self.stats.blob_bytes += row.blob_bytes;
        self.tx.set_pack(&row);
        self.tx.set_entries(number, &pack.entries);
        Ok(())
    }

    /// Counts the children of every manifest that became known, in the order of their rows: what finds one row is still in the
    /// processor's cache for the next.
    pub(crate) fn count_children(&mut self) -> Result<()> {
        let of_all = self.new_manifests.iter_mut();
        let mut children: Vec<_> = of_all.flat_map(|(_, children)| std::mem::take(children)).collect();
        self.tx.sort_by_row(&mut children);
        children.iter().try_for_each(|child| self.increment(child).map(drop))
    }

    /// Queues new manifests that nothing refers to (yet) for release; a reference takes them out again.
    pub(crate) fn queue_unreferenced(&mut self) -> Result<()> {
        for (id, _) in std::mem::take(&mut self.new_manifests) {
            if let Some(row) = self.tx.chunk(&id)?
                && row.count == 0
            {
                self.tx.set_release(&ReleaseRow::of(&row));
            }
        }
        Ok(())
    }

    fn record(&mut self, record: &Record, log_number: u64, put_serial: &mut u64) -> Result<()> {
        match record {
            Record::Put(object) => {
                self.put(object, log_number)?;
                if let Some(put_id) = object.put_id {
                    *put_serial += 1;
                    self.tx.set_put_id(&PutIdRow::of(put_id, object, *put_serial))?;
                }
                Ok(())
            }
            Record::Delete { name, .. } => self.delete(name, log_number),
            Record::Condemn(packs) => packs.iter().try_for_each(|pack| self.condemn(pack, log_number)),
            Record::Introduce(_) | Record::Open { .. } => Ok(()),
        }
    }

    fn put(&mut self, object: &ObjectVersion, log_number: u64) -> Result<()> {
        let former = self.tx.object(&object.name)?;
        // New before old: content they share never falls to zero in between.
        self.reference(&object.content)?;
        self.tx.set_object(object);
        self.stats.logical_bytes += object.size;
        match former {
            Some(former) => {
                self.stats.logical_bytes -= former.size;
                self.release(&former.content)?;
            }
            None => self.stats.objects += 1,
        }
        self.tx
            .mark_dirty(DirtyKey::of_object(&self.tx.object_key(&object.name)), log_number);
        Ok(())
    }

    fn delete(&mut self, name: &crate::format::ObjectName, log_number: u64) -> Result<()> {
        let Some(former) = self.tx.object(name)? else {
            return Ok(());
        };
        self.tx.remove_object(name);
        self.stats.objects -= 1;
        self.stats.logical_bytes -= former.size;
        self.release(&former.content)?;
        self.tx
            .mark_dirty(DirtyKey::of_object(&self.tx.object_key(name)), log_number);
        Ok(())
    }

    fn condemn(&mut self, pack: &PackName, log_number: u64) -> Result<()> {
        let Some(mut row) = self.tx.pack(pack.number)? else {
            return Ok(());
        };
        if row.condemned_at != 0 {
            return Ok(());
        }
        if !row.is_dead() {
            let line = format!(
                "commit {log_number} condemns pack {}-{}, which holds data in use; run `cairn rebuild`",
                pack.number.epoch, pack.number.counter
            );
            return Err(Error::new(Reason::DataLoss, line));
        }
        if let Some(entries) = self.tx.entries(pack.number)? {
            self.forget_entries(pack.number, &entries)?;
        }
        self.tx.remove_entries(pack.number);
        self.stats.packs -= 1;
        self.stats.pack_bytes -= row.size;
        self.stats.blob_bytes -= row.blob_bytes;
        row.condemned_at = log_number;
        row.current = 0;
        self.condemned.push(pack.number);
        self.tx.set_pack(&row);
        self.tx.mark_dirty(DirtyKey::of_pack(pack.number), log_number);
        Ok(())
    }

    fn forget_entries(&mut self, pack: PackNumber, entries: &EntriesRow) -> Result<()> {
        for entry in &entries.entries {
            if let Some(row) = self.tx.chunk(&entry.id)?
                && row.pack == pack
            {
                self.tx.remove_chunk(&entry.id);
            }
        }
        Ok(())
    }

    fn reference(&mut self, content: &Content) -> Result<()> {
        match content {
            Content::Inline(chunks) => chunks.iter().try_for_each(|chunk| self.increment(&chunk.id).map(drop)),
            Content::Root(root) => self.increment(root).map(drop),
        }
    }

    fn release(&mut self, content: &Content) -> Result<()> {
        match content {
            Content::Inline(chunks) => chunks.iter().try_for_each(|chunk| self.decrement(&chunk.id)),
            Content::Root(root) => self.decrement(root),
        }
    }

    /// Whether this id has a row.
    pub(crate) fn knows(&self, id: &ChunkId) -> Result<bool> {
        Ok(self.tx.chunk(id)?.is_some())
    }

    /// One more reference to `id`.
    pub(crate) fn increment(&mut self, id: &ChunkId) -> Result<ChunkRow> {
        let mut row = self.known(id)?;
        if self.tx.released(&row)? > 0 {
            // Another owner, which has not released it, found it in use again. Some of what it leads to counts no more here.
            let line = "the log refers to a manifest that this catalog has released in part; run `cairn rebuild`";
            return Err(Error::new(Reason::DataLoss, line));
        }
        row.count += 1;
        if row.count == 1 {
            self.change_liveness(&row)?;
            if row.kind != BlobKind::Data {
                self.tx.remove_release(id);
            }
        }
        self.tx.set_chunk(&row);
        Ok(row)
    }

    /// One reference less to `id`. A manifest that nothing refers to any more is queued: its children are released
    /// later, in the background.
    pub(crate) fn decrement(&mut self, id: &ChunkId) -> Result<()> {
        let mut row = self.known(id)?;
        row.count = row.count.checked_sub(1).ok_or_else(|| miscounted(id))?;
        if row.count == 0 {
            self.change_liveness(&row)?;
            if row.is_lost() {
                self.leave(&row)?;
                self.tx.remove_chunk(id);
                return Ok(());
            }
            if row.kind != BlobKind::Data {
                self.tx.set_release(&ReleaseRow::of(&row));
            }
        }
        self.tx.set_chunk(&row);
        Ok(())
    }

    /// Notes that something refers to a blob that no pack is known to hold: one that was in `bearer`, or in some other
    /// pack that cannot be read. `plain_len` is 0 where it is not known.
    pub(crate) fn refer_to_lost(
        &mut self,
        id: &ChunkId,
        kind: BlobKind,
        plain_len: u32,
        bearer: PackNumber,
    ) -> Result<()> {
        self.enter_lost(ChunkRow {
            id: *id,
            kind,
            count: 0,
            pack: bearer,
            index: ChunkRow::LOST,
            stored_len: 0,
            plain_len,
            quarantined: true,
        })?;
        self.increment(id).map(drop)
    }

    /// Gives up the place of a blob that cannot be read, with what it leads to. It stays known, so that it can be healed.
    pub(crate) fn lose(&mut self, row: &ChunkRow) -> Result<()> {
        self.leave(row)?;
        self.enter_lost(ChunkRow {
            index: ChunkRow::LOST,
            stored_len: 0,
            quarantined: true,
            ..row.clone()
        })
    }

    fn enter_lost(&mut self, row: ChunkRow) -> Result<()> {
        let mut pack = self.tx.pack(row.pack)?.ok_or_else(|| miscounted(&row.id))?;
        pack.enter(&row);
        self.stats.live_bytes += row.live_bytes();
        self.tx.set_pack(&pack);
        self.tx.set_chunk(&row);
        Ok(())
    }

    /// Makes a pack known whose contents cannot be read. It stays in the table of packs: it may be restored, and until
    /// nothing is missing any more it is not to be taken for garbage.
    pub(crate) fn introduce_unreadable(&mut self, pack: &PackRef, kind: PackKind, log_number: u64) {
        let row = PackRow {
            damaged: PackRow::UNREADABLE,
            ..PackRow::new(pack, kind, log_number)
        };
        self.stats.packs += 1;
        self.stats.pack_bytes += pack.size;
        self.tx.set_pack(&row);
        self.tx.set_entries(pack.name.number, &EntriesRow::default());
    }

    /// Forgets a manifest that nothing refers to and releases its children. From here on its id is unknown to lookup.
    pub(crate) fn dissolve(&mut self, row: &ChunkRow, children: &[ChunkId]) -> Result<()> {
        self.leave(row)?;
        self.tx.remove_chunk(&row.id);
        self.tx.remove_release(&row.id);
        children.iter().try_for_each(|child| self.decrement(child))
    }

    /// Releases some of the children of a manifest that nothing refers to, those from `released.start` to before
    /// `released.end`. From here on its id is unknown to lookup; the rest of them is released later.
    pub(crate) fn dissolve_part(&mut self, row: &ChunkRow, children: &[ChunkId], released: Range<usize>) -> Result<()> {
        self.tx.set_release(&ReleaseRow {
            cursor: released.end as u64,
            ..ReleaseRow::of(row)
        });
        children[released].iter().try_for_each(|child| self.decrement(child))
    }

    fn known(&self, id: &ChunkId) -> Result<ChunkRow> {
        self.tx.chunk(id)?.ok_or_else(|| {
            let line = "the log refers to a chunk that no pack holds; run `cairn rebuild`, then `cairn verify`";
            Error::new(Reason::DataLoss, line)
        })
    }

    /// Takes an id out of the pack that holds its present place.
    fn leave(&mut self, chunk: &ChunkRow) -> Result<()> {
        if let Some(mut pack) = self.tx.pack(chunk.pack)? {
            pack.leave(chunk);
            self.tx.set_pack(&pack);
        }
        self.stats.live_bytes -= chunk.live_bytes();
        Ok(())
    }

    /// Follows a count that went from none to one (`row.count` is 1) or back (0) in the pack and in the totals.
    fn change_liveness(&mut self, row: &ChunkRow) -> Result<()> {
        let alive = row.count > 0;
        let mut pack = self.tx.pack(row.pack)?.ok_or_else(|| miscounted(&row.id))?;
        let before = ChunkRow {
            count: u64::from(!alive),
            ..row.clone()
        };
        pack.leave(&before);
        pack.enter(row);
        self.tx.set_pack(&pack);
        let (stored, plain) = (u64::from(row.stored_len), u64::from(row.plain_len));
        let data = row.kind == BlobKind::Data;
        if alive {
            self.stats.live_bytes += stored;
            self.stats.chunks += u64::from(data);
            self.stats.unique_bytes += if data { plain } else { 0 };
        } else {
            self.stats.live_bytes -= stored;
            self.stats.chunks -= u64::from(data);
            self.stats.unique_bytes -= if data { plain } else { 0 };
        }
        Ok(())
    }

    /// Commits the transaction without a tip, as a rebuild does until its end. Returns the totals.
    pub(crate) fn keep(self) -> Result<Stats> {
        self.tx.commit()?;
        Ok(self.stats)
    }

    /// Commits the transaction with `tip` and tells the caches what moved or went. Takes the places for writing if
    /// something did.
    pub(crate) fn finish(self, core: &Core, tip: TipRow) -> Result<TipRow> {
        self.seal(tip).commit(core)
    }

    fn seal(mut self, mut tip: TipRow) -> PreparedChange {
        tip.stats = self.stats;
        if let Some(newest) = &tip.tip {
            self.tx.set_head(newest.log_number, tip.head);
            if let Some(old) = newest.log_number.checked_sub(HEADS_MAX) {
                self.tx.prune_head(old);
            }
        }
        self.tx.set_tip(&tip);
        PreparedChange {
            tx: self.tx.seal(),
            tip,
            moved: self.moved,
            condemned: self.condemned,
        }
    }
}

fn miscounted(_: &ChunkId) -> Error {
    Error::new(
        Reason::CatalogFailed,
        "the catalog contradicts itself about a reference count; run `cairn rebuild` to make it anew",
    )
}

impl ChunkRow {
    fn live_bytes(&self) -> u64 {
        if self.count > 0 { u64::from(self.stored_len) } else { 0 }
    }

    fn idle_manifests(&self) -> u32 {
        u32::from(self.count == 0 && self.kind != BlobKind::Data)
    }
}

impl PackRow {
    /// An id has its place here now.
    fn enter(&mut self, chunk: &ChunkRow) {
        self.current += 1;
        self.live += u32::from(chunk.count > 0);
        self.live_bytes += chunk.live_bytes();
        self.idle_manifests += chunk.idle_manifests();
        if !self.is_unreadable() {
            self.damaged += u32::from(chunk.quarantined);
        }
    }

    /// An id, counted as `chunk` says, has its place here no more.
    fn leave(&mut self, chunk: &ChunkRow) {
        self.current -= 1;
        self.live -= u32::from(chunk.count > 0);
        self.live_bytes -= chunk.live_bytes();
        self.idle_manifests -= chunk.idle_manifests();
        if !self.is_unreadable() {
            self.damaged -= u32::from(chunk.quarantined);
        }
    }
}
