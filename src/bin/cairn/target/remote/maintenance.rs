//! Long work that the agent does while we watch. Breaking off only ends the watching.

use cairn_agent::engine::{Error, Reason, ReclaimOptions, Reclaimed, Result};
use cairn_agent::service::proto;
use proto::OperationState;
use proto::maintenance_client::MaintenanceClient;
use proto::operation::Report;
use proto::start_request::Work;

use super::convert::{self, needed, nonsense};
use super::{MESSAGE_BYTES_MAX, Repository};

pub(super) async fn reclaim(repository: &Repository, options: ReclaimOptions) -> Result<Reclaimed> {
    let work = proto::ReclaimWork {
        dry_run: options.dry_run,
    };
    match run(repository, Work::Reclaim(work)).await? {
        Report::Reclaim(report) => Ok(convert::reclaimed(report)),
        Report::Rebuild(_) => Err(nonsense("it reports on other work than it was given")),
    }
}

pub(super) async fn rebuild(repository: &Repository) -> Result<()> {
    run(repository, Work::Rebuild(proto::RebuildWork {})).await.map(drop)
}

/// Starts the work and waits for its end.
async fn run(repository: &Repository, work: Work) -> Result<Report> {
    let failed = |status: tonic::Status| repository.failed(&status);
    let channel = repository.agent.channel.clone();
    let mut client = MaintenanceClient::new(channel).max_decoding_message_size(MESSAGE_BYTES_MAX);
    let request = proto::StartRequest {
        repository: repository.name(),
        work: Some(work),
    };
    let started = client.start(request).await.map_err(failed)?.into_inner();
    let mut operation = needed(started.operation)?;
    let request = proto::WatchRequest {
        operation_id: operation.id.clone(),
    };
    let mut changes = client.watch(request).await.map_err(failed)?.into_inner();
    while let Some(change) = changes.message().await.map_err(failed)? {
        operation = needed(change.operation)?;
    }
    match operation.state() {
        OperationState::Done => needed(operation.report),
        OperationState::Failed => Err(reported(&operation.reason, operation.message)),
        OperationState::Cancelled => {
            let line = format!("operation {} was cancelled", operation.id);
            Err(Error::new(Reason::Cancelled, line))
        }
        _ => {
            let line = format!(
                "the agent at {} tells no longer how its operation {} goes; it may go on",
                repository.agent.address, operation.id
            );
            Err(Error::new(Reason::ShuttingDown, line))
        }
    }
}

/// A failure that comes inside of an answer, by its word.
pub(super) fn reported(word: &str, message: String) -> Error {
    Error::new(Reason::from_word(word).unwrap_or(Reason::Internal), message)
}
