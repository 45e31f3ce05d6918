//! What is wrong with a setting: each line names the flag or the file, and what to do.

use std::path::PathBuf;

#[cfg(feature = "serve")]
use crate::engine::Reason;
use crate::{backend, keys};

/// Why a configuration cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// `--store` is not a place.
    #[error("--store: {0}")]
    Store(#[source] backend::Error),
    /// There is no default for this flag here.
    #[error("{flag} is needed for {store}: only a directory of its own name has a default beside it")]
    Needed {
        /// The flag.
        flag: &'static str,
        /// The store.
        store: String,
    },
    /// The key file is not there.
    #[error(
        "key file {} not found; name the file with the store's key by --key-file, or restore it from its copy",
        path.display()
    )]
    KeyMissing {
        /// The file looked for.
        path: PathBuf,
    },
    /// A key file cannot be made.
    #[error("cannot make a key file for the new store: {0}")]
    KeyNotMade(#[source] keys::Error),
    /// The key file gave no key.
    #[error("key file {0}")]
    Key(#[source] keys::Error),
    /// A configuration file cannot be read.
    #[error("cannot read the configuration {}: {source}", path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// What the operating system said.
        #[source]
        source: std::io::Error,
    },
    /// A setting that is unknown, or has a value that it cannot have.
    #[error("{line}")]
    Setting {
        /// Where it stands, its key, and what to do.
        line: String,
    },
}

impl From<keys::Error> for Error {
    fn from(error: keys::Error) -> Self {
        match error {
            keys::Error::Missing { path } => Self::KeyMissing { path },
            other => Self::Key(other),
        }
    }
}

#[cfg(feature = "serve")]
impl Error {
    /// What is wrong with a setting, in one line: names and values are anybody's text.
    pub(crate) fn setting(line: &str) -> Self {
        let mut one = String::with_capacity(line.len());
        for c in line.chars() {
            match c.is_control() {
                true => one.extend(c.escape_debug()),
                false => one.push(c),
            }
        }
        Self::Setting { line: one }
    }

    /// The case, as the engine would name it.
    pub fn reason(&self) -> Reason {
        match self {
            Self::Store(_) | Self::Needed { .. } | Self::File { .. } | Self::Setting { .. } => Reason::InvalidArgument,
            Self::KeyMissing { .. } | Self::KeyNotMade(_) | Self::Key(_) => Reason::KeysUnavailable,
        }
    }
}
