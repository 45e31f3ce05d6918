//! An object store that fails when told to, and remembers what was asked of it.
//!
//! Operations are counted from 0 in the order in which they begin. A listing is one operation, and so is every single
//! deletion. Only what goes through [`Backend`](crate::backend::Backend) is known here: no multipart, no copies.

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

use crate::backend::{Backend, Location};

/// What goes wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// The operation with this number fails and does nothing.
    Refuse(usize),
    /// The operation with this number is done, and its caller is told that it failed.
    LoseAnswer(usize),
    /// From this number on nothing is done and everything fails: the process was killed, as far as the store can tell.
    Freeze(usize),
}

/// What a failing operation says.
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

/// Kinds of operation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// A put, also a conditional one.
    Put,
    /// A get of any kind, also of the head only.
    Get,
    /// A listing of any kind.
    List,
    /// A deletion.
    Delete,
}

/// Something that happened, in order.
#[derive(Debug, Clone)]
pub struct Event {
    /// Number of the operation.
    pub operation: usize,
    /// What it is.
    pub kind: Kind,
    /// The object, or the prefix of a listing.
    pub path: String,
    /// Whether it began, or ended and how.
    pub step: Step,
    /// The bytes of a put.
    pub payload: Option<Bytes>,
}

/// A step of an operation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Step {
    /// It was asked for.
    Began,
    /// It was done, and the caller told so.
    Done,
    /// The caller was told that it failed.
    Failed,
}

/// Turns given to other tasks before a put whose path is accepted is done.
type Delay = (fn(&str) -> bool, usize);

/// A store over another one. Clones share the journal and the faults.
#[derive(Clone)]
pub struct Faulty {
    inner: Arc<dyn ObjectStore>,
    state: Arc<Mutex<State>>,
    delay: Option<Delay>,
}

#[derive(Default)]
struct State {
    fault: Option<Fault>,
    saying: Saying,
    operations: usize,
    journal: Vec<Event>,
}

impl Faulty {
    /// A store that does what `inner` does.
    pub fn over(inner: Arc<dyn ObjectStore>) -> Self {
        Self {
            inner,
            state: Arc::default(),
            delay: None,
        }
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

    /// Orders a fault, or none. Operations are counted from 0 again, and the journal starts anew.
    pub fn order(&self, fault: Option<Fault>) {
        self.order_saying(fault, Saying::Nothing);
    }

    /// As [`order`](Self::order), with what is said of operations that fail and are not done.
    pub fn order_saying(&self, fault: Option<Fault>, saying: Saying) {
        *self.state.lock() = State {
            fault,
            saying,
            ..State::default()
        };
    }

    /// Operations that began since the last order.
    pub fn operations(&self) -> usize {
        self.state.lock().operations
    }

    /// What happened since the last order.
    pub fn journal(&self) -> Vec<Event> {
        self.state.lock().journal.clone()
    }

    fn begin(&self, kind: Kind, path: &str, payload: Option<Bytes>) -> Operation {
        let mut state = self.state.lock();
        let number = state.operations;
        state.operations += 1;
        let (refuse, lose) = match state.fault {
            Some(Fault::Refuse(at)) => (at == number, false),
            Some(Fault::LoseAnswer(at)) => (false, at == number),
            Some(Fault::Freeze(from)) => (number >= from, false),
            None => (false, false),
        };
        let operation = Operation {
            store: self.clone(),
            number,
            kind,
            path: path.to_owned(),
            refuse,
            lose,
        };
        state.journal.push(operation.event(Step::Began, payload));
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
}

/// One operation under way.
struct Operation {
    store: Faulty,
    number: usize,
    kind: Kind,
    path: String,
    refuse: bool,
    lose: bool,
}

impl Operation {
    async fn run<T>(self, work: impl Future<Output = Result<T>>) -> Result<T> {
        if self.refuse {
            return self.end(Err(self.refusal()));
        }
        let result = work.await;
        if self.lose {
            return self.end(Err(self.error("done, but the answer was lost")));
        }
        self.end(result)
    }

    fn end<T>(&self, result: Result<T>) -> Result<T> {
        let step = if result.is_ok() { Step::Done } else { Step::Failed };
        let event = self.event(step, None);
        self.store.state.lock().journal.push(event);
        result
    }

    fn event(&self, step: Step, payload: Option<Bytes>) -> Event {
        Event {
            operation: self.number,
            kind: self.kind,
            path: self.path.clone(),
            step,
            payload,
        }
    }

    fn refusal(&self) -> object_store::Error {
        let saying = self.store.state.lock().saying;
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
        operation.run(self.inner.put_opts(location, payload, opts)).await
    }

    async fn put_multipart_opts(&self, _: &Path, _: PutMultipartOptions) -> Result<Box<dyn MultipartUpload>> {
        Err(unused("multipart upload"))
    }

    async fn get_opts(&self, location: &Path, options: GetOptions) -> Result<GetResult> {
        let operation = self.begin(Kind::Get, location.as_ref(), None);
        operation.run(self.inner.get_opts(location, options)).await
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
                operation.run(store.inner.delete(&location)).await?;
                Ok(location)
            }
        };
        locations.and_then(delete).boxed()
    }

    fn list(&self, prefix: Option<&Path>) -> BoxStream<'static, Result<ObjectMeta>> {
        self.listing(prefix, self.inner.list(prefix))
    }

    fn list_with_offset(&self, prefix: Option<&Path>, offset: &Path) -> BoxStream<'static, Result<ObjectMeta>> {
        self.listing(prefix, self.inner.list_with_offset(prefix, offset))
    }

    async fn list_with_delimiter(&self, prefix: Option<&Path>) -> Result<ListResult> {
        let operation = self.begin(Kind::List, prefix.map_or("", AsRef::as_ref), None);
        operation.run(self.inner.list_with_delimiter(prefix)).await
    }

    async fn copy_opts(&self, _: &Path, _: &Path, _: CopyOptions) -> Result<()> {
        Err(unused("copy"))
    }
}

impl Faulty {
    /// The answer of a listing is whole or an error: [`Backend`] reads it to its end anyway.
    fn listing(
        &self,
        prefix: Option<&Path>,
        listing: BoxStream<'static, Result<ObjectMeta>>,
    ) -> BoxStream<'static, Result<ObjectMeta>> {
        let operation = self.begin(Kind::List, prefix.map_or("", AsRef::as_ref), None);
        let whole = operation.run(listing.try_collect::<Vec<_>>());
        let items = whole.map_ok(|items| stream::iter(items.into_iter().map(Ok)));
        stream::once(items).try_flatten().boxed()
    }
}

fn unused(operation: &str) -> object_store::Error {
    object_store::Error::NotSupported {
        source: format!("{operation}: nothing of Cairn uses it").into(),
    }
}
