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
//! The tip is written last. An interrupted rebuild leaves a catalog without one, and the next start begins again.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::sync::atomic::Ordering;

use futures::stream::{self, StreamExt};

use super::apply::Change;
use super::checkpoint::{self, read_objects, read_packs, read_root, tip_is_there};
use super::replay::{Beyond, Continuation, LogEntry, READS_MAX, find_beyond, introduced, last_sequence};
use crate::catalog::{ChunkRow, DirtyKey, EntriesRow, Lookup, PutIdRow, TipRow};
use crate::codec::ChunkId;
use crate::engine::core::Core;
use crate::engine::error::{Error, Reason, Result};
use crate::engine::packs::{children_of, damaged, read_directory, read_manifest};
use crate::engine::write::NewPack;
use crate::format::{
    BlobKind, CheckpointName, CheckpointRoot, ChunkRef, Content, Directory, Leaf, PackKind, PackName, PackNumber,
    PackRef, Record, Root, Tip,
};

/// Objects counted at a time.
const OBJECTS_AT_ONCE: usize = 64;
/// References counted in one transaction.
const REFERENCES_AT_ONCE: usize = 4096;

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
/// `DataLoss` if the log is broken or a pack's directory cannot be read.
pub(crate) async fn run(core: &Arc<Core>) -> Result<Rebuilt> {
    // One that did not come to its end has left the number odd, and the catalog half made.
    core.rebuilds.fetch_or(1, Ordering::AcqRel);
    let mut unusable = Vec::new();
    let mut newest_failed = false;
    let (mut state, beyond) = loop {
        let (base, beyond) = find_base(core, &unusable, &mut newest_failed).await?;
        core.store_catalog.forget(core.secrets.repository())?;
        core.locality.clear();
        let mut state = Rebuild::new(core.clone());
        let Some((name, root)) = base else {
            break (state, beyond);
        };
        match state.load(&name, &root).await {
            Ok(()) => break (state, beyond),
            Err(error) if error.reason() == Reason::DataLoss => {
                tracing::warn!(%error, "a checkpoint lacks a segment; trying an older one");
                unusable.push(name);
                newest_failed = true;
            }
            Err(error) => return Err(error),
        }
    };
    if newest_failed {
        // The next commit writes one.
        state.tip.log_bytes_since_checkpoint = core.options.checkpoint_log_bytes;
    }
    for entry in &beyond.entries {
        state.follow(entry)?;
    }
    state.find_older_checkpoint().await?;
    state.read_packs().await?;
    state.count().await?;
    let tip = state.finish()?;
    core.store_catalog.persist()?;
    core.rebuilds.fetch_add(1, Ordering::AcqRel);
    core.counters.catalogs_rebuilt.add(1);
    Ok(Rebuilt {
        tip,
        strays: beyond.strays,
    })
}

type Base = (CheckpointName, CheckpointRoot);

/// The newest usable checkpoint whose tip is on the log, and the log after it.
async fn find_base(core: &Core, unusable: &[CheckpointName], failed: &mut bool) -> Result<(Option<Base>, Beyond)> {
    let mut newest: Option<Tip> = None;
    for name in checkpoint::roots(core).await? {
        if unusable.contains(&name) {
            continue;
        }
        let root = match read_root(core, &name).await {
            Ok(root) => root,
            Err(error) => {
                tracing::warn!(%error, "a checkpoint cannot be used; trying an older one");
                *failed = true;
                continue;
            }
        };
        newest.get_or_insert(root.tip);
        if !tip_is_there(core, &root.tip).await {
            continue;
        }
        if let Continuation::Unbroken(beyond) = find_beyond(core, Some(&root.tip)).await? {
            check_reaches(Some(&root.tip), &beyond, newest)?;
            return Ok((Some((name, root)), beyond));
        }
    }
    match find_beyond(core, None).await? {
        Continuation::Unbroken(beyond) => {
            check_reaches(None, &beyond, newest)?;
            Ok((None, beyond))
        }
        Continuation::Elsewhere => Err(Error::data_loss(
            "the log does not begin with its first commit and no checkpoint covers the gap; restore the store from a copy",
        )),
    }
}

/// A checkpoint is written at a commit that was acknowledged. A log that ends before the newest one lacks its end; without
/// this nothing would tell that anything is missing.
fn check_reaches(base: Option<&Tip>, beyond: &Beyond, checkpoint: Option<Tip>) -> Result<()> {
    let rank = |tip: &Tip| (tip.pack.number.epoch, tip.log_number);
    let end = beyond.entries.last().map(LogEntry::tip).or(base.copied());
    match checkpoint {
        Some(checkpoint) if end.is_none_or(|end| rank(&end) < rank(&checkpoint)) => Err(Error::data_loss(format!(
            "commit {} of the log, at which a checkpoint was written, is missing; restore its pack from a copy of the store",
            checkpoint.log_number
        ))),
        _ => Ok(()),
    }
}

struct Rebuild {
    core: Arc<Core>,
    tip: TipRow,
    packs: BTreeMap<PackNumber, Listed>,
    /// The pack that lost blobs hang on.
    bearer: Option<PackNumber>,
}

/// A pack as the store's table or the log lists it.
#[derive(Clone, Copy)]
struct Listed {
    pack: PackRef,
    kind: PackKind,
    log_number: u64,
}

/// Blobs that something refers to.
struct References {
    kind: BlobKind,
    /// Each with its plain length, 0 where what refers to it does not say.
    blobs: Vec<(ChunkId, u32)>,
}

impl References {
    /// What a manifest of this kind refers to.
    fn of_manifest(kind: BlobKind, plain: &[u8]) -> std::result::Result<Self, crate::format::Error> {
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

impl Rebuild {
    fn new(core: Arc<Core>) -> Self {
        Self {
            core,
            tip: TipRow::default(),
            packs: BTreeMap::new(),
            bearer: None,
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
            let mut tx = self.core.catalog.begin();
            for object in read_objects(&self.core, segment).await?.rows {
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
            tx.mark_dirty(DirtyKey::of_pack(pack.name.number));
        }
        self.list(entry.pack, PackKind::Commit, section.log_number);
        tx.mark_dirty(DirtyKey::of_pack(entry.pack.name.number));
        for record in &section.records {
            match record {
                Record::Put(object) => {
                    self.tip.put_serial += 1;
                    tx.set_put_id(&PutIdRow::of(object, self.tip.put_serial))?;
                    tx.mark_dirty(DirtyKey::of_object(&tx.object_key(&object.name)));
                    tx.set_object(object);
                }
                Record::Delete { name, .. } => {
                    tx.mark_dirty(DirtyKey::of_object(&tx.object_key(name)));
                    tx.remove_object(name);
                }
                Record::Condemn(packs) => {
                    for pack in packs {
                        self.packs.remove(&pack.number);
                        tx.mark_dirty(DirtyKey::of_pack(pack.number));
                    }
                }
                Record::Introduce(_) | Record::Open { .. } => {}
            }
        }
        self.tip.advance(entry.tip(), entry.pack.size);
        self.tip.sequence = last_sequence(section).unwrap_or(self.tip.sequence);
        tx.set_head(section.log_number, self.tip.head);
        tx.commit()?;
        Ok(())
    }

    /// The checkpoint before the one this began with, if the log after it is still whole: it is kept beside the newest.
    async fn find_older_checkpoint(&mut self) -> Result<()> {
        let Some((newest, log_number)) = self.tip.checkpoints[0] else {
            return Ok(());
        };
        let commits: BTreeMap<u64, PackRef> = (self.packs.values())
            .filter(|listed| listed.kind == PackKind::Commit)
            .map(|listed| (listed.log_number, listed.pack))
            .collect();
        let rank = |name: &CheckpointName| (name.epoch, name.log_number);
        for name in checkpoint::roots(&self.core).await? {
            if rank(&name) >= rank(&newest) {
                continue;
            }
            let Ok(root) = read_root(&self.core, &name).await else {
                continue;
            };
            let tip = root.tip;
            let found = commits.get(&tip.log_number);
            let is_on_log = found.is_some_and(|pack| (pack.name, pack.trailer_hash) == (tip.pack, tip.trailer_hash));
            if is_on_log && commits.range(tip.log_number..log_number).count() as u64 == log_number - tip.log_number {
                self.tip.checkpoints[1] = Some((name, tip.log_number));
                break;
            }
        }
        Ok(())
    }

    /// Reads the directory of every pack in the store's pack table.
    async fn read_packs(&mut self) -> Result<()> {
        let core = self.core.clone();
        let packs: Vec<Listed> = self.packs.values().copied().collect();
        let reads = stream::iter(packs).map(|listed| {
            let core = core.clone();
            async move { (listed, read_directory(&core, &listed.pack.name).await) }
        });
        // In the order of their numbers: of several copies of a chunk the one introduced last counts.
        let mut reads = reads.buffered(READS_MAX);
        while let Some((listed, read)) = reads.next().await {
            let mut change = Change::begin(&self.core, self.tip.stats);
            match read {
                Ok((pack, directory)) if pack == listed.pack => {
                    change.introduce(&new_pack(listed, directory), listed.log_number)?;
                }
                Ok(_) => self.add_unreadable(&mut change, listed, "it is not the pack that the log introduced"),
                Err(error) if error.reason() == Reason::DataLoss => {
                    self.add_unreadable(&mut change, listed, &error.to_string());
                }
                Err(error) => return Err(error),
            }
            self.tip.stats = change.keep()?;
        }
        Ok(())
    }

    fn add_unreadable(&mut self, change: &mut Change, listed: Listed, problem: &str) {
        let path = self.core.layout.pack(&listed.pack.name);
        tracing::error!(
            path,
            problem,
            "a pack cannot be read; what only it holds is lost unless it is restored"
        );
        change.introduce_unreadable(&listed.pack, listed.kind, listed.log_number);
        self.bearer.get_or_insert(listed.pack.name.number);
    }

    /// Counts references from every object down.
    async fn count(&mut self) -> Result<()> {
        let mut after = None;
        loop {
            let page = self.core.catalog.objects_page(after, OBJECTS_AT_ONCE)?;
            let Some((last, _)) = page.last() else {
                return Ok(());
            };
            after = Some(*last);
            let (mut chunks, mut roots) = (Vec::new(), Vec::new());
            for (_, object) in page {
                self.tip.stats.objects += 1;
                self.tip.stats.logical_bytes += object.size;
                match &object.content {
                    Content::Inline(listed) => chunks.extend(lengths(listed)),
                    Content::Root(root) => roots.push((*root, 0)),
                }
            }
            self.count_blobs(BlobKind::Data, &chunks)?;
            self.count_below(roots).await?;
        }
    }

    /// Counts references to roots, and all that is below those reached for the first time. Manifests are read in
    /// parallel; what is held of them is those being read, and the lists of leaves of one page of objects.
    async fn count_below(&mut self, roots: Vec<(ChunkId, u32)>) -> Result<()> {
        let mut pending = vec![References {
            kind: BlobKind::Root,
            blobs: roots,
        }];
        while let Some(references) = pending.pop() {
            let reached = self.count_blobs(references.kind, &references.blobs)?;
            let core = self.core.clone();
            let reads = stream::iter(reached).map(|row| {
                let core = core.clone();
                async move { (read_references(&core, &row).await, row) }
            });
            let mut reads = reads.buffered(READS_MAX);
            while let Some((read, row)) = reads.next().await {
                match read {
                    Ok(below) if below.kind == BlobKind::Data => {
                        self.count_blobs(below.kind, &below.blobs)?;
                    }
                    Ok(below) => pending.push(below),
                    Err(error) if error.reason() == Reason::DataLoss => self.lose(&row, &error)?,
                    Err(error) => return Err(error),
                }
            }
        }
        Ok(())
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
        tx.set_tip(&self.tip);
        tx.commit()?;
        Ok(self.tip)
    }
}

async fn read_references(core: &Core, row: &ChunkRow) -> Result<References> {
    let (path, kind, plain) = read_manifest_at(core, row.pack, row.index).await?;
    References::of_manifest(kind, &plain).map_err(|error| damaged(&path, error))
}

/// A pack as the catalog takes it. Children of its manifests are counted from the objects down.
fn new_pack(listed: Listed, directory: Directory) -> NewPack {
    NewPack {
        pack: listed.pack,
        kind: listed.kind,
        entries: EntriesRow {
            births: directory.births,
            entries: directory.entries,
        },
        children: HashMap::new(),
        _holders: Vec::new(),
    }
}

/// The ids that the manifest at a place of a pack refers to. None for one that is lost: what it led to was not counted.
pub(crate) async fn read_manifest_children(core: &Core, pack: PackNumber, index: u32) -> Result<Vec<ChunkId>> {
    if index == ChunkRow::LOST {
        return Ok(Vec::new());
    }
    let (path, kind, plain) = read_manifest_at(core, pack, index).await?;
    children_of(kind, &plain).map_err(|error| damaged(&path, error))
}

/// The manifest at a place of a pack.
pub(crate) async fn read_manifest_plain(core: &Core, pack: PackNumber, index: u32) -> Result<Vec<u8>> {
    Ok(read_manifest_at(core, pack, index).await?.2)
}

async fn read_manifest_at(core: &Core, pack: PackNumber, index: u32) -> Result<(String, BlobKind, Vec<u8>)> {
    let (Some(row), Some(entries)) = (core.catalog.pack(pack)?, core.catalog.entries(pack)?) else {
        return Err(Error::new(
            Reason::CatalogFailed,
            "the catalog knows a manifest but not its pack; run `cairn rebuild`",
        ));
    };
    let entry = entries.entries.get(index as usize).ok_or_else(|| {
        Error::new(
            Reason::CatalogFailed,
            "the catalog names a manifest its pack does not have; run `cairn rebuild`",
        )
    })?;
    let plain = read_manifest(core, &row.name, entry, &entries.births[entry.birth as usize]).await?;
    Ok((core.layout.pack(&row.name), entry.kind, plain))
}
