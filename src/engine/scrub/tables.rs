//! Checkpoints: those that a rebuild would start from are whole, and on the log.

use super::report::Remedy;
use super::walk::Walk;
use crate::catalog::{DirtyKey, Lookup};
use crate::engine::core::Core;
use crate::engine::error::{Error, Reason, Result};
use crate::engine::log::checkpoint::{read_objects, read_packs, read_root};
use crate::format::{CheckpointName, CheckpointRoot, PackNumber, SegmentRef};

/// Damage to checkpoints: which parts of the tables have to be written anew.
#[derive(Default)]
pub(super) struct Damaged {
    pub(super) paths: Vec<String>,
    pub(super) parts: Vec<DirtyKey>,
}

/// Checks the checkpoints that are kept.
pub(super) async fn check(core: &Core, walk: &Walk<'_>) -> Result<Damaged> {
    let mut damaged = Damaged::default();
    let mut seen: Vec<CheckpointName> = Vec::new();
    for slot in [0, 1] {
        // A new checkpoint may take the place of the ones before at any time.
        let Some((name, _)) = core.catalog.tip()?.unwrap_or_default().checkpoints[slot] else {
            continue;
        };
        if seen.contains(&name) {
            continue;
        }
        seen.push(name);
        check_checkpoint(core, walk, &name, &mut seen, &mut damaged).await?;
    }
    Ok(damaged)
}

async fn check_checkpoint(
    core: &Core,
    walk: &Walk<'_>,
    name: &CheckpointName,
    seen: &mut Vec<CheckpointName>,
    damaged: &mut Damaged,
) -> Result<()> {
    let path = core.layout.checkpoint(name);
    let size = core.backend.size(&path).await.unwrap_or(0);
    walk.spend(size).await;
    walk.progress.update(|report| report.stored_objects += 1);
    let root = match read_root(core, name).await {
        Ok(root) => root,
        Err(error) => return note(core, walk, name, &path, 0..size, error, damaged),
    };
    check_root(core, walk, &path, &root)?;
    let objects = root.object_segments.iter().map(|segment| (segment, true));
    let packs = root.pack_segments.iter().map(|segment| (segment, false));
    for (segment, is_objects) in objects.chain(packs) {
        // Segments are shared: what the newer checkpoint refers to was checked with it.
        if seen.contains(&segment.name) {
            continue;
        }
        seen.push(segment.name);
        walk.spend(segment.length).await;
        walk.progress.update(|report| report.stored_objects += 1);
        let checked = match is_objects {
            true => check_objects(core, segment).await,
            false => read_packs(core, segment).await.map(drop),
        };
        let Err(error) = checked else { continue };
        let path = core.layout.checkpoint(&segment.name);
        note(core, walk, name, &path, 0..segment.length, error, damaged)?;
        damaged.parts.push(first_part(segment, is_objects));
    }
    Ok(())
}

async fn check_objects(core: &Core, segment: &SegmentRef) -> Result<()> {
    let rows = read_objects(core, segment).await?.rows;
    let is_in_range = |name| segment.range.contains(&core.catalog.object_key(name));
    match rows.iter().all(|row| is_in_range(&row.name)) {
        true => Ok(()),
        false => Err(Error::data_loss("an object stands in a segment it does not belong to")),
    }
}

/// The state it was written at is the one that the catalog remembers of the log.
fn check_root(core: &Core, walk: &Walk<'_>, path: &str, root: &CheckpointRoot) -> Result<()> {
    let head = core.catalog.head(root.tip.log_number)?;
    if head.is_some_and(|head| head != root.head) {
        walk.contradicted(format!("{path} was not written at a state of this log"));
    }
    Ok(())
}

/// Reports damage, unless the checkpoint has been replaced meanwhile.
fn note(
    core: &Core,
    walk: &Walk<'_>,
    root: &CheckpointName,
    path: &str,
    range: std::ops::Range<u64>,
    error: Error,
    damaged: &mut Damaged,
) -> Result<()> {
    if error.reason() != Reason::DataLoss {
        return Err(error);
    }
    let kept = core.catalog.tip()?.unwrap_or_default().checkpoints;
    if !kept.iter().flatten().any(|(name, _)| name == root) {
        walk.progress.update(|report| report.vanished += 1);
        return Ok(());
    }
    walk.found(path, range, error.to_string(), Remedy::None);
    damaged.paths.push(path.to_owned());
    Ok(())
}

/// A part of the table that lies in the segment's range. Marked as changed, it has the whole segment written anew.
fn first_part(segment: &SegmentRef, is_objects: bool) -> DirtyKey {
    let first = segment.range.first();
    match is_objects {
        true => DirtyKey::of_object(&first),
        false => DirtyKey::of_pack(PackNumber::from_bytes(first)),
    }
}
