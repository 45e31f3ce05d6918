use proptest::collection::vec;
use proptest::prelude::*;

use super::super::record::{METADATA_LEN_MAX, Record};
use super::super::{directory, keyring, wire};
use super::*;
use crate::codec::Secret;
use crate::format::tests::fixtures::*;

fn writer(counter: u64, target_bytes: usize) -> PackWriter {
    PackWriter::new(&secrets(), pack_name(counter), PackBuffer::default(), target_bytes)
}

fn push_data(writer: &mut PackWriter, plain: &[u8]) -> u32 {
    let id = secrets().id_key().unwrap().id(plain);
    writer.push(id, BlobKind::Data, Codec::Raw, plain.len() as u32, plain)
}

fn finish(writer: PackWriter) -> FinishedPack {
    writer.finish(None, padding)
}

/// The parts of a whole pack.
fn parts(pack: &FinishedPack) -> (Trailer, Vec<u8>, Vec<u8>) {
    let (trailer, directory, sums) = split_pack(&pack.bytes).unwrap();
    (trailer, directory.to_vec(), sums.to_vec())
}

#[test]
fn limits_add_up_to_64_mib() {
    let sums = BODY_LEN_MAX.div_ceil(BLOCK_LEN) * SUM_LEN;
    assert!(BODY_LEN_MAX + DIRECTORY_PLAIN_MAX + TAG_LEN + sums + TRAILER_LEN < 64 << 20);
    assert!(padme::is_padme(BODY_LEN_MAX as u64) && padme::is_padme(DIRECTORY_PLAIN_MAX as u64));
    const { assert!(Birth::LEN + ENTRIES_MAX * Entry::LEN < TABLES_LEN_MAX) };
    const { assert!(METADATA_LEN_MAX < directory::RECORDS_LEN_MAX) };
}

#[test]
fn fixed_parts_have_their_documented_lengths() {
    let header = writer(1, 2048).header;
    assert_eq!(header.encode()[136..], [1, 0, 0, 0, 0, 0, 0, 0]);
    assert_eq!(parse_header(&header.encode()), Ok(header.clone()));
    let mut birth = Vec::new();
    header.birth().encode(&mut birth);
    assert_eq!(birth.len(), Birth::LEN);
    assert_eq!(
        (BLOB_AAD_LEN, DIRECTORY_AAD_LEN, Entry::LEN, Birth::LEN),
        (106, 228, 52, 116)
    );
}

#[test]
fn an_empty_pack_is_a_pack() {
    let pack = finish(writer(1, 1 << 20));
    let (trailer, directory, sums) = parts(&pack);
    assert_eq!((trailer.body_len, directory.len(), sums.len()), (2048, 2064, 32));
    assert_eq!(pack.directory.births[0].data_epoch, 0);
    let opened = verify_pack(&secrets(), &pack.name, &pack.bytes).unwrap();
    assert_eq!(opened, pack.directory);
    assert_eq!(
        pack.trailer_hash,
        Hash32::of(pack.bytes.last_chunk::<TRAILER_LEN>().unwrap())
    );
}

#[test]
fn a_pack_without_data_names_no_data_key() {
    let pack = commit_pack();
    let header = parse_header(&pack.bytes).unwrap();
    assert_eq!(
        (header.kind, header.data_epoch, header.data_commitment),
        (PackKind::Commit, 0, [0; 32])
    );
    assert_ne!(
        pack.directory.births[1].data_epoch, 0,
        "the moved chunk keeps its birth"
    );
}

#[test]
fn a_full_pack_closes_at_a_padme_size() {
    let mut writer = writer(1, 300_000);
    let plain = vec![7; 10_000];
    while writer.fits(plain.len()) {
        push_data(&mut writer, &plain);
    }
    let pack = finish(writer);
    let (trailer, ..) = parts(&pack);
    assert_eq!(trailer.body_len, padme::padme_below(300_000));
    assert!(read_whole_pack(&secrets(), &pack.name, &pack.bytes).is_ok());
}

#[test]
fn a_small_target_takes_one_large_blob() {
    let mut writer = writer(1, 4096);
    assert!(writer.fits(BODY_LEN_MAX - HEADER_LEN - TAG_LEN));
    assert!(!writer.fits(BODY_LEN_MAX - HEADER_LEN - TAG_LEN + 1) && !writer.fits(usize::MAX));
    push_data(&mut writer, &[1; 100_000]);
    assert!(!writer.fits(1));
    assert!(read_whole_pack(&secrets(), &pack_name(1), &finish(writer).bytes).is_ok());
}

#[test]
fn ordinals_run_out_before_they_repeat() {
    let mut writer = writer(1, BODY_LEN_MAX);
    for index in 0..ENTRIES_MAX as u32 {
        assert!(writer.fits(1));
        let entry = Entry {
            ordinal: index,
            ..chunk_pack().directory.entries[0]
        };
        assert_eq!(writer.push(entry.id, BlobKind::Leaf, Codec::Raw, 1, &[0]), index);
        if index > 20 {
            break;
        }
    }
    writer.ordinal_next = ENTRIES_MAX as u32;
    let pushed = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| push_data(&mut writer, b"x")));
    assert!(pushed.is_err());
}

#[test]
fn a_reused_buffer_leaves_no_trace() {
    let mut dirty = writer(1, 1 << 20);
    push_data(&mut dirty, &[0xff; 5000]);
    let buffer = finish(dirty).bytes;
    let mut reused = PackWriter::new(&secrets(), pack_name(2), buffer, 1 << 20);
    let mut fresh = writer(2, 1 << 20);
    push_data(&mut reused, b"x");
    push_data(&mut fresh, b"x");
    assert_eq!(*finish(reused).bytes, *finish(fresh).bytes);
}

#[test]
fn moved_blobs_stay_openable_through_generations_of_packs() {
    let secrets = secrets();
    let first = chunk_pack();
    let mut from = first;
    for counter in 6..9 {
        let mut writer = writer(counter, 1 << 20);
        push_data(&mut writer, b"born here");
        for entry in &from.directory.entries {
            let sealed = &from.bytes[entry.offset as usize..entry.end() as usize];
            writer.push_moved(entry, &from.directory.births[usize::from(entry.birth)], sealed);
        }
        from = finish(writer);
        let plain = read_whole_pack(&secrets, &from.name, &from.bytes).unwrap();
        assert_eq!(plain[plain.len() - 3], b"a raw chunk");
        assert_eq!(plain[plain.len() - 2], ZSTD_PLAIN);
    }
    assert_eq!((from.directory.births.len(), from.directory.entries.len()), (4, 6));
}

#[test]
fn a_maintenance_role_moves_data_it_cannot_open() {
    let role = secrets().without_data();
    let from = chunk_pack();
    let directory = verify_pack(&role, &from.name, &from.bytes).unwrap();
    let mut writer = PackWriter::new(&role, pack_name(6), PackBuffer::default(), 1 << 20);
    for entry in &directory.entries {
        let sealed = &from.bytes[entry.offset as usize..entry.end() as usize];
        writer.push_moved(entry, &directory.births[0], sealed);
    }
    let pack = finish(writer);
    assert_eq!(pack.directory.births[0].data_epoch, 0);
    assert!(read_whole_pack(&secrets(), &pack.name, &pack.bytes).is_ok());
    let opened = read_blob(&role, &pack.directory, &pack.directory.entries[0], &pack.bytes);
    assert_eq!(
        opened,
        Err(Error::KeyMissing {
            section: Section::Data,
            epoch: 0
        })
    );
    assert!(read_blob(&role, &pack.directory, &pack.directory.entries[2], &pack.bytes).is_ok());
}

#[test]
fn a_pack_cannot_be_renamed_or_adopted() {
    let pack = chunk_pack();
    let mut renumbered = pack.name;
    renumbered.number.counter += 1;
    let open = |secrets: &Secrets, name: &PackName| open_pack_directory(secrets, name, &pack.bytes);
    assert!(matches!(open(&secrets(), &renumbered), Err(Error::Damaged { .. })));
    assert_eq!(
        open(&secrets(), &pack_name(2)),
        Err(Error::Foreign {
            what: WHAT,
            owner: "name"
        })
    );
    let parameters = secrets().parameters().clone();
    let seed = keyring::KeyringSeed::from_bytes(counting(1));
    let elsewhere = Secrets::create(parameters.clone(), RepositoryId([1; 16]), seed);
    assert_eq!(
        open(&elsewhere, &pack.name),
        Err(Error::Foreign {
            what: WHAT,
            owner: "repository"
        })
    );
    let seed = keyring::KeyringSeed::from_bytes(counting(1));
    let other_keys = Secrets::create(parameters, REPOSITORY, seed);
    assert_eq!(
        open(&other_keys, &pack.name),
        Err(Error::CommitmentMismatch { what: WHAT })
    );
    let missing = Error::KeyMissing {
        section: Section::Directory,
        epoch: 2,
    };
    let rotated = secrets().with_directory_epoch(Secret::from_bytes([5; 32]));
    let later = finish(PackWriter::new(&rotated, pack.name, PackBuffer::default(), 2048));
    assert_eq!(open_pack_directory(&secrets(), &pack.name, &later.bytes), Err(missing));
}

#[test]
fn a_blob_opens_only_as_what_it_was_sealed_as() {
    let pack = chunk_pack();
    let secrets = secrets();
    let [raw, zstd, leaf] = pack.directory.entries[..] else {
        panic!("three blobs")
    };
    let refused = |entry: Entry| read_blob(&secrets, &pack.directory, &entry, &pack.bytes).is_err();
    assert!(!refused(raw) && !refused(zstd) && !refused(leaf));
    assert!(
        refused(Entry {
            kind: BlobKind::Data,
            ..leaf
        }),
        "a leaf is not data"
    );
    assert!(
        refused(Entry {
            kind: BlobKind::Root,
            ..leaf
        }),
        "a leaf is not a root"
    );
    assert!(
        refused(Entry {
            kind: BlobKind::Leaf,
            ..raw
        }),
        "a user's chunk is not a manifest"
    );
    assert!(refused(Entry {
        codec: Codec::Raw,
        ..zstd
    }));
    assert!(refused(Entry {
        plain_len: zstd.plain_len + 1,
        ..zstd
    }));
    assert!(refused(Entry { id: zstd.id, ..raw }));
    assert!(refused(Entry { ordinal: 1, ..raw }));
    assert!(
        refused(Entry {
            offset: raw.offset,
            stored_len: raw.stored_len,
            ..zstd
        }),
        "swapped"
    );
}

#[test]
fn blocks_are_verified_by_range() {
    let mut writer = writer(1, 1 << 20);
    push_data(&mut writer, &vec![1; 200_000]);
    let mut pack = finish(writer);
    let (trailer, _, sums) = parts(&pack);
    let body_len = trailer.body_len as usize;
    pack.bytes[70_000] ^= 1;
    pack.bytes[body_len - 1] ^= 1;
    let body = &pack.bytes[..body_len];
    let last = (body_len - 1) as u64 / BLOCK_LEN as u64;
    assert_eq!(damaged_blocks(&sums, 0, body).collect::<Vec<_>>(), [1, last]);
    assert_eq!(verify_block_sums(&sums, 0, body), Err(Error::DamagedBlock { block: 1 }));
    assert_eq!(verify_block_sums(&sums, 0, &body[..BLOCK_LEN]), Ok(()));
    let third = 2 * BLOCK_LEN;
    assert_eq!(
        verify_block_sums(&sums, third as u64, &body[third..third + BLOCK_LEN]),
        Ok(())
    );
    assert!(verify_block_sums(&sums, 1, body).is_err());
    assert!(
        verify_block_sums(&sums, u64::MAX - 65_535, body).is_err(),
        "no sums there"
    );
}

#[test]
fn a_tail_that_is_too_short_says_so() {
    let pack = chunk_pack();
    let trailer = parse_trailer(&pack.bytes[pack.bytes.len() - 500..], pack.bytes.len() as u64).unwrap();
    assert_eq!(trailer.total_len(), pack.bytes.len() as u64);
    let start = pack.bytes.len() - trailer.tail_len() as usize;
    assert!(trailer.split_tail(&pack.bytes[start + 1..]).is_none());
    let (directory, sums) = trailer.split_tail(&pack.bytes[start..]).unwrap();
    let opened = open_directory(
        &secrets(),
        &pack.name,
        &pack.bytes[..HEADER_LEN],
        &trailer,
        directory,
        sums,
    );
    assert_eq!(opened, Ok(pack.directory));
    assert!(parse_trailer(&pack.bytes, pack.bytes.len() as u64 + 1).is_err());
    assert!(parse_trailer(&[], 0).is_err());
}

#[test]
fn a_directory_keeps_its_rules() {
    let pack = chunk_pack();
    let header = parse_header(&pack.bytes).unwrap();
    let good = &pack.directory;
    let decode = |directory: &Directory| {
        let mut plain = Vec::new();
        directory.encode(&mut plain);
        Directory::decode(&plain, &header, 2048)
    };
    assert_eq!(decode(good).as_ref(), Ok(good));
    let with_entry = |index: usize, entry: Entry| {
        let mut directory = good.clone();
        directory.entries[index] = entry;
        decode(&directory)
    };
    let [raw, zstd, leaf] = good.entries[..] else {
        panic!("three blobs")
    };
    assert!(
        with_entry(0, Entry { offset: 143, ..raw }).is_err(),
        "inside the header"
    );
    assert!(
        with_entry(
            1,
            Entry {
                offset: zstd.offset - 1,
                ..zstd
            }
        )
        .is_err(),
        "overlap"
    );
    assert!(
        with_entry(2, Entry { offset: 2048, ..leaf }).is_err(),
        "outside the body"
    );
    assert!(
        with_entry(
            2,
            Entry {
                offset: u32::MAX,
                ..leaf
            }
        )
        .is_err(),
        "overflow"
    );
    assert!(with_entry(1, Entry { ordinal: 0, ..zstd }).is_err(), "a nonce twice");
    assert!(
        with_entry(
            1,
            Entry {
                ordinal: 65_535,
                ..zstd
            }
        )
        .is_err(),
        "no such ordinal"
    );
    assert!(with_entry(1, Entry { birth: 1, ..zstd }).is_err(), "no such birth");
    assert!(
        with_entry(
            1,
            Entry {
                plain_len: BLOB_PLAIN_MAX + 1,
                ..zstd
            }
        )
        .is_err()
    );
    assert!(with_entry(1, Entry { plain_len: 0, ..zstd }).is_err());
    assert!(
        with_entry(1, Entry { stored_len: 16, ..zstd }).is_err(),
        "nothing but a tag"
    );
    assert!(
        with_entry(
            0,
            Entry {
                plain_len: raw.plain_len + 1,
                ..raw
            }
        )
        .is_err(),
        "raw has one length"
    );
    assert!(with_entry(1, Entry { ordinal: 7, ..zstd }).is_ok(), "gaps are legal");

    let with_births = |births: Vec<Birth>| decode(&Directory { births, ..good.clone() });
    let own = good.births[0];
    let other = Birth {
        pack: PackId([1; 32]),
        ..own
    };
    assert!(with_births(vec![own, other]).is_ok());
    assert!(with_births(vec![]).is_err());
    assert!(with_births(vec![other, own]).is_err());
    assert!(with_births(vec![own, own]).is_err());
    assert!(with_births(vec![own, Birth { data_epoch: 0, ..other }]).is_err());
    assert!(
        with_births(vec![
            own,
            Birth {
                directory_epoch: 0,
                ..other
            }
        ])
        .is_err()
    );
    let unknown = Error::UnknownSuite {
        what: "pack directory",
        suite: 2,
    };
    assert_eq!(with_births(vec![own, Birth { suite: 2, ..other }]), Err(unknown));
}

#[test]
fn the_log_begins_at_one_after_nothing() {
    let decode = |log_number, previous| {
        let commit = CommitSection {
            log_number,
            previous: Hash32(previous),
            records: vec![],
        };
        let pack = writer(3, 2048).finish(Some(commit), padding);
        open_pack_directory(&secrets(), &pack.name, &pack.bytes).map(|_| ())
    };
    assert_eq!(decode(1, [0; 32]), Ok(()));
    assert_eq!(decode(2, [1; 32]), Ok(()));
    assert!(decode(0, [0; 32]).is_err());
    assert!(decode(1, [1; 32]).is_err());
    assert!(decode(2, [0; 32]).is_err());
}

#[test]
fn unknown_numbers_are_refused_by_name() {
    let header = writer(1, 2048).header.encode();
    let with = |at: usize, value: u8| {
        let mut bytes = header;
        bytes[at] = value;
        parse_header(&bytes).unwrap_err()
    };
    assert_eq!(
        with(4, 2),
        Error::UnknownVersion {
            what: "pack header",
            version: 2
        }
    );
    assert_eq!(
        with(6, 9),
        Error::UnknownSuite {
            what: "pack header",
            suite: 9
        }
    );
    assert_eq!(
        with(136, 3),
        Error::UnknownValue {
            what: "pack",
            field: "kind",
            value: 3
        }
    );
    let mut entry = Vec::new();
    chunk_pack().directory.entries[0].encode(&mut entry);
    entry[33] = 2;
    let unknown = Error::UnknownValue {
        what: "blob",
        field: "codec",
        value: 2,
    };
    assert_eq!(Entry::decode(&mut wire::Reader::new("t", &entry)), Err(unknown));
}

proptest! {
    #[test]
    fn every_pack_reads_back(
        blobs in vec((vec(any::<u8>(), 1..3000), 0u8..3), 0..30),
        records in proptest::option::of(vec(any_record(), 0..6)),
        target in 0usize..200_000,
    ) {
        let secrets = secrets();
        let mut writer = writer(1, target);
        let mut expected = Vec::new();
        for (plain, kind) in blobs {
            if !writer.fits(plain.len()) {
                break;
            }
            let (kind, key) = match kind {
                0 => (BlobKind::Data, secrets.id_key().unwrap()),
                1 => (BlobKind::Leaf, secrets.leaf_id_key()),
                _ => (BlobKind::Root, secrets.root_id_key()),
            };
            let index = writer.push(key.id(&plain), kind, Codec::Raw, plain.len() as u32, &plain);
            prop_assert_eq!(writer.entries()[index as usize].stored_len, raw_len(&plain));
            expected.push(plain);
        }
        let commit = records.map(|records| CommitSection { log_number: 9, previous: Hash32([1; 32]), records });
        let pack = writer.finish(commit, padding);
        prop_assert_eq!(&verify_pack(&secrets, &pack.name, &pack.bytes), &Ok(pack.directory.clone()));
        prop_assert_eq!(read_whole_pack(&secrets, &pack.name, &pack.bytes), Ok(expected));
        prop_assert!(padme::is_padme(parts(&pack).0.body_len));
    }

    #[test]
    fn no_bytes_panic_any_reader(bytes in vec(any::<u8>(), 0..4000)) {
        read_as_everything(&secrets(), &bytes);
    }

    #[test]
    fn no_change_panics_any_reader(
        which: prop::sample::Index,
        changes in vec((any::<prop::sample::Index>(), any::<u8>()), 1..6),
        cut: prop::sample::Index,
    ) {
        let samples = samples();
        let mut bytes = samples[which.index(samples.len())].clone();
        for (at, value) in changes {
            let at = at.index(bytes.len());
            bytes[at] = value;
        }
        read_as_everything(&secrets(), &bytes);
        bytes.truncate(cut.index(bytes.len()));
        read_as_everything(&secrets(), &bytes);
    }
}

/// One of every structure, sealed and open.
fn samples() -> Vec<Vec<u8>> {
    let (chunks, commit) = (chunk_pack(), commit_pack());
    let mut samples = vec![keyring(), chunks.bytes.to_vec(), commit.bytes.to_vec()];
    for pack in [&chunks, &commit] {
        let mut plain = Vec::new();
        pack.directory.encode(&mut plain);
        samples.push(plain);
    }
    for record in &commit.directory.commit.as_ref().unwrap().records {
        let mut plain = Vec::new();
        Record::encode(record, &mut plain);
        samples.push(plain);
    }
    for (name, kind, file) in checkpoint() {
        let plain = super::super::checkpoint::open_checkpoint_file(&secrets(), kind, &name, &file);
        samples.extend([plain.unwrap(), file]);
    }
    samples.extend(read_whole_pack(&secrets(), &commit.name, &commit.bytes).unwrap());
    samples
}
