//! The state of an agent: mode, causes, room, totals.

use super::{milliseconds, repository, repository_header, repository_status, required, timestamp};
use crate::engine::{
    BackingStoreView, Capacity, Cause, Condition, Error, Mode, RepositoryHeader, Result, Status, cause_code,
};
use crate::service::proto;

/// A status for callers who may know of these repositories only. Those that are closed have no totals.
pub fn status(status: &Status, visible: &[RepositoryHeader]) -> proto::Status {
    let described = |header: &RepositoryHeader| {
        let totals = status.repositories.iter().find(|open| open.id == header.id);
        repository(header, totals, None)
    };
    proto::Status {
        boot_id: hex::encode(status.boot_id),
        sequence: status.sequence,
        mode: proto::Mode::from(status.mode).into(),
        since: Some(timestamp(status.since_ms)),
        causes: status.causes.iter().map(Into::into).collect(),
        capacity: Some(status.capacity.into()),
        repositories: visible.iter().map(described).collect(),
        backing_store: Some(status.backing_store().into()),
    }
}

impl TryFrom<proto::Status> for Status {
    type Error = Error;

    fn try_from(message: proto::Status) -> Result<Self> {
        let mut status = Self {
            boot_id: boot_id(&message.boot_id),
            mode: message.mode().into(),
            since_ms: milliseconds(message.since.as_ref()),
            sequence: message.sequence,
            causes: message.causes.into_iter().map(Into::into).collect(),
            capacity: required(message.capacity, "capacity")?.into(),
            repositories: Vec::new(),
            closed: Vec::new(),
        };
        for one in &message.repositories {
            match repository_status(one)? {
                Some(totals) => status.repositories.push(totals),
                None => status.closed.push(repository_header(one)?),
            }
        }
        Ok(status)
    }
}

/// The id of a run of an agent; zeros if it is written in a way this version does not know.
fn boot_id(text: &str) -> [u8; 16] {
    let bytes = hex::decode(text).ok().and_then(|bytes| bytes.try_into().ok());
    bytes.unwrap_or_default()
}

impl From<Mode> for proto::Mode {
    fn from(mode: Mode) -> Self {
        match mode {
            Mode::Optimal => Self::Optimal,
            Mode::LowCapacity => Self::LowCapacity,
            Mode::ReadOnly => Self::ReadOnly,
            Mode::NoCapacity => Self::NoCapacity,
            Mode::IoErrors => Self::IoErrors,
            Mode::KeysUnavailable => Self::KeysUnavailable,
            Mode::AuthFailed => Self::AuthFailed,
            Mode::StorageNotExist => Self::StorageNotExist,
            Mode::Initializing => Self::Initializing,
            Mode::Deleting => Self::Deleting,
        }
    }
}

impl From<proto::Mode> for Mode {
    /// A mode that this version does not know is one in which nothing should be asked for yet.
    fn from(mode: proto::Mode) -> Self {
        match mode {
            proto::Mode::Unspecified | proto::Mode::Initializing => Self::Initializing,
            proto::Mode::Optimal => Self::Optimal,
            proto::Mode::LowCapacity => Self::LowCapacity,
            proto::Mode::ReadOnly => Self::ReadOnly,
            proto::Mode::NoCapacity => Self::NoCapacity,
            proto::Mode::IoErrors => Self::IoErrors,
            proto::Mode::KeysUnavailable => Self::KeysUnavailable,
            proto::Mode::AuthFailed => Self::AuthFailed,
            proto::Mode::StorageNotExist => Self::StorageNotExist,
            proto::Mode::Deleting => Self::Deleting,
        }
    }
}

impl From<&Cause> for proto::Cause {
    fn from(cause: &Cause) -> Self {
        Self {
            code: cause.code.to_owned(),
            message: cause.message.clone(),
            value: cause.value,
            threshold: cause.threshold,
            mode: proto::Mode::from(cause.mode).into(),
        }
    }
}

impl From<proto::Cause> for Cause {
    fn from(cause: proto::Cause) -> Self {
        Self {
            mode: cause.mode().into(),
            code: known_code(&cause.code),
            message: cause.message,
            value: cause.value,
            threshold: cause.threshold,
        }
    }
}

/// The words of causes that this version knows.
const CODES: [&str; 19] = [
    cause_code::FREE_BYTES,
    cause_code::FREE_INODES,
    cause_code::NO_SPACE,
    cause_code::LIMIT,
    cause_code::READ_ONLY_REQUESTED,
    cause_code::READ_ONLY_FILESYSTEM,
    cause_code::FENCED,
    cause_code::ROLLED_BACK,
    cause_code::ROOT_GONE,
    cause_code::IO_ERROR,
    cause_code::FSYNC_FAILED,
    cause_code::UNREACHABLE,
    cause_code::PERMISSION,
    cause_code::CREDENTIALS,
    cause_code::KEYS,
    cause_code::REPOSITORY,
    cause_code::OPENING,
    cause_code::CATALOG,
    cause_code::DELETION_REQUESTED,
];

/// The word of a cause; of one that a later agent sends only that this version does not know it.
fn known_code(word: &str) -> &'static str {
    CODES.into_iter().find(|known| *known == word).unwrap_or("OTHER")
}

impl From<Capacity> for proto::Capacity {
    fn from(capacity: Capacity) -> Self {
        Self {
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
}

impl From<proto::Capacity> for Capacity {
    fn from(capacity: proto::Capacity) -> Self {
        Self {
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
}

impl From<BackingStoreView> for proto::BackingStoreView {
    fn from(view: BackingStoreView) -> Self {
        Self {
            phase: view.phase.to_owned(),
            conditions: view.conditions.into_iter().map(Into::into).collect(),
        }
    }
}

impl From<Condition> for proto::Condition {
    fn from(condition: Condition) -> Self {
        Self {
            r#type: condition.kind.to_owned(),
            status: condition.status.to_owned(),
            reason: condition.reason.to_owned(),
            message: condition.message,
        }
    }
}
