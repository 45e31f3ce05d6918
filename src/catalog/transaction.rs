//! Changes to the rows of one repository that are applied together.

use std::collections::{BTreeMap, HashMap};
use std::ops::Bound;

use crate::codec::ChunkId;
use crate::format::{Hash32, ObjectName, ObjectVersion, PackNumber};

use super::error::Error;
use super::repository::{
    DirtyKey, Lookup, RepositoryCatalog, belongs, put_id_key, rebuilding_key, row as read_row, tip_key,
};
use super::rows::{
    ChunkRow, DirtyRow, EntriesRow, HeadRow, PUT_IDS_KEPT, PackRow, PutIdRow, PutOrderRow, ReleaseRow, Row, TipRow,
};
use super::sealed::{RowKey, RowSealer};
use super::tables::{Batch, Table};

/// Bytes of rows that a transaction keeps so that they are not read again.
const OBJECTS_BYTES_MAX: usize = 1 << 20;

/// A set of changes, which its own reads see. Dropped without [`Transaction::commit`] it leaves nothing.
pub struct Transaction {
    catalog: RepositoryCatalog,
    /// Encoded rows, sealed only once they are committed: counters of one pack may change many times before.
    changes: BTreeMap<(Table, RowKey), Option<Vec<u8>>>,
    /// Objects that were read to be looked at again, as they were, and the bytes of their rows.
    objects: HashMap<RowKey, Option<Vec<u8>>>,
    objects_bytes: usize,
    /// The log number of the tip that was set, and that of the newest checkpoint that it names; 0 for none.
    tip: Option<(u64, u64)>,
    /// The row that the last put id dropped was in, so that it is not read again for each of those in it.
    oldest: Option<(RowKey, PutOrderRow)>,
}

/// A transaction that changes no more. Dropped without [`SealedTransaction::commit`] it leaves nothing.
pub struct SealedTransaction {
    catalog: RepositoryCatalog,
    batch: Batch,
    /// Parts that it marks as changed.
    marked: Vec<DirtyKey>,
}

impl SealedTransaction {
    /// As [`Transaction::commit`].
    ///
    /// # Errors
    /// As there.
    pub fn commit(self) -> Result<(), Error> {
        self.catalog.tables.commit(self.batch)?;
        let mut marks = self.catalog.marks.lock();
        self.marked.into_iter().for_each(|part| marks.add(part));
        Ok(())
    }
}

impl Transaction {
    pub(super) fn new(catalog: RepositoryCatalog) -> Self {
        Self {
            catalog,
            changes: BTreeMap::new(),
            objects: HashMap::new(),
            objects_bytes: 0,
            tip: None,
            oldest: None,
        }
    }

    /// Rows changed so far: what a caller bounds its transactions by.
    pub fn len(&self) -> usize {
        self.changes.len()
    }

    /// Whether nothing changed so far.
    pub fn is_empty(&self) -> bool {
        self.changes.is_empty()
    }

    /// Applies all changes or none. They survive the end of the process, but a loss of power only after
    /// [`Catalog::persist`](super::Catalog::persist). After an error it is unknown whether they were applied: open the
    /// catalog again and replay the log.
    pub fn commit(self) -> Result<(), Error> {
        self.seal().commit()
    }

    /// Does beforehand what [`commit`](Self::commit) does before the tables change.
    pub fn seal(self) -> SealedTransaction {
        let Self {
            catalog, changes, tip, ..
        } = self;
        let sealer = &catalog.sealer;
        let (mut batch, mut marked) = (Batch::new(), Vec::new());
        let mut marks = catalog.marks.lock();
        if let Some((_, newest_checkpoint)) = tip {
            marks.follow(newest_checkpoint);
        }
        for ((table, key), row) in changes {
            if table == Table::Dirty
                && let Some(row) = &row
                && tip.is_some_and(|(log_number, _)| DirtyRow::from_bytes(row).is_of(log_number))
                && let Ok(part) = DirtyKey::from_row_key(&key)
            {
                if marks.has(part) {
                    continue;
                }
                marked.push(part);
            }
            match row {
                Some(row) => batch.put(table, sealer.stored_key(&key).to_vec(), sealer.seal(table, &key, row)),
                None => batch.delete(table, sealer.stored_key(&key).to_vec()),
            }
        }
        drop(marks);
        SealedTransaction { catalog, batch, marked }
    }

    /// Sets the row of a chunk, leaf or root.
    pub fn set_chunk(&mut self, row: &ChunkRow) {
        self.set(self.catalog.sealer.chunk_key(&row.id), row);
    }

    /// Sorts ids as the tables sort the rows of what they name.
    pub fn sort_by_row(&self, ids: &mut [ChunkId]) {
        ids.sort_by_cached_key(|id| self.catalog.sealer.chunk_key(id));
    }

    /// Makes a chunk, leaf or root unknown.
    pub fn remove_chunk(&mut self, id: &ChunkId) {
        self.remove(Table::Chunks, self.catalog.sealer.chunk_key(id));
    }

    /// Sets the row of a pack.
    pub fn set_pack(&mut self, row: &PackRow) {
        self.set(RowKey::pack(row.name.number), row);
    }

    /// Removes the row of a pack.
    pub fn remove_pack(&mut self, number: PackNumber) {
        self.remove(Table::Packs, RowKey::pack(number));
    }

    /// Sets what is in a pack.
    pub fn set_entries(&mut self, number: PackNumber, row: &EntriesRow) {
        self.set(RowKey::pack(number), row);
    }

    /// Removes what is in a pack.
    pub fn remove_entries(&mut self, number: PackNumber) {
        self.remove(Table::Entries, RowKey::pack(number));
    }

    /// As [`Lookup::object`]; whoever asks for it later in this transaction need not read it, up to a mebibyte of such rows.
    ///
    /// # Errors
    /// As there.
    pub fn read_object(&mut self, name: &ObjectName) -> Result<Option<ObjectVersion>, Error> {
        let key = RowKey::new(&[&self.object_key(name)]);
        let row = self.encoded(Table::Objects, &key)?;
        let object = row.as_deref().map(ObjectVersion::from_bytes).transpose()?;
        let bytes = row.as_ref().map_or(0, Vec::len);
        if self.objects_bytes + bytes <= OBJECTS_BYTES_MAX {
            self.objects_bytes += bytes;
            self.objects.insert(key, row);
        }
        object
            .map(|object| belongs(object.name == *name, object, Table::Objects))
            .transpose()
    }

    /// Sets the newest version of an object.
    pub fn set_object(&mut self, object: &ObjectVersion) {
        self.set(RowKey::new(&[&self.object_key(&object.name)]), object);
    }

    /// Removes an object.
    pub fn remove_object(&mut self, name: &ObjectName) {
        self.remove(Table::Objects, RowKey::new(&[&self.object_key(name)]));
    }

    /// Keeps the result of a put, and drops the one that is [`PUT_IDS_KEPT`] serials older: serials are dense. An id that is set
    /// again has its new serial only.
    pub fn set_put_id(&mut self, row: &PutIdRow) -> Result<(), Error> {
        if let Some(evicted) = row.serial.checked_sub(PUT_IDS_KEPT) {
            self.remove_put_id_by_serial(evicted)?;
        }
        self.set(put_id_key(&self.catalog.sealer, &row.put_id), row);
        let order_key = RowKey::number(PutOrderRow::of(row.serial));
        let mut order: PutOrderRow = read_row(self, &order_key)?.unwrap_or_default();
        order.set(row.serial, row.put_id);
        self.set(order_key, &order);
        self.oldest = self.oldest.take().filter(|(key, _)| *key != order_key);
        Ok(())
    }

    /// Drops the result of the put with this serial, if it is there.
    pub fn remove_put_id_by_serial(&mut self, serial: u64) -> Result<(), Error> {
        let order_key = RowKey::number(PutOrderRow::of(serial));
        let order = match self.oldest.take() {
            Some((key, order)) if key == order_key => order,
            _ => read_row(self, &order_key)?.unwrap_or_default(),
        };
        let put_id = order.get(serial);
        self.oldest = Some((order_key, order));
        if let Some(put_id) = put_id
            && self.put_id(&put_id)?.is_some_and(|row| row.serial == serial)
        {
            self.remove(Table::PutIds, put_id_key(&self.catalog.sealer, &put_id));
        }
        if PutOrderRow::ends_with(serial) {
            self.remove(Table::PutOrder, order_key);
        }
        Ok(())
    }

    /// Sets the head of the log at a log number.
    pub fn set_head(&mut self, log_number: u64, head: Hash32) {
        self.set(RowKey::number(log_number), &HeadRow { log_number, head });
    }

    /// Forgets the head of the log at a log number.
    pub fn prune_head(&mut self, log_number: u64) {
        self.remove(Table::Heads, RowKey::number(log_number));
    }

    /// Sets how far the release of a manifest's children got.
    pub fn set_release(&mut self, row: &ReleaseRow) {
        self.set(self.catalog.sealer.chunk_key(&row.id), row);
    }

    /// Ends the release of a manifest's children.
    pub fn remove_release(&mut self, id: &ChunkId) {
        self.remove(Table::Releases, self.catalog.sealer.chunk_key(id));
    }

    /// Sets where the catalog stands on the log.
    pub fn set_tip(&mut self, row: &TipRow) {
        let newest_checkpoint = row.checkpoints[0].map_or(0, |(_, log_number)| log_number);
        self.tip = Some((row.log_number(), newest_checkpoint));
        self.set(tip_key(), row);
    }

    /// Notes that what follows comes from a rebuild, until [`Self::end_rebuilding`].
    pub fn begin_rebuilding(&mut self) {
        self.changes.insert((Table::Tips, rebuilding_key()), Some(Vec::new()));
    }

    /// Notes that the catalog is whole again.
    pub fn end_rebuilding(&mut self) {
        self.remove(Table::Tips, rebuilding_key());
    }

    /// Notes that a part of a table changed with this entry of the log. If the tip is set to that entry, a part that is marked already
    /// as changed after every checkpoint stays as it is marked.
    pub fn mark_dirty(&mut self, key: DirtyKey, log_number: u64) {
        let row = DirtyRow::bytes_of(log_number);
        self.changes.insert((Table::Dirty, key.row_key()), Some(row));
    }

    /// Forgets when a part of a table changed that was written to a checkpoint of this entry of the log, unless it did after that.
    pub fn forget_dirty(&mut self, key: DirtyKey, log_number: u64) -> Result<(), Error> {
        let row = self.encoded(Table::Dirty, &key.row_key())?;
        if row.is_some_and(|row| DirtyRow::from_bytes(&row).is_covered_by(log_number)) {
            self.remove(Table::Dirty, key.row_key());
        }
        Ok(())
    }

    fn set<R: Row>(&mut self, key: RowKey, row: &R) {
        self.changes.insert((R::TABLE, key), Some(row.to_bytes()));
    }

    fn remove(&mut self, table: Table, key: RowKey) {
        self.changes.insert((table, key), None);
    }

    /// The changes of one table behind a key.
    fn changes_after(&self, table: Table, after: Option<&RowKey>) -> impl Iterator<Item = (RowKey, Option<&Vec<u8>>)> {
        let start = match after {
            Some(after) => Bound::Excluded((table, *after)),
            None => Bound::Included((table, RowKey::new(&[]))),
        };
        let changes = self.changes.range((start, Bound::Unbounded));
        changes
            .take_while(move |((of, _), _)| *of == table)
            .map(|((_, key), row)| (*key, row.as_ref()))
    }
}

impl Lookup for Transaction {
    fn encoded(&self, table: Table, key: &RowKey) -> Result<Option<Vec<u8>>, Error> {
        let read = || self.objects.get(key).filter(|_| table == Table::Objects);
        match self.changes.get(&(table, *key)).or_else(read) {
            Some(row) => Ok(row.clone()),
            None => self.catalog.encoded(table, key),
        }
    }

    fn encoded_page(
        &self,
        table: Table,
        after: Option<&RowKey>,
        limit: usize,
    ) -> Result<Vec<(RowKey, Vec<u8>)>, Error> {
        // With so many rows from the tables, the first `limit` remain after every removal.
        let removed = self
            .changes_after(table, after)
            .filter(|(_, row)| row.is_none())
            .count();
        let stored = self.catalog.encoded_page(table, after, limit.saturating_add(removed))?;
        let mut rows: BTreeMap<RowKey, Vec<u8>> = stored.into_iter().collect();
        for (key, change) in self.changes_after(table, after) {
            match change {
                Some(row) => rows.insert(key, row.clone()),
                None => rows.remove(&key),
            };
        }
        Ok(rows.into_iter().take(limit).collect())
    }

    fn sealer(&self) -> &RowSealer {
        &self.catalog.sealer
    }
}
