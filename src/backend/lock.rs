//! The lock of a directory: one process at a time, told apart by `flock`.
//!
//! It is the friendly first line only; what keeps two writers apart for certain is the log. `flock` belongs to the open file,
//! so it goes when the process dies however it dies, and two opens within one process exclude each other too.

use std::fs::{File, OpenOptions};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::path::Path;

use rustix::fs::FlockOperation;
use rustix::io::Errno;

use super::error::Error;

/// Name of the lock file under the store's prefix. Not an object: never listed, never removed.
pub(super) const LOCK_FILE: &str = "lock";

/// Holds a store's directory; released on drop.
#[derive(Debug)]
#[must_use = "dropping it releases the directory"]
pub struct Lock {
    file: Option<File>,
}

impl Lock {
    /// A lock on nothing, where there is nothing to lock: buckets, memory, a read-only file system without a lock file.
    pub fn none() -> Self {
        Self { file: None }
    }

    /// Whether something is really held.
    pub fn is_held(&self) -> bool {
        self.file.is_some()
    }

    #[cfg(test)]
    pub(super) fn duplicate(&self) -> Option<File> {
        self.file.as_ref().and_then(|file| file.try_clone().ok())
    }

    pub(super) fn acquire(root: &Path) -> Result<Self, Error> {
        let path = root.join(LOCK_FILE);
        match open_writable(&path) {
            Ok(file) => Self::of_file(root, file, Access::Write),
            Err(error) if error.kind() == io::ErrorKind::ReadOnlyFilesystem => Self::acquire_reading(root, &path),
            // A user who may only read must still not work beside a running agent; reading suffices for flock.
            Err(error) if error.kind() == io::ErrorKind::PermissionDenied => match File::open(&path) {
                Ok(file) => Self::of_file(root, file, Access::Read),
                Err(_) => Err(Error::from_io(path.display().to_string(), error)),
            },
            Err(error) => Err(Error::from_io(path.display().to_string(), error)),
        }
    }

    fn acquire_reading(root: &Path, path: &Path) -> Result<Self, Error> {
        match File::open(path) {
            Ok(file) => Self::of_file(root, file, Access::Read),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Self::none()),
            Err(error) => Err(Error::from_io(path.display().to_string(), error)),
        }
    }

    fn of_file(root: &Path, mut file: File, access: Access) -> Result<Self, Error> {
        let place = || root.join(LOCK_FILE).display().to_string();
        match rustix::fs::flock(&file, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => {}
            Err(Errno::WOULDBLOCK) => {
                return Err(Error::Held {
                    path: root.display().to_string(),
                    pid: read_pid(&mut file),
                });
            }
            Err(errno) => return Err(Error::from_io(place(), errno.into())),
        }
        match access {
            // A full volume must not keep an agent from starting: reclaim is what will free it. The pid is only a courtesy.
            Access::Write => drop(write_pid(&mut file)),
            Access::Read => {}
        }
        Ok(Self { file: Some(file) })
    }
}

impl Drop for Lock {
    fn drop(&mut self) {
        // Closing alone would leave it to a process that is being started at this moment: until that executes its program it
        // has this file open too.
        if let Some(file) = &self.file {
            let _ = rustix::fs::flock(file, FlockOperation::Unlock);
        }
    }
}

enum Access {
    Read,
    Write,
}

fn open_writable(path: &Path) -> io::Result<File> {
    // Not truncated on opening: until the lock is ours the pid inside is somebody else's.
    OpenOptions::new()
        .read(true)
        .write(true)
        .create(true)
        .truncate(false)
        .open(path)
}

fn write_pid(file: &mut File) -> io::Result<()> {
    file.set_len(0)?;
    file.seek(SeekFrom::Start(0))?;
    file.write_all(format!("{}\n", std::process::id()).as_bytes())
}

fn read_pid(file: &mut File) -> Option<u32> {
    const LONGEST: u64 = 16;
    let mut text = String::new();
    file.take(LONGEST).read_to_string(&mut text).ok()?;
    text.trim().parse().ok()
}
