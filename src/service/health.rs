//! `grpc.health.v1.Health`: read off the newest status, so that it can never disagree with it.
//!
//! | name | serving |
//! |---|---|
//! | `""` | the agent answers and is not going down |
//! | `cairn.v1.DataPath` | calls on objects are served: the store is there and so is a key |
//! | `repository/<name>` | this repository is open |

use std::sync::Arc;

use futures::{StreamExt, stream};
use tokio::sync::watch;
use tonic::{Request, Response, Status};
use tonic_health::pb::health_check_response::ServingStatus;
use tonic_health::pb::health_server::{self, HealthServer};
use tonic_health::pb::{HealthCheckRequest, HealthCheckResponse};

use super::Answer;
use super::agent::Agent;
use super::stream::Updates;
use crate::engine::{self, Mode};

/// The name under which calls on objects are asked for.
const DATA_PATH: &str = "cairn.v1.DataPath";
/// What stands before the name of a repository.
const REPOSITORY: &str = "repository/";

/// The service.
pub(super) struct Health {
    agent: Arc<Agent>,
}

/// The service over `agent`.
pub(super) fn server(agent: Arc<Agent>) -> HealthServer<Health> {
    HealthServer::new(Health { agent })
}

#[tonic::async_trait]
impl health_server::Health for Health {
    type WatchStream = Updates<HealthCheckResponse>;

    async fn check(&self, request: Request<HealthCheckRequest>) -> Answer<HealthCheckResponse> {
        let newest = self.agent.store().watch_status().borrow().clone();
        match health(&self.agent, &newest, &request.get_ref().service) {
            ServingStatus::ServiceUnknown => Err(Status::not_found("no health is known under this name")),
            health => Ok(Response::new(answer(health))),
        }
    }

    async fn watch(&self, request: Request<HealthCheckRequest>) -> Answer<Self::WatchStream> {
        let watched = Watched {
            statuses: self.agent.store().watch_status(),
            agent: self.agent.clone(),
            service: request.into_inner().service,
            told: None,
        };
        let updates = stream::unfold(watched, |mut watched| async move {
            let health = watched.next().await?;
            Some((Ok(answer(health)), watched))
        });
        Ok(Response::new(updates.boxed()))
    }
}

/// The health of a name, for somebody who watches it.
struct Watched {
    agent: Arc<Agent>,
    statuses: watch::Receiver<Arc<engine::Status>>,
    service: String,
    told: Option<ServingStatus>,
}

impl Watched {
    /// The health now or as soon as it is another one; ends after the agent went down.
    async fn next(&mut self) -> Option<ServingStatus> {
        loop {
            let newest = self.statuses.borrow_and_update().clone();
            let health = health(&self.agent, &newest, &self.service);
            if self.told.replace(health) != Some(health) {
                return Some(health);
            }
            if self.agent.is_down() {
                return None;
            }
            tokio::select! {
                () = self.agent.down() => {}
                changed = self.statuses.changed() => changed.ok()?,
            }
        }
    }
}

fn health(agent: &Agent, newest: &engine::Status, service: &str) -> ServingStatus {
    let serves = match service {
        "" => true,
        DATA_PATH => serves_data(newest.mode),
        service => match service.strip_prefix(REPOSITORY).and_then(|name| is_open(newest, name)) {
            Some(is_open) => is_open,
            None => return ServingStatus::ServiceUnknown,
        },
    };
    if serves && !agent.is_down() {
        ServingStatus::Serving
    } else {
        ServingStatus::NotServing
    }
}

/// Whether calls on objects are served, be it reads only.
fn serves_data(mode: Mode) -> bool {
    match mode {
        Mode::Initializing | Mode::KeysUnavailable | Mode::StorageNotExist | Mode::AuthFailed => false,
        Mode::Optimal | Mode::LowCapacity | Mode::ReadOnly | Mode::NoCapacity | Mode::IoErrors | Mode::Deleting => true,
    }
}

/// Whether the repository of this name is open; `None` if there is none.
fn is_open(newest: &engine::Status, name: &str) -> Option<bool> {
    if newest.repositories.iter().any(|open| open.name == name) {
        return Some(true);
    }
    newest.closed.iter().any(|closed| closed.name == name).then_some(false)
}

fn answer(health: ServingStatus) -> HealthCheckResponse {
    HealthCheckResponse { status: health.into() }
}
