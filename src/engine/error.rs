//! What callers of the engine see when something fails: a [`Reason`] that names the case, a [`ErrorKind`] that names
//! the action, and one line that names the thing and what to do about it.
//!
//! The table from reason to kind, exit code and retryability is here and nowhere else; the command line and the
//! network service both read it.

use std::error::Error as StdError;
use std::fmt;

use crate::{backend, catalog, format};

/// What a caller can do about an error.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ErrorKind {
    /// Fix the request or the configuration; sending it again as it is fails again.
    FixRequest,
    /// The named thing does not exist.
    NotFound,
    /// A precondition does not hold: look at the present state and decide.
    Conflict,
    /// Nothing is wrong with the request; try again later.
    RetryLater,
    /// There is no room; free some, or send less.
    SlowDown,
    /// Stored data is damaged: scrub, and restore what the report names.
    Scrub,
    /// Keys or permissions do not allow it.
    Denied,
    /// The caller went away.
    Cancelled,
    /// A defect of the program: report it.
    Report,
}

/// The case, as one stable word.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Reason {
    /// A name is empty, too long or not acceptable.
    InvalidName,
    /// A byte range lies outside the object.
    InvalidRange,
    /// A parameter or option makes no sense.
    InvalidArgument,
    /// The source of a put failed while it was read.
    SourceFailed,
    /// No object has this name.
    ObjectNotFound,
    /// No repository has this name or id.
    RepositoryNotFound,
    /// A repository of this name exists already, or two share it.
    RepositoryExists,
    /// `create only` was asked for and the object exists.
    ObjectExists,
    /// The object is not at the version the caller named.
    VersionMismatch,
    /// A put id was used before for another name.
    PutIdReused,
    /// There is no store at this place.
    StoreNotFound,
    /// What is at this place is not a store of ours.
    ForeignStore,
    /// Another process holds the store or its catalog.
    StoreHeld,
    /// A newer owner writes this repository.
    Fenced,
    /// The key does not fit this store.
    WrongKey,
    /// The key cannot be had now.
    KeysUnavailable,
    /// The backend refuses our credentials or permissions.
    AuthFailed,
    /// The backend does not answer, or answered with a failure.
    BackendUnavailable,
    /// There is not enough room to write.
    NoCapacity,
    /// The repository may not hold as much.
    QuotaExceeded,
    /// The store cannot be written.
    ReadOnly,
    /// Stored bytes are missing or damaged.
    DataLoss,
    /// The store shows an older state than the caller has seen.
    RolledBack,
    /// The write may or may not have happened; the same put id tells.
    OutcomeUnknown,
    /// The catalog could not be read or written.
    CatalogFailed,
    /// The caller went away.
    Cancelled,
    /// The caller neither sent nor took anything for too long.
    StreamIdle,
    /// The process is going down and takes no new calls.
    ShuttingDown,
    /// A limit on connections, streams or operations.
    LimitExceeded,
    /// The caller's roles or its connection do not allow it.
    PermissionDenied,
    /// This version or this store cannot do this.
    Unsupported,
    /// No operation has this id.
    OperationNotFound,
    /// The deletion policy of the store keeps what is to be removed.
    Retained,
    /// An invariant of the program does not hold.
    Internal,
}

/// The status code of a remote call, by the numbers that gRPC gives them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[expect(missing_docs, reason = "the words are gRPC's")]
pub enum Code {
    Cancelled = 1,
    Unknown = 2,
    InvalidArgument = 3,
    DeadlineExceeded = 4,
    NotFound = 5,
    AlreadyExists = 6,
    PermissionDenied = 7,
    ResourceExhausted = 8,
    FailedPrecondition = 9,
    Aborted = 10,
    OutOfRange = 11,
    Unimplemented = 12,
    Internal = 13,
    Unavailable = 14,
    DataLoss = 15,
}

impl Reason {
    /// Every case.
    pub const ALL: [Self; 34] = [
        Self::InvalidName,
        Self::InvalidRange,
        Self::InvalidArgument,
        Self::SourceFailed,
        Self::ObjectNotFound,
        Self::RepositoryNotFound,
        Self::RepositoryExists,
        Self::ObjectExists,
        Self::VersionMismatch,
        Self::PutIdReused,
        Self::StoreNotFound,
        Self::ForeignStore,
        Self::StoreHeld,
        Self::Fenced,
        Self::WrongKey,
        Self::KeysUnavailable,
        Self::AuthFailed,
        Self::BackendUnavailable,
        Self::NoCapacity,
        Self::QuotaExceeded,
        Self::ReadOnly,
        Self::DataLoss,
        Self::RolledBack,
        Self::OutcomeUnknown,
        Self::CatalogFailed,
        Self::Cancelled,
        Self::StreamIdle,
        Self::ShuttingDown,
        Self::LimitExceeded,
        Self::PermissionDenied,
        Self::Unsupported,
        Self::OperationNotFound,
        Self::Retained,
        Self::Internal,
    ];

    /// The case of this word.
    pub fn from_word(word: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|reason| reason.as_str() == word)
    }

    /// The status code of a remote call for this case.
    pub fn code(self) -> Code {
        self.row().4
    }

    /// The action this case asks for.
    pub fn kind(self) -> ErrorKind {
        self.row().1
    }

    /// The exit code of the command line for this case.
    pub fn exit_code(self) -> u8 {
        self.row().2
    }

    /// Whether the same request can succeed later without a change.
    pub fn is_retryable(self) -> bool {
        self.row().3
    }

    /// The word for logs and machine-readable errors.
    pub fn as_str(self) -> &'static str {
        self.row().0
    }

    fn row(self) -> (&'static str, ErrorKind, u8, bool, Code) {
        use ErrorKind::*;
        match self {
            Reason::InvalidName => ("INVALID_NAME", FixRequest, 64, false, Code::InvalidArgument),
            Reason::InvalidRange => ("INVALID_RANGE", FixRequest, 64, false, Code::OutOfRange),
            Reason::InvalidArgument => ("INVALID_ARGUMENT", FixRequest, 64, false, Code::InvalidArgument),
            Reason::SourceFailed => ("SOURCE_FAILED", FixRequest, 1, true, Code::Aborted),
            Reason::ObjectNotFound => ("OBJECT_NOT_FOUND", NotFound, 1, false, Code::NotFound),
            Reason::RepositoryNotFound => ("REPOSITORY_NOT_FOUND", NotFound, 1, false, Code::NotFound),
            Reason::RepositoryExists => ("REPOSITORY_EXISTS", Conflict, 1, false, Code::AlreadyExists),
            Reason::ObjectExists => ("OBJECT_EXISTS", Conflict, 1, false, Code::AlreadyExists),
            Reason::VersionMismatch => ("VERSION_MISMATCH", Conflict, 1, false, Code::FailedPrecondition),
            Reason::PutIdReused => ("PUT_ID_REUSED", FixRequest, 1, false, Code::InvalidArgument),
            Reason::StoreNotFound => ("STORE_NOT_FOUND", NotFound, 69, false, Code::FailedPrecondition),
            Reason::ForeignStore => ("FOREIGN_STORE", FixRequest, 65, false, Code::FailedPrecondition),
            Reason::StoreHeld => ("STORE_HELD", RetryLater, 69, true, Code::Unavailable),
            Reason::Fenced => ("FENCED", Conflict, 69, false, Code::FailedPrecondition),
            Reason::WrongKey => ("WRONG_KEY", Denied, 65, false, Code::FailedPrecondition),
            Reason::KeysUnavailable => ("KEYS_UNAVAILABLE", Denied, 69, true, Code::FailedPrecondition),
            Reason::AuthFailed => ("AUTH_FAILED", Denied, 69, true, Code::Unavailable),
            Reason::BackendUnavailable => ("BACKEND_UNAVAILABLE", RetryLater, 69, true, Code::Unavailable),
            Reason::NoCapacity => ("NO_CAPACITY", SlowDown, 75, true, Code::ResourceExhausted),
            Reason::QuotaExceeded => ("QUOTA_EXCEEDED", SlowDown, 75, true, Code::ResourceExhausted),
            Reason::ReadOnly => ("READ_ONLY", Denied, 69, false, Code::FailedPrecondition),
            Reason::DataLoss => ("DATA_LOSS", Scrub, 65, false, Code::DataLoss),
            Reason::RolledBack => ("ROLLED_BACK", Scrub, 65, false, Code::DataLoss),
            Reason::OutcomeUnknown => ("OUTCOME_UNKNOWN", RetryLater, 69, true, Code::Unknown),
            Reason::CatalogFailed => ("CATALOG_FAILED", RetryLater, 69, true, Code::Unavailable),
            Reason::Cancelled => ("CANCELLED", Cancelled, 1, true, Code::Cancelled),
            Reason::StreamIdle => ("STREAM_IDLE", RetryLater, 69, true, Code::DeadlineExceeded),
            Reason::ShuttingDown => ("SHUTTING_DOWN", RetryLater, 69, true, Code::Unavailable),
            Reason::LimitExceeded => ("LIMIT_EXCEEDED", SlowDown, 69, true, Code::ResourceExhausted),
            Reason::PermissionDenied => ("PERMISSION_DENIED", Denied, 69, false, Code::PermissionDenied),
            Reason::Unsupported => ("UNSUPPORTED", FixRequest, 64, false, Code::Unimplemented),
            Reason::OperationNotFound => ("OPERATION_NOT_FOUND", NotFound, 1, false, Code::NotFound),
            Reason::Retained => ("RETAINED", Denied, 69, false, Code::FailedPrecondition),
            Reason::Internal => ("INTERNAL", Report, 1, false, Code::Internal),
        }
    }
}

/// A failure of the engine: the case, one line for a person, and what caused it.
///
/// The line never holds secrets or user data other than names the caller gave.
#[derive(Clone)]
pub struct Error {
    reason: Reason,
    message: String,
    source: Option<std::sync::Arc<dyn StdError + Send + Sync>>,
}

/// Result of the engine.
pub type Result<T> = std::result::Result<T, Error>;

impl Error {
    /// An error with its one line.
    pub fn new(reason: Reason, message: impl Into<String>) -> Self {
        Self {
            reason,
            message: message.into(),
            source: None,
        }
    }

    /// The same error with what caused it.
    #[must_use]
    pub fn caused_by(mut self, source: impl StdError + Send + Sync + 'static) -> Self {
        self.source = Some(std::sync::Arc::new(source));
        self
    }

    /// The same case with a line of context in front.
    #[must_use]
    pub fn within(mut self, context: impl fmt::Display) -> Self {
        self.message = format!("{context}: {}", self.message);
        self
    }

    /// The case.
    pub fn reason(&self) -> Reason {
        self.reason
    }

    /// What the caller can do.
    pub fn kind(&self) -> ErrorKind {
        self.reason.kind()
    }

    pub(crate) fn data_loss(message: impl Into<String>) -> Self {
        Self::new(Reason::DataLoss, message)
    }

    pub(crate) fn internal(message: impl Into<String>) -> Self {
        Self::new(Reason::Internal, message)
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl fmt::Debug for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.reason.as_str(), self.message)?;
        if let Some(source) = &self.source {
            write!(f, " ({source:?})")?;
        }
        Ok(())
    }
}

impl StdError for Error {
    fn source(&self) -> Option<&(dyn StdError + 'static)> {
        self.source.as_deref().map(|source| source as _)
    }
}

impl From<backend::Error> for Error {
    fn from(error: backend::Error) -> Self {
        use backend::ErrorKind;
        let reason = match error.kind() {
            ErrorKind::NotFound | ErrorKind::Truncated => Reason::DataLoss,
            ErrorKind::NoSpace => Reason::NoCapacity,
            ErrorKind::ReadOnly => Reason::ReadOnly,
            ErrorKind::PermissionDenied | ErrorKind::AuthFailed => Reason::AuthFailed,
            ErrorKind::Held => Reason::StoreHeld,
            ErrorKind::NotADirectory => Reason::ForeignStore,
            ErrorKind::Invalid => Reason::InvalidArgument,
            ErrorKind::AlreadyExists | ErrorKind::Unavailable | ErrorKind::Gone | ErrorKind::Io => {
                Reason::BackendUnavailable
            }
        };
        Error::new(reason, error.to_string()).caused_by(error)
    }
}

impl From<catalog::Error> for Error {
    fn from(error: catalog::Error) -> Self {
        let reason = match error {
            catalog::Error::Held { .. } => Reason::StoreHeld,
            catalog::Error::Foreign { .. } => Reason::ForeignStore,
            _ if error.is_want_of_room() => Reason::NoCapacity,
            _ => Reason::CatalogFailed,
        };
        Error::new(reason, error.to_string()).caused_by(error)
    }
}

impl From<format::Error> for Error {
    fn from(error: format::Error) -> Self {
        let reason = match error {
            format::Error::KeyMissing { .. } => Reason::KeysUnavailable,
            format::Error::WrongKey { .. } => Reason::WrongKey,
            _ => Reason::DataLoss,
        };
        Error::new(reason, error.to_string()).caused_by(error)
    }
}
