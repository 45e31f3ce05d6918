//! Memory that a pack is made in.

use std::fmt;
use std::ops::{Deref, DerefMut};

use bytes::Bytes;

/// Bytes that begin at a page as long as they stay within the capacity: a disk can take them from where they are.
#[derive(Default)]
pub struct PackBuffer {
    bytes: Vec<u8>,
    /// What stands before them up to the page.
    start: usize,
}

impl PackBuffer {
    const PAGE: usize = 4096;

    /// Empty, with room for so many bytes.
    pub fn with_capacity(len: usize) -> Self {
        let mut buffer = Self {
            bytes: Vec::with_capacity(len + Self::PAGE),
            start: 0,
        };
        buffer.clear();
        buffer
    }

    /// Forgets the bytes and keeps the memory.
    pub fn clear(&mut self) {
        self.bytes.clear();
        let to_page = self.bytes.as_ptr().align_offset(Self::PAGE);
        self.start = if to_page < self.bytes.capacity() { to_page } else { 0 };
        self.bytes.resize(self.start, 0);
    }

    pub(super) fn extend_from_slice(&mut self, bytes: &[u8]) {
        self.bytes.extend_from_slice(bytes);
    }

    /// Cuts them, or adds zeros.
    pub fn resize(&mut self, len: usize) {
        self.bytes.resize(self.start + len, 0);
    }

    /// For whoever appends to a `Vec`.
    pub(super) fn end(&mut self) -> &mut Vec<u8> {
        &mut self.bytes
    }
}

impl Deref for PackBuffer {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        &self.bytes[self.start..]
    }
}

impl DerefMut for PackBuffer {
    fn deref_mut(&mut self) -> &mut [u8] {
        &mut self.bytes[self.start..]
    }
}

impl AsRef<[u8]> for PackBuffer {
    fn as_ref(&self) -> &[u8] {
        self
    }
}

impl From<PackBuffer> for Bytes {
    fn from(buffer: PackBuffer) -> Self {
        Self::from_owner(buffer)
    }
}

impl fmt::Debug for PackBuffer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "PackBuffer({} bytes)", self.len())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn begins_at_a_page_and_keeps_its_bytes_when_it_grows() {
        let mut buffer = PackBuffer::with_capacity(10_000);
        let is_at_a_page = |buffer: &PackBuffer| buffer.as_ptr().align_offset(PackBuffer::PAGE) == 0;
        assert!(is_at_a_page(&buffer) && buffer.is_empty());
        buffer.extend_from_slice(&[1; 10_000]);
        assert!(is_at_a_page(&buffer) && *buffer == [1; 10_000]);
        buffer.end().extend_from_slice(&[2; 100_000]);
        buffer.resize(110_001);
        assert_eq!(buffer[9_999..10_001], [1, 2]);
        assert_eq!(buffer[109_999..], [2, 0]);
        buffer.clear();
        assert!(is_at_a_page(&buffer) && buffer.is_empty());
        assert!(PackBuffer::default().is_empty());
    }
}
