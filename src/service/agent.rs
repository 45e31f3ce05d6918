//! The context that all services share.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;

use super::caller::{Caller, Grants};
use super::maintenance::{self, Operations};
use super::observe::{Observer, Unobserved};
use crate::config::serve::{Reclaims, Scrubs};
use crate::engine::{Error, Reason, Repository, RepositoryHeader, Result, Store};

/// The repository that an empty name means.
const DEFAULT_REPOSITORY: &str = "default";

/// What a process chooses about its services.
#[derive(Clone)]
pub struct AgentSettings {
    /// After how long a stream ends on which the other side neither sends nor takes anything.
    pub stream_idle: Duration,
    /// Where keys come from.
    pub key_provider: KeyProvider,
    /// Most streams on one connection, as the accept loop holds it; told to clients.
    pub streams_max: u32,
    /// Scrubs that the agent begins by itself, while somebody waits for [`Agent::keep_scrubbing`].
    pub scrubs: Scrubs,
    /// Whether and how far it gives back space by itself, while somebody waits for [`Agent::keep_reclaiming`].
    pub reclaims: Reclaims,
    /// Who counts calls and bytes.
    pub observer: Arc<dyn Observer>,
}

/// Where keys come from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum KeyProvider {
    /// From files that the process reads; callers cannot push any.
    File,
    /// From callers, by `Keys.Load`.
    Core,
}

impl KeyProvider {
    /// The word of configuration and `GetCapabilities`.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::File => "file",
            Self::Core => "core",
        }
    }
}

impl Default for AgentSettings {
    fn default() -> Self {
        Self {
            stream_idle: Duration::from_secs(60),
            key_provider: KeyProvider::File,
            streams_max: 100,
            scrubs: Scrubs::default(),
            reclaims: Reclaims::default(),
            observer: Arc::new(Unobserved),
        }
    }
}

impl fmt::Debug for AgentSettings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("AgentSettings")
            .field("stream_idle", &self.stream_idle)
            .field("key_provider", &self.key_provider)
            .field("streams_max", &self.streams_max)
            .field("scrubs", &self.scrubs)
            .field("reclaims", &self.reclaims)
            .finish_non_exhaustive()
    }
}

/// An agent: a store, and the services over it.
pub struct Agent {
    pub(super) store: Store,
    pub(super) settings: AgentSettings,
    operations: Operations,
    down: watch::Sender<bool>,
}

impl Agent {
    /// The services over `store`.
    pub fn new(store: Store, settings: AgentSettings) -> Arc<Self> {
        Arc::new(Self {
            store,
            settings,
            operations: Operations::default(),
            down: watch::Sender::new(false),
        })
    }

    /// The store that is served.
    pub fn store(&self) -> &Store {
        &self.store
    }

    /// What the process chose.
    pub fn settings(&self) -> &AgentSettings {
        &self.settings
    }

    /// From now on new calls are refused with `SHUTTING_DOWN`, watchers end with it, and health says `NOT_SERVING`.
    /// Calls under way go on.
    pub fn shutting_down(&self) {
        self.down.send_replace(true);
    }

    /// Ends what the services run by themselves, maintenance, and returns when it has ended. Calls under way are the
    /// accept loop's to wait for.
    pub async fn close(&self) {
        self.shutting_down();
        self.operations.close().await;
    }

    /// Begins scrubs when they are due, one at a time. Never returns.
    pub async fn keep_scrubbing(self: Arc<Self>) {
        tokio::select! {
            () = maintenance::keep_scrubbing(&self) => {}
            () = self.down() => {}
        }
        std::future::pending().await
    }

    /// Gives back space when that is due. Never returns.
    pub async fn keep_reclaiming(self: Arc<Self>) {
        tokio::select! {
            () = maintenance::keep_reclaiming(&self) => {}
            () = self.down() => {}
        }
        std::future::pending().await
    }

    pub(super) fn operations(&self) -> &Operations {
        &self.operations
    }

    /// Opens a repository by name or id, if this caller may name it.
    ///
    /// # Errors
    /// `PermissionDenied`, whether there is such a repository or not; those of [`Store::repository`].
    pub(super) async fn repository(&self, caller: &Caller, name_or_id: &str) -> Result<Repository> {
        let name_or_id = self.permit(caller, name_or_id).await?;
        self.store.repository(name_or_id).await
    }

    /// The word by which a caller names a repository, if it may.
    ///
    /// # Errors
    /// `PermissionDenied`.
    pub(super) async fn permit<'a>(&self, caller: &Caller, name_or_id: &'a str) -> Result<&'a str> {
        let name_or_id = if name_or_id.is_empty() {
            DEFAULT_REPOSITORY
        } else {
            name_or_id
        };
        let grants = &caller.grants;
        if grants.repositories.is_none() || may_name(grants, &self.store.repositories().await, name_or_id) {
            return Ok(name_or_id);
        }
        let line = format!("the repository {name_or_id:?} is not open to this caller");
        Err(Error::new(Reason::PermissionDenied, line))
    }

    /// What is known of a repository without its key, if this caller may name it.
    ///
    /// # Errors
    /// As for [`repository`](Self::repository), but for keys.
    pub(super) async fn header(&self, caller: &Caller, name_or_id: &str) -> Result<RepositoryHeader> {
        let name_or_id = self.permit(caller, name_or_id).await?;
        self.store.header(name_or_id).await
    }

    /// The repositories of which this caller may know, by name.
    pub(super) async fn repositories(&self, caller: &Caller) -> Vec<RepositoryHeader> {
        let mut headers = self.store.repositories().await;
        headers.retain(|header| caller.grants.reach(header));
        headers
    }

    /// Refuses a new call once the process goes down.
    pub(super) fn check_up(&self) -> Result<()> {
        if self.is_down() { Err(going_down()) } else { Ok(()) }
    }

    /// Whether the process goes down.
    pub(super) fn is_down(&self) -> bool {
        *self.down.borrow()
    }

    /// Returns when the process goes down.
    pub(super) async fn down(&self) {
        let mut down = self.down.subscribe();
        // The sender lives in `self`, so this ends only by the value.
        let _ = down.wait_for(|down| *down).await;
    }
}

/// Whether every repository that may be meant is open to the caller. Of one that does not exist, only its word counts.
fn may_name(grants: &Grants, headers: &[RepositoryHeader], name_or_id: &str) -> bool {
    let mut meant = headers.iter().filter(|header| is_called(header, name_or_id)).peekable();
    match meant.peek() {
        Some(_) => meant.all(|header| grants.reach(header)),
        None => grants.names(name_or_id),
    }
}

fn is_called(header: &RepositoryHeader, name_or_id: &str) -> bool {
    header.name == name_or_id || header.id.to_string() == name_or_id
}

/// The error that ends a stream when the process goes down.
pub(super) fn going_down() -> Error {
    Error::new(
        Reason::ShuttingDown,
        "the agent is going down; connect again in a moment",
    )
}
