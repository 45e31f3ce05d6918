//! The keyrings of a store: which repositories there are, and their secrets.
//!
//! A generation is kept in two copies; whichever is whole is used. Secrets are used only after the keyring that holds
//! them was written and read back.

use bytes::Bytes;

use super::error::{Error, Reason, Result};
use super::key_chain::wrong_key;
use super::packs::damaged;
use super::random;
use crate::backend::{self, Backend};
use crate::codec::RepositoryId;
use crate::format::keyring::{self, FIRST_GENERATION, WrapSeed};
use crate::format::names::{KeyringCopy, parse_keyring};
use crate::format::{self, Hash32, Kek, KeyringHeader, Layout, Secrets};

/// What is known of a repository without its key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RepositoryHeader {
    /// Its id.
    pub id: RepositoryId,
    /// Its name.
    pub name: String,
    /// The store it was made in.
    pub store_id: [u8; 16],
    /// The key that opens it.
    pub key_id: String,
    /// Its newest keyring generation.
    pub generation: u64,
}

/// The newest readable keyring of every repository.
pub(crate) async fn read_headers(backend: &Backend) -> Result<Vec<RepositoryHeader>> {
    let mut headers = Vec::new();
    for directory in backend.list_directories("").await? {
        let Ok(id) = directory.parse::<RepositoryId>() else {
            continue;
        };
        if let Some((header, _)) = newest_keyring(backend, id).await? {
            headers.push(RepositoryHeader {
                id,
                name: header.name.as_str().to_owned(),
                store_id: header.store_id,
                key_id: header.kek_id,
                generation: header.generation,
            });
        }
    }
    Ok(headers)
}

/// The header and the bytes of the newest keyring generation, from whichever copy is whole.
async fn newest_keyring(backend: &Backend, id: RepositoryId) -> Result<Option<(KeyringHeader, Bytes)>> {
    let layout = Layout::new(id);
    let files = backend.list(&layout.keyrings_prefix(), None).await?;
    let newest = files
        .iter()
        .filter_map(|file| parse_keyring(&file.path))
        .map(|(generation, _)| generation)
        .max();
    let Some(newest) = newest else {
        return without_keyring(backend, &layout).await;
    };
    let mut damage = None;
    for copy in [KeyringCopy::First, KeyringCopy::Second] {
        let path = layout.keyring(newest, copy);
        match backend.get(&path).await {
            Ok(bytes) => match KeyringHeader::parse(&bytes) {
                Ok(header) if header.repository == id && header.generation == newest => {
                    return Ok(Some((header, bytes)));
                }
                Ok(_) => damage = Some(Error::data_loss(format!("{path}: belongs to another repository"))),
                Err(error) => damage = Some(damaged(&path, error)),
            },
            Err(error) if error.kind() == backend::ErrorKind::NotFound => {}
            Err(error) => return Err(error.into()),
        }
    }
    let damage = damage.unwrap_or_else(|| Error::data_loss("both copies vanished"));
    Err(damage.within(format!(
        "no readable keyring of repository {id}; restore it from a copy of the store"
    )))
}

/// A directory that looks like a repository but has no keyring: nothing yet, or a loss that must not be painted over.
async fn without_keyring(backend: &Backend, layout: &Layout) -> Result<Option<(KeyringHeader, Bytes)>> {
    if backend.list(&layout.packs_prefix(), None).await?.is_empty() {
        return Ok(None);
    }
    let line = format!(
        "{}: has packs but no keyring; without it they cannot be read, restore it from a copy of the store",
        layout.keyrings_prefix()
    );
    Err(Error::data_loss(line))
}

pub(crate) async fn open_keyring(backend: &Backend, header: &RepositoryHeader, kek: &Kek) -> Result<Secrets> {
    let Some((_, bytes)) = newest_keyring(backend, header.id).await? else {
        return Err(Error::new(
            Reason::RepositoryNotFound,
            format!("repository {:?} is gone", header.name),
        ));
    };
    keyring::open_keyring(&bytes, kek).map_err(|error| match &error {
        format::Error::WrongKey { .. } => wrong_key(header, &kek.id).caused_by(error),
        _ => damaged(&format!("keyring of repository {:?}", header.name), error),
    })
}

/// Writes both copies of a first keyring and reads them back: secrets are used only after that.
pub(crate) async fn write_keyring(backend: &Backend, kek: &Kek, secrets: &Secrets) -> Result<RepositoryHeader> {
    let id = secrets.repository();
    let layout = Layout::new(id);
    let seed = WrapSeed::from_bytes(random()?);
    let bytes = keyring::seal_keyring(secrets, kek, FIRST_GENERATION, Hash32::ZERO, seed);
    for copy in [KeyringCopy::First, KeyringCopy::Second] {
        let path = layout.keyring(FIRST_GENERATION, copy);
        backend.put(&path, Bytes::from(bytes.clone())).await?;
        let read = backend.get(&path).await?;
        keyring::open_keyring(&read, kek).map_err(|error| damaged(&path, error))?;
    }
    Ok(RepositoryHeader {
        id,
        name: secrets.parameters().name.as_str().to_owned(),
        store_id: secrets.parameters().store_id,
        key_id: kek.id.clone(),
        generation: FIRST_GENERATION,
    })
}
