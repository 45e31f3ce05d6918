//! The rows of the catalog and their bytes, before sealing. Not a stored format: the catalog is rebuilt when its schema
//! number changes, so these may change with it. Decoding is checked all the same: whatever the bytes, it ends in a row
//! or an error.

use bytes::BufMut;

use crate::codec::ChunkId;
use crate::format::checkpoint::{PUT_IDS_MAX, PutIdEntry};
use crate::format::wire::Reader;
use crate::format::{
    Birth, BlobKind, CheckpointName, Entry, Error as FormatError, Hash32, ObjectName, ObjectVersion, PackKind,
    PackName, PackNumber, PackRef, Tip, next_head,
};

use super::error::Error;
use super::tables::Table;

/// Results of puts that are kept, counted from the newest: as many as a checkpoint carries.
pub const PUT_IDS_KEPT: u64 = PUT_IDS_MAX as u64;

/// A row that can be stored.
pub(super) trait Row: Sized {
    const TABLE: Table;

    fn write(&self, out: &mut Vec<u8>);
    fn read(reader: &mut Reader<'_>) -> Result<Self, FormatError>;

    fn to_bytes(&self) -> Vec<u8> {
        let mut out = Vec::new();
        self.write(&mut out);
        out
    }

    fn from_bytes(bytes: &[u8]) -> Result<Self, Error> {
        let mut reader = Reader::new(Self::TABLE.name(), bytes);
        let row = Self::read(&mut reader).and_then(|row| reader.end().map(|()| row));
        row.map_err(|error| Error::Row {
            table: Self::TABLE,
            problem: problem(&error),
        })
    }
}

fn problem(error: &FormatError) -> &'static str {
    match error {
        FormatError::Damaged { problem, .. } => problem,
        _ => "it has a value without a meaning",
    }
}

/// Reads bytes as a row of a table and writes what was read. A fuzzer does not get past the seal.
#[cfg(any(test, feature = "testkit"))]
pub(crate) fn rewritten(table: Table, bytes: &[u8]) -> Result<Vec<u8>, Error> {
    fn rewritten<R: Row>(bytes: &[u8]) -> Result<Vec<u8>, Error> {
        R::from_bytes(bytes).map(|row| row.to_bytes())
    }
    match table {
        Table::Chunks => rewritten::<ChunkRow>(bytes),
        Table::Entries => rewritten::<EntriesRow>(bytes),
        Table::Packs => rewritten::<PackRow>(bytes),
        Table::Objects => rewritten::<ObjectVersion>(bytes),
        Table::PutIds => rewritten::<PutIdRow>(bytes),
        Table::PutOrder => rewritten::<PutOrderRow>(bytes),
        Table::Heads => rewritten::<HeadRow>(bytes),
        Table::Releases => rewritten::<ReleaseRow>(bytes),
        Table::Tips => rewritten::<TipRow>(bytes),
        // Anything is one; the others have no rows of repositories.
        Table::Dirty | Table::Meta | Table::Numbers => Ok(bytes.to_vec()),
    }
}

/// When a part of the tables changed last.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct DirtyRow {
    /// The entry of the log that it changed with; none in what was written before these rows said so.
    log_number: Option<u64>,
}

impl DirtyRow {
    /// Whether it has changed since this entry, as far as is known.
    pub(super) fn is_after(self, log_number: u64) -> bool {
        self.log_number.is_none_or(|changed| changed > log_number)
    }

    /// Whether it changed with this entry.
    pub(super) fn is_of(self, log_number: u64) -> bool {
        self.log_number == Some(log_number)
    }

    /// Whether all that changed is in a checkpoint of this entry, of which it was a part.
    pub(super) fn is_covered_by(self, log_number: u64) -> bool {
        self.log_number.is_none_or(|changed| changed <= log_number)
    }

    pub(super) fn from_bytes(bytes: &[u8]) -> Self {
        Self {
            log_number: bytes.try_into().ok().map(u64::from_be_bytes),
        }
    }

    /// The bytes of one that changed with this entry.
    pub(super) fn bytes_of(log_number: u64) -> Vec<u8> {
        log_number.to_be_bytes().to_vec()
    }
}

/// Where a chunk, leaf or root is, and how often it is referenced.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ChunkRow {
    /// Its id.
    pub id: ChunkId,
    /// What it is.
    pub kind: BlobKind,
    /// References to it.
    pub count: u64,
    /// The pack of its current place.
    pub pack: PackNumber,
    /// Its index among the entries of that pack.
    pub index: u32,
    /// Bytes as stored, with the tag.
    pub stored_len: u32,
    /// Bytes as written.
    pub plain_len: u32,
    /// Found damaged: not offered for dedupe any more.
    pub quarantined: bool,
}

impl ChunkRow {
    /// The index of a blob that is in no pack that can be read. Its row hangs on some unreadable pack, keeps count of
    /// who refers to it, and waits for the same bytes to be put again. What it leads to, if anything, is not counted.
    pub const LOST: u32 = u32::MAX;

    /// Whether it is in no pack that can be read.
    pub fn is_lost(&self) -> bool {
        self.index == Self::LOST
    }
}

impl Row for ChunkRow {
    const TABLE: Table = Table::Chunks;

    fn write(&self, out: &mut Vec<u8>) {
        out.put_slice(&self.id.0);
        out.put_u8(self.kind as u8);
        out.put_u64_le(self.count);
        write_number(self.pack, out);
        out.put_u32_le(self.index);
        out.put_u32_le(self.stored_len);
        out.put_u32_le(self.plain_len);
        out.put_u8(self.quarantined.into());
    }

    fn read(reader: &mut Reader<'_>) -> Result<Self, FormatError> {
        Ok(Self {
            id: ChunkId(reader.array()?),
            kind: BlobKind::try_from(reader.u8()?)?,
            count: reader.u64()?,
            pack: read_number(reader)?,
            index: reader.u32()?,
            stored_len: reader.u32()?,
            plain_len: reader.u32()?,
            quarantined: read_flag(reader)?,
        })
    }
}

/// A pack and how much of it is in use.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PackRow {
    /// Its name.
    pub name: PackName,
    /// What it is.
    pub kind: PackKind,
    /// Its length in bytes.
    pub size: u64,
    /// The hash of its trailer.
    pub trailer_hash: Hash32,
    /// Its log number if it is a commit pack, else 0.
    pub log_number: u64,
    /// Blobs in it.
    pub entries: u32,
    /// Ids whose current place is in it.
    pub current: u32,
    /// Those of them that are referenced.
    pub live: u32,
    /// The stored bytes of those.
    pub live_bytes: u64,
    /// The stored bytes of all its blobs.
    pub blob_bytes: u64,
    /// Blobs currently in it that are quarantined, or [`Self::UNREADABLE`].
    pub damaged: u32,
    /// Leaves and roots currently in it that are not referenced.
    pub idle_manifests: u32,
    /// Log number at which it was condemned; 0 if it was not.
    pub condemned_at: u64,
}

impl PackRow {
    /// A pack of which nothing is known yet but that it is there.
    pub fn new(pack: &PackRef, kind: PackKind, log_number: u64) -> Self {
        Self {
            name: pack.name,
            kind,
            size: pack.size,
            trailer_hash: pack.trailer_hash,
            log_number,
            entries: 0,
            current: 0,
            live: 0,
            live_bytes: 0,
            blob_bytes: 0,
            damaged: 0,
            idle_manifests: 0,
            condemned_at: 0,
        }
    }

    /// What [`Self::damaged`] is for a pack whose contents could not be read when the catalog was made.
    pub const UNREADABLE: u32 = u32::MAX;

    /// Whether its contents are not known.
    pub fn is_unreadable(&self) -> bool {
        self.damaged == Self::UNREADABLE
    }

    /// What [`Self::condemned_at`] is for a pack whose directory was read by a rebuild that did not come to its end: the
    /// entries are its own, and nothing says yet whether it is on the log.
    pub const READ: u64 = u64::MAX;

    /// Whether no more is known of it than its directory.
    pub fn is_only_read(&self) -> bool {
        self.condemned_at == Self::READ
    }

    /// Whether each of its blobs has its place here, and none is known to be damaged.
    pub fn is_whole(&self) -> bool {
        self.current == self.entries && self.damaged == 0
    }

    /// Whether nothing in it is referenced, and nothing in it is needed to release something else.
    pub fn is_dead(&self) -> bool {
        self.live == 0 && self.idle_manifests == 0
    }
}

impl Row for PackRow {
    const TABLE: Table = Table::Packs;

    fn write(&self, out: &mut Vec<u8>) {
        self.name.encode(out);
        out.put_u8(self.kind as u8);
        out.put_u64_le(self.size);
        out.put_slice(&self.trailer_hash.0);
        out.put_u64_le(self.log_number);
        out.put_u32_le(self.entries);
        out.put_u32_le(self.current);
        out.put_u32_le(self.live);
        out.put_u64_le(self.live_bytes);
        out.put_u64_le(self.blob_bytes);
        out.put_u32_le(self.damaged);
        out.put_u32_le(self.idle_manifests);
        out.put_u64_le(self.condemned_at);
    }

    fn read(reader: &mut Reader<'_>) -> Result<Self, FormatError> {
        Ok(Self {
            name: PackName::decode(reader)?,
            kind: PackKind::try_from(reader.u8()?)?,
            size: reader.u64()?,
            trailer_hash: Hash32(reader.array()?),
            log_number: reader.u64()?,
            entries: reader.u32()?,
            current: reader.u32()?,
            live: reader.u32()?,
            live_bytes: reader.u64()?,
            blob_bytes: reader.u64()?,
            damaged: reader.u32()?,
            idle_manifests: reader.u32()?,
            condemned_at: reader.u64()?,
        })
    }
}

/// What is in a pack: its directory without records.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct EntriesRow {
    /// The packs its blobs were born in; row 0 is the pack itself.
    pub births: Vec<Birth>,
    /// Its blobs.
    pub entries: Vec<Entry>,
}

impl Row for EntriesRow {
    const TABLE: Table = Table::Entries;

    fn write(&self, out: &mut Vec<u8>) {
        out.reserve(8 + self.births.len() * Birth::LEN + self.entries.len() * Entry::LEN);
        write_count(self.births.len(), out);
        self.births.iter().for_each(|birth| birth.encode(out));
        write_count(self.entries.len(), out);
        self.entries.iter().for_each(|entry| entry.encode(out));
    }

    fn read(reader: &mut Reader<'_>) -> Result<Self, FormatError> {
        Ok(Self {
            births: read_rows(reader, Birth::LEN, Birth::decode)?,
            entries: read_rows(reader, Entry::LEN, Entry::decode)?,
        })
    }
}

/// An object's row is its newest version, as a put record has it.
impl Row for ObjectVersion {
    const TABLE: Table = Table::Objects;

    fn write(&self, out: &mut Vec<u8>) {
        self.encode(out);
    }

    fn read(reader: &mut Reader<'_>) -> Result<Self, FormatError> {
        Self::decode(reader)
    }
}

/// The result of a put, for whoever sends it again.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PutIdRow {
    /// The caller's id of the put.
    pub put_id: [u8; 16],
    /// Counts the puts of the repository that carry an id.
    pub serial: u64,
    /// What was answered.
    pub result: PutResult,
}

impl PutIdRow {
    /// The row of the put with this id.
    pub fn of(put_id: [u8; 16], object: &ObjectVersion, serial: u64) -> Self {
        Self {
            put_id,
            serial,
            result: PutResult::from(object),
        }
    }

    /// The row of a put as a checkpoint lists it.
    pub fn from_entry(entry: &PutIdEntry, serial: u64) -> Self {
        Self {
            put_id: entry.put_id,
            serial,
            result: PutResult {
                name: entry.name.clone(),
                sequence: entry.sequence,
                size: entry.size,
                chunks: entry.chunks,
                crc32c: entry.crc32c,
                created_ms: entry.created_ms,
            },
        }
    }
}

/// What a put gave, without its content.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PutResult {
    /// The object's name.
    pub name: ObjectName,
    /// Its version.
    pub sequence: u64,
    /// Its length in bytes.
    pub size: u64,
    /// Its chunks.
    pub chunks: u64,
    /// The checksum of its bytes.
    pub crc32c: u32,
    /// When it was created, in milliseconds since 1970.
    pub created_ms: i64,
}

impl From<&ObjectVersion> for PutResult {
    fn from(object: &ObjectVersion) -> Self {
        Self {
            name: object.name.clone(),
            sequence: object.sequence,
            size: object.size,
            chunks: object.chunks,
            crc32c: object.crc32c,
            created_ms: object.created_ms,
        }
    }
}

impl From<PutIdRow> for PutIdEntry {
    fn from(row: PutIdRow) -> Self {
        let PutResult {
            name,
            sequence,
            size,
            chunks,
            crc32c,
            created_ms,
        } = row.result;
        Self {
            put_id: row.put_id,
            name,
            sequence,
            size,
            chunks,
            crc32c,
            created_ms,
        }
    }
}

impl Row for PutIdRow {
    const TABLE: Table = Table::PutIds;

    fn write(&self, out: &mut Vec<u8>) {
        out.put_slice(&self.put_id);
        out.put_u64_le(self.serial);
        write_object_name(&self.result.name, out);
        out.put_u64_le(self.result.sequence);
        out.put_u64_le(self.result.size);
        out.put_u64_le(self.result.chunks);
        out.put_u32_le(self.result.crc32c);
        out.put_i64_le(self.result.created_ms);
    }

    fn read(reader: &mut Reader<'_>) -> Result<Self, FormatError> {
        Ok(Self {
            put_id: reader.array()?,
            serial: reader.u64()?,
            result: PutResult {
                name: read_object_name(reader)?,
                sequence: reader.u64()?,
                size: reader.u64()?,
                chunks: reader.u64()?,
                crc32c: reader.u32()?,
                created_ms: reader.i64()?,
            },
        })
    }
}

/// The put ids of serials that follow each other. An id that was set again is in two of them; its row says which counts.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct PutOrderRow {
    /// At most [`Self::SERIALS`]; zeroes where there is none.
    put_ids: Vec<[u8; 16]>,
}

impl PutOrderRow {
    /// Serials in one row: a row each would be a fifth of all that a commit of many puts writes to the tables, and long rows
    /// would be written anew by many commits of one put.
    const SERIALS: u64 = 16;

    /// Which row a serial is in.
    pub(super) fn of(serial: u64) -> u64 {
        serial / Self::SERIALS
    }

    /// Whether no serial of the same row comes after this one.
    pub(super) fn ends_with(serial: u64) -> bool {
        serial % Self::SERIALS == Self::SERIALS - 1
    }

    fn place(serial: u64) -> usize {
        (serial % Self::SERIALS) as usize
    }

    pub(super) fn get(&self, serial: u64) -> Option<[u8; 16]> {
        self.put_ids.get(Self::place(serial)).copied()
    }

    pub(super) fn set(&mut self, serial: u64, put_id: [u8; 16]) {
        let place = Self::place(serial);
        if self.put_ids.len() <= place {
            self.put_ids.resize(place + 1, [0; 16]);
        }
        self.put_ids[place] = put_id;
    }
}

impl Row for PutOrderRow {
    const TABLE: Table = Table::PutOrder;

    fn write(&self, out: &mut Vec<u8>) {
        out.put_u8(self.put_ids.len() as u8);
        self.put_ids.iter().for_each(|put_id| out.put_slice(put_id));
    }

    fn read(reader: &mut Reader<'_>) -> Result<Self, FormatError> {
        let serials = reader.u8()?;
        if u64::from(serials) > Self::SERIALS {
            return Err(reader.damaged("it has more put ids than a row can have"));
        }
        Ok(Self {
            put_ids: (0..serials).map(|_| reader.array()).collect::<Result<_, _>>()?,
        })
    }
}

/// The head of the log at one log number.
pub(super) struct HeadRow {
    pub(super) log_number: u64,
    pub(super) head: Hash32,
}

impl Row for HeadRow {
    const TABLE: Table = Table::Heads;

    fn write(&self, out: &mut Vec<u8>) {
        out.put_u64_le(self.log_number);
        out.put_slice(&self.head.0);
    }

    fn read(reader: &mut Reader<'_>) -> Result<Self, FormatError> {
        Ok(Self {
            log_number: reader.u64()?,
            head: Hash32(reader.array()?),
        })
    }
}

/// A leaf or root that is not referenced any more, and how far the release of its children got.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ReleaseRow {
    /// Its id.
    pub id: ChunkId,
    /// What it is.
    pub kind: BlobKind,
    /// Children released so far.
    pub cursor: u64,
}

impl ReleaseRow {
    /// The row of a manifest none of whose children is released yet.
    pub fn of(chunk: &ChunkRow) -> Self {
        Self {
            id: chunk.id,
            kind: chunk.kind,
            cursor: 0,
        }
    }
}

impl Row for ReleaseRow {
    const TABLE: Table = Table::Releases;

    fn write(&self, out: &mut Vec<u8>) {
        out.put_slice(&self.id.0);
        out.put_u8(self.kind as u8);
        out.put_u64_le(self.cursor);
    }

    fn read(reader: &mut Reader<'_>) -> Result<Self, FormatError> {
        Ok(Self {
            id: ChunkId(reader.array()?),
            kind: BlobKind::try_from(reader.u8()?)?,
            cursor: reader.u64()?,
        })
    }
}

/// Where the catalog stands on the log, with the totals of the repository there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TipRow {
    /// The last commit pack applied; none before the first.
    pub tip: Option<Tip>,
    /// The head of the log there.
    pub head: Hash32,
    /// The last sequence given to a record.
    pub sequence: u64,
    /// The last serial given to a put id.
    pub put_serial: u64,
    /// Totals.
    pub stats: Stats,
    /// Verified checkpoints with the log number of their tips, newest first.
    pub checkpoints: [Option<(CheckpointName, u64)>; 2],
    /// Bytes of commit packs since the newest of them, without the blobs in these.
    pub log_bytes_since_checkpoint: u64,
    /// The last commit that a process saw becoming durable. Later ones were only read, perhaps from a page cache.
    pub durable_log_number: u64,
}

impl Default for TipRow {
    fn default() -> Self {
        Self {
            tip: None,
            head: Hash32::ZERO,
            sequence: 0,
            put_serial: 0,
            stats: Stats::default(),
            checkpoints: [None, None],
            log_bytes_since_checkpoint: 0,
            durable_log_number: 0,
        }
    }
}

impl TipRow {
    /// The number of the last commit; 0 before the first.
    pub fn log_number(&self) -> u64 {
        self.tip.as_ref().map_or(0, |tip| tip.log_number)
    }

    /// The trailer hash of the last commit pack; zero before the first.
    pub fn trailer_hash(&self) -> Hash32 {
        self.tip.as_ref().map_or(Hash32::ZERO, |tip| tip.trailer_hash)
    }

    /// Follows the log by one commit, which made it longer by this many bytes: the new tip, its head, and the bytes to the next
    /// checkpoint.
    pub fn advance(&mut self, tip: Tip, log_bytes: u64) {
        self.head = next_head(&self.head, &tip.trailer_hash);
        self.tip = Some(tip);
        self.log_bytes_since_checkpoint += log_bytes;
    }

    /// Commit packs from this number on are kept: the tip of the second-newest verified checkpoint.
    pub fn kept_from(&self) -> u64 {
        self.checkpoints[1].as_ref().map_or(0, |(_, log_number)| *log_number)
    }
}

/// Totals of a repository.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Stats {
    /// Objects.
    pub objects: u64,
    /// Data chunks that are referenced.
    pub chunks: u64,
    /// Bytes of objects as written.
    pub logical_bytes: u64,
    /// Bytes of referenced data chunks, each counted once, as written.
    pub unique_bytes: u64,
    /// Stored bytes of everything referenced.
    pub live_bytes: u64,
    /// Bytes of packs that are not condemned.
    pub pack_bytes: u64,
    /// Stored bytes of all blobs in them, referenced or not.
    pub blob_bytes: u64,
    /// Packs that are not condemned.
    pub packs: u64,
}

impl Row for TipRow {
    const TABLE: Table = Table::Tips;

    fn write(&self, out: &mut Vec<u8>) {
        write_option(self.tip.as_ref(), out, |tip, out| {
            tip.pack.encode(out);
            out.put_u64_le(tip.log_number);
            out.put_slice(&tip.trailer_hash.0);
        });
        out.put_slice(&self.head.0);
        out.put_u64_le(self.sequence);
        out.put_u64_le(self.put_serial);
        write_stats(&self.stats, out);
        for checkpoint in &self.checkpoints {
            write_option(checkpoint.as_ref(), out, |(name, log_number), out| {
                name.encode(out);
                out.put_u64_le(*log_number);
            });
        }
        out.put_u64_le(self.log_bytes_since_checkpoint);
        out.put_u64_le(self.durable_log_number);
    }

    fn read(reader: &mut Reader<'_>) -> Result<Self, FormatError> {
        Ok(Self {
            tip: read_option(reader, |reader| {
                Ok(Tip {
                    pack: PackName::decode(reader)?,
                    log_number: reader.u64()?,
                    trailer_hash: Hash32(reader.array()?),
                })
            })?,
            head: Hash32(reader.array()?),
            sequence: reader.u64()?,
            put_serial: reader.u64()?,
            stats: read_stats(reader)?,
            checkpoints: [read_checkpoint(reader)?, read_checkpoint(reader)?],
            log_bytes_since_checkpoint: reader.u64()?,
            durable_log_number: reader.u64()?,
        })
    }
}

fn read_checkpoint(reader: &mut Reader<'_>) -> Result<Option<(CheckpointName, u64)>, FormatError> {
    read_option(reader, |reader| Ok((CheckpointName::decode(reader)?, reader.u64()?)))
}

fn write_stats(stats: &Stats, out: &mut Vec<u8>) {
    let Stats {
        objects,
        chunks,
        logical_bytes,
        unique_bytes,
        live_bytes,
        pack_bytes,
        blob_bytes,
        packs,
    } = *stats;
    for total in [
        objects,
        chunks,
        logical_bytes,
        unique_bytes,
        live_bytes,
        pack_bytes,
        blob_bytes,
        packs,
    ] {
        out.put_u64_le(total);
    }
}

fn read_stats(reader: &mut Reader<'_>) -> Result<Stats, FormatError> {
    Ok(Stats {
        objects: reader.u64()?,
        chunks: reader.u64()?,
        logical_bytes: reader.u64()?,
        unique_bytes: reader.u64()?,
        live_bytes: reader.u64()?,
        pack_bytes: reader.u64()?,
        blob_bytes: reader.u64()?,
        packs: reader.u64()?,
    })
}

fn write_number(number: PackNumber, out: &mut Vec<u8>) {
    out.put_slice(&number.to_bytes());
}

fn read_number(reader: &mut Reader<'_>) -> Result<PackNumber, FormatError> {
    Ok(PackNumber::from_bytes(reader.array()?))
}

fn write_object_name(name: &ObjectName, out: &mut Vec<u8>) {
    write_count(name.as_str().len(), out);
    out.put_slice(name.as_str().as_bytes());
}

fn read_object_name(reader: &mut Reader<'_>) -> Result<ObjectName, FormatError> {
    let len = reader.count(1, ObjectName::LEN_MAX)?;
    let name = reader.text_of(len)?;
    ObjectName::new(name).map_err(|_| reader.damaged("a name that no object can have"))
}

fn read_flag(reader: &mut Reader<'_>) -> Result<bool, FormatError> {
    match reader.u8()? {
        0 => Ok(false),
        1 => Ok(true),
        _ => Err(reader.damaged("a flag is neither set nor clear")),
    }
}

fn write_option<T>(value: Option<T>, out: &mut Vec<u8>, write: impl FnOnce(T, &mut Vec<u8>)) {
    out.put_u8(value.is_some().into());
    if let Some(value) = value {
        write(value, out);
    }
}

fn read_option<'a, T>(
    reader: &mut Reader<'a>,
    read: impl FnOnce(&mut Reader<'a>) -> Result<T, FormatError>,
) -> Result<Option<T>, FormatError> {
    if read_flag(reader)? {
        read(reader).map(Some)
    } else {
        Ok(None)
    }
}

fn write_count(count: usize, out: &mut Vec<u8>) {
    out.put_u32_le(u32::try_from(count).expect("a row has fewer than four billion parts"));
}

/// A count and as many parts; `len_min` bytes each at least, which bounds what is allocated by what is there.
fn read_rows<'a, T>(
    reader: &mut Reader<'a>,
    len_min: usize,
    mut read: impl FnMut(&mut Reader<'a>) -> Result<T, FormatError>,
) -> Result<Vec<T>, FormatError> {
    let count = reader.count(len_min, usize::MAX)?;
    let mut rows = Vec::with_capacity(count);
    for _ in 0..count {
        rows.push(read(reader)?);
    }
    Ok(rows)
}
