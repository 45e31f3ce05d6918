//! Where the bytes of a put come from.

use std::fs::File;
use std::future::Future;
use std::io::{self, IoSliceMut, Read};
use std::ops::Range;
use std::os::unix::fs::FileExt;
use std::sync::Arc;

use bytes::Bytes;
use rustix::fs::fstatfs;
use rustix::io::{Errno, ReadWriteFlags, preadv2};
use tokio::io::{AsyncRead, AsyncReadExt};

/// A stream of bytes that fills slabs.
pub trait Source: Send {
    /// Reads until `room` is full or the stream ends, and returns the buffer with how much of it was filled. Less
    /// than all of it means the end. The buffer travels so that blocking reads need no copy.
    ///
    /// # Errors
    /// Whatever the stream reports; the put is given up and nothing becomes visible.
    fn fill(
        &mut self,
        buffer: Vec<u8>,
        room: Range<usize>,
    ) -> impl Future<Output = io::Result<(Vec<u8>, usize)>> + Send;

    /// The next bytes, `len_max` at most, as a read that is done later, on another thread, at once with those before and after
    /// it, or as bytes that need not be read. Fewer are the end. `None`: they come from [`fill`](Self::fill) only.
    fn part(&mut self, len_max: usize) -> Option<Part> {
        let _ = len_max;
        None
    }

    /// Called once all of it was taken, with its length and CRC-32C, before anything becomes visible: the last chance to
    /// refuse.
    ///
    /// # Errors
    /// As for [`fill`](Self::fill).
    fn check(&mut self, bytes: u64, crc32c: u32) -> io::Result<()> {
        let _ = (bytes, crc32c);
        Ok(())
    }
}

/// A part of a source that is yet to be read, or lies in memory.
pub struct Part(Content);

enum Content {
    Read {
        len: usize,
        read: Box<ReadPart>,
    },
    OfFile {
        file: Arc<File>,
        range: Range<u64>,
        /// Reading it never waits for a device.
        is_in_memory: bool,
    },
    /// Where it is in the whole stream.
    InMemory {
        whole: Bytes,
        range: Range<usize>,
    },
}

type ReadPart = dyn FnOnce(&mut [u8]) -> io::Result<()> + Send;

impl Part {
    /// `read` fills all of what it is given, which has `len` bytes. It may block.
    pub fn new(len: usize, read: impl FnOnce(&mut [u8]) -> io::Result<()> + Send + 'static) -> Self {
        let read = Box::new(read);
        Self(Content::Read { len, read })
    }

    /// How many bytes it has.
    pub fn len(&self) -> usize {
        match &self.0 {
            Content::Read { len, .. } => *len,
            Content::OfFile { range, .. } => (range.end - range.start) as usize,
            Content::InMemory { range, .. } => range.len(),
        }
    }

    /// Whether it has none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Reads it into `target`, which has its length.
    ///
    /// # Errors
    /// What reading can fail with.
    pub fn read(self, target: &mut [u8]) -> io::Result<()> {
        match self.0 {
            Content::Read { read, .. } => read(target),
            Content::OfFile { file, range, .. } => file.read_exact_at(target, range.start).map_err(|error| match error
                .kind()
            {
                io::ErrorKind::UnexpectedEof => became_shorter(),
                _ => error,
            }),
            Content::InMemory { whole, range } => {
                target.copy_from_slice(&whole[range]);
                Ok(())
            }
        }
    }

    /// Whether [`read_now`](Self::read_now) may bring anything.
    pub(super) fn is_of_file(&self) -> bool {
        matches!(self.0, Content::OfFile { .. })
    }

    /// Reads from the beginning of it what can be had without waiting for a device. Returns how much that was; the rest is what
    /// remains.
    ///
    /// # Errors
    /// As of [`read`](Self::read).
    pub(super) fn read_now(&mut self, target: &mut [u8]) -> io::Result<usize> {
        let Content::OfFile {
            file,
            range,
            is_in_memory,
        } = &mut self.0
        else {
            return Ok(0);
        };
        let flags = match is_in_memory {
            true => ReadWriteFlags::empty(),
            false => ReadWriteFlags::NOWAIT,
        };
        let mut done = 0;
        while done < target.len() {
            match preadv2(&*file, &mut [IoSliceMut::new(&mut target[done..])], range.start, flags) {
                Ok(0) => return Err(became_shorter()),
                Ok(read) => {
                    done += read;
                    range.start += read as u64;
                }
                Err(Errno::INTR) => {}
                // Whatever it is: reading the rest in the ordinary way brings it or says it again.
                Err(_) => break,
            }
        }
        Ok(done)
    }

    /// The whole stream, if that lies in memory, and where this part is in it.
    pub(super) fn in_memory(&self) -> Option<(Bytes, Range<usize>)> {
        match &self.0 {
            Content::Read { .. } | Content::OfFile { .. } => None,
            Content::InMemory { whole, range } => Some((whole.clone(), range.clone())),
        }
    }
}

/// Bytes in memory, worked on where they are. They are held until the put returns, and not counted in the budget.
pub struct WholeBytes {
    whole: Bytes,
    at: usize,
}

impl WholeBytes {
    /// All of `bytes`.
    pub fn new(bytes: impl Into<Bytes>) -> Self {
        Self {
            whole: bytes.into(),
            at: 0,
        }
    }

    fn next_part(&mut self, len_max: usize) -> Part {
        let start = self.at;
        self.at += len_max.min(self.whole.len() - start);
        Part(Content::InMemory {
            whole: self.whole.clone(),
            range: start..self.at,
        })
    }
}

impl Source for WholeBytes {
    async fn fill(&mut self, mut buffer: Vec<u8>, room: Range<usize>) -> io::Result<(Vec<u8>, usize)> {
        let part = self.next_part(room.len());
        let len = part.len();
        part.read(&mut buffer[room.start..][..len])?;
        Ok((buffer, len))
    }

    fn part(&mut self, len_max: usize) -> Option<Part> {
        Some(self.next_part(len_max))
    }
}

impl<T: AsyncRead + Unpin + Send> Source for T {
    async fn fill(&mut self, mut buffer: Vec<u8>, room: Range<usize>) -> io::Result<(Vec<u8>, usize)> {
        let target = &mut buffer[room];
        let mut filled = 0;
        while filled < target.len() {
            match self.read(&mut target[filled..]).await? {
                0 => break,
                n => filled += n,
            }
        }
        Ok((buffer, filled))
    }
}

/// A blocking reader, such as a file or standard input, read on threads made for blocking.
pub struct Blocking<R>(Option<R>);

impl<R: Read + Send + 'static> Blocking<R> {
    /// Wraps `reader`.
    pub fn new(reader: R) -> Self {
        Self(Some(reader))
    }
}

impl<R: Read + Send + 'static> Source for Blocking<R> {
    async fn fill(&mut self, mut buffer: Vec<u8>, room: Range<usize>) -> io::Result<(Vec<u8>, usize)> {
        let Some(mut reader) = self.0.take() else {
            return Err(io::Error::other("the reader was lost in an earlier failure"));
        };
        let work = move || {
            let filled = read_full(&mut reader, &mut buffer[room]);
            (reader, buffer, filled)
        };
        let (reader, buffer, filled) = tokio::task::spawn_blocking(work).await.map_err(io::Error::other)?;
        self.0 = Some(reader);
        Ok((buffer, filled?))
    }
}

/// A regular file, with the length that it has when the put begins. Parts of it are read at once: out of the page cache, one
/// thread brings less than two others cut and hash. What is in the page cache is read by the core that cuts it.
pub struct WholeFile {
    file: Arc<File>,
    rest: Range<u64>,
    is_in_memory: bool,
}

impl WholeFile {
    /// All of `file`, wherever it stands.
    ///
    /// # Errors
    /// If its length cannot be asked for.
    pub fn new(file: File) -> io::Result<Self> {
        Ok(Self {
            rest: 0..file.metadata()?.len(),
            is_in_memory: is_in_memory(&file),
            file: Arc::new(file),
        })
    }

    fn next_part(&mut self, len_max: usize) -> Part {
        let start = self.rest.start;
        let len = (self.rest.end - start).min(len_max as u64);
        self.rest.start += len;
        Part(Content::OfFile {
            file: self.file.clone(),
            range: start..self.rest.start,
            is_in_memory: self.is_in_memory,
        })
    }
}

impl Source for WholeFile {
    async fn fill(&mut self, mut buffer: Vec<u8>, room: Range<usize>) -> io::Result<(Vec<u8>, usize)> {
        let part = self.next_part(room.len());
        let work = move || {
            let len = part.len();
            part.read(&mut buffer[room.start..][..len])?;
            Ok((buffer, len))
        };
        tokio::task::spawn_blocking(work).await.map_err(io::Error::other)?
    }

    fn part(&mut self, len_max: usize) -> Option<Part> {
        Some(self.next_part(len_max))
    }
}

fn became_shorter() -> io::Error {
    io::Error::new(
        io::ErrorKind::UnexpectedEof,
        "the file became shorter while it was read",
    )
}

/// Whether it is on a tmpfs, which does not know the flag that says not to wait, and has nothing to wait for.
fn is_in_memory(file: &File) -> bool {
    const TMPFS_MAGIC: i64 = 0x0102_1994;
    fstatfs(file).is_ok_and(|stat| stat.f_type == TMPFS_MAGIC)
}

fn read_full(reader: &mut impl Read, target: &mut [u8]) -> io::Result<usize> {
    let mut filled = 0;
    while filled < target.len() {
        match reader.read(&mut target[filled..]) {
            Ok(0) => break,
            Ok(n) => filled += n,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(filled)
}
