//! Removal of a repository, for ever.
//!
//! The keyring goes first, all generations and copies, durably: from then on nothing of it can be read by anybody, however
//! much of the rest is still there. Then owner files, checkpoints, and packs directory by directory; then its rows in the
//! catalog. A removal that was interrupted leaves a directory without a keyring, which keeps no other repository from
//! being used; the same call with its full id goes on.

use std::sync::atomic::{AtomicU64, Ordering};

use futures::{StreamExt, TryStreamExt, stream};

use super::error::{Error, Reason, Result};
use super::keyrings::{self, Survey, repository_ids};
use super::store::{Store, StoreOptions, attach_existing, no_store};
use crate::backend::{Backend, Listed};
use crate::codec::RepositoryId;
use crate::format::Layout;

/// Deletions under way at once: a bucket answers each only after a while.
const DELETES_MAX: usize = 16;

/// Whether repositories may be removed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum DeletionPolicy {
    /// They may.
    #[default]
    Delete,
    /// They may not, whoever asks: what is stored is removed by whoever removes the volume or the bucket.
    Retain,
}

/// What a removal has removed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Removed {
    /// Stored objects.
    pub objects: u64,
    /// Their bytes.
    pub bytes: u64,
}

/// A removal under way: shared with whoever watches it.
#[derive(Debug, Default)]
pub struct RemovalProgress {
    objects: AtomicU64,
    bytes: AtomicU64,
}

impl RemovalProgress {
    /// What is removed so far.
    pub fn removed(&self) -> Removed {
        Removed {
            objects: self.objects.load(Ordering::Relaxed),
            bytes: self.bytes.load(Ordering::Relaxed),
        }
    }

    fn add(&self, file: &Listed) {
        self.objects.fetch_add(1, Ordering::Relaxed);
        self.bytes.fetch_add(file.size, Ordering::Relaxed);
    }
}

impl Store {
    /// Opens a store to remove what is left of a repository whose keyring is gone, even if nothing else is in it.
    ///
    /// # Errors
    /// Those of [`Store::open`], but for a keyring that is lost.
    pub async fn open_to_remove(options: StoreOptions) -> Result<Self> {
        let backend = attach_existing(&options.location).await?;
        let lock = backend.lock()?;
        let Survey { headers, .. } = keyrings::survey(&backend).await?;
        if headers.is_empty() && repository_ids(&backend).await?.is_empty() {
            return Err(no_store(&backend).await?);
        }
        Self::assemble(options, backend, headers, lock)
    }

    /// Removes a repository with everything in it, for ever. `confirm` is its id, typed back. Of one that has no keyring any
    /// more, whatever the reason, what is left is removed if it is named by its full id.
    ///
    /// The keyring goes first: from then on nothing of it can be read. Whatever uses the repository ends.
    ///
    /// # Errors
    /// `Retained` if the store keeps what it has; `InvalidArgument` if `confirm` is not the repository's id; `ReadOnly` while
    /// it is being moved; those of the backend: then the same call goes on.
    pub async fn remove_repository(&self, name_or_id: &str, confirm: &str) -> Result<Removed> {
        self.remove_repository_watched(name_or_id, confirm, &RemovalProgress::default())
            .await
    }

    /// As [`Self::remove_repository`], told how far it is. Dropping the future leaves the rest for the next call.
    ///
    /// # Errors
    /// As [`Self::remove_repository`].
    pub async fn remove_repository_watched(
        &self,
        name_or_id: &str,
        confirm: &str,
        progress: &RemovalProgress,
    ) -> Result<Removed> {
        let id = self.check_removal(name_or_id, confirm).await?;
        let leaving = self.inner.departures.remove(id)?;
        self.poke_status();
        self.remove(id, progress).await?;
        leaving.gone();
        self.poke_status();
        Ok(progress.removed())
    }

    /// The repository that [`Self::remove_repository`] would remove.
    ///
    /// # Errors
    /// `Retained` if the store keeps what it has; `RepositoryNotFound`; `InvalidArgument` if `confirm` is not its id.
    pub async fn check_removal(&self, name_or_id: &str, confirm: &str) -> Result<RepositoryId> {
        if self.inner.options.deletion_policy == DeletionPolicy::Retain {
            let line =
                "the deletion policy of this store is to retain what it has: nothing removes a repository from it";
            return Err(Error::new(Reason::Retained, line));
        }
        let (id, name) = match self.header(name_or_id).await {
            Ok(header) => (header.id, header.name),
            Err(error) => (self.left_over(name_or_id, error).await?, String::new()),
        };
        if confirm == id.to_string() {
            return Ok(id);
        }
        let line = format!("to remove repository {name:?} for ever, confirm with its id {id}");
        Err(Error::new(Reason::InvalidArgument, line))
    }

    /// The directory of this name that has no keyring.
    async fn left_over(&self, id: &str, otherwise: Error) -> Result<RepositoryId> {
        match id.parse::<RepositoryId>() {
            Ok(id) if repository_ids(self.backend()).await?.contains(&id) => Ok(id),
            _ => Err(otherwise),
        }
    }

    async fn remove(&self, id: RepositoryId, progress: &RemovalProgress) -> Result<()> {
        let backend = self.backend();
        let layout = Layout::new(id);
        // Whoever is at work ends as if the key had been taken away, which it is.
        let open = self.end_uses_of(id).await;
        let _still = match &open {
            Some(repository) => Some(repository.keep_still().await),
            None => None,
        };
        delete_all(backend, &layout.keyrings_prefix(), progress).await?;
        // A power cut must not bring them back once there is no other way to read any of it.
        backend.sync().await?;
        self.inner.headers.lock().await.retain(|header| header.id != id);
        for prefix in [layout.owners_prefix(), layout.checkpoints_prefix()] {
            delete_all(backend, &prefix, progress).await?;
        }
        let packs = layout.packs_prefix();
        for directory in backend.list_directories(&packs).await? {
            let directory = format!("{packs}/{directory}");
            delete_all(backend, &directory, progress).await?;
            backend.remove_directory(&directory).await?;
        }
        // Whatever else is there: packs under names that are none.
        delete_all(backend, &layout.prefix(), progress).await?;
        backend.remove_directory(&layout.prefix()).await?;
        self.catalog().forget(id)?;
        if self.inner.headers.lock().await.is_empty() {
            // It is kept for a store; there is none any more.
            let backend = backend.clone();
            let given_back = tokio::task::spawn_blocking(move || backend.give_back_reserve());
            given_back
                .await
                .map_err(|_| Error::internal("giving the reserve back panicked"))??;
        }
        Ok(())
    }
}

async fn delete_all(backend: &Backend, prefix: &str, progress: &RemovalProgress) -> Result<()> {
    let files = backend.list(prefix, None).await?;
    let deletes = files.iter().map(|file| async move {
        backend.delete(&file.path).await?;
        progress.add(file);
        Ok::<(), Error>(())
    });
    stream::iter(deletes.collect::<Vec<_>>())
        .buffer_unordered(DELETES_MAX)
        .try_collect::<Vec<()>>()
        .await
        .map(drop)
}
