//! A store opened in this process.

use std::collections::BTreeMap;
use std::io::Read;
use std::sync::Arc;
use std::time::Duration;

use futures::{StreamExt, TryStreamExt, stream};

use cairn_agent::backend::Location;
use cairn_agent::codec::RepositoryId;
use cairn_agent::engine::{
    self, Blocking, ByteRange, DamagedObject, EvacuateOptions, EvacuateProgress, NewRepository, ObjectInfo,
    ObjectReader, Precondition, PutOptions, PutOutcome, RebuildProgress, ReclaimOptions, ReclaimProgress, Reclaimed,
    RemovalProgress, Removed, RepositoryHeader, RepositoryStatus, Result, Salvage, ScrubOptions, ScrubProgress, Status,
};
use cairn_agent::format::Hash32;

use super::{Description, Evacuated, Input, Key, Scrubbed};
use crate::progress::Counter;

/// Objects asked for at once.
const PAGE: usize = 10_000;
/// Deletes under way at once: together they share commits.
const DELETES_MAX: usize = 256;
const WATCH_INTERVAL: Duration = Duration::from_secs(1);
/// How often a bar learns how far long work is.
const TELL_EVERY: Duration = Duration::from_millis(100);

#[derive(Clone)]
pub(crate) struct Store(pub(crate) engine::Store);

#[derive(Clone)]
pub(crate) struct Repository {
    repository: engine::Repository,
    store: engine::Store,
}

/// Looks once a second: nobody in this process would tell of a change.
pub(crate) struct Watch {
    store: engine::Store,
    interval: tokio::time::Interval,
}

impl Store {
    pub(crate) async fn repository(&self, name_or_id: &str) -> Result<Repository> {
        Ok(Repository {
            repository: self.0.repository(name_or_id).await?,
            store: self.0.clone(),
        })
    }

    pub(crate) async fn salvage(&self, name_or_id: &str) -> Result<(RepositoryStatus, Salvage)> {
        let (repository, salvage) = self.0.salvage(name_or_id).await?;
        Ok((repository.status()?, salvage))
    }

    pub(crate) async fn repositories(&self) -> Result<Vec<RepositoryHeader>> {
        Ok(self.0.repositories().await)
    }

    pub(crate) async fn create_repository(&self, new: NewRepository) -> Result<RepositoryHeader> {
        let id = self.0.create_repository(new).await?.id();
        self.0.header(&id.to_string()).await
    }

    pub(crate) async fn remove_repository(&self, name_or_id: &str, confirm: &str) -> Result<()> {
        self.0.remove_repository(name_or_id, confirm).await.map(drop)
    }

    pub(crate) async fn evacuate(&self, options: EvacuateOptions, counter: &Counter) -> Result<Evacuated> {
        let progress = Arc::new(EvacuateProgress::default());
        let _telling = Telling::start(counter, {
            let progress = progress.clone();
            move || (progress.bytes(), progress.bytes_expected())
        });
        Ok(self.0.evacuate(options, &progress).await?.into())
    }

    pub(crate) async fn wipe(&self, name_or_id: &str, confirm: &str, counter: &Counter) -> Result<Removed> {
        let progress = Arc::new(RemovalProgress::default());
        let _telling = Telling::start(counter, {
            let progress = progress.clone();
            move || (progress.removed().bytes, 0)
        });
        self.0.remove_repository_watched(name_or_id, confirm, &progress).await
    }

    pub(crate) async fn status(&self) -> Result<Status> {
        self.0.status().await
    }

    pub(crate) fn watch_status(&self) -> Watch {
        Watch {
            store: self.0.clone(),
            interval: tokio::time::interval(WATCH_INTERVAL),
        }
    }

    pub(crate) async fn close(&self) {
        self.0.close().await;
    }
}

impl Repository {
    pub(crate) async fn put<R>(&self, name: &str, input: Input<R>, options: PutOptions) -> Result<PutOutcome>
    where
        R: Read + Send + 'static,
    {
        match input.parts {
            Some(parts) => self.repository.put(name, parts, options).await,
            None => self.repository.put(name, Blocking::new(input.reader), options).await,
        }
    }

    pub(crate) async fn get(&self, name: &str, range: ByteRange) -> Result<ObjectReader> {
        self.repository.get(name, range).await
    }

    pub(crate) async fn stat(&self, name: &str) -> Result<ObjectInfo> {
        self.repository.stat(name).await
    }

    pub(crate) async fn list(&self, prefix: &str) -> Result<Vec<ObjectInfo>> {
        let mut objects = Vec::new();
        let mut after = None;
        loop {
            let page = self.repository.list(prefix, after, PAGE).await?;
            objects.extend(page.objects);
            after = page.next;
            if after.is_none() {
                return Ok(objects);
            }
        }
    }

    pub(crate) async fn copy(&self, from: &str, to: &str) -> Result<ObjectInfo> {
        let outcome = self.repository.copy(from, to, PutOptions::default()).await?;
        Ok(outcome.object)
    }

    pub(crate) async fn delete(&self, names: &[String]) -> Result<Vec<bool>> {
        let deletes: Vec<_> = names
            .iter()
            .map(|name| delete(self.repository.clone(), name.clone()))
            .collect();
        stream::iter(deletes).buffered(DELETES_MAX).try_collect().await
    }

    pub(crate) async fn verify(&self, name: &str) -> Result<ObjectInfo> {
        self.repository.verify(name).await
    }

    pub(crate) async fn reclaim(&self, options: ReclaimOptions, progress: &ReclaimProgress) -> Result<Reclaimed> {
        self.repository.reclaim_watched(options, progress).await
    }

    /// Makes the catalog anew, unless that was just done: a repository whose catalog is lost is opened by a rebuild.
    pub(crate) async fn rebuild(&self, progress: &RebuildProgress) -> Result<RepositoryStatus> {
        match self.store.counters().catalogs_rebuilt.value() {
            0 => self.repository.rebuild_watched(progress).await,
            _ => self.repository.status(),
        }
    }

    pub(crate) async fn scrub(&self, options: ScrubOptions, counter: &Counter) -> Result<Scrubbed> {
        let progress = Arc::new(ScrubProgress::default());
        let _telling = Telling::scrub(&progress, counter);
        Ok(self.repository.scrub(options, &progress).await?.into())
    }

    pub(crate) async fn damaged_objects(&self, prefix: &str) -> Result<Vec<DamagedObject>> {
        self.repository.damaged_objects(prefix).await
    }

    pub(crate) async fn describe(&self) -> Result<Description> {
        let header = self.store.header(&self.repository.id().to_string()).await?;
        let parameters = self.repository.parameters();
        Ok(Description {
            totals: self.repository.status()?,
            chunk_avg_bytes: parameters.chunk_sizes.avg(),
            compression_level: parameters.level.number(),
            key_id: header.key_id,
            keyring_generation: header.generation,
        })
    }

    pub(crate) async fn check_head(&self, log_number: u64, head: Hash32) -> Result<bool> {
        self.repository.check_head(log_number, head)
    }
}

impl Watch {
    pub(crate) async fn next(&mut self) -> Result<Status> {
        self.interval.tick().await;
        self.store.status().await
    }
}

/// A scrub without keys of a store that nobody needs to open.
pub(crate) async fn scrub_bytes_at(location: &Location, options: ScrubOptions, counter: &Counter) -> Result<Scrubbed> {
    let progress = Arc::new(ScrubProgress::default());
    let _telling = Telling::scrub(&progress, counter);
    Ok(engine::Store::scrub_bytes_at(location, options, &progress)
        .await?
        .into())
}

/// A bar is told how far long work is, until this is dropped.
struct Telling(tokio::task::JoinHandle<()>);

impl Telling {
    fn scrub(progress: &Arc<ScrubProgress>, counter: &Counter) -> Self {
        let progress = progress.clone();
        Self::start(counter, move || (progress.bytes(), progress.bytes_expected()))
    }

    /// Tells again and again how much is done, of how much.
    fn start(counter: &Counter, tell: impl Fn() -> (u64, u64) + Send + 'static) -> Self {
        let counter = counter.clone();
        Self(tokio::spawn(async move {
            loop {
                let (done, total) = tell();
                counter.set(done, total);
                tokio::time::sleep(TELL_EVERY).await;
            }
        }))
    }
}

impl Drop for Telling {
    fn drop(&mut self) {
        self.0.abort();
    }
}

async fn delete(repository: engine::Repository, name: String) -> Result<bool> {
    repository.delete(&name, Precondition::None).await
}

/// The keys that these repositories need, and the one that is `given`, needed or not.
pub(crate) fn keys(headers: &[RepositoryHeader], given: Option<String>) -> Vec<Key> {
    let mut keys: BTreeMap<String, Vec<RepositoryId>> = BTreeMap::new();
    for header in headers {
        keys.entry(header.key_id.clone()).or_default().push(header.id);
    }
    if let Some(id) = &given {
        keys.entry(id.clone()).or_default();
    }
    let key = |(id, repositories)| Key {
        loaded: given.as_ref() == Some(&id),
        loaded_at_ms: None,
        repositories,
        id,
    };
    keys.into_iter().map(key).collect()
}
