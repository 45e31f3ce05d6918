//! Leaves and roots, read in runs: those that lie together in a pack come in one request.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::ops::Range;
use std::sync::Arc;

use bytes::Bytes;
use parking_lot::Mutex;

use super::count::References;
use crate::catalog::{ChunkRow, EntriesRow, Lookup};
use crate::codec::ChunkId;
use crate::engine::core::Core;
use crate::engine::error::{Error, Reason, Result};
use crate::engine::packs::{children_of, damaged, open_manifest, read_manifest};
use crate::format::{BlobKind, Entry, PackName, PackNumber};

/// Longest run.
const RUN_MAX: u64 = 1 << 20;
/// Runs that are remembered: the root of an object mostly lies behind its last leaf.
const REMEMBERED_MAX: usize = 4 << 20;

/// Manifests that lie together in a pack.
pub(super) struct Run {
    pack: PackName,
    entries: Arc<EntriesRow>,
    range: Range<u64>,
    /// Those that are wanted.
    rows: Vec<ChunkRow>,
    /// Its bytes, if they were read before.
    bytes: Option<Bytes>,
}

/// A run that was read: what each manifest that was wanted refers to, and the bytes to remember.
pub(super) struct ReadRun {
    pub(super) references: Vec<(ChunkRow, Result<References>)>,
    pub(super) read: Option<(Key, Bytes)>,
}

type Key = (PackNumber, u64);

/// The runs read last.
#[derive(Default)]
pub(super) struct Remembered {
    runs: HashMap<Key, Bytes>,
    order: VecDeque<Key>,
    bytes: usize,
}

impl Remembered {
    pub(super) fn add(&mut self, key: Key, bytes: Bytes) {
        self.bytes += bytes.len();
        if self.runs.insert(key, bytes).is_none() {
            self.order.push_back(key);
        }
        while self.bytes > REMEMBERED_MAX
            && let Some(oldest) = self.order.pop_front()
        {
            self.bytes -= self.runs.remove(&oldest).map_or(0, |bytes| bytes.len());
        }
    }
}

impl Run {
    pub(super) fn bytes(&self) -> u64 {
        self.range.end - self.range.start
    }

    /// Reads it, at once if that works, else one manifest after the other.
    pub(super) async fn read(self, core: Arc<Core>) -> Result<ReadRun> {
        core.revocation.check()?;
        let key = (self.pack.number, self.range.start);
        if let Some(bytes) = self.bytes.clone() {
            let references = self.open(&core, bytes).await?;
            return Ok(ReadRun { references, read: None });
        }
        match core
            .backend
            .get_range(&core.layout.pack(&self.pack), self.range.clone())
            .await
        {
            Ok(bytes) => {
                let references = self.open(&core, bytes.clone()).await?;
                let read = Some((key, bytes));
                Ok(ReadRun { references, read })
            }
            Err(error) => match Error::from(error) {
                error if error.reason() == Reason::DataLoss => {
                    let references = self.read_each(&core).await;
                    Ok(ReadRun { references, read: None })
                }
                error => Err(error),
            },
        }
    }

    async fn open(self, core: &Arc<Core>, bytes: Bytes) -> Result<Vec<(ChunkRow, Result<References>)>> {
        let opening = core.clone();
        let open = move || {
            let core = &opening;
            let path = core.layout.pack(&self.pack);
            let opened = |row: &ChunkRow| {
                let entry = &self.entries.entries[row.index as usize];
                let from = (u64::from(entry.offset) - self.range.start) as usize;
                let sealed = bytes.slice(from..from + entry.stored_len as usize);
                let birth = &self.entries.births[usize::from(entry.birth)];
                let plain = open_manifest(core, &path, entry, birth, sealed)?;
                References::of_manifest(entry.kind, &plain).map_err(|error| damaged(&path, error))
            };
            let rows = self.rows.iter();
            rows.map(|row| (row.clone(), opened(row))).collect()
        };
        core.compute.run(open).await
    }

    async fn read_each(&self, core: &Core) -> Vec<(ChunkRow, Result<References>)> {
        let path = core.layout.pack(&self.pack);
        let mut references = Vec::new();
        for row in &self.rows {
            let entry = &self.entries.entries[row.index as usize];
            let birth = &self.entries.births[usize::from(entry.birth)];
            let plain = read_manifest(core, &self.pack, entry, birth).await;
            let of =
                |plain: Vec<u8>| References::of_manifest(entry.kind, &plain).map_err(|error| damaged(&path, error));
            references.push((row.clone(), plain.and_then(of)));
        }
        references
    }
}

/// The runs that hold these manifests, in the order of their places.
pub(super) fn runs<'a>(
    core: &'a Core,
    remembered: &'a Mutex<Remembered>,
    rows: Vec<ChunkRow>,
) -> impl Iterator<Item = Result<Run>> + use<'a> {
    let mut packs: BTreeMap<PackNumber, Vec<ChunkRow>> = BTreeMap::new();
    for row in rows {
        packs.entry(row.pack).or_default().push(row);
    }
    packs.into_iter().flat_map(move |(pack, rows)| {
        let runs = runs_of_pack(core, remembered, pack, rows);
        let (runs, error) = runs.map_or_else(|error| (Vec::new(), Some(error)), |runs| (runs, None));
        runs.into_iter().map(Ok).chain(error.map(Err))
    })
}

fn runs_of_pack(
    core: &Core,
    remembered: &Mutex<Remembered>,
    pack: PackNumber,
    rows: Vec<ChunkRow>,
) -> Result<Vec<Run>> {
    let (name, entries) = contents(core, pack)?;
    let entries = Arc::new(entries);
    let stretches = stretches(&entries.entries);
    let mut runs: BTreeMap<u64, Run> = BTreeMap::new();
    for row in rows {
        let offset = u64::from(entry(&entries, row.index)?.offset);
        let range = stretches.iter().find(|range| range.contains(&offset));
        let range = range.ok_or_else(|| broken("the catalog takes a chunk for a manifest; run `cairn rebuild`"))?;
        let run = runs.entry(range.start).or_insert_with(|| Run {
            pack: name,
            entries: entries.clone(),
            range: range.clone(),
            rows: Vec::new(),
            bytes: remembered.lock().runs.get(&(pack, range.start)).cloned(),
        });
        run.rows.push(row);
    }
    Ok(runs.into_values().collect())
}

/// Where manifests follow each other in a pack, each stretch at most [`RUN_MAX`] long, but for one that is longer alone.
fn stretches(entries: &[Entry]) -> Vec<Range<u64>> {
    let mut stretches: Vec<Range<u64>> = Vec::new();
    for entry in entries.iter().filter(|entry| entry.kind != BlobKind::Data) {
        let (start, end) = (u64::from(entry.offset), entry.end());
        match stretches.last_mut() {
            Some(last) if last.end == start && end - last.start <= RUN_MAX => last.end = end,
            _ => stretches.push(start..end),
        }
    }
    stretches
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
    let (name, entries) = contents(core, pack)?;
    let entry = entry(&entries, index)?;
    let plain = read_manifest(core, &name, entry, &entries.births[entry.birth as usize]).await?;
    Ok((core.layout.pack(&name), entry.kind, plain))
}

fn contents(core: &Core, pack: PackNumber) -> Result<(PackName, EntriesRow)> {
    match (core.catalog.pack(pack)?, core.catalog.entries(pack)?) {
        (Some(row), Some(entries)) => Ok((row.name, entries)),
        _ => Err(broken(
            "the catalog knows a manifest but not its pack; run `cairn rebuild`",
        )),
    }
}

fn entry(entries: &EntriesRow, index: u32) -> Result<&Entry> {
    let found = entries.entries.get(index as usize);
    found.ok_or_else(|| broken("the catalog names a manifest its pack does not have; run `cairn rebuild`"))
}

fn broken(line: &'static str) -> Error {
    Error::new(Reason::CatalogFailed, line)
}
