//! The catalog made anew from the store alone: newest verified checkpoint, the log after it, pack directories.
//!
//! First the tables of the checkpoint and the records after it give the final set of objects and packs; only then are
//! directories read, so packs condemned on the way are never needed. References are counted from the objects down,
//! which makes the result independent of the history that led to it.
//!
//! The tip is written last. An interrupted rebuild leaves a catalog without one, and the next start begins again.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use futures::stream::{self, StreamExt, TryStreamExt};

use super::apply::Change;
use super::checkpoint::{self, read_objects, read_packs, read_root, tip_is_there};
use super::replay::{Beyond, Continuation, LogEntry, READS_MAX, find_beyond, introduced, last_sequence, load_pack};
use crate::catalog::{DirtyKey, Lookup, PutIdRow, TipRow};
use crate::codec::ChunkId;
use crate::engine::core::Core;
use crate::engine::error::{Error, Reason, Result};
use crate::engine::packs::{children_of, damaged, read_manifest};
use crate::format::{BlobKind, CheckpointName, CheckpointRoot, Content, PackKind, PackName, PackNumber, Record};

/// Objects counted in one transaction.
const OBJECTS_AT_ONCE: usize = 64;

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
    let (mut state, beyond) = loop {
        let (base, beyond) = find_base(core, &unusable).await?;
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
            }
            Err(error) => return Err(error),
        }
    };
    for entry in &beyond.entries {
        state.follow(entry)?;
    }
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
async fn find_base(core: &Core, unusable: &[CheckpointName]) -> Result<(Option<Base>, Beyond)> {
    for name in checkpoint::roots(core).await? {
        if unusable.contains(&name) {
            continue;
        }
        let root = match read_root(core, &name).await {
            Ok(root) => root,
            Err(error) => {
                tracing::warn!(%error, "a checkpoint cannot be used; trying an older one");
                continue;
            }
        };
        if !tip_is_there(core, &root.tip).await {
            continue;
        }
        if let Continuation::Unbroken(beyond) = find_beyond(core, Some(&root.tip)).await? {
            return Ok((Some((name, root)), beyond));
        }
    }
    match find_beyond(core, None).await? {
        Continuation::Unbroken(beyond) => Ok((None, beyond)),
        Continuation::Elsewhere => Err(Error::data_loss(
            "the log does not begin with its first commit and no checkpoint covers the gap; restore the store from a copy",
        )),
    }
}

struct Rebuild {
    core: Arc<Core>,
    tip: TipRow,
    packs: BTreeMap<PackNumber, (PackName, PackKind, u64)>,
}

impl Rebuild {
    fn new(core: Arc<Core>) -> Self {
        Self {
            core,
            tip: TipRow::default(),
            packs: BTreeMap::new(),
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
                self.packs
                    .insert(row.pack.name.number, (row.pack.name, row.kind, row.log_number));
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

    /// Follows one commit: objects and packs only.
    fn follow(&mut self, entry: &LogEntry) -> Result<()> {
        let section = entry.section();
        let mut tx = self.core.catalog.begin();
        for pack in introduced(section) {
            self.packs.insert(pack.name.number, (pack.name, PackKind::Chunk, 0));
            tx.mark_dirty(DirtyKey::of_pack(pack.name.number));
        }
        self.packs.insert(
            entry.pack.name.number,
            (entry.pack.name, PackKind::Commit, section.log_number),
        );
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

    /// Reads the directory of every pack in the store's pack table.
    async fn read_packs(&mut self) -> Result<()> {
        let core = self.core.clone();
        let packs: Vec<_> = self.packs.values().copied().collect();
        let reads = stream::iter(packs).map(|(name, kind, log_number)| {
            let core = core.clone();
            async move { load_pack(&core, &name, kind).await.map(|pack| (pack, log_number)) }
        });
        // In the order of their numbers: of several copies of a chunk the one introduced last counts.
        let mut packs = reads.buffered(READS_MAX);
        while let Some((pack, log_number)) = packs.try_next().await? {
            let mut change = Change::begin(&self.core, self.tip.stats);
            change.introduce(&pack, log_number)?;
            self.tip.stats = change.keep()?;
        }
        Ok(())
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
            for (_, object) in page {
                self.tip.stats.objects += 1;
                self.tip.stats.logical_bytes += object.size;
                let ids = match &object.content {
                    Content::Inline(chunks) => chunks.iter().map(|chunk| chunk.id).collect(),
                    Content::Root(root) => vec![*root],
                };
                self.count_all(ids)
                    .await
                    .map_err(|error| error.within(format!("object {:?}", object.name.as_str())))?;
            }
        }
    }

    /// Counts one reference to each of `ids`, and the references of manifests reached for the first time.
    async fn count_all(&mut self, ids: Vec<ChunkId>) -> Result<()> {
        let mut pending = vec![ids];
        while let Some(ids) = pending.pop() {
            let mut change = Change::begin(&self.core, self.tip.stats);
            let mut reached = Vec::new();
            for id in &ids {
                let row = change.increment(id)?;
                if row.kind != BlobKind::Data && row.count == 1 {
                    reached.push(row);
                }
            }
            self.tip.stats = change.keep()?;
            for row in reached {
                pending.push(read_manifest_children(&self.core, row.pack, row.index).await?);
            }
        }
        Ok(())
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

/// The ids that the manifest at a place of a pack refers to.
pub(crate) async fn read_manifest_children(core: &Core, pack: PackNumber, index: u32) -> Result<Vec<ChunkId>> {
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
    children_of(entry.kind, &plain).map_err(|error| damaged(&core.layout.pack(&row.name), error))
}
