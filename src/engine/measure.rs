//! What this host allows: every stage of the write and read paths alone, and the whole, on the same bytes in one process.
//!
//! The stages are the pipeline's own functions. The time that the whole would take if the stages simply followed each
//! other is the yardstick: the sum of the parts.

mod restore;

use std::hint::black_box;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;

use super::core::Core;
use super::error::Result;
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

/// Measures `data` in a repository that does not hold any of it.
///
/// # Errors
/// Whatever a put or a get can fail with.
pub async fn measure(repository: &Repository, data: &[u8]) -> Result<Report> {
    let core = repository.core().clone();
    let slab = Options::slab_bytes(core.secrets.parameters().chunk_sizes.max());
    let (gather, ()) = timed(|| gather(data, slab));
    let (cut, lengths) = timed(|| cut(&core, data));
    let lengths = lengths?;
    let (id, ids) = timed(|| identify(&core, data, &lengths));
    let ids = ids?;
    let (crc, _) = timed(|| data.chunks(slab).map(crc32c).fold(0, |a, b| a ^ b));
    let per_slab = (ids.len() * slab / data.len().max(1)).max(1);
    let (look_new, looked) = timed(|| look_up_unknown(&core, &ids, per_slab));
    looked?;
    let common = [
        stage("gather into slabs", gather),
        stage("checksum of the stream", crc),
        stage("cut", cut),
        stage("chunk ids", id),
    ];

    let fresh = first_occurrences(&ids);
    let (compress, blobs) = timed(|| compress(&core, data, &lengths, &fresh));
    let Packs { packs, seal, write } = seal_and_write(&core, &ids, &blobs).await?;
    drop(blobs);
    let reading = restore::stages(&core, &packs, data.len() as u64).await?;
    drop(packs);
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

    let mut first = common.to_vec();
    first.extend([
        stage("look up (new)", look_new),
        stage("probe and compress", compress),
        stage("seal, block sums, directory", seal),
        stage("write packs", write),
    ]);
    let mut again = common.to_vec();
    again.push(stage("look up (known)", look_known));
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
            stages: reading,
            whole: whole_restore,
        },
        chunks: outcome.object.chunks,
        new_chunks: outcome.new_chunks,
        stored_bytes: outcome.stored_bytes,
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
async fn seal_and_write(core: &Core, ids: &[ChunkId], blobs: &Blobs) -> Result<Packs> {
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
        let path = format!("measured/{counter}");
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
