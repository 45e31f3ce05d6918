//! What every part of the engine shares for one repository.

use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use parking_lot::RwLock;

use super::budget::Budget;
use super::compute::Compute;
use super::counters::Counters;
use super::gate::Gate;
use super::in_flight::InFlight;
use super::options::Options;
use super::revocation::Revocation;
use super::write::Compressors;
use crate::backend::Backend;
use crate::catalog::{Catalog, Locality, RepositoryCatalog};
use crate::format::{Layout, Secrets};

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
    pub(crate) compressors: Compressors,
    pub(crate) budget: Budget,
    pub(crate) options: Options,
    pub(crate) counters: Arc<Counters>,
    /// Set when the key is taken away.
    pub(crate) revocation: Arc<Revocation>,
    /// Whether puts are admitted now.
    pub(crate) gate: Arc<Gate>,
    /// Set when the log turned out to lack what this agent had seen on it.
    pub(crate) rolled_back: AtomicBool,
    /// Held while the catalog is changed: log order is the order of its holders.
    pub(crate) apply: tokio::sync::Mutex<()>,
}
