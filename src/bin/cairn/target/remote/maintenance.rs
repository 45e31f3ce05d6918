//! Long work that the agent does while we watch. Breaking off only ends the watching, but for a scrub, an
//! evacuation and a wipe, which it cancels.

use tonic::transport::Channel;

use cairn_agent::engine::{
    Depth, Error, Evacuees, Reason, ReclaimOptions, ReclaimProgress, Reclaimed, Removed, Result, ScrubOptions,
};
use cairn_agent::service::convert::scrub_work;
use cairn_agent::service::proto;
use proto::maintenance_client::MaintenanceClient;
use proto::operation::Report;
use proto::start_request::Work;
use proto::{Operation, OperationState};

use super::convert::{self, needed, nonsense};
use super::{MESSAGE_BYTES_MAX, Repository};
use crate::interrupt::last_words;
use crate::progress::Counter;
use crate::target::{Evacuated, Scrubbed};

pub(super) async fn reclaim(
    repository: &Repository,
    options: ReclaimOptions,
    progress: &ReclaimProgress,
) -> Result<Reclaimed> {
    let work = proto::ReclaimWork {
        dry_run: options.dry_run,
        garbage_percent_max: Some(options.garbage_percent_max.into()),
    };
    let told = |operation: &Operation| {
        if let Some(told) = &operation.progress {
            progress.tell(told.bytes_done, told.bytes_expected);
        }
    };
    match run(repository, Work::Reclaim(work), told).await? {
        Report::Reclaim(report) => Ok(report.into()),
        _ => Err(other_work()),
    }
}

pub(super) async fn rebuild(repository: &Repository) -> Result<()> {
    let work = Work::Rebuild(proto::RebuildWork {});
    run(repository, work, |_| ()).await.map(drop)
}

/// A scrub, as a local one would do it: to depth bytes over all repositories.
pub(super) async fn scrub(repository: &Repository, options: &ScrubOptions, counter: &Counter) -> Result<Scrubbed> {
    let work = scrub_work(options, options.depth == Depth::Bytes);
    match run_cancelling(repository, Work::Scrub(work), counter).await? {
        Report::Scrub(report) => convert::scrubbed(report),
        _ => Err(other_work()),
    }
}

/// An evacuation to a place as the agent sees it.
pub(super) async fn evacuate(
    repository: &Repository,
    to: String,
    which: &Evacuees,
    counter: &Counter,
) -> Result<Evacuated> {
    let work = proto::EvacuateWork {
        to,
        all_repositories: *which == Evacuees::All,
    };
    match run_cancelling(repository, Work::Evacuate(work), counter).await? {
        Report::Evacuate(report) => convert::evacuated(report),
        _ => Err(other_work()),
    }
}

pub(super) async fn wipe(repository: &Repository, confirm: &str, counter: &Counter) -> Result<Removed> {
    let work = proto::WipeWork {
        confirm: confirm.to_owned(),
    };
    match run_cancelling(repository, Work::Wipe(work), counter).await? {
        Report::Wipe(report) => Ok(report.into()),
        _ => Err(other_work()),
    }
}

/// Starts the work and waits for its end, telling how far it is; cancels it if nobody waits any more.
async fn run_cancelling(repository: &Repository, work: Work, counter: &Counter) -> Result<Report> {
    let operation = start(repository, work).await?;
    let mut cancelling = Cancelling {
        client: client(repository),
        operation_id: Some(operation.id.clone()),
    };
    let ended = watch(repository, operation, |operation| {
        if let Some(progress) = &operation.progress {
            counter.set(progress.bytes_done, progress.bytes_expected);
        }
    });
    let ended = ended.await?;
    cancelling.operation_id = None;
    report(repository, ended)
}

/// Cancels an operation if it is dropped before the end is known.
struct Cancelling {
    client: MaintenanceClient<Channel>,
    operation_id: Option<String>,
}

impl Drop for Cancelling {
    fn drop(&mut self) {
        if let Some(operation_id) = self.operation_id.take() {
            let mut client = self.client.clone();
            last_words(async move {
                // Nobody is left to be told of a failure.
                let _ = client.cancel(proto::CancelRequest { operation_id }).await;
            });
        }
    }
}

/// Starts the work and waits for its end.
async fn run(repository: &Repository, work: Work, told: impl Fn(&Operation)) -> Result<Report> {
    let operation = start(repository, work).await?;
    let ended = watch(repository, operation, told).await?;
    report(repository, ended)
}

async fn start(repository: &Repository, work: Work) -> Result<Operation> {
    let request = proto::StartRequest {
        repository: repository.name(),
        work: Some(work),
    };
    let started = client(repository).start(request).await;
    needed(
        started
            .map_err(|status| repository.failed(&status))?
            .into_inner()
            .operation,
    )
}

/// The operation as it was told last.
async fn watch(repository: &Repository, operation: Operation, told: impl Fn(&Operation)) -> Result<Operation> {
    let failed = |status: tonic::Status| repository.failed(&status);
    let request = proto::WatchRequest {
        operation_id: operation.id.clone(),
    };
    let mut operation = operation;
    let mut changes = client(repository).watch(request).await.map_err(failed)?.into_inner();
    while let Some(change) = changes.message().await.map_err(failed)? {
        operation = needed(change.operation)?;
        told(&operation);
    }
    Ok(operation)
}

/// What came of an operation.
fn report(repository: &Repository, operation: Operation) -> Result<Report> {
    match operation.state() {
        OperationState::Done => needed(operation.report),
        OperationState::Failed => Err(reported(&operation.reason, operation.message)),
        OperationState::Cancelled => Err(Error::new(Reason::Cancelled, cancelled(&operation))),
        _ => {
            let line = format!(
                "the agent at {} tells no longer how its operation {} goes; it may go on",
                repository.agent.address, operation.id
            );
            Err(Error::new(Reason::ShuttingDown, line))
        }
    }
}

fn cancelled(operation: &Operation) -> String {
    let line = format!("operation {} was cancelled", operation.id);
    match &operation.report {
        Some(Report::Scrub(report)) if !report.cursor.is_empty() => {
            format!("{line}; go on with --from '{}'", report.cursor)
        }
        _ => line,
    }
}

fn client(repository: &Repository) -> MaintenanceClient<Channel> {
    let channel = repository.agent.channel.clone();
    MaintenanceClient::new(channel).max_decoding_message_size(MESSAGE_BYTES_MAX)
}

fn other_work() -> Error {
    nonsense("it reports on other work than it was given")
}

/// A failure that comes inside of an answer, by its word.
pub(super) fn reported(word: &str, message: String) -> Error {
    Error::new(Reason::from_word(word).unwrap_or(Reason::Internal), message)
}
