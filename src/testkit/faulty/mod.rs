//! An object store that fails when told to, and remembers what was asked of it.
//!
//! Operations are counted from 0 in the order in which they begin. A listing is one operation, and so is every single
//! deletion. Only what goes through [`Backend`](crate::backend::Backend) is known here: no multipart, no copies.
//!
//! Beside it: what a crash leaves of a recorded history ([`Image`]), a catalog that does the same ([`FaultyTables`]), and
//! the order of events that all of them share ([`Timeline`]).

mod hold;
mod image;
mod journal;
mod tables;

use std::collections::BTreeMap;
use std::fmt;
use std::ops::Range;
use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use futures::stream::{self, BoxStream};
use futures::{StreamExt, TryFutureExt, TryStreamExt};
use object_store::path::Path;
use object_store::{
    CopyOptions, GetOptions, GetResult, ListResult, MultipartUpload, ObjectMeta, ObjectStore, ObjectStoreExt, PutMode,
    PutMultipartOptions, PutOptions, PutPayload, PutResult, Result,
};
use parking_lot::Mutex;
use tokio::sync::Notify;

use self::hold::Held;
pub use self::hold::Waiting;
pub use self::image::{Change, Image, store_of};
pub use self::journal::{Event, Kind, Step, Timeline};
pub use self::tables::{Access, FaultyTables, Stop};
use crate::backend::{Backend, Location};

/// What goes wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// The operation with this number fails and does nothing.
    Refuse(usize),
    /// The operation with this number is done, and its caller is told that it failed.
    LoseAnswer(usize),
    /// The operation with this number fails. If it is a put, the first half of its bytes is stored.
    Tear(usize),
    /// The operation with this number fails, and is done later: by [`Faulty::land`].
    Late(usize),
    /// The operation with this number is neither done nor answered until [`Faulty::land`]; then it fails.
    Hang(usize),
    /// From this number on nothing is done and everything fails: the process was killed, as far as the store can tell.
    Freeze(usize),
}

/// What an operation says that is refused.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Saying {
    /// Nothing that could be told from other failures.
    #[default]
    Nothing,
    /// What the operating system says under this number.
    Errno(i32),
    /// That data was written and cannot be made durable.
    NotSynced,
}

/// Turns given to other tasks before a put whose path is accepted is done.
type Delay = (fn(&str) -> bool, usize);

/// Whether an operation waits until it is told to go on.
type Gate = Box<dyn Fn(Kind, &str) -> bool + Send + Sync>;

/// A store over another one. Clones share the journal and the faults.
#[derive(Clone)]
pub struct Faulty {
    inner: Arc<dyn ObjectStore>,
    shared: Arc<Shared>,
    delay: Option<Delay>,
}

#[derive(Default)]
struct Shared {
    timeline: Timeline,
    state: Mutex<State>,
    /// An operation waits that did not before, or landed.
    changed: Notify,
}

#[derive(Default)]
struct State {
    faults: Vec<Fault>,
    saying: Saying,
    operations: usize,
    journal: Vec<Event>,
    gate: Option<Gate>,
    held: BTreeMap<usize, Held>,
    late: Vec<(Operation, Work)>,
    landings: usize,
}

/// What an operation does.
enum Work {
    Put(PutPayload, PutOptions),
    Delete,
    /// Done by whoever asked.
    Read,
}

impl Faulty {
    /// A store that does what `inner` does.
    pub fn over(inner: Arc<dyn ObjectStore>) -> Self {
        Self {
            inner,
            shared: Arc::default(),
            delay: None,
        }
    }

    /// Tells its history on this timeline. To be asked before anything happens.
    #[must_use]
    pub fn on(mut self, timeline: &Timeline) -> Self {
        self.shared = Arc::new(Shared {
            timeline: timeline.clone(),
            ..Shared::default()
        });
        self
    }

    /// Lets puts of the paths that `slow` accepts come in behind others.
    #[must_use]
    pub fn delaying(mut self, slow: fn(&str) -> bool, turns: usize) -> Self {
        self.delay = Some((slow, turns));
        self
    }

    /// A backend over this store.
    pub fn backend(&self) -> Backend {
        Backend::with_object_store(Arc::new(self.clone()), Location::Memory("faulty".to_owned()))
    }

    /// Orders faults, or none. Operations are counted from 0 again, and the journal starts anew.
    pub fn order(&self, faults: impl IntoIterator<Item = Fault>) {
        self.order_saying(faults, Saying::Nothing);
    }

    /// As [`order`](Self::order), with what operations say that are refused.
    pub fn order_saying(&self, faults: impl IntoIterator<Item = Fault>, saying: Saying) {
        let mut state = self.shared.state.lock();
        state.saying = saying;
        state.faults = faults.into_iter().collect();
        state.operations = 0;
        state.journal.clear();
    }

    /// Operations that began since the last order.
    pub fn operations(&self) -> usize {
        self.shared.state.lock().operations
    }

    /// What happened since the last order.
    pub fn journal(&self) -> Vec<Event> {
        self.shared.state.lock().journal.clone()
    }

    /// Does what was ordered to come late, in the order in which it was asked for, and ends what hangs.
    pub async fn land(&self) {
        let late = {
            let mut state = self.shared.state.lock();
            state.landings += 1;
            std::mem::take(&mut state.late)
        };
        self.shared.changed.notify_waiters();
        for (operation, work) in late {
            // Nobody is told any more.
            let _ = self.perform(&operation, work).await;
        }
    }

    fn begin(&self, kind: Kind, path: &str, payload: Option<Bytes>) -> Operation {
        let mut state = self.shared.state.lock();
        let number = state.operations;
        state.operations += 1;
        let fault = state.faults.iter().copied().find(|fault| fault.meets(number));
        let operation = Operation {
            number,
            kind,
            path: path.to_owned(),
            fault,
            landings: state.landings,
        };
        let event = operation.event(&self.shared.timeline, Step::Began, payload);
        state.journal.push(event);
        operation
    }

    async fn pause(&self, path: &str) {
        if let Some((slow, turns)) = self.delay
            && slow(path)
        {
            for _ in 0..turns {
                tokio::task::yield_now().await;
            }
        }
    }

    /// Takes an operation through its fault and the gate. For a read it tells whether it may be done.
    async fn run(&self, operation: &Operation, work: Work) -> Result<Option<PutResult>> {
        match operation.fault {
            Some(Fault::Refuse(_) | Fault::Freeze(_)) => {
                let saying = self.shared.state.lock().saying;
                let result = Err(operation.refusal(saying));
                self.note(operation, &result);
                result
            }
            Some(Fault::LoseAnswer(_)) => {
                // A read without an answer is one that was not done.
                if !matches!(work, Work::Read) {
                    let _ = self.perform(operation, work).await;
                }
                self.fail(operation, "done, but the answer was lost")
            }
            Some(Fault::Tear(_)) => {
                if let Work::Put(payload, options) = work {
                    let bytes = Bytes::from(payload);
                    let half = bytes.slice(..bytes.len() / 2);
                    let _ = self.perform(operation, Work::Put(half.into(), options)).await;
                }
                self.fail(operation, "torn")
            }
            Some(Fault::Late(_)) => {
                self.shared.state.lock().late.push((operation.clone(), work));
                self.fail(operation, "given up by the caller")
            }
            Some(Fault::Hang(_)) => {
                self.hang(operation.landings).await;
                self.fail(operation, "never answered")
            }
            None => match self.admit(operation, work) {
                Ok(work) => self.perform(operation, work).await,
                Err(answer) => answer.await.unwrap_or_else(|_| Err(operation.error("abandoned"))),
            },
        }
    }

    /// Waits for a landing after the first `landings`: also for one since the operation began and before it got here.
    async fn hang(&self, landings: usize) {
        loop {
            let changed = self.shared.changed.notified();
            if self.shared.state.lock().landings > landings {
                return;
            }
            changed.await;
        }
    }

    /// Does it, and notes how it ended. Reads are done and noted by whoever asked.
    async fn perform(&self, operation: &Operation, work: Work) -> Result<Option<PutResult>> {
        let path = Path::from(operation.path.as_str());
        let result = match work {
            Work::Put(payload, options) => self.inner.put_opts(&path, payload, options).await.map(Some),
            Work::Delete => self.inner.delete(&path).await.map(|()| None),
            Work::Read => return Ok(None),
        };
        self.note(operation, &result);
        result
    }

    fn fail<T>(&self, operation: &Operation, how: &str) -> Result<T> {
        let result = Err(operation.error(how));
        self.note(operation, &result);
        result
    }

    fn note<T>(&self, operation: &Operation, result: &Result<T>) {
        let step = if result.is_ok() { Step::Done } else { Step::Failed };
        let mut state = self.shared.state.lock();
        let event = operation.event(&self.shared.timeline, step, None);
        state.journal.push(event);
    }

    async fn read<T>(&self, operation: &Operation, work: impl Future<Output = Result<T>>) -> Result<T> {
        self.run(operation, Work::Read).await?;
        let result = work.await;
        self.note(operation, &result);
        result
    }
}

impl Fault {
    fn meets(self, operation: usize) -> bool {
        match self {
            Fault::Refuse(at) | Fault::LoseAnswer(at) | Fault::Tear(at) | Fault::Late(at) | Fault::Hang(at) => {
                at == operation
            }
            Fault::Freeze(from) => operation >= from,
        }
    }
}

/// One operation under way.
#[derive(Clone)]
struct Operation {
    number: usize,
    kind: Kind,
    path: String,
    fault: Option<Fault>,
    /// Landings before it began.
    landings: usize,
}

impl Operation {
    fn event(&self, timeline: &Timeline, step: Step, payload: Option<Bytes>) -> Event {
        Event {
            at: timeline.now(),
            operation: self.number,
            kind: self.kind,
            path: self.path.clone(),
            step,
            payload,
        }
    }

    fn refusal(&self, saying: Saying) -> object_store::Error {
        let source: Box<dyn std::error::Error + Send + Sync> = match saying {
            Saying::Nothing => return self.error("refused"),
            Saying::Errno(errno) => std::io::Error::from_raw_os_error(errno).into(),
            // The words of `LocalFileSystem`.
            Saying::NotSynced => format!("Unable to sync data to disk for {}: EIO", self.path).into(),
        };
        object_store::Error::Generic {
            store: "faulty",
            source,
        }
    }

    fn error(&self, how: &str) -> object_store::Error {
        object_store::Error::Generic {
            store: "faulty",
            source: format!("operation {} ({:?} {}) was {how}", self.number, self.kind, self.path).into(),
        }
    }
}

impl fmt::Display for Faulty {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "faulty over {}", self.inner)
    }
}

impl fmt::Debug for Faulty {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

#[async_trait]
impl ObjectStore for Faulty {
    async fn put_opts(&self, location: &Path, payload: PutPayload, opts: PutOptions) -> Result<PutResult> {
        let bytes = Bytes::from(payload.clone());
        let operation = self.begin(Kind::Put, location.as_ref(), Some(bytes));
        if opts.mode == PutMode::Overwrite {
            self.pause(location.as_ref()).await;
        }
        let put = self.run(&operation, Work::Put(payload, opts)).await?;
        put.ok_or_else(|| operation.error("not a put"))
    }

    async fn put_multipart_opts(&self, _: &Path, _: PutMultipartOptions) -> Result<Box<dyn MultipartUpload>> {
        Err(unused("multipart upload"))
    }

    async fn get_opts(&self, location: &Path, options: GetOptions) -> Result<GetResult> {
        let operation = self.begin(Kind::Get, location.as_ref(), None);
        self.read(&operation, self.inner.get_opts(location, options)).await
    }

    async fn get_ranges(&self, _: &Path, _: &[Range<u64>]) -> Result<Vec<Bytes>> {
        Err(unused("get of several ranges"))
    }

    fn delete_stream(&self, locations: BoxStream<'static, Result<Path>>) -> BoxStream<'static, Result<Path>> {
        let store = self.clone();
        let delete = move |location: Path| {
            let store = store.clone();
            async move {
                let operation = store.begin(Kind::Delete, location.as_ref(), None);
                store.run(&operation, Work::Delete).await?;
                Ok(location)
            }
        };
        locations.and_then(delete).boxed()
    }

    fn list(&self, prefix: Option<&Path>) -> BoxStream<'static, Result<ObjectMeta>> {
        let (inner, of) = (self.inner.clone(), prefix.cloned());
        self.listing(prefix, move || inner.list(of.as_ref()))
    }

    fn list_with_offset(&self, prefix: Option<&Path>, offset: &Path) -> BoxStream<'static, Result<ObjectMeta>> {
        let (inner, of, offset) = (self.inner.clone(), prefix.cloned(), offset.clone());
        self.listing(prefix, move || inner.list_with_offset(of.as_ref(), &offset))
    }

    async fn list_with_delimiter(&self, prefix: Option<&Path>) -> Result<ListResult> {
        let operation = self.begin(Kind::List, prefix.map_or("", AsRef::as_ref), None);
        self.read(&operation, self.inner.list_with_delimiter(prefix)).await
    }

    async fn copy_opts(&self, _: &Path, _: &Path, _: CopyOptions) -> Result<()> {
        Err(unused("copy"))
    }
}

impl Faulty {
    /// The answer of a listing is whole or an error: [`Backend`] reads it to its end anyway. It tells what is there when
    /// it is let through.
    fn listing(
        &self,
        prefix: Option<&Path>,
        listing: impl FnOnce() -> BoxStream<'static, Result<ObjectMeta>> + Send + 'static,
    ) -> BoxStream<'static, Result<ObjectMeta>> {
        let operation = self.begin(Kind::List, prefix.map_or("", AsRef::as_ref), None);
        let store = self.clone();
        let whole = async move {
            store
                .read(&operation, async { listing().try_collect::<Vec<_>>().await })
                .await
        };
        let items = whole.map_ok(|items| stream::iter(items.into_iter().map(Ok)));
        stream::once(items).try_flatten().boxed()
    }
}

fn unused(operation: &str) -> object_store::Error {
    object_store::Error::NotSupported {
        source: format!("{operation}: nothing of Cairn uses it").into(),
    }
}
