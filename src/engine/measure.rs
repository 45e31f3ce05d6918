//! What this host allows: every stage of the write and read paths alone, and the whole, on the same bytes in one process.
//!
//! The stages are the pipeline's own functions. The time that the whole would take if the stages simply followed each
//! other is the yardstick: the sum of the parts.

mod restore;

use std::hint::black_box;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use tokio::runtime::Handle;

use super::core::Core;
use super::error::{Error, Result};
use super::options::Options;
use super::random;
use super::repository::{PutOptions, Repository};
use super::write::{crc32c, look_up};
use crate::codec::{ChunkId, Chunker, Codec, More};
use crate::format::{BlobKind, Directory, FinishedPack, PackBuffer, PackId, PackName, PackNumber, PackWriter};

/// One stage, alone.
#[derive(Clone, Copy, Debug)]
pub struct Stage {
    /// What it does.
    pub name: &'static str,
    /// Time for all of the input.
    pub time: Duration,
}

/// The stages of one kind of work and the whole of it.
#[derive(Clone, Debug)]
pub struct Measured {
    /// Bytes that went in, or came out.
    pub bytes: u64,
    /// The stages in order.
    pub stages: Vec<Stage>,
    /// A put of the same bytes, from the first to the acknowledgement, or a get to the last.
    pub whole: Duration,
}

impl Measured {
    /// What the stages take one after the other.
    pub fn parts(&self) -> Duration {
        self.stages.iter().map(|stage| stage.time).sum()
    }

    /// Bytes of data per second, of something that took `time`.
    pub fn rate(&self, time: Duration) -> f64 {
        self.bytes as f64 / time.as_secs_f64().max(1e-9)
    }

    /// Keeps the better of each figure: what disturbs a measurement only ever makes it slower.
    pub fn best(&mut self, other: &Measured) {
        self.whole = self.whole.min(other.whole);
        for (mine, other) in self.stages.iter_mut().zip(&other.stages) {
            mine.time = mine.time.min(other.time);
        }
    }
}

/// New data, the same data again, and all of it read.
#[derive(Clone, Debug)]
pub struct Report {
    /// Bytes the repository has not seen.
    pub first: Measured,
    /// The very same bytes once more.
    pub again: Measured,
    /// All of them read back.
    pub restore: Measured,
    /// Chunks of the input.
    pub chunks: u64,
    /// Chunks that were new in the first put.
    pub new_chunks: u64,
    /// Bytes the first put added to the backend.
    pub stored_bytes: u64,
}

impl Report {
    /// Keeps the better of each figure.
    pub fn best(&mut self, other: &Report) {
        self.first.best(&other.first);
        self.again.best(&other.again);
        self.restore.best(&other.restore);
    }
}

/// Measures `data` in a repository that does not hold any of it. Each stage is done by so many threads at once, each of which has
/// its share of the data: what they take from each other is in the parts as it is in the whole.
///
/// Keeps the thread that it runs on: for a runtime that has others.
///
/// # Errors
/// Whatever a put or a get can fail with.
pub async fn measure(repository: &Repository, data: &[u8], threads: usize) -> Result<Report> {
    let core = repository.core().clone();
    let shares: Vec<&[u8]> = data.chunks(data.len().div_ceil(threads.max(1)).max(1)).collect();
    let cut = at_once(shares.clone(), |share| cut_and_identify(&core, share))?;
    let slab = Options::slab_bytes(core.secrets.parameters().chunk_sizes.max());
    let ids: Vec<ChunkId> = cut.iter().flat_map(|share| share.ids.iter().copied()).collect();
    let per_slab = (ids.len() * slab / data.len().max(1)).max(1);
    let (look_new, looked) = timed(|| look_up_unknown(&core, &ids, per_slab));
    looked?;

    let runtime = Handle::current();
    let mut fresh = first_occurrences(&ids).into_iter();
    let work = shares.iter().zip(&cut).enumerate().map(|(number, (share, cut))| {
        let fresh: Vec<bool> = fresh.by_ref().take(cut.ids.len()).collect();
        (number, *share, cut, fresh)
    });
    let stored = at_once(work.collect(), |(number, share, cut, fresh)| {
        runtime.block_on(store_and_read(&core, number, share, cut, &fresh))
    })?;
    for file in core.backend.list("measured", None).await? {
        core.backend.delete(&file.path).await?;
    }
    core.backend.remove_directory("measured").await?;

    let whole = Instant::now();
    let outcome = repository.put("first", data, PutOptions::default()).await?;
    let whole_first = whole.elapsed();
    let (look_known, looked) = timed(|| look_up_all(&core, &ids, per_slab));
    looked?;
    let whole = Instant::now();
    repository.put("again", data, PutOptions::default()).await?;
    let whole_again = whole.elapsed();
    let whole = Instant::now();
    restore::whole(repository, "first").await?;
    let whole_restore = whole.elapsed();

    let common = slowest(cut.iter().map(|share| &share.stages));
    // One thread looked up the ids of all shares.
    let look_up = |name, time: Duration| stage(name, time / shares.len().max(1) as u32);
    let mut first = common.clone();
    first.push(look_up("look up (new)", look_new));
    first.extend(slowest(stored.iter().map(|share| &share.writing)));
    let mut again = common;
    again.push(look_up("look up (known)", look_known));
    let bytes = data.len() as u64;
    Ok(Report {
        first: Measured {
            bytes,
            stages: first,
            whole: whole_first,
        },
        again: Measured {
            bytes,
            stages: again,
            whole: whole_again,
        },
        restore: Measured {
            bytes,
            stages: slowest(stored.iter().map(|share| &share.reading)),
            whole: whole_restore,
        },
        chunks: outcome.object.chunks,
        new_chunks: outcome.new_chunks,
        stored_bytes: outcome.stored_bytes,
    })
}

/// Does `work` for each of `inputs`, each in a thread of its own.
fn at_once<I: Send, T: Send>(inputs: Vec<I>, work: impl Fn(I) -> Result<T> + Sync) -> Result<Vec<T>> {
    std::thread::scope(|scope| {
        let threads: Vec<_> = inputs.into_iter().map(|input| scope.spawn(|| work(input))).collect();
        let ended = threads.into_iter().map(|thread| thread.join());
        ended
            .map(|ended| ended.unwrap_or_else(|_| Err(Error::internal("the measurement panicked"))))
            .collect()
    })
}

/// Each stage as the thread had it that took longest.
fn slowest<'a>(mut threads: impl Iterator<Item = &'a Vec<Stage>>) -> Vec<Stage> {
    let mut slowest = threads.next().cloned().unwrap_or_default();
    for stages in threads {
        for (mine, other) in slowest.iter_mut().zip(stages) {
            mine.time = mine.time.max(other.time);
        }
    }
    slowest
}

/// A share of the data, cut.
struct Cut {
    lengths: Vec<usize>,
    ids: Vec<ChunkId>,
    stages: Vec<Stage>,
}

fn cut_and_identify(core: &Core, share: &[u8]) -> Result<Cut> {
    let slab = Options::slab_bytes(core.secrets.parameters().chunk_sizes.max());
    let (gather, ()) = timed(|| gather(share, slab));
    let (cut, lengths) = timed(|| cut(core, share));
    let lengths = lengths?;
    let (identify, ids) = timed(|| identify(core, share, &lengths));
    let (checksum, _) = timed(|| share.chunks(slab).map(crc32c).fold(0, |a, b| a ^ b));
    Ok(Cut {
        lengths,
        ids: ids?,
        stages: vec![
            stage("gather into slabs", gather),
            stage("checksum of the stream", checksum),
            stage("cut", cut),
            stage("chunk ids", identify),
        ],
    })
}

/// What it took to store a share of the data, and to read it.
struct Stored {
    writing: Vec<Stage>,
    reading: Vec<Stage>,
}

async fn store_and_read(core: &Core, number: usize, share: &[u8], cut: &Cut, fresh: &[bool]) -> Result<Stored> {
    let (compress, blobs) = timed(|| compress(core, share, &cut.lengths, fresh));
    let Packs { packs, seal, write } = seal_and_write(core, number, &cut.ids, &blobs).await?;
    drop(blobs);
    Ok(Stored {
        writing: vec![
            stage("probe and compress", compress),
            stage("seal, block sums, directory", seal),
            stage("write packs", write),
        ],
        reading: restore::stages(core, &packs, share.len() as u64).await?,
    })
}

/// Puts `data`, of which the repository holds nothing, as so many streams at once.
///
/// # Errors
/// Whatever a put can fail with.
pub async fn measure_streams(repository: &Repository, data: &[u8], streams: usize) -> Result<Measured> {
    let start = Instant::now();
    let parts = data.chunks(data.len().div_ceil(streams.max(1)).max(1)).enumerate();
    let puts = parts.map(|(number, part)| async move {
        let name = format!("stream {number}");
        repository.put(&name, part, PutOptions::default()).await
    });
    futures::future::try_join_all(puts).await?;
    Ok(Measured {
        bytes: data.len() as u64,
        stages: Vec::new(),
        whole: start.elapsed(),
    })
}

fn stage(name: &'static str, time: Duration) -> Stage {
    Stage { name, time }
}

fn timed<T>(work: impl FnOnce() -> T) -> (Duration, T) {
    let start = Instant::now();
    let value = work();
    (start.elapsed(), value)
}

fn gather(data: &[u8], slab: usize) {
    let mut buffer = vec![0; slab];
    for part in data.chunks(slab) {
        buffer[..part.len()].copy_from_slice(part);
        black_box(&buffer);
    }
}

fn cut(core: &Core, data: &[u8]) -> Result<Vec<usize>> {
    let mut chunker = Chunker::new(core.secrets.parameters().chunk_sizes, core.secrets.gear_table()?);
    let mut lengths = Vec::new();
    let mut at = 0;
    while let Some(len) = chunker.next(&data[at..], More::End) {
        lengths.push(len);
        at += len;
    }
    Ok(lengths)
}

fn identify(core: &Core, data: &[u8], lengths: &[usize]) -> Result<Vec<ChunkId>> {
    let key = core.secrets.id_key()?;
    Ok(pieces(data, lengths).map(|piece| key.id(piece)).collect())
}

fn pieces<'a>(data: &'a [u8], lengths: &'a [usize]) -> impl Iterator<Item = &'a [u8]> {
    let mut rest = data;
    lengths.iter().map(move |&len| {
        let (piece, behind) = rest.split_at(len);
        rest = behind;
        piece
    })
}

/// Looks up ids of which none is known, and gives the claims back.
fn look_up_unknown(core: &Core, ids: &[ChunkId], per_slab: usize) -> Result<()> {
    let holder = core.in_flight.holder();
    for ids in ids.chunks(per_slab) {
        black_box(look_up(core, &holder, ids)?);
    }
    core.in_flight.give_up(ids.iter().copied());
    Ok(())
}

fn look_up_all(core: &Core, ids: &[ChunkId], per_slab: usize) -> Result<()> {
    core.locality.clear();
    let holder = core.in_flight.holder();
    for ids in ids.chunks(per_slab) {
        black_box(look_up(core, &holder, ids)?);
    }
    Ok(())
}

/// For each chunk whether it is the first with its id.
fn first_occurrences(ids: &[ChunkId]) -> Vec<bool> {
    let mut seen = std::collections::HashSet::new();
    ids.iter().map(|id| seen.insert(*id)).collect()
}

struct Blob {
    index: usize,
    codec: Codec,
    plain_len: u32,
    bytes: std::ops::Range<usize>,
}

/// New chunks, compressed one after the other, a slab's worth in a buffer as in the pipeline.
struct Blobs {
    blobs: Vec<Blob>,
    bytes: Vec<u8>,
}

fn compress(core: &Core, data: &[u8], lengths: &[usize], fresh: &[bool]) -> Blobs {
    let mut compressor = core.compressors.take();
    let mut scratch = Vec::new();
    let mut blobs = Blobs {
        blobs: Vec::new(),
        bytes: Vec::new(),
    };
    for (index, piece) in pieces(data, lengths).enumerate() {
        if !fresh[index] {
            continue;
        }
        scratch.clear();
        let codec = compressor.compress(piece, &mut scratch);
        let from = blobs.bytes.len();
        blobs.bytes.extend_from_slice(&scratch);
        blobs.blobs.push(Blob {
            index,
            codec,
            plain_len: piece.len() as u32,
            bytes: from..blobs.bytes.len(),
        });
    }
    core.compressors.give_back(compressor);
    blobs
}

/// Packs that were put, without their bytes.
struct Packs {
    packs: Vec<Pack>,
    seal: Duration,
    write: Duration,
}

struct Pack {
    path: String,
    directory: Directory,
}

/// Seals the blobs pack by pack, and puts each pack, in one buffer as the pipeline does.
async fn seal_and_write(core: &Core, share: usize, ids: &[ChunkId], blobs: &Blobs) -> Result<Packs> {
    let mut done = Packs {
        packs: Vec::new(),
        seal: Duration::ZERO,
        write: Duration::ZERO,
    };
    let target = core.options.pack_target();
    let mut buffer = warm_buffer(target);
    let mut rest = blobs.blobs.as_slice();
    while !rest.is_empty() {
        let counter = done.packs.len() as u64;
        let name = PackName {
            number: PackNumber { epoch: 0, counter },
            id: PackId(random()?),
        };
        let (time, (finished, count)) = timed(|| fill_pack(core, name, buffer, ids, blobs, rest));
        done.seal += time;
        rest = &rest[count..];
        let path = format!("measured/{share}-{counter}");
        let lent = Arc::new(finished.bytes);
        let start = Instant::now();
        core.backend.put(&path, Bytes::from_owner(Lent(lent.clone()))).await?;
        done.write += start.elapsed();
        buffer = Arc::into_inner(lent).unwrap_or_else(|| warm_buffer(target));
        done.packs.push(Pack {
            path,
            directory: finished.directory,
        });
    }
    Ok(done)
}

/// Memory for a pack, all of it used once.
fn warm_buffer(target_bytes: usize) -> PackBuffer {
    let len = PackWriter::buffer_capacity(target_bytes);
    let mut buffer = PackBuffer::with_capacity(len);
    buffer.resize(len);
    buffer
}

struct Lent(Arc<PackBuffer>);

impl AsRef<[u8]> for Lent {
    fn as_ref(&self) -> &[u8] {
        &self.0
    }
}

/// One pack of the first of `rest`, and how many it took.
fn fill_pack(
    core: &Core,
    name: PackName,
    buffer: PackBuffer,
    ids: &[ChunkId],
    blobs: &Blobs,
    rest: &[Blob],
) -> (FinishedPack, usize) {
    let mut writer = PackWriter::new(&core.secrets, name, buffer, core.options.pack_target());
    let mut count = 0;
    for blob in rest {
        let bytes = &blobs.bytes[blob.bytes.clone()];
        if !writer.fits(bytes.len()) {
            break;
        }
        writer.push(ids[blob.index], BlobKind::Data, blob.codec, blob.plain_len, bytes);
        count += 1;
    }
    (writer.finish(None, |padding| padding.fill(0)), count)
}
