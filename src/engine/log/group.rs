//! How long a commit waits for others to join it.
//!
//! Those whom a commit answers ask again soon. If the next one begins before they do, callers split into two halves that
//! take turns, and each of them waits for the end of two commits. So a commit waits until as many requests are there as the
//! last one answered and left waiting, for at most as long as one takes: whoever missed it would wait that long too. If more
//! than a quarter of the missing do not come, since their callers have gone or come and go as they like, it is not tried
//! again for a while: who writes alone, or now and then, waits for nobody. Nor does who makes commits of less than 2 ms: they
//! are over before a timer has run out.

use std::time::Duration;

use tokio::sync::mpsc;
use tokio::time::{Instant, timeout_at};

/// Nobody waits longer, however long a commit takes.
const WAIT_MAX: Duration = Duration::from_millis(20);
/// Timers are exact to a millisecond.
const WORTH_WAITING: Duration = Duration::from_millis(2);
/// So many commits pass at most before it is tried again.
const PASSED_MAX: u32 = 63;
/// A commit counts for one in so many of what commits take: one that met a flush of the catalog, say, is like no other.
const WEIGHT: u32 = 8;

/// What the last commits say about the next.
#[derive(Debug, Default)]
pub(crate) struct Group {
    /// Requests that the last commit answered, and those that were waiting before it did.
    callers: usize,
    /// What a commit takes.
    took: Duration,
    /// Commits that are still to pass without waiting.
    to_pass: u32,
    /// As many pass after the next wait in vain.
    passed_next: u32,
}

impl Group {
    /// Waits for those who should be in the commit of `batch` too, `most` in all, if it is worth it.
    pub(super) async fn gather<T>(&mut self, batch: &mut Vec<T>, most: usize, requests: &mut mpsc::Receiver<T>) {
        let present = batch.len();
        let Some((expected, wait)) = self.expects(present, most) else {
            return;
        };
        let until = Instant::now() + wait;
        while batch.len() < expected
            && let Ok(Some(request)) = timeout_at(until, requests.recv()).await
        {
            batch.push(request);
        }
        self.waited(expected - present, batch.len() - present);
    }

    /// How many requests a commit should have that has so many and can have `most`, and how long to wait for them; `None` if it
    /// begins at once.
    fn expects(&mut self, present: usize, most: usize) -> Option<(usize, Duration)> {
        let expected = self.callers.min(most);
        if present == 0 || present >= expected || self.took < WORTH_WAITING {
            return None;
        }
        if self.to_pass > 0 {
            self.to_pass -= 1;
            return None;
        }
        Some((expected, self.took.min(WAIT_MAX)))
    }

    /// A wait for so many has ended, and so many came.
    fn waited(&mut self, missing: usize, came: usize) {
        if 4 * came >= 3 * missing {
            self.passed_next = 0;
        } else {
            self.to_pass = self.passed_next;
            self.passed_next = (2 * self.passed_next + 1).min(PASSED_MAX);
        }
    }

    /// A commit that is to answer so many requests, while so many others wait for the next, took so long. One that answers nobody
    /// says nothing.
    ///
    /// To be called before anyone is answered: who has been may be waiting again, and would be counted twice.
    pub(super) fn served(&mut self, answered: usize, waiting: usize, took: Duration) {
        if answered == 0 {
            return;
        }
        self.callers = answered + waiting;
        self.took = match self.took.is_zero() {
            true => took,
            false => self.took - self.took / WEIGHT + took / WEIGHT,
        };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const COMMIT: Duration = Duration::from_millis(4);
    const MOST: usize = 100;

    #[test]
    fn who_writes_alone_waits_for_nobody() {
        let mut group = Group::default();
        assert_eq!(group.expects(1, MOST), None, "the first commit");
        for _ in 0..3 {
            group.served(1, 0, COMMIT);
            assert_eq!(group.expects(1, MOST), None);
        }
        assert_eq!(group.expects(0, MOST), None, "a commit that nobody asked for");
    }

    #[test]
    fn the_first_to_come_back_waits_for_all_who_asked_before() {
        let mut group = Group::default();
        group.served(1, 63, COMMIT);
        assert_eq!(group.expects(63, MOST), Some((64, COMMIT)), "the one that was answered");
        group.served(41, 23, COMMIT);
        assert_eq!(
            group.expects(24, MOST),
            Some((64, COMMIT)),
            "those who waited meanwhile are no group of their own"
        );
        group.served(64, 0, COMMIT);
        assert_eq!(group.expects(1, MOST), Some((64, COMMIT)));
        assert_eq!(group.expects(64, MOST), None, "all are there");
        group.served(99, 40, COMMIT);
        assert_eq!(group.expects(40, MOST), Some((MOST, COMMIT)), "as many as it can have");
        group.served(2, 0, COMMIT);
        assert_eq!(group.expects(2, MOST), None);
        group.served(0, 0, COMMIT);
        assert_eq!(group.expects(1, MOST), Some((2, COMMIT)), "a commit along the way");
    }

    #[tokio::test(start_paused = true)]
    async fn a_commit_begins_when_all_are_back_or_will_not_come() {
        let mut group = Group::default();
        group.served(3, 0, Duration::from_millis(16));
        let (sender, mut requests) = mpsc::channel(8);
        let after = |pause, request| {
            let sender = sender.clone();
            tokio::spawn(async move {
                tokio::time::sleep(Duration::from_millis(pause)).await;
                sender.send(request).await.unwrap();
            })
        };
        let begun = Instant::now();
        let ms = |begun: Instant| begun.elapsed().as_millis();
        let mut batch = vec![0];
        let others = [after(2, 1), after(4, 2), after(6, 3)];
        group.gather(&mut batch, MOST, &mut requests).await;
        assert_eq!(
            (batch, ms(begun)),
            (vec![0, 1, 2], 4),
            "not for more than were there before"
        );
        futures::future::join_all(others).await;
        let begun = Instant::now();
        let mut batch = vec![requests.recv().await.unwrap()];
        group.gather(&mut batch, MOST, &mut requests).await;
        assert_eq!((batch, ms(begun)), (vec![3], 16), "for as long as a commit takes");
        let begun = Instant::now();
        let mut batch = vec![4];
        group.gather(&mut batch, MOST, &mut requests).await;
        assert_eq!((batch, ms(begun)), (vec![4], 16), "and once more");
        let begun = Instant::now();
        let mut batch = vec![5];
        group.gather(&mut batch, MOST, &mut requests).await;
        assert_eq!((batch, ms(begun)), (vec![5], 0), "not again at once");
        drop(sender);
        let mut batch = vec![6];
        group.gather(&mut batch, MOST, &mut requests).await;
        assert_eq!((batch, ms(begun)), (vec![6], 0), "nobody is left who could come");
    }

    #[test]
    fn one_commit_that_was_slow_for_another_reason_changes_little() {
        let mut group = Group::default();
        group.served(64, 0, COMMIT);
        group.served(64, 0, 3 * COMMIT);
        assert_eq!(group.expects(1, MOST), Some((64, 5 * COMMIT / 4)));
        for _ in 0..40 {
            group.served(64, 0, 3 * COMMIT);
        }
        let (_, wait) = group.expects(1, MOST).unwrap();
        assert!(wait > 3 * COMMIT - COMMIT / 8, "all of them are");
    }

    #[test]
    fn nobody_waits_where_commits_are_short() {
        let mut group = Group::default();
        group.served(63, 0, WORTH_WAITING - Duration::from_micros(1));
        assert_eq!(group.expects(1, MOST), None);
        let mut group = Group::default();
        group.served(63, 0, WORTH_WAITING);
        assert_eq!(group.expects(1, MOST), Some((63, WORTH_WAITING)));
    }

    #[test]
    fn a_slow_store_keeps_nobody_waiting_for_long() {
        let mut group = Group::default();
        group.served(2, 0, Duration::from_secs(60));
        assert_eq!(group.expects(1, MOST), Some((2, WAIT_MAX)));
    }

    #[test]
    fn waits_in_vain_become_rare_and_come_back_with_the_first_that_is_not() {
        let mut group = Group::default();
        let mut passed = Vec::new();
        let mut since = 0;
        for _ in 0..400 {
            group.served(11, 0, COMMIT);
            match group.expects(3, MOST) {
                None => since += 1,
                Some(_) => {
                    passed.push(std::mem::take(&mut since));
                    group.waited(8, 5);
                }
            }
        }
        assert_eq!(passed, [0, 0, 1, 3, 7, 15, 31, 63, 63, 63, 63, 63]);
        while group.expects(3, MOST).is_none() {}
        group.waited(8, 6);
        assert!(group.expects(3, MOST).is_some());
        group.waited(8, 0);
        assert!(group.expects(3, MOST).is_some(), "as after the very first");
    }
}
