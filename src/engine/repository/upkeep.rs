//! Work on a repository as a whole: its space, its catalog, its totals.

use std::sync::atomic::Ordering;

use super::Repository;
use super::writer::is_done_once_more;
use crate::catalog::{DirtyKey, Lookup, Stats};
use crate::codec::RepositoryId;
use crate::engine::error::{Error, Reason, Result};
use crate::engine::log::rebuild::{self, RebuildProgress};
use crate::engine::log::requests::Request;
use crate::engine::reclaim::{self, ReclaimOptions, Reclaimed};
use crate::format::Hash32;

/// Totals of a repository.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RepositoryStatus {
    /// Its name.
    pub name: String,
    /// Its id.
    pub id: RepositoryId,
    /// Objects.
    pub objects: u64,
    /// Chunks in use.
    pub chunks: u64,
    /// Packs in the store.
    pub packs: u64,
    /// Bytes as written by callers.
    pub logical_bytes: u64,
    /// Bytes after deduplication.
    pub unique_bytes: u64,
    /// Bytes of packs in the store, after compression and sealing.
    pub stored_bytes: u64,
    /// Bytes of blobs in packs that nothing refers to any more.
    pub garbage_bytes: u64,
    /// Number of the newest commit.
    pub log_number: u64,
    /// Hash over the whole log.
    pub head: Hash32,
}

impl Repository {
    /// Gives back space: releases what deleted objects held and drops packs in which nothing is left. Puts and gets go
    /// on meanwhile.
    pub async fn reclaim(&self, options: ReclaimOptions) -> Result<Reclaimed> {
        self.core().revocation.check()?;
        let _alone = self.inner.housekeeping.lock().await;
        match reclaim::run(self, options).await {
            Err(error) if is_done_once_more(&error) => reclaim::run(self, options).await,
            reclaimed => reclaimed,
        }
    }

    /// Makes the catalog anew from the store alone.
    ///
    /// # Errors
    /// `DataLoss` if the log or a pack directory it needs is damaged.
    pub async fn rebuild(&self) -> Result<RepositoryStatus> {
        self.rebuild_watched(&RebuildProgress::default()).await
    }

    /// As [`Self::rebuild`], told how far it is. One that does not come to its end leaves what it read of packs for the
    /// next, which any use of the repository begins.
    ///
    /// # Errors
    /// As [`Self::rebuild`].
    pub async fn rebuild_watched(&self, progress: &RebuildProgress) -> Result<RepositoryStatus> {
        let _alone = self.inner.housekeeping.lock().await;
        // Kept until the end: a put must not look anything up in a catalog that is half made.
        let mut slot = self.inner.writer.lock().await;
        if let Some(writer) = slot.take() {
            writer.close().await;
        }
        let applying = self.core().apply.lock().await;
        self.core().revocation.check()?;
        rebuild::run(self.core(), progress).await?;
        drop(applying);
        self.status()
    }

    /// The end of a salvage: commits and writes two checkpoints, so that no rebuild comes by what is lost any more.
    pub(crate) async fn leave_lost_behind(&self) -> Result<()> {
        let core = self.core();
        if core.is_salvaging() {
            self.write_checkpoints(&[]).await?;
            let mut tx = core.catalog.begin();
            tx.end_rebuilding();
            tx.commit()?;
            core.store_catalog.persist()?;
            core.given_up.lock().clear();
            core.salvaging.store(false, Ordering::Release);
        }
        Ok(())
    }

    /// Writes the `dirty` parts of the tables anew: two checkpoints, so that none of those that are kept refers to what
    /// was there before.
    pub(crate) async fn write_checkpoints(&self, dirty: &[DirtyKey]) -> Result<()> {
        let core = self.core();
        let access = self.write_access().await?;
        {
            let _applying = core.apply.lock().await;
            let mut tx = core.catalog.begin();
            dirty.iter().for_each(|part| tx.mark_dirty(*part));
            tx.commit()?;
        }
        for _ in 0..2 {
            access.ask(|reply| Request::Checkpoint { reply }).await?;
        }
        Ok(())
    }

    /// Totals of the repository.
    pub fn status(&self) -> Result<RepositoryStatus> {
        let core = self.core();
        let tip = core.catalog.tip()?.unwrap_or_default();
        let Stats {
            objects,
            chunks,
            logical_bytes,
            unique_bytes,
            live_bytes,
            pack_bytes,
            blob_bytes,
            packs,
        } = tip.stats;
        Ok(RepositoryStatus {
            name: self.name().as_str().to_owned(),
            id: self.id(),
            objects,
            chunks,
            packs,
            logical_bytes,
            unique_bytes,
            stored_bytes: pack_bytes,
            garbage_bytes: blob_bytes.saturating_sub(live_bytes),
            log_number: tip.log_number(),
            head: tip.head,
        })
    }

    /// Compares the log with the state a caller saw last: the number of a commit and the head after it.
    ///
    /// # Errors
    /// `RolledBack` if the log does not contain that state. A state older than those kept answers `Ok(false)`.
    pub fn check_head(&self, log_number: u64, head: Hash32) -> Result<bool> {
        let state = self.core().catalog_state()?;
        let newest = self.core().catalog.tip()?.unwrap_or_default().log_number();
        let found = self.core().catalog.head(log_number)?;
        if self.core().catalog_state()? != state {
            return self.check_head(log_number, head);
        }
        match found {
            Some(found) if found == head => Ok(true),
            None if log_number <= newest => Ok(false),
            _ => Err(Error::new(
                Reason::RolledBack,
                format!(
                    "the store does not contain commit {log_number} with this head: it was set back or replaced (its newest commit is {newest})"
                ),
            )),
        }
    }
}
