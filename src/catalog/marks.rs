//! Which parts of the tables are known to have changed since the last checkpoint.
//!
//! Each commit says which parts it changed, with rows that have its log number ([`Transaction::mark_dirty`]). All that is ever asked
//! is whether a number is above that of some checkpoint. So a part that was marked after every checkpoint that there is or
//! that is being written need not be marked again: of small objects each would else be a row more.
//!
//! [`Transaction::mark_dirty`]: super::Transaction::mark_dirty

use std::collections::HashSet;

use super::repository::DirtyKey;

/// Parts of one repository's tables whose marks are in the catalog and above every checkpoint. Empty is always right.
#[derive(Debug, Default)]
pub(super) struct Marks {
    /// A bit for each part of the objects; none before the first.
    objects: Vec<u64>,
    packs: HashSet<(u64, u64)>,
    /// All marks are above this log number: of the newest checkpoint that there is or that is being written.
    above: u64,
}

impl Marks {
    /// A checkpoint of this log number begins.
    pub(super) fn begin_checkpoint(&mut self, log_number: u64) {
        self.forget();
        self.above = log_number;
    }

    /// The tip is to name a checkpoint of this log number as the newest, which may be another process's; 0 for none.
    pub(super) fn follow(&mut self, log_number: u64) {
        if log_number > self.above {
            self.begin_checkpoint(log_number);
        }
    }

    /// Rows of marks go.
    pub(super) fn forget(&mut self) {
        *self = Self::default();
    }

    /// Whether the part is marked.
    pub(super) fn has(&self, part: DirtyKey) -> bool {
        match part {
            DirtyKey::Objects(bits) => {
                let (word, bit) = place(bits);
                self.objects.get(word).is_some_and(|word| word & bit != 0)
            }
            DirtyKey::Packs { epoch, directory } => self.packs.contains(&(epoch, directory)),
        }
    }

    /// The mark of the part is in the catalog.
    pub(super) fn add(&mut self, part: DirtyKey) {
        match part {
            DirtyKey::Objects(bits) => {
                let (word, bit) = place(bits);
                let words = self.objects.len().max(word + 1);
                self.objects.resize(words, 0);
                self.objects[word] |= bit;
            }
            DirtyKey::Packs { epoch, directory } => {
                self.packs.insert((epoch, directory));
            }
        }
    }
}

/// The word of a part of the objects, and its bit there.
fn place(bits: u16) -> (usize, u64) {
    (usize::from(bits) / 64, 1 << (bits % 64))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_are_told_apart() {
        let packs = |epoch, directory| DirtyKey::Packs { epoch, directory };
        let parts = [0, 1, 63, 64, 65, 4_095].map(DirtyKey::Objects);
        let parts: Vec<_> = parts
            .into_iter()
            .chain([packs(0, 1), packs(1, 0), packs(1, 1)])
            .collect();
        let mut marks = Marks::default();
        for (at, part) in parts.iter().enumerate() {
            assert!(!marks.has(*part), "{part:?}");
            marks.add(*part);
            let marked: Vec<_> = parts.iter().filter(|part| marks.has(**part)).collect();
            assert_eq!(marked, Vec::from_iter(&parts[..=at]));
        }
        marks.forget();
        assert!(!parts.iter().any(|part| marks.has(*part)));
    }

    #[test]
    fn marks_are_above_every_checkpoint() {
        let part = DirtyKey::Objects(5);
        let mut marks = Marks::default();
        let still_there = |marks: &mut Marks, newest| {
            marks.add(part);
            marks.follow(newest);
            marks.has(part)
        };
        assert!(still_there(&mut marks, 0));
        assert!(!still_there(&mut marks, 7), "somebody wrote one");
        assert!(still_there(&mut marks, 7));
        marks.begin_checkpoint(9);
        assert!(!marks.has(part), "it is from before");
        assert!(still_there(&mut marks, 7), "while it is written, or if it failed");
        assert!(still_there(&mut marks, 9), "it is from after the one that there is now");
        assert!(!still_there(&mut marks, 10));
        marks.forget();
        assert!(
            !still_there(&mut marks, 3),
            "rows go, and with them what was known of checkpoints"
        );
    }
}
