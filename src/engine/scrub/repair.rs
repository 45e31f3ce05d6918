//! What has a good copy is written anew from it.

use bytes::Bytes;

use super::tables::Damaged;
use super::walk::Walk;
use crate::engine::error::{Error, Reason, Result};
use crate::engine::keyrings::restore_copies;
use crate::engine::repository::Repository;
use crate::format::marker::Metadata;
use crate::format::names::METADATA;

/// A keyring from its other copy, `metadata.yaml` from what the keyring says. The secrets in use were opened from this
/// very generation.
pub(super) async fn small_files(repository: &Repository, walk: &Walk<'_>) -> Result<()> {
    let damaged = walk.progress.report().damage;
    if !walk.options.repair || damaged.is_empty() {
        return Ok(());
    }
    let secrets = &repository.core().secrets;
    match restore_copies(&walk.backend, secrets.repository(), secrets.generation()).await {
        Ok(paths) => paths.iter().for_each(|path| walk.progress.repaired(path)),
        Err(error) => not_repaired(&error),
    }
    if damaged.iter().any(|damage| damage.path == METADATA) {
        let metadata = Metadata {
            store_id: secrets.parameters().store_id,
            created: jiff::Timestamp::now().to_string(),
        };
        match walk.backend.put(METADATA, Bytes::from(metadata.encode())).await {
            Ok(()) => walk.progress.repaired(METADATA),
            Err(error) => not_repaired(&error.into()),
        }
    }
    Ok(())
}

/// Checkpoints from the catalog: two new ones, so that none of those that are kept refers to what is damaged.
///
/// Only by who writes this repository anyway: on a bucket, writing would end the epoch of the agent that does.
pub(super) async fn checkpoints(repository: &Repository, walk: &Walk<'_>, damaged: Damaged) -> Result<()> {
    if !walk.options.repair || damaged.paths.is_empty() {
        return Ok(());
    }
    if !walk.backend.is_volume() && !repository.has_writer().await {
        return Ok(());
    }
    match repository.write_checkpoints(&damaged.parts).await {
        Ok(()) => damaged.paths.iter().for_each(|path| walk.progress.repaired(path)),
        Err(error) if error.reason() == Reason::KeysUnavailable => return Err(error),
        Err(error) => not_repaired(&error),
    }
    Ok(())
}

fn not_repaired(error: &Error) {
    tracing::warn!(%error, "what is damaged could not be written anew from its good copy");
}
