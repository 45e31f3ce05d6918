//! What can go wrong with a backend, as kinds a caller can act on.
//!
//! `object_store` reports most failures of a directory and many of a bucket as "generic", with the cause some levels down
//! its source chain; [`Error::from_store`] walks the chain once and gives each failure its kind. Every message is one line
//! that names the full place (directory, or bucket and key).

use std::error::Error as StdError;
use std::fmt;
use std::io;

/// What a caller can do about an [`Error`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum ErrorKind {
    /// The object or directory is not there.
    NotFound,
    /// Something is there that was to be created.
    AlreadyExists,
    /// The operating system or the bucket's policy refuses.
    PermissionDenied,
    /// The volume, or a quota on it, is full.
    NoSpace,
    /// The file system is mounted read-only.
    ReadOnly,
    /// Not reachable or not willing right now; the same request may succeed later.
    Unavailable,
    /// The directory was unmounted or replaced since it was opened, or there is no such bucket. Says nothing about objects.
    Gone,
    /// Credentials are missing, wrong or expired.
    AuthFailed,
    /// Another process works on this directory.
    Held,
    /// A file stands where a directory is needed.
    NotADirectory,
    /// An object ends before the bytes that were asked for.
    Truncated,
    /// The storage failed in a way not told apart; on a volume, possibly a bad disk.
    Io,
    /// The request or the configuration is wrong; it will fail again.
    Invalid,
}

/// A failure of a backend. `path` is the full place: `/dir/name`, `s3://bucket/prefix/name` or `memory://name/name`.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// See [`ErrorKind::NotFound`].
    #[error("{path}: not found")]
    NotFound {
        /// The full place.
        path: String,
    },
    /// See [`ErrorKind::AlreadyExists`].
    #[error("{path}: exists already")]
    AlreadyExists {
        /// The full place.
        path: String,
    },
    /// See [`ErrorKind::PermissionDenied`].
    #[error("{path}: permission denied ({cause}); give this process the right to read and write there")]
    PermissionDenied {
        /// The full place.
        path: String,
        /// What the storage said.
        cause: Cause,
    },
    /// See [`ErrorKind::NoSpace`].
    #[error("{path}: no space left ({cause}); free space there or enlarge it")]
    NoSpace {
        /// The full place.
        path: String,
        /// What the storage said.
        cause: Cause,
    },
    /// See [`ErrorKind::ReadOnly`].
    #[error("{path}: the file system is read-only; mount it writable")]
    ReadOnly {
        /// The full place.
        path: String,
    },
    /// See [`ErrorKind::Unavailable`].
    #[error("{path}: not available now ({cause}); try again later")]
    Unavailable {
        /// The full place.
        path: String,
        /// What the storage said.
        cause: Cause,
    },
    /// See [`ErrorKind::Gone`].
    #[error("{path}: not there any more ({cause}); bring the volume or the bucket back")]
    Gone {
        /// The full place.
        path: String,
        /// What was found.
        cause: Cause,
    },
    /// See [`ErrorKind::AuthFailed`].
    #[error(
        "{path}: credentials missing or refused ({cause}); check AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY, \
         AWS_SESSION_TOKEN and AWS_REGION"
    )]
    AuthFailed {
        /// The full place.
        path: String,
        /// What the storage said.
        cause: Cause,
    },
    /// See [`ErrorKind::Held`].
    #[error("{path}: held by {}; stop that process or talk to it instead", holder(*pid))]
    Held {
        /// The directory.
        path: String,
        /// The process that holds it, as it wrote itself into the lock file; `None` if it has not yet done so.
        /// Meaningless in another pid namespace (a different container).
        pid: Option<u32>,
    },
    /// See [`ErrorKind::NotADirectory`].
    #[error("{path}: not a directory; a directory is needed there")]
    NotADirectory {
        /// The full place.
        path: String,
    },
    /// See [`ErrorKind::Truncated`].
    #[error("{path}: too short: bytes {start} to {end} were asked for, {found} of them are there")]
    Truncated {
        /// The full place.
        path: String,
        /// First byte asked for.
        start: u64,
        /// One past the last byte asked for.
        end: u64,
        /// How many of these bytes the object has.
        found: u64,
    },
    /// See [`ErrorKind::Io`].
    #[error("{path}: {cause}")]
    Io {
        /// The full place.
        path: String,
        /// What the storage said.
        cause: Cause,
    },
    /// See [`ErrorKind::Invalid`].
    #[error("{path}: {cause}")]
    Invalid {
        /// The full place, or the value that is wrong.
        path: String,
        /// What is wrong, and what would be right.
        cause: Cause,
    },
}

fn holder(pid: Option<u32>) -> String {
    pid.map_or_else(|| "another process".to_owned(), |pid| format!("process {pid}"))
}

/// Why, in one short line; keeps the original error for debug output.
///
/// Displayed inside the message of [`Error`], and for that reason not also its `source()`: a printed chain would repeat it.
pub struct Cause {
    text: String,
    detail: Option<Box<dyn StdError + Send + Sync>>,
    is_of_fsync: bool,
}

impl Cause {
    /// A cause that is only words.
    pub fn text(text: impl Into<String>) -> Self {
        Self {
            text: text.into(),
            detail: None,
            is_of_fsync: false,
        }
    }

    /// The original error, if there was one.
    pub fn detail(&self) -> Option<&(dyn StdError + Send + Sync + 'static)> {
        self.detail.as_deref()
    }

    fn new(text: String, error: impl StdError + Send + Sync + 'static) -> Self {
        Self {
            text,
            detail: Some(Box::new(error)),
            is_of_fsync: false,
        }
    }

    fn of_fsync(self) -> Self {
        Self {
            is_of_fsync: true,
            ..self
        }
    }
}

impl fmt::Display for Cause {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl fmt::Debug for Cause {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.detail {
            Some(detail) => detail.fmt(f),
            None => self.text.fmt(f),
        }
    }
}

impl Error {
    /// What a caller can do about it.
    pub fn kind(&self) -> ErrorKind {
        match self {
            Self::NotFound { .. } => ErrorKind::NotFound,
            Self::AlreadyExists { .. } => ErrorKind::AlreadyExists,
            Self::PermissionDenied { .. } => ErrorKind::PermissionDenied,
            Self::NoSpace { .. } => ErrorKind::NoSpace,
            Self::ReadOnly { .. } => ErrorKind::ReadOnly,
            Self::Unavailable { .. } => ErrorKind::Unavailable,
            Self::Gone { .. } => ErrorKind::Gone,
            Self::AuthFailed { .. } => ErrorKind::AuthFailed,
            Self::Held { .. } => ErrorKind::Held,
            Self::NotADirectory { .. } => ErrorKind::NotADirectory,
            Self::Truncated { .. } => ErrorKind::Truncated,
            Self::Io { .. } => ErrorKind::Io,
            Self::Invalid { .. } => ErrorKind::Invalid,
        }
    }

    /// Whether data was written and could not be made durable.
    pub fn is_of_fsync(&self) -> bool {
        matches!(self, Self::Io { cause, .. } if cause.is_of_fsync)
    }

    /// Whether there was no room, and it was said while something was written: not when it was to be made durable, after
    /// which nothing that is written there again could be relied on.
    pub(super) fn is_want_of_room(&self) -> bool {
        matches!(self, Self::NoSpace { cause, .. } if !cause.is_of_fsync)
    }

    /// What the storage said, for putting it into other words.
    #[cfg(feature = "s3")]
    pub(super) fn reason(&self) -> String {
        match self {
            Self::PermissionDenied { cause, .. }
            | Self::NoSpace { cause, .. }
            | Self::Unavailable { cause, .. }
            | Self::Gone { cause, .. }
            | Self::AuthFailed { cause, .. }
            | Self::Io { cause, .. }
            | Self::Invalid { cause, .. } => cause.to_string(),
            other => other.to_string(),
        }
    }

    /// A wrong request or configuration: `path` is the place or the value, `reason` says what is wrong and what to do.
    pub(super) fn invalid(path: impl Into<String>, reason: impl Into<String>) -> Self {
        Self::Invalid {
            path: path.into(),
            cause: Cause::text(reason),
        }
    }

    /// A failed system call on `path`.
    pub(super) fn from_io(path: impl Into<String>, error: io::Error) -> Self {
        let kind = kind_of_io(&error);
        Self::of_kind(kind, path.into(), Cause::new(error.to_string(), error))
    }

    /// A failed fsync of `path`.
    pub(super) fn from_fsync(path: impl Into<String>, error: io::Error) -> Self {
        let kind = kind_of_io(&error);
        let text = format!("fsync: {error}");
        Self::of_kind(kind, path.into(), Cause::new(text, error).of_fsync())
    }

    /// A failed request to a store, for the object at `path`.
    pub(super) fn from_store(path: impl Into<String>, error: object_store::Error) -> Self {
        // `LocalFileSystem` keeps the type that tells to itself; the tests pin its words.
        const FSYNC_MARK: &str = "Unable to sync data";
        let Findings { kind, text } = examine(&error);
        if chain(&error).any(|link| link.to_string().starts_with(FSYNC_MARK)) {
            let text = format!("fsync: {text}");
            return Self::of_kind(kind, path.into(), Cause::new(text, error).of_fsync());
        }
        Self::of_kind(kind, path.into(), Cause::new(text, error))
    }

    fn of_kind(kind: ErrorKind, path: String, cause: Cause) -> Self {
        match kind {
            ErrorKind::NotFound => Self::NotFound { path },
            ErrorKind::AlreadyExists => Self::AlreadyExists { path },
            ErrorKind::PermissionDenied => Self::PermissionDenied { path, cause },
            ErrorKind::NoSpace => Self::NoSpace { path, cause },
            ErrorKind::ReadOnly => Self::ReadOnly { path },
            ErrorKind::Unavailable => Self::Unavailable { path, cause },
            ErrorKind::Gone => Self::Gone { path, cause },
            ErrorKind::AuthFailed => Self::AuthFailed { path, cause },
            ErrorKind::NotADirectory => Self::NotADirectory { path },
            ErrorKind::Invalid => Self::Invalid { path, cause },
            // These two carry numbers and are never found by examining an error.
            ErrorKind::Held | ErrorKind::Truncated | ErrorKind::Io => Self::Io { path, cause },
        }
    }
}

fn kind_of_io(error: &io::Error) -> ErrorKind {
    match error.kind() {
        io::ErrorKind::NotFound => ErrorKind::NotFound,
        io::ErrorKind::AlreadyExists => ErrorKind::AlreadyExists,
        io::ErrorKind::PermissionDenied => ErrorKind::PermissionDenied,
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => ErrorKind::NoSpace,
        io::ErrorKind::ReadOnlyFilesystem => ErrorKind::ReadOnly,
        io::ErrorKind::NotADirectory => ErrorKind::NotADirectory,
        io::ErrorKind::InvalidFilename => ErrorKind::Invalid,
        // A network file system whose server is away; too many open files passes as well.
        io::ErrorKind::TimedOut | io::ErrorKind::StaleNetworkFileHandle | io::ErrorKind::Interrupted => {
            ErrorKind::Unavailable
        }
        io::ErrorKind::HostUnreachable | io::ErrorKind::NetworkUnreachable | io::ErrorKind::NetworkDown => {
            ErrorKind::Unavailable
        }
        _ if is_out_of_files(error) => ErrorKind::Unavailable,
        _ => ErrorKind::Io,
    }
}

fn is_out_of_files(error: &io::Error) -> bool {
    let code = rustix::io::Errno::from_io_error(error);
    matches!(code, Some(rustix::io::Errno::MFILE | rustix::io::Errno::NFILE))
}

struct Findings {
    kind: ErrorKind,
    text: String,
}

/// Finds the kind and the one telling line in a store's error.
fn examine(error: &object_store::Error) -> Findings {
    if let Some(reply) = Reply::find(error) {
        return reply.judge(error);
    }
    use object_store::Error as Store;
    let kind = match error {
        Store::NotFound { .. } => ErrorKind::NotFound,
        Store::AlreadyExists { .. } | Store::Precondition { .. } => ErrorKind::AlreadyExists,
        Store::PermissionDenied { .. } => ErrorKind::PermissionDenied,
        Store::Unauthenticated { .. } => ErrorKind::AuthFailed,
        Store::InvalidPath { .. } | Store::NotImplemented { .. } | Store::NotSupported { .. } => ErrorKind::Invalid,
        Store::UnknownConfigurationKey { .. } => ErrorKind::Invalid,
        _ => kind_from_chain(error),
    };
    Findings {
        kind,
        text: innermost(error),
    }
}

fn kind_from_chain(error: &object_store::Error) -> ErrorKind {
    for link in chain(error) {
        #[cfg(feature = "s3")]
        if link.is::<object_store::client::HttpError>() {
            return ErrorKind::Unavailable;
        }
        if let Some(error) = link.downcast_ref::<io::Error>() {
            return kind_of_io(error);
        }
    }
    ErrorKind::Io
}

fn chain<'a>(error: &'a (dyn StdError + 'static)) -> impl Iterator<Item = &'a (dyn StdError + 'static)> {
    std::iter::successors(Some(error), |error| (*error).source())
}

fn innermost(error: &(dyn StdError + 'static)) -> String {
    let last = chain(error).last().map(ToString::to_string).unwrap_or_default();
    one_line(&last)
}

fn one_line(text: &str) -> String {
    const LONGEST: usize = 200;
    let words = text.split_whitespace().collect::<Vec<_>>().join(" ");
    match words.char_indices().nth(LONGEST) {
        Some((cut, _)) => format!("{}…", &words[..cut]),
        None => words,
    }
}

/// An HTTP reply that says no. `object_store` keeps the type that carries status and body to itself, so they are taken from
/// its text, whose shape the tests pin.
struct Reply {
    status: u16,
    code: Option<String>,
    message: Option<String>,
}

impl Reply {
    fn find(error: &object_store::Error) -> Option<Self> {
        const MARK: &str = "status code: ";
        let text = chain(error).map(ToString::to_string).find(|text| text.contains(MARK))?;
        let (_, rest) = text.split_once(MARK)?;
        let status = rest.get(..3)?.parse().ok()?;
        Some(Self {
            status,
            code: element(rest, "Code"),
            message: element(rest, "Message"),
        })
    }

    fn judge(self, error: &object_store::Error) -> Findings {
        let text = match (&self.code, &self.message) {
            (Some(code), Some(message)) => one_line(&format!("{code}: {message}")),
            (Some(code), None) => one_line(code),
            _ => format!("status {}", self.status),
        };
        Findings {
            kind: self.kind(error),
            text,
        }
    }

    fn kind(&self, error: &object_store::Error) -> ErrorKind {
        // Without a bucket nothing can be said about any object in it: "not found" here would read as lost data.
        if self.code.as_deref() == Some("NoSuchBucket") {
            return ErrorKind::Gone;
        }
        let refused = [
            "InvalidAccessKeyId",
            "SignatureDoesNotMatch",
            "ExpiredToken",
            "InvalidToken",
            "AuthorizationHeaderMalformed",
        ];
        if self.code.as_deref().is_some_and(|code| refused.contains(&code)) {
            return ErrorKind::AuthFailed;
        }
        match self.status {
            401 => ErrorKind::AuthFailed,
            403 => ErrorKind::PermissionDenied,
            404 => ErrorKind::NotFound,
            409 | 412 => ErrorKind::AlreadyExists,
            408 | 429 => ErrorKind::Unavailable,
            507 => ErrorKind::NoSpace,
            500.. => ErrorKind::Unavailable,
            _ => kind_from_chain(error),
        }
    }
}

/// The text of the first `<name>` element of an XML document, without unescaping: for messages only.
fn element(xml: &str, name: &str) -> Option<String> {
    let (_, rest) = xml.split_once(&format!("<{name}>"))?;
    let (text, _) = rest.split_once("</")?;
    Some(text.to_owned())
}
