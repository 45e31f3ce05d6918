//! Rows read back as they were written, and nothing else reads as a row by accident or ends in a panic.

use proptest::prelude::*;

use super::super::rows::{HeadRow, PutOrderRow, Row};
use super::super::*;
use crate::codec::{ChunkId, Codec, TAG_LEN};
use crate::format::record::NO_PUT_ID;
use crate::format::{
    Birth, BlobKind, CheckpointId, CheckpointName, ChunkRef, Content, Entry, FORMAT, Hash32, ObjectName, ObjectVersion,
    PackId, PackKind, PackName, PackNumber, SUITE, Tip,
};

fn some_id() -> impl Strategy<Value = ChunkId> {
    any::<[u8; 32]>().prop_map(ChunkId)
}

fn some_kind() -> impl Strategy<Value = BlobKind> {
    prop_oneof![Just(BlobKind::Data), Just(BlobKind::Leaf), Just(BlobKind::Root)]
}

fn some_number() -> impl Strategy<Value = PackNumber> {
    any::<(u64, u64)>().prop_map(|(epoch, counter)| PackNumber { epoch, counter })
}

fn some_pack_name() -> impl Strategy<Value = PackName> {
    (some_number(), any::<[u8; 32]>()).prop_map(|(number, id)| PackName { number, id: PackId(id) })
}

fn some_name() -> impl Strategy<Value = ObjectName> {
    "\\PC{1,40}".prop_map(|name| ObjectName::new(name).unwrap())
}

prop_compose! {
    pub(super) fn some_chunk()(
        id in some_id(),
        kind in some_kind(),
        pack in some_number(),
        (count, index, stored_len, plain_len, quarantined) in any::<(u64, u32, u32, u32, bool)>(),
    ) -> ChunkRow {
        ChunkRow { id, kind, count, pack, index, stored_len, plain_len, quarantined }
    }
}

prop_compose! {
    pub(super) fn some_pack()(
        name in some_pack_name(),
        commit: bool,
        trailer_hash: [u8; 32],
        (size, log_number, live_bytes, blob_bytes, condemned_at) in any::<(u64, u64, u64, u64, u64)>(),
        (entries, current, live, damaged, idle_manifests) in any::<(u32, u32, u32, u32, u32)>(),
    ) -> PackRow {
        PackRow {
            name,
            kind: if commit { PackKind::Commit } else { PackKind::Chunk },
            size,
            trailer_hash: Hash32(trailer_hash),
            log_number,
            entries,
            current,
            live,
            live_bytes,
            blob_bytes,
            damaged,
            idle_manifests,
            condemned_at,
        }
    }
}

prop_compose! {
    fn some_birth()(
        (pack, data_commitment, directory_commitment) in any::<([u8; 32], [u8; 32], [u8; 32])>(),
        (data_epoch, directory_epoch) in any::<(u64, u64)>(),
    ) -> Birth {
        Birth { pack: PackId(pack), format: FORMAT, suite: SUITE, data_epoch, directory_epoch, data_commitment, directory_commitment }
    }
}

prop_compose! {
    fn some_entry()(
        id in some_id(),
        kind in some_kind(),
        (plain_len, saved, raw) in (2..1u32 << 20, 1..1u32 << 20, any::<bool>()),
        (offset, birth, ordinal) in (any::<u32>(), any::<u16>(), 0..65_535u32),
    ) -> Entry {
        let (codec, compressed_len) =
            if raw { (Codec::Raw, plain_len) } else { (Codec::Zstd, plain_len - saved % plain_len) };
        let stored_len = compressed_len + TAG_LEN as u32;
        Entry { id, kind, offset, stored_len, plain_len, codec, birth, ordinal }
    }
}

prop_compose! {
    pub(super) fn some_entries()(
        births in prop::collection::vec(some_birth(), 0..3),
        entries in prop::collection::vec(some_entry(), 0..20),
    ) -> EntriesRow {
        EntriesRow { births, entries }
    }
}

fn some_content() -> impl Strategy<Value = (u64, u64, Content)> {
    let chunk = (some_id(), 1..1u32 << 20).prop_map(|(id, len)| ChunkRef { id, len });
    let inline = prop::collection::vec(chunk, 0..8).prop_map(|chunks| {
        let size = chunks.iter().map(|chunk| u64::from(chunk.len)).sum();
        (size, chunks.len() as u64, Content::Inline(chunks))
    });
    let root = (some_id(), 9..1u64 << 20, any::<u32>())
        .prop_map(|(id, chunks, more)| (chunks + u64::from(more), chunks, Content::Root(id)));
    prop_oneof![inline, root]
}

prop_compose! {
    pub(super) fn some_object()(
        name in some_name(),
        (sequence, crc32c, created_ms, put_id) in any::<(u64, u32, i64, Option<[u8; 16]>)>(),
        metadata in prop::collection::vec(("[a-z]{1,8}", "\\PC{0,20}"), 0..4),
        (size, chunks, content) in some_content(),
    ) -> ObjectVersion {
        ObjectVersion { name, sequence, size, chunks, crc32c, created_ms, put_id: put_id.filter(|id| *id != NO_PUT_ID), metadata, content }
    }
}

prop_compose! {
    fn some_put_id()(put_id: [u8; 16], serial: u64, object in some_object()) -> PutIdRow {
        PutIdRow { put_id, serial, result: PutResult::from(&object) }
    }
}

prop_compose! {
    fn some_release()(id in some_id(), kind in some_kind(), cursor: u64) -> ReleaseRow {
        ReleaseRow { id, kind, cursor }
    }
}

fn some_checkpoint() -> impl Strategy<Value = Option<(CheckpointName, u64)>> {
    let checkpoint = any::<(u64, u64, [u8; 32], u64)>().prop_map(|(epoch, log_number, id, tip)| {
        (
            CheckpointName {
                epoch,
                log_number,
                id: CheckpointId(id),
            },
            tip,
        )
    });
    prop::option::of(checkpoint)
}

prop_compose! {
    pub(super) fn some_tip()(
        tip in prop::option::of((some_pack_name(), any::<(u64, [u8; 32])>())),
        head: [u8; 32],
        totals: [u64; 8],
        (sequence, put_serial, log_bytes_since_checkpoint, durable_log_number) in any::<(u64, u64, u64, u64)>(),
        checkpoints in [some_checkpoint(), some_checkpoint()],
    ) -> TipRow {
        let [objects, chunks, logical_bytes, unique_bytes, live_bytes, pack_bytes, blob_bytes, packs] = totals;
        TipRow {
            tip: tip.map(|(pack, (log_number, hash))| Tip { pack, log_number, trailer_hash: Hash32(hash) }),
            head: Hash32(head),
            sequence,
            put_serial,
            stats: Stats { objects, chunks, logical_bytes, unique_bytes, live_bytes, pack_bytes, blob_bytes, packs },
            checkpoints,
            log_bytes_since_checkpoint,
            durable_log_number,
        }
    }
}

/// Writes, reads back, and reads every shorter and one longer piece, which are errors.
fn reads_back<R: Row + PartialEq + std::fmt::Debug>(row: &R) {
    let bytes = row.to_bytes();
    assert_eq!(R::from_bytes(&bytes).unwrap(), *row);
    for len in 0..bytes.len() {
        assert!(R::from_bytes(&bytes[..len]).is_err(), "{len} of {} bytes", bytes.len());
    }
    let longer = [&bytes[..], &[0]].concat();
    assert!(matches!(R::from_bytes(&longer), Err(Error::Row { table, .. }) if table == R::TABLE));
}

/// Reads the bytes as every kind of row.
fn read_as_everything(bytes: &[u8]) {
    let _ = ChunkRow::from_bytes(bytes);
    let _ = PackRow::from_bytes(bytes);
    let _ = EntriesRow::from_bytes(bytes);
    let _ = ObjectVersion::from_bytes(bytes);
    let _ = PutIdRow::from_bytes(bytes);
    let _ = PutOrderRow::from_bytes(bytes);
    let _ = HeadRow::from_bytes(bytes);
    let _ = ReleaseRow::from_bytes(bytes);
    let _ = TipRow::from_bytes(bytes);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn chunks_read_back(row in some_chunk()) { reads_back(&row) }

    #[test]
    fn packs_read_back(row in some_pack()) { reads_back(&row) }

    #[test]
    fn entries_read_back(row in some_entries()) { reads_back(&row) }

    #[test]
    fn objects_read_back(row in some_object()) { reads_back(&row) }

    #[test]
    fn put_ids_read_back(row in some_put_id()) { reads_back(&row) }

    #[test]
    fn orders_of_puts_read_back(serials in proptest::collection::vec((0..16u64, any::<[u8; 16]>()), 0..20)) {
        let mut row = PutOrderRow::default();
        for (serial, put_id) in serials {
            row.set(serial, put_id);
            assert_eq!(row.get(serial), Some(put_id));
        }
        reads_back(&row);
    }

    #[test]
    fn releases_read_back(row in some_release()) { reads_back(&row) }

    #[test]
    fn tips_read_back(row in some_tip()) { reads_back(&row) }

    #[test]
    fn any_bytes_are_a_row_or_an_error(bytes in prop::collection::vec(any::<u8>(), 0..400)) {
        read_as_everything(&bytes);
    }

    #[test]
    fn changed_rows_are_rows_or_errors(
        tip in some_tip(),
        entries in some_entries(),
        object in some_object(),
        changes in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..4),
    ) {
        for mut bytes in [tip.to_bytes(), entries.to_bytes(), object.to_bytes()] {
            for (at, value) in &changes {
                let at = at.index(bytes.len());
                bytes[at] = *value;
            }
            read_as_everything(&bytes);
        }
    }
}

#[test]
fn a_count_beyond_the_bytes_allocates_nothing() {
    let bytes = [&u32::MAX.to_le_bytes()[..], &[0; 64]].concat();
    assert!(matches!(
        EntriesRow::from_bytes(&bytes),
        Err(Error::Row {
            table: Table::Entries,
            ..
        })
    ));
}
