//! Cuts against those of the `fastcdc` crate.

use std::sync::Arc;

use fastcdc::v2020::{Normalization, cut_gear, select_masks};

use super::input::{Input, seeded};
#[cfg(target_arch = "x86_64")]
use crate::codec::chunker::check_lanes;
use crate::codec::{ChunkSizes, Chunker, GearTable, More};

/// Several blocks of the lanes before and after the largest average that is tried.
const STREAM_LEN_MAX: usize = 256 * 1024;
/// Longest run that a few decisions make.
const RUN_LEN_MAX: usize = 96 * 1024;

/// A stream is cut as `fastcdc` cuts it, whatever it is, however it arrives; and every chunk has an allowed length.
pub fn chunker(data: &[u8]) {
    let mut input = Input::new(data);
    let sizes = sizes(&mut input);
    let table = Arc::new(table(&mut input));
    let arrivals = arrivals(sizes, &mut input);
    let edit = Edit::of(&mut input);
    let stream = stream(&mut input);

    let expected = lengths_by_fastcdc(sizes, &table, &stream);
    assert_eq!(lengths(sizes, &table, &stream, &[]), expected, "{sizes:?}");
    assert_eq!(
        lengths(sizes, &table, &stream, &arrivals),
        expected,
        "{sizes:?}, arriving at {arrivals:?}"
    );
    check_limits(sizes, &stream, &expected);

    let edited = edit.of_stream(&stream);
    let others = lengths(sizes, &table, &edited, &[]);
    check_limits(sizes, &edited, &others);
    check_alike((&stream, &expected), (&edited, &others));
}

/// The lanes of the chunker, where the CPU has them, find the place a scan by bytes finds: for masks of few bits too, which
/// match often, and from any place on.
pub fn lanes(data: &[u8]) {
    let mut input = Input::new(data);
    let table = table(&mut input);
    let mask = input.u64() & input.u64() & (u64::MAX >> 16);
    let origin = 48 + usize::from(input.u8());
    let from = origin + usize::from(input.u16() >> (input.u8() % 16));
    let bytes = stream(&mut input);
    if from <= bytes.len() {
        #[cfg(target_arch = "x86_64")]
        check_lanes(table.words(), &bytes, origin, from, mask);
    }
}

/// Averages from 256 bytes, where every zone is shorter than a block of the lanes, to 64 KiB, where they are longer.
fn sizes(input: &mut Input<'_>) -> ChunkSizes {
    let avg = 256 << (input.u8() % 9);
    let min = 64 + 2 * input.below((avg - 64) / 2);
    let max = avg + 2 + 2 * input.below(2 * avg);
    ChunkSizes::new(min as u32, avg as u32, max as u32).expect("sizes are even and in order")
}

/// Tables as repositories have them, and ones with every bit set or clear where carries and masks look.
fn table(input: &mut Input<'_>) -> GearTable {
    let kind = input.u8() % 5;
    let (seed, word) = (u64::from(input.u16()), input.u64());
    let mut bytes: [u8; 2048] = seeded(seed, 2048).try_into().expect("as many as asked for");
    let (words, _) = bytes.as_chunks_mut::<8>();
    for slot in words {
        let random = u64::from_le_bytes(*slot);
        let changed = match kind {
            0 => random,
            1 => word,
            2 => random & word,
            3 => random | word,
            _ => random << (word % 64),
        };
        *slot = changed.to_le_bytes();
    }
    GearTable::from_bytes(&bytes)
}

/// How much of a stream is there at a call.
#[derive(Debug, Clone, Copy)]
enum Arrival {
    /// So many bytes more than at the call before.
    More(usize),
    /// So many bytes of the current chunk.
    OfChunk(usize),
}

impl Arrival {
    fn end(self, start: usize, before: usize) -> usize {
        match self {
            Self::More(len) => before + len,
            Self::OfChunk(len) => before.max(start + len),
        }
    }
}

/// Some calls end where the scan begins or changes its mask: there it hands over from bytes to lanes.
fn arrivals(sizes: ChunkSizes, input: &mut Input<'_>) -> Vec<Arrival> {
    let count = input.u8() % 32;
    let arrival = |_| match input.u8() % 4 {
        0 => Arrival::More(input.u8().into()),
        1 => Arrival::More(input.u16().into()),
        2 => Arrival::OfChunk(sizes.min() as usize + usize::from(input.u8())),
        _ => Arrival::OfChunk(sizes.avg() as usize + usize::from(input.u8())),
    };
    (0..count).map(arrival).collect()
}

fn stream(input: &mut Input<'_>) -> Vec<u8> {
    let mut stream = Vec::new();
    while !input.is_empty() && stream.len() < STREAM_LEN_MAX {
        append_run(input, &mut stream);
    }
    stream.truncate(STREAM_LEN_MAX);
    stream
}

/// Literal bytes, one byte or a few repeated, pseudo-random bytes of any alphabet, or what came before again.
fn append_run(input: &mut Input<'_>, stream: &mut Vec<u8>) {
    match input.u8() % 5 {
        0 => {
            let len = input.u8().into();
            stream.extend_from_slice(input.bytes(len));
        }
        1 => {
            let byte = input.u8();
            stream.resize(stream.len() + input.below(RUN_LEN_MAX), byte);
        }
        2 => {
            let period = usize::from(input.u8()) + 1;
            let period = input.bytes(period);
            let len = input.below(RUN_LEN_MAX);
            stream.extend(period.iter().cycle().take(len));
        }
        3 => {
            let (seed, alphabet) = (input.u16(), input.u8());
            let run = seeded(seed.into(), input.below(RUN_LEN_MAX));
            stream.extend(run.iter().map(|byte| byte | alphabet));
        }
        _ => {
            let from = input.below(stream.len());
            let len = input.below(stream.len() - from);
            stream.extend_from_within(from..from + len);
        }
    }
}

fn lengths_by_fastcdc(sizes: ChunkSizes, table: &GearTable, mut stream: &[u8]) -> Vec<usize> {
    let [min, avg, max] = [sizes.min(), sizes.avg(), sizes.max()].map(|size| size as usize);
    let (mask_s, mask_l) = select_masks(avg, Normalization::Level2);
    let words = table.words();
    let shifted = words.map(|word| word << 1);
    let mut lengths = Vec::new();
    while !stream.is_empty() {
        let (_, len) = cut_gear(
            stream,
            min,
            avg,
            max,
            mask_s,
            mask_l,
            mask_s << 1,
            mask_l << 1,
            words,
            &shifted,
        );
        lengths.push(len);
        stream = &stream[len..];
    }
    lengths
}

/// The chunks of a stream that arrives so; at the last call, all the rest.
fn lengths(sizes: ChunkSizes, table: &Arc<GearTable>, stream: &[u8], arrivals: &[Arrival]) -> Vec<usize> {
    let mut chunker = Chunker::new(sizes, Arc::clone(table));
    let mut lengths = Vec::new();
    let (mut start, mut arrived) = (0, 0);
    for arrival in arrivals {
        arrived = arrival.end(start, arrived).min(stream.len());
        while let Some(len) = chunker.next(&stream[start..arrived], More::MayFollow) {
            lengths.push(len);
            start += len;
        }
    }
    while let Some(len) = chunker.next(&stream[start..], More::End) {
        lengths.push(len);
        start += len;
    }
    assert_eq!(start, stream.len(), "bytes of the stream are in no chunk");
    lengths
}

/// Some bytes of a stream give way to others.
struct Edit {
    at: usize,
    removed: usize,
    inserted: Vec<u8>,
}

impl Edit {
    fn of(input: &mut Input<'_>) -> Self {
        let (at, removed) = (input.below(STREAM_LEN_MAX), input.u16() >> (input.u8() % 16));
        let len = usize::from(input.u16() >> (input.u8() % 16));
        Self {
            at,
            removed: removed.into(),
            inserted: seeded(input.u8().into(), len),
        }
    }

    fn of_stream(&self, stream: &[u8]) -> Vec<u8> {
        let at = self.at.min(stream.len());
        let end = (at + self.removed).min(stream.len());
        [&stream[..at], &self.inserted, &stream[end..]].concat()
    }
}

/// Cuts depend on content alone, and only on that since the cut before: two streams are cut alike as long as they are
/// alike, and again from the first place on where both are cut and nothing but the same follows. That there is such a
/// place is likely and no promise.
fn check_alike(a: (&[u8], &[usize]), b: (&[u8], &[usize])) {
    /// A cut may look at this many bytes behind it.
    const AHEAD: usize = 2;
    let alike = |a: &mut dyn Iterator<Item = &u8>, b: &mut dyn Iterator<Item = &u8>| {
        a.zip(b).take_while(|(one, other)| one == other).count()
    };
    let before = alike(&mut a.0.iter(), &mut b.0.iter());
    let behind = alike(&mut a.0.iter().rev(), &mut b.0.iter().rev());
    let [ends_a, ends_b] = [a.1, b.1].map(|lengths| {
        let ends = lengths.iter().scan(0, |end, len| {
            *end += len;
            Some(*end)
        });
        ends.collect::<Vec<usize>>()
    });
    let first = |ends: &[usize]| {
        ends.iter()
            .copied()
            .filter(|end| end + AHEAD <= before)
            .collect::<Vec<_>>()
    };
    assert_eq!(first(&ends_a), first(&ends_b), "{before} bytes are the same");

    // Counted from the end, where the same bytes have the same places.
    let last = |ends: &[usize], len: usize| {
        let from_end = ends.iter().map(|end| len - end).filter(|end| *end <= behind);
        from_end.collect::<Vec<_>>()
    };
    let (last_a, last_b) = (last(&ends_a, a.0.len()), last(&ends_b, b.0.len()));
    if let Some(from) = last_a.iter().find(|end| last_b.contains(end)) {
        let rest = |ends: &[usize]| ends.iter().copied().filter(|end| end <= from).collect::<Vec<_>>();
        assert_eq!(rest(&last_a), rest(&last_b), "both are cut {from} bytes before the end");
    }
}

fn check_limits(sizes: ChunkSizes, stream: &[u8], lengths: &[usize]) {
    assert_eq!(lengths.iter().sum::<usize>(), stream.len());
    assert!(lengths.iter().all(|&len| (1..=sizes.max() as usize).contains(&len)));
    if let Some((_last, others)) = lengths.split_last() {
        assert!(others.iter().all(|&len| len >= sizes.min() as usize));
    }
}
