//! What every part of one scrub shares: its options, its pace, and how it reads.

use std::ops::Range;
use std::sync::Arc;

use bytes::Bytes;
use parking_lot::Mutex;

use super::ScrubOptions;
use super::cursor::{Place, ScrubCursor};
use super::pace::Pace;
use super::report::{Damage, DamagedObject, Depth, Mark, Remedy, ScrubProgress, ScrubReport};
use crate::backend::{self, Backend, ErrorKind};
use crate::engine::core::{CatalogState, Core};
use crate::engine::error::{Error, Reason, Result};
use crate::format::{StoredKind, StoredName};

pub(super) struct Walk<'a> {
    pub(super) backend: Backend,
    pub(super) options: ScrubOptions,
    pub(super) progress: &'a ScrubProgress,
    pace: Pace,
    /// Bytes that were read before this run, if the progress is that of several.
    bytes_before: u64,
    catalog: Option<Compared>,
}

/// The catalog that the store is compared with, as it was when that began. One that is made anew meanwhile says nothing:
/// what was found since the last place that was reached is forgotten.
struct Compared {
    core: Arc<Core>,
    since: Mutex<Since>,
}

struct Since {
    state: CatalogState,
    place: Place,
    mark: Mark,
}

/// What a read of stored bytes gave.
pub(super) enum Read {
    Bytes(Bytes),
    /// The object is not there.
    Missing,
    /// The storage cannot give these bytes: the object is too short, or the disk is bad.
    Unreadable(String),
}

impl<'a> Walk<'a> {
    pub(super) fn new(backend: Backend, options: ScrubOptions, progress: &'a ScrubProgress) -> Result<Self> {
        options.check()?;
        progress.begin(options.depth);
        progress.reach(options.from.clone());
        Ok(Self {
            pace: Pace::new(options.rate_bytes),
            bytes_before: progress.bytes(),
            catalog: None,
            backend,
            options,
            progress,
        })
    }

    /// Compares with the catalog from here on. One that is being made anew is waited for.
    ///
    /// # Errors
    /// `CatalogFailed` if that came to nothing.
    pub(super) async fn compare(&mut self, core: &Arc<Core>) -> Result<()> {
        let since = Since {
            state: whole_catalog(core).await?,
            place: self.start(),
            mark: self.progress.mark(),
        };
        self.catalog = Some(Compared {
            core: core.clone(),
            since: Mutex::new(since),
        });
        Ok(())
    }

    /// Whether the catalog is the one that was compared with so far.
    pub(super) fn is_current(&self) -> bool {
        let Some(Compared { core, since }) = &self.catalog else {
            return true;
        };
        core.catalog_state().is_ok_and(|state| state == since.lock().state)
    }

    /// Ends what is being compared, if it is no more what it was compared with.
    ///
    /// # Errors
    /// `CatalogFailed` then.
    pub(super) fn check_current(&self) -> Result<()> {
        match self.is_current() {
            true => Ok(()),
            false => Err(Error::new(
                Reason::CatalogFailed,
                "the catalog was made anew while the store was compared with it; begin again",
            )),
        }
    }

    /// Waits until the catalog has been made anew. The place to go on from.
    ///
    /// # Errors
    /// `CatalogFailed` if that came to nothing.
    pub(super) async fn begin_again(&self) -> Result<Place> {
        let Some(Compared { core, since }) = &self.catalog else {
            return Ok(self.start());
        };
        let state = whole_catalog(core).await?;
        let mut since = since.lock();
        since.state = state;
        self.progress.rewind(&since.mark);
        Ok(since.place.clone())
    }

    pub(super) fn depth(&self) -> Depth {
        self.options.depth
    }

    /// Where a scrub with keys begins.
    pub(super) fn start(&self) -> Place {
        match &self.options.from {
            Some(cursor) => cursor.place.clone(),
            None => Place::Packs(None),
        }
    }

    /// Whether an object comes behind the place that this scrub started from.
    pub(super) fn is_ahead(&self, path: &str) -> bool {
        match &self.options.from {
            Some(ScrubCursor {
                place: Place::Path(done),
                ..
            }) => path > done.as_str(),
            _ => true,
        }
    }

    /// Notes how far the scrub is.
    pub(super) fn reach(&self, place: Place) {
        if !self.is_current() {
            return;
        }
        if let Some(catalog) = &self.catalog {
            let mut since = catalog.since.lock();
            since.place = place.clone();
            since.mark = self.progress.mark();
        }
        self.progress.reach(Some(ScrubCursor {
            depth: self.depth(),
            place,
        }));
    }

    /// The report, of a scrub that paused or came to its end.
    pub(super) fn end(&self, paused: Option<Place>) -> ScrubReport {
        match paused {
            Some(place) => self.reach(place),
            None => self.progress.reach(None),
        }
        self.progress.report()
    }

    /// Whether as much was read as this run is to read.
    pub(super) fn is_over(&self) -> bool {
        let read = self.progress.bytes() - self.bytes_before;
        self.options.bytes_max.is_some_and(|most| read >= most)
    }

    /// Waits until so many bytes may be read, and counts them.
    pub(super) async fn spend(&self, bytes: u64) {
        self.pace.take(bytes).await;
        self.progress.read(bytes);
    }

    /// Reads a range.
    ///
    /// # Errors
    /// What says nothing about the bytes: the backend does not answer, or refuses.
    pub(super) async fn read(&self, path: &str, range: Range<u64>) -> Result<Read> {
        self.spend(range.end - range.start).await;
        sort(self.backend.get_range(path, range).await)
    }

    /// Reads a whole object, known to have about `size` bytes.
    pub(super) async fn read_all(&self, path: &str, size: u64) -> Result<Read> {
        self.spend(size).await;
        sort(self.backend.get(path).await)
    }

    /// Reports where the catalog contradicts the store.
    pub(super) fn contradicted(&self, line: String) {
        if self.is_current() {
            self.progress.contradicted(line);
        }
    }

    /// Reports an object that is damaged.
    pub(super) fn concerned(&self, object: DamagedObject) {
        if self.is_current() {
            self.progress.concerned(object);
        }
    }

    /// Reports damage.
    pub(super) fn found(&self, path: &str, range: Range<u64>, problem: impl Into<String>, remedy: Remedy) {
        if !self.is_current() {
            return;
        }
        let name = StoredName::parse(path);
        self.progress.found(Damage {
            path: path.to_owned(),
            kind: name.map_or(StoredKind::Pack, |name| name.kind()),
            pack: match name {
                Some(StoredName::Pack(_, pack)) => Some(pack),
                _ => None,
            },
            offset: range.start,
            length: range.end - range.start,
            problem: problem.into(),
            remedy,
        });
    }
}

fn sort(read: std::result::Result<Bytes, backend::Error>) -> Result<Read> {
    match read {
        Ok(bytes) => Ok(Read::Bytes(bytes)),
        Err(error) => match error.kind() {
            ErrorKind::NotFound => Ok(Read::Missing),
            ErrorKind::Truncated | ErrorKind::Io => Ok(Read::Unreadable(error.to_string())),
            _ => Err(error.into()),
        },
    }
}

/// The state of the catalog once nobody is making it anew.
///
/// # Errors
/// `CatalogFailed` if that came to nothing.
async fn whole_catalog(core: &Core) -> Result<CatalogState> {
    let _whole = core.apply.lock().await;
    core.catalog_state()
}
