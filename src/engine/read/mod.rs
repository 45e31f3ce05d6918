//! The read path: a name becomes a plan, the plan becomes verified bytes in order.
//!
//! ```text
//! object ─► leaves (as they are needed) ─► windows of chunks ─► fetch (in parallel) ─► open · decompress · check ─► emit
//! ```
//!
//! Every byte returned was authenticated in this very read. Packs are held from the lookup until the reader is
//! dropped, so nothing that a reader will need is reclaimed under it.

mod buffers;
mod entries;
mod fetch;
mod plan;
mod reader;

pub(crate) use buffers::ReadBuffers;
pub(crate) use entries::PackEntries;
pub(crate) use plan::{hold, manifest_leaves};
pub(crate) use reader::WINDOW_BYTES;
pub use reader::{ByteRange, ObjectReader};

/// The CRC-32C of bytes that come in pieces.
pub(crate) struct Crc32c(crc_fast::Digest);

impl Default for Crc32c {
    fn default() -> Self {
        Self(crc_fast::Digest::new(crc_fast::CrcAlgorithm::Crc32Iscsi))
    }
}

impl Crc32c {
    pub(crate) fn update(&mut self, bytes: &[u8]) {
        self.0.update(bytes);
    }

    pub(crate) fn value(&self) -> u32 {
        self.0.finalize() as u32
    }
}
