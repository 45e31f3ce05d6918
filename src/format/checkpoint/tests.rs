use proptest::collection::vec;
use proptest::prelude::*;

use super::*;
use crate::codec::Secret;
use crate::format::tests::fixtures::*;

fn sealed(plain: Vec<u8>) -> (CheckpointName, Vec<u8>) {
    let name = checkpoint_name(1, 0xee);
    (
        name,
        seal_checkpoint_file(&secrets(), CheckpointKind::Objects, &name, plain),
    )
}

fn open(name: &CheckpointName, file: &[u8]) -> Result<Vec<u8>, Error> {
    open_checkpoint_file(&secrets(), CheckpointKind::Objects, name, file)
}

#[test]
fn files_of_every_length_read_back() {
    for len in [
        0,
        1,
        2048,
        MESSAGE_LEN - 1,
        MESSAGE_LEN,
        MESSAGE_LEN + 1,
        3 * MESSAGE_LEN,
    ] {
        let plain: Vec<u8> = (0..len).map(|index| index as u8 | 1).collect();
        let (name, file) = sealed(plain.clone());
        let opened = open(&name, &file).unwrap();
        assert_eq!(opened[..len], plain);
        assert!(opened[len..].iter().all(|&byte| byte == 0));
        assert!(padme::is_padme(opened.len() as u64));
    }
}

#[test]
fn messages_cannot_be_dropped_or_exchanged() {
    let (name, file) = sealed(vec![1; 8 * MESSAGE_LEN]);
    let message = |index: usize| {
        let start = CHECKPOINT_HEADER_LEN + index * SEALED_MESSAGE_LEN;
        start..start + SEALED_MESSAGE_LEN
    };
    // Seven messages are a Padmé size too, so only the last flag shows the cut.
    assert!(padme::is_padme(7 * MESSAGE_LEN as u64));
    assert_eq!(
        open(&name, &file[..message(7).start]),
        Err(Error::damaged(WHAT, "a message does not open"))
    );
    let mut exchanged = file.clone();
    let (first, second) = (file[message(0)].to_vec(), file[message(1)].to_vec());
    exchanged[message(0)].copy_from_slice(&second);
    exchanged[message(1)].copy_from_slice(&first);
    assert!(open(&name, &exchanged).is_err());
}

#[test]
fn a_file_is_only_what_it_was_sealed_as() {
    let (name, file) = sealed(vec![1]);
    let renamed = CheckpointName { log_number: 2, ..name };
    assert_eq!(
        open(&renamed, &file),
        Err(Error::Foreign {
            what: WHAT,
            owner: "name"
        })
    );
    let as_root = open_checkpoint_file(&secrets(), CheckpointKind::Root, &name, &file);
    assert_eq!(
        as_root,
        Err(Error::Foreign {
            what: WHAT,
            owner: "kind"
        })
    );
    let rotated = secrets().with_directory_epoch(Secret::from_bytes([1; 32]));
    assert!(open_checkpoint_file(&rotated, CheckpointKind::Objects, &name, &file).is_ok());
    let later = seal_checkpoint_file(&rotated, CheckpointKind::Objects, &name, vec![1]);
    let missing = Error::KeyMissing {
        section: Section::Directory,
        epoch: 2,
    };
    assert_eq!(open(&name, &later), Err(missing));
}

#[test]
fn a_maintenance_role_reads_checkpoints() {
    let (name, file) = sealed(vec![1]);
    let role = secrets().without_data();
    assert!(open_checkpoint_file(&role, CheckpointKind::Objects, &name, &file).is_ok());
}

#[test]
fn the_largest_put_ids_fit_a_root() {
    let row = PutIdEntry::LEN_MIN - 1 + ObjectName::LEN_MAX;
    assert!(PUT_IDS_MAX * row + HEADS_MAX * 40 < 72 << 20);
    assert!(padme::is_padme(CHECKPOINT_PLAIN_MAX as u64));
}

#[test]
fn tables_out_of_order_are_refused() {
    let range = KeyRange::of([0; 16], 0);
    let row = |counter| PackTableRow {
        pack: PackRef {
            name: pack_name(counter),
            size: 1,
            trailer_hash: Hash32([0; 32]),
        },
        kind: PackKind::Chunk,
        log_number: 0,
    };
    let decode = |range, rows| PackSegment::decode(&PackSegment { range, rows }.encode());
    assert!(decode(range, vec![row(1), row(2)]).is_ok());
    assert!(decode(range, vec![row(2), row(1)]).is_err());
    assert!(decode(range, vec![row(1), row(1)]).is_err());
    let elsewhere = KeyRange::of(pack_name(1 << 12).number.to_bytes(), 116);
    assert!(decode(elsewhere, vec![row(1)]).is_err());
    let mislabelled = PackTableRow {
        log_number: 1,
        ..row(1)
    };
    assert!(decode(range, vec![mislabelled]).is_err());
}

proptest! {
    #[test]
    fn a_range_holds_the_keys_that_share_its_bits(key: [u8; 16], other: [u8; 16], bits in 0u8..=128) {
        let range = KeyRange::of(key, bits);
        let shared = u128::from_be_bytes(key) ^ u128::from_be_bytes(other);
        prop_assert!(range.contains(&key) && range.contains(&range.first()));
        prop_assert_eq!(range.contains(&other), shared.leading_zeros() >= u32::from(bits));
    }

    #[test]
    fn every_object_segment_reads_back(rows in vec(any_object_version(), 0..10), key: [u8; 16], bits in 0u8..=128) {
        let segment = ObjectSegment { range: KeyRange::of(key, bits), rows };
        let (name, file) = sealed(segment.encode());
        prop_assert_eq!(ObjectSegment::decode(&open(&name, &file).unwrap()), Ok(segment));
    }

    #[test]
    fn every_root_reads_back(
        tip in any_tip(),
        head: [u8; 32],
        heads in vec(any::<[u8; 32]>(), 0..20),
        objects in vec(any_object_version(), 0..10),
        segments in vec((any::<[u8; 32]>(), any::<[u64; 4]>()), 0..10),
        serial in 10u64..,
    ) {
        let segments: Vec<SegmentRef> = (0u8..).zip(segments).map(|(index, (id, [a, b, c, d]))| SegmentRef {
            range: KeyRange::of([index; 16], 8),
            name: CheckpointName { epoch: a, log_number: b, id: CheckpointId(id) },
            directory_epoch: c,
            length: d,
            blake3: Hash32(id),
        }).collect();
        let put_ids = objects.into_iter().map(|object| PutIdEntry {
            put_id: object.put_id.unwrap_or([1; 16]),
            name: object.name,
            sequence: object.sequence,
            size: object.size,
            chunks: object.chunks,
            crc32c: object.crc32c,
            created_ms: object.created_ms,
        }).collect();
        let root = CheckpointRoot {
            tip,
            head: Hash32(head),
            sequence: serial,
            heads: (1..).zip(heads.into_iter().map(Hash32)).collect(),
            put_ids,
            put_serial: serial,
            object_segments: segments.clone(),
            pack_segments: segments,
        };
        prop_assert_eq!(CheckpointRoot::decode(&root.encode()), Ok(root));
    }
}
