//! What does each transform of a chunk after cutting cost on one core: naming, probing, compressing, sealing, and back?
//!
//! Chunks of the default average, random and text-like, as one worker handles them: contexts and buffers are reused, and
//! the chunk is in the core's cache. Throughput is in bytes of plaintext.

use std::hint::black_box;

use cairn_agent::codec::compression::{Compressor, Decompressor, Level, probe};
use cairn_agent::codec::sealing::Implementation;
use cairn_agent::codec::{IdKey, Nonce, RepositoryId, SealingKey, Secret, derive};
use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};

const CHUNK_LEN: usize = 64 << 10;

fn naming(c: &mut Criterion) {
    let mut group = c.benchmark_group("id");
    group.throughput(Throughput::Bytes(CHUNK_LEN as u64));
    let (key, chunk) = (IdKey::new(&secret()), random());
    group.bench_function("keyed BLAKE3", |b| b.iter(|| key.id(black_box(&chunk))));
    group.finish();
}

fn compressing(c: &mut Criterion) {
    let mut group = c.benchmark_group("compression");
    group.throughput(Throughput::Bytes(CHUNK_LEN as u64));
    for (kind, chunk) in [("random", random()), ("text", text())] {
        group.bench_function(BenchmarkId::new("probe", kind), |b| b.iter(|| probe(black_box(&chunk))));
        for level in [1, 3] {
            let level = Level::new(level).expect("levels 1 and 3 exist");
            let (mut compressor, mut stored) = (Compressor::new(level), Vec::new());
            group.bench_function(BenchmarkId::new(format!("compress {}", level.number()), kind), |b| {
                b.iter(|| {
                    stored.clear();
                    compressor.compress(black_box(&chunk), &mut stored)
                })
            });
        }
        let mut stored = Vec::new();
        let codec = Compressor::new(Level::DEFAULT).compress(&chunk, &mut stored);
        let (mut decompressor, mut plain) = (Decompressor::new(), Vec::new());
        group.bench_function(BenchmarkId::new("decompress", kind), |b| {
            b.iter(|| {
                plain.clear();
                decompressor.decompress(codec, black_box(&stored), CHUNK_LEN, &mut plain)
            })
        });
    }
    group.finish();
}

fn sealing(c: &mut Criterion) {
    let implementations = [
        Implementation::PureRust,
        #[cfg(feature = "aws-lc")]
        Implementation::AwsLc,
    ];
    let mut group = c.benchmark_group("sealing");
    group.throughput(Throughput::Bytes(CHUNK_LEN as u64));
    for implementation in implementations {
        let key = SealingKey::with(implementation, &secret());
        let mut bytes = random();
        group.bench_function(BenchmarkId::new("seal", format!("{implementation:?}")), |b| {
            b.iter(|| key.seal(Nonce::counter(1), b"associated data", black_box(&mut bytes)))
        });
        let mut sealed = random();
        let tag = key.seal(Nonce::counter(1), b"associated data", &mut sealed);
        sealed.extend_from_slice(&tag);
        let mut scratch = sealed.clone();
        group.bench_function(BenchmarkId::new("copy and open", format!("{implementation:?}")), |b| {
            b.iter(|| {
                scratch.copy_from_slice(&sealed);
                key.open(Nonce::counter(1), b"associated data", black_box(&mut scratch))
                    .map(|plain| plain.len())
            })
        });
    }
    group.finish();
}

fn keys(c: &mut Criterion) {
    let (secret, repository) = (secret(), RepositoryId([7; 16]));
    c.bench_function("key of a pack", |b| {
        b.iter(|| SealingKey::new(&derive(&secret, &repository, "pack", black_box(&[1; 40]))))
    });
}

fn secret() -> Secret {
    Secret::from_bytes([42; 32])
}

fn random() -> Vec<u8> {
    let mut bytes = vec![0; CHUNK_LEN];
    blake3::Hasher::new().update(b"chunk").finalize_xof().fill(&mut bytes);
    bytes
}

fn text() -> Vec<u8> {
    (0u64..)
        .flat_map(|line| {
            format!(
                "GET /objects/{:x} 200 {}\n",
                line.wrapping_mul(0x9e37_79b9_7f4a_7c15),
                line % 997
            )
            .into_bytes()
        })
        .take(CHUNK_LEN)
        .collect()
}

criterion_group!(benches, naming, compressing, sealing, keys);
criterion_main!(benches);
