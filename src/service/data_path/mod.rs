//! `cairn.v1.DataPath`: objects in, objects out.

mod get;
mod put;

use std::sync::Arc;

use futures::{StreamExt, stream};
use tonic::{Request, Response, Streaming};

use super::Answer;
use super::agent::Agent;
use super::caller::caller_of;
use super::convert;
use super::proto::data_path_server;
use super::proto::{
    CopyRequest, CopyResponse, DeleteOutcome, DeleteRequest, DeleteResponse, DeleteResult, GetRequest, GetResponse,
    ListDamagedRequest, ListDamagedResponse, ListRequest, ListResponse, PutRequest, PutResponse, StatRequest,
    StatResponse, VerifyRequest, VerifyResponse,
};
use super::stream::Produced;
use crate::engine::{Error, Precondition, PutOptions, Reason, Repository, Result};

/// Largest `data` frame of a put or a get, in bytes.
pub const FRAME_BYTES_MAX: usize = 1 << 20;
/// Largest message that is read: a frame, or the names of a delete, and what is around them.
const MESSAGE_BYTES_MAX: usize = FRAME_BYTES_MAX + (64 << 10);
/// Most names of a delete.
pub const DELETE_NAMES_MAX: usize = 1000;
/// Names of a delete under way at once: enough that they share a commit.
const DELETES_AT_ONCE: usize = 256;
/// Objects of a page if the caller names no number.
const LIST_PAGE: u32 = 1000;
/// Most objects of a page.
pub const LIST_PAGE_MAX: u32 = 10_000;
/// Bytes of metadata and names after which a page ends early: clients take messages of 4 MiB.
const LIST_BYTES: usize = 1 << 20;
/// Objects read at a time: with the largest metadata they keep a page below what clients take.
const LIST_STEP: usize = 128;

/// The service.
pub(super) struct DataPath {
    agent: Arc<Agent>,
}

/// The service over `agent`.
pub(super) fn server(agent: Arc<Agent>) -> data_path_server::DataPathServer<DataPath> {
    data_path_server::DataPathServer::new(DataPath { agent }).max_decoding_message_size(MESSAGE_BYTES_MAX)
}

#[tonic::async_trait]
impl data_path_server::DataPath for DataPath {
    type PutStream = Produced<PutResponse>;
    type GetStream = Produced<GetResponse>;

    async fn put(&self, request: Request<Streaming<PutRequest>>) -> Answer<Self::PutStream> {
        let caller = caller_of(&request)?;
        Ok(put::put(self.agent.clone(), caller, request.into_inner()))
    }

    async fn get(&self, request: Request<GetRequest>) -> Answer<Self::GetStream> {
        let caller = caller_of(&request)?;
        Ok(get::get(&self.agent, &caller, request.into_inner()).await?)
    }

    async fn stat(&self, request: Request<StatRequest>) -> Answer<StatResponse> {
        let caller = caller_of(&request)?;
        let StatRequest { repository, name } = request.into_inner();
        let repository = self.agent.repository(&caller, &repository).await?;
        let object = Some(repository.stat(&name).await?.into());
        Ok(Response::new(StatResponse { object }))
    }

    async fn list(&self, request: Request<ListRequest>) -> Answer<ListResponse> {
        let caller = caller_of(&request)?;
        let request = request.into_inner();
        let repository = self.agent.repository(&caller, &request.repository).await?;
        Ok(Response::new(list(&repository, request).await?))
    }

    async fn delete(&self, request: Request<DeleteRequest>) -> Answer<DeleteResponse> {
        let caller = caller_of(&request)?;
        let request = request.into_inner();
        let repository = self.agent.repository(&caller, &request.repository).await?;
        Ok(Response::new(delete(&repository, request).await?))
    }

    async fn copy(&self, request: Request<CopyRequest>) -> Answer<CopyResponse> {
        let caller = caller_of(&request)?;
        let request = request.into_inner();
        let repository = self.agent.repository(&caller, &request.repository).await?;
        let options = PutOptions {
            precondition: convert::precondition(request.precondition),
            put_id: convert::put_id(&request.put_id)?,
            metadata: convert::metadata(request.metadata),
            ..PutOptions::default()
        };
        let copied = repository.copy(&request.from, &request.to, options).await?;
        Ok(Response::new(CopyResponse {
            object: Some(copied.object.into()),
            stored_bytes: copied.stored_bytes,
        }))
    }

    async fn verify(&self, request: Request<VerifyRequest>) -> Answer<VerifyResponse> {
        let caller = caller_of(&request)?;
        let VerifyRequest { repository, name } = request.into_inner();
        let repository = self.agent.repository(&caller, &repository).await?;
        let object = Some(repository.verify(&name).await?.into());
        Ok(Response::new(VerifyResponse { object }))
    }

    async fn list_damaged(&self, request: Request<ListDamagedRequest>) -> Answer<ListDamagedResponse> {
        let caller = caller_of(&request)?;
        let request = request.into_inner();
        let repository = self.agent.repository(&caller, &request.repository).await?;
        Ok(Response::new(list_damaged(&repository, &request).await?))
    }
}

async fn list(repository: &Repository, request: ListRequest) -> Result<ListResponse> {
    let limit = page_limit(request.page_size)?;
    let mut after = convert::page_token(&request.page_token)?;
    let mut response = ListResponse::default();
    let mut bytes = 0;
    while response.objects.len() < limit && bytes < LIST_BYTES {
        let step = LIST_STEP.min(limit - response.objects.len());
        let page = repository.list(&request.prefix, after, step).await?;
        let objects = page.objects.into_iter().map(super::proto::ObjectInfo::from);
        response
            .objects
            .extend(objects.inspect(|object| bytes += prost::Message::encoded_len(object)));
        after = page.next;
        if after.is_none() {
            break;
        }
    }
    response.next_page_token = after.map(|after| after.to_vec().into()).unwrap_or_default();
    Ok(response)
}

/// # Errors
/// `InvalidArgument` for more objects than a page may have.
fn page_limit(asked: u32) -> Result<usize> {
    match asked {
        0 => Ok(LIST_PAGE as usize),
        asked if asked <= LIST_PAGE_MAX => Ok(asked as usize),
        asked => {
            let line = format!("a page of {asked} objects is too large; at most {LIST_PAGE_MAX} are given");
            Err(Error::new(Reason::InvalidArgument, line))
        }
    }
}

async fn list_damaged(repository: &Repository, request: &ListDamagedRequest) -> Result<ListDamagedResponse> {
    let limit = page_limit(request.page_size)?;
    let after = convert::page_token(&request.page_token)?;
    let page = repository.damaged_page(&request.prefix, after, limit).await?;
    Ok(ListDamagedResponse {
        objects: page.objects.iter().map(convert::damaged_object).collect(),
        next_page_token: page.next.map(|next| next.to_vec().into()).unwrap_or_default(),
    })
}

async fn delete(repository: &Repository, request: DeleteRequest) -> Result<DeleteResponse> {
    let names = request.names.len();
    if names > DELETE_NAMES_MAX {
        let line = format!("{names} names are too many for one delete; at most {DELETE_NAMES_MAX} are taken");
        return Err(Error::new(Reason::InvalidArgument, line));
    }
    let precondition = convert::precondition(request.precondition);
    if precondition != Precondition::None && names != 1 {
        let line = "a precondition goes with exactly one name";
        return Err(Error::new(Reason::InvalidArgument, line));
    }
    let deletes = request.names.into_iter().map(|name| async move {
        let outcome = repository.delete(&name, precondition).await;
        result(name, outcome)
    });
    let results = stream::iter(deletes).buffered(DELETES_AT_ONCE).collect().await;
    Ok(DeleteResponse { results })
}

fn result(name: String, outcome: Result<bool>) -> DeleteResult {
    let (outcome, message, reason) = match outcome {
        Ok(true) => (DeleteOutcome::Deleted, String::new(), String::new()),
        Ok(false) => (DeleteOutcome::NotFound, String::new(), String::new()),
        Err(error) => (
            DeleteOutcome::Failed,
            error.to_string(),
            error.reason().as_str().to_owned(),
        ),
    };
    DeleteResult {
        name,
        outcome: outcome.into(),
        message,
        reason,
    }
}
