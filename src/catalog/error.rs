//! What can go wrong with the catalog. Since the catalog is an index that can be rebuilt from the store, no error here
//! means lost data: the action is to free the directory, repair its surroundings, or remove it and let it be rebuilt.

use std::io;
use std::path::PathBuf;

use super::tables::Table;

/// A failure of the catalog.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// Another process, or another open of this one, has the catalog.
    #[error("the catalog at {path} is held by {}", holder(*.pid))]
    Held {
        /// The catalog's directory.
        path: PathBuf,
        /// The process that holds it, when it could be read.
        pid: Option<u32>,
    },
    /// The directory holds files that are not a catalog's; nothing was changed in it.
    #[error("{path} is not a catalog: it holds {found:?}; name an empty or a new directory")]
    Foreign {
        /// The directory that was named.
        path: PathBuf,
        /// One of the things found in it.
        found: String,
    },
    /// The directory cannot be created or written.
    #[error("the catalog at {path} cannot be written ({source}); name a writable directory for it")]
    Unwritable {
        /// The catalog's directory.
        path: PathBuf,
        /// What the operating system said.
        source: io::Error,
    },
    /// The catalog was written by a version with other rows.
    #[error(
        "the catalog has rows of schema {found}, this version reads {known}: remove it, it is rebuilt from the store"
    )]
    Schema {
        /// The schema that was found.
        found: u32,
        /// The schema of this version.
        known: u32,
    },
    /// The files of the catalog are damaged.
    #[error("the catalog is damaged ({problem}): remove it, it is rebuilt from the store")]
    Damaged {
        /// What was found wrong.
        problem: String,
    },
    /// One row is not what was written: flipped, swapped, cut, or sealed by another repository's key.
    #[error("a row of the catalog's table {table} is damaged ({problem})")]
    Row {
        /// The table of the row.
        table: Table,
        /// What was found wrong.
        problem: &'static str,
    },
    /// The filesystem of the catalog is full.
    #[error("no space is left for the catalog ({source}); free space there or enlarge it")]
    NoSpace {
        /// What the operating system said.
        source: io::Error,
    },
    /// An earlier write failed, so nothing more is accepted: open the catalog anew and replay the log.
    #[error("the catalog stopped after a failed write and has to be opened again")]
    Stopped,
    /// Anything else the operating system refused.
    #[error("the catalog failed")]
    Io {
        /// What the operating system said.
        source: io::Error,
    },
}

fn holder(pid: Option<u32>) -> String {
    match pid {
        Some(pid) => format!("process {pid}"),
        None => "another process".to_owned(),
    }
}

impl Error {
    /// Whether room is what is missing.
    pub fn is_want_of_room(&self) -> bool {
        matches!(self, Self::NoSpace { .. }) || matches!(self, Self::Unwritable { source, .. } if is_full(source))
    }

    /// Whether nothing is accepted after it until the tables are opened anew.
    pub(super) fn stops(&self) -> bool {
        matches!(self, Self::NoSpace { .. } | Self::Io { .. } | Self::Stopped)
    }
}

fn is_full(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded)
}

impl From<io::Error> for Error {
    fn from(source: io::Error) -> Self {
        match is_full(&source) {
            true => Self::NoSpace { source },
            false => Self::Io { source },
        }
    }
}

impl From<fjall::Error> for Error {
    fn from(error: fjall::Error) -> Self {
        match error {
            fjall::Error::Io(source) | fjall::Error::Storage(fjall::LsmError::Io(source)) => source.into(),
            fjall::Error::Poisoned => Self::Stopped,
            other => Self::Damaged {
                problem: other.to_string(),
            },
        }
    }
}
