//! The chunker's scan, sixteen places at a time, for CPUs with AVX-512 VBMI2 (Intel since Ice Lake, AMD since Zen 4).
//!
//! The scan byte by byte is a chain: each hash needs the one before. But a hash modulo 2⁴⁸ depends on 48 bytes only, and
//! no mask has a bit above those, so a block is split into sixteen strips that are scanned side by side, each warmed up
//! on the 48 bytes before it. Two more things make it fast:
//!
//! - The table is looked up in registers: as six planes, one for each byte of its words, of which `vpermi2b` reads 64
//!   entries at once. Gathers from memory are no faster than the chain.
//! - Hashes are tested in fours, and only for whether one of the four matches. That is rare enough to scan the block's
//!   first such four again, byte by byte.
//!
//! The rest of a zone that fills no block is the caller's. Instructions are chosen at run time by `multiversion`; elsewhere
//! the search ends where it started.

use std::arch::x86_64::*;
use std::hint::black_box;

use multiversion::multiversion;
use multiversion::target::match_target;

const LANES: usize = 16;
/// What one step loads of each strip.
const PIECE: usize = 16;
/// Pieces in a strip: long against the warm-up, short against the distance of cuts, beyond which work is wasted.
const PIECES: usize = 32;
const STRIP: usize = PIECE * PIECES;
const BLOCK: usize = LANES * STRIP;

/// How many bytes a hash depends on, as far as masks look at it.
const WINDOW: usize = 48;
const CACHE_LINE: usize = 64;

/// The low six bytes of the table's words, by byte and then by entry.
pub(super) type Planes = [[u8; 256]; 6];

pub(super) fn planes(words: &[u64; 256]) -> Box<Planes> {
    let mut planes = Box::new([[0; 256]; 6]);
    for (n, plane) in planes.iter_mut().enumerate() {
        for (entry, word) in plane.iter_mut().zip(words) {
            *entry = word.to_le_bytes()[n];
        }
    }
    planes
}

/// Where to look for what.
pub(super) struct Search<'a> {
    pub(super) words: &'a [u64; 256],
    pub(super) planes: &'a Planes,
    pub(super) bytes: &'a [u8],
    /// Where the hash is zero. Bytes before it do not count, but there are at least 48.
    pub(super) origin: usize,
    /// No bit above the lowest 48.
    pub(super) mask: u64,
}

impl Search<'_> {
    /// The hash before the byte at `at`, modulo 2⁴⁸: all that masks look at, now and for the bytes to come.
    pub(super) fn hash_before(&self, at: usize) -> u64 {
        let window = &self.bytes[at.saturating_sub(WINDOW).max(self.origin)..at];
        window.iter().fold(0, |hash: u64, &byte| {
            (hash << 1).wrapping_add(self.words[usize::from(byte)])
        })
    }
}

/// How a search ended.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Found {
    /// The first match is at this position.
    At(usize),
    /// There is none before this position.
    NothingBefore(usize),
}

/// Looks at as many whole blocks of `bytes[from..to]` as there are before the first match.
pub(super) fn search(search: &Search<'_>, from: usize, to: usize) -> Found {
    debug_assert!(search.mask >> WINDOW == 0 && search.origin >= WINDOW && from >= search.origin);
    if from + BLOCK > to {
        return Found::NothingBefore(from);
    }
    search_blocks(search, from, to)
}

#[multiversion(targets("x86_64+avx512f+avx512bw+avx512vbmi+avx512vbmi2"))]
fn search_blocks(search: &Search<'_>, from: usize, to: usize) -> Found {
    match_target! {
        "x86_64+avx512f+avx512bw+avx512vbmi+avx512vbmi2" => search_lanes(search, from, to),
        _ => {
            let _ = (search, to);
            Found::NothingBefore(from)
        }
    }
}

#[target_feature(enable = "avx512f,avx512bw,avx512vbmi,avx512vbmi2")]
fn search_lanes(search: &Search<'_>, mut from: usize, to: usize) -> Found {
    let planes = load_planes(search.planes);
    let mask = Hashes {
        low: _mm512_set1_epi32(search.mask as u32 as i32),
        high: _mm512_set1_epi32((search.mask >> 32) as u32 as i32),
    };
    while from + BLOCK <= to {
        let hashes = hashes_before(search, &planes, from);
        if let Some(four) = first_four(search.bytes, &planes, hashes, mask, from) {
            return Found::At(first_of_four(search, four));
        }
        from += BLOCK;
    }
    Found::NothingBefore(from)
}

/// Sixteen hashes modulo 2⁶⁴, in halves; right modulo 2⁴⁸.
#[derive(Clone, Copy)]
struct Hashes {
    low: __m512i,
    high: __m512i,
}

/// The hash of each lane before its strip of the block at `from`.
#[target_feature(enable = "avx512f,avx512bw,avx512vbmi,avx512vbmi2")]
#[inline]
fn hashes_before(search: &Search<'_>, planes: &LoadedPlanes, from: usize) -> Hashes {
    let zero = _mm512_setzero_si512();
    let mut hashes = Hashes { low: zero, high: zero };
    let strips = strips(&search.bytes[from - WINDOW..]);
    for piece in 0..WINDOW / PIECE {
        for column in columns(strips, piece) {
            for words in look_up(planes, column) {
                hashes = step(hashes, words);
            }
        }
    }
    if from - search.origin < WINDOW {
        // The first lane was warmed up on bytes that do not count.
        let hash = search.hash_before(from);
        hashes.low = _mm512_mask_set1_epi32(hashes.low, 1, hash as u32 as i32);
        hashes.high = _mm512_mask_set1_epi32(hashes.high, 1, (hash >> 32) as u32 as i32);
    }
    hashes
}

/// The first position of the first four in the block at `from` that hold a match.
#[target_feature(enable = "avx512f,avx512bw,avx512vbmi,avx512vbmi2")]
#[inline]
fn first_four(bytes: &[u8], planes: &LoadedPlanes, mut hashes: Hashes, mask: Hashes, from: usize) -> Option<usize> {
    touch(&bytes[from..from + BLOCK]);
    let ahead = &bytes[from + BLOCK..];
    let strips = strips(&bytes[from..]);
    let mut fours = [[0; PIECE / 4]; PIECES];
    let mut any = 0;
    for (piece, fours) in fours.iter_mut().enumerate() {
        touch(
            ahead
                .get(piece * BLOCK / PIECES..(piece + 1) * BLOCK / PIECES)
                .unwrap_or_default(),
        );
        for (column, four) in columns(strips, piece).into_iter().zip(fours) {
            let [a, b, c, d] = look_up(planes, column);
            let a = step(hashes, a);
            let b = step(a, b);
            let c = step(b, c);
            let d = step(c, d);
            hashes = d;
            let ab = _mm512_min_epu32(masked(a, mask), masked(b, mask));
            let cd = _mm512_min_epu32(masked(c, mask), masked(d, mask));
            let least = _mm512_min_epu32(ab, cd);
            *four = _mm512_testn_epi32_mask(least, least);
            any |= *four;
        }
    }
    if any == 0 {
        return None;
    }
    let lane = any_lane_first(&fours);
    let four = fours.as_flattened().iter().position(|four| four >> lane & 1 == 1)?;
    Some(from + lane * STRIP + four * 4)
}

/// The lowest lane with a match: strips lie in the order of lanes.
fn any_lane_first(fours: &[[u16; PIECE / 4]; PIECES]) -> usize {
    fours
        .as_flattened()
        .iter()
        .fold(0, |lanes, four| lanes | four)
        .trailing_zeros() as usize
}

fn first_of_four(search: &Search<'_>, four: usize) -> usize {
    let mut hash = search.hash_before(four);
    (four..four + 4)
        .find(|&at| {
            hash = (hash << 1).wrapping_add(search.words[usize::from(search.bytes[at])]);
            hash & search.mask == 0
        })
        .expect("one of the four matches, by the same sum in lanes")
}

/// Brings bytes into the cache in their order: strips alone are read in one that no hardware prefetches.
fn touch(bytes: &[u8]) {
    black_box(bytes.iter().step_by(CACHE_LINE).fold(0, |sum, byte| sum ^ byte));
}

/// `2h + word` for each lane.
#[target_feature(enable = "avx512f,avx512bw,avx512vbmi,avx512vbmi2")]
#[inline]
fn step(hashes: Hashes, words: Hashes) -> Hashes {
    let low = _mm512_add_epi32(_mm512_add_epi32(hashes.low, hashes.low), words.low);
    let high = _mm512_add_epi32(_mm512_shldi_epi32::<1>(hashes.high, hashes.low), words.high);
    let carry = _mm512_cmplt_epu32_mask(low, words.low);
    Hashes {
        low,
        high: _mm512_mask_sub_epi32(high, carry, high, _mm512_set1_epi32(-1)),
    }
}

/// Zero in the lanes whose hash matches.
#[target_feature(enable = "avx512f,avx512bw,avx512vbmi,avx512vbmi2")]
#[inline]
fn masked(hashes: Hashes, mask: Hashes) -> __m512i {
    // a | (b & c)
    _mm512_ternarylogic_epi32::<0b1111_1000>(_mm512_and_si512(hashes.low, mask.low), hashes.high, mask.high)
}

/// The sixteen strips from the start of `bytes` on, in pieces.
#[inline]
fn strips(bytes: &[u8]) -> &[[[u8; PIECE]; PIECES]; LANES] {
    let (strips, _) = bytes.as_chunks::<PIECE>().0.as_chunks::<PIECES>();
    strips.first_chunk().expect("the caller has seen to a whole block")
}

/// One piece of each strip, transposed: each of the four vectors holds four bytes of each strip. Within a 128-bit part,
/// which has four strips, they are in the order of bytes first and strips second.
#[target_feature(enable = "avx512f,avx512bw,avx512vbmi,avx512vbmi2")]
#[inline]
fn columns(strips: &[[[u8; PIECE]; PIECES]; LANES], piece: usize) -> [__m512i; 4] {
    let [a, b, c, d] = [
        row(strips, 0, piece),
        row(strips, 1, piece),
        row(strips, 2, piece),
        row(strips, 3, piece),
    ];
    let (ab_low, ab_high) = (_mm512_unpacklo_epi8(a, b), _mm512_unpackhi_epi8(a, b));
    let (cd_low, cd_high) = (_mm512_unpacklo_epi8(c, d), _mm512_unpackhi_epi8(c, d));
    [
        _mm512_unpacklo_epi16(ab_low, cd_low),
        _mm512_unpackhi_epi16(ab_low, cd_low),
        _mm512_unpacklo_epi16(ab_high, cd_high),
        _mm512_unpackhi_epi16(ab_high, cd_high),
    ]
}

/// The pieces of every fourth strip from `first` on.
#[target_feature(enable = "avx512f,avx512bw,avx512vbmi,avx512vbmi2")]
#[inline]
fn row(strips: &[[[u8; PIECE]; PIECES]; LANES], first: usize, piece: usize) -> __m512i {
    let row = _mm512_castsi128_si512(load_piece(&strips[first][piece]));
    let row = _mm512_inserti32x4::<1>(row, load_piece(&strips[first + 4][piece]));
    let row = _mm512_inserti32x4::<2>(row, load_piece(&strips[first + 8][piece]));
    _mm512_inserti32x4::<3>(row, load_piece(&strips[first + 12][piece]))
}

/// Planes in registers, as far as they fit.
type LoadedPlanes = [[__m512i; 4]; 6];

/// The table's words for the 64 bytes of a column: the four bytes of each strip one after the other.
#[target_feature(enable = "avx512f,avx512bw,avx512vbmi,avx512vbmi2")]
#[inline]
fn look_up(planes: &LoadedPlanes, column: __m512i) -> [Hashes; 4] {
    let upper = _mm512_movepi8_mask(column);
    let [a, b, c, d, e, f] = [
        look_up_plane(&planes[0], column, upper),
        look_up_plane(&planes[1], column, upper),
        look_up_plane(&planes[2], column, upper),
        look_up_plane(&planes[3], column, upper),
        look_up_plane(&planes[4], column, upper),
        look_up_plane(&planes[5], column, upper),
    ];
    let zero = _mm512_setzero_si512();
    let (ab_low, ab_high) = (_mm512_unpacklo_epi8(a, b), _mm512_unpackhi_epi8(a, b));
    let (cd_low, cd_high) = (_mm512_unpacklo_epi8(c, d), _mm512_unpackhi_epi8(c, d));
    let (ef_low, ef_high) = (_mm512_unpacklo_epi8(e, f), _mm512_unpackhi_epi8(e, f));
    [
        Hashes {
            low: _mm512_unpacklo_epi16(ab_low, cd_low),
            high: _mm512_unpacklo_epi16(ef_low, zero),
        },
        Hashes {
            low: _mm512_unpackhi_epi16(ab_low, cd_low),
            high: _mm512_unpackhi_epi16(ef_low, zero),
        },
        Hashes {
            low: _mm512_unpacklo_epi16(ab_high, cd_high),
            high: _mm512_unpacklo_epi16(ef_high, zero),
        },
        Hashes {
            low: _mm512_unpackhi_epi16(ab_high, cd_high),
            high: _mm512_unpackhi_epi16(ef_high, zero),
        },
    ]
}

/// One byte of the words for 64 bytes; `upper` marks those from 128 on.
#[target_feature(enable = "avx512f,avx512bw,avx512vbmi,avx512vbmi2")]
#[inline]
fn look_up_plane(plane: &[__m512i; 4], bytes: __m512i, upper: __mmask64) -> __m512i {
    let below = _mm512_permutex2var_epi8(plane[0], bytes, plane[1]);
    let above = _mm512_permutex2var_epi8(plane[2], bytes, plane[3]);
    _mm512_mask_blend_epi8(upper, below, above)
}

#[target_feature(enable = "avx512f,avx512bw,avx512vbmi,avx512vbmi2")]
fn load_planes(planes: &Planes) -> LoadedPlanes {
    let mut loaded = [[_mm512_setzero_si512(); 4]; 6];
    for (plane, loaded) in planes.iter().zip(&mut loaded) {
        for (bytes, loaded) in plane.as_chunks::<64>().0.iter().zip(loaded) {
            *loaded = load_64(bytes);
        }
    }
    loaded
}

// Loads from memory take a pointer and so are unsafe; these are compiled to the same.

#[target_feature(enable = "avx512f,avx512bw,avx512vbmi,avx512vbmi2")]
#[inline]
fn load_64(bytes: &[u8; 64]) -> __m512i {
    let words = bytes.as_chunks::<8>().0;
    let word = |n: usize| i64::from_le_bytes(words[n]);
    _mm512_set_epi64(word(7), word(6), word(5), word(4), word(3), word(2), word(1), word(0))
}

#[target_feature(enable = "avx512f,avx512bw,avx512vbmi,avx512vbmi2")]
#[inline]
fn load_piece(bytes: &[u8; PIECE]) -> __m128i {
    let both = u128::from_le_bytes(*bytes);
    _mm_set_epi64x((both >> 64) as i64, both as i64)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn seeded(seed: u64, len: usize) -> Vec<u8> {
        let mut bytes = vec![0; len];
        blake3::Hasher::new()
            .update(&seed.to_le_bytes())
            .finalize_xof()
            .fill(&mut bytes);
        bytes
    }

    fn words(seed: u64) -> [u64; 256] {
        let bytes = seeded(seed, 2048);
        std::array::from_fn(|n| u64::from_le_bytes(bytes.as_chunks::<8>().0[n]))
    }

    /// Byte by byte, as the head of the chunker's file has it.
    fn first_match(search: &Search<'_>, from: usize, to: usize) -> Option<usize> {
        let mut hash = 0u64;
        (search.origin..to).find(|&at| {
            hash = (hash << 1).wrapping_add(search.words[usize::from(search.bytes[at])]);
            at >= from && hash & search.mask == 0
        })
    }

    proptest! {
        /// Masks of few bits, so that blocks hold no match, one, or many.
        #[test]
        fn lanes_find_what_a_scan_by_bytes_finds(
            (seed, alphabet) in (any::<u64>(), prop_oneof![Just(255u8), Just(3), Just(0)]),
            bits in prop::collection::vec(0u32..48, 1..18),
            (origin, skipped) in (48usize..200, prop_oneof![0usize..100, Just(0), 5000usize..9000]),
            len in 0usize..4 * BLOCK,
        ) {
            let words = words(seed);
            let bytes: Vec<u8> = seeded(!seed, origin + skipped + len).iter().map(|byte| byte & alphabet).collect();
            let mask = bits.iter().fold(0, |mask, bit| mask | 1 << bit);
            let search = Search { words: &words, planes: &planes(&words), bytes: &bytes, origin, mask };
            let (from, to) = (origin + skipped, bytes.len());
            let expected = first_match(&search, from, to);
            match super::search(&search, from, to) {
                Found::At(at) => prop_assert_eq!(Some(at), expected),
                Found::NothingBefore(end) => {
                    prop_assert!(from <= end && end <= to);
                    prop_assert!(expected.is_none_or(|at| at >= end));
                    if is_x86_feature_detected!("avx512vbmi2") && is_x86_feature_detected!("avx512vbmi") {
                        prop_assert!(to - end < BLOCK);
                    }
                }
            }
        }
    }
}
