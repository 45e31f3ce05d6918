//! Directories of packs, each read once: by the look at the log, by the pass over all packs, or by an earlier rebuild.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use bytes::Bytes;
use parking_lot::Mutex;

use super::Listed;
use super::ahead::ReadAhead;
use super::progress::RebuildProgress;
use crate::catalog::{EntriesRow, Lookup, PackRow};
use crate::engine::core::Core;
use crate::engine::error::{Error, Reason, Result};
use crate::engine::log::replay::{LogEntry, Survey, list_packs};
use crate::engine::packs::{Known, PackHead, read_head, read_known, read_known_of};
use crate::format::pack::tail_guess;
use crate::format::{Entry, PackKind, PackName, PackNumber, PackRef, Tip};

/// Most of the tail of a pack that is read at a guess: as long as directories are.
const GUESS_MAX: u64 = 8 << 20;

/// The directories of one rebuild.
pub(super) struct Directories {
    core: Arc<Core>,
    read: Mutex<Remembered>,
    /// What the last pack needed: its neighbours are like it.
    tail_len: AtomicU64,
}

#[derive(Default)]
struct Remembered {
    packs: HashMap<PackNumber, Known>,
    bytes: usize,
}

/// What a pack turned out to be that was created after a tip.
enum Seen {
    Whole(Box<Known>),
    /// A chunk pack whose directory is not needed now, or cannot be read.
    Head(PackHead),
    /// It may be a commit pack.
    Unreadable(PackName, Error),
    /// Its owner reclaimed it since it was listed.
    Gone,
}

/// The contents of a pack of the log.
pub(super) struct Contents {
    pub(super) entries: EntriesRow,
    /// Bytes read for it now.
    pub(super) bytes: u64,
    /// Whether an earlier rebuild had read it.
    pub(super) kept: bool,
}

impl Directories {
    pub(super) fn new(core: &Arc<Core>) -> Arc<Self> {
        Arc::new(Self {
            core: core.clone(),
            read: Mutex::default(),
            tail_len: AtomicU64::new(0),
        })
    }

    /// Bytes to read from the end of a pack of `size` bytes.
    pub(super) fn guess(&self, size: u64) -> u64 {
        let chunk_avg = self.core.secrets.parameters().chunk_sizes.avg();
        let neighbour = self.tail_len.load(Ordering::Relaxed);
        let guess = tail_guess(size, chunk_avg).max(neighbour + neighbour / 8);
        guess.min(GUESS_MAX).min(size)
    }

    /// The packs that were created after `tip`, and the commits among them.
    pub(super) async fn survey(self: &Arc<Self>, tip: Option<&Tip>, progress: &RebuildProgress) -> Result<Survey> {
        let packs = list_packs(&self.core, tip).await?;
        let bytes = |pack: &(PackName, u64)| self.guess(pack.1);
        let mut reads = ReadAhead::new(&self.core, packs.into_iter(), bytes, |(name, size)| {
            let directories = self.clone();
            async move { directories.see(name, size).await }
        });
        let mut survey = Survey::default();
        while let Some(read) = reads.next().await? {
            match read.what? {
                Seen::Whole(known) => {
                    progress.read(known.tail_len);
                    survey.heads.push(PackHead {
                        name: known.pack.name,
                        kind: known.kind,
                    });
                    if known.kind == PackKind::Commit {
                        let Known { pack, directory, .. } = *known;
                        survey.commits.insert(pack.trailer_hash, LogEntry { pack, directory });
                    }
                }
                Seen::Head(head) => survey.heads.push(head),
                Seen::Unreadable(name, error) => survey.unreadable.push((name, error)),
                Seen::Gone => {}
            }
        }
        Ok(survey.but_given_up(&self.core))
    }

    async fn see(&self, name: PackName, size: u64) -> Result<Seen> {
        if let Some(known) = self.find(&name).filter(|known| known.pack.size == size) {
            return Ok(Seen::Whole(Box::new(known)));
        }
        if let Some(row) = self.kept_row(name.number)
            && (row.name, row.size, row.kind) == (name, size, PackKind::Chunk)
        {
            return Ok(Seen::Head(PackHead { name, kind: row.kind }));
        }
        let error = match read_known_of(&self.core, &name, size, self.guess(size)).await {
            Ok(known) => {
                self.remember(&known);
                return Ok(Seen::Whole(Box::new(known)));
            }
            Err(error) if error.reason() == Reason::DataLoss => error,
            Err(error) => return Err(error),
        };
        match read_head(&self.core, name, size).await {
            Ok(None) => Ok(Seen::Gone),
            Ok(Some(head)) if head.kind == PackKind::Chunk => Ok(Seen::Head(head)),
            Ok(Some(_)) => Ok(Seen::Unreadable(name, error)),
            Err(error) if error.reason() == Reason::DataLoss => Ok(Seen::Unreadable(name, error)),
            Err(error) => Err(error),
        }
    }

    /// Whether the commit pack that a checkpoint was written at is in the store, unchanged.
    pub(super) async fn has_tip(&self, tip: &Tip) -> Result<bool> {
        match read_known(&self.core, &tip.pack).await {
            Ok(known) => {
                self.remember(&known);
                Ok(known.pack.trailer_hash == tip.trailer_hash)
            }
            Err(error) if error.reason() == Reason::DataLoss => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// Keeps what was read, while there is room.
    fn remember(&self, known: &Known) {
        let bytes = known.directory.entries.len() * size_of::<Entry>() + size_of::<Known>();
        let mut read = self.read.lock();
        if read.bytes + bytes <= self.core.options.budget_bytes / 8 {
            read.bytes += bytes;
            read.packs.insert(known.pack.name.number, known.clone());
        }
    }

    /// Keeps the directories of commit packs that are in memory anyway.
    pub(super) fn take_over(&self, entries: Vec<LogEntry>) {
        let mut read = self.read.lock();
        for LogEntry { pack, directory } in entries {
            let known = Known {
                pack,
                kind: PackKind::Commit,
                directory,
                // A rebuild compares no blocks.
                sums: Bytes::new(),
                tail_len: 0,
            };
            read.packs.insert(pack.name.number, known);
        }
    }

    fn find(&self, name: &PackName) -> Option<Known> {
        let read = self.read.lock();
        read.packs
            .get(&name.number)
            .filter(|known| known.pack.name == *name)
            .cloned()
    }

    /// The contents of a pack of the log.
    ///
    /// # Errors
    /// `DataLoss` if it cannot be read, or is not the one that the log introduced.
    pub(super) async fn contents(&self, listed: &Listed) -> Result<Contents> {
        let remembered = self.read.lock().packs.remove(&listed.pack.name.number);
        if let Some(known) = remembered.filter(|known| known.pack == listed.pack) {
            return Ok(known.into());
        }
        if let Some(entries) = self.kept(listed) {
            return Ok(Contents {
                entries,
                bytes: 0,
                kept: true,
            });
        }
        let PackRef { name, size, .. } = &listed.pack;
        let known = read_known_of(&self.core, name, *size, self.guess(*size)).await?;
        if known.pack != listed.pack {
            return Err(Error::data_loss("it is not the pack that the log introduced"));
        }
        self.tail_len.store(known.tail_len, Ordering::Relaxed);
        Ok(known.into())
    }

    /// What an earlier rebuild read of this very pack. A row that cannot be read is as good as none.
    fn kept(&self, listed: &Listed) -> Option<EntriesRow> {
        let row = self.kept_row(listed.pack.name.number)?;
        let pack = PackRef {
            name: row.name,
            size: row.size,
            trailer_hash: row.trailer_hash,
        };
        let is_it = (pack, row.kind) == (listed.pack, listed.kind);
        is_it.then(|| self.core.catalog.entries(row.name.number).ok().flatten())?
    }

    fn kept_row(&self, number: PackNumber) -> Option<PackRow> {
        let row = self.core.catalog.pack(number).ok().flatten();
        row.filter(PackRow::is_only_read)
    }
}

impl From<Known> for Contents {
    fn from(known: Known) -> Self {
        Self {
            entries: EntriesRow {
                births: known.directory.births,
                entries: known.directory.entries,
            },
            bytes: known.tail_len,
            kept: false,
        }
    }
}
