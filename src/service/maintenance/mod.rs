//! `cairn.v1.Maintenance`: long work on a store.

mod decommission;
mod operations;
mod schedule;
mod scrub;
mod watched;

use std::ops::ControlFlow;
use std::sync::Arc;
use std::time::Duration;

use futures::FutureExt;
use tonic::{Request, Response};

pub(super) use self::operations::Operations;
use self::operations::{Interruption, Operation, Work};
pub(super) use self::schedule::{keep_reclaiming, keep_scrubbing};
use self::watched::Watched;
use super::Answer;
use super::agent::Agent;
use super::caller::{Caller, caller_of};
use super::convert::reclaim_report;
use super::proto::operation::Report;
use super::proto::start_request::Work as Wanted;
use super::proto::{
    CancelRequest, CancelResponse, MaintenanceListRequest, MaintenanceListResponse, OperationKind, RebuildReport,
    ReclaimWork, StartRequest, StartResponse, WatchRequest, WatchResponse, maintenance_server,
};
use super::stream::{Updates, follow};
use crate::engine::{Error, Reason, ReclaimOptions, ReclaimProgress, Repository, Result};

/// What this version runs.
pub(super) const KINDS: [OperationKind; 5] = [
    OperationKind::Reclaim,
    OperationKind::Scrub,
    OperationKind::Rebuild,
    OperationKind::Evacuate,
    OperationKind::Wipe,
];
/// How often a watcher hears of an operation that does not change: a sign of life.
const HEARTBEAT: Duration = Duration::from_secs(10);

/// The service.
pub(super) struct Maintenance {
    agent: Arc<Agent>,
}

/// The service over `agent`.
pub(super) fn server(agent: Arc<Agent>) -> maintenance_server::MaintenanceServer<Maintenance> {
    maintenance_server::MaintenanceServer::new(Maintenance { agent })
}

#[tonic::async_trait]
impl maintenance_server::Maintenance for Maintenance {
    type WatchStream = Updates<WatchResponse>;

    async fn start(&self, request: Request<StartRequest>) -> Answer<StartResponse> {
        let caller = caller_of(&request)?;
        let StartRequest { repository, work } = request.into_inner();
        let wanted = work.ok_or_else(|| Error::new(Reason::InvalidArgument, "the request names no work"))?;
        if let Wanted::Wipe(_) = wanted {
            caller.transport.require_private("a wipe")?;
        }
        let work = match wanted {
            Wanted::Scrub(wanted) => scrub::work(&self.agent, &caller, &repository, &wanted).await?,
            Wanted::Evacuate(wanted) => decommission::evacuate(&self.agent, &caller, &repository, &wanted).await?,
            Wanted::Wipe(wanted) => decommission::wipe(&self.agent, &caller, &repository, &wanted).await?,
            wanted => work_on(self.agent.repository(&caller, &repository).await?, &wanted)?,
        };
        let observer = self.agent.settings().observer.clone();
        let operation = self.agent.operations().start(work, observer)?.now();
        Ok(Response::new(StartResponse {
            operation: Some(operation),
        }))
    }

    async fn watch(&self, request: Request<WatchRequest>) -> Answer<Self::WatchStream> {
        let caller = caller_of(&request)?;
        let operation = self.operation(&caller, &request.get_ref().operation_id).await?;
        let states = operation.watch();
        let updates = follow(self.agent.clone(), states, HEARTBEAT, |_, state| async move {
            let has_ended = operations::has_ended(&state);
            let update = WatchResponse { operation: Some(state) };
            if has_ended {
                ControlFlow::Break(update)
            } else {
                ControlFlow::Continue(update)
            }
        });
        Ok(Response::new(updates))
    }

    async fn list(&self, request: Request<MaintenanceListRequest>) -> Answer<MaintenanceListResponse> {
        let caller = caller_of(&request)?;
        let mut operations = Vec::new();
        for operation in self.agent.operations().all() {
            if self.may_see(&caller, &operation).await {
                operations.push(operation.outline());
            }
        }
        Ok(Response::new(MaintenanceListResponse { operations }))
    }

    async fn cancel(&self, request: Request<CancelRequest>) -> Answer<CancelResponse> {
        let caller = caller_of(&request)?;
        let operation = self.operation(&caller, &request.get_ref().operation_id).await?;
        operation.cancel();
        Ok(Response::new(CancelResponse {
            operation: Some(operation.now()),
        }))
    }
}

impl Maintenance {
    /// # Errors
    /// `OperationNotFound`, also for one whose repository is not open to the caller: ids tell nothing.
    async fn operation(&self, caller: &Caller, id: &str) -> Result<Arc<Operation>> {
        if let Some(operation) = self.agent.operations().find(id)
            && self.may_see(caller, &operation).await
        {
            return Ok(operation);
        }
        let line = format!("no operation has the id {id:?}");
        Err(Error::new(Reason::OperationNotFound, line))
    }

    async fn may_see(&self, caller: &Caller, operation: &Operation) -> bool {
        match operation.repository() {
            Some(id) => self.agent.permit(caller, &id.to_string()).await.is_ok(),
            None => caller.grants.repositories.is_none(),
        }
    }
}

/// # Errors
/// `Unsupported` for what this version does not run.
fn work_on(repository: Repository, wanted: &Wanted) -> Result<Work> {
    let id = Some(repository.id());
    match wanted {
        Wanted::Reclaim(wanted) => Ok(reclaim_work(repository, reclaim_options(wanted)?)),
        Wanted::Rebuild(_) => Ok(Work {
            kind: OperationKind::Rebuild,
            repository: id,
            // Half a catalog would hide objects until the next start.
            interruption: Interruption::Never,
            task: rebuild(repository).boxed(),
            watched: None,
        }),
        Wanted::Scrub(_) | Wanted::Reseal(_) | Wanted::Evacuate(_) | Wanted::Wipe(_) => {
            let line = "this agent runs reclaim, scrub, rebuild, evacuate and wipe only";
            Err(Error::new(Reason::Unsupported, line))
        }
    }
}

fn reclaim_work(repository: Repository, options: ReclaimOptions) -> Work {
    let progress = Arc::new(ReclaimProgress::default());
    Work {
        kind: OperationKind::Reclaim,
        repository: Some(repository.id()),
        interruption: Interruption::AtOnce,
        task: reclaim(repository, options, progress.clone()).boxed(),
        watched: Some(Watched::Reclaim(progress)),
    }
}

/// # Errors
/// `InvalidArgument` for more than all of it.
fn reclaim_options(wanted: &ReclaimWork) -> Result<ReclaimOptions> {
    let options = match wanted.garbage_percent_max {
        None => ReclaimOptions::default(),
        Some(percent) => ReclaimOptions::leaving(u8::try_from(percent).unwrap_or(u8::MAX))?,
    };
    Ok(ReclaimOptions {
        dry_run: wanted.dry_run,
        ..options
    })
}

async fn reclaim(repository: Repository, options: ReclaimOptions, progress: Arc<ReclaimProgress>) -> Result<Report> {
    let reclaimed = repository.reclaim_watched(options, &progress).await?;
    Ok(Report::Reclaim(reclaim_report(&reclaimed)))
}

async fn rebuild(repository: Repository) -> Result<Report> {
    let rebuilt = repository.rebuild().await?;
    Ok(Report::Rebuild(RebuildReport {
        objects: rebuilt.objects,
        chunks: rebuilt.chunks,
    }))
}
