//! `cairn put`: a file or standard input becomes an object.

use std::ffi::OsString;
use std::fs::File;
use std::io::{self, IsTerminal, Read, Write};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use clap::Args;
use serde::Serialize;

use cairn_agent::engine::{ByteRange, Precondition, PutOptions, PutOutcome};

use crate::failure::{DAMAGED, Failure};
use crate::metered::{Metered, MeteredFile, SharedHasher};
use crate::output::{Field, fields, rate, size};
use crate::progress::Progress;
use crate::session::{Session, object_name};
use crate::target::{self, Repository, Store};

/// Store a file, or what comes on standard input, as an object
///
/// In a directory that holds no store yet, the store and its key file are made first.
#[derive(Args)]
pub(crate) struct Put {
    /// The object's name: 1 to 1024 bytes of UTF-8
    name: OsString,
    /// What to store; - or nothing is standard input
    file: Option<PathBuf>,
    /// Refuse if the object exists
    #[arg(long, conflicts_with = "if_version")]
    create_only: bool,
    /// Refuse unless the object is at this version
    #[arg(long, value_name = "N")]
    if_version: Option<u64>,
    /// Read the object back when it is stored and compare it with what was read
    #[arg(long)]
    verify: bool,
}

/// What is to be stored: open already, so that nothing is made in a store for a file that cannot be read.
struct Input {
    reader: Reader,
    bytes: Option<u64>,
    /// The same file, if it can be read twice.
    again: Option<File>,
}

/// Files from this length on are read in parts at once. Smaller ones gain nothing, and some of them, such as the kernel's, do not
/// know their length.
const PARTS_BYTES_MIN: u64 = 4 << 20;

enum Reader {
    File(File),
    StandardInput(io::Stdin),
}

impl Read for Reader {
    fn read(&mut self, target: &mut [u8]) -> io::Result<usize> {
        match self {
            Self::File(file) => file.read(target),
            Self::StandardInput(input) => input.read(target),
        }
    }
}

#[derive(Serialize)]
struct Stored {
    name: String,
    version: u64,
    bytes: u64,
    chunks: u64,
    new_chunks: u64,
    duplicate_chunks: u64,
    stored_bytes: u64,
    /// Eight hexadecimal digits.
    crc32c: String,
    seconds: f64,
    /// Present if it was asked for; a difference is a failure.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    verified: bool,
}

impl Put {
    pub(crate) async fn run(self, session: &Session) -> Result<(), Failure> {
        let name = object_name(&self.name)?;
        let input = open_input(self.file.as_deref(), name)?;
        let repository = session.repository_to_put().await?;

        let started = Instant::now();
        let hasher = self.verify.then(SharedHasher::default);
        let progress = Progress::bytes("put", input.bytes);
        let options = self.options(input.bytes);
        let source = target::Input {
            // Whoever hashes wants the bytes in their order.
            parts: match &input.again {
                Some(file) if hasher.is_none() && input.bytes.is_some_and(|bytes| bytes >= PARTS_BYTES_MIN) => {
                    let file = file.try_clone();
                    file.and_then(|file| MeteredFile::new(file, progress.counter())).ok()
                }
                _ => None,
            },
            reader: Metered::new(input.reader, progress.counter(), hasher.clone()),
            again: input.again,
        };
        let outcome = repository.put(name, source, options).await?;
        drop(progress);
        let seconds = started.elapsed();
        if let Some(hasher) = &hasher {
            read_back(&repository, &outcome, &hasher.value()).await?;
        }
        let stored = Stored::of(outcome, seconds, self.verify);
        let place = if session.output().is_table() {
            place(&session.store().await?, &repository).await
        } else {
            Vec::new()
        };
        session.output().print(&stored, |out| stored.table(out, place))
    }

    fn options(&self, expected_bytes: Option<u64>) -> PutOptions {
        let precondition = match self.if_version {
            Some(version) => Precondition::IfVersion(version),
            None if self.create_only => Precondition::CreateOnly,
            None => Precondition::None,
        };
        PutOptions {
            precondition,
            expected_bytes,
            ..PutOptions::default()
        }
    }
}

fn open_input(file: Option<&Path>, name: &str) -> Result<Input, Failure> {
    let Some(path) = file.filter(|path| *path != Path::new("-")) else {
        return standard_input();
    };
    let failed = |error: io::Error| Failure::local("read", path, &error);
    let file = File::open(path).map_err(failed)?;
    let metadata = file.metadata().map_err(failed)?;
    if metadata.is_dir() {
        let line = format!(
            "{path} is a directory; an object is one stream of bytes, so pack it: tar -C {path} -cf - . | cairn put {name}",
            path = path.display()
        );
        return Err(Failure::usage(line));
    }
    let is_file = metadata.is_file();
    Ok(Input {
        // A device or a pipe has no length worth showing.
        bytes: is_file.then_some(metadata.len()),
        again: if is_file { file.try_clone().ok() } else { None },
        reader: Reader::File(file),
    })
}

fn standard_input() -> Result<Input, Failure> {
    let input = io::stdin();
    if input.is_terminal() {
        let line = "standard input is a terminal; name a file, or send the bytes through a pipe";
        return Err(Failure::usage(line));
    }
    Ok(Input {
        reader: Reader::StandardInput(input),
        bytes: None,
        again: None,
    })
}

/// Compares what a reader gets now with what was put.
async fn read_back(repository: &Repository, outcome: &PutOutcome, put: &blake3::Hash) -> Result<(), Failure> {
    let name = &outcome.object.name;
    let progress = Progress::bytes("verify", Some(outcome.object.bytes));
    let counter = progress.counter();
    let mut reader = repository.get(name, ByteRange::All).await?;
    if reader.info().version != outcome.object.version {
        let line = format!("{name:?} was stored and overwritten by another put before it could be read back");
        return Err(Failure::failed(line));
    }
    let hasher = SharedHasher::default();
    while let Some(bytes) = reader.next().await? {
        hasher.update(&bytes);
        counter.add(bytes.len() as u64);
    }
    if hasher.value() != *put {
        let line =
            format!("{name:?} was stored but reads back different; do not rely on it, put it again and report this");
        return Err(Failure::new(DAMAGED, line));
    }
    Ok(())
}

/// How the store stands after the put. It is told for information: that it cannot be had does not undo the put.
async fn place(store: &Store, repository: &Repository) -> Vec<Field> {
    let mut place = Vec::new();
    if let Ok(status) = store.status().await {
        let free = status.capacity.free_bytes.map_or_else(|| "unlimited".to_owned(), size);
        place.push(("store", format!("{}, {free} free", status.mode.as_str())));
    }
    if let Ok(described) = repository.describe().await {
        let totals = described.totals;
        place.push(("packs", format!("{} in repository {}", totals.packs, totals.name)));
    }
    place
}

impl Stored {
    fn of(outcome: PutOutcome, elapsed: Duration, verified: bool) -> Self {
        let object = outcome.object;
        Self {
            version: object.version,
            bytes: object.bytes,
            chunks: object.chunks,
            new_chunks: outcome.new_chunks,
            duplicate_chunks: object.chunks.saturating_sub(outcome.new_chunks),
            stored_bytes: outcome.stored_bytes,
            crc32c: format!("{:08x}", object.crc32c),
            seconds: elapsed.as_secs_f64(),
            verified,
            name: object.name,
        }
    }

    fn table(&self, out: &mut dyn Write, place: Vec<Field>) -> io::Result<()> {
        let mut lines = vec![
            (
                "object",
                format!("{}, version {}", crate::output::printable(&self.name), self.version),
            ),
            ("bytes", format!("{}, {}", size(self.bytes), rate(self.rate() as f64))),
            (
                "chunks",
                format!(
                    "{}: {} new, {} duplicate",
                    self.chunks, self.new_chunks, self.duplicate_chunks
                ),
            ),
            ("stored", self.stored()),
        ];
        if self.verified {
            lines.push(("verified", "read back, identical".to_owned()));
        }
        lines.extend(place);
        fields(out, &lines)
    }

    fn rate(&self) -> u64 {
        (self.bytes as f64 / self.seconds.max(1e-6)) as u64
    }

    fn stored(&self) -> String {
        if self.bytes == 0 {
            return size(self.stored_bytes);
        }
        let share = 100.0 * self.stored_bytes as f64 / self.bytes as f64;
        format!("{}, {share:.1} % of what was put", size(self.stored_bytes))
    }
}
