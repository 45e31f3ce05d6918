//! The catalog made anew from the store alone: newest verified checkpoint, the log after it, pack directories.
//!
//! First the tables of the checkpoint and the records after it give the final set of objects and packs; only then are
//! directories read, so packs condemned on the way are never needed. References are counted from the objects down,
//! which makes the result independent of the history that led to it.
//!
//! What cannot be read does not keep the rest from being used. A pack without a readable directory stays in the table of
//! packs, and blobs that something refers to and no pack is known to hold stay known as lost, until they are put again.
//! Only the log itself has to be whole.
//!
//! The tip is written last. An interrupted rebuild leaves a catalog without one; the next goes on with the directories
//! that were read (see `resume`).
//!
//! Requests: a listing, the tail of each pack, each run of manifests, and the checkpoints that are looked at.

mod ahead;
mod count;
mod directories;
mod manifests;
mod packs;
mod progress;
mod resume;
mod search;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use parking_lot::Mutex;

pub(crate) use self::manifests::{read_manifest_children, read_manifest_plain};
pub use self::progress::{RebuildPhase, RebuildProgress};

use self::directories::Directories;
use self::search::{Left, Search};
use super::apply::{Change, HEADS_MAX};
use super::checkpoint::{self, read_objects, read_packs, read_root};
use super::replay::{LogEntry, READS_MAX, introduced, last_sequence};
use super::salvage::Salvage;
use crate::catalog::{DirtyKey, Lookup, PutIdRow, TipRow};
use crate::engine::core::Core;
use crate::engine::error::{Reason, Result};
use crate::engine::packs::read_known;
use crate::format::{BlobKind, CheckpointName, CheckpointRoot, PackKind, PackName, PackNumber, PackRef, Record};

/// More records than any log between two checkpoints has: versions after a salvage are above those that were given.
const SEQUENCES_LOST_MAX: u64 = 1 << 32;

/// What a rebuild found.
pub(crate) struct Rebuilt {
    pub(crate) tip: TipRow,
    /// Packs that are not on the log.
    pub(crate) strays: Vec<PackName>,
}

/// Whether the store holds anything that an empty catalog should know.
pub(crate) async fn is_worthwhile(core: &Core) -> Result<bool> {
    for prefix in [core.layout.packs_prefix(), core.layout.checkpoints_prefix()] {
        if !core.backend.list(&prefix, None).await?.is_empty() {
            return Ok(true);
        }
    }
    Ok(false)
}

/// Makes the catalog of this repository anew. Called under the apply lock, with no writer.
///
/// # Errors
/// `DataLoss` if the log is broken. A catalog that was whole stays as it was until a base and the log after it were found.
pub(crate) async fn run(core: &Arc<Core>, progress: &RebuildProgress) -> Result<Rebuilt> {
    Ok(make(core, progress, false).await?.0)
}

/// As [`run`], of a log that lacks commits. The catalog stays marked as a rebuild's, until a checkpoint has been written:
/// without one the log still lacks them.
///
/// # Errors
/// `DataLoss` if nothing can be read.
pub(crate) async fn salvage(core: &Arc<Core>) -> Result<Salvage> {
    Ok(make(core, &RebuildProgress::default(), true).await?.1)
}

async fn make(core: &Arc<Core>, progress: &RebuildProgress, salvages: bool) -> Result<(Rebuilt, Salvage)> {
    progress.begin();
    let directories = Directories::new(core);
    let mut search = Search {
        core,
        directories: &directories,
        progress,
        roots: checkpoint::roots(core).await?,
        newest_failed: false,
        salvages,
        left: None,
    };
    let mut goes_on = resume::is_interrupted(core);
    let (mut state, beyond) = loop {
        if goes_on {
            mark_begun(core);
            goes_on = resume::keep_read(core).is_ok();
        }
        let (base, beyond) = search.base_or_what_is_left().await?;
        if !goes_on {
            mark_begun(core);
            resume::begin(core)?;
            goes_on = true;
        }
        let mut state = Rebuild::new(core, &directories, progress);
        let Some((name, root)) = base else {
            break (state, beyond);
        };
        match state.load(&name, &root).await {
            Ok(()) => break (state, beyond),
            Err(error) if error.reason() == Reason::DataLoss => {
                tracing::warn!(%error, "a checkpoint lacks a segment; trying an older one");
                search.roots.retain(|root| *root != name);
                search.newest_failed = true;
            }
            Err(error) => return Err(error),
        }
    };
    if search.newest_failed {
        // The next commit writes one.
        state.tip.log_bytes_since_checkpoint = core.options.checkpoint_log_bytes;
    }
    for entry in &beyond.entries {
        state.follow(entry)?;
    }
    let salvage = match search.left.take() {
        Some(left) => state.keep_what_is_left(left).await?,
        None => Salvage::default(),
    };
    directories.take_over(beyond.entries);
    state.find_older_checkpoint(&search.roots).await?;
    let tip = state.complete().await?;
    core.store_catalog.persist()?;
    core.rebuilds.fetch_add(1, Ordering::AcqRel);
    core.counters.catalogs_rebuilt.add(1);
    progress.reach(RebuildPhase::Done);
    let strays = beyond.strays;
    Ok((Rebuilt { tip, strays }, salvage))
}

/// From here on the catalog says nothing about what is missing. One that did not come to its end has left the number odd.
fn mark_begun(core: &Core) {
    core.rebuilds.fetch_or(1, Ordering::AcqRel);
    // Who reads places from now on keeps none in a cache, and who read them before has kept them by now.
    let _places = core.places.write();
    core.locality.clear();
    core.pack_entries.forget(core.secrets.repository());
}

struct Rebuild<'a> {
    core: Arc<Core>,
    directories: Arc<Directories>,
    progress: &'a RebuildProgress,
    tip: TipRow,
    objects: u64,
    packs: BTreeMap<PackNumber, Listed>,
    /// The pack that lost blobs hang on.
    bearer: Option<PackNumber>,
    /// Whether the log lacks commits.
    is_salvage: bool,
    /// Manifests that were read with others.
    manifests: Arc<Mutex<manifests::Remembered>>,
}

/// A pack as the store's table or the log lists it.
#[derive(Clone, Copy)]
struct Listed {
    pack: PackRef,
    kind: PackKind,
    log_number: u64,
}

impl<'a> Rebuild<'a> {
    fn new(core: &Arc<Core>, directories: &Arc<Directories>, progress: &'a RebuildProgress) -> Self {
        Self {
            core: core.clone(),
            directories: directories.clone(),
            progress,
            tip: TipRow::default(),
            objects: 0,
            packs: BTreeMap::new(),
            bearer: None,
            is_salvage: false,
            manifests: Arc::default(),
        }
    }

    /// Takes over the tables of a checkpoint.
    async fn load(&mut self, name: &CheckpointName, root: &CheckpointRoot) -> Result<()> {
        self.tip.tip = Some(root.tip);
        self.tip.head = root.head;
        self.tip.sequence = root.sequence;
        self.tip.put_serial = root.put_serial;
        self.tip.checkpoints[0] = Some((*name, root.tip.log_number));
        for segment in &root.pack_segments {
            for row in read_packs(&self.core, segment).await?.rows {
                self.list(row.pack, row.kind, row.log_number);
            }
        }
        for segment in &root.object_segments {
            let rows = read_objects(&self.core, segment).await?.rows;
            self.objects += rows.len() as u64;
            let mut tx = self.core.catalog.begin();
            for object in rows {
                tx.set_object(&object);
            }
            tx.commit()?;
        }
        let mut tx = self.core.catalog.begin();
        for (log_number, head) in &root.heads {
            tx.set_head(*log_number, *head);
        }
        let first = root.put_serial + 1 - root.put_ids.len() as u64;
        for (index, entry) in root.put_ids.iter().enumerate() {
            tx.set_put_id(&PutIdRow::from_entry(entry, first + index as u64))?;
        }
        tx.commit()?;
        Ok(())
    }

    fn list(&mut self, pack: PackRef, kind: PackKind, log_number: u64) {
        let listed = Listed { pack, kind, log_number };
        self.packs.insert(pack.name.number, listed);
    }

    /// Follows one commit: objects and packs only.
    fn follow(&mut self, entry: &LogEntry) -> Result<()> {
        let section = entry.section();
        let mut tx = self.core.catalog.begin();
        for pack in introduced(section) {
            self.list(pack, PackKind::Chunk, 0);
            tx.mark_dirty(DirtyKey::of_pack(pack.name.number), section.log_number);
        }
        self.list(entry.pack, PackKind::Commit, section.log_number);
        tx.mark_dirty(DirtyKey::of_pack(entry.pack.name.number), section.log_number);
        for record in &section.records {
            match record {
                Record::Put(object) => {
                    if let Some(put_id) = object.put_id {
                        self.tip.put_serial += 1;
                        tx.set_put_id(&PutIdRow::of(put_id, object, self.tip.put_serial))?;
                    }
                    tx.mark_dirty(DirtyKey::of_object(&tx.object_key(&object.name)), section.log_number);
                    self.objects += u64::from(tx.object(&object.name)?.is_none());
                    tx.set_object(object);
                }
                Record::Delete { name, .. } => {
                    tx.mark_dirty(DirtyKey::of_object(&tx.object_key(name)), section.log_number);
                    self.objects -= u64::from(tx.object(name)?.is_some());
                    tx.remove_object(name);
                }
                Record::Condemn(packs) => {
                    for pack in packs {
                        self.packs.remove(&pack.number);
                        tx.mark_dirty(DirtyKey::of_pack(pack.number), section.log_number);
                    }
                }
                Record::Introduce(_) | Record::Open { .. } => {}
            }
        }
        self.tip.advance(entry.tip(), entry.log_bytes());
        self.tip.sequence = last_sequence(section).unwrap_or(self.tip.sequence);
        tx.set_head(section.log_number, self.tip.head);
        if let Some(old) = section.log_number.checked_sub(HEADS_MAX) {
            tx.prune_head(old);
        }
        tx.commit()?;
        Ok(())
    }

    /// Takes over packs that lost commits may have introduced, and leaves room for the versions that these gave.
    async fn keep_what_is_left(&mut self, left: Left) -> Result<Salvage> {
        let mut salvage = Salvage {
            lost_commits: left.lost,
            ..Salvage::default()
        };
        let mut tx = self.core.catalog.begin();
        for name in left.chunk_packs {
            if self.packs.contains_key(&name.number) {
                continue;
            }
            match read_known(&self.core, &name).await {
                Ok(known) => {
                    self.list(known.pack, PackKind::Chunk, 0);
                    tx.mark_dirty(DirtyKey::of_pack(name.number), self.tip.log_number() + 1);
                    salvage.kept_packs += 1;
                }
                Err(error) if error.reason() == Reason::DataLoss => {}
                Err(error) => return Err(error),
            }
        }
        tx.commit()?;
        let unknown = left
            .unreadable
            .into_iter()
            .filter(|name| !self.packs.contains_key(&name.number));
        let given_up: Vec<_> = unknown.chain(left.tip).collect();
        salvage.given_up = given_up.iter().map(|name| self.core.layout.pack(name)).collect();
        *self.core.given_up.lock() = given_up.into_iter().collect();
        self.tip.sequence += SEQUENCES_LOST_MAX;
        self.is_salvage = true;
        Ok(salvage)
    }

    /// The checkpoint before the one this began with, if the log after it is still whole: it is kept beside the newest.
    async fn find_older_checkpoint(&mut self, roots: &[CheckpointName]) -> Result<()> {
        let Some((newest, log_number)) = self.tip.checkpoints[0] else {
            return Ok(());
        };
        let commits: BTreeMap<u64, PackRef> = (self.packs.values())
            .filter(|listed| listed.kind == PackKind::Commit)
            .map(|listed| (listed.log_number, listed.pack))
            .collect();
        let rank = |name: &CheckpointName| (name.epoch, name.log_number);
        for name in roots {
            // Of two that were written at the same commit either may be the one before.
            if *name == newest || rank(name) > rank(&newest) {
                continue;
            }
            let root = match read_root(&self.core, name).await {
                Ok(root) => root,
                Err(error) if error.reason() == Reason::DataLoss => continue,
                Err(error) => return Err(error),
            };
            let tip = root.tip;
            let found = commits.get(&tip.log_number);
            let is_on_log = found.is_some_and(|pack| (pack.name, pack.trailer_hash) == (tip.pack, tip.trailer_hash));
            if is_on_log && commits.range(tip.log_number..log_number).count() as u64 == log_number - tip.log_number {
                self.tip.checkpoints[1] = Some((*name, tip.log_number));
                break;
            }
        }
        Ok(())
    }

    /// Reads the packs and counts references.
    async fn complete(mut self) -> Result<TipRow> {
        self.progress.expect(self.packs.len() as u64, self.objects);
        self.progress.reach(RebuildPhase::Packs);
        self.read_packs().await?;
        self.progress.reach(RebuildPhase::Objects);
        self.count().await?;
        resume::drop_unused(&self.core)?;
        self.finish()
    }

    /// Drops manifests that nothing refers to (their children were not counted), and writes the tip.
    fn finish(mut self) -> Result<TipRow> {
        for number in self.packs.keys() {
            let Some(row) = self.core.catalog.pack(*number)? else {
                continue;
            };
            if row.idle_manifests == 0 {
                continue;
            }
            let entries = self.core.catalog.entries(*number)?.unwrap_or_default();
            let mut change = Change::begin(&self.core, self.tip.stats);
            for entry in entries.entries.iter().filter(|entry| entry.kind != BlobKind::Data) {
                if let Some(chunk) = self.core.catalog.chunk(&entry.id)?
                    && chunk.count == 0
                    && chunk.pack == *number
                {
                    change.dissolve(&chunk, &[])?;
                }
            }
            self.tip.stats = change.keep()?;
        }
        let mut tx = self.core.catalog.begin();
        if !self.is_salvage {
            tx.end_rebuilding();
        }
        tx.set_tip(&self.tip);
        tx.commit()?;
        let stored = self.tip.stats.pack_bytes;
        self.core.limits.stored(self.core.secrets.repository(), stored);
        Ok(self.tip)
    }
}
