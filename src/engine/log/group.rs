//! How long a commit waits for others to join it.
//!
//! Those whom a commit answers ask again soon, and the first of them would have the next commit to itself: it begins, and
//! all others wait for the end of two, one of a single request and one of the rest, by turns. So a commit that begins with
//! fewer requests than the larger of the last two had waits until as many are there, for at most half as long as the last
//! commit took. If most of them do not come, since their callers have gone or come and go as they like, that is not tried
//! again for a while: who writes alone, or now and then, waits for nobody.
//!
//! Nor is it worth it where commits are not slow because of the store: with two commits by turns the processor prepares the
//! puts of one while the other is written.

use std::time::Duration;

use tokio::sync::mpsc;
use tokio::time::{Instant, timeout_at};

/// Nobody waits longer, however long a commit takes.
const WAIT_MAX: Duration = Duration::from_millis(10);
/// So many commits pass at most before it is tried again.
const PASSED_MAX: u32 = 64;

/// What the last commits say about the next.
#[derive(Debug, Default)]
pub(crate) struct Group {
    /// Requests in the last commit and in the one before.
    served: [usize; 2],
    took: Duration,
    /// Of that, until its pack was in the store.
    stored: Duration,
    /// Commits that are still to pass without waiting.
    to_pass: u32,
    /// As many pass after the next wait in vain.
    passed_next: u32,
}

impl Group {
    /// Waits for those who should be in the commit of `batch` too, if it is worth it.
    pub(super) async fn gather<T>(&mut self, batch: &mut Vec<T>, requests: &mut mpsc::Receiver<T>) {
        let present = batch.len();
        let Some((expected, wait)) = self.expects(present) else {
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

    /// How many requests a commit should have that has so many, and how long to wait for them; `None` if it begins at once.
    fn expects(&mut self, present: usize) -> Option<(usize, Duration)> {
        let expected = self.served.into_iter().max().unwrap_or(0);
        if present == 0 || present >= expected || 2 * self.stored < self.took {
            return None;
        }
        if self.to_pass > 0 {
            self.to_pass -= 1;
            return None;
        }
        Some((expected, (self.took / 2).min(WAIT_MAX)))
    }

    /// A wait for so many has ended, and so many came.
    fn waited(&mut self, missing: usize, came: usize) {
        if 2 * came >= missing {
            self.passed_next = 0;
        } else {
            self.passed_next = (2 * self.passed_next).clamp(1, PASSED_MAX);
            self.to_pass = self.passed_next;
        }
    }

    /// A commit with so many requests took so long, as long of that to be stored. One that nobody asked for says nothing.
    pub(super) fn served(&mut self, requests: usize, took: Duration, stored: Duration) {
        if requests == 0 {
            return;
        }
        self.served = [requests, self.served[0]];
        self.took = took;
        self.stored = stored;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const COMMIT: Duration = Duration::from_millis(4);
    const STORED: Duration = Duration::from_millis(2);

    #[test]
    fn who_writes_alone_waits_for_nobody() {
        let mut group = Group::default();
        assert_eq!(group.expects(1), None, "the first commit");
        for _ in 0..3 {
            group.served(1, COMMIT, STORED);
            assert_eq!(group.expects(1), None);
        }
        assert_eq!(group.expects(0), None, "a commit that nobody asked for");
    }

    #[test]
    fn the_first_to_come_back_waits_for_those_who_were_answered_with_it() {
        let mut group = Group::default();
        group.served(1, COMMIT, STORED);
        group.served(63, COMMIT, STORED);
        assert_eq!(group.expects(1), Some((63, COMMIT / 2)));
        assert_eq!(group.expects(63), None, "all are there");
        group.served(1, COMMIT, STORED);
        assert_eq!(
            group.expects(62),
            Some((63, COMMIT / 2)),
            "of the commit before the last"
        );
        group.served(2, COMMIT, STORED);
        assert_eq!(group.expects(2), None);
        group.served(0, COMMIT, STORED);
        group.served(0, COMMIT, STORED);
        assert_eq!(group.expects(1), Some((2, COMMIT / 2)), "commits along the way");
    }

    #[tokio::test(start_paused = true)]
    async fn a_commit_begins_when_all_are_back_or_will_not_come() {
        let mut group = Group::default();
        group.served(3, Duration::from_millis(16), Duration::from_millis(16));
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
        group.gather(&mut batch, &mut requests).await;
        assert_eq!(
            (batch, ms(begun)),
            (vec![0, 1, 2], 4),
            "not for more than were there before"
        );
        futures::future::join_all(others).await;
        let begun = Instant::now();
        let mut batch = vec![requests.recv().await.unwrap()];
        group.gather(&mut batch, &mut requests).await;
        assert_eq!((batch, ms(begun)), (vec![3], 8), "for half of a commit");
        let begun = Instant::now();
        let mut batch = vec![4];
        group.gather(&mut batch, &mut requests).await;
        assert_eq!((batch, ms(begun)), (vec![4], 0), "not again at once");
        drop(sender);
        let mut batch = vec![5];
        group.gather(&mut batch, &mut requests).await;
        assert_eq!((batch, ms(begun)), (vec![5], 0), "nobody is left who could come");
    }

    #[test]
    fn nobody_waits_where_the_store_is_not_what_takes_long() {
        let mut group = Group::default();
        group.served(63, COMMIT, STORED - Duration::from_micros(1));
        assert_eq!(group.expects(1), None);
        group.served(1, COMMIT, STORED);
        assert_eq!(group.expects(1), Some((63, COMMIT / 2)));
    }

    #[test]
    fn a_slow_store_keeps_nobody_waiting_for_long() {
        let mut group = Group::default();
        group.served(2, Duration::from_secs(60), Duration::from_secs(59));
        assert_eq!(group.expects(1), Some((2, WAIT_MAX)));
    }

    #[test]
    fn waits_in_vain_become_rare_and_come_back_with_the_first_that_is_not() {
        let mut group = Group::default();
        let mut passed = Vec::new();
        let mut since = 0;
        for _ in 0..400 {
            group.served(8, COMMIT, STORED);
            match group.expects(3) {
                None => since += 1,
                Some(_) => {
                    passed.push(std::mem::take(&mut since));
                    group.waited(5, 2);
                }
            }
        }
        assert_eq!(passed, [0, 1, 2, 4, 8, 16, 32, 64, 64, 64, 64, 64]);
        while group.expects(3).is_none() {}
        group.waited(5, 3);
        assert!(group.expects(3).is_some());
        group.waited(5, 0);
        assert_eq!(group.expects(3), None);
        assert!(group.expects(3).is_some(), "as after the very first");
    }
}
