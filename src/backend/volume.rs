//! What a directory needs: durable directories and files, exclusive creation, leftovers of interrupted writes, free space.
//!
//! Most is done by `object_store`'s `LocalFileSystem`; here is what it does not offer, or offers with hard links, which some
//! volumes lack and which can leak space, or through the page cache only, or with three changes of thread, as listing, which every
//! commit waits for, or into new memory only, as reading a range. All calls but one block; [`super::Backend`] moves
//! them off the async threads.

use std::collections::HashSet;
use std::fs::{self, File, OpenOptions};
use std::io::{self, IoSliceMut, Write};
use std::ops::{DerefMut, Range};
use std::os::fd::AsFd;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use parking_lot::Mutex;
use rustix::fs::{Access, AtFlags, CWD, Mode, OFlags, ResolveFlags, StatVfs, StatVfsMountFlags, openat2};
use rustix::io::{Errno, ReadWriteFlags, preadv2};

use super::error::{Cause, Error, ErrorKind};
use super::reserve::Reserve;
use super::staged::Staged;
use super::{Created, Listed};

/// Free and total space of the file system that holds a store. What the reserve holds counts as free: it can be had.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Space {
    /// Size of the file system, bytes.
    pub total: u64,
    /// Free bytes, those kept for the super user included.
    pub free: u64,
    /// Free bytes this process may use.
    pub available: u64,
    /// Number of inodes; 0 if the file system has no fixed number.
    pub inodes_total: u64,
    /// Free inodes, without those that the reserve would give back; meaningless if `inodes_total` is 0.
    pub inodes_free: u64,
}

impl Space {
    fn of(stat: &StatVfs) -> Self {
        let bytes = |blocks: u64| blocks.saturating_mul(stat.f_frsize);
        Self {
            total: bytes(stat.f_blocks),
            free: bytes(stat.f_bfree),
            available: bytes(stat.f_bavail),
            inodes_total: stat.f_files,
            inodes_free: stat.f_ffree,
        }
    }

    /// With `bytes` more that can be had.
    fn with_reserve(self, bytes: u64) -> Self {
        Self {
            free: self.free.saturating_add(bytes),
            available: self.available.saturating_add(bytes),
            ..self
        }
    }

    /// Whether a file of so many bytes has room, with the directories and blocks that it needs.
    fn has_room(&self, bytes: u64) -> bool {
        const SLACK_BYTES: u64 = 256 << 10;
        const SLACK_INODES: u64 = 4;
        let has_inodes = self.inodes_total == 0 || self.inodes_free >= SLACK_INODES;
        has_inodes && self.available >= bytes.saturating_add(SLACK_BYTES)
    }
}

/// What can be seen of a place without writing there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Look {
    /// Whether it is the place that was attached.
    pub presence: Presence,
    /// Its room; none where there is no end, and none of a place that is away.
    pub space: Option<Space>,
    /// Whether its file system is mounted read-only.
    pub is_read_only: bool,
    /// Why this process may not work there, if it may not.
    pub refused: Option<String>,
}

/// Whether a place is there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Presence {
    /// It is, as far as can be seen.
    Here,
    /// It is not, or another one is in its place; in words.
    Gone(String),
    /// It does not answer; in words.
    Silent(String),
}

impl Look {
    /// A place without an end, of which nothing bad is known.
    pub fn endless() -> Self {
        Self::away(Presence::Here)
    }

    /// A place of which no more than this is known.
    pub fn away(presence: Presence) -> Self {
        Self {
            presence,
            space: None,
            is_read_only: false,
            refused: None,
        }
    }
}

const REPLACED: &str = "the directory was unmounted, moved or replaced since it was opened";

/// The directory of a store.
#[derive(Debug)]
pub(super) struct Volume {
    root: PathBuf,
    /// Device and inode of `root` when it was attached: a volume that was unmounted since leaves an empty mount point
    /// behind, which must read as "not available", never as "your packs are gone".
    identity: (u64, u64),
    durable_directories: Mutex<HashSet<PathBuf>>,
    reserve: Reserve,
    /// Whether the file system reads without waiting what is in memory, if asked to. Not known before the first read.
    reads_at_once: OnceLock<bool>,
}

/// Directories remembered as durable; past it they are forgotten and fsynced again on their next use. One holds 4096 packs.
const DURABLE_DIRECTORIES_MAX: usize = 4096;

impl Volume {
    /// `root` must exist.
    pub(super) fn new(root: PathBuf) -> Result<Self, Error> {
        let metadata = fs::metadata(&root).map_err(|error| at(&root, error))?;
        if !metadata.is_dir() {
            return Err(Error::NotADirectory {
                path: root.display().to_string(),
            });
        }
        Ok(Self {
            reserve: Reserve::new(&root),
            root,
            identity: identity(&metadata),
            durable_directories: Mutex::default(),
            reads_at_once: OnceLock::new(),
        })
    }

    pub(super) fn root(&self) -> &Path {
        &self.root
    }

    /// Fails as gone if the directory is no longer the one that was attached.
    pub(super) fn check_attached(&self) -> Result<(), Error> {
        match fs::metadata(&self.root) {
            Ok(metadata) if identity(&metadata) == self.identity => Ok(()),
            _ => Err(Error::Gone {
                path: self.root.display().to_string(),
                cause: Cause::text(REPLACED),
            }),
        }
    }

    /// Makes the directory of `file` (a path of an object) and everything above it exist and survive a power cut.
    ///
    /// `LocalFileSystem` makes missing directories too, but fsyncs only those it found missing: of two first writers, or
    /// after a crash between the two steps, one would rely on a directory nobody has fsynced.
    pub(super) fn prepare_parent(&self, file: &str) -> Result<(), Error> {
        self.check_attached()?;
        let path = self.root.join(file);
        let Some(parent) = path.parent() else {
            return Ok(());
        };
        if self.durable_directories.lock().contains(parent) {
            return Ok(());
        }
        create_durably(parent, &self.root)?;
        let mut known = self.durable_directories.lock();
        if known.len() >= DURABLE_DIRECTORIES_MAX {
            known.clear();
        }
        known.insert(parent.to_owned());
        Ok(())
    }

    pub(super) fn reserve(&self) -> &Reserve {
        &self.reserve
    }

    /// Gives back as much of the reserve as it takes to write `bytes`, if it takes any.
    pub(super) fn make_room(&self, bytes: u64) {
        self.give_room(0, bytes);
    }

    /// As [`make_room`](Self::make_room), after a write found no room whatever the numbers say; false if there is nothing
    /// left to give.
    pub(super) fn make_more_room(&self, bytes: u64) -> bool {
        self.give_room(1, bytes) > 0
    }

    fn give_room(&self, least: usize, bytes: u64) -> usize {
        self.reserve.release(least, || {
            // If it cannot be asked, the write will tell.
            self.left().map_or(true, |left| left.has_room(bytes))
        })
    }

    /// Creates `file` with `contents` unless something of that name exists, however broken that is. Uses the reserve.
    ///
    /// A failure after the creation leaves the file behind, possibly empty: the name is taken, which is the safe side.
    pub(super) fn create(&self, file: &str, contents: &[u8]) -> Result<Created, Error> {
        let bytes = contents.len() as u64;
        self.make_room(bytes);
        match self.try_create(file, contents) {
            Err(error) if error.kind() == ErrorKind::NoSpace && self.make_more_room(bytes) => {
                self.try_create(file, contents)
            }
            created => created,
        }
    }

    fn try_create(&self, file: &str, contents: &[u8]) -> Result<Created, Error> {
        self.prepare_parent(file)?;
        let path = self.root.join(file);
        let mut created = match OpenOptions::new().write(true).create_new(true).open(&path) {
            Ok(created) => created,
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
                return Ok(Created::Exists);
            }
            Err(error) => return Err(at(&path, error)),
        };
        created.write_all(contents).map_err(|error| at(&path, error))?;
        created.sync_all().map_err(|error| at_fsync(&path, error))?;
        sync_directory(path.parent().unwrap_or(&self.root))?;
        Ok(Created::New)
    }

    /// Begins to write `file` of so many bytes, which nobody sees until it is published.
    pub(super) fn stage(&self, file: &str, bytes: usize) -> Result<Staged, Error> {
        self.prepare_parent(file)?;
        Staged::begin(self.root.join(file), bytes)
    }

    /// Writes `file`, replacing one of the same name. Durable on return.
    pub(super) fn write(&self, file: &str, contents: &[u8]) -> Result<(), Error> {
        let mut staged = self.stage(file, contents.len())?;
        staged.write(contents)?;
        staged.publish()
    }

    /// The bytes of `range` of `file`, in what `take` makes for so many; or how many of them there are, if it ends before.
    pub(super) fn read<B: DerefMut<Target = [u8]>>(
        &self,
        file: &str,
        range: &Range<u64>,
        take: impl FnOnce(usize) -> B,
    ) -> Result<Result<B, u64>, Error> {
        let path = self.root.join(file);
        // Only in the directory that was attached does it count that something is not there.
        let missing = |error: io::Error| self.check_attached().err().unwrap_or_else(|| at(&path, error));
        let open = File::open(&path).map_err(|error| match error.kind() {
            io::ErrorKind::NotFound | io::ErrorKind::NotADirectory => missing(error),
            _ => at(&path, error),
        })?;
        let metadata = open.metadata().map_err(|error| at(&path, error))?;
        if metadata.is_dir() {
            return Err(missing(io::ErrorKind::NotFound.into()));
        }
        // Before memory is taken: who asks may have the range from what is damaged.
        if metadata.len() < range.end {
            return Ok(Err(metadata.len().saturating_sub(range.start)));
        }
        let mut buffer = take((range.end - range.start) as usize);
        let mut filled = 0;
        while filled < buffer.len() {
            match open.read_at(&mut buffer[filled..], range.start + filled as u64) {
                Ok(0) => return Ok(Err(filled as u64)),
                Ok(read) => filled += read,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(at(&path, error)),
            }
        }
        self.reads_at_once.get_or_init(|| {
            let read = read_nowait(&open, &mut [0], range.start);
            matches!(read, Ok(_) | Err(Errno::AGAIN))
        });
        Ok(Ok(buffer))
    }

    /// As [`read`](Self::read), if that takes no waiting for a disk: the file and its bytes are in memory. Does not block (but for
    /// a scanner, if the system asks one before it opens a file).
    ///
    /// None also on network and user-space file systems, since to open a file there may take an answer from elsewhere; and of a file
    /// that somebody else owns: reading it would note the time on disk, which may wait.
    pub(super) fn read_at_once<B: DerefMut<Target = [u8]>>(
        &self,
        file: &str,
        range: &Range<u64>,
        take: impl FnOnce(usize) -> B,
    ) -> Option<B> {
        if !*self.reads_at_once.get()? {
            return None;
        }
        let (cached, none) = (ResolveFlags::CACHED, Mode::empty());
        // What the file system can is known of the root's, so links must not lead elsewhere.
        let root = openat2(CWD, &self.root, OFlags::PATH | OFlags::CLOEXEC, none, cached).ok()?;
        // What is no file must not keep the thread either.
        let flags = OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NOATIME | OFlags::NONBLOCK;
        let open = openat2(root, file, flags, none, cached | ResolveFlags::NO_XDEV).ok()?;
        let len = rustix::fs::fstat(&open).ok()?.st_size as u64;
        if len < range.end {
            return None;
        }
        let mut buffer = take((range.end - range.start) as usize);
        let read = read_nowait(open, &mut buffer, range.start).ok()?;
        (read == buffer.len()).then_some(buffer)
    }

    pub(super) fn remove_directory(&self, directory: &str) -> Result<(), Error> {
        let path = self.root.join(directory);
        match fs::remove_dir_all(&path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(at(&path, error)),
            _ => Ok(()),
        }
    }

    /// Makes everything written to the file system so far survive a power cut, whoever wrote it.
    pub(super) fn sync(&self) -> Result<(), Error> {
        let root = File::open(&self.root).map_err(|error| at(&self.root, error))?;
        rustix::fs::syncfs(&root).map_err(|errno| at_fsync(&self.root, errno.into()))
    }

    /// The files under the directory `prefix` at any depth, those after `after` only, whatever they are called, in no order. A
    /// directory that is not there has none, and what goes away meanwhile is not there.
    pub(super) fn list(&self, prefix: &str, after: Option<&str>) -> Result<Vec<Listed>, Error> {
        let mut listed = Vec::new();
        let mut pending = vec![self.root.join(prefix)];
        while let Some(directory) = pending.pop() {
            for entry in entries(&directory)? {
                let entry = entry.map_err(|error| at(&directory, error))?;
                let path = entry.path();
                let relative = path.strip_prefix(&self.root).ok().and_then(Path::to_str);
                // What cannot be a path of an object is none.
                let Some(relative) = relative else { continue };
                let kind = entry.file_type().map_err(|error| at(&path, error))?;
                if kind.is_file() && after.is_some_and(|after| relative <= after) {
                    // Not asked about: on a network file system that is a request.
                    continue;
                }
                // Links are followed: somebody may have laid out a store over several disks.
                let metadata = match fs::metadata(&path) {
                    Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
                    metadata => metadata.map_err(|error| at(&path, error))?,
                };
                if metadata.is_dir() {
                    pending.push(path);
                } else if metadata.is_file() {
                    listed.push(Listed {
                        path: relative.to_owned(),
                        size: metadata.len(),
                    });
                }
            }
        }
        self.check_attached()?;
        Ok(listed)
    }

    /// Removes what interrupted writes under `prefix` left behind; returns how many files.
    ///
    /// Only for a directory nobody writes to: a running write's staging file looks the same.
    pub(super) fn sweep_staging(&self, prefix: &str) -> Result<usize, Error> {
        let mut swept = 0;
        let mut pending = vec![self.root.join(prefix)];
        while let Some(directory) = pending.pop() {
            for entry in entries(&directory)? {
                let entry = entry.map_err(|error| at(&directory, error))?;
                let kind = entry.file_type().map_err(|error| at(&entry.path(), error))?;
                if kind.is_dir() {
                    pending.push(entry.path());
                } else if kind.is_file() && entry.file_name().to_str().is_some_and(is_leftover_name) {
                    swept += remove(&entry.path())?;
                }
            }
        }
        Ok(swept)
    }

    pub(super) fn space(&self) -> Result<Space, Error> {
        let (stat, held) = self.stat().map_err(|errno| at(&self.root, errno.into()))?;
        Ok(Space::of(&stat).with_reserve(held))
    }

    /// The file system and what the reserve holds of it, of one moment: it may be filled or given back meanwhile.
    fn stat(&self) -> Result<(StatVfs, u64), Errno> {
        const TRIES: usize = 8;
        let mut held = self.reserve.held_bytes();
        for _ in 1..TRIES {
            let stat = rustix::fs::statvfs(&self.root)?;
            let since = self.reserve.held_bytes();
            if since == held {
                return Ok((stat, held));
            }
            held = since;
        }
        Ok((rustix::fs::statvfs(&self.root)?, held))
    }

    /// What is left beside the reserve.
    pub(super) fn left(&self) -> Result<Space, Error> {
        let stat = rustix::fs::statvfs(&self.root).map_err(|errno| at(&self.root, errno.into()))?;
        Ok(Space::of(&stat))
    }

    /// Whether `directory`, or what will hold it once it is made, is on the file system of the store.
    pub(super) fn is_on_file_system_of(&self, directory: &Path) -> bool {
        let found = directory.ancestors().find_map(|directory| fs::metadata(directory).ok());
        found.is_some_and(|metadata| metadata.dev() == self.identity.0)
    }

    /// Looks at the directory and its file system, without opening anything.
    pub(super) fn look(&self) -> Look {
        let silent = |error: io::Error| Look::away(Presence::Silent(error.to_string()));
        match fs::metadata(&self.root) {
            Ok(metadata) if identity(&metadata) == self.identity => {}
            Ok(_) => return Look::away(Presence::Gone(REPLACED.to_owned())),
            Err(error) => match error.kind() {
                io::ErrorKind::NotFound | io::ErrorKind::NotADirectory => {
                    return Look::away(Presence::Gone(error.to_string()));
                }
                io::ErrorKind::PermissionDenied => {
                    return Look {
                        refused: Some(error.to_string()),
                        ..Look::endless()
                    };
                }
                _ => return silent(error),
            },
        }
        let (stat, held) = match self.stat() {
            Ok(found) => found,
            Err(errno) => return silent(errno.into()),
        };
        Look {
            presence: Presence::Here,
            space: Some(Space::of(&stat).with_reserve(held)),
            is_read_only: stat.f_flag.contains(StatVfsMountFlags::RDONLY),
            refused: self.refused(),
        }
    }

    /// Why this process may not work in the directory, if it may not.
    fn refused(&self) -> Option<String> {
        let wanted = Access::READ_OK | Access::WRITE_OK | Access::EXEC_OK;
        match rustix::fs::accessat(CWD, &self.root, wanted, AtFlags::EACCESS) {
            Err(errno @ (Errno::ACCESS | Errno::PERM)) => Some(io::Error::from(errno).to_string()),
            // What else goes wrong is told by other means, and an old kernel cannot say.
            _ => None,
        }
    }
}

fn is_leftover_name(name: &str) -> bool {
    is_staging_name(name) || name.starts_with(super::TRIAL_PREFIX)
}

/// Whether a file name is one of `LocalFileSystem`'s staging files: `<name>#<digits>`.
pub(super) fn is_staging_name(name: &str) -> bool {
    name.split_once('#')
        .is_some_and(|(_, number)| !number.is_empty() && number.bytes().all(|byte| byte.is_ascii_digit()))
}

/// Creates `directory` and its parents, and fsyncs it and every directory above it up to and including `top`.
pub(super) fn create_durably(directory: &Path, top: &Path) -> Result<(), Error> {
    fs::create_dir_all(directory).map_err(|error| match error.kind() {
        // What it says of a file in the way.
        io::ErrorKind::AlreadyExists => Error::NotADirectory {
            path: directory.display().to_string(),
        },
        _ => at(directory, error),
    })?;
    for ancestor in directory.ancestors().take_while(|ancestor| ancestor.starts_with(top)) {
        sync_directory(ancestor)?;
    }
    Ok(())
}

pub(super) fn sync_directory(directory: &Path) -> Result<(), Error> {
    let open = File::open(directory).map_err(|error| at(directory, error))?;
    open.sync_all().map_err(|error| at_fsync(directory, error))
}

fn entries(directory: &Path) -> Result<Box<dyn Iterator<Item = io::Result<fs::DirEntry>>>, Error> {
    match fs::read_dir(directory) {
        Ok(entries) => Ok(Box::new(entries)),
        Err(error) if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => {
            Ok(Box::new(std::iter::empty()))
        }
        Err(error) => Err(at(directory, error)),
    }
}

fn remove(path: &Path) -> Result<usize, Error> {
    match fs::remove_file(path) {
        Ok(()) => Ok(1),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(0),
        Err(error) => Err(at(path, error)),
    }
}

fn identity(metadata: &fs::Metadata) -> (u64, u64) {
    (metadata.dev(), metadata.ino())
}

/// Reads bytes from `at` on that are in memory: fewer if no more are, `AGAIN` if none.
fn read_nowait(file: impl AsFd, buffer: &mut [u8], at: u64) -> rustix::io::Result<usize> {
    preadv2(file, &mut [IoSliceMut::new(buffer)], at, ReadWriteFlags::NOWAIT)
}

pub(super) fn at(path: &Path, error: io::Error) -> Error {
    Error::from_io(path.display().to_string(), error)
}

pub(super) fn at_fsync(path: &Path, error: io::Error) -> Error {
    Error::from_fsync(path.display().to_string(), error)
}
