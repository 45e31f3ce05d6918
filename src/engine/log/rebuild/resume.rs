//! What an interrupted rebuild leaves for the next.
//!
//! A directory says of its pack what is right for ever, whatever the log becomes meanwhile. So that is what is kept: the
//! packs whose directories were read, with their entries, as [`PackRow::READ`]. Everything else (objects, places of
//! chunks, counters) is made anew, from the checkpoint and the log as they are then; a pack of that log which is among
//! those kept, the same by name, length and trailer, is not read again. So a rebuild that goes on ends as one that began
//! then would, and no place in the work has to be remembered: only that the rows are a rebuild's, by a row that comes
//! before them and goes with the tip that completes the catalog.

use crate::catalog::{Lookup, PackRow, Table};
use crate::engine::core::Core;
use crate::engine::error::Result;
use crate::format::PackRef;

/// Rows changed at a time.
const ROWS: usize = 512;

/// Whether the catalog is one that a rebuild was interrupted in. One that cannot be read is not: it goes as a whole.
pub(super) fn is_interrupted(core: &Core) -> bool {
    matches!(core.catalog.tip(), Ok(None)) && core.catalog.is_rebuilding().unwrap_or(false)
}

/// Forgets the catalog, for a rebuild to begin.
pub(super) fn begin(core: &Core) -> Result<()> {
    core.store_catalog.forget(core.secrets.repository())?;
    let mut tx = core.catalog.begin();
    tx.begin_rebuilding();
    Ok(tx.commit()?)
}

/// Forgets what an interrupted rebuild found but for the directories that it read. Can be interrupted as well.
pub(super) fn keep_read(core: &Core) -> Result<()> {
    // In this order: places of chunks must not outlive their packs.
    const OTHERS: [Table; 7] = [
        Table::Chunks,
        Table::Releases,
        Table::Objects,
        Table::PutIds,
        Table::PutOrder,
        Table::Heads,
        Table::Dirty,
    ];
    core.store_catalog.clear(core.secrets.repository(), &OTHERS)?;
    each_pack(core, |row, tx| {
        let number = row.name.number;
        if row.is_unreadable() {
            tx.remove_pack(number);
            tx.remove_entries(number);
        } else if !row.is_only_read() {
            let pack = PackRef {
                name: row.name,
                size: row.size,
                trailer_hash: row.trailer_hash,
            };
            tx.set_pack(&PackRow {
                condemned_at: PackRow::READ,
                ..PackRow::new(&pack, row.kind, row.log_number)
            });
        }
    })
}

/// Forgets directories that were kept and turned out to be of packs that are not on the log any more.
pub(super) fn drop_unused(core: &Core) -> Result<()> {
    each_pack(core, |row, tx| {
        if row.is_only_read() {
            tx.remove_pack(row.name.number);
            tx.remove_entries(row.name.number);
        }
    })
}

fn each_pack(core: &Core, change: impl Fn(&PackRow, &mut crate::catalog::Transaction)) -> Result<()> {
    let mut after = None;
    loop {
        let page = core.catalog.packs_page(after, ROWS)?;
        let Some(last) = page.last() else { return Ok(()) };
        after = Some(last.name.number);
        let mut tx = core.catalog.begin();
        page.iter().for_each(|row| change(row, &mut tx));
        if !tx.is_empty() {
            tx.commit()?;
        }
    }
}
