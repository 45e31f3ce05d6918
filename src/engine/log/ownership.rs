//! Who may write a repository: the newest owner epoch.
//!
//! An epoch is taken by creating `owner/<n>` conditionally and reading it back; nothing but a newer epoch ends it. No
//! lock can go stale and no clock is asked. Whoever finds a newer epoch is fenced for good: it neither acknowledges
//! nor deletes anything after that.

use bytes::Bytes;

use crate::backend::{Backend, Created, ErrorKind};
use crate::catalog::Lookup;
use crate::engine::core::Core;
use crate::engine::error::{Error, Reason, Result};
use crate::engine::random;
use crate::format::Layout;
use crate::format::marker::Owner;
use crate::format::names::parse_owner;

/// Other processes that may take the next epoch first before this one gives up.
const ATTEMPTS_MAX: usize = 16;

/// An epoch this process has taken.
#[derive(Debug)]
pub(crate) struct Ownership {
    epoch: u64,
}

impl Ownership {
    /// Takes the next epoch of the repository.
    ///
    /// # Errors
    /// `Fenced` if others keep taking it first; whatever the backend reports.
    pub(crate) async fn claim(core: &Core) -> Result<Self> {
        let instance = random::<16>()?;
        for _ in 0..ATTEMPTS_MAX {
            // The tip counts as well: epochs are never used twice, even if all owner files were lost.
            let tip = core.catalog.tip()?.and_then(|row| row.tip);
            let last = newest(core).await?.max(tip.map(|tip| tip.pack.number.epoch));
            let epoch = last.unwrap_or(0) + 1;
            let owner = Owner {
                repository: core.secrets.repository(),
                epoch,
                instance,
            };
            let file = owner.encode();
            let path = core.layout.owner(epoch);
            // After an answer that got lost, "exists" may mean that this very process created it: reading tells.
            let _: Created = core.backend.create(&path, Bytes::from(file.clone())).await?;
            match core.backend.get(&path).await {
                Ok(found) if found.as_ref() == file.as_slice() => return Ok(Self { epoch }),
                Ok(_) => {}
                // Newer owners clear away the files of older ones: this epoch is over before it began.
                Err(error) if error.kind() == ErrorKind::NotFound => {}
                Err(error) => return Err(error.into()),
            }
        }
        Err(Error::new(
            Reason::Fenced,
            "other processes keep taking over this repository; make sure that only one agent writes it",
        ))
    }

    pub(crate) fn epoch(&self) -> u64 {
        self.epoch
    }

    /// The fence: fails if a newer owner exists. To be asked after a commit is durable and before anybody hears of it,
    /// and before a pack is deleted.
    pub(crate) async fn check(&self, core: &Core) -> Result<()> {
        check_fence(core, self.epoch).await
    }

    /// Deletes the owner files of former epochs. Only once this epoch is open on the log.
    pub(crate) async fn forget_older(&self, core: &Core) {
        let Ok(files) = core.backend.list(&core.layout.owners_prefix(), None).await else {
            return;
        };
        for file in files {
            let older = parse_owner(&file.path).is_some_and(|epoch| epoch < self.epoch);
            if older && let Err(error) = core.backend.delete(&file.path).await {
                tracing::warn!(%error, "the file of a former owner could not be deleted; it does no harm");
            }
        }
    }
}

/// Fails with `Fenced` if an owner newer than `epoch` exists.
pub(crate) async fn check_fence(core: &Core, epoch: u64) -> Result<()> {
    match newest(core).await? {
        Some(newest) if newest > epoch => {
            let line = format!("another agent has taken over this repository (epoch {newest}, this one has {epoch})");
            Err(Error::new(Reason::Fenced, line))
        }
        _ => Ok(()),
    }
}

/// The newest epoch that was ever taken. A file counts by its name, whatever it holds.
pub(crate) async fn newest(core: &Core) -> Result<Option<u64>> {
    newest_at(&core.backend, &core.layout).await
}

/// The same of a repository at another place.
pub(crate) async fn newest_at(backend: &Backend, layout: &Layout) -> Result<Option<u64>> {
    let files = backend.list(&layout.owners_prefix(), None).await?;
    Ok(files.iter().filter_map(|file| parse_owner(&file.path)).max())
}
