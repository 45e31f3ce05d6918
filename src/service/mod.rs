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
pub mod errors;
pub mod observe;
pub mod proto;
pub mod server;

pub use self::agent::{Agent, AgentSettings, KeyProvider};
pub use self::caller::{Caller, Grants, Identity, Role, Transport};
pub use self::observe::Observer;

use std::sync::Arc;

use tonic::service::Routes;

/// All services of an agent, health and reflection included, each call authorised and observed.
pub fn routes(agent: Arc<Agent>) -> Routes {
    observe::observed(Routes::default(), agent)
}
