//! Where the bytes of a put come from.

use std::future::Future;
use std::io::{self, Read};

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
        room: std::ops::Range<usize>,
    ) -> impl Future<Output = io::Result<(Vec<u8>, usize)>> + Send;

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

impl<T: AsyncRead + Unpin + Send> Source for T {
    async fn fill(&mut self, mut buffer: Vec<u8>, room: std::ops::Range<usize>) -> io::Result<(Vec<u8>, usize)> {
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
    async fn fill(&mut self, mut buffer: Vec<u8>, room: std::ops::Range<usize>) -> io::Result<(Vec<u8>, usize)> {
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
