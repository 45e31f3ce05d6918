//! A backing store: the repositories at one place, opened with one key.
//!
//! A store exists once a keyring does. Creating one writes, in this order: the keyring (two copies, read back), then
//! `metadata.yaml`. An interruption leaves either no store or a whole one: a missing `metadata.yaml` is written at the
//! next start.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

use bytes::Bytes;
use parking_lot::Mutex as SyncMutex;
use tokio::sync::Mutex;

use super::allowance::Allowance;
use super::budget::{Budget, Paid};
use super::compute::Compute;
use super::core::Core;
use super::counters::Counters;
use super::departures::Departures;
use super::error::{Error, Reason, Result};
use super::gate::Gate;
use super::in_flight::InFlight;
use super::key_chain::{KeyChain, KeyState};
use super::keyrings::{RepositoryHeader, open_keyring, read_headers, write_keyring};
use super::limits::{Limits, Quota};
use super::log::salvage::Salvage;
use super::monitor::Watch;
use super::options::Options;
use super::read::{PackEntries, ReadBuffers};
use super::repository::Repository;
use super::revocation::Revocation;
use super::status::{Held, Policy};
use super::write::{Compressors, CrcJoin, Slabs};
use super::{evacuate, random, recover};
use crate::backend::{self, Attach, Backend, Class, Location, Lock, Shaper};
use crate::catalog::{self, Catalog, Locality, Lookup, RepositoryCatalog};
use crate::codec::{ChunkSizes, Level, RepositoryId};
use crate::format::keyring::{FIRST_GENERATION, KeyringSeed};
use crate::format::marker::Metadata;
use crate::format::names::METADATA;
use crate::format::{Hash32, Kek, Layout, RepositoryName, RepositoryParameters, Secrets};

/// How long taking a key away waits for writes that are under way.
const UNLOAD_WAIT: Duration = Duration::from_secs(1);

/// Where a store is, and what is needed to open it.
#[derive(Clone, Debug)]
pub struct StoreOptions {
    /// Directory, bucket or memory.
    pub location: Location,
    /// Where the catalog is; never under the store.
    pub catalog: catalog::Location,
    /// Key-encryption keys. More can be loaded later, and what needs one that is not there is refused until then.
    pub keks: Vec<Kek>,
    /// Bounds and sizes.
    pub options: Options,
}

impl StoreOptions {
    /// A store in this process's memory with a fresh key, for tests and examples: everything goes with the process.
    ///
    /// # Errors
    /// If the operating system gives no random bytes.
    pub fn in_memory(name: &str) -> Result<Self> {
        let secret = crate::codec::Secret::from_bytes(random()?);
        Ok(Self {
            location: Location::Memory(name.to_owned()),
            catalog: catalog::Location::Memory,
            keks: vec![Kek {
                id: "memory".to_owned(),
                secret,
            }],
            options: Options::default(),
        })
    }
}

/// What is fixed when a repository is created.
#[derive(Clone, Debug)]
pub struct NewRepository {
    /// Its name: `[a-z0-9][a-z0-9-]{0,62}`.
    pub name: RepositoryName,
    /// How streams are cut; part of the stored format of the repository.
    pub chunk_sizes: ChunkSizes,
    /// How chunks are compressed.
    pub level: Level,
    /// The key to make it under; the newest that was loaded if none is named.
    pub key_id: Option<String>,
}

impl NewRepository {
    /// A repository with the default chunk sizes and compression.
    ///
    /// # Errors
    /// `InvalidName`.
    pub fn named(name: &str) -> Result<Self> {
        let name = RepositoryName::new(name).map_err(|error| Error::new(Reason::InvalidName, error.to_string()))?;
        Ok(Self {
            name,
            chunk_sizes: ChunkSizes::DEFAULT,
            level: Level::DEFAULT,
            key_id: None,
        })
    }
}

/// The part of the byte budget that a stream from outside holds for what arrives.
#[derive(Debug)]
pub struct StreamShare(#[expect(dead_code, reason = "held")] Paid);

/// An open store. Cheap to clone.
#[derive(Clone)]
pub struct Store {
    pub(super) inner: Arc<Inner>,
}

pub(super) struct Inner {
    pub(super) backend: Backend,
    pub(super) catalog: Catalog,
    pub(super) keys: KeyChain,
    pub(super) options: Options,
    pub(super) gate: Arc<Gate>,
    pub(super) limits: Arc<Limits>,
    pub(super) watch: Watch,
    pub(super) departures: Arc<Departures>,
    counters: Arc<Counters>,
    compute: Compute,
    background: Compute,
    budget: Budget,
    read_buffers: ReadBuffers,
    pack_entries: Arc<PackEntries>,
    pub(super) headers: Mutex<Vec<RepositoryHeader>>,
    open: Mutex<BTreeMap<RepositoryId, Repository>>,
    /// Repositories that are open or being opened, by the key that opens them: reached without waiting for `open`.
    opening: SyncMutex<BTreeMap<RepositoryId, (String, Arc<Revocation>)>>,
    /// Which repositories this process was overtaken in: for good, also if one is opened anew.
    fences: SyncMutex<BTreeMap<RepositoryId, Arc<AtomicBool>>>,
    _lock: Option<Lock>,
}

impl Store {
    /// Opens the store at a place.
    ///
    /// On a volume this process holds it until the last clone is dropped.
    ///
    /// # Errors
    /// `StoreNotFound`, `ForeignStore`, `StoreHeld`; `WrongKey` once a repository is opened.
    pub async fn open(options: StoreOptions) -> Result<Self> {
        let backend = attach(&options.location, Attach::Existing).await?;
        Self::open_attached(options, backend).await
    }

    async fn open_attached(options: StoreOptions, backend: Backend) -> Result<Self> {
        let lock = backend.lock()?;
        let headers = read_headers(&backend).await?;
        if headers.is_empty() {
            return Err(no_store(&backend).await?);
        }
        restore_metadata(&backend, headers[0].store_id).await?;
        sweep(&backend).await;
        Self::assemble(options, backend, headers, lock)
    }

    /// Opens the store, or an empty place that is to become one: it then has no repositories yet.
    ///
    /// # Errors
    /// `ForeignStore` if the place holds something else; `StoreNotFound` if it is empty and the catalog is that of a store
    /// with repositories, as when a volume is not mounted; what [`open`](Self::open) reports.
    pub async fn open_or_empty(options: StoreOptions) -> Result<Self> {
        let backend = attach(&options.location, Attach::CreateDirectory).await?;
        let lock = backend.lock()?;
        if read_headers(&backend).await?.is_empty() {
            refuse_foreign(&backend).await?;
            let store = Self::assemble(options, backend, Vec::new(), lock)?;
            store.refuse_lost()?;
            return Ok(store);
        }
        drop(lock);
        Self::open_attached(options, backend).await
    }

    fn refuse_lost(&self) -> Result<()> {
        if !self.inner.catalog.has_repositories()? {
            return Ok(());
        }
        let line = format!(
            "{} is empty, but its catalog belongs to a store with repositories: is the volume mounted? For a new store, \
             name a new catalog",
            self.inner.backend.location()
        );
        Err(Error::new(Reason::StoreNotFound, line))
    }

    /// Opens the store, or makes one with a first repository if there is none at this place.
    ///
    /// # Errors
    /// `ForeignStore` if the place holds something else; what [`open`](Self::open) reports.
    pub async fn open_or_create(options: StoreOptions, first: NewRepository) -> Result<Self> {
        let backend = attach(&options.location, Attach::CreateDirectory).await?;
        Self::open_or_create_attached(options, backend, first).await
    }

    /// [`open_or_create`](Self::open_or_create) on a backend that the caller attached, whatever location the options
    /// name: for decorated backends and services inside the test process.
    ///
    /// # Errors
    /// Those of `open_or_create`.
    #[cfg(any(test, feature = "testkit"))]
    pub async fn open_on(options: StoreOptions, backend: Backend, first: NewRepository) -> Result<Self> {
        Self::open_or_create_attached(options, backend, first).await
    }

    async fn open_or_create_attached(options: StoreOptions, backend: Backend, first: NewRepository) -> Result<Self> {
        let lock = backend.lock()?;
        let headers = read_headers(&backend).await?;
        if !headers.is_empty() {
            drop(lock);
            return Self::open_attached(options, backend).await;
        }
        refuse_foreign(&backend).await?;
        let store = Self::assemble(options, backend, Vec::new(), lock)?;
        store.create_repository(first).await?;
        Ok(store)
    }

    /// The repositories at a place, without any key. Nothing is locked.
    ///
    /// # Errors
    /// `StoreNotFound`, `ForeignStore`.
    pub async fn headers(location: &Location) -> Result<Vec<RepositoryHeader>> {
        let backend = attach(location, Attach::Existing).await?;
        let headers = read_headers(&backend).await?;
        if headers.is_empty() {
            return Err(no_store(&backend).await?);
        }
        Ok(headers)
    }

    pub(super) fn assemble(
        options: StoreOptions,
        backend: Backend,
        headers: Vec<RepositoryHeader>,
        lock: Lock,
    ) -> Result<Self> {
        refuse_nested_catalog(&options, &backend)?;
        let limits = catalog_limits(&options.options);
        let catalog = Catalog::open_beside(&options.catalog, &limits, reserve_for(&options.catalog, &backend))?;
        let told = catalog.mode()?;
        let policy = Policy {
            capacity: options.options.capacity,
            pack_bytes: options.options.pack_target() as u64,
            failure_hold: options.options.failure_hold,
        };
        let held = told.map_or_else(Held::default, |row| Held::from_bits(row.held));
        let limits = Arc::new(Limits::new(
            options.options.store_bytes_max,
            options.options.quotas.clone(),
        ));
        limits.set_catalog_bytes(catalog.disk_bytes()?);
        for class in Class::ALL {
            backend.shaper().set_rate(class, options.options.rates[class]);
        }
        let gate = Gate::new(
            backend.clone(),
            catalog.clone(),
            policy,
            limits.clone(),
            held,
            catalog.is_read_only()?,
        );
        Ok(Self {
            inner: Arc::new(Inner {
                backend,
                gate: Arc::new(gate),
                limits,
                watch: Watch::new(told)?,
                departures: Arc::default(),
                catalog,
                keys: KeyChain::new(options.keks)?,
                compute: Compute::new(options.options.compute_threads)?,
                background: Compute::background()?,
                budget: Budget::new(options.options.budget_bytes),
                read_buffers: ReadBuffers::within(options.options.budget_bytes / 4),
                pack_entries: Arc::new(PackEntries::within(options.options.budget_bytes / 4)),
                options: options.options,
                counters: Arc::default(),
                headers: Mutex::new(headers),
                open: Mutex::default(),
                opening: SyncMutex::default(),
                fences: SyncMutex::default(),
                _lock: Some(lock),
            }),
        })
    }

    /// Makes a repository.
    ///
    /// # Errors
    /// `RepositoryExists`; `KeysUnavailable` if there is no key to make it under.
    pub async fn create_repository(&self, new: NewRepository) -> Result<Repository> {
        let inner = &self.inner;
        let mut headers = inner.headers.lock().await;
        self.refuse_if_left(&headers)?;
        if let Some(twin) = headers.iter().find(|header| header.name == new.name.as_str()) {
            let line = format!("a repository called {:?} exists already (id {})", twin.name, twin.id);
            return Err(Error::new(Reason::RepositoryExists, line));
        }
        let kek = inner.keys.key_for_new(new.key_id.as_deref())?;
        let store_id = headers.first().map_or_else(random, |header| Ok(header.store_id))?;
        let id = RepositoryId(random()?);
        let parameters = RepositoryParameters {
            name: new.name,
            store_id,
            chunk_sizes: new.chunk_sizes,
            level: new.level,
        };
        let secrets = Secrets::create(parameters, id, KeyringSeed::from_bytes(random()?));
        let header = write_keyring(&inner.backend, &kek, &secrets, FIRST_GENERATION, Hash32::ZERO).await?;
        restore_metadata(&inner.backend, store_id).await?;
        headers.push(header);
        drop(headers);
        self.repository(&id.to_string()).await
    }

    /// A store that everything leaves, or has left, is none to begin anything in.
    fn refuse_if_left(&self, headers: &[RepositoryHeader]) -> Result<()> {
        let leaves = |header: &RepositoryHeader| self.inner.departures.contains(header.id);
        if headers.is_empty() || !headers.iter().all(leaves) {
            return Ok(());
        }
        let line =
            "the store is being moved away or removed: make repositories elsewhere, or make the store writable again";
        Err(Error::new(Reason::ReadOnly, line))
    }

    /// Opens a repository by name or id.
    ///
    /// # Errors
    /// `RepositoryNotFound`; `KeysUnavailable`, `WrongKey`; `DataLoss` if its keyring or log is damaged.
    pub async fn repository(&self, name_or_id: &str) -> Result<Repository> {
        let header = self.header(name_or_id).await?;
        let mut open = self.inner.open.lock().await;
        if let Some(repository) = open.get(&header.id) {
            if !repository.core().revocation.is_revoked() {
                return Ok(repository.clone());
            }
            Box::pin(repository.close()).await;
            open.remove(&header.id);
        }
        let opening = self.inner.watch.opening(header.id);
        // On the heap: every call begins with this, and few find it closed.
        let opened = Box::pin(self.open_repository(&header)).await;
        opening.settle(&opened);
        let repository = opened?;
        open.insert(header.id, repository.clone());
        Ok(repository)
    }

    /// Opens a repository whose log lacks commits, or has some that cannot be read: with all that the rest leads to. What
    /// those commits recorded is lost: objects that they put, deletes, replacements. One that lacks nothing is opened as
    /// it is.
    ///
    /// # Errors
    /// Those of [`Self::repository`]; `DataLoss` if no commit and no checkpoint can be read.
    pub async fn salvage(&self, name_or_id: &str) -> Result<(Repository, Salvage)> {
        match self.repository(name_or_id).await {
            Ok(repository) => return Ok((repository, Salvage::default())),
            Err(error) if error.reason() == Reason::DataLoss => {}
            Err(error) => return Err(error),
        }
        let header = self.header(name_or_id).await?;
        let mut open = self.inner.open.lock().await;
        let core = self.open_core(&header).await?;
        let salvage = recover::salvage(&core).await?;
        let repository = self.with_fence(header.id, core);
        if let Err(error) = repository.leave_lost_behind().await {
            repository.close().await;
            return Err(error);
        }
        open.insert(header.id, repository.clone());
        Ok((repository, salvage))
    }

    async fn open_repository(&self, header: &RepositoryHeader) -> Result<Repository> {
        let core = self.open_core(header).await?;
        recover::catch_up(&core).await?;
        Ok(self.with_fence(header.id, core))
    }

    fn with_fence(&self, id: RepositoryId, core: Arc<Core>) -> Repository {
        let tip = core.catalog.tip().ok().flatten().unwrap_or_default();
        core.limits.stored(id, tip.stats.pack_bytes);
        let fenced = self.inner.fences.lock().entry(id).or_default().clone();
        Repository::new(core, fenced)
    }

    async fn open_core(&self, header: &RepositoryHeader) -> Result<Arc<Core>> {
        let inner = &self.inner;
        let kek = inner.keys.key_of(header)?;
        let revocation = Arc::new(Revocation::default());
        let entry = (kek.id.clone(), revocation.clone());
        inner.opening.lock().insert(header.id, entry);
        // An unload that came before the entry above did not see it.
        inner.keys.key_of(header)?;
        let secrets = open_keyring(&inner.backend, header, &kek).await?;
        let rows = self.rows_of(&secrets).await?;
        let core = Arc::new(self.core(secrets, rows, revocation));
        evacuate::recall(&core)?;
        Ok(core)
    }

    /// Gives the store a key, and returns the repositories that it opens. The same key again is fine.
    ///
    /// # Errors
    /// `InvalidArgument` if another key is called so; `WrongKey` if a keyring names it and does not open with it.
    pub async fn load_key(&self, kek: Kek) -> Result<Vec<RepositoryId>> {
        let headers = self.inner.headers.lock().await;
        let served = headers.iter().filter(|header| header.key_id == kek.id);
        let mut ids = Vec::new();
        for header in served {
            open_keyring(&self.inner.backend, header, &kek).await?;
            ids.push(header.id);
        }
        self.inner.keys.add(kek)?;
        self.poke_status();
        Ok(ids)
    }

    /// Takes a key away; whether it was there. Whatever works on its repositories ends with `KeysUnavailable` at once,
    /// and their secrets leave the memory as soon as the last of it has ended.
    ///
    /// Writes that are under way have ended when this returns, unless the backend keeps one of them for over a second.
    pub async fn unload_key(&self, id: &str) -> bool {
        let was_there = self.inner.keys.remove(id);
        for (key, revocation) in self.inner.opening.lock().values() {
            if key == id {
                revocation.revoke();
            }
        }
        self.poke_status();
        let store = self.clone();
        let closing = tokio::spawn(async move { store.close_revoked().await });
        if tokio::time::timeout(UNLOAD_WAIT, closing).await.is_err() {
            tracing::warn!("the backend holds up writes of a repository whose key was taken away");
        }
        self.poke_status();
        was_there
    }

    async fn close_revoked(&self) {
        let mut open = self.inner.open.lock().await;
        let revoked: Vec<_> = open
            .iter()
            .filter(|(_, repository)| repository.core().revocation.is_revoked())
            .map(|(id, repository)| (*id, repository.clone()))
            .collect();
        for (id, repository) in revoked {
            repository.close().await;
            open.remove(&id);
        }
    }

    /// Every key that is there or that a repository needs, without the keys themselves.
    pub async fn keys(&self) -> Vec<KeyState> {
        self.inner.keys.states(&self.inner.headers.lock().await)
    }

    /// How many keys are there.
    pub fn keys_loaded(&self) -> usize {
        self.inner.keys.len()
    }

    /// How the backing store was asked, and how it answered.
    pub fn backend_counters(&self) -> &backend::Counters {
        self.inner.backend.counters()
    }

    /// What was counted since the store was opened.
    pub fn counters(&self) -> &Arc<Counters> {
        &self.inner.counters
    }

    /// How fast the backing store may be asked, by class of work, and what passed. A rate that is set holds until the store
    /// is opened anew.
    pub fn shaper(&self) -> &Shaper {
        self.inner.backend.shaper()
    }

    /// The most that the store may use.
    pub fn store_bytes_max(&self) -> Option<u64> {
        self.inner.limits.of_store().map(|limit| limit.bytes)
    }

    /// Sets the most that the store may use, packs of all repositories and the catalog, until it is opened anew. It holds at
    /// once; below what is used already it refuses every put.
    pub fn set_store_bytes_max(&self, bytes: Option<u64>) {
        self.inner.limits.set_store_bytes_max(bytes);
        self.inner.gate.look_again();
    }

    /// The quotas of repositories, by name.
    pub fn quotas(&self) -> BTreeMap<String, Quota> {
        self.inner.limits.quotas()
    }

    /// Sets the quota of the repository of this name, which may not exist yet, until the store is opened anew. It holds at
    /// once, also for puts under way; what is there stays, whatever it is.
    pub fn set_quota(&self, repository: &RepositoryName, quota: Quota) {
        self.inner.limits.set_quota(repository.as_str(), quota);
        self.inner.gate.poke();
    }

    /// Waits, in order, until a stream may begin that will hold `frame_bytes` outside of everything else that is counted;
    /// they are part of the budget until the share is dropped.
    pub async fn admit_stream(&self, frame_bytes: usize) -> StreamShare {
        StreamShare(self.inner.budget.pay_frame(frame_bytes).await)
    }

    /// Bytes of payload that may be in flight at once.
    pub fn budget_bytes(&self) -> usize {
        self.inner.budget.total_bytes()
    }

    /// Bytes of payload that are in flight now.
    pub fn budget_used_bytes(&self) -> usize {
        self.budget_bytes() - self.inner.budget.free_bytes()
    }

    /// The repositories of this store, by name.
    pub async fn repositories(&self) -> Vec<RepositoryHeader> {
        let mut headers = self.inner.headers.lock().await.clone();
        headers.sort_by(|a, b| a.name.cmp(&b.name));
        headers
    }

    /// Closes a repository for good, if it is open: whatever works on it ends with `KeysUnavailable`.
    pub(super) async fn end_uses_of(&self, id: RepositoryId) -> Option<Repository> {
        if let Some((_, revocation)) = self.inner.opening.lock().remove(&id) {
            revocation.revoke();
        }
        let open = self.inner.open.lock().await.remove(&id);
        if let Some(repository) = &open {
            repository.core().revocation.revoke();
            repository.close().await;
        }
        open
    }

    /// Finishes what is in flight in every repository. Whoever then drops the store can open it again at once.
    pub async fn close(&self) {
        let open: Vec<_> = self.inner.open.lock().await.values().cloned().collect();
        for repository in open {
            repository.close().await;
        }
        self.inner.gate.settle().await;
    }

    pub(crate) fn catalog(&self) -> &Catalog {
        &self.inner.catalog
    }

    pub(crate) fn backend(&self) -> &Backend {
        &self.inner.backend
    }

    /// What the catalog has of a repository. It may have to be written for that.
    async fn rows_of(&self, secrets: &Secrets) -> Result<RepositoryCatalog> {
        let (catalog, id, keys) = (self.inner.catalog.clone(), secrets.repository(), secrets.catalog_keys());
        let rows = tokio::task::spawn_blocking(move || catalog.repository(id, &keys)).await;
        Ok(rows.map_err(|_| Error::internal("opening a repository's rows panicked"))??)
    }

    fn core(&self, secrets: Secrets, rows: RepositoryCatalog, revocation: Arc<Revocation>) -> Core {
        let inner = &self.inner;
        let id = secrets.repository();
        let name = secrets.parameters().name.clone();
        Core {
            backend: inner.backend.clone(),
            layout: Layout::new(id),
            store_catalog: inner.catalog.clone(),
            catalog: rows,
            locality: Locality::new(inner.options.locality_bytes),
            in_flight: Arc::new(InFlight::default()),
            places: Default::default(),
            compute: inner.compute.clone(),
            background: inner.background.clone(),
            compressors: Compressors::new(inner.compute.threads(), secrets.parameters().level),
            slabs: Slabs::new(inner.compute.threads(), secrets.parameters().chunk_sizes.max()),
            crc_join: CrcJoin::new(Options::slab_bytes(secrets.parameters().chunk_sizes.max())),
            budget: inner.budget.clone(),
            read_buffers: inner.read_buffers.clone(),
            pack_entries: inner.pack_entries.clone(),
            options: inner.options.clone(),
            counters: inner.counters.clone(),
            gate: inner.gate.clone(),
            departures: inner.departures.clone(),
            allowance: Arc::new(Allowance::new(name, inner.limits.clone(), inner.counters.clone())),
            limits: inner.limits.clone(),
            rebuilds: Default::default(),
            rolled_back: Default::default(),
            salvaging: Default::default(),
            given_up: Default::default(),
            apply: Mutex::new(()),
            revocation,
            secrets: Arc::new(secrets),
        }
    }

    /// What is known without its key of the repository with this id, or else with this name.
    ///
    /// # Errors
    /// `RepositoryNotFound`; `RepositoryExists` if two have this name.
    pub async fn header(&self, name_or_id: &str) -> Result<RepositoryHeader> {
        let headers = self.inner.headers.lock().await;
        if let Some(header) = headers.iter().find(|header| header.id.to_string() == name_or_id) {
            return Ok(header.clone());
        }
        let mut named = headers.iter().filter(|header| header.name == name_or_id);
        match (named.next(), named.next()) {
            (Some(header), None) => Ok(header.clone()),
            (Some(one), Some(other)) => {
                let line = format!(
                    "two repositories are called {name_or_id:?}: {} and {}; name one of them by its id",
                    one.id, other.id
                );
                Err(Error::new(Reason::RepositoryExists, line))
            }
            _ => {
                let line =
                    format!("this store has no repository called {name_or_id:?}; `cairn repo ls` shows those it has");
                Err(Error::new(Reason::RepositoryNotFound, line))
            }
        }
    }
}

/// The catalog's memory follows the budget: whoever gives an agent little of it has little.
fn catalog_limits(options: &Options) -> catalog::Limits {
    let budget = options.budget_bytes as u64;
    catalog::Limits {
        cache_bytes: (budget / 4).clamp(8 << 20, 64 << 20),
        write_buffer_bytes: (budget / 4).clamp(2 << 20, 16 << 20),
        locality_bytes: options.locality_bytes,
        ..catalog::Limits::default()
    }
}

/// The reserve of the volume, for a catalog that is on it.
fn reserve_for(catalog: &catalog::Location, backend: &Backend) -> Option<Arc<dyn catalog::Reserve>> {
    struct OfVolume(Backend);
    impl catalog::Reserve for OfVolume {
        fn make_room(&self, bytes: u64) {
            self.0.make_room(bytes);
        }
    }
    let catalog::Location::Directory(directory) = catalog else {
        return None;
    };
    let directory = std::path::absolute(directory).ok()?;
    let shares = backend.shares_volume_with(&directory);
    shares.then(|| Arc::new(OfVolume(backend.clone())) as Arc<dyn catalog::Reserve>)
}

/// Attaches a place where a store should be.
pub(crate) async fn attach_existing(location: &Location) -> Result<Backend> {
    attach(location, Attach::Existing).await
}

async fn attach(location: &Location, attach: Attach) -> Result<Backend> {
    Backend::attach(location, attach)
        .await
        .map_err(|error| match error.kind() {
            backend::ErrorKind::NotFound => {
                let line =
                    format!("no store at {location}; `cairn put` on a directory or `cairn repo create` makes one");
                Error::new(Reason::StoreNotFound, line).caused_by(error)
            }
            _ => Error::from(error),
        })
}

/// Writes `metadata.yaml` if it is not there. It is informative only, so a store on a read-only or a full volume does
/// without.
pub(crate) async fn restore_metadata(backend: &Backend, store_id: [u8; 16]) -> Result<()> {
    match backend.size(METADATA).await {
        Ok(_) => return Ok(()),
        Err(error) if error.kind() == backend::ErrorKind::NotFound => {}
        Err(error) => return Err(error.into()),
    }
    let metadata = Metadata {
        store_id,
        created: jiff::Timestamp::now().to_string(),
    };
    match backend.create(METADATA, Bytes::from(metadata.encode())).await {
        Ok(_) => Ok(()),
        Err(error)
            if matches!(
                error.kind(),
                backend::ErrorKind::ReadOnly | backend::ErrorKind::PermissionDenied | backend::ErrorKind::NoSpace
            ) =>
        {
            Ok(())
        }
        Err(error) => Err(error.into()),
    }
}

/// Removes what interrupted writes left behind; a failure only costs space.
pub(crate) async fn sweep(backend: &Backend) {
    if let Err(error) = backend.sweep_staging("").await {
        tracing::warn!(%error, "left-over staging files could not be removed");
    }
}

/// Why there is no store here: nothing at all, or something else.
pub(super) async fn no_store(backend: &Backend) -> Result<Error> {
    match refuse_foreign(backend).await {
        Ok(()) => {
            let line = format!(
                "no store at {}; `cairn put` on a directory or `cairn repo create` makes one",
                backend.location()
            );
            Ok(Error::new(Reason::StoreNotFound, line))
        }
        Err(error) => Ok(error),
    }
}

/// A place that is not empty and has no keyring holds somebody else's files. What a first start that was interrupted
/// may leave is ours: the lock file, and a repository directory without packs.
pub(crate) async fn refuse_foreign(backend: &Backend) -> Result<()> {
    let foreign = |path: &str| {
        let line = format!(
            "{}: holds {path:?} and no store of ours; name an empty or a new place",
            backend.location()
        );
        Error::new(Reason::ForeignStore, line)
    };
    for file in backend.list("", None).await? {
        let first = file.path.split('/').next().unwrap_or_default();
        let ours = first.parse::<RepositoryId>().is_ok() || file.path == METADATA;
        if !ours {
            return Err(foreign(&file.path));
        }
    }
    for directory in backend.list_directories("").await? {
        if directory.parse::<RepositoryId>().is_err() {
            return Err(foreign(&directory));
        }
    }
    Ok(())
}

/// A catalog under the store would be listed, locked and evacuated with it.
fn refuse_nested_catalog(options: &StoreOptions, backend: &Backend) -> Result<()> {
    let (catalog::Location::Directory(directory), Location::Directory(root)) = (&options.catalog, backend.location())
    else {
        return Ok(());
    };
    let absolute = std::path::absolute(directory).unwrap_or_else(|_| PathBuf::from(directory));
    let resolved = resolve(&absolute);
    if resolved.starts_with(root) {
        let line = format!(
            "the catalog {} lies inside the store {}; keep it outside, `--catalog` names the place",
            directory.display(),
            root.display()
        );
        return Err(Error::new(Reason::InvalidArgument, line));
    }
    Ok(())
}

/// The path with its longest existing part resolved.
pub(crate) fn resolve(path: &std::path::Path) -> PathBuf {
    match (path.canonicalize(), path.parent(), path.file_name()) {
        (Ok(resolved), _, _) => resolved,
        (Err(_), Some(parent), Some(name)) => resolve(parent).join(name),
        _ => path.to_path_buf(),
    }
}
