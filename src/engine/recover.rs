//! Bringing the catalog to the end of the log: at every open, and again when an epoch has been taken.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use super::core::Core;
use super::error::{Reason, Result};
use super::log::rebuild::{self, RebuildProgress};
use super::log::replay::{Continuation, LogEntry, Survey, apply_entries, find_beyond, introduced, survey};
use super::log::salvage::{Salvage, follow_gaps};
use super::packs::read_directory;
use crate::backend::ErrorKind;
use crate::catalog::{Lookup, TipRow};
use crate::format::{Hash32, PackName, Tip};

/// Applies what the catalog has not seen, for reading.
pub(crate) async fn catch_up(core: &Arc<Core>) -> Result<TipRow> {
    Ok(follow(core).await?.0)
}

/// Applies what others wrote since the catalog's tip. Damage is nobody's writing: a log that ends before the tip, or that
/// cannot be read behind it, leaves the catalog as it is.
pub(crate) async fn follow_others(core: &Arc<Core>) -> Result<()> {
    let tip = core.catalog.tip()?.unwrap_or_default();
    let followed = match find_beyond(core, tip.tip.as_ref()).await {
        Ok(Continuation::Unbroken(beyond)) if beyond.entries.is_empty() => return Ok(()),
        Ok(_) => catch_up(core).await.map(drop),
        Err(error) => Err(error),
    };
    match followed {
        Err(error) if error.reason() == Reason::DataLoss => Ok(()),
        followed => followed,
    }
}

/// Adopts the log for a new owner: after this, all that it says is durable, and packs that are not on it are named.
///
/// What a former process acknowledged was durable when it did, and the catalog records how far that goes. What lies
/// beyond may have been read from the page cache only: it is written again. (Writing anew is the only sure way; after
/// a failed fsync the kernel may call the same pages clean.)
pub(crate) async fn adopt(core: &Arc<Core>) -> Result<(TipRow, Vec<PackName>)> {
    core.backend.sync().await?;
    let (mut tip, mut strays, doubtful) = follow(core).await?;
    if core.is_salvaging() {
        // Commits that nobody can read may have introduced them.
        strays.clear();
    }
    let mut unknown = Vec::new();
    for name in strays {
        // Whatever the listing says: what the catalog knows is on the log.
        if core.catalog.pack(name.number)?.is_none_or(|row| row.name != name) {
            unknown.push(name);
        }
    }
    strays = unknown;
    for name in doubtful {
        core.backend.rewrite(&core.layout.pack(&name)).await?;
    }
    // A reclaim that began under a former writer may have changed the totals since.
    let _applying = core.apply.lock().await;
    tip = core.catalog.tip()?.unwrap_or(tip);
    if tip.durable_log_number < tip.log_number() {
        tip.durable_log_number = tip.log_number();
        let mut tx = core.catalog.begin();
        tx.set_tip(&tip);
        tx.commit()?;
    }
    Ok((tip, strays))
}

/// Applies what follows the catalog's tip. Returns the new tip, packs off the log, and packs on it that are not known
/// to be durable.
async fn follow(core: &Arc<Core>) -> Result<(TipRow, Vec<PackName>, Vec<PackName>)> {
    let _applying = core.apply.lock().await;
    let mut tip = core.catalog.tip()?;
    if tip.is_some() && core.catalog.is_rebuilding()? && !core.is_salvaging() {
        tracing::warn!("a salvage was interrupted; making its catalog anew");
        core.store_catalog.forget(core.secrets.repository())?;
        tip = None;
    }
    let fresh = tip.is_none();
    let tip = tip.unwrap_or_default();
    if fresh && rebuild::is_worthwhile(core).await? {
        return rebuilt(core).await;
    }
    match continuation(core, tip.tip.as_ref()).await? {
        Continuation::Unbroken(beyond) => {
            let mut doubtful = doubtful(&beyond.entries);
            match apply_entries(core, tip, beyond.entries).await? {
                Some(tip) => {
                    if doubtful.is_empty() && tip.durable_log_number < tip.log_number() {
                        // Applied by a reader before: the tip's packs were never written by a process that said so.
                        doubtful = tip_packs(core, &tip).await?;
                    }
                    Ok((tip, beyond.strays, doubtful))
                }
                None => rebuilt(core).await,
            }
        }
        Continuation::Elsewhere => made_anew(core, &tip).await,
    }
}

/// What follows the catalog's tip. That nothing does says little: the tip itself may be gone, with all that came after it.
async fn continuation(core: &Core, tip: Option<&Tip>) -> Result<Continuation> {
    let found = find_beyond(core, tip).await?;
    let (Some(tip), Continuation::Unbroken(beyond)) = (tip, &found) else {
        return Ok(found);
    };
    if !beyond.entries.is_empty() {
        return Ok(found);
    }
    match core.backend.size(&core.layout.pack(&tip.pack)).await {
        Ok(_) => Ok(found),
        Err(error) if error.kind() == ErrorKind::NotFound && core.is_given_up(&tip.pack) => Ok(found),
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(Continuation::Elsewhere),
        Err(error) => Err(error.into()),
    }
}

/// Brings the catalog to the end of a log that lacks commits, and says what it had to go on without. The catalog is the
/// best witness there is: where the log continues it, nothing that it knows is lost.
pub(crate) async fn salvage(core: &Arc<Core>) -> Result<Salvage> {
    core.salvaging.store(true, Ordering::Release);
    if let Some(salvage) = salvage_beyond_catalog(core).await? {
        return Ok(salvage);
    }
    let _applying = core.apply.lock().await;
    rebuild::salvage(core).await
}

/// None if the catalog and what can be read of the log do not fit together.
async fn salvage_beyond_catalog(core: &Arc<Core>) -> Result<Option<Salvage>> {
    if core.catalog.is_rebuilding()? {
        return Ok(None);
    }
    let Some(tip) = core.catalog.tip()?.and_then(|tip| tip.tip) else {
        return Ok(None);
    };
    let Survey {
        commits, unreadable, ..
    } = survey(core, Some(&tip)).await?;
    let readable = follow_gaps(commits, Some(&tip));
    let first = readable.entries.first().map(|entry| entry.section().previous);
    if !readable.lost.is_empty() || first.is_some_and(|previous| previous != tip.trailer_hash) {
        return Ok(None);
    }
    let is_introduced = |name: &PackName| {
        let mut packs = readable.entries.iter().flat_map(|entry| introduced(entry.section()));
        packs.any(|pack| pack.name == *name)
    };
    let mut given_up: Vec<_> = unreadable.into_iter().map(|(name, _)| name).collect();
    given_up.retain(|name| !is_introduced(name));
    match read_directory(core, &tip.pack).await {
        Err(error) if error.reason() == Reason::DataLoss => given_up.push(tip.pack),
        read => drop(read?),
    }
    let salvage = Salvage {
        given_up: given_up.iter().map(|name| core.layout.pack(name)).collect(),
        ..Salvage::default()
    };
    core.given_up.lock().extend(given_up);
    match follow(core).await {
        Ok(_) => Ok(Some(salvage)),
        Err(error) if error.reason() == Reason::DataLoss => Ok(None),
        Err(error) => Err(error),
    }
}

/// Makes the catalog anew from a store whose log does not contain its tip, and finds out whether that is a loss.
async fn made_anew(core: &Arc<Core>, former: &TipRow) -> Result<(TipRow, Vec<PackName>, Vec<PackName>)> {
    tracing::warn!("the catalog does not belong to the log of the store; making it anew");
    // What lies above was perhaps only seen in the page cache, and acknowledged by nobody.
    let seen = former.durable_log_number;
    let head = core.catalog.head(seen)?;
    let rebuilt = rebuilt(core).await?;
    if head.is_some() && lacks(core, seen, head)? {
        let line = "the store lacks a commit that was durable: it was set back or replaced";
        tracing::error!(commit = seen, "{line}");
        core.rolled_back.store(true, Ordering::Relaxed);
    }
    Ok(rebuilt)
}

/// Whether the log, as the catalog has it now, does not contain the commit with this number and the head after it. One
/// that is older than the heads that are kept may well be there.
fn lacks(core: &Core, log_number: u64, head: Option<Hash32>) -> Result<bool> {
    let newest = core.catalog.tip()?.unwrap_or_default().log_number();
    let found = core.catalog.head(log_number)?;
    Ok(found != head && (found.is_some() || newest < log_number))
}

async fn rebuilt(core: &Arc<Core>) -> Result<(TipRow, Vec<PackName>, Vec<PackName>)> {
    let rebuilt = rebuild::run(core, &RebuildProgress::default()).await?;
    let doubtful = tip_packs(core, &rebuilt.tip).await?;
    Ok((rebuilt.tip, rebuilt.strays, doubtful))
}

async fn tip_packs(core: &Arc<Core>, tip: &TipRow) -> Result<Vec<PackName>> {
    let Some(newest) = tip.tip.filter(|tip| !core.is_given_up(&tip.pack)) else {
        return Ok(Vec::new());
    };
    let (pack, directory) = read_directory(core, &newest.pack).await?;
    Ok(doubtful(&[LogEntry { pack, directory }]))
}

/// The packs of the newest entry. Those of the ones before are durable: each was, before the next was put.
fn doubtful(entries: &[LogEntry]) -> Vec<PackName> {
    let mut packs = Vec::new();
    if let Some(newest) = entries.last() {
        packs.extend(introduced(newest.section()).iter().map(|pack| pack.name));
        packs.push(newest.pack.name);
    }
    packs
}
