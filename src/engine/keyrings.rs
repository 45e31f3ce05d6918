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
use crate::format::keyring::{self, WrapSeed};
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
    match survey(backend).await? {
        Survey { headers, lost } if headers.is_empty() => lost
            .into_iter()
            .next_back()
            .map_or(Ok(headers), |(_, error)| Err(error)),
        Survey { headers, .. } => Ok(headers),
    }
}

/// The repositories of a place.
pub(crate) struct Survey {
    /// Those with a keyring.
    pub(crate) headers: Vec<RepositoryHeader>,
    /// Those with none that can be read, and what is wrong.
    pub(crate) lost: Vec<(RepositoryId, Error)>,
}

/// What repositories there are, readable or not.
pub(crate) async fn survey(backend: &Backend) -> Result<Survey> {
    let (mut headers, mut lost) = (Vec::new(), Vec::new());
    for id in repository_ids(backend).await? {
        match newest_keyring(backend, id).await {
            Ok(Some((header, _))) => headers.push(RepositoryHeader::from(header)),
            Ok(None) => {}
            Err(error) if error.reason() == Reason::DataLoss => {
                tracing::error!(repository = %id, %error, "a repository cannot be opened");
                lost.push((id, error));
            }
            Err(error) => return Err(error),
        }
    }
    Ok(Survey { headers, lost })
}

impl From<KeyringHeader> for RepositoryHeader {
    fn from(header: KeyringHeader) -> Self {
        Self {
            id: header.repository,
            name: header.name.as_str().to_owned(),
            store_id: header.store_id,
            key_id: header.kek_id,
            generation: header.generation,
        }
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
///
/// # Errors
/// `DataLoss` if there is none but packs are, and if both copies are damaged.
async fn newest_keyring(backend: &Backend, id: RepositoryId) -> Result<Option<(KeyringHeader, Bytes)>> {
    match find_keyring(backend, id).await? {
        None => without_keyring(backend, &Layout::new(id)).await,
        found => Ok(found),
    }
}

/// As [`newest_keyring`], whatever else is there.
pub(crate) async fn find_keyring(backend: &Backend, id: RepositoryId) -> Result<Option<(KeyringHeader, Bytes)>> {
    let layout = Layout::new(id);
    let files = backend.list(&layout.keyrings_prefix(), None).await?;
    let newest = files
        .iter()
        .filter_map(|file| parse_keyring(&file.path))
        .map(|(generation, _)| generation)
        .max();
    let Some(newest) = newest else {
        return Ok(None);
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
    let packs = layout.packs_prefix();
    let mut has_packs = false;
    for directory in backend.list_directories(&packs).await? {
        has_packs |= !backend.list(&format!("{packs}/{directory}"), None).await?.is_empty();
        if has_packs {
            break;
        }
    }
    if !has_packs {
        return Ok(None);
    }
    let line = format!(
        "{}: has packs but no keyring; without it they cannot be read: restore it from a copy of the store, let the \
         evacuation that was interrupted come to its end, or remove the rest of it with `cairn repo rm ID --confirm ID`",
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

/// Writes both copies of a keyring and reads them back: secrets are used only after that. `previous` is the hash of the
/// file of the generation before, zero for the first.
pub(crate) async fn write_keyring(
    backend: &Backend,
    kek: &Kek,
    secrets: &Secrets,
    generation: u64,
    previous: Hash32,
) -> Result<RepositoryHeader> {
    let id = secrets.repository();
    let layout = Layout::new(id);
    let seed = WrapSeed::from_bytes(random()?);
    let bytes = keyring::seal_keyring(secrets, kek, generation, previous, seed);
    for copy in [KeyringCopy::First, KeyringCopy::Second] {
        let path = layout.keyring(generation, copy);
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
        generation,
    })
}
