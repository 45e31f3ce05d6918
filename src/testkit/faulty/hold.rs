//! Operations that wait until a test lets them go on: so a test decides in which order the steps of several agents
//! happen, and what comes after its caller has gone.

use object_store::{PutResult, Result};
use tokio::sync::oneshot;

use super::{Faulty, Gate, Kind, Operation, Work};

/// An operation that waits.
pub(super) struct Held {
    operation: Operation,
    work: Work,
    answer: oneshot::Sender<Result<Option<PutResult>>>,
}

/// What can be known of an operation that waits.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Waiting {
    /// Its number.
    pub operation: usize,
    /// What it is.
    pub kind: Kind,
    /// The object, or the prefix of a listing.
    pub path: String,
    /// Whether its caller has gone: it can still be done.
    pub abandoned: bool,
}

impl Faulty {
    /// From now on operations that the gate accepts wait for [`Faulty::release`]. The gate is not to ask this store anything.
    pub fn hold(&self, gate: impl Fn(Kind, &str) -> bool + Send + Sync + 'static) {
        self.shared.state.lock().gate = Some(Box::new(gate));
    }

    /// From now on nothing waits; what waits already goes on waiting.
    pub fn hold_no_more(&self) {
        self.shared.state.lock().gate = None;
    }

    /// The operations that wait, in the order in which they began.
    pub fn waiting(&self) -> Vec<Waiting> {
        let state = self.shared.state.lock();
        let waiting = state.held.values().map(|held| Waiting {
            operation: held.operation.number,
            kind: held.operation.kind,
            path: held.operation.path.clone(),
            abandoned: held.answer.is_closed(),
        });
        waiting.collect()
    }

    /// Waits until an operation waits that `wanted` accepts.
    pub async fn held(&self, wanted: impl Fn(&Waiting) -> bool) -> Waiting {
        loop {
            let changed = self.shared.changed.notified();
            if let Some(found) = self.waiting().into_iter().find(&wanted) {
                return found;
            }
            changed.await;
        }
    }

    /// Lets an operation happen, also if its caller has gone, and then tells the caller. False if it does not wait.
    pub async fn release(&self, operation: usize) -> bool {
        let Some(held) = self.take(operation) else {
            return false;
        };
        let result = self.perform(&held.operation, held.work).await;
        let _ = held.answer.send(result);
        true
    }

    /// Tells the caller that an operation failed, without doing it. False if it does not wait.
    pub fn refuse(&self, operation: usize) -> bool {
        let Some(held) = self.take(operation) else {
            return false;
        };
        let result = self.fail(&held.operation, "refused");
        let _ = held.answer.send(result);
        true
    }

    /// Lets an operation happen and tells the caller that it failed. False if it does not wait.
    pub async fn lose_answer(&self, operation: usize) -> bool {
        let Some(held) = self.take(operation) else {
            return false;
        };
        let _ = self.perform(&held.operation, held.work).await;
        let _ = held
            .answer
            .send(Err(held.operation.error("done, but the answer was lost")));
        true
    }

    /// Tells the caller that an operation failed. It goes on waiting and may still be done.
    pub fn give_up(&self, operation: usize) -> bool {
        let Some(held) = self.take(operation) else {
            return false;
        };
        let error = held.operation.error("given up by the caller");
        let _ = held.answer.send(Err(error));
        let (answer, _) = oneshot::channel();
        self.shared.state.lock().held.insert(operation, Held { answer, ..held });
        true
    }

    fn take(&self, operation: usize) -> Option<Held> {
        self.shared.state.lock().held.remove(&operation)
    }

    /// The work, if it may be done at once; else the answer to wait for.
    pub(super) fn admit(
        &self,
        operation: &Operation,
        work: Work,
    ) -> std::result::Result<Work, oneshot::Receiver<Result<Option<PutResult>>>> {
        // In one step: whoever says that nothing waits any more sees all that does.
        let mut state = self.shared.state.lock();
        let waits = |gate: &Gate| gate(operation.kind, &operation.path);
        if !state.gate.as_ref().is_some_and(waits) {
            return Ok(work);
        }
        let (answer, answered) = oneshot::channel();
        let held = Held {
            operation: operation.clone(),
            work,
            answer,
        };
        state.held.insert(operation.number, held);
        drop(state);
        self.shared.changed.notify_waiters();
        Err(answered)
    }
}
