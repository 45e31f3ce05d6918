//! What an evacuation tells, while it runs and at its end.

use std::collections::VecDeque;
use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use parking_lot::Mutex;
use tokio::time::Instant;

use crate::codec::RepositoryId;
use crate::engine::scrub::DamagedObject;

/// Most entries of each list in a report; the counts beside them go on.
const LISTED_MAX: usize = 10_000;
/// The rate is that of the last so many seconds …
const RATE_SECONDS: usize = 10;
/// … looked at in steps of this length.
const RATE_STEP: Duration = Duration::from_secs(1);

/// Whether everything is at the other place.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Verdict {
    /// Every byte was read, was what had been written, and is there.
    #[default]
    Complete,
    /// Something could not be read, or was not what had been written: the report lists it. All else is there.
    Incomplete,
}

impl Verdict {
    /// The verdict as one word.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Complete => "COMPLETE",
            Self::Incomplete => "INCOMPLETE",
        }
    }
}

impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// A part of a stored object that is not at the other place as it was written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Lost {
    /// Whose it is.
    pub repository: RepositoryId,
    /// The stored object, relative to the store.
    pub path: String,
    /// First byte concerned.
    pub offset: u64,
    /// Bytes concerned.
    pub length: u64,
    /// What is wrong with them.
    pub problem: String,
    /// Whether the object was copied: with these bytes as they were read, or with zeros where they could not be. Else
    /// nothing of it is there.
    pub copied: bool,
}

/// What came of an evacuation.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct EvacuateReport {
    /// Where to.
    pub to: String,
    /// The repositories that are there now, by id.
    pub repositories: Vec<RepositoryId>,
    /// Packs copied by this run.
    pub packs_copied: u64,
    /// Their bytes.
    pub bytes_copied: u64,
    /// Packs that were there already.
    pub packs_present: u64,
    /// Their bytes.
    pub bytes_present: u64,
    /// What could not be read or is damaged, in the order of packs; at most 10 000 entries.
    pub lost: Vec<Lost>,
    /// How much of it there is in all.
    pub lost_count: u64,
    /// Its bytes.
    pub lost_bytes: u64,
    /// Objects that lack something at the other place; at most 10 000 entries.
    pub objects: Vec<DamagedObject>,
    /// How many there are in all.
    pub objects_count: u64,
}

impl EvacuateReport {
    /// Whether everything is there.
    pub fn verdict(&self) -> Verdict {
        match (self.lost_count, self.objects_count) {
            (0, 0) => Verdict::Complete,
            _ => Verdict::Incomplete,
        }
    }

    /// Whether its lists hold less than was found.
    pub fn is_cut(&self) -> bool {
        (self.lost.len() as u64) < self.lost_count || (self.objects.len() as u64) < self.objects_count
    }
}

/// An evacuation under way: shared with whoever watches it, and what remains if it is dropped.
#[derive(Debug, Default)]
pub struct EvacuateProgress {
    bytes_expected: AtomicU64,
    packs_expected: AtomicU64,
    report: Mutex<EvacuateReport>,
    rate: Mutex<Rate>,
}

/// Bytes copied at some moments of the last seconds.
#[derive(Debug, Default)]
struct Rate {
    steps: VecDeque<(Instant, u64)>,
}

impl EvacuateProgress {
    /// Bytes of packs that are at the other place, or that were given up.
    pub fn bytes(&self) -> u64 {
        let report = self.report.lock();
        report.bytes_copied + report.bytes_present
    }

    /// How many bytes of packs there are in all; 0 if that is not known yet.
    pub fn bytes_expected(&self) -> u64 {
        self.bytes_expected.load(Ordering::Relaxed)
    }

    /// Packs that are at the other place.
    pub fn packs(&self) -> u64 {
        let report = self.report.lock();
        report.packs_copied + report.packs_present
    }

    /// How many packs there are in all.
    pub fn packs_expected(&self) -> u64 {
        self.packs_expected.load(Ordering::Relaxed)
    }

    /// How much could not be read, or is damaged, so far.
    pub fn lost_count(&self) -> u64 {
        self.report.lock().lost_count
    }

    /// Bytes copied in a second, over the last few.
    pub fn rate_bytes(&self) -> u64 {
        let copied = self.report.lock().bytes_copied;
        self.rate.lock().of(Instant::now(), copied)
    }

    /// How long it takes on at this rate; none if nothing moves or nothing is known.
    pub fn time_left(&self) -> Option<Duration> {
        let left = self.bytes_expected().checked_sub(self.bytes())?;
        let rate = self.rate_bytes();
        (rate > 0).then(|| Duration::from_secs(left.div_ceil(rate)))
    }

    /// What came of it so far.
    pub fn report(&self) -> EvacuateReport {
        self.report.lock().clone()
    }

    pub(super) fn begin(&self, to: &str) {
        let mut report = self.report.lock();
        to.clone_into(&mut report.to);
        self.rate.lock().tell(Instant::now(), report.bytes_copied);
    }

    /// So many packs and bytes are to be copied where `before` were reckoned with.
    pub(super) fn expect(&self, before: (u64, u64), now: (u64, u64)) {
        // Atomics wrap, so a difference below zero is one too.
        self.packs_expected
            .fetch_add(now.0.wrapping_sub(before.0), Ordering::Relaxed);
        self.bytes_expected
            .fetch_add(now.1.wrapping_sub(before.1), Ordering::Relaxed);
    }

    pub(super) fn copied(&self, bytes: u64) {
        let mut report = self.report.lock();
        report.packs_copied += 1;
        report.bytes_copied += bytes;
        self.rate.lock().tell(Instant::now(), report.bytes_copied);
    }

    pub(super) fn present(&self, bytes: u64) {
        let mut report = self.report.lock();
        report.packs_present += 1;
        report.bytes_present += bytes;
    }

    pub(super) fn lost(&self, lost: Lost) {
        tracing::warn!(
            path = %lost.path,
            offset = lost.offset,
            length = lost.length,
            problem = %lost.problem,
            copied = lost.copied,
            "not evacuated as it was written"
        );
        let mut report = self.report.lock();
        report.lost_count += 1;
        report.lost_bytes += lost.length;
        list(&mut report.lost, lost);
    }

    pub(super) fn concerned(&self, object: DamagedObject) {
        let mut report = self.report.lock();
        report.objects_count += 1;
        list(&mut report.objects, object);
    }

    pub(super) fn arrived(&self, repository: RepositoryId) {
        self.report.lock().repositories.push(repository);
    }
}

impl Rate {
    fn tell(&mut self, now: Instant, copied: u64) {
        match self.steps.back() {
            Some((at, _)) if now.duration_since(*at) < RATE_STEP => {}
            _ => self.steps.push_back((now, copied)),
        }
        while self.steps.len() > RATE_SECONDS {
            self.steps.pop_front();
        }
    }

    /// From the oldest step that is remembered until now.
    fn of(&self, now: Instant, copied: u64) -> u64 {
        let Some((at, then)) = self.steps.front() else { return 0 };
        let seconds = now.duration_since(*at).as_secs_f64();
        match seconds > 0.0 {
            true => ((copied - then) as f64 / seconds) as u64,
            false => 0,
        }
    }
}

fn list<T>(listed: &mut Vec<T>, entry: T) {
    if listed.len() < LISTED_MAX {
        listed.push(entry);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_rate_is_that_of_the_last_seconds() {
        let mut rate = Rate::default();
        let start = Instant::now();
        assert_eq!(rate.of(start, 0), 0);
        for second in 0..100 {
            rate.tell(start + Duration::from_secs(second), second * 1000);
        }
        assert_eq!(rate.steps.len(), RATE_SECONDS);
        // Nothing came in the last second of ten.
        assert_eq!(rate.of(start + Duration::from_secs(100), 99_000), 900);
        // For long nothing has come.
        assert_eq!(rate.of(start + Duration::from_secs(100_000), 99_000), 0);
    }

    #[test]
    fn lists_end_and_counts_go_on() {
        let progress = EvacuateProgress::default();
        let lost = Lost {
            repository: RepositoryId([1; 16]),
            path: "pack".to_owned(),
            offset: 0,
            length: 2,
            problem: "it is missing".to_owned(),
            copied: false,
        };
        for _ in 0..LISTED_MAX + 5 {
            progress.lost(lost.clone());
        }
        let report = progress.report();
        assert_eq!(
            (report.lost.len(), report.lost_count),
            (LISTED_MAX, LISTED_MAX as u64 + 5)
        );
        assert_eq!(report.lost_bytes, 2 * report.lost_count);
        assert!(report.is_cut());
        assert_eq!(report.verdict(), Verdict::Incomplete);
    }
}
