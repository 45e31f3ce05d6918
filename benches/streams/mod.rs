//! Streams to measure with, and where their packs go.

use std::path::PathBuf;

/// Bytes of a stream.
pub(crate) const STREAM_LEN: usize = 128 << 20;

/// A directory for a store: in memory where there is such a place, so that the disk is not what is measured.
pub(crate) fn directory() -> tempfile::TempDir {
    let memory = PathBuf::from("/dev/shm");
    let parent = if memory.is_dir() { memory } else { std::env::temp_dir() };
    tempfile::tempdir_in(parent).expect("a directory for the store")
}

/// Bytes that do not compress.
pub(crate) fn random() -> Vec<u8> {
    let mut bytes = vec![0; STREAM_LEN];
    blake3::Hasher::new().update(b"stream").finalize_xof().fill(&mut bytes);
    bytes
}

/// Words in random order; they compress about threefold.
pub(crate) fn text() -> Vec<u8> {
    let choices = random();
    let mut text = Vec::with_capacity(STREAM_LEN + 16);
    for choice in choices.chunks_exact(2) {
        if text.len() >= STREAM_LEN {
            break;
        }
        let number = u16::from_le_bytes([choice[0], choice[1]]) % 2048;
        text.extend_from_slice(format!("word{number} ").as_bytes());
    }
    text.truncate(STREAM_LEN);
    text
}
