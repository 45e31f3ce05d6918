//! Is this chunk known? Asked for a slab at a time, before anything is compressed or sealed.
//!
//! The order is by cost: chunks on their way, the entries of packs hit lately, the catalog. A hit holds its pack
//! before it counts. What nobody knows is claimed: the caller stores it.

use std::sync::Arc;

use crate::catalog::{EntriesRow, Lookup};
use crate::codec::ChunkId;
use crate::engine::core::Core;
use crate::engine::counters::Found;
use crate::engine::error::Result;
use crate::engine::in_flight::{Holder, Known};
use crate::format::{BlobKind, PackNumber};

/// For each of `ids`: stored and held by `holder`, or new and claimed by it. An id that occurs twice is new once.
pub(crate) fn look_up(core: &Core, holder: &Holder, ids: &[ChunkId]) -> Result<Vec<Known>> {
    let _places = core.places.read();
    let known = look_up_with(core, holder, ids, |pack| load_locality(core, pack).map(|()| true))?;
    Ok(known.expect("nothing is left out"))
}

/// As [`look_up`], by whoever has others to serve: none while a commit moves chunks, or if entries of a pack are to be loaded. Then
/// it is to be done once more, where that may take its time.
pub(crate) fn try_look_up(core: &Core, holder: &Holder, ids: &[ChunkId]) -> Result<Option<Vec<Known>>> {
    match core.places.try_read() {
        Some(_places) => look_up_with(core, holder, ids, |_| Ok(false)),
        None => Ok(None),
    }
}

/// `load` loads the entries of a pack. Where it says that it did not, nothing more is looked up, and nothing claimed.
fn look_up_with(
    core: &Core,
    holder: &Holder,
    ids: &[ChunkId],
    load: impl FnMut(PackNumber) -> Result<bool>,
) -> Result<Option<Vec<Known>>> {
    let mut known = vec![Known::New; ids.len()];
    holder.join(ids, &mut known);
    let joined = stored(&known);
    find_in_locality(core, holder, ids, &mut known);
    let Some(catalog) = find_in_catalog(core, holder, ids, &mut known, load)? else {
        return Ok(None);
    };
    let found = stored(&known);
    holder.claim(ids, &mut known);
    let found = Found {
        in_flight: joined + stored(&known) - found,
        locality: found - joined - catalog,
        catalog,
    };
    core.counters.looked_up(ids.len() as u64, found);
    Ok(Some(known))
}

fn stored(known: &[Known]) -> u64 {
    known.iter().filter(|known| **known == Known::Stored).count() as u64
}

fn find_in_locality(core: &Core, holder: &Holder, ids: &[ChunkId], known: &mut [Known]) {
    let mut places = Vec::with_capacity(ids.len());
    core.locality.find_many(ids, &mut places);
    for (place, known) in places.iter().zip(known) {
        if let (Known::New, Some((pack, _))) = (*known, place)
            && holder.pin(*pack)
        {
            *known = Known::Stored;
        }
    }
}

/// Returns how many were found in the tables themselves; none if `load` left something out.
fn find_in_catalog(
    core: &Core,
    holder: &Holder,
    ids: &[ChunkId],
    known: &mut [Known],
    mut load: impl FnMut(PackNumber) -> Result<bool>,
) -> Result<Option<u64>> {
    let mut found = 0;
    let mut loaded: Option<PackNumber> = None;
    for (index, id) in ids.iter().enumerate() {
        if known[index] == Known::Stored {
            continue;
        }
        let Some(row) = core.catalog.chunk(id)? else {
            continue;
        };
        if row.quarantined || core.catalog.released(&row)? > 0 || !holder.pin(row.pack) {
            continue;
        }
        known[index] = Known::Stored;
        found += 1;
        // Duplicates come in runs: the neighbours of this chunk are probably next.
        if row.kind == BlobKind::Data && loaded != Some(row.pack) {
            loaded = Some(row.pack);
            if !load(row.pack)? {
                return Ok(None);
            }
            find_in_locality(core, holder, &ids[index..], &mut known[index..]);
        }
    }
    Ok(Some(found))
}

fn load_locality(core: &Core, pack: PackNumber) -> Result<()> {
    if core.catalog_state().is_err() {
        // While the catalog is made anew, places change without the caches being told.
        return Ok(());
    }
    let (Some(row), Some(mut entries)) = (core.catalog.pack(pack)?, core.catalog.entries(pack)?) else {
        return Ok(());
    };
    if !row.is_whole() {
        keep_current(core, pack, &mut entries)?;
    }
    core.locality.insert(pack, Arc::new(entries));
    Ok(())
}

/// Drops entries whose chunk has its place in another pack: that pack is the one to hold.
fn keep_current(core: &Core, pack: PackNumber, entries: &mut EntriesRow) -> Result<()> {
    let mut kept = Vec::with_capacity(entries.entries.len());
    for entry in entries.entries.drain(..) {
        let row = core.catalog.chunk(&entry.id)?;
        if row.is_some_and(|row| row.pack == pack && !row.quarantined) {
            kept.push(entry);
        }
    }
    entries.entries = kept;
    Ok(())
}
