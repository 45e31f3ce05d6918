//! `cairn.v1.Keys`: key-encryption keys that callers push. Key material goes from the message into a [`Secret`] and is
//! in no error, no log and no answer.

use std::collections::BTreeSet;
use std::fmt;
use std::sync::Arc;

use bytes::Bytes;
use tonic::{Request, Response};
use zeroize::Zeroize;

use super::Answer;
use super::agent::{Agent, KeyProvider};
use super::caller::{Caller, caller_of};
use super::convert;
use super::proto::keys_server;
use super::proto::{
    Key, KeysListRequest, KeysListResponse, LoadRequest, LoadResponse, RotateRequest, RotateResponse, UnloadRequest,
    UnloadResponse,
};
use super::stream::to_its_end;
use crate::codec::{RepositoryId, Secret};
use crate::engine::{Error, KeyState, Reason, Result};
use crate::format::Kek;

/// Bytes of a key's name.
const KEY_ID_BYTES_MAX: usize = 64;

/// The service.
pub(super) struct Keys {
    agent: Arc<Agent>,
}

/// The service over `agent`.
pub(super) fn server(agent: Arc<Agent>) -> keys_server::KeysServer<Keys> {
    keys_server::KeysServer::new(Keys { agent })
}

#[tonic::async_trait]
impl keys_server::Keys for Keys {
    async fn load(&self, request: Request<LoadRequest>) -> Answer<LoadResponse> {
        let caller = caller_of(&request)?;
        let kek = kek(request.into_inner());
        self.require_pushed_keys()?;
        let kek = kek?;
        let (store, key_id) = (self.agent.store().clone(), kek.id.clone());
        let served = to_its_end(async move { store.load_key(kek).await }).await?;
        tracing::info!(key_id, repositories = served.len(), "key loaded");
        let repository_ids = self.visible(&caller, served).await;
        Ok(Response::new(LoadResponse { repository_ids }))
    }

    async fn unload(&self, request: Request<UnloadRequest>) -> Answer<UnloadResponse> {
        self.require_pushed_keys()?;
        let UnloadRequest { key_id } = request.into_inner();
        let (store, id) = (self.agent.store().clone(), key_id.clone());
        let was_loaded = to_its_end(async move { Ok(store.unload_key(&id).await) }).await?;
        tracing::info!(key_id, was_loaded, "key unloaded");
        Ok(Response::new(UnloadResponse { was_loaded }))
    }

    async fn list(&self, request: Request<KeysListRequest>) -> Answer<KeysListResponse> {
        let caller = caller_of(&request)?;
        let mut keys = Vec::new();
        for state in self.agent.store().keys().await {
            keys.push(self.key(&caller, state).await);
        }
        Ok(Response::new(KeysListResponse { keys }))
    }

    async fn rotate(&self, request: Request<RotateRequest>) -> Answer<RotateResponse> {
        let caller = caller_of(&request)?;
        self.agent.header(&caller, &request.get_ref().repository).await?;
        let line = "this agent does not rotate keys yet";
        Err(Error::new(Reason::Unsupported, line).into())
    }
}

impl Keys {
    fn require_pushed_keys(&self) -> Result<()> {
        match self.agent.settings().key_provider {
            KeyProvider::Core => Ok(()),
            KeyProvider::File => {
                let line = "keys come from files here; give the process another file instead";
                Err(Error::new(Reason::Unsupported, line))
            }
        }
    }

    async fn key(&self, caller: &Caller, state: KeyState) -> Key {
        Key {
            key_id: state.id,
            loaded: state.loaded_at_ms.is_some(),
            loaded_at: state.loaded_at_ms.map(convert::timestamp),
            repository_ids: self.visible(caller, state.repositories).await,
        }
    }

    /// Those of these repositories of which the caller may know.
    async fn visible(&self, caller: &Caller, ids: Vec<RepositoryId>) -> Vec<String> {
        let known = self.agent.repositories(caller).await;
        let known: BTreeSet<_> = known.into_iter().map(|header| header.id).collect();
        let visible = ids.into_iter().filter(|id| known.contains(id));
        visible.map(|id| id.to_string()).collect()
    }
}

/// The key out of its message, which is wiped as far as its bytes are ours alone.
fn kek(request: LoadRequest) -> Result<Kek> {
    let LoadRequest { key_id: id, key } = request;
    let secret = <[u8; 32]>::try_from(&*key).map(Secret::from_bytes);
    wipe(key);
    let invalid = |line: &str| Error::new(Reason::InvalidArgument, line);
    if id.is_empty() || id.len() > KEY_ID_BYTES_MAX || !id.bytes().all(|byte| byte.is_ascii_graphic()) {
        return Err(invalid(
            "a key's name is 1 to 64 printable ASCII characters without spaces",
        ));
    }
    let secret = secret.map_err(|_| invalid("a key has 32 bytes"))?;
    Ok(Kek { id, secret })
}

fn wipe(bytes: Bytes) {
    if let Ok(mut bytes) = bytes.try_into_mut() {
        bytes.zeroize();
    }
}

impl fmt::Debug for LoadRequest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("LoadRequest")
            .field("key_id", &self.key_id)
            .finish_non_exhaustive()
    }
}
