//! What every part of the engine shares for one repository.

use std::sync::Arc;
use std::sync::atomic::AtomicU64;

use super::budget::Budget;
use super::compute::Compute;
use super::in_flight::InFlight;
use super::options::Options;
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
    /// Counts chunks whose place moved from one pack to another.
    pub(crate) moves: AtomicU64,
    pub(crate) compute: Compute,
    pub(crate) compressors: Compressors,
    pub(crate) budget: Budget,
    pub(crate) options: Options,
    /// Held while the catalog is changed: log order is the order of its holders.
    pub(crate) apply: tokio::sync::Mutex<()>,
}
