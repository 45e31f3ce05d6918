//! How much faster than `fastcdc::v2020::cut_gear` are streams cut, with the same table, masks and sizes, and so the
//! same cuts? Below 1.9 times as fast at the default sizes is a regression.
//!
//! Three kinds of data: random, text-like, and zeros (which are never cut before the largest size). Throughput is in
//! bytes of the stream, of which only what is beyond each chunk's smallest size is looked at.

use std::hint::black_box;
use std::sync::Arc;

use cairn_agent::codec::{ChunkSizes, Chunker, GearTable, More};
use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use fastcdc::v2020::{Normalization, cut_gear, select_masks};

const STREAM_LEN: usize = 64 << 20;
/// What arrives at once in the "slabs" row.
const SLAB_LEN: usize = 2 << 20;

fn chunking(c: &mut Criterion) {
    let table = Arc::new(GearTable::from_bytes(
        &seeded(b"table", 2048).try_into().expect("2048 bytes were asked for"),
    ));
    let mut group = c.benchmark_group("chunking");
    group.throughput(Throughput::Bytes(STREAM_LEN as u64)).sample_size(20);
    for (name, stream) in [
        ("random", seeded(b"stream", STREAM_LEN)),
        ("text", text()),
        ("zeros", vec![0; STREAM_LEN]),
    ] {
        assert_eq!(
            ours(&table, &stream, STREAM_LEN),
            theirs(&table, &stream),
            "the cuts differ"
        );
        group.bench_function(BenchmarkId::new("ours", name), |b| {
            b.iter(|| ours(&table, black_box(&stream), STREAM_LEN))
        });
        group.bench_function(BenchmarkId::new("ours in slabs", name), |b| {
            b.iter(|| ours(&table, black_box(&stream), SLAB_LEN))
        });
        group.bench_function(BenchmarkId::new("cut_gear", name), |b| {
            b.iter(|| theirs(&table, black_box(&stream)))
        });
    }
    group.finish();
}

/// The number of chunks and a checksum over their ends.
type Cuts = (usize, usize);

fn count((chunks, sum): Cuts, end: usize) -> Cuts {
    (chunks + 1, sum.wrapping_mul(31).wrapping_add(end))
}

fn ours(table: &Arc<GearTable>, stream: &[u8], slab_len: usize) -> Cuts {
    let mut chunker = Chunker::new(ChunkSizes::DEFAULT, Arc::clone(table));
    let (mut cuts, mut start, mut arrived) = ((0, 0), 0, 0);
    while start < stream.len() {
        arrived = stream.len().min(arrived + slab_len);
        let more = if arrived == stream.len() {
            More::End
        } else {
            More::MayFollow
        };
        while let Some(len) = chunker.next(&stream[start..arrived], more) {
            start += len;
            cuts = count(cuts, start);
        }
    }
    cuts
}

fn theirs(table: &GearTable, stream: &[u8]) -> Cuts {
    let sizes = ChunkSizes::DEFAULT;
    let [min, avg, max] = [sizes.min(), sizes.avg(), sizes.max()].map(|size| size as usize);
    let (mask_s, mask_l) = select_masks(avg, Normalization::Level2);
    let shifted = table.words().map(|word| word << 1);
    let (mut cuts, mut start) = ((0, 0), 0);
    while start < stream.len() {
        let rest = &stream[start..];
        start += cut_gear(
            rest,
            min,
            avg,
            max,
            mask_s,
            mask_l,
            mask_s << 1,
            mask_l << 1,
            table.words(),
            &shifted,
        )
        .1;
        cuts = count(cuts, start);
    }
    cuts
}

fn seeded(seed: &[u8], len: usize) -> Vec<u8> {
    let mut bytes = vec![0; len];
    blake3::Hasher::new().update(seed).finalize_xof().fill(&mut bytes);
    bytes
}

/// Words of a dictionary of 256 in random order.
fn text() -> Vec<u8> {
    let letters = seeded(b"words", 256 * 8);
    let words: Vec<Vec<u8>> = letters
        .chunks(8)
        .map(|word| {
            word[1..2 + usize::from(word[0] % 7)]
                .iter()
                .map(|byte| b'a' + byte % 26)
                .collect()
        })
        .collect();
    let order = seeded(b"order", STREAM_LEN);
    order
        .iter()
        .flat_map(|&word| words[usize::from(word)].iter().copied().chain([b' ']))
        .take(STREAM_LEN)
        .collect()
}

criterion_group!(benches, chunking);
criterion_main!(benches);
