//! The context that all services share.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;

use super::observe::{Observer, Unobserved};
use crate::engine::{Error, Reason, Result, Store};

/// What a process chooses about its services.
#[derive(Clone)]
pub struct AgentSettings {
    /// After how long a stream ends on which the other side neither sends nor takes anything.
    pub stream_idle: Duration,
    /// Where keys come from.
    pub key_provider: KeyProvider,
    /// Most streams on one connection, as the accept loop holds it; told to clients.
    pub streams_max: u32,
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
            .finish_non_exhaustive()
    }
}

/// An agent: a store, and the services over it.
pub struct Agent {
    pub(super) store: Store,
    pub(super) settings: AgentSettings,
    down: watch::Sender<bool>,
}

impl Agent {
    /// The services over `store`.
    pub fn new(store: Store, settings: AgentSettings) -> Arc<Self> {
        Arc::new(Self {
            store,
            settings,
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
    }

    /// Refuses a new call once the process goes down.
    pub(super) fn check_up(&self) -> Result<()> {
        if *self.down.borrow() { Err(going_down()) } else { Ok(()) }
    }

    /// Returns when the process goes down.
    pub(super) async fn down(&self) {
        let mut down = self.down.subscribe();
        // The sender lives in `self`, so this ends only by the value.
        let _ = down.wait_for(|down| *down).await;
    }
}

/// The error that ends a stream when the process goes down.
pub(super) fn going_down() -> Error {
    Error::new(
        Reason::ShuttingDown,
        "the agent is going down; connect again in a moment",
    )
}
