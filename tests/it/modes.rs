//! What a store says of itself while things happen to it: real volumes that fill, grow, go and come back, a storage that
//! fails, keys that are missing, another owner. Each mode is seen by somebody who watches.

mod failures;
mod operated;
mod volume;

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use cairn_agent::backend::Location;
use cairn_agent::catalog;
use cairn_agent::codec::Secret;
use cairn_agent::engine::{
    Mode, NewRepository, Options, Precondition, PutOptions, Reason, ReclaimOptions, Repository, Result, Status, Store,
    StoreOptions,
};
use cairn_agent::format::Kek;
use tokio::sync::watch::Receiver;
use tokio::task::JoinHandle;

use crate::support::random_bytes;

const WAIT_MAX: Duration = Duration::from_secs(30);
const MIB: u64 = 1 << 20;

/// A store somebody watches over, with one repository.
struct Agent {
    store: Store,
    statuses: Receiver<Arc<Status>>,
    monitor: JoinHandle<()>,
}

impl Agent {
    fn over(store: Store) -> Self {
        let watched = store.clone();
        Self {
            statuses: store.watch_status(),
            monitor: tokio::spawn(async move { watched.monitor().await }),
            store,
        }
    }

    async fn in_directory(directory: &Path, catalog: catalog::Location) -> Self {
        let options = options(directory, catalog);
        Self::over(Store::open_or_create(options, first()).await.unwrap())
    }

    async fn repository(&self) -> Repository {
        self.store.repository("default").await.unwrap()
    }

    /// Waits until those who watch see such a status.
    #[track_caller]
    fn until(&mut self, what: impl FnMut(&Status) -> bool) -> impl Future<Output = Arc<Status>> {
        let caller = std::panic::Location::caller();
        let mut what = what;
        async move {
            let statuses = self.statuses.clone();
            let seen = self.statuses.wait_for(|status| what(status));
            match tokio::time::timeout(WAIT_MAX, seen).await {
                Ok(status) => status.unwrap().clone(),
                Err(_) => panic!("{caller}: did not come: {:?}", statuses.borrow()),
            }
        }
    }

    #[track_caller]
    fn until_mode(&mut self, mode: Mode) -> impl Future<Output = Arc<Status>> {
        self.until(move |status| status.mode == mode)
    }

    /// Ends it, and waits until the store is free.
    async fn end(self) {
        self.monitor.abort();
        let _ = self.monitor.await;
        self.store.close().await;
    }
}

fn options(directory: &Path, catalog: catalog::Location) -> StoreOptions {
    StoreOptions {
        location: Location::Directory(directory.to_owned()),
        catalog,
        keks: vec![kek("test", 7)],
        options: small(),
    }
}

/// Small packs, and failures that are soon forgotten.
fn small() -> Options {
    Options {
        budget_bytes: 24 << 20,
        pack_bytes_target: 1 << 20,
        checkpoint_log_bytes: 32 << 10,
        failure_hold: Duration::from_millis(600),
        ..Options::default()
    }
}

/// A directory with room, where there is such a place: how full the disk of this machine is, is not the question.
fn roomy() -> tempfile::TempDir {
    let memory = Path::new("/dev/shm");
    let made = if memory.is_dir() {
        tempfile::tempdir_in(memory)
    } else {
        tempfile::tempdir()
    };
    made.unwrap()
}

fn kek(id: &str, secret: u8) -> Kek {
    Kek {
        id: id.to_owned(),
        secret: Secret::from_bytes([secret; 32]),
    }
}

fn first() -> NewRepository {
    NewRepository::named("default").unwrap()
}

/// Puts `len` bytes that nobody has put before under `name`.
async fn put(repository: &Repository, name: &str, len: u64) -> Result<()> {
    let seed = name.bytes().fold(len, |seed, byte| seed * 31 + u64::from(byte));
    let bytes = random_bytes(seed, len as usize);
    repository
        .put(name, bytes.as_slice(), PutOptions::default())
        .await
        .map(drop)
}

async fn refused(repository: &Repository, name: &str) -> Reason {
    put(repository, name, 1000).await.unwrap_err().reason()
}

async fn delete(repository: &Repository, name: &str) {
    assert!(repository.delete(name, Precondition::None).await.unwrap());
}

async fn reclaim(repository: &Repository) {
    repository.reclaim(ReclaimOptions::default()).await.unwrap();
}

fn codes(status: &Status) -> Vec<&'static str> {
    status.causes.iter().map(|cause| cause.code).collect()
}
