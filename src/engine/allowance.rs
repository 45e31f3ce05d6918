//! What is under way in a repository, held against its quota.
//!
//! A put is refused as early as it is known that it does not fit: with its header if that says how long it is, else as its
//! bytes arrive, each put counted with what it adds to what is stored already and to what others are bringing. That is an
//! estimate, since others may end either way. What is exact is decided with the record ([`Allowance::decide`]).
//!
//! What a put has claimed of its repository's objects is given back before its record is applied, never after: in between,
//! a put that does not fit may go on until its own decision, but none that fits is refused. What a pack has claimed is given
//! back after it: packs are written before anything is decided, so there must never be too many of them.

use std::sync::Arc;

use parking_lot::Mutex;

use super::core::Core;
use super::counters::Counters;
use super::error::{Error, Reason, Result};
use super::limits::{Limits, Quota};
use crate::catalog::{Lookup, RepositoryCatalog, Stats};
use crate::format::RepositoryName;

/// What packs may have beside the blobs of a put: a header, a directory, a trailer, and padding of these.
const PACK_BYTES: u64 = 8 << 10;

/// The quota of a repository and what is under way there.
#[derive(Debug)]
pub(crate) struct Allowance {
    repository: RepositoryName,
    limits: Arc<Limits>,
    counters: Arc<Counters>,
    in_flight: Mutex<InFlightBytes>,
}

/// What is under way in a repository, in bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct InFlightBytes {
    /// What puts that have not ended add to its objects, as far as it is known.
    pub logical: u64,
    /// Packs that are being filled or put.
    pub stored: u64,
}

impl Allowance {
    pub(crate) fn new(repository: RepositoryName, limits: Arc<Limits>, counters: Arc<Counters>) -> Self {
        Self {
            repository,
            limits,
            counters,
            in_flight: Mutex::default(),
        }
    }

    pub(crate) fn quota(&self) -> Quota {
        self.limits.quota(self.repository.as_str())
    }

    pub(crate) fn set_quota(&self, quota: Quota) {
        self.limits.set_quota(self.repository.as_str(), quota);
    }

    pub(crate) fn in_flight(&self) -> InFlightBytes {
        *self.in_flight.lock()
    }

    /// Whether a record may take the objects from `before` bytes to `after`, by which nothing grows that is too large; `stats`
    /// are the totals before the commit.
    ///
    /// # Errors
    /// `QuotaExceeded`.
    pub(crate) fn decide(&self, stats: &Stats, before: u64, after: u64) -> Result<()> {
        let quota = self.quota();
        if quota.is_none() {
            return Ok(());
        }
        let in_flight = self.in_flight();
        if let Some(most) = quota.logical_bytes
            && after > most.max(before)
        {
            return Err(self.exceeded(LOGICAL, most, before, in_flight.logical));
        }
        match quota.stored_bytes {
            Some(most) if stats.pack_bytes + in_flight.stored > most => {
                Err(self.exceeded(STORED, most, stats.pack_bytes, in_flight.stored))
            }
            _ => Ok(()),
        }
    }

    /// Claims bytes of objects, if they fit.
    fn claim_logical(&self, catalog: &RepositoryCatalog, bytes: u64) -> Result<()> {
        let most = self.quota().logical_bytes;
        // Looked at first: what is applied meanwhile is no more claimed then.
        let used = match most {
            Some(_) => catalog.tip()?.unwrap_or_default().stats.logical_bytes,
            None => 0,
        };
        let mut in_flight = self.in_flight.lock();
        if let Some(most) = most
            && used.saturating_add(in_flight.logical).saturating_add(bytes) > most
        {
            return Err(self.exceeded(LOGICAL, most, used, in_flight.logical));
        }
        in_flight.logical += bytes;
        Ok(())
    }

    /// Claims bytes of packs, if they fit.
    fn claim_stored(self: &Arc<Self>, catalog: &RepositoryCatalog, bytes: u64) -> Result<PackClaim> {
        let most = self.quota().stored_bytes;
        // Locked first: a pack is claimed until it is among those that are used, so that this counts it twice rather than not.
        let mut in_flight = self.in_flight.lock();
        let used = match most {
            Some(_) => catalog.tip()?.unwrap_or_default().stats.pack_bytes,
            None => 0,
        };
        if let Some(most) = most
            && used.saturating_add(in_flight.stored).saturating_add(bytes) > most
        {
            return Err(self.exceeded(STORED, most, used, in_flight.stored));
        }
        in_flight.stored += bytes;
        self.limits.pend(0, bytes);
        Ok(PackClaim {
            allowance: self.clone(),
            bytes,
        })
    }

    fn exceeded(&self, what: &str, most: u64, used: u64, in_flight: u64) -> Error {
        self.counters.quota_refusals.add(1);
        let line = format!(
            "repository {:?} may hold {most} {what}: {used} are used, {in_flight} are in flight; delete objects{}, or raise \
             the quota",
            self.repository.as_str(),
            if what == STORED { " and run gc" } else { "" },
        );
        Error::new(Reason::QuotaExceeded, line)
    }
}

const LOGICAL: &str = "bytes of objects";
const STORED: &str = "bytes of packs";

/// What a put adds to its repository, until its record is decided or it is given up.
pub(crate) struct PutClaim {
    core: Arc<Core>,
    /// Bytes that it will have, if it said so.
    expected: u64,
    arrived: u64,
    replaces: Replaces,
    claimed: u64,
}

/// What a put takes the place of.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Replaces {
    /// An object of so many bytes.
    Bytes(u64),
    /// An earlier put with its id: it adds nothing, and is never refused.
    Itself,
}

impl PutClaim {
    /// A put that may have said how long it is.
    ///
    /// # Errors
    /// `QuotaExceeded`.
    pub(crate) fn begin(core: &Arc<Core>, replaces: Replaces, expected: Option<u64>) -> Result<Self> {
        let mut claim = Self {
            core: core.clone(),
            expected: expected.unwrap_or(0),
            arrived: 0,
            replaces,
            claimed: 0,
        };
        // Also one that adds no object bytes needs a place for its record.
        drop(claim.packs(0)?);
        claim.arrive(0)?;
        Ok(claim)
    }

    /// So many more bytes have arrived.
    ///
    /// # Errors
    /// `QuotaExceeded`; then they are not claimed.
    pub(crate) fn arrive(&mut self, bytes: u64) -> Result<()> {
        let arrived = self.arrived + bytes;
        let added = match self.replaces {
            Replaces::Bytes(former) => arrived.max(self.expected).saturating_sub(former),
            Replaces::Itself => 0,
        };
        if added > self.claimed {
            let allowance = &self.core.allowance;
            allowance.claim_logical(&self.core.catalog, added - self.claimed)?;
            self.claimed = added;
        }
        self.arrived = arrived;
        Ok(())
    }

    /// Claims what packs can take for so many bytes of this put, until these are placed.
    ///
    /// # Errors
    /// `QuotaExceeded`.
    pub(crate) fn packs(&self, bytes: u64) -> Result<PackClaim> {
        match self.replaces {
            Replaces::Bytes(_) => {
                // Padding takes at most an eighth, tags, entries and manifests less than a hundredth.
                let most = bytes + bytes / 8 + PACK_BYTES;
                self.core.allowance.claim_stored(&self.core.catalog, most)
            }
            Replaces::Itself => Ok(PackClaim::none(self.core.allowance.clone())),
        }
    }
}

impl Drop for PutClaim {
    fn drop(&mut self) {
        self.core.allowance.in_flight.lock().logical -= self.claimed;
    }
}

/// Bytes of packs that are under way, until they are introduced or given up.
#[derive(Debug)]
pub(crate) struct PackClaim {
    allowance: Arc<Allowance>,
    bytes: u64,
}

impl PackClaim {
    pub(crate) fn none(allowance: Arc<Allowance>) -> Self {
        Self { allowance, bytes: 0 }
    }

    /// The pack has so many bytes now. Never refused: what is in it was claimed before.
    pub(crate) fn set(&mut self, bytes: u64) {
        let mut in_flight = self.allowance.in_flight.lock();
        in_flight.stored = in_flight.stored - self.bytes + bytes;
        self.allowance.limits.pend(self.bytes, bytes);
        self.bytes = bytes;
    }
}

impl Drop for PackClaim {
    fn drop(&mut self) {
        self.set(0);
    }
}
