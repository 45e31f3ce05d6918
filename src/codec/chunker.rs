//! Where a stream is cut: content-defined chunking, so that an edit moves only the cuts near it.
//!
//! The cut points are those of FastCDC with normalised chunking (Xia et al., 2020) as `fastcdc` 5 computes them in
//! `v2020::cut_gear`, with a gear table derived from a secret of the repository, so that chunk lengths tell nothing to
//! who does not know it. From the smallest size on, a byte `b` at position `p` updates `h ← 2h + table[b]` (from zero,
//! modulo 2⁶⁴), and the chunk ends *before* `p` if `h & mask = 0`: a mask with more bits than the average asks for up to
//! the average, one with fewer after it. The last byte of a stream whose chunk would have odd length is not a candidate.
//!
//! Cut points are as good as stored: a change of them costs every repository its dedupe. Hence the golden test, and the
//! pinned versions of the crates involved.

use std::fmt;
use std::sync::Arc;

use fastcdc::v2020::{Normalization, select_masks};
use gearhash::Hasher;
use zeroize::Zeroize;

use super::Error;

#[cfg(target_arch = "x86_64")]
mod wide;
#[cfg(all(target_arch = "x86_64", any(test, feature = "testkit")))]
pub(crate) use wide::check as check_lanes;

/// How far the two masks are from the average, in bits. Two is the measured knee of dedupe against speed.
pub const NORMALISATION: u8 = 2;

const LEVEL: Normalization = Normalization::Level2;

const KIB: u32 = 1 << 10;
const MIB: u32 = 1 << 20;

/// The smallest, average and largest length of a chunk in bytes. All even; only a stream's last chunk may be smaller.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct ChunkSizes {
    min: u32,
    avg: u32,
    max: u32,
}

impl ChunkSizes {
    /// 32 KiB on average, from 16 KiB to 128 KiB.
    pub const DEFAULT: Self = Self {
        min: 16 * KIB,
        avg: 32 * KIB,
        max: 128 * KIB,
    };

    /// Sizes around an average, a power of two from 16 KiB to 4 MiB: from half of it to four times it.
    pub fn with_average(avg: u32) -> Result<Self, Error> {
        if !(16 * KIB..=4 * MIB).contains(&avg) {
            return Err(wrong("average", avg, "from 16 KiB to 4 MiB"));
        }
        Self::new(avg / 2, avg, avg.saturating_mul(4))
    }

    /// Three sizes of one's own. The error names the one that is wrong.
    ///
    /// Wider than [`with_average`](Self::with_average): tests want many chunks of few bytes.
    pub fn new(min: u32, avg: u32, max: u32) -> Result<Self, Error> {
        if !avg.is_power_of_two() || !(256..=4 * MIB).contains(&avg) {
            return Err(wrong("average", avg, "a power of two from 256 bytes to 4 MiB"));
        }
        if !min.is_multiple_of(2) || !(64..avg).contains(&min) {
            return Err(wrong(
                "smallest",
                min,
                "even, at least 64 bytes and less than the average",
            ));
        }
        if !max.is_multiple_of(2) || max <= avg || max > 16 * MIB {
            return Err(wrong("largest", max, "even, more than the average and at most 16 MiB"));
        }
        Ok(Self { min, avg, max })
    }

    /// No chunk but a stream's last is shorter.
    pub const fn min(&self) -> u32 {
        self.min
    }

    /// The length the masks aim at; the real mean is about a quarter above it.
    pub const fn avg(&self) -> u32 {
        self.avg
    }

    /// No chunk is longer.
    pub const fn max(&self) -> u32 {
        self.max
    }
}

fn wrong(which: &'static str, found: u32, expected: &'static str) -> Error {
    Error::ChunkSize { which, found, expected }
}

/// One 64-bit word for each value of a byte: where streams of a repository are cut.
pub struct GearTable {
    words: Box<[u64; 256]>,
    #[cfg(target_arch = "x86_64")]
    planes: Box<wide::Planes>,
}

impl GearTable {
    /// Reads 256 little-endian words.
    pub fn from_bytes(bytes: &[u8; 2048]) -> Self {
        let (words, _) = bytes.as_chunks::<8>();
        let mut table = Box::new([0; 256]);
        for (slot, word) in table.iter_mut().zip(words) {
            *slot = u64::from_le_bytes(*word);
        }
        Self {
            #[cfg(target_arch = "x86_64")]
            planes: wide::planes(&table),
            words: table,
        }
    }

    /// The words, by byte value.
    pub fn words(&self) -> &[u64; 256] {
        &self.words
    }
}

impl Drop for GearTable {
    fn drop(&mut self) {
        self.words.zeroize();
        #[cfg(target_arch = "x86_64")]
        self.planes.zeroize();
    }
}

impl fmt::Debug for GearTable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("GearTable(..)")
    }
}

/// Whether the bytes given so far are all there is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum More {
    /// More bytes may come.
    MayFollow,
    /// The stream ends with these bytes.
    End,
}

/// Cuts one stream into chunks. Cheap to make; holds no bytes.
#[derive(Debug)]
pub struct Chunker {
    sizes: ChunkSizes,
    table: Arc<GearTable>,
    mask_before_avg: u64,
    mask_after_avg: u64,
    /// How much of the current chunk needs no more scanning; starts at the smallest size.
    scanned: usize,
    hash: u64,
}

impl Chunker {
    /// A chunker at the start of a stream.
    pub fn new(sizes: ChunkSizes, table: Arc<GearTable>) -> Self {
        let (mask_before_avg, mask_after_avg) = select_masks(sizes.avg as usize, LEVEL);
        Self {
            sizes,
            table,
            mask_before_avg,
            mask_after_avg,
            scanned: sizes.min as usize,
            hash: 0,
        }
    }

    /// The length of the current chunk, which starts at the start of `bytes`; `None` if more bytes are needed to tell.
    ///
    /// After `Some(len)` the next chunk starts at `bytes[len..]`. After `None`, call again with the same bytes and more
    /// behind them: the scan goes on where it stopped, so any split of a stream into calls costs and gives the same.
    /// At [`More::End`] only an empty `bytes` gives `None`.
    pub fn next(&mut self, bytes: &[u8], more: More) -> Option<usize> {
        let max = self.sizes.max as usize;
        let visible = bytes.len().min(max);
        let whole = match more {
            _ if visible == max => Some(max),
            More::End if visible > 0 => Some(visible),
            _ => None,
        };
        let cut = self.scan(&bytes[..visible & !1]).or(whole)?;
        self.scanned = self.sizes.min as usize;
        self.hash = 0;
        Some(cut)
    }

    /// Looks for a cut in the part of `bytes` not scanned before. Their length is even: an odd last byte may turn out to
    /// be the stream's last, which is no candidate.
    fn scan(&mut self, bytes: &[u8]) -> Option<usize> {
        let avg = bytes.len().min(self.sizes.avg as usize);
        self.scan_to(avg, bytes, self.mask_before_avg)
            .or_else(|| self.scan_to(bytes.len(), bytes, self.mask_after_avg))
    }

    fn scan_to(&mut self, end: usize, bytes: &[u8], mask: u64) -> Option<usize> {
        if end <= self.scanned {
            return None;
        }
        #[cfg(target_arch = "x86_64")]
        if let Some(cut) = self.scan_wide(end, bytes, mask) {
            return Some(cut);
        }
        let mut hasher = Hasher::new(self.table.words());
        hasher.set_hash(self.hash);
        // The hasher counts the byte that matched; that byte belongs to the next chunk.
        let matched = hasher
            .next_match(&bytes[self.scanned..end], mask)
            .map(|consumed| self.scanned + consumed - 1);
        self.hash = hasher.get_hash();
        self.scanned = end;
        matched
    }

    /// Scans as many whole blocks as there are, if the CPU can.
    #[cfg(target_arch = "x86_64")]
    fn scan_wide(&mut self, end: usize, bytes: &[u8], mask: u64) -> Option<usize> {
        let search = wide::Search {
            words: self.table.words(),
            planes: &self.table.planes,
            bytes,
            origin: self.sizes.min as usize,
            mask,
        };
        match wide::search(&search, self.scanned, end) {
            wide::Found::At(cut) => return Some(cut),
            wide::Found::NothingBefore(at) if at > self.scanned => {
                self.hash = search.hash_before(at);
                self.scanned = at;
            }
            wide::Found::NothingBefore(_) => {}
        }
        None
    }
}

#[cfg(test)]
mod tests;
