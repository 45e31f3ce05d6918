//! Operations under way, and the last that ended. They live as long as the process.

use std::collections::VecDeque;
use std::panic::AssertUnwindSafe;
use std::sync::Arc;

use futures::FutureExt;
use futures::future::BoxFuture;
use parking_lot::Mutex;
use tokio::sync::{Notify, watch};

use crate::codec::RepositoryId;
use crate::engine::{Error, Reason, Result, random};
use crate::service::convert::timestamp;
use crate::service::proto::operation::Report;
use crate::service::proto::{self, OperationKind, OperationState};

/// Most operations under way.
const RUNNING_MAX: usize = 100;
/// Operations that are remembered after they ended.
const ENDED_MAX: usize = 100;

/// What an operation does.
pub(super) struct Work {
    pub(super) kind: OperationKind,
    pub(super) interruption: Interruption,
    pub(super) task: BoxFuture<'static, Result<Report>>,
}

/// Where work may be left off with everything whole.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Interruption {
    /// Anywhere: its future may be dropped.
    AtOnce,
    /// Only at its end.
    Never,
}

/// An operation.
pub(in crate::service) struct Operation {
    repository: RepositoryId,
    state: watch::Sender<proto::Operation>,
    cancelled: Notify,
    interruption: Interruption,
}

/// The operations of an agent.
#[derive(Default)]
pub(in crate::service) struct Operations {
    /// Newest first.
    all: Mutex<VecDeque<Arc<Operation>>>,
}

impl Operations {
    /// Begins an operation.
    ///
    /// # Errors
    /// `LimitExceeded` if too many are under way.
    pub(super) fn start(&self, repository: RepositoryId, work: Work) -> Result<Arc<Operation>> {
        let operation = Arc::new(Operation {
            repository,
            state: watch::Sender::new(begun(repository, work.kind)?),
            cancelled: Notify::new(),
            interruption: work.interruption,
        });
        self.admit(operation.clone())?;
        tokio::spawn(operation.clone().run(work.task));
        Ok(operation)
    }

    fn admit(&self, operation: Arc<Operation>) -> Result<()> {
        let mut all = self.all.lock();
        let running = all.iter().filter(|operation| operation.is_running()).count();
        if running >= RUNNING_MAX {
            let line = format!("{running} operations are under way; wait for one to end or cancel one");
            return Err(Error::new(Reason::LimitExceeded, line));
        }
        let mut ended = 0;
        all.retain(|operation| {
            ended += usize::from(!operation.is_running());
            operation.is_running() || ended <= ENDED_MAX
        });
        all.push_front(operation);
        Ok(())
    }

    /// Those under way and the last that ended, newest first.
    pub(super) fn all(&self) -> Vec<Arc<Operation>> {
        self.all.lock().iter().cloned().collect()
    }

    /// The operation of this id.
    pub(super) fn find(&self, id: &str) -> Option<Arc<Operation>> {
        let all = self.all.lock();
        all.iter().find(|operation| operation.state.borrow().id == id).cloned()
    }

    /// Asks all to end, and returns when they have.
    pub(in crate::service) async fn close(&self) {
        for operation in self.all() {
            operation.cancel();
            operation.ended().await;
        }
    }
}

impl Operation {
    /// The repository it works on.
    pub(super) fn repository(&self) -> RepositoryId {
        self.repository
    }

    /// How it stands.
    pub(super) fn now(&self) -> proto::Operation {
        self.state.borrow().clone()
    }

    /// How it stands, whenever that changes.
    pub(super) fn watch(&self) -> watch::Receiver<proto::Operation> {
        self.state.subscribe()
    }

    /// Asks it to end.
    pub(super) fn cancel(&self) {
        if self.interruption == Interruption::AtOnce {
            self.cancelled.notify_one();
        }
    }

    fn is_running(&self) -> bool {
        !has_ended(&self.state.borrow())
    }

    async fn ended(&self) {
        let mut state = self.state.subscribe();
        // The sender lives in `self`, so this ends only by the value.
        let _ = state.wait_for(has_ended).await;
    }

    async fn run(self: Arc<Self>, task: BoxFuture<'static, Result<Report>>) {
        let ended = tokio::select! {
            // What has ended is not cancelled.
            biased;
            ended = AssertUnwindSafe(task).catch_unwind() => Some(ended.unwrap_or_else(|_| Err(panicked()))),
            () = self.cancelled.notified() => None,
        };
        self.state.send_modify(|state| settle(state, ended));
        let state = self.state.borrow();
        tracing::info!(
            operation = state.id,
            kind = state.kind().as_str_name(),
            state = state.state().as_str_name(),
            message = state.message,
            "operation ended"
        );
    }
}

/// Whether an operation in this state does nothing any more.
pub(super) fn has_ended(state: &proto::Operation) -> bool {
    state.state() != OperationState::Running
}

fn begun(repository: RepositoryId, kind: OperationKind) -> Result<proto::Operation> {
    Ok(proto::Operation {
        id: hex::encode(random::<8>()?),
        kind: kind.into(),
        repository_id: repository.to_string(),
        state: OperationState::Running.into(),
        started: Some(now()),
        ..proto::Operation::default()
    })
}

/// Writes down how it ended; `None` if it was cancelled.
fn settle(state: &mut proto::Operation, ended: Option<Result<Report>>) {
    state.ended = Some(now());
    match ended {
        Some(Ok(report)) => {
            state.set_state(OperationState::Done);
            state.report = Some(report);
        }
        Some(Err(error)) => {
            state.set_state(OperationState::Failed);
            state.message = error.to_string();
            state.reason = error.reason().as_str().to_owned();
        }
        None => state.set_state(OperationState::Cancelled),
    }
}

fn now() -> prost_types::Timestamp {
    timestamp(jiff::Timestamp::now().as_millisecond())
}

fn panicked() -> Error {
    Error::new(Reason::Internal, "the operation ended early; the log has the cause")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::service::proto::ReclaimReport;

    fn work(interruption: Interruption, task: BoxFuture<'static, Result<Report>>) -> Work {
        Work {
            kind: OperationKind::Reclaim,
            interruption,
            task,
        }
    }

    fn done() -> Result<Report> {
        Ok(Report::Reclaim(ReclaimReport::default()))
    }

    const HERE: RepositoryId = RepositoryId([1; 16]);

    #[tokio::test]
    async fn what_may_be_left_off_is_cancelled_at_once() {
        let operations = Operations::default();
        let endless = work(Interruption::AtOnce, std::future::pending().boxed());
        let operation = operations.start(HERE, endless).unwrap();
        operations.close().await;
        assert_eq!(operation.now().state(), OperationState::Cancelled);
    }

    #[tokio::test]
    async fn what_may_not_be_left_off_runs_to_its_end() {
        let operations = Operations::default();
        let (go_on, waiting) = tokio::sync::oneshot::channel::<()>();
        let task = async move {
            waiting.await.unwrap();
            done()
        };
        let operation = operations.start(HERE, work(Interruption::Never, task.boxed())).unwrap();
        operation.cancel();
        go_on.send(()).unwrap();
        operation.ended().await;
        assert_eq!(operation.now().state(), OperationState::Done);
    }

    #[tokio::test]
    async fn a_panic_ends_an_operation_too() {
        let operations = Operations::default();
        let broken = work(Interruption::AtOnce, async { panic!("a defect") }.boxed());
        let operation = operations.start(HERE, broken).unwrap();
        operation.ended().await;
        assert_eq!(operation.now().reason, "INTERNAL");
    }

    #[tokio::test]
    async fn a_hundred_may_run_and_a_hundred_are_remembered() {
        let operations = Operations::default();
        let endless = || work(Interruption::AtOnce, std::future::pending().boxed());
        for _ in 0..RUNNING_MAX {
            operations.start(HERE, endless()).unwrap();
        }
        let refused = operations.start(HERE, endless()).map(drop).unwrap_err();
        assert_eq!(refused.reason(), Reason::LimitExceeded);
        operations.close().await;
        for _ in 0..3 {
            let quick = work(Interruption::AtOnce, async { done() }.boxed());
            operations.start(HERE, quick).unwrap().ended().await;
        }
        assert_eq!(operations.all().len(), ENDED_MAX + 1);
    }
}
