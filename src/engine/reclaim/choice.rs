//! Which packs are worth rewriting. Pure: from a count of packs by how full and how large they are.
//!
//! *Sparse* packs are rewritten from the emptiest on, until the garbage that stays is no more than what may stay: that
//! frees most for what is copied. *Small* packs are merged if there are enough of them and they make at least twice the
//! largest of them: so a blob is copied for this only each time that its pack doubles.

use super::{ReclaimOptions, Scope, for_each_pack};
use crate::catalog::PackRow;
use crate::engine::core::Core;
use crate::engine::error::Result;

/// Percents of garbage in a pack, rounded up.
const PERCENTS: usize = 101;
/// Powers of two up to the largest pack.
const SIZES: usize = 27;
/// Garbage that is worth the commits and checkpoints of giving it back, unless it is in many packs.
const WORTH_BYTES: u64 = 256 << 10;
/// Packs that are many.
const WORTH_PACKS: u64 = 16;
/// Where room is short, packs with more garbage than these percents come first.
const TURNS: [u8; 4] = [90, 75, 50, 25];

/// Packs of one size and fullness.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Class {
    packs: u64,
    /// Bytes of blobs in use.
    live_bytes: u64,
    /// Bytes of other blobs.
    garbage_bytes: u64,
    /// Bytes of whole packs.
    pack_bytes: u64,
}

impl Class {
    fn add(&mut self, other: &Self) {
        self.packs += other.packs;
        self.live_bytes += other.live_bytes;
        self.garbage_bytes += other.garbage_bytes;
        self.pack_bytes += other.pack_bytes;
    }
}

/// The packs of a repository that something can be moved out of, counted.
pub(super) struct Survey {
    scope: Scope,
    /// By size, then by percent of garbage.
    classes: Vec<[Class; PERCENTS]>,
}

impl Survey {
    pub(super) fn take(core: &Core, scope: Scope) -> Result<Self> {
        let mut survey = Self::new(scope);
        for_each_pack(core, |row| survey.count(row))?;
        Ok(survey)
    }

    fn new(scope: Scope) -> Self {
        Self {
            scope,
            classes: vec![[Class::default(); PERCENTS]; SIZES],
        }
    }

    fn count(&mut self, row: &PackRow) {
        if !is_movable(row, self.scope) {
            return;
        }
        let size = (row.size.max(1).ilog2() as usize).min(SIZES - 1);
        self.classes[size][usize::from(percent_of_garbage(row))].add(&Class {
            packs: 1,
            live_bytes: row.live_bytes,
            garbage_bytes: row.blob_bytes - row.live_bytes,
            pack_bytes: row.size,
        });
    }

    /// The packs to rewrite. Packs are filled up to `target_bytes`.
    pub(super) fn choose(&self, options: &ReclaimOptions, target_bytes: u64) -> Choice {
        let mut choice = Choice {
            scope: self.scope,
            percent_min: self.sparse(options.garbage_percent_max),
            size_end: self.small(options.merge_packs_min, target_bytes),
            bytes: 0,
        };
        choice.bytes = self.sum(|size, percent| choice.has(size, percent)).live_bytes;
        choice
    }

    /// From which percent of garbage on packs are rewritten, so that no more than `percent_max` stays.
    fn sparse(&self, percent_max: u8) -> u8 {
        const NONE: u8 = PERCENTS as u8;
        let mut stays = self.sum(|_, _| true);
        let mut goes = Class::default();
        let mut percent_min = NONE;
        while percent_min > 1 && is_above(&stays, percent_max) {
            percent_min -= 1;
            let class = self.sum(|_, percent| percent == percent_min);
            stays.live_bytes -= class.live_bytes;
            stays.garbage_bytes -= class.garbage_bytes;
            goes.add(&class);
        }
        let is_worth = goes.garbage_bytes >= WORTH_BYTES || goes.packs >= WORTH_PACKS || percent_max == 0;
        if is_worth { percent_min } else { NONE }
    }

    /// Below which size packs are merged.
    fn small(&self, packs_min: u32, target_bytes: u64) -> u64 {
        let mut smaller = Class::default();
        let mut size_end = 0;
        for (size, classes) in self.classes.iter().enumerate() {
            let end = 2u64 << size;
            if packs_min == 0 || 2 * end > target_bytes {
                break;
            }
            let mut class = Class::default();
            classes.iter().for_each(|part| class.add(part));
            smaller.add(&class);
            let doubles = smaller.pack_bytes >= 2 * end;
            if doubles && class.packs > 0 && smaller.packs >= u64::from(packs_min.max(2)) {
                size_end = end;
            }
        }
        size_end
    }

    fn sum(&self, wanted: impl Fn(u64, u8) -> bool) -> Class {
        let mut sum = Class::default();
        for (size, classes) in self.classes.iter().enumerate() {
            for (percent, class) in classes.iter().enumerate() {
                if wanted(1 << size, percent as u8) {
                    sum.add(class);
                }
            }
        }
        sum
    }
}

fn is_above(class: &Class, percent_max: u8) -> bool {
    let all = u128::from(class.live_bytes) + u128::from(class.garbage_bytes);
    u128::from(class.garbage_bytes) * 100 > all * u128::from(percent_max)
}

/// Whether what is in use in a pack can be moved, and the pack can go then. One with damage stays for whoever can heal it;
/// one with manifests that wait for their release is needed for that.
fn is_movable(row: &PackRow, scope: Scope) -> bool {
    scope.may_go(row) && !row.is_dead() && row.damaged == 0 && row.idle_manifests == 0 && !row.is_only_read()
}

/// Rounded up, so that only a pack without garbage has none.
fn percent_of_garbage(row: &PackRow) -> u8 {
    let garbage = u128::from(row.blob_bytes.saturating_sub(row.live_bytes));
    let percent = (garbage * 100).div_ceil(u128::from(row.blob_bytes.max(1)));
    percent.min(100) as u8
}

/// A rule that says which packs to rewrite.
#[derive(Clone, Copy)]
pub(super) struct Choice {
    scope: Scope,
    /// Packs with so much garbage, in percent.
    percent_min: u8,
    /// Packs smaller than this.
    size_end: u64,
    bytes: u64,
}

impl Choice {
    pub(super) fn is_worth(&self, row: &PackRow) -> bool {
        is_movable(row, self.scope) && self.has(row.size, percent_of_garbage(row))
    }

    /// Bytes in use in the packs that were counted.
    pub(super) fn bytes(&self) -> u64 {
        self.bytes
    }

    fn has(&self, size: u64, percent: u8) -> bool {
        percent >= self.percent_min || size < self.size_end
    }

    /// The same packs in an order that frees most first, if room is short.
    pub(super) fn in_turn(self, is_short_of_room: bool) -> Vec<Self> {
        let mut turns = Vec::new();
        if is_short_of_room {
            let sparser = TURNS.iter().filter(|percent| **percent > self.percent_min);
            turns.extend(sparser.map(|percent| Self {
                percent_min: *percent,
                size_end: 0,
                ..self
            }));
        }
        turns.push(self);
        turns
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::format::{Hash32, PackId, PackKind, PackName, PackNumber, PackRef};

    const MIB: u64 = 1 << 20;
    const TARGET: u64 = 16_000_000;
    const SCOPE: Scope = Scope { kept_from: 0 };

    fn pack(size: u64, garbage_percent: u64) -> PackRow {
        let name = PackName {
            number: PackNumber { epoch: 1, counter: 1 },
            id: PackId([0; 32]),
        };
        let pack = PackRef {
            name,
            size,
            trailer_hash: Hash32::ZERO,
        };
        PackRow {
            live: 1,
            live_bytes: size - size * garbage_percent / 100,
            blob_bytes: size,
            ..PackRow::new(&pack, PackKind::Chunk, 0)
        }
    }

    fn choose(packs: &[PackRow], garbage_percent_max: u8, merge_packs_min: u32) -> Choice {
        let mut survey = Survey::new(SCOPE);
        packs.iter().for_each(|row| survey.count(row));
        let options = ReclaimOptions {
            dry_run: false,
            garbage_percent_max,
            merge_packs_min,
        };
        survey.choose(&options, TARGET)
    }

    fn chosen(packs: &[PackRow], choice: &Choice) -> Vec<u64> {
        let chosen = packs.iter().filter(|row| choice.is_worth(row));
        chosen
            .map(|row| (row.blob_bytes - row.live_bytes) * 100 / row.blob_bytes)
            .collect()
    }

    #[test]
    fn the_sparsest_packs_are_rewritten_until_little_garbage_stays() {
        let packs = [10, 90, 0, 50, 20].map(|garbage| pack(TARGET, garbage));
        assert_eq!(chosen(&packs, &choose(&packs, 40, 0)), [0u64; 0], "34 percent may stay");
        assert_eq!(chosen(&packs, &choose(&packs, 20, 0)), [90]);
        assert_eq!(chosen(&packs, &choose(&packs, 10, 0)), [90, 50]);
        assert_eq!(chosen(&packs, &choose(&packs, 0, 0)), [10, 90, 50, 20]);
        assert_eq!(choose(&packs, 20, 0).bytes(), packs[1].live_bytes);
    }

    #[test]
    fn small_packs_are_merged_if_there_are_enough() {
        let some = vec![pack(8 << 10, 0); 15];
        assert_eq!(chosen(&some, &choose(&some, 100, 16)).len(), 0);
        let enough = vec![pack(8 << 10, 0); 16];
        assert_eq!(chosen(&enough, &choose(&enough, 100, 16)).len(), 16);
        assert_eq!(chosen(&enough, &choose(&enough, 100, 0)).len(), 0, "merging is off");
        let large = vec![pack(TARGET / 2 + 1, 0); 64];
        assert_eq!(
            chosen(&large, &choose(&large, 100, 16)).len(),
            0,
            "they are large enough"
        );
    }

    #[test]
    fn a_large_pack_is_not_copied_for_the_sake_of_a_few_small_ones() {
        let mut packs = vec![pack(8 << 10, 0); 20];
        packs.push(pack(2 * MIB, 0));
        let choice = choose(&packs, 100, 16);
        assert!(!choice.is_worth(&packs[20]));
        assert!(choice.is_worth(&packs[0]));
        packs.extend(vec![pack(8 << 10, 0); 1500]);
        assert!(
            choose(&packs, 100, 16).is_worth(&packs[20]),
            "now they are as much as it"
        );
    }

    #[test]
    fn a_little_garbage_in_a_few_packs_is_not_worth_a_commit() {
        let packs = vec![pack(64 << 10, 50); 3];
        assert_eq!(chosen(&packs, &choose(&packs, 10, 16)).len(), 0);
        assert_eq!(chosen(&packs, &choose(&packs, 0, 0)).len(), 3, "at any cost");
    }

    #[test]
    fn what_cannot_go_is_not_moved() {
        let sparse = pack(TARGET, 90);
        let kept = |row: PackRow| {
            let choice = choose(std::slice::from_ref(&row), 0, 2);
            !choice.is_worth(&row)
        };
        assert!(!kept(sparse.clone()));
        assert!(kept(PackRow {
            condemned_at: 7,
            ..sparse.clone()
        }));
        assert!(kept(PackRow {
            damaged: 1,
            ..sparse.clone()
        }));
        assert!(kept(PackRow {
            damaged: PackRow::UNREADABLE,
            ..sparse.clone()
        }));
        assert!(kept(PackRow {
            idle_manifests: 1,
            ..sparse.clone()
        }));
        assert!(kept(PackRow {
            kind: PackKind::Commit,
            log_number: 3,
            ..sparse.clone()
        }));
    }

    #[test]
    fn where_room_is_short_the_emptiest_come_first() {
        let packs = [95, 60, 30].map(|garbage| pack(TARGET, garbage));
        let turns = choose(&packs, 0, 0).in_turn(true);
        let turns: Vec<_> = turns.iter().map(|turn| chosen(&packs, turn).len()).collect();
        assert_eq!(turns, [1, 1, 2, 3]);
        assert_eq!(choose(&packs, 0, 0).in_turn(false).len(), 1);
    }

    proptest! {
        #[test]
        fn no_more_garbage_stays_than_may(
            packs in prop::collection::vec((20u32..24, 0u64..=100), 1..60),
            percent_max in 0u8..=100,
        ) {
            let packs: Vec<_> = packs.iter().map(|(size, garbage)| pack(1 << size, *garbage)).collect();
            let choice = choose(&packs, percent_max, 0);
            let stays = packs.iter().filter(|row| !row.is_dead() && !choice.is_worth(row));
            let (garbage, all) = stays.fold((0, 0), |(garbage, all), row| {
                (garbage + row.blob_bytes - row.live_bytes, all + row.blob_bytes)
            });
            prop_assert!(garbage * 100 <= all * u64::from(percent_max) || garbage < WORTH_BYTES);
        }
    }
}
