//! What the agent says, as the engine's types.

use cairn_agent::codec::RepositoryId;
use cairn_agent::engine::{Error, EvacuateReport, Reason, Result, ScrubReport};
use cairn_agent::service::convert::{milliseconds, repository_status};
use cairn_agent::service::proto;

use crate::target::{Description, Evacuated, Key, Scrubbed};

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

pub(super) fn evacuated(report: proto::EvacuateReport) -> Result<Evacuated> {
    Ok(Evacuated {
        lists_truncated: report.lists_truncated,
        report: EvacuateReport::try_from(report)?,
    })
}

pub(super) fn scrubbed(report: proto::ScrubReport) -> Result<Scrubbed> {
    Ok(Scrubbed {
        sound: report.sound,
        lists_truncated: report.lists_truncated,
        report: ScrubReport::try_from(report)?,
    })
}
