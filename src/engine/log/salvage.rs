//! Salvage: a log that lacks commits is followed all the same, if somebody who knows what that means asks for it.
//!
//! A rebuild ends at a commit pack that is missing or cannot be read. What it recorded was acknowledged: without it objects
//! that were put are gone, deleted ones are back, replaced ones are old again. That is not to happen without a word. But
//! one damaged commit pack must not take all the rest with it for good.
//!
//! So salvage goes from the newest commit that can be read back to the newest checkpoint that can be read, and where the
//! chain of hashes has a gap it goes on below. Chunk packs that some lost commit may have introduced are kept.

use std::cmp::Reverse;
use std::collections::{HashMap, HashSet};
use std::ops::RangeInclusive;

use super::replay::LogEntry;
use crate::engine::packs::PackHead;
use crate::format::{Hash32, PackKind, PackName, PackNumber, Record, Tip};

/// What a salvage had to go on without.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Salvage {
    /// Numbers of commits that are lost, between others that can be read. How many came after the last of those, nobody
    /// can know.
    pub lost_commits: Vec<RangeInclusive<u64>>,
    /// Paths of packs that cannot be read and were, or may have been, commits.
    pub given_up: Vec<String>,
    /// Chunk packs that no commit which can be read introduced, and that were kept for what they may hold.
    pub kept_packs: u64,
}

impl Salvage {
    /// Whether nothing was lacking.
    pub fn is_nothing(&self) -> bool {
        self.lost_commits.is_empty() && self.given_up.is_empty()
    }
}

/// Chunk packs of a store that no commit has condemned.
pub(super) fn not_condemned(heads: &[PackHead], entries: &[LogEntry]) -> Vec<PackName> {
    let records = entries.iter().flat_map(|entry| &entry.section().records);
    let condemned: HashSet<PackNumber> = records
        .filter_map(|record| match record {
            Record::Condemn(packs) => Some(packs),
            _ => None,
        })
        .flatten()
        .map(|pack| pack.number)
        .collect();
    let chunk_packs = heads.iter().filter(|head| head.kind == PackKind::Chunk);
    chunk_packs
        .map(|head| head.name)
        .filter(|name| !condemned.contains(&name.number))
        .collect()
}

/// A log as far as it can be read.
pub(crate) struct Readable {
    /// Commits above the base, oldest first.
    pub(crate) entries: Vec<LogEntry>,
    /// Numbers of commits between them, or between them and the base, that cannot be read.
    pub(crate) lost: Vec<RangeInclusive<u64>>,
}

/// Finds the commits above `base`, passing over those that are lost.
///
/// Beyond a gap no hash tells which commit came before. Of those with the highest number the one of the newest owner is
/// taken; what an overtaken owner left there was not acknowledged, and may come to light.
pub(crate) fn follow_gaps(mut commits: HashMap<Hash32, LogEntry>, base: Option<&Tip>) -> Readable {
    let (base_epoch, base_number) = base.map_or((0, 0), |tip| (tip.pack.number.epoch, tip.log_number));
    commits.retain(|_, entry| entry.pack.name.number.epoch >= base_epoch && number_of(entry) > base_number);
    let mut readable = Readable {
        entries: Vec::new(),
        lost: Vec::new(),
    };
    let newest = commits.iter().max_by_key(|(_, entry)| (epoch_of(entry), rank(entry)));
    let Some(mut next) = newest.map(|(hash, _)| *hash) else {
        return readable;
    };
    while let Some(entry) = commits.remove(&next) {
        let (number, epoch, previous) = (number_of(&entry), epoch_of(&entry), entry.section().previous);
        readable.entries.push(entry);
        let follows = |entry: &LogEntry| number_of(entry) + 1 == number;
        if commits.get(&previous).is_some_and(follows) {
            next = previous;
            continue;
        }
        let below = commits
            .iter()
            .filter(|(_, entry)| number_of(entry) < number && epoch_of(entry) <= epoch)
            .max_by_key(|(_, entry)| (number_of(entry), epoch_of(entry), rank(entry)));
        let reached = below.map_or(base_number, |(_, entry)| number_of(entry));
        if reached + 1 < number {
            readable.lost.push(reached + 1..=number - 1);
        }
        match below {
            Some((hash, _)) => next = *hash,
            None => break,
        }
    }
    readable.entries.reverse();
    readable.lost.reverse();
    readable
}

fn number_of(entry: &LogEntry) -> u64 {
    entry.section().log_number
}

fn epoch_of(entry: &LogEntry) -> u64 {
    entry.pack.name.number.epoch
}

/// Two commits of one number and owner: the one that was begun first.
fn rank(entry: &LogEntry) -> (u64, Reverse<u64>) {
    (number_of(entry), Reverse(entry.pack.name.number.counter))
}
