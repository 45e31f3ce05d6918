//! The body of a pack, read once from start to end: block sums, and with keys each blob.

use std::collections::HashMap;
use std::ops::Range;
use std::sync::Arc;

use bytes::Bytes;

use super::frame::{Flaw, Frame};
use super::walk::{Read, Walk};
use crate::catalog::EntriesRow;
use crate::codec::{ChunkId, Decompressor};
use crate::engine::core::Core;
use crate::engine::error::{Error, Result};
use crate::engine::packs::children_of;
use crate::format::pack::{BLOCK_LEN, damaged_blocks};
use crate::format::{BlobKind, BlobOpener, Entry};

/// Bytes read at a time: whole blocks.
const WINDOW: u64 = 16 * BLOCK_LEN as u64;

/// What the blobs of a pack are worth.
#[derive(Default)]
pub(crate) struct Blobs {
    /// Indices of entries that open and are what they say.
    pub(crate) whole: Vec<u32>,
    /// Those that are not, and why.
    pub(crate) damaged: Vec<(u32, String)>,
    /// What the manifests among the whole ones lead to.
    pub(super) children: Vec<(u32, Vec<ChunkId>)>,
}

/// Compares every block of the body with its sum. Without sums nothing is read.
pub(super) async fn check_blocks(walk: &Walk<'_>, path: &str, frame: &Frame) -> Result<Vec<Flaw>> {
    let mut flaws = Vec::new();
    let body_len = body_len(frame);
    let mut start = 0;
    while start < body_len && !frame.sums.is_empty() {
        let range = start..body_len.min(start + WINDOW);
        match walk.read(path, range.clone()).await? {
            Read::Missing => return Ok(Vec::new()),
            Read::Unreadable(problem) => add(&mut flaws, range.clone(), problem),
            Read::Bytes(bytes) => {
                let sums = frame.sums.clone();
                let hashing = tokio::task::spawn_blocking(move || sum_flaws(&sums, start, &bytes));
                let found = hashing.await.map_err(|_| Error::internal("hashing a pack panicked"))?;
                found.into_iter().for_each(|range| add(&mut flaws, range, SUM_PROBLEM));
            }
        }
        start = range.end;
    }
    Ok(flaws)
}

const SUM_PROBLEM: &str = "it does not match its block sum";

fn body_len(frame: &Frame) -> u64 {
    frame.trailer.as_ref().map_or(0, |trailer| trailer.body_len)
}

/// The damaged blocks of a run of the body that starts at `start`.
fn sum_flaws(sums: &[u8], start: u64, bytes: &[u8]) -> Vec<Range<u64>> {
    let end = start + bytes.len() as u64;
    damaged_blocks(sums, start, bytes)
        .map(|block| {
            let first = block * BLOCK_LEN as u64;
            first..end.min(first + BLOCK_LEN as u64)
        })
        .collect()
}

/// Adds a range, joined to its neighbour before if they share the problem.
fn add(flaws: &mut Vec<Flaw>, range: Range<u64>, problem: impl Into<String>) {
    let problem = problem.into();
    match flaws.last_mut() {
        Some(last) if last.range.end == range.start && last.problem == problem => last.range.end = range.end,
        _ => flaws.push(Flaw { range, problem }),
    }
}

/// Opens every blob of a pack, and compares every block with its sum if the sums are there. Memory: a window and the
/// largest blob.
pub(super) async fn open_all(
    core: &Arc<Core>,
    walk: &Walk<'_>,
    path: &str,
    entries: &Arc<EntriesRow>,
    frame: &Frame,
) -> Result<(Blobs, Vec<Flaw>)> {
    let blobs_end = entries.entries.last().map_or(0, Entry::end);
    let end = frame.size.min(body_len(frame).max(blobs_end));
    let mut stretch = Stretch::new(core.clone(), entries.clone(), frame.sums.clone());
    let mut start = 0;
    while start < end {
        let _paid = core.budget.pay_read(WINDOW as usize).await;
        let range = start..end.min(start + WINDOW);
        match walk.read(path, range.clone()).await? {
            Read::Bytes(bytes) => stretch = core.compute.run(move || stretch.follow(&bytes)).await?,
            Read::Missing => stretch.skip(range.clone(), "it went away while it was read".to_owned()),
            Read::Unreadable(problem) => stretch.skip(range.clone(), problem),
        }
        start = range.end;
    }
    stretch.give_up("the pack ends before it".to_owned());
    Ok((stretch.blobs, stretch.flaws))
}

/// Opens those blobs of a pack in memory that `concerns` accepts, one after the other: for a thread of its own.
pub(crate) fn open_whole(
    core: Arc<Core>,
    entries: Arc<EntriesRow>,
    pack: &[u8],
    concerns: impl Fn(&Entry) -> bool,
) -> Blobs {
    let mut opener = Opener::new(core, entries.clone());
    for (index, entry) in (0..).zip(&entries.entries) {
        if !concerns(entry) {
            continue;
        }
        let sealed = pack
            .get(entry.offset as usize..)
            .and_then(|rest| rest.get(..entry.stored_len as usize));
        match sealed {
            Some(sealed) => opener.check(index, sealed),
            None => opener.blobs.damaged.push((index, "the pack ends before it".to_owned())),
        }
    }
    opener.blobs
}

/// Opens the leaves and roots of a pack only.
pub(super) async fn open_manifests(
    core: &Arc<Core>,
    walk: &Walk<'_>,
    path: &str,
    entries: &Arc<EntriesRow>,
) -> Result<Blobs> {
    let mut opener = Opener::new(core.clone(), entries.clone());
    let mut blobs = Blobs::default();
    for (index, entry) in (0..).zip(&entries.entries) {
        if entry.kind == BlobKind::Data {
            continue;
        }
        match walk.read(path, u64::from(entry.offset)..entry.end()).await? {
            Read::Bytes(bytes) => {
                opener = core
                    .compute
                    .run(move || {
                        opener.check(index, &bytes);
                        opener
                    })
                    .await?;
            }
            Read::Missing => blobs.damaged.push((index, "the pack is missing".to_owned())),
            Read::Unreadable(problem) => blobs.damaged.push((index, problem)),
        }
    }
    blobs.damaged.append(&mut opener.blobs.damaged);
    Ok(Blobs {
        damaged: blobs.damaged,
        ..opener.blobs
    })
}

/// A run through a body: what was read and belongs to a blob that is not whole yet.
struct Stretch {
    opener: Opener,
    sums: Bytes,
    /// Bytes of the body from `held_at` on.
    held: Vec<u8>,
    held_at: u64,
    /// The next entry to open.
    next: usize,
    blobs: Blobs,
    flaws: Vec<Flaw>,
}

impl Stretch {
    fn new(core: Arc<Core>, entries: Arc<EntriesRow>, sums: Bytes) -> Self {
        Self {
            opener: Opener::new(core, entries),
            sums,
            held: Vec::new(),
            held_at: 0,
            next: 0,
            blobs: Blobs::default(),
            flaws: Vec::new(),
        }
    }

    fn follow(mut self, bytes: &[u8]) -> Self {
        let start = self.held_at + self.held.len() as u64;
        if !self.sums.is_empty() {
            for range in sum_flaws(&self.sums, start, bytes) {
                add(&mut self.flaws, range, SUM_PROBLEM);
            }
        }
        self.held.extend_from_slice(bytes);
        let end = start + bytes.len() as u64;
        while let Some(entry) = self.opener.entries.entries.get(self.next).copied() {
            if entry.end() > end {
                break;
            }
            if let Some(from) = u64::from(entry.offset).checked_sub(self.held_at) {
                let sealed = &self.held[from as usize..from as usize + entry.stored_len as usize];
                self.opener.check(self.next as u32, sealed);
            }
            self.next += 1;
        }
        let needed = self.opener.entries.entries.get(self.next);
        let keep_from = needed.map_or(end, |entry| u64::from(entry.offset).clamp(self.held_at, end));
        self.held.drain(..(keep_from - self.held_at) as usize);
        self.held_at = keep_from;
        self.blobs.whole.append(&mut self.opener.blobs.whole);
        self.blobs.damaged.append(&mut self.opener.blobs.damaged);
        self.blobs.children.append(&mut self.opener.blobs.children);
        self
    }

    /// Passes over a range that cannot be read: what lies in it, in part or wholly, is damaged.
    fn skip(&mut self, range: Range<u64>, problem: String) {
        while let Some(entry) = self.opener.entries.entries.get(self.next) {
            if u64::from(entry.offset) >= range.end {
                break;
            }
            self.blobs.damaged.push((self.next as u32, problem.clone()));
            self.next += 1;
        }
        add(&mut self.flaws, range.clone(), problem);
        self.held.clear();
        self.held_at = range.end;
    }

    fn give_up(&mut self, problem: String) {
        let rest = self.next..self.opener.entries.entries.len();
        self.blobs
            .damaged
            .extend(rest.map(|index| (index as u32, problem.clone())));
    }
}

/// Opens blobs of one pack and checks that they are what their entries say.
struct Opener {
    core: Arc<Core>,
    entries: Arc<EntriesRow>,
    keys: HashMap<u16, BlobOpener>,
    decompressor: Decompressor,
    sealed: Vec<u8>,
    plain: Vec<u8>,
    blobs: Blobs,
}

impl Opener {
    fn new(core: Arc<Core>, entries: Arc<EntriesRow>) -> Self {
        Self {
            core,
            entries,
            keys: HashMap::new(),
            decompressor: Decompressor::new(),
            sealed: Vec::new(),
            plain: Vec::new(),
            blobs: Blobs::default(),
        }
    }

    fn check(&mut self, index: u32, sealed: &[u8]) {
        let entry = self.entries.entries[index as usize];
        match self.open(&entry, sealed) {
            Ok(children) => {
                self.blobs.whole.push(index);
                if let Some(children) = children {
                    self.blobs.children.push((index, children));
                }
            }
            Err(error) => self.blobs.damaged.push((index, error.to_string())),
        }
    }

    fn open(&mut self, entry: &Entry, sealed: &[u8]) -> Result<Option<Vec<ChunkId>>> {
        let secrets = &self.core.secrets;
        if !self.keys.contains_key(&entry.birth) {
            let birth = &self.entries.births[usize::from(entry.birth)];
            self.keys.insert(entry.birth, BlobOpener::new(secrets, birth)?);
        }
        self.sealed.clear();
        self.sealed.extend_from_slice(sealed);
        let compressed = self.keys[&entry.birth].open(entry, &mut self.sealed)?;
        self.plain.clear();
        self.decompressor
            .decompress(entry.codec, compressed, entry.plain_len as usize, &mut self.plain)
            .map_err(|error| Error::data_loss(error.to_string()))?;
        let key = match entry.kind {
            BlobKind::Data => secrets.id_key()?,
            BlobKind::Leaf => secrets.leaf_id_key(),
            BlobKind::Root => secrets.root_id_key(),
        };
        if key.id(&self.plain) != entry.id {
            return Err(Error::data_loss("its content does not match its id"));
        }
        match entry.kind {
            BlobKind::Data => Ok(None),
            kind => Ok(Some(children_of(kind, &self.plain)?)),
        }
    }
}
