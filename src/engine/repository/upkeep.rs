//! Work on a repository as a whole: its space, its catalog, its totals.

use std::sync::atomic::Ordering;

use tokio::sync::MutexGuard;

use super::writer::is_done_once_more;
use super::{Repository, WriteAccess};
use crate::backend::Class;
use crate::catalog::{DirtyKey, Lookup, Stats};
use crate::codec::RepositoryId;
use crate::engine::allowance::InFlightBytes;
use crate::engine::error::{Error, Reason, Result};
use crate::engine::evacuate;
use crate::engine::limits::Quota;
use crate::engine::log::checkpoint;
use crate::engine::log::rebuild::{self, RebuildProgress};
use crate::engine::log::requests::Request;
use crate::engine::packs::read_directory;
use crate::engine::reclaim::{self, ReclaimOptions, ReclaimProgress, Reclaimed};
use crate::format::Hash32;

/// How often a store that fails writes is asked to take the last ones of a repository that leaves.
const LAST_WORDS_ATTEMPTS: usize = 2;

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
    /// The most that it may hold.
    pub quota: Quota,
    /// What is on its way into it.
    pub in_flight: InFlightBytes,
}

impl Repository {
    /// Gives back space: releases what deleted objects held, drops packs in which nothing is left, and moves what is left of
    /// sparse and of small ones together. Puts and gets go on meanwhile, and come first.
    ///
    /// May be dropped at any point: what was begun is taken up by the next.
    ///
    /// # Errors
    /// `Fenced` if another agent has taken over; `NoCapacity` if there is not even room for a commit; those of the backend.
    pub async fn reclaim(&self, options: ReclaimOptions) -> Result<Reclaimed> {
        self.reclaim_watched(options, &ReclaimProgress::default()).await
    }

    /// As [`Self::reclaim`], told how far it is. What was given back when it fails is in `progress`.
    ///
    /// # Errors
    /// As [`Self::reclaim`].
    pub async fn reclaim_watched(&self, options: ReclaimOptions, progress: &ReclaimProgress) -> Result<Reclaimed> {
        self.core().revocation.check()?;
        self.core().departures.check(self.id())?;
        let _alone = self.inner.housekeeping.lock().await;
        let run = || Class::Reclaim.scope(reclaim::run(self, options, progress));
        match run().await {
            Err(error) if is_done_once_more(&error) => run().await,
            reclaimed => reclaimed,
        }
    }

    /// The first step of [`reclaim`](Self::reclaim) alone: what deleted objects held is released. Takes no epoch and writes
    /// nothing to the store. A rebuild counts as if that had just happened.
    ///
    /// # Errors
    /// Those of the catalog and of the backend, from which manifests are read.
    pub async fn release_deleted(&self) -> Result<()> {
        self.core().revocation.check()?;
        let _alone = self.inner.housekeeping.lock().await;
        Class::Reclaim.scope(reclaim::release(self)).await
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
        let core = self.core();
        core.departures.check_under_way(self.id())?;
        let _alone = self.inner.housekeeping.lock().await;
        // Kept until the end: a put must not look anything up in a catalog that is half made.
        let mut slot = self.inner.writer.lock().await;
        if let Some(writer) = slot.take() {
            writer.close().await;
        }
        let applying = self.core().apply.lock().await;
        self.core().revocation.check()?;
        // Where a repository went is not in the store.
        let moved = evacuate::Memory::load(core)?;
        rebuild::run(core, progress).await?;
        if let Some(moved) = moved {
            moved.keep(core)?;
        }
        drop(applying);
        self.status()
    }

    /// Nothing is reclaimed and nothing rebuilt until what is returned is dropped.
    pub(crate) async fn keep_still(&self) -> MutexGuard<'_, ()> {
        self.inner.housekeeping.lock().await
    }

    /// Ends writing for good, as far as this process is concerned: waits for what is under way, and leaves two checkpoints
    /// at the end of the log, so that whoever reads a copy needs no commit before. To be called once writes are refused.
    ///
    /// A store that cannot be written is left as it is: whatever its checkpoints lack is in its log.
    ///
    /// # Errors
    /// `Fenced`, `KeysUnavailable`, `CatalogFailed`; what keeps the log from being followed.
    pub(crate) async fn come_to_rest(&self) -> Result<()> {
        self.stay_at_rest().await?;
        if self.is_at_rest().await? {
            return Ok(());
        }
        for attempt in 1.. {
            let written = self.write_last_words().await;
            self.stay_at_rest().await?;
            match written {
                Ok(()) => break,
                Err(error) => match error.reason() {
                    Reason::Fenced | Reason::KeysUnavailable | Reason::CatalogFailed | Reason::Internal => {
                        return Err(error);
                    }
                    Reason::ReadOnly | Reason::NoCapacity | Reason::AuthFailed => {
                        tracing::warn!(%error, "the store that is left cannot be written; it is copied as it is");
                        break;
                    }
                    _ if attempt == LAST_WORDS_ATTEMPTS => {
                        tracing::warn!(%error, "the store that is left fails writes; it is copied as it is");
                        break;
                    }
                    _ => {}
                },
            }
        }
        Ok(())
    }

    /// Ends writing without leaving anything: for a repository that was moved already.
    ///
    /// # Errors
    /// What keeps the log from being followed.
    pub(crate) async fn stay_at_rest(&self) -> Result<()> {
        self.close().await;
        self.follow_others().await
    }

    /// Whether there is nothing to be written: the log ends with a commit that can be read, and both checkpoints are there.
    async fn is_at_rest(&self) -> Result<bool> {
        let core = self.core();
        let row = core.catalog.tip()?.unwrap_or_default();
        match &row.tip {
            None => Ok(true),
            Some(tip) => Ok(checkpoint::is_newest(core, &row).await && read_directory(core, &tip.pack).await.is_ok()),
        }
    }

    /// Two checkpoints, behind a commit that says nothing but that it is there: so the log of the copy ends with one that is
    /// whole, whatever became of those before it.
    async fn write_last_words(&self) -> Result<()> {
        let access = self.write_access_to_leave().await?;
        self.write_checkpoints_by(&access, &[]).await
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
        let access = self.write_access().await?;
        self.write_checkpoints_by(&access, dirty).await
    }

    async fn write_checkpoints_by(&self, access: &WriteAccess, dirty: &[DirtyKey]) -> Result<()> {
        let core = self.core();
        {
            let _applying = core.apply.lock().await;
            // No checkpoint of this tip has what changes now.
            let log_number = core.catalog.tip()?.unwrap_or_default().log_number() + 1;
            let mut tx = core.catalog.begin();
            dirty.iter().for_each(|part| tx.mark_dirty(*part, log_number));
            tx.commit()?;
        }
        for _ in 0..2 {
            access.ask(|reply| Request::Checkpoint { reply }).await?;
        }
        Ok(())
    }

    /// The most that this repository may hold.
    pub fn quota(&self) -> Quota {
        self.core().allowance.quota()
    }

    /// Sets the most that this repository may hold, until the store is opened anew. It holds at once, also for puts under
    /// way; what is there stays, whatever it is.
    pub fn set_quota(&self, quota: Quota) {
        self.core().allowance.set_quota(quota);
        self.core().gate.poke();
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
            quota: core.allowance.quota(),
            in_flight: core.allowance.in_flight(),
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
