//! The frame of a pack: header, trailer, block sums, and the hash of its sealed directory. All in clear.

use std::ops::Range;

use bytes::Bytes;

use super::walk::{Read, Walk};
use crate::backend::ErrorKind;
use crate::codec::RepositoryId;
use crate::engine::error::Result;
use crate::format::pack::{HEADER_LEN, PACK_TAIL_GUESS, TRAILER_LEN, parse_header, parse_trailer};
use crate::format::{Hash32, PackName, Trailer};

/// A range of a stored object that is not what was written.
#[derive(Clone, Debug)]
pub(super) struct Flaw {
    pub(super) range: Range<u64>,
    pub(super) problem: String,
}

/// A pack's frame as far as it can be read.
pub(super) struct Frame {
    /// Length of the object.
    pub(super) size: u64,
    pub(super) header: Bytes,
    pub(super) trailer: Option<Trailer>,
    pub(super) directory: Bytes,
    /// Empty unless they match their hash.
    pub(super) sums: Bytes,
    pub(super) flaws: Vec<Flaw>,
    /// Whether it went away while it was read, as packs do when space is given back.
    is_gone: bool,
}

impl Frame {
    /// Reads and checks the frame; none if the pack is not there, or no more.
    pub(super) async fn read(
        walk: &Walk<'_>,
        path: &str,
        repository: RepositoryId,
        name: &PackName,
    ) -> Result<Option<Self>> {
        let (tail, size) = match walk.backend.get_tail(path, PACK_TAIL_GUESS).await {
            Ok(read) => read,
            Err(error) => match error.kind() {
                ErrorKind::NotFound => return Ok(None),
                ErrorKind::Truncated | ErrorKind::Io => (Bytes::new(), walk.backend.size(path).await.unwrap_or(0)),
                _ => return Err(error.into()),
            },
        };
        walk.spend(tail.len() as u64).await;
        let mut frame = Self {
            size,
            header: Bytes::new(),
            trailer: None,
            directory: Bytes::new(),
            sums: Bytes::new(),
            flaws: Vec::new(),
            is_gone: false,
        };
        frame.read_header(walk, path, repository, name).await?;
        frame.read_tail(walk, path, tail).await?;
        Ok(Some(frame).filter(|frame| !frame.is_gone))
    }

    async fn read_header(
        &mut self,
        walk: &Walk<'_>,
        path: &str,
        repository: RepositoryId,
        name: &PackName,
    ) -> Result<()> {
        let range = 0..self.size.min(HEADER_LEN as u64);
        match walk.read(path, range.clone()).await? {
            Read::Bytes(bytes) => self.header = bytes,
            Read::Missing => {
                self.is_gone = true;
                return Ok(());
            }
            Read::Unreadable(problem) => self.flaw(range.clone(), problem),
        }
        match parse_header(&self.header) {
            Err(error) => self.flaw(range, error.to_string()),
            Ok(header) if header.repository != repository => self.flaw(range, "it belongs to another repository"),
            Ok(header) if header.id != name.id => self.flaw(range, "it belongs to another pack"),
            Ok(_) => {}
        }
        Ok(())
    }

    async fn read_tail(&mut self, walk: &Walk<'_>, path: &str, mut tail: Bytes) -> Result<()> {
        let trailer = match parse_trailer(&tail, self.size) {
            Ok(trailer) => trailer,
            Err(error) => {
                let start = self.size.saturating_sub(TRAILER_LEN as u64);
                self.flaw(start..self.size, error.to_string());
                return Ok(());
            }
        };
        if trailer.tail_len() > tail.len() as u64 {
            let range = self.size - trailer.tail_len()..self.size;
            tail = match walk.read(path, range.clone()).await? {
                Read::Bytes(bytes) => bytes,
                Read::Missing => {
                    self.is_gone = true;
                    Bytes::new()
                }
                Read::Unreadable(problem) => {
                    self.flaw(range, problem);
                    Bytes::new()
                }
            };
        }
        if let Some((directory, sums)) = trailer.split_tail(&tail) {
            (self.directory, self.sums) = (tail.slice_ref(directory), tail.slice_ref(sums));
            self.check_hashes(&trailer);
        }
        self.trailer = Some(trailer);
        Ok(())
    }

    fn check_hashes(&mut self, trailer: &Trailer) {
        if self.header.len() == HEADER_LEN && Hash32::of(&self.header) != trailer.header_hash {
            self.flaw(0..HEADER_LEN as u64, "the header does not match its hash");
        }
        if Hash32::of(&self.directory) != trailer.directory_hash {
            self.flaw(trailer.directory_range(), "the directory does not match its hash");
        }
        if Hash32::of(&self.sums) != trailer.sums_hash {
            self.flaw(trailer.sums_range(), "the block sums do not match their hash");
            self.sums = Bytes::new();
        }
    }

    pub(super) fn flaw(&mut self, range: Range<u64>, problem: impl Into<String>) {
        self.flaws.push(Flaw {
            range,
            problem: problem.into(),
        });
    }
}
