//! Work to count the instructions of: `instructions NAME UNITS` does so much of it and ends. `scripts/count-instructions` runs
//! it under valgrind and compares with `benches/instructions.toml`.
//!
//! A unit is 4 MiB. What it takes to begin is the same for one unit and for three, so the difference counts two of them.

use std::hint::black_box;
use std::num::NonZeroUsize;
use std::sync::Arc;

use cairn_agent::codec::compression::{Compressor, Decompressor, Level};
use cairn_agent::codec::{ChunkSizes, Chunker, GearTable, IdKey, More, Nonce, SealingKey, Secret};
use cairn_agent::engine::{ByteRange, NewRepository, PutOptions, Repository, Store, StoreOptions};
use rand::{Rng, RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;

const UNIT: usize = 4 << 20;
const UNITS_MAX: usize = 3;
const CHUNK_LEN: usize = 64 << 10;

fn main() {
    let arguments: Vec<String> = std::env::args()
        .skip(1)
        .filter(|argument| argument != "--bench")
        .collect();
    let [name, units] = arguments.as_slice() else {
        println!("scripts/count-instructions runs this");
        return;
    };
    let units: usize = units.parse().expect("a number of units");
    match name.as_str() {
        "cut" => cut(units),
        "id" => id(units),
        "compress text" => compress(&text(0), units),
        "compress noise" => compress(&noise(0), units),
        "decompress text" => decompress(units),
        "seal" => seal(units),
        "open" => open(units),
        "put text" => whole(text, units, 1, 0),
        "put noise" => whole(noise, units, 1, 0),
        "put text again" => whole(text, 1, 1 + units, 0),
        "get text" => whole(text, 1, 1, units),
        "get noise" => whole(noise, 1, 1, units),
        _ => panic!("there is no such work: {name}"),
    }
}

/// Bytes that do not compress.
fn noise(seed: u64) -> Vec<u8> {
    let mut bytes = vec![0; UNIT];
    ChaCha8Rng::seed_from_u64(seed).fill_bytes(&mut bytes);
    bytes
}

/// Words in random order; they compress about threefold.
fn text(seed: u64) -> Vec<u8> {
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    let mut text = Vec::with_capacity(UNIT + 16);
    while text.len() < UNIT {
        text.extend_from_slice(format!("word{} ", rng.random_range(0..2048)).as_bytes());
    }
    text.truncate(UNIT);
    text
}

fn secret() -> Secret {
    Secret::from_bytes([42; 32])
}

fn cut(units: usize) {
    let data = text(0);
    let words: Vec<u8> = noise(1)[..2048].to_vec();
    let gear = Arc::new(GearTable::from_bytes(words.as_slice().try_into().expect("256 words")));
    for _ in 0..units {
        let mut chunker = Chunker::new(ChunkSizes::DEFAULT, gear.clone());
        let mut at = 0;
        while let Some(len) = chunker.next(&data[at..], More::End) {
            at += len;
        }
    }
}

fn id(units: usize) {
    let (key, data) = (IdKey::new(&secret()), noise(0));
    for chunk in data.chunks(CHUNK_LEN).cycle().take(units * UNIT / CHUNK_LEN) {
        black_box(key.id(chunk));
    }
}

fn compress(data: &[u8], units: usize) {
    let (mut compressor, mut stored) = (Compressor::new(Level::DEFAULT), Vec::new());
    for chunk in data.chunks(CHUNK_LEN).cycle().take(units * UNIT / CHUNK_LEN) {
        stored.clear();
        compressor.compress(chunk, &mut stored);
    }
}

fn decompress(units: usize) {
    let mut compressor = Compressor::new(Level::DEFAULT);
    let data = text(0);
    let stored = data.chunks(CHUNK_LEN).map(|chunk| {
        let mut stored = Vec::new();
        (compressor.compress(chunk, &mut stored), stored)
    });
    let stored: Vec<_> = stored.collect();
    let (mut decompressor, mut plain) = (Decompressor::new(), Vec::new());
    for (codec, stored) in stored.iter().cycle().take(units * UNIT / CHUNK_LEN) {
        plain.clear();
        decompressor
            .decompress(*codec, stored, CHUNK_LEN, &mut plain)
            .expect("what was compressed");
    }
}

fn seal(units: usize) {
    let (key, mut data) = (SealingKey::new(&secret()), noise(0));
    for _ in 0..units {
        for chunk in data.chunks_mut(CHUNK_LEN) {
            key.seal(Nonce::counter(1), b"associated data", chunk);
        }
    }
}

fn open(units: usize) {
    let key = SealingKey::new(&secret());
    let mut sealed = noise(0)[..CHUNK_LEN].to_vec();
    let tag = key.seal(Nonce::counter(1), b"associated data", &mut sealed);
    sealed.extend_from_slice(&tag);
    let mut scratch = sealed.clone();
    for _ in 0..units * UNIT / CHUNK_LEN {
        scratch.copy_from_slice(&sealed);
        let opened = key.open(Nonce::counter(1), b"associated data", &mut scratch);
        black_box(opened.expect("what was sealed"));
    }
}

/// So many units put `times` times, and got so often.
fn whole(data: impl Fn(u64) -> Vec<u8>, units: usize, times: usize, gets: usize) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let runtime = runtime.expect("a runtime needs nothing special");
    let mut options = StoreOptions::in_memory("bench").expect("random bytes");
    options.options.compute_threads = NonZeroUsize::MIN;
    // As much is made whatever is asked for, so that it is not counted.
    let data: Vec<Vec<u8>> = (0..UNITS_MAX as u64).map(data).collect();
    let data = &data.concat()[..units * UNIT];
    runtime.block_on(async {
        let first = NewRepository::named("bench").expect("a name");
        let store = Store::open_or_create(options, first).await.expect("a store");
        let repository = store.repository("bench").await.expect("the repository");
        for _ in 0..times {
            let put = repository.put("object", data, PutOptions::default());
            put.await.expect("a put");
        }
        for _ in 0..gets {
            get(&repository).await;
        }
        store.close().await;
    });
}

async fn get(repository: &Repository) {
    let mut reader = repository.get("object", ByteRange::All).await.expect("the object");
    while let Some(bytes) = reader.next().await.expect("its bytes") {
        black_box(&bytes);
    }
}
