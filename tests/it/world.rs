//! Places to put a store, opened as often as a test wants, and seeded data to put there.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use cairn_agent::backend::{Attach, Backend, Location};
use cairn_agent::catalog;
use cairn_agent::codec::{ChunkSizes, Level, Secret};
use cairn_agent::engine::{NewRepository, Options, Reason, Repository, Result, Store, StoreOptions};
use cairn_agent::format::Kek;
use cairn_agent::testkit::faulty::{Faulty, FaultyTables};
use cairn_agent::testkit::model;
pub(crate) use cairn_agent::testkit::model::read;
use cairn_agent::testkit::s3_server::S3Server;
use rand::{Rng, RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;

const HELD_MAX: Duration = Duration::from_secs(30);

/// Where a store is.
pub(crate) enum Place {
    Directory(tempfile::TempDir),
    Memory(String),
    S3(S3Server),
    Faulty(Faulty),
}

impl Place {
    pub(crate) fn directory() -> Self {
        Self::Directory(tempfile::tempdir().unwrap())
    }

    pub(crate) fn memory() -> Self {
        static NEXT: AtomicU64 = AtomicU64::new(0);
        Self::Memory(format!("world-{}", NEXT.fetch_add(1, Ordering::Relaxed)))
    }

    pub(crate) async fn s3() -> Self {
        Self::S3(S3Server::start().await)
    }

    pub(crate) async fn backend(&self) -> Backend {
        let location = match self {
            Self::Directory(directory) => Location::Directory(directory.path().to_owned()),
            Self::Memory(name) => Location::Memory(name.clone()),
            Self::S3(server) => return server.backend("agents/one").await,
            Self::Faulty(faulty) => return faulty.backend(),
        };
        Backend::attach(&location, Attach::CreateDirectory).await.unwrap()
    }
}

/// One agent's view of a store: its key, its bounds, its catalog.
pub(crate) struct Agent {
    options: StoreOptions,
    catalog: Option<tempfile::TempDir>,
}

impl Agent {
    /// An agent with a catalog on disk, which is found again when the store is opened again.
    pub(crate) fn with_catalog() -> Self {
        // No power is cut here, so the catalog's fsyncs may be had for nothing where there is such a place.
        let memory = std::path::Path::new("/dev/shm");
        let catalog = if memory.is_dir() {
            tempfile::tempdir_in(memory)
        } else {
            tempfile::tempdir()
        };
        let catalog = catalog.unwrap();
        let mut agent = Self::forgetful();
        agent.options.catalog = catalog::Location::Directory(catalog.path().join("catalog"));
        agent.catalog = Some(catalog);
        agent
    }

    /// An agent whose catalog ends with each open store.
    pub(crate) fn forgetful() -> Self {
        let options = StoreOptions {
            location: Location::Memory("elsewhere".to_owned()),
            catalog: catalog::Location::Memory,
            keks: vec![Kek {
                id: "test".to_owned(),
                secret: Secret::from_bytes([7; 32]),
            }],
            options: small(),
        };
        Self { options, catalog: None }
    }

    /// An agent whose catalog is in tables that the test keeps.
    pub(crate) fn with_tables(tables: &FaultyTables) -> Self {
        let mut agent = Self::forgetful();
        agent.options.catalog = catalog::Location::Kept(catalog::Kept(Arc::new(tables.clone())));
        agent
    }

    /// With other bounds.
    pub(crate) fn tuned(mut self, tune: impl FnOnce(&mut Options)) -> Self {
        tune(&mut self.options.options);
        self
    }

    /// Opens the store and its repository.
    pub(crate) async fn open(&self, place: &Place) -> Result<(Store, Repository)> {
        let store = self.open_store(place).await?;
        let repository = store.repository("default").await?;
        Ok((store, repository))
    }

    /// Opens the store. One that was dropped while its writer ended in the background is held for a moment longer.
    pub(crate) async fn open_store(&self, place: &Place) -> Result<Store> {
        let backend = place.backend().await;
        let started = Instant::now();
        loop {
            match Store::open_on(self.options.clone(), backend.clone(), new_repository()).await {
                Err(error) if error.reason() == Reason::StoreHeld && started.elapsed() < HELD_MAX => {
                    tokio::task::yield_now().await;
                }
                opened => return opened,
            }
        }
    }

    /// Makes a store with a repository of this name in a place that is empty.
    pub(crate) async fn open_empty(&self, place: &Place, first: &str) -> Store {
        let first = NewRepository::named(first).unwrap();
        Store::open_on(self.options.clone(), place.backend().await, first)
            .await
            .unwrap()
    }

    /// Loses the catalog: the next open has to rebuild it.
    pub(crate) fn forget(&mut self) {
        if let Some(catalog) = &self.catalog {
            let anew = tempfile::tempdir_in(catalog.path()).unwrap().keep();
            self.options.catalog = catalog::Location::Directory(anew.join("catalog"));
        }
    }

    pub(crate) fn kek(&self) -> &Kek {
        &self.options.keks[0]
    }
}

/// Small packs, short log: so that a few MiB cross every boundary.
fn small() -> Options {
    Options {
        budget_bytes: 24 << 20,
        pack_bytes_target: 1 << 20,
        introduce_packs_max: 2,
        checkpoint_log_bytes: 32 << 10,
        read_ahead_bytes: 4 << 20,
        locality_bytes: 256 << 10,
        release_children_max: 5,
        ..Options::default()
    }
}

/// Small chunks: so that a few MiB make several leaves.
fn new_repository() -> NewRepository {
    NewRepository {
        chunk_sizes: ChunkSizes::with_average(16 << 10).unwrap(),
        level: Level::DEFAULT,
        ..NewRepository::named("default").unwrap()
    }
}

pub(crate) fn rng(seed: u64) -> ChaCha8Rng {
    ChaCha8Rng::seed_from_u64(seed)
}

/// Bytes that do not compress.
pub(crate) fn noise(rng: &mut ChaCha8Rng, len: usize) -> Vec<u8> {
    let mut bytes = vec![0; len];
    rng.fill_bytes(&mut bytes);
    bytes
}

/// A copy of `bytes` with a few regions overwritten, inserted, removed or doubled.
pub(crate) fn edited(rng: &mut ChaCha8Rng, bytes: &[u8]) -> Vec<u8> {
    let mut copy = bytes.to_vec();
    for _ in 0..rng.random_range(1..=4) {
        let at = rng.random_range(0..=copy.len());
        let len = rng.random_range(1..=400).min(copy.len() - at);
        match rng.random_range(0..4) {
            0 => rng.fill_bytes(&mut copy[at..at + len]),
            1 => {
                let new = noise(rng, len.max(1));
                copy.splice(at..at, new);
            }
            2 => drop(copy.drain(at..at + len)),
            _ => {
                let again = copy[at..].iter().copied().take(100 << 10).collect::<Vec<_>>();
                copy.splice(at..at, again);
            }
        }
    }
    copy
}

/// Every name of a repository, sorted.
pub(crate) async fn names(repository: &Repository) -> Vec<String> {
    model::names(repository).await.unwrap()
}
