//! Does the catalog keep up with one core of chunking? At 64 KiB chunks and 3 GB/s that is about 45 000 lookups a second of
//! new chunks, and as many of duplicates, most of which `Locality` has to answer.
//!
//! Rows are random, as ids are; the catalog is larger than its block cache.

mod rows;

use std::hint::black_box;
use std::sync::Arc;

use cairn_agent::catalog::{Catalog, Limits, Locality, Location, Lookup, RepositoryCatalog};
use cairn_agent::codec::{ChunkId, RepositoryId, Secret};
use cairn_agent::format::{CatalogKeys, PackNumber};
use criterion::{BatchSize, Criterion, Throughput, criterion_group, criterion_main};
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;

use rows::{chunk_row, entries_row};

/// Enough for several levels of the tree, few enough to be there in seconds.
const CHUNKS: usize = 1_000_000;
/// Chunks of a full pack, which is what one transaction brings.
const PACK_CHUNKS: usize = 500;
/// Chunks looked up in one call.
const LOOKUP_CHUNKS: usize = 256;

fn rng() -> ChaCha8Rng {
    ChaCha8Rng::seed_from_u64(1)
}

fn some_id(rng: &mut ChaCha8Rng) -> ChunkId {
    ChunkId(rng.random())
}

fn insert_pack(repository: &RepositoryCatalog, number: PackNumber, ids: &[ChunkId]) {
    let mut transaction = repository.begin();
    for (index, id) in (0..).zip(ids) {
        transaction.set_chunk(&chunk_row(*id, number, index));
    }
    transaction.set_entries(number, &entries_row(ids));
    transaction.commit().expect("the catalog takes the pack");
}

fn catalog(c: &mut Criterion) {
    let directory = tempfile::tempdir().expect("a directory");
    let location = Location::Directory(directory.path().to_owned());
    let catalog = Catalog::open(&location, &Limits::default()).expect("a catalog");
    let secret = |of| Secret::from_bytes([of; 32]);
    let keys = CatalogKeys {
        chunk: secret(1),
        name: secret(2),
        row: secret(3),
    };
    let repository = catalog.repository(RepositoryId([9; 16]), &keys).expect("a repository");

    let mut rng = rng();
    let known: Vec<ChunkId> = (0..CHUNKS).map(|_| some_id(&mut rng)).collect();
    for (counter, ids) in (0..).zip(known.chunks(PACK_CHUNKS)) {
        insert_pack(&repository, PackNumber { epoch: 1, counter }, ids);
    }
    println!(
        "{} bytes of disk a chunk",
        catalog.disk_bytes().expect("its size") / CHUNKS as u64
    );

    let mut group = c.benchmark_group("catalog");
    group.throughput(Throughput::Elements(LOOKUP_CHUNKS as u64));
    group.bench_function("look up new chunks", |bencher| {
        bencher.iter_batched(
            || (0..LOOKUP_CHUNKS).map(|_| some_id(&mut rng)).collect::<Vec<_>>(),
            |ids| black_box(repository.chunks(&ids).expect("lookups")),
            BatchSize::SmallInput,
        );
    });
    group.bench_function("look up known chunks", |bencher| {
        bencher.iter_batched(
            || {
                (0..LOOKUP_CHUNKS)
                    .map(|_| known[rng.random_range(0..CHUNKS)])
                    .collect::<Vec<_>>()
            },
            |ids| black_box(repository.chunks(&ids).expect("lookups")),
            BatchSize::SmallInput,
        );
    });
    group.throughput(Throughput::Elements(PACK_CHUNKS as u64));
    let mut counter = 1 << 32;
    group.bench_function("insert a pack", |bencher| {
        bencher.iter_batched(
            || (0..PACK_CHUNKS).map(|_| some_id(&mut rng)).collect::<Vec<_>>(),
            |ids| {
                counter += 1;
                insert_pack(&repository, PackNumber { epoch: 1, counter }, &ids);
            },
            BatchSize::SmallInput,
        );
    });
    let number = PackNumber { epoch: 1, counter: 7 };
    group.bench_function("read the entries of a pack", |bencher| {
        bencher.iter(|| black_box(repository.entries(number).expect("a lookup")));
    });
    group.finish();
}

fn locality(c: &mut Criterion) {
    let mut rng = rng();
    let locality = Locality::new(Limits::default().locality_bytes);
    let packs: Vec<Vec<ChunkId>> = (0..100)
        .map(|_| (0..PACK_CHUNKS).map(|_| some_id(&mut rng)).collect())
        .collect();
    for (counter, ids) in (0..).zip(&packs) {
        locality.insert(PackNumber { epoch: 1, counter }, Arc::new(entries_row(ids)));
    }
    let scattered: Vec<ChunkId> = (0..LOOKUP_CHUNKS).map(|at| packs[at * 37 % 100][at]).collect();
    let new: Vec<ChunkId> = (0..LOOKUP_CHUNKS).map(|_| some_id(&mut rng)).collect();

    let mut group = c.benchmark_group("locality");
    group.throughput(Throughput::Elements(LOOKUP_CHUNKS as u64));
    for (name, ids) in [
        ("a run", &packs[50][..LOOKUP_CHUNKS]),
        ("scattered", &scattered),
        ("new", &new),
    ] {
        let mut found = Vec::with_capacity(LOOKUP_CHUNKS);
        group.bench_function(name, |bencher| {
            bencher.iter(|| {
                found.clear();
                locality.find_many(black_box(ids), &mut found);
                black_box(found.last().copied())
            });
        });
    }
    group.finish();
}

criterion_group!(benches, catalog, locality);
criterion_main!(benches);
