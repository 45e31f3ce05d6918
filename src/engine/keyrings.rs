//! The keyrings of a store: which repositories there are, and their secrets.
//!
//! A generation is kept in two copies; whichever is whole is used. Secrets are used only after the keyring that holds
//! them was written and read back.

use bytes::Bytes;

use super::error::{Error, Reason, Result};
use super::key_chain::wrong_key;
use super::packs::damaged;
use super::random;
use crate::backend::{self, Backend, Room};
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

/// The repositories that have a directory in the store.
pub(crate) async fn repository_ids(backend: &Backend) -> Result<Vec<RepositoryId>> {
    let directories = backend.list_directories("").await?;
    Ok(directories
        .iter()
        .filter_map(|directory| directory.parse().ok())
        .collect())
}

/// The newest readable keyring of every repository. One whose keyring is lost does not keep the others from being used.
pub(crate) async fn read_headers(backend: &Backend) -> Result<Vec<RepositoryHeader>> {
    let mut headers = Vec::new();
    let mut lost = None;
    for id in repository_ids(backend).await? {
        match newest_keyring(backend, id).await {
            Ok(Some((header, _))) => headers.push(RepositoryHeader {
                id,
                name: header.name.as_str().to_owned(),
                store_id: header.store_id,
                key_id: header.kek_id,
                generation: header.generation,
            }),
            Ok(None) => {}
            Err(error) if error.reason() == Reason::DataLoss => {
                tracing::error!(repository = %id, %error, "a repository cannot be opened");
                lost = Some(error);
            }
            Err(error) => return Err(error),
        }
    }
    match lost {
        Some(error) if headers.is_empty() => Err(error),
        _ => Ok(headers),
    }
}

/// Writes the copy of a keyring generation that is missing or damaged from the other one. Paths of what was written.
///
/// To be called for the generation of secrets that were opened: a key, not only a hash, has vouched for it.
pub(crate) async fn restore_copies(backend: &Backend, id: RepositoryId, generation: u64) -> Result<Vec<String>> {
    let layout = Layout::new(id);
    let mut copies = Vec::new();
    for copy in [KeyringCopy::First, KeyringCopy::Second] {
        let path = layout.keyring(generation, copy);
        let found = match backend.get(&path).await {
            Ok(bytes) => Some(bytes).filter(|bytes| is_keyring(bytes, id, generation)),
            Err(error) if error.kind() == backend::ErrorKind::NotFound => None,
            Err(error) => return Err(error.into()),
        };
        copies.push((path, found));
    }
    let Some(whole) = copies.iter().find_map(|(_, found)| found.clone()) else {
        return Ok(Vec::new());
    };
    let mut restored = Vec::new();
    for (path, found) in copies {
        if found.is_none() {
            backend.put_using(&path, whole.clone(), Room::Reserve).await?;
            tracing::warn!(
                path,
                "a copy of the keyring was missing or damaged; wrote it again from the other"
            );
            restored.push(path);
        }
    }
    Ok(restored)
}

fn is_keyring(bytes: &[u8], id: RepositoryId, generation: u64) -> bool {
    KeyringHeader::parse(bytes).is_ok_and(|header| (header.repository, header.generation) == (id, generation))
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
    let secrets = keyring::open_keyring(&bytes, kek).map_err(|error| match &error {
        format::Error::WrongKey { .. } => wrong_key(header, &kek.id).caused_by(error),
        _ => damaged(&format!("keyring of repository {:?}", header.name), error),
    })?;
    if let Err(error) = restore_copies(backend, header.id, secrets.generation()).await {
        tracing::warn!(%error, "a copy of the keyring could not be checked and written again");
    }
    Ok(secrets)
}

/// Writes both copies of a first keyring and reads them back: secrets are used only after that.
pub(crate) async fn write_keyring(backend: &Backend, kek: &Kek, secrets: &Secrets) -> Result<RepositoryHeader> {
    let id = secrets.repository();
    let layout = Layout::new(id);
    let seed = WrapSeed::from_bytes(random()?);
    let bytes = keyring::seal_keyring(secrets, kek, FIRST_GENERATION, Hash32::ZERO, seed);
    for copy in [KeyringCopy::First, KeyringCopy::Second] {
        let path = layout.keyring(FIRST_GENERATION, copy);
        backend
            .put_using(&path, Bytes::from(bytes.clone()), Room::Reserve)
            .await?;
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
