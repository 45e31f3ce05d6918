use fastcdc::v2020::cut_gear;
use proptest::prelude::*;

use super::*;

/// A table as a repository has one: bytes of a pseudo-random function.
fn table() -> Arc<GearTable> {
    Arc::new(GearTable::from_bytes(&seeded(b"table", 2048).try_into().unwrap()))
}

fn seeded(seed: &[u8], len: usize) -> Vec<u8> {
    let mut bytes = vec![0; len];
    blake3::Hasher::new().update(seed).finalize_xof().fill(&mut bytes);
    bytes
}

/// Words of a small dictionary in random order.
fn text(len: usize) -> Vec<u8> {
    let words: Vec<Vec<u8>> = seeded(b"words", 4096)
        .chunks(8)
        .map(|w| w[1..2 + usize::from(w[0] % 7)].iter().map(|b| b'a' + b % 26).collect())
        .collect();
    let order = seeded(b"order", len);
    order
        .iter()
        .flat_map(|&n| words[usize::from(n)].iter().copied().chain([b' ']))
        .take(len)
        .collect()
}

/// The lengths `cut_gear` of the `fastcdc` crate cuts with the same table, masks and sizes.
fn expected(sizes: ChunkSizes, table: &GearTable, mut bytes: &[u8]) -> Vec<usize> {
    let (mask_s, mask_l) = select_masks(sizes.avg as usize, LEVEL);
    let shifted = table.words().map(|word| word << 1);
    let mut lengths = Vec::new();
    while !bytes.is_empty() {
        let (min, avg, max) = (sizes.min as usize, sizes.avg as usize, sizes.max as usize);
        let (_, len) = cut_gear(
            bytes,
            min,
            avg,
            max,
            mask_s,
            mask_l,
            mask_s << 1,
            mask_l << 1,
            table.words(),
            &shifted,
        );
        lengths.push(len);
        bytes = &bytes[len..];
    }
    lengths
}

/// The lengths our chunker cuts if the stream arrives in `pieces` (the last one takes the rest).
fn cut(sizes: ChunkSizes, table: &Arc<GearTable>, bytes: &[u8], pieces: impl IntoIterator<Item = usize>) -> Vec<usize> {
    let mut chunker = Chunker::new(sizes, Arc::clone(table));
    let mut pieces = pieces.into_iter();
    let mut lengths = Vec::new();
    let (mut start, mut arrived) = (0, 0);
    loop {
        arrived = pieces
            .next()
            .map_or(bytes.len(), |piece| bytes.len().min(arrived + piece));
        let more = if arrived == bytes.len() {
            More::End
        } else {
            More::MayFollow
        };
        while let Some(len) = chunker.next(&bytes[start..arrived], more) {
            lengths.push(len);
            start += len;
        }
        if more == More::End {
            assert_eq!(start, bytes.len());
            return lengths;
        }
    }
}

/// Bytes that cut often, never, regularly, or at the last moment.
fn stream(len_max: usize) -> impl Strategy<Value = Vec<u8>> {
    prop_oneof![
        prop::collection::vec(any::<u8>(), 0..len_max),
        prop::collection::vec(0u8..2, 0..len_max),
        (any::<u8>(), 0..len_max).prop_map(|(byte, len)| vec![byte; len]),
        (prop::collection::vec(any::<u8>(), 1..300), 0..len_max).prop_map(|(period, len)| period
            .iter()
            .copied()
            .cycle()
            .take(len)
            .collect()),
        (0..len_max).prop_map(text),
    ]
}

fn small_sizes() -> impl Strategy<Value = ChunkSizes> {
    (8u32..=12, 32u32..=120, 1u32..2000)
        .prop_map(|(bits, half_min, above)| ChunkSizes::new(2 * half_min, 1 << bits, (1 << bits) + 2 * above).unwrap())
}

proptest! {
    #[test]
    fn cuts_are_those_of_fastcdc_however_the_stream_arrives(
        sizes in small_sizes(),
        bytes in stream(40_000),
        pieces in prop::collection::vec(0usize..5000, 0..40),
        byte_steps in 0usize..600,
    ) {
        let table = table();
        let expected = expected(sizes, &table, &bytes);
        prop_assert_eq!(&cut(sizes, &table, &bytes, []), &expected);
        prop_assert_eq!(&cut(sizes, &table, &bytes, pieces), &expected);
        prop_assert_eq!(&cut(sizes, &table, &bytes, std::iter::repeat_n(1, byte_steps)), &expected);
    }

    #[test]
    fn any_table_is_cut_alike(words in prop::collection::vec(any::<u64>(), 256), bytes in stream(40_000)) {
        let words: Vec<u8> = words.iter().flat_map(|word| word.to_le_bytes()).collect();
        let table = Arc::new(GearTable::from_bytes(&words.try_into().unwrap()));
        let sizes = ChunkSizes::new(128, 512, 8192).unwrap();
        prop_assert_eq!(cut(sizes, &table, &bytes, []), expected(sizes, &table, &bytes));
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(12))]

    #[test]
    fn the_default_sizes_are_cut_alike(
        seed: [u8; 8],
        len in 0usize..3_000_000,
        pieces in prop::collection::vec(0usize..200_000, 0..40),
    ) {
        let table = table();
        let bytes = seeded(&seed, len);
        let expected = expected(ChunkSizes::DEFAULT, &table, &bytes);
        prop_assert_eq!(&cut(ChunkSizes::DEFAULT, &table, &bytes, []), &expected);
        prop_assert_eq!(&cut(ChunkSizes::DEFAULT, &table, &bytes, pieces), &expected);
    }
}

#[test]
fn streams_around_every_size_are_cut_alike() {
    let table = table();
    let sizes = ChunkSizes::new(256, 1024, 4096).unwrap();
    for bytes in [seeded(b"around", 9000), vec![0; 9000]] {
        for border in [0, 2, 256, 1024, 4096, 8192] {
            for len in usize::saturating_sub(border, 3)..border + 4 {
                let bytes = &bytes[..len];
                assert_eq!(cut(sizes, &table, bytes, []), expected(sizes, &table, bytes), "{len}");
                assert_eq!(
                    cut(sizes, &table, bytes, vec![1; len]),
                    expected(sizes, &table, bytes),
                    "{len} bytewise"
                );
            }
        }
    }
}

#[test]
fn every_average_is_cut_alike() {
    let table = table();
    let bytes = [seeded(b"average", 12 << 20), text(4 << 20), vec![0; 4 << 20]].concat();
    for bits in 14..=22 {
        let sizes = ChunkSizes::with_average(1 << bits).unwrap();
        let expected = expected(sizes, &table, &bytes);
        assert_eq!(cut(sizes, &table, &bytes, []), expected, "{sizes:?}");
        assert_eq!(
            cut(sizes, &table, &bytes, vec![1 << 20; 20]),
            expected,
            "{sizes:?} in slabs"
        );
        let (last, full) = expected.split_last().unwrap();
        assert!(*last <= sizes.max as usize);
        assert!(
            full.iter()
                .all(|len| (sizes.min as usize..=sizes.max as usize).contains(len))
        );
    }
}

/// A change here costs every repository its dedupe: a new cut is a new parameter of the keyring, never a new value here.
#[test]
fn cut_points_never_change() {
    let sizes = ChunkSizes::with_average(64 << 10).unwrap();
    let random = cut(sizes, &table(), &seeded(b"golden", 2 << 20), []);
    assert_eq!(random, GOLDEN_RANDOM);
    let text = cut(sizes, &table(), &text(2 << 20), []);
    assert_eq!(text, GOLDEN_TEXT);

    let mixed = [seeded(b"golden", 8 << 20), self::text(8 << 20), vec![0; 1 << 20]].concat();
    for (bits, golden) in GOLDEN_AVERAGES {
        let mut hasher = blake3::Hasher::new();
        for len in cut(ChunkSizes::with_average(1 << bits).unwrap(), &table(), &mixed, []) {
            hasher.update(&(len as u32).to_le_bytes());
        }
        assert_eq!(&hasher.finalize().to_hex().as_str()[..16], *golden, "average 2^{bits}");
    }
}

const GOLDEN_RANDOM: &[usize] = &[
    68230, 67243, 109418, 72966, 88370, 91883, 87092, 72930, 70208, 87549, 70866, 106553, 102752, 75171, 72229, 70791,
    77752, 99037, 70550, 66610, 90389, 83149, 48675, 78906, 74605, 75566, 17662,
];
const GOLDEN_TEXT: &[usize] = &[
    101340, 66564, 84474, 75683, 77338, 38292, 84629, 132878, 73505, 70201, 80098, 123914, 98381, 65881, 74836, 76984,
    78799, 75923, 66402, 73551, 83705, 82811, 67415, 71417, 75935, 96196,
];

/// Base-2 logarithm of the average; the first 16 digits of BLAKE3 over the lengths as u32.
const GOLDEN_AVERAGES: &[(u32, &str)] = &[
    (14, "f375ec8f9534f380"),
    (16, "4cbc2a70f9592f5e"),
    (18, "c1368d7941b3e6e0"),
    (20, "0d8050f0fd1bd608"),
    (22, "71659c138ce46071"),
];

#[test]
fn an_edit_moves_only_the_cuts_near_it() {
    let table = table();
    let bytes = seeded(b"edited", 8 << 20);
    let mut edited = bytes.clone();
    edited.splice(1 << 20..(1 << 20) + 10, [1, 2, 3]);
    let ends = |bytes: &[u8]| -> std::collections::BTreeSet<usize> {
        let mut left = bytes.len();
        cut(ChunkSizes::DEFAULT, &table, bytes, [])
            .into_iter()
            .map(|len| {
                left -= len;
                left
            })
            .collect()
    };
    let (before, after) = (ends(&bytes), ends(&edited));
    assert!(
        before.difference(&after).count() <= 30,
        "{} of {}",
        before.difference(&after).count(),
        before.len()
    );
}

#[test]
fn nothing_is_cut_from_nothing() {
    let mut chunker = Chunker::new(ChunkSizes::DEFAULT, table());
    assert_eq!(chunker.next(&[], More::MayFollow), None);
    assert_eq!(chunker.next(&[], More::End), None);
    assert_eq!(chunker.next(&[1], More::MayFollow), None);
    assert_eq!(chunker.next(&[1], More::End), Some(1));
    assert_eq!(chunker.next(&[], More::End), None);
}

#[test]
fn a_table_is_little_endian_words_and_is_not_printed() {
    let mut bytes = [0; 2048];
    bytes[8..16].copy_from_slice(&[1, 2, 3, 4, 5, 6, 7, 8]);
    let table = GearTable::from_bytes(&bytes);
    assert_eq!(table.words()[0], 0);
    assert_eq!(table.words()[1], 0x0807_0605_0403_0201);
    assert_eq!(format!("{table:?}"), "GearTable(..)");
}

#[test]
fn a_wrong_size_is_named() {
    let which = |result: Result<ChunkSizes, Error>| match result {
        Err(Error::ChunkSize { which, found, .. }) => (which, found),
        other => panic!("{other:?}"),
    };
    assert_eq!(which(ChunkSizes::with_average(8 << 10)), ("average", 8 << 10));
    assert_eq!(which(ChunkSizes::with_average(8 << 20)), ("average", 8 << 20));
    assert_eq!(which(ChunkSizes::with_average(48 << 10)), ("average", 48 << 10));
    assert_eq!(which(ChunkSizes::with_average(u32::MAX)), ("average", u32::MAX));
    assert_eq!(which(ChunkSizes::new(64, 0, 4096)), ("average", 0));
    assert_eq!(which(ChunkSizes::new(65, 1024, 4096)), ("smallest", 65));
    assert_eq!(which(ChunkSizes::new(62, 1024, 4096)), ("smallest", 62));
    assert_eq!(which(ChunkSizes::new(1024, 1024, 4096)), ("smallest", 1024));
    assert_eq!(which(ChunkSizes::new(512, 1024, 1024)), ("largest", 1024));
    assert_eq!(which(ChunkSizes::new(512, 1024, 4097)), ("largest", 4097));
    assert_eq!(
        which(ChunkSizes::new(512, 1024, (16 << 20) + 2)),
        ("largest", (16 << 20) + 2)
    );
    assert_eq!(ChunkSizes::with_average(32 << 10), Ok(ChunkSizes::DEFAULT));
    let largest = ChunkSizes::with_average(4 << 20).unwrap();
    assert_eq!(
        (largest.min(), largest.avg(), largest.max()),
        (2 << 20, 4 << 20, 16 << 20)
    );
}
