//! Scrub: everything stored is read and checked before somebody needs it.
//!
//! | depth | keys | reads | sees | does not see |
//! |---|---|---|---|---|
//! | bytes | none | every byte | any change of a pack that does not also change its clear hashes; damaged keyrings, owner files, headers of checkpoints, `metadata.yaml`; objects under another's name | what is missing; messages of checkpoints; a pack under another number; what somebody forged who can compute hashes |
//! | structure | directory secrets | headers, directories, manifests, checkpoints, the log | what is missing, replaced, moved, forged in these; whether each object's manifest leads to chunks that are there | changes in the chunks themselves |
//! | full | all | every byte, every blob | all of the above but a whole store set back (see `check_head`); wrong counters in the catalog | |
//!
//! A scrub runs beside everything else. What it finds damaged is quarantined: lookup does not know it any more, so that
//! the next put of the same bytes heals it; a blob found whole again leaves quarantine. A pack is held while it is
//! checked, so nothing is reported because it was reclaimed. Copies are repaired from each other: a keyring from its
//! other copy, a checkpoint from the catalog.
//!
//! While the catalog is made anew there is nothing to compare the store with. A scrub that sees it begin forgets what it
//! found at the object it was at, waits, and goes on there. Where another agent writes, a pack that is missing may be one
//! that it reclaimed: the log is followed before that is called damage. Who was overtaken as a writer ends as `Fenced`.
//!
//! Memory is bounded: packs are read by windows, tables by pages, and each list of the report has an end.

mod body;
mod clear;
mod cursor;
mod frame;
mod history;
mod objects;
mod pace;
mod packs;
mod quarantine;
mod recount;
mod repair;
mod report;
mod tables;
mod walk;

use std::num::NonZeroU64;

pub use self::cursor::ScrubCursor;
pub use self::history::ScrubHistory;
pub use self::report::{Damage, DamagedObject, DamagedPage, DamagedRange, Depth, Remedy, ScrubProgress, ScrubReport};

pub(crate) use self::body::open_whole;
pub(crate) use self::quarantine::{quarantine, release};

use self::cursor::Place;
use self::walk::Walk;
use super::error::{Error, Reason, Result};
use super::keyrings;
use super::repository::Repository;
use super::store::{Store, attach_existing};
use crate::backend::{Backend, Class, Location};
use crate::codec::RepositoryId;
use crate::format::{Layout, names::METADATA};

/// How a part of a scrub went.
enum Passed {
    To(Place),
    Paused(Place),
    End,
}

/// How to scrub.
#[derive(Clone, Debug)]
pub struct ScrubOptions {
    /// How deep.
    pub depth: Depth,
    /// Most bytes read in a second; unlimited if absent.
    pub rate_bytes: Option<NonZeroU64>,
    /// Where an earlier scrub of the same depth ended.
    pub from: Option<ScrubCursor>,
    /// Bytes after which the scrub ends early, with a cursor. It ends between two objects.
    pub bytes_max: Option<u64>,
    /// Whether what has a good copy is written anew from it.
    pub repair: bool,
}

impl Default for ScrubOptions {
    fn default() -> Self {
        Self {
            depth: Depth::default(),
            rate_bytes: None,
            from: None,
            bytes_max: None,
            repair: true,
        }
    }
}

impl ScrubOptions {
    /// To be asked where they come from outside; every scrub asks itself.
    ///
    /// # Errors
    /// `InvalidArgument` if they contradict each other.
    pub fn check(&self) -> Result<()> {
        match &self.from {
            Some(from) if from.depth != self.depth => {
                let line = format!("the cursor is of a scrub to depth {}, not {}", from.depth, self.depth);
                Err(Error::new(Reason::InvalidArgument, line))
            }
            _ => Ok(()),
        }
    }
}

impl Repository {
    /// Reads and checks what is stored of this repository; see the table in the module's documentation for what each
    /// depth sees. Dropping the future ends it; `progress` keeps what was found, and the cursor to go on from.
    ///
    /// # Errors
    /// Those of the backend and the catalog. Damage is no error: it is in the report.
    pub async fn scrub(&self, options: ScrubOptions, progress: &ScrubProgress) -> Result<ScrubReport> {
        let core = self.core().clone();
        core.revocation.check()?;
        progress.count_in(&core.counters);
        let _running = core.counters.scrubs.began(options.depth);
        let mut walk = Walk::new(core.backend.clone(), options, progress)?;
        if walk.depth() != Depth::Bytes {
            walk.compare(&core).await?;
        }
        let paused = tokio::select! {
            done = Class::Scrub.scope(self.scrub_all(&walk)) => done?,
            error = core.revocation.revoked() => return Err(error),
        };
        if paused.is_none() {
            history::completed(&core.store_catalog, self.id(), walk.depth());
        }
        Ok(walk.end(paused))
    }

    /// Where it paused, if it did not come to its end.
    async fn scrub_all(&self, walk: &Walk<'_>) -> Result<Option<Place>> {
        if walk.depth() == Depth::Bytes {
            let core = self.core();
            return clear::check_repository(walk, &core.layout, core.secrets.repository()).await;
        }
        let core = self.core();
        walk.progress.expect_bytes(self.scrub_bytes_expected(walk.depth())?);
        clear::check_small_files(walk, &core.layout, core.secrets.repository()).await?;
        clear::check_metadata(walk, &[core.secrets.parameters().store_id]).await?;
        repair::small_files(self, walk).await?;
        let mut place = walk.start();
        loop {
            walk.reach(place.clone());
            let passed = self.pass(walk, place).await;
            // Whatever came of it: it says nothing if the catalog was not whole all the time.
            place = match passed {
                _ if !walk.is_current() => walk.begin_again().await?,
                Ok(Passed::To(place)) => place,
                Ok(Passed::Paused(place)) => return Ok(Some(place)),
                Ok(Passed::End) => return Ok(None),
                Err(error) => return Err(error),
            };
        }
    }

    /// Does what is to be done at a place.
    async fn pass(&self, walk: &Walk<'_>, place: Place) -> Result<Passed> {
        Ok(match place {
            Place::Packs(after) => match packs::check(self, walk, after).await? {
                Some(stopped) => Passed::Paused(Place::Packs(Some(stopped))),
                None => Passed::To(Place::Tables),
            },
            Place::Tables => {
                let damaged = tables::check(self.core(), walk).await?;
                repair::checkpoints(self, walk, damaged).await?;
                Passed::To(Place::Objects(None))
            }
            Place::Objects(after) => match objects::check(self, walk, after).await? {
                Some(stopped) => Passed::Paused(Place::Objects(Some(stopped))),
                None if walk.depth() == Depth::Full => Passed::To(Place::Counters),
                None => Passed::End,
            },
            Place::Counters => {
                recount::check(self.core(), walk).await?;
                Passed::End
            }
            Place::Path(_) => Passed::End,
        })
    }

    /// About how many bytes a scrub of this depth reads; 0 if that is not known.
    fn scrub_bytes_expected(&self, depth: Depth) -> Result<u64> {
        match depth {
            Depth::Full => Ok(self.status()?.stored_bytes),
            _ => Ok(0),
        }
    }

    /// Objects that refer to something found damaged or missing, and what of them: by reads, scrubs or a rebuild since
    /// the catalog was made. What was put again since is not among them.
    ///
    /// # Errors
    /// Those of the backend and the catalog.
    pub async fn damaged_objects(&self, prefix: &str) -> Result<Vec<DamagedObject>> {
        let mut found = Vec::new();
        let mut after = None;
        loop {
            let page = self.damaged_page(prefix, after, usize::MAX).await?;
            found.extend(page.objects);
            after = page.next;
            if after.is_none() {
                return Ok(found);
            }
        }
    }

    /// A page of [`Self::damaged_objects`], of at most `limit` objects.
    ///
    /// # Errors
    /// Those of the backend and the catalog.
    pub async fn damaged_page(&self, prefix: &str, after: Option<[u8; 16]>, limit: usize) -> Result<DamagedPage> {
        let state = self.core().catalog_state()?;
        let damaged = objects::damaged(self, prefix, after, limit).await;
        // While the catalog is made anew everything looks damaged.
        if self.core().catalog_state()? != state {
            return Box::pin(self.damaged_page(prefix, after, limit)).await;
        }
        damaged
    }
}

impl Store {
    /// A scrub without any key, of every repository of the store: depth [`Depth::Bytes`], whatever the options say.
    ///
    /// # Errors
    /// Those of the backend. Damage is no error: it is in the report.
    pub async fn scrub_bytes(&self, options: ScrubOptions, progress: &ScrubProgress) -> Result<ScrubReport> {
        progress.count_in(self.counters());
        let _running = self.counters().scrubs.began(Depth::Bytes);
        let scrubbing = async {
            let report = scrub_bytes(self.backend(), options, progress).await?;
            if report.next.is_none() {
                for id in keyrings::repository_ids(self.backend()).await? {
                    history::completed(self.catalog(), id, Depth::Bytes);
                }
            }
            Ok(report)
        };
        Class::Scrub.scope(scrubbing).await
    }

    /// [`Self::scrub_bytes`] of one repository; what all share is left out.
    ///
    /// # Errors
    /// Those of the backend. Damage is no error: it is in the report.
    pub async fn scrub_bytes_of(
        &self,
        repository: RepositoryId,
        options: ScrubOptions,
        progress: &ScrubProgress,
    ) -> Result<ScrubReport> {
        progress.count_in(self.counters());
        let _running = self.counters().scrubs.began(Depth::Bytes);
        let walk = Walk::new(self.backend().clone(), to_bytes(options), progress)?;
        let layout = Layout::new(repository);
        let checking = clear::check_repository(&walk, &layout, repository);
        let paused = Class::Scrub.scope(checking).await?;
        if paused.is_none() {
            history::completed(self.catalog(), repository, Depth::Bytes);
        }
        Ok(walk.end(paused))
    }

    /// [`Self::scrub_bytes`] of a store that is not or cannot be opened. Nothing is locked, nothing is written.
    ///
    /// # Errors
    /// `StoreNotFound`; those of the backend.
    pub async fn scrub_bytes_at(
        location: &Location,
        options: ScrubOptions,
        progress: &ScrubProgress,
    ) -> Result<ScrubReport> {
        let backend = attach_existing(location).await?;
        Class::Scrub.scope(scrub_bytes(&backend, options, progress)).await
    }
}

async fn scrub_bytes(backend: &Backend, options: ScrubOptions, progress: &ScrubProgress) -> Result<ScrubReport> {
    let walk = Walk::new(backend.clone(), to_bytes(options), progress)?;
    for id in keyrings::repository_ids(backend).await? {
        if let Some(place) = clear::check_repository(&walk, &Layout::new(id), id).await? {
            return Ok(walk.end(Some(place)));
        }
    }
    if walk.is_ahead(METADATA) {
        // Without a keyring that says which store it is, any id is as good as another.
        let headers = keyrings::read_headers(backend).await.unwrap_or_default();
        let store_ids: Vec<_> = headers.iter().map(|header| header.store_id).collect();
        clear::check_metadata(&walk, &store_ids).await?;
    }
    Ok(walk.end(None))
}

fn to_bytes(options: ScrubOptions) -> ScrubOptions {
    ScrubOptions {
        depth: Depth::Bytes,
        ..options
    }
}
