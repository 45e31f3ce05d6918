//! What a reader of the copy begins with: checkpoints and the newest owner file. Copied as they are.

use std::collections::BTreeSet;

use bytes::Bytes;

use super::report::{EvacuateProgress, Lost};
use super::target::Target;
use crate::backend::ErrorKind;
use crate::catalog::Lookup;
use crate::engine::core::Core;
use crate::engine::error::{Error, Reason, Result};
use crate::engine::log::checkpoint::{is_newest, read_root, roots};
use crate::format::names::{parse_checkpoint, parse_owner};
use crate::format::{CheckpointName, SegmentRef};

/// Checkpoints that are kept.
const KEPT: usize = 2;

/// The checkpoints that are copied, and what could not be read of them is told. Returns their files.
pub(super) async fn copy_checkpoints(
    core: &Core,
    target: &Target,
    progress: &EvacuateProgress,
) -> Result<BTreeSet<CheckpointName>> {
    let mut copied = BTreeSet::new();
    for name in kept(core).await? {
        let root = match read_root(core, &name).await {
            Ok(root) => root,
            Err(error) if error.reason() == Reason::DataLoss => {
                unreadable(core, progress, &name, &error);
                continue;
            }
            Err(error) => return Err(error),
        };
        let segments = root.object_segments.iter().chain(&root.pack_segments);
        for segment in segments {
            if !copied.contains(&segment.name) && copy_segment(core, target, progress, segment).await? {
                copied.insert(segment.name);
            }
        }
        // Behind what it refers to.
        let path = core.layout.checkpoint(&name);
        target.backend.put(&path, core.backend.get(&path).await?).await?;
        copied.insert(name);
    }
    Ok(copied)
}

/// The two newest, as the catalog knows them; as the store shows them if they are not of the end of the log.
async fn kept(core: &Core) -> Result<Vec<CheckpointName>> {
    let tip = core.catalog.tip()?.unwrap_or_default();
    if is_newest(core, &tip).await {
        return Ok(tip.checkpoints.iter().flatten().map(|(name, _)| *name).collect());
    }
    let mut names = roots(core).await?;
    names.truncate(KEPT);
    Ok(names)
}

/// Whether it could be read.
async fn copy_segment(core: &Core, target: &Target, progress: &EvacuateProgress, segment: &SegmentRef) -> Result<bool> {
    let path = core.layout.checkpoint(&segment.name);
    let read: Result<Bytes> = core.backend.get(&path).await.map_err(Into::into);
    let read = read.and_then(|bytes| match segment.matches(&bytes) {
        true => Ok(bytes),
        false => Err(Error::data_loss(format!(
            "{path}: it is not the segment that its checkpoint lists"
        ))),
    });
    match read {
        Ok(bytes) => {
            target.backend.put(&path, bytes).await?;
            Ok(true)
        }
        Err(error) if error.reason() == Reason::DataLoss => {
            unreadable(core, progress, &segment.name, &error);
            Ok(false)
        }
        Err(error) => Err(error),
    }
}

fn unreadable(core: &Core, progress: &EvacuateProgress, name: &CheckpointName, error: &Error) {
    progress.lost(Lost {
        repository: core.secrets.repository(),
        path: core.layout.checkpoint(name),
        offset: 0,
        length: 0,
        problem: error.to_string(),
        copied: false,
    });
}

/// Deletes checkpoint files at the target that are not among `kept`: runs that were interrupted copied them.
pub(super) async fn sweep_target(core: &Core, target: &Target, kept: &BTreeSet<CheckpointName>) -> Result<()> {
    for file in target.backend.list(&core.layout.checkpoints_prefix(), None).await? {
        if parse_checkpoint(&file.path).is_some_and(|name| !kept.contains(&name)) {
            target.backend.delete(&file.path).await?;
        }
    }
    Ok(())
}

/// Copies the file of this owner epoch, and takes away older ones that earlier runs copied. Its name is what counts.
pub(super) async fn copy_owner(core: &Core, target: &Target, epoch: u64) -> Result<()> {
    let path = core.layout.owner(epoch);
    let file = match core.backend.get(&path).await {
        Ok(file) => file,
        Err(error) if matches!(error.kind(), ErrorKind::Io | ErrorKind::Truncated) => Bytes::new(),
        Err(error) => return Err(error.into()),
    };
    target.backend.put(&path, file).await?;
    for file in target.backend.list(&core.layout.owners_prefix(), None).await? {
        if parse_owner(&file.path).is_some_and(|older| older < epoch) {
            target.backend.delete(&file.path).await?;
        }
    }
    Ok(())
}
