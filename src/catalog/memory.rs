//! Tables in memory: for stores that live in memory, and as the plain reference that the contract suite holds the
//! embedded database equal to.

use std::collections::BTreeMap;

use parking_lot::RwLock;

use super::error::Error;
use super::tables::{Batch, KeyValue, Snapshot, Table, Tables, scan_range};

type Rows = BTreeMap<Vec<u8>, Vec<u8>>;
type AllRows = [Rows; Table::ALL.len()];

/// Tables that end with the process.
#[derive(Default)]
pub struct MemoryTables {
    tables: RwLock<AllRows>,
}

impl Tables for MemoryTables {
    fn get(&self, table: Table, key: &[u8]) -> Result<Option<Vec<u8>>, Error> {
        get(&self.tables.read(), table, key)
    }

    fn scan(&self, table: Table, prefix: &[u8], after: Option<&[u8]>, limit: usize) -> Result<Vec<KeyValue>, Error> {
        scan(&self.tables.read(), table, prefix, after, limit)
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

    fn snapshot(&self) -> Box<dyn Snapshot> {
        Box::new(Copied(self.tables.read().clone()))
    }

    fn persist(&self) -> Result<(), Error> {
        Ok(())
    }

    fn disk_bytes(&self) -> Result<u64, Error> {
        Ok(0)
    }
}

/// The tables as they were.
struct Copied(AllRows);

impl Snapshot for Copied {
    fn get(&self, table: Table, key: &[u8]) -> Result<Option<Vec<u8>>, Error> {
        get(&self.0, table, key)
    }

    fn scan(&self, table: Table, prefix: &[u8], after: Option<&[u8]>, limit: usize) -> Result<Vec<KeyValue>, Error> {
        scan(&self.0, table, prefix, after, limit)
    }
}

fn get(tables: &AllRows, table: Table, key: &[u8]) -> Result<Option<Vec<u8>>, Error> {
    Ok(tables[table.index()].get(key).cloned())
}

fn scan(
    tables: &AllRows,
    table: Table,
    prefix: &[u8],
    after: Option<&[u8]>,
    limit: usize,
) -> Result<Vec<KeyValue>, Error> {
    let Some(range) = scan_range(prefix, after) else {
        return Ok(Vec::new());
    };
    let rows = tables[table.index()].range(range).take(limit);
    Ok(rows.map(|(key, value)| (key.clone(), value.clone())).collect())
}
