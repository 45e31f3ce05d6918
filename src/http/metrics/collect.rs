//! Which number goes to which metric.

use std::collections::BTreeSet;
use std::time::UNIX_EPOCH;

use super::calls::CallCounts;
use super::samples::Samples;
use super::*;
use crate::backend::{self, Class, Count, Operation, Outcome};
use crate::engine::{Capacity, Counters, Depth, Mode, RepositoryStatus};
use crate::format::{PackKind, StoredKind};

pub(super) fn process(samples: &mut Samples, metrics: &Metrics) {
    samples.number(&BUILD, &[env!("CARGO_PKG_VERSION")], 1.0);
    let started = metrics.started.duration_since(UNIX_EPOCH).unwrap_or_default();
    samples.number(&PROCESS_START, &[], started.as_secs_f64());
    if let Some(bytes) = resident_bytes() {
        samples.number(&PROCESS_RESIDENT, &[], bytes as f64);
    }
}

/// Nothing where there is no such file.
fn resident_bytes() -> Option<u64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"))?;
    let kib: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    Some(kib * 1024)
}

pub(super) fn calls(samples: &mut Samples, metrics: &Metrics) {
    for (call, CallCounts { open, codes, seconds }) in metrics.calls() {
        samples.number(&REQUESTS_OPEN, &[call], open as f64);
        for (code, count) in codes {
            samples.number(&REQUESTS, &[call, code], count as f64);
        }
        samples.histogram(&REQUEST_SECONDS, &[call], &seconds);
    }
    samples.number(&RECEIVED, &[], metrics.received_bytes() as f64);
    samples.number(&SENT, &[], metrics.sent_bytes() as f64);
    samples.number(&CONNECTIONS, &[], metrics.connections_open() as f64);
    for (kind, outcomes, running) in metrics.operations() {
        for (outcome, count) in outcomes {
            samples.number(&OPERATIONS, &[kind, outcome], count as f64);
        }
        samples.number(&OPERATIONS_RUNNING, &[kind], running as f64);
    }
}

pub(super) fn engine(samples: &mut Samples, counters: &Counters) {
    for (family, labels, count) in counts(counters) {
        samples.number(family, labels, count.value() as f64);
    }
    let commits = counters.commit_seconds.snapshot();
    samples.number(&COMMITS, &[], commits.count as f64);
    samples.histogram(&COMMIT_SECONDS, &[], &commits);
    for (kind, word) in [(PackKind::Chunk, "chunk"), (PackKind::Commit, "commit")] {
        let seconds = counters.pack_seconds(kind).snapshot();
        samples.histogram(&DURABLE_PUT_SECONDS, &[word], &seconds);
    }
}

type Row<'a> = (&'static Family, &'static [&'static str], &'a Count);

fn counts(counters: &Counters) -> Vec<Row<'_>> {
    vec![
        (&OBJECTS_PUT, &[], &counters.objects_put),
        (&OBJECTS_DELETED, &[], &counters.objects_deleted),
        (&CHUNKS, &["new"], &counters.chunks_new),
        (&CHUNKS, &["duplicate"], &counters.chunks_duplicate),
        (&LOGICAL, &[], &counters.logical_bytes),
        (&UNIQUE, &[], &counters.unique_bytes),
        (&STORED, &[], &counters.stored_bytes),
        (&READ, &[], &counters.read_bytes),
        (&LOOKUPS, &["in_flight"], &counters.lookups_in_flight),
        (&LOOKUPS, &["locality"], &counters.lookups_locality),
        (&LOOKUPS, &["catalog"], &counters.lookups_catalog),
        (&LOOKUPS, &["miss"], &counters.lookups_missed),
        (&QUARANTINED, &[], &counters.chunks_quarantined),
        (&QUOTA_REFUSALS, &[], &counters.quota_refusals),
        (&RECORDS, &[], &counters.records),
        (&PACK_BYTES, &[], &counters.pack_bytes),
        (&CHECKPOINTS, &[], &counters.checkpoints),
        (&WRITERS, &[], &counters.writers_opened),
        (&REPLAYED, &[], &counters.commits_replayed),
        (&REBUILT, &[], &counters.catalogs_rebuilt),
        (&PACKS_DROPPED, &[], &counters.packs_dropped),
        (&FREED, &[], &counters.freed_bytes),
        (&PACKS_REWRITTEN, &[], &counters.packs_rewritten),
        (&MOVED, &[], &counters.moved_bytes),
        (&SCRUB_BYTES, &[], &counters.scrubs.bytes),
        (&SCRUB_OBJECTS, &[], &counters.scrubs.stored_objects),
    ]
}

pub(super) fn scrubs(samples: &mut Samples, store: &Store, status: &Status) {
    let counted = &store.counters().scrubs;
    for kind in StoredKind::ALL {
        samples.number(&SCRUB_DAMAGE, &[kind.as_str()], counted.damage(kind).value() as f64);
    }
    for depth in Depth::ALL {
        samples.number(&SCRUBS_RUNNING, &[depth.as_str()], counted.running(depth) as f64);
        for repository in &status.repositories {
            // A catalog that cannot be read is told of elsewhere.
            let history = store.scrub_history(repository.id, depth).unwrap_or_default();
            if let Some(ms) = history.completed_ms {
                let labels = [repository.name.as_str(), depth.as_str()];
                samples.number(&SCRUB_COMPLETED, &labels, ms as f64 / 1000.0);
            }
        }
    }
}

pub(super) fn backend(samples: &mut Samples, counters: &backend::Counters) {
    for operation in Operation::ALL {
        let seconds = counters.seconds(operation).snapshot();
        if seconds.count == 0 {
            continue;
        }
        samples.histogram(&BACKEND_SECONDS, &[operation.as_str()], &seconds);
        for outcome in Outcome::ALL {
            let requests = counters.requests(operation, outcome);
            samples.number(
                &BACKEND_REQUESTS,
                &[operation.as_str(), outcome.as_str()],
                requests as f64,
            );
        }
    }
}

pub(super) fn shaping(samples: &mut Samples, store: &Store) {
    let rates = store.shaper().rates();
    for class in Class::ALL {
        let (labels, passed) = ([class.as_str()], store.shaper().passed(class));
        samples.number(&SHAPING_REQUESTS, &labels, passed.requests.value() as f64);
        samples.number(&SHAPING_BYTES, &labels, passed.bytes.value() as f64);
        samples.number(&SHAPING_WAITED, &labels, passed.waited().as_secs_f64());
        if let Some(bytes) = rates[class].bytes {
            samples.number(&SHAPING_RATE_BYTES, &labels, bytes.get() as f64);
        }
        if let Some(requests) = rates[class].requests {
            samples.number(&SHAPING_RATE_REQUESTS, &labels, requests.get() as f64);
        }
    }
}

pub(super) fn budget(samples: &mut Samples, store: &Store) {
    samples.number(&BUDGET, &[], store.budget_bytes() as f64);
    samples.number(&BUDGET_USED, &[], store.budget_used_bytes() as f64);
    samples.number(&KEYS, &[], store.keys_loaded() as f64);
}

pub(super) fn status(samples: &mut Samples, status: &Status) {
    for mode in Mode::ALL {
        let holds = f64::from(u8::from(mode == status.mode));
        samples.number(&MODE, &[mode.as_str()], holds);
    }
    // Several repositories may have the same.
    let codes: BTreeSet<&str> = status.causes.iter().map(|cause| cause.code).collect();
    for code in codes {
        samples.number(&MODE_CAUSE, &[code], 1.0);
    }
    samples.number(&MODE_SINCE, &[], status.since_ms as f64 / 1000.0);
    room(samples, &status.capacity);
    for repository in &status.repositories {
        totals(samples, repository);
    }
}

fn room(samples: &mut Samples, capacity: &Capacity) {
    let bytes = [
        ("total", capacity.total_bytes),
        ("free", capacity.free_bytes),
        ("used", Some(capacity.used_bytes)),
        ("reserved", Some(capacity.reserved_bytes)),
        ("used_other", capacity.used_other_bytes),
        ("limit", capacity.limit_bytes),
    ];
    let inodes = [("total", capacity.inodes_total), ("free", capacity.inodes_free)];
    let bytes = bytes.map(|(kind, value)| (&CAPACITY, kind, value));
    let inodes = inodes.map(|(kind, value)| (&INODES, kind, value));
    for (family, kind, value) in bytes.into_iter().chain(inodes) {
        if let Some(value) = value {
            samples.number(family, &[kind], value as f64);
        }
    }
}

fn totals(samples: &mut Samples, repository: &RepositoryStatus) {
    let totals = [
        (&REPOSITORY_OBJECTS, repository.objects),
        (&REPOSITORY_CHUNKS, repository.chunks),
        (&REPOSITORY_PACKS, repository.packs),
        (&REPOSITORY_LOGICAL, repository.logical_bytes),
        (&REPOSITORY_UNIQUE, repository.unique_bytes),
        (&REPOSITORY_STORED, repository.stored_bytes),
        (&REPOSITORY_GARBAGE, repository.garbage_bytes),
        (&REPOSITORY_LOG_NUMBER, repository.log_number),
    ];
    for (family, total) in totals {
        samples.number(family, &[&repository.name], total as f64);
    }
    let by_kind = [
        ("logical", repository.quota.logical_bytes, repository.in_flight.logical),
        ("stored", repository.quota.stored_bytes, repository.in_flight.stored),
    ];
    for (kind, quota, in_flight) in by_kind {
        let labels = [repository.name.as_str(), kind];
        samples.number(&REPOSITORY_IN_FLIGHT, &labels, in_flight as f64);
        if let Some(quota) = quota {
            samples.number(&REPOSITORY_QUOTA, &labels, quota as f64);
        }
    }
}
