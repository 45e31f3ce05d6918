//! Scrubs as operations.

use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use futures::FutureExt;
use futures::future::BoxFuture;

use super::operations::{Interruption, Work};
use super::watched::Watched;
use crate::codec::RepositoryId;
use crate::engine::{Depth, Error, Reason, Repository, Result, ScrubOptions, ScrubProgress, ScrubReport, Store};
use crate::service::agent::Agent;
use crate::service::caller::Caller;
use crate::service::convert::scrub_report;
use crate::service::proto::operation::Report;
use crate::service::proto::{OperationKind, ScrubWork};

/// How often it is remembered where a scrub is: so much is read twice after the process was killed.
const REMEMBER_EVERY: Duration = Duration::from_secs(60);

/// The work that a caller asks for.
///
/// # Errors
/// `InvalidArgument` for what contradicts itself; `PermissionDenied`; those of opening the repository, but depth BYTES
/// needs no key.
pub(super) async fn work(agent: &Agent, caller: &Caller, repository: &str, wanted: &ScrubWork) -> Result<Work> {
    let options = ScrubOptions::try_from(wanted)?;
    let progress = Arc::new(ScrubProgress::default());
    let store = agent.store().clone();
    if wanted.all_repositories {
        require_all(caller)?;
        let task = bytes_of_all(store, options, progress.clone());
        return Ok(scrub(None, progress, task.boxed()));
    }
    if options.depth == Depth::Bytes {
        let id = agent.header(caller, repository).await?.id;
        let task = bytes_of(store, id, options, progress.clone());
        return Ok(scrub(Some(id), progress, task.boxed()));
    }
    let repository = agent.repository(caller, repository).await?;
    let id = repository.id();
    let task = with_keys(repository, options, progress.clone());
    Ok(scrub(Some(id), progress, task.boxed()))
}

/// The work that the agent begins by itself: it remembers where it is, however it ends.
pub(super) fn remembered(repository: Repository, options: ScrubOptions) -> Work {
    let progress = Arc::new(ScrubProgress::default());
    let id = repository.id();
    let task = with_memory(repository, options, progress.clone());
    scrub(Some(id), progress, task.boxed())
}

fn scrub(
    repository: Option<RepositoryId>,
    progress: Arc<ScrubProgress>,
    task: BoxFuture<'static, Result<ScrubReport>>,
) -> Work {
    Work {
        kind: OperationKind::Scrub,
        repository,
        interruption: Interruption::AtOnce,
        task: task.map(|report| Ok(Report::Scrub(scrub_report(&report?)))).boxed(),
        watched: Some(Watched::Scrub(progress)),
    }
}

fn require_all(caller: &Caller) -> Result<()> {
    if caller.grants.repositories.is_none() {
        return Ok(());
    }
    let line = "a scrub of all repositories takes a caller that may name each; name one, or another depth";
    Err(Error::new(Reason::PermissionDenied, line))
}

async fn with_keys(repository: Repository, options: ScrubOptions, progress: Arc<ScrubProgress>) -> Result<ScrubReport> {
    repository.scrub(options, &progress).await
}

async fn with_memory(
    repository: Repository,
    options: ScrubOptions,
    progress: Arc<ScrubProgress>,
) -> Result<ScrubReport> {
    let memory = Memory {
        repository: &repository,
        depth: options.depth,
        progress: &progress,
    };
    let mut ticks = tokio::time::interval(REMEMBER_EVERY);
    let mut scrubbing = pin!(repository.scrub(options, &progress));
    loop {
        tokio::select! {
            // Before its first step it is nowhere, which is not to be remembered.
            biased;
            ended = &mut scrubbing => return ended,
            _ = ticks.tick() => memory.keep(),
        }
    }
}

/// Keeps in the catalog where a scrub is; once more when it ends or is dropped.
struct Memory<'a> {
    repository: &'a Repository,
    depth: Depth,
    progress: &'a ScrubProgress,
}

impl Memory<'_> {
    fn keep(&self) {
        let kept = self
            .repository
            .remember_scrub(self.depth, self.progress.cursor().as_ref());
        if let Err(error) = kept {
            tracing::debug!(%error, "where a scrub is could not be remembered");
        }
    }
}

impl Drop for Memory<'_> {
    fn drop(&mut self) {
        self.keep();
    }
}

async fn bytes_of(
    store: Store,
    repository: RepositoryId,
    options: ScrubOptions,
    progress: Arc<ScrubProgress>,
) -> Result<ScrubReport> {
    store.scrub_bytes_of(repository, options, &progress).await
}

async fn bytes_of_all(store: Store, options: ScrubOptions, progress: Arc<ScrubProgress>) -> Result<ScrubReport> {
    store.scrub_bytes(options, &progress).await
}
