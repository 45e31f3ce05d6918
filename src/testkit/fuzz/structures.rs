//! Decoders, behind the seals that keep a fuzzer from most of them.

use std::sync::LazyLock;

use super::golden::{CHECKPOINTS, OWNER, PACKS, SECRETS};
use super::input::Input;
use crate::codec::ChunkId;
use crate::format::checkpoint::{CHECKPOINT_HEADER_LEN, CheckpointHeader, open_checkpoint_file};
use crate::format::keyring::rewritten_section;
use crate::format::marker::Owner;
use crate::format::pack::{
    HEADER_LEN, TRAILER_LEN, damaged_blocks, open_pack_directory, parse_header, parse_trailer, verify_block_sums,
};
use crate::format::wire::Reader;
use crate::format::{
    CheckpointRoot, Directory, Error, Hash32, Leaf, LeafRef, ObjectName, ObjectSegment, PackHeader, PackSegment,
    Record, Root,
};

/// What a decoder takes is what the encoder writes of the result, except for zeros of padding; and it keeps the rules its
/// readers rely on.
pub fn structures(data: &[u8]) {
    let mut input = Input::new(data);
    let structure = input.choice(&STRUCTURES);
    let bytes = input.edited(&structure.sample);
    (structure.check)(&bytes);
}

pub(super) struct Structure {
    #[cfg_attr(not(test), expect(dead_code, reason = "seeds are named after it"))]
    pub(super) name: &'static str,
    /// A valid one.
    pub(super) sample: Vec<u8>,
    /// Panics if a claim does not hold for the bytes; tells whether the decoder took them.
    pub(super) check: fn(&[u8]) -> bool,
}

pub(super) static STRUCTURES: LazyLock<Vec<Structure>> = LazyLock::new(|| {
    let of = |name, sample: &[u8], check| Structure {
        name,
        sample: sample.to_vec(),
        check,
    };
    let pack = PACKS[0].bytes;
    let [root, objects, packs] = CHECKPOINTS.each_ref().map(|golden| {
        open_checkpoint_file(&SECRETS, golden.kind, &golden.name, golden.bytes).expect("golden checkpoints are intact")
    });
    let mut all = vec![
        of("pack-header", &pack[..HEADER_LEN], pack_header),
        of("pack-trailer", pack, pack_trailer),
        of("block-sums", pack, block_sums),
        of("chunk-directory", &directory_plain(0), chunk_directory),
        of("commit-directory", &directory_plain(1), commit_directory),
        of(
            "checkpoint-header",
            &CHECKPOINTS[0].bytes[..CHECKPOINT_HEADER_LEN],
            checkpoint_header,
        ),
        of("checkpoint-root", &root, checkpoint_root),
        of("object-segment", &objects, object_segment),
        of("pack-segment", &packs, pack_segment),
        of("leaf", &leaf_plain(), leaf),
        of("root", &root_plain(), manifest_root),
        of("owner", OWNER, owner),
        of("keyring-section", &keyring_section(), keyring_section_plain),
    ];
    all.extend(records().iter().map(|(name, sample)| of(name, sample, record)));
    all
});

/// Panics unless `taken` is an error or `bytes` again.
fn rewrites(bytes: &[u8], taken: Result<Vec<u8>, Error>) -> bool {
    if let Ok(written) = &taken {
        assert!(written == bytes, "taken as {taken:02x?}");
    }
    taken.is_ok()
}

/// As [`rewrites`], for structures that end in zeros which are no part of them.
fn rewrites_but_zeros(bytes: &[u8], taken: Result<Vec<u8>, Error>) -> bool {
    let trimmed = |bytes: &[u8]| {
        let len = bytes.iter().rposition(|&byte| byte != 0).map_or(0, |last| last + 1);
        bytes[..len].to_vec()
    };
    rewrites(&trimmed(bytes), taken.map(|written| trimmed(&written)))
}

fn pack_header(bytes: &[u8]) -> bool {
    let taken = parse_header(bytes).map(|header| header.encode().to_vec());
    rewrites(&bytes[..HEADER_LEN.min(bytes.len())], taken)
}

fn pack_trailer(bytes: &[u8]) -> bool {
    let len = bytes.len() as u64;
    let Ok(trailer) = parse_trailer(bytes, len) else {
        return false;
    };
    assert_eq!(trailer.hash(), Hash32::of(&bytes[bytes.len() - TRAILER_LEN..]));
    assert_eq!(trailer.total_len(), len);
    let (directory, sums) = trailer.split_tail(bytes).expect("the whole pack is there");
    assert_eq!(directory.len() as u64, trailer.directory_len);
    assert_eq!(sums.len() as u64, trailer.sums_len);
    true
}

/// Sums of one pack against a body of any length and place.
fn block_sums(bytes: &[u8]) -> bool {
    let mut input = Input::new(bytes);
    let (offset, sums_len) = (input.u64(), input.u8().into());
    let (sums, body) = (input.bytes(sums_len), input.rest());
    let damaged = damaged_blocks(sums, offset, body).count();
    let verified = verify_block_sums(sums, offset, body);
    assert!(verified.is_err() || damaged == 0);
    verified.is_ok()
}

fn header_of(pack: usize) -> PackHeader {
    parse_header(PACKS[pack].bytes).expect("golden packs are intact")
}

fn directory_of(pack: usize) -> Directory {
    let golden = &PACKS[pack];
    open_pack_directory(&SECRETS, &golden.name, golden.bytes).expect("golden packs are intact")
}

fn directory_plain(pack: usize) -> Vec<u8> {
    let mut plain = Vec::new();
    directory_of(pack).encode(&mut plain);
    plain
}

fn chunk_directory(bytes: &[u8]) -> bool {
    directory(bytes, &header_of(0))
}

fn commit_directory(bytes: &[u8]) -> bool {
    directory(bytes, &header_of(1))
}

fn directory(bytes: &[u8], header: &PackHeader) -> bool {
    const BODY_LEN: u64 = 2048;
    let taken = Directory::decode(bytes, header, BODY_LEN);
    if let Ok(directory) = &taken {
        let mut end = HEADER_LEN as u64;
        for entry in &directory.entries {
            assert!(usize::from(entry.birth) < directory.births.len());
            assert!(u64::from(entry.offset) >= end && entry.end() <= BODY_LEN);
            end = entry.end();
        }
    }
    let encoded = taken.map(|directory| {
        let mut plain = Vec::new();
        directory.encode(&mut plain);
        plain
    });
    rewrites_but_zeros(bytes, encoded)
}

fn checkpoint_header(bytes: &[u8]) -> bool {
    let taken = CheckpointHeader::parse(bytes).map(|header| header.encode().to_vec());
    rewrites(&bytes[..CHECKPOINT_HEADER_LEN.min(bytes.len())], taken)
}

fn checkpoint_root(bytes: &[u8]) -> bool {
    rewrites_but_zeros(bytes, CheckpointRoot::decode(bytes).map(|root| root.encode()))
}

fn object_segment(bytes: &[u8]) -> bool {
    rewrites_but_zeros(bytes, ObjectSegment::decode(bytes).map(|segment| segment.encode()))
}

fn pack_segment(bytes: &[u8]) -> bool {
    rewrites_but_zeros(bytes, PackSegment::decode(bytes).map(|segment| segment.encode()))
}

fn leaf_plain() -> Vec<u8> {
    let chunk = crate::format::ChunkRef {
        id: ChunkId([1; 32]),
        len: 200,
    };
    Leaf { chunks: vec![chunk; 3] }.encode()
}

fn leaf(bytes: &[u8]) -> bool {
    rewrites(bytes, Leaf::decode(bytes).map(|leaf| leaf.encode()))
}

fn root_plain() -> Vec<u8> {
    let leaf = LeafRef {
        id: ChunkId([2; 32]),
        bytes: 600,
        chunks: 3,
    };
    let root = Root {
        name: ObjectName::new("large").expect("a short name"),
        size: 1200,
        leaves: vec![leaf; 2],
    };
    root.encode()
}

fn manifest_root(bytes: &[u8]) -> bool {
    rewrites(bytes, Root::decode(bytes).map(|root| root.encode()))
}

/// One of every kind.
fn records() -> Vec<(&'static str, Vec<u8>)> {
    let commit = directory_of(1).commit.expect("the second golden pack is a commit pack");
    let encoded = commit.records.iter().map(|record| {
        let name = match record {
            Record::Put(_) => "record-put",
            Record::Delete { .. } => "record-delete",
            Record::Introduce(_) => "record-introduce",
            Record::Condemn(_) => "record-condemn",
            Record::Open { .. } => "record-open",
        };
        let mut bytes = Vec::new();
        record.encode(&mut bytes);
        (name, bytes)
    });
    encoded.collect()
}

fn record(bytes: &[u8]) -> bool {
    let mut reader = Reader::new("record", bytes);
    let taken = Record::decode(&mut reader);
    let len = bytes.len() - reader.remaining();
    let encoded = taken.map(|record| {
        let mut bytes = Vec::new();
        record.encode(&mut bytes);
        assert_eq!(record.encoded_len(), bytes.len());
        bytes
    });
    rewrites(&bytes[..len], encoded)
}

/// Its hash is no secret: a fuzzer that has to guess it would see nothing behind it.
fn owner(bytes: &[u8]) -> bool {
    let body = &bytes[..bytes.len().saturating_sub(32)];
    let bytes = [body, &Hash32::of(body).0].concat();
    rewrites(&bytes, Owner::parse(&bytes).map(|owner| owner.encode()))
}

/// Two epochs, as `docs/format.md` has them.
fn keyring_section() -> Vec<u8> {
    let parts: [&[u8]; 12] = [
        &[0xa1; 16],
        &[0xa2; 16],
        &1u64.to_le_bytes(),
        &[0; 32],
        // 32, 64, 256 KiB; level 2 of normalisation, zstd at level 1, reserved.
        &[0, 0x80, 0, 0, 0, 0, 1, 0, 0, 0, 4, 0, 2, 1, 1, 0],
        &[6, 0],
        b"golden",
        &[0xa3; 32],
        &[2, 0, 0, 0],
        &1u64.to_le_bytes(),
        &[0xa4; 32],
        &[&[2, 0, 0, 0, 0, 0, 0, 0], [0xa5; 32].as_slice()].concat(),
    ];
    parts.concat()
}

fn keyring_section_plain(bytes: &[u8]) -> bool {
    rewrites(bytes, rewritten_section(bytes))
}
