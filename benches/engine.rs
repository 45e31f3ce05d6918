//! How fast is the whole: a stream put for the first time, put again, and got back, on one and on all threads?
//!
//! Three kinds of data: random, text-like (it compresses about threefold), and mostly duplicate (a text with a byte
//! changed every 4 MiB, after the text itself). Packs go to a directory in memory where there is one (`/dev/shm`), so
//! the disk is not what is measured. `cairn bench` shows the stages and their sum.

mod streams;

use std::num::NonZeroUsize;
use std::time::{Duration, Instant};

use cairn_agent::backend::Location;
use cairn_agent::catalog;
use cairn_agent::engine::{ByteRange, NewRepository, PutOptions, Repository, Store, StoreOptions};
use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use tokio::runtime::Runtime;

use streams::{STREAM_LEN, directory, random, text};

/// A store in a directory of its own, which goes with it.
struct Place {
    repository: Repository,
    _store: Store,
    _directory: tempfile::TempDir,
}

fn place(runtime: &Runtime, threads: usize) -> Place {
    let directory = directory();
    let mut options = StoreOptions::in_memory("bench").expect("random bytes");
    options.location = Location::Directory(directory.path().join("store"));
    options.catalog = catalog::Location::Directory(directory.path().join("catalog"));
    options.options.compute_threads = NonZeroUsize::new(threads).expect("at least one thread");
    let (store, repository) = runtime.block_on(async {
        let store = Store::open_or_create(options, NewRepository::named("bench").expect("a name"))
            .await
            .expect("a store");
        let repository = store.repository("bench").await.expect("the repository");
        (store, repository)
    });
    Place {
        repository,
        _store: store,
        _directory: directory,
    }
}

fn put(runtime: &Runtime, place: &Place, name: &str, data: &[u8]) -> Duration {
    let start = Instant::now();
    runtime
        .block_on(place.repository.put(name, data, PutOptions::default()))
        .expect("a put");
    start.elapsed()
}

fn get(runtime: &Runtime, place: &Place, name: &str) -> Duration {
    let start = Instant::now();
    runtime.block_on(async {
        let mut reader = place.repository.get(name, ByteRange::All).await.expect("the object");
        while let Some(bytes) = reader.next().await.expect("its bytes") {
            std::hint::black_box(&bytes);
        }
    });
    start.elapsed()
}

fn engine(c: &mut Criterion) {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(1)
        .enable_all()
        .build()
        .expect("a runtime");
    let all = std::thread::available_parallelism().map_or(1, NonZeroUsize::get);
    let text = text();
    let mut group = c.benchmark_group("engine");
    group.throughput(Throughput::Bytes(STREAM_LEN as u64)).sample_size(10);
    for threads in if all > 1 { vec![1, all] } else { vec![1] } {
        for (kind, stream) in [("random", random()), ("text", text.clone())] {
            group.bench_function(BenchmarkId::new(format!("put {kind}"), threads), |b| {
                b.iter_custom(|rounds| {
                    (0..rounds)
                        .map(|_| put(&runtime, &place(&runtime, threads), "a", &stream))
                        .sum()
                })
            });
            let stored = place(&runtime, threads);
            put(&runtime, &stored, "a", &stream);
            group.bench_function(BenchmarkId::new(format!("put {kind} again"), threads), |b| {
                b.iter_custom(|rounds| (0..rounds).map(|_| put(&runtime, &stored, "b", &stream)).sum())
            });
            group.bench_function(BenchmarkId::new(format!("get {kind}"), threads), |b| {
                b.iter_custom(|rounds| (0..rounds).map(|_| get(&runtime, &stored, "a")).sum())
            });
        }
        let edited = edited(&text);
        group.bench_function(BenchmarkId::new("put mostly duplicate", threads), |b| {
            b.iter_custom(|rounds| {
                let once = || {
                    let place = place(&runtime, threads);
                    put(&runtime, &place, "a", &text);
                    put(&runtime, &place, "b", &edited)
                };
                (0..rounds).map(|_| once()).sum()
            })
        });
    }
    group.finish();
}

fn edited(original: &[u8]) -> Vec<u8> {
    let mut edited = original.to_vec();
    edited.iter_mut().step_by(4 << 20).for_each(|byte| *byte ^= 0x20);
    edited
}

criterion_group!(benches, engine);
criterion_main!(benches);
