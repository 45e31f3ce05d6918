//! Keys in files: 32 raw bytes, or 64 hex digits with an optional newline.

use std::fs::{File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use rustix::fs::{CWD, RenameFlags};
use rustix::io::Errno;
use zeroize::Zeroizing;

use crate::codec::Secret;
use crate::format::Kek;

const KEY_LEN: usize = 32;
const HEX_LEN: usize = 2 * KEY_LEN;

/// Why a key file gave no key. Messages name the file and never what is in it.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// No such file.
    #[error("{}: no such key file", path.display())]
    Missing {
        /// The key file.
        path: PathBuf,
    },
    /// A directory stands there.
    #[error("{}: a directory; give the key file in it", path.display())]
    Directory {
        /// The key file.
        path: PathBuf,
    },
    /// Nothing is in it.
    #[error("{}: empty; a key file has 32 raw bytes or 64 hex digits", path.display())]
    Empty {
        /// The key file.
        path: PathBuf,
    },
    /// Neither of the two lengths.
    #[error("{}: {} bytes long; a key file has 32 raw bytes or 64 hex digits", path.display(), length(*len))]
    WrongLength {
        /// The key file.
        path: PathBuf,
        /// Bytes in it, counted up to a bound.
        len: usize,
    },
    /// 64 characters that are not hex digits.
    #[error("{}: has the length of 64 hex digits, but other characters in it", path.display())]
    NotHexadecimal {
        /// The key file.
        path: PathBuf,
    },
    /// A key was to be created where a file is.
    #[error("{}: exists already; a key file is never overwritten", path.display())]
    Exists {
        /// The key file.
        path: PathBuf,
    },
    /// The operating system says no.
    #[error("{}: {source}", path.display())]
    Io {
        /// The key file.
        path: PathBuf,
        /// What it said.
        #[source]
        source: io::Error,
    },
    /// The operating system gave no random bytes.
    #[error("no random bytes from the operating system: {0}")]
    Random(getrandom::Error),
}

fn length(len: usize) -> String {
    if len > READ_MAX {
        format!("more than {READ_MAX}")
    } else {
        len.to_string()
    }
}

/// A key encryption key from a file.
pub struct FileKek {
    /// `file:` and the first 8 hex digits of a fingerprint of the key: BLAKE3 `derive_key` with the context "cairn kek id".
    pub id: String,
    /// The key.
    pub secret: Zeroizing<[u8; KEY_LEN]>,
}

impl std::fmt::Debug for FileKek {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("FileKek").field("id", &self.id).finish_non_exhaustive()
    }
}

impl From<FileKek> for Kek {
    fn from(kek: FileKek) -> Self {
        Self {
            secret: Secret::from_bytes(*kek.secret),
            id: kek.id,
        }
    }
}

/// Reads a key file. Named pipes work.
pub fn load_key_file(path: &Path) -> Result<FileKek, Error> {
    let contents = read(path)?;
    let secret = parse(path, &contents)?;
    Ok(kek(secret))
}

/// The key in the contents of a key file.
#[cfg(any(test, feature = "testkit"))]
pub(crate) fn kek_in(contents: &[u8]) -> Result<FileKek, Error> {
    parse(Path::new("contents"), contents).map(kek)
}

/// Makes a fresh key and writes it as hex to a file of its own, mode 0600; it survives a power cut when this returns.
///
/// The file appears whole: a process killed on the way leaves no key file, at worst a `.new` file that nobody reads.
pub fn create_key_file(path: &Path) -> Result<FileKek, Error> {
    let mut secret = Zeroizing::new([0; KEY_LEN]);
    getrandom::fill(secret.as_mut_slice()).map_err(Error::Random)?;
    let written = if path.exists() {
        Err(io::ErrorKind::AlreadyExists.into())
    } else {
        write_whole(path, &secret)
    };
    match written {
        Ok(()) => Ok(kek(secret)),
        Err(source) => Err(match source.kind() {
            io::ErrorKind::AlreadyExists => Error::Exists { path: path.to_owned() },
            _ => Error::Io {
                path: path.to_owned(),
                source,
            },
        }),
    }
}

/// Writes beside the place, then moves there unless something has appeared: of two processes at it at once, one fails.
fn write_whole(path: &Path, secret: &[u8; KEY_LEN]) -> io::Result<()> {
    let new = beside(path)?;
    let moved = write_new(&new, secret).and_then(|()| match move_new(&new, path) {
        // Network file systems may know no such move. There a kill at the wrong moment leaves an empty file.
        Err(Errno::INVAL | Errno::NOSYS | Errno::NOTSUP) => write_new(path, secret),
        moved => moved.map_err(io::Error::from),
    });
    // After a move there is nothing of this name; that it cannot be removed otherwise is not worth another message.
    let _ = std::fs::remove_file(&new);
    moved?;
    let directory = path
        .parent()
        .filter(|parent| !parent.as_os_str().is_empty())
        .unwrap_or(Path::new("."));
    File::open(directory)?.sync_all()
}

/// A name of its own: in containers all processes have the same id.
fn beside(path: &Path) -> io::Result<PathBuf> {
    let mut random = [0; 8];
    getrandom::fill(&mut random).map_err(io::Error::other)?;
    let mut name = path.file_name().unwrap_or_default().to_owned();
    name.push(format!(".{}.new", hex::encode(random)));
    Ok(path.with_file_name(name))
}

fn move_new(new: &Path, path: &Path) -> Result<(), Errno> {
    rustix::fs::renameat_with(CWD, new, CWD, path, RenameFlags::NOREPLACE)
}

fn write_new(path: &Path, secret: &[u8; KEY_LEN]) -> io::Result<()> {
    let mut text = Zeroizing::new(hex::encode(secret));
    text.push('\n');
    let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(path)?;
    let written = file.write_all(text.as_bytes()).and_then(|()| file.sync_all());
    if written.is_err() {
        // Half a key would be in the way of the next attempt.
        let _ = std::fs::remove_file(path);
    }
    written
}

/// Far above the right lengths, so that the message can tell how long the wrong file is.
const READ_MAX: usize = 4096;

fn read(path: &Path) -> Result<Zeroizing<Vec<u8>>, Error> {
    let failed = |source: io::Error| match source.kind() {
        io::ErrorKind::NotFound => Error::Missing { path: path.to_owned() },
        io::ErrorKind::IsADirectory => Error::Directory { path: path.to_owned() },
        _ => Error::Io {
            path: path.to_owned(),
            source,
        },
    };
    // Room for everything from the start: growing would leave copies of the key behind.
    let mut contents = Zeroizing::new(Vec::with_capacity(READ_MAX + 1));
    let file = File::open(path).map_err(failed)?;
    file.take(READ_MAX as u64 + 1)
        .read_to_end(&mut contents)
        .map_err(failed)?;
    Ok(contents)
}

fn parse(path: &Path, contents: &[u8]) -> Result<Zeroizing<[u8; KEY_LEN]>, Error> {
    let mut secret = Zeroizing::new([0; KEY_LEN]);
    match contents.len() {
        0 => {
            return Err(Error::Empty { path: path.to_owned() });
        }
        KEY_LEN => secret.copy_from_slice(contents),
        len => {
            let digits = contents.strip_suffix(b"\n").unwrap_or(contents);
            if digits.len() != HEX_LEN {
                return Err(Error::WrongLength {
                    path: path.to_owned(),
                    len,
                });
            }
            hex::decode_to_slice(digits, secret.as_mut_slice())
                .map_err(|_| Error::NotHexadecimal { path: path.to_owned() })?;
        }
    }
    Ok(secret)
}

fn kek(secret: Zeroizing<[u8; KEY_LEN]>) -> FileKek {
    let fingerprint = blake3::derive_key("cairn kek id", secret.as_slice());
    FileKek {
        id: format!("file:{}", hex::encode(&fingerprint[..4])),
        secret,
    }
}
