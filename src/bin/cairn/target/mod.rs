//! What commands work on: a store opened in this process, or one that an agent serves.
//!
//! Either way results and errors are the engine's types, so what a command prints does not depend on where it was done.

pub(crate) mod local;
#[cfg(feature = "serve")]
pub(crate) mod remote;

use std::fs::File;
use std::io::Read;

use bytes::Bytes;

use cairn_agent::codec::RepositoryId;
use cairn_agent::engine::{
    ByteRange, DamagedObject, EvacuateOptions, EvacuateReport, NewRepository, ObjectInfo, PutOptions, PutOutcome,
    RebuildProgress, ReclaimOptions, ReclaimProgress, Reclaimed, Removed, RepositoryHeader, RepositoryStatus, Result,
    ScrubOptions, ScrubReport, Status,
};
use cairn_agent::format::Hash32;

use crate::metered::MeteredFile;
use crate::progress::Counter;

/// A store.
#[derive(Clone)]
pub(crate) enum Store {
    Local(local::Store),
    #[cfg(feature = "serve")]
    Remote(remote::Agent),
}

/// A repository.
#[derive(Clone)]
pub(crate) enum Repository {
    Local(local::Repository),
    #[cfg(feature = "serve")]
    Remote(remote::Repository),
}

/// An object that is being read; its version is fixed.
pub(crate) enum Reader {
    Local(Box<cairn_agent::engine::ObjectReader>),
    #[cfg(feature = "serve")]
    Remote(Box<remote::Reader>),
}

/// The status, again and again.
pub(crate) enum Watch {
    Local(local::Watch),
    #[cfg(feature = "serve")]
    Remote(Box<remote::Watch>),
}

/// What a put reads.
pub(crate) struct Input<R> {
    pub(crate) reader: R,
    /// The same for whoever can take parts of it at once.
    pub(crate) parts: Option<MeteredFile>,
    /// The file behind `reader` if it is one that can be read again from its beginning.
    #[cfg_attr(
        not(feature = "serve"),
        expect(dead_code, reason = "only what goes over a network is sent twice")
    )]
    pub(crate) again: Option<File>,
}

/// Everything about a repository.
pub(crate) struct Description {
    pub(crate) totals: RepositoryStatus,
    pub(crate) chunk_avg_bytes: u32,
    pub(crate) compression_level: i32,
    pub(crate) key_id: String,
    pub(crate) keyring_generation: u64,
}

/// A key that is there or is needed.
pub(crate) struct Key {
    pub(crate) id: String,
    pub(crate) loaded: bool,
    /// When an agent loaded it, in milliseconds since 1970 UTC by its clock.
    pub(crate) loaded_at_ms: Option<i64>,
    /// Repositories whose newest keyring needs it.
    pub(crate) repositories: Vec<RepositoryId>,
}

/// A scrub that has ended, well or early.
pub(crate) struct Scrubbed {
    pub(crate) report: ScrubReport,
    /// Whether nothing is wrong with what was checked, or nothing any more.
    pub(crate) sound: bool,
    /// Whether the lists of the report lack something.
    pub(crate) lists_truncated: bool,
}

impl From<ScrubReport> for Scrubbed {
    fn from(report: ScrubReport) -> Self {
        Self {
            sound: report.is_sound(),
            lists_truncated: report.is_cut(),
            report,
        }
    }
}

/// An evacuation that has come to its end.
pub(crate) struct Evacuated {
    pub(crate) report: EvacuateReport,
    /// Whether the lists of the report lack something.
    pub(crate) lists_truncated: bool,
}

impl From<EvacuateReport> for Evacuated {
    fn from(report: EvacuateReport) -> Self {
        Self {
            lists_truncated: report.is_cut(),
            report,
        }
    }
}

/// Names in one delete.
pub(crate) const DELETE_NAMES_MAX: usize = 1000;

/// The same work on either kind.
macro_rules! either {
    ($value:expr, $kind:ident, $inner:ident => $work:expr) => {
        match $value {
            $kind::Local($inner) => $work,
            #[cfg(feature = "serve")]
            $kind::Remote($inner) => $work,
        }
    };
}

impl Store {
    /// A repository by name or id. That it exists may be found out only with its first use.
    pub(crate) async fn repository(&self, name_or_id: &str) -> Result<Repository> {
        Ok(match self {
            Self::Local(store) => Repository::Local(store.repository(name_or_id).await?),
            #[cfg(feature = "serve")]
            Self::Remote(agent) => Repository::Remote(agent.repository(name_or_id)),
        })
    }

    /// The repositories, by name.
    pub(crate) async fn repositories(&self) -> Result<Vec<RepositoryHeader>> {
        either!(self, Store, store => store.repositories().await)
    }

    pub(crate) async fn create_repository(&self, new: NewRepository) -> Result<RepositoryHeader> {
        either!(self, Store, store => store.create_repository(new).await)
    }

    pub(crate) async fn remove_repository(&self, name_or_id: &str, confirm: &str) -> Result<()> {
        either!(self, Store, store => store.remove_repository(name_or_id, confirm).await)
    }

    /// Moves repositories to another place. Dropping this ends the work, wherever it is done; it can be gone on with.
    pub(crate) async fn evacuate(&self, options: EvacuateOptions, counter: &Counter) -> Result<Evacuated> {
        either!(self, Store, store => store.evacuate(options, counter).await)
    }

    /// Removes a repository, told how far it is. Dropping this ends the work, wherever it is done; it can be gone on with.
    pub(crate) async fn wipe(&self, name_or_id: &str, confirm: &str, counter: &Counter) -> Result<Removed> {
        either!(self, Store, store => store.wipe(name_or_id, confirm, counter).await)
    }

    pub(crate) async fn status(&self) -> Result<Status> {
        either!(self, Store, store => store.status().await)
    }

    pub(crate) async fn watch_status(&self) -> Result<Watch> {
        Ok(match self {
            Self::Local(store) => Watch::Local(store.watch_status()),
            #[cfg(feature = "serve")]
            Self::Remote(agent) => Watch::Remote(Box::new(agent.watch_status().await?)),
        })
    }

    /// Finishes what is in flight. An agent goes on by itself.
    pub(crate) async fn close(&self) {
        match self {
            Self::Local(store) => store.close().await,
            #[cfg(feature = "serve")]
            Self::Remote(_) => {}
        }
    }
}

impl Repository {
    pub(crate) async fn put<R>(&self, name: &str, input: Input<R>, options: PutOptions) -> Result<PutOutcome>
    where
        R: Read + Send + 'static,
    {
        either!(self, Repository, repository => repository.put(name, input, options).await)
    }

    pub(crate) async fn get(&self, name: &str, range: ByteRange) -> Result<Reader> {
        Ok(match self {
            Self::Local(repository) => Reader::Local(Box::new(repository.get(name, range).await?)),
            #[cfg(feature = "serve")]
            Self::Remote(repository) => Reader::Remote(Box::new(repository.get(name, range).await?)),
        })
    }

    pub(crate) async fn stat(&self, name: &str) -> Result<ObjectInfo> {
        either!(self, Repository, repository => repository.stat(name).await)
    }

    /// All objects whose names start with `prefix`, in no order that means anything.
    pub(crate) async fn list(&self, prefix: &str) -> Result<Vec<ObjectInfo>> {
        either!(self, Repository, repository => repository.list(prefix).await)
    }

    pub(crate) async fn copy(&self, from: &str, to: &str) -> Result<ObjectInfo> {
        either!(self, Repository, repository => repository.copy(from, to).await)
    }

    /// Removes up to [`DELETE_NAMES_MAX`] objects; for each whether there was one.
    pub(crate) async fn delete(&self, names: &[String]) -> Result<Vec<bool>> {
        either!(self, Repository, repository => repository.delete(names).await)
    }

    pub(crate) async fn verify(&self, name: &str) -> Result<ObjectInfo> {
        either!(self, Repository, repository => repository.verify(name).await)
    }

    pub(crate) async fn reclaim(&self, options: ReclaimOptions, progress: &ReclaimProgress) -> Result<Reclaimed> {
        either!(self, Repository, repository => repository.reclaim(options, progress).await)
    }

    /// Makes the catalog anew. An agent does not tell how far it is.
    pub(crate) async fn rebuild(&self, progress: &RebuildProgress) -> Result<RepositoryStatus> {
        match self {
            Self::Local(repository) => repository.rebuild(progress).await,
            #[cfg(feature = "serve")]
            Self::Remote(repository) => repository.rebuild().await,
        }
    }

    /// Reads and checks what is stored. Dropping this ends the work, wherever it is done.
    pub(crate) async fn scrub(&self, options: ScrubOptions, counter: &Counter) -> Result<Scrubbed> {
        either!(self, Repository, repository => repository.scrub(options, counter).await)
    }

    /// Objects of which something is known to be damaged.
    pub(crate) async fn damaged_objects(&self, prefix: &str) -> Result<Vec<DamagedObject>> {
        either!(self, Repository, repository => repository.damaged_objects(prefix).await)
    }

    pub(crate) async fn describe(&self) -> Result<Description> {
        either!(self, Repository, repository => repository.describe().await)
    }

    /// False: the commit is older than the heads that are kept.
    pub(crate) async fn check_head(&self, log_number: u64, head: Hash32) -> Result<bool> {
        either!(self, Repository, repository => repository.check_head(log_number, head).await)
    }
}

impl Reader {
    /// The object that is being read.
    pub(crate) fn info(&self) -> &ObjectInfo {
        either!(self, Reader, reader => reader.info())
    }

    /// How many bytes come in all.
    pub(crate) fn range_bytes(&self) -> u64 {
        either!(self, Reader, reader => reader.range_bytes())
    }

    /// The next bytes; `None` once all have come.
    pub(crate) async fn next(&mut self) -> Result<Option<Bytes>> {
        either!(self, Reader, reader => reader.next().await)
    }
}

impl Watch {
    /// The status now, then when there is something to show. Never ends by itself.
    pub(crate) async fn next(&mut self) -> Result<Status> {
        either!(self, Watch, watch => watch.next().await)
    }
}
