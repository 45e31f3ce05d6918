//! Tables in a directory, on the `fjall` LSM tree.
//!
//! ```text
//! <directory>/cairn-catalog   marks the directory as ours, holds the lock and the pid of its holder
//! <directory>/tables/         the database
//! <directory>/tables.new/     a database whose creation has not ended
//! ```
//!
//! The marker is written before anything else, so a directory without it holds somebody else's files and is refused.
//! The lock is held on the marker rather than left to the database: its own names no holder, and it is taken too late to
//! clean up after a creation that was interrupted.
//!
//! All tables are one tree of the database, keys of each behind its number. Whenever a tree notes new files it syncs five
//! times, and nobody reads or writes it meanwhile: ten trees, each with a buffer of its own to fill, do so several times as
//! often as one that has the same memory.
//!
//! Memory: the block cache; up to five write buffers while writes run ahead of flushes (one fills, four wait), and those
//! written since a snapshot was opened or the last commit; and the filters, about 1.5 bytes a row, which stay in memory so
//! that looking up a chunk that is not there reads no disk. The buffer that fills is changed by the database's own thread:
//! while a compaction keeps that busy, it grows beyond its size.

use std::any::Any;
use std::collections::VecDeque;
use std::fs::{self, File, OpenOptions, TryLockError};
use std::io::{self, Read, Seek, Write};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{Builder, JoinHandle};
use std::time::{Duration, Instant};

use fjall::config::{BloomConstructionPolicy, FilterPolicy, FilterPolicyEntry, PartitioningPolicy, PinningPolicy};
use fjall::{AbstractTree, Database, Keyspace, KeyspaceCreateOptions, PersistMode, Readable};
use parking_lot::{Mutex, RwLock};

use super::error::Error;
use super::tables::{Batch, KeyValue, Reserve, Snapshot, Table, Tables, scan_range};
use super::{Limits, SCHEMA};

const MARKER: &str = "cairn-catalog";
const DATABASE: &str = "tables";
/// Where a database is made. The database's own creation can be interrupted in ways that it does not recover from, so it
/// gets its name when it is whole.
const DATABASE_NEW: &str = "tables.new";

/// The tree of all tables.
const ROWS: &str = "rows";

/// The database refuses less.
const JOURNAL_BYTES_MIN: u64 = 64 << 20;
/// A journal is read as a whole when the database is opened, at 100 to 150 MB/s: one that takes more is emptied when it is closed.
const JOURNAL_KEPT_BYTES: u64 = 8 << 20;
/// For so long closing waits until a journal can be emptied.
const CLOSING_FLUSH_WAIT: Duration = Duration::from_secs(5);
/// Small buffers give small files, and those give compactions.
const WRITE_BUFFER_BYTES_MIN: u64 = 1 << 20;
/// Files of tables kept open; the rest of a process's descriptors are for the store and its clients.
const OPEN_FILES_MAX: usize = 128;

/// Tables that live in a directory.
///
/// The database stops for good when a write fails, whoever needed it: a commit, or a flush or compaction in the
/// background. It is then opened anew here, at the next commit and whenever somebody asks whether it is ready. Until there
/// is room for that, the stopped one goes on being read.
pub struct EmbeddedTables {
    inner: Arc<Inner>,
}

struct Inner {
    /// Read for the time of one access, written while the database is opened anew.
    state: RwLock<State>,
    /// Since the first failure, until the database is open anew.
    stop: Mutex<Option<Stop>>,
    /// Set when little room is left, until there is twice as much.
    is_low: AtomicBool,
    limits: Limits,
    reserve: Option<Arc<dyn Reserve>>,
    /// Dropped last: whoever gets the lock next finds the database closed.
    marker: Marker,
}

struct State {
    /// None if it was closed and could not be opened again.
    open: Option<Open>,
    /// Counts openings.
    generation: u64,
}

struct Open {
    rows: Keyspace,
    database: Database,
    buffers: WriteBuffers,
}

/// The buffer that fills and those before it that the tree still has. It lets go of one while it keeps everybody out, and to
/// drop one, a row at a time, takes some ten milliseconds: so each is held here as well, and dropped where nobody waits,
/// with the next commit.
#[derive(Default)]
struct WriteBuffers {
    newest_last: Mutex<VecDeque<Arc<dyn Any + Send + Sync>>>,
    dropping: Mutex<Option<JoinHandle<()>>>,
}

impl WriteBuffers {
    /// This one has filled since the last was noted. Of two commits at the same time, the later may come with the older one.
    fn note(&self, filling: Arc<dyn Any + Send + Sync>) {
        let mut written = Vec::new();
        let mut buffers = self.newest_last.lock();
        if !buffers.iter().any(|known| Arc::ptr_eq(known, &filling)) {
            buffers.push_back(filling);
        }
        // Where it is the only one, nobody can get another.
        while buffers.len() > 1 && Arc::strong_count(&buffers[0]) == 1 {
            written.extend(buffers.pop_front());
        }
        drop(buffers);
        if written.is_empty() {
            return;
        }
        let mut dropping = self.dropping.lock();
        // While the thread is at it still, writes are ahead of it, and dropping more is theirs: otherwise memory would grow.
        if dropping.as_ref().is_none_or(JoinHandle::is_finished) {
            *dropping = Builder::new()
                .name("cairn-catalog".to_owned())
                .spawn(|| drop(written))
                .ok();
        }
    }
}

/// Why nothing is accepted.
struct Stop {
    line: String,
    is_full: bool,
    tried_at: Option<Instant>,
}

/// Time between two attempts to open the database anew.
const REOPEN_SPACING: Duration = Duration::from_millis(500);
/// Room without which the database is not opened anew: it would stop again, and could perhaps not be read until then.
const REOPEN_BYTES_MIN: u64 = 256 << 10;
/// What a commit takes beside its rows, and what goes with the files of a flush.
const SLACK_BYTES: u64 = 256 << 10;

impl EmbeddedTables {
    /// Opens the tables in `directory`, creating it and them if they do not exist.
    ///
    /// The size of write buffers is fixed at creation, the other limits hold from each open on.
    pub fn open(directory: &Path, limits: &Limits) -> Result<Self, Error> {
        Self::open_beside(directory, limits, None)
    }

    /// As [`open`](Self::open), with what keeps room back on this file system.
    pub fn open_beside(directory: &Path, limits: &Limits, reserve: Option<Arc<dyn Reserve>>) -> Result<Self, Error> {
        let make_room = |bytes| reserve.iter().for_each(|reserve| reserve.make_room(bytes));
        make_room(SLACK_BYTES);
        let marker = Marker::acquire(directory)?;
        let path = directory.join(DATABASE);
        if !path.try_exists()? {
            create_database(&directory.join(DATABASE_NEW), &path, limits)?;
        }
        let open = open_database(&path, limits)?;
        Ok(Self {
            inner: Arc::new(Inner {
                state: RwLock::new(State {
                    open: Some(open),
                    generation: 0,
                }),
                stop: Mutex::default(),
                is_low: AtomicBool::new(false),
                limits: limits.clone(),
                reserve,
                marker,
            }),
        })
    }
}

impl Inner {
    /// Does something with the open database; also says which one it was.
    fn with<T>(&self, access: impl FnOnce(&Open) -> Result<T, Error>) -> (u64, Result<T, Error>) {
        let state = self.state.read();
        let result = match &state.open {
            Some(open) => access(open),
            None => Err(self.stopped()),
        };
        (state.generation, result)
    }

    /// Does something that may stop the database, once more if it did and can be opened anew: with the same outcome as once.
    fn with_writing<T>(&self, write: impl Fn(&Open) -> Result<T, Error>) -> Result<T, Error> {
        match self.with(&write) {
            (generation, Err(error)) if error.stops() => {
                self.note(&error);
                self.open_anew(generation)?;
                let (_, again) = self.with(&write);
                again.inspect_err(|error| self.note(error))
            }
            (_, result) => result,
        }
    }

    /// Opens the database anew, if nobody has done so since it was of this `generation`.
    fn open_anew(&self, generation: u64) -> Result<(), Error> {
        let mut state = self.state.write();
        if state.generation != generation {
            return Ok(());
        }
        if !self.may_try() {
            return Err(self.stopped());
        }
        self.make_room(SLACK_BYTES + state.open.as_ref().map_or(0, Open::buffered_bytes));
        if self.available().is_some_and(|available| available < REOPEN_BYTES_MIN) {
            return Err(self.stopped());
        }
        // It holds a lock until the last part of it is dropped: nobody keeps any of it beyond an access.
        state.open = None;
        match open_database(&self.marker.directory.join(DATABASE), &self.limits) {
            Ok(open) => {
                state.open = Some(open);
                state.generation += 1;
                *self.stop.lock() = None;
                tracing::warn!("the catalog stopped after a failed write and was opened anew");
                Ok(())
            }
            Err(error) => {
                self.note(&error);
                Err(error)
            }
        }
    }

    /// Whether it is time to open the database anew. Whoever is told so has to try.
    fn may_try(&self) -> bool {
        let mut stop = self.stop.lock();
        let Some(stop) = stop.as_mut() else {
            return true;
        };
        if stop.tried_at.is_some_and(|at| at.elapsed() < REOPEN_SPACING) {
            return false;
        }
        stop.tried_at = Some(Instant::now());
        true
    }

    /// Remembers why the database stopped: the first failure says it, what follows only says that it has.
    fn note(&self, error: &Error) {
        let is_short = || self.available().is_some_and(|available| available < SLACK_BYTES);
        let is_full = error.is_want_of_room() || (matches!(error, Error::Stopped) && is_short());
        let line = match error {
            Error::NoSpace { source } => source.to_string(),
            other => other.to_string(),
        };
        let mut stop = self.stop.lock();
        match stop.as_mut() {
            Some(stop) if matches!(error, Error::Stopped) => stop.is_full |= is_full,
            Some(stop) => (stop.line, stop.is_full) = (line, is_full),
            None => {
                tracing::error!(%error, "the catalog stopped");
                *stop = Some(Stop {
                    line,
                    is_full,
                    tried_at: None,
                });
            }
        }
    }

    fn stopped(&self) -> Error {
        match &*self.stop.lock() {
            Some(stop) if stop.is_full => Error::NoSpace {
                source: io::Error::new(io::ErrorKind::StorageFull, stop.line.clone()),
            },
            _ => Error::Stopped,
        }
    }

    fn make_room(&self, bytes: u64) {
        if let Some(reserve) = &self.reserve {
            reserve.make_room(bytes);
        }
    }

    /// Bytes that can be written on this file system, if it says so.
    fn available(&self) -> Option<u64> {
        let stat = rustix::fs::statvfs(&self.marker.directory).ok()?;
        Some(stat.f_bavail.saturating_mul(stat.f_frsize))
    }

    /// Whether a file system that is the catalog's alone gets full: what is not flushed yet, or two write buffers, have to
    /// find room there, on a small one a twentieth of it. Left at twice that.
    fn is_low(&self) -> bool {
        if self.reserve.is_some() {
            // Whoever keeps that one also says how full it is.
            return false;
        }
        let Ok(stat) = rustix::fs::statvfs(&self.marker.directory) else {
            return false;
        };
        let total = stat.f_blocks.saturating_mul(stat.f_frsize);
        let enter = (2 * self.limits.write_buffer_bytes.max(WRITE_BUFFER_BYTES_MIN)).min(total / 20);
        let was_low = self.is_low.load(Ordering::Relaxed);
        let is_low = stat.f_bavail.saturating_mul(stat.f_frsize) < if was_low { 2 * enter } else { enter };
        self.is_low.store(is_low, Ordering::Relaxed);
        is_low
    }
}

impl Drop for Inner {
    fn drop(&mut self) {
        let Some(open) = self.state.get_mut().open.take() else {
            return;
        };
        let path = self.marker.directory.join(DATABASE);
        let journal = match self.stop.get_mut() {
            None => long_journal(&path),
            // What is in its journal may be all that there is.
            Some(_) => None,
        };
        let Some(journal) = journal else { return };
        self.make_room(SLACK_BYTES + open.buffered_bytes());
        let is_flushed = open.flush();
        drop(open);
        if is_flushed && let Err(error) = empty(&journal) {
            tracing::warn!(path = %journal.display(), %error, "the journal of the catalog could not be emptied; it is read at the next start");
        }
    }
}

impl Open {
    /// Writes what is in memory to tables, durably; whether that was done for all of it. To be called when nobody else can write.
    fn flush(&self) -> bool {
        let tree = &self.rows.tree;
        if self.rows.rotate_memtable().is_err() {
            return false;
        }
        let start = Instant::now();
        loop {
            if tree.active_memtable().is_empty() && tree.sealed_memtable_count() == 0 {
                return true;
            }
            // The worker that flushes says nothing when it ends early, but nothing can be written from then on.
            let has_stopped = self.database.persist(PersistMode::Buffer).is_err();
            if has_stopped || start.elapsed() > CLOSING_FLUSH_WAIT {
                return false;
            }
            std::thread::park_timeout(Duration::from_millis(1));
        }
    }

    /// Bytes that the next flushes write.
    fn buffered_bytes(&self) -> u64 {
        self.database.write_buffer_size()
    }

    fn commit(&self, batch: &Batch) -> Result<(), Error> {
        let changes = batch.changes();
        let mut write = fjall::OwnedWriteBatch::with_capacity(self.database.clone(), changes.len())
            .durability(Some(PersistMode::Buffer));
        for ((table, key), value) in changes {
            match value {
                Some(value) => write.insert(&self.rows, tree_key(*table, key), value.as_slice()),
                None => write.remove(&self.rows, tree_key(*table, key)),
            }
        }
        write.commit()?;
        self.buffers.note(self.rows.tree.active_memtable());
        Ok(())
    }
}

impl Tables for EmbeddedTables {
    fn get(&self, table: Table, key: &[u8]) -> Result<Option<Vec<u8>>, Error> {
        // A keyspace's own get sees a batch that is just being applied in part; a snapshot does not.
        let found = |open: &Open| get(&open.database.snapshot(), &open.rows, table, key);
        self.inner.with(found).1
    }

    fn scan(&self, table: Table, prefix: &[u8], after: Option<&[u8]>, limit: usize) -> Result<Vec<KeyValue>, Error> {
        let rows = |open: &Open| scan(&open.database.snapshot(), &open.rows, table, prefix, after, limit);
        self.inner.with(rows).1
    }

    fn commit(&self, batch: Batch) -> Result<(), Error> {
        if self.inner.reserve.is_some() {
            let (_, buffered) = self.inner.with(|open| Ok(open.buffered_bytes()));
            // Rows are written to the journal now and flushed later; what is flushed with them is waiting already.
            self.inner
                .make_room(SLACK_BYTES + 2 * batch.bytes() + buffered.unwrap_or(0));
        }
        self.inner.with_writing(|open| open.commit(&batch))
    }

    fn snapshot(&self) -> Box<dyn Snapshot> {
        let (generation, snapshot) = self.inner.with(|open| Ok(open.database.snapshot()));
        Box::new(Moment {
            inner: self.inner.clone(),
            generation,
            snapshot: snapshot.ok(),
        })
    }

    fn persist(&self) -> Result<(), Error> {
        let persist = |open: &Open| Ok(open.database.persist(PersistMode::SyncAll)?);
        match self.inner.with(persist) {
            // It had stopped before: nothing was tried.
            (_, Err(Error::Stopped)) => self.inner.with_writing(persist),
            // What an fsync failed for may be gone from memory, and another one know nothing of it: so not twice in a row.
            (_, result) => result.inspect_err(|error| self.inner.note(error)),
        }
    }

    fn disk_bytes(&self) -> Result<u64, Error> {
        Ok(allocated_bytes(&self.inner.marker.directory)?)
    }

    fn ready(&self) -> Result<(), Error> {
        // Writes nothing, and fails once the database has stopped.
        self.inner
            .with_writing(|open| Ok(open.database.persist(PersistMode::Buffer)?))
    }

    fn trouble(&self) -> Option<Error> {
        if self.inner.stop.lock().is_some() {
            return Some(self.inner.stopped());
        }
        self.inner.is_low().then(|| Error::NoSpace {
            source: io::Error::new(io::ErrorKind::StorageFull, "its file system is nearly full"),
        })
    }
}

/// The tables at one moment. Holds nothing that would keep the database open.
struct Moment {
    inner: Arc<Inner>,
    generation: u64,
    snapshot: Option<fjall::Snapshot>,
}

impl Moment {
    fn with<T>(&self, read: impl FnOnce(&Open, &fjall::Snapshot) -> Result<T, Error>) -> Result<T, Error> {
        let state = self.inner.state.read();
        match (&state.open, &self.snapshot) {
            (Some(open), Some(snapshot)) if state.generation == self.generation => read(open, snapshot),
            _ => Err(Error::Stopped),
        }
    }
}

impl Snapshot for Moment {
    fn get(&self, table: Table, key: &[u8]) -> Result<Option<Vec<u8>>, Error> {
        self.with(|open, snapshot| get(snapshot, &open.rows, table, key))
    }

    fn scan(&self, table: Table, prefix: &[u8], after: Option<&[u8]>, limit: usize) -> Result<Vec<KeyValue>, Error> {
        self.with(|open, snapshot| scan(snapshot, &open.rows, table, prefix, after, limit))
    }
}

/// The key of a table's row in the tree of all.
fn tree_key(table: Table, key: &[u8]) -> Vec<u8> {
    [&[table as u8], key].concat()
}

fn get(snapshot: &fjall::Snapshot, rows: &Keyspace, table: Table, key: &[u8]) -> Result<Option<Vec<u8>>, Error> {
    Ok(snapshot.get(rows, tree_key(table, key))?.map(|value| value.to_vec()))
}

fn scan(
    snapshot: &fjall::Snapshot,
    rows: &Keyspace,
    table: Table,
    prefix: &[u8],
    after: Option<&[u8]>,
    limit: usize,
) -> Result<Vec<KeyValue>, Error> {
    let after = after.map(|after| tree_key(table, after));
    let Some(range) = scan_range(&tree_key(table, prefix), after.as_deref()) else {
        return Ok(Vec::new());
    };
    snapshot
        .range(rows, range)
        .take(limit)
        .map(|row| {
            let (key, value) = row.into_inner()?;
            Ok((key[1..].to_vec(), value.to_vec()))
        })
        .collect()
}

/// Makes the database at `fresh`, after whatever an interruption left there, and moves it to `path`.
fn create_database(fresh: &Path, path: &Path, limits: &Limits) -> Result<(), Error> {
    match fs::remove_dir_all(fresh) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error.into()),
        _ => {}
    }
    let open = open_tables(fresh, limits)?;
    open.database.persist(PersistMode::SyncAll)?;
    drop(open);
    Ok(fs::rename(fresh, path)?)
}

fn open_database(path: &Path, limits: &Limits) -> Result<Open, Error> {
    check_database_files(path)?;
    open_tables(path, limits)
}

fn open_tables(path: &Path, limits: &Limits) -> Result<Open, Error> {
    // Damage that its checksums do not cover makes the database panic while it opens.
    let opened = std::panic::catch_unwind(|| {
        Database::builder(path)
            .cache_size(limits.cache_bytes)
            .max_journaling_size(limits.journal_bytes.max(JOURNAL_BYTES_MIN))
            .max_cached_files(Some(OPEN_FILES_MAX))
            .worker_threads(1)
            .open()
    });
    let database = opened.map_err(|_| Error::Damaged {
        problem: "its files do not fit together".to_owned(),
    })??;
    let trees = database.keyspace_count();
    if trees > 1 || (trees == 1 && !database.keyspace_exists(ROWS)) {
        return Err(Error::Schema {
            found: 1,
            known: SCHEMA,
        });
    }
    Ok(Open {
        rows: database.keyspace(ROWS, || tree_options(limits))?,
        database,
        buffers: WriteBuffers::default(),
    })
}

/// Refuses what the database would abort the process over.
fn check_database_files(path: &Path) -> Result<(), Error> {
    // Without it the database takes the directory for a new one.
    fs::metadata(path.join("version")).map_err(|error| damaged(&error))?;
    for entry in fs::read_dir(path.join("keyspaces")).map_err(|error| damaged(&error))? {
        let name = entry?.file_name();
        let is_table = name.to_str().is_some_and(|name| name.parse::<u64>().is_ok());
        if !is_table {
            return Err(Error::Damaged {
                problem: format!("a foreign file {name:?} among its tables"),
            });
        }
    }
    Ok(())
}

/// The journal of the database if there is one only, and it is long. Others are kept until what they say is in tables.
fn long_journal(path: &Path) -> Option<PathBuf> {
    let files = fs::read_dir(path).ok()?.flatten().map(|entry| entry.path());
    let mut journals = files.filter(|path| path.extension().is_some_and(|end| end == "jnl"));
    let (journal, other) = (journals.next()?, journals.next());
    // It is allocated sparsely, so its length says nothing.
    let bytes = fs::metadata(&journal).ok()?.blocks() * BLOCK_BYTES;
    (other.is_none() && bytes > JOURNAL_KEPT_BYTES).then_some(journal)
}

/// Empties a journal. It stays: where there is none the database begins to number writes anew.
fn empty(journal: &Path) -> io::Result<()> {
    let journal = OpenOptions::new().write(true).open(journal)?;
    journal.set_len(0)?;
    journal.sync_all()
}

fn damaged(error: &io::Error) -> Error {
    Error::Damaged {
        problem: error.to_string(),
    }
}

fn tree_options(limits: &Limits) -> KeyspaceCreateOptions {
    KeyspaceCreateOptions::default()
        // Indexes come in parts: whole, that of a file of 64 MiB takes most of a MiB, and a lookup would push a fortieth of
        // the cache out of it.
        .index_block_partitioning_policy(PartitioningPolicy::all(true))
        // Most chunks looked up are new: the filters of all levels stay in memory, whole, and are finer than usual, since
        // each false hit is a read from disk.
        .filter_policy(FilterPolicy::new([
            FilterPolicyEntry::Bloom(BloomConstructionPolicy::FalsePositiveRate(0.0001)),
            FilterPolicyEntry::Bloom(BloomConstructionPolicy::BitsPerKey(12.0)),
        ]))
        .filter_block_pinning_policy(PinningPolicy::all(true))
        .filter_block_partitioning_policy(PartitioningPolicy::all(false))
        .max_memtable_size(limits.write_buffer_bytes.max(WRITE_BUFFER_BYTES_MIN))
}

/// The file that makes a directory a catalog, locked while it is in use.
struct Marker {
    /// Holds the lock.
    file: File,
    directory: PathBuf,
}

impl Drop for Marker {
    fn drop(&mut self) {
        // Closing alone would leave the lock to a process that is being started at this moment: until that executes its program
        // it has this file open too.
        let _ = self.file.unlock();
    }
}

impl Marker {
    fn acquire(directory: &Path) -> Result<Self, Error> {
        Self::try_acquire(directory).map_err(|error| match error {
            Error::Io { source } => Error::Unwritable {
                path: directory.to_owned(),
                source,
            },
            other => other,
        })
    }

    fn try_acquire(directory: &Path) -> Result<Self, Error> {
        fs::create_dir_all(directory)?;
        refuse_foreign(directory)?;
        let mut file = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .open(directory.join(MARKER))?;
        match file.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => {
                return Err(Error::Held {
                    path: directory.to_owned(),
                    pid: read_pid(&mut file),
                });
            }
            Err(TryLockError::Error(source)) => return Err(source.into()),
        }
        // A full file system must not keep anybody from starting to free it. The pid is only a courtesy.
        let _ = write_pid(&mut file);
        Ok(Self {
            file,
            directory: directory.to_owned(),
        })
    }
}

/// Refuses a directory that holds something and no marker.
fn refuse_foreign(directory: &Path) -> Result<(), Error> {
    for entry in fs::read_dir(directory)? {
        let found = entry?.file_name();
        // What a new filesystem holds at its root says nothing about who uses it.
        if found == "lost+found" || directory.join(MARKER).try_exists()? {
            continue;
        }
        return Err(Error::Foreign {
            path: directory.to_owned(),
            found: found.to_string_lossy().into_owned(),
        });
    }
    Ok(())
}

fn read_pid(file: &mut File) -> Option<u32> {
    let mut text = String::new();
    file.take(16).read_to_string(&mut text).ok()?;
    text.trim().parse().ok()
}

fn write_pid(file: &mut File) -> io::Result<()> {
    file.set_len(0)?;
    file.rewind()?;
    writeln!(file, "{}", std::process::id())
}

/// The unit of `st_blocks`.
const BLOCK_BYTES: u64 = 512;

/// What the files below a directory take. Journals are allocated sparsely, so their lengths would say too much.
fn allocated_bytes(directory: &Path) -> io::Result<u64> {
    let mut total = 0;
    for entry in fs::read_dir(directory)? {
        let entry = entry?;
        // Flushes and compactions remove files at any time.
        let Ok(metadata) = entry.metadata() else {
            continue;
        };
        total += metadata.blocks() * BLOCK_BYTES;
        if metadata.is_dir() {
            total += match allocated_bytes(&entry.path()) {
                Err(error) if error.kind() == io::ErrorKind::NotFound => 0,
                below => below?,
            };
        }
    }
    Ok(total)
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;

    use super::*;

    /// Tells the name of the thread that drops it.
    struct Told(mpsc::Sender<Option<String>>);

    impl Drop for Told {
        fn drop(&mut self) {
            let _ = self.0.send(std::thread::current().name().map(str::to_owned));
        }
    }

    #[test]
    fn a_written_buffer_is_dropped_in_the_background_once_nobody_else_has_it() {
        let (sender, dropped) = mpsc::channel();
        let buffers = WriteBuffers::default();
        let [first, second, third] = [0; 3].map(|_| Arc::new(Told(sender.clone())));
        for active in [&first, &first, &second] {
            buffers.note(active.clone());
        }
        drop(first);
        assert!(dropped.try_recv().is_err(), "the first one is kept");
        buffers.note(second.clone());
        assert_eq!(buffers.newest_last.lock().len(), 1, "one buffer is noted once");
        let thread = dropped.recv_timeout(Duration::from_secs(60)).unwrap();
        assert_eq!(thread.as_deref(), Some("cairn-catalog"));
        for active in [&third, &second, &third] {
            buffers.note(active.clone());
        }
        assert_eq!(buffers.newest_last.lock().len(), 2, "somebody has the second one");
        drop((second, third));
        buffers.note(Arc::new(Told(sender.clone())));
        let left = buffers.newest_last.lock().len();
        assert_eq!(left, 1, "all but the one that fills");
    }
}
