//! What the catalog does not know yet: chunks on their way into packs, and who still needs which pack.
//!
//! Two questions are answered here, under one lock, because their answers must agree:
//!
//! - *Is this chunk being stored right now?* The first stream to bring a new chunk **claims** it; another that brings
//!   it before the catalog knows it depends on the same copy instead of storing a second one.
//! - *May this pack be condemned?* Every operation that relies on a pack holds a **pin** on it, from the lookup that
//!   found it until its record is applied (or, for a read, until it ends). Only unpinned packs are condemned, and a
//!   condemned pack can no longer be pinned.
//!
//! A pack with a manifest in it is introduced whether or not the put that wrote it came to its end, and its children are
//! counted then. So the pack itself keeps that put's holder until it has been applied.
//!
//! Claims leave this table when the commit that introduces their pack has been applied, while the caller still holds
//! the apply lock; condemning happens under that same lock. So a claim that is seen here is never in a condemned pack.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use parking_lot::Mutex;
use tokio::sync::Notify;

use super::error::{Error, Reason, Result};
use crate::codec::ChunkId;
use crate::format::PackNumber;

/// The table of claims and pins of one repository.
#[derive(Default)]
pub(crate) struct InFlight {
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    claims: HashMap<ChunkId, Claim>,
    pins: HashMap<PackNumber, u32>,
    condemned: HashSet<PackNumber>,
    holders: HashMap<u64, HolderState>,
    next_holder: u64,
    /// Those of the holders that nobody waits for.
    background: usize,
    /// Packs that are written, or being written, and that no record introduces yet although later ones may be.
    unannounced: HashSet<PackNumber>,
}

enum Claim {
    /// Somebody works on it; these holders, the claimant among them, need the pack it ends up in.
    Unplaced(Vec<u64>),
    Placed(PackNumber),
}

struct HolderState {
    packs: HashSet<PackNumber>,
    unplaced: usize,
    failed: bool,
    settled: Arc<Notify>,
}

/// What is known about a chunk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Known {
    /// Nobody has it: whoever is told so stores it, now.
    New,
    /// It is stored, or on its way into a pack that this holder now depends on.
    Stored,
}

/// One operation that relies on packs. Its pins end when it is dropped.
pub(crate) struct Holder {
    table: Arc<InFlight>,
    id: u64,
    settled: Arc<Notify>,
    is_background: bool,
}

/// Says that a pack is not on the log yet and will be, until it is dropped.
pub(crate) struct Unannounced {
    table: Arc<InFlight>,
    pack: PackNumber,
}

impl InFlight {
    /// Registers an operation.
    pub(crate) fn holder(self: &Arc<Self>) -> Holder {
        self.register(false)
    }

    /// Registers an operation that makes way for others.
    pub(crate) fn background_holder(self: &Arc<Self>) -> Holder {
        let holder = self.register(true);
        self.state.lock().background += 1;
        holder
    }

    /// Whether operations are under way that do not make way for others.
    pub(crate) fn is_busy(&self) -> bool {
        let state = self.state.lock();
        state.holders.len() > state.background
    }

    /// Notes that a pack is being written out of the order in which packs are introduced.
    pub(crate) fn unannounced(self: &Arc<Self>, pack: PackNumber) -> Unannounced {
        self.state.lock().unannounced.insert(pack);
        Unannounced {
            table: self.clone(),
            pack,
        }
    }

    /// Whether a pack that the log does not know is being written by this process.
    pub(crate) fn is_unannounced(&self, pack: PackNumber) -> bool {
        self.state.lock().unannounced.contains(&pack)
    }

    fn register(self: &Arc<Self>, is_background: bool) -> Holder {
        let settled = Arc::new(Notify::new());
        let mut state = self.state.lock();
        let id = state.next_holder;
        state.next_holder += 1;
        let entry = HolderState {
            packs: HashSet::new(),
            unplaced: 0,
            failed: false,
            settled: settled.clone(),
        };
        state.holders.insert(id, entry);
        Holder {
            table: self.clone(),
            id,
            settled,
            is_background,
        }
    }

    /// Records that the blobs `ids`, claimed before, are now in `pack`: everybody who waits for them pins it. Claims
    /// that were dropped meanwhile stay dropped: their writer has given up.
    pub(crate) fn place(&self, ids: impl IntoIterator<Item = ChunkId>, pack: PackNumber) {
        let mut state = self.state.lock();
        for id in ids {
            let Some(claim) = state.claims.get_mut(&id) else {
                continue;
            };
            if let Claim::Unplaced(holders) = std::mem::replace(claim, Claim::Placed(pack)) {
                for holder in holders {
                    state.pin(holder, pack);
                    state.settle(holder, true);
                }
            }
        }
    }

    /// Takes back claims whose work failed; whoever waits for them fails too.
    pub(crate) fn give_up(&self, ids: impl IntoIterator<Item = ChunkId>) {
        let mut state = self.state.lock();
        for id in ids {
            if let Some(Claim::Unplaced(holders)) = state.claims.remove(&id) {
                for holder in holders {
                    state.settle(holder, false);
                }
            }
        }
    }

    /// Forgets claims that the catalog knows by now. Called under the apply lock.
    pub(crate) fn applied<'a>(&self, ids: impl IntoIterator<Item = &'a ChunkId>) {
        let mut state = self.state.lock();
        for id in ids {
            if matches!(state.claims.get(id), Some(Claim::Placed(_))) {
                state.claims.remove(id);
            }
        }
    }

    /// Drops every claim and fails every holder: the writer they all rely on has given up.
    pub(crate) fn fail_all(&self) {
        let mut state = self.state.lock();
        state.claims.clear();
        for holder in state.holders.values_mut() {
            if holder.unplaced > 0 {
                holder.failed = true;
                holder.unplaced = 0;
                holder.settled.notify_waiters();
            }
        }
    }

    /// Condemns those of `packs` that nobody holds and says which. From here on none of them can be pinned. Called
    /// under the apply lock.
    pub(crate) fn condemn(&self, packs: &[PackNumber]) -> Vec<PackNumber> {
        let mut state = self.state.lock();
        let free: Vec<_> = packs
            .iter()
            .copied()
            .filter(|pack| !state.pins.contains_key(pack))
            .collect();
        state.condemned.extend(&free);
        free
    }

    /// Makes whoever holds `from` hold `to` as well: a chunk's place has moved. Called under the apply lock.
    pub(crate) fn follow(&self, from: PackNumber, to: PackNumber) {
        let mut state = self.state.lock();
        let holders: Vec<u64> = state
            .holders
            .iter()
            .filter(|(_, holder)| holder.packs.contains(&from))
            .map(|(id, _)| *id)
            .collect();
        for holder in holders {
            state.pin(holder, to);
        }
    }

    /// Whether an operation relies on `pack`.
    pub(crate) fn is_held(&self, pack: PackNumber) -> bool {
        self.state.lock().pins.contains_key(&pack)
    }

    /// Begins anew for a new writer: what the former one had claimed and not committed is in no pack of the log, and
    /// what it wanted to condemn the catalog tells by now. Streams of the former one that still run fail.
    pub(crate) fn reset(&self) {
        self.fail_all();
        self.state.lock().condemned.clear();
    }

    /// Forgets condemnations that the catalog knows by now: nothing leads to these packs any more.
    pub(crate) fn forget_condemned(&self, packs: &[PackNumber]) {
        let mut state = self.state.lock();
        for pack in packs {
            state.condemned.remove(pack);
        }
    }
}

impl std::fmt::Debug for Holder {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Holder({})", self.id)
    }
}

impl State {
    fn pin(&mut self, holder: u64, pack: PackNumber) -> bool {
        if self.condemned.contains(&pack) {
            return false;
        }
        let Some(holder) = self.holders.get_mut(&holder) else {
            return false;
        };
        if holder.packs.insert(pack) {
            *self.pins.entry(pack).or_insert(0) += 1;
        }
        true
    }

    fn settle(&mut self, holder: u64, placed: bool) {
        if let Some(holder) = self.holders.get_mut(&holder) {
            holder.unplaced = holder.unplaced.saturating_sub(1);
            holder.failed |= !placed;
            if holder.unplaced == 0 || holder.failed {
                holder.settled.notify_waiters();
            }
        }
    }

    /// Depends on a chunk that is on its way, if it is.
    fn join(&mut self, holder: u64, id: &ChunkId) -> bool {
        let pack = match self.claims.get_mut(id) {
            None => return false,
            Some(Claim::Placed(pack)) => Some(*pack),
            Some(Claim::Unplaced(holders)) => {
                holders.push(holder);
                None
            }
        };
        match pack {
            Some(pack) => {
                let pinned = self.pin(holder, pack);
                assert!(pinned, "a claimed chunk is never in a condemned pack");
            }
            None => {
                if let Some(holder) = self.holders.get_mut(&holder) {
                    holder.unplaced += 1;
                }
            }
        }
        true
    }
}

impl Holder {
    /// Marks those of `ids` that are on their way as stored; this holder now depends on them.
    pub(crate) fn join(&self, ids: &[ChunkId], known: &mut [Known]) {
        let mut state = self.table.state.lock();
        for (id, known) in ids.iter().zip(known) {
            if *known == Known::New && state.join(self.id, id) {
                *known = Known::Stored;
            }
        }
    }

    /// Claims those of `ids` that are still new. An id that somebody claimed meanwhile, or that occurs twice, is
    /// marked as stored.
    pub(crate) fn claim(&self, ids: &[ChunkId], known: &mut [Known]) {
        let mut state = self.table.state.lock();
        for (id, known) in ids.iter().zip(known) {
            if *known == Known::Stored {
                continue;
            }
            if state.join(self.id, id) {
                *known = Known::Stored;
                continue;
            }
            state.claims.insert(*id, Claim::Unplaced(vec![self.id]));
            if let Some(holder) = state.holders.get_mut(&self.id) {
                holder.unplaced += 1;
            }
        }
    }

    /// Holds `pack`. False if it is condemned: what was found there counts as unknown.
    pub(crate) fn pin(&self, pack: PackNumber) -> bool {
        self.table.state.lock().pin(self.id, pack)
    }

    /// Waits until every chunk this holder depends on has a place in a pack.
    ///
    /// # Errors
    /// If the work on one of them failed.
    pub(crate) async fn settled(&self) -> Result<()> {
        loop {
            let notified = self.settled.notified();
            tokio::pin!(notified);
            notified.as_mut().enable();
            {
                let state = self.table.state.lock();
                let holder = state
                    .holders
                    .get(&self.id)
                    .expect("a holder is registered until it is dropped");
                if holder.failed {
                    return Err(Error::new(
                        Reason::BackendUnavailable,
                        "a chunk this object shares with another put could not be stored; put it again",
                    ));
                }
                if holder.unplaced == 0 {
                    return Ok(());
                }
            }
            notified.await;
        }
    }

    /// The table this holder is registered in.
    pub(crate) fn table(&self) -> &Arc<InFlight> {
        &self.table
    }
}

impl Drop for Unannounced {
    fn drop(&mut self) {
        self.table.state.lock().unannounced.remove(&self.pack);
    }
}

impl Drop for Holder {
    fn drop(&mut self) {
        let mut state = self.table.state.lock();
        state.background -= usize::from(self.is_background);
        let Some(holder) = state.holders.remove(&self.id) else {
            return;
        };
        for pack in holder.packs {
            if let Some(count) = state.pins.get_mut(&pack) {
                *count -= 1;
                if *count == 0 {
                    state.pins.remove(&pack);
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PACK: PackNumber = PackNumber { epoch: 1, counter: 7 };

    fn ids(n: u8) -> Vec<ChunkId> {
        (0..n).map(|byte| ChunkId([byte; 32])).collect()
    }

    #[tokio::test]
    async fn the_second_stream_depends_on_the_pack_of_the_first() {
        let table = Arc::new(InFlight::default());
        let (first, second) = (table.holder(), table.holder());
        let ids = ids(1);
        let mut known = [Known::New];
        first.claim(&ids, &mut known);
        assert_eq!(known, [Known::New]);
        second.claim(&ids, &mut known);
        assert_eq!(known, [Known::Stored]);
        table.place(ids, PACK);
        second.settled().await.unwrap();
        drop(first);
        assert!(table.condemn(&[PACK]).is_empty(), "the second stream pins it");
        drop(second);
        assert_eq!(table.condemn(&[PACK]), [PACK]);
    }

    #[tokio::test]
    async fn a_condemned_pack_cannot_be_pinned() {
        let table = Arc::new(InFlight::default());
        assert_eq!(table.condemn(&[PACK]), [PACK]);
        let holder = table.holder();
        assert!(!holder.pin(PACK));
        table.forget_condemned(&[PACK]);
        assert!(holder.pin(PACK));
    }

    #[tokio::test]
    async fn whoever_waits_for_failed_work_is_told() {
        let table = Arc::new(InFlight::default());
        let (first, second) = (table.holder(), table.holder());
        let ids = ids(2);
        let mut known = [Known::New; 2];
        first.claim(&ids, &mut known);
        second.claim(&ids, &mut known);
        table.give_up(ids);
        assert!(second.settled().await.is_err());
    }
}
