//! What does giving space back cost? Four questions, each by its name: `cargo bench --bench reclaim -- rate latency churn memory`.
//!
//! - *rate*: half of what is in every pack is deleted; how fast does it come back?
//! - *latency*: small puts by 16 callers, in turns without and with a reclaim beside them; what becomes of their 99th percentile?
//! - *churn*: a tenth of all objects is replaced, 20 times, with the reclaims that an agent begins by itself; how much more than
//!   what is in use is stored at the end?
//! - *memory*: what does a reclaim need at 10⁶ and at 10⁷ chunks?
//!
//! Stores are in `$TMPDIR` (by default `/tmp`), since syncing is part of the answer, but for *memory*, which looks at nothing
//! else. Figures are printed, not judged: criterion times one thing again and again, and none of these can be had again at once.

mod process;

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use cairn_agent::backend::Location;
use cairn_agent::catalog;
use cairn_agent::codec::ChunkSizes;
use cairn_agent::engine::{
    NewRepository, Options, Precondition, PutOptions, ReclaimOptions, ReclaimProgress, ReclaimSchedule, Repository,
    Store, StoreOptions,
};
use rand::{Rng, RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;

use process::{MIB, bytes_under, cpu_seconds, memory_mib, mib};

fn main() {
    let asked: Vec<String> = std::env::args().skip(1).filter(|arg| !arg.starts_with("--")).collect();
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build();
    let runtime = runtime.expect("a runtime needs nothing special");
    let is_asked = |name: &str| asked.is_empty() || asked.iter().any(|asked| asked == name);
    if is_asked("rate") {
        runtime.block_on(rate());
    }
    if is_asked("latency") {
        runtime.block_on(latency());
    }
    if is_asked("churn") {
        runtime.block_on(churn());
    }
    if is_asked("memory") {
        runtime.block_on(memory());
    }
}

/// A store in a directory of its own, which goes with it.
struct Place {
    repository: Repository,
    _store: Store,
    directory: tempfile::TempDir,
}

impl Place {
    async fn new(directory: tempfile::TempDir, chunk_sizes: ChunkSizes) -> Self {
        let mut options = StoreOptions::in_memory("bench").expect("random bytes");
        options.location = Location::Directory(directory.path().join("store"));
        options.catalog = catalog::Location::Directory(directory.path().join("catalog"));
        options.options = Options::default();
        let first = NewRepository {
            chunk_sizes,
            ..NewRepository::named("bench").expect("a name")
        };
        let store = Store::open_or_create(options, first).await.expect("a store");
        let repository = store.repository("bench").await.expect("the repository");
        Self {
            repository,
            _store: store,
            directory,
        }
    }

    async fn on_disk() -> Self {
        Self::new(tempfile::tempdir().expect("a directory"), ChunkSizes::DEFAULT).await
    }

    async fn put(&self, name: &str, data: &[u8]) {
        let put = self.repository.put(name, data, PutOptions::default());
        put.await.expect("a put");
    }

    async fn delete(&self, name: &str) {
        let deleted = self.repository.delete(name, Precondition::None).await;
        assert!(deleted.expect("a delete"), "{name} was not there");
    }

    /// An object that goes, of which every other piece stays in another one: all packs are half garbage.
    async fn fill_half_with_garbage(&self, seed: u64, bytes: usize) {
        let all = noise(seed, bytes);
        let kept: Vec<u8> = all.chunks(MIB).step_by(2).flatten().copied().collect();
        self.put("goes", &all).await;
        self.put(&format!("stays {seed}"), &kept).await;
        self.delete("goes").await;
    }
}

/// A directory in memory where there is such a place.
fn in_memory() -> tempfile::TempDir {
    let memory = Path::new("/dev/shm");
    let made = if memory.is_dir() {
        tempfile::tempdir_in(memory)
    } else {
        tempfile::tempdir()
    };
    made.expect("a directory")
}

fn noise(seed: u64, len: usize) -> Vec<u8> {
    let mut bytes = vec![0; len];
    ChaCha8Rng::seed_from_u64(seed).fill_bytes(&mut bytes);
    bytes
}

async fn rate() {
    const BYTES: usize = 2048 * MIB;
    let place = Place::on_disk().await;
    place.fill_half_with_garbage(1, BYTES).await;
    let (start, cpu) = (Instant::now(), cpu_seconds());
    let progress = ReclaimProgress::default();
    let reclaim = place.repository.reclaim_watched(ReclaimOptions::default(), &progress);
    let reclaimed = reclaim.await.expect("a reclaim");
    let (seconds, cpu) = (start.elapsed().as_secs_f64(), cpu_seconds() - cpu);
    println!(
        "rate: {:.0} MiB moved, {:.0} MiB freed of {} packs in {seconds:.2} s: {:.0} MiB/s moved, {:.0} MiB/s freed, {cpu:.2} s of CPU",
        mib(progress.bytes()),
        mib(reclaimed.freed_bytes),
        reclaimed.packs_dropped,
        mib(progress.bytes()) / seconds,
        mib(reclaimed.freed_bytes) / seconds,
    );
}

async fn latency() {
    const ROUNDS: u64 = 4;
    const SPAN: Duration = Duration::from_secs(10);
    let place = Place::on_disk().await;
    let mut figures = [Vec::new(), Vec::new()];
    for round in 0..ROUNDS {
        place.fill_half_with_garbage(100 + round, 1024 * MIB).await;
        place.repository.release_deleted().await.expect("a release");
        for (beside, all) in figures.iter_mut().enumerate() {
            let stop = Arc::new(AtomicBool::new(false));
            let reclaiming = (beside == 1).then(|| {
                let (repository, stop) = (place.repository.clone(), stop.clone());
                tokio::spawn(async move {
                    let progress = ReclaimProgress::default();
                    tokio::select! {
                        done = repository.reclaim_watched(ReclaimOptions::default(), &progress) => drop(done.expect("a reclaim")),
                        () = stopped(&stop) => {}
                    }
                    (progress.phase(), progress.bytes(), progress.reclaimed().packs_dropped)
                })
            });
            let spans = small_puts(&place.repository, 2 * round + beside as u64, SPAN).await;
            stop.store(true, Ordering::Relaxed);
            let reclaimed = match reclaiming {
                Some(reclaiming) => Some(reclaiming.await.expect("the reclaim ends")),
                None => None,
            };
            println!(
                "latency, round {round}, {}: {} puts, p50 {:.2} ms, p99 {:.2} ms, p99.9 {:.2} ms{}",
                ["alone", "beside a reclaim"][beside],
                spans.len(),
                percentile(&spans, 0.5),
                percentile(&spans, 0.99),
                percentile(&spans, 0.999),
                match reclaimed {
                    Some((phase, moved, dropped)) =>
                        format!(", {:.0} MiB moved, {dropped} packs dropped, {phase:?}", mib(moved)),
                    None => String::new(),
                },
            );
            all.push(percentile(&spans, 0.99));
        }
    }
    let [alone, beside] = figures.map(|mut all| {
        all.sort_by(f64::total_cmp);
        (all[all.len() / 2 - 1] + all[all.len() / 2]) / 2.0
    });
    println!(
        "latency: median p99 alone {alone:.2} ms, beside a reclaim {beside:.2} ms: {:.2} times",
        beside / alone
    );
}

async fn stopped(stop: &AtomicBool) {
    while !stop.load(Ordering::Relaxed) {
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// Puts of 4 KiB by 16 callers, each waiting for its own; how long each took, in milliseconds, sorted.
async fn small_puts(repository: &Repository, seed: u64, span: Duration) -> Vec<f64> {
    const CALLERS: u64 = 16;
    let until = Instant::now() + span;
    let callers = (0..CALLERS).map(|caller| {
        let repository = repository.clone();
        tokio::spawn(async move {
            let mut rng = ChaCha8Rng::seed_from_u64(seed << 32 | caller);
            let mut spans = Vec::new();
            let mut data = vec![0; 4 << 10];
            while Instant::now() < until {
                rng.fill_bytes(&mut data);
                let name = format!("small {caller} {}", spans.len() % 500);
                let start = Instant::now();
                let put = repository.put(&name, data.as_slice(), PutOptions::default());
                put.await.expect("a put");
                spans.push(start.elapsed().as_secs_f64() * 1e3);
            }
            spans
        })
    });
    let mut all = Vec::new();
    for caller in callers.collect::<Vec<_>>() {
        all.extend(caller.await.expect("a caller ends"));
    }
    all.sort_by(f64::total_cmp);
    all
}

fn percentile(sorted: &[f64], part: f64) -> f64 {
    sorted[((sorted.len() - 1) as f64 * part) as usize]
}

async fn churn() {
    for (objects, len) in [(200, 4 * MIB), (20_000, 4 << 10), (100_000, 4 << 10)] {
        churn_of(objects, len).await;
    }
}

async fn churn_of(objects: u64, len: usize) {
    const ROUNDS: u64 = 20;
    let place = Place::on_disk().await;
    let mut schedule = ReclaimSchedule::new(10);
    let mut rng = ChaCha8Rng::seed_from_u64(5);
    let (mut moved, mut runs) = (0, 0);
    for round in 0..=ROUNDS {
        let replaced = if round == 0 { objects } else { objects / 10 };
        let names: Vec<u64> = match round {
            0 => (0..objects).collect(),
            _ => (0..replaced).map(|_| rng.random_range(0..objects)).collect(),
        };
        // As many at once as keep commits busy.
        for names in names.chunks(64) {
            let puts = names.iter().map(|name| {
                let data = noise(round << 32 | name, len);
                let place = &place;
                async move { place.put(&format!("object {name}"), &data).await }
            });
            futures::future::join_all(puts).await;
        }
        while let Some(options) = schedule.due(&place.repository).await.expect("totals") {
            let progress = ReclaimProgress::default();
            place
                .repository
                .reclaim_watched(options, &progress)
                .await
                .expect("a reclaim");
            schedule.ended(&place.repository, options).expect("totals");
            moved += progress.bytes();
            runs += 1;
        }
    }
    let status = place.repository.status().expect("totals");
    let stored = bytes_under(&place.directory.path().join("store"));
    // Noise is stored as it is, each chunk with a tag.
    let live = status.unique_bytes + 16 * status.chunks;
    println!(
        "churn of {objects} objects of {} KiB: {:.1} MiB in use, {:.1} MiB in the store: {:.3} times ({} packs); {runs} reclaims moved {:.0} MiB; catalog {:.1} MiB",
        len >> 10,
        mib(live),
        mib(stored),
        stored as f64 / live as f64,
        status.packs,
        mib(moved),
        mib(bytes_under(&place.directory.path().join("catalog"))),
    );
}

async fn memory() {
    for chunks in [1_000_000u64, 10_000_000] {
        // Half a kibibyte on average.
        let sizes = ChunkSizes::new(256, 512, 1024).expect("even and in order");
        let place = Place::new(in_memory(), sizes).await;
        const PIECES: u64 = 20;
        let len = (chunks * 512 / PIECES) as usize;
        for piece in 0..PIECES {
            place.put(&format!("piece {piece}"), &noise(piece, len)).await;
        }
        // Every second piece goes, and half of each that stays shares packs with nothing.
        for piece in (0..PIECES).step_by(2) {
            place.delete(&format!("piece {piece}")).await;
        }
        let counted = place.repository.status().expect("totals").chunks;
        reset_peak();
        let before = memory_mib("VmRSS:");
        let start = Instant::now();
        let reclaimed = place
            .repository
            .reclaim(ReclaimOptions::THOROUGH)
            .await
            .expect("a reclaim");
        println!(
            "memory: {counted} chunks in use of {chunks}: {:.0} MiB before, {:.0} MiB at most; {} packs dropped, {} of them rewritten, in {:.1} s",
            before,
            memory_mib("VmHWM:"),
            reclaimed.packs_dropped,
            reclaimed.packs_rewritten,
            start.elapsed().as_secs_f64(),
        );
    }
}

fn reset_peak() {
    // 5: the peak is what is there now.
    let _ = std::fs::write("/proc/self/clear_refs", "5");
}
