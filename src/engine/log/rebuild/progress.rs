//! What a rebuild tells while it runs.

use std::sync::atomic::{AtomicU8, AtomicU64, Ordering};

/// What a rebuild does, in this order.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
#[repr(u8)]
pub enum RebuildPhase {
    /// It looks for a checkpoint and follows the log.
    #[default]
    Log = 0,
    /// It reads the directories of packs.
    Packs = 1,
    /// It counts what objects refer to, and reads their manifests.
    Objects = 2,
    /// It has come to its end.
    Done = 3,
}

/// A rebuild under way: shared with whoever watches it.
#[derive(Debug, Default)]
pub struct RebuildProgress {
    phase: AtomicU8,
    packs: AtomicU64,
    packs_expected: AtomicU64,
    packs_kept: AtomicU64,
    objects: AtomicU64,
    objects_expected: AtomicU64,
    bytes: AtomicU64,
}

impl RebuildProgress {
    /// What it does now.
    pub fn phase(&self) -> RebuildPhase {
        match self.phase.load(Ordering::Relaxed) {
            0 => RebuildPhase::Log,
            1 => RebuildPhase::Packs,
            2 => RebuildPhase::Objects,
            _ => RebuildPhase::Done,
        }
    }

    /// Packs whose contents are known again.
    pub fn packs(&self) -> u64 {
        self.packs.load(Ordering::Relaxed)
    }

    /// Those of them that an earlier rebuild had read, which did not come to its end.
    pub fn packs_kept(&self) -> u64 {
        self.packs_kept.load(Ordering::Relaxed)
    }

    /// How many packs there are; 0 if that is not known yet.
    pub fn packs_expected(&self) -> u64 {
        self.packs_expected.load(Ordering::Relaxed)
    }

    /// Objects whose references are counted.
    pub fn objects(&self) -> u64 {
        self.objects.load(Ordering::Relaxed)
    }

    /// How many objects there are; 0 if that is not known yet.
    pub fn objects_expected(&self) -> u64 {
        self.objects_expected.load(Ordering::Relaxed)
    }

    /// Bytes of packs that were read.
    pub fn bytes(&self) -> u64 {
        self.bytes.load(Ordering::Relaxed)
    }

    pub(super) fn begin(&self) {
        for counter in [&self.packs, &self.packs_expected, &self.packs_kept] {
            counter.store(0, Ordering::Relaxed);
        }
        for counter in [&self.objects, &self.objects_expected, &self.bytes] {
            counter.store(0, Ordering::Relaxed);
        }
        self.reach(RebuildPhase::Log);
    }

    pub(super) fn reach(&self, phase: RebuildPhase) {
        self.phase.store(phase as u8, Ordering::Relaxed);
    }

    pub(super) fn expect(&self, packs: u64, objects: u64) {
        self.packs_expected.store(packs, Ordering::Relaxed);
        self.objects_expected.store(objects, Ordering::Relaxed);
    }

    pub(super) fn pack(&self, kept: bool) {
        self.packs.fetch_add(1, Ordering::Relaxed);
        self.packs_kept.fetch_add(kept.into(), Ordering::Relaxed);
    }

    pub(super) fn object(&self) {
        self.objects.fetch_add(1, Ordering::Relaxed);
    }

    pub(super) fn read(&self, bytes: u64) {
        self.bytes.fetch_add(bytes, Ordering::Relaxed);
    }
}
