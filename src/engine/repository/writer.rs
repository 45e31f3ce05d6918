//! The write side: who has it, and what a put asks of it.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinHandle;

use super::Repository;
use super::object::{PutOptions, PutOutcome, outcome};
use crate::backend::Class;
use crate::engine::allowance::PutClaim;
use crate::engine::core::Core;
use crate::engine::error::{Error, Reason, Result};
use crate::engine::in_flight::Holder;
use crate::engine::log::commit::Committer;
use crate::engine::log::ownership::{Ownership, check_fence};
use crate::engine::log::requests::{NewObject, Precondition, Request};
use crate::engine::recover;
use crate::engine::write::{Ledger, Packer, Source, ingest_stream, upload};
use crate::format::{ObjectName, ObjectVersion, Record, RepositoryName};

/// Requests that wait for the committer. Each waits for its answer, so this bounds callers, not throughput.
const REQUESTS_MAX: usize = 1024;

/// A put that nothing refused so far and that waits for its data.
pub struct Upload {
    pub(super) repository: Repository,
    pub(super) name: ObjectName,
    pub(super) options: PutOptions,
    pub(super) access: WriteAccess,
    pub(super) claim: PutClaim,
}

/// The write side of a repository, from taking an epoch to losing or closing it.
pub(super) struct Writer {
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

    /// The writer, taking an epoch if there is none.
    ///
    /// # Errors
    /// `ReadOnly` if the repository is on its way out; `Fenced`; whatever keeps an epoch from being taken.
    pub(crate) async fn write_access(&self) -> Result<WriteAccess> {
        self.write_access_if(|| self.core().departures.check(self.id())).await
    }

    /// As [`Self::write_access`], also for a repository that leaves: for who sees it off.
    pub(super) async fn write_access_to_leave(&self) -> Result<WriteAccess> {
        self.write_access_if(|| Ok(())).await
    }

    /// `may` is asked where nobody closes the writer: who gets it then is waited for before a repository leaves.
    async fn write_access_if(&self, may: impl Fn() -> Result<()>) -> Result<WriteAccess> {
        if self.inner.fenced.load(Ordering::Relaxed) {
            return Err(fenced());
        }
        // Whatever is done while this is held is waited for by everybody, so it is foreground whoever came first.
        let mut slot = self.inner.writer.lock().await;
        self.core().revocation.check()?;
        may()?;
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
                    Box::pin(writer.close()).await;
                    // Whatever it was that failed: who was overtaken meanwhile does not take the repository back.
                    if let Err(error) = Class::Foreground.scope(Box::pin(check_fence(self.core(), epoch))).await {
                        self.inner
                            .fenced
                            .store(error.reason() == Reason::Fenced, Ordering::Relaxed);
                        return Err(error);
                    }
                }
            }
        }
        // On the heap: every put asks, and few find no writer.
        let writer = Class::Foreground.scope(Box::pin(Writer::open(self.core()))).await?;
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
            Some(epoch) => Box::pin(check_fence(self.core(), epoch)).await,
            None => Box::pin(recover::follow_others(self.core())).await,
        }
    }

    /// Whether this process writes the repository now.
    pub(crate) async fn has_writer(&self) -> bool {
        self.inner.writer.lock().await.is_some()
    }

    /// Fails if no put may happen as things stand: the mode, or the state of this repository.
    pub(crate) async fn admit(&self) -> Result<()> {
        let core = self.core();
        core.departures.check(self.id())?;
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
            mut claim,
        } = self;
        let core = repository.core();
        let holder = Arc::new(core.in_flight.holder());
        let progress = options.progress.unwrap_or_default();
        let draft = ingest_stream(core, &access.packer, &holder, &name, source, &progress, &mut claim)
            .await
            .map_err(|error| repository.explain(error))?;
        let object = NewObject {
            name,
            size: draft.size,
            chunks: draft.chunks,
            crc32c: draft.crc32c,
            created_ms: now_ms(),
            put_id: options.put_id,
            metadata: options.metadata,
            content: draft.content.clone(),
            written: draft.written(),
        };
        let version = access.put(object, options.precondition, holder, claim).await?;
        Ok(outcome(version, &draft))
    }
}

impl Writer {
    async fn open(core: &Arc<Core>) -> Result<Self> {
        let ownership = Ownership::claim(core).await?;
        let epoch = ownership.epoch();
        let (tip, strays) = recover::adopt(core).await?;
        core.in_flight.reset();
        core.counters.writers_opened.add(1);
        let opening = Record::Open {
            adopted: tip.tip,
            head: tip.head,
            taken_over: Vec::new(),
        };
        let ledger = Arc::new(Ledger::default());
        let (full, full_packs) = mpsc::unbounded_channel();
        let packer = Arc::new(Packer::new(core, ledger.clone(), epoch, full));
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
            checkpoints: Default::default(),
            group: Default::default(),
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
    pub(super) async fn close(self) {
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
    pub(super) async fn put(
        &self,
        object: NewObject,
        precondition: Precondition,
        holder: Arc<Holder>,
        claim: PutClaim,
    ) -> Result<ObjectVersion> {
        let object = Box::new(object);
        self.ask(|reply| Request::Put {
            object,
            precondition,
            holder,
            claim: Some(claim),
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

/// Whether what frees a full volume is done once more after this. Puts that were under way when the room ran out end with
/// the commit that was to carry their data, and with it what else it was to carry; the next commit has no data.
pub(super) fn is_done_once_more(error: &Error) -> bool {
    error.reason() == Reason::NoCapacity
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

pub(super) fn now_ms() -> i64 {
    jiff::Timestamp::now().as_millisecond()
}
