//! What a scrub tells, while it runs and at its end.

use std::borrow::Cow;
use std::fmt;
use std::str::FromStr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};

use parking_lot::Mutex;

use super::cursor::ScrubCursor;
use crate::engine::counters::Counters;
use crate::engine::error::{Error, Reason};
use crate::format::{PackName, StoredKind};

/// Most entries of each list in a report; the counts beside them go on.
const LISTED_MAX: usize = 10_000;

/// How deep a scrub looks.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Depth {
    /// Without any key: hashes that are stored in clear.
    Bytes,
    /// With the directory secrets: everything but the chunks.
    Structure,
    /// Everything, every blob opened.
    #[default]
    Full,
}

impl Depth {
    /// Every depth, from the least.
    pub const ALL: [Self; 3] = [Self::Bytes, Self::Structure, Self::Full];

    /// The depth as one word.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Bytes => "bytes",
            Self::Structure => "structure",
            Self::Full => "full",
        }
    }
}

impl fmt::Display for Depth {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl FromStr for Depth {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self, Error> {
        let depth = Self::ALL.into_iter().find(|depth| depth.as_str() == text);
        depth.ok_or_else(|| {
            let line = format!("{text:?} is no depth; a scrub goes to bytes, structure or full");
            Error::new(Reason::InvalidArgument, line)
        })
    }
}

/// Something stored that is not what was written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Damage {
    /// The object, relative to the store's prefix.
    pub path: String,
    /// What it is.
    pub kind: StoredKind,
    /// The pack, if it is one.
    pub pack: Option<PackName>,
    /// First byte concerned.
    pub offset: u64,
    /// Bytes concerned, as far as that is known; 0 for an object that is missing.
    pub length: u64,
    /// What is wrong.
    pub problem: String,
    /// What was done about it.
    pub remedy: Remedy,
}

/// What a scrub did about damage.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Remedy {
    /// Nothing; there is nothing that could be done without another copy of the store.
    None,
    /// So many blobs are not offered for dedupe any more: putting their bytes again heals them.
    Quarantined(u64),
    /// It was written anew from a good copy.
    Repaired,
}

/// An object some of whose bytes cannot be relied on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DamagedObject {
    /// Its name.
    pub name: String,
    /// Its version.
    pub version: u64,
    /// Which bytes, in order; neighbours are joined.
    pub ranges: Vec<DamagedRange>,
}

/// A part of an object that cannot be relied on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DamagedRange {
    /// Offset in the object.
    pub offset: u64,
    /// Bytes.
    pub length: u64,
    /// Path of the pack it was in; none if that is not known.
    pub pack: Option<String>,
    /// What is wrong.
    pub problem: Cow<'static, str>,
}

/// A part of the damaged objects.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct DamagedPage {
    /// The objects.
    pub objects: Vec<DamagedObject>,
    /// Where the next page begins, unless this was the last. A page may be empty while more follow.
    pub next: Option<[u8; 16]>,
}

/// What a scrub found.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ScrubReport {
    /// How deep it looked.
    pub depth: Depth,
    /// Stored objects checked.
    pub stored_objects: u64,
    /// Packs among them.
    pub packs: u64,
    /// Blobs opened.
    pub blobs: u64,
    /// Bytes read.
    pub bytes: u64,
    /// Damage, in the order in which it was found; at most 10 000 entries.
    pub damage: Vec<Damage>,
    /// How much of it there is in all.
    pub damage_count: u64,
    /// Objects concerned; at most 10 000 entries.
    pub objects: Vec<DamagedObject>,
    /// How many there are in all.
    pub objects_count: u64,
    /// Where the catalog contradicts the store; `rebuild` makes it anew. At most 10 000 entries.
    pub contradictions: Vec<String>,
    /// How many there are in all.
    pub contradictions_count: u64,
    /// Paths in the store that are no objects of ours; at most 10 000 entries.
    pub unknown: Vec<String>,
    /// How many there are in all.
    pub unknown_count: u64,
    /// Objects that went away while they were to be read, as they do when space is reclaimed.
    pub vanished: u64,
    /// Packs that the log does not know; `gc` removes them.
    pub strays: u64,
    /// Blobs that were found whole again and left quarantine.
    pub released: u64,
    /// Where to go on, if the scrub did not come to its end.
    pub next: Option<ScrubCursor>,
}

/// A moment of a scrub.
#[derive(Clone, Debug, Default)]
pub(super) struct Mark {
    counts: ScrubReport,
    lists: [usize; 4],
}

impl ScrubReport {
    fn lists(&self) -> [usize; 4] {
        [
            self.damage.len(),
            self.objects.len(),
            self.contradictions.len(),
            self.unknown.len(),
        ]
    }

    /// Whether nothing is wrong with what was checked, or nothing any more.
    pub fn is_sound(&self) -> bool {
        let open = self
            .damage
            .iter()
            .filter(|damage| damage.remedy != Remedy::Repaired)
            .count();
        let listed_all = self.damage_count == self.damage.len() as u64;
        open == 0 && listed_all && self.objects_count == 0 && self.contradictions_count == 0
    }

    /// Whether its lists hold less than was found.
    pub fn is_cut(&self) -> bool {
        let listed = [
            (self.damage.len(), self.damage_count),
            (self.objects.len(), self.objects_count),
            (self.contradictions.len(), self.contradictions_count),
            (self.unknown.len(), self.unknown_count),
        ];
        listed.into_iter().any(|(listed, found)| (listed as u64) < found)
    }

    /// How much of the listed damage was written anew.
    pub fn repaired(&self) -> u64 {
        let damage = self.damage.iter();
        damage.filter(|damage| damage.remedy == Remedy::Repaired).count() as u64
    }
}

/// A scrub under way: shared with whoever watches it, and what remains if it is dropped.
#[derive(Debug, Default)]
pub struct ScrubProgress {
    bytes: AtomicU64,
    bytes_expected: AtomicU64,
    report: Mutex<ScrubReport>,
    cursor: Mutex<Option<ScrubCursor>>,
    /// Where the store counts what its scrubs do, once one is under way.
    counters: OnceLock<Arc<Counters>>,
}

impl ScrubProgress {
    /// Bytes read so far.
    pub fn bytes(&self) -> u64 {
        self.bytes.load(Ordering::Relaxed)
    }

    /// About how many bytes there are to read; 0 if that is not known.
    pub fn bytes_expected(&self) -> u64 {
        self.bytes_expected.load(Ordering::Relaxed)
    }

    /// How much damage was found so far.
    pub fn damage_count(&self) -> u64 {
        self.report.lock().damage_count
    }

    /// What was found so far.
    pub fn report(&self) -> ScrubReport {
        let mut report = self.report.lock().clone();
        report.bytes = self.bytes();
        report.next = self.cursor();
        report
    }

    /// Where a scrub could go on from here; none before it began and once it has come to its end.
    pub fn cursor(&self) -> Option<ScrubCursor> {
        self.cursor.lock().clone()
    }

    /// How much was found so far, to come back to.
    pub(super) fn mark(&self) -> Mark {
        self.update(|report| Mark {
            counts: ScrubReport {
                damage: Vec::new(),
                objects: Vec::new(),
                contradictions: Vec::new(),
                unknown: Vec::new(),
                next: None,
                ..*report
            },
            lists: report.lists(),
        })
    }

    /// Forgets what was found since.
    pub(super) fn rewind(&self, mark: &Mark) {
        self.update(|report| {
            let [damage, objects, contradictions, unknown] = mark.lists;
            report.damage.truncate(damage);
            report.objects.truncate(objects);
            report.contradictions.truncate(contradictions);
            report.unknown.truncate(unknown);
            *report = ScrubReport {
                damage: std::mem::take(&mut report.damage),
                objects: std::mem::take(&mut report.objects),
                contradictions: std::mem::take(&mut report.contradictions),
                unknown: std::mem::take(&mut report.unknown),
                ..mark.counts.clone()
            };
        });
    }

    pub(super) fn begin(&self, depth: Depth) {
        self.report.lock().depth = depth;
    }

    /// What this scrub does is counted there too. A progress belongs to one store.
    pub(super) fn count_in(&self, counters: &Arc<Counters>) {
        self.counters.get_or_init(|| counters.clone());
    }

    pub(super) fn expect_bytes(&self, bytes: u64) {
        self.bytes_expected.store(bytes, Ordering::Relaxed);
    }

    pub(super) fn read(&self, bytes: u64) {
        self.bytes.fetch_add(bytes, Ordering::Relaxed);
        if let Some(counters) = self.counters.get() {
            counters.scrubs.bytes.add(bytes);
        }
    }

    pub(super) fn reach(&self, cursor: Option<ScrubCursor>) {
        *self.cursor.lock() = cursor;
    }

    pub(super) fn update<T>(&self, change: impl FnOnce(&mut ScrubReport) -> T) -> T {
        let mut report = self.report.lock();
        let before = report.stored_objects;
        let changed = change(&mut report);
        if let Some(counters) = self.counters.get() {
            // Less after a rewind: what is checked again counts again.
            counters
                .scrubs
                .stored_objects
                .add(report.stored_objects.saturating_sub(before));
        }
        changed
    }

    pub(super) fn found(&self, damage: Damage) {
        tracing::warn!(
            path = %damage.path,
            offset = damage.offset,
            length = damage.length,
            problem = %damage.problem,
            "stored data is damaged"
        );
        if let Some(counters) = self.counters.get() {
            counters.scrubs.damage(damage.kind).add(1);
        }
        self.update(|report| {
            report.damage_count += 1;
            list(&mut report.damage, damage);
        });
    }

    pub(super) fn concerned(&self, object: DamagedObject) {
        self.update(|report| {
            report.objects_count += 1;
            list(&mut report.objects, object);
        });
    }

    pub(super) fn contradicted(&self, line: String) {
        tracing::warn!(line, "the catalog contradicts the store");
        self.update(|report| {
            report.contradictions_count += 1;
            list(&mut report.contradictions, line);
        });
    }

    /// What was damaged at `path` has been written anew.
    pub(super) fn repaired(&self, path: &str) {
        self.update(|report| {
            let there = report.damage.iter_mut().filter(|damage| damage.path == path);
            there.for_each(|damage| damage.remedy = Remedy::Repaired);
        });
    }

    pub(super) fn unknown(&self, path: &str) {
        self.update(|report| {
            report.unknown_count += 1;
            list(&mut report.unknown, path.to_owned());
        });
    }
}

fn list<T>(listed: &mut Vec<T>, entry: T) {
    if listed.len() < LISTED_MAX {
        listed.push(entry);
    }
}
