//! From what was seen to a mode and its causes: one pure function.

use std::time::Duration;

use super::capacity::{Capacity, CapacityPolicy, Limit, Threshold};
use super::{Cause, Mode, code};
use crate::backend::{Failure, Look, Presence, Trouble};
use crate::catalog;
use crate::engine::error::Reason;

/// What the agent sees of its store at one moment.
#[derive(Clone, Debug)]
pub(crate) struct Observations {
    pub(crate) place: Look,
    pub(crate) failures: Vec<Failure>,
    /// What the store uses; what depends on it stays as it was if it is not known.
    pub(crate) used_bytes: Option<u64>,
    /// The limit on what it uses, if there is one.
    pub(crate) limit: Option<Limit>,
    pub(crate) is_read_only_requested: bool,
    pub(crate) is_deletion_requested: bool,
    /// Why the catalog cannot be used, if it cannot.
    pub(crate) catalog_failure: Option<CatalogTrouble>,
    pub(crate) repositories: Repositories,
}

/// What is wrong with the catalog.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct CatalogTrouble {
    pub(crate) line: String,
    /// Room is what is missing.
    pub(crate) is_full: bool,
}

impl CatalogTrouble {
    pub(crate) fn of(error: &catalog::Error) -> Self {
        Self {
            line: error.to_string(),
            is_full: error.is_want_of_room(),
        }
    }
}

/// How many repositories of a store are in which state. One that nobody asked for yet is in none. Not by name: causes are
/// told to callers who may know of some repositories only.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Repositories {
    pub(crate) total: usize,
    pub(crate) open: usize,
    pub(crate) opening: usize,
    /// Those whose key is not there.
    pub(crate) keyless: usize,
    /// Those that could not be opened for another reason: why.
    pub(crate) unopened: Vec<Reason>,
    pub(crate) fenced: usize,
    pub(crate) rolled_back: usize,
    /// Those that are being moved away or removed, or were moved.
    pub(crate) leaving: usize,
}

/// What observations are held against.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Policy {
    pub(crate) capacity: CapacityPolicy,
    /// Most bytes of a pack: what one put may need at once.
    pub(crate) pack_bytes: u64,
    /// How long a failure counts at least.
    pub(crate) failure_hold: Duration,
}

/// Which thresholds are passed and not yet left by their margins. Outlives the process.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Held {
    pub(crate) low_bytes: bool,
    pub(crate) no_bytes: bool,
    pub(crate) low_inodes: bool,
    pub(crate) no_inodes: bool,
    pub(crate) low_limit: bool,
    pub(crate) no_limit: bool,
}

impl Held {
    pub(crate) fn to_bits(self) -> u8 {
        let bit = |held: bool, at: u8| u8::from(held) << at;
        bit(self.low_bytes, 0)
            | bit(self.no_bytes, 1)
            | bit(self.low_inodes, 2)
            | bit(self.no_inodes, 3)
            | bit(self.low_limit, 4)
            | bit(self.no_limit, 5)
    }

    pub(crate) fn from_bits(bits: u8) -> Self {
        let bit = |at: u8| bits >> at & 1 == 1;
        Self {
            low_bytes: bit(0),
            no_bytes: bit(1),
            low_inodes: bit(2),
            no_inodes: bit(3),
            low_limit: bit(4),
            no_limit: bit(5),
        }
    }
}

/// A mode with its causes and numbers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Assessment {
    pub(crate) mode: Mode,
    /// Gravest first.
    pub(crate) causes: Vec<Cause>,
    pub(crate) capacity: Capacity,
    pub(crate) held: Held,
}

/// The mode for what was seen, and why.
pub(crate) fn assess(seen: &Observations, policy: &Policy, previous: Held) -> Assessment {
    let used = seen.used_bytes.unwrap_or(0);
    let capacity = Capacity::of(seen.place.space, used, policy.pack_bytes, seen.limit);
    let mut causes = Vec::new();
    causes.extend(of_requests(seen));
    causes.extend(of_place(&seen.place));
    causes.extend(seen.failures.iter().filter_map(|failure| of_failure(failure, policy)));
    causes.extend(of_repositories(&seen.repositories));
    causes.extend(seen.catalog_failure.as_ref().map(of_catalog));
    let mut held = previous;
    causes.extend(of_bytes(seen, &capacity, policy, &mut held));
    causes.extend(of_inodes(&capacity, policy, &mut held));
    causes.extend(of_limit(seen, policy, &mut held));
    causes.sort_by(|a, b| b.mode.cmp(&a.mode).then_with(|| a.code.cmp(b.code)));
    // The place and a failing request may tell the same.
    causes.dedup_by(|again, first| again.code == first.code && again.mode == first.mode);
    Assessment {
        mode: causes.first().map_or(Mode::Optimal, |gravest| gravest.mode),
        causes,
        capacity,
        held,
    }
}

impl Assessment {
    /// Why a put is refused, if it is. Deletes, reads and reclaim never ask.
    ///
    /// `IO_ERRORS` and `AUTH_FAILED` refuse nothing: a put that goes well is what ends them soonest. A repository that
    /// was taken over, set back or that lacks its key refuses by itself.
    pub(crate) fn refusal(&self) -> Option<(Reason, String)> {
        self.causes.iter().find_map(|cause| {
            let reason = match (cause.code, cause.mode) {
                (code::ROOT_GONE, _) => Reason::BackendUnavailable,
                // Repositories that leave refuse by themselves, and let end what was under way.
                (code::DELETION_REQUESTED, _) if cause.threshold > 0 => return None,
                (code::DELETION_REQUESTED | code::READ_ONLY_REQUESTED | code::READ_ONLY_FILESYSTEM, _) => {
                    Reason::ReadOnly
                }
                (_, Mode::NoCapacity) => Reason::NoCapacity,
                _ => return None,
            };
            Some((reason, cause.message.clone()))
        })
    }
}

fn of_requests(seen: &Observations) -> Vec<Cause> {
    let deletion = seen.is_deletion_requested.then(|| {
        let message = "the store is being moved away or removed: put elsewhere";
        plain(code::DELETION_REQUESTED, Mode::Deleting, message)
    });
    let read_only = seen.is_read_only_requested.then(|| {
        let message = "an operator made the store read-only: make it writable again to put";
        plain(code::READ_ONLY_REQUESTED, Mode::ReadOnly, message)
    });
    deletion.into_iter().chain(read_only).collect()
}

fn of_place(place: &Look) -> Vec<Cause> {
    let mut causes = Vec::new();
    match &place.presence {
        Presence::Here => {}
        Presence::Gone(how) => {
            let message = format!(
                "the store is not where it was ({how}): bring the volume back, or restart the agent if it was moved on purpose"
            );
            causes.push(plain(code::ROOT_GONE, Mode::StorageNotExist, message));
        }
        Presence::Silent(how) => {
            let message = format!("the volume does not answer ({how}): look at its server and network");
            causes.push(plain(code::UNREACHABLE, Mode::IoErrors, message));
        }
    }
    if let Some(how) = &place.refused {
        let message = format!(
            "the directory of the store may not be used ({how}): give this process the right to read and write there"
        );
        causes.push(plain(code::PERMISSION, Mode::AuthFailed, message));
    }
    if place.is_read_only {
        let message = "the file system of the store is mounted read-only: mount it writable, and look why it is not";
        causes.push(plain(code::READ_ONLY_FILESYSTEM, Mode::ReadOnly, message));
    }
    causes
}

/// A failure counts until it is some time ago and a trial write has gone through since.
fn of_failure(failure: &Failure, policy: &Policy) -> Option<Cause> {
    if failure.is_answered && failure.age >= policy.failure_hold {
        return None;
    }
    let (code, mode, advice) = match failure.trouble {
        Trouble::Io => (code::IO_ERROR, Mode::IoErrors, "look at the disk and its logs"),
        Trouble::Fsync => (code::FSYNC_FAILED, Mode::IoErrors, "look at the disk and its logs"),
        Trouble::Unreachable => (
            code::UNREACHABLE,
            Mode::IoErrors,
            "look at the storage service and the network",
        ),
        Trouble::Permission => (code::PERMISSION, Mode::AuthFailed, "give this process its rights back"),
        Trouble::Credentials => (code::CREDENTIALS, Mode::AuthFailed, "renew the credentials"),
        Trouble::NoSpace => (code::NO_SPACE, Mode::NoCapacity, "look at quotas"),
        Trouble::ReadOnly => (code::READ_ONLY_FILESYSTEM, Mode::ReadOnly, "look why it is read-only"),
        Trouble::Gone => (code::ROOT_GONE, Mode::StorageNotExist, "bring it back"),
    };
    Some(Cause {
        code,
        message: format!("{}: {advice}", failure.text),
        value: failure.count,
        threshold: 0,
        mode,
    })
}

fn of_repositories(repositories: &Repositories) -> Vec<Cause> {
    let total = repositories.total;
    let cause = |code, mode, count: usize, message: &str| {
        (count > 0).then(|| Cause {
            value: count as u64,
            threshold: total as u64,
            ..plain(code, mode, message)
        })
    };
    // What some repositories lack keeps nobody from the others.
    let unless = |others: bool, mode: Mode| if others { Mode::Optimal } else { mode };
    let keys = cause(
        code::KEYS,
        unless(repositories.keyless < total, Mode::KeysUnavailable),
        repositories.keyless,
        "the key of repositories is not there: load it",
    );
    let why = repositories.unopened.first().map_or("", |reason| reason.as_str());
    let unopened = cause(
        code::REPOSITORY,
        unless(repositories.open > 0, Mode::IoErrors),
        repositories.unopened.len(),
        &format!("repositories cannot be opened ({why}): the log of the agent names them"),
    );
    let fenced = cause(
        code::FENCED,
        Mode::ReadOnly,
        repositories.fenced,
        "another agent has taken over repositories: stop one of the two, then restart this one to take them back",
    );
    let rolled_back = cause(
        code::ROLLED_BACK,
        Mode::ReadOnly,
        repositories.rolled_back,
        "repositories show an older state than this agent has seen: find out who set the store back, then make it \
         writable again",
    );
    let opening = cause(
        code::OPENING,
        Mode::Initializing,
        repositories.opening,
        "the store is being opened: wait",
    );
    let opening = opening.filter(|_| repositories.open == 0);
    let leaving = cause(
        code::DELETION_REQUESTED,
        unless(repositories.leaving < total, Mode::Deleting),
        repositories.leaving,
        "repositories are being moved away or removed, or were moved: write elsewhere, or make the store writable again",
    );
    [keys, unopened, fenced, rolled_back, opening, leaving]
        .into_iter()
        .flatten()
        .collect()
}

fn of_catalog(trouble: &CatalogTrouble) -> Cause {
    let line = &trouble.line;
    if trouble.is_full {
        let message = format!("the catalog has no room ({line}): free space where its directory is, or enlarge it");
        return plain(code::CATALOG, Mode::NoCapacity, message);
    }
    let message =
        format!("the catalog cannot be used ({line}): look at its directory, or remove it to have it rebuilt");
    plain(code::CATALOG, Mode::IoErrors, message)
}

fn of_bytes(seen: &Observations, capacity: &Capacity, policy: &Policy, held: &mut Held) -> Option<Cause> {
    let (total, free) = seen.place.space.map(|space| (space.total, space.available))?;
    let none = policy.capacity.none(total, capacity.reserved_bytes, policy.pack_bytes);
    held.no_bytes = none.is_below(free, held.no_bytes);
    // Without it, others seem to use what is ours, and the threshold would move.
    let low = seen.used_bytes.map(|_| policy.capacity.low(capacity, total));
    if let Some(low) = low {
        held.low_bytes = low.is_at_or_below(free, held.low_bytes);
    }
    if held.no_bytes {
        let message = "no room for another put beyond the reserve: delete objects and run gc, or enlarge the volume";
        return Some(none.cause(code::FREE_BYTES, Mode::NoCapacity, free, message));
    }
    let message = "little room is left: delete objects and run gc, or enlarge the volume";
    low.filter(|_| held.low_bytes)
        .map(|low| low.cause(code::FREE_BYTES, Mode::LowCapacity, free, message))
}

/// A limit is held against as a volume of that size is on which there is nobody else.
fn of_limit(seen: &Observations, policy: &Policy, held: &mut Held) -> Option<Cause> {
    let Some(limit) = seen.limit else {
        (held.low_limit, held.no_limit) = (false, false);
        return None;
    };
    let (total, free) = (limit.bytes, limit.free_bytes());
    let whole = Capacity {
        reserved_bytes: limit.reserved_bytes(policy.pack_bytes),
        ..Capacity::default()
    };
    let none = policy.capacity.none(total, whole.reserved_bytes, policy.pack_bytes);
    let low = policy.capacity.low(&whole, total);
    // The thresholds of a very small limit are 0.
    held.no_limit = free == 0 || none.is_below(free, held.no_limit);
    held.low_limit = low.is_at_or_below(free, held.low_limit);
    if held.no_limit {
        let message =
            "the limit of the store leaves no room for another put: delete objects and run gc, or raise the limit";
        return Some(none.cause(code::LIMIT, Mode::NoCapacity, free, message));
    }
    let message = "the limit of the store leaves little room: delete objects and run gc, or raise the limit";
    held.low_limit
        .then(|| low.cause(code::LIMIT, Mode::LowCapacity, free, message))
}

fn of_inodes(capacity: &Capacity, policy: &Policy, held: &mut Held) -> Option<Cause> {
    let (total, free) = (capacity.inodes_total?, capacity.inodes_free?);
    let (none, low) = (policy.capacity.no_inodes(), policy.capacity.low_inodes(total));
    held.no_inodes = none.is_below(free, held.no_inodes);
    held.low_inodes = low.is_at_or_below(free, held.low_inodes);
    if held.no_inodes {
        let message = "the volume has no inodes for another put: delete files there, or make it anew with more inodes";
        return Some(none.cause(code::FREE_INODES, Mode::NoCapacity, free, message));
    }
    let message = "the volume has few inodes left: delete files there, or make it anew with more inodes";
    held.low_inodes
        .then(|| low.cause(code::FREE_INODES, Mode::LowCapacity, free, message))
}

impl Threshold {
    fn is_below(&self, value: u64, was_below: bool) -> bool {
        value < if was_below { self.leave } else { self.enter }
    }

    fn is_at_or_below(&self, value: u64, was_below: bool) -> bool {
        value <= if was_below { self.leave } else { self.enter }
    }

    /// The cause, with the threshold that has to be exceeded next: the one of entering while it is passed, then the margin.
    fn cause(&self, code: &'static str, mode: Mode, value: u64, message: &str) -> Cause {
        let threshold = if value <= self.enter { self.enter } else { self.leave };
        Cause {
            value,
            threshold,
            ..plain(code, mode, message)
        }
    }
}

fn plain(code: &'static str, mode: Mode, message: impl Into<String>) -> Cause {
    Cause {
        code,
        message: message.into(),
        value: 0,
        threshold: 0,
        mode,
    }
}
