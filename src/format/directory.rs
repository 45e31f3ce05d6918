//! A pack's directory: what is in the pack, and in a commit pack the records of the log. Owns the bytes of its plaintext
//! and every rule an opened directory keeps, so that readers may rely on them; sealing it is `pack`'s.
//!
//! What is decoded has been checked: row 0 of the births is the pack itself; entries lie inside the
//! pack's blobs, in order, without overlap; no ordinal of a birth stands twice; every length is within its limit.

use std::collections::HashSet;

use bytes::BufMut;

use super::names::{Hash32, PackId};
use super::pack::{BLOB_PLAIN_MAX, HEADER_LEN, PackHeader, PackKind};
use super::record::{Record, put_rows, read_rows};
use super::wire::Reader;
use super::{Error, padme};
use crate::codec::{ChunkId, Codec, TAG_LEN};

/// Most entries a directory lists: as many as a pack has ordinals.
pub const ENTRIES_MAX: usize = 65_535;
/// Longest plaintext, padding included; itself a Padmé size.
pub const DIRECTORY_PLAIN_MAX: usize = 7 << 20;
/// Most bytes of births and entries together.
pub const TABLES_LEN_MAX: usize = 4 << 20;
/// Most bytes of encoded records in one commit pack: what the tables leave, less counts and the chain's fields.
pub const RECORDS_LEN_MAX: usize = DIRECTORY_PLAIN_MAX - TABLES_LEN_MAX - 64;

const WHAT: &str = "pack directory";

/// What a blob is a piece of.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(u8)]
pub enum BlobKind {
    /// A chunk of users' data.
    Data = 1,
    /// A leaf of a manifest.
    Leaf = 2,
    /// A root of a manifest.
    Root = 3,
}

impl TryFrom<u8> for BlobKind {
    type Error = Error;

    fn try_from(value: u8) -> Result<Self, Error> {
        match value {
            1 => Ok(Self::Data),
            2 => Ok(Self::Leaf),
            3 => Ok(Self::Root),
            _ => Err(Error::UnknownValue {
                what: "blob",
                field: "kind",
                value: value.into(),
            }),
        }
    }
}

/// Where and how a blob is stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Entry {
    /// Id of its plaintext.
    pub id: ChunkId,
    /// What it is a piece of.
    pub kind: BlobKind,
    /// First byte, counted from the start of the pack.
    pub offset: u32,
    /// Stored bytes, tag included.
    pub stored_len: u32,
    /// Bytes after decompression.
    pub plain_len: u32,
    /// How it is compressed.
    pub codec: Codec,
    /// Row of the births table: the pack it was sealed in.
    pub birth: u16,
    /// Its number in that pack: the nonce.
    pub ordinal: u32,
}

impl Entry {
    /// Length in stored structures.
    pub const LEN: usize = 32 + 1 + 1 + 2 + 4 + 4 + 4 + 4;

    /// Of one byte, stored as it is at the beginning of its pack.
    #[cfg(test)]
    pub(crate) fn of_one_byte(id: ChunkId, kind: BlobKind) -> Self {
        Self {
            id,
            kind,
            offset: 0,
            stored_len: 1 + TAG_LEN as u32,
            plain_len: 1,
            codec: Codec::Raw,
            birth: 0,
            ordinal: 0,
        }
    }

    /// First byte after the blob.
    pub fn end(&self) -> u64 {
        u64::from(self.offset) + u64::from(self.stored_len)
    }

    /// Appends the entry as it stands in a directory.
    pub fn encode(&self, out: &mut impl BufMut) {
        out.put_slice(&self.id.0);
        out.put_u8(self.kind as u8);
        out.put_u8(self.codec as u8);
        out.put_u16_le(self.birth);
        out.put_u32_le(self.ordinal);
        out.put_u32_le(self.offset);
        out.put_u32_le(self.stored_len);
        out.put_u32_le(self.plain_len);
    }

    /// Reads what [`Self::encode`] wrote. Checks the entry by itself, not against its pack.
    pub fn decode(reader: &mut Reader<'_>) -> Result<Self, Error> {
        let id = ChunkId(reader.array()?);
        let kind = BlobKind::try_from(reader.u8()?)?;
        let codec = reader.u8()?;
        let codec = Codec::try_from(codec).map_err(|_| Error::UnknownValue {
            what: "blob",
            field: "codec",
            value: codec.into(),
        })?;
        let entry = Self {
            id,
            kind,
            codec,
            birth: reader.u16()?,
            ordinal: reader.u32()?,
            offset: reader.u32()?,
            stored_len: reader.u32()?,
            plain_len: reader.u32()?,
        };
        if entry.lengths_are_possible() {
            Ok(entry)
        } else {
            Err(reader.damaged("an entry's lengths are impossible"))
        }
    }

    fn lengths_are_possible(&self) -> bool {
        let compressed_len = i64::from(self.stored_len) - TAG_LEN as i64;
        let plain_len = i64::from(self.plain_len);
        self.plain_len <= BLOB_PLAIN_MAX
            && plain_len > 0
            && compressed_len > 0
            && (self.codec != Codec::Raw || compressed_len == plain_len)
            && self.ordinal < ENTRIES_MAX as u32
    }
}

/// A pack some blobs were sealed in: what is needed to open them wherever they are now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Birth {
    /// Its id.
    pub pack: PackId,
    /// Its format.
    pub format: u16,
    /// Its cipher suite.
    pub suite: u16,
    /// Epoch of the data secret; 0 if no data blob was born in it.
    pub data_epoch: u64,
    /// Epoch of the directory secret.
    pub directory_epoch: u64,
    /// Commitment of the data key; zero if no data blob was born in it.
    pub data_commitment: [u8; 32],
    /// Commitment of the directory key.
    pub directory_commitment: [u8; 32],
}

impl Birth {
    /// Length in stored structures.
    pub const LEN: usize = 32 + 2 + 2 + 8 + 8 + 32 + 32;

    /// Appends the row as it stands in a directory.
    pub fn encode(&self, out: &mut impl BufMut) {
        out.put_slice(&self.pack.0);
        out.put_u16_le(self.format);
        out.put_u16_le(self.suite);
        out.put_u64_le(self.data_epoch);
        out.put_u64_le(self.directory_epoch);
        out.put_slice(&self.data_commitment);
        out.put_slice(&self.directory_commitment);
    }

    /// Reads what [`Self::encode`] wrote.
    pub fn decode(reader: &mut Reader<'_>) -> Result<Self, Error> {
        Ok(Self {
            pack: PackId(reader.array()?),
            format: reader.format()?,
            suite: reader.suite()?,
            data_epoch: reader.u64()?,
            directory_epoch: reader.u64()?,
            data_commitment: reader.array()?,
            directory_commitment: reader.array()?,
        })
    }
}

/// What makes a pack an entry of the log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CommitSection {
    /// Its place in the log; the first is 1.
    pub log_number: u64,
    /// Trailer hash of the commit pack before; zero for the first.
    pub previous: Hash32,
    /// In the order they apply.
    pub records: Vec<Record>,
}

impl CommitSection {
    fn encode(&self, out: &mut Vec<u8>) {
        out.put_u64_le(self.log_number);
        out.put_slice(&self.previous.0);
        let start = out.len();
        put_rows(out, &self.records, Record::encode);
        assert!(
            out.len() - start <= RECORDS_LEN_MAX + 4,
            "the engine closes a commit pack before its records overflow"
        );
    }

    fn decode(reader: &mut Reader<'_>) -> Result<Self, Error> {
        let log_number = reader.u64()?;
        let previous = Hash32(reader.array()?);
        if log_number == 0 || (log_number == 1) != (previous == Hash32::ZERO) {
            return Err(reader.damaged("its log number and previous hash do not fit"));
        }
        // The shortest record has 5 bytes of frame.
        let records = read_rows(reader, 5, Record::decode)?;
        Ok(Self {
            log_number,
            previous,
            records,
        })
    }
}

/// A pack's directory, opened.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Directory {
    /// The packs its blobs were sealed in. Row 0 is the pack itself.
    pub births: Vec<Birth>,
    /// Its blobs, in the order of their offsets.
    pub entries: Vec<Entry>,
    /// Present in a commit pack.
    pub commit: Option<CommitSection>,
}

impl Directory {
    /// Appends the padded plaintext to `out`.
    ///
    /// # Panics
    /// If it is longer than [`DIRECTORY_PLAIN_MAX`]: [`PackWriter::fits`](super::pack::PackWriter::fits) and
    /// [`RECORDS_LEN_MAX`] were not heeded.
    pub(crate) fn encode(&self, out: &mut Vec<u8>) {
        let start = out.len();
        put_rows(out, &self.births, Birth::encode);
        put_rows(out, &self.entries, Entry::encode);
        if let Some(commit) = &self.commit {
            commit.encode(out);
        }
        let len = padme::padme((out.len() - start) as u64) as usize;
        assert!(
            len <= DIRECTORY_PLAIN_MAX,
            "a directory has at most {DIRECTORY_PLAIN_MAX} bytes"
        );
        out.resize(start + len, 0);
    }

    /// Reads a padded plaintext of the pack with this header, whose blobs and padding end at `body_len`.
    pub(crate) fn decode(plain: &[u8], header: &PackHeader, body_len: u64) -> Result<Self, Error> {
        let mut reader = Reader::new(WHAT, plain);
        let births = read_rows(&mut reader, Birth::LEN, Birth::decode)?;
        let entries = read_rows(&mut reader, Entry::LEN, Entry::decode)?;
        let commit = match header.kind {
            PackKind::Chunk => None,
            PackKind::Commit => Some(CommitSection::decode(&mut reader)?),
        };
        reader.end_padded()?;
        let directory = Self {
            births,
            entries,
            commit,
        };
        directory.check_births(header)?;
        directory.check_entries(body_len)?;
        Ok(directory)
    }

    fn check_births(&self, header: &PackHeader) -> Result<(), Error> {
        if self.births.first() != Some(&header.birth()) {
            return Err(Error::damaged(WHAT, "its first birth is not the pack itself"));
        }
        let mut packs = HashSet::with_capacity(self.births.len());
        for birth in &self.births {
            if !packs.insert(birth.pack) {
                return Err(Error::damaged(WHAT, "a birth stands twice"));
            }
            if birth.directory_epoch == 0 || (birth.data_epoch == 0) != (birth.data_commitment == [0; 32]) {
                return Err(Error::damaged(WHAT, "a birth's epochs and commitments do not fit"));
            }
        }
        Ok(())
    }

    fn check_entries(&self, body_len: u64) -> Result<(), Error> {
        if self.entries.len() > ENTRIES_MAX {
            return Err(Error::damaged(WHAT, "it has too many entries"));
        }
        let mut end = HEADER_LEN as u64;
        let mut nonces = HashSet::with_capacity(self.entries.len());
        for entry in &self.entries {
            if u64::from(entry.offset) < end || entry.end() > body_len {
                return Err(Error::damaged(
                    WHAT,
                    "an entry overlaps another, or lies outside the blobs",
                ));
            }
            end = entry.end();
            let birth = self
                .births
                .get(usize::from(entry.birth))
                .ok_or_else(|| Error::damaged(WHAT, "an entry's birth is not in the table"))?;
            if entry.kind == BlobKind::Data && birth.data_epoch == 0 {
                return Err(Error::damaged(WHAT, "a data blob was born in a pack without data"));
            }
            if !nonces.insert((entry.birth, entry.ordinal)) {
                return Err(Error::damaged(WHAT, "an ordinal stands twice"));
            }
        }
        Ok(())
    }
}
