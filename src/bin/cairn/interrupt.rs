//! Signals that end the process.

use std::future::Future;
use std::time::Duration;

use parking_lot::Mutex;
use tokio::signal::unix::{SignalKind, signal};
use tokio::task::JoinHandle;

use crate::failure::Failure;

/// How long a command that was told to stop may take to remove its temporary file, and to say what it has to.
const GRACE: Duration = Duration::from_secs(2);

/// What commands that were dropped still have to say.
static LAST_WORDS: Mutex<Vec<JoinHandle<()>>> = Mutex::new(Vec::new());

/// To be called where a command is dropped: the process waits a moment for these before it ends.
#[cfg(feature = "serve")]
pub(crate) fn last_words(words: impl Future<Output = ()> + Send + 'static) {
    if let Ok(runtime) = tokio::runtime::Handle::try_current() {
        LAST_WORDS.lock().push(runtime.spawn(words));
    }
}

/// Runs a command to its end, or drops it when the process is told to stop. Dropping is safe at any moment: what was not
/// acknowledged never becomes visible.
pub(crate) async fn until_signalled<F>(work: F) -> Result<(), Failure>
where
    F: Future<Output = Result<(), Failure>> + Send + 'static,
{
    // A task of its own: a command that computes or waits for a disk must not keep the signal from being seen.
    let mut work = tokio::spawn(work);
    let signalled = tokio::select! {
        done = &mut work => return done.unwrap_or_else(|error| Err(panicked(&error))),
        number = termination() => number,
    };
    work.abort();
    let ending = async {
        let _ = work.await;
        let words = std::mem::take(&mut *LAST_WORDS.lock());
        futures::future::join_all(words).await;
    };
    let _ = tokio::time::timeout(GRACE, ending).await;
    Err(Failure::signalled(signalled))
}

/// The panic's message is on standard error already, from where it happened.
fn panicked(error: &tokio::task::JoinError) -> Failure {
    Failure::failed(format!(
        "a defect of this program ended the command ({error}); please report it"
    ))
}

/// Waits for a signal that asks to end; its number.
async fn termination() -> u8 {
    tokio::select! {
        number = arrival(SignalKind::hangup()) => number,
        number = arrival(SignalKind::interrupt()) => number,
        number = arrival(SignalKind::terminate()) => number,
    }
}

async fn arrival(kind: SignalKind) -> u8 {
    match signal(kind) {
        Ok(mut signal) => {
            signal.recv().await;
        }
        // Without a handler the signal does what it does by default, which is to end the process.
        Err(_) => std::future::pending().await,
    }
    kind.as_raw_value() as u8
}
