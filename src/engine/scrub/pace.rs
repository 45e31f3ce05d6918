//! How fast a scrub reads.

use std::num::NonZeroU64;
use std::time::Duration;

use parking_lot::Mutex;
use tokio::time::{Instant, sleep_until};

/// What may be read at once after a pause.
const BURST: Duration = Duration::from_millis(250);

/// A token bucket: bytes are taken before they are read, and whoever takes more than there is waits.
pub(super) struct Pace {
    bucket: Option<Mutex<Bucket>>,
}

impl Pace {
    pub(super) fn new(rate_bytes: Option<NonZeroU64>) -> Self {
        Self {
            bucket: rate_bytes.map(|rate| Mutex::new(Bucket::new(rate, Instant::now()))),
        }
    }

    pub(super) async fn take(&self, bytes: u64) {
        if let Some(bucket) = &self.bucket {
            let due = bucket.lock().take(bytes, Instant::now());
            sleep_until(due).await;
        }
    }
}

struct Bucket {
    rate_bytes: NonZeroU64,
    /// When all that was taken so far is paid for.
    due: Instant,
}

impl Bucket {
    fn new(rate_bytes: NonZeroU64, now: Instant) -> Self {
        Self { rate_bytes, due: now }
    }

    /// When these bytes may be read.
    fn take(&mut self, bytes: u64, now: Instant) -> Instant {
        let cost = Duration::from_secs_f64(bytes as f64 / self.rate_bytes.get() as f64);
        let earliest = now.checked_sub(BURST).unwrap_or(self.due);
        self.due = self.due.max(earliest) + cost;
        self.due
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_take_the_time_that_the_rate_gives_them() {
        let start = Instant::now();
        let mut bucket = Bucket::new(NonZeroU64::new(1000).unwrap(), start);
        let mut now = start;
        for _ in 0..10 {
            now = now.max(bucket.take(500, now));
        }
        assert_eq!(now - start, Duration::from_secs(5));
        // A pause is not made up for at once.
        now += Duration::from_secs(60);
        assert_eq!(bucket.take(2000, now) - now, Duration::from_secs(2) - BURST);
    }
}
