//! Evacuations and wipes as operations.

use std::sync::Arc;

use futures::FutureExt;

use super::operations::{Interruption, Work};
use super::watched::Watched;
use crate::engine::{Error, EvacuateOptions, EvacuateProgress, Evacuees, Reason, RemovalProgress, Result};
use crate::service::agent::Agent;
use crate::service::caller::Caller;
use crate::service::convert::{evacuate_report, wipe_report};
use crate::service::proto::operation::Report;
use crate::service::proto::{EvacuateWork, OperationKind, WipeWork};

/// The evacuation that a caller asks for.
///
/// # Errors
/// `InvalidArgument` for what is no place; `PermissionDenied`; `RepositoryNotFound`.
pub(super) async fn evacuate(agent: &Agent, caller: &Caller, repository: &str, wanted: &EvacuateWork) -> Result<Work> {
    let (id, which) = match wanted.all_repositories {
        true if caller.grants.repositories.is_some() => {
            let line = "an evacuation of all repositories takes a caller that may name each; name one";
            return Err(Error::new(Reason::PermissionDenied, line));
        }
        true => (None, Evacuees::All),
        false => {
            let id = agent.header(caller, repository).await?.id;
            (Some(id), Evacuees::One(id.to_string()))
        }
    };
    let options = EvacuateOptions {
        to: wanted.to.parse()?,
        which,
    };
    let progress = Arc::new(EvacuateProgress::default());
    let (store, told) = (agent.store().clone(), progress.clone());
    let task = async move {
        let report = store.evacuate(options, &told).await?;
        Ok(Report::Evacuate(evacuate_report(&report)))
    };
    Ok(Work {
        kind: OperationKind::Evacuate,
        repository: id,
        interruption: Interruption::AtOnce,
        task: task.boxed(),
        watched: Some(Watched::Evacuate(progress)),
    })
}

/// The wipe that a caller asks for. What else works on the repository has ended when this returns.
///
/// # Errors
/// `Retained`; `InvalidArgument` if the id is not typed back; `PermissionDenied`; `RepositoryNotFound`.
pub(super) async fn wipe(agent: &Agent, caller: &Caller, repository: &str, wanted: &WipeWork) -> Result<Work> {
    let name = agent.permit(caller, repository).await?;
    let id = agent.store().check_removal(name, &wanted.confirm).await?;
    agent.operations().end_those_of(id).await;
    let progress = Arc::new(RemovalProgress::default());
    let (store, told) = (agent.store().clone(), progress.clone());
    let task = async move {
        let id = id.to_string();
        let removed = store.remove_repository_watched(&id, &id, &told).await?;
        Ok(Report::Wipe(wipe_report(&removed)))
    };
    Ok(Work {
        kind: OperationKind::Wipe,
        repository: Some(id),
        interruption: Interruption::AtOnce,
        task: task.boxed(),
        watched: Some(Watched::Wipe(progress)),
    })
}
