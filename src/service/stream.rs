//! Response streams that a task produces.
//!
//! A stream is bounded by the room of its channel; its last message always has a place, so that neither a result nor a
//! refusal waits for a client that does not take anything. A client that goes away takes the task with it.

use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use futures::Stream;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio::time::timeout;
use tonic::{Response, Status};

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
        limit.as_secs()
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
    let work = work(Outlet { messages: sender, idle });
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
        Poll::Ready(ended.is_err().then(|| Err(broken())))
    }
}

fn broken() -> Status {
    let error = Error::new(Reason::Internal, "the call ended early; the log has the cause");
    errors::status(&error)
}

impl<T> Drop for Produced<T> {
    fn drop(&mut self) {
        if let Some(task) = &self.task {
            task.abort();
        }
    }
}
