//! Buffers of the read path, which go from one window to the next.
//!
//! What is fetched, and what it is opened to, has megabytes. New memory of that size comes from the kernel page by page, each of
//! them cleared: for data that does not compress, that took as long as opening it. So a buffer goes back when whoever got bytes
//! of it has let go of the last of them, and the next window takes it.

use std::ops::{Deref, DerefMut};
use std::sync::{Arc, Weak};

use bytes::Bytes;
use parking_lot::Mutex;

use super::WINDOW_BYTES;

/// A window with the chunk that ends it, if that has no more than a quarter of it, and with gaps.
const BUFFER_BYTES: usize = WINDOW_BYTES + WINDOW_BYTES / 4;
/// For fewer bytes a whole buffer would be too much.
pub(super) const WORTH_KEEPING: usize = BUFFER_BYTES / 4;
/// No more is kept, however large the budget is: about what two readers use.
const KEPT_BYTES_MAX: usize = 8 * BUFFER_BYTES;

/// Buffers at rest, of all readers of a store.
#[derive(Clone)]
pub(crate) struct ReadBuffers(Arc<Idle>);

struct Idle {
    max: usize,
    buffers: Mutex<Vec<Vec<u8>>>,
}

/// Bytes on loan, to be filled.
pub(crate) struct ReadBuffer {
    memory: Vec<u8>,
    len: usize,
    home: Weak<Idle>,
}

impl ReadBuffers {
    /// Keeps as many as come to `bytes` at most, and to 20 MiB.
    pub(crate) fn within(bytes: usize) -> Self {
        Self(Arc::new(Idle {
            max: bytes.min(KEPT_BYTES_MAX) / BUFFER_BYTES,
            buffers: Mutex::default(),
        }))
    }

    /// A buffer of `len` bytes, with something in it.
    pub(crate) fn take(&self, len: usize) -> ReadBuffer {
        if self.0.max == 0 || !(WORTH_KEEPING..=BUFFER_BYTES).contains(&len) {
            return vec![0; len].into();
        }
        let idle = self.0.buffers.lock().pop();
        ReadBuffer {
            memory: idle.unwrap_or_else(|| vec![0; BUFFER_BYTES]),
            len,
            home: Arc::downgrade(&self.0),
        }
    }
}

impl ReadBuffer {
    /// Bytes of memory that it keeps.
    pub(crate) fn memory_bytes(&self) -> usize {
        self.memory.len()
    }
}

impl From<Vec<u8>> for ReadBuffer {
    fn from(memory: Vec<u8>) -> Self {
        Self {
            len: memory.len(),
            memory,
            home: Weak::new(),
        }
    }
}

impl From<ReadBuffer> for Bytes {
    fn from(buffer: ReadBuffer) -> Self {
        Bytes::from_owner(buffer)
    }
}

impl Deref for ReadBuffer {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        &self.memory[..self.len]
    }
}

impl DerefMut for ReadBuffer {
    fn deref_mut(&mut self) -> &mut [u8] {
        &mut self.memory[..self.len]
    }
}

impl AsRef<[u8]> for ReadBuffer {
    fn as_ref(&self) -> &[u8] {
        self
    }
}

impl Drop for ReadBuffer {
    fn drop(&mut self) {
        if let Some(home) = self.home.upgrade() {
            let mut buffers = home.buffers.lock();
            if buffers.len() < home.max {
                buffers.push(std::mem::take(&mut self.memory));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_buffer_is_lent_again_when_the_last_of_its_bytes_is_gone() {
        let buffers = ReadBuffers::within(BUFFER_BYTES);
        let mut buffer = buffers.take(WINDOW_BYTES);
        buffer.fill(7);
        let at = buffer.as_ptr();
        let bytes = Bytes::from(buffer);
        let part = bytes.slice(WINDOW_BYTES - 1..);
        drop(bytes);
        assert_ne!(buffers.take(WINDOW_BYTES).as_ptr(), at, "a part of it is in use");
        assert_eq!(part, [7].as_slice());
        // The one above is at rest, and no more than one is kept.
        drop(part);
        let one = buffers.take(BUFFER_BYTES);
        assert_ne!(one.as_ptr(), at);
        assert_eq!(one.len(), BUFFER_BYTES);
        let at = one.as_ptr();
        drop(one);
        assert_eq!(buffers.take(WORTH_KEEPING).as_ptr(), at);
    }

    #[test]
    fn what_is_short_or_longer_than_a_window_is_not_kept() {
        let buffers = ReadBuffers::within(4 * BUFFER_BYTES);
        for len in [0, 1, WORTH_KEEPING - 1, BUFFER_BYTES + 1] {
            assert_eq!(buffers.take(len).len(), len);
        }
        drop(ReadBuffer::from(vec![0; WINDOW_BYTES]));
        assert!(buffers.0.buffers.lock().is_empty());
        let none = ReadBuffers::within(BUFFER_BYTES - 1);
        assert_eq!(none.take(WINDOW_BYTES).memory_bytes(), WINDOW_BYTES);
        assert_eq!(ReadBuffers::within(usize::MAX).0.max, 8);
    }

    #[test]
    fn bytes_outlive_the_store_they_were_read_from() {
        let buffers = ReadBuffers::within(4 * BUFFER_BYTES);
        let bytes = Bytes::from(buffers.take(WINDOW_BYTES));
        drop(buffers);
        assert_eq!(bytes.len(), WINDOW_BYTES);
    }
}
