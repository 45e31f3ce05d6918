//! The catalog: the agent's database over everything stored. An index, never the truth: whatever it holds can be rebuilt
//! from the store, so it is not fsynced with every commit, and a damaged one is removed rather than repaired.
//!
//! ```text
//! RepositoryCatalog · Transaction     typed rows of one repository (rows: their bytes)
//!             sealed                  row keys that say nothing, values that nobody else reads or forges
//!             Tables                  ordered bytes in tables, atomic batches
//!      EmbeddedTables · MemoryTables  a directory · this process
//! ```
//!
//! [`Locality`] stands beside them: it answers for chunks whose pack was hit lately.

mod buffers;
mod embedded;
mod error;
mod locality;
mod marks;
mod memory;
mod numbers;
mod repository;
mod rows;
mod sealed;
mod tables;
mod transaction;

#[cfg(test)]
mod tests;

use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::{Arc, Weak};

pub use embedded::EmbeddedTables;
pub use error::Error;
pub use locality::{Locality, Place};
use marks::Marks;
pub use memory::MemoryTables;
pub use repository::{DirtyKey, Lookup, RepositoryCatalog, RepositorySnapshot};
#[cfg(any(test, feature = "testkit"))]
pub(crate) use rows::rewritten;
pub use rows::{ChunkRow, EntriesRow, PUT_IDS_KEPT, PackRow, PutIdRow, PutResult, ReleaseRow, Stats, TipRow};
pub use sealed::{RowKey, RowSealer};
pub use tables::{Batch, KeyValue, Reserve, Snapshot, Table, Tables};
pub use transaction::{SealedTransaction, Transaction};

use parking_lot::Mutex;

use crate::codec::RepositoryId;
use crate::format::CatalogKeys;

/// What background work is behind others by (see `man 7 sched`): about a tenth of their share where both want the processor.
const NICE: i32 = 10;

/// From now on this thread, and those that it starts, get the processor when others do not need it.
pub(crate) fn give_way() {
    // Allowed to everybody; without it work is done all the same.
    let _ = rustix::process::nice(NICE);
}

/// Where a catalog is kept.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Location {
    /// A directory of its own.
    Directory(PathBuf),
    /// Memory: it ends with the process, and every open makes a new one.
    Memory,
    /// Tables that the caller keeps: for tests that decide what survives.
    #[cfg(any(test, feature = "testkit"))]
    Kept(Kept),
}

/// Tables of the caller. Equal to themselves only.
#[cfg(any(test, feature = "testkit"))]
#[derive(Clone)]
pub struct Kept(pub Arc<dyn Tables>);

#[cfg(any(test, feature = "testkit"))]
impl std::fmt::Debug for Kept {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Kept")
    }
}

#[cfg(any(test, feature = "testkit"))]
impl PartialEq for Kept {
    fn eq(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.0, &other.0)
    }
}

#[cfg(any(test, feature = "testkit"))]
impl Eq for Kept {}

/// What a catalog may take.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Limits {
    /// Memory for rows and index blocks read from disk.
    pub cache_bytes: u64,
    /// Memory for rows before they go to disk; up to eight times as much while writes run ahead of
    /// that, and what is written while a snapshot is open.
    pub write_buffer_bytes: u64,
    /// Disk for journals before the oldest is emptied; at least 64 MiB. One journal more can be in use.
    pub journal_bytes: u64,
    /// Memory for entries of packs that were hit lately.
    pub locality_bytes: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            cache_bytes: 32 << 20,
            write_buffer_bytes: 16 << 20,
            journal_bytes: 64 << 20,
            locality_bytes: 16 << 20,
        }
    }
}

/// An open catalog, of all repositories of a store.
#[derive(Clone)]
pub struct Catalog {
    tables: Arc<dyn Tables>,
    /// Held by whoever gives a repository its number.
    numbering: Arc<Mutex<()>>,
    /// Of repositories that are open.
    marks: Arc<Mutex<HashMap<RepositoryId, Weak<Mutex<Marks>>>>>,
}

/// The meaning of rows and keys. Another number makes a catalog one to rebuild.
const SCHEMA: u32 = 3;
/// Shorter than any repository's id, which notes begin with.
const SCHEMA_KEY: &[u8] = b"schema";
/// Likewise.
const MODE_KEY: &[u8] = b"mode";
/// Likewise.
const READ_ONLY_KEY: &[u8] = b"read-only";

/// The mode of the store as it was last told, so that it outlives the process. Holds nothing that needs sealing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ModeRow {
    /// The mode, as a number of the engine's.
    pub mode: u8,
    /// Since when it holds, in milliseconds since 1970.
    pub since_ms: i64,
    /// Counts changes of the mode and of the set of causes.
    pub sequence: u64,
    /// Tells one set of causes from another; 0 in a row of a version that did not keep it.
    pub causes: u32,
    /// Which thresholds are passed and not left by their margins, as bits of the engine's; 0 likewise.
    pub held: u8,
}

impl ModeRow {
    /// Mode, since, sequence; what follows was added later.
    const LEN_FIRST: usize = 17;
    const LEN: usize = Self::LEN_FIRST + 5;

    fn encode(self) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(Self::LEN);
        bytes.push(self.mode);
        bytes.extend(self.since_ms.to_le_bytes());
        bytes.extend(self.sequence.to_le_bytes());
        bytes.extend(self.causes.to_le_bytes());
        bytes.push(self.held);
        bytes
    }

    /// None of a row that no version has written: it is then as if there was none.
    fn decode(bytes: &[u8]) -> Option<Self> {
        let (first, rest) = bytes.split_at_checked(Self::LEN_FIRST)?;
        let (words, _) = first[1..].as_chunks::<8>();
        let later: [u8; 5] = match rest {
            [] => [0; 5],
            rest => rest.try_into().ok()?,
        };
        let [a, b, c, d, held] = later;
        Some(Self {
            mode: first[0],
            since_ms: i64::from_le_bytes(words[0]),
            sequence: u64::from_le_bytes(words[1]),
            causes: u32::from_le_bytes([a, b, c, d]),
            held,
        })
    }
}

impl Catalog {
    /// Opens the catalog, creating it if it is not there.
    pub fn open(location: &Location, limits: &Limits) -> Result<Self, Error> {
        Self::open_beside(location, limits, None)
    }

    /// As [`open`](Self::open), with what keeps room back on the file system of the catalog, if anything does.
    pub fn open_beside(location: &Location, limits: &Limits, reserve: Option<Arc<dyn Reserve>>) -> Result<Self, Error> {
        let tables: Arc<dyn Tables> = match location {
            Location::Directory(directory) => Arc::new(EmbeddedTables::open_beside(directory, limits, reserve)?),
            Location::Memory => Arc::new(MemoryTables::default()),
            #[cfg(any(test, feature = "testkit"))]
            Location::Kept(kept) => kept.0.clone(),
        };
        check_schema(&*tables)?;
        Ok(Self::of(tables))
    }

    fn of(tables: Arc<dyn Tables>) -> Self {
        Self {
            tables,
            numbering: Arc::default(),
            marks: Arc::default(),
        }
    }

    /// The rows of one repository. For one that is new to the catalog this is a commit.
    pub fn repository(&self, id: RepositoryId, keys: &CatalogKeys) -> Result<RepositoryCatalog, Error> {
        let prefix = {
            let _numbering = self.numbering.lock();
            numbers::find_or_give(&*self.tables, id)?
        };
        let marks = self.marks_of(id);
        Ok(RepositoryCatalog::new(self.tables.clone(), prefix, keys, marks))
    }

    /// All who have a repository open share its marks.
    fn marks_of(&self, id: RepositoryId) -> Arc<Mutex<Marks>> {
        let mut all = self.marks.lock();
        all.retain(|_, marks| marks.strong_count() > 0);
        if let Some(marks) = all.get(&id).and_then(Weak::upgrade) {
            return marks;
        }
        let marks = Arc::default();
        all.insert(id, Arc::downgrade(&marks));
        marks
    }

    /// Removes every row of a repository, in batches; what is interrupted can be done again. Needs no keys.
    pub fn forget(&self, id: RepositoryId) -> Result<(), Error> {
        // The tip goes first, so that a repository half forgotten is one without a tip: it is rebuilt. With its notes, so that the
        // catalog is not one with repositories when the store has none any more.
        self.clear(id, &[Table::Tips])?;
        self.clear_prefix(Table::Meta, &id.0)?;
        self.clear(id, &Table::OF_REPOSITORIES)
    }

    /// Removes every row of a repository from some tables, as [`Self::forget`] does from all. It keeps its number: others may have it
    /// open.
    pub(crate) fn clear(&self, id: RepositoryId, tables: &[Table]) -> Result<(), Error> {
        let Some(prefix) = numbers::find(&*self.tables, id)? else {
            return Ok(());
        };
        let cleared = tables
            .iter()
            .try_for_each(|table| self.clear_prefix(*table, prefix.as_bytes()));
        self.marks_of(id).lock().forget();
        cleared
    }

    fn clear_prefix(&self, table: Table, prefix: &[u8]) -> Result<(), Error> {
        const ROWS: usize = 1024;
        loop {
            let rows = self.tables.scan(table, prefix, None, ROWS)?;
            let mut batch = Batch::new();
            for (key, _) in &rows {
                batch.delete(table, key.clone());
            }
            self.tables.commit(batch)?;
            if rows.len() < ROWS {
                return Ok(());
            }
        }
    }

    /// Whether it has rows of any repository.
    pub fn has_repositories(&self) -> Result<bool, Error> {
        // More than there are rows of the catalog itself.
        const ROWS: usize = 16;
        let rows = self.tables.scan(Table::Meta, &[], None, ROWS)?;
        let has_notes = rows.iter().any(|(key, _)| key.len() >= size_of::<RepositoryId>());
        Ok(has_notes || !self.tables.scan(Table::Tips, &[], None, 1)?.is_empty())
    }

    /// The mode that was set last; none in a new catalog.
    pub fn mode(&self) -> Result<Option<ModeRow>, Error> {
        let bytes = self.tables.get(Table::Meta, MODE_KEY)?;
        Ok(bytes.and_then(|bytes| ModeRow::decode(&bytes)))
    }

    /// Remembers a mode.
    pub fn set_mode(&self, row: ModeRow) -> Result<(), Error> {
        let mut batch = Batch::new();
        batch.put(Table::Meta, MODE_KEY.to_vec(), row.encode());
        self.tables.commit(batch)
    }

    /// Whether an operator made the store read-only.
    pub fn is_read_only(&self) -> Result<bool, Error> {
        Ok(self.tables.get(Table::Meta, READ_ONLY_KEY)?.is_some())
    }

    /// Remembers whether an operator made the store read-only.
    pub fn set_read_only(&self, read_only: bool) -> Result<(), Error> {
        let mut batch = Batch::new();
        match read_only {
            true => batch.put(Table::Meta, READ_ONLY_KEY.to_vec(), vec![1]),
            false => batch.delete(Table::Meta, READ_ONLY_KEY.to_vec()),
        }
        self.tables.commit(batch)
    }

    /// A note about a repository. Not sealed: nothing secret belongs into it. A rebuild, and the removal of the repository,
    /// forget its notes.
    pub fn note(&self, id: RepositoryId, name: &str) -> Result<Option<Vec<u8>>, Error> {
        self.tables.get(Table::Meta, &note_key(id, name))
    }

    /// Writes a note, or removes it.
    pub fn set_note(&self, id: RepositoryId, name: &str, text: Option<&[u8]>) -> Result<(), Error> {
        let mut batch = Batch::new();
        match text {
            Some(text) => batch.put(Table::Meta, note_key(id, name), text.to_vec()),
            None => batch.delete(Table::Meta, note_key(id, name)),
        }
        self.tables.commit(batch)
    }

    /// Everything committed so far survives a loss of power once this returns.
    pub fn persist(&self) -> Result<(), Error> {
        self.tables.persist()
    }

    /// Bytes taken on the filesystem.
    pub fn disk_bytes(&self) -> Result<u64, Error> {
        self.tables.disk_bytes()
    }

    /// Whether commits can be made now. A catalog that a failed write stopped is opened anew if that is possible, which
    /// blocks; it then has what was committed, and perhaps what failed.
    pub fn ready(&self) -> Result<(), Error> {
        self.tables.ready()
    }

    /// Why commits cannot be made now, or soon cannot any more: without doing anything about it.
    pub fn trouble(&self) -> Option<Error> {
        self.tables.trouble()
    }
}

/// Behind the repository's id; no row of another kind begins so.
fn note_key(id: RepositoryId, name: &str) -> Vec<u8> {
    [&id.0[..], b"note-", name.as_bytes()].concat()
}

fn check_schema(tables: &dyn Tables) -> Result<(), Error> {
    match tables.get(Table::Meta, SCHEMA_KEY)? {
        None => {
            let mut batch = Batch::new();
            batch.put(Table::Meta, SCHEMA_KEY.to_vec(), SCHEMA.to_le_bytes().to_vec());
            tables.commit(batch)
        }
        Some(found) => {
            let found = <[u8; 4]>::try_from(found.as_slice()).map_err(|_| Error::Row {
                table: Table::Meta,
                problem: "the schema is not a number",
            })?;
            match u32::from_le_bytes(found) {
                SCHEMA => Ok(()),
                found => Err(Error::Schema { found, known: SCHEMA }),
            }
        }
    }
}
