use proptest::prelude::*;

use super::*;
use crate::format::tests::fixtures::*;

fn encoded(record: &Record) -> Vec<u8> {
    let mut bytes = Vec::new();
    record.encode(&mut bytes);
    bytes
}

fn decode(bytes: &[u8]) -> Result<Record, Error> {
    let mut reader = Reader::new("record", bytes);
    let record = Record::decode(&mut reader)?;
    reader.end()?;
    Ok(record)
}

#[test]
fn an_unknown_kind_is_refused_by_name() {
    assert_eq!(
        decode(&[6, 0, 0, 0, 0]),
        Err(Error::UnknownValue {
            what: "record",
            field: "kind",
            value: 6
        })
    );
}

#[test]
fn an_object_has_the_size_of_its_chunks() {
    let [small, large] = object_versions(&secrets(), ChunkId([1; 32]));
    for wrong in [
        ObjectVersion {
            size: 12,
            ..small.clone()
        },
        ObjectVersion { chunks: 2, ..small },
        ObjectVersion {
            chunks: 0,
            ..large.clone()
        },
        ObjectVersion { size: 2, ..large },
    ] {
        assert!(decode(&encoded(&Record::Put(wrong))).is_err());
    }
}

#[test]
fn metadata_is_bounded() {
    let [small, _] = object_versions(&secrets(), ChunkId([1; 32]));
    let with = |len| ObjectVersion {
        metadata: vec![(String::new(), "x".repeat(len))],
        ..small.clone()
    };
    let longest = Record::Put(with(METADATA_LEN_MAX - 4));
    assert_eq!(decode(&encoded(&longest)), Ok(longest.clone()));
    assert!(std::panic::catch_unwind(|| encoded(&Record::Put(with(METADATA_LEN_MAX - 3)))).is_err());

    let mut too_long = encoded(&longest);
    let at = too_long.windows(4).position(|w| w == b"xxxx").unwrap() - 4;
    // The key's length grows by what the value's loses, then by one byte more.
    too_long[at] = 1;
    assert!(decode(&too_long).is_err());
}

#[test]
fn a_record_fills_its_frame() {
    let mut bytes = encoded(&Record::Delete {
        name: name("x"),
        sequence: 1,
    });
    bytes[1] += 1;
    bytes.push(0);
    assert!(decode(&bytes).is_err());
}

proptest! {
    #[test]
    fn every_record_reads_back(record in any_record()) {
        let bytes = encoded(&record);
        prop_assert_eq!(record.encoded_len(), bytes.len());
        prop_assert_eq!(decode(&bytes), Ok(record));
    }

    #[test]
    fn what_decodes_encodes_to_the_same_bytes(
        record in any_record(),
        at: prop::sample::Index,
        value: u8,
    ) {
        let mut bytes = encoded(&record);
        let at = at.index(bytes.len());
        bytes[at] = value;
        if let Ok(other) = decode(&bytes) {
            prop_assert_eq!(encoded(&other), bytes);
        }
    }
}
