//! The network service: gRPC over the engine.
//!
//! One file per service of `proto/cairn/v1`. What they share: [`Agent`], the context of every call; [`caller`], who
//! calls; [`calls`], what a caller needs for which call; [`observe`], the one place that every call passes on its way in
//! and out; [`convert`] and [`errors`], the only places where the contract and the engine meet.
//!
//! Sockets, TLS and the accept loop are elsewhere: [`routes`] is a plain `tower` service that finds a [`Caller`] in the
//! extensions of each request.

mod agent;
pub mod caller;
pub mod calls;
pub mod convert;
mod data_path;
pub mod errors;
mod health;
mod keys;
mod maintenance;
pub mod observe;
pub mod proto;
mod reflection;
mod repositories;
pub mod server;
mod status;
mod stream;
#[cfg(test)]
mod tests;

pub use self::agent::{Agent, AgentSettings, KeyProvider};
pub use self::caller::{Caller, Grants, Identity, Role, Transport};
pub use self::data_path::{DELETE_NAMES_MAX, FRAME_BYTES_MAX, LIST_PAGE_MAX};
pub use self::observe::Observer;

use std::sync::Arc;

use tonic::service::Routes;
use tonic::{Response, Status};

/// What a call answers.
type Answer<T> = Result<Response<T>, Status>;

/// All services of an agent, health and reflection included, each call authorised and observed.
pub fn routes(agent: Arc<Agent>) -> Routes {
    let routes = Routes::default()
        .add_service(data_path::server(agent.clone()))
        .add_service(keys::server(agent.clone()))
        .add_service(maintenance::server(agent.clone()))
        .add_service(repositories::server(agent.clone()))
        .add_service(status::server(agent.clone()))
        .add_service(health::server(agent.clone()));
    let routes = reflection::added(routes);
    observe::observed(routes, agent)
}
