//! Quarantine: a blob that cannot be relied on is not offered for dedupe, so that the next put of the same bytes stores
//! it again. Reads still try it: what was restored from a copy is whole again at once.

use crate::catalog::Lookup;
use crate::codec::ChunkId;
use crate::engine::core::Core;
use crate::engine::error::Result;
use crate::format::PackNumber;

/// Blobs marked in one transaction.
const BATCH: usize = 1024;

/// Quarantines those of `blobs`, each with its index among the pack's entries, whose present place this is. How many
/// were not quarantined before.
pub(crate) async fn quarantine(core: &Core, pack: PackNumber, blobs: &[(ChunkId, u32)]) -> Result<u64> {
    quarantine_if(core, pack, blobs, &|| true).await
}

/// As [`quarantine`], unless `is_current` says that the catalog is not the one any more in which their places were found.
pub(super) async fn quarantine_if(
    core: &Core,
    pack: PackNumber,
    blobs: &[(ChunkId, u32)],
    is_current: &(dyn Fn() -> bool + Sync),
) -> Result<u64> {
    let marked = mark(core, pack, blobs, true, is_current).await?;
    core.counters.chunks_quarantined.add(marked);
    Ok(marked)
}

/// Lets them out again: they were found whole.
pub(crate) async fn release(
    core: &Core,
    pack: PackNumber,
    blobs: &[(ChunkId, u32)],
    is_current: &(dyn Fn() -> bool + Sync),
) -> Result<u64> {
    mark(core, pack, blobs, false, is_current).await
}

async fn mark(
    core: &Core,
    pack: PackNumber,
    blobs: &[(ChunkId, u32)],
    quarantined: bool,
    is_current: &(dyn Fn() -> bool + Sync),
) -> Result<u64> {
    let mut marked = 0;
    for blobs in blobs.chunks(BATCH) {
        let _applying = core.apply.lock().await;
        if !is_current() {
            return Ok(marked);
        }
        let Some(mut row) = core.catalog.pack(pack)?.filter(|row| !row.is_unreadable()) else {
            return Ok(marked);
        };
        let mut tx = core.catalog.begin();
        for (id, index) in blobs {
            let Some(mut chunk) = tx.chunk(id)? else { continue };
            if (chunk.pack, chunk.index) != (pack, *index) || chunk.quarantined == quarantined {
                continue;
            }
            chunk.quarantined = quarantined;
            row.damaged = match quarantined {
                true => row.damaged + 1,
                false => row.damaged.saturating_sub(1),
            };
            tx.set_chunk(&chunk);
            marked += 1;
        }
        if tx.is_empty() {
            continue;
        }
        tx.set_pack(&row);
        let _places = core.places.write();
        tx.commit()?;
        blobs.iter().for_each(|(id, _)| core.locality.forget_chunk(id));
    }
    Ok(marked)
}
