//! What deleted objects held is released: manifests that nothing refers to become unknown, their children lose a reference.

use super::PAGE;
use super::pace::Pace;
use crate::catalog::{Lookup, ReleaseRow};
use crate::codec::ChunkId;
use crate::engine::core::Core;
use crate::engine::error::{Reason, Result};
use crate::engine::log::apply::Change;
use crate::engine::log::rebuild::read_manifest_children;

/// Releases the children of every manifest that nothing refers to. Releasing a root may queue its leaves, so this goes
/// on until nothing is left but what is held.
pub(super) async fn release_all(core: &Core, pace: &Pace) -> Result<()> {
    loop {
        let (mut released, mut after) = (0, None);
        loop {
            let page = core.catalog.releases_page(after.as_ref(), PAGE)?;
            let Some(last) = page.last() else { break };
            after = Some(last.id);
            for row in page {
                let step = pace.step();
                released += usize::from(release(core, &row).await?);
                step.rest().await;
            }
        }
        if released == 0 {
            return Ok(());
        }
    }
}

/// Releases one manifest, unless it is in use again or its pack is held. True if it is gone from the queue.
async fn release(core: &Core, queued: &ReleaseRow) -> Result<bool> {
    core.revocation.check()?;
    let Some(row) = core.catalog.chunk(&queued.id)? else {
        return dequeue(core, queued).await;
    };
    if row.count > 0 {
        return dequeue(core, queued).await;
    }
    let children = match read_manifest_children(core, row.pack, row.index).await {
        Ok(children) => children,
        // What it held cannot be told; that of others can be released. A rebuild counts without it.
        Err(error) if error.reason() == Reason::DataLoss => {
            tracing::warn!(%error, "a removed object's manifest is damaged; what only it held stays until a rebuild");
            return Ok(false);
        }
        Err(error) => return Err(error),
    };
    let _applying = core.apply.lock().await;
    dissolve(core, queued, &children)
}

fn dissolve(core: &Core, queued: &ReleaseRow, children: &[ChunkId]) -> Result<bool> {
    let (Some(row), Some(tip)) = (core.catalog.chunk(&queued.id)?, core.catalog.tip()?) else {
        return Ok(false);
    };
    // A put that looks this manifest up finds it and holds it before this, or finds it gone after.
    let _places = core.places.write();
    if row.count > 0 || core.in_flight.is_held(row.pack) {
        return Ok(false);
    }
    let mut change = Change::begin(core, tip.stats);
    change.dissolve(&row, children)?;
    change.finish(core, tip)?;
    Ok(true)
}

/// Takes a manifest out of the queue that is gone or in use again. Looks once more, now that nothing else changes: it
/// may have been queued anew since.
async fn dequeue(core: &Core, queued: &ReleaseRow) -> Result<bool> {
    let _applying = core.apply.lock().await;
    if core.catalog.chunk(&queued.id)?.is_some_and(|row| row.count == 0) {
        return Ok(false);
    }
    let mut tx = core.catalog.begin();
    tx.remove_release(&queued.id);
    tx.commit()?;
    Ok(true)
}
