//! The storage below the catalog: ordered tables of byte rows with atomic batches. It knows neither rows nor keys of
//! the catalog; everything above is the same on every implementation, and one contract suite holds them equal.

use std::collections::BTreeMap;
use std::fmt;
use std::ops::Bound;

use super::error::Error;

/// The tables. The number of each is part of what seals its rows and never changes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(u8)]
pub enum Table {
    /// Chunk id → place and counter.
    Chunks = 1,
    /// Pack → its entries.
    Entries = 2,
    /// Pack → its size and use.
    Packs = 3,
    /// Name → object.
    Objects = 4,
    /// Put id → result of that put.
    PutIds = 5,
    /// Serials, some to a row → put ids, in order of age.
    PutOrder = 6,
    /// Log number → head.
    Heads = 7,
    /// Ids whose children are still to be released.
    Releases = 8,
    /// Single rows: the schema of the catalog, the mode of the store, notes about repositories.
    Meta = 9,
    /// When parts of the tables changed last.
    Dirty = 10,
    /// Where repositories stand on the log.
    Tips = 11,
    /// Repository → the number that its rows are kept under.
    Numbers = 12,
}

impl Table {
    /// Every table, in the order of their numbers.
    pub const ALL: [Table; 12] = [
        Table::Chunks,
        Table::Entries,
        Table::Packs,
        Table::Objects,
        Table::PutIds,
        Table::PutOrder,
        Table::Heads,
        Table::Releases,
        Table::Meta,
        Table::Dirty,
        Table::Tips,
        Table::Numbers,
    ];

    /// Those that have rows of repositories, behind the numbers of these.
    pub const OF_REPOSITORIES: [Table; 10] = [
        Table::Chunks,
        Table::Entries,
        Table::Packs,
        Table::Objects,
        Table::PutIds,
        Table::PutOrder,
        Table::Heads,
        Table::Releases,
        Table::Dirty,
        Table::Tips,
    ];

    /// The name used for it in errors.
    pub fn name(self) -> &'static str {
        match self {
            Table::Chunks => "chunks",
            Table::Entries => "entries",
            Table::Packs => "packs",
            Table::Objects => "objects",
            Table::PutIds => "put_ids",
            Table::PutOrder => "put_order",
            Table::Heads => "heads",
            Table::Releases => "releases",
            Table::Meta => "meta",
            Table::Dirty => "dirty",
            Table::Tips => "tips",
            Table::Numbers => "numbers",
        }
    }

    /// Its position in [`Table::ALL`].
    pub(super) fn index(self) -> usize {
        self as usize - 1
    }
}

impl fmt::Display for Table {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// A key and its value.
pub type KeyValue = (Vec<u8>, Vec<u8>);

/// Storage of the catalog.
///
/// Keys are 1 to 65 534 bytes. Reads and commits may come from any thread; a read sees each committed batch wholly or
/// not at all.
pub trait Tables: Send + Sync {
    /// The value of one key.
    fn get(&self, table: Table, key: &[u8]) -> Result<Option<Vec<u8>>, Error>;

    /// At most `limit` rows whose key starts with `prefix` and is greater than `after`, in ascending order of key.
    fn scan(&self, table: Table, prefix: &[u8], after: Option<&[u8]>, limit: usize) -> Result<Vec<KeyValue>, Error>;

    /// Applies all changes of the batch or none. The result survives the end of the process, but a loss of power only
    /// after [`Tables::persist`]. After an error it is unknown whether the batch was applied.
    fn commit(&self, batch: Batch) -> Result<(), Error>;

    /// The tables as they are now, whatever is committed later. Keeps what it sees from being cleared away. Fails as stopped
    /// once the tables were opened anew.
    fn snapshot(&self) -> Box<dyn Snapshot>;

    /// Everything committed so far survives a loss of power once this returns.
    fn persist(&self) -> Result<(), Error>;

    /// Bytes taken on the filesystem.
    fn disk_bytes(&self) -> Result<u64, Error>;

    /// Whether commits can be made now. Tables that a failure stopped are opened anew if that is possible, which blocks.
    fn ready(&self) -> Result<(), Error> {
        Ok(())
    }

    /// Why commits cannot be made now, or soon cannot any more: without doing anything about it.
    fn trouble(&self) -> Option<Error> {
        None
    }
}

/// Whoever keeps room back on the file system of the tables.
pub trait Reserve: Send + Sync {
    /// Gives back what it takes to write so many bytes, as far as there is anything. Blocks.
    fn make_room(&self, bytes: u64);
}

/// The tables at one moment.
pub trait Snapshot: Send + Sync {
    /// [`Tables::get`], then.
    fn get(&self, table: Table, key: &[u8]) -> Result<Option<Vec<u8>>, Error>;

    /// [`Tables::scan`], then.
    fn scan(&self, table: Table, prefix: &[u8], after: Option<&[u8]>, limit: usize) -> Result<Vec<KeyValue>, Error>;
}

/// Changes that are applied together. Of several changes to one key the last counts.
#[derive(Debug, Default, Clone)]
pub struct Batch {
    changes: BTreeMap<(Table, Vec<u8>), Option<Vec<u8>>>,
}

impl Batch {
    /// A batch without changes.
    pub fn new() -> Self {
        Self::default()
    }

    /// Sets the value of a key.
    pub fn put(&mut self, table: Table, key: Vec<u8>, value: Vec<u8>) {
        self.changes.insert((table, key), Some(value));
    }

    /// Removes a key; a missing one is fine.
    pub fn delete(&mut self, table: Table, key: Vec<u8>) {
        self.changes.insert((table, key), None);
    }

    /// The number of keys that change.
    pub fn len(&self) -> usize {
        self.changes.len()
    }

    /// Whether nothing changes.
    pub fn is_empty(&self) -> bool {
        self.changes.is_empty()
    }

    /// Bytes of all keys and values.
    pub(super) fn bytes(&self) -> u64 {
        let bytes =
            |((_, key), value): (&(Table, Vec<u8>), &Option<Vec<u8>>)| key.len() + value.as_ref().map_or(0, Vec::len);
        self.changes.iter().map(bytes).sum::<usize>() as u64
    }

    /// As [`into_changes`](Self::into_changes), of a batch that may be needed again.
    pub(super) fn changes(&self) -> impl ExactSizeIterator<Item = (&(Table, Vec<u8>), &Option<Vec<u8>>)> {
        self.changes.iter()
    }

    /// The changes in the order of table and key; `None` removes.
    pub(super) fn into_changes(self) -> impl ExactSizeIterator<Item = ((Table, Vec<u8>), Option<Vec<u8>>)> {
        self.changes.into_iter()
    }
}

/// A range of keys: where it starts and where it ends.
pub(super) type KeyRange = (Bound<Vec<u8>>, Bound<Vec<u8>>);

/// The range of keys that a scan covers; `None` when `after` lies behind the whole prefix.
pub(super) fn scan_range(prefix: &[u8], after: Option<&[u8]>) -> Option<KeyRange> {
    let start = match after {
        Some(after) if after >= prefix => Bound::Excluded(after.to_vec()),
        _ => Bound::Included(prefix.to_vec()),
    };
    let end = successor(prefix).map_or(Bound::Unbounded, Bound::Excluded);
    match (&start, &end) {
        (Bound::Excluded(start), Bound::Excluded(end)) if start >= end => None,
        _ => Some((start, end)),
    }
}

/// The smallest key greater than every key with this prefix, if there is one.
fn successor(prefix: &[u8]) -> Option<Vec<u8>> {
    let last = prefix.iter().rposition(|byte| *byte != u8::MAX)?;
    let mut next = prefix[..=last].to_vec();
    next[last] += 1;
    Some(next)
}
