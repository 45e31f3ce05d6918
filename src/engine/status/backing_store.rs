//! The status as an operator of BackingStore resources shows it.
//!
//! Phase and conditions are those of NooBaa's operator for the same modes. Modes that it does not have are told by what
//! they mean for placing data: without keys nothing can be read or written, so the store is rejected; a store that is
//! read-only serves what it has and is degraded.

use super::{Mode, Status};

/// Phase and conditions.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BackingStoreView {
    /// `Ready`, `Rejected`, `Creating` or `Deleting`.
    pub phase: &'static str,
    /// `Available`, `Progressing`, `Degraded`, `Upgradeable`, in this order.
    pub conditions: [Condition; 4],
}

/// A condition of a resource.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Condition {
    /// What it is about.
    pub kind: &'static str,
    /// `True`, `False` or `Unknown`.
    pub status: &'static str,
    /// A word in CamelCase.
    pub reason: &'static str,
    /// One line for a person.
    pub message: String,
}

const KINDS: [&str; 4] = ["Available", "Progressing", "Degraded", "Upgradeable"];

impl Status {
    /// This status as phase and conditions of a BackingStore resource.
    pub fn backing_store(&self) -> BackingStoreView {
        let (phase, statuses) = row(self.mode);
        let message = match self.causes.first() {
            Some(cause) => format!("{}: {}", self.mode.as_str(), cause.message),
            None => self.mode.as_str().to_owned(),
        };
        let condition = |index: usize| Condition {
            kind: KINDS[index],
            status: statuses[index],
            reason: reason(self.mode),
            message: message.clone(),
        };
        BackingStoreView {
            phase,
            conditions: std::array::from_fn(condition),
        }
    }
}

fn row(mode: Mode) -> (&'static str, [&'static str; 4]) {
    const READY: [&str; 4] = ["True", "False", "False", "True"];
    const REJECTED: [&str; 4] = ["Unknown", "False", "True", "Unknown"];
    const UNDER_WAY: [&str; 4] = ["False", "True", "False", "False"];
    match mode {
        Mode::Optimal | Mode::LowCapacity => ("Ready", READY),
        Mode::ReadOnly => ("Ready", ["True", "False", "True", "True"]),
        Mode::Initializing => ("Creating", UNDER_WAY),
        Mode::Deleting => ("Deleting", UNDER_WAY),
        Mode::NoCapacity | Mode::IoErrors | Mode::KeysUnavailable | Mode::AuthFailed | Mode::StorageNotExist => {
            ("Rejected", REJECTED)
        }
    }
}

fn reason(mode: Mode) -> &'static str {
    match mode {
        Mode::Optimal => "Optimal",
        Mode::LowCapacity => "LowCapacity",
        Mode::ReadOnly => "ReadOnly",
        Mode::NoCapacity => "NoCapacity",
        Mode::IoErrors => "IoErrors",
        Mode::KeysUnavailable => "KeysUnavailable",
        Mode::AuthFailed => "AuthFailed",
        Mode::StorageNotExist => "StorageNotExist",
        Mode::Initializing => "Initializing",
        Mode::Deleting => "Deleting",
    }
}
