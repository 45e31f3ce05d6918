//! One contract for every backend, then what only one of them does.

mod contract;
mod errors;
mod health;
mod s3;
mod volume;

use std::sync::atomic::{AtomicUsize, Ordering};

use tempfile::TempDir;

use super::{Attach, Backend, Location};
use crate::testkit::s3_server::S3Server;

/// A fresh backend, and what has to live as long as it.
struct Fixture {
    backend: Backend,
    _directory: Option<TempDir>,
    _server: Option<S3Server>,
}

impl Fixture {
    async fn directory() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let backend = directory_backend(&directory).await;
        Self {
            backend,
            _directory: Some(directory),
            _server: None,
        }
    }

    async fn memory() -> Self {
        static NUMBER: AtomicUsize = AtomicUsize::new(0);
        let name = format!("contract-{}", NUMBER.fetch_add(1, Ordering::Relaxed));
        let backend = Backend::attach(&Location::Memory(name), Attach::Existing)
            .await
            .unwrap();
        Self {
            backend,
            _directory: None,
            _server: None,
        }
    }

    async fn s3() -> Self {
        let server = S3Server::start().await;
        let backend = server.backend("some/prefix").await;
        Self {
            backend,
            _directory: None,
            _server: Some(server),
        }
    }
}

async fn directory_backend(directory: &TempDir) -> Backend {
    let location = Location::Directory(directory.path().to_owned());
    Backend::attach(&location, Attach::Existing).await.unwrap()
}
