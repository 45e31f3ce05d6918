//! What the numbers of a volume mean, and where the thresholds are.

use crate::backend::Space;

const GIB: u64 = 1 << 30;

/// Room in a backing store, in bytes. Absent numbers are unknown: a bucket has no end, and a volume that is away has none.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Capacity {
    /// Size of the volume.
    pub total_bytes: Option<u64>,
    /// What can still be written, before the reserve is taken off: what the volume has room for, or what the limit leaves.
    pub free_bytes: Option<u64>,
    /// What this store uses, its catalog included.
    pub used_bytes: u64,
    /// Kept back so that deletes, checkpoints and journals work on a full volume.
    pub reserved_bytes: u64,
    /// What others use on the same volume.
    pub used_other_bytes: Option<u64>,
    /// A limit set on this store: what its packs and its catalog may take.
    pub limit_bytes: Option<u64>,
    /// Inodes of the volume, where it counts them.
    pub inodes_total: Option<u64>,
    /// Inodes left.
    pub inodes_free: Option<u64>,
}

/// A limit on what a store uses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Limit {
    /// The most.
    pub(crate) bytes: u64,
    /// What counts against it, packs that are on their way included.
    pub(crate) used_bytes: u64,
}

impl Limit {
    /// What it leaves.
    pub(crate) fn free_bytes(&self) -> u64 {
        self.bytes.saturating_sub(self.used_bytes)
    }

    /// Kept back of it, as of a volume of that size.
    pub(crate) fn reserved_bytes(&self, pack_bytes: u64) -> u64 {
        reserve(self.bytes, pack_bytes)
    }
}

impl Capacity {
    /// The capacity of a store that uses `used_bytes` and writes packs of at most `pack_bytes`.
    pub(crate) fn of(space: Option<Space>, used_bytes: u64, pack_bytes: u64, limit: Option<Limit>) -> Self {
        let Some(space) = space else {
            return Self {
                used_bytes,
                free_bytes: limit.map(|limit| limit.free_bytes()),
                reserved_bytes: limit.map_or(0, |limit| limit.reserved_bytes(pack_bytes)),
                limit_bytes: limit.map(|limit| limit.bytes),
                ..Self::default()
            };
        };
        let taken = space.total.saturating_sub(space.free);
        let counts_inodes = space.inodes_total > 0;
        Self {
            total_bytes: Some(space.total),
            free_bytes: Some(limit.map_or(space.available, |limit| limit.free_bytes().min(space.available))),
            used_bytes,
            reserved_bytes: reserve(space.total, pack_bytes),
            used_other_bytes: Some(taken.saturating_sub(used_bytes)),
            limit_bytes: limit.map(|limit| limit.bytes),
            inodes_total: counts_inodes.then_some(space.inodes_total),
            inodes_free: counts_inodes.then_some(space.inodes_free),
        }
    }
}

/// One hundredth of the volume, but at least two packs and at most 1 GiB, and never more than a tenth.
pub(super) fn reserve(total_bytes: u64, pack_bytes: u64) -> u64 {
    let floor = (2 * pack_bytes).min(GIB);
    (total_bytes / 100).clamp(floor, GIB).min(total_bytes / 10)
}

/// From where on room is called low.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CapacityPolicy {
    /// Free bytes at which room is low on a volume of any size.
    pub low_bytes: u64,
    /// The most of a volume, in percent, that `low_bytes` may be. 100 takes it as it is: a small volume is then always low.
    pub low_bytes_percent_max: u64,
    /// Room is low at this part of what the store can use, in percent.
    pub low_percent: u64,
    /// It is low no more above this part, in percent; `low_bytes` is left with the same margin.
    pub low_left_percent: u64,
    /// Inodes are low at this part of all, in percent.
    pub low_inodes_percent: u64,
    /// Free inodes below which nothing can be put: packs, owner files and checkpoints of a few commits.
    pub inodes_min: u64,
}

impl CapacityPolicy {
    /// Low at a fifth of what can be used, and at 30 GiB on volumes of 150 GiB and more.
    pub const DEFAULT: Self = Self {
        low_bytes: 30 * GIB,
        low_bytes_percent_max: 20,
        low_percent: 20,
        low_left_percent: 22,
        low_inodes_percent: 5,
        inodes_min: 16,
    };

    /// Low at NooBaa's 30 GiB on volumes of every size.
    pub const NOOBAA: Self = Self {
        low_bytes_percent_max: 100,
        ..Self::DEFAULT
    };

    /// The policy of this name: `default` or `noobaa`.
    pub fn preset(name: &str) -> Option<Self> {
        match name {
            "default" => Some(Self::DEFAULT),
            "noobaa" => Some(Self::NOOBAA),
            _ => None,
        }
    }
}

impl Default for CapacityPolicy {
    fn default() -> Self {
        Self::DEFAULT
    }
}

/// Where something is entered, and what has to be exceeded to leave it again. The margin keeps a mode from flapping.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Threshold {
    pub(super) enter: u64,
    pub(super) leave: u64,
}

impl CapacityPolicy {
    /// Free bytes up to which room is low.
    pub(super) fn low(&self, capacity: &Capacity, total: u64) -> Threshold {
        let usable = total
            .saturating_sub(capacity.reserved_bytes)
            .saturating_sub(capacity.used_other_bytes.unwrap_or(0));
        let floor = self.low_bytes.min(percent(total, self.low_bytes_percent_max));
        let floor_left = percent(floor, 100 * self.low_left_percent / self.low_percent.max(1));
        let enter = percent(usable, self.low_percent).max(floor);
        Threshold {
            enter,
            leave: percent(usable, self.low_left_percent).max(floor_left).max(enter),
        }
    }

    /// Free bytes below which nothing is put. It is left at twice that; on a small volume, where the reserve is a large
    /// part of all, already when a fifth is free. So an emptied volume always comes back, and one more put never
    /// brings it down again.
    pub(super) fn none(&self, total: u64, reserved: u64, pack_bytes: u64) -> Threshold {
        let put = pack_bytes.min(total / 20);
        let enter = reserved + put;
        Threshold {
            enter,
            leave: (2 * enter).min(total / 5).max(enter + put),
        }
    }

    /// Free inodes up to which they are low.
    pub(super) fn low_inodes(&self, total: u64) -> Threshold {
        let enter = percent(total, self.low_inodes_percent).max(2 * self.inodes_min);
        Threshold {
            enter,
            leave: enter + enter / 10,
        }
    }

    /// Free inodes below which nothing is put.
    pub(super) fn no_inodes(&self) -> Threshold {
        Threshold {
            enter: self.inodes_min,
            leave: 2 * self.inodes_min,
        }
    }
}

fn percent(of: u64, percent: u64) -> u64 {
    let part = u128::from(of) * u128::from(percent) / 100;
    u64::try_from(part).unwrap_or(u64::MAX)
}
