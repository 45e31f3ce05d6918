//! Scrubs as operations.

use std::sync::Arc;

use futures::FutureExt;
use futures::future::BoxFuture;

use super::operations::{Interruption, Work};
use crate::codec::RepositoryId;
use crate::engine::{
    Depth, Error, Reason, Repository, Result, ScrubOptions, ScrubProgress, ScrubReport, Store,
};
use crate::service::agent::Agent;
use crate::service::caller::Caller;
use crate::service::convert::scrub_report;
use crate::service::proto::operation::Report;
use crate::service::proto::{OperationKind, ScrubWork};

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
        scrub: Some(progress),
    }
}

fn require_all(caller: &Caller) -> Result<()> {
    if caller.grants.repositories.is_none() {
        return Ok(());
    }
    let line = "a scrub of all repositories takes a caller that may name each; name one, or another depth";
    Err(Error::new(Reason::PermissionDenied, line))
}

async fn with_keys(
    repository: Repository,
    options: ScrubOptions,
    progress: Arc<ScrubProgress>,
) -> Result<ScrubReport> {
    repository.scrub(options, &progress).await
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
