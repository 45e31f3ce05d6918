//! The CPU side of a put: slabs in, placed chunks out.
//!
//! ```text
//! fill ──► cut (one slab at a time, in order) ──► id · look up · compress (any thread) ──► place (in order)
//! ```
//!
//! A job cuts its slab, hands the cutter on to the job of the next slab, and goes on with the chunks it cut while they
//! are in its core's cache. While what comes is known, threads without a job hash some of them meanwhile. Finished slabs
//! are placed into packs in stream order by whichever job completes the next one due. No job ever waits for another, so
//! the pool cannot be blocked by a stream. A short stream is worked on by whoever brings it, but for what could keep that one.

use std::collections::VecDeque;
use std::io;
use std::ops::{Deref, Range};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use parking_lot::Mutex;
use tokio::runtime::Handle;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::hashing::{Hashed, Piece, Pieces};
use super::join::{CrcJoin, crc32c};
use super::lookup::{look_up, try_look_up};
use super::packer::{Fresh, Packer, StoredBytes};
use super::slabs::{FIRST_SLAB_BYTES, Slab};
use super::source::Part;
use super::turns::Turns;
use crate::codec::{ChunkId, Chunker, Codec, More};
use crate::engine::allowance::PackClaim;
use crate::engine::budget::Paid;
use crate::engine::compute::{SHORT_BYTES, caught};
use crate::engine::core::Core;
use crate::engine::error::{Error, Result};
use crate::engine::in_flight::{Holder, Known};
use crate::engine::options::Options;
use crate::format::{BlobKind, ChunkRef};

/// One stream on its way through the pool.
pub(crate) struct Ingest {
    pub(super) core: Arc<Core>,
    pub(super) packer: Arc<Packer>,
    pub(super) holder: Arc<Holder>,
    pub(super) stored: StoredBytes,
    slab_bytes: usize,
    headroom: usize,
    slots: Arc<Semaphore>,
    slots_max: u32,
    cutting: Mutex<Cutting>,
    /// Whether all of the last slab was known. What is new takes so long to compress that no thread waits for a cut.
    was_known: AtomicBool,
    /// What is cut and nobody has begun to hash. Whoever cut it takes what nobody else does.
    pieces: Mutex<VecDeque<(Piece, Arc<CutSlab>)>>,
    order: Mutex<Order>,
}

struct Cutting {
    /// Slabs are cut in the order of the stream, and may be filled in another.
    queue: Turns<Filled>,
    /// Absent while a job cuts.
    cutter: Option<Cutter>,
}

struct Cutter {
    chunker: Chunker,
    /// How much of the slab before is uncut.
    rest: usize,
    /// A copy of that, for who has no other.
    carry: Vec<u8>,
}

struct Filled {
    index: u64,
    slab: Slab,
    /// Where the bytes to cut begin: before those that were read, if there is a rest of the slab before.
    start: usize,
    read: Range<usize>,
    more: More,
    share: SlabShare,
    /// Whether it is worked on by whoever brought it.
    is_here: bool,
}

/// A slab that is being cut and hashed.
struct CutSlab {
    filled: Filled,
    hashed: Hashed,
}

/// Keeps a slab from going on before all of it is hashed: whoever cuts it has one, and every piece of it.
struct SlabHandle<'a> {
    ingest: &'a Arc<Ingest>,
    /// Absent once it was given back.
    cut: Option<Arc<CutSlab>>,
}

impl SlabHandle<'_> {
    /// Gives the handle back. If it was the last, the slab goes on here.
    fn go_on(mut self) {
        if let Some(cut) = self.cut.take().and_then(Arc::into_inner)
            && let Err(error) = self.ingest.hashed(cut)
        {
            self.ingest.fail(error);
        }
    }
}

impl Deref for SlabHandle<'_> {
    type Target = Arc<CutSlab>;

    fn deref(&self) -> &Arc<CutSlab> {
        self.cut.as_ref().expect("it is taken only where the handle ends")
    }
}

impl Drop for SlabHandle<'_> {
    fn drop(&mut self) {
        if self.cut.is_some() {
            // Before the slab is let go: whoever waits for it has to find that it failed.
            self.ingest.fail(ended_early());
        }
    }
}

/// A slab that is yet to be filled.
struct Unread<F> {
    ingest: Arc<Ingest>,
    index: u64,
    slab: Slab,
    /// How much is in it already.
    filled: usize,
    more: More,
    share: SlabShare,
    failed: F,
    runtime: Handle,
}

impl<F: FnOnce(io::Error) -> Error + Send + 'static> Unread<F> {
    /// Reads what need not be waited for, on the pool: it is cut where it was read, in that core's cache. The rest comes later.
    fn read_now(mut self, mut part: Part) {
        let ingest = self.ingest.clone();
        let on_panic = FailOnPanic(&ingest);
        let room = self.room(&part);
        match part.read_now(&mut self.slab.bytes[room]) {
            Ok(read) => {
                self.filled += read;
                match part.is_empty() {
                    true => self.push(),
                    false => self.read_later(part),
                }
            }
            Err(error) => ingest.fail((self.failed)(error)),
        }
        std::mem::forget(on_panic);
    }

    /// Reads the rest where that may block.
    fn read_later(mut self, part: Part) {
        self.runtime.clone().spawn_blocking(move || {
            let ingest = self.ingest.clone();
            let on_panic = FailOnPanic(&ingest);
            let room = self.room(&part);
            self.filled += room.len();
            match part.read(&mut self.slab.bytes[room]) {
                Ok(()) => self.push(),
                Err(error) => ingest.fail((self.failed)(error)),
            }
            std::mem::forget(on_panic);
        });
    }

    /// Where what is yet to be read belongs.
    fn room(&self, part: &Part) -> Range<usize> {
        let start = self.ingest.room(self.index).start + self.filled;
        start..start + part.len()
    }

    fn push(self) {
        let start = self.ingest.room(self.index).start;
        self.ingest.hand_over(Filled {
            index: self.index,
            slab: self.slab,
            start,
            read: start..start + self.filled,
            more: self.more,
            share: self.share,
            is_here: false,
        });
    }
}

/// What a slab takes until it is placed. The slot goes last: whoever waits for it finds everything else given back.
pub(crate) struct SlabShare {
    /// Its part of the byte budget.
    pub(crate) paid: Paid,
    /// What packs can take for it.
    pub(crate) claim: PackClaim,
    /// Its place among the slabs of its stream.
    pub(crate) slot: OwnedSemaphorePermit,
}

#[derive(Default)]
struct Order {
    done: Turns<Done>,
    placing: bool,
    progress: Progress,
    /// For ever more of the stream, in bytes: the pack counter below which it lies.
    reached: VecDeque<(u64, u64)>,
    placed_bytes: u64,
    failed: Option<Error>,
}

struct Done {
    slab: Slab,
    chunks: Vec<ChunkRef>,
    fresh: Vec<FreshChunk>,
    fresh_bytes: u64,
    crc: u32,
    read_len: u64,
    share: SlabShare,
}

struct FreshChunk {
    id: ChunkId,
    codec: Codec,
    plain_len: u32,
    /// Where it is in what was compressed, or in the plain bytes if that did not pay.
    stored: Range<usize>,
}

/// What has been placed so far.
#[derive(Default)]
pub(crate) struct Progress {
    /// Chunks placed since they were last taken, in stream order.
    pub(crate) chunks: Vec<ChunkRef>,
    pub(crate) bytes: u64,
    pub(crate) chunks_total: u64,
    pub(crate) new_chunks: u64,
    pub(crate) new_bytes: u64,
    pub(crate) crc32c: u32,
}

impl Cutting {
    /// The next slab, if it is there and nobody cuts the one before.
    fn take_next(&mut self) -> Option<(Filled, Cutter)> {
        self.cutter.as_ref()?;
        let filled = self.queue.take()?;
        self.cutter.take().map(|cutter| (filled, cutter))
    }
}

impl Ingest {
    pub(crate) fn new(core: Arc<Core>, packer: Arc<Packer>, holder: Arc<Holder>) -> Result<Arc<Self>> {
        let sizes = core.secrets.parameters().chunk_sizes;
        let chunker = Chunker::new(sizes, core.secrets.gear_table()?);
        let slots_max = core.compute.threads() as u32 + 2;
        Ok(Arc::new(Self {
            packer,
            holder,
            stored: Arc::new(AtomicU64::new(0)),
            slab_bytes: Options::slab_bytes(sizes.max()),
            headroom: sizes.max() as usize,
            slots: Arc::new(Semaphore::new(slots_max as usize)),
            slots_max,
            cutting: Mutex::new(Cutting {
                queue: Turns::default(),
                cutter: Some(Cutter {
                    chunker,
                    rest: 0,
                    carry: Vec::new(),
                }),
            }),
            was_known: AtomicBool::default(),
            pieces: Mutex::default(),
            order: Mutex::new(Order::default()),
            core,
        }))
    }

    /// The part of the buffer of slab number `index` that a source fills.
    pub(crate) fn room(&self, index: u64) -> Range<usize> {
        match index {
            0 => 0..FIRST_SLAB_BYTES,
            // Ends where a whole first one would have.
            1 => self.headroom..self.headroom + self.slab_bytes - FIRST_SLAB_BYTES,
            _ => self.headroom..self.headroom + self.slab_bytes,
        }
    }

    /// What slab number `index` takes from the budget: its buffer, and the one for what it compresses to.
    pub(crate) fn slab_cost(&self, index: u64) -> usize {
        match index {
            0 => 2 * FIRST_SLAB_BYTES,
            _ => self.headroom + 2 * self.slab_bytes,
        }
    }

    /// Waits until another slab of this stream may be filled.
    pub(crate) async fn slot(&self) -> OwnedSemaphorePermit {
        self.slots
            .clone()
            .acquire_owned()
            .await
            .expect("the semaphore is never closed")
    }

    pub(crate) fn slab(&self, index: u64) -> Slab {
        match index {
            0 => self.core.slabs.first.take(),
            _ => self.core.slabs.later.take(),
        }
    }

    /// Hands over slab number `index`, with where the bytes that are new in it stand. A short stream is worked on at once, by
    /// the caller.
    pub(crate) fn push(self: &Arc<Self>, index: u64, slab: Slab, read: Range<usize>, more: More, share: SlabShare) {
        let is_short = index == 0 && more == More::End && read.len() <= SHORT_BYTES;
        self.hand_over(Filled {
            index,
            slab,
            start: read.start,
            read,
            more,
            share,
            is_here: is_short && self.core.compressors.are_fast(),
        });
    }

    fn hand_over(self: &Arc<Self>, filled: Filled) {
        let mut cutting = self.cutting.lock();
        if self.order.lock().failed.is_some() {
            // The slab before it may never come.
            return;
        }
        cutting.queue.insert(filled.index, filled);
        let next = cutting.take_next();
        drop(cutting);
        match next {
            Some((filled, cutter)) if filled.is_here => {
                let ingest = self.clone();
                // A panic has failed the stream.
                let _ = caught(move || ingest.run(filled, cutter));
            }
            next => self.start(next),
        }
    }

    /// Hands over slab number `index`, which is `part` where it lies in memory, or else is yet to be filled with it: at once with
    /// others.
    pub(crate) fn push_part(
        self: &Arc<Self>,
        index: u64,
        mut slab: Slab,
        part: Part,
        more: More,
        share: SlabShare,
        failed: impl FnOnce(io::Error) -> Error + Send + 'static,
    ) {
        if let Some((whole, range)) = part.in_memory() {
            slab.whole = Some(whole);
            return self.push(index, slab, range, more, share);
        }
        let unread = Unread {
            ingest: self.clone(),
            index,
            slab,
            filled: 0,
            more,
            share,
            failed,
            runtime: Handle::current(),
        };
        match part.is_of_file() {
            true => self.core.compute.start(move || unread.read_now(part)),
            false => unread.read_later(part),
        }
    }

    /// Waits until every slab handed over has been placed.
    pub(crate) async fn drained(&self) -> Result<()> {
        self.settled().await;
        self.check()
    }

    /// Waits until no slab is worked on any more, whether it could be placed or not.
    pub(crate) async fn settled(&self) {
        let all = self.slots.acquire_many(self.slots_max).await;
        drop(all.expect("the semaphore is never closed"));
    }

    /// The failure of a job, if one failed.
    pub(crate) fn check(&self) -> Result<()> {
        match &self.order.lock().failed {
            Some(error) => Err(error.clone()),
            None => Ok(()),
        }
    }

    /// Takes the chunks placed since the last call; the totals stay.
    pub(crate) fn take_chunks(&self) -> Vec<ChunkRef> {
        std::mem::take(&mut self.order.lock().progress.chunks)
    }

    /// Bytes from the beginning of the stream whose chunks are durable; 0 if none became so since the last call.
    pub(crate) fn durable_bytes(&self) -> u64 {
        let durable_below = self.packer.durable_below();
        let mut order = self.order.lock();
        let mut durable = 0;
        while let Some(&(below, bytes)) = order.reached.front()
            && below <= durable_below
        {
            durable = bytes;
            order.reached.pop_front();
        }
        durable
    }

    /// The totals so far.
    pub(crate) fn totals(&self) -> Progress {
        let order = self.order.lock();
        Progress {
            chunks: Vec::new(),
            ..order.progress
        }
    }

    fn start(self: &Arc<Self>, next: Option<(Filled, Cutter)>) {
        if let Some((filled, cutter)) = next {
            let ingest = self.clone();
            self.core.compute.start(move || ingest.run(filled, cutter));
        }
    }

    fn run(self: Arc<Self>, mut filled: Filled, mut cutter: Cutter) {
        let on_panic = FailOnPanic(&self);
        cutter.carry_over(&mut filled);
        let cut = self.handle(Arc::new(CutSlab {
            filled,
            hashed: Hashed::default(),
        }));
        let mut pieces = Pieces::new(cut.filled.start);
        let mut own = Vec::new();
        let is_shared = self.was_known.load(Ordering::Relaxed);
        cutter.cut(&cut.filled, |len| match pieces.add(len) {
            Some(piece) if is_shared => self.offer(&cut, piece),
            piece => own.extend(piece),
        });
        own.extend(pieces.take());
        cut.hashed.expect(pieces.count());
        let next = {
            let mut cutting = self.cutting.lock();
            cutting.cutter = Some(cutter);
            cutting.take_next()
        };
        self.start(next);
        own.iter().for_each(|piece| self.hash(&cut, piece));
        while let Some((piece, handle)) = self.take_piece(|slab| Arc::ptr_eq(slab, &cut)) {
            self.hash(&cut, &piece);
            handle.go_on();
        }
        cut.go_on();
        self.help();
        std::mem::forget(on_panic);
    }

    /// Lets others hash a piece. Starts a job that does, if a thread has nothing to do.
    fn offer(self: &Arc<Self>, cut: &SlabHandle<'_>, piece: Piece) {
        self.pieces.lock().push_back((piece, Arc::clone(cut)));
        if self.core.compute.has_idle_thread() {
            // By the time that it begins the stream may be over, and is not to hold packs for it.
            let ingest = Arc::downgrade(self);
            self.core.compute.start(move || {
                if let Some(ingest) = ingest.upgrade() {
                    let on_panic = FailOnPanic(&ingest);
                    ingest.help();
                    std::mem::forget(on_panic);
                }
            });
        }
    }

    /// Hashes what others have cut, until nothing is there or another job waits for a thread.
    fn help(self: &Arc<Self>) {
        while !self.core.compute.has_waiting_job()
            && let Some((piece, cut)) = self.take_piece(|_| true)
        {
            self.hash(&cut, &piece);
            cut.go_on();
        }
    }

    /// The first piece of such a slab that nobody has taken.
    fn take_piece(self: &Arc<Self>, is_of: impl Fn(&Arc<CutSlab>) -> bool) -> Option<(Piece, SlabHandle<'_>)> {
        let mut pieces = self.pieces.lock();
        let at = pieces.iter().position(|(_, cut)| is_of(cut))?;
        let (piece, cut) = pieces.remove(at)?;
        Some((piece, self.handle(cut)))
    }

    fn handle(self: &Arc<Self>, cut: Arc<CutSlab>) -> SlabHandle<'_> {
        SlabHandle {
            ingest: self,
            cut: Some(cut),
        }
    }

    fn hash(&self, cut: &CutSlab, piece: &Piece) {
        match self.core.secrets.id_key() {
            Ok(key) => cut.hashed.add(piece, cut.filled.slab.plain(), key),
            Err(error) => self.fail(error.into()),
        }
    }

    /// What comes after hashing all of a slab.
    fn hashed(self: &Arc<Self>, CutSlab { filled, hashed }: CutSlab) -> Result<()> {
        self.check()?;
        let chunks = hashed.into_chunks();
        let chunks = chunks.ok_or_else(|| Error::internal("not all of a slab was hashed"))?;
        let ids: Vec<_> = chunks.iter().map(|chunk| chunk.id).collect();
        let known = match filled.is_here {
            true => try_look_up(&self.core, &self.holder, &ids)?,
            false => Some(look_up(&self.core, &self.holder, &ids)?),
        };
        match known {
            Some(known) => self.looked_up(filled, chunks, &ids, &known),
            None => {
                let ingest = self.clone();
                self.core.compute.start(move || {
                    let on_panic = FailOnPanic(&ingest);
                    match look_up(&ingest.core, &ingest.holder, &ids) {
                        Ok(known) => ingest.looked_up(filled, chunks, &ids, &known),
                        Err(error) => ingest.fail(error),
                    }
                    std::mem::forget(on_panic);
                });
            }
        }
        Ok(())
    }

    /// What comes after looking up all chunks of a slab.
    fn looked_up(&self, filled: Filled, chunks: Vec<ChunkRef>, ids: &[ChunkId], known: &[Known]) {
        let index = filled.index;
        self.deposit(index, self.work(filled, chunks, ids, known));
    }

    fn work(&self, filled: Filled, chunks: Vec<ChunkRef>, ids: &[ChunkId], known: &[Known]) -> Done {
        let Filled {
            mut slab,
            start,
            read,
            share,
            ..
        } = filled;
        let crc = crc32c(&slab.plain()[read.clone()]);
        let claims = Claims::new(self, ids, known);
        let fresh = self.compress(&mut slab, start, &chunks, known);
        claims.keep();
        self.was_known.store(fresh.is_empty(), Ordering::Relaxed);
        Done {
            fresh_bytes: fresh.iter().map(|chunk| u64::from(chunk.plain_len)).sum(),
            read_len: read.len() as u64,
            slab,
            chunks,
            fresh,
            crc,
            share,
        }
    }

    fn compress(&self, slab: &mut Slab, start: usize, chunks: &[ChunkRef], known: &[Known]) -> Vec<FreshChunk> {
        let new = known.iter().filter(|known| **known == Known::New).count();
        let mut fresh = Vec::with_capacity(new);
        if new == 0 {
            return fresh;
        }
        let mut compressor = self.core.compressors.take();
        let plain_bytes = slab.whole.as_deref().unwrap_or(&slab.bytes);
        slab.compressed.clear();
        let mut at = start;
        for (chunk, known) in chunks.iter().zip(known) {
            let plain = at..at + chunk.len as usize;
            at = plain.end;
            if *known == Known::Stored {
                continue;
            }
            let from = slab.compressed.len();
            let (codec, stored) = match compressor.try_compress(&plain_bytes[plain.clone()], &mut slab.compressed) {
                Codec::Raw => (Codec::Raw, plain),
                codec => (codec, from..slab.compressed.len()),
            };
            fresh.push(FreshChunk {
                id: chunk.id,
                codec,
                plain_len: chunk.len,
                stored,
            });
        }
        self.core.compressors.give_back(compressor);
        fresh
    }

    /// Takes a finished slab and places every slab that is due, unless another job is at it.
    fn deposit(&self, index: u64, done: Done) {
        let mut order = self.order.lock();
        if order.failed.is_some() {
            drop(order);
            return self.discard(done.fresh);
        }
        order.done.insert(index, done);
        if order.placing {
            return;
        }
        order.placing = true;
        while let Some(done) = order.done.take() {
            drop(order);
            let placed = self.place(done);
            order = self.order.lock();
            match placed {
                Ok(part) => order.add(part, &self.core.crc_join),
                Err(error) => {
                    order.placing = false;
                    drop(order);
                    return self.fail(error);
                }
            }
        }
        order.placing = false;
    }

    fn place(&self, mut done: Done) -> Result<Placed> {
        let blobs = done.fresh.iter().map(|chunk| Fresh {
            id: chunk.id,
            kind: BlobKind::Data,
            codec: chunk.codec,
            plain_len: chunk.plain_len,
            stored: &done.slab.stored_in(chunk.codec)[chunk.stored.clone()],
            children: None,
        });
        let blobs: Vec<_> = blobs.collect();
        let SlabShare { paid, claim, slot } = done.share;
        let mut paid = Some(paid);
        if !blobs.is_empty()
            && let Err(error) = self.packer.place(blobs, &mut paid, &self.stored)
        {
            self.discard(done.fresh);
            return Err(error);
        }
        drop((paid, claim));
        let below = self.packer.next_counter();
        self.core.slabs.give_back(done.slab);
        // The slot goes last: whoever waits for it finds the buffer and the progress.
        Ok(Placed {
            new_chunks: done.fresh.len() as u64,
            new_bytes: done.fresh_bytes,
            chunks: std::mem::take(&mut done.chunks),
            crc: done.crc,
            read_len: done.read_len,
            below,
            _slot: slot,
        })
    }

    /// Ends the stream: what was not placed yet is given up, and what comes later will be.
    fn fail(&self, error: Error) {
        let mut order = self.order.lock();
        order.failed.get_or_insert(error);
        let waiting = order.done.take_all();
        drop(order);
        self.cutting.lock().queue.take_all().for_each(drop);
        self.pieces.lock().clear();
        waiting.for_each(|done| self.discard(done.fresh));
    }

    fn discard(&self, fresh: Vec<FreshChunk>) {
        self.holder.table().give_up(fresh.into_iter().map(|chunk| chunk.id));
    }
}

/// What a slab has become.
struct Placed {
    chunks: Vec<ChunkRef>,
    new_chunks: u64,
    new_bytes: u64,
    crc: u32,
    read_len: u64,
    /// All of it lies in packs with counters below this.
    below: u64,
    _slot: OwnedSemaphorePermit,
}

impl Order {
    fn add(&mut self, part: Placed, join: &CrcJoin) {
        self.placed_bytes += part.chunks.iter().map(|chunk| u64::from(chunk.len)).sum::<u64>();
        match self.reached.back_mut() {
            Some((below, bytes)) if *below == part.below => *bytes = self.placed_bytes,
            _ => self.reached.push_back((part.below, self.placed_bytes)),
        }
        self.progress.add(part, join);
    }
}

impl Progress {
    fn add(&mut self, part: Placed, join: &CrcJoin) {
        self.chunks_total += part.chunks.len() as u64;
        self.new_chunks += part.new_chunks;
        self.new_bytes += part.new_bytes;
        self.crc32c = join.join(self.crc32c, part.crc, part.read_len);
        self.bytes += part.read_len;
        self.chunks.extend(part.chunks);
    }
}

impl Cutter {
    /// Puts what the slab before left over before this one.
    fn carry_over(&self, filled: &mut Filled) {
        filled.start -= self.rest;
        if filled.slab.whole.is_none() {
            filled.slab.bytes[filled.start..][..self.rest].copy_from_slice(&self.carry);
        }
    }

    /// Cuts this slab, and says how long each chunk is; keeps the uncut rest for the next.
    fn cut(&mut self, filled: &Filled, mut found: impl FnMut(u32)) {
        let bytes = &filled.slab.plain()[filled.start..filled.read.end];
        let mut at = 0;
        while let Some(len) = self.chunker.next(&bytes[at..], filled.more) {
            at += len;
            found(len as u32);
        }
        self.rest = bytes.len() - at;
        self.carry.clear();
        if filled.slab.whole.is_none() {
            self.carry.extend_from_slice(&bytes[at..]);
        }
    }
}

/// Gives claims back unless the work on them succeeds: a stream that waits for them must not wait for ever.
struct Claims<'a> {
    ingest: &'a Ingest,
    ids: Vec<ChunkId>,
}

impl<'a> Claims<'a> {
    fn new(ingest: &'a Ingest, ids: &[ChunkId], known: &[Known]) -> Self {
        let new = ids.iter().zip(known).filter(|(_, known)| **known == Known::New);
        Self {
            ingest,
            ids: new.map(|(id, _)| *id).collect(),
        }
    }

    fn keep(mut self) {
        self.ids.clear();
    }
}

impl Drop for Claims<'_> {
    fn drop(&mut self) {
        if !self.ids.is_empty() {
            self.ingest.holder.table().give_up(self.ids.drain(..));
        }
    }
}

struct FailOnPanic<'a>(&'a Ingest);

impl Drop for FailOnPanic<'_> {
    fn drop(&mut self) {
        self.0.fail(ended_early());
    }
}

fn ended_early() -> Error {
    Error::internal("work on a slab ended early; the log has the cause")
}
