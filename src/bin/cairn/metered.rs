//! What a put reads from, with a meter and a hash in the line.

use std::fs::File;
use std::io::{self, Read};
use std::ops::Range;
use std::sync::Arc;

use cairn_agent::engine::{Part, Source, WholeFile};
use parking_lot::Mutex;

use crate::progress::Counter;

/// A reader that counts what passes through it and may hash it.
pub(crate) struct Metered<R> {
    reader: R,
    done: Counter,
    hasher: Option<SharedHasher>,
}

/// A hash that is read when the reader has gone to where it cannot be reached.
#[derive(Clone, Default)]
pub(crate) struct SharedHasher(Arc<Mutex<blake3::Hasher>>);

impl SharedHasher {
    pub(crate) fn update(&self, bytes: &[u8]) {
        self.0.lock().update(bytes);
    }

    pub(crate) fn value(&self) -> blake3::Hash {
        self.0.lock().finalize()
    }
}

impl<R> Metered<R> {
    pub(crate) fn new(reader: R, done: Counter, hasher: Option<SharedHasher>) -> Self {
        Self { reader, done, hasher }
    }
}

impl<R: Read> Read for Metered<R> {
    fn read(&mut self, target: &mut [u8]) -> io::Result<usize> {
        let read = self.reader.read(target)?;
        self.done.add(read as u64);
        if let Some(hasher) = &self.hasher {
            hasher.update(&target[..read]);
        }
        Ok(read)
    }
}

/// A file of which parts are read at once, counted as they are asked for.
pub(crate) struct MeteredFile {
    file: WholeFile,
    done: Counter,
}

impl MeteredFile {
    pub(crate) fn new(file: File, done: Counter) -> io::Result<Self> {
        Ok(Self {
            file: WholeFile::new(file)?,
            done,
        })
    }
}

impl Source for MeteredFile {
    async fn fill(&mut self, buffer: Vec<u8>, room: Range<usize>) -> io::Result<(Vec<u8>, usize)> {
        let (buffer, len) = self.file.fill(buffer, room).await?;
        self.done.add(len as u64);
        Ok((buffer, len))
    }

    fn part(&mut self, len_max: usize) -> Option<Part> {
        let part = self.file.part(len_max)?;
        self.done.add(part.len() as u64);
        Some(part)
    }
}
