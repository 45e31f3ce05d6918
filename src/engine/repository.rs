//! One repository of a store: everything a caller can do with its objects.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use tokio::sync::{Mutex, mpsc, oneshot};
use tokio::task::JoinHandle;

use super::core::Core;
use super::error::{Error, Reason, Result};
use super::in_flight::Holder;
use super::log::commit::Committer;
use super::log::ownership::{Ownership, check_fence};
use super::log::rebuild::{self, RebuildProgress};
use super::log::requests::{NewObject, Precondition, Request};
use super::random;
use super::read::{ByteRange, ObjectReader, hold, manifest_leaves};
use super::reclaim::{self, ReclaimOptions, Reclaimed};
use super::recover;
use super::write::{Draft, Ledger, ManifestBuilder, Packer, PutProgress, Source, ingest_stream, upload};
use crate::catalog::{DirtyKey, Lookup, Stats};
use crate::codec::RepositoryId;
use crate::format::record::{METADATA_LEN_MAX, metadata_len};
use crate::format::{
    Content, Hash32, LeafRef, ObjectName, ObjectVersion, Record, RepositoryName, RepositoryParameters,
};

/// Requests that wait for the committer. Each waits for its answer, so this bounds callers, not throughput.
const REQUESTS_MAX: usize = 1024;

/// Rows of objects that a listing reads at a time.
const LIST_ROWS: usize = 1024;

/// Metadata of an object: pairs of strings, kept with its record.
pub type Metadata = Vec<(String, String)>;

/// How a put is to be done.
#[derive(Clone, Debug, Default)]
pub struct PutOptions {
    /// What must hold for the put to happen; decided when its record is written.
    pub precondition: Precondition,
    /// The same id again returns the first result instead of putting twice. A random one is made if absent.
    pub put_id: Option<[u8; 16]>,
    /// Kept with the object; at most 16 KiB in all.
    pub metadata: Metadata,
    /// Told how far the put is.
    pub progress: Option<Arc<PutProgress>>,
}

/// The result of a put.
#[derive(Clone, Debug)]
pub struct PutOutcome {
    /// The object as it is now.
    pub object: ObjectInfo,
    /// Chunks that were not in the repository before.
    pub new_chunks: u64,
    /// Bytes of those, as written by the caller.
    pub new_bytes: u64,
    /// Bytes this put added to the backend: its share of the packs it wrote to.
    pub stored_bytes: u64,
}

/// What is known about an object without reading it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ObjectInfo {
    /// Its name.
    pub name: String,
    /// Its version: the sequence number of its record, growing over all writes of the repository.
    pub version: u64,
    /// Its length in bytes.
    pub bytes: u64,
    /// Its chunks.
    pub chunks: u64,
    /// CRC-32C of the whole.
    pub crc32c: u32,
    /// When its record was made, in milliseconds since 1970 UTC by the agent's clock.
    pub created_ms: i64,
    /// What the caller attached.
    pub metadata: Metadata,
}

/// A page of a listing. The order is stable but not that of names.
#[derive(Clone, Debug)]
pub struct Page {
    /// Objects of this page.
    pub objects: Vec<ObjectInfo>,
    /// Where the next page starts; absent at the end. Survives restarts.
    pub next: Option<[u8; 16]>,
}

/// Totals of a repository.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RepositoryStatus {
    /// Its name.
    pub name: String,
    /// Its id.
    pub id: RepositoryId,
    /// Objects.
    pub objects: u64,
    /// Chunks in use.
    pub chunks: u64,
    /// Packs in the store.
    pub packs: u64,
    /// Bytes as written by callers.
    pub logical_bytes: u64,
    /// Bytes after deduplication.
    pub unique_bytes: u64,
    /// Bytes of packs in the store, after compression and sealing.
    pub stored_bytes: u64,
    /// Bytes of blobs in packs that nothing refers to any more.
    pub garbage_bytes: u64,
    /// Number of the newest commit.
    pub log_number: u64,
    /// Hash over the whole log.
    pub head: Hash32,
}

/// An open repository. Cheap to clone; clones share the writer.
#[derive(Clone)]
pub struct Repository {
    pub(crate) inner: Arc<Inner>,
}

pub(crate) struct Inner {
    pub(crate) core: Arc<Core>,
    writer: Mutex<Option<Writer>>,
    /// Held by a reclaim or a rebuild, taken before `writer`: what one of them is about to read, another would drop.
    housekeeping: Mutex<()>,
    fenced: Arc<AtomicBool>,
    /// The last epoch in which what former ones left was looked for.
    cleared_epoch: AtomicU64,
}

/// A put that nothing refused so far and that waits for its data.
pub struct Upload {
    repository: Repository,
    name: ObjectName,
    options: PutOptions,
    access: WriteAccess,
}

/// The write side of a repository, from taking an epoch to losing or closing it.
struct Writer {
    packer: Arc<Packer>,
    ledger: Arc<Ledger>,
    requests: mpsc::Sender<Request>,
    committer: JoinHandle<()>,
    uploads: JoinHandle<()>,
    epoch: u64,
}

/// What an operation needs of the writer.
#[derive(Clone)]
pub(crate) struct WriteAccess {
    pub(crate) packer: Arc<Packer>,
    requests: mpsc::Sender<Request>,
    pub(crate) epoch: u64,
}

impl Repository {
    pub(crate) fn new(core: Arc<Core>, fenced: Arc<AtomicBool>) -> Self {
        Self {
            inner: Arc::new(Inner {
                core,
                writer: Mutex::new(None),
                housekeeping: Mutex::new(()),
                fenced,
                cleared_epoch: AtomicU64::new(0),
            }),
        }
    }

    pub(crate) fn core(&self) -> &Arc<Core> {
        &self.inner.core
    }

    /// The repository's name.
    pub fn name(&self) -> &RepositoryName {
        &self.core().secrets.parameters().name
    }

    /// What was fixed when it was created: name, chunk sizes, compression.
    pub fn parameters(&self) -> &RepositoryParameters {
        self.core().secrets.parameters()
    }

    /// The repository's id.
    pub fn id(&self) -> RepositoryId {
        self.core().secrets.repository()
    }

    /// Stores `source` under `name`. When this returns, the object survives a power cut.
    ///
    /// Memory is bounded by the store's budget, whatever the length of the stream. Dropping the future leaves nothing
    /// visible. With a `put_id` the call may be repeated: the first result is returned.
    ///
    /// # Errors
    /// `SourceFailed` if the source does; `ObjectExists` or `VersionMismatch` by the precondition; `NoCapacity`,
    /// `BackendUnavailable`, `Fenced` from the store; `OutcomeUnknown` if the commit may have happened.
    pub async fn put<S: Source>(&self, name: &str, source: S, options: PutOptions) -> Result<PutOutcome> {
        self.begin_put(name, options).await?.store(source).await
    }

    /// The part of [`put`](Self::put) before any data: whatever can refuse it by then does. What is decided for good is
    /// decided with the record, after the data.
    ///
    /// # Errors
    /// `InvalidName`, `InvalidArgument`; `ObjectExists` or `VersionMismatch` by the precondition as it stands now;
    /// `KeysUnavailable`, `NoCapacity`, `Fenced` from the store.
    pub async fn begin_put(&self, name: &str, options: PutOptions) -> Result<Upload> {
        let name = object_name(name)?;
        check_metadata(&options.metadata)?;
        self.admit().await?;
        let access = self.write_access().await?;
        let is_repeat = match &options.put_id {
            Some(id) => self.core().catalog.put_id(id)?.is_some(),
            None => false,
        };
        if !is_repeat {
            let present = self.core().catalog.object(&name)?.map(|object| object.sequence);
            options.precondition.check(&name, present)?;
        }
        Ok(Upload {
            repository: self.clone(),
            name,
            options,
            access,
        })
    }

    /// Opens an object for reading, whole or in part. The version is fixed from here on, whatever is written meanwhile.
    ///
    /// # Errors
    /// `ObjectNotFound`; `InvalidRange` if the range does not lie in the object; `DataLoss` if its manifest is damaged.
    pub async fn get(&self, name: &str, range: ByteRange) -> Result<ObjectReader> {
        let mut object = self.object(name)?;
        loop {
            match ObjectReader::open(self.core().clone(), object.clone(), range).await {
                Err(error) if error.reason() == Reason::DataLoss => object = self.newer(&object, error)?,
                opened => return opened,
            }
        }
    }

    /// What is known about an object.
    ///
    /// # Errors
    /// `ObjectNotFound`.
    pub async fn stat(&self, name: &str) -> Result<ObjectInfo> {
        self.object(name).map(ObjectInfo::from)
    }

    /// A page of objects whose names start with `prefix`, at most `limit`, after the place `after`.
    pub async fn list(&self, prefix: &str, after: Option<[u8; 16]>, limit: usize) -> Result<Page> {
        self.core().revocation.check()?;
        let limit = limit.clamp(1, 10_000);
        let mut objects = Vec::new();
        let mut after = after;
        loop {
            let state = self.core().catalog_state()?;
            // Behind a prefix most rows may be others'; without one as many are read as are wanted.
            let rows_max = if prefix.is_empty() {
                limit - objects.len()
            } else {
                LIST_ROWS
            };
            let rows = self.core().catalog.objects_page(after, rows_max.min(LIST_ROWS))?;
            if self.core().catalog_state()? != state {
                continue;
            }
            let Some((last, _)) = rows.last() else {
                return Ok(Page { objects, next: None });
            };
            after = Some(*last);
            for (key, object) in rows {
                if object.name.as_str().starts_with(prefix) {
                    objects.push(ObjectInfo::from(object));
                    if objects.len() == limit {
                        return Ok(Page {
                            objects,
                            next: Some(key),
                        });
                    }
                }
            }
        }
    }

    /// Makes `to` an object with the content of `from`, without moving data.
    ///
    /// # Errors
    /// `ObjectNotFound` if `from` does not exist; the precondition is about `to`.
    pub async fn copy(&self, from: &str, to: &str, options: PutOptions) -> Result<PutOutcome> {
        let target = object_name(to)?;
        check_metadata(&options.metadata)?;
        self.admit().await?;
        let access = self.write_access().await?;
        let core = self.core();
        let holder = Arc::new(core.in_flight.holder());
        let (source, leaves) = self.hold_content(from, &holder).await?;
        let stored = Arc::default();
        let content = match &source.content {
            Content::Inline(_) => source.content.clone(),
            Content::Root(_) => {
                let builder =
                    ManifestBuilder::new(core.clone(), access.packer.clone(), holder.clone(), Arc::clone(&stored));
                Content::Root(builder.store_root(&target, source.size, leaves).await?)
            }
        };
        let draft = Draft {
            content: content.clone(),
            size: source.size,
            chunks: source.chunks,
            new_chunks: 0,
            new_bytes: 0,
            crc32c: source.crc32c,
            stored,
        };
        let object = NewObject {
            name: target,
            size: source.size,
            chunks: source.chunks,
            crc32c: source.crc32c,
            created_ms: now_ms(),
            put_id: options.put_id.map_or_else(random, Ok)?,
            metadata: if options.metadata.is_empty() {
                source.metadata
            } else {
                options.metadata
            },
            content,
            written: draft.written(),
        };
        let version = access.put(object, options.precondition, holder).await?;
        Ok(outcome(version, &draft))
    }

    /// Removes an object; true if there was one. Readers that have it open go on; its space comes back by [`reclaim`].
    ///
    /// [`reclaim`]: Self::reclaim
    pub async fn delete(&self, name: &str, precondition: Precondition) -> Result<bool> {
        let name = object_name(name)?;
        let access = self.write_access().await?;
        access
            .ask(|reply| Request::Delete {
                name,
                precondition,
                reply,
            })
            .await
    }

    /// Reads an object and checks every byte of it, without returning any.
    ///
    /// # Errors
    /// `DataLoss` with the object and the place of the damage.
    pub async fn verify(&self, name: &str) -> Result<ObjectInfo> {
        let mut reader = self.get(name, ByteRange::All).await?;
        let mut crc = super::read::Crc32c::default();
        while let Some(bytes) = reader.next().await? {
            crc.update(&bytes);
        }
        let info = reader.info().clone();
        if crc.value() != info.crc32c {
            let line = format!("{name:?}: its chunks are intact but their sum does not match the one recorded at put");
            return Err(Error::data_loss(line));
        }
        Ok(info)
    }

    /// Gives back space: releases what deleted objects held and drops packs in which nothing is left. Puts and gets go
    /// on meanwhile.
    pub async fn reclaim(&self, options: ReclaimOptions) -> Result<Reclaimed> {
        self.core().revocation.check()?;
        let _alone = self.inner.housekeeping.lock().await;
        reclaim::run(self, options).await
    }

    /// Makes the catalog anew from the store alone.
    ///
    /// # Errors
    /// `DataLoss` if the log or a pack directory it needs is damaged.
    pub async fn rebuild(&self) -> Result<RepositoryStatus> {
        self.rebuild_watched(&RebuildProgress::default()).await
    }

    /// As [`Self::rebuild`], told how far it is. One that does not come to its end leaves what it read of packs for the
    /// next, which any use of the repository begins.
    ///
    /// # Errors
    /// As [`Self::rebuild`].
    pub async fn rebuild_watched(&self, progress: &RebuildProgress) -> Result<RepositoryStatus> {
        let _alone = self.inner.housekeeping.lock().await;
        // Kept until the end: a put must not look anything up in a catalog that is half made.
        let mut slot = self.inner.writer.lock().await;
        if let Some(writer) = slot.take() {
            writer.close().await;
        }
        let applying = self.core().apply.lock().await;
        self.core().revocation.check()?;
        rebuild::run(self.core(), progress).await?;
        drop(applying);
        self.status()
    }

    /// The end of a salvage: commits and writes two checkpoints, so that no rebuild comes by what is lost any more.
    pub(crate) async fn leave_lost_behind(&self) -> Result<()> {
        let core = self.core();
        if core.is_salvaging() {
            self.write_checkpoints(&[]).await?;
            let mut tx = core.catalog.begin();
            tx.end_rebuilding();
            tx.commit()?;
            core.store_catalog.persist()?;
            core.given_up.lock().clear();
            core.salvaging.store(false, Ordering::Release);
        }
        Ok(())
    }

    /// Writes the `dirty` parts of the tables anew: two checkpoints, so that none of those that are kept refers to what
    /// was there before.
    pub(crate) async fn write_checkpoints(&self, dirty: &[DirtyKey]) -> Result<()> {
        let core = self.core();
        let access = self.write_access().await?;
        {
            let _applying = core.apply.lock().await;
            let mut tx = core.catalog.begin();
            dirty.iter().for_each(|part| tx.mark_dirty(*part));
            tx.commit()?;
        }
        for _ in 0..2 {
            access.ask(|reply| Request::Checkpoint { reply }).await?;
        }
        Ok(())
    }

    /// Totals of the repository.
    pub fn status(&self) -> Result<RepositoryStatus> {
        let core = self.core();
        let tip = core.catalog.tip()?.unwrap_or_default();
        let Stats {
            objects,
            chunks,
            logical_bytes,
            unique_bytes,
            live_bytes,
            pack_bytes,
            blob_bytes,
            packs,
        } = tip.stats;
        Ok(RepositoryStatus {
            name: self.name().as_str().to_owned(),
            id: self.id(),
            objects,
            chunks,
            packs,
            logical_bytes,
            unique_bytes,
            stored_bytes: pack_bytes,
            garbage_bytes: blob_bytes.saturating_sub(live_bytes),
            log_number: tip.log_number(),
            head: tip.head,
        })
    }

    /// Compares the log with the state a caller saw last: the number of a commit and the head after it.
    ///
    /// # Errors
    /// `RolledBack` if the log does not contain that state. A state older than those kept answers `Ok(false)`.
    pub fn check_head(&self, log_number: u64, head: Hash32) -> Result<bool> {
        let state = self.core().catalog_state()?;
        let newest = self.core().catalog.tip()?.unwrap_or_default().log_number();
        let found = self.core().catalog.head(log_number)?;
        if self.core().catalog_state()? != state {
            return self.check_head(log_number, head);
        }
        match found {
            Some(found) if found == head => Ok(true),
            None if log_number <= newest => Ok(false),
            _ => Err(Error::new(
                Reason::RolledBack,
                format!(
                    "the store does not contain commit {log_number} with this head: it was set back or replaced (its newest commit is {newest})"
                ),
            )),
        }
    }

    /// Finishes what is in flight and gives up the writer; the next write takes a new epoch. Also done when the last
    /// clone is dropped, without waiting.
    pub async fn close(&self) {
        // The slot stays locked meanwhile: the next writer begins when this one has ended, or it would fence it.
        let mut slot = self.inner.writer.lock().await;
        if let Some(writer) = slot.take() {
            if let Err(error) = self.core().revocation.check() {
                writer.ledger.fail(error);
                self.core().in_flight.fail_all();
            }
            writer.close().await;
        }
    }

    fn object(&self, name: &str) -> Result<ObjectVersion> {
        self.core().revocation.check()?;
        let name = object_name(name)?;
        let core = self.core();
        let state = core.catalog_state()?;
        let found = core.catalog.object(&name)?;
        found.ok_or_else(|| core.absent(state, not_found(&name)))
    }

    /// The present version of an object whose content could not be held: it was deleted or replaced between the look
    /// at the catalog and the hold on its packs.
    ///
    /// # Errors
    /// `error` if it is still the same version; `ObjectNotFound` if there is none.
    fn newer(&self, object: &ObjectVersion, error: Error) -> Result<ObjectVersion> {
        let present = self.object(object.name.as_str())?;
        if present.sequence == object.sequence {
            Err(error)
        } else {
            Ok(present)
        }
    }

    /// An object with the leaves of its manifest, if it has one, all of it held.
    async fn hold_content(&self, name: &str, holder: &Arc<Holder>) -> Result<(ObjectVersion, Vec<LeafRef>)> {
        let mut object = self.object(name)?;
        loop {
            match self.hold_version(&object, holder).await {
                Ok(leaves) => return Ok((object, leaves)),
                Err(error) if error.reason() == Reason::DataLoss => object = self.newer(&object, error)?,
                Err(error) => return Err(error),
            }
        }
    }

    async fn hold_version(&self, object: &ObjectVersion, holder: &Arc<Holder>) -> Result<Vec<LeafRef>> {
        let core = self.core();
        match &object.content {
            Content::Inline(chunks) => {
                chunks
                    .iter()
                    .try_for_each(|chunk| hold(core, holder, &chunk.id).map(drop))?;
                Ok(Vec::new())
            }
            Content::Root(root) => {
                let leaves = manifest_leaves(core, holder, object, root).await?;
                leaves
                    .iter()
                    .try_for_each(|leaf| hold(core, holder, &leaf.id).map(drop))?;
                Ok(leaves)
            }
        }
    }

    /// The writer, taking an epoch if there is none.
    pub(crate) async fn write_access(&self) -> Result<WriteAccess> {
        if self.inner.fenced.load(Ordering::Relaxed) {
            return Err(fenced());
        }
        let mut slot = self.inner.writer.lock().await;
        self.core().revocation.check()?;
        if let Some(writer) = slot.as_ref() {
            match writer.ledger.failure() {
                None if !writer.committer.is_finished() => return Ok(writer.access()),
                Some(error) if error.reason() == Reason::Fenced => {
                    self.inner.fenced.store(true, Ordering::Relaxed);
                    return Err(fenced());
                }
                // It gave up, or its committer panicked. Its streams end by themselves, at once.
                _ => {
                    let writer = slot.take().expect("checked above");
                    let epoch = writer.epoch;
                    writer.close().await;
                    // Whatever it was that failed: who was overtaken meanwhile does not take the repository back.
                    if let Err(error) = check_fence(self.core(), epoch).await {
                        self.inner
                            .fenced
                            .store(error.reason() == Reason::Fenced, Ordering::Relaxed);
                        return Err(error);
                    }
                }
            }
        }
        let writer = Writer::open(self.core()).await?;
        let access = writer.access();
        *slot = Some(writer);
        Ok(access)
    }

    /// Learns what other agents wrote: to be asked before something that is not there is called missing.
    ///
    /// # Errors
    /// `Fenced` if this process writes the repository and was overtaken.
    pub(crate) async fn follow_others(&self) -> Result<()> {
        let epoch = self.inner.writer.lock().await.as_ref().map(|writer| writer.epoch);
        match epoch {
            Some(epoch) => check_fence(self.core(), epoch).await,
            None => recover::follow_others(self.core()).await,
        }
    }

    /// Whether this process writes the repository now.
    pub(crate) async fn has_writer(&self) -> bool {
        self.inner.writer.lock().await.is_some()
    }

    /// Fails if no put may happen as things stand: the mode, or the state of this repository.
    pub(crate) async fn admit(&self) -> Result<()> {
        let core = self.core();
        if core.gate.is_watched() && self.is_rolled_back() {
            return Err(rolled_back(self.name()));
        }
        match core.gate.admit().await {
            Err(error) if error.reason() == Reason::NoCapacity && self.drop_leftovers().await => {
                core.gate.admit_again().await
            }
            admitted => admitted,
        }
    }

    /// Deletes what former epochs left behind off the log; false if there can be nothing. What filled the volume may be
    /// the packs of a writer that gave up for want of room: without this nothing but a reclaim would ever free it.
    async fn drop_leftovers(&self) -> bool {
        let Ok(access) = self.write_access().await else {
            return false;
        };
        let former = self.inner.cleared_epoch.swap(access.epoch, Ordering::Relaxed);
        if former == access.epoch {
            return false;
        }
        let packs = Vec::new();
        access.ask(|reply| Request::Condemn { packs, reply }).await.is_ok()
    }

    /// Whether the log turned out to lack what this agent had seen on it, and nobody accepted that.
    pub(crate) fn is_rolled_back(&self) -> bool {
        self.core().rolled_back.load(Ordering::Relaxed)
    }

    pub(crate) fn accept_rollback(&self) {
        self.core().rolled_back.store(false, Ordering::Relaxed);
    }

    /// Whether another agent was seen to have taken over.
    pub(crate) fn is_fenced(&self) -> bool {
        if self.inner.fenced.load(Ordering::Relaxed) {
            return true;
        }
        let Ok(slot) = self.inner.writer.try_lock() else {
            return false;
        };
        let failure = slot.as_ref().and_then(|writer| writer.ledger.failure());
        let is_fenced = failure.is_some_and(|error| error.reason() == Reason::Fenced);
        if is_fenced {
            self.inner.fenced.store(true, Ordering::Relaxed);
        }
        is_fenced
    }

    /// A stream that failed because its writer did reports the writer's reason.
    fn explain(&self, error: Error) -> Error {
        let Ok(slot) = self.inner.writer.try_lock() else {
            return error;
        };
        let cause = slot.as_ref().and_then(|writer| writer.ledger.failure());
        cause.unwrap_or(error)
    }
}

impl Upload {
    /// Takes the data and stores the object; see [`Repository::put`].
    ///
    /// # Errors
    /// Those of `put`.
    pub async fn store<S: Source>(self, source: S) -> Result<PutOutcome> {
        let Self {
            repository,
            name,
            options,
            access,
        } = self;
        let core = repository.core();
        let holder = Arc::new(core.in_flight.holder());
        let progress = options.progress.unwrap_or_default();
        let draft = ingest_stream(core, &access.packer, &holder, &name, source, &progress)
            .await
            .map_err(|error| repository.explain(error))?;
        let object = NewObject {
            name,
            size: draft.size,
            chunks: draft.chunks,
            crc32c: draft.crc32c,
            created_ms: now_ms(),
            put_id: options.put_id.map_or_else(random, Ok)?,
            metadata: options.metadata,
            content: draft.content.clone(),
            written: draft.written(),
        };
        let version = access.put(object, options.precondition, holder).await?;
        Ok(outcome(version, &draft))
    }
}

impl Writer {
    async fn open(core: &Arc<Core>) -> Result<Self> {
        let ownership = Ownership::claim(core).await?;
        let epoch = ownership.epoch();
        let (tip, strays) = super::recover::adopt(core).await?;
        core.in_flight.reset();
        core.counters.writers_opened.add(1);
        let opening = Record::Open {
            adopted: tip.tip,
            head: tip.head,
            taken_over: Vec::new(),
        };
        let ledger = Arc::new(Ledger::default());
        let (full, full_packs) = mpsc::unbounded_channel();
        let packer = Arc::new(Packer::new(
            core.secrets.clone(),
            core.in_flight.clone(),
            ledger.clone(),
            core.options.pack_target(),
            epoch,
            full,
        ));
        let (requests, receiver) = mpsc::channel(REQUESTS_MAX);
        let committer = Committer {
            core: core.clone(),
            packer: packer.clone(),
            ledger: ledger.clone(),
            ownership,
            tip,
            opening: Some(opening),
            strays,
            waiting: Default::default(),
        };
        let uploads = upload::run(core.clone(), Arc::downgrade(&packer), ledger.clone(), full_packs);
        Ok(Self {
            uploads: tokio::spawn(uploads),
            committer: tokio::spawn(committer.run(receiver)),
            packer,
            ledger,
            requests,
            epoch,
        })
    }

    fn access(&self) -> WriteAccess {
        WriteAccess {
            packer: self.packer.clone(),
            requests: self.requests.clone(),
            epoch: self.epoch,
        }
    }

    /// Ends once every request that was accepted has its answer.
    async fn close(self) {
        let Self {
            packer,
            requests,
            committer,
            uploads,
            ..
        } = self;
        drop(requests);
        if committer.await.is_err() {
            tracing::error!("the committer panicked");
        }
        drop(packer);
        if uploads.await.is_err() {
            tracing::error!("the uploads panicked");
        }
    }
}

impl WriteAccess {
    async fn put(&self, object: NewObject, precondition: Precondition, holder: Arc<Holder>) -> Result<ObjectVersion> {
        let object = Box::new(object);
        self.ask(|reply| Request::Put {
            object,
            precondition,
            holder,
            reply,
        })
        .await
    }

    /// Sends a request to the committer and waits for its answer.
    pub(crate) async fn ask<T>(&self, request: impl FnOnce(oneshot::Sender<Result<T>>) -> Request) -> Result<T> {
        let (reply, answer) = oneshot::channel();
        self.requests.send(request(reply)).await.map_err(|_| closed())?;
        answer.await.map_err(|_| closed())?
    }
}

impl From<ObjectVersion> for ObjectInfo {
    fn from(object: ObjectVersion) -> Self {
        Self {
            name: object.name.as_str().to_owned(),
            version: object.sequence,
            bytes: object.size,
            chunks: object.chunks,
            crc32c: object.crc32c,
            created_ms: object.created_ms,
            metadata: object.metadata,
        }
    }
}

fn outcome(version: ObjectVersion, draft: &Draft) -> PutOutcome {
    PutOutcome {
        object: ObjectInfo::from(version),
        new_chunks: draft.new_chunks,
        new_bytes: draft.new_bytes,
        stored_bytes: draft.stored_bytes(),
    }
}

fn object_name(name: &str) -> Result<ObjectName> {
    ObjectName::new(name).map_err(|error| Error::new(Reason::InvalidName, error.to_string()))
}

fn check_metadata(metadata: &Metadata) -> Result<()> {
    let bytes = metadata_len(metadata);
    if bytes > METADATA_LEN_MAX {
        let line = format!(
            "metadata of {bytes} bytes is too large; at most {} are kept",
            METADATA_LEN_MAX
        );
        return Err(Error::new(Reason::InvalidArgument, line));
    }
    Ok(())
}

fn not_found(name: &ObjectName) -> Error {
    Error::new(
        Reason::ObjectNotFound,
        format!("no object is called {:?}", name.as_str()),
    )
}

fn fenced() -> Error {
    Error::new(
        Reason::Fenced,
        "another agent has taken over this repository; this process writes no more, restart it to take it back",
    )
}

fn rolled_back(name: &RepositoryName) -> Error {
    let line = format!(
        "repository {:?} shows an older state than this agent has seen; find out who set the store back, then make it \
         writable again",
        name.as_str()
    );
    Error::new(Reason::RolledBack, line)
}

fn closed() -> Error {
    Error::new(
        Reason::OutcomeUnknown,
        "the writer was closed before it answered; repeat with the same put id",
    )
}

fn now_ms() -> i64 {
    jiff::Timestamp::now().as_millisecond()
}
