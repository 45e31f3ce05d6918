//! `cairn get`: an object, or a part of it, comes out.

use std::ffi::OsString;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};

use clap::Args;

use cairn_agent::engine::ByteRange;

use crate::failure::Failure;
use crate::progress::{Counter, Progress};
use crate::session::{Session, object_name};
use crate::target::Reader;

/// Write an object to a file or to standard output
///
/// A file appears whole or not at all; one that is there already is replaced at once.
#[derive(Args)]
pub(crate) struct Get {
    /// The object's name
    name: OsString,
    /// Where to write it; - or nothing is standard output
    file: Option<PathBuf>,
    /// Only these bytes: A-B (both included), A- (from A to the end) or -N (the last N)
    #[arg(long, value_name = "RANGE", allow_hyphen_values = true, value_parser = parse_range)]
    range: Option<ByteRange>,
}

impl Get {
    pub(crate) async fn run(self, session: &Session) -> Result<(), Failure> {
        let name = object_name(&self.name)?;
        let destination = Destination::of(self.file)?;
        let repository = session.repository().await?;
        let mut reader = repository.get(name, self.range.unwrap_or_default()).await?;
        let progress = Progress::bytes("get", Some(reader.range_bytes()));
        match destination {
            Destination::StandardOutput => {
                // The library's own looks for ends of lines.
                let out = io::stdout().as_fd().try_clone_to_owned();
                let mut out = File::from(out.map_err(Failure::output)?);
                copy(&mut reader, &mut out, &progress.counter(), Failure::output).await
            }
            // A pipe or a device is written to; replacing `/dev/null` by a file would be a surprise.
            Destination::Special(path) => {
                let failed = |error| Failure::local("write", &path, &error);
                let mut file = OpenOptions::new().write(true).open(&path).map_err(failed)?;
                copy(&mut reader, &mut file, &progress.counter(), failed).await
            }
            Destination::File(path) => {
                let failed = |error| Failure::local("write", &path, &error);
                let mut partial = Partial::beside(&path).map_err(failed)?;
                copy(&mut reader, &mut partial.file, &progress.counter(), failed).await?;
                partial.finish(&path).map_err(failed)
            }
        }
    }
}

enum Destination {
    StandardOutput,
    /// Something that is there and is no file.
    Special(PathBuf),
    File(PathBuf),
}

impl Destination {
    fn of(file: Option<PathBuf>) -> Result<Self, Failure> {
        let Some(path) = file.filter(|path| path != Path::new("-")) else {
            return Ok(Self::StandardOutput);
        };
        match fs::metadata(&path) {
            Ok(found) if found.is_dir() => {
                let line = format!("{} is a directory; name the file to write in it", path.display());
                Err(Failure::usage(line))
            }
            // Through a symbolic link the file it leads to is replaced, not the link.
            Ok(found) if found.is_file() => {
                let path = path.canonicalize().unwrap_or(path);
                Ok(Self::File(path))
            }
            Ok(_) => Ok(Self::Special(path)),
            Err(_) => Ok(Self::File(path)),
        }
    }
}

async fn copy(
    reader: &mut Reader,
    out: &mut impl Write,
    counter: &Counter,
    failed: impl Fn(io::Error) -> Failure,
) -> Result<(), Failure> {
    while let Some(bytes) = reader.next().await? {
        tokio::task::block_in_place(|| out.write_all(&bytes)).map_err(&failed)?;
        counter.add(bytes.len() as u64);
    }
    Ok(())
}

/// A file that is not yet whole, under a name of its own in the directory of the target. Removed unless finished.
struct Partial {
    path: PathBuf,
    file: File,
}

impl Partial {
    fn beside(target: &Path) -> io::Result<Self> {
        let Some(name) = target.file_name() else {
            return Err(io::Error::new(io::ErrorKind::InvalidInput, "not the name of a file"));
        };
        // The process id keeps two gets of one target apart; the target's own name may already have the longest length.
        let name: String = name.to_string_lossy().chars().take(40).collect();
        let path = target.with_file_name(format!(".{name}.{}.part", std::process::id()));
        let file = OpenOptions::new().write(true).create_new(true).open(&path)?;
        Ok(Self { path, file })
    }

    /// Puts the file where it belongs, after its bytes are on the disk: after a power cut it is whole or not there.
    fn finish(self, target: &Path) -> io::Result<()> {
        self.file.sync_all()?;
        fs::rename(&self.path, target)?;
        let directory = target.parent().filter(|parent| !parent.as_os_str().is_empty());
        File::open(directory.unwrap_or(Path::new(".")))?.sync_all()
    }
}

impl Drop for Partial {
    fn drop(&mut self) {
        // After finish() there is nothing of this name any more.
        let _ = fs::remove_file(&self.path);
    }
}

fn parse_range(text: &str) -> Result<ByteRange, String> {
    let number = |digits: &str| -> Option<u64> {
        let only_digits = digits.bytes().all(|byte| byte.is_ascii_digit());
        only_digits.then(|| digits.parse().ok()).flatten()
    };
    let range = text.split_once('-').and_then(|(first, last)| match (first, last) {
        ("", last) => number(last).map(ByteRange::Last),
        (first, "") => number(first).map(ByteRange::From),
        (first, last) => Some(ByteRange::Inclusive {
            first: number(first)?,
            last: number(last)?,
        }),
    });
    match range {
        Some(ByteRange::Inclusive { first, last }) if last < first => {
            Err(format!("the range ends at {last}, before it starts at {first}"))
        }
        Some(range) => Ok(range),
        None => Err("a range is A-B (both included), A- or -N, in bytes".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_are_read() {
        assert_eq!(parse_range("0-0"), Ok(ByteRange::Inclusive { first: 0, last: 0 }));
        assert_eq!(parse_range("7-"), Ok(ByteRange::From(7)));
        assert_eq!(parse_range("-9"), Ok(ByteRange::Last(9)));
        for wrong in ["", "-", "5", "a-b", "+1-2", "1-2-3", "1 - 2", "2-1"] {
            assert!(parse_range(wrong).is_err(), "{wrong:?}");
        }
    }

    #[test]
    fn an_unfinished_file_goes_away() {
        let directory = tempfile::tempdir().unwrap();
        let target = directory.path().join("target");
        fs::write(&target, "before").unwrap();
        let mut partial = Partial::beside(&target).unwrap();
        partial.file.write_all(b"half").unwrap();
        drop(partial);
        assert_eq!(fs::read_dir(directory.path()).unwrap().count(), 1);
        assert_eq!(fs::read(&target).unwrap(), b"before");

        let mut partial = Partial::beside(&target).unwrap();
        partial.file.write_all(b"after").unwrap();
        partial.finish(&target).unwrap();
        assert_eq!(fs::read_dir(directory.path()).unwrap().count(), 1);
        assert_eq!(fs::read(&target).unwrap(), b"after");
    }
}
