//! What a reclaim tells while it runs.

use std::sync::atomic::{AtomicU8, AtomicU64, Ordering};

use super::Reclaimed;

/// What a reclaim does, in this order.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
#[repr(u8)]
pub enum ReclaimPhase {
    /// It releases what deleted objects held.
    #[default]
    Releasing = 0,
    /// It drops packs in which nothing is left.
    Dropping = 1,
    /// It moves what is in use out of packs, and drops those.
    Moving = 2,
    /// It has come to its end.
    Done = 3,
}

/// A reclaim under way: shared with whoever watches it.
#[derive(Debug, Default)]
pub struct ReclaimProgress {
    phase: AtomicU8,
    bytes: AtomicU64,
    bytes_expected: AtomicU64,
    packs_dropped: AtomicU64,
    packs_rewritten: AtomicU64,
    dropped_bytes: AtomicU64,
    written_bytes: AtomicU64,
}

impl ReclaimProgress {
    /// What it does now.
    pub fn phase(&self) -> ReclaimPhase {
        match self.phase.load(Ordering::Relaxed) {
            0 => ReclaimPhase::Releasing,
            1 => ReclaimPhase::Dropping,
            2 => ReclaimPhase::Moving,
            _ => ReclaimPhase::Done,
        }
    }

    /// Bytes in use that were moved so far.
    pub fn bytes(&self) -> u64 {
        self.bytes.load(Ordering::Relaxed)
    }

    /// How many bytes there are to move; 0 until that is known, and if there are none.
    pub fn bytes_expected(&self) -> u64 {
        self.bytes_expected.load(Ordering::Relaxed)
    }

    /// What was given back so far.
    pub fn reclaimed(&self) -> Reclaimed {
        let get = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        Reclaimed {
            packs_dropped: get(&self.packs_dropped),
            packs_rewritten: get(&self.packs_rewritten),
            freed_bytes: get(&self.dropped_bytes).saturating_sub(get(&self.written_bytes)),
        }
    }

    /// Takes over what is told of a reclaim that runs elsewhere.
    pub fn tell(&self, bytes: u64, bytes_expected: u64) {
        self.reach(ReclaimPhase::Moving);
        self.bytes.store(bytes, Ordering::Relaxed);
        self.expect(bytes_expected);
    }

    pub(super) fn begin(&self) {
        let Self {
            phase: _,
            bytes,
            bytes_expected,
            packs_dropped,
            packs_rewritten,
            dropped_bytes,
            written_bytes,
        } = self;
        for counter in [
            bytes,
            bytes_expected,
            packs_dropped,
            packs_rewritten,
            dropped_bytes,
            written_bytes,
        ] {
            counter.store(0, Ordering::Relaxed);
        }
        self.reach(ReclaimPhase::Releasing);
    }

    pub(super) fn reach(&self, phase: ReclaimPhase) {
        self.phase.store(phase as u8, Ordering::Relaxed);
    }

    pub(super) fn expect(&self, bytes: u64) {
        self.bytes_expected.store(bytes, Ordering::Relaxed);
    }

    pub(super) fn moved(&self, bytes: u64) {
        self.bytes.fetch_add(bytes, Ordering::Relaxed);
    }

    /// A pack was written with what was moved.
    pub(super) fn wrote(&self, bytes: u64) {
        self.written_bytes.fetch_add(bytes, Ordering::Relaxed);
    }

    /// A pack was deleted.
    pub(super) fn dropped(&self, bytes: u64) {
        self.packs_dropped.fetch_add(1, Ordering::Relaxed);
        self.dropped_bytes.fetch_add(bytes, Ordering::Relaxed);
    }

    /// So many of those deleted had been moved out of.
    pub(super) fn rewritten(&self, packs: u64) {
        self.packs_rewritten.fetch_add(packs, Ordering::Relaxed);
    }
}
