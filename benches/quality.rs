//! What do chunk sizes cost and bring? `cargo bench --bench quality -- OLD NEW [OLD NEW …]`: pairs of files, each the old and the
//! new version of something; `scripts/dedupe-quality` makes such pairs.
//!
//! For each average size: the mean length of a chunk, what a repository that holds OLD takes for it, what NEW adds, and what
//! of both is metadata. Minimum and maximum are a half and four times the average, unless a row says otherwise.

use std::collections::HashSet;

use cairn_agent::codec::TAG_LEN;
use cairn_agent::codec::compression::{Compressor, Level};
use cairn_agent::format::Entry;
use fastcdc::v2020::{FastCDC, Normalization};

/// What a chunk takes in a pack beside its own bytes: its entry in the directory, and its tag.
const ENTRY_BYTES: u64 = (Entry::LEN + TAG_LEN) as u64;
/// What it takes in a manifest, whether it is new or not: its id and its length.
const REFERENCE_BYTES: u64 = 32 + 4;

struct Setting {
    name: &'static str,
    min: usize,
    avg: usize,
    max: usize,
    level: Normalization,
}

const fn setting(name: &'static str, min: usize, avg: usize, max: usize, level: Normalization) -> Setting {
    Setting {
        name,
        min: min << 10,
        avg: avg << 10,
        max: max << 10,
        level,
    }
}

const SETTINGS: [Setting; 10] = [
    setting("16 KiB", 8, 16, 64, Normalization::Level2),
    setting("32 KiB", 16, 32, 128, Normalization::Level2),
    setting("64 KiB", 32, 64, 256, Normalization::Level2),
    setting("128 KiB", 64, 128, 512, Normalization::Level2),
    setting("256 KiB", 128, 256, 1024, Normalization::Level2),
    setting("1 MiB", 512, 1024, 4096, Normalization::Level2),
    setting("64 KiB, min 16", 16, 64, 256, Normalization::Level2),
    setting("64 KiB, level 1", 32, 64, 256, Normalization::Level1),
    setting("64 KiB, level 3", 32, 64, 256, Normalization::Level3),
    setting("32 KiB, min 24", 24, 32, 128, Normalization::Level2),
];

fn main() {
    let files: Vec<String> = std::env::args().skip(1).filter(|arg| !arg.starts_with("--")).collect();
    if files.is_empty() || !files.len().is_multiple_of(2) {
        println!("name pairs of files: an old and a new version of something");
        return;
    }
    println!(
        "| pair | chunks of | mean KiB | old, MiB in | stored | ratio | new, MiB in | added | of its own | metadata, KiB |"
    );
    println!("|---|---|---|---|---|---|---|---|---|---|");
    for pair in files.chunks_exact(2) {
        let [old, new] = [&pair[0], &pair[1]].map(|path| std::fs::read(path).expect("a file that can be read"));
        let name = pair[1].rsplit('/').next().unwrap_or_default();
        for setting in &SETTINGS {
            row(name, setting, &old, &new);
        }
    }
}

fn row(name: &str, setting: &Setting, old: &[u8], new: &[u8]) {
    let mut repository = HashSet::new();
    let first = put(setting, old, &mut repository);
    let second = put(setting, new, &mut repository);
    let mib = |bytes: u64| bytes as f64 / f64::from(1 << 20);
    println!(
        "| {name} | {} | {:.1} | {:.1} | {:.1} | {:.2} | {:.1} | {:.2} | {:.1} % | {} |",
        setting.name,
        (old.len() + new.len()) as f64 / 1024.0 / (first.chunks + second.chunks) as f64,
        mib(old.len() as u64),
        mib(first.stored),
        old.len() as f64 / first.stored as f64,
        mib(new.len() as u64),
        mib(second.stored),
        100.0 * second.new_bytes as f64 / new.len() as f64,
        (first.metadata + second.metadata) >> 10,
    );
}

#[derive(Default)]
struct Put {
    chunks: u64,
    new_bytes: u64,
    stored: u64,
    metadata: u64,
}

fn put(setting: &Setting, data: &[u8], repository: &mut HashSet<[u8; 32]>) -> Put {
    let mut put = Put::default();
    let (mut compressor, mut stored) = (Compressor::new(Level::DEFAULT), Vec::new());
    for chunk in FastCDC::with_level(data, setting.min, setting.avg, setting.max, setting.level) {
        let bytes = &data[chunk.offset..][..chunk.length];
        put.chunks += 1;
        put.metadata += REFERENCE_BYTES;
        if repository.insert(*blake3::hash(bytes).as_bytes()) {
            stored.clear();
            compressor.compress(bytes, &mut stored);
            put.new_bytes += bytes.len() as u64;
            put.stored += stored.len() as u64;
            put.metadata += ENTRY_BYTES;
        }
    }
    put.stored += put.metadata;
    put
}
