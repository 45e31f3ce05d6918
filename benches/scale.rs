//! Does it hold at size? By name: `cargo bench --bench scale -- small catalog`; `catalog CHUNKS` for another number than 10⁷.
//!
//! - *small*: 100,000 objects of 4 KiB by 64 callers, durable one by one: how many a second, how long does one wait, beside a
//!   bare sync and one of as many at once, how many can be read a second, as they were put and once they are merged, and how
//!   much is stored then?
//! - *files*, only by name: as many callers, with a synced file for each object. In another `$TMPDIR` than *small*: files are
//!   created more slowly beside many that were deleted lately.
//! - *catalog*: so many chunks that were never put are in the catalog. How long does it take to open after a kill, what is
//!   resident, how fast are lookups, what becomes of the rates of a put, and how close does one of known bytes come to what
//!   cutting and hashing alone allow? Each step is a process of its own.
//!
//! Directories are in `$TMPDIR` (by default `/tmp`), since disks are part of the answer; 10⁸ chunks take about 25 GiB there.
//! Figures are printed, not judged.

#[path = "../src/bin/cairn/allocator.rs"]
mod allocator;
mod callers;
mod process;
mod rows;

use std::fs::File;
use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use cairn_agent::backend::Location;
use cairn_agent::catalog::{self, Lookup, RepositoryCatalog};
use cairn_agent::codec::{ChunkId, ChunkSizes, Chunker, GearTable, IdKey, More, Secret};
use cairn_agent::engine::{
    Blocking, ByteRange, NewRepository, Options, PutOptions, ReclaimOptions, Repository, Source, Store, StoreOptions,
    WholeBytes,
};
use cairn_agent::format::{Kek, PackNumber};
use rand::{Rng, RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;

use callers::by_callers;
use process::{MIB, bytes_under, cpu_seconds, memory_mib, mib};
use rows::{chunk_row, entries_row};

fn main() {
    allocator::settle();
    let asked: Vec<String> = std::env::args().skip(1).filter(|arg| !arg.starts_with("--")).collect();
    let asked: Vec<&str> = asked.iter().map(String::as_str).collect();
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build();
    let runtime = runtime.expect("a runtime needs nothing special");
    match asked.as_slice() {
        ["fill", directory, chunks] => runtime.block_on(fill(Path::new(directory), number(chunks))),
        ["small-here"] => runtime.block_on(small()),
        ["files-here"] => files(),
        ["hold", directory] => runtime.block_on(hold(Path::new(directory))),
        ["use", directory, chunks] => runtime.block_on(use_it(Path::new(directory), number(chunks))),
        _ => {
            let is_asked = |name: &str| asked.is_empty() || asked.contains(&name);
            if is_asked("small") {
                step(&["small-here"]);
            }
            if asked.contains(&"files") {
                step(&["files-here"]);
            }
            if is_asked("catalog") {
                let chunks = asked.iter().find_map(|asked| asked.parse().ok());
                at_size(chunks.unwrap_or(10_000_000));
            }
        }
    }
}

fn number(text: &str) -> u64 {
    text.parse().expect("a number of chunks")
}

async fn open(directory: &Path) -> (Store, Repository) {
    let mut options = StoreOptions::in_memory("bench").expect("random bytes");
    options.location = Location::Directory(directory.join("store"));
    options.catalog = catalog::Location::Directory(directory.join("catalog"));
    options.options = Options::default();
    options.keks = vec![Kek {
        id: "bench".to_owned(),
        secret: Secret::from_bytes([7; 32]),
    }];
    let first = NewRepository::named("bench").expect("a name");
    let store = Store::open_or_create(options, first).await.expect("a store");
    let repository = store.repository("bench").await.expect("the repository");
    (store, repository)
}

const CALLERS: u64 = 64;
/// Bytes of a small object.
const OBJECT_LEN: usize = 4096;

async fn small() {
    const OBJECTS: u64 = 100_000;
    let directory = tempfile::tempdir().expect("a directory");
    let fsync = fsync_time(directory.path());
    let appended = appends(directory.path());
    let (store, repository) = open(directory.path()).await;
    let (start, cpu) = (Instant::now(), cpu_seconds());
    let putting = repository.clone();
    let mut times = by_callers(CALLERS, OBJECTS, move |number| {
        let repository = putting.clone();
        async move {
            let mut object = [0; OBJECT_LEN];
            ChaCha8Rng::seed_from_u64(number).fill_bytes(&mut object);
            let start = Instant::now();
            let name = format!("object {number}");
            let put = repository.put(&name, object.as_slice(), PutOptions::default());
            put.await.expect("a put");
            start.elapsed()
        }
    })
    .await;
    let seconds = start.elapsed().as_secs_f64();
    let cpu = cpu_seconds() - cpu;
    let cores = std::thread::available_parallelism().map_or(1.0, |cores| cores.get() as f64);
    let mean_ms = times.iter().sum::<Duration>().as_secs_f64() / OBJECTS as f64 * 1e3;
    times.sort_unstable();
    let p99 = ms_at(&times, 0.99);
    println!(
        "small: {:.0} puts/s; p50 {:.1} ms, p99 {p99:.1} ms, p99.9 {:.1} ms",
        OBJECTS as f64 / seconds,
        ms_at(&times, 0.5),
        ms_at(&times, 0.999),
    );
    let (alone, at_once) = (fsync.as_secs_f64() * 1e3, appended.as_secs_f64() * 1e3);
    println!(
        "small: one fsync of 4 KiB takes {alone:.2} ms (median), one of {CALLERS} at once {at_once:.2} ms (mean): p99 is {:.1} and {:.1} of them",
        p99 / alone,
        p99 / at_once,
    );
    // With every core busy, so many callers cannot wait less on average, whatever is done first.
    println!(
        "small: mean {mean_ms:.1} ms; {:.0} us of processor time a put, {:.0} % of {cores} cores: at all of them the mean is {:.1} ms",
        cpu / OBJECTS as f64 * 1e6,
        100.0 * cpu / (cores * seconds),
        CALLERS as f64 * cpu / cores / OBJECTS as f64 * 1e3,
    );
    small_gets("as they were put", &repository, OBJECTS).await;
    repository.reclaim(ReclaimOptions::THOROUGH).await.expect("a reclaim");
    small_gets("after merging", &repository, OBJECTS).await;
    let put = OBJECTS * OBJECT_LEN as u64;
    let stored = bytes_under(&directory.path().join("store"));
    println!(
        "small: {:.1} MiB put, {:.1} MiB stored after merging: {:.3} times; peak resident {:.0} MiB",
        mib(put),
        mib(stored),
        stored as f64 / put as f64,
        memory_mib("VmHWM:"),
    );
    store.close().await;
}

/// Gets objects of [`small`] in an order that no pack has, by one caller and by all.
async fn small_gets(what: &str, repository: &Repository, objects: u64) {
    /// A step through the objects that has no factor in common with their number.
    const STEP: u64 = 7_919;
    for callers in [1, CALLERS] {
        let gets = if callers == 1 { objects / 4 } else { objects / 2 };
        let start = Instant::now();
        let reading = repository.clone();
        by_callers(callers, gets, move |turn| {
            let repository = reading.clone();
            async move {
                let name = format!("object {}", turn * STEP % objects);
                let mut reader = repository.get(&name, ByteRange::All).await.expect("a get");
                let mut len = 0;
                while let Some(bytes) = reader.next().await.expect("bytes") {
                    len += bytes.len();
                }
                assert_eq!(len, OBJECT_LEN);
            }
        })
        .await;
        println!(
            "small: {:.0} gets/s {what}, callers: {callers}",
            gets as f64 / start.elapsed().as_secs_f64()
        );
    }
}

/// So many milliseconds this part of `times`, which are sorted, took at most.
fn ms_at(times: &[Duration], part: f64) -> f64 {
    times[((times.len() as f64 * part) as usize).min(times.len() - 1)].as_secs_f64() * 1e3
}

/// What as many callers wait for who append to a file each and sync it; the mean.
fn appends(directory: &Path) -> Duration {
    time_threads("bare appends", |caller| {
        let mut file = File::create(directory.join(format!("appended {caller}"))).expect("a file");
        move |_| append(&mut file)
    })
}

/// The same for who make a file of each object, with the syncs that it takes to survive a loss of power.
fn files() {
    let directory = tempfile::tempdir().expect("a directory");
    let directory = directory.path();
    time_threads("bare files", |caller| {
        move |turn| {
            let (staged, named) = (format!("staged {caller} {turn}"), format!("object {caller} {turn}"));
            append(&mut File::create(directory.join(&staged)).expect("a file"));
            std::fs::rename(directory.join(staged), directory.join(named)).expect("renamed");
            File::open(directory).expect("opened").sync_all().expect("synced");
        }
    });
}

fn append(file: &mut File) {
    file.write_all(&[1; OBJECT_LEN]).expect("written");
    file.sync_data().expect("synced");
}

/// How long [`CALLERS`] threads wait for what each of them does one turn after the other; the mean, and all of it is told.
fn time_threads<F: FnMut(u64)>(what: &str, of_caller: impl Fn(u64) -> F + Sync) -> Duration {
    const TURNS: u64 = 100;
    let of_caller = &of_caller;
    let run = |caller| timed(TURNS, of_caller(caller));
    let mut times: Vec<Duration> = std::thread::scope(|scope| {
        let threads: Vec<_> = (0..CALLERS).map(|caller| scope.spawn(move || run(caller))).collect();
        let of_each = threads.into_iter().map(|thread| thread.join().expect("a caller"));
        of_each.flatten().collect()
    });
    times.sort_unstable();
    let mean = times.iter().sum::<Duration>() / times.len() as u32;
    println!(
        "{what} of 4 KiB by {CALLERS} threads: {:.0} a second; mean {:.1} ms, p50 {:.1} ms, p99 {:.1} ms",
        CALLERS as f64 / mean.as_secs_f64(),
        mean.as_secs_f64() * 1e3,
        ms_at(&times, 0.5),
        ms_at(&times, 0.99),
    );
    mean
}

/// What each of so many turns takes.
fn timed(turns: u64, mut once: impl FnMut(u64)) -> Vec<Duration> {
    let turn = |turn| {
        let start = Instant::now();
        once(turn);
        start.elapsed()
    };
    (0..turns).map(turn).collect()
}

/// The median of appending 4 KiB and having them on the disk.
fn fsync_time(directory: &Path) -> Duration {
    let mut file = File::create(directory.join("fsync")).expect("a file");
    let mut times = timed(500, |_| append(&mut file));
    times.sort_unstable();
    times[times.len() / 2]
}

/// Chunks of a full pack.
const PACK_CHUNKS: u64 = 250;
/// Packs of one transaction, as commits along the way bring them.
const TRANSACTION_PACKS: u64 = 16;
/// Far above what any put comes to.
const EPOCH: u64 = 1 << 32;

/// The chunks of a pack, the same each time they are asked for. Counters are seeds, so other seeds are large.
fn ids(counter: u64) -> Vec<ChunkId> {
    let mut rng = ChaCha8Rng::seed_from_u64(counter);
    (0..PACK_CHUNKS).map(|_| ChunkId(rng.random())).collect()
}

async fn fill(directory: &Path, chunks: u64) {
    let (store, repository) = open(directory).await;
    let rows = cairn_agent::testkit::catalog(&repository);
    let start = Instant::now();
    let packs = chunks / PACK_CHUNKS;
    for first in (0..packs).step_by(TRANSACTION_PACKS as usize) {
        let mut transaction = rows.begin();
        for counter in first..packs.min(first + TRANSACTION_PACKS) {
            let number = PackNumber { epoch: EPOCH, counter };
            let ids = ids(counter);
            for (index, id) in (0..).zip(&ids) {
                transaction.set_chunk(&chunk_row(*id, number, index));
            }
            transaction.set_entries(number, &entries_row(&ids));
        }
        transaction.commit().expect("the catalog takes the packs");
        if first > 0 && first % (packs / 10).next_multiple_of(TRANSACTION_PACKS) == 0 {
            let seconds = start.elapsed().as_secs_f64();
            let done = first * PACK_CHUNKS;
            println!(
                "  {done} chunks after {seconds:.0} s, {:.0} MiB resident",
                memory_mib("VmRSS:")
            );
        }
    }
    println!(
        "catalog: {:.0} thousand chunks inserted a second, peak resident {:.0} MiB, {} bytes of disk a chunk",
        chunks as f64 / start.elapsed().as_secs_f64() / 1e3,
        memory_mib("VmHWM:"),
        bytes_under(&directory.join("catalog")) / chunks,
    );
    store.close().await;
}

/// Puts until somebody kills it.
async fn hold(directory: &Path) {
    let (_store, repository) = open(directory).await;
    for number in 0u64.. {
        let mut object = vec![0; MIB];
        ChaCha8Rng::seed_from_u64(u64::MAX - number).fill_bytes(&mut object);
        let name = format!("held {number}");
        let put = repository.put(&name, object.as_slice(), PutOptions::default());
        put.await.expect("a put");
        if number == 20 {
            println!("ready");
        }
    }
}

async fn use_it(directory: &Path, chunks: u64) {
    let start = Instant::now();
    let (store, repository) = open(directory).await;
    let opened = start.elapsed().as_secs_f64();
    let resident = memory_mib("VmRSS:");
    let rows = cairn_agent::testkit::catalog(&repository);
    println!("  opened in {opened:.2} s, {resident:.0} MiB resident");
    if chunks > 0 {
        look_up(&rows, chunks);
    }
    const ROUNDS: usize = 3;
    let data = directory.join("data");
    let mut first = Vec::new();
    let mut again = Vec::new();
    for round in 0..ROUNDS as u64 {
        let bytes = write_text(&data, EPOCH + 1 + round + chunks);
        let file = || Blocking::new(File::open(&data).expect("the data"));
        first.push(bytes / put(&repository, &format!("first {round}"), file()).await);
        again.push(bytes / put(&repository, &format!("again {round}"), file()).await);
    }
    println!(
        "catalog with {chunks} chunks: first {:.0} MiB/s, again {:.0} MiB/s (medians of {ROUNDS}), peak resident {:.0} MiB",
        median(first),
        median(again),
        memory_mib("VmHWM:"),
    );
    // From memory, so that nothing but the work itself is in it.
    let data = Bytes::from(std::fs::read(&data).expect("the data"));
    let bytes = mib(data.len() as u64);
    let (mut streamed, mut whole, mut allowed) = (Again::default(), Again::default(), Vec::new());
    for round in 0..ROUNDS {
        let name = format!("streamed {round}");
        streamed.add(bytes, put(&repository, &name, &data[..])).await;
        let name = format!("whole {round}");
        whole
            .add(bytes, put(&repository, &name, WholeBytes::new(data.clone())))
            .await;
        allowed.push(bytes / cut_and_identify(&data));
    }
    let allowed = median(allowed);
    let threads = Options::default().compute_threads.get();
    println!("  one core cuts and hashes {allowed:.0} MiB/s");
    for (how, again) in [("as a stream", streamed), ("where it is", whole)] {
        let a_cpu_second = bytes * ROUNDS as f64 / again.cpu_seconds;
        let rate = median(again.rates);
        println!(
            "  again from memory, {how}: {rate:.0} MiB/s, {:.0} % of {threads} cores; {a_cpu_second:.0} MiB a processor second, {:.0} %",
            100.0 * rate / (allowed * threads as f64),
            100.0 * a_cpu_second / allowed,
        );
    }
    store.close().await;
}

/// Puts of what is there already.
#[derive(Default)]
struct Again {
    /// MiB/s of each.
    rates: Vec<f64>,
    /// Of all of them.
    cpu_seconds: f64,
}

impl Again {
    async fn add(&mut self, mib: f64, put: impl Future<Output = f64>) {
        let cpu = cpu_seconds();
        self.rates.push(mib / put.await);
        self.cpu_seconds += cpu_seconds() - cpu;
    }
}

/// The seconds it takes.
async fn put(repository: &Repository, name: &str, source: impl Source) -> f64 {
    let start = Instant::now();
    let put = repository.put(name, source, PutOptions::default());
    put.await.expect("a put");
    start.elapsed().as_secs_f64()
}

fn median(mut rates: Vec<f64>) -> f64 {
    rates.sort_by(f64::total_cmp);
    rates[rates.len() / 2]
}

/// The seconds that one core takes to cut the bytes and to make the ids of the chunks.
fn cut_and_identify(data: &[u8]) -> f64 {
    let mut table = [0; 2048];
    ChaCha8Rng::seed_from_u64(1).fill_bytes(&mut table);
    let mut chunker = Chunker::new(ChunkSizes::DEFAULT, Arc::new(GearTable::from_bytes(&table)));
    let key = IdKey::new(&Secret::from_bytes([3; 32]));
    let start = Instant::now();
    let mut at = 0;
    while let Some(len) = chunker.next(&data[at..], More::End) {
        std::hint::black_box(key.id(&data[at..at + len]));
        at += len;
    }
    start.elapsed().as_secs_f64()
}

/// Words in random order, which compress about threefold. Returns the MiB.
fn write_text(path: &Path, seed: u64) -> f64 {
    const LEN: usize = 512 * MIB;
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    let mut file = std::io::BufWriter::new(File::create(path).expect("a file"));
    let mut written = 0;
    while written < LEN {
        let word = format!("word{} ", rng.random_range(0..2048));
        file.write_all(word.as_bytes()).expect("written");
        written += word.len();
    }
    file.flush().expect("written");
    mib(written as u64)
}

fn look_up(rows: &RepositoryCatalog, chunks: u64) {
    const BATCHES: u64 = 200;
    let mut rng = ChaCha8Rng::seed_from_u64(EPOCH);
    let new: Vec<Vec<ChunkId>> = (0..BATCHES)
        .map(|_| (0..PACK_CHUNKS).map(|_| ChunkId(rng.random())).collect())
        .collect();
    // One chunk of each of many packs: no run that anything could be ahead of.
    let known: Vec<Vec<ChunkId>> = (0..BATCHES)
        .map(|_| {
            let of = |_| ids(rng.random_range(0..chunks / PACK_CHUNKS))[0];
            (0..PACK_CHUNKS).map(of).collect()
        })
        .collect();
    for (what, batches, is_known) in [("new", new, false), ("known, scattered", known, true)] {
        let start = Instant::now();
        for batch in &batches {
            let found = rows.chunks(batch).expect("lookups");
            assert!(
                found.iter().all(|row| row.is_some() == is_known),
                "a wrong answer for what is {what}"
            );
        }
        let seconds = start.elapsed().as_secs_f64();
        let rate = (BATCHES * PACK_CHUNKS) as f64 / seconds / 1e3;
        println!("  {rate:.0} thousand lookups a second of what is {what}");
    }
}

fn at_size(chunks: u64) {
    let directory = tempfile::tempdir().expect("a directory");
    let empty = tempfile::tempdir().expect("a directory");
    step(&["use", &empty.path().display().to_string(), "0"]);
    let path = directory.path().display().to_string();
    step(&["fill", &path, &chunks.to_string()]);
    let mut held = step_command(&["hold", &path])
        .stdout(Stdio::piped())
        .spawn()
        .expect("a process");
    let mut line = String::new();
    let mut output = BufReader::new(held.stdout.take().expect("a pipe"));
    output.read_line(&mut line).expect("a line");
    held.kill().expect("it can be killed");
    held.wait().expect("it ends");
    assert_eq!(line.trim(), "ready", "it ended before it was killed");
    step(&["use", &path, &chunks.to_string()]);
}

fn step(arguments: &[&str]) {
    let status = step_command(arguments).status().expect("a process");
    assert!(status.success(), "{arguments:?} failed");
}

/// This program once more.
fn step_command(arguments: &[&str]) -> Command {
    let mut command = Command::new(std::env::current_exe().expect("its own path"));
    command.args(arguments);
    command
}
