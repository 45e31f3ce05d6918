//! Tables of a catalog that remember every state they were in, and stop when told to.

use std::sync::Arc;

use parking_lot::Mutex;

use super::journal::Timeline;
use crate::catalog::{Batch, Error, KeyValue, MemoryTables, Snapshot, Table, Tables};

/// Tables in memory with their history. Clones are the same tables.
#[derive(Clone, Default)]
pub struct FaultyTables {
    inner: Arc<Inner>,
}

#[derive(Default)]
struct Inner {
    rows: MemoryTables,
    timeline: Timeline,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    history: Vec<(usize, Change)>,
    watcher: Option<Watcher>,
    stop: Option<Stop>,
    asked: usize,
}

type Watcher = Arc<dyn Fn(Access) + Send + Sync>;

/// What was just done.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Access {
    /// A row was looked for in this table.
    Got(Table),
    /// A batch was committed.
    Committed,
}

enum Change {
    Batch(Batch),
    Persisted,
}

/// When commits end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stop {
    /// The commit with this number fails and does nothing; those after it do well.
    At(usize),
    /// The commit with this number is done and reported as failed.
    LoseAnswer(usize),
    /// From this number on nothing is done and everything fails, persisting too.
    From(usize),
}

impl FaultyTables {
    /// Empty tables whose history is told on this timeline.
    pub fn on(timeline: &Timeline) -> Self {
        Self {
            inner: Arc::new(Inner {
                timeline: timeline.clone(),
                ..Inner::default()
            }),
        }
    }

    /// Calls `watcher` after each access, in the thread of the one who asked: it may keep it waiting.
    pub fn watch(&self, watcher: impl Fn(Access) + Send + Sync + 'static) {
        self.inner.state.lock().watcher = Some(Arc::new(watcher));
    }

    fn tell(&self, access: Access) {
        let watcher = self.inner.state.lock().watcher.clone();
        if let Some(watcher) = watcher {
            watcher(access);
        }
    }

    /// Orders an end, or none. Commits are counted from 0 again.
    pub fn order(&self, stop: Option<Stop>) {
        let mut state = self.inner.state.lock();
        state.stop = stop;
        state.asked = 0;
    }

    /// Commits asked for since the last order.
    pub fn commits(&self) -> usize {
        self.inner.state.lock().asked
    }

    /// The moments at which something was committed or persisted.
    pub fn moments(&self) -> Vec<usize> {
        self.inner.state.lock().history.iter().map(|(at, _)| *at).collect()
    }

    /// How many states a crash at this moment can leave: everything committed, or less, down to what was persisted.
    pub fn states_at(&self, at: usize) -> usize {
        let state = self.inner.state.lock();
        let (persisted, committed) = state.until(at);
        committed - persisted + 1
    }

    /// One of those states: 0 is everything committed, each further one lacks one commit more. It has the same history up
    /// to there, and what is in it survives from then on.
    pub fn state_at(&self, at: usize, older: usize) -> Self {
        let state = self.inner.state.lock();
        let (persisted, committed) = state.until(at);
        let kept = committed.saturating_sub(older).max(persisted);
        let rows = MemoryTables::default();
        let mut history = Vec::new();
        for (moment, batch) in state.batches().take(kept) {
            rows.commit(batch.clone()).expect("memory takes everything");
            history.push((moment, Change::Batch(batch.clone())));
        }
        let timeline = self.inner.timeline.clone();
        history.push((timeline.now(), Change::Persisted));
        Self {
            inner: Arc::new(Inner {
                rows,
                timeline,
                state: Mutex::new(State {
                    history,
                    ..State::default()
                }),
            }),
        }
    }
}

impl State {
    /// Every batch that was committed, and when.
    fn batches(&self) -> impl Iterator<Item = (usize, &Batch)> {
        self.history.iter().filter_map(|(at, change)| match change {
            Change::Batch(batch) => Some((*at, batch)),
            Change::Persisted => None,
        })
    }

    /// Commits that were persisted, and all commits, before a moment.
    fn until(&self, at: usize) -> (usize, usize) {
        let (mut persisted, mut committed) = (0, 0);
        for (_, change) in self.history.iter().take_while(|(moment, _)| *moment < at) {
            match change {
                Change::Batch(_) => committed += 1,
                Change::Persisted => persisted = committed,
            }
        }
        (persisted, committed)
    }
}

impl Tables for FaultyTables {
    fn get(&self, table: Table, key: &[u8]) -> Result<Option<Vec<u8>>, Error> {
        let row = self.inner.rows.get(table, key);
        self.tell(Access::Got(table));
        row
    }

    fn scan(&self, table: Table, prefix: &[u8], after: Option<&[u8]>, limit: usize) -> Result<Vec<KeyValue>, Error> {
        self.inner.rows.scan(table, prefix, after, limit)
    }

    fn commit(&self, batch: Batch) -> Result<(), Error> {
        let mut state = self.inner.state.lock();
        let number = state.asked;
        state.asked += 1;
        match state.stop {
            Some(Stop::At(at)) if at == number => return Err(stopped()),
            Some(Stop::From(from)) if number >= from => return Err(stopped()),
            _ => {}
        }
        state
            .history
            .push((self.inner.timeline.now(), Change::Batch(batch.clone())));
        self.inner.rows.commit(batch)?;
        let lost = state.stop == Some(Stop::LoseAnswer(number));
        drop(state);
        self.tell(Access::Committed);
        if lost { Err(stopped()) } else { Ok(()) }
    }

    fn snapshot(&self) -> Box<dyn Snapshot> {
        self.inner.rows.snapshot()
    }

    fn persist(&self) -> Result<(), Error> {
        let mut state = self.inner.state.lock();
        match state.stop {
            Some(Stop::From(from)) if state.asked > from => return Err(stopped()),
            _ => {}
        }
        state.history.push((self.inner.timeline.now(), Change::Persisted));
        Ok(())
    }

    fn disk_bytes(&self) -> Result<u64, Error> {
        Ok(0)
    }
}

fn stopped() -> Error {
    Error::Unwritable {
        path: "faulty tables".into(),
        source: std::io::Error::other("stopped by order"),
    }
}
