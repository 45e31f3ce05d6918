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
//! Memory: the block cache; the write buffers, of which one fills, and while writes run ahead of flushes three wait, each of up
//! to twice its size; those written since a snapshot was opened or the last commit; and the filters, about 1.5 bytes a
//! row, which stay in memory so that looking up a chunk that is not there reads no disk.

use std::fs::{self, File, OpenOptions, TryLockError};
use std::io::{self, Read, Seek, Write};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::Builder;
use std::time::{Duration, Instant};

use fjall::config::{BloomConstructionPolicy, FilterPolicy, FilterPolicyEntry, PartitioningPolicy, PinningPolicy};
use fjall::{AbstractTree, Database, Keyspace, KeyspaceCreateOptions, PersistMode, Readable, Slice};
use parking_lot::{Mutex, RwLock};

use super::buffers::WriteBuffers;
use super::error::Error;
use super::tables::{Batch, KeyValue, Reserve, Snapshot, Table, Tables, scan_range};
use super::{Limits, SCHEMA, give_way};

const MARKER: &str = "cairn-catalog";
const DATABASE: &str = "tables";
/// Where a database is made. The database's own creation can be interrupted in ways that it does not recover from, so it
/// gets its name when it is whole.
const DATABASE_NEW: &str = "tables.new";

/// The tree of all tables.
const ROWS: &str = "rows";

/// Longer keys have memory of their own, which each comparison goes to.
const KEY_LEN_IN_PLACE: usize = 20;

/// The database refuses less.
const JOURNAL_BYTES_MIN: u64 = 64 << 20;
/// A journal is read as a whole when the database is opened, at 100 to 150 MB/s: one that takes more is emptied when it is closed.
const JOURNAL_KEPT_BYTES: u64 = 8 << 20;
/// For so long closing waits until a journal can be emptied.
const CLOSING_FLUSH_WAIT: Duration = Duration::from_secs(5);
/// Small buffers give small files, and those give compactions.
const WRITE_BUFFER_BYTES_MIN: u64 = 1 << 20;
/// Full buffers that wait for their flush. With one more the database keeps whoever commits until one is flushed, though it
/// be for ever, since it has stopped.
const WAITING_BUFFERS_MAX: usize = 3;
/// While so many do, catalogs are ready after so long.
const BEHIND_WAIT: Duration = Duration::from_millis(50);
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
    /// Dropped first: its thread may hold the others.
    buffers: WriteBuffers,
    rows: Keyspace,
    database: Database,
    path: PathBuf,
    /// Held by whoever begins the next buffer.
    begins: Arc<Mutex<()>>,
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
    /// The limits hold from each open on.
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

    /// Whether a file system that is the catalog's alone gets full: two write buffers, or what is not flushed yet and
    /// one more, have to find room there, on a small one a twentieth of it. Left at twice that.
    fn is_low(&self) -> bool {
        if self.reserve.is_some() {
            // Whoever keeps that one also says how full it is.
            return false;
        }
        let Ok(stat) = rustix::fs::statvfs(&self.marker.directory) else {
            return false;
        };
        let total = stat.f_blocks.saturating_mul(stat.f_frsize);
        let buffer = write_buffer_bytes(&self.limits);
        let (_, buffered) = self.with(|open| Ok(open.buffered_bytes()));
        let enter = (2 * buffer).max(buffer + buffered.unwrap_or(0)).min(total / 20);
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

    /// Waits while flushes are behind, for up to `most` and while memory has no room: the thread that flushes gets the processor
    /// when others leave it to it.
    fn wait_for_flushes(&self, most: Duration) {
        let tree = &self.rows.tree;
        let is_behind = |waited| {
            let waiting_buffers = tree.sealed_memtable_count();
            let is_overfull = || self.buffers.is_overfull(tree.active_memtable().size());
            waiting_buffers >= WAITING_BUFFERS_MAX && (waited < most || is_overfull())
        };
        // A database that has stopped flushes no more.
        wait_while(is_behind, || self.database.persist(PersistMode::Buffer).is_ok());
    }

    fn commit(&self, batch: &Batch) -> Result<(), Error> {
        // Those who write much are kept by `ready`, where they hold nothing that others wait for.
        self.wait_for_flushes(Duration::ZERO);
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
        let filling = self.rows.tree.active_memtable();
        let (id, bytes) = (filling.id(), filling.size());
        let next = NextBuffer {
            rows: self.rows.clone(),
            begins: self.begins.clone(),
            after: id,
        };
        let (beside, path) = (next.clone(), self.path.clone());
        let begin_next = move || {
            if beside.is_due() {
                sync_journal(&path);
                beside.begin();
            }
        };
        if self.buffers.note(filling, bytes, begin_next) {
            next.begin();
        }
        Ok(())
    }
}

/// The write buffer after the one with an id.
#[derive(Clone)]
struct NextBuffer {
    rows: Keyspace,
    begins: Arc<Mutex<()>>,
    after: u64,
}

impl NextBuffer {
    /// Whether it has not begun, and not too many wait already.
    fn is_due(&self) -> bool {
        let tree = &self.rows.tree;
        tree.active_memtable().id() == self.after && tree.sealed_memtable_count() < WAITING_BUFFERS_MAX
    }

    fn begin(&self) {
        // The database would begin one after whichever is the newest by now.
        let _begins = self.begins.lock();
        // If the database has stopped, the next commit tells.
        if self.is_due()
            && let Err(error) = self.rows.rotate_memtable()
        {
            tracing::warn!(%error, "the catalog could not begin another write buffer");
        }
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
        self.inner.with_writing(|open| {
            open.wait_for_flushes(BEHIND_WAIT);
            // Writes nothing, and fails once the database has stopped.
            Ok(open.database.persist(PersistMode::Buffer)?)
        })
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
fn tree_key(table: Table, key: &[u8]) -> Slice {
    // What the database keeps in place is made in place.
    let mut short = [table as u8; KEY_LEN_IN_PLACE];
    match short.get_mut(1..=key.len()) {
        Some(rest) => {
            rest.copy_from_slice(key);
            Slice::from(&short[..=key.len()])
        }
        None => Slice::from([&[table as u8], key].concat()),
    }
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
    let open = || {
        // The thread that flushes and compacts is started here, and inherits it.
        give_way();
        Database::builder(path)
            .cache_size(limits.cache_bytes)
            .max_journaling_size(limits.journal_bytes.max(JOURNAL_BYTES_MIN))
            .max_cached_files(Some(OPEN_FILES_MAX))
            .worker_threads(1)
            .open()
    };
    // Damage that its checksums do not cover makes the database panic while it opens.
    let opened = std::thread::scope(|scope| {
        let thread = Builder::new()
            .name("cairn-catalog".to_owned())
            .spawn_scoped(scope, open)?;
        Ok::<_, io::Error>(thread.join())
    })?;
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
        buffers: WriteBuffers::new(write_buffer_bytes(limits)),
        rows: database.keyspace(ROWS, tree_options)?,
        database,
        path: path.to_owned(),
        begins: Arc::default(),
    })
}

/// Waits while something `is_behind`, told for how long so far, and `is_alive`.
fn wait_while(is_behind: impl Fn(Duration) -> bool, is_alive: impl Fn() -> bool) {
    let start = Instant::now();
    while is_behind(start.elapsed()) && is_alive() {
        std::thread::park_timeout(Duration::from_millis(1));
    }
}

/// Syncs what was written to the journal, so that the flush, which keeps everybody out while it syncs, has little left to.
fn sync_journal(path: &Path) {
    let number = |path: &PathBuf| path.file_stem()?.to_str()?.parse::<u64>().ok();
    if let Some(newest) = journals(path).max_by_key(number) {
        // A failure is for whoever relies on it: the database's own handle of the file is told as well.
        let _ = File::open(newest).and_then(|journal| journal.sync_data());
    }
}

fn journals(path: &Path) -> impl Iterator<Item = PathBuf> {
    let files = fs::read_dir(path)
        .into_iter()
        .flatten()
        .flatten()
        .map(|entry| entry.path());
    files.filter(|path| path.extension().is_some_and(|end| end == "jnl"))
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
    let mut journals = journals(path);
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

fn write_buffer_bytes(limits: &Limits) -> u64 {
    limits.write_buffer_bytes.max(WRITE_BUFFER_BYTES_MIN)
}

fn tree_options() -> KeyspaceCreateOptions {
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
        // Begun elsewhere.
        .max_memtable_size(u64::MAX)
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
    use super::*;

    /// Waits for what happens in the background.
    fn eventually(is_so: impl Fn() -> bool) {
        let start = Instant::now();
        while !is_so() {
            assert!(start.elapsed() < Duration::from_secs(60), "it did not happen");
            std::thread::park_timeout(Duration::from_millis(1));
        }
    }

    fn open() -> (tempfile::TempDir, EmbeddedTables) {
        let directory = tempfile::tempdir().unwrap();
        let limits = Limits {
            write_buffer_bytes: WRITE_BUFFER_BYTES_MIN,
            ..Limits::default()
        };
        let tables = EmbeddedTables::open(directory.path(), &limits).unwrap();
        (directory, tables)
    }

    fn with_tree<T>(tables: &EmbeddedTables, look: impl FnOnce(&fjall::AnyTree) -> T) -> T {
        let (_, seen) = tables.inner.with(|open| Ok(look(&open.rows.tree)));
        seen.unwrap()
    }

    #[test]
    fn the_next_write_buffer_begins_without_the_database() {
        let (_directory, tables) = open();
        let first = with_tree(&tables, |tree| tree.active_memtable().id());
        let mut batch = Batch::new();
        for key in 0..24_u32 {
            batch.put(Table::Chunks, key.to_be_bytes().to_vec(), vec![1; 48 << 10]);
        }
        tables.commit(batch).unwrap();
        eventually(|| with_tree(&tables, |tree| tree.active_memtable().id()) != first);
        eventually(|| with_tree(&tables, |tree| tree.sealed_memtable_count()) == 0);
        assert!(
            tables.get(Table::Chunks, &[0; 4]).unwrap().is_some(),
            "written to a file"
        );
    }

    #[test]
    fn who_waits_for_flushes_goes_on_when_they_are_done_and_when_nobody_does_them() {
        let calls = |most: usize| {
            let calls = std::cell::Cell::new(0);
            move || calls.replace(calls.get() + 1) < most
        };
        let flushes = calls(3);
        wait_while(|_| flushes(), || true);
        let stops = calls(3);
        wait_while(|_| true, stops);
        let least = Duration::from_millis(5);
        let start = Instant::now();
        wait_while(|waited| waited < least, || true);
        assert!(start.elapsed() >= least);
    }

    #[test]
    fn no_more_write_buffers_wait_than_the_database_bears() {
        let (_directory, tables) = open();
        for key in 0..200_u32 {
            let mut batch = Batch::new();
            batch.put(Table::Chunks, key.to_be_bytes().to_vec(), vec![1; 256 << 10]);
            tables.commit(batch).unwrap();
            let waiting = with_tree(&tables, |tree| tree.sealed_memtable_count());
            assert!(waiting <= WAITING_BUFFERS_MAX, "{waiting} after {key}");
        }
        eventually(|| with_tree(&tables, |tree| tree.sealed_memtable_count()) == 0);
    }

    #[test]
    fn the_thread_that_flushes_and_compacts_gives_way() {
        let (_directory, _tables) = open();
        // A thread names itself once it runs.
        eventually(|| !workers().is_empty());
        assert!(workers().iter().all(|niceness| *niceness >= 10), "{:?}", workers());
    }

    /// The niceness of each thread of this process that flushes and compacts.
    fn workers() -> Vec<i32> {
        let tasks = fs::read_dir("/proc/self/task").unwrap();
        // Other tests start and end threads meanwhile.
        let stats = tasks
            .flatten()
            .flat_map(|task| fs::read_to_string(task.path().join("stat")));
        let niceness = |stat: String| {
            let (name, fields) = stat.rsplit_once(')').unwrap();
            // `man 5 proc`: the niceness is field 19, and the name is field 2.
            name.contains("fjall:worker")
                .then(|| fields.split_whitespace().nth(16).unwrap().parse().unwrap())
        };
        stats.filter_map(niceness).collect()
    }
}
