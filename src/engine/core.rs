//! What every part of the engine shares for one repository.

use std::collections::HashSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use parking_lot::{Mutex, RwLock};

use super::allowance::Allowance;
use super::budget::Budget;
use super::compute::Compute;
use super::counters::Counters;
use super::departures::Departures;
use super::error::{Error, Reason, Result};
use super::gate::Gate;
use super::in_flight::InFlight;
use super::limits::Limits;
use super::options::Options;
use super::read::{PackEntries, ReadBuffers};
use super::revocation::Revocation;
use super::write::{Compressors, CrcJoin, Slabs};
use crate::backend::Backend;
use crate::catalog::{Catalog, Locality, RepositoryCatalog};
use crate::format::{Layout, PackName, Secrets};

/// The open repository, without its writer.
pub(crate) struct Core {
    pub(crate) backend: Backend,
    pub(crate) layout: Layout,
    pub(crate) secrets: Arc<Secrets>,
    /// The catalog of the whole store: to make it durable.
    pub(crate) store_catalog: Catalog,
    pub(crate) catalog: RepositoryCatalog,
    pub(crate) locality: Locality,
    pub(crate) in_flight: Arc<InFlight>,
    /// Read from finding where a chunk is to pinning that pack; written while places change or go. So what was found
    /// is held where it is, and nothing is found that is about to go. Never held across an await.
    pub(crate) places: RwLock<()>,
    pub(crate) compute: Compute,
    /// For work that neither puts nor gets wait for.
    pub(crate) background: Compute,
    pub(crate) compressors: Compressors,
    pub(crate) slabs: Slabs,
    pub(crate) crc_join: CrcJoin,
    pub(crate) budget: Budget,
    pub(crate) read_buffers: ReadBuffers,
    pub(crate) pack_entries: Arc<PackEntries>,
    pub(crate) options: Options,
    pub(crate) counters: Arc<Counters>,
    /// Set when the key is taken away.
    pub(crate) revocation: Arc<Revocation>,
    /// Whether puts are admitted now.
    pub(crate) gate: Arc<Gate>,
    /// Which repositories of the store must not be written any more.
    pub(crate) departures: Arc<Departures>,
    /// Whether they are in this repository, and what is under way there.
    pub(crate) allowance: Arc<Allowance>,
    /// What the whole store may use, and uses.
    pub(crate) limits: Arc<Limits>,
    /// Counts the beginnings and the ends of rebuilds: odd while the catalog is being made anew.
    pub(crate) rebuilds: AtomicU64,
    /// Set when the log turned out to lack what this agent had seen on it.
    pub(crate) rolled_back: AtomicBool,
    /// Set while a salvage is under way: until a checkpoint of its own has left behind what is lost.
    pub(crate) salvaging: AtomicBool,
    /// Packs that cannot be read and that it goes on without.
    pub(crate) given_up: Mutex<HashSet<PackName>>,
    /// Held while the catalog is changed: log order is the order of its holders.
    pub(crate) apply: tokio::sync::Mutex<()>,
}

/// That the catalog was whole at some moment; see [`Core::catalog_state`].
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) struct CatalogState(u64);

impl Core {
    pub(crate) fn is_salvaging(&self) -> bool {
        self.salvaging.load(Ordering::Acquire)
    }

    /// Whether a new owner begins with a commit of its own, even if nobody asks for one.
    pub(crate) fn must_open(&self) -> bool {
        self.is_salvaging() || self.departures.contains(self.secrets.repository())
    }

    pub(crate) fn is_given_up(&self, pack: &PackName) -> bool {
        self.given_up.lock().contains(pack)
    }

    /// To be asked before something is looked up that may not be there.
    ///
    /// # Errors
    /// `CatalogFailed` while the catalog is being made anew: what it lacks says nothing then.
    pub(crate) fn catalog_state(&self) -> Result<CatalogState> {
        match self.rebuilds.load(Ordering::Acquire) {
            rebuilds if rebuilds % 2 == 0 => Ok(CatalogState(rebuilds)),
            _ => Err(made_anew()),
        }
    }

    /// The error for something that was not found, if the catalog was whole from the `state` taken before until now.
    pub(crate) fn absent(&self, state: CatalogState, error: Error) -> Error {
        if self.rebuilds.load(Ordering::Acquire) == state.0 {
            error
        } else {
            made_anew()
        }
    }
}

fn made_anew() -> Error {
    Error::new(
        Reason::CatalogFailed,
        "the catalog of this repository is being made anew; try again when that is done",
    )
}
