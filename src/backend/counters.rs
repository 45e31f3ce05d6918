//! What is counted about requests to the storage, and the histogram that everything above counts time with.
//!
//! Adding is a few relaxed additions to atomics: it never waits and orders nothing. So a reader may see one number of a
//! moment and another of the next, but never one that has decreased.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use super::error::{Error, ErrorKind};

/// A number that only grows.
#[derive(Debug, Default)]
pub struct Count(AtomicU64);

impl Count {
    /// Counts `n` more.
    pub fn add(&self, n: u64) {
        self.0.fetch_add(n, Ordering::Relaxed);
    }

    /// What was counted so far.
    pub fn value(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// Upper bounds of the buckets of every [`Histogram`], in seconds. From what a page cache takes to a commit that waits
/// for a slow bucket; fine between a millisecond and a second, where fsyncs and requests are told good from bad.
pub const BOUNDS_SECONDS: [f64; BOUNDS] = [
    0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 300.0,
];

const BOUNDS: usize = 17;

/// Spans of time, counted by size.
#[derive(Debug, Default)]
pub struct Histogram {
    /// One for each bound, and one for what is above all of them.
    buckets: [Count; BOUNDS + 1],
    nanoseconds: Count,
}

/// A histogram at one moment.
#[derive(Clone, Debug, PartialEq)]
pub struct HistogramSnapshot {
    /// How many spans were at most as long as each of [`BOUNDS_SECONDS`].
    pub cumulative: [u64; BOUNDS],
    /// How many there were in all.
    pub count: u64,
    /// Their sum in seconds.
    pub sum_seconds: f64,
}

impl Histogram {
    /// Counts one span.
    pub fn observe(&self, span: Duration) {
        let seconds = span.as_secs_f64();
        let bucket = BOUNDS_SECONDS.partition_point(|bound| *bound < seconds);
        self.buckets[bucket].add(1);
        self.nanoseconds.add(u64::try_from(span.as_nanos()).unwrap_or(u64::MAX));
    }

    /// How many spans were counted.
    pub fn count(&self) -> u64 {
        self.buckets.iter().map(Count::value).sum()
    }

    /// All of it.
    pub fn snapshot(&self) -> HistogramSnapshot {
        let mut cumulative = [0; BOUNDS];
        let mut count = 0;
        for (total, bucket) in cumulative.iter_mut().zip(&self.buckets) {
            count += bucket.value();
            *total = count;
        }
        HistogramSnapshot {
            cumulative,
            count: count + self.buckets[BOUNDS].value(),
            sum_seconds: self.nanoseconds.value() as f64 / 1e9,
        }
    }
}

/// What is asked of the storage.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Operation {
    /// Storing an object, durably: on a volume write, fsync and rename.
    Put,
    /// Storing an object unless there is one, durably.
    Create,
    /// Reading an object or a part of it.
    Get,
    /// Asking for the size of an object.
    Head,
    /// Listing objects or directories.
    List,
    /// Deleting an object.
    Delete,
    /// Making a whole file system durable.
    Sync,
    /// Clearing away what interrupted writes or deleted repositories left on a volume.
    Sweep,
}

impl Operation {
    /// Every operation.
    pub const ALL: [Self; 8] = [
        Self::Put,
        Self::Create,
        Self::Get,
        Self::Head,
        Self::List,
        Self::Delete,
        Self::Sync,
        Self::Sweep,
    ];

    /// The word.
    pub fn as_str(self) -> &'static str {
        match self {
            Operation::Put => "put",
            Operation::Create => "create",
            Operation::Get => "get",
            Operation::Head => "head",
            Operation::List => "list",
            Operation::Delete => "delete",
            Operation::Sync => "sync",
            Operation::Sweep => "sweep",
        }
    }
}

/// How a request to the storage ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// As asked. That a name which was to be created is taken is an answer, too.
    Ok,
    /// The object is not there, or ends too early.
    NotFound,
    /// There is no room.
    NoSpace,
    /// Permissions, credentials or the file system forbid it.
    Denied,
    /// The storage is not there, did not answer, or said that it cannot now.
    Unavailable,
    /// Anything else.
    Failed,
    /// Nobody waited for the answer any more.
    Dropped,
}

impl Outcome {
    /// Every outcome.
    pub const ALL: [Self; 7] = [
        Self::Ok,
        Self::NotFound,
        Self::NoSpace,
        Self::Denied,
        Self::Unavailable,
        Self::Failed,
        Self::Dropped,
    ];

    /// The word.
    pub fn as_str(self) -> &'static str {
        match self {
            Outcome::Ok => "ok",
            Outcome::NotFound => "not_found",
            Outcome::NoSpace => "no_space",
            Outcome::Denied => "denied",
            Outcome::Unavailable => "unavailable",
            Outcome::Failed => "failed",
            Outcome::Dropped => "dropped",
        }
    }

    fn of(error: &Error) -> Self {
        match error.kind() {
            ErrorKind::NotFound | ErrorKind::Truncated => Outcome::NotFound,
            ErrorKind::NoSpace => Outcome::NoSpace,
            ErrorKind::PermissionDenied | ErrorKind::ReadOnly | ErrorKind::AuthFailed => Outcome::Denied,
            ErrorKind::Unavailable | ErrorKind::Gone => Outcome::Unavailable,
            _ => Outcome::Failed,
        }
    }
}

/// Requests to one storage since it was attached. The repeats that a client makes of one request are not told apart.
#[derive(Debug, Default)]
pub struct Counters {
    operations: [OperationCounters; Operation::ALL.len()],
}

#[derive(Debug, Default)]
struct OperationCounters {
    outcomes: [Count; Outcome::ALL.len()],
    seconds: Histogram,
}

impl Counters {
    /// Requests of this kind that ended like this.
    pub fn requests(&self, operation: Operation, outcome: Outcome) -> u64 {
        self.operations[operation as usize].outcomes[outcome as usize].value()
    }

    /// How long requests of this kind took, however they ended.
    pub fn seconds(&self, operation: Operation) -> &Histogram {
        &self.operations[operation as usize].seconds
    }

    /// Counts one request: `work`, until it ends or is dropped.
    pub(super) async fn watch<T>(
        &self,
        operation: Operation,
        work: impl Future<Output = Result<T, Error>>,
    ) -> Result<T, Error> {
        let mut ending = Ending {
            counters: &self.operations[operation as usize],
            since: Instant::now(),
            outcome: Outcome::Dropped,
        };
        let result = work.await;
        ending.outcome = result.as_ref().err().map_or(Outcome::Ok, Outcome::of);
        result
    }
}

struct Ending<'a> {
    counters: &'a OperationCounters,
    since: Instant,
    outcome: Outcome,
}

impl Drop for Ending<'_> {
    fn drop(&mut self) {
        self.counters.outcomes[self.outcome as usize].add(1);
        self.counters.seconds.observe(self.since.elapsed());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_span_counts_in_the_first_bucket_that_holds_it() {
        let histogram = Histogram::default();
        for millis in [1, 2, 400_000] {
            histogram.observe(Duration::from_millis(millis));
        }
        let snapshot = histogram.snapshot();
        assert_eq!(snapshot.cumulative[..3], [0, 1, 2]);
        assert_eq!(snapshot.cumulative[BOUNDS - 1], 2, "above every bound");
        assert_eq!((snapshot.count, histogram.count()), (3, 3));
        assert!((snapshot.sum_seconds - 400.003).abs() < 1e-6);
    }

    #[test]
    fn words_and_positions_agree() {
        for (index, operation) in Operation::ALL.into_iter().enumerate() {
            assert_eq!(operation as usize, index, "{}", operation.as_str());
        }
        for (index, outcome) in Outcome::ALL.into_iter().enumerate() {
            assert_eq!(outcome as usize, index, "{}", outcome.as_str());
        }
    }

    #[tokio::test]
    async fn a_request_is_counted_however_it_ends() {
        let counters = Counters::default();
        counters.watch(Operation::Get, async { Ok(()) }).await.unwrap();
        let missing = Error::NotFound { path: String::new() };
        let failed = counters.watch(Operation::Get, async { Err::<(), _>(missing) }).await;
        assert!(failed.is_err());
        drop(
            tokio::time::timeout(
                Duration::ZERO,
                counters.watch(Operation::Get, std::future::pending::<Result<(), _>>()),
            )
            .await,
        );
        let counted = Outcome::ALL.map(|outcome| counters.requests(Operation::Get, outcome));
        assert_eq!(counted, [1, 1, 0, 0, 0, 0, 1]);
        assert_eq!(counters.seconds(Operation::Get).count(), 3);
    }
}
