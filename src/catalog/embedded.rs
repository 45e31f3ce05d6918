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
//! Memory: the block cache; up to five write buffers a table while writes run ahead of flushes (one fills, four wait);
//! and for the table of chunks the filters, about 1.5 bytes a chunk, which stay in memory so that looking up a chunk that
//! is not there reads no disk.

use std::fs::{self, File, OpenOptions, TryLockError};
use std::io::{self, Read, Seek, Write};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use fjall::config::{BloomConstructionPolicy, FilterPolicy, FilterPolicyEntry, PartitioningPolicy, PinningPolicy};
use fjall::{Database, Keyspace, KeyspaceCreateOptions, PersistMode, Readable};

use super::Limits;
use super::error::Error;
use super::tables::{Batch, KeyValue, Snapshot, Table, Tables, scan_range};

const MARKER: &str = "cairn-catalog";
const DATABASE: &str = "tables";
/// Where a database is made. The database's own creation can be interrupted in ways that it does not recover from, so it
/// gets its name when it is whole.
const DATABASE_NEW: &str = "tables.new";

/// The database refuses less.
const JOURNAL_BYTES_MIN: u64 = 64 << 20;
/// Small buffers give small files, and those give compactions.
const WRITE_BUFFER_BYTES_MIN: u64 = 1 << 20;
/// Files of tables kept open; the rest of a process's descriptors are for the store and its clients.
const OPEN_FILES_MAX: usize = 128;

/// Tables that live in a directory.
pub struct EmbeddedTables {
    keyspaces: Vec<Keyspace>,
    database: Database,
    /// Dropped last: whoever gets the lock next finds the database closed.
    marker: Marker,
}

impl EmbeddedTables {
    /// Opens the tables in `directory`, creating it and them if they do not exist.
    ///
    /// The size of write buffers is fixed at creation, the other limits hold from each open on.
    pub fn open(directory: &Path, limits: &Limits) -> Result<Self, Error> {
        let marker = Marker::acquire(directory)?;
        let path = directory.join(DATABASE);
        if !path.try_exists()? {
            create_database(&directory.join(DATABASE_NEW), &path, limits)?;
        }
        let (database, keyspaces) = open_database(&path, limits)?;
        Ok(Self {
            keyspaces,
            database,
            marker,
        })
    }

    fn keyspace(&self, table: Table) -> &Keyspace {
        &self.keyspaces[table.index()]
    }
}

impl Tables for EmbeddedTables {
    fn get(&self, table: Table, key: &[u8]) -> Result<Option<Vec<u8>>, Error> {
        // A keyspace's own get sees a batch that is just being applied in part; a snapshot does not.
        get(&self.database.snapshot(), self.keyspace(table), key)
    }

    fn scan(&self, table: Table, prefix: &[u8], after: Option<&[u8]>, limit: usize) -> Result<Vec<KeyValue>, Error> {
        scan(&self.database.snapshot(), self.keyspace(table), prefix, after, limit)
    }

    fn commit(&self, batch: Batch) -> Result<(), Error> {
        let changes = batch.into_changes();
        let mut write = fjall::OwnedWriteBatch::with_capacity(self.database.clone(), changes.len())
            .durability(Some(PersistMode::Buffer));
        for ((table, key), value) in changes {
            match value {
                Some(value) => write.insert(self.keyspace(table), key, value),
                None => write.remove(self.keyspace(table), key),
            }
        }
        Ok(write.commit()?)
    }

    fn snapshot(&self) -> Box<dyn Snapshot> {
        Box::new(Moment {
            snapshot: self.database.snapshot(),
            keyspaces: self.keyspaces.clone(),
        })
    }

    fn persist(&self) -> Result<(), Error> {
        Ok(self.database.persist(PersistMode::SyncAll)?)
    }

    fn disk_bytes(&self) -> Result<u64, Error> {
        Ok(allocated_bytes(&self.marker.directory)?)
    }
}

/// The tables at one moment.
struct Moment {
    snapshot: fjall::Snapshot,
    keyspaces: Vec<Keyspace>,
}

impl Snapshot for Moment {
    fn get(&self, table: Table, key: &[u8]) -> Result<Option<Vec<u8>>, Error> {
        get(&self.snapshot, &self.keyspaces[table.index()], key)
    }

    fn scan(&self, table: Table, prefix: &[u8], after: Option<&[u8]>, limit: usize) -> Result<Vec<KeyValue>, Error> {
        scan(&self.snapshot, &self.keyspaces[table.index()], prefix, after, limit)
    }
}

fn get(snapshot: &fjall::Snapshot, keyspace: &Keyspace, key: &[u8]) -> Result<Option<Vec<u8>>, Error> {
    Ok(snapshot.get(keyspace, key)?.map(|value| value.to_vec()))
}

fn scan(
    snapshot: &fjall::Snapshot,
    keyspace: &Keyspace,
    prefix: &[u8],
    after: Option<&[u8]>,
    limit: usize,
) -> Result<Vec<KeyValue>, Error> {
    let Some(range) = scan_range(prefix, after) else {
        return Ok(Vec::new());
    };
    let rows = snapshot.range(keyspace, range);
    rows.take(limit)
        .map(|row| {
            let (key, value) = row.into_inner()?;
            Ok((key.to_vec(), value.to_vec()))
        })
        .collect()
}

/// Makes the database at `fresh`, after whatever an interruption left there, and moves it to `path`.
fn create_database(fresh: &Path, path: &Path, limits: &Limits) -> Result<(), Error> {
    match fs::remove_dir_all(fresh) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error.into()),
        _ => {}
    }
    let (database, keyspaces) = open_tables(fresh, limits)?;
    database.persist(PersistMode::SyncAll)?;
    drop((keyspaces, database));
    Ok(fs::rename(fresh, path)?)
}

fn open_database(path: &Path, limits: &Limits) -> Result<(Database, Vec<Keyspace>), Error> {
    check_database_files(path)?;
    open_tables(path, limits)
}

fn open_tables(path: &Path, limits: &Limits) -> Result<(Database, Vec<Keyspace>), Error> {
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
    let keyspaces = Table::ALL
        .iter()
        .map(|table| database.keyspace(table.name(), || table_options(*table, limits)))
        .collect::<Result<Vec<_>, _>>()?;
    Ok((database, keyspaces))
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

fn damaged(error: &io::Error) -> Error {
    Error::Damaged {
        problem: error.to_string(),
    }
}

fn table_options(table: Table, limits: &Limits) -> KeyspaceCreateOptions {
    let options = KeyspaceCreateOptions::default();
    match table {
        // Most chunks looked up are new: the filters of all levels stay in memory, whole, and are finer than usual,
        // since each false hit is a read from disk.
        Table::Chunks => options
            .filter_policy(FilterPolicy::new([
                FilterPolicyEntry::Bloom(BloomConstructionPolicy::FalsePositiveRate(0.0001)),
                FilterPolicyEntry::Bloom(BloomConstructionPolicy::BitsPerKey(12.0)),
            ]))
            .filter_block_pinning_policy(PinningPolicy::all(true))
            .filter_block_partitioning_policy(PartitioningPolicy::all(false))
            .max_memtable_size(limits.write_buffer_bytes.max(WRITE_BUFFER_BYTES_MIN)),
        Table::Entries | Table::Objects => {
            options.max_memtable_size(limits.write_buffer_bytes.max(WRITE_BUFFER_BYTES_MIN))
        }
        // Little is written to the others.
        _ => options.max_memtable_size((limits.write_buffer_bytes / 8).max(WRITE_BUFFER_BYTES_MIN)),
    }
}

/// The file that makes a directory a catalog, locked while it is in use.
struct Marker {
    /// Holds the lock.
    _file: File,
    directory: PathBuf,
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
        write_pid(&mut file)?;
        Ok(Self {
            _file: file,
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

/// What the files below a directory take. Journals are allocated sparsely, so their lengths would say too much.
fn allocated_bytes(directory: &Path) -> io::Result<u64> {
    const BLOCK: u64 = 512;
    let mut total = 0;
    for entry in fs::read_dir(directory)? {
        let entry = entry?;
        // Flushes and compactions remove files at any time.
        let Ok(metadata) = entry.metadata() else {
            continue;
        };
        total += metadata.blocks() * BLOCK;
        if metadata.is_dir() {
            total += match allocated_bytes(&entry.path()) {
                Err(error) if error.kind() == io::ErrorKind::NotFound => 0,
                below => below?,
            };
        }
    }
    Ok(total)
}
