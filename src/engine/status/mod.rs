//! Room and mode: what a store is told to be in one word, why, and with which numbers.
//!
//! [`assess`] is the one function that makes a mode out of what was seen; it is pure, and admission of puts asks it too.

mod assess;
mod backing_store;
mod capacity;

#[cfg(test)]
mod tests;

pub use backing_store::{BackingStoreView, Condition};
pub use capacity::{Capacity, CapacityPolicy};

pub(crate) use capacity::Limit;

pub(crate) use assess::{Assessment, CatalogTrouble, Held, Observations, Policy, Repositories, assess};

use super::keyrings::RepositoryHeader;
use super::repository::RepositoryStatus;

/// What the agent can be asked to do, as one word. Ordered by gravity: where several hold, the greatest is shown.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Mode {
    /// Reads and writes.
    Optimal,
    /// Reads and writes; there is little room left.
    LowCapacity,
    /// Reads and deletes only: an operator, the file system or a newer owner of the store forbids writing.
    ReadOnly,
    /// Reads and deletes only: there is no room.
    NoCapacity,
    /// The backing store fails reads or writes.
    IoErrors,
    /// No key is there for the repositories of this store.
    KeysUnavailable,
    /// The backing store refuses our credentials or permissions.
    AuthFailed,
    /// The volume or bucket is not there, or is another one.
    StorageNotExist,
    /// The store is being opened.
    Initializing,
    /// The store is being moved away or removed.
    Deleting,
}

impl Mode {
    /// Every mode, the gravest last.
    pub const ALL: [Self; 10] = [
        Self::Optimal,
        Self::LowCapacity,
        Self::ReadOnly,
        Self::NoCapacity,
        Self::IoErrors,
        Self::KeysUnavailable,
        Self::AuthFailed,
        Self::StorageNotExist,
        Self::Initializing,
        Self::Deleting,
    ];

    /// The word.
    pub fn as_str(self) -> &'static str {
        self.row().0
    }

    /// The number that the catalog keeps it under; never given to another mode.
    pub(crate) fn number(self) -> u8 {
        self.row().1
    }

    fn row(self) -> (&'static str, u8) {
        match self {
            Mode::Optimal => ("OPTIMAL", 0),
            Mode::LowCapacity => ("LOW_CAPACITY", 1),
            Mode::NoCapacity => ("NO_CAPACITY", 2),
            Mode::ReadOnly => ("READ_ONLY", 3),
            Mode::IoErrors => ("IO_ERRORS", 4),
            Mode::KeysUnavailable => ("KEYS_UNAVAILABLE", 5),
            Mode::AuthFailed => ("AUTH_FAILED", 6),
            Mode::StorageNotExist => ("STORAGE_NOT_EXIST", 7),
            Mode::Initializing => ("INITIALIZING", 8),
            Mode::Deleting => ("DELETING", 9),
        }
    }
}

/// One reason for a mode, with its numbers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Cause {
    /// The case, as one stable word: one of those in [`code`].
    pub code: &'static str,
    /// One line for a person: what it is, and what to do.
    pub message: String,
    /// The number found; its unit follows from the code.
    pub value: u64,
    /// The number it is held against.
    pub threshold: u64,
    /// The mode that this cause alone would give. `Optimal` for what is worth knowing but keeps nobody from working.
    pub mode: Mode,
}

/// The words for causes, with the units of their numbers.
pub mod code {
    /// Bytes left on the volume.
    pub const FREE_BYTES: &str = "FREE_BYTES";
    /// Inodes left on the volume.
    pub const FREE_INODES: &str = "FREE_INODES";
    /// The storage refused a write for want of room although its numbers show some, or shows none: a quota, a full
    /// bucket. Refusals so far.
    pub const NO_SPACE: &str = "NO_SPACE";
    /// Bytes that a limit on this store leaves.
    pub const LIMIT: &str = "LIMIT";
    /// An operator asked for it.
    pub const READ_ONLY_REQUESTED: &str = "READ_ONLY_REQUESTED";
    /// The file system is mounted read-only, or says so.
    pub const READ_ONLY_FILESYSTEM: &str = "READ_ONLY_FILESYSTEM";
    /// Repositories that another agent has taken over.
    pub const FENCED: &str = "FENCED";
    /// Repositories that show an older state than this agent had seen.
    pub const ROLLED_BACK: &str = "ROLLED_BACK";
    /// The volume was unmounted or replaced, or the bucket is gone.
    pub const ROOT_GONE: &str = "ROOT_GONE";
    /// Reads or writes that failed so far.
    pub const IO_ERROR: &str = "IO_ERROR";
    /// Writes that could not be made durable so far.
    pub const FSYNC_FAILED: &str = "FSYNC_FAILED";
    /// Requests that found the storage away or not willing so far.
    pub const UNREACHABLE: &str = "UNREACHABLE";
    /// This process may not read or write there.
    pub const PERMISSION: &str = "PERMISSION";
    /// Credentials are missing, wrong or expired.
    pub const CREDENTIALS: &str = "CREDENTIALS";
    /// Repositories whose key is not there, of so many.
    pub const KEYS: &str = "KEYS";
    /// Repositories that are damaged or cannot be opened, of so many.
    pub const REPOSITORY: &str = "REPOSITORY";
    /// Repositories that are being opened, of so many.
    pub const OPENING: &str = "OPENING";
    /// The agent's catalog cannot be read.
    pub const CATALOG: &str = "CATALOG";
    /// The store is being moved away or removed, or so many of its repositories are or were, of so many.
    pub const DELETION_REQUESTED: &str = "DELETION_REQUESTED";

    /// All of them.
    pub const ALL: [&str; 19] = [
        FREE_BYTES,
        FREE_INODES,
        NO_SPACE,
        LIMIT,
        READ_ONLY_REQUESTED,
        READ_ONLY_FILESYSTEM,
        FENCED,
        ROLLED_BACK,
        ROOT_GONE,
        IO_ERROR,
        FSYNC_FAILED,
        UNREACHABLE,
        PERMISSION,
        CREDENTIALS,
        KEYS,
        REPOSITORY,
        OPENING,
        CATALOG,
        DELETION_REQUESTED,
    ];
}

/// The state of a store.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Status {
    /// A random id of this open of the store: another one means that the agent was restarted.
    pub boot_id: [u8; 16],
    /// One word.
    pub mode: Mode,
    /// Since when it holds, in milliseconds since 1970 UTC by the agent's clock.
    pub since_ms: i64,
    /// Counts changes of the mode and of the set of causes, over restarts.
    pub sequence: u64,
    /// Why it is not `OPTIMAL`, gravest first; then what else is worth knowing.
    pub causes: Vec<Cause>,
    /// Room.
    pub capacity: Capacity,
    /// Totals by repository, of those that could be opened.
    pub repositories: Vec<RepositoryStatus>,
    /// Repositories that are not open: their key is not there, or the causes say what else it is.
    pub closed: Vec<RepositoryHeader>,
}
