//! What deleted objects held is released: manifests that nothing refers to become unknown, their children lose a reference.
//!
//! Children go in steps, each a transaction that says how far it got, so that no commit waits long and an interruption
//! loses nothing. From the first step on the manifest is not found by puts or reads; if the same content is put meanwhile, it is
//! stored anew, and the children that were released already are counted again.

use super::PAGE;
use crate::catalog::{ChunkRow, Lookup, ReleaseRow};
use crate::codec::ChunkId;
use crate::engine::core::Core;
use crate::engine::error::{Reason, Result};
use crate::engine::log::apply::Change;
use crate::engine::log::rebuild::read_manifest_children;
use crate::engine::pace::Pace;

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
                released += usize::from(release(core, pace, &row).await?);
                step.rest().await;
            }
        }
        if released == 0 {
            return Ok(());
        }
    }
}

/// Releases one manifest, unless it is in use again or its pack is held. True if it is gone from the queue.
async fn release(core: &Core, pace: &Pace, queued: &ReleaseRow) -> Result<bool> {
    core.revocation.check()?;
    let Some(row) = core.catalog.chunk(&queued.id)? else {
        return dequeue(core, queued).await;
    };
    if row.count > 0 {
        return dequeue(core, queued).await;
    }
    let Some(children) = children(core, &row).await? else {
        return Ok(false);
    };
    loop {
        let step = pace.step();
        match dissolve(core, queued, &children).await? {
            Dissolved::Wholly => return Ok(true),
            Dissolved::NotNow => return Ok(false),
            Dissolved::InPart => step.rest().await,
        }
    }
}

/// What a manifest leads to; none if that cannot be told. That of others can be released, and a rebuild counts without it.
async fn children(core: &Core, row: &ChunkRow) -> Result<Option<Vec<ChunkId>>> {
    match read_manifest_children(core, row.pack, row.index).await {
        Ok(children) => Ok(Some(children)),
        Err(error) if error.reason() == Reason::DataLoss => {
            tracing::warn!(%error, "a removed object's manifest is damaged; what only it held stays until a rebuild");
            Ok(None)
        }
        Err(error) => Err(error),
    }
}

/// One step of a release, for tests that look at what is between two.
#[cfg(test)]
pub(crate) async fn release_step(core: &Core, queued: &ReleaseRow) -> Result<()> {
    if let Some(row) = core.catalog.chunk(&queued.id)?
        && let Some(children) = children(core, &row).await?
    {
        dissolve(core, queued, &children).await?;
    }
    Ok(())
}

/// What became of a manifest.
enum Dissolved {
    Wholly,
    /// Some of its children are released; it cannot be found any more.
    InPart,
    /// It is held, or in use again.
    NotNow,
}

/// Releases the next children of a manifest: all of them, or as many as commits should wait for.
async fn dissolve(core: &Core, queued: &ReleaseRow, children: &[ChunkId]) -> Result<Dissolved> {
    let _applying = core.apply.lock().await;
    let (Some(row), Some(tip)) = (core.catalog.chunk(&queued.id)?, core.catalog.tip()?) else {
        return Ok(Dissolved::NotNow);
    };
    // A put that looks this manifest up finds it and holds it before this, or finds it gone after.
    let _places = core.places.write();
    let released = core.catalog.released(&row)? as usize;
    let is_held = released == 0 && core.in_flight.is_held(row.pack);
    if row.count > 0 || is_held {
        return Ok(Dissolved::NotNow);
    }
    let mut change = Change::begin(core, tip.stats);
    let end = released.saturating_add(core.options.release_children_max.max(1));
    let dissolved = match end < children.len() {
        true => {
            change.dissolve_part(&row, children, released..end)?;
            Dissolved::InPart
        }
        false => {
            change.dissolve(&row, children.get(released..).unwrap_or_default())?;
            Dissolved::Wholly
        }
    };
    change.finish(core, tip)?;
    Ok(dissolved)
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
