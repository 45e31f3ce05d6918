//! Space comes back: what deleted objects held is released, and packs in which nothing is left are dropped.
//!
//! Puts and gets go on meanwhile. The order for a pack: a record condemns it (from that decision on lookup does not
//! know it), a checkpoint covers the record, the catalog is made durable, the owners are listed once more, the pack is
//! deleted. Whatever is interrupted is taken up by the next run.

use crate::catalog::{Lookup, PackRow, ReleaseRow};
use crate::engine::core::Core;
use crate::engine::error::{Reason, Result};
use crate::engine::log::apply::Change;
use crate::engine::log::ownership::check_fence;
use crate::engine::log::rebuild::read_manifest_children;
use crate::engine::log::requests::Request;
use crate::engine::repository::{Repository, WriteAccess};
use crate::format::names::parse_pack;
use crate::format::{PackKind, PackName, PackNumber};

/// Packs condemned by one record.
const CONDEMN_MAX: usize = 4096;
/// Rows read at a time.
const PAGE: usize = 1024;

/// How to reclaim.
#[derive(Clone, Copy, Debug, Default)]
pub struct ReclaimOptions {
    /// Only tell what would be dropped now.
    pub dry_run: bool,
}

/// What a run gave back.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Reclaimed {
    /// Packs deleted, or that would be.
    pub packs_dropped: u64,
    /// Packs rewritten to drop the garbage in them; none in this version.
    pub packs_rewritten: u64,
    /// Bytes of the packs deleted.
    pub freed_bytes: u64,
}

/// Reclaims what can be reclaimed now.
pub(crate) async fn run(repository: &Repository, options: ReclaimOptions) -> Result<Reclaimed> {
    let core = repository.core().clone();
    if options.dry_run {
        return count(&core);
    }
    let access = repository.write_access().await?;
    release_all(&core).await?;
    checkpoint_past_dead_commits(&core, &access).await?;
    let mut dead = dead_packs(&core)?;
    if !is_worth_a_commit(&dead) {
        dead.clear();
    }
    for packs in dead.chunks(CONDEMN_MAX) {
        let packs = packs.iter().map(|row| row.name.number).collect();
        access.ask(|reply| Request::Condemn { packs, reply }).await?;
    }
    let mut reclaimed = drop_condemned(&core, &access).await?;
    sweep_strays(&core, &access, &mut reclaimed).await?;
    Ok(reclaimed)
}

#[cfg(any(test, feature = "testkit"))]
impl Repository {
    /// The first step of [`reclaim`](Self::reclaim) alone: what deleted objects held is released. A rebuild counts as if
    /// that had just happened.
    #[doc(hidden)]
    pub async fn release(&self) -> Result<()> {
        release_all(self.core()).await
    }
}

/// What a run would find dead at once. Deletes whose release is still due are not looked through.
fn count(core: &Core) -> Result<Reclaimed> {
    let mut reclaimed = Reclaimed::default();
    for row in packs(core, |row| row.is_dead() || row.condemned_at != 0)? {
        reclaimed.packs_dropped += 1;
        reclaimed.freed_bytes += row.size;
    }
    Ok(reclaimed)
}

/// Releases the children of every manifest that nothing refers to. Releasing a root may queue its leaves, so this goes
/// on until nothing is left but what is held.
async fn release_all(core: &Core) -> Result<()> {
    loop {
        let mut released = 0;
        for row in core.catalog.releases_page(PAGE)? {
            released += usize::from(release(core, &row).await?);
        }
        if released == 0 {
            return Ok(());
        }
    }
}

/// Releases one manifest, unless it is in use again or its pack is held. True if it is gone from the queue.
async fn release(core: &Core, queued: &ReleaseRow) -> Result<bool> {
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

fn dissolve(core: &Core, queued: &ReleaseRow, children: &[crate::codec::ChunkId]) -> Result<bool> {
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

/// Commit packs may only go once they lie below the second-newest checkpoint. If dead ones lie above it, checkpoints
/// are written until they do not; segments that did not change cost nothing.
async fn checkpoint_past_dead_commits(core: &Core, access: &WriteAccess) -> Result<()> {
    for _ in 0..2 {
        let tip = core.catalog.tip()?.unwrap_or_default();
        let (newest, kept_from) = (tip.log_number(), tip.kept_from());
        let blocked = packs(core, |row| {
            is_idle(row) && row.kind == PackKind::Commit && row.log_number < newest
        })?
        .iter()
        .any(|row| row.log_number >= kept_from);
        if !blocked {
            return Ok(());
        }
        access.ask(|reply| Request::Checkpoint { reply }).await?;
    }
    Ok(())
}

/// Packs that hold nothing in use and that the log can do without. One that could not be read counts as in use as long as
/// something is missing: it may be in there, and the pack may be restored.
fn dead_packs(core: &Core) -> Result<Vec<PackRow>> {
    let kept_from = core.catalog.tip()?.unwrap_or_default().kept_from();
    let is_missing_something = !packs(core, |row| row.is_unreadable() && !row.is_dead())?.is_empty();
    packs(core, |row| {
        is_idle(row)
            && (row.kind == PackKind::Chunk || row.log_number < kept_from)
            && !(row.is_unreadable() && is_missing_something)
    })
}

/// Dropping packs takes a commit, which one day is a dead pack itself: for a few small ones it gains nothing.
fn is_worth_a_commit(dead: &[PackRow]) -> bool {
    const FEW: usize = 16;
    const SMALL: u64 = 64 * 1024;
    dead.len() >= FEW || dead.iter().any(|row| row.kind == PackKind::Chunk || row.size > SMALL)
}

fn is_idle(row: &PackRow) -> bool {
    row.is_dead() && row.condemned_at == 0
}

fn packs(core: &Core, wanted: impl Fn(&PackRow) -> bool) -> Result<Vec<PackRow>> {
    let mut found = Vec::new();
    let mut after = None;
    loop {
        let page = core.catalog.packs_page(after, PAGE)?;
        let Some(last) = page.last() else {
            return Ok(found);
        };
        after = Some(last.name.number);
        found.extend(page.into_iter().filter(&wanted));
    }
}

/// Deletes packs that a durable record condemns and a checkpoint has forgotten.
async fn drop_condemned(core: &Core, access: &WriteAccess) -> Result<Reclaimed> {
    let mut reclaimed = Reclaimed::default();
    let condemned = packs(core, |row| row.condemned_at != 0)?;
    if condemned.is_empty() {
        return Ok(reclaimed);
    }
    access.ask(|reply| Request::Checkpoint { reply }).await?;
    let tip = core.catalog.tip()?.unwrap_or_default();
    let covered = tip.checkpoints[0].as_ref().map_or(0, |(_, log_number)| *log_number);
    core.store_catalog.persist()?;
    check_fence(core, access.epoch).await?;
    for row in condemned.iter().filter(|row| row.condemned_at <= covered) {
        core.backend.delete(&core.layout.pack(&row.name)).await?;
        forget(core, row.name.number).await?;
        core.counters.dropped(row.size);
        reclaimed.packs_dropped += 1;
        reclaimed.freed_bytes += row.size;
    }
    Ok(reclaimed)
}

async fn forget(core: &Core, pack: PackNumber) -> Result<()> {
    let _applying = core.apply.lock().await;
    let mut tx = core.catalog.begin();
    tx.remove_pack(pack);
    tx.commit()?;
    Ok(())
}

/// Deletes packs of former epochs that the log does not know: what a killed writer left, or what arrived too late.
async fn sweep_strays(core: &Core, access: &WriteAccess, reclaimed: &mut Reclaimed) -> Result<()> {
    let mut strays: Vec<(PackName, u64)> = Vec::new();
    for file in core.backend.list(&core.layout.packs_prefix(), None).await? {
        let Some(name) = parse_pack(&file.path) else {
            continue;
        };
        if name.number.epoch < access.epoch && core.catalog.pack(name.number)?.is_none_or(|row| row.name != name) {
            strays.push((name, file.size));
        }
    }
    if strays.is_empty() {
        return Ok(());
    }
    // The epoch is closed once this one is on the log: a commit of ours says so.
    access.ask(|reply| Request::Checkpoint { reply }).await?;
    if !is_open(core, access.epoch)? {
        return Ok(());
    }
    check_fence(core, access.epoch).await?;
    for (name, size) in strays {
        core.backend.delete(&core.layout.pack(&name)).await?;
        core.counters.dropped(size);
        reclaimed.packs_dropped += 1;
        reclaimed.freed_bytes += size;
    }
    Ok(())
}

/// Whether the newest commit is of this epoch.
fn is_open(core: &Core, epoch: u64) -> Result<bool> {
    let tip = core.catalog.tip()?.unwrap_or_default();
    Ok(tip.tip.is_some_and(|tip| tip.pack.number.epoch == epoch))
}
