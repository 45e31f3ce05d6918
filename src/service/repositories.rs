//! `cairn.v1.Repositories`.

use std::sync::Arc;

use tonic::{Request, Response};

use super::Answer;
use super::agent::Agent;
use super::caller::caller_of;
use super::convert;
use super::proto::repositories_server;
use super::proto::{
    self, CreateRequest, CreateResponse, DescribeRequest, DescribeResponse, RepositoriesDeleteRequest,
    RepositoriesDeleteResponse, RepositoriesListRequest, RepositoriesListResponse,
};
use super::stream::to_its_end;
use crate::engine::{NewRepository, RepositoryHeader, Result};

/// The service.
pub(super) struct Repositories {
    agent: Arc<Agent>,
}

/// The service over `agent`.
pub(super) fn server(agent: Arc<Agent>) -> repositories_server::RepositoriesServer<Repositories> {
    repositories_server::RepositoriesServer::new(Repositories { agent })
}

#[tonic::async_trait]
impl repositories_server::Repositories for Repositories {
    async fn create(&self, request: Request<CreateRequest>) -> Answer<CreateResponse> {
        let caller = caller_of(&request)?;
        let new = NewRepository::try_from(request.into_inner())?;
        self.agent.permit(&caller, new.name.as_str()).await?;
        let store = self.agent.store().clone();
        let made = to_its_end(async move { store.create_repository(new).await }).await?;
        tracing::info!(repository = made.name().as_str(), id = %made.id(), "repository made");
        let header = self.agent.header(&caller, &made.id().to_string()).await?;
        let repository = Some(self.described(&header).await);
        Ok(Response::new(CreateResponse { repository }))
    }

    async fn list(&self, request: Request<RepositoriesListRequest>) -> Answer<RepositoriesListResponse> {
        let caller = caller_of(&request)?;
        let mut repositories = Vec::new();
        for header in self.agent.repositories(&caller).await {
            repositories.push(self.described(&header).await);
        }
        Ok(Response::new(RepositoriesListResponse { repositories }))
    }

    async fn describe(&self, request: Request<DescribeRequest>) -> Answer<DescribeResponse> {
        let caller = caller_of(&request)?;
        let header = self.agent.header(&caller, &request.get_ref().repository).await?;
        let repository = Some(self.described(&header).await);
        Ok(Response::new(DescribeResponse { repository }))
    }

    async fn delete(&self, request: Request<RepositoriesDeleteRequest>) -> Answer<RepositoriesDeleteResponse> {
        let caller = caller_of(&request)?;
        let RepositoriesDeleteRequest { repository, confirm } = request.into_inner();
        let name = self.agent.permit(&caller, &repository).await?;
        let store = self.agent.store().clone();
        let id = store.check_removal(name, &confirm).await?;
        // A scrub would call damaged what goes away under it.
        self.agent.operations().end_those_of(id).await;
        to_its_end(async move { store.remove_repository(&id.to_string(), &confirm).await }).await?;
        tracing::info!(repository = name, %id, "repository removed");
        Ok(Response::new(RepositoriesDeleteResponse {}))
    }
}

impl Repositories {
    /// What is known of it: without its totals if it cannot be opened.
    async fn described(&self, header: &RepositoryHeader) -> proto::Repository {
        match self.open(header).await {
            Ok(repository) => repository,
            Err(error) => {
                tracing::debug!(repository = header.name, %error, "a repository is not open");
                convert::repository(header, None, None)
            }
        }
    }

    async fn open(&self, header: &RepositoryHeader) -> Result<proto::Repository> {
        let open = self.agent.store().repository(&header.id.to_string()).await?;
        let totals = open.status()?;
        Ok(convert::repository(header, Some(&totals), Some(open.parameters())))
    }
}
