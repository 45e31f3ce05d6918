//! A repository that an agent serves.

use std::io::Read;
use std::sync::Arc;

use tonic::transport::Channel;

use cairn_agent::engine::{
    ByteRange, DamagedObject, Error, ObjectInfo, PutOptions, PutOutcome, Reason, ReclaimOptions, ReclaimProgress,
    Reclaimed, RepositoryStatus, Result, ScrubOptions,
};
use cairn_agent::format::Hash32;
use cairn_agent::service::proto;
use proto::DeleteOutcome;
use proto::data_path_client::DataPathClient;

use super::convert::{needed, nonsense};
use super::{Agent, MESSAGE_BYTES_MAX, Reader, convert, maintenance, put};
use crate::failure::note;
use crate::progress::Counter;
use crate::target::{Description, Input, Scrubbed};

/// Objects asked for at once.
const PAGE: u32 = 10_000;

/// Its name or id, and who serves it.
#[derive(Clone)]
pub(crate) struct Repository {
    pub(super) agent: Agent,
    pub(super) name: Arc<str>,
}

impl Repository {
    pub(super) fn new(agent: Agent, name_or_id: &str) -> Self {
        Self {
            agent,
            name: name_or_id.into(),
        }
    }

    pub(crate) async fn put<R>(&self, name: &str, input: Input<R>, options: PutOptions) -> Result<PutOutcome>
    where
        R: Read + Send + 'static,
    {
        put::put(self, name, input, options).await
    }

    pub(crate) async fn get(&self, name: &str, range: ByteRange) -> Result<Reader> {
        Reader::open(self, name, range).await
    }

    pub(crate) async fn stat(&self, name: &str) -> Result<ObjectInfo> {
        let request = proto::StatRequest {
            repository: self.name(),
            name: name.to_owned(),
        };
        let answer = self.client().stat(request).await;
        let object = answer.map_err(|status| self.failed(&status))?.into_inner().object;
        Ok(ObjectInfo::from(needed(object)?))
    }

    pub(crate) async fn list(&self, prefix: &str) -> Result<Vec<ObjectInfo>> {
        let mut objects = Vec::new();
        let mut request = proto::ListRequest {
            repository: self.name(),
            prefix: prefix.to_owned(),
            page_size: PAGE,
            ..proto::ListRequest::default()
        };
        loop {
            let answer = self.client().list(request.clone()).await;
            let page = answer.map_err(|status| self.failed(&status))?.into_inner();
            objects.extend(page.objects.into_iter().map(ObjectInfo::from));
            if page.next_page_token.is_empty() {
                return Ok(objects);
            }
            request.page_token = page.next_page_token;
        }
    }

    pub(crate) async fn copy(&self, from: &str, to: &str) -> Result<ObjectInfo> {
        let request = proto::CopyRequest {
            repository: self.name(),
            from: from.to_owned(),
            to: to.to_owned(),
            put_id: put::fresh_put_id()?.to_vec().into(),
            ..proto::CopyRequest::default()
        };
        let answer = self.client().copy(request).await;
        let object = answer.map_err(|status| self.failed(&status))?.into_inner().object;
        Ok(ObjectInfo::from(needed(object)?))
    }

    pub(crate) async fn delete(&self, names: &[String]) -> Result<Vec<bool>> {
        let request = proto::DeleteRequest {
            repository: self.name(),
            names: names.to_vec(),
            precondition: None,
        };
        let answer = self.client().delete(request).await;
        let results = answer.map_err(|status| self.failed(&status))?.into_inner().results;
        if !results.iter().map(|result| &result.name).eq(names) {
            return Err(nonsense("it does not tell of each name that was to be removed"));
        }
        results.into_iter().map(was_there).collect()
    }

    pub(crate) async fn verify(&self, name: &str) -> Result<ObjectInfo> {
        let request = proto::VerifyRequest {
            repository: self.name(),
            name: name.to_owned(),
        };
        let answer = self.client().verify(request).await;
        let object = answer.map_err(|status| self.failed(&status))?.into_inner().object;
        Ok(ObjectInfo::from(needed(object)?))
    }

    pub(crate) async fn reclaim(&self, options: ReclaimOptions, progress: &ReclaimProgress) -> Result<Reclaimed> {
        maintenance::reclaim(self, options, progress).await
    }

    pub(crate) async fn rebuild(&self) -> Result<RepositoryStatus> {
        maintenance::rebuild(self).await?;
        Ok(self.describe().await?.totals)
    }

    pub(crate) async fn scrub(&self, options: ScrubOptions, counter: &Counter) -> Result<Scrubbed> {
        maintenance::scrub(self, &options, counter).await
    }

    pub(crate) async fn damaged_objects(&self, prefix: &str) -> Result<Vec<DamagedObject>> {
        let mut objects = Vec::new();
        let mut request = proto::ListDamagedRequest {
            repository: self.name(),
            prefix: prefix.to_owned(),
            page_size: PAGE,
            ..proto::ListDamagedRequest::default()
        };
        loop {
            let answer = self.client().list_damaged(request.clone()).await;
            let page = answer.map_err(|status| self.failed(&status))?.into_inner();
            for object in page.objects {
                if object.ranges_truncated {
                    note(&format!("more of {:?} is damaged than is listed here", object.name));
                }
                objects.push(DamagedObject::from(object));
            }
            if page.next_page_token.is_empty() {
                return Ok(objects);
            }
            request.page_token = page.next_page_token;
        }
    }

    pub(crate) async fn describe(&self) -> Result<Description> {
        let request = proto::DescribeRequest {
            repository: self.name(),
        };
        let answer = self.agent.repositories_client().describe(request).await;
        let repository = needed(answer.map_err(|status| self.failed(&status))?.into_inner().repository)?;
        if repository.open {
            return convert::description(&repository);
        }
        // Why it is not open is told by a call that needs it open.
        self.check_head(0, Hash32([0; 32])).await?;
        let line = format!("repository {:?} was not open a moment ago; ask again", repository.name);
        Err(Error::new(Reason::KeysUnavailable, line))
    }

    pub(crate) async fn check_head(&self, log_number: u64, head: Hash32) -> Result<bool> {
        let request = proto::CheckHeadRequest {
            repository: self.name(),
            log_number,
            head: head.0.to_vec().into(),
        };
        let answer = self.agent.agent_client().check_head(request).await;
        Ok(answer.map_err(|status| self.failed(&status))?.into_inner().found)
    }

    pub(super) fn name(&self) -> String {
        (*self.name).to_owned()
    }

    pub(super) fn client(&self) -> DataPathClient<Channel> {
        DataPathClient::new(self.agent.channel.clone()).max_decoding_message_size(MESSAGE_BYTES_MAX)
    }

    pub(super) fn failed(&self, status: &tonic::Status) -> Error {
        self.agent.failed(status)
    }
}

fn was_there(result: proto::DeleteResult) -> Result<bool> {
    match result.outcome() {
        DeleteOutcome::Deleted => Ok(true),
        DeleteOutcome::NotFound => Ok(false),
        DeleteOutcome::Failed => Err(maintenance::reported(&result.reason, result.message)),
        DeleteOutcome::Unspecified => Err(nonsense("it does not tell what became of a name")),
    }
}
