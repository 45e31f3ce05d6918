//! A small store with every kind of object in it, as plain files.

use std::collections::BTreeMap;
use std::sync::Arc;

use bytes::Bytes;
use cairn_agent::backend::{Backend, Location};
use cairn_agent::codec::{ChunkSizes, Secret};
use cairn_agent::engine::{NewRepository, Options, Precondition, PutOptions, Repository, Result, Store, StoreOptions};
use cairn_agent::format::{Hash32, Kek};
use cairn_agent::{backend, catalog};
use futures::TryStreamExt;
use object_store::memory::InMemory;
use object_store::path::Path;
use object_store::{ObjectStore, ObjectStoreExt};

use super::Change;
use crate::world::{noise, rng};

pub(super) type Files = BTreeMap<String, Bytes>;

pub(super) struct Fixture {
    pub(super) files: Files,
    /// The same store before its last commits.
    pub(super) earlier: Files,
    pub(super) contents: BTreeMap<String, Vec<u8>>,
    /// Names of objects that are deleted.
    pub(super) gone: Vec<String>,
    /// Number of the newest commit, and the head after it.
    pub(super) head: (u64, Hash32),
    options: StoreOptions,
}

impl Fixture {
    pub(super) async fn new(seed: u64) -> Self {
        let mut fixture = Self {
            files: Files::new(),
            earlier: Files::new(),
            contents: BTreeMap::new(),
            gone: vec!["gone".to_owned()],
            head: (0, Hash32::ZERO),
            options: options(),
        };
        let stored = Arc::new(InMemory::new());
        let mut rng = rng(seed);
        let text = noise(&mut rng, 500).repeat(800);
        let (store, repository) = fixture.open(stored.clone()).await.unwrap();
        fixture.put(&repository, "packs", noise(&mut rng, 330 << 10)).await;
        fixture.put(&repository, "small", noise(&mut rng, 9 << 10)).await;
        fixture.put(&repository, "gone", noise(&mut rng, 40 << 10)).await;
        store.close().await;
        drop((store, repository));
        fixture.earlier = files(&stored).await;

        let (store, repository) = fixture.open(stored.clone()).await.unwrap();
        fixture.put(&repository, "text", text.clone()).await;
        fixture.put(&repository, "empty", Vec::new()).await;
        repository.copy("text", "copy", PutOptions::default()).await.unwrap();
        fixture.contents.insert("copy".to_owned(), text);
        repository.delete("gone", Precondition::None).await.unwrap();
        fixture.contents.remove("gone");
        let status = repository.status().unwrap();
        fixture.head = (status.log_number, status.head);
        store.close().await;
        fixture.files = files(&stored).await;
        fixture
    }

    async fn put(&mut self, repository: &Repository, name: &str, bytes: Vec<u8>) {
        let put = repository.put(name, bytes.as_slice(), PutOptions::default());
        put.await.unwrap();
        self.contents.insert(name.to_owned(), bytes);
    }

    /// Opens a store, with a catalog of its own.
    pub(super) async fn open(&self, stored: Arc<InMemory>) -> Result<(Store, Repository)> {
        let backend = Backend::with_object_store(stored, Location::Memory("damage".to_owned()));
        let first = NewRepository {
            chunk_sizes: ChunkSizes::with_average(16 << 10).unwrap(),
            ..NewRepository::named("default").unwrap()
        };
        let store = Store::open_on(self.options.clone(), backend, first).await?;
        let repository = store.repository("default").await?;
        Ok((store, repository))
    }
}

/// Small packs, and a checkpoint with every commit.
fn options() -> StoreOptions {
    StoreOptions {
        location: backend::Location::Memory("elsewhere".to_owned()),
        catalog: catalog::Location::Memory,
        keks: vec![Kek {
            id: "damage".to_owned(),
            secret: Secret::from_bytes([9; 32]),
        }],
        options: Options {
            pack_bytes_target: 128 << 10,
            checkpoint_log_bytes: 1,
            ..Options::default()
        },
    }
}

/// All files of a store.
async fn files(stored: &InMemory) -> Files {
    let listed: Vec<_> = stored.list(None).try_collect().await.unwrap();
    let mut files = Files::new();
    for file in listed {
        let bytes = stored.get(&file.location).await.unwrap().bytes().await.unwrap();
        files.insert(file.location.into(), bytes);
    }
    files
}

/// A store with these files.
pub(super) async fn stored(files: &Files) -> Arc<InMemory> {
    let stored = Arc::new(InMemory::new());
    let all: Vec<Change> = files
        .iter()
        .map(|(path, bytes)| (path.clone(), Some(bytes.clone())))
        .collect();
    apply(&stored, &all).await;
    stored
}

pub(super) async fn apply(stored: &InMemory, changes: &[Change]) {
    for (path, bytes) in changes {
        let path = Path::from(path.as_str());
        match bytes {
            Some(bytes) => drop(stored.put(&path, bytes.clone().into()).await.unwrap()),
            None => stored.delete(&path).await.unwrap(),
        }
    }
}
