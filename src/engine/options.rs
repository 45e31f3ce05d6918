//! Every bound of the engine, with its unit and reason.

use std::collections::BTreeMap;
use std::num::NonZeroUsize;
use std::time::Duration;

use super::limits::Quota;
use super::removal::DeletionPolicy;
use super::status::CapacityPolicy;
use crate::backend::Rates;

/// Bounds and sizes of one open store. `Options::default()` suits the command line.
#[derive(Clone, Debug)]
pub struct Options {
    /// Payload bytes in flight over all streams: slabs being cut, blobs in open packs, packs being put.
    pub budget_bytes: usize,
    /// Threads that cut, hash, compress and seal.
    pub compute_threads: NonZeroUsize,
    /// Most bytes of a pack. Also held to a quarter of the budget, so that one pack fills while others are put.
    pub pack_bytes_target: usize,
    /// Packs being put at once, per repository.
    pub uploads_max: usize,
    /// Records in one commit pack. Bounds the size of its directory and the memory of applying it.
    pub commit_records_max: usize,
    /// Durable chunk packs that wait to be introduced before a commit is made for them alone. Bounds the memory that
    /// a long stream needs before its record.
    pub introduce_packs_max: usize,
    /// Blobs in those packs, and chunks that their manifests refer to, after which such a commit is made as well: small chunks, or
    /// such as compress well, make a pack of many, and manifests of chunks that are there already refer to far more. The memory and
    /// the time that a commit takes to apply grow with them, so a pack that brings so many ends with them.
    pub introduce_blobs_max: usize,
    /// Bytes of log, the blobs in commit packs not counted, after which a checkpoint is written. Not before commit packs have come to
    /// 16 times the bytes of the last checkpoint, unless the log has grown by 16 times these bytes.
    pub checkpoint_log_bytes: u64,
    /// Children of a manifest that nothing refers to any more, released in one step. Bounds how long a commit waits for that.
    pub release_children_max: usize,
    /// Bytes a read fetches ahead of its consumer.
    pub read_ahead_bytes: usize,
    /// Fetches of one read at once.
    pub read_fetches_max: usize,
    /// Bytes that the cache of pack entries may hold; it answers runs of duplicates.
    pub locality_bytes: usize,
    /// The most that the store may use: packs of all repositories and the catalog.
    pub store_bytes_max: Option<u64>,
    /// The most that repositories may hold, by name, whether they exist yet or not.
    pub quotas: BTreeMap<String, Quota>,
    /// How fast the storage may be asked, by class of work.
    pub rates: Rates,
    /// From where on room is called low.
    pub capacity: CapacityPolicy,
    /// Whether the reserve of a volume is kept in files while a monitor runs or a status is asked for. One that is there is
    /// used in any case.
    pub hold_reserve: bool,
    /// How long a failure of the storage counts in the mode at least; after that a trial write has to go through as well.
    pub failure_hold: Duration,
    /// Whether repositories may be removed.
    pub deletion_policy: DeletionPolicy,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            budget_bytes: 64 << 20,
            compute_threads: std::thread::available_parallelism().unwrap_or(NonZeroUsize::MIN),
            pack_bytes_target: 32 << 20,
            uploads_max: 2,
            commit_records_max: 4096,
            introduce_packs_max: 16,
            introduce_blobs_max: 16_384,
            checkpoint_log_bytes: 8 << 20,
            release_children_max: 1024,
            read_ahead_bytes: 16 << 20,
            read_fetches_max: 4,
            locality_bytes: 24 << 20,
            store_bytes_max: None,
            quotas: BTreeMap::new(),
            rates: Rates::default(),
            capacity: CapacityPolicy::DEFAULT,
            hold_reserve: false,
            failure_hold: Duration::from_secs(30),
            deletion_policy: DeletionPolicy::Delete,
        }
    }
}

impl Options {
    /// Payload of a slab, the unit in which a stream is cut and worked on. One mebibyte keeps a slab and its output
    /// in a core's second-level cache; a repository with larger chunks needs room for one whole chunk.
    pub(crate) fn slab_bytes(chunk_max: u32) -> usize {
        (1 << 20).max(chunk_max as usize + (chunk_max as usize) / 2)
    }

    /// Target of a pack under this budget.
    pub(crate) fn pack_target(&self) -> usize {
        self.pack_bytes_target
            .min(self.budget_bytes / 4)
            .clamp(64 << 10, 64 << 20)
    }
}
