//! Buffers of the write path, and compressors, which go from one slab to another.

use bytes::Bytes;
use parking_lot::Mutex;

use crate::codec::{Codec, Compressor, Level};
use crate::engine::options::Options;

/// Bytes of the first slab of a stream: most objects are small, and need no more than that.
pub(super) const FIRST_SLAB_BYTES: usize = 64 << 10;

/// The bytes of a slab and the buffer for what they compress to; both are reused for later slabs of any stream.
///
/// Bytes begin after a headroom (but in the first), into which the uncut rest of the slab before is copied: so reading a slab
/// need not wait for the cutting of the one before.
pub(super) struct Slab {
    pub(super) bytes: Vec<u8>,
    /// The whole stream, if it lies in memory: then nothing is copied into `bytes`.
    pub(super) whole: Option<Bytes>,
    pub(super) compressed: Vec<u8>,
}

impl Slab {
    fn new(len: usize) -> Self {
        Self {
            bytes: vec![0; len],
            whole: None,
            compressed: Vec::new(),
        }
    }

    /// What is cut.
    pub(super) fn plain(&self) -> &[u8] {
        self.whole.as_deref().unwrap_or(&self.bytes)
    }

    /// What chunks of this codec are stored from.
    pub(super) fn stored_in(&self, codec: Codec) -> &[u8] {
        match codec {
            Codec::Raw => self.plain(),
            Codec::Zstd => &self.compressed,
        }
    }
}

/// Slabs at rest. As many are kept as the CPU pool works on at once, and some more of first ones, which come in bursts; the
/// others go.
pub(crate) struct Slabs {
    pub(super) first: Rest,
    pub(super) later: Rest,
}

/// Slabs of one length.
pub(super) struct Rest {
    len: usize,
    max: usize,
    slabs: Mutex<Vec<Slab>>,
}

impl Slabs {
    /// For a repository whose largest chunk has `chunk_max` bytes.
    pub(crate) fn new(compute_threads: usize, chunk_max: u32) -> Self {
        let max = compute_threads + 2;
        Self {
            first: Rest::new(FIRST_SLAB_BYTES, 4 * max),
            later: Rest::new(chunk_max as usize + Options::slab_bytes(chunk_max), max),
        }
    }

    pub(super) fn give_back(&self, mut slab: Slab) {
        slab.whole = None;
        if let Some(rest) = [&self.first, &self.later]
            .into_iter()
            .find(|rest| rest.len == slab.bytes.len())
        {
            rest.give_back(slab);
        }
    }
}

impl Rest {
    fn new(len: usize, max: usize) -> Self {
        Self {
            len,
            max,
            slabs: Mutex::default(),
        }
    }

    pub(super) fn take(&self) -> Slab {
        let slab = self.slabs.lock().pop();
        slab.unwrap_or_else(|| Slab::new(self.len))
    }

    fn give_back(&self, slab: Slab) {
        let mut slabs = self.slabs.lock();
        if slabs.len() < self.max {
            slabs.push(slab);
        }
    }
}

/// At higher levels a few KiB can take milliseconds.
const FAST_LEVEL_MAX: i32 = 3;

/// Compressors at rest. Making one costs more than compressing a small chunk, so they are reused.
pub(crate) struct Compressors {
    level: Level,
    max: usize,
    idle: Mutex<Vec<Compressor>>,
}

impl Compressors {
    /// Whether a few KiB take no more than one or two tenths of a millisecond.
    pub(crate) fn are_fast(&self) -> bool {
        self.level.number() <= FAST_LEVEL_MAX
    }

    /// As many are kept as the CPU pool and the threads that bring short streams work with at once.
    pub(crate) fn new(compute_threads: usize, level: Level) -> Self {
        Self {
            level,
            max: 2 * compute_threads,
            idle: Mutex::new(Vec::new()),
        }
    }

    pub(crate) fn take(&self) -> Compressor {
        self.idle.lock().pop().unwrap_or_else(|| Compressor::new(self.level))
    }

    pub(crate) fn give_back(&self, compressor: Compressor) {
        let mut idle = self.idle.lock();
        if idle.len() < self.max {
            idle.push(compressor);
        }
    }
}
