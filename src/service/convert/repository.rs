//! Repositories: what is known of them with and without their keys.

use bytes::Bytes;

use super::{invalid, limits};
use crate::codec::{ChunkSizes, Level};
use crate::engine::{Error, InFlightBytes, NewRepository, Reason, RepositoryHeader, RepositoryStatus, Result};
use crate::format::{Hash32, RepositoryParameters};
use crate::service::proto;

/// A repository. Without totals it is closed: its key is not there.
pub fn repository(
    header: &RepositoryHeader,
    totals: Option<&RepositoryStatus>,
    parameters: Option<&RepositoryParameters>,
) -> proto::Repository {
    proto::Repository {
        name: header.name.clone(),
        id: header.id.to_string(),
        open: totals.is_some(),
        key_id: header.key_id.clone(),
        keyring_generation: header.generation,
        totals: totals.map(Into::into),
        parameters: parameters.map(Into::into),
        quota: totals.and_then(|totals| limits::quota_message(totals.quota)),
    }
}

/// What a message says about a repository whether its key is there or not. Its store is not told.
///
/// # Errors
/// `Internal` if its id is none.
pub fn repository_header(message: &proto::Repository) -> Result<RepositoryHeader> {
    Ok(RepositoryHeader {
        id: repository_id(&message.id)?,
        name: message.name.clone(),
        store_id: [0; 16],
        key_id: message.key_id.clone(),
        generation: message.keyring_generation,
    })
}

/// The totals that a message tells; none of a closed repository.
///
/// # Errors
/// `Internal` if its id or its head is none.
pub fn repository_status(message: &proto::Repository) -> Result<Option<RepositoryStatus>> {
    let Some(totals) = &message.totals else {
        return Ok(None);
    };
    Ok(Some(RepositoryStatus {
        name: message.name.clone(),
        id: repository_id(&message.id)?,
        objects: totals.objects,
        chunks: totals.chunks,
        packs: totals.packs,
        logical_bytes: totals.logical_bytes,
        unique_bytes: totals.unique_bytes,
        stored_bytes: totals.stored_bytes,
        garbage_bytes: totals.garbage_bytes,
        log_number: totals.log_number,
        head: head(&totals.head).map_err(|_| unreadable("a head"))?,
        quota: limits::quota(message.quota),
        in_flight: InFlightBytes {
            logical: totals.in_flight_bytes,
            stored: totals.in_flight_stored_bytes,
        },
    }))
}

fn repository_id(text: &str) -> Result<crate::codec::RepositoryId> {
    text.parse().map_err(|_| unreadable("a repository's id"))
}

fn unreadable(what: &str) -> Error {
    Error::new(Reason::Internal, format!("the agent's answer has {what} that is none"))
}

/// The head of a log.
///
/// # Errors
/// `InvalidArgument` unless it has 32 bytes.
pub fn head(bytes: &[u8]) -> Result<Hash32> {
    let bytes: [u8; 32] = bytes
        .try_into()
        .map_err(|_| invalid(format!("a head has 32 bytes, not {}", bytes.len())))?;
    Ok(Hash32(bytes))
}

impl From<&RepositoryStatus> for proto::RepositoryTotals {
    fn from(status: &RepositoryStatus) -> Self {
        Self {
            objects: status.objects,
            chunks: status.chunks,
            packs: status.packs,
            logical_bytes: status.logical_bytes,
            unique_bytes: status.unique_bytes,
            stored_bytes: status.stored_bytes,
            garbage_bytes: status.garbage_bytes,
            log_number: status.log_number,
            head: Bytes::copy_from_slice(&status.head.0),
            in_flight_bytes: status.in_flight.logical,
            in_flight_stored_bytes: status.in_flight.stored,
        }
    }
}

impl From<&RepositoryParameters> for proto::RepositoryParameters {
    fn from(parameters: &RepositoryParameters) -> Self {
        Self {
            chunk_avg_bytes: parameters.chunk_sizes.avg(),
            compression_level: parameters.level.number(),
        }
    }
}

impl TryFrom<proto::CreateRequest> for NewRepository {
    type Error = Error;

    fn try_from(request: proto::CreateRequest) -> Result<Self> {
        let mut new = Self::named(&request.name)?;
        if request.chunk_avg_bytes > 0 {
            new.chunk_sizes = ChunkSizes::with_average(request.chunk_avg_bytes).map_err(|e| invalid(e.to_string()))?;
        }
        if let Some(level) = request.compression_level {
            new.level = Level::new(level).map_err(|error| invalid(error.to_string()))?;
        }
        new.key_id = Some(request.key_id).filter(|id| !id.is_empty());
        Ok(new)
    }
}

impl From<&NewRepository> for proto::CreateRequest {
    fn from(new: &NewRepository) -> Self {
        Self {
            name: new.name.as_str().to_owned(),
            chunk_avg_bytes: new.chunk_sizes.avg(),
            compression_level: Some(new.level.number()),
            key_id: new.key_id.clone().unwrap_or_default(),
        }
    }
}
