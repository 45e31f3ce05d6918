//! The stages of the read path, and a get of all of it.

use std::hint::black_box;
use std::time::{Duration, Instant};

use super::{Pack, Stage, stage, timed};
use crate::codec::{Codec, Decompressor};
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

/// What each stage takes for the blobs of the packs, window by window as a get takes them, in the buffers that it uses. What
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
    let mut sealed = core
        .backend
        .get_range_into(&pack.path, range, move |len| buffers.take(len))
        .await?;
    times.read += start.elapsed();

    let mut rest: &mut [u8] = &mut sealed;
    let (time, stored) = timed(|| -> Result<Vec<&mut [u8]>> {
        let open = entries.iter().map(|entry| {
            let (blob, behind) = std::mem::take(&mut rest).split_at_mut(entry.stored_len as usize);
            rest = behind;
            Ok(openers[entry.birth as usize].open(entry, blob)?)
        });
        open.collect()
    });
    times.open += time;
    let stored = stored?;

    let compressed = entries.iter().filter(|entry| entry.codec != Codec::Raw);
    let mut plain = core
        .read_buffers
        .take(compressed.map(|entry| entry.plain_len as usize).sum());
    let mut rest: &mut [u8] = &mut plain;
    let (time, chunks) = timed(|| -> Result<Vec<&[u8]>> {
        let pairs = entries.iter().zip(stored);
        let decompress = pairs.map(|(entry, stored)| {
            if entry.codec == Codec::Raw {
                return Ok(&*stored);
            }
            let (chunk, behind) = std::mem::take(&mut rest).split_at_mut(entry.plain_len as usize);
            rest = behind;
            decompressor
                .decompress_into(entry.codec, stored, chunk)
                .map_err(|error| Error::data_loss(error.to_string()).caused_by(error))?;
            Ok(&*chunk)
        });
        decompress.collect()
    });
    times.decompress += time;
    let chunks = chunks?;

    let key = core.secrets.id_key()?;
    let (time, ()) = timed(|| {
        for chunk in chunks {
            black_box(key.id(chunk));
        }
    });
    times.identify += time;
    Ok(())
}

/// Reads an object to its end.
pub(super) async fn whole(repository: &Repository, name: &str) -> Result<()> {
    let mut reader = repository.get(name, ByteRange::All).await?;
    while let Some(bytes) = reader.next().await? {
        black_box(bytes);
    }
    Ok(())
}
