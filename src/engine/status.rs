//! Room and mode: pure functions from numbers to the word the core places data by.

use super::repository::RepositoryStatus;
use crate::backend::Space;

const GIB: u64 = 1 << 30;

/// Room in a backing store, in bytes. Absent numbers are unknown: a bucket has no end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Capacity {
    /// Size of the volume.
    pub total_bytes: Option<u64>,
    /// What can still be written, before the reserve is taken off.
    pub free_bytes: Option<u64>,
    /// What this store uses, its catalog included.
    pub used_bytes: u64,
    /// Kept back so that deletes, checkpoints and journals work on a full volume.
    pub reserved_bytes: u64,
    /// What others use on the same volume.
    pub used_other_bytes: Option<u64>,
    /// A limit set on this store; none yet.
    pub limit_bytes: Option<u64>,
    /// Inodes of the volume, where it counts them.
    pub inodes_total: Option<u64>,
    /// Inodes left.
    pub inodes_free: Option<u64>,
}

/// What the agent can be asked to do, as one word.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Mode {
    /// Reads and writes.
    Optimal,
    /// Reads and writes; there is little room left.
    LowCapacity,
    /// Reads and deletes only.
    NoCapacity,
}

impl Mode {
    /// The word.
    pub fn as_str(self) -> &'static str {
        match self {
            Mode::Optimal => "OPTIMAL",
            Mode::LowCapacity => "LOW_CAPACITY",
            Mode::NoCapacity => "NO_CAPACITY",
        }
    }
}

/// One reason for a mode, with its numbers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Cause {
    /// The case: `FREE_BYTES`, `FREE_INODES`.
    pub code: &'static str,
    /// One line for a person.
    pub message: String,
    /// The number found.
    pub value: u64,
    /// The number it is held against.
    pub threshold: u64,
}

/// The state of a store.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Status {
    /// One word.
    pub mode: Mode,
    /// Since when it holds, in milliseconds since 1970 UTC by the agent's clock.
    pub since_ms: i64,
    /// Counts changes of the mode, over restarts.
    pub sequence: u64,
    /// Why it is not `OPTIMAL`.
    pub causes: Vec<Cause>,
    /// Room.
    pub capacity: Capacity,
    /// Totals by repository.
    pub repositories: Vec<RepositoryStatus>,
}

impl Capacity {
    /// The capacity of a store that uses `used_bytes` and writes packs of at most `pack_bytes`.
    pub(crate) fn of(space: Option<Space>, used_bytes: u64, pack_bytes: u64) -> Self {
        let Some(space) = space else {
            return Self {
                total_bytes: None,
                free_bytes: None,
                used_bytes,
                reserved_bytes: 0,
                used_other_bytes: None,
                limit_bytes: None,
                inodes_total: None,
                inodes_free: None,
            };
        };
        let taken = space.total.saturating_sub(space.free);
        Self {
            total_bytes: Some(space.total),
            free_bytes: Some(space.available),
            used_bytes,
            reserved_bytes: reserve(space.total, pack_bytes),
            used_other_bytes: Some(taken.saturating_sub(used_bytes)),
            limit_bytes: None,
            inodes_total: (space.inodes_total > 0).then_some(space.inodes_total),
            inodes_free: (space.inodes_total > 0).then_some(space.inodes_free),
        }
    }
}

/// One hundredth of the volume, but at least two packs and at most 1 GiB, and never more than a tenth.
fn reserve(total_bytes: u64, pack_bytes: u64) -> u64 {
    let floor = (2 * pack_bytes).min(GIB);
    (total_bytes / 100).clamp(floor, GIB).min(total_bytes / 10)
}

/// The mode for these numbers, and why. `pack_bytes` is what one put may need beyond the reserve.
pub(crate) fn assess(capacity: Capacity, pack_bytes: u64, repositories: Vec<RepositoryStatus>) -> Status {
    let mut causes = Vec::new();
    let mut mode = Mode::Optimal;
    if let (Some(total), Some(free)) = (capacity.total_bytes, capacity.free_bytes) {
        let usable = total
            .saturating_sub(capacity.reserved_bytes)
            .saturating_sub(capacity.used_other_bytes.unwrap_or(0));
        let low = (usable / 5).max((30 * GIB).min(total / 5));
        let none = capacity.reserved_bytes + pack_bytes.min(total / 20);
        if free < none {
            mode = Mode::NoCapacity;
            causes.push(cause(
                "FREE_BYTES",
                "there is no room for another put beyond the reserve",
                free,
                none,
            ));
        } else if free <= low {
            mode = Mode::LowCapacity;
            causes.push(cause("FREE_BYTES", "there is little room left", free, low));
        }
    }
    if let (Some(total), Some(free)) = (capacity.inodes_total, capacity.inodes_free) {
        if free < 16 {
            mode = Mode::NoCapacity;
            causes.push(cause(
                "FREE_INODES",
                "the volume has no inodes left for another put",
                free,
                16,
            ));
        } else if free <= total / 20 {
            mode = mode.max(Mode::LowCapacity);
            causes.push(cause("FREE_INODES", "the volume has few inodes left", free, total / 20));
        }
    }
    Status {
        mode,
        since_ms: 0,
        sequence: 0,
        causes,
        capacity,
        repositories,
    }
}

fn cause(code: &'static str, message: &str, value: u64, threshold: u64) -> Cause {
    Cause {
        code,
        message: message.to_owned(),
        value,
        threshold,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn volume(total: u64, available: u64) -> Capacity {
        let space = Space {
            total,
            free: available,
            available,
            inodes_total: 0,
            inodes_free: 0,
        };
        Capacity::of(Some(space), total - available, 16 << 20)
    }

    #[test]
    fn the_mode_follows_the_room() {
        let total = 100 * GIB;
        let mode = |available| assess(volume(total, available), 16 << 20, Vec::new()).mode;
        assert_eq!(mode(50 * GIB), Mode::Optimal);
        assert_eq!(mode(19 * GIB), Mode::LowCapacity);
        assert_eq!(mode(GIB / 2), Mode::NoCapacity);
    }

    #[test]
    fn a_bucket_has_no_end() {
        let status = assess(Capacity::of(None, 5, 16 << 20), 16 << 20, Vec::new());
        assert_eq!((status.mode, status.causes.len()), (Mode::Optimal, 0));
    }

    #[test]
    fn the_reserve_is_bounded() {
        assert_eq!(reserve(1000 * GIB, 16 << 20), GIB);
        assert_eq!(reserve(GIB, 16 << 20), 32 << 20);
        assert_eq!(reserve(64 << 20, 16 << 20), (64 << 20) / 10);
    }
}
