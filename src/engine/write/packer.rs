//! Where sealed blobs become packs: one open pack per writer, closed when it is full or when a commit takes it.
//!
//! Under the packer's lock a blob gets its ordinal, is sealed and copied into the open pack, and its claim is settled,
//! in one step: whoever sees the claim as placed finds the pack either open here or registered in the [`Ledger`].

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use parking_lot::Mutex;
use tokio::sync::mpsc;

use super::ledger::Ledger;
use crate::codec::{ChunkId, Codec};
use crate::engine::allowance::{Allowance, PackClaim};
use crate::engine::budget::Paid;
use crate::engine::core::Core;
use crate::engine::error::{Error, Result};
use crate::engine::in_flight::{Holder, InFlight};
use crate::engine::random;
use crate::format::{BlobKind, PackBuffer, PackId, PackName, PackNumber, PackWriter, Secrets};

/// A blob ready to be sealed.
pub(crate) struct Fresh<'a> {
    pub(crate) id: ChunkId,
    pub(crate) kind: BlobKind,
    pub(crate) codec: Codec,
    pub(crate) plain_len: u32,
    pub(crate) stored: &'a [u8],
    /// What a leaf or root refers to, with who holds it; none for data.
    pub(crate) children: Option<(Vec<ChunkId>, Arc<Holder>)>,
}

/// The share of a stream in the packs it wrote to, in bytes as the backend counts them.
pub(crate) type StoredBytes = Arc<AtomicU64>;

/// A pack that takes blobs, or has just stopped doing so.
pub(crate) struct OpenPack {
    pub(crate) writer: PackWriter,
    pub(crate) children: HashMap<ChunkId, Vec<ChunkId>>,
    /// Those who hold what these children are.
    pub(crate) holders: Vec<Arc<Holder>>,
    pub(crate) shares: Vec<(StoredBytes, u64)>,
    pub(crate) paid: Option<Paid>,
    pub(crate) claim: PackClaim,
    /// Rows of the catalog that introducing it changes; what fills it otherwise need not count them.
    pub(crate) changes: usize,
}

/// Buffers that wait for the next packs while one is filled: two are put at once.
const SPARE_MAX: usize = 2;
/// And while none is.
const SPARE_AT_REST: usize = 1;

/// The open pack of a writer and what is needed for the next one.
pub(crate) struct Packer {
    secrets: Arc<Secrets>,
    in_flight: Arc<InFlight>,
    ledger: Arc<Ledger>,
    allowance: Arc<Allowance>,
    target_bytes: usize,
    /// A pack whose introduction changes so many rows is full.
    changes_max: usize,
    epoch: u64,
    state: Mutex<State>,
}

struct State {
    open: Option<OpenPack>,
    next_counter: u64,
    /// The pack that a commit has taken, until it is durable.
    taken: Option<u64>,
    /// Buffers of packs that have been put, for the next ones: a fresh one costs a page fault every 4 KiB. Those of the open
    /// pack and of the packs being put go around; more than one at rest would be memory that nobody pays for.
    spare: Vec<PackBuffer>,
    /// Packs to put. Unbounded in count; their bytes are paid for from the budget.
    full: mpsc::UnboundedSender<OpenPack>,
}

impl Packer {
    pub(crate) fn new(core: &Core, ledger: Arc<Ledger>, epoch: u64, full: mpsc::UnboundedSender<OpenPack>) -> Self {
        let state = State {
            open: None,
            next_counter: 0,
            taken: None,
            spare: Vec::new(),
            full,
        };
        Self {
            secrets: core.secrets.clone(),
            in_flight: core.in_flight.clone(),
            ledger,
            allowance: core.allowance.clone(),
            target_bytes: core.options.pack_target(),
            changes_max: core.options.introduce_blobs_max,
            epoch,
            state: Mutex::new(state),
        }
    }

    /// Seals `blobs` into packs, in order. What they take stays paid for until their packs are durable.
    pub(crate) fn place(&self, blobs: Vec<Fresh<'_>>, paid: &mut Option<Paid>, share: &StoredBytes) -> Result<()> {
        let mut state = self.state.lock();
        self.check()?;
        let mut group: Vec<ChunkId> = Vec::with_capacity(blobs.len());
        for blob in blobs {
            let full = state
                .open
                .as_ref()
                .is_some_and(|open| !open.writer.fits(blob.stored.len()) || open.changes >= self.changes_max);
            if full {
                self.settle(&mut state, &mut group);
                self.close(&mut state)?;
            }
            let open = self.open(&mut state)?;
            open.push(blob, paid.as_mut(), share, &mut group);
        }
        self.settle(&mut state, &mut group);
        Ok(())
    }

    /// Fails once the writer has given up: nothing placed from then on would be introduced.
    pub(crate) fn check(&self) -> Result<()> {
        self.ledger.failure().map_or(Ok(()), Err)
    }

    /// Takes the open pack, or a new empty one, for a commit that introduces `introduced` out of their order. Blobs that come
    /// later go to the next.
    ///
    /// A commit pack has a higher number than every pack it introduces: what lies above the newest commit is on no log. So an
    /// open pack with a lower number is put as a pack of chunks.
    pub(crate) fn take(&self, introduced: impl IntoIterator<Item = PackNumber>) -> Result<OpenPack> {
        let mut state = self.state.lock();
        let highest = introduced.into_iter().map(|number| number.counter).max();
        let open = state.open.as_ref().map(|open| open.writer.name().number.counter);
        if open.zip(highest).is_some_and(|(open, highest)| open < highest) {
            self.close(&mut state)?;
        }
        self.open(&mut state)?;
        let open = state.open.take().expect("opened above");
        state.taken = Some(open.writer.name().number.counter);
        state.spare.truncate(SPARE_AT_REST);
        Ok(open)
    }

    /// The pack that was taken last is durable.
    pub(crate) fn committed(&self) {
        self.state.lock().taken = None;
    }

    /// A number for a pack that is filled elsewhere: nothing waits for it in the order of numbers.
    pub(crate) fn number(&self) -> PackNumber {
        let mut state = self.state.lock();
        let counter = state.next_counter;
        state.next_counter += 1;
        PackNumber {
            epoch: self.epoch,
            counter,
        }
    }

    /// Bytes in the open pack.
    #[cfg(test)]
    pub(crate) fn open_bytes(&self) -> usize {
        self.state
            .lock()
            .open
            .as_ref()
            .map_or(0, |open| open.writer.stored_len())
    }

    /// Packs from this number on do not exist yet.
    pub(crate) fn next_number(&self) -> PackNumber {
        PackNumber {
            epoch: self.epoch,
            counter: self.next_counter(),
        }
    }

    /// The same as a counter.
    pub(crate) fn next_counter(&self) -> u64 {
        self.state.lock().next_counter
    }

    /// Packs below this counter are durable.
    pub(crate) fn durable_below(&self) -> u64 {
        let state = self.state.lock();
        let open = state.open.as_ref().map(|open| open.writer.name().number.counter);
        let pending = [open, state.taken, self.ledger.first_putting()];
        pending.into_iter().flatten().min().unwrap_or(state.next_counter)
    }

    /// Closes the open pack if no other is being put: with the budget used up, it is what holds it.
    pub(crate) fn relieve(&self) -> Result<()> {
        let mut state = self.state.lock();
        if self.ledger.is_putting() {
            return Ok(());
        }
        self.close(&mut state)
    }

    /// Waits until the writer gives up, and says why.
    pub(crate) async fn failed(&self) -> Error {
        self.ledger.failed().await
    }

    /// Gives the buffer of a pack that was put back for the next.
    pub(crate) fn recycle(&self, buffer: PackBuffer) {
        let mut state = self.state.lock();
        let max = if state.open.is_some() { SPARE_MAX } else { SPARE_AT_REST };
        if state.spare.len() < max {
            state.spare.push(buffer);
        }
    }

    fn settle(&self, state: &mut State, group: &mut Vec<ChunkId>) {
        if let Some(open) = &mut state.open {
            open.claim.set(open.writer.len_max());
            self.in_flight.place(group.drain(..), open.writer.name().number);
        }
    }

    fn open<'a>(&self, state: &'a mut State) -> Result<&'a mut OpenPack> {
        if state.open.is_none() {
            let number = PackNumber {
                epoch: self.epoch,
                counter: state.next_counter,
            };
            let id = PackId(random()?);
            let buffer = state.spare.pop();
            let buffer =
                buffer.unwrap_or_else(|| PackBuffer::with_capacity(PackWriter::buffer_capacity(self.target_bytes)));
            state.next_counter += 1;
            state.open = Some(OpenPack {
                writer: PackWriter::new(&self.secrets, PackName { number, id }, buffer, self.target_bytes),
                children: HashMap::new(),
                holders: Vec::new(),
                shares: Vec::new(),
                paid: None,
                claim: PackClaim::none(self.allowance.clone()),
                changes: 0,
            });
        }
        Ok(state.open.as_mut().expect("opened above"))
    }

    fn close(&self, state: &mut State) -> Result<()> {
        if let Some(open) = state.open.take() {
            self.ledger.register(open.writer.name().number.counter);
            state
                .full
                .send(open)
                .map_err(|_| Error::internal("the uploads of this writer have stopped"))?;
        }
        Ok(())
    }
}

impl OpenPack {
    fn push(&mut self, blob: Fresh<'_>, paid: Option<&mut Paid>, share: &StoredBytes, group: &mut Vec<ChunkId>) {
        self.writer
            .push(blob.id, blob.kind, blob.codec, blob.plain_len, blob.stored);
        self.changes += 1;
        if let Some((children, holder)) = blob.children {
            self.changes += children.len();
            self.children.insert(blob.id, children);
            if !self.holders.last().is_some_and(|last| Arc::ptr_eq(last, &holder)) {
                self.holders.push(holder);
            }
        }
        group.push(blob.id);
        let bytes = blob.stored.len();
        match self.shares.last_mut() {
            Some((last, sum)) if Arc::ptr_eq(last, share) => *sum += bytes as u64,
            _ => self.shares.push((share.clone(), bytes as u64)),
        }
        if let Some(paid) = paid {
            let part = paid.split(bytes);
            match &mut self.paid {
                Some(sum) => sum.merge(part),
                None => self.paid = Some(part),
            }
        }
    }
}

/// Divides the `size` of a pack among the streams that wrote to it, by the bytes of their blobs.
pub(crate) fn share_out(shares: &[(StoredBytes, u64)], size: u64) {
    let blobs: u64 = shares.iter().map(|(_, bytes)| bytes).sum();
    for (share, bytes) in shares {
        let part = u128::from(size) * u128::from(*bytes) / u128::from(blobs.max(1));
        share.fetch_add(part as u64, Ordering::Relaxed);
    }
}
