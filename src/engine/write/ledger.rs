//! The packs of a writer between closing and introduction, in the order in which they were opened.
//!
//! Packs are introduced in that order without gaps: a leaf is always placed after the chunks it names, so with every
//! pack that becomes known all that its manifests name is known too.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use parking_lot::Mutex;
use tokio::sync::Notify;

use crate::catalog::EntriesRow;
use crate::codec::ChunkId;
use crate::engine::allowance::PackClaim;
use crate::engine::error::{Error, Result};
use crate::engine::in_flight::Holder;
use crate::format::{PackKind, PackRef};

/// A durable pack with all that the catalog will want to know about it.
#[derive(Clone, Debug)]
pub(crate) struct NewPack {
    pub(crate) pack: PackRef,
    pub(crate) kind: PackKind,
    pub(crate) entries: EntriesRow,
    /// What the leaves and roots born in it refer to.
    pub(crate) children: HashMap<ChunkId, Vec<ChunkId>>,
    /// What keeps those from being reclaimed until they are counted.
    pub(crate) _holders: Vec<Arc<Holder>>,
    /// What it counts for until it is introduced, if it is new.
    pub(crate) claim: Option<Arc<PackClaim>>,
}

impl NewPack {
    /// A pack whose manifests' children nobody holds.
    pub(crate) fn of(
        pack: PackRef,
        kind: PackKind,
        entries: EntriesRow,
        children: HashMap<ChunkId, Vec<ChunkId>>,
    ) -> Self {
        Self {
            pack,
            kind,
            entries,
            children,
            _holders: Vec::new(),
            claim: None,
        }
    }

    /// Rows of the catalog that introducing it changes: of its blobs, and of what its manifests refer to.
    fn changes(&self) -> usize {
        self.entries.entries.len() + self.children.values().map(Vec::len).sum::<usize>()
    }
}

/// Which packs are being put, and which are durable and wait for a commit.
#[derive(Default)]
pub(crate) struct Ledger {
    state: Mutex<State>,
    changed: Notify,
}

#[derive(Default)]
struct State {
    packs: BTreeMap<u64, Option<NewPack>>,
    durable: usize,
    /// What introducing those that are durable changes.
    changes: usize,
    failed: Option<Error>,
}

impl Ledger {
    /// Counts the pack with this counter as being put.
    pub(crate) fn register(&self, counter: u64) {
        self.state.lock().packs.insert(counter, None);
    }

    /// The pack is durable.
    pub(crate) fn durable(&self, pack: NewPack) {
        let mut state = self.state.lock();
        let counter = pack.pack.name.number.counter;
        state.changes += pack.changes();
        let slot = state.packs.insert(counter, Some(pack));
        assert!(
            matches!(slot, Some(None)),
            "a pack becomes durable once, after it was registered"
        );
        state.durable += 1;
        drop(state);
        self.changed.notify_waiters();
    }

    /// Whether a pack is being put now.
    pub(crate) fn is_putting(&self) -> bool {
        self.state.lock().packs.values().any(Option::is_none)
    }

    /// The first pack that is being put now.
    pub(crate) fn first_putting(&self) -> Option<u64> {
        let state = self.state.lock();
        state
            .packs
            .iter()
            .find(|(_, pack)| pack.is_none())
            .map(|(counter, _)| *counter)
    }

    /// A pack could not be put: nothing more of this writer will be introduced.
    pub(crate) fn fail(&self, error: Error) {
        self.state.lock().failed.get_or_insert(error);
        self.changed.notify_waiters();
    }

    /// Why the writer has given up, if it has.
    pub(crate) fn failure(&self) -> Option<Error> {
        self.state.lock().failed.clone()
    }

    /// Waits until the writer gives up, and says why.
    pub(crate) async fn failed(&self) -> Error {
        self.wait(|state| state.failed.clone()).await
    }

    /// Waits until so many packs are durable and not introduced, or some whose introduction changes so many rows, or the writer
    /// has failed.
    pub(crate) async fn pressure(&self, packs: usize, changes: usize) {
        self.wait(|state| {
            let is_much = state.durable >= packs || state.changes >= changes;
            (is_much || state.failed.is_some()).then_some(())
        })
        .await;
    }

    /// Waits until all packs below `counter` are durable, and takes them.
    pub(crate) async fn take_below(&self, counter: u64) -> Result<Vec<NewPack>> {
        self.wait(|state| {
            if let Some(error) = &state.failed {
                return Some(Err(error.clone()));
            }
            let pending = state.packs.range(..counter).any(|(_, pack)| pack.is_none());
            (!pending).then(|| Ok(state.take_below(counter)))
        })
        .await
    }

    async fn wait<T>(&self, mut ready: impl FnMut(&mut State) -> Option<T>) -> T {
        loop {
            let notified = self.changed.notified();
            tokio::pin!(notified);
            notified.as_mut().enable();
            if let Some(value) = ready(&mut self.state.lock()) {
                return value;
            }
            notified.await;
        }
    }
}

impl State {
    fn take_below(&mut self, counter: u64) -> Vec<NewPack> {
        let above = self.packs.split_off(&counter);
        let taken: Vec<_> = std::mem::replace(&mut self.packs, above)
            .into_values()
            .flatten()
            .collect();
        self.durable -= taken.len();
        self.changes -= taken.iter().map(NewPack::changes).sum::<usize>();
        taken
    }
}
