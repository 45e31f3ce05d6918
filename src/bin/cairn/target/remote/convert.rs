//! What the agent says, as the engine's types.

use cairn_agent::codec::RepositoryId;
use cairn_agent::engine::{Capacity, Cause, Error, Mode, Reason, Reclaimed, Result, Status};
use cairn_agent::service::convert::{milliseconds, repository_status};
use cairn_agent::service::proto;

use crate::target::{Description, Key};

/// An answer that breaks the contract.
pub(super) fn nonsense(what: &str) -> Error {
    Error::new(Reason::Internal, format!("the agent's answer makes no sense: {what}"))
}

/// A part that every answer of its kind has.
pub(super) fn needed<T>(part: Option<T>) -> Result<T> {
    part.ok_or_else(|| nonsense("a part of it is missing"))
}

fn repository_id(text: &str) -> Result<RepositoryId> {
    text.parse().map_err(|_| nonsense("an id of a repository is none"))
}

pub(super) fn key(key: proto::Key) -> Result<Key> {
    let repositories = key.repository_ids.iter().map(|id| repository_id(id));
    Ok(Key {
        id: key.key_id,
        loaded: key.loaded,
        loaded_at_ms: key.loaded_at.map(|time| milliseconds(Some(&time))),
        repositories: repositories.collect::<Result<_>>()?,
    })
}

pub(super) fn description(repository: &proto::Repository) -> Result<Description> {
    let parameters = needed(repository.parameters)?;
    Ok(Description {
        totals: needed(repository_status(repository)?)?,
        chunk_avg_bytes: parameters.chunk_avg_bytes,
        compression_level: parameters.compression_level,
        key_id: repository.key_id.clone(),
        keyring_generation: repository.keyring_generation,
    })
}

pub(super) fn status(status: proto::Status) -> Result<Status> {
    let totals = status
        .repositories
        .iter()
        .filter_map(|repository| repository_status(repository).transpose());
    Ok(Status {
        boot_id: [0; 16],
        closed: Vec::new(),
        mode: mode(status.mode())?,
        since_ms: milliseconds(status.since.as_ref()),
        sequence: status.sequence,
        causes: status.causes.into_iter().map(cause).collect::<Result<_>>()?,
        capacity: capacity(needed(status.capacity)?),
        repositories: totals.collect::<Result<_>>()?,
    })
}

fn capacity(capacity: proto::Capacity) -> Capacity {
    Capacity {
        total_bytes: capacity.total_bytes,
        free_bytes: capacity.free_bytes,
        used_bytes: capacity.used_bytes,
        reserved_bytes: capacity.reserved_bytes,
        used_other_bytes: capacity.used_other_bytes,
        limit_bytes: capacity.limit_bytes,
        inodes_total: capacity.inodes_total,
        inodes_free: capacity.inodes_free,
    }
}

fn cause(cause: proto::Cause) -> Result<Cause> {
    Ok(Cause {
        mode: mode(cause.mode())?,
        code: known_code(&cause.code),
        message: cause.message,
        value: cause.value,
        threshold: cause.threshold,
    })
}

pub(super) fn reclaimed(report: proto::ReclaimReport) -> Reclaimed {
    Reclaimed {
        packs_dropped: report.packs_dropped,
        packs_rewritten: report.packs_rewritten,
        freed_bytes: report.freed_bytes,
    }
}

fn mode(mode: proto::Mode) -> Result<Mode> {
    let word = mode.as_str_name().trim_start_matches("MODE_");
    let known = Mode::ALL.into_iter().find(|mode| mode.as_str() == word);
    known.ok_or_else(|| nonsense("its mode is unknown"))
}

fn known_code(code: &str) -> &'static str {
    match code {
        "FREE_BYTES" => "FREE_BYTES",
        "FREE_INODES" => "FREE_INODES",
        _ => "OTHER",
    }
}
