//! Every metric: its name, labels, unit and meaning. Nowhere else is a metric named.
//!
//! The numbers are those of others: [`engine::Counters`], [`backend::Counters`] and the store's [`Status`] are read when
//! they are asked for, so no two places count the same thing. Only calls and what they carry are counted here, by
//! [`Metrics`]. Names of objects are never labels: the number of time series depends on repositories, calls and codes.
//!
//! [`engine::Counters`]: crate::engine::Counters
//! [`backend::Counters`]: crate::backend::Counters

mod calls;
mod collect;
mod samples;
#[cfg(test)]
mod tests;

use prometheus::TextEncoder;

pub use calls::{Metrics, Open};
use samples::Samples;

use crate::engine::{Status, Store};

/// A metric, with all its time series.
#[derive(Debug)]
pub struct Family {
    /// Its name; the unit is part of it.
    pub name: &'static str,
    /// What its numbers are.
    pub kind: Kind,
    /// Names of its labels.
    pub labels: &'static [&'static str],
    /// What it says.
    pub help: &'static str,
}

/// What the numbers of a metric are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// A number that grows until the agent is started anew.
    Counter,
    /// A number that goes up and down.
    Gauge,
    /// Spans of time, counted by size in the buckets of [`BOUNDS_SECONDS`](crate::backend::BOUNDS_SECONDS).
    Histogram,
}

impl Kind {
    /// The word.
    pub fn as_str(self) -> &'static str {
        match self {
            Kind::Counter => "counter",
            Kind::Gauge => "gauge",
            Kind::Histogram => "histogram",
        }
    }
}

impl Family {
    const fn counter(name: &'static str, labels: &'static [&'static str], help: &'static str) -> Self {
        Self::new(name, Kind::Counter, labels, help)
    }

    const fn gauge(name: &'static str, labels: &'static [&'static str], help: &'static str) -> Self {
        Self::new(name, Kind::Gauge, labels, help)
    }

    const fn histogram(name: &'static str, labels: &'static [&'static str], help: &'static str) -> Self {
        Self::new(name, Kind::Histogram, labels, help)
    }

    const fn new(name: &'static str, kind: Kind, labels: &'static [&'static str], help: &'static str) -> Self {
        Self {
            name,
            kind,
            labels,
            help,
        }
    }

    /// What it counts in, by its name.
    pub fn unit(&self) -> &'static str {
        let name = self.name.strip_suffix("_total").unwrap_or(self.name);
        match name.rsplit('_').next() {
            Some("seconds") => "seconds",
            Some("bytes") => "bytes",
            _ => "",
        }
    }
}

impl Metrics {
    /// All metrics in the text format of Prometheus, with the newest status that the store has told its watchers.
    pub fn render(&self, store: &Store) -> String {
        let status = store.watch_status().borrow().clone();
        self.render_status(store, &status)
    }

    /// [`render`](Self::render) with a status of the caller's.
    pub fn render_status(&self, store: &Store, status: &Status) -> String {
        let mut samples = Samples::default();
        collect::process(&mut samples, self);
        collect::calls(&mut samples, self);
        collect::engine(&mut samples, store.counters());
        collect::backend(&mut samples, store.backend_counters());
        collect::shaping(&mut samples, store);
        collect::budget(&mut samples, store);
        collect::scrubs(&mut samples, store, status);
        collect::status(&mut samples, status);
        TextEncoder::new()
            .encode_to_string(&samples.into_families())
            .expect("a family exists once it has a sample, and every family has a name")
    }
}

// Calls.

const REQUESTS: Family = Family::counter(
    "cairn_requests_total",
    &["call", "code"],
    "Calls that have ended, by the gRPC code they ended with.",
);
const REQUEST_SECONDS: Family = Family::histogram(
    "cairn_request_seconds",
    &["call"],
    "How long calls took; a call that streams, to the end of its stream.",
);
const REQUESTS_OPEN: Family = Family::gauge(
    "cairn_requests_open",
    &["call"],
    "Calls that are under way, of DataPath/Put and DataPath/Get streams of objects.",
);
const RECEIVED: Family = Family::counter(
    "cairn_received_bytes_total",
    &[],
    "Bytes of objects that arrived in calls, also of those that failed later.",
);
const SENT: Family = Family::counter(
    "cairn_sent_bytes_total",
    &[],
    "Bytes of objects that were sent in calls.",
);
const CONNECTIONS: Family = Family::gauge("cairn_connections_open", &[], "Connections that are open.");
const OPERATIONS: Family = Family::counter(
    "cairn_operations_total",
    &["kind", "outcome"],
    "Maintenance operations that have ended, by how.",
);
const OPERATIONS_RUNNING: Family = Family::gauge(
    "cairn_operations_running",
    &["kind"],
    "Maintenance operations that are under way.",
);

// Objects.

const OBJECTS_PUT: Family = Family::counter(
    "cairn_objects_put_total",
    &[],
    "Objects put or copied; a put that is sent again counts once.",
);
const OBJECTS_DELETED: Family = Family::counter("cairn_objects_deleted_total", &[], "Objects deleted.");
const CHUNKS: Family = Family::counter(
    "cairn_chunks_total",
    &["result"],
    "Chunks of the objects put: new to their repository, or duplicate.",
);
const LOGICAL: Family = Family::counter(
    "cairn_logical_bytes_total",
    &[],
    "Bytes of the objects put, as written by callers.",
);
const UNIQUE: Family = Family::counter(
    "cairn_unique_bytes_total",
    &[],
    "Bytes of new chunks of the objects put, before compression.",
);
const STORED: Family = Family::counter(
    "cairn_stored_bytes_total",
    &[],
    "Bytes that the objects put added to the backing store: their shares of packs.",
);
const READ: Family = Family::counter(
    "cairn_read_bytes_total",
    &[],
    "Plain bytes of objects that were read and checked, for gets and verification.",
);
const LOOKUPS: Family = Family::counter(
    "cairn_chunk_lookups_total",
    &["result"],
    "Chunks and parts of manifests that puts looked up, by where they were found: in_flight, locality, catalog or miss.",
);
const QUARANTINED: Family = Family::counter(
    "cairn_chunks_quarantined_total",
    &[],
    "Chunks found damaged and set aside; objects with them cannot be read in full.",
);

const QUOTA_REFUSALS: Family = Family::counter(
    "cairn_quota_refusals_total",
    &[],
    "Puts and copies that the quota of their repository refused.",
);

// The backing store, as it answers.

const BACKEND_REQUESTS: Family = Family::counter(
    "cairn_backend_requests_total",
    &["operation", "outcome"],
    "Requests to the backing store, by how they ended; the repeats of one request are not told apart.",
);
const BACKEND_SECONDS: Family = Family::histogram(
    "cairn_backend_request_seconds",
    &["operation"],
    "How long requests to the backing store took, however they ended; puts and creates to being durable.",
);

const SHAPING_REQUESTS: Family = Family::counter(
    "cairn_shaping_requests_total",
    &["class"],
    "Requests to the backing store that were let pass, by class of work: foreground, reclaim, scrub or evacuate.",
);
const SHAPING_BYTES: Family = Family::counter(
    "cairn_shaping_bytes_total",
    &["class"],
    "Bytes that those requests read and wrote.",
);
const SHAPING_WAITED: Family = Family::counter(
    "cairn_shaping_waited_seconds_total",
    &["class"],
    "How long requests waited to be let pass.",
);
const SHAPING_RATE_BYTES: Family = Family::gauge(
    "cairn_shaping_rate_bytes",
    &["class"],
    "The most bytes of a class in a second; without a limit there is no series.",
);
const SHAPING_RATE_REQUESTS: Family = Family::gauge(
    "cairn_shaping_rate_requests",
    &["class"],
    "The most requests of a class in a second; without a limit there is no series.",
);

// The log and packs.

const COMMITS: Family = Family::counter("cairn_commits_total", &[], "Commits acknowledged.");
const COMMIT_SECONDS: Family = Family::histogram(
    "cairn_commit_seconds",
    &[],
    "How long commits took, the wait for packs they introduce included.",
);
const RECORDS: Family = Family::counter("cairn_records_total", &[], "Records in the commits acknowledged.");
const DURABLE_PUT_SECONDS: Family = Family::histogram(
    "cairn_durable_put_seconds",
    &["kind"],
    "How long packs took from being handed to the backing store to being durable; on a volume write, fsync and rename.",
);
const PACK_BYTES: Family = Family::counter("cairn_pack_bytes_total", &[], "Bytes of packs that were made durable.");
const CHECKPOINTS: Family = Family::counter("cairn_checkpoints_total", &[], "Checkpoints of the catalog written.");
const WRITERS: Family = Family::counter(
    "cairn_writers_opened_total",
    &[],
    "Times that a repository was taken for writing: after a start, and again after each failure of its writer.",
);
const REPLAYED: Family = Family::counter(
    "cairn_commits_replayed_total",
    &[],
    "Commits of the log applied to a catalog that had not seen them.",
);
const REBUILT: Family = Family::counter(
    "cairn_catalogs_rebuilt_total",
    &[],
    "Catalogs made anew from the backing store.",
);
const PACKS_DROPPED: Family = Family::counter("cairn_packs_dropped_total", &[], "Packs that reclaim deleted.");
const FREED: Family = Family::counter("cairn_freed_bytes_total", &[], "Bytes of packs that reclaim deleted.");
const PACKS_REWRITTEN: Family = Family::counter(
    "cairn_packs_rewritten_total",
    &[],
    "Packs that reclaim moved what is in use out of, and deleted.",
);
const MOVED: Family = Family::counter(
    "cairn_moved_bytes_total",
    &[],
    "Bytes in use that reclaim moved to other packs.",
);

// Scrubs.

const SCRUB_BYTES: Family = Family::counter("cairn_scrub_bytes_total", &[], "Bytes that scrubs read.");
const SCRUB_OBJECTS: Family = Family::counter(
    "cairn_scrub_stored_objects_total",
    &[],
    "Packs, keyrings and other objects of the backing store that scrubs checked.",
);
const SCRUB_DAMAGE: Family = Family::counter(
    "cairn_scrub_damage_total",
    &["kind"],
    "Damage that scrubs found, by the kind of stored object; found again, it counts again.",
);
const SCRUBS_RUNNING: Family = Family::gauge("cairn_scrubs_running", &["depth"], "Scrubs that are under way.");
const SCRUB_COMPLETED: Family = Family::gauge(
    "cairn_scrub_completed_timestamp_seconds",
    &["repository", "depth"],
    "When a scrub last came to its end, as time since 1970 UTC; a depth that never did has no series.",
);

// The store: its state, its room, its repositories.

const MODE: Family = Family::gauge(
    "cairn_mode",
    &["mode"],
    "1 for the mode that the agent is in, 0 for all others.",
);
const MODE_CAUSE: Family = Family::gauge(
    "cairn_mode_cause",
    &["code"],
    "1 for each cause that holds; a cause that does not hold has no series.",
);
const MODE_SINCE: Family = Family::gauge(
    "cairn_mode_since_timestamp_seconds",
    &[],
    "Since when the mode holds, as time since 1970 UTC.",
);
const CAPACITY: Family = Family::gauge(
    "cairn_capacity_bytes",
    &["kind"],
    "Room in the backing store: total, free, used, reserved, used_other, limit; unknown ones have no series.",
);
const INODES: Family = Family::gauge(
    "cairn_inodes",
    &["kind"],
    "Inodes of the volume, total and free, where it counts them.",
);
const BUDGET: Family = Family::gauge("cairn_budget_bytes", &[], "Payload that may be in flight at once.");
const BUDGET_USED: Family = Family::gauge("cairn_budget_used_bytes", &[], "Payload that is in flight.");
const KEYS: Family = Family::gauge("cairn_keys_loaded", &[], "Key-encryption keys that are there.");
const REPOSITORY_OBJECTS: Family = Family::gauge("cairn_repository_objects", &["repository"], "Objects.");
const REPOSITORY_CHUNKS: Family = Family::gauge("cairn_repository_chunks", &["repository"], "Chunks in use.");
const REPOSITORY_PACKS: Family = Family::gauge("cairn_repository_packs", &["repository"], "Packs.");
const REPOSITORY_LOGICAL: Family = Family::gauge(
    "cairn_repository_logical_bytes",
    &["repository"],
    "Bytes of all objects, as written by callers.",
);
const REPOSITORY_UNIQUE: Family = Family::gauge(
    "cairn_repository_unique_bytes",
    &["repository"],
    "Bytes of all chunks in use, before compression.",
);
const REPOSITORY_STORED: Family =
    Family::gauge("cairn_repository_stored_bytes", &["repository"], "Bytes of all packs.");
const REPOSITORY_GARBAGE: Family = Family::gauge(
    "cairn_repository_garbage_bytes",
    &["repository"],
    "Bytes in packs that nothing refers to any more.",
);
const REPOSITORY_QUOTA: Family = Family::gauge(
    "cairn_repository_quota_bytes",
    &["repository", "kind"],
    "The most that it may hold, of logical and of stored bytes; without a quota there is no series.",
);
const REPOSITORY_IN_FLIGHT: Family = Family::gauge(
    "cairn_repository_in_flight_bytes",
    &["repository", "kind"],
    "What is on its way into it: logical bytes that puts add, stored bytes of packs that are being filled or put.",
);
const REPOSITORY_LOG_NUMBER: Family = Family::gauge(
    "cairn_repository_log_number",
    &["repository"],
    "Number of the newest commit; it only grows.",
);

// The process.

const BUILD: Family = Family::gauge("cairn_build_info", &["version"], "1, with the version of the program.");
const PROCESS_START: Family = Family::gauge(
    "process_start_time_seconds",
    &[],
    "When the process was started, as time since 1970 UTC.",
);
const PROCESS_RESIDENT: Family = Family::gauge(
    "process_resident_memory_bytes",
    &[],
    "Memory of the process that is resident.",
);

/// Every metric, in the order of the documentation.
pub static FAMILIES: &[&Family] = &[
    &REQUESTS,
    &REQUEST_SECONDS,
    &REQUESTS_OPEN,
    &RECEIVED,
    &SENT,
    &CONNECTIONS,
    &OPERATIONS,
    &OPERATIONS_RUNNING,
    &OBJECTS_PUT,
    &OBJECTS_DELETED,
    &CHUNKS,
    &LOGICAL,
    &UNIQUE,
    &STORED,
    &READ,
    &LOOKUPS,
    &QUARANTINED,
    &QUOTA_REFUSALS,
    &BACKEND_REQUESTS,
    &BACKEND_SECONDS,
    &SHAPING_REQUESTS,
    &SHAPING_BYTES,
    &SHAPING_WAITED,
    &SHAPING_RATE_BYTES,
    &SHAPING_RATE_REQUESTS,
    &COMMITS,
    &COMMIT_SECONDS,
    &RECORDS,
    &DURABLE_PUT_SECONDS,
    &PACK_BYTES,
    &CHECKPOINTS,
    &WRITERS,
    &REPLAYED,
    &REBUILT,
    &PACKS_DROPPED,
    &FREED,
    &PACKS_REWRITTEN,
    &MOVED,
    &SCRUB_BYTES,
    &SCRUB_OBJECTS,
    &SCRUB_DAMAGE,
    &SCRUBS_RUNNING,
    &SCRUB_COMPLETED,
    &MODE,
    &MODE_CAUSE,
    &MODE_SINCE,
    &CAPACITY,
    &INODES,
    &BUDGET,
    &BUDGET_USED,
    &KEYS,
    &REPOSITORY_OBJECTS,
    &REPOSITORY_CHUNKS,
    &REPOSITORY_PACKS,
    &REPOSITORY_LOGICAL,
    &REPOSITORY_UNIQUE,
    &REPOSITORY_STORED,
    &REPOSITORY_GARBAGE,
    &REPOSITORY_QUOTA,
    &REPOSITORY_IN_FLIGHT,
    &REPOSITORY_LOG_NUMBER,
    &BUILD,
    &PROCESS_START,
    &PROCESS_RESIDENT,
];
