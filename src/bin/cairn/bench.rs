//! `cairn bench`: what this host allows, stage by stage, and how close the whole comes to it.

use std::fs::File;
use std::io::{self, Read, Write};
use std::num::NonZeroUsize;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use clap::Args;
use rustix::thread::{CpuSet, sched_getaffinity, sched_setaffinity};
use serde::Serialize;

use cairn_agent::catalog;
use cairn_agent::config::Size;
use cairn_agent::engine::measure::{Measured, Report, measure, measure_streams};
use cairn_agent::engine::{NewRepository, Store, StoreOptions};

use crate::failure::Failure;
use crate::output::{rate, size};
use crate::progress::Progress;
use crate::session::Session;

/// Where files of every kind are found on a machine that runs programs.
const SYSTEM_FILES: [&str; 3] = ["/usr/lib", "/usr/bin", "/usr/share"];

/// Measure every stage of the write and read paths alone and the whole, on this host
#[derive(Args)]
pub(crate) struct Bench {
    /// The data to measure with [default: files of the system, one after the other]
    #[arg(long, value_name = "FILE")]
    data: Option<PathBuf>,
    /// How much of it at most; held in memory
    #[arg(long, value_name = "SIZE", default_value = "512MiB")]
    size: Size,
    /// Where packs are written [default: /dev/shm if there is one, else the directory for temporary files]
    #[arg(long, value_name = "DIR")]
    dir: Option<PathBuf>,
    /// Rounds; the best of each figure is kept
    #[arg(long, value_name = "N", default_value = "3")]
    rounds: NonZeroUsize,
    /// Threads of the second run; the first has one
    #[arg(long, value_name = "N")]
    threads: Option<NonZeroUsize>,
}

#[derive(Serialize)]
struct View {
    bytes: u64,
    chunks: u64,
    new_chunks: u64,
    stored_bytes: u64,
    rounds: usize,
    runs: Vec<RunView>,
}

#[derive(Serialize)]
struct RunView {
    threads: usize,
    work: &'static str,
    stages: Vec<StageView>,
    /// None where no stages were measured.
    parts_bytes_per_second: Option<f64>,
    whole_bytes_per_second: f64,
    whole_of_parts: Option<f64>,
    /// Against one thread.
    scaling: f64,
}

#[derive(Serialize)]
struct StageView {
    name: &'static str,
    bytes_per_second: f64,
    share_of_parts: f64,
}

/// What is measured in one fresh store.
struct Round {
    report: Report,
    /// New data in two streams at once.
    streams: Measured,
}

impl Bench {
    pub(crate) async fn run(self, session: &Session) -> Result<(), Failure> {
        let progress = Progress::unmeasured("bench");
        let data = Arc::new(self.read_data()?);
        let dir = self.dir.clone().unwrap_or_else(fast_directory);
        let cpus = allowed_cpus()?;
        let many = self.threads.map_or(cpus.len(), NonZeroUsize::get).min(cpus.len());
        let rounds = self.rounds.get();
        let mut best: Vec<(usize, Round)> = Vec::new();
        for threads in if many > 1 { vec![1, many] } else { vec![1] } {
            let (data, dir, cpus) = (data.clone(), dir.clone(), cpus[..threads].to_vec());
            let work = move || on_cpus(&cpus, || best_of(rounds, threads, &data, &dir));
            let round = tokio::task::spawn_blocking(work)
                .await
                .map_err(|_| Failure::failed("the measurement panicked"))??;
            best.push((threads, round));
        }
        drop(progress);
        let view = View::new(rounds, &best);
        session.output().print(&view, |out| view.table(out))
    }

    fn read_data(&self) -> Result<Vec<u8>, Failure> {
        let limit = self.size.0;
        let mut data = Vec::new();
        match &self.data {
            Some(file) => append(file, limit, &mut data).map_err(|error| Failure::local("read", file, &error))?,
            None => SYSTEM_FILES
                .iter()
                .for_each(|root| append_tree(Path::new(root), limit, &mut data)),
        }
        if data.len() < 1 << 20 {
            return Err(Failure::usage(
                "there is less than 1 MiB to measure with; name a file with --data",
            ));
        }
        Ok(data)
    }
}

/// Appends a file, up to `limit` bytes in all.
fn append(file: &Path, limit: u64, data: &mut Vec<u8>) -> io::Result<()> {
    let room = limit.saturating_sub(data.len() as u64);
    File::open(file)?.take(room).read_to_end(data).map(drop)
}

/// Appends all regular files below a directory, by name. What cannot be read is passed over.
fn append_tree(directory: &Path, limit: u64, data: &mut Vec<u8>) {
    let Ok(entries) = std::fs::read_dir(directory) else {
        return;
    };
    let mut entries: Vec<_> = entries.flatten().collect();
    entries.sort_by_key(std::fs::DirEntry::file_name);
    for entry in entries {
        if data.len() as u64 >= limit {
            return;
        }
        match entry.file_type() {
            Ok(kind) if kind.is_dir() => append_tree(&entry.path(), limit, data),
            Ok(kind) if kind.is_file() => drop(append(&entry.path(), limit, data)),
            _ => {}
        }
    }
}

fn fast_directory() -> PathBuf {
    let memory = PathBuf::from("/dev/shm");
    if memory.is_dir() { memory } else { std::env::temp_dir() }
}

fn allowed_cpus() -> Result<Vec<usize>, Failure> {
    let set = sched_getaffinity(None).map_err(|error| Failure::failed(format!("cannot ask for the CPUs: {error}")))?;
    Ok((0..CpuSet::MAX_CPU).filter(|&cpu| set.is_set(cpu)).collect())
}

/// Runs `work` on a thread of its own that may use only `cpus`; so may every thread it starts. With one CPU, "one
/// thread" is all that runs: the runtime, the writer and the catalog share it.
fn on_cpus<T: Send>(cpus: &[usize], work: impl FnOnce() -> Result<T, Failure> + Send) -> Result<T, Failure> {
    let mut set = CpuSet::new();
    cpus.iter().for_each(|&cpu| set.set(cpu));
    std::thread::scope(|scope| {
        let thread = scope.spawn(|| {
            sched_setaffinity(None, &set)
                .map_err(|error| Failure::failed(format!("cannot keep to {} CPUs: {error}", cpus.len())))?;
            work()
        });
        thread.join().map_err(|_| Failure::failed("the measurement panicked"))?
    })
}

fn best_of(rounds: usize, threads: usize, data: &[u8], dir: &Path) -> Result<Round, Failure> {
    let mut best = once(threads, data, dir)?;
    for _ in 1..rounds {
        let round = once(threads, data, dir)?;
        best.report.best(&round.report);
        best.streams.best(&round.streams);
    }
    Ok(best)
}

/// One round in a fresh store, which goes afterwards.
fn once(threads: usize, data: &[u8], dir: &Path) -> Result<Round, Failure> {
    let place = Scratch::new(dir)?;
    let mut options = StoreOptions::in_memory("bench")?;
    options.location = cairn_agent::backend::Location::Directory(place.0.join("store"));
    options.catalog = catalog::Location::Directory(place.0.join("catalog"));
    options.options.compute_threads = NonZeroUsize::new(threads).unwrap_or(NonZeroUsize::MIN);
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(1)
        .enable_all()
        .build()
        .map_err(|error| Failure::failed(format!("the operating system gives no threads: {error}")))?;
    runtime.block_on(async {
        let store = Store::open_or_create(options, NewRepository::named("bench")?).await?;
        let repository = store.repository("bench").await?;
        let report = measure(&repository, data, threads).await?;
        let unknowing = store.create_repository(NewRepository::named("streams")?).await?;
        let streams = measure_streams(&unknowing, data, 2).await?;
        store.close().await;
        Ok(Round { report, streams })
    })
}

/// A directory that goes when it is dropped.
struct Scratch(PathBuf);

impl Scratch {
    fn new(dir: &Path) -> Result<Self, Failure> {
        let path = dir.join(format!("cairn-bench-{}", std::process::id()));
        std::fs::create_dir(&path).map_err(|error| Failure::local("create", &path, &error))?;
        Ok(Self(path))
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        // What is left is named after this process and lies where temporary things lie.
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

impl View {
    fn new(rounds: usize, best: &[(usize, Round)]) -> Self {
        let (_, Round { report: one, streams }) = &best[0];
        let mut runs = Vec::new();
        for (threads, Round { report, streams: both }) in best {
            runs.push(RunView::new(*threads, "first ingest", &report.first, &one.first));
            runs.push(RunView::new(*threads, "first ingest, two streams", both, streams));
            runs.push(RunView::new(*threads, "the same again", &report.again, &one.again));
            runs.push(RunView::new(*threads, "restore", &report.restore, &one.restore));
        }
        Self {
            bytes: one.first.bytes,
            chunks: one.chunks,
            new_chunks: one.new_chunks,
            stored_bytes: one.stored_bytes,
            rounds,
            runs,
        }
    }

    fn table(&self, out: &mut dyn Write) -> io::Result<()> {
        writeln!(
            out,
            "{} in {} chunks, {} new, stored {}; best of {} rounds, in memory",
            size(self.bytes),
            self.chunks,
            self.new_chunks,
            size(self.stored_bytes),
            self.rounds
        )?;
        for run in &self.runs {
            writeln!(
                out,
                "\n{}, {} thread{}",
                run.work,
                run.threads,
                if run.threads == 1 { "" } else { "s" }
            )?;
            if let Some(parts) = run.parts_bytes_per_second {
                for stage in &run.stages {
                    let share = stage.share_of_parts * 100.0;
                    let rate = rate(stage.bytes_per_second);
                    writeln!(out, "  {:<28} {rate:>12}  {share:5.1} %", stage.name)?;
                }
                writeln!(out, "  {:<28} {:>12}", "sum of the parts", rate(parts))?;
            }
            let whole = rate(run.whole_bytes_per_second);
            write!(out, "  {:<28} {whole:>12}", "whole")?;
            if let Some(of_parts) = run.whole_of_parts {
                write!(out, "  {:5.1} % of it", of_parts * 100.0)?;
            }
            match run.threads {
                1 => writeln!(out)?,
                _ => writeln!(out, "  {:.2} times one thread", run.scaling)?,
            }
        }
        Ok(())
    }
}

impl RunView {
    fn new(threads: usize, work: &'static str, measured: &Measured, one: &Measured) -> Self {
        let parts = measured.parts();
        let has_parts = !measured.stages.is_empty();
        Self {
            threads,
            work,
            stages: measured
                .stages
                .iter()
                .map(|stage| StageView {
                    name: stage.name,
                    bytes_per_second: measured.rate(stage.time),
                    share_of_parts: stage.time.as_secs_f64() / parts.as_secs_f64(),
                })
                .collect(),
            parts_bytes_per_second: has_parts.then(|| measured.rate(parts)),
            whole_bytes_per_second: measured.rate(measured.whole),
            whole_of_parts: has_parts.then(|| parts.as_secs_f64() / measured.whole.as_secs_f64()),
            scaling: one.whole.as_secs_f64() / measured.whole.as_secs_f64(),
        }
    }
}
