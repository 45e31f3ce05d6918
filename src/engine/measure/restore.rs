//! The stages of the read path, and a get of all of it.

use std::hint::black_box;
use std::time::{Duration, Instant};

use super::{Pack, Stage, stage, timed};
use crate::codec::{Codec, Decompressor, TAG_LEN};
use crate::engine::core::Core;
use crate::engine::error::{Error, Result};
use crate::engine::read::{ByteRange, WINDOW_BYTES};
use crate::engine::repository::Repository;
use crate::format::{BlobOpener, Entry};

#[derive(Default)]
struct Times {
    read: Duration,
    open: Duration,
    decompress: Duration,
    identify: Duration,
}

/// What each stage takes for the blobs of the packs, window by window as a get takes them, in used buffers as well. What
/// occurs more than once in the `bytes` of the data is in the packs once: it is taken to cost as much as the rest.
pub(super) async fn stages(core: &Core, packs: &[Pack], bytes: u64) -> Result<Vec<Stage>> {
    let mut times = Times::default();
    let mut decompressor = Decompressor::new();
    for pack in packs {
        let openers = pack.directory.births.iter();
        let openers = openers.map(|birth| BlobOpener::new(&core.secrets, birth));
        let openers: Vec<BlobOpener> = openers.collect::<std::result::Result<_, _>>()?;
        for entries in windows(&pack.directory.entries) {
            window(core, pack, &openers, entries, &mut decompressor, &mut times).await?;
        }
    }
    let entries = packs.iter().flat_map(|pack| &pack.directory.entries);
    let stored: u64 = entries.map(|entry| u64::from(entry.plain_len)).sum();
    let of_all = |time: Duration| time.mul_f64(bytes as f64 / stored.max(1) as f64);
    Ok(vec![
        stage("read packs", of_all(times.read)),
        stage("open", of_all(times.open)),
        stage("decompress", of_all(times.decompress)),
        stage("chunk ids", of_all(times.identify)),
    ])
}

/// Entries that follow each other, of about a window's worth of plain bytes.
fn windows(mut entries: &[Entry]) -> impl Iterator<Item = &[Entry]> {
    std::iter::from_fn(move || {
        let mut sum = 0;
        let starts_next = |entry: &Entry| {
            let is_full = sum >= WINDOW_BYTES;
            sum += entry.plain_len as usize;
            is_full
        };
        let end = entries.iter().position(starts_next).unwrap_or(entries.len());
        let (window, rest) = entries.split_at(end);
        entries = rest;
        (!window.is_empty()).then_some(window)
    })
}

async fn window(
    core: &Core,
    pack: &Pack,
    openers: &[BlobOpener],
    entries: &[Entry],
    decompressor: &mut Decompressor,
    times: &mut Times,
) -> Result<()> {
    let (Some(first), Some(last)) = (entries.first(), entries.last()) else {
        return Ok(());
    };
    let start = Instant::now();
    let range = u64::from(first.offset)..last.end();
    let buffers = core.read_buffers.clone();
    let sealed = core
        .backend
        .get_range_into(&pack.path, range, move |len| buffers.take(len))
        .await?;
    times.read += start.elapsed();

    let mut plain = core
        .read_buffers
        .take(entries.iter().map(|entry| entry.plain_len as usize).sum());
    let mut chunks = split(&mut plain, entries.iter().map(|entry| entry.plain_len));

    let is_compressed = |entry: &&Entry| entry.codec == Codec::Zstd;
    let lengths = || {
        entries
            .iter()
            .filter(is_compressed)
            .map(|entry| entry.stored_len - TAG_LEN as u32)
    };
    let mut memory = core.read_buffers.take(lengths().map(|len| len as usize).sum());
    let mut compressed = split(&mut memory, lengths());

    let (time, opened) = timed(|| {
        let mut next = compressed.iter_mut();
        entries.iter().zip(&mut chunks).try_for_each(|(entry, chunk)| {
            let start = (entry.offset - first.offset) as usize;
            let blob = &sealed[start..start + entry.stored_len as usize];
            let into = match entry.codec {
                Codec::Raw => chunk,
                Codec::Zstd => next.next().expect("one for each"),
            };
            openers[entry.birth as usize].open_into(entry, blob, into)
        })
    });
    times.open += time;
    opened?;

    let (time, decompressed) = timed(|| {
        let chunks = entries
            .iter()
            .zip(&mut chunks)
            .filter(|(entry, _)| is_compressed(entry));
        let mut all = chunks.zip(&compressed);
        all.try_for_each(|((entry, chunk), stored)| decompressor.decompress_into(entry.codec, stored, chunk))
    });
    times.decompress += time;
    decompressed.map_err(|error| Error::data_loss(error.to_string()).caused_by(error))?;

    let key = core.secrets.id_key()?;
    let (time, ()) = timed(|| {
        for chunk in chunks {
            black_box(key.id(chunk));
        }
    });
    times.identify += time;
    Ok(())
}

/// `bytes` in pieces of these lengths.
fn split(mut bytes: &mut [u8], lengths: impl Iterator<Item = u32>) -> Vec<&mut [u8]> {
    let piece = |len| {
        let (piece, behind) = std::mem::take(&mut bytes).split_at_mut(len as usize);
        bytes = behind;
        piece
    };
    lengths.map(piece).collect()
}

/// Reads an object to its end.
pub(super) async fn whole(repository: &Repository, name: &str) -> Result<()> {
    let mut reader = repository.get(name, ByteRange::All).await?;
    while let Some(bytes) = reader.next().await? {
        black_box(bytes);
    }
    Ok(())
}
