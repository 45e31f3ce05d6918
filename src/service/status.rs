//! `cairn.v1.Agent`: room and mode, and what an agent can do.

use std::ops::ControlFlow;
use std::sync::Arc;
use std::time::Duration;

use tonic::{Request, Response};

use super::agent::Agent;
use super::caller::{Caller, caller_of};
use super::proto::agent_server;
use super::proto::{
    self, CheckHeadRequest, CheckHeadResponse, GetCapabilitiesRequest, GetCapabilitiesResponse, GetStatusRequest,
    GetStatusResponse, SetModeRequest, SetModeResponse, WatchStatusRequest, WatchStatusResponse,
};
use super::stream::{Updates, follow};
use super::{Answer, DELETE_NAMES_MAX, FRAME_BYTES_MAX, LIST_PAGE_MAX, convert, maintenance};
use crate::engine::Status;

/// How often a watcher hears of a status that does not change: a sign of life.
const HEARTBEAT: Duration = Duration::from_secs(10);

/// Backends that this program was built with.
const BACKENDS: &[&str] = &[
    "directory",
    #[cfg(feature = "s3")]
    "s3",
];

/// The service.
pub(super) struct AgentService {
    agent: Arc<Agent>,
}

/// The service over `agent`.
pub(super) fn server(agent: Arc<Agent>) -> agent_server::AgentServer<AgentService> {
    agent_server::AgentServer::new(AgentService { agent })
}

#[tonic::async_trait]
impl agent_server::Agent for AgentService {
    type WatchStatusStream = Updates<WatchStatusResponse>;

    async fn get_status(&self, request: Request<GetStatusRequest>) -> Answer<GetStatusResponse> {
        let caller = caller_of(&request)?;
        let now = self.agent.store().status().await?;
        let status = Some(shown_to(&caller, &self.agent, &now).await);
        Ok(Response::new(GetStatusResponse { status }))
    }

    async fn watch_status(&self, request: Request<WatchStatusRequest>) -> Answer<Self::WatchStatusStream> {
        let caller = Arc::new(caller_of(&request)?);
        let statuses = self.agent.store().watch_status();
        let updates = follow(self.agent.clone(), statuses, HEARTBEAT, move |agent, now| {
            let caller = caller.clone();
            async move {
                let status = Some(shown_to(&caller, &agent, &now).await);
                ControlFlow::Continue(WatchStatusResponse { status })
            }
        });
        Ok(Response::new(updates))
    }

    async fn set_mode(&self, request: Request<SetModeRequest>) -> Answer<SetModeResponse> {
        let caller = caller_of(&request)?;
        let SetModeRequest { read_only } = request.into_inner();
        let now = self.agent.store().set_read_only(read_only).await?;
        tracing::info!(read_only, mode = now.mode.as_str(), "mode set");
        let status = Some(shown_to(&caller, &self.agent, &now).await);
        Ok(Response::new(SetModeResponse { status }))
    }

    async fn check_head(&self, request: Request<CheckHeadRequest>) -> Answer<CheckHeadResponse> {
        let caller = caller_of(&request)?;
        let request = request.into_inner();
        let head = convert::head(&request.head)?;
        let repository = self.agent.repository(&caller, &request.repository).await?;
        let found = repository.check_head(request.log_number, head)?;
        let newest_log_number = repository.status()?.log_number;
        Ok(Response::new(CheckHeadResponse {
            found,
            newest_log_number,
        }))
    }

    async fn get_capabilities(&self, _: Request<GetCapabilitiesRequest>) -> Answer<GetCapabilitiesResponse> {
        let settings = self.agent.settings();
        Ok(Response::new(GetCapabilitiesResponse {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            backends: BACKENDS.iter().map(|backend| (*backend).to_owned()).collect(),
            operations: maintenance::KINDS.iter().map(|kind| (*kind).into()).collect(),
            max_frame_bytes: FRAME_BYTES_MAX as u32,
            delete_names_max: DELETE_NAMES_MAX as u32,
            list_page_max: LIST_PAGE_MAX,
            budget_bytes: self.agent.store().budget_bytes() as u64,
            streams_max: settings.streams_max,
            key_provider: settings.key_provider.as_str().to_owned(),
        }))
    }
}

/// A status with the repositories that this caller may know of.
async fn shown_to(caller: &Caller, agent: &Agent, status: &Status) -> proto::Status {
    convert::status(status, &agent.repositories(caller).await)
}
