//! The rows of one repository, typed and opened.

use std::sync::Arc;

use parking_lot::Mutex;

use crate::codec::ChunkId;
use crate::format::names::PACKS_PER_DIRECTORY;
use crate::format::{BlobKind, CatalogKeys, Hash32, ObjectName, ObjectVersion, PackNumber};

use super::error::Error;
use super::marks::Marks;
use super::numbers::Prefix;
use super::rows::{ChunkRow, DirtyRow, EntriesRow, HeadRow, PackRow, PutIdRow, ReleaseRow, Row, TipRow};
use super::sealed::{RowKey, RowSealer};
use super::tables::{KeyValue, Snapshot, Table, Tables};
use super::transaction::Transaction;

/// Rows read at a time where all are wanted.
const PUT_IDS_PAGE: usize = 1024;

/// The rows of one repository. Cheap to clone.
#[derive(Clone)]
pub struct RepositoryCatalog {
    pub(super) tables: Arc<dyn Tables>,
    pub(super) sealer: Arc<RowSealer>,
    pub(super) marks: Arc<Mutex<Marks>>,
}

impl RepositoryCatalog {
    pub(super) fn new(tables: Arc<dyn Tables>, prefix: Prefix, keys: &CatalogKeys, marks: Arc<Mutex<Marks>>) -> Self {
        Self {
            tables,
            sealer: Arc::new(RowSealer::new(prefix, keys)),
            marks,
        }
    }

    /// Starts a set of changes. There is one writer at a time; keeping that is the caller's.
    pub fn begin(&self) -> Transaction {
        Transaction::new(self.clone())
    }

    /// As [`snapshot`](Self::snapshot), for a checkpoint with the log number of the tip. Not to be called while a transaction is sealed and
    /// not committed: which of its marks are written is decided by then.
    pub fn snapshot_for_checkpoint(&self, log_number: u64) -> RepositorySnapshot {
        self.marks.lock().begin_checkpoint(log_number);
        self.snapshot()
    }

    /// The rows as they are now, whatever is written later.
    pub fn snapshot(&self) -> RepositorySnapshot {
        RepositorySnapshot {
            tables: self.tables.snapshot(),
            sealer: self.sealer.clone(),
        }
    }
}

/// Reading rows, the same from the catalog and from within a transaction, which sees its own changes.
///
/// A row that is not what was written is [`Error::Row`], never wrong data.
pub trait Lookup {
    /// The encoded row of a key.
    #[doc(hidden)]
    fn encoded(&self, table: Table, key: &RowKey) -> Result<Option<Vec<u8>>, Error>;

    /// The encoded rows that follow a key.
    #[doc(hidden)]
    fn encoded_page(&self, table: Table, after: Option<&RowKey>, limit: usize)
    -> Result<Vec<(RowKey, Vec<u8>)>, Error>;

    /// The keys of the rows.
    #[doc(hidden)]
    fn sealer(&self) -> &RowSealer;

    /// Where a chunk, leaf or root is.
    fn chunk(&self, id: &ChunkId) -> Result<Option<ChunkRow>, Error> {
        let row: Option<ChunkRow> = row(self, &self.sealer().chunk_key(id))?;
        row.map(|row| belongs(row.id == *id, row, Table::Chunks)).transpose()
    }

    /// [`Lookup::chunk`] for each id, in order.
    fn chunks(&self, ids: &[ChunkId]) -> Result<Vec<Option<ChunkRow>>, Error> {
        ids.iter().map(|id| self.chunk(id)).collect()
    }

    /// A pack.
    fn pack(&self, number: PackNumber) -> Result<Option<PackRow>, Error> {
        let row: Option<PackRow> = row(self, &RowKey::pack(number))?;
        row.map(|row| belongs(row.name.number == number, row, Table::Packs))
            .transpose()
    }

    /// What is in a pack.
    fn entries(&self, number: PackNumber) -> Result<Option<EntriesRow>, Error> {
        row(self, &RowKey::pack(number))
    }

    /// The newest version of an object.
    fn object(&self, name: &ObjectName) -> Result<Option<ObjectVersion>, Error> {
        let row: Option<ObjectVersion> = row(self, &RowKey::new(&[&self.object_key(name)]))?;
        row.map(|row| belongs(row.name == *name, row, Table::Objects))
            .transpose()
    }

    /// The result of the put with this id, if it is one of the last [`PUT_IDS_KEPT`](super::PUT_IDS_KEPT).
    fn put_id(&self, put_id: &[u8; 16]) -> Result<Option<PutIdRow>, Error> {
        let row: Option<PutIdRow> = row(self, &put_id_key(self.sealer(), put_id))?;
        row.map(|row| belongs(row.put_id == *put_id, row, Table::PutIds))
            .transpose()
    }

    /// The results of all puts that are kept, in the order of their serials: read in that of their keys, which is the fastest.
    fn put_ids(&self) -> Result<Vec<PutIdRow>, Error> {
        let mut rows: Vec<PutIdRow> = Vec::new();
        loop {
            let after = rows.last().map(|row| put_id_key(self.sealer(), &row.put_id));
            let next: Vec<PutIdRow> = page(self, after.as_ref(), PUT_IDS_PAGE)?;
            if next.is_empty() {
                break;
            }
            rows.extend(next);
        }
        rows.sort_unstable_by_key(|row| row.serial);
        Ok(rows)
    }

    /// Where the catalog stands on the log; none before the first transaction that says so.
    fn tip(&self) -> Result<Option<TipRow>, Error> {
        row(self, &tip_key())
    }

    /// Whether a rebuild began and did not come to its end: the packs here are those that it read.
    fn is_rebuilding(&self) -> Result<bool, Error> {
        Ok(self.encoded(Table::Tips, &rebuilding_key())?.is_some())
    }

    /// The head of the log at a log number, if it is still kept.
    fn head(&self, log_number: u64) -> Result<Option<Hash32>, Error> {
        let row: Option<HeadRow> = row(self, &RowKey::number(log_number))?;
        row.map(|row| belongs(row.log_number == log_number, row.head, Table::Heads))
            .transpose()
    }

    /// At most `limit` of the heads kept, each with its log number, in their order.
    fn heads_page(&self, after: Option<u64>, limit: usize) -> Result<Vec<(u64, Hash32)>, Error> {
        let rows: Vec<HeadRow> = page(self, after.map(RowKey::number).as_ref(), limit)?;
        Ok(rows.into_iter().map(|row| (row.log_number, row.head)).collect())
    }

    /// At most `limit` objects in the order of their keys, which is unrelated to their names and stays the same.
    fn objects_page(&self, after: Option<[u8; 16]>, limit: usize) -> Result<Vec<([u8; 16], ObjectVersion)>, Error> {
        let after = after.map(|key| RowKey::new(&[&key]));
        let rows: Vec<ObjectVersion> = page(self, after.as_ref(), limit)?;
        Ok(rows
            .into_iter()
            .map(|object| (self.object_key(&object.name), object))
            .collect())
    }

    /// At most `limit` packs in the order of their numbers.
    fn packs_page(&self, after: Option<PackNumber>, limit: usize) -> Result<Vec<PackRow>, Error> {
        page(self, after.map(RowKey::pack).as_ref(), limit)
    }

    /// How far the release of a manifest's children got, if it is to be released.
    fn release(&self, id: &ChunkId) -> Result<Option<ReleaseRow>, Error> {
        let row: Option<ReleaseRow> = row(self, &self.sealer().chunk_key(id))?;
        row.map(|row| belongs(row.id == *id, row, Table::Releases)).transpose()
    }

    /// How many of the children of a blob are released already. None of one that is not being released.
    fn released(&self, chunk: &ChunkRow) -> Result<u64, Error> {
        if chunk.count > 0 || chunk.kind == BlobKind::Data {
            return Ok(0);
        }
        Ok(self.release(&chunk.id)?.map_or(0, |row| row.cursor))
    }

    /// At most `limit` of the manifests whose children are still to be released, in an order that stays the same.
    fn releases_page(&self, after: Option<&ChunkId>, limit: usize) -> Result<Vec<ReleaseRow>, Error> {
        let after = after.map(|id| self.sealer().chunk_key(id));
        page(self, after.as_ref(), limit)
    }

    /// The parts of the tables that changed after this entry of the log.
    fn dirty(&self, log_number: u64) -> Result<Vec<DirtyKey>, Error> {
        let rows = self.encoded_page(Table::Dirty, None, usize::MAX)?;
        rows.iter()
            .filter(|(_, row)| DirtyRow::from_bytes(row).is_after(log_number))
            .map(|(key, _)| DirtyKey::from_row_key(key))
            .collect()
    }

    /// The hash that stands for a name: the key of its row, and of the checkpoint segment it belongs to.
    fn object_key(&self, name: &ObjectName) -> [u8; 16] {
        self.sealer().name_hash(name.as_str().as_bytes())
    }
}

impl Lookup for RepositoryCatalog {
    fn encoded(&self, table: Table, key: &RowKey) -> Result<Option<Vec<u8>>, Error> {
        let sealed = self.tables.get(table, &self.sealer.stored_key(key))?;
        sealed.map(|sealed| self.sealer.open(table, key, sealed)).transpose()
    }

    fn encoded_page(
        &self,
        table: Table,
        after: Option<&RowKey>,
        limit: usize,
    ) -> Result<Vec<(RowKey, Vec<u8>)>, Error> {
        let scan = |prefix: &[u8], after: Option<&[u8]>| self.tables.scan(table, prefix, after, limit);
        open_page(&self.sealer, table, after, scan)
    }

    fn sealer(&self) -> &RowSealer {
        &self.sealer
    }
}

/// The rows of one repository at one moment.
pub struct RepositorySnapshot {
    tables: Box<dyn Snapshot>,
    sealer: Arc<RowSealer>,
}

impl Lookup for RepositorySnapshot {
    fn encoded(&self, table: Table, key: &RowKey) -> Result<Option<Vec<u8>>, Error> {
        let sealed = self.tables.get(table, &self.sealer.stored_key(key))?;
        sealed.map(|sealed| self.sealer.open(table, key, sealed)).transpose()
    }

    fn encoded_page(
        &self,
        table: Table,
        after: Option<&RowKey>,
        limit: usize,
    ) -> Result<Vec<(RowKey, Vec<u8>)>, Error> {
        let scan = |prefix: &[u8], after: Option<&[u8]>| self.tables.scan(table, prefix, after, limit);
        open_page(&self.sealer, table, after, scan)
    }

    fn sealer(&self) -> &RowSealer {
        &self.sealer
    }
}

fn open_page(
    sealer: &RowSealer,
    table: Table,
    after: Option<&RowKey>,
    scan: impl FnOnce(&[u8], Option<&[u8]>) -> Result<Vec<KeyValue>, Error>,
) -> Result<Vec<(RowKey, Vec<u8>)>, Error> {
    let prefix = sealer.stored_prefix();
    let after = after.map(|key| sealer.stored_key(key));
    scan(prefix, after.as_deref())?
        .into_iter()
        .map(|(stored_key, sealed)| {
            let key = RowKey::from_stored(table, &stored_key[prefix.len()..])?;
            let row = sealer.open(table, &key, sealed)?;
            Ok((key, row))
        })
        .collect()
}

pub(super) fn row<R: Row>(lookup: &(impl Lookup + ?Sized), key: &RowKey) -> Result<Option<R>, Error> {
    lookup
        .encoded(R::TABLE, key)?
        .map(|bytes| R::from_bytes(&bytes))
        .transpose()
}

fn page<R: Row>(lookup: &(impl Lookup + ?Sized), after: Option<&RowKey>, limit: usize) -> Result<Vec<R>, Error> {
    lookup
        .encoded_page(R::TABLE, after, limit)?
        .iter()
        .map(|(_, bytes)| R::from_bytes(bytes))
        .collect()
}

/// Refuses a row whose content names another one: two ids or names with the same row key.
pub(super) fn belongs<T>(is_it: bool, row: T, table: Table) -> Result<T, Error> {
    if is_it {
        Ok(row)
    } else {
        Err(Error::Row {
            table,
            problem: "it is about something else",
        })
    }
}

pub(super) fn put_id_key(sealer: &RowSealer, put_id: &[u8; 16]) -> RowKey {
    RowKey::new(&[&sealer.name_hash(put_id)])
}

pub(super) fn tip_key() -> RowKey {
    RowKey::new(&[b"tip"])
}

pub(super) fn rebuilding_key() -> RowKey {
    RowKey::new(&[b"rebuilding"])
}

/// A part of the object table or of the pack table, as a checkpoint divides them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum DirtyKey {
    /// Objects whose keys start with these 12 bits.
    Objects(u16),
    /// Packs of one epoch whose counters divided by 4096 give the same number.
    Packs {
        /// Owner epoch.
        epoch: u64,
        /// Counter divided by 4096.
        directory: u64,
    },
}

impl DirtyKey {
    const OBJECTS: u8 = 1;
    const PACKS: u8 = 2;

    /// The part an object belongs to.
    pub fn of_object(key: &[u8; 16]) -> Self {
        Self::Objects(u16::from_be_bytes([key[0], key[1]]) >> 4)
    }

    /// The part a pack belongs to.
    pub fn of_pack(number: PackNumber) -> Self {
        Self::Packs {
            epoch: number.epoch,
            directory: number.counter / PACKS_PER_DIRECTORY,
        }
    }

    pub(super) fn row_key(self) -> RowKey {
        match self {
            Self::Objects(bits) => RowKey::new(&[&[Self::OBJECTS], &bits.to_be_bytes()]),
            Self::Packs { epoch, directory } => {
                RowKey::new(&[&[Self::PACKS], &epoch.to_be_bytes(), &directory.to_be_bytes()])
            }
        }
    }

    pub(super) fn from_row_key(key: &RowKey) -> Result<Self, Error> {
        match key.as_bytes() {
            [Self::OBJECTS, bits @ ..] => bits.try_into().ok().map(u16::from_be_bytes).map(Self::Objects),
            [Self::PACKS, number @ ..] => number.try_into().ok().map(PackNumber::from_bytes).map(
                |PackNumber {
                     epoch,
                     counter: directory,
                 }| Self::Packs { epoch, directory },
            ),
            _ => None,
        }
        .ok_or(Error::Row {
            table: Table::Dirty,
            problem: "its key has no meaning",
        })
    }
}
