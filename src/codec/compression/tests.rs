use proptest::prelude::*;

use super::*;

fn random(len: usize) -> Vec<u8> {
    let mut bytes = vec![0; len];
    blake3::Hasher::new()
        .update(b"incompressible")
        .finalize_xof()
        .fill(&mut bytes);
    bytes
}

fn text(len: usize) -> Vec<u8> {
    (0u64..)
        .flat_map(|line| format!("line {line} of {}\n", line * 7919 % 1013).into_bytes())
        .take(len)
        .collect()
}

fn compressed(level: Level, plain: &[u8]) -> (Codec, Vec<u8>) {
    let mut out = Vec::new();
    let codec = Compressor::new(level).compress(plain, &mut out);
    (codec, out)
}

fn decompressed(codec: Codec, stored: &[u8], plain_len: usize) -> Result<Vec<u8>, Error> {
    let (mut out, mut filled) = (Vec::new(), vec![0; plain_len]);
    let read = Decompressor::new().decompress(codec, stored, plain_len, &mut out);
    assert_eq!(Decompressor::new().decompress_into(codec, stored, &mut filled), read);
    assert!(read.is_err() || out == filled);
    read.map(|()| out)
}

/// Bytes of one of the kinds chunks are made of, up to the length of a large chunk.
fn plain() -> impl Strategy<Value = Vec<u8>> {
    prop_oneof![
        prop::collection::vec(any::<u8>(), 0..300_000),
        prop::collection::vec(0u8..4, 0..300_000),
        (0usize..300_000).prop_map(text),
        (any::<u8>(), 0usize..300_000).prop_map(|(byte, len)| vec![byte; len]),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn a_chunk_survives_compression(plain in plain(), level in 0..=5) {
        let level = Level::new(level).unwrap();
        let mut out = b"already there".to_vec();
        let codec = Compressor::new(level).compress(&plain, &mut out);
        prop_assert_eq!(&out[..13], b"already there");
        let stored = &out[13..];
        prop_assert!(stored.len() <= plain.len());

        let mut back = b"before".to_vec();
        Decompressor::new().decompress(codec, stored, plain.len(), &mut back).unwrap();
        prop_assert_eq!(&back[..6], b"before");
        prop_assert_eq!(&back[6..], &plain[..]);
    }

    #[test]
    fn damaged_frames_give_an_error_or_the_promised_length(at: prop::sample::Index, change in 1u8..) {
        let plain = text(20_000);
        let (codec, mut stored) = compressed(Level::DEFAULT, &plain);
        prop_assert_eq!(codec, Codec::Zstd);
        let at = at.index(stored.len());
        stored[at] ^= change;
        if let Ok(back) = decompressed(codec, &stored, plain.len()) {
            prop_assert_eq!(back.len(), plain.len());
        }
    }

    #[test]
    fn arbitrary_bytes_never_panic(stored in prop::collection::vec(any::<u8>(), 0..200), plain_len in 0usize..10_000) {
        let mut framed = zstd_safe::MAGICNUMBER.to_le_bytes().to_vec();
        framed.extend_from_slice(&stored);
        for stored in [&stored, &framed] {
            if let Ok(back) = decompressed(Codec::Zstd, stored, plain_len) {
                prop_assert_eq!(back.len(), plain_len);
            }
        }
    }
}

#[test]
fn one_context_serves_many_chunks_in_both_directions() {
    let mut compressor = Compressor::new(Level::DEFAULT);
    let mut decompressor = Decompressor::new();
    for plain in [
        text(70_000),
        random(70_000),
        vec![],
        text(1),
        text(300_000),
        vec![0; 4096],
    ] {
        let mut stored = Vec::new();
        let codec = compressor.compress(&plain, &mut stored);
        let mut back = Vec::new();
        assert!(
            decompressor
                .decompress(codec, &stored, plain.len() + 1, &mut back)
                .is_err()
        );
        assert!(back.is_empty());
        decompressor.decompress(codec, &stored, plain.len(), &mut back).unwrap();
        assert_eq!(back, plain);
    }
}

#[test]
fn text_is_compressed_and_random_bytes_are_kept_raw() {
    let (codec, stored) = compressed(Level::DEFAULT, &text(64 << 10));
    assert_eq!(codec, Codec::Zstd);
    assert!(stored.len() < 32 << 10);

    let plain = random(64 << 10);
    assert_eq!(compressed(Level::DEFAULT, &plain), (Codec::Raw, plain));
}

#[test]
fn level_off_keeps_everything_raw() {
    let plain = text(64 << 10);
    assert_eq!(compressed(Level::Off, &plain), (Codec::Raw, plain));
}

#[test]
fn a_saving_below_three_percent_is_not_taken() {
    assert!(pays(100, 97));
    assert!(!pays(100, 98));
    assert!(!pays(1, 1));
    // Nothing has no frame that is smaller.
    assert_eq!(compressed(Level::DEFAULT, &[]), (Codec::Raw, vec![]));
    // The probe lets a short chunk through; the rule still holds.
    let plain = random(2000);
    assert_eq!(probe(&plain), Probe::Compressible);
    assert_eq!(compressed(Level::DEFAULT, &plain).0, Codec::Raw);
}

#[test]
fn the_probe_tells_random_bytes_from_others() {
    assert_eq!(probe(&random(32 << 10)), Probe::Incompressible);
    assert_eq!(probe(&random(256 << 10)), Probe::Incompressible);
    assert_eq!(probe(&text(64 << 10)), Probe::Compressible);
    assert_eq!(probe(&vec![7; 64 << 10]), Probe::Compressible);
    // A quarter of zeros is worth an attempt, wherever it is.
    let mut mixed = random(64 << 10);
    mixed[32 << 10..48 << 10].fill(0);
    assert_eq!(probe(&mixed), Probe::Compressible);
}

#[test]
fn frames_that_are_not_exactly_one_whole_frame_are_refused() {
    let plain = text(20_000);
    let (_, frame) = compressed(Level::DEFAULT, &plain);
    let refused = |stored: &[u8], plain_len| {
        matches!(
            decompressed(Codec::Zstd, stored, plain_len),
            Err(Error::Decompression { .. })
        )
    };
    assert!(refused(&[], 0));
    assert!(refused(&frame, plain.len() - 1));
    assert!(refused(&frame, plain.len() + 1));
    assert!(refused(&frame[..frame.len() - 1], plain.len()));
    assert!(refused(&[&frame[..], &[0]].concat(), plain.len()));
    assert!(refused(&[&frame[..], &frame].concat(), 2 * plain.len()));
    let skippable = [0x50, 0x2a, 0x4d, 0x18, 0, 0, 0, 0];
    assert!(refused(&skippable, 0));
    assert!(refused(&[&skippable[..], &frame].concat(), plain.len()));
    // A frame without its content size, as a stream of unknown length gives.
    let mut unsized_frame = Vec::new();
    zstd::stream::copy_encode(&plain[..], &mut unsized_frame, 1).unwrap();
    assert!(refused(&unsized_frame, plain.len()));
}

/// A frame may claim what it likes: the room is bounded by what the entry says, and a bomb is refused by its claim.
#[test]
fn a_claim_of_many_bytes_allocates_nothing() {
    let bomb = bulk::compress(&vec![0; 32 << 20], 1).unwrap();
    let mut out = Vec::new();
    assert!(
        Decompressor::new()
            .decompress(Codec::Zstd, &bomb, 1000, &mut out)
            .is_err()
    );
    assert_eq!(out.capacity(), 0);
}

#[test]
fn raw_bytes_of_another_length_are_refused() {
    assert!(decompressed(Codec::Raw, b"four", 5).is_err());
    assert_eq!(decompressed(Codec::Raw, b"four", 4).unwrap(), b"four");
}

/// Compressed bytes need not stay the same from one zstd to the next; what reads them must.
#[test]
fn a_frame_written_by_the_first_version_is_read() {
    let frame = hex::decode("28b52ffd206445000010616101003f012c").unwrap();
    assert_eq!(decompressed(Codec::Zstd, &frame, 100).unwrap(), [b'a'; 100]);
}

#[test]
fn codecs_and_levels_out_of_range_are_refused_by_number() {
    assert_eq!(Codec::try_from(Codec::Raw as u8), Ok(Codec::Raw));
    assert_eq!(Codec::try_from(Codec::Zstd as u8), Ok(Codec::Zstd));
    assert_eq!(Codec::try_from(2), Err(Error::UnknownCodec { found: 2 }));
    assert_eq!(Level::new(0), Ok(Level::Off));
    assert_eq!(Level::new(1), Ok(Level::DEFAULT));
    assert_eq!(Level::new(-1), Err(Error::Level { found: -1 }));
    assert_eq!(Level::new(20), Err(Error::Level { found: 20 }));
    for level in 0..=LEVEL_MAX {
        assert_eq!(Level::new(level).unwrap().number(), level);
    }
}
