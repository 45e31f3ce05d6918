//! Tables in memory: for stores that live in memory, and as the plain reference that the contract suite holds the
//! embedded database equal to.

use std::collections::BTreeMap;

use parking_lot::RwLock;

use super::error::Error;
use super::tables::{Batch, KeyValue, Table, Tables, scan_range};

type Rows = BTreeMap<Vec<u8>, Vec<u8>>;

/// Tables that end with the process.
#[derive(Default)]
pub struct MemoryTables {
    tables: RwLock<[Rows; Table::ALL.len()]>,
}

impl Tables for MemoryTables {
    fn get(&self, table: Table, key: &[u8]) -> Result<Option<Vec<u8>>, Error> {
        Ok(self.tables.read()[table.index()].get(key).cloned())
    }

    fn scan(&self, table: Table, prefix: &[u8], after: Option<&[u8]>, limit: usize) -> Result<Vec<KeyValue>, Error> {
        let Some(range) = scan_range(prefix, after) else {
            return Ok(Vec::new());
        };
        let tables = self.tables.read();
        let rows = tables[table.index()].range(range).take(limit);
        Ok(rows.map(|(key, value)| (key.clone(), value.clone())).collect())
    }

    fn commit(&self, batch: Batch) -> Result<(), Error> {
        let mut tables = self.tables.write();
        for ((table, key), value) in batch.into_changes() {
            let rows = &mut tables[table.index()];
            match value {
                Some(value) => rows.insert(key, value),
                None => rows.remove(&key),
            };
        }
        Ok(())
    }

    fn persist(&self) -> Result<(), Error> {
        Ok(())
    }

    fn disk_bytes(&self) -> Result<u64, Error> {
        Ok(0)
    }
}
