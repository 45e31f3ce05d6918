//! What failed lately: the memory that makes an agent's mode out of single failures.
//!
//! Every failing request to a backend is recorded here, in one place ([`Backend::watched`](super::Backend)). What is no
//! fault of the storage (not found, exists already, held by another, a wrong request) is not.

use std::collections::BTreeMap;
use std::time::Duration;

use parking_lot::Mutex;
use tokio::sync::Notify;
use tokio::time::Instant;

use super::error::{Error, ErrorKind};

/// Kinds of failure, by what they say about the storage.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Trouble {
    /// Reads or writes fail.
    Io,
    /// What was written could not be made durable.
    Fsync,
    /// Not reachable or not willing, after all attempts.
    Unreachable,
    /// The operating system or a policy refuses.
    Permission,
    /// Credentials are missing, wrong or expired.
    Credentials,
    /// A write was refused for want of room that the numbers of the volume do not show.
    NoSpace,
    /// The file system says that it is read-only.
    ReadOnly,
    /// The directory or the bucket is not there any more.
    Gone,
}

/// Failures of one kind.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Failure {
    /// The kind.
    pub trouble: Trouble,
    /// How many there were.
    pub count: u64,
    /// How long ago the last one was.
    pub age: Duration,
    /// Whether a trial write went through since.
    pub is_answered: bool,
    /// What the last one said, in one line.
    pub text: String,
}

/// Failures by kind, since the backend was attached.
#[derive(Debug, Default)]
pub struct Health {
    failed: Mutex<BTreeMap<Trouble, Failed>>,
    changed: Notify,
}

#[derive(Debug)]
struct Failed {
    count: u64,
    last: Instant,
    is_answered: bool,
    text: String,
}

impl Health {
    pub(super) fn record(&self, trouble: Trouble, error: &Error) {
        let mut failed = self.failed.lock();
        let count = failed.get(&trouble).map_or(0, |former| former.count) + 1;
        let latest = Failed {
            count,
            last: Instant::now(),
            is_answered: false,
            text: error.to_string(),
        };
        failed.insert(trouble, latest);
        drop(failed);
        self.changed.notify_one();
    }

    /// Something failed that a look at the place shows too.
    pub(super) fn wake(&self) {
        self.changed.notify_one();
    }

    /// A trial write went through, or failed only for the reasons in `except`.
    pub(super) fn answer(&self, except: &[Trouble]) {
        for (trouble, failed) in self.failed.lock().iter_mut() {
            failed.is_answered |= !except.contains(trouble);
        }
        self.changed.notify_one();
    }

    /// All failures, as of `now`.
    pub fn failures(&self, now: Instant) -> Vec<Failure> {
        let failed = self.failed.lock();
        let failures = failed.iter().map(|(trouble, failed)| Failure {
            trouble: *trouble,
            count: failed.count,
            age: now.saturating_duration_since(failed.last),
            is_answered: failed.is_answered,
            text: failed.text.clone(),
        });
        failures.collect()
    }

    /// Waits for the next failure, or for one that nobody has waited for yet.
    pub async fn changed(&self) {
        self.changed.notified().await;
    }
}

impl Trouble {
    /// What an error says about the storage, if anything.
    pub(super) fn of(error: &Error) -> Option<Self> {
        match error.kind() {
            ErrorKind::Io if error.is_of_fsync() => Some(Self::Fsync),
            ErrorKind::Io => Some(Self::Io),
            ErrorKind::Unavailable => Some(Self::Unreachable),
            ErrorKind::PermissionDenied => Some(Self::Permission),
            ErrorKind::AuthFailed => Some(Self::Credentials),
            ErrorKind::NoSpace => Some(Self::NoSpace),
            ErrorKind::ReadOnly => Some(Self::ReadOnly),
            ErrorKind::Gone => Some(Self::Gone),
            ErrorKind::NotFound
            | ErrorKind::AlreadyExists
            | ErrorKind::Held
            | ErrorKind::NotADirectory
            | ErrorKind::Truncated
            | ErrorKind::Invalid => None,
        }
    }
}
