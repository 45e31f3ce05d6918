//! Whole immutable objects in a directory, a bucket or memory, durable when a call returns.
//!
//! A thin layer over `object_store`: it owns how a place is attached, what has to be done on a volume so that "returned"
//! means "survives a power cut", and what each failure means to a caller ([`ErrorKind`]). It knows nothing of packs or keys:
//! paths are strings relative to the store's prefix, contents are bytes. Retries inside one request are the client's (see
//! `attach/s3.rs`); nothing here repeats a write.
//!
//! Every future may be dropped. A write that was under way then may or may not have happened.

mod attach;
mod bucket;
mod counters;
mod error;
mod health;
mod location;
mod lock;
mod reserve;
mod shaping;
mod staged;
mod volume;
mod watched;

// The suite runs on all backends or not at all.
#[cfg(test)]
#[cfg(feature = "s3")]
mod tests;

use std::ops::{DerefMut, Range};
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use futures::TryStreamExt;
use object_store::path::Path as ObjectPath;
use object_store::{GetOptions, GetRange, ObjectStore, ObjectStoreExt, PutMode};

pub use attach::Attach;
#[cfg(feature = "s3")]
pub use attach::S3Access;
pub use counters::{BOUNDS_SECONDS, Count, Counters, Histogram, HistogramSnapshot, Operation, Outcome};
pub use error::{Cause, Error, ErrorKind};
pub use health::{Failure, Health, Trouble};
pub use location::Location;
pub use lock::Lock;
pub use shaping::{Class, Passed, Rate, Rates, Shaper};
pub use volume::{Look, Presence, Space};

pub(crate) use bucket::Bucket;

use volume::Volume;
use watched::{TRIAL_PREFIX, trial_name};

/// A store's place, attached. Clones share everything.
#[derive(Debug, Clone)]
pub struct Backend {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    location: Location,
    store: Arc<dyn ObjectStore>,
    volume: Option<Volume>,
    health: Health,
    counters: Counters,
    shaper: Shaper,
    /// Name of this backend's trial object: two agents on one bucket do not meet.
    trial: String,
}

/// A range of so many bytes is read by whoever asks for it, if it is in memory: handing it to another thread takes longer than
/// copying it, which takes about 10 us.
const AT_ONCE_BYTES_MAX: u64 = 64 << 10;

/// What a write may use when a volume is full.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Room {
    /// What is free beside the reserve: data.
    Free,
    /// The reserve too, when nothing else is left: what a full volume is freed with.
    Reserve,
}

/// What a conditional creation found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Created {
    /// Nothing was there; the object is there now.
    New,
    /// Something of that name is there; it was not touched. After a repeated request it may be our own: read it back.
    Exists,
}

/// One object of a listing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Listed {
    /// Relative to the store's prefix.
    pub path: String,
    /// Bytes.
    pub size: u64,
}

impl Backend {
    /// Attaches the place, and fails now rather than later if it cannot be used: a directory is opened, a bucket is asked one
    /// question (one request, plus what its credentials need).
    pub async fn attach(location: &Location, attach: Attach) -> Result<Self, Error> {
        attach::attach(location, attach).await
    }

    /// Attaches a bucket with the given endpoint and credentials instead of those of the environment.
    #[cfg(feature = "s3")]
    pub async fn with_s3(bucket: &str, prefix: &str, access: S3Access) -> Result<Self, Error> {
        attach::attach_s3(bucket, prefix, access).await
    }

    /// A backend over a store made by the caller, with paths relative to that store: for decorated stores in tests.
    ///
    /// Never a volume, whatever the location says: the location is only what messages print.
    pub fn with_object_store(store: Arc<dyn ObjectStore>, location: Location) -> Self {
        Self::assemble(location, store, None)
    }

    fn assemble(location: Location, store: Arc<dyn ObjectStore>, volume: Option<Volume>) -> Self {
        Self {
            inner: Arc::new(Inner {
                location,
                store,
                volume,
                health: Health::default(),
                counters: Counters::default(),
                shaper: Shaper::default(),
                trial: trial_name(),
            }),
        }
    }

    /// Where it is; a directory as an absolute path without symbolic links.
    pub fn location(&self) -> &Location {
        &self.inner.location
    }

    /// Whether the store is in a directory, with what follows: locks, free space, fsync that can fail.
    pub fn is_volume(&self) -> bool {
        self.inner.volume.is_some()
    }

    /// Stores an object, replacing one of the same name at once: no reader ever sees a part. Durable on return.
    ///
    /// After an error the object may be there or not. On a volume it may even be readable without being durable: void it.
    pub async fn put(&self, path: &str, payload: Bytes) -> Result<(), Error> {
        self.put_using(path, payload, Room::Free).await
    }

    /// As [`put`](Self::put), using this room. With the reserve, what found no room on a volume is written once more from
    /// its beginning, to another file, after some of the reserve was given back.
    pub async fn put_using(&self, path: &str, payload: Bytes, room: Room) -> Result<(), Error> {
        let object = self.object(path)?;
        let bytes = payload.len() as u64;
        match self.put_object(&object, payload.clone(), room).await {
            Err(error) if room == Room::Reserve && error.is_want_of_room() => {
                let made = self.on_volume(path, move |volume, _| Ok(volume.make_more_room(bytes)));
                match made.await? {
                    Some(true) => self.put_object(&object, payload, room).await,
                    _ => Err(error),
                }
            }
            put => put,
        }
    }

    /// As [`Self::put_using`], for what nobody waits for: on a volume a mebibyte at a time is written and synced, with rests as
    /// long as `rest` says for what the step took. So whoever syncs something else meanwhile waits for little of it.
    pub async fn put_gently(
        &self,
        path: &str,
        payload: Bytes,
        room: Room,
        rest: &(dyn Fn(Duration) -> Duration + Send + Sync),
    ) -> Result<(), Error> {
        const STEP_BYTES: usize = 1 << 20;
        if !self.is_volume() || payload.len() <= STEP_BYTES {
            return self.put_using(path, payload, room).await;
        }
        let object = self.object(path)?;
        let bytes = payload.len() as u64;
        self.watched(Operation::Put, bytes, async {
            let staged = self.on_volume(object.as_ref(), move |volume, path| {
                if room == Room::Reserve {
                    volume.make_room(bytes);
                }
                volume.stage(path, bytes as usize)
            });
            let mut staged = staged.await?.expect("it is a volume");
            for start in (0..payload.len()).step_by(STEP_BYTES) {
                let step = payload.slice(start..payload.len().min(start + STEP_BYTES));
                let began = Instant::now();
                staged = blocking(self.place(path), move || staged.write_and_sync(&step).map(|()| staged)).await?;
                let rest = rest(began.elapsed());
                if !rest.is_zero() {
                    tokio::time::sleep(rest).await;
                }
            }
            blocking(self.place(path), move || staged.publish()).await
        })
        .await
    }

    async fn put_object(&self, object: &ObjectPath, payload: Bytes, room: Room) -> Result<(), Error> {
        let path = object.as_ref();
        let bytes = payload.len() as u64;
        self.watched(Operation::Put, bytes, async {
            let contents = payload.clone();
            let written = self.on_volume(path, move |volume, path| {
                if room == Room::Reserve {
                    volume.make_room(bytes);
                }
                volume.write(path, &contents)
            });
            if written.await?.is_some() {
                return Ok(());
            }
            let put = self.inner.store.put(object, payload.into()).await;
            put.map(drop).map_err(|error| self.failed(path, error))
        })
        .await
    }

    /// Stores an object unless one of that name exists; of several callers at once exactly one creates it. Durable on return.
    /// Uses the reserve.
    pub async fn create(&self, path: &str, payload: Bytes) -> Result<Created, Error> {
        let object = self.object(path)?;
        self.watched(Operation::Create, payload.len() as u64, async {
            let contents = payload.clone();
            if let Some(created) = self
                .on_volume(path, move |volume, path| volume.create(path, &contents))
                .await?
            {
                return Ok(created);
            }
            let create = PutMode::Create.into();
            match self.inner.store.put_opts(&object, payload.into(), create).await {
                Ok(_) => Ok(Created::New),
                Err(error) => match self.failed(path, error) {
                    Error::AlreadyExists { .. } => Ok(Created::Exists),
                    error => Err(error),
                },
            }
        })
        .await
    }

    /// A whole object.
    pub async fn get(&self, path: &str) -> Result<Bytes, Error> {
        let (bytes, _) = self.read(path, None).await?;
        Ok(bytes)
    }

    /// Exactly the bytes of `range`; [`Error::Truncated`] if the object ends before them. An empty range asks nothing.
    pub async fn get_range(&self, path: &str, range: Range<u64>) -> Result<Bytes, Error> {
        self.get_range_into(path, range, |len| vec![0; len]).await
    }

    /// As [`get_range`](Self::get_range), on a volume into what `take` makes for so many bytes: memory that was used before, say.
    /// What a bucket sends comes in memory of its own.
    pub async fn get_range_into<B>(
        &self,
        path: &str,
        range: Range<u64>,
        take: impl Fn(usize) -> B + Send + 'static,
    ) -> Result<Bytes, Error>
    where
        B: DerefMut<Target = [u8]> + Into<Bytes> + Send + 'static,
    {
        if range.start > range.end {
            let reason = format!("a range from {} to {} runs backwards", range.start, range.end);
            return Err(Error::invalid(self.place(path), reason));
        }
        if range.is_empty() {
            return Ok(Bytes::new());
        }
        let read = async {
            match self.range_on_volume(path, &range, take).await? {
                Some(read) => Ok(read.into()),
                None => Box::pin(self.range_in_bucket(path, &range)).await,
            }
        };
        self.watched(Operation::Get, range.end - range.start, read).await
    }

    /// A range of an object on a volume; `None` elsewhere.
    async fn range_on_volume<B>(
        &self,
        path: &str,
        range: &Range<u64>,
        take: impl Fn(usize) -> B + Send + 'static,
    ) -> Result<Option<B>, Error>
    where
        B: DerefMut<Target = [u8]> + Send + 'static,
    {
        let _valid = self.object(path)?;
        if range.end - range.start <= AT_ONCE_BYTES_MAX
            && let Some(volume) = &self.inner.volume
        {
            // Such reads never wait, so a task of many has to give way by itself.
            tokio::task::coop::consume_budget().await;
            if let Some(read) = volume.read_at_once(path, range, &take) {
                return Ok(Some(read));
            }
        }
        let asked = range.clone();
        let read = self.on_volume(path, move |volume, path| volume.read(path, &asked, take));
        match read.await? {
            Some(Ok(read)) => Ok(Some(read)),
            Some(Err(found)) => Err(self.truncated(path, range, found)),
            None => Ok(None),
        }
    }

    async fn range_in_bucket(&self, path: &str, range: &Range<u64>) -> Result<Bytes, Error> {
        let bytes = match self.read_unwatched(path, Some(GetRange::Bounded(range.clone()))).await {
            Ok((bytes, _)) => bytes,
            Err(error) => return Err(self.explain_range(path, range, error).await),
        };
        match bytes.len() as u64 {
            found if found == range.end - range.start => Ok(bytes),
            found => Err(self.truncated(path, range, found)),
        }
    }

    fn truncated(&self, path: &str, range: &Range<u64>, found: u64) -> Error {
        Error::Truncated {
            path: self.place(path),
            start: range.start,
            end: range.end,
            found,
        }
    }

    /// The last `len` bytes of an object, or all of it if it is shorter, and its size.
    pub async fn get_tail(&self, path: &str, len: u64) -> Result<(Bytes, u64), Error> {
        if len == 0 {
            return Ok((Bytes::new(), self.size(path).await?));
        }
        let read = async {
            match self.read_unwatched(path, Some(GetRange::Suffix(len))).await {
                // S3 has no last bytes of an empty object and says "range not satisfiable".
                Err(error) if error.kind() == ErrorKind::Io => match self.size(path).await {
                    Ok(0) => Ok((Bytes::new(), 0)),
                    _ => Err(error),
                },
                read => read,
            }
        };
        let (bytes, size) = self.watched(Operation::Get, 0, read).await?;
        let wanted = len.min(size);
        if bytes.len() as u64 == wanted {
            return Ok((bytes, size));
        }
        Err(Error::Truncated {
            path: self.place(path),
            start: size - wanted,
            end: size,
            found: bytes.len() as u64,
        })
    }

    /// Size of an object in bytes.
    pub async fn size(&self, path: &str) -> Result<u64, Error> {
        let object = self.object(path)?;
        self.watched(Operation::Head, 0, async {
            match self.inner.store.head(&object).await {
                Ok(meta) => Ok(meta.size),
                Err(error) => Err(self.read_failed(path, error).await),
            }
        })
        .await
    }

    /// All objects under the directory `prefix` (empty: of the store) at any depth, sorted by path, those after `after` only.
    ///
    /// Holds the whole answer in memory. A directory that is not there is empty. Leftovers of interrupted writes, the lock
    /// file and the reserve are not objects.
    pub async fn list(&self, prefix: &str, after: Option<&str>) -> Result<Vec<Listed>, Error> {
        let directory = self.directory(prefix)?;
        let after = after.map(|after| self.object(after)).transpose()?;
        let listed = async {
            let start = after.as_ref().map(ToString::to_string);
            let top = directory.as_ref().map_or("", ObjectPath::as_ref);
            let on_volume = self.on_volume(top, move |volume, top| volume.list(top, start.as_deref()));
            match on_volume.await? {
                Some(objects) => Ok(objects),
                None => self.list_in_bucket(prefix, directory.as_ref(), after.as_ref()).await,
            }
        };
        let mut objects = self.watched(Operation::List, 0, listed).await?;
        let is_after = |path: &str| after.as_ref().is_none_or(|after| path > after.as_ref());
        objects.retain(|listed| is_object(&listed.path) && is_after(&listed.path));
        objects.sort_unstable_by(|a, b| a.path.cmp(&b.path));
        Ok(objects)
    }

    async fn list_in_bucket(
        &self,
        prefix: &str,
        directory: Option<&ObjectPath>,
        after: Option<&ObjectPath>,
    ) -> Result<Vec<Listed>, Error> {
        let listing = match after {
            None => self.inner.store.list(directory),
            Some(after) => self.inner.store.list_with_offset(directory, after),
        };
        let objects = listing.map_ok(|meta| Listed {
            path: meta.location.into(),
            size: meta.size,
        });
        objects.try_collect().await.map_err(|error| self.failed(prefix, error))
    }

    /// Names of the directories directly under the directory `prefix`, sorted. That of the reserve holds no objects.
    pub async fn list_directories(&self, prefix: &str) -> Result<Vec<String>, Error> {
        let directory = self.directory(prefix)?;
        let listed = async {
            let listing = self.inner.store.list_with_delimiter(directory.as_ref()).await;
            let listing = listing.map_err(|error| self.failed(prefix, error))?;
            self.check_attached(prefix).await?;
            Ok(listing)
        };
        let listing = self.watched(Operation::List, 0, listed).await?;
        let names = listing
            .common_prefixes
            .iter()
            .filter_map(|path| path.filename().map(str::to_owned));
        let mut names: Vec<String> = names.collect();
        if self.is_volume() && prefix.is_empty() {
            names.retain(|name| name != reserve::RESERVE_DIRECTORY);
        }
        names.sort_unstable();
        Ok(names)
    }

    /// Deletes an object; one that is not there is fine. On a volume a power cut may bring it back.
    pub async fn delete(&self, path: &str) -> Result<(), Error> {
        let object = self.object(path)?;
        self.delete_object(&object).await
    }

    async fn delete_object(&self, object: &ObjectPath) -> Result<(), Error> {
        self.watched(Operation::Delete, 0, async {
            match self.inner.store.delete(object).await {
                Ok(()) => Ok(()),
                Err(error) => match self.read_failed(object.as_ref(), error).await {
                    Error::NotFound { .. } => Ok(()),
                    error => Err(error),
                },
            }
        })
        .await
    }

    /// Makes an object durable that was read but perhaps only from the page cache: writes the same bytes anew. A bucket's
    /// objects are durable once they can be read, so elsewhere nothing happens. Uses the reserve.
    pub async fn rewrite(&self, path: &str) -> Result<(), Error> {
        if !self.is_volume() {
            return Ok(());
        }
        let contents = self.get(path).await?;
        self.put_using(path, contents, Room::Reserve).await
    }

    /// On a volume, removes a directory whose objects are deleted, with whatever else is in it; elsewhere nothing.
    pub async fn remove_directory(&self, directory: &str) -> Result<(), Error> {
        let _valid = self.directory(directory)?;
        if !self.is_volume() {
            return Ok(());
        }
        let removed = self.on_volume(directory, |volume, directory| volume.remove_directory(directory));
        self.watched(Operation::Sweep, 0, removed).await?;
        Ok(())
    }

    /// On a volume, makes everything written to its file system so far durable; elsewhere nothing.
    pub async fn sync(&self) -> Result<(), Error> {
        if !self.is_volume() {
            return Ok(());
        }
        let synced = self.on_volume("", |volume, _| volume.sync());
        self.watched(Operation::Sync, 0, synced).await?;
        Ok(())
    }

    /// On a volume, removes what interrupted writes left under `prefix`, and returns how many files; elsewhere nothing.
    ///
    /// For the holder of the lock before its first write: files of writes under way look the same.
    pub async fn sweep_staging(&self, prefix: &str) -> Result<usize, Error> {
        let _valid = self.directory(prefix)?;
        if !self.is_volume() {
            return Ok(0);
        }
        let swept = self.on_volume(prefix, |volume, prefix| volume.sweep_staging(prefix));
        Ok(self.watched(Operation::Sweep, 0, swept).await?.unwrap_or(0))
    }

    /// Space of the volume; `None` where there is no limit to ask for. Does not block for long: one system call.
    pub fn space(&self) -> Result<Option<Space>, Error> {
        self.inner.volume.as_ref().map(Volume::space).transpose()
    }

    /// Keeps so many bytes back on a volume, in files that are allocated and empty, where its file system can do that:
    /// makes, enlarges, cuts or removes them, as far as there is room. For the holder of the lock. Blocks.
    pub fn fill_reserve(&self, bytes: u64) -> Result<(), Error> {
        let Some(volume) = &self.inner.volume else {
            return Ok(());
        };
        volume.check_attached()?;
        let inodes_total = volume.left()?.inodes_total;
        volume.reserve().fill(bytes, inodes_total)
    }

    /// Bytes that are kept back.
    pub fn reserve_bytes(&self) -> u64 {
        let volume = self.inner.volume.as_ref();
        volume.map_or(0, |volume| volume.reserve().held_bytes())
    }

    /// Gives the whole reserve back: the store ends. Blocks.
    pub fn give_back_reserve(&self) -> Result<(), Error> {
        let volume = self.inner.volume.as_ref();
        volume.map_or(Ok(()), |volume| volume.reserve().give_back())
    }

    /// Gives back as much of the reserve as it takes to write `bytes` on the volume, if it takes any. Blocks.
    pub(crate) fn make_room(&self, bytes: u64) {
        if let Some(volume) = &self.inner.volume {
            volume.make_room(bytes);
        }
    }

    /// Whether `directory` is on the volume's own file system, so that what is given back there helps here.
    pub(crate) fn shares_volume_with(&self, directory: &std::path::Path) -> bool {
        let volume = self.inner.volume.as_ref();
        volume.is_some_and(|volume| volume.is_on_file_system_of(directory))
    }

    /// Takes the directory for this open; [`Error::Held`] if another one, of this process too, has it. Never waits. From
    /// then on a reserve that a former process left can be used.
    ///
    /// A bucket has no such lock, a read-only file system only if a lock file is there: [`Lock::none`].
    pub fn lock(&self) -> Result<Lock, Error> {
        match &self.inner.volume {
            Some(volume) => {
                let lock = Lock::acquire(volume.root())?;
                volume.reserve().adopt();
                Ok(lock)
            }
            None => Ok(Lock::none()),
        }
    }

    async fn read(&self, path: &str, range: Option<GetRange>) -> Result<(Bytes, u64), Error> {
        self.watched(Operation::Get, 0, self.read_unwatched(path, range)).await
    }

    async fn read_unwatched(&self, path: &str, range: Option<GetRange>) -> Result<(Bytes, u64), Error> {
        let object = self.object(path)?;
        self.get_object(&object, range).await
    }

    async fn get_object(&self, object: &ObjectPath, range: Option<GetRange>) -> Result<(Bytes, u64), Error> {
        // Only of these is it known before how long they are.
        let is_bounded = matches!(range, Some(GetRange::Bounded(_)));
        let options = GetOptions {
            range,
            ..Default::default()
        };
        let read = async {
            let result = self.inner.store.get_opts(object, options).await?;
            let size = result.meta.size;
            Ok((result.bytes().await?, size))
        };
        match read.await {
            Ok((bytes, size)) => {
                if !is_bounded {
                    self.inner.shaper.owe(bytes.len() as u64);
                }
                Ok((bytes, size))
            }
            Err(error) => Err(self.read_failed(object.as_ref(), error).await),
        }
    }

    /// Stores word "beyond the end" in ways that cannot be told from other failures; the size can.
    async fn explain_range(&self, path: &str, range: &Range<u64>, error: Error) -> Error {
        if error.kind() != ErrorKind::Io {
            return error;
        }
        match self.size(path).await {
            Ok(size) if size <= range.start => self.truncated(path, range, 0),
            _ => error,
        }
    }

    /// Runs blocking work on the volume, if there is one.
    async fn on_volume<T: Send + 'static>(
        &self,
        path: &str,
        work: impl FnOnce(&Volume, &str) -> Result<T, Error> + Send + 'static,
    ) -> Result<Option<T>, Error> {
        if self.inner.volume.is_none() {
            return Ok(None);
        }
        let (inner, path) = (self.inner.clone(), path.to_owned());
        let place = self.place(&path);
        blocking(place, move || {
            inner.volume.as_ref().map(|volume| work(volume, &path)).transpose()
        })
        .await
    }

    async fn check_attached(&self, path: &str) -> Result<(), Error> {
        self.on_volume(path, |volume, _| volume.check_attached()).await?;
        Ok(())
    }

    /// "Not found" counts only in a directory that is still the one attached.
    async fn read_failed(&self, path: &str, error: object_store::Error) -> Error {
        let error = self.failed(path, error);
        match error.kind() {
            ErrorKind::NotFound => self.check_attached(path).await.err().unwrap_or(error),
            _ => error,
        }
    }

    fn failed(&self, path: &str, error: object_store::Error) -> Error {
        Error::from_store(self.place(path), error)
    }

    fn place(&self, path: &str) -> String {
        self.inner.location.place(path)
    }

    fn object(&self, path: &str) -> Result<ObjectPath, Error> {
        match ObjectPath::parse(path) {
            Ok(object) if object.as_ref() == path && is_object(path) => Ok(object),
            _ => Err(Error::invalid(self.place(path), "not a name for an object")),
        }
    }

    fn directory(&self, prefix: &str) -> Result<Option<ObjectPath>, Error> {
        let directory =
            ObjectPath::parse(prefix).map_err(|_| Error::invalid(self.place(prefix), "not a name for a directory"))?;
        Ok((!directory.is_root()).then_some(directory))
    }
}

/// Whether a path can be an object's: not the lock file, not of the reserve, not a leftover, not a trial, not nothing.
fn is_object(path: &str) -> bool {
    let name = path.rsplit('/').next().unwrap_or(path);
    let is_ours = path == lock::LOCK_FILE || path.starts_with(TRIAL_PREFIX) || reserve::is_reserve_path(path);
    !path.is_empty() && !is_ours && !volume::is_staging_name(name)
}

/// Runs blocking work on a thread for it. The work goes on if the future is dropped.
async fn blocking<T: Send + 'static>(
    place: String,
    work: impl FnOnce() -> Result<T, Error> + Send + 'static,
) -> Result<T, Error> {
    match tokio::task::spawn_blocking(work).await {
        Ok(result) => result,
        Err(join) if join.is_panic() => std::panic::resume_unwind(join.into_panic()),
        Err(_) => Err(Error::Unavailable {
            path: place,
            cause: Cause::text("the process is shutting down"),
        }),
    }
}
