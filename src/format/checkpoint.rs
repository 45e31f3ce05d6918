//! Checkpoints: a root over sealed segments, each a file of its own. Owns the bytes of all three kinds of file and their
//! sealing; which segments are written anew, and when a checkpoint counts, is the engine's to know.
//!
//! ```text
//! header · message 0 · message 1 · … · last message      each 64 KiB of plaintext and a tag; the last may be shorter
//! ```
//!
//! The plaintext is padded with zeros to a Padmé size, so that a file's length does not count rows.

use bytes::BufMut;
use subtle::ConstantTimeEq;

use super::keyring::{Secrets, Section};
use super::names::{CheckpointId, CheckpointName, Hash32, ObjectName};
use super::pack::PackKind;
use super::record::{ObjectVersion, PackRef, Tip, put_rows, put_text, read_name, read_rows};
use super::wire::Reader;
use super::{Error, FORMAT, SUITE, padme};
use crate::codec::{Nonce, RepositoryId, SealingKey, TAG_LEN};

/// Length of a checkpoint file's header.
pub const CHECKPOINT_HEADER_LEN: usize = 120;
/// Plaintext of every message but the last.
pub const MESSAGE_LEN: usize = 64 * 1024;
/// Longest plaintext of one file: 4096 messages, of the 65 536 one key may seal. A root with all its put ids at their
/// longest has less than 72 MiB without segments. A Padmé size.
pub const CHECKPOINT_PLAIN_MAX: usize = 256 << 20;
/// Heads a root keeps.
pub const HEADS_MAX: usize = 1024;
/// Put ids a root keeps.
pub const PUT_IDS_MAX: usize = 65_536;

const MAGIC: &[u8; 4] = b"CRNC";
const WHAT: &str = "checkpoint";
const SEALED_MESSAGE_LEN: usize = MESSAGE_LEN + TAG_LEN;
const AAD_LEN: usize = CHECKPOINT_HEADER_LEN + 4 + 1;
/// The shortest object version: a name of one byte, no metadata, no chunks.
const OBJECT_ROW_LEN_MIN: usize = 2 + 1 + 8 + 8 + 8 + 4 + 8 + 16 + 2 + 1 + 4;

mod label {
    pub(super) const KEY: &str = "checkpoint";
    pub(super) const COMMIT: &str = "checkpoint commit";
}

/// What a checkpoint file holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum CheckpointKind {
    /// A [`CheckpointRoot`].
    Root = 1,
    /// An [`ObjectSegment`].
    Objects = 2,
    /// A [`PackSegment`].
    Packs = 3,
}

impl TryFrom<u8> for CheckpointKind {
    type Error = Error;

    fn try_from(value: u8) -> Result<Self, Error> {
        match value {
            1 => Ok(Self::Root),
            2 => Ok(Self::Objects),
            3 => Ok(Self::Packs),
            _ => Err(Error::UnknownValue {
                what: WHAT,
                field: "kind",
                value: value.into(),
            }),
        }
    }
}

/// The clear beginning of a checkpoint file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CheckpointHeader {
    /// What the file holds. Unauthenticated until the file is opened.
    pub kind: CheckpointKind,
    /// The repository it belongs to.
    pub repository: RepositoryId,
    /// Its name.
    pub name: CheckpointName,
    /// Epoch of the directory secret that opens it.
    pub directory_epoch: u64,
    commitment: [u8; 32],
}

impl CheckpointHeader {
    /// Reads the first [`CHECKPOINT_HEADER_LEN`] of `bytes`: which of the files of a listing are roots.
    pub fn parse(bytes: &[u8]) -> Result<Self, Error> {
        let mut reader = Reader::new("checkpoint header", bytes);
        reader.magic(MAGIC)?;
        reader.format()?;
        reader.suite()?;
        let repository = RepositoryId(reader.array()?);
        let id = CheckpointId(reader.array()?);
        let name = CheckpointName {
            epoch: reader.u64()?,
            log_number: reader.u64()?,
            id,
        };
        let directory_epoch = reader.u64()?;
        let commitment = reader.array()?;
        let kind = CheckpointKind::try_from(reader.u8()?)?;
        reader.zeros(7)?;
        Ok(Self {
            kind,
            repository,
            name,
            directory_epoch,
            commitment,
        })
    }

    pub(crate) fn encode(&self) -> [u8; CHECKPOINT_HEADER_LEN] {
        let mut bytes = [0; CHECKPOINT_HEADER_LEN];
        let mut out = bytes.as_mut_slice();
        out.put_slice(MAGIC);
        out.put_u16_le(FORMAT);
        out.put_u16_le(SUITE);
        out.put_slice(&self.repository.0);
        out.put_slice(&self.name.id.0);
        out.put_u64_le(self.name.epoch);
        out.put_u64_le(self.name.log_number);
        out.put_u64_le(self.directory_epoch);
        out.put_slice(&self.commitment);
        out.put_u8(self.kind as u8);
        bytes
    }

    fn key(&self, secrets: &Secrets, label: &str) -> Result<crate::codec::Secret, Error> {
        secrets.key_for(Section::Directory, self.directory_epoch, label, &self.name.id.0)
    }
}

/// Seals one file under the newest directory epoch. `name` has a fresh random id; `plain` comes from an `encode` below.
///
/// # Panics
/// If `plain` is longer than [`CHECKPOINT_PLAIN_MAX`].
pub fn seal_checkpoint_file(
    secrets: &Secrets,
    kind: CheckpointKind,
    name: &CheckpointName,
    mut plain: Vec<u8>,
) -> Vec<u8> {
    plain.resize(padme::padme(plain.len() as u64) as usize, 0);
    assert!(
        plain.len() <= CHECKPOINT_PLAIN_MAX,
        "a checkpoint file has at most {CHECKPOINT_PLAIN_MAX} bytes"
    );
    let mut header = CheckpointHeader {
        kind,
        repository: secrets.repository(),
        name: *name,
        directory_epoch: secrets.directory_epoch(),
        commitment: [0; 32],
    };
    let known = "a keyring has the newest of its own epochs";
    header.commitment = *header.key(secrets, label::COMMIT).expect(known).expose();
    let key = SealingKey::new(&header.key(secrets, label::KEY).expect(known));

    let header = header.encode();
    let messages = plain.len().div_ceil(MESSAGE_LEN);
    let mut file = Vec::with_capacity(CHECKPOINT_HEADER_LEN + plain.len() + messages * TAG_LEN);
    file.extend_from_slice(&header);
    for (index, message) in plain.chunks(MESSAGE_LEN).enumerate() {
        let start = file.len();
        file.extend_from_slice(message);
        let aad = message_aad(&header, index as u32, index + 1 == messages);
        let tag = key.seal(Nonce::counter(index as u32), &aad, &mut file[start..]);
        file.extend_from_slice(&tag);
    }
    file
}

/// Opens one file: its padded plaintext, for a `decode` below. `name` and `kind` are what it was found as.
pub fn open_checkpoint_file(
    secrets: &Secrets,
    kind: CheckpointKind,
    name: &CheckpointName,
    file: &[u8],
) -> Result<Vec<u8>, Error> {
    let header = CheckpointHeader::parse(file)?;
    if header.repository != secrets.repository() {
        return Err(Error::Foreign {
            what: WHAT,
            owner: "repository",
        });
    }
    if header.name != *name {
        return Err(Error::Foreign {
            what: WHAT,
            owner: "name",
        });
    }
    if header.kind != kind {
        return Err(Error::Foreign {
            what: WHAT,
            owner: "kind",
        });
    }
    let (header_bytes, sealed) = file
        .split_first_chunk::<CHECKPOINT_HEADER_LEN>()
        .expect("the header was parsed out of it");
    let plain_len = plain_len(sealed.len())?;
    if !bool::from(header.key(secrets, label::COMMIT)?.expose().ct_eq(&header.commitment)) {
        return Err(Error::CommitmentMismatch { what: WHAT });
    }
    let key = SealingKey::new(&header.key(secrets, label::KEY)?);

    let mut plain = Vec::with_capacity(plain_len + TAG_LEN);
    let messages = sealed.len().div_ceil(SEALED_MESSAGE_LEN);
    for (index, message) in sealed.chunks(SEALED_MESSAGE_LEN).enumerate() {
        let start = plain.len();
        plain.extend_from_slice(message);
        let aad = message_aad(header_bytes, index as u32, index + 1 == messages);
        key.open(Nonce::counter(index as u32), &aad, &mut plain[start..])
            .map_err(|_| Error::damaged(WHAT, "a message does not open"))?;
        plain.truncate(plain.len() - TAG_LEN);
    }
    Ok(plain)
}

/// Whether a checkpoint file can have this length. All that can be said of its messages without a key.
pub fn is_checkpoint_len(len: u64) -> bool {
    let sealed = usize::try_from(len)
        .ok()
        .and_then(|len| len.checked_sub(CHECKPOINT_HEADER_LEN));
    sealed.is_some_and(|sealed| plain_len(sealed).is_ok())
}

/// Plain length of `sealed_len` bytes of messages, if that is a length a file can have.
fn plain_len(sealed_len: usize) -> Result<usize, Error> {
    let tags_len = sealed_len.div_ceil(SEALED_MESSAGE_LEN).checked_mul(TAG_LEN);
    tags_len
        .and_then(|tags_len| sealed_len.checked_sub(tags_len))
        .filter(|&len| len <= CHECKPOINT_PLAIN_MAX && padme::is_padme(len as u64))
        .ok_or_else(|| Error::damaged(WHAT, "its length is not one a checkpoint file has"))
}

/// header ‖ index ‖ last flag
fn message_aad(header: &[u8; CHECKPOINT_HEADER_LEN], index: u32, is_last: bool) -> [u8; AAD_LEN] {
    let mut bytes = [0; AAD_LEN];
    let mut out = bytes.as_mut_slice();
    out.put_slice(header);
    out.put_u32_le(index);
    out.put_u8(u8::from(is_last));
    bytes
}

/// All 16-byte keys that share their first bits: of hashed names (object table), or of pack numbers (pack table).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct KeyRange {
    first: [u8; 16],
    bits: u8,
}

impl KeyRange {
    /// Length in stored structures.
    pub const LEN: usize = 16 + 1;

    /// The keys that begin with the first `bits` of `key`; at most 128.
    pub fn of(key: [u8; 16], bits: u8) -> Self {
        let bits = bits.min(128);
        let first = (u128::from_be_bytes(key) & Self::mask(bits)).to_be_bytes();
        Self { first, bits }
    }

    /// The smallest key.
    pub fn first(&self) -> [u8; 16] {
        self.first
    }

    /// How many leading bits its keys share.
    pub fn bits(&self) -> u8 {
        self.bits
    }

    /// Whether `key` is in it.
    pub fn contains(&self, key: &[u8; 16]) -> bool {
        Self::of(*key, self.bits) == *self
    }

    fn mask(bits: u8) -> u128 {
        u128::MAX.checked_shl(128 - u32::from(bits)).unwrap_or(0)
    }

    fn encode(&self, out: &mut impl BufMut) {
        out.put_slice(&self.first);
        out.put_u8(self.bits);
    }

    fn decode(reader: &mut Reader<'_>) -> Result<Self, Error> {
        let (first, bits) = (reader.array()?, reader.u8()?);
        let range = Self::of(first, bits);
        if range.first == first && range.bits == bits {
            Ok(range)
        } else {
            Err(reader.damaged("a key range is not a prefix"))
        }
    }
}

/// A segment as a root lists it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SegmentRef {
    /// The keys whose rows it holds.
    pub range: KeyRange,
    /// The file.
    pub name: CheckpointName,
    /// Epoch of the directory secret that opens it.
    pub directory_epoch: u64,
    /// Length of the file.
    pub length: u64,
    /// BLAKE3 of the file.
    pub blake3: Hash32,
}

impl SegmentRef {
    /// Length in stored structures.
    pub const LEN: usize = KeyRange::LEN + CheckpointName::LEN + 8 + 8 + 32;

    /// The reference to a file sealed with these secrets.
    pub fn to(range: KeyRange, name: CheckpointName, secrets: &Secrets, file: &[u8]) -> Self {
        Self {
            range,
            name,
            directory_epoch: secrets.directory_epoch(),
            length: file.len() as u64,
            blake3: Hash32::of(file),
        }
    }

    /// Whether `file` is the very file meant; to be asked before it is opened.
    pub fn matches(&self, file: &[u8]) -> bool {
        self.length == file.len() as u64 && self.blake3 == Hash32::of(file)
    }

    fn encode(&self, out: &mut Vec<u8>) {
        self.range.encode(out);
        self.name.encode(out);
        out.put_u64_le(self.directory_epoch);
        out.put_u64_le(self.length);
        out.put_slice(&self.blake3.0);
    }

    fn decode(reader: &mut Reader<'_>) -> Result<Self, Error> {
        Ok(Self {
            range: KeyRange::decode(reader)?,
            name: CheckpointName::decode(reader)?,
            directory_epoch: reader.u64()?,
            length: reader.u64()?,
            blake3: Hash32(reader.array()?),
        })
    }
}

/// A row of the object table.
pub type ObjectRow = ObjectVersion;

/// A part of the object table.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ObjectSegment {
    /// Hashed names it covers.
    pub range: KeyRange,
    /// All objects whose hashed names are in the range, in the order of these.
    pub rows: Vec<ObjectRow>,
}

impl ObjectSegment {
    /// The plaintext of the segment's file.
    pub fn encode(&self) -> Vec<u8> {
        let mut out = Vec::new();
        self.range.encode(&mut out);
        put_rows(&mut out, &self.rows, ObjectVersion::encode);
        out
    }

    /// Reads a padded plaintext. That the rows' hashed names are in the range is the reader's to check: it has the key.
    pub fn decode(plain: &[u8]) -> Result<Self, Error> {
        let mut reader = Reader::new("object segment", plain);
        let range = KeyRange::decode(&mut reader)?;
        let rows = read_rows(&mut reader, OBJECT_ROW_LEN_MIN, ObjectVersion::decode)?;
        reader.end_padded()?;
        Ok(Self { range, rows })
    }
}

/// A row of the pack table: a pack that is in the store.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PackTableRow {
    /// Which, and what proves it.
    pub pack: PackRef,
    /// Whether it is an entry of the log.
    pub kind: PackKind,
    /// Its log number; 0 for a chunk pack.
    pub log_number: u64,
}

impl PackTableRow {
    /// Length in stored structures.
    pub const LEN: usize = PackRef::LEN + 1 + 8;

    fn encode(&self, out: &mut Vec<u8>) {
        self.pack.encode(out);
        out.put_u8(self.kind as u8);
        out.put_u64_le(self.log_number);
    }

    fn decode(reader: &mut Reader<'_>) -> Result<Self, Error> {
        let row = Self {
            pack: PackRef::decode(reader)?,
            kind: PackKind::try_from(reader.u8()?)?,
            log_number: reader.u64()?,
        };
        if (row.kind == PackKind::Commit) == (row.log_number != 0) {
            Ok(row)
        } else {
            Err(reader.damaged("a pack's kind and log number do not fit"))
        }
    }
}

/// A part of the pack table.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PackSegment {
    /// Pack numbers it covers.
    pub range: KeyRange,
    /// All packs whose numbers are in the range, in order.
    pub rows: Vec<PackTableRow>,
}

impl PackSegment {
    /// The plaintext of the segment's file.
    pub fn encode(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(KeyRange::LEN + 4 + self.rows.len() * PackTableRow::LEN);
        self.range.encode(&mut out);
        put_rows(&mut out, &self.rows, PackTableRow::encode);
        out
    }

    /// Reads a padded plaintext.
    pub fn decode(plain: &[u8]) -> Result<Self, Error> {
        let mut reader = Reader::new("pack segment", plain);
        let range = KeyRange::decode(&mut reader)?;
        let rows = read_rows(&mut reader, PackTableRow::LEN, PackTableRow::decode)?;
        if !rows.is_sorted_by(|a, b| a.pack.name < b.pack.name) {
            return Err(reader.damaged("its rows are not in order"));
        }
        if !rows.iter().all(|row| range.contains(&row.pack.name.number.to_bytes())) {
            return Err(reader.damaged("a row is outside its range"));
        }
        reader.end_padded()?;
        Ok(Self { range, rows })
    }
}

/// A put that may be asked for again, with its result.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PutIdEntry {
    /// The caller's id of the put.
    pub put_id: [u8; 16],
    /// The object's name.
    pub name: ObjectName,
    /// The version it got.
    pub sequence: u64,
    /// Bytes of the object.
    pub size: u64,
    /// Chunks of the object.
    pub chunks: u64,
    /// CRC-32C of the object.
    pub crc32c: u32,
    /// Milliseconds since 1970-01-01T00:00:00Z.
    pub created_ms: i64,
}

impl PutIdEntry {
    const LEN_MIN: usize = 16 + 2 + 1 + 8 + 8 + 8 + 4 + 8;

    fn encode(&self, out: &mut Vec<u8>) {
        out.put_slice(&self.put_id);
        put_text(out, self.name.as_str());
        out.put_u64_le(self.sequence);
        out.put_u64_le(self.size);
        out.put_u64_le(self.chunks);
        out.put_u32_le(self.crc32c);
        out.put_i64_le(self.created_ms);
    }

    fn decode(reader: &mut Reader<'_>) -> Result<Self, Error> {
        Ok(Self {
            put_id: reader.array()?,
            name: read_name(reader)?,
            sequence: reader.u64()?,
            size: reader.u64()?,
            chunks: reader.u64()?,
            crc32c: reader.u32()?,
            created_ms: reader.i64()?,
        })
    }
}

/// A checkpoint: the state of a repository at one commit pack.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CheckpointRoot {
    /// The commit pack it was written at; it counts only if this is on the log.
    pub tip: Tip,
    /// The log head at the tip.
    pub head: Hash32,
    /// The last sequence used.
    pub sequence: u64,
    /// Log numbers and heads up to the tip, ascending, the last [`HEADS_MAX`].
    pub heads: Vec<(u64, Hash32)>,
    /// The last [`PUT_IDS_MAX`] puts that have an id, oldest first, with consecutive serials.
    pub put_ids: Vec<PutIdEntry>,
    /// Serial of the newest of them.
    pub put_serial: u64,
    /// The object table, by ascending range.
    pub object_segments: Vec<SegmentRef>,
    /// The pack table, by ascending range.
    pub pack_segments: Vec<SegmentRef>,
}

impl CheckpointRoot {
    /// The plaintext of the root's file.
    pub fn encode(&self) -> Vec<u8> {
        let mut out = Vec::new();
        self.tip.encode(&mut out);
        out.put_slice(&self.head.0);
        out.put_u64_le(self.sequence);
        out.put_u64_le(self.put_serial);
        put_rows(&mut out, &self.heads, |(log_number, head), out| {
            out.put_u64_le(*log_number);
            out.put_slice(&head.0);
        });
        put_rows(&mut out, &self.put_ids, PutIdEntry::encode);
        put_rows(&mut out, &self.object_segments, SegmentRef::encode);
        put_rows(&mut out, &self.pack_segments, SegmentRef::encode);
        out
    }

    /// Reads a padded plaintext.
    pub fn decode(plain: &[u8]) -> Result<Self, Error> {
        let mut reader = Reader::new("checkpoint root", plain);
        let tip = Tip::decode(&mut reader)?;
        let head = Hash32(reader.array()?);
        let sequence = reader.u64()?;
        let put_serial = reader.u64()?;
        let heads = read_rows(&mut reader, 8 + 32, |reader| {
            Ok((reader.u64()?, Hash32(reader.array()?)))
        })?;
        let put_ids = read_rows(&mut reader, PutIdEntry::LEN_MIN, PutIdEntry::decode)?;
        let object_segments = read_rows(&mut reader, SegmentRef::LEN, SegmentRef::decode)?;
        let pack_segments = read_rows(&mut reader, SegmentRef::LEN, SegmentRef::decode)?;
        let in_order = heads.is_sorted_by(|a, b| a.0 < b.0)
            && object_segments.is_sorted_by(|a, b| a.range.first < b.range.first)
            && pack_segments.is_sorted_by(|a, b| a.range.first < b.range.first);
        if !in_order {
            return Err(reader.damaged("its tables are not in order"));
        }
        if heads.len() > HEADS_MAX || put_ids.len() > PUT_IDS_MAX || put_serial < put_ids.len() as u64 {
            return Err(reader.damaged("its heads or put ids are too many"));
        }
        reader.end_padded()?;
        Ok(Self {
            tip,
            head,
            sequence,
            heads,
            put_ids,
            put_serial,
            object_segments,
            pack_segments,
        })
    }
}

#[cfg(test)]
#[path = "checkpoint/tests.rs"]
mod tests;
