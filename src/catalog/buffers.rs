//! The write buffers of the tree: when the next one begins, and where they are dropped.
//!
//! Both are work that whoever commits must not wait for, and that the database does in a bad place. It begins a new buffer
//! in the thread that flushes and compacts: while that is busy, the old one grows. The flush then syncs the journal with all
//! that was written since the last one, and keeps everybody out meanwhile. And the tree drops a written buffer, row by row,
//! while it keeps everybody out too. So a thread here syncs the journal first and begins the next buffer, and each
//! buffer is held here until the tree has let go of it, and dropped by that thread.

use std::any::Any;
use std::collections::VecDeque;
use std::mem;
use std::sync::Arc;
use std::thread::{Builder, JoinHandle};

use parking_lot::Mutex;

use super::give_way;

/// What a buffer is held as.
pub(super) type Held = Arc<dyn Any + Send + Sync>;

/// Knows the buffer that fills and those before it that the tree still has.
pub(super) struct WriteBuffers {
    /// A buffer with so many is full.
    bytes: u64,
    newest_last: Mutex<VecDeque<Held>>,
    at_work: Mutex<Option<JoinHandle<()>>>,
}

impl WriteBuffers {
    pub(super) fn new(bytes: u64) -> Self {
        Self {
            bytes,
            newest_last: Mutex::default(),
            at_work: Mutex::default(),
        }
    }

    /// This one has `bytes` after a commit. Of two commits at the same time, the later may come with the older one.
    ///
    /// If it is full, the thread does `begin_next`. Whether the caller has to see to that instead: the thread is behind, or could
    /// not be started, and this one has twice as much as it should.
    #[must_use]
    pub(super) fn note(&self, filling: Held, bytes: u64, begin_next: impl FnOnce() + Send + 'static) -> bool {
        let written = self.written(filling);
        let is_full = bytes >= self.bytes;
        if written.is_empty() && !is_full {
            return false;
        }
        let mut at_work = self.at_work.lock();
        if at_work.as_ref().is_some_and(|thread| !thread.is_finished()) {
            // Those that are written are dropped here: otherwise memory would grow.
            return self.is_overfull(bytes);
        }
        let work = move || {
            if is_full {
                begin_next();
            }
            give_way();
            drop(written);
        };
        *at_work = Builder::new().name("cairn-catalog".to_owned()).spawn(work).ok();
        at_work.is_none() && self.is_overfull(bytes)
    }

    /// Whether a buffer with `bytes` has twice as much as it should: the next has to begin, and if it cannot, whoever writes waits.
    pub(super) fn is_overfull(&self, bytes: u64) -> bool {
        bytes >= 2 * self.bytes
    }

    /// Takes up the one that fills, and lets go of those that nobody else has any more.
    fn written(&self, filling: Held) -> Vec<Held> {
        let mut written = Vec::new();
        let mut buffers = self.newest_last.lock();
        if !buffers.iter().any(|known| Arc::ptr_eq(known, &filling)) {
            buffers.push_back(filling);
        }
        // Where it is the only one, nobody can get another.
        while buffers.len() > 1 && Arc::strong_count(&buffers[0]) == 1 {
            written.extend(buffers.pop_front());
        }
        written
    }
}

impl Drop for WriteBuffers {
    /// The thread may hold the tree: it is closed when this is.
    fn drop(&mut self) {
        if let Some(thread) = mem::take(self.at_work.get_mut()) {
            // It has reported its own panic.
            let _ = thread.join();
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;
    use std::time::Duration;

    use super::*;

    const PATIENCE: Duration = Duration::from_secs(60);

    /// Tells the name of the thread that drops it.
    struct Told(mpsc::Sender<Option<String>>);

    impl Drop for Told {
        fn drop(&mut self) {
            let _ = self.0.send(std::thread::current().name().map(str::to_owned));
        }
    }

    fn note(buffers: &WriteBuffers, filling: Held) {
        assert!(!buffers.note(filling, 1, || panic!("it is not full")));
    }

    #[test]
    fn a_written_buffer_is_dropped_in_the_background_once_nobody_else_has_it() {
        let (sender, dropped) = mpsc::channel();
        let buffers = WriteBuffers::new(2);
        let [first, second, third] = [0; 3].map(|_| Arc::new(Told(sender.clone())));
        for active in [&first, &first, &second] {
            note(&buffers, active.clone());
        }
        drop(first);
        assert!(dropped.try_recv().is_err(), "the first one is kept");
        note(&buffers, second.clone());
        assert_eq!(buffers.newest_last.lock().len(), 1, "one buffer is noted once");
        let thread = dropped.recv_timeout(PATIENCE).unwrap();
        assert_eq!(thread.as_deref(), Some("cairn-catalog"));
        for active in [&third, &second, &third] {
            note(&buffers, active.clone());
        }
        assert_eq!(buffers.newest_last.lock().len(), 2, "somebody has the second one");
        drop((second, third));
        note(&buffers, Arc::new(Told(sender.clone())));
        let left = buffers.newest_last.lock().len();
        assert_eq!(left, 1, "all but the one that fills");
    }

    #[test]
    fn the_next_buffer_begins_in_the_background_and_here_if_that_is_behind() {
        let buffers = WriteBuffers::new(10);
        let filling: Held = Arc::new(());
        let (begun, begins) = mpsc::channel();
        let (go_on, may_go_on) = mpsc::channel();
        let begin = move || {
            begun.send(()).unwrap();
            may_go_on.recv_timeout(PATIENCE).unwrap();
        };
        assert!(!buffers.note(filling.clone(), 10, begin));
        begins.recv_timeout(PATIENCE).unwrap();
        let again = || panic!("one thread is at it");
        assert!(!buffers.note(filling.clone(), 19, again), "it is given time");
        assert!(buffers.note(filling, 20, again));
        go_on.send(()).unwrap();
        drop(buffers);
        let ended = Err(mpsc::TryRecvError::Disconnected);
        assert_eq!(begins.try_recv(), ended, "who drops the buffers waits for the thread");
    }
}
