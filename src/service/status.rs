//! `cairn.v1.Agent`: room and mode, and what an agent can do.

use std::ops::ControlFlow;
use std::sync::Arc;
use std::time::Duration;

use tonic::{Request, Response};

use super::agent::Agent;
use super::caller::{Caller, caller_of};
use super::proto::agent_server;
use super::proto::{
    self, CheckHeadRequest, CheckHeadResponse, GetCapabilitiesRequest, GetCapabilitiesResponse, GetLimitsRequest,
    GetLimitsResponse, GetShapingRequest, GetShapingResponse, GetStatusRequest, GetStatusResponse, SetLimitsRequest,
    SetLimitsResponse, SetModeRequest, SetModeResponse, SetShapingRequest, SetShapingResponse, WatchStatusRequest,
    WatchStatusResponse,
};
use super::stream::{Updates, follow};
use super::{Answer, DELETE_NAMES_MAX, FRAME_BYTES_MAX, LIST_PAGE_MAX, convert, maintenance};
use crate::engine::{Error, QUOTAS_MAX, Reason, Result, Status};

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

    async fn get_shaping(&self, _: Request<GetShapingRequest>) -> Answer<GetShapingResponse> {
        let shaping = Some(convert::shaping(&self.agent.store().shaper().rates()));
        Ok(Response::new(GetShapingResponse { shaping }))
    }

    async fn set_shaping(&self, request: Request<SetShapingRequest>) -> Answer<SetShapingResponse> {
        let shaper = self.agent.store().shaper();
        let asked = request.into_inner().shaping.unwrap_or_default();
        for (class, rate) in convert::rates(&asked)? {
            shaper.set_rate(class, rate);
            tracing::info!(class = class.as_str(), ?rate, "rate set");
        }
        let shaping = Some(convert::shaping(&shaper.rates()));
        Ok(Response::new(SetShapingResponse { shaping }))
    }

    async fn get_limits(&self, request: Request<GetLimitsRequest>) -> Answer<GetLimitsResponse> {
        let caller = caller_of(&request)?;
        let limits = Some(limits(&caller, &self.agent));
        Ok(Response::new(GetLimitsResponse { limits }))
    }

    async fn set_limits(&self, request: Request<SetLimitsRequest>) -> Answer<SetLimitsResponse> {
        let caller = caller_of(&request)?;
        let request = request.into_inner();
        let store = self.agent.store();
        check_number(store.quotas().len() + request.quotas.len())?;
        let store_bytes = request.store_bytes.map(convert::store_bytes).transpose()?;
        let quotas = request.quotas.iter().map(convert::repository_limit);
        let quotas = quotas.collect::<Result<Vec<_>>>()?;
        for (name, _) in &quotas {
            self.agent.permit(&caller, name.as_str()).await?;
        }
        if let Some(bytes) = store_bytes {
            store.set_store_bytes_max(bytes);
            tracing::info!(bytes, "limit of the store set");
        }
        for (name, quota) in &quotas {
            store.set_quota(name, *quota);
            tracing::info!(repository = name.as_str(), ?quota, "quota set");
        }
        let limits = Some(limits(&caller, &self.agent));
        Ok(Response::new(SetLimitsResponse { limits }))
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

/// The limit of the store, and the quotas of repositories that this caller may know of.
fn limits(caller: &Caller, agent: &Agent) -> proto::Limits {
    let quotas = agent.store().quotas().into_iter();
    let visible = quotas.filter(|(name, _)| caller.grants.names(name));
    proto::Limits {
        store_bytes: agent.store().store_bytes_max(),
        quotas: visible
            .map(|(repository, quota)| proto::RepositoryLimit {
                repository,
                quota: convert::quota_message(quota),
            })
            .collect(),
    }
}

/// Refuses more quotas than are kept.
fn check_number(quotas: usize) -> Result<()> {
    if quotas > QUOTAS_MAX {
        let line = format!("{quotas} quotas are too many; at most {QUOTAS_MAX} are kept");
        return Err(Error::new(Reason::InvalidArgument, line));
    }
    Ok(())
}

/// A status with the repositories that this caller may know of.
async fn shown_to(caller: &Caller, agent: &Agent, status: &Status) -> proto::Status {
    convert::status(status, &agent.repositories(caller).await)
}
