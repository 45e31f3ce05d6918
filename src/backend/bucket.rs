//! A token bucket that keeps no tokens but a time: when all that was taken so far is paid for.
//!
//! Pure: who asks brings the time, and waits by itself.

use std::num::NonZeroU64;
use std::time::Duration;

use tokio::time::Instant;

/// What may pass at once after a pause.
pub(crate) const BURST: Duration = Duration::from_millis(250);

/// How what passes is divided.
#[derive(Clone, Copy, Debug)]
enum Unit {
    Pieces,
    Ones,
}

/// So much of something a second.
#[derive(Debug)]
pub(crate) struct Bucket {
    rate: NonZeroU64,
    unit: Unit,
    /// When all that was taken so far is paid for.
    due: Instant,
}

impl Bucket {
    /// A bucket for what comes in large pieces: the first waits as any other does.
    pub(crate) fn new(rate: NonZeroU64, now: Instant) -> Self {
        Self {
            rate,
            unit: Unit::Pieces,
            due: now,
        }
    }

    /// A bucket for what is counted by ones: after a pause one always passes at once.
    pub(crate) fn of_ones(rate: NonZeroU64, now: Instant) -> Self {
        let mut bucket = Self {
            rate,
            unit: Unit::Ones,
            due: now,
        };
        bucket.due = now.checked_sub(bucket.burst()).unwrap_or(now);
        bucket
    }

    /// Takes this much; when it may pass.
    pub(crate) fn take(&mut self, amount: u64, now: Instant) -> Instant {
        let earliest = now.checked_sub(self.burst()).unwrap_or(self.due);
        self.due = self.due.max(earliest) + cost(amount, self.rate);
        self.due
    }

    /// Gives back what was taken and did not pass.
    pub(crate) fn give_back(&mut self, amount: u64) {
        self.due = self.due.checked_sub(cost(amount, self.rate)).unwrap_or(self.due);
    }

    /// When all that was taken so far may have passed.
    pub(crate) fn due(&self) -> Instant {
        self.due
    }

    /// From now on this rate holds, also for what was taken and is not paid for yet.
    pub(crate) fn set_rate(&mut self, rate: NonZeroU64, now: Instant) {
        let unpaid = self.due.saturating_duration_since(now);
        if !unpaid.is_zero() {
            self.due = now + unpaid.mul_f64(self.rate.get() as f64 / rate.get() as f64);
        }
        self.rate = rate;
    }

    /// For so long a pause is made up for.
    fn burst(&self) -> Duration {
        match self.unit {
            Unit::Pieces => BURST,
            Unit::Ones => BURST.max(cost(1, self.rate)),
        }
    }
}

fn cost(amount: u64, rate: NonZeroU64) -> Duration {
    Duration::from_secs_f64(amount as f64 / rate.get() as f64)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rate(rate: u64) -> NonZeroU64 {
        NonZeroU64::new(rate).unwrap()
    }

    #[test]
    fn bytes_take_the_time_that_the_rate_gives_them() {
        let start = Instant::now();
        let mut bucket = Bucket::new(rate(1000), start);
        let mut now = start;
        for _ in 0..10 {
            now = now.max(bucket.take(500, now));
        }
        assert_eq!(now - start, Duration::from_secs(5));
        // A pause is not made up for at once.
        now += Duration::from_secs(60);
        assert_eq!(bucket.take(2000, now) - now, Duration::from_secs(2) - BURST);
    }

    #[test]
    fn one_passes_at_once_after_a_pause_however_low_the_rate() {
        let start = Instant::now();
        let mut bucket = Bucket::of_ones(rate(1), start);
        assert!(bucket.take(1, start) <= start);
        assert_eq!(bucket.take(1, start) - start, Duration::from_secs(1));
        let later = start + Duration::from_secs(600);
        assert!(bucket.take(1, later) <= later);
        assert_eq!(bucket.take(1, later) - later, Duration::from_secs(1));
    }

    #[test]
    fn a_new_rate_holds_for_what_is_not_paid_for_yet() {
        let start = Instant::now();
        let mut bucket = Bucket::new(rate(1000), start);
        bucket.take(10_000, start);
        let now = start + Duration::from_secs(4);
        bucket.set_rate(rate(2000), now);
        assert_eq!(bucket.due() - now, Duration::from_secs(3));
        bucket.set_rate(rate(1), now);
        assert_eq!(bucket.due() - now, Duration::from_secs(6000));
        bucket.give_back(6000);
        assert_eq!(bucket.due(), now);
    }
}
