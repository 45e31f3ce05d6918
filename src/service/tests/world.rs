//! An agent, and connections to it.

use std::sync::Arc;
use std::time::Duration;

use hyper_util::rt::{TokioExecutor, TokioIo};
use tonic::transport::{Channel, Endpoint};
use tower::{Service, service_fn};

use crate::engine::{NewRepository, Reason, Store, StoreOptions};
use crate::service::proto::data_path_client::DataPathClient;
use crate::service::{Agent, AgentSettings, Caller, Grants, Identity, Role, Transport, errors, routes};

/// An agent over a store in memory, with one repository.
pub(super) struct World {
    pub(super) agent: Arc<Agent>,
}

impl World {
    pub(super) async fn new(name: &str) -> Self {
        Self::with(name, AgentSettings::default()).await
    }

    pub(super) async fn with(name: &str, settings: AgentSettings) -> Self {
        let options = StoreOptions::in_memory(name).unwrap();
        let first = NewRepository::named("default").unwrap();
        let store = Store::open_or_create(options, first).await.unwrap();
        Self::over(store, settings)
    }

    pub(super) fn over(store: Store, settings: AgentSettings) -> Self {
        Self {
            agent: Agent::new(store, settings),
        }
    }

    /// A connection of a caller that may do everything.
    pub(super) fn connect(&self) -> Channel {
        self.connect_as(Some(anyone()))
    }

    /// A connection of this caller; of nobody known if there is none.
    pub(super) fn connect_as(&self, caller: Option<Caller>) -> Channel {
        let (ours, theirs) = tokio::io::duplex(1 << 20);
        let routes = routes(self.agent.clone());
        let service = hyper::service::service_fn(move |mut request: hyper::Request<hyper::body::Incoming>| {
            if let Some(caller) = &caller {
                request.extensions_mut().insert(caller.clone());
            }
            routes.clone().call(request)
        });
        let connection = hyper::server::conn::http2::Builder::new(TokioExecutor::new());
        tokio::spawn(connection.serve_connection(TokioIo::new(ours), service));
        let mut theirs = Some(TokioIo::new(theirs));
        let connector = service_fn(move |_| {
            let io = theirs
                .take()
                .ok_or_else(|| std::io::Error::other("this connection is used up"));
            async move { io }
        });
        Endpoint::from_static("http://agent").connect_with_connector_lazy(connector)
    }

    pub(super) fn data_path(&self) -> DataPathClient<Channel> {
        DataPathClient::new(self.connect())
    }
}

/// A caller with every role, by a Unix socket.
pub(super) fn anyone() -> Caller {
    Caller {
        identity: Identity::Uid(0),
        transport: Transport::Unix,
        grants: Grants::all(),
    }
}

/// A caller with these roles only.
pub(super) fn caller_with(roles: &[Role]) -> Caller {
    let mut caller = anyone();
    caller.grants.roles = roles.iter().copied().collect();
    caller
}

/// Returns once `holds` does.
pub(super) async fn eventually(holds: impl Fn() -> bool) {
    let looking = async {
        while !holds() {
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(30), looking)
        .await
        .expect("it should hold by now");
}

/// Settings with which a silent client is given up soon.
pub(super) fn impatient() -> AgentSettings {
    AgentSettings {
        stream_idle: Duration::from_millis(50),
        ..AgentSettings::default()
    }
}

/// The case that a call failed with.
pub(super) fn reason<T: std::fmt::Debug>(result: Result<T, tonic::Status>) -> Reason {
    errors::error(&result.unwrap_err()).reason()
}
