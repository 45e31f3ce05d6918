//! Who calls, and what it may do.
//!
//! Whoever accepts a connection decides who is at its other end and puts a [`Caller`] into the extensions of every
//! request. A request without one is refused.

use std::collections::BTreeSet;

use crate::engine::{Error, Reason, RepositoryHeader, Result};

/// Who calls.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Caller {
    /// What the connection proves of it.
    pub identity: Identity,
    /// How it is connected.
    pub transport: Transport,
    /// What it may do.
    pub grants: Grants,
}

/// What a connection proves of its other end.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Identity {
    /// Nothing.
    Anonymous,
    /// The user id of the process at the other end of a Unix socket.
    Uid(u32),
    /// The subject alternative names of its client certificate, URIs and DNS names, as text.
    Names(Vec<String>),
}

/// How a caller is connected.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Transport {
    /// By a Unix socket: bytes stay on this machine.
    Unix,
    /// By TLS.
    Tls,
    /// By TCP without TLS: everybody between could read and change what is said.
    Plaintext,
}

/// What a caller may do.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Grants {
    /// Kinds of calls.
    pub roles: BTreeSet<Role>,
    /// The only repositories it may name, by name or id; `None` means all.
    pub repositories: Option<Vec<String>>,
}

/// A kind of calls. None implies another.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Role {
    /// Look at the agent: mode, room, repositories.
    Status,
    /// Read objects.
    Read,
    /// Write and remove objects.
    Write,
    /// Repositories, keys, maintenance, mode.
    Admin,
}

impl Role {
    /// Every role.
    pub const ALL: [Self; 4] = [Self::Status, Self::Read, Self::Write, Self::Admin];

    /// The word that configuration and messages use.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Status => "status",
            Self::Read => "read",
            Self::Write => "write",
            Self::Admin => "admin",
        }
    }
}

impl Grants {
    /// Every role in every repository.
    pub fn all() -> Self {
        Self {
            roles: Role::ALL.into(),
            repositories: None,
        }
    }

    /// Whether they reach this repository.
    pub fn reach(&self, repository: &RepositoryHeader) -> bool {
        self.names(&repository.name) || self.names(&repository.id.to_string())
    }

    /// Whether they reach whatever repository is called by this word.
    pub fn names(&self, name_or_id: &str) -> bool {
        match &self.repositories {
            Some(allowed) => allowed.iter().any(|allowed| allowed == name_or_id),
            None => true,
        }
    }
}

impl Transport {
    /// Refuses what nobody on the way may see or forge.
    ///
    /// # Errors
    /// `PermissionDenied` on plaintext TCP.
    pub fn require_private(self, what: &str) -> Result<()> {
        match self {
            Self::Unix | Self::Tls => Ok(()),
            Self::Plaintext => {
                let line = format!("{what} is refused on plaintext TCP; connect by TLS or by the Unix socket");
                Err(Error::new(Reason::PermissionDenied, line))
            }
        }
    }
}

/// Who makes this request.
///
/// # Errors
/// `PermissionDenied` if nobody put that into its extensions.
pub(super) fn caller_of<T>(request: &tonic::Request<T>) -> Result<Caller> {
    let caller = request.extensions().get::<Caller>();
    caller.cloned().ok_or_else(unknown)
}

/// The refusal of a request of which nobody knows who makes it.
pub(super) fn unknown() -> Error {
    Error::new(Reason::PermissionDenied, "nobody is known to call")
}
