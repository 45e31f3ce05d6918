//! Response streams, and work that outlives its caller.
//!
//! A stream that a task [`produce`]s is bounded by the room of its channel; its last message always has a place, so that
//! neither a result nor a refusal waits for a client that does not take anything. A client that goes away takes the task
//! with it. A stream that [`follow`]s a value has no task: it looks at the value when the client takes a message.

use std::future::Future;
use std::ops::ControlFlow;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use futures::{Stream, StreamExt, stream};
use tokio::sync::{mpsc, watch};
use tokio::task::JoinHandle;
use tokio::time::timeout;
use tonic::{Response, Status};

use super::agent::{Agent, going_down};
use super::errors;
use crate::engine::{Error, Reason, Result};

/// Where a task puts the messages of its response, all but the last.
pub(super) struct Outlet<T> {
    messages: mpsc::Sender<std::result::Result<T, Status>>,
    idle: Duration,
}

impl<T> Outlet<T> {
    /// Waits until the client has taken enough, and sends.
    ///
    /// # Errors
    /// `StreamIdle` if it takes nothing for too long; `Cancelled` if it is gone.
    pub(super) async fn send(&self, message: T) -> Result<()> {
        match timeout(self.idle, self.messages.reserve()).await {
            Ok(Ok(room)) => {
                room.send(Ok(message));
                Ok(())
            }
            Ok(Err(_)) => Err(Error::new(Reason::Cancelled, "the caller went away")),
            Err(_) => Err(idle(self.idle, "taken")),
        }
    }

    /// Sends if there is room now; else the message is lost.
    pub(super) fn offer(&self, message: T) {
        let _ = self.messages.try_send(Ok(message));
    }
}

/// The error for a client that has neither sent nor taken anything.
pub(super) fn idle(limit: Duration, what: &str) -> Error {
    let line = format!(
        "nothing was {what} for {} seconds; the stream was given up",
        limit.as_secs_f64()
    );
    Error::new(Reason::StreamIdle, line)
}

/// A response whose messages `work` puts into an [`Outlet`] with this much room; what it returns is the last one.
///
/// `idle` is how long a client may take nothing.
pub(super) fn produce<T, W, F>(room: usize, idle: Duration, work: W) -> Response<Produced<T>>
where
    T: Send + 'static,
    W: FnOnce(Outlet<T>) -> F,
    F: Future<Output = Result<T>> + Send + 'static,
{
    let (sender, messages) = mpsc::channel(room + 1);
    let last = sender.clone().try_reserve_owned().expect("a new channel has room");
    // On the heap: it is moved four times until it runs.
    let work = Box::pin(work(Outlet { messages: sender, idle }));
    let task = tokio::spawn(async move {
        let end = work.await;
        last.send(end.map_err(|error| errors::status(&error)));
    });
    Response::new(Produced {
        messages,
        task: Some(task),
    })
}

/// A response stream that a task produces; dropping it ends the task.
pub(super) struct Produced<T> {
    messages: mpsc::Receiver<std::result::Result<T, Status>>,
    task: Option<JoinHandle<()>>,
}

impl<T> Stream for Produced<T> {
    type Item = std::result::Result<T, Status>;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let message = ready!(self.messages.poll_recv(context));
        if message.is_some() {
            return Poll::Ready(message);
        }
        // Only a task that panicked leaves without a last message: a client must not take that for an end.
        let Some(task) = self.task.as_mut() else {
            return Poll::Ready(None);
        };
        let ended = ready!(Pin::new(task).poll(context));
        self.task = None;
        Poll::Ready(ended.is_err().then(|| Err(errors::status(&ended_early()))))
    }
}

fn ended_early() -> Error {
    Error::new(Reason::Internal, "the call ended early; the log has the cause")
}

impl<T> Drop for Produced<T> {
    fn drop(&mut self) {
        if let Some(task) = &self.task {
            task.abort();
        }
    }
}

/// Updates about a value that changes.
pub(super) type Updates<T> = Pin<Box<dyn Stream<Item = std::result::Result<T, Status>> + Send>>;

/// The value of `receiver` as a `message`, now and whenever it changes, and each `heartbeat`. A client that is slow misses
/// states and gets the newest. Ends with the message that breaks, or when the agent goes down.
pub(super) fn follow<V, T, M, F>(
    agent: Arc<Agent>,
    mut receiver: watch::Receiver<V>,
    heartbeat: Duration,
    message: M,
) -> Updates<T>
where
    V: Clone + Send + Sync + 'static,
    T: Send + 'static,
    M: Fn(Arc<Agent>, V) -> F + Clone + Send + 'static,
    F: Future<Output = ControlFlow<T, T>> + Send,
{
    receiver.mark_changed();
    let updates = stream::unfold(Some((agent, receiver)), move |state| {
        let message = message.clone();
        async move {
            let (agent, mut receiver) = state?;
            if let Err(error) = changed(&agent, &mut receiver, heartbeat).await {
                return Some((Err(errors::status(&error)), None));
            }
            let value = receiver.borrow_and_update().clone();
            match message(agent.clone(), value).await {
                ControlFlow::Continue(update) => Some((Ok(update), Some((agent, receiver)))),
                ControlFlow::Break(update) => Some((Ok(update), None)),
            }
        }
    });
    updates.boxed()
}

/// Returns when the value has changed, or after `heartbeat`.
async fn changed<V>(agent: &Agent, receiver: &mut watch::Receiver<V>, heartbeat: Duration) -> Result<()> {
    tokio::select! {
        () = agent.down() => Err(going_down()),
        changed = receiver.changed() => changed.map_err(|_| going_down()),
        () = tokio::time::sleep(heartbeat) => Ok(()),
    }
}

/// Does `work` to its end, also if the caller goes away: for steps that nobody would take up again.
pub(super) async fn to_its_end<T, F>(work: F) -> Result<T>
where
    T: Send + 'static,
    F: Future<Output = Result<T>> + Send + 'static,
{
    tokio::spawn(work).await.unwrap_or_else(|_| Err(ended_early()))
}
