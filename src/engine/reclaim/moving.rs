//! What is in use moves out of packs: ciphertext as it is, into new packs of full size.
//!
//! No data key is needed. Block sums are compared before anything is copied; what does not match them is quarantined and
//! stays where it is, with its pack. Manifests are opened, so that whoever follows the log and does not know them counts
//! what they lead to.

use std::collections::HashMap;
use std::ops::Range;
use std::sync::{Arc, Weak};

use bytes::Bytes;

use super::Run;
use crate::backend::ErrorKind;
use crate::catalog::{Lookup, PUT_IDS_KEPT, PackRow};
use crate::codec::{ChunkId, TAG_LEN};
use crate::engine::allowance::PackClaim;
use crate::engine::budget::Paid;
use crate::engine::core::Core;
use crate::engine::error::{Error, Reason, Result};
use crate::engine::in_flight::{Holder, Unannounced};
use crate::engine::log::requests::Request;
use crate::engine::options::Options;
use crate::engine::packs::{Known, children_of, open_manifest, read_known_of};
use crate::engine::random;
use crate::engine::scrub::quarantine;
use crate::engine::write::OpenPack;
use crate::engine::write::upload::{Purpose, put_pack};
use crate::format::pack::{BLOCK_LEN, damaged_blocks, tail_guess};
use crate::format::{BlobKind, Entry, PackBuffer, PackId, PackName, PackNumber, PackWriter};

/// Most bytes of a pack that are read at a time, unless one blob is longer. Also held to a sixteenth of the budget.
const WINDOW_BYTES_MAX: u64 = 4 << 20;
/// Bytes between two blobs in use that are read along rather than asking twice.
const GAP_MAX: u64 = 256 << 10;
/// Where room is short, packs smaller than this are not written: what they free is less than what they cost.
const OUTPUT_BYTES_MIN: u64 = 256 << 10;

/// Moves what is in use out of packs, one after the other.
pub(super) struct Mover<'a> {
    run: &'a Run<'a>,
    /// Holds the packs that are moved out of, until what was moved is introduced.
    holder: Holder,
    emptied: Vec<PackNumber>,
    written_bytes: u64,
    output: Option<Output>,
    /// Most bytes of the next pack.
    output_bytes: usize,
    window_bytes: u64,
    round_bytes: u64,
}

/// A pack that is being filled.
struct Output {
    writer: PackWriter,
    children: HashMap<ChunkId, Vec<ChunkId>>,
    paid: Paid,
    unannounced: Unannounced,
}

/// About what the checkpoint takes without which nothing can be dropped: results of puts, and a segment.
pub(crate) fn checkpoint_bytes(core: &Core) -> u64 {
    const PUT_ID_BYTES: u64 = 160;
    const SEGMENT_BYTES: u64 = 256 << 10;
    let tip = core.catalog.tip().ok().flatten().unwrap_or_default();
    tip.put_serial.min(PUT_IDS_KEPT) * PUT_ID_BYTES + SEGMENT_BYTES
}

/// A pack that is moved out of.
struct Source {
    core: Arc<Core>,
    path: String,
    number: PackNumber,
    known: Known,
}

/// Blobs in use that lie together, and the blocks they lie in.
#[derive(Debug, PartialEq, Eq)]
struct Window {
    /// Whole blocks of the body.
    range: Range<u64>,
    /// Indices of entries, in the order of their offsets.
    blobs: Vec<u32>,
}

impl<'a> Mover<'a> {
    pub(super) fn new(run: &'a Run<'a>) -> Self {
        Self {
            run,
            holder: run.core.in_flight.background_holder(),
            emptied: Vec::new(),
            written_bytes: 0,
            output: None,
            output_bytes: output_bytes_of(&run.core.options),
            window_bytes: window_bytes_of(&run.core.options),
            round_bytes: super::ROUND_BYTES.0,
        }
    }

    /// Whether another pack can be written, with what is left of the volume and its reserve.
    pub(super) async fn has_room(&mut self) -> bool {
        if self.output.is_some() {
            return true;
        }
        let target = output_bytes_of(&self.run.core.options) as u64;
        // Half of it: commits and checkpoints need room too.
        let free = self.run.core.gate.room().await;
        let (least, most) = super::ROUND_BYTES;
        self.round_bytes = free.map_or(most, |free| (free / 8).clamp(least, most));
        let room = free.map_or(target, |free| {
            target.min(free.saturating_sub(checkpoint_bytes(self.run.core)) / 2)
        });
        self.output_bytes = room as usize;
        room >= OUTPUT_BYTES_MIN.min(target)
    }

    /// Whether the packs that were moved out of should be dropped before more is moved.
    pub(super) fn is_round_over(&self, is_short_of_room: bool) -> bool {
        let is_long = self.written_bytes >= self.round_bytes || self.emptied.len() >= super::ROUND_PACKS;
        is_long || (is_short_of_room && self.written_bytes > 0)
    }

    /// Moves what is in use out of a pack. What cannot be read stays, and is left to a scrub.
    pub(super) async fn take(&mut self, row: &PackRow) -> Result<()> {
        let number = row.name.number;
        if !self.holder.pin(number) {
            return Ok(());
        }
        let step = self.run.pace.step();
        let source = match Source::open(self.run.core, row).await {
            Ok(source) => Arc::new(source),
            Err(error) if error.reason() == Reason::DataLoss => {
                tracing::warn!(%error, "a pack is not rewritten, since it cannot be read");
                return Ok(());
            }
            Err(error) => return Err(error),
        };
        let windows = source.windows().await?;
        step.rest().await;
        for window in windows {
            let step = self.run.pace.step();
            self.take_window(&source, window).await?;
            step.rest().await;
        }
        self.emptied.push(number);
        Ok(())
    }

    async fn take_window(&mut self, source: &Arc<Source>, window: Window) -> Result<()> {
        let window_bytes = window.range.end - window.range.start;
        if window_bytes > self.window_bytes {
            // What was paid for does not suffice, and nobody asks for more while holding some.
            self.put_output().await?;
        }
        let output = self.open_output(window_bytes).await?;
        self.output = Some(output);
        let Some(bytes) = source.read(&window).await? else {
            return Ok(());
        };
        let blobs = source.verify(&window, &bytes).await?;
        let (mut blobs, start) = (blobs, window.range.start);
        while !blobs.is_empty() {
            let output = self.open_output(window_bytes).await?;
            let filling = Filling {
                source: source.clone(),
                bytes: bytes.clone(),
                start,
                blobs,
                output,
                damaged: Vec::new(),
                moved_bytes: 0,
            };
            let filled = self.run.core.compute.run(move || filling.fill()).await?;
            self.run.progress.moved(filled.moved_bytes);
            self.run.core.counters.moved_bytes.add(filled.moved_bytes);
            self.output = Some(filled.output);
            blobs = filled.blobs;
            source.quarantine(&filled.damaged).await?;
            if !blobs.is_empty() {
                self.put_output().await?;
            }
        }
        Ok(())
    }

    /// The pack that is being filled, or a new one. Pays for it, and for a window of so many bytes.
    async fn open_output(&mut self, window_bytes: u64) -> Result<Output> {
        if let Some(output) = self.output.take() {
            return Ok(output);
        }
        let core = self.run.core;
        let window_bytes = window_bytes.max(self.window_bytes) as usize;
        let paid = core.budget.pay_move(self.output_bytes + window_bytes).await;
        let number = self.run.access.packer.number();
        let name = PackName {
            number,
            id: PackId(random()?),
        };
        let buffer = PackBuffer::with_capacity(PackWriter::buffer_capacity(self.output_bytes));
        Ok(Output {
            writer: PackWriter::new(&core.secrets, name, buffer, self.output_bytes),
            children: HashMap::new(),
            paid,
            unannounced: core.in_flight.unannounced(number),
        })
    }

    /// Makes the pack durable, then known.
    async fn put_output(&mut self) -> Result<()> {
        let Some(output) = self.output.take().filter(|output| !output.writer.is_empty()) else {
            return Ok(());
        };
        let step = self.run.pace.step();
        let open = OpenPack {
            writer: output.writer,
            children: output.children,
            holders: Vec::new(),
            shares: Vec::new(),
            paid: Some(output.paid),
            claim: PackClaim::none(self.run.core.allowance.clone()),
            changes: 0,
        };
        let pack = put_pack(self.run.core, &Weak::new(), open, Purpose::Moved(self.run.pace.rule())).await?;
        let size = pack.pack.size;
        let pack = Box::new(pack);
        self.run.access.ask(|reply| Request::Introduce { pack, reply }).await?;
        drop(output.unannounced);
        self.written_bytes += size;
        self.run.progress.wrote(size);
        step.rest().await;
        Ok(())
    }

    /// Ends a round: all that was moved is durable and known. Returns the packs it was moved out of, which nobody holds for
    /// this any more.
    pub(super) async fn finish(&mut self) -> Result<Vec<PackNumber>> {
        self.put_output().await?;
        self.holder = self.run.core.in_flight.background_holder();
        self.written_bytes = 0;
        Ok(std::mem::take(&mut self.emptied))
    }
}

/// Most bytes of a pack of copies: with a window of what is copied it takes a quarter of the budget.
fn output_bytes_of(options: &Options) -> usize {
    options.pack_target().min(options.budget_bytes * 3 / 16)
}

fn window_bytes_of(options: &Options) -> u64 {
    (options.budget_bytes as u64 / 16).clamp(BLOCK_LEN as u64, WINDOW_BYTES_MAX)
}

impl Source {
    async fn open(core: &Arc<Core>, row: &PackRow) -> Result<Self> {
        let path = core.layout.pack(&row.name);
        let chunk_avg = core.secrets.parameters().chunk_sizes.avg();
        let known = read_known_of(core, &row.name, row.size, tail_guess(row.size, chunk_avg)).await?;
        if known.pack.trailer_hash != row.trailer_hash {
            return Err(Error::data_loss(format!(
                "{path}: it is not the pack that the log introduced"
            )));
        }
        Ok(Self {
            core: core.clone(),
            path,
            number: row.name.number,
            known,
        })
    }

    fn entry(&self, index: u32) -> &Entry {
        &self.known.directory.entries[index as usize]
    }

    /// Where the blobs in use lie.
    async fn windows(self: &Arc<Self>) -> Result<Vec<Window>> {
        let source = self.clone();
        let finding = tokio::task::spawn_blocking(move || {
            let live = source.live()?;
            let window_bytes = window_bytes_of(&source.core.options);
            Ok(windows(
                &source.known.directory.entries,
                &live,
                source.body_len(),
                window_bytes,
            ))
        });
        finding
            .await
            .map_err(|_| Error::internal("looking through a pack panicked"))?
    }

    /// Indices of the blobs that have their place here and are in use.
    fn live(&self) -> Result<Vec<u32>> {
        let mut live = Vec::new();
        for (index, entry) in (0..).zip(&self.known.directory.entries) {
            let row = self.core.catalog.chunk(&entry.id)?;
            let is_here = |row: &crate::catalog::ChunkRow| (row.pack, row.index) == (self.number, index);
            if row.is_some_and(|row| is_here(&row) && row.count > 0 && !row.quarantined) {
                live.push(index);
            }
        }
        Ok(live)
    }

    fn body_len(&self) -> u64 {
        self.known.pack.size - self.known.tail_len
    }

    /// The bytes of a window; none if they cannot be read, which is left to a scrub.
    async fn read(&self, window: &Window) -> Result<Option<Bytes>> {
        match self.core.backend.get_range(&self.path, window.range.clone()).await {
            Ok(bytes) => Ok(Some(bytes)),
            Err(error) if matches!(error.kind(), ErrorKind::NotFound | ErrorKind::Io) => {
                tracing::warn!(%error, "a part of a pack is not moved, since it cannot be read");
                Ok(None)
            }
            Err(error) => Err(error.into()),
        }
    }

    /// The blobs of a window whose blocks are what was written; others are quarantined.
    async fn verify(self: &Arc<Self>, window: &Window, bytes: &Bytes) -> Result<Vec<u32>> {
        let (source, bytes, start) = (self.clone(), bytes.clone(), window.range.start);
        let compare = move || damaged_blocks(&source.known.sums, start, &bytes).collect::<Vec<u64>>();
        let damaged = self.core.compute.run(compare).await?;
        let is_whole = |index: &u32| {
            let blocks = blocks(self.entry(*index));
            !damaged.iter().any(|block| blocks.contains(block))
        };
        let (whole, broken): (Vec<u32>, Vec<u32>) = window.blobs.iter().partition(|index| is_whole(index));
        self.quarantine(&broken).await?;
        Ok(whole)
    }

    async fn quarantine(&self, blobs: &[u32]) -> Result<()> {
        if blobs.is_empty() {
            return Ok(());
        }
        tracing::error!(
            path = self.path,
            blobs = blobs.len(),
            "damage was found while a pack was rewritten"
        );
        let blobs: Vec<_> = blobs.iter().map(|index| (self.entry(*index).id, *index)).collect();
        quarantine(&self.core, self.number, &blobs).await.map(drop)
    }
}

/// The blocks that a blob lies in.
fn blocks(entry: &Entry) -> Range<u64> {
    let block = BLOCK_LEN as u64;
    u64::from(entry.offset) / block..entry.end().div_ceil(block)
}

/// Gathers blobs into windows of whole blocks.
fn windows(entries: &[Entry], blobs: &[u32], body_len: u64, window_bytes: u64) -> Vec<Window> {
    let mut windows: Vec<Window> = Vec::new();
    for index in blobs {
        let blocks = blocks(&entries[*index as usize]);
        let range = blocks.start * BLOCK_LEN as u64..(blocks.end * BLOCK_LEN as u64).min(body_len);
        match windows.last_mut() {
            Some(last) if range.start <= last.range.end + GAP_MAX && range.end - last.range.start <= window_bytes => {
                last.range.end = range.end;
                last.blobs.push(*index);
            }
            _ => windows.push(Window {
                range,
                blobs: vec![*index],
            }),
        }
    }
    windows
}

/// A window on its way into a pack.
struct Filling {
    source: Arc<Source>,
    bytes: Bytes,
    /// Where the bytes begin in the pack they come from.
    start: u64,
    /// Blobs still to be moved.
    blobs: Vec<u32>,
    output: Output,
    /// Manifests that turned out to be damaged.
    damaged: Vec<u32>,
    moved_bytes: u64,
}

impl Filling {
    /// Moves blobs until there are none left, or the pack is full.
    fn fill(mut self) -> Self {
        let mut done = 0;
        for index in &self.blobs {
            let entry = self.source.entry(*index);
            if !self.output.writer.fits(entry.stored_len as usize - TAG_LEN) {
                break;
            }
            done += 1;
            let from = (u64::from(entry.offset) - self.start) as usize;
            let sealed = self.bytes.slice(from..from + entry.stored_len as usize);
            let birth = &self.source.known.directory.births[usize::from(entry.birth)];
            if entry.kind != BlobKind::Data {
                match self.source.children(entry, sealed.clone()) {
                    Ok(children) => drop(self.output.children.insert(entry.id, children)),
                    Err(error) => {
                        tracing::error!(%error, "a manifest is damaged");
                        self.damaged.push(*index);
                        continue;
                    }
                }
            }
            self.output.writer.push_moved(entry, birth, &sealed);
            self.moved_bytes += sealed.len() as u64;
        }
        self.blobs.drain(..done);
        self
    }
}

impl Source {
    /// What a manifest leads to.
    fn children(&self, entry: &Entry, sealed: Bytes) -> Result<Vec<ChunkId>> {
        let birth = &self.known.directory.births[usize::from(entry.birth)];
        let plain = open_manifest(&self.core, &self.path, entry, birth, sealed)?;
        children_of(entry.kind, &plain).map_err(|error| Error::data_loss(format!("{}: {error}", self.path)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::codec::Codec;

    fn entries(lengths: &[u32]) -> Vec<Entry> {
        let mut offset = 144;
        let mut entries = Vec::new();
        for (ordinal, stored_len) in (0..).zip(lengths) {
            entries.push(Entry {
                id: ChunkId([ordinal as u8; 32]),
                kind: BlobKind::Data,
                offset,
                stored_len: *stored_len,
                plain_len: stored_len - TAG_LEN as u32,
                codec: Codec::Raw,
                birth: 0,
                ordinal,
            });
            offset += stored_len;
        }
        entries
    }

    const BLOCK: u32 = BLOCK_LEN as u32;

    #[test]
    fn windows_cover_what_is_in_use_and_leave_out_long_gaps() {
        let lengths = [BLOCK, BLOCK, 8 * BLOCK, BLOCK, BLOCK];
        let entries = entries(&lengths);
        let end = entries.last().unwrap().end();
        let found = windows(&entries, &[0, 1, 3, 4], end, WINDOW_BYTES_MAX);
        let block = BLOCK_LEN as u64;
        let expected = [
            Window {
                range: 0..3 * block,
                blobs: vec![0, 1],
            },
            Window {
                range: 10 * block..end,
                blobs: vec![3, 4],
            },
        ];
        assert_eq!(found, expected);
        assert_eq!(windows(&entries, &[], end, WINDOW_BYTES_MAX), []);
    }

    #[test]
    fn a_window_is_bounded_but_for_one_long_blob() {
        let lengths = [3 * BLOCK, 100 * BLOCK, 40 * BLOCK, 40 * BLOCK];
        let entries = entries(&lengths);
        let end = entries.last().unwrap().end();
        let found = windows(&entries, &[0, 1, 2, 3], end, WINDOW_BYTES_MAX);
        let blobs: Vec<_> = found.iter().map(|window| window.blobs.clone()).collect();
        assert_eq!(blobs, [vec![0], vec![1], vec![2], vec![3]]);
        for window in found.iter().filter(|window| window.blobs != [1]) {
            assert!(window.range.end - window.range.start <= WINDOW_BYTES_MAX);
        }
    }
}
