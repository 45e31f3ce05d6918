//! A store that an agent serves, over gRPC.

mod address;
mod convert;
mod get;
mod maintenance;
mod put;
mod repository;
mod watch;

pub(crate) use address::{Address, Tls};
pub(crate) use get::Reader;
pub(crate) use repository::Repository;
pub(crate) use watch::Watch;

use std::error::Error as _;
use std::sync::Arc;

use tonic::transport::Channel;

use cairn_agent::engine::{
    Error, EvacuateOptions, Evacuees, NewRepository, Reason, Removed, RepositoryHeader, Result, Status,
};
use cairn_agent::service::convert::repository_header;
use cairn_agent::service::{errors, proto};
use proto::agent_client::AgentClient;
use proto::keys_client::KeysClient;
use proto::repositories_client::RepositoriesClient;

use crate::failure::innermost;
use crate::progress::Counter;
use crate::target::{Evacuated, Key};

/// The largest message that is taken. Frames have 1 MiB, pages of a listing a few.
const MESSAGE_BYTES_MAX: usize = 8 << 20;

/// An agent, connected.
#[derive(Clone)]
pub(crate) struct Agent {
    channel: Channel,
    address: Arc<str>,
}

impl Agent {
    /// # Errors
    /// `BackendUnavailable` naming the address if nobody answers there.
    pub(crate) async fn connect(address: &Address) -> Result<Self> {
        let name = Arc::from(address.to_string());
        match address.endpoint().connect().await {
            Ok(channel) => Ok(Self { channel, address: name }),
            Err(error) => Err(Error::new(
                Reason::BackendUnavailable,
                format!("cannot reach the agent at {name}: {}", innermost(&error)),
            )),
        }
    }

    pub(crate) fn repository(&self, name_or_id: &str) -> Repository {
        Repository::new(self.clone(), name_or_id)
    }

    pub(crate) async fn repositories(&self) -> Result<Vec<RepositoryHeader>> {
        let request = proto::RepositoriesListRequest {};
        let answer = self.repositories_client().list(request).await;
        let listed = answer.map_err(|status| self.failed(&status))?.into_inner();
        listed.repositories.iter().map(repository_header).collect()
    }

    pub(crate) async fn create_repository(&self, new: NewRepository) -> Result<RepositoryHeader> {
        let request = proto::CreateRequest::from(&new);
        let answer = self.repositories_client().create(request).await;
        let created = answer.map_err(|status| self.failed(&status))?.into_inner();
        repository_header(&convert::needed(created.repository)?)
    }

    pub(crate) async fn remove_repository(&self, name_or_id: &str, confirm: &str) -> Result<()> {
        let request = proto::RepositoriesDeleteRequest {
            repository: name_or_id.to_owned(),
            confirm: confirm.to_owned(),
        };
        let answer = self.repositories_client().delete(request).await;
        answer.map(drop).map_err(|status| self.failed(&status))
    }

    pub(crate) async fn evacuate(&self, options: EvacuateOptions, counter: &Counter) -> Result<Evacuated> {
        let EvacuateOptions { to, which } = options;
        let repository = match &which {
            Evacuees::One(name_or_id) => self.repository(name_or_id),
            Evacuees::All => self.repository(""),
        };
        maintenance::evacuate(&repository, to.to_string(), &which, counter).await
    }

    pub(crate) async fn wipe(&self, name_or_id: &str, confirm: &str, counter: &Counter) -> Result<Removed> {
        maintenance::wipe(&self.repository(name_or_id), confirm, counter).await
    }

    pub(crate) async fn status(&self) -> Result<Status> {
        let answer = self.agent_client().get_status(proto::GetStatusRequest {}).await;
        let status = answer.map_err(|status| self.failed(&status))?.into_inner().status;
        Status::try_from(convert::needed(status)?)
    }

    pub(crate) async fn watch_status(&self) -> Result<Watch> {
        Watch::start(self.clone()).await
    }

    pub(crate) async fn keys(&self) -> Result<Vec<Key>> {
        let mut client = KeysClient::new(self.channel.clone());
        let answer = client.list(proto::KeysListRequest {}).await;
        let listed = answer.map_err(|status| self.failed(&status))?.into_inner();
        listed.keys.into_iter().map(convert::key).collect()
    }

    /// What a call that failed means: the agent's word on it, or that there was none.
    fn failed(&self, status: &tonic::Status) -> Error {
        match status.source() {
            // It came over the wire; from whom, only an agent's own words tell.
            None if status.message().is_empty() => Error::new(
                errors::error(status).reason(),
                format!("{} answers: {}", self.address, status.code()),
            ),
            None => errors::error(status),
            Some(error) => Error::new(
                Reason::BackendUnavailable,
                format!(
                    "the connection to the agent at {} broke: {}",
                    self.address,
                    innermost(error)
                ),
            ),
        }
    }

    fn agent_client(&self) -> AgentClient<Channel> {
        AgentClient::new(self.channel.clone()).max_decoding_message_size(MESSAGE_BYTES_MAX)
    }

    fn repositories_client(&self) -> RepositoriesClient<Channel> {
        RepositoriesClient::new(self.channel.clone()).max_decoding_message_size(MESSAGE_BYTES_MAX)
    }
}
