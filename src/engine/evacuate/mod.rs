//! Evacuation: a repository, or the whole store, is copied to another place, pack by pack and as ciphertext.
//!
//! # Order of durable steps
//!
//! 1. Writes are refused from here on. What is under way is waited for; two checkpoints are written at the end of the
//!    log, so that a reader of the copy needs no commit before.
//! 2. Packs, each compared with its hashes before it is put.
//! 3. The segments of the two checkpoints, then their roots; the newest owner file.
//! 4. The keyring, of the next generation and naming the store it is in now: only from here on there is a repository at
//!    the target. Both copies, read back. Then `metadata.yaml`.
//! 5. The catalog remembers where the repository went: writes stay refused.
//!
//! An interruption at any moment leaves the source as it was, writable again; what is at the target lacks a keyring, so
//! nobody takes it for a repository, and the next run goes on from it. A pack that is there with the right name, length
//! and trailer is not copied again, if this catalog remembers the run that copied it; else it is read and compared.
//!
//! What cannot be read keeps nothing else from being copied. It is read in smaller and smaller ranges; a pack of which a
//! part is damaged is copied with that part as it is, or with zeros, and its block sums tell. The report lists each
//! range, and the objects that need it.
//!
//! # Why not ...
//!
//! - *Copy while writes go on, then the rest?* Reclaim and compaction would move what was copied already, and the last
//!   round would need the same stop. A core that moves an agent's data has somewhere else to write.
//! - *Seal anew on the way?* It would need every data key, and the copy could not be compared with its source.
//! - *Delete the source at the end?* Whether a copy is good is decided by who looks at it; `wipe` removes the source.

pub(crate) mod memory;
mod pack;
mod packs;
mod report;
mod tables;
mod target;

use parking_lot::Mutex;

pub(crate) use self::memory::{Memory, recall};
pub use self::report::{EvacuateProgress, EvacuateReport, Lost, Verdict};

use self::memory::IsUnsure;
use self::packs::Packs;
use self::target::Target;
use super::core::Core;
use super::departures::Leaving;
use super::error::{Error, Reason, Result};
use super::keyrings::{RepositoryHeader, find_keyring, restore_copies, write_keyring};
use super::log::ownership;
use super::repository::Repository;
use super::store::{Store, restore_metadata};
use crate::backend::{Backend, Class, Location};
use crate::format::Hash32;

/// Objects looked up at a time for what they lack.
const OBJECTS_PAGE: usize = 256;

/// What to move, and where to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EvacuateOptions {
    /// The other place: empty, a store, or what a run that was interrupted has left.
    pub to: Location,
    /// What is moved.
    pub which: Evacuees,
}

/// What is moved.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Evacuees {
    /// One repository, by name or id.
    One(String),
    /// All repositories of the store.
    All,
}

/// A repository on its way.
struct Evacuee {
    repository: Repository,
    header: RepositoryHeader,
    leaving: Leaving,
    /// Packs and their bytes, before what its leaving adds.
    counted: (u64, u64),
}

impl Store {
    /// Copies repositories to another place, as they are. Reads go on meanwhile; writes are refused from the beginning, and
    /// stay refused if it comes to its end. If it does not, or if the future is dropped, the source is as it was, and the
    /// same call goes on from there.
    ///
    /// # Errors
    /// `InvalidArgument` if both places are the same or lie in each other; `ForeignStore`, `StoreHeld` of the target;
    /// `RepositoryExists` if the target has another repository of that name, or this one in another state; `Fenced` if
    /// another agent writes a repository meanwhile; those of the backends. Damage is no error: it is in the report.
    pub async fn evacuate(&self, options: EvacuateOptions, progress: &EvacuateProgress) -> Result<EvacuateReport> {
        let backend = target::attach(self.backend().location(), &options.to).await?;
        Class::Evacuate
            .scope(self.evacuate_onto(backend, options.which, progress))
            .await
    }

    /// [`evacuate`](Self::evacuate) onto a backend that the caller attached.
    ///
    /// # Errors
    /// Those of `evacuate`.
    #[cfg(any(test, feature = "testkit"))]
    pub async fn evacuate_to(
        &self,
        backend: Backend,
        which: Evacuees,
        progress: &EvacuateProgress,
    ) -> Result<EvacuateReport> {
        Class::Evacuate
            .scope(self.evacuate_onto(backend, which, progress))
            .await
    }

    async fn evacuate_onto(
        &self,
        backend: Backend,
        which: Evacuees,
        progress: &EvacuateProgress,
    ) -> Result<EvacuateReport> {
        let headers = match which {
            Evacuees::One(name_or_id) => vec![self.header(&name_or_id).await?],
            Evacuees::All => self.repositories().await,
        };
        let mut repositories = Vec::new();
        for header in &headers {
            repositories.push(self.repository(&header.id.to_string()).await?);
        }
        let target = Target::open(backend, &headers).await?;
        let to = target.backend.location().to_string();
        progress.begin(&to);
        let mut evacuees = Vec::new();
        for (repository, header) in repositories.into_iter().zip(headers) {
            evacuees.push(Evacuee {
                leaving: self.inner.departures.move_to(header.id, &to)?,
                repository,
                header,
                counted: (0, 0),
            });
        }
        self.poke_status();
        for evacuee in &mut evacuees {
            evacuee.counted = packs::count(evacuee.repository.core())?;
            progress.expect((0, 0), evacuee.counted);
        }
        for evacuee in evacuees {
            self.evacuate_one(evacuee, &target, progress).await?;
            self.poke_status();
        }
        Ok(progress.report())
    }

    async fn evacuate_one(&self, evacuee: Evacuee, target: &Target, progress: &EvacuateProgress) -> Result<()> {
        let Evacuee {
            repository,
            header,
            leaving,
            counted,
        } = evacuee;
        let core = repository.core().clone();
        let copying = async {
            let _still = repository.keep_still().await;
            self.copy(&repository, &header, counted, target, progress).await
        };
        tokio::select! {
            copied = copying => copied?,
            error = core.revocation.revoked() => return Err(error),
        }
        leaving.arrived(&target.backend.location().to_string());
        progress.arrived(header.id);
        tracing::info!(repository = header.name, id = %header.id, to = %target.backend.location(), "repository evacuated");
        Ok(())
    }

    async fn copy(
        &self,
        repository: &Repository,
        header: &RepositoryHeader,
        counted: (u64, u64),
        target: &Target,
        progress: &EvacuateProgress,
    ) -> Result<()> {
        let core = repository.core();
        let memory = remember(core, target).await?;
        match target.header(header.id) {
            // What was moved is not written once more for another run.
            Some(_) if is_same_state(core, target).await? => repository.stay_at_rest().await?,
            Some(_) => return Err(other_state(repository, target).await?),
            None => repository.come_to_rest().await?,
        }
        let (packs, bytes) = packs::count(core)?;
        progress.expect(counted, (packs, bytes));
        let epoch = ownership::newest(core).await?;
        let packs = Packs {
            repository,
            target,
            progress,
            memory: Mutex::new(memory),
        };
        packs.copy().await?;
        list_objects(repository, progress).await?;
        let checkpoints = tables::copy_checkpoints(core, target, progress).await?;
        if let Some(epoch) = epoch {
            tables::copy_owner(core, target, epoch).await?;
        }
        if target.header(header.id).is_none() {
            packs.sweep_target().await?;
            tables::sweep_target(core, target, &checkpoints).await?;
        }
        if ownership::newest(core).await? != epoch {
            let line = "another agent has written this repository while it was copied; stop it and begin again";
            return Err(Error::new(Reason::Fenced, line));
        }
        self.write_keyring_of(repository, header, target).await?;
        let mut memory = packs.memory.into_inner();
        memory.note_end();
        memory.keep(core)
    }

    /// The last step: what is at the target becomes a repository.
    async fn write_keyring_of(
        &self,
        repository: &Repository,
        header: &RepositoryHeader,
        target: &Target,
    ) -> Result<()> {
        let core = repository.core();
        match target.header(header.id) {
            Some(there) => drop(restore_copies(&target.backend, header.id, there.generation).await?),
            None => {
                let Some((newest, file)) = find_keyring(&core.backend, header.id).await? else {
                    let line = format!("the keyring of repository {:?} is gone", header.name);
                    return Err(Error::data_loss(line));
                };
                let kek = self.inner.keys.key_of(header)?;
                let secrets = core.secrets.for_store(target.store_id);
                let (generation, previous) = (newest.generation + 1, Hash32::of(&file));
                write_keyring(&target.backend, &kek, &secrets, generation, previous).await?;
            }
        }
        restore_metadata(&target.backend, target.store_id).await
    }

    /// Lets repositories be written again that were moved away.
    pub(super) async fn take_back(&self) -> Result<()> {
        for header in self.repositories().await {
            memory::forget(self.catalog(), header.id)?;
        }
        self.inner.departures.take_back();
        Ok(())
    }
}

/// What is known of earlier runs to this target; from here on, that there was one.
async fn remember(core: &Core, target: &Target) -> Result<Memory> {
    let to = target.backend.location();
    if let Some(memory) = Memory::load(core)?.filter(|memory| memory.to == to.to_string()) {
        return Ok(memory);
    }
    let directories = target.backend.list_directories(&core.layout.packs_prefix()).await?;
    let is_unsure = match directories.is_empty() {
        true => IsUnsure::No,
        false => IsUnsure::Yes,
    };
    let memory = Memory::new(to, is_unsure);
    memory.keep(core)?;
    Ok(memory)
}

/// Whether nobody has written a repository that is there already since it was copied, neither there nor here: whoever
/// writes takes an epoch, and who moves a repository gives its own up.
async fn is_same_state(core: &Core, target: &Target) -> Result<bool> {
    let there = ownership::newest_at(&target.backend, &core.layout).await?;
    Ok(there == ownership::newest(core).await?)
}

/// Why a repository that is there is not gone on with.
async fn other_state(repository: &Repository, target: &Target) -> Result<Error> {
    let core = repository.core();
    let number = |epoch: Option<u64>| epoch.map_or_else(|| "none".to_owned(), |epoch| epoch.to_string());
    let line = format!(
        "{} has repository {:?} (id {}) already, and one of the two was written since: the newest owner there is {}, here \
         {}; decide which one counts, and move to another place or remove the other",
        target.backend.location(),
        repository.name().as_str(),
        repository.id(),
        number(ownership::newest_at(&target.backend, &core.layout).await?),
        number(ownership::newest(core).await?)
    );
    Ok(Error::new(Reason::RepositoryExists, line))
}

/// Names the objects that lack something.
async fn list_objects(repository: &Repository, progress: &EvacuateProgress) -> Result<()> {
    let mut after = None;
    loop {
        let page = repository.damaged_page("", after, OBJECTS_PAGE).await?;
        page.objects.into_iter().for_each(|object| progress.concerned(object));
        after = page.next;
        if after.is_none() {
            return Ok(());
        }
    }
}
