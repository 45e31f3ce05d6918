//! Room that is kept back on a volume: files whose blocks are allocated and that hold nothing.
//!
//! ```text
//! <prefix>/reserve/00 … 0f     of equal size, together the reserve
//! ```
//!
//! Room comes back by unlinking one of them after the other, the last first: each gives its blocks and an inode. They are
//! not objects: no listing shows them, and nothing is lost with them. A process goes on with those that a former one left;
//! only [`Reserve::fill`] makes or enlarges any, so who never calls it never makes one.

use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use parking_lot::Mutex;
use rustix::fs::{FallocateFlags, fallocate};
use rustix::io::Errno;

use super::error::Error;

/// The directory of the files, beside the repositories.
pub(super) const RESERVE_DIRECTORY: &str = "reserve";
/// So many files give room back in steps that are small against the whole, and each step an inode.
const FILES_MAX: u64 = 16;
/// Of so many inodes of a volume one may be a file of the reserve.
const INODES_PER_FILE: u64 = 32;
/// What file systems allocate at least.
const BLOCK: u64 = 4096;

/// The reserve of a volume.
#[derive(Debug)]
pub(super) struct Reserve {
    directory: PathBuf,
    /// Bytes that the files hold; written by whoever has its turn, after each file. Who looks at the volume meanwhile counts
    /// one file in 16 wrongly at most: the whole reserve would pass for bytes that somebody else took.
    held: AtomicU64,
    /// The file system allocates nothing ahead: the reserve is a threshold there and nothing else.
    is_unsupported: AtomicBool,
    turn: Mutex<()>,
}

impl Reserve {
    pub(super) fn new(root: &Path) -> Self {
        Self {
            directory: root.join(RESERVE_DIRECTORY),
            held: AtomicU64::new(0),
            is_unsupported: AtomicBool::new(false),
            turn: Mutex::new(()),
        }
    }

    /// Bytes that can be given back.
    pub(super) fn held_bytes(&self) -> u64 {
        self.held.load(Ordering::Acquire)
    }

    /// Takes stock of what a former process left.
    pub(super) fn adopt(&self) {
        let _turn = self.turn.lock();
        self.measure();
    }

    /// Makes the reserve `bytes` large on a volume of so many inodes (0: it does not count them), enlarging and making,
    /// or cutting and removing files. Ends early, and well, where there is no room, or where nothing is allocated ahead.
    pub(super) fn fill(&self, bytes: u64, inodes_total: u64) -> Result<(), Error> {
        let Some(_turn) = self.turn.try_lock() else {
            return Ok(());
        };
        if self.is_unsupported.load(Ordering::Relaxed) {
            return Ok(());
        }
        let filled = self.try_fill(bytes, files_of(inodes_total));
        self.measure();
        match filled {
            Ok(()) => Ok(()),
            Err((_, error)) if is_full(&error) => Ok(()),
            Err((path, error)) if is_unsupported(&error) => {
                // Nothing that only looks like a reserve is left to be counted as one.
                let _ = fs::remove_file(path);
                self.measure();
                self.is_unsupported.store(true, Ordering::Relaxed);
                tracing::info!(%error, "this file system allocates nothing ahead: the reserve is a threshold only");
                Ok(())
            }
            Err((path, error)) => Err(Error::from_io(path.display().to_string(), error)),
        }
    }

    fn try_fill(&self, bytes: u64, files: u64) -> Result<(), (PathBuf, io::Error)> {
        let each = bytes / files / BLOCK * BLOCK;
        let keep = if each == 0 { 0 } else { files };
        for number in keep..FILES_MAX {
            let path = self.file(number);
            remove(&path).map_err(|error| (path, error))?;
            self.measure();
        }
        if keep > 0 {
            make_directory(&self.directory).map_err(|error| (self.directory.clone(), error))?;
        }
        for number in 0..keep {
            let path = self.file(number);
            allocate(&path, each).map_err(|error| (path, error))?;
            self.measure();
        }
        Ok(())
    }

    /// Removes files, at least `least` of them, until `is_enough` or none is left; how many.
    pub(super) fn release(&self, least: usize, is_enough: impl Fn() -> bool) -> usize {
        if self.held_bytes() == 0 || (least == 0 && is_enough()) {
            return 0;
        }
        let _turn = self.turn.lock();
        let mut removed = 0;
        for number in (0..FILES_MAX).rev() {
            if removed >= least && is_enough() {
                break;
            }
            removed += usize::from(matches!(remove(&self.file(number)), Ok(true)));
            self.measure();
        }
        if removed > 0 {
            let left = self.held_bytes();
            tracing::info!(
                files = removed,
                left,
                "the volume is full: part of the reserve is given back"
            );
        }
        removed
    }

    /// Removes all of it, for a store that ends.
    pub(super) fn give_back(&self) -> Result<(), Error> {
        let _turn = self.turn.lock();
        for number in 0..FILES_MAX {
            let path = self.file(number);
            remove(&path).map_err(|error| Error::from_io(path.display().to_string(), error))?;
            self.measure();
        }
        // What else is in there is somebody's, and stays.
        let _ = fs::remove_dir(&self.directory);
        Ok(())
    }

    fn measure(&self) {
        let files = (0..FILES_MAX).map(|number| fs::symlink_metadata(self.file(number)));
        let held = files.filter_map(Result::ok).filter(fs::Metadata::is_file);
        self.held
            .store(held.map(|file| allocated(&file)).sum(), Ordering::Release);
    }

    fn file(&self, number: u64) -> PathBuf {
        self.directory.join(format!("{number:02x}"))
    }
}

/// Whether a path relative to the store is one of the files.
pub(super) fn is_reserve_path(path: &str) -> bool {
    let name = path
        .strip_prefix(RESERVE_DIRECTORY)
        .and_then(|rest| rest.strip_prefix('/'));
    name.is_some_and(|name| (0..FILES_MAX).any(|number| name == format!("{number:02x}")))
}

/// How many files a volume of so many inodes gets.
fn files_of(inodes_total: u64) -> u64 {
    match inodes_total {
        0 => FILES_MAX,
        inodes => (inodes / INODES_PER_FILE).clamp(1, FILES_MAX),
    }
}

fn make_directory(directory: &Path) -> io::Result<()> {
    match fs::create_dir(directory) {
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(()),
        made => made,
    }
}

/// Gives the file `bytes` that are allocated, neither more nor less.
fn allocate(path: &Path, bytes: u64) -> io::Result<()> {
    if fs::symlink_metadata(path).is_ok_and(|found| found.len() == bytes && allocated(&found) >= bytes) {
        return Ok(());
    }
    let file = OpenOptions::new().create(true).write(true).truncate(false).open(path)?;
    let made = make_of(&file, bytes);
    if made.is_err() {
        // Part of a file is worth nothing to whoever counts on the whole; what there was before may be.
        let _ = fs::remove_file(path);
    }
    made
}

fn make_of(file: &File, bytes: u64) -> io::Result<()> {
    if file.metadata()?.len() > bytes {
        file.set_len(bytes)?;
    }
    fallocate(file, FallocateFlags::empty(), 0, bytes)?;
    // Some file systems answer well and allocate nothing.
    match allocated(&file.metadata()?) >= bytes {
        true => Ok(()),
        false => Err(Errno::OPNOTSUPP.into()),
    }
}

fn allocated(metadata: &fs::Metadata) -> u64 {
    const SECTOR: u64 = 512;
    metadata.blocks() * SECTOR
}

/// Whether there was such a file.
fn remove(path: &Path) -> io::Result<bool> {
    match fs::remove_file(path) {
        Ok(()) => Ok(true),
        Err(error) if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => Ok(false),
        Err(error) => Err(error),
    }
}

fn is_full(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded | io::ErrorKind::FileTooLarge
    )
}

fn is_unsupported(error: &io::Error) -> bool {
    let unsupported = [Errno::OPNOTSUPP, Errno::NOSYS, Errno::INVAL];
    Errno::from_io_error(error).is_some_and(|errno| unsupported.contains(&errno))
}
