//! Operations under way, and the last that ended. They live as long as the process.

use std::collections::VecDeque;
use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::time::Duration;

use futures::FutureExt;
use futures::future::BoxFuture;
use parking_lot::Mutex;
use tokio::sync::{Notify, watch};
use tokio::time::MissedTickBehavior;

use super::watched::Watched;
use crate::codec::RepositoryId;
use crate::engine::{Error, Reason, Result, random};
use crate::service::Observer;
use crate::service::convert::{timestamp, without_evacuate_lists, without_lists};
use crate::service::proto::operation::Report;
use crate::service::proto::{self, OperationKind, OperationState};

/// Most operations under way.
const RUNNING_MAX: usize = 100;
/// Operations that are remembered after they ended.
const ENDED_MAX: usize = 100;
/// Scrubs and evacuations among them whose reports keep their lists: each may take megabytes.
const LISTED_MAX: usize = 4;
/// How often watchers are told how far an operation is.
const TELL_EVERY: Duration = Duration::from_secs(1);

/// What an operation does.
pub(super) struct Work {
    pub(super) kind: OperationKind,
    /// The repository; none if it is about all of them.
    pub(super) repository: Option<RepositoryId>,
    pub(super) interruption: Interruption,
    pub(super) task: BoxFuture<'static, Result<Report>>,
    /// Where it tells how far it is, if it does.
    pub(super) watched: Option<Watched>,
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
    repository: Option<RepositoryId>,
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
    /// `LimitExceeded` if too many are under way, or a scrub of the same.
    pub(super) fn start(&self, work: Work, observer: Arc<dyn Observer>) -> Result<Arc<Operation>> {
        let operation = Arc::new(Operation {
            repository: work.repository,
            state: watch::Sender::new(begun(work.repository, work.kind)?),
            cancelled: Notify::new(),
            interruption: work.interruption,
        });
        self.admit(operation.clone())?;
        observer.operation_started(work.kind);
        tokio::spawn(operation.clone().run(work.task, work.watched, observer));
        Ok(operation)
    }

    fn admit(&self, operation: Arc<Operation>) -> Result<()> {
        let mut all = self.all.lock();
        let running = all.iter().filter(|operation| operation.is_running()).count();
        if running >= RUNNING_MAX {
            let line = format!("{running} operations are under way; wait for one to end or cancel one");
            return Err(Error::new(Reason::LimitExceeded, line));
        }
        if let Some(other) = all.iter().find(|other| operation.is_another_scrub_beside(other)) {
            let line = format!(
                "operation {} scrubs the same already; wait for its end or cancel it",
                other.id()
            );
            return Err(Error::new(Reason::LimitExceeded, line));
        }
        let mut ended = 0;
        all.retain(|operation| {
            ended += usize::from(!operation.is_running());
            operation.is_running() || ended <= ENDED_MAX
        });
        let listing = all
            .iter()
            .filter(|operation| operation.has_lists() && !operation.is_running());
        listing.skip(LISTED_MAX).for_each(|operation| operation.forget_lists());
        all.push_front(operation);
        Ok(())
    }

    /// Those under way and the last that ended, newest first.
    pub(super) fn all(&self) -> Vec<Arc<Operation>> {
        self.all.lock().iter().cloned().collect()
    }

    /// The operation of this id.
    pub(in crate::service) fn find(&self, id: &str) -> Option<Arc<Operation>> {
        let all = self.all.lock();
        all.iter().find(|operation| operation.id() == id).cloned()
    }

    /// Asks all to end, and returns when they have.
    pub(in crate::service) async fn close(&self) {
        end(self.all()).await;
    }

    /// The same with those that work on one repository.
    pub(in crate::service) async fn end_those_of(&self, repository: RepositoryId) {
        let mut operations = self.all();
        operations.retain(|operation| operation.repository == Some(repository));
        end(operations).await;
    }
}

async fn end(operations: Vec<Arc<Operation>>) {
    operations.iter().for_each(|operation| operation.cancel());
    for operation in operations {
        operation.ended().await;
    }
}

impl Operation {
    /// The repository it works on; none if on all.
    pub(super) fn repository(&self) -> Option<RepositoryId> {
        self.repository
    }

    fn id(&self) -> String {
        self.state.borrow().id.clone()
    }

    /// How it stands.
    pub(in crate::service) fn now(&self) -> proto::Operation {
        self.state.borrow().clone()
    }

    /// How it stands, without what only grows with what was found.
    pub(super) fn outline(&self) -> proto::Operation {
        let mut state = self.now();
        drop_lists(&mut state);
        state
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

    pub(super) async fn ended(&self) {
        let mut state = self.state.subscribe();
        // The sender lives in `self`, so this ends only by the value.
        let _ = state.wait_for(has_ended).await;
    }

    fn is_scrub(&self) -> bool {
        self.state.borrow().kind() == OperationKind::Scrub
    }

    fn has_lists(&self) -> bool {
        matches!(
            self.state.borrow().kind(),
            OperationKind::Scrub | OperationKind::Evacuate
        )
    }

    /// Two scrubs of the same would only take from each other, and neither would keep its rate.
    fn is_another_scrub_beside(&self, other: &Self) -> bool {
        self.is_scrub() && other.is_scrub() && other.is_running() && self.repository == other.repository
    }

    /// Nobody is told: those who watch an operation that has ended were told all of it.
    fn forget_lists(&self) {
        self.state.send_if_modified(|state| {
            drop_lists(state);
            false
        });
    }

    async fn run(
        self: Arc<Self>,
        task: BoxFuture<'static, Result<Report>>,
        watched: Option<Watched>,
        observer: Arc<dyn Observer>,
    ) {
        let ended = self.outcome(task, watched.as_ref()).await;
        self.state.send_modify(|state| settle(state, ended, watched.as_ref()));
        let state = self.state.borrow();
        observer.operation_ended(state.kind(), state.state());
        tracing::info!(
            operation = state.id,
            kind = state.kind().as_str_name(),
            state = state.state().as_str_name(),
            message = state.message,
            "operation ended"
        );
    }

    /// What came of it; `None` if it was cancelled. The work is gone when this returns.
    async fn outcome(
        &self,
        task: BoxFuture<'static, Result<Report>>,
        watched: Option<&Watched>,
    ) -> Option<Result<Report>> {
        let mut task = AssertUnwindSafe(task).catch_unwind();
        let mut ticks = tokio::time::interval(TELL_EVERY);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                // What has ended is not cancelled.
                biased;
                ended = &mut task => return Some(ended.unwrap_or_else(|_| Err(panicked()))),
                () = self.cancelled.notified() => return None,
                _ = ticks.tick(), if watched.is_some() => self.tell(watched),
            }
        }
    }

    fn tell(&self, watched: Option<&Watched>) {
        let progress = watched.map(Watched::progress);
        self.state.send_if_modified(|state| {
            let is_news = state.progress != progress;
            state.progress = progress;
            is_news
        });
    }
}

fn drop_lists(state: &mut proto::Operation) {
    match &mut state.report {
        Some(Report::Scrub(report)) => without_lists(report),
        Some(Report::Evacuate(report)) => without_evacuate_lists(report),
        _ => {}
    }
}

/// Whether an operation in this state does nothing any more.
pub(super) fn has_ended(state: &proto::Operation) -> bool {
    state.state() != OperationState::Running
}

fn begun(repository: Option<RepositoryId>, kind: OperationKind) -> Result<proto::Operation> {
    Ok(proto::Operation {
        id: hex::encode(random::<8>()?),
        kind: kind.into(),
        repository_id: repository.map(|id| id.to_string()).unwrap_or_default(),
        state: OperationState::Running.into(),
        started: Some(now()),
        ..proto::Operation::default()
    })
}

/// Writes down how it ended; `None` if it was cancelled. What it found and did until then is not lost.
fn settle(state: &mut proto::Operation, ended: Option<Result<Report>>, watched: Option<&Watched>) {
    state.ended = Some(now());
    state.progress = watched.map(Watched::progress);
    if !matches!(ended, Some(Ok(_))) {
        state.report = watched.map(Watched::report);
    }
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
    use crate::service::observe::Unobserved;
    use crate::service::proto::ReclaimReport;

    fn work(interruption: Interruption, task: BoxFuture<'static, Result<Report>>) -> Work {
        Work {
            kind: OperationKind::Reclaim,
            repository: Some(RepositoryId([1; 16])),
            interruption,
            task,
            watched: None,
        }
    }

    fn done() -> Result<Report> {
        Ok(Report::Reclaim(ReclaimReport::default()))
    }

    fn start(operations: &Operations, work: Work) -> Result<Arc<Operation>> {
        operations.start(work, Arc::new(Unobserved))
    }

    #[tokio::test]
    async fn what_may_be_left_off_is_cancelled_at_once() {
        let operations = Operations::default();
        let endless = work(Interruption::AtOnce, std::future::pending().boxed());
        let operation = start(&operations, endless).unwrap();
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
        let operation = start(&operations, work(Interruption::Never, task.boxed())).unwrap();
        operation.cancel();
        go_on.send(()).unwrap();
        operation.ended().await;
        assert_eq!(operation.now().state(), OperationState::Done);
    }

    #[tokio::test]
    async fn a_panic_ends_an_operation_too() {
        let operations = Operations::default();
        let broken = work(Interruption::AtOnce, async { panic!("a defect") }.boxed());
        let operation = start(&operations, broken).unwrap();
        operation.ended().await;
        assert_eq!(operation.now().reason, "INTERNAL");
    }

    #[tokio::test]
    async fn the_last_scrubs_keep_the_lists_of_their_reports() {
        let operations = Operations::default();
        let found = || {
            Report::Scrub(proto::ScrubReport {
                unknown: vec!["something".to_owned()],
                unknown_count: 1,
                ..proto::ScrubReport::default()
            })
        };
        for _ in 0..LISTED_MAX + 2 {
            let mut scrub = work(Interruption::AtOnce, async move { Ok(found()) }.boxed());
            scrub.kind = OperationKind::Scrub;
            start(&operations, scrub).unwrap().ended().await;
        }
        let whole = |operation: &Arc<Operation>| operation.now().report == Some(found());
        let all = operations.all();
        let kept = all.iter().filter(|operation| whole(operation)).count();
        assert_eq!(
            kept,
            LISTED_MAX + 1,
            "those that had ended when the newest began, and it"
        );
        let Some(Report::Scrub(oldest)) = all[LISTED_MAX + 1].now().report else {
            panic!("no report");
        };
        assert!(oldest.lists_truncated && oldest.unknown.is_empty() && oldest.unknown_count == 1);
    }

    #[tokio::test]
    async fn a_hundred_may_run_and_a_hundred_are_remembered() {
        let operations = Operations::default();
        let endless = || work(Interruption::AtOnce, std::future::pending().boxed());
        for _ in 0..RUNNING_MAX {
            start(&operations, endless()).unwrap();
        }
        let refused = start(&operations, endless()).map(drop).unwrap_err();
        assert_eq!(refused.reason(), Reason::LimitExceeded);
        operations.close().await;
        for _ in 0..3 {
            let quick = work(Interruption::AtOnce, async { done() }.boxed());
            start(&operations, quick).unwrap().ended().await;
        }
        assert_eq!(operations.all().len(), ENDED_MAX + 1);
    }
}
