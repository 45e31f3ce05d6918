//! Fixed secrets, a sample of every structure, and strategies for random ones: what the tests of this folder share.

use proptest::collection::vec;
use proptest::option;
use proptest::prelude::*;

use crate::codec::{ChunkId, ChunkSizes, Codec, Decompressor, Level, RepositoryId, Secret, TAG_LEN};
use crate::format::keyring::{KeyringSeed, WrapSeed, seal_keyring};
use crate::format::pack::{open_pack_directory, parse_trailer, verify_pack};
use crate::format::record::NO_PUT_ID;
use crate::format::*;

pub(in crate::format) const REPOSITORY: RepositoryId = RepositoryId(*b"repository golde");

/// 200 times the letter a, as one zstd frame put together from RFC 8878: an RLE block. Stays the same whatever the
/// compressor of the day does.
pub(in crate::format) const ZSTD_FRAME: [u8; 10] = [0x28, 0xb5, 0x2f, 0xfd, 0x20, 200, 0x43, 0x06, 0x00, b'a'];
pub(in crate::format) const ZSTD_PLAIN: [u8; 200] = [b'a'; 200];

/// `N` bytes that count up from `first`.
pub(in crate::format) fn counting<const N: usize>(first: u8) -> [u8; N] {
    std::array::from_fn(|index| first.wrapping_add(index as u8))
}

pub(in crate::format) fn kek() -> Kek {
    Kek {
        id: "file:golden".into(),
        secret: Secret::from_bytes(counting(0x40)),
    }
}

pub(in crate::format) fn other_kek() -> Kek {
    Kek {
        id: "file:other".into(),
        secret: Secret::from_bytes(counting(0x41)),
    }
}

pub(in crate::format) fn secrets() -> Secrets {
    let parameters = RepositoryParameters {
        name: RepositoryName::new("golden").unwrap(),
        store_id: *b"store id golden.",
        chunk_sizes: ChunkSizes::with_average(64 << 10).unwrap(),
        level: Level::DEFAULT,
    };
    Secrets::create(parameters, REPOSITORY, KeyringSeed::from_bytes(counting(0x00)))
}

pub(in crate::format) fn keyring() -> Vec<u8> {
    seal_keyring(
        &secrets(),
        &kek(),
        1,
        Hash32::ZERO,
        WrapSeed::from_bytes(counting(0x80)),
    )
}

pub(in crate::format) fn pack_name(counter: u64) -> PackName {
    PackName {
        number: PackNumber { epoch: 1, counter },
        id: PackId([0xc0 | counter as u8; 32]),
    }
}

pub(in crate::format) fn checkpoint_name(log_number: u64, id: u8) -> CheckpointName {
    CheckpointName {
        epoch: 1,
        log_number,
        id: CheckpointId([id; 32]),
    }
}

/// Stands in for randomness.
pub(in crate::format) fn padding(bytes: &mut [u8]) {
    bytes.fill(0x5a);
}

pub(in crate::format) fn name(text: &str) -> ObjectName {
    ObjectName::new(text).unwrap()
}

pub(in crate::format) fn chunk(secrets: &Secrets, plain: &[u8]) -> ChunkRef {
    ChunkRef {
        id: secrets.id_key().unwrap().id(plain),
        len: plain.len() as u32,
    }
}

/// A pack of two chunks (one raw, one compressed) and a leaf over them.
pub(in crate::format) fn chunk_pack() -> FinishedPack {
    let secrets = secrets();
    let mut writer = PackWriter::new(&secrets, pack_name(1), PackBuffer::default(), 1 << 20);
    let (raw, zstd) = (chunk(&secrets, b"a raw chunk"), chunk(&secrets, &ZSTD_PLAIN));
    writer.push(raw.id, BlobKind::Data, Codec::Raw, raw.len, b"a raw chunk");
    writer.push(zstd.id, BlobKind::Data, Codec::Zstd, zstd.len, &ZSTD_FRAME);
    let leaf = Leaf {
        chunks: vec![raw, zstd, raw],
    }
    .encode();
    let id = secrets.leaf_id_key().id(&leaf);
    writer.push(id, BlobKind::Leaf, Codec::Raw, leaf.len() as u32, &leaf);
    writer.finish(None, padding)
}

/// The second commit pack of a log: a root born in it, a chunk moved in from [`chunk_pack`], a record of every kind.
pub(in crate::format) fn commit_pack() -> FinishedPack {
    let secrets = secrets();
    let chunks = chunk_pack();
    let mut writer = PackWriter::new(&secrets, pack_name(2), PackBuffer::default(), 1 << 20);
    let leaf = &chunks.directory.entries[2];
    let root = Root {
        name: name("large"),
        size: 222,
        leaves: vec![LeafRef {
            id: leaf.id,
            bytes: 222,
            chunks: 3,
        }],
    };
    let plain = root.encode();
    let root_id = secrets.root_id_key().id(&plain);
    writer.push(root_id, BlobKind::Root, Codec::Raw, plain.len() as u32, &plain);
    let moved = &chunks.directory.entries[1];
    let sealed = &chunks.bytes[moved.offset as usize..moved.end() as usize];
    writer.push_moved(moved, &chunks.directory.births[0], sealed);

    let mut records = vec![
        Record::Open {
            adopted: Some(Tip {
                pack: pack_name(0),
                log_number: 1,
                trailer_hash: Hash32([0x11; 32]),
            }),
            head: Hash32([0x12; 32]),
            taken_over: vec![],
        },
        Record::Introduce(vec![pack_ref(&chunks)]),
    ];
    records.extend(object_versions(&secrets, root_id).map(Record::Put));
    records.push(Record::Delete {
        name: name("gone"),
        sequence: 9,
    });
    records.push(Record::Condemn(vec![pack_name(5)]));
    let commit = CommitSection {
        log_number: 2,
        previous: Hash32([0x11; 32]),
        records,
    };
    writer.finish(Some(commit), padding)
}

/// An object with its chunks in the record, and one with a manifest.
pub(in crate::format) fn object_versions(secrets: &Secrets, root: ChunkId) -> [ObjectVersion; 2] {
    let small = ObjectVersion {
        name: name("small/ü"),
        sequence: 7,
        size: 11,
        chunks: 1,
        crc32c: 0x5a64_c662,
        created_ms: 1_767_225_600_000,
        put_id: Some(counting(0x20)),
        metadata: vec![("content-type".into(), "text/plain".into())],
        content: Content::Inline(vec![chunk(secrets, b"a raw chunk")]),
    };
    let large = ObjectVersion {
        name: name("large"),
        sequence: 8,
        crc32c: 0xd8d6_ecff,
        size: 222,
        chunks: 3,
        put_id: Some(counting(0x30)),
        metadata: vec![],
        content: Content::Root(root),
        ..small.clone()
    };
    [small, large]
}

pub(in crate::format) fn pack_ref(pack: &FinishedPack) -> PackRef {
    PackRef {
        name: pack.name,
        size: pack.bytes.len() as u64,
        trailer_hash: pack.trailer_hash,
    }
}

/// Object segment, pack segment and root, with the names they are stored under.
pub(in crate::format) fn checkpoint() -> [(CheckpointName, CheckpointKind, Vec<u8>); 3] {
    let secrets = secrets();
    let (chunks, commit) = (chunk_pack(), commit_pack());
    let range = checkpoint::KeyRange::of([0; 16], 0);
    let mut rows = object_versions(&secrets, commit.directory.entries[0].id).to_vec();
    let put_ids = rows.iter().map(put_id_entry).collect();
    // In the order of their hashed names, which these secrets make a34e1aaf… and ef22f4d7….
    rows.reverse();
    let row = |pack, log_number| PackTableRow {
        pack: pack_ref(pack),
        kind: pack.kind,
        log_number,
    };
    let packs = PackSegment {
        range,
        rows: vec![row(&chunks, 0), row(&commit, 2)],
    }
    .encode();
    let objects = ObjectSegment { range, rows }.encode();
    let seal = |id, kind, plain| {
        let name = checkpoint_name(2, id);
        (
            name,
            kind,
            checkpoint::seal_checkpoint_file(&secrets, kind, &name, plain),
        )
    };
    let objects = seal(0xd1, CheckpointKind::Objects, objects);
    let packs = seal(0xd2, CheckpointKind::Packs, packs);
    let head = next_head(&Hash32([0x12; 32]), &commit.trailer_hash);
    let root = CheckpointRoot {
        tip: Tip {
            pack: commit.name,
            log_number: 2,
            trailer_hash: commit.trailer_hash,
        },
        head,
        sequence: 9,
        heads: vec![(1, Hash32([0x12; 32])), (2, head)],
        put_ids,
        put_serial: 2,
        object_segments: vec![SegmentRef::to(range, objects.0, &secrets, &objects.2)],
        pack_segments: vec![SegmentRef::to(range, packs.0, &secrets, &packs.2)],
    };
    let root = seal(0xd0, CheckpointKind::Root, root.encode());
    [objects, packs, root]
}

fn put_id_entry(version: &ObjectVersion) -> checkpoint::PutIdEntry {
    checkpoint::PutIdEntry {
        put_id: version.put_id.expect("both have one"),
        name: version.name.clone(),
        sequence: version.sequence,
        size: version.size,
        chunks: version.chunks,
        crc32c: version.crc32c,
        created_ms: version.created_ms,
    }
}

/// Everything a reader can check of a pack: hashes, directory, block sums, every blob down to its id. The plaintexts.
pub(in crate::format) fn read_whole_pack(
    secrets: &Secrets,
    name: &PackName,
    pack: &[u8],
) -> Result<Vec<Vec<u8>>, Error> {
    let directory = verify_pack(secrets, name, pack)?;
    directory
        .entries
        .iter()
        .map(|entry| read_blob(secrets, &directory, entry, pack))
        .collect()
}

/// Opens, decompresses and identifies one blob.
pub(in crate::format) fn read_blob(
    secrets: &Secrets,
    directory: &Directory,
    entry: &Entry,
    pack: &[u8],
) -> Result<Vec<u8>, Error> {
    let opener = BlobOpener::new(secrets, &directory.births[usize::from(entry.birth)])?;
    let mut sealed = pack[entry.offset as usize..entry.end() as usize].to_vec();
    let compressed = opener.open(entry, &mut sealed)?;
    let mut plain = Vec::new();
    Decompressor::new()
        .decompress(entry.codec, compressed, entry.plain_len as usize, &mut plain)
        .map_err(|_| Error::damaged("blob", "it does not decompress"))?;
    let key = match entry.kind {
        BlobKind::Data => secrets.id_key()?,
        BlobKind::Leaf => secrets.leaf_id_key(),
        BlobKind::Root => secrets.root_id_key(),
    };
    if key.id(&plain) != entry.id {
        return Err(Error::damaged("blob", "its id is another"));
    }
    Ok(plain)
}

/// Hands `check` every copy of `bytes` with one byte changed, in one bit and in all.
pub(in crate::format) fn each_flip(bytes: &[u8], mut check: impl FnMut(usize, &[u8])) {
    let mut flipped = bytes.to_vec();
    for index in 0..bytes.len() {
        for mask in [1 << (index % 8), 0xff] {
            flipped[index] ^= mask;
            check(index, &flipped);
            flipped[index] ^= mask;
        }
    }
}

/// Opens whatever can be opened in `bytes` as every kind of object; for tests that only want no panic.
pub(in crate::format) fn read_as_everything(secrets: &Secrets, bytes: &[u8]) {
    let _ = KeyringHeader::parse(bytes);
    let _ = keyring::open_keyring(bytes, &kek());
    let _ = pack::parse_header(bytes);
    let _ = parse_trailer(bytes, bytes.len() as u64).map(|trailer| {
        let _ = trailer.split_tail(bytes);
    });
    let _ = open_pack_directory(secrets, &pack_name(1), bytes);
    let _ = checkpoint::CheckpointHeader::parse(bytes);
    let _ = checkpoint::open_checkpoint_file(secrets, CheckpointKind::Root, &checkpoint_name(2, 0xd0), bytes);
    let _ = Leaf::decode(bytes);
    let _ = Root::decode(bytes);
    let _ = Record::decode(&mut wire::Reader::new("record", bytes));
    let _ = CheckpointRoot::decode(bytes);
    let _ = ObjectSegment::decode(bytes);
    let _ = PackSegment::decode(bytes);
    let _ = marker::Owner::parse(bytes);
    let header = pack::parse_header(&chunk_pack_header()).unwrap();
    let _ = Directory::decode(bytes, &header, 1 << 20);
    let commit = PackHeader {
        kind: PackKind::Commit,
        ..header
    };
    let _ = Directory::decode(bytes, &commit, 1 << 20);
}

fn chunk_pack_header() -> Vec<u8> {
    PackWriter::new(&secrets(), pack_name(1), PackBuffer::default(), 2048)
        .finish(None, padding)
        .bytes[..pack::HEADER_LEN]
        .to_vec()
}

prop_compose! {
    pub(in crate::format) fn any_chunk()(id: [u8; 32], len in 1..=pack::BLOB_PLAIN_MAX) -> ChunkRef {
        ChunkRef { id: ChunkId(id), len }
    }
}

prop_compose! {
    pub(in crate::format) fn any_pack_name()(epoch: u64, counter: u64, id: [u8; 32]) -> PackName {
        PackName { number: PackNumber { epoch, counter }, id: PackId(id) }
    }
}

prop_compose! {
    pub(in crate::format) fn any_pack_ref()(name in any_pack_name(), size: u64, hash: [u8; 32]) -> PackRef {
        PackRef { name, size, trailer_hash: Hash32(hash) }
    }
}

prop_compose! {
    pub(in crate::format) fn any_tip()(pack in any_pack_name(), log_number: u64, hash: [u8; 32]) -> Tip {
        Tip { pack, log_number, trailer_hash: Hash32(hash) }
    }
}

pub(in crate::format) fn any_object_name() -> impl Strategy<Value = ObjectName> {
    "\\PC{1,200}".prop_map(|text| ObjectName::new(text).unwrap())
}

pub(in crate::format) fn any_object_version() -> impl Strategy<Value = ObjectVersion> {
    let content = prop_oneof![
        vec(any_chunk(), 0..=record::INLINE_CHUNKS_MAX).prop_map(Content::Inline),
        any::<[u8; 32]>().prop_map(|id| Content::Root(ChunkId(id))),
    ];
    let numbers = (any::<u64>(), 1u64.., 1u64.., any::<u32>(), any::<i64>());
    (
        any_object_name(),
        numbers,
        any::<Option<[u8; 16]>>(),
        vec((".{0,40}", ".{0,40}"), 0..5),
        content,
    )
        .prop_map(
            |(name, (sequence, a, b, crc32c, created_ms), put_id, metadata, content)| {
                let (size, chunks) = match &content {
                    Content::Inline(chunks) => (
                        chunks.iter().map(|chunk| u64::from(chunk.len)).sum(),
                        chunks.len() as u64,
                    ),
                    Content::Root(_) => (a.max(b), a.min(b)),
                };
                ObjectVersion {
                    name,
                    sequence,
                    size,
                    chunks,
                    crc32c,
                    created_ms,
                    put_id: put_id.filter(|id| *id != NO_PUT_ID),
                    metadata,
                    content,
                }
            },
        )
}

pub(in crate::format) fn any_record() -> impl Strategy<Value = Record> {
    prop_oneof![
        any_object_version().prop_map(Record::Put),
        (any_object_name(), any::<u64>()).prop_map(|(name, sequence)| Record::Delete { name, sequence }),
        vec(any_pack_ref(), 0..20).prop_map(Record::Introduce),
        vec(any_pack_name(), 0..20).prop_map(Record::Condemn),
        (option::of(any_tip()), any::<[u8; 32]>(), vec(any_pack_ref(), 0..5)).prop_map(
            |(adopted, head, taken_over)| Record::Open {
                adopted,
                head: Hash32(head),
                taken_over
            }
        ),
    ]
}

/// A sealed length for a blob of `plain` bytes kept raw.
pub(in crate::format) fn raw_len(plain: &[u8]) -> u32 {
    (plain.len() + TAG_LEN) as u32
}
