//! Checkpoints: what shortens the log.
//!
//! A checkpoint is a root over segments of the object table and of the pack table, all sealed files. Segments whose
//! range saw no change since the last checkpoint are referred to again. The two newest verified ones are kept; a
//! checkpoint counts only if its tip is on the log.

use std::collections::HashSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use bytes::Bytes;

use super::apply::HEADS_MAX;
use super::ownership::check_fence;
use crate::backend::{ErrorKind, Listed, Room};
use crate::catalog::{self, DirtyKey, Lookup, RepositorySnapshot, RowKey, RowSealer, Table, TipRow};
use crate::engine::compute::Compute;
use crate::engine::core::Core;
use crate::engine::error::{Error, Result};
use crate::engine::pace::Pace;
use crate::engine::packs::damaged;
use crate::engine::random;
use crate::engine::write::upload::RestRule;
use crate::format::checkpoint::{
    CHECKPOINT_HEADER_LEN, CheckpointHeader, KeyRange, PutIdEntry, open_checkpoint_file, seal_checkpoint_file,
};
use crate::format::names::parse_checkpoint;
use crate::format::{
    CheckpointId, CheckpointKind, CheckpointName, CheckpointRoot, ObjectSegment, ObjectVersion, PackNumber, PackRef,
    PackSegment, PackTableRow, SegmentRef, Tip,
};

/// Objects in a segment, about; half of it to all of it.
const SEGMENT_OBJECTS: u64 = 4096;
/// Dirty marks know 12 bits of an object's key.
const OBJECT_BITS_MAX: u8 = 12;
/// Most packs in a segment.
const SEGMENT_PACKS: usize = 4096;
/// Rows read from the catalog at a time: some tenths of a millisecond.
const PAGE: usize = 64;
/// For so long after the tables were looked at, what is written meanwhile included, it leaves the processor to whoever wants it
/// before each page. Then it takes the share that its thread has: until it ends, the tables keep what it looks at.
const UNHURRIED_FOR: Duration = Duration::from_secs(5);
/// Parts of tables of which a checkpoint forgets when they changed. That they do not grow in number for ever is all it is for, and
/// the log waits for it.
const FORGOTTEN_MAX: usize = 64;

/// Writes a checkpoint at the present tip, verifies it, and forgets what it makes superfluous. One at a time. Returns how many
/// bytes it wrote.
///
/// The log is held up only while the tables are looked at first, and while the tip row learns of it last: what lies between
/// reads the tables as they were. As nobody waits for it, it makes way for puts and gets.
///
/// # Errors
/// Nothing is lost if it fails: the log stays as long as it was.
pub(crate) async fn write(core: &Arc<Core>, epoch: u64) -> Result<u64> {
    let Some(draft) = Draft::begin(core).await? else {
        return Ok(0);
    };
    let files = core.backend.list(&core.layout.checkpoints_prefix(), None).await?;
    let (kept, former) = former(core, epoch, &draft.row, &files).await;
    let since = former.as_ref().map_or(0, |former| former.tip.log_number);
    let dirty = draft.reading(core, move |tables| Ok(tables.dirty(since)?)).await?;
    let writer = SegmentWriter {
        core,
        epoch,
        log_number: draft.tip.log_number,
        draft: &draft,
        rest: Pace::new(core).rule(),
        former: former.as_ref(),
        dirty: &dirty,
        present: files.iter().filter_map(|file| parse_checkpoint(&file.path)).collect(),
        written: AtomicU64::new(0),
    };
    let object_segments = writer.objects(draft.row.stats.objects).await?;
    let pack_segments = writer.packs().await?;
    let root = CheckpointRoot {
        tip: draft.tip,
        head: draft.row.head,
        sequence: draft.row.sequence,
        heads: draft
            .reading(core, |tables| Ok(tables.heads_page(None, HEADS_MAX as usize)?))
            .await?,
        put_ids: draft
            .reading(core, |tables| {
                Ok(tables.put_ids()?.into_iter().map(PutIdEntry::from).collect())
            })
            .await?,
        put_serial: draft.row.put_serial,
        object_segments,
        pack_segments,
    };
    let (root, name) = writer.root(root).await?;
    let written = writer.written.into_inner();
    let next = draft.install(core, name, kept, &dirty).await?;
    forget_others(core, epoch, &next, &root).await;
    // Tens of thousands of names each, freed one by one.
    core.background.start(move || drop((root, former)));
    Ok(written)
}

/// What a checkpoint is made of: the tables at one moment.
struct Draft {
    row: TipRow,
    tip: Tip,
    tables: Arc<Unhurried>,
}

impl Draft {
    /// None where the log has no entry yet.
    async fn begin(core: &Core) -> Result<Option<Self>> {
        let _applying = core.apply.lock().await;
        let row = core.catalog.tip()?.unwrap_or_default();
        let Some(tip) = row.tip else {
            return Ok(None);
        };
        Ok(Some(Self {
            tables: Arc::new(Unhurried {
                tables: core.catalog.snapshot_for_checkpoint(tip.log_number),
                begun: Instant::now(),
            }),
            row,
            tip,
        }))
    }

    /// Reads some of the tables where it holds nobody up. It gives way, but takes no rests: while the snapshot is open, the tables
    /// keep what is written and overwritten, in memory too.
    async fn reading<T: Send + 'static>(
        &self,
        core: &Core,
        read: impl FnOnce(&Unhurried) -> Result<T> + Send + 'static,
    ) -> Result<T> {
        let tables = self.tables.clone();
        core.background.run(move || read(&tables)).await?
    }

    /// Tells the tip row, which has moved on since, of the checkpoint. Returns it.
    async fn install(
        self,
        core: &Core,
        name: CheckpointName,
        kept: Option<(CheckpointName, u64)>,
        written: &[DirtyKey],
    ) -> Result<TipRow> {
        let _applying = core.apply.lock().await;
        let mut next = core.catalog.tip()?.unwrap_or_default();
        if next.checkpoints != self.row.checkpoints {
            return Err(Error::internal("the checkpoints changed while another one was written"));
        }
        next.checkpoints = [Some((name, self.tip.log_number)), kept];
        next.log_bytes_since_checkpoint -= self.row.log_bytes_since_checkpoint.min(next.log_bytes_since_checkpoint);
        let mut tx = core.catalog.begin();
        // Those of packs, which grow in number, are last.
        for part in written.iter().rev().take(FORGOTTEN_MAX) {
            tx.forget_dirty(*part, self.tip.log_number)?;
        }
        tx.set_tip(&next);
        tx.commit()?;
        Ok(next)
    }
}

/// The tables at one moment, read so that whoever wants the processor gets it before each page.
///
/// That a thread gives way in the scheduler's eyes is not enough: whoever wakes up meanwhile waits until its turn ends, some
/// milliseconds.
struct Unhurried {
    tables: RepositorySnapshot,
    begun: Instant,
}

impl Lookup for Unhurried {
    fn encoded(&self, table: Table, key: &RowKey) -> std::result::Result<Option<Vec<u8>>, catalog::Error> {
        self.tables.encoded(table, key)
    }

    fn encoded_page(
        &self,
        table: Table,
        after: Option<&RowKey>,
        limit: usize,
    ) -> std::result::Result<Vec<(RowKey, Vec<u8>)>, catalog::Error> {
        if self.begun.elapsed() < UNHURRIED_FOR {
            std::thread::yield_now();
        }
        self.tables.encoded_page(table, after, limit)
    }

    fn sealer(&self) -> &RowSealer {
        self.tables.sealer()
    }
}

/// The checkpoint that `tip` names as the last, if it is there and stays there.
///
/// A former owner may be slow to delete what it no longer needed: all but the two newest checkpoints that it knew. So one
/// of another owner is relied upon only as long as the store holds no two that are as new.
async fn former(
    core: &Core,
    epoch: u64,
    tip: &TipRow,
    files: &[Listed],
) -> (Option<(CheckpointName, u64)>, Option<CheckpointRoot>) {
    let Some((name, log_number)) = tip.checkpoints[0] else {
        return (None, None);
    };
    let Ok(root) = read_root_gently(core, &name).await else {
        return (None, None);
    };
    if name.epoch != epoch {
        let own: HashSet<_> = {
            let segments = root.object_segments.iter().chain(&root.pack_segments);
            segments.map(|segment| segment.name).chain([name]).collect()
        };
        let rank = |name: &CheckpointName| (name.epoch, name.log_number);
        let mut as_new = 0;
        for file in files {
            let other = parse_checkpoint(&file.path).filter(|other| rank(other) >= rank(&name) && !own.contains(other));
            if other.is_some()
                && read_kind(core, file)
                    .await
                    .is_none_or(|kind| kind == CheckpointKind::Root)
            {
                as_new += 1;
            }
        }
        if as_new > 1 {
            return (None, None);
        }
    }
    (Some((name, log_number)), Some(root))
}

/// Whether the two newest checkpoints are at the end of the log already, and can be read.
pub(crate) async fn is_newest(core: &Core, tip: &TipRow) -> bool {
    for checkpoint in &tip.checkpoints {
        let Some((name, log_number)) = checkpoint else {
            return false;
        };
        if *log_number != tip.log_number() || read_root(core, name).await.is_err() {
            return false;
        }
    }
    true
}

/// What a checkpoint file is; `None` if it cannot be told.
async fn read_kind(core: &Core, file: &Listed) -> Option<CheckpointKind> {
    let len = file.size.min(CHECKPOINT_HEADER_LEN as u64);
    let header = core.backend.get_range(&file.path, 0..len).await.ok()?;
    CheckpointHeader::parse(&header).ok().map(|header| header.kind)
}

/// Reads and opens a root.
pub(crate) async fn read_root(core: &Core, name: &CheckpointName) -> Result<CheckpointRoot> {
    read_root_on(&core.compute, core, name).await
}

/// As [`read_root`], for a checkpoint under way.
async fn read_root_gently(core: &Core, name: &CheckpointName) -> Result<CheckpointRoot> {
    read_root_on(&core.background, core, name).await
}

async fn read_root_on(threads: &Compute, core: &Core, name: &CheckpointName) -> Result<CheckpointRoot> {
    let path = core.layout.checkpoint(name);
    let file = core.backend.get(&path).await?;
    let (secrets, name) = (core.secrets.clone(), *name);
    let open = move || {
        open_checkpoint_file(&secrets, CheckpointKind::Root, &name, &file)
            .and_then(|plain| CheckpointRoot::decode(&plain))
            .map_err(|error| damaged(&path, error))
    };
    threads.run(open).await?
}

/// Reads and opens a segment of the object table.
pub(crate) async fn read_objects(core: &Core, segment: &SegmentRef) -> Result<ObjectSegment> {
    let (path, plain) = read_segment(core, segment, CheckpointKind::Objects).await?;
    ObjectSegment::decode(&plain).map_err(|error| damaged(&path, error))
}

/// Reads and opens a segment of the pack table.
pub(crate) async fn read_packs(core: &Core, segment: &SegmentRef) -> Result<PackSegment> {
    let (path, plain) = read_segment(core, segment, CheckpointKind::Packs).await?;
    PackSegment::decode(&plain).map_err(|error| damaged(&path, error))
}

async fn read_segment(core: &Core, segment: &SegmentRef, kind: CheckpointKind) -> Result<(String, Vec<u8>)> {
    let path = core.layout.checkpoint(&segment.name);
    let file = core.backend.get(&path).await?;
    if !segment.matches(&file) {
        return Err(Error::data_loss(format!(
            "{path}: a checkpoint segment is not the one its root lists"
        )));
    }
    let plain =
        open_checkpoint_file(&core.secrets, kind, &segment.name, &file).map_err(|error| damaged(&path, error))?;
    Ok((path, plain))
}

/// The roots in the store, newest first. Their tips may or may not be on the log.
pub(crate) async fn roots(core: &Core) -> Result<Vec<CheckpointName>> {
    let mut roots = Vec::new();
    for file in core.backend.list(&core.layout.checkpoints_prefix(), None).await? {
        let Some(name) = parse_checkpoint(&file.path) else {
            continue;
        };
        let len = file.size.min(CHECKPOINT_HEADER_LEN as u64);
        let header = match core.backend.get_range(&file.path, 0..len).await {
            Ok(header) => header,
            // Another owner cleared it away since it was listed.
            Err(error) if error.kind() == ErrorKind::NotFound => continue,
            Err(error) => return Err(error.into()),
        };
        match CheckpointHeader::parse(&header) {
            Ok(header) if header.kind == CheckpointKind::Root => roots.push(name),
            Ok(_) => {}
            Err(error) => tracing::warn!(path = %file.path, %error, "a checkpoint file is damaged"),
        }
    }
    roots.sort_by_key(|name| std::cmp::Reverse((name.epoch, name.log_number)));
    Ok(roots)
}

/// Writes the segments of one checkpoint.
struct SegmentWriter<'a> {
    core: &'a Core,
    epoch: u64,
    log_number: u64,
    draft: &'a Draft,
    rest: RestRule,
    former: Option<&'a CheckpointRoot>,
    /// What changed since.
    dirty: &'a [DirtyKey],
    /// Files in the store. Another owner may have cleared away what the former checkpoint refers to, and may have been
    /// interrupted before its root.
    present: HashSet<CheckpointName>,
    /// Bytes of the files it wrote.
    written: AtomicU64,
}

impl SegmentWriter<'_> {
    async fn objects(&self, objects: u64) -> Result<Vec<SegmentRef>> {
        let segments = objects.div_ceil(SEGMENT_OBJECTS).next_power_of_two();
        let bits = (segments.trailing_zeros() as u8).min(OBJECT_BITS_MAX);
        let mut refs = Vec::new();
        for index in 0..1u128 << bits {
            let first = if bits == 0 { 0 } else { index << (128 - u32::from(bits)) };
            let range = KeyRange::of(first.to_be_bytes(), bits);
            let former = self.former.map_or(&[][..], |root| &root.object_segments);
            if let Some(same) = self.unchanged(former, &range) {
                refs.push(same);
                continue;
            }
            let plain = self.draft.reading(self.core, move |tables| {
                let rows = object_rows(tables, &range)?;
                Ok((!rows.is_empty()).then(|| ObjectSegment { range, rows }.encode()))
            });
            if let Some(plain) = plain.await? {
                refs.push(self.segment(CheckpointKind::Objects, range, plain).await?);
            }
        }
        Ok(refs)
    }

    async fn packs(&self) -> Result<Vec<SegmentRef>> {
        let rows = self.draft.reading(self.core, pack_rows).await?;
        let mut refs = Vec::new();
        for (range, rows) in split(KeyRange::of([0; 16], 0), &rows) {
            let former = self.former.map_or(&[][..], |root| &root.pack_segments);
            match self.unchanged(former, &range) {
                Some(same) => refs.push(same),
                None => {
                    let plain = PackSegment {
                        range,
                        rows: rows.to_vec(),
                    };
                    refs.push(self.segment(CheckpointKind::Packs, range, plain.encode()).await?);
                }
            }
        }
        Ok(refs)
    }

    /// The segment of the former checkpoint with this very range, if nothing in it has changed and it is still there.
    fn unchanged(&self, former: &[SegmentRef], range: &KeyRange) -> Option<SegmentRef> {
        let same = former.iter().find(|segment| segment.range == *range)?;
        if !self.present.contains(&same.name) {
            return None;
        }
        let same_table = |key: &DirtyKey| matches!(key, DirtyKey::Objects(_)) == self.is_objects(former);
        let touched = self
            .dirty
            .iter()
            .filter(|key| same_table(key))
            .any(|key| overlaps(range, key));
        (!touched).then_some(*same)
    }

    fn is_objects(&self, former: &[SegmentRef]) -> bool {
        self.former
            .is_some_and(|root| std::ptr::eq(former, root.object_segments.as_slice()))
    }

    async fn segment(&self, kind: CheckpointKind, range: KeyRange, plain: Vec<u8>) -> Result<SegmentRef> {
        let (name, file) = self.put(kind, plain).await?;
        let read = self.core.backend.get(&self.core.layout.checkpoint(&name)).await?;
        let segment = SegmentRef::to(range, name, &self.core.secrets, &file);
        if !segment.matches(&read) {
            return Err(Error::data_loss(
                "a checkpoint segment reads back differently from what was written",
            ));
        }
        Ok(segment)
    }

    /// Writes the root and reads it back.
    async fn root(&self, root: CheckpointRoot) -> Result<(CheckpointRoot, CheckpointName)> {
        let background = &self.core.background;
        let (root, encoded) = background
            .run(move || {
                let encoded = root.encode();
                (root, encoded)
            })
            .await?;
        let (name, _) = self.put(CheckpointKind::Root, encoded).await?;
        let read = read_root_gently(self.core, &name).await?;
        background
            .run(move || match read == root {
                true => Ok((root, name)),
                false => Err(Error::data_loss(
                    "a checkpoint reads back differently from what was written",
                )),
            })
            .await?
    }

    async fn put(&self, kind: CheckpointKind, plain: Vec<u8>) -> Result<(CheckpointName, Bytes)> {
        let name = CheckpointName {
            epoch: self.epoch,
            log_number: self.log_number,
            id: CheckpointId(random()?),
        };
        let secrets = self.core.secrets.clone();
        let file = Bytes::from(
            self.core
                .background
                .run(move || seal_checkpoint_file(&secrets, kind, &name, plain))
                .await?,
        );
        let path = self.core.layout.checkpoint(&name);
        self.core
            .backend
            .put_gently(&path, file.clone(), Room::Reserve, &*self.rest)
            .await?;
        self.written.fetch_add(file.len() as u64, Ordering::Relaxed);
        Ok((name, file))
    }
}

fn object_rows(tables: &Unhurried, range: &KeyRange) -> Result<Vec<ObjectVersion>> {
    let mut after = u128::from_be_bytes(range.first()).checked_sub(1).map(u128::to_be_bytes);
    let mut rows = Vec::new();
    loop {
        let page = tables.objects_page(after, PAGE)?;
        let Some((last, _)) = page.last() else {
            return Ok(rows);
        };
        after = Some(*last);
        for (key, object) in page {
            if !range.contains(&key) {
                return Ok(rows);
            }
            rows.push(object);
        }
    }
}

/// The packs that stay.
fn pack_rows(tables: &Unhurried) -> Result<Vec<PackTableRow>> {
    let mut rows: Vec<PackTableRow> = Vec::new();
    let mut after = None;
    loop {
        let page = tables.packs_page(after, PAGE)?;
        let Some(last) = page.last() else {
            return Ok(rows);
        };
        after = Some(last.name.number);
        rows.extend(page.iter().filter(|row| row.condemned_at == 0).map(|row| PackTableRow {
            pack: PackRef {
                name: row.name,
                size: row.size,
                trailer_hash: row.trailer_hash,
            },
            kind: row.kind,
            log_number: row.log_number,
        }));
    }
}

/// Divides rows, sorted by pack number, into ranges of at most [`SEGMENT_PACKS`]. A range is halved until its rows fit,
/// so old ranges stay what they are while new packs come at the end.
fn split(range: KeyRange, rows: &[PackTableRow]) -> Vec<(KeyRange, &[PackTableRow])> {
    if rows.is_empty() {
        return Vec::new();
    }
    if rows.len() <= SEGMENT_PACKS || range.bits() == 128 {
        return vec![(range, rows)];
    }
    let bits = range.bits() + 1;
    let lower = KeyRange::of(range.first(), bits);
    let at = rows.partition_point(|row| lower.contains(&row.pack.name.number.to_bytes()));
    let upper_first = u128::from_be_bytes(range.first()) | 1 << (128 - u32::from(bits));
    let mut parts = split(lower, &rows[..at]);
    parts.extend(split(KeyRange::of(upper_first.to_be_bytes(), bits), &rows[at..]));
    parts
}

/// Whether a dirty mark touches a range.
fn overlaps(range: &KeyRange, key: &DirtyKey) -> bool {
    let (first, bits) = match key {
        DirtyKey::Objects(prefix) => (u128::from(*prefix) << 116, 12),
        DirtyKey::Packs { epoch, directory } => {
            let number = PackNumber {
                epoch: *epoch,
                counter: directory * 4096,
            };
            (u128::from_be_bytes(number.to_bytes()), 116)
        }
    };
    let first = first.to_be_bytes();
    range.contains(&first) || KeyRange::of(first, bits).contains(&range.first())
}

/// Deletes checkpoint files that none of the two kept roots needs; as long as there is only one, none. A failure costs
/// space only.
async fn forget_others(core: &Core, epoch: u64, tip: &TipRow, newest: &CheckpointRoot) {
    let Some((second, _)) = &tip.checkpoints[1] else {
        return;
    };
    let Ok(second) = read_root_gently(core, second).await else {
        return;
    };
    let mut kept: HashSet<CheckpointName> = tip.checkpoints.iter().flatten().map(|(name, _)| *name).collect();
    for root in [newest, &second] {
        kept.extend(
            root.object_segments
                .iter()
                .chain(&root.pack_segments)
                .map(|segment| segment.name),
        );
    }
    core.background.start(move || drop(second));
    // Listed before the fence: what an owner writes that comes after it is not among these.
    let Ok(files) = core.backend.list(&core.layout.checkpoints_prefix(), None).await else {
        return;
    };
    if check_fence(core, epoch).await.is_err() {
        return;
    }
    for file in files {
        let superfluous = parse_checkpoint(&file.path).is_some_and(|name| !kept.contains(&name));
        if superfluous && let Err(error) = core.backend.delete(&file.path).await {
            tracing::warn!(%error, "an old checkpoint file could not be deleted");
        }
    }
}
