//! How fast the storage may be asked, by class of work.
//!
//! Every request passes here before its own time begins, in the order in which requests of its class came: one waits for its
//! due time, the others behind it. So none starves, and one that is given up while it waits costs the others nothing. A rate
//! that is changed holds for those that wait, too.
//!
//! The class belongs to the work, not to the request: it is that of the task ([`Class::scope`]), [`Class::Foreground`] unless
//! something else was said. Bytes that are known before are taken before; what a read brings beyond that is owed, and the
//! next one waits for it.

use std::num::NonZeroU64;
use std::ops::{Index, IndexMut};
use std::time::Duration;

use parking_lot::Mutex;
use tokio::sync::Notify;
use tokio::time::{Instant, sleep_until};

use super::bucket::Bucket;
use super::counters::Count;

tokio::task_local! {
    static CLASS: Class;
}

/// What a request to the storage is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Class {
    /// What a caller waits for, and what keeps the log: commits and checkpoints, whoever asked for them.
    Foreground,
    /// Giving back space.
    Reclaim,
    /// Reading and checking what is stored.
    Scrub,
    /// Moving a store elsewhere.
    Evacuate,
}

impl Class {
    /// Every class.
    pub const ALL: [Self; 4] = [Self::Foreground, Self::Reclaim, Self::Scrub, Self::Evacuate];

    /// The word.
    pub fn as_str(self) -> &'static str {
        match self {
            Class::Foreground => "foreground",
            Class::Reclaim => "reclaim",
            Class::Scrub => "scrub",
            Class::Evacuate => "evacuate",
        }
    }

    /// `work`, all of whose requests are of this class; not those of tasks that it spawns, which [`Self::carried`] is for.
    pub fn scope<F: Future>(self, work: F) -> impl Future<Output = F::Output> {
        CLASS.scope(self, work)
    }

    /// `work` for a task of its own, in the class of the task that this is called in.
    pub fn carried<F: Future>(work: F) -> impl Future<Output = F::Output> {
        Self::current().scope(work)
    }

    /// The class of this task.
    pub fn current() -> Self {
        CLASS.try_with(|class| *class).unwrap_or(Self::Foreground)
    }
}

/// The most of one class in a second; what is absent has no limit.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Rate {
    /// Bytes read and written.
    pub bytes: Option<NonZeroU64>,
    /// Requests.
    pub requests: Option<NonZeroU64>,
}

/// A rate for each class; none by default.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Rates([Rate; Class::ALL.len()]);

impl Index<Class> for Rates {
    type Output = Rate;

    fn index(&self, class: Class) -> &Rate {
        &self.0[class as usize]
    }
}

impl IndexMut<Class> for Rates {
    fn index_mut(&mut self, class: Class) -> &mut Rate {
        &mut self.0[class as usize]
    }
}

/// What requests to one storage have to keep to, and what passed.
#[derive(Debug, Default)]
pub struct Shaper {
    lanes: [Lane; Class::ALL.len()],
}

/// What passed of a class.
#[derive(Debug, Default)]
pub struct Passed {
    /// Requests.
    pub requests: Count,
    /// Bytes that they read and wrote.
    pub bytes: Count,
    waited_nanoseconds: Count,
}

impl Passed {
    /// How long requests waited to pass, also those that were given up meanwhile.
    pub fn waited(&self) -> Duration {
        Duration::from_nanos(self.waited_nanoseconds.value())
    }
}

impl Shaper {
    /// The rates that hold now.
    pub fn rates(&self) -> Rates {
        let mut rates = Rates::default();
        for class in Class::ALL {
            rates[class] = self.lane(class).line.lock().rate;
        }
        rates
    }

    /// From now on this rate holds for a class, also for what waits already.
    pub fn set_rate(&self, class: Class, rate: Rate) {
        let lane = self.lane(class);
        lane.line.lock().set_rate(rate, Instant::now());
        lane.changed.notify_one();
    }

    /// What passed of a class since the storage was attached.
    pub fn passed(&self, class: Class) -> &Passed {
        &self.lane(class).passed
    }

    /// Returns when a request of this task's class may be made that takes so many bytes.
    pub(super) async fn pass(&self, bytes: u64) {
        let lane = self.lane(Class::current());
        if lane.line.lock().is_limited() {
            lane.wait(bytes).await;
        }
        lane.passed.requests.add(1);
        lane.passed.bytes.add(bytes);
    }

    /// Bytes that a request of this task's class has brought and nobody knew of before.
    pub(super) fn owe(&self, bytes: u64) {
        let lane = self.lane(Class::current());
        lane.line.lock().owe(bytes, Instant::now());
        lane.passed.bytes.add(bytes);
    }

    fn lane(&self, class: Class) -> &Lane {
        &self.lanes[class as usize]
    }
}

/// The requests of one class.
#[derive(Debug, Default)]
struct Lane {
    line: Mutex<Line>,
    /// Held by the one whose due time is waited for; the others wait for it in their order.
    turn: tokio::sync::Mutex<()>,
    changed: Notify,
    passed: Passed,
}

impl Lane {
    async fn wait(&self, bytes: u64) {
        let _waiting = Waiting {
            passed: &self.passed,
            since: Instant::now(),
        };
        let _turn = self.turn.lock().await;
        let taken = Taken::by(self, bytes);
        loop {
            // Also what is owed meanwhile is waited for: only what passed before can owe anything.
            let due = self.line.lock().due();
            match due.filter(|due| *due > Instant::now()) {
                None => break,
                Some(due) => tokio::select! {
                    () = sleep_until(due) => {}
                    () = self.changed.notified() => {}
                },
            }
        }
        taken.keep();
    }
}

/// Counts the time of one that waits, however that ends.
struct Waiting<'a> {
    passed: &'a Passed,
    since: Instant,
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        let waited = self.since.elapsed().as_nanos();
        self.passed
            .waited_nanoseconds
            .add(u64::try_from(waited).unwrap_or(u64::MAX));
    }
}

/// What the one whose turn it is has taken; given back if it does not come to pass.
struct Taken<'a> {
    lane: &'a Lane,
    bytes: u64,
}

impl<'a> Taken<'a> {
    fn by(lane: &'a Lane, bytes: u64) -> Self {
        lane.line.lock().take(bytes, Instant::now());
        Self { lane, bytes }
    }

    fn keep(self) {
        std::mem::forget(self);
    }
}

impl Drop for Taken<'_> {
    fn drop(&mut self) {
        self.lane.line.lock().give_back(self.bytes);
    }
}

/// The buckets of one class.
#[derive(Debug, Default)]
struct Line {
    rate: Rate,
    bytes: Option<Bucket>,
    requests: Option<Bucket>,
}

impl Line {
    fn is_limited(&self) -> bool {
        self.bytes.is_some() || self.requests.is_some()
    }

    fn set_rate(&mut self, rate: Rate, now: Instant) {
        self.rate = rate;
        changed(&mut self.bytes, rate.bytes, now, Bucket::new);
        changed(&mut self.requests, rate.requests, now, Bucket::of_ones);
    }

    /// Takes what a request needs.
    fn take(&mut self, bytes: u64, now: Instant) {
        self.owe(bytes, now);
        if let Some(bucket) = &mut self.requests {
            bucket.take(1, now);
        }
    }

    fn give_back(&mut self, bytes: u64) {
        if let Some(bucket) = &mut self.bytes {
            bucket.give_back(bytes);
        }
        if let Some(bucket) = &mut self.requests {
            bucket.give_back(1);
        }
    }

    fn owe(&mut self, bytes: u64, now: Instant) {
        if let Some(bucket) = &mut self.bytes
            && bytes > 0
        {
            bucket.take(bytes, now);
        }
    }

    /// When all that was taken is paid for; none if nothing has to be.
    fn due(&self) -> Option<Instant> {
        let buckets = [&self.bytes, &self.requests];
        buckets.into_iter().flatten().map(Bucket::due).max()
    }
}

fn changed(
    bucket: &mut Option<Bucket>,
    rate: Option<NonZeroU64>,
    now: Instant,
    new: impl FnOnce(NonZeroU64, Instant) -> Bucket,
) {
    match (bucket.as_mut(), rate) {
        (Some(bucket), Some(rate)) => bucket.set_rate(rate, now),
        (None, Some(rate)) => *bucket = Some(new(rate, now)),
        (_, None) => *bucket = None,
    }
}

#[cfg(test)]
mod tests;
