//! Signals to an agent: the first asks it to end in order, the second ends it at once.

use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::oneshot;

use crate::failure::{Failure, SIGNALLED, note};

/// The signals that ask to end.
pub(super) struct Signals {
    first: oneshot::Receiver<u8>,
    task: tokio::task::JoinHandle<()>,
}

impl Signals {
    /// From now on they do not end the process by themselves.
    pub(super) fn catch() -> Result<Self, Failure> {
        let failed = |error| Failure::failed(format!("the operating system gives no signals: {error}"));
        let mut caught = Caught::new().map_err(failed)?;
        let (tell, first) = oneshot::channel();
        let task = tokio::spawn(async move {
            let _ = tell.send(caught.next().await);
            let number = caught.next().await;
            note("told to stop a second time: stopping at once");
            std::process::exit((SIGNALLED + number).into());
        });
        Ok(Self { first, task })
    }

    /// Waits for the first; its number.
    pub(super) async fn first(&mut self) -> u8 {
        match (&mut self.first).await {
            Ok(number) => number,
            Err(_) => std::future::pending().await,
        }
    }
}

impl Drop for Signals {
    fn drop(&mut self) {
        self.task.abort();
    }
}

struct Caught {
    hangup: Signal,
    interrupt: Signal,
    terminate: Signal,
}

impl Caught {
    fn new() -> std::io::Result<Self> {
        Ok(Self {
            hangup: signal(SignalKind::hangup())?,
            interrupt: signal(SignalKind::interrupt())?,
            terminate: signal(SignalKind::terminate())?,
        })
    }

    async fn next(&mut self) -> u8 {
        let kind = tokio::select! {
            _ = self.hangup.recv() => SignalKind::hangup(),
            _ = self.interrupt.recv() => SignalKind::interrupt(),
            _ = self.terminate.recv() => SignalKind::terminate(),
        };
        kind.as_raw_value() as u8
    }
}
