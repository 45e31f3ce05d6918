//! Records: the lines of the log. Owns their bytes and what is wrong with a record by itself; whether a record makes sense
//! after those before it is the engine's to know.
//!
//! A record is a kind (u8), the length of its body (u32) and the body.

use bytes::BufMut;

use super::Error;
use super::names::{Hash32, ObjectName, PackName};
use super::pack::BLOB_PLAIN_MAX;
use super::wire::Reader;
use crate::codec::ChunkId;

/// Most chunks an object lists in its own record; larger ones have a manifest.
pub const INLINE_CHUNKS_MAX: usize = 8;
/// Most bytes an object's metadata takes, counted by [`metadata_len`].
pub const METADATA_LEN_MAX: usize = 16 * 1024;

/// What each metadata pair costs beyond its text: two u16 lengths.
const METADATA_PAIR_OVERHEAD: usize = 4;
/// Kind and length of the body.
const FRAME_LEN: usize = 1 + 4;

const PUT: u8 = 1;
const DELETE: u8 = 2;
const INTRODUCE: u8 = 3;
const CONDEMN: u8 = 4;
const OPEN: u8 = 5;

const INLINE: u8 = 0;
const ROOT: u8 = 1;

/// A chunk in an object's or a leaf's ordered list.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct ChunkRef {
    /// Which chunk.
    pub id: ChunkId,
    /// Its plain length, so that ranges are found without opening anything.
    pub len: u32,
}

impl ChunkRef {
    /// Length in stored structures.
    pub const LEN: usize = 32 + 4;

    pub(super) fn encode(&self, out: &mut impl BufMut) {
        out.put_slice(&self.id.0);
        out.put_u32_le(self.len);
    }

    pub(super) fn decode(reader: &mut Reader<'_>) -> Result<Self, Error> {
        let chunk = Self {
            id: ChunkId(reader.array()?),
            len: reader.u32()?,
        };
        if chunk.len == 0 || chunk.len > BLOB_PLAIN_MAX {
            return Err(reader.damaged("a chunk's length is out of bounds"));
        }
        Ok(chunk)
    }
}

/// Where an object's ordered chunk list is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Content {
    /// Here: at most [`INLINE_CHUNKS_MAX`], possibly none.
    Inline(Vec<ChunkRef>),
    /// In the manifest with this root.
    Root(ChunkId),
}

/// One version of an object, as put.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ObjectVersion {
    /// The caller's name.
    pub name: ObjectName,
    /// Position among all puts and deletes of the repository; the version number callers see.
    pub sequence: u64,
    /// Bytes of the object.
    pub size: u64,
    /// Chunks of the object, repeats counted.
    pub chunks: u64,
    /// CRC-32C of the whole object.
    pub crc32c: u32,
    /// Milliseconds since 1970-01-01T00:00:00Z.
    pub created_ms: i64,
    /// The caller's id of the put, if it gave one; never [`NO_PUT_ID`].
    pub put_id: Option<[u8; 16]>,
    /// The caller's pairs, in the caller's order.
    pub metadata: Vec<(String, String)>,
    /// The chunk list.
    pub content: Content,
}

/// Stands for no put id.
pub const NO_PUT_ID: [u8; 16] = [0; 16];

/// What `metadata` takes of [`METADATA_LEN_MAX`].
pub fn metadata_len(metadata: &[(String, String)]) -> usize {
    metadata
        .iter()
        .map(|(key, value)| METADATA_PAIR_OVERHEAD + key.len() + value.len())
        .sum()
}

impl ObjectVersion {
    /// Appends the version as it stands in a put record and in a checkpoint.
    ///
    /// # Panics
    /// If a limit is broken that the engine checks when it accepts a put.
    pub fn encode(&self, out: &mut Vec<u8>) {
        put_text(out, self.name.as_str());
        out.put_u64_le(self.sequence);
        out.put_u64_le(self.size);
        out.put_u64_le(self.chunks);
        out.put_u32_le(self.crc32c);
        out.put_i64_le(self.created_ms);
        out.put_slice(&self.put_id.unwrap_or(NO_PUT_ID));
        encode_metadata(&self.metadata, out);
        match &self.content {
            Content::Inline(chunks) => {
                assert!(chunks.len() <= INLINE_CHUNKS_MAX, "a longer chunk list has a manifest");
                out.put_u8(INLINE);
                put_rows(out, chunks, ChunkRef::encode);
            }
            Content::Root(id) => {
                out.put_u8(ROOT);
                out.put_slice(&id.0);
            }
        }
    }

    /// Reads what [`Self::encode`] wrote.
    pub fn decode(reader: &mut Reader<'_>) -> Result<Self, Error> {
        let version = Self {
            name: read_name(reader)?,
            sequence: reader.u64()?,
            size: reader.u64()?,
            chunks: reader.u64()?,
            crc32c: reader.u32()?,
            created_ms: reader.i64()?,
            put_id: Some(reader.array()?).filter(|id| *id != NO_PUT_ID),
            metadata: decode_metadata(reader)?,
            content: decode_content(reader)?,
        };
        let consistent = match &version.content {
            Content::Inline(chunks) => {
                let size = chunks.iter().map(|chunk| u64::from(chunk.len)).sum::<u64>();
                version.chunks == chunks.len() as u64 && version.size == size
            }
            Content::Root(_) => version.chunks > 0 && version.size >= version.chunks,
        };
        if consistent {
            Ok(version)
        } else {
            Err(reader.damaged("an object's size is not that of its chunks"))
        }
    }
}

/// A pack that is in the store, with what proves it is that one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct PackRef {
    /// Its name.
    pub name: PackName,
    /// Length of the whole object in bytes.
    pub size: u64,
    /// BLAKE3 of its trailer.
    pub trailer_hash: Hash32,
}

impl PackRef {
    /// Length in stored structures.
    pub const LEN: usize = PackName::LEN + 8 + 32;

    pub(super) fn encode(&self, out: &mut impl BufMut) {
        self.name.encode(out);
        out.put_u64_le(self.size);
        out.put_slice(&self.trailer_hash.0);
    }

    pub(super) fn decode(reader: &mut Reader<'_>) -> Result<Self, Error> {
        Ok(Self {
            name: PackName::decode(reader)?,
            size: reader.u64()?,
            trailer_hash: Hash32(reader.array()?),
        })
    }
}

/// The newest commit pack of a log.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Tip {
    /// Its name.
    pub pack: PackName,
    /// Its log number.
    pub log_number: u64,
    /// BLAKE3 of its trailer: what the next commit pack names as its previous.
    pub trailer_hash: Hash32,
}

impl Tip {
    /// Length in stored structures.
    pub const LEN: usize = PackName::LEN + 8 + 32;

    pub(super) fn encode(&self, out: &mut impl BufMut) {
        self.pack.encode(out);
        out.put_u64_le(self.log_number);
        out.put_slice(&self.trailer_hash.0);
    }

    pub(super) fn decode(reader: &mut Reader<'_>) -> Result<Self, Error> {
        Ok(Self {
            pack: PackName::decode(reader)?,
            log_number: reader.u64()?,
            trailer_hash: Hash32(reader.array()?),
        })
    }
}

/// One line of the log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Record {
    /// An object now has this version.
    Put(ObjectVersion),
    /// An object is gone.
    Delete {
        /// Which.
        name: ObjectName,
        /// Position of the delete among all puts and deletes.
        sequence: u64,
    },
    /// Chunk packs that count from here on.
    Introduce(Vec<PackRef>),
    /// Packs that do not count from here on, ever again.
    Condemn(Vec<PackName>),
    /// A new owner begins.
    Open {
        /// The end of the log it continues; none in a new repository.
        adopted: Option<Tip>,
        /// The log head at that tip; zero in a new repository.
        head: Hash32,
        /// Chunk packs of earlier owners that no record had introduced.
        taken_over: Vec<PackRef>,
    },
}

impl Record {
    /// Appends the record.
    ///
    /// # Panics
    /// If a limit is broken that the engine checks when it accepts a put.
    pub fn encode(&self, out: &mut Vec<u8>) {
        let start = out.len();
        out.put_bytes(0, FRAME_LEN);
        let kind = self.encode_body(out);
        let len = u32::try_from(out.len() - start - FRAME_LEN).expect("a record is smaller than a directory");
        out[start] = kind;
        out[start + 1..start + FRAME_LEN].copy_from_slice(&len.to_le_bytes());
    }

    fn encode_body(&self, out: &mut Vec<u8>) -> u8 {
        match self {
            Self::Put(version) => {
                version.encode(out);
                PUT
            }
            Self::Delete { name, sequence } => {
                put_text(out, name.as_str());
                out.put_u64_le(*sequence);
                DELETE
            }
            Self::Introduce(packs) => {
                put_rows(out, packs, PackRef::encode);
                INTRODUCE
            }
            Self::Condemn(packs) => {
                put_rows(out, packs, PackName::encode);
                CONDEMN
            }
            Self::Open {
                adopted,
                head,
                taken_over,
            } => {
                out.put_u8(u8::from(adopted.is_some()));
                if let Some(tip) = adopted {
                    tip.encode(out);
                }
                out.put_slice(&head.0);
                put_rows(out, taken_over, PackRef::encode);
                OPEN
            }
        }
    }

    /// Bytes the record takes, for keeping a commit pack below
    /// [`RECORDS_LEN_MAX`](super::directory::RECORDS_LEN_MAX). Encodes it to find out.
    pub fn encoded_len(&self) -> usize {
        let mut bytes = Vec::new();
        self.encode(&mut bytes);
        bytes.len()
    }

    /// Reads one record.
    pub fn decode(reader: &mut Reader<'_>) -> Result<Self, Error> {
        let kind = reader.u8()?;
        let len = reader.u32()?;
        let len = usize::try_from(len).map_err(|_| reader.damaged("it ends early"))?;
        let mut body = Reader::new("record", reader.take(len)?);
        let record = Self::decode_body(kind, &mut body)?;
        body.end()?;
        Ok(record)
    }

    fn decode_body(kind: u8, body: &mut Reader<'_>) -> Result<Self, Error> {
        Ok(match kind {
            PUT => Self::Put(ObjectVersion::decode(body)?),
            DELETE => Self::Delete {
                name: read_name(body)?,
                sequence: body.u64()?,
            },
            INTRODUCE => Self::Introduce(read_rows(body, PackRef::LEN, PackRef::decode)?),
            CONDEMN => Self::Condemn(read_rows(body, PackName::LEN, PackName::decode)?),
            OPEN => Self::Open {
                adopted: match body.u8()? {
                    0 => None,
                    1 => Some(Tip::decode(body)?),
                    _ => return Err(body.damaged("a flag is neither 0 nor 1")),
                },
                head: Hash32(body.array()?),
                taken_over: read_rows(body, PackRef::LEN, PackRef::decode)?,
            },
            value => {
                return Err(Error::UnknownValue {
                    what: "record",
                    field: "kind",
                    value: value.into(),
                });
            }
        })
    }
}

fn encode_metadata(metadata: &[(String, String)], out: &mut Vec<u8>) {
    assert!(
        metadata_len(metadata) <= METADATA_LEN_MAX,
        "metadata is checked when a put is accepted"
    );
    out.put_u16_le(metadata.len() as u16);
    for (key, value) in metadata {
        put_text(out, key);
        put_text(out, value);
    }
}

fn decode_metadata(reader: &mut Reader<'_>) -> Result<Vec<(String, String)>, Error> {
    let count = usize::from(reader.u16()?);
    if count * METADATA_PAIR_OVERHEAD > METADATA_LEN_MAX.min(reader.remaining()) {
        return Err(reader.damaged("it has too many metadata pairs"));
    }
    let mut metadata = Vec::with_capacity(count);
    for _ in 0..count {
        metadata.push((reader.text()?.to_owned(), reader.text()?.to_owned()));
    }
    if metadata_len(&metadata) > METADATA_LEN_MAX {
        return Err(reader.damaged("its metadata is too long"));
    }
    Ok(metadata)
}

fn decode_content(reader: &mut Reader<'_>) -> Result<Content, Error> {
    match reader.u8()? {
        INLINE => {
            let count = reader.count(ChunkRef::LEN, INLINE_CHUNKS_MAX)?;
            let chunks = (0..count).map(|_| ChunkRef::decode(reader)).collect::<Result<_, _>>()?;
            Ok(Content::Inline(chunks))
        }
        ROOT => Ok(Content::Root(ChunkId(reader.array()?))),
        value => Err(Error::UnknownValue {
            what: reader.what(),
            field: "content kind",
            value: value.into(),
        }),
    }
}

/// A u16 length and the text.
///
/// # Panics
/// If the text is longer than 65 535 bytes: every text has a smaller limit of its own.
pub(super) fn put_text(out: &mut Vec<u8>, text: &str) {
    out.put_u16_le(u16::try_from(text.len()).expect("every text has a limit below 64 KiB"));
    out.put_slice(text.as_bytes());
}

pub(super) fn read_name(reader: &mut Reader<'_>) -> Result<ObjectName, Error> {
    let name = reader.text()?;
    ObjectName::new(name).map_err(|_| reader.damaged("an object's name is empty or too long"))
}

/// A u32 count and the rows.
///
/// # Panics
/// If there are more than 2³² rows: every table has a smaller limit of its own.
pub(super) fn put_rows<T>(out: &mut Vec<u8>, rows: &[T], encode: impl Fn(&T, &mut Vec<u8>)) {
    out.put_u32_le(u32::try_from(rows.len()).expect("every table has a limit far below 2³² rows"));
    rows.iter().for_each(|row| encode(row, out));
}

/// A u32 count and rows of at least `row_len` bytes each.
pub(super) fn read_rows<'a, T>(
    reader: &mut Reader<'a>,
    row_len: usize,
    decode: impl Fn(&mut Reader<'a>) -> Result<T, Error>,
) -> Result<Vec<T>, Error> {
    let count = reader.count(row_len, usize::MAX)?;
    let mut rows = Vec::with_capacity(count);
    for _ in 0..count {
        rows.push(decode(reader)?);
    }
    Ok(rows)
}

#[cfg(test)]
#[path = "record/tests.rs"]
mod tests;
