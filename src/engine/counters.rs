//! What an open store counts, over all its repositories and since it was opened.
//!
//! What a put wrote is counted in the same step as its record, from the same numbers as its result: the sum of what
//! callers were told, a put that is sent again counted once. Nothing is counted per chunk; lookups are counted by slab,
//! reads by window. How the storage answered is counted where it is asked: [`backend::Counters`].
//!
//! [`backend::Counters`]: crate::backend::Counters

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use super::scrub::Depth;
use crate::backend::{Count, Histogram};
use crate::format::{PackKind, StoredKind};

/// Counts of one store. They grow only, and begin anew with every start.
#[derive(Debug, Default)]
pub struct Counters {
    /// Objects put or copied, by acknowledged records.
    pub objects_put: Count,
    /// Objects deleted, by acknowledged records.
    pub objects_deleted: Count,
    /// Chunks of those objects that were not in their repository before.
    pub chunks_new: Count,
    /// Chunks of those objects that were.
    pub chunks_duplicate: Count,
    /// Bytes of those objects, as written by callers.
    pub logical_bytes: Count,
    /// Bytes of their new chunks, as written by callers.
    pub unique_bytes: Count,
    /// Bytes that they added to the backend: their shares of packs.
    pub stored_bytes: Count,
    /// Plain bytes that were read, checked and handed out.
    pub read_bytes: Count,

    /// Puts and copies that were refused by a quota.
    pub quota_refusals: Count,

    /// Records that were made durable, those of the log's own included.
    pub records: Count,
    /// Commits, from the wish to their acknowledgement.
    pub commit_seconds: Histogram,
    /// Putting packs of chunks, from the first byte handed to the backend until they are durable.
    pub chunk_pack_seconds: Histogram,
    /// The same for commit packs.
    pub commit_pack_seconds: Histogram,
    /// Bytes of packs that were made durable.
    pub pack_bytes: Count,
    /// Checkpoints written.
    pub checkpoints: Count,
    /// Times that a repository was taken for writing: once after a start, and again after each failure of its writer.
    pub writers_opened: Count,

    /// Chunks that were on their way when they were asked for again.
    pub lookups_in_flight: Count,
    /// Chunks found among the neighbours of one found before.
    pub lookups_locality: Count,
    /// Chunks found in the tables of the catalog.
    pub lookups_catalog: Count,
    /// Chunks that nobody knew.
    pub lookups_missed: Count,

    /// Commits of the log applied to a catalog that had not seen them.
    pub commits_replayed: Count,
    /// Catalogs made anew from the store.
    pub catalogs_rebuilt: Count,
    /// Packs deleted.
    pub packs_dropped: Count,
    /// Bytes of those.
    pub freed_bytes: Count,
    /// Those of the packs deleted that something in use was moved out of.
    pub packs_rewritten: Count,
    /// Bytes in use that were moved to other packs.
    pub moved_bytes: Count,
    /// Chunks found damaged and set aside.
    pub chunks_quarantined: Count,

    /// What scrubs read and found.
    pub scrubs: Scrubs,
}

/// Counts of scrubs.
#[derive(Debug, Default)]
pub struct Scrubs {
    /// Bytes read.
    pub bytes: Count,
    /// Stored objects checked.
    pub stored_objects: Count,
    damage: [Count; StoredKind::ALL.len()],
    running: [AtomicU64; Depth::ALL.len()],
}

impl Scrubs {
    /// Damage found in stored objects of a kind.
    pub fn damage(&self, kind: StoredKind) -> &Count {
        &self.damage[kind as usize]
    }

    /// Scrubs of a depth that are under way.
    pub fn running(&self, depth: Depth) -> u64 {
        self.running[depth as usize].load(Ordering::Relaxed)
    }

    /// One is under way until this is dropped.
    pub(crate) fn began(&self, depth: Depth) -> RunningScrub<'_> {
        let running = &self.running[depth as usize];
        running.fetch_add(1, Ordering::Relaxed);
        RunningScrub(running)
    }
}

/// A scrub under way.
pub(crate) struct RunningScrub<'a>(&'a AtomicU64);

impl Drop for RunningScrub<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Counters {
    /// Time and number of packs put, by their kind.
    pub fn pack_seconds(&self, kind: PackKind) -> &Histogram {
        match kind {
            PackKind::Chunk => &self.chunk_pack_seconds,
            PackKind::Commit => &self.commit_pack_seconds,
        }
    }

    /// A commit is acknowledged.
    pub(crate) fn committed(&self, tally: &Tally) {
        self.objects_put.add(tally.puts);
        self.objects_deleted.add(tally.deletes);
        self.chunks_new.add(tally.new_chunks);
        self.chunks_duplicate.add(tally.chunks - tally.new_chunks);
        self.logical_bytes.add(tally.bytes);
        self.unique_bytes.add(tally.new_bytes);
        let stored = tally.stored.iter().map(|share| share.load(Ordering::Relaxed));
        self.stored_bytes.add(stored.sum());
    }

    /// A slab was looked up: of `asked` chunks so many were known after each step.
    pub(crate) fn looked_up(&self, asked: u64, found: Found) {
        self.lookups_in_flight.add(found.in_flight);
        self.lookups_locality.add(found.locality);
        self.lookups_catalog.add(found.catalog);
        self.lookups_missed
            .add(asked - found.in_flight - found.locality - found.catalog);
    }

    /// A pack of `bytes` was deleted.
    pub(crate) fn dropped(&self, bytes: u64) {
        self.packs_dropped.add(1);
        self.freed_bytes.add(bytes);
    }
}

/// Where the chunks of a slab were found.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Found {
    pub(crate) in_flight: u64,
    pub(crate) locality: u64,
    pub(crate) catalog: u64,
}

/// What an object brought with it, for when its record is durable.
#[derive(Clone, Debug, Default)]
pub(crate) struct Written {
    pub(crate) new_chunks: u64,
    pub(crate) new_bytes: u64,
    /// Complete once the record is durable.
    pub(crate) stored: Arc<AtomicU64>,
}

/// What a commit will have done once it is acknowledged.
#[derive(Debug, Default)]
pub(crate) struct Tally {
    puts: u64,
    pub(crate) deletes: u64,
    bytes: u64,
    chunks: u64,
    new_chunks: u64,
    new_bytes: u64,
    stored: Vec<Arc<AtomicU64>>,
}

impl Tally {
    /// An object of so many bytes and chunks gets a record.
    pub(crate) fn put(&mut self, bytes: u64, chunks: u64, written: Written) {
        self.puts += 1;
        self.bytes += bytes;
        self.chunks += chunks;
        self.new_chunks += written.new_chunks;
        self.new_bytes += written.new_bytes;
        self.stored.push(written.stored);
    }
}
