//! The CRC of a stream from those of its slabs.

use std::sync::OnceLock;

const CRC: crc_fast::CrcAlgorithm = crc_fast::CrcAlgorithm::Crc32Iscsi;

/// The CRC-32C of these bytes.
pub(crate) fn crc32c(bytes: &[u8]) -> u32 {
    crc_fast::checksum(CRC, bytes) as u32
}

/// Joins the CRCs of two parts, fast where the second has one certain length.
///
/// What so many bytes behind it do to a CRC is linear in its bits, whatever the bytes are: 32 words, one for each bit, say it
/// for one length. In general the words have to be found for each join, which took 4 to 7 % of the processor time of ingests of
/// what was known.
pub(crate) struct CrcJoin {
    len: u64,
    bits: OnceLock<[u32; 32]>,
}

impl CrcJoin {
    /// Fast for second parts of `len` bytes, from the second join on.
    pub(crate) fn new(len: usize) -> Self {
        Self {
            len: len as u64,
            bits: OnceLock::new(),
        }
    }

    /// The CRC of a part with the CRC `first`, followed by one of `len` bytes with the CRC `second`.
    pub(crate) fn join(&self, first: u32, second: u32, len: u64) -> u32 {
        if first == 0 {
            // As of nothing.
            return second;
        }
        if len != self.len {
            return join(first, second, len);
        }
        let bits = self
            .bits
            .get_or_init(|| std::array::from_fn(|bit| join(1 << bit, 0, len)));
        let moved = bits.iter().enumerate().filter(|(bit, _)| first >> bit & 1 == 1);
        moved.fold(second, |sum, (_, word)| sum ^ word)
    }
}

fn join(first: u32, second: u32, len: u64) -> u32 {
    crc_fast::checksum_combine(CRC, u64::from(first), u64::from(second), len) as u32
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_join_to_the_crc_of_the_whole() {
        let bytes: Vec<u8> = (0..10_000u32).map(|at| ((at * at) >> 3) as u8).collect();
        let join = CrcJoin::new(4096);
        for cuts in [vec![4096, 8192], vec![1, 4097, 8193, 9999], vec![5000, 9096]] {
            let mut whole = 0;
            let mut start = 0;
            for end in cuts.into_iter().chain([bytes.len()]) {
                let part = &bytes[start..end];
                whole = join.join(whole, crc32c(part), part.len() as u64);
                start = end;
            }
            assert_eq!(whole, crc32c(&bytes));
        }
    }
}
