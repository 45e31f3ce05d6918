//! A chunk made smaller, if that pays: one zstd frame with its content size, no dictionary, no checksum (sealing
//! authenticates), or the bytes as they are.
//!
//! A chunk is kept raw if a probe calls it incompressible or if zstd saves less than 3 %, so reading never pays for
//! nothing. Contexts are reused: a fresh one for each chunk halves the speed on incompressible data.

use std::io::Cursor;

use zstd::bulk;
use zstd::zstd_safe::{self, WriteBuf};

use super::Error;

/// The highest compression level offered; higher ones are too slow for a data path.
pub const LEVEL_MAX: i32 = 19;

/// How a blob's bytes are stored. The numbers are stored.
#[repr(u8)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Codec {
    /// As they are.
    Raw = 0,
    /// One zstd frame.
    Zstd = 1,
}

impl TryFrom<u8> for Codec {
    type Error = Error;

    fn try_from(found: u8) -> Result<Self, Error> {
        match found {
            0 => Ok(Self::Raw),
            1 => Ok(Self::Zstd),
            _ => Err(Error::UnknownCodec { found }),
        }
    }
}

/// How hard to try.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Level {
    /// Every chunk is kept raw.
    Off,
    /// A zstd level from 1 to 19.
    Zstd(i32),
}

impl Level {
    /// Level 1: faster levels are hardly faster, and level 3 costs a quarter of the speed for 4 % of the size.
    pub const DEFAULT: Self = Self::Zstd(1);

    /// 0 is off, 1 to 19 are zstd's.
    pub fn new(level: i32) -> Result<Self, Error> {
        match level {
            0 => Ok(Self::Off),
            1..=LEVEL_MAX => Ok(Self::Zstd(level)),
            found => Err(Error::Level { found }),
        }
    }

    /// The number [`Level::new`] takes.
    pub fn number(self) -> i32 {
        match self {
            Self::Off => 0,
            Self::Zstd(level) => level,
        }
    }
}

/// Compresses chunks one by one; one for each worker.
pub struct Compressor {
    zstd: Option<bulk::Compressor<'static>>,
}

impl Compressor {
    /// A compressor at one level. Holds a zstd context: about 1 MiB at level 1, more at higher ones.
    pub fn new(level: Level) -> Self {
        let zstd = match level {
            Level::Off => None,
            Level::Zstd(level) => {
                Some(bulk::Compressor::new(level).expect("zstd takes every level and the empty dictionary"))
            }
        };
        Self { zstd }
    }

    /// Appends what is to be stored of `plain` to `out`, and tells which codec reads it.
    ///
    /// Never appends more than `plain.len()` bytes, but needs some more room for the attempt.
    pub fn compress(&mut self, plain: &[u8], out: &mut Vec<u8>) -> Codec {
        let codec = self.try_compress(plain, out);
        if codec == Codec::Raw {
            out.extend_from_slice(plain);
        }
        codec
    }

    /// As [`compress`](Self::compress), but appends nothing for [`Codec::Raw`]: that is `plain` itself.
    pub(crate) fn try_compress(&mut self, plain: &[u8], out: &mut Vec<u8>) -> Codec {
        let start = out.len();
        if let Some(zstd) = &mut self.zstd
            && probe(plain) == Probe::Compressible
        {
            let stored_len = append_frame(zstd, plain, out);
            if pays(plain.len(), stored_len) {
                return Codec::Zstd;
            }
            out.truncate(start);
        }
        Codec::Raw
    }
}

fn append_frame(zstd: &mut bulk::Compressor<'_>, plain: &[u8], out: &mut Vec<u8>) -> usize {
    let start = out.len();
    out.reserve(zstd_safe::compress_bound(plain.len()));
    // The cursor lets zstd write behind the bytes already there, into room that was never filled.
    let mut behind = Cursor::new(out);
    behind.set_position(start as u64);
    zstd.compress_to_buffer(plain, &mut behind)
        .expect("room for the worst case was reserved")
}

/// At least 3 % saved.
fn pays(plain_len: usize, stored_len: usize) -> bool {
    stored_len as u64 * 100 <= plain_len as u64 * 97
}

/// What a sample says about a chunk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Probe {
    /// Worth an attempt.
    Compressible,
    /// Not worth it.
    Incompressible,
}

const PROBE_SAMPLES: usize = 16;
const PROBE_SAMPLE_LEN: usize = 64;
const PROBE_LEN: usize = PROBE_SAMPLES * PROBE_SAMPLE_LEN;

/// Guesses from 1 KiB whether compressing `plain` would pay.
///
/// The measure is the order-0 entropy of 16 samples of 64 bytes, spread evenly because one chunk holds several kinds of
/// data. It cannot see a repeat of random-looking bytes within a chunk; dedupe finds the long ones. Chunks not much
/// longer than the sample are always worth the attempt.
pub fn probe(plain: &[u8]) -> Probe {
    if plain.len() < 4 * PROBE_LEN {
        return Probe::Compressible;
    }
    let mut counts = [0u16; 256];
    let stride = (plain.len() - PROBE_SAMPLE_LEN) / (PROBE_SAMPLES - 1);
    for sample in 0..PROBE_SAMPLES {
        for &byte in &plain[sample * stride..][..PROBE_SAMPLE_LEN] {
            counts[usize::from(byte)] += 1;
        }
    }
    if entropy_bits(&counts) < PROBE_ENTROPY_MAX {
        Probe::Compressible
    } else {
        Probe::Incompressible
    }
}

/// Bits a byte from which on a sample counts as incompressible: 97 % of 8, less what a sample this small falls short of
/// its source (Miller and Madow: 255 / (2 n ln 2) bits).
const PROBE_ENTROPY_MAX: f64 = 8.0 * 0.97 - 255.0 / (2.0 * PROBE_LEN as f64 * std::f64::consts::LN_2);

fn entropy_bits(counts: &[u16; 256]) -> f64 {
    let n = PROBE_LEN as f64;
    let sum: f64 = counts
        .iter()
        .filter(|&&c| c > 0)
        .map(|&c| f64::from(c) * f64::from(c).log2())
        .sum();
    n.log2() - sum / n
}

/// Gives chunks back; one for each worker.
pub struct Decompressor {
    zstd: bulk::Decompressor<'static>,
}

impl Default for Decompressor {
    fn default() -> Self {
        Self::new()
    }
}

impl Decompressor {
    /// A decompressor with a context of its own (about 100 KiB).
    pub fn new() -> Self {
        Self {
            zstd: bulk::Decompressor::new().expect("zstd takes the empty dictionary"),
        }
    }

    /// Appends the `plain_len` bytes that `stored` stands for to `out`; on an error `out` is as it was.
    ///
    /// Allocates at most `plain_len` bytes, whatever `stored` claims; bounding `plain_len` is the caller's.
    pub fn decompress(
        &mut self,
        codec: Codec,
        stored: &[u8],
        plain_len: usize,
        out: &mut Vec<u8>,
    ) -> Result<(), Error> {
        check(codec, stored, plain_len)?;
        let start = out.len();
        out.try_reserve_exact(plain_len)
            .map_err(|_| damaged("more bytes than memory"))?;
        match codec {
            Codec::Raw => out.extend_from_slice(stored),
            Codec::Zstd => {
                let mut behind = Cursor::new(&mut *out);
                behind.set_position(start as u64);
                let decoded = self.frame_into(stored, plain_len, &mut behind);
                decoded.inspect_err(|_| out.truncate(start))?;
            }
        }
        Ok(())
    }

    /// Fills `out` with what `stored` stands for; on an error what is in `out` means nothing.
    pub fn decompress_into(&mut self, codec: Codec, stored: &[u8], out: &mut [u8]) -> Result<(), Error> {
        check(codec, stored, out.len())?;
        match codec {
            Codec::Raw => out.copy_from_slice(stored),
            Codec::Zstd => self.frame_into(stored, out.len(), out)?,
        }
        Ok(())
    }

    fn frame_into<B: WriteBuf + ?Sized>(&mut self, frame: &[u8], plain_len: usize, out: &mut B) -> Result<(), Error> {
        match self.zstd.decompress_to_buffer(frame, out) {
            Ok(len) if len == plain_len => Ok(()),
            _ => Err(damaged("the frame is damaged")),
        }
    }
}

/// Whether `stored` promises `plain_len` bytes.
fn check(codec: Codec, stored: &[u8], plain_len: usize) -> Result<(), Error> {
    match codec {
        Codec::Raw if stored.len() != plain_len => Err(damaged("raw bytes of another length")),
        Codec::Raw => Ok(()),
        Codec::Zstd => check_frame(stored, plain_len),
    }
}

/// One whole zstd frame that promises `plain_len` bytes, and nothing behind it.
fn check_frame(stored: &[u8], plain_len: usize) -> Result<(), Error> {
    // Without this zstd would also take skippable frames and the formats from before its first release.
    if !stored.starts_with(&zstd_safe::MAGICNUMBER.to_le_bytes()) {
        return Err(damaged("not a zstd frame"));
    }
    match zstd_safe::get_frame_content_size(stored) {
        Ok(Some(len)) if len == plain_len as u64 => {}
        Ok(Some(_)) => return Err(damaged("a frame of another length")),
        _ => return Err(damaged("a frame without its length")),
    }
    match zstd_safe::find_frame_compressed_size(stored) {
        Ok(len) if len == stored.len() => Ok(()),
        _ => Err(damaged("a frame that is cut off, or followed by something")),
    }
}

fn damaged(reason: &'static str) -> Error {
    Error::Decompression { reason }
}

#[cfg(test)]
mod tests;
