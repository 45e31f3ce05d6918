//! Packs: the immutable objects that hold blobs. Owns header, blobs, block sums and trailer; their contents' meaning is
//! `directory`'s, `record`'s and `manifest`'s.
//!
//! ```text
//! header · blobs · random padding │ sealed directory │ block sums │ trailer
//! └──────── body, a Padmé size ───┘ └ Padmé size + tag    └ 32 bytes per 64 KiB of body
//! ```
//!
//! The body may be written before the directory is known, so a reader starts at the end: trailer, then sums and
//! directory, then blobs one by one.

mod buffer;

use std::collections::{HashMap, HashSet};
use std::ops::Range;
use std::sync::OnceLock;

use bytes::BufMut;
use subtle::ConstantTimeEq;
use zeroize::Zeroizing;

pub use super::directory::{Birth, BlobKind, CommitSection, Directory, Entry};
use super::directory::{DIRECTORY_PLAIN_MAX, ENTRIES_MAX, TABLES_LEN_MAX};
use super::keyring::{Secrets, Section};
use super::names::{Hash32, PackId, PackName};
use super::wire::Reader;
use super::{Error, FORMAT, SUITE, padme};
use crate::codec::{ChunkId, Codec, Nonce, RepositoryId, SealingKey, TAG_LEN};
pub use buffer::PackBuffer;

/// Length of a pack's header.
pub const HEADER_LEN: usize = 144;
/// Length of a pack's trailer.
pub const TRAILER_LEN: usize = 128;
/// Bytes of body that share a block sum.
pub const BLOCK_LEN: usize = 64 * 1024;
/// Longest body: with the longest directory and its sums a pack stays below 64 MiB. A Padmé size.
pub const BODY_LEN_MAX: usize = 56 << 20;
/// Longest plaintext of one blob.
pub const BLOB_PLAIN_MAX: u32 = 64 << 20;
/// Bytes to read from the end of a pack to have trailer, sums and directory of most packs in one request: a full pack of
/// 32 MiB has 16 KiB of sums, and 52 bytes an entry.
pub const PACK_TAIL_GUESS: u64 = 128 * 1024;

const HEADER_MAGIC: &[u8; 4] = b"CRNP";
const TRAILER_MAGIC: &[u8; 4] = b"CRNT";
const BLOB_TAG: &[u8; 4] = b"CRNB";
const DIRECTORY_TAG: &[u8; 4] = b"CRND";
const BLOB_AAD_LEN: usize = 4 + 2 + 2 + 1 + 16 + 32 + 8 + 4 + 1 + 4 + 32;
const DIRECTORY_AAD_LEN: usize = 4 + HEADER_LEN + PackName::LEN + 32;
const SUM_LEN: usize = 32;
const WHAT: &str = "pack";

/// The derivations of a pack's keys: key, and the commitment to it.
mod label {
    pub(super) const DATA: &str = "pack";
    pub(super) const DATA_COMMIT: &str = "pack commit";
    pub(super) const MANIFEST: &str = "manifest";
    pub(super) const DIRECTORY: &str = "directory";
    pub(super) const DIRECTORY_COMMIT: &str = "directory commit";
}

/// What a pack carries besides blobs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum PackKind {
    /// Nothing.
    Chunk = 1,
    /// Records: it is an entry of the log.
    Commit = 2,
}

impl TryFrom<u8> for PackKind {
    type Error = Error;

    fn try_from(value: u8) -> Result<Self, Error> {
        match value {
            1 => Ok(Self::Chunk),
            2 => Ok(Self::Commit),
            _ => Err(Error::UnknownValue {
                what: WHAT,
                field: "kind",
                value: value.into(),
            }),
        }
    }
}

/// The clear beginning of a pack: which keys open it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PackHeader {
    /// What it carries besides blobs.
    pub kind: PackKind,
    /// The repository it belongs to.
    pub repository: RepositoryId,
    /// Its id.
    pub id: PackId,
    /// Epoch of the data secret; 0 if no data blob was born in it.
    pub data_epoch: u64,
    /// Commitment of the data key; zero if no data blob was born in it.
    pub data_commitment: [u8; 32],
    /// Epoch of the directory secret.
    pub directory_epoch: u64,
    /// Commitment of the directory key.
    pub directory_commitment: [u8; 32],
}

impl PackHeader {
    pub(crate) fn encode(&self) -> [u8; HEADER_LEN] {
        let mut bytes = [0; HEADER_LEN];
        let mut out = bytes.as_mut_slice();
        out.put_slice(HEADER_MAGIC);
        out.put_u16_le(FORMAT);
        out.put_u16_le(SUITE);
        out.put_slice(&self.repository.0);
        out.put_slice(&self.id.0);
        out.put_u64_le(self.data_epoch);
        out.put_slice(&self.data_commitment);
        out.put_u64_le(self.directory_epoch);
        out.put_slice(&self.directory_commitment);
        out.put_u8(self.kind as u8);
        bytes
    }

    /// The pack as a row of a births table.
    pub fn birth(&self) -> Birth {
        Birth {
            pack: self.id,
            format: FORMAT,
            suite: SUITE,
            data_epoch: self.data_epoch,
            directory_epoch: self.directory_epoch,
            data_commitment: self.data_commitment,
            directory_commitment: self.directory_commitment,
        }
    }
}

/// Reads a pack's header: the first [`HEADER_LEN`] of `bytes`.
pub fn parse_header(bytes: &[u8]) -> Result<PackHeader, Error> {
    let mut reader = Reader::new("pack header", bytes);
    reader.magic(HEADER_MAGIC)?;
    reader.format()?;
    reader.suite()?;
    let repository = RepositoryId(reader.array()?);
    let id = PackId(reader.array()?);
    let data_epoch = reader.u64()?;
    let data_commitment = reader.array()?;
    let directory_epoch = reader.u64()?;
    let directory_commitment = reader.array()?;
    let kind = PackKind::try_from(reader.u8()?)?;
    reader.zeros(7)?;
    Ok(PackHeader {
        kind,
        repository,
        id,
        data_epoch,
        data_commitment,
        directory_epoch,
        directory_commitment,
    })
}

/// The clear end of a pack: where everything is, and the hashes of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Trailer {
    /// Header, blobs and padding.
    pub body_len: u64,
    /// Sealed directory, tag included.
    pub directory_len: u64,
    /// Block sums.
    pub sums_len: u64,
    /// BLAKE3 of the header.
    pub header_hash: Hash32,
    /// BLAKE3 of the sealed directory.
    pub directory_hash: Hash32,
    /// BLAKE3 of the block sums.
    pub sums_hash: Hash32,
}

impl Trailer {
    fn encode(&self) -> [u8; TRAILER_LEN] {
        let mut bytes = [0; TRAILER_LEN];
        let mut out = bytes.as_mut_slice();
        out.put_u64_le(self.body_len);
        out.put_u64_le(self.directory_len);
        out.put_u64_le(self.sums_len);
        out.put_slice(&self.header_hash.0);
        out.put_slice(&self.directory_hash.0);
        out.put_slice(&self.sums_hash.0);
        out.put_u16_le(FORMAT);
        out.put_u16_le(SUITE);
        out.put_slice(TRAILER_MAGIC);
        bytes
    }

    /// BLAKE3 of all trailer bytes: what the log and later commit packs know this pack by.
    pub fn hash(&self) -> Hash32 {
        Hash32::of(&self.encode())
    }

    /// Bytes from the start of the directory to the end of the pack: what [`Self::split_tail`] needs.
    pub fn tail_len(&self) -> u64 {
        self.directory_len + self.sums_len + TRAILER_LEN as u64
    }

    /// Length of the whole pack.
    pub fn total_len(&self) -> u64 {
        self.body_len + self.tail_len()
    }

    /// Where the sealed directory is in the pack.
    pub fn directory_range(&self) -> Range<u64> {
        self.body_len..self.body_len + self.directory_len
    }

    /// Where the block sums are in the pack.
    pub fn sums_range(&self) -> Range<u64> {
        let start = self.body_len + self.directory_len;
        start..start + self.sums_len
    }

    /// The sealed directory and the block sums out of the last bytes of the pack; `None` if `tail` is shorter than
    /// [`Self::tail_len`].
    pub fn split_tail<'a>(&self, tail: &'a [u8]) -> Option<(&'a [u8], &'a [u8])> {
        let start = tail.len().checked_sub(usize::try_from(self.tail_len()).ok()?)?;
        let (directory, rest) = tail.get(start..)?.split_at_checked(self.directory_len as usize)?;
        let (sums, _trailer) = rest.split_at_checked(self.sums_len as usize)?;
        Some((directory, sums))
    }
}

/// Reads the trailer off the last bytes of a pack of `total_len` bytes; `tail` may be longer than the trailer. Lengths
/// returned are within the limits and add up.
pub fn parse_trailer(tail: &[u8], total_len: u64) -> Result<Trailer, Error> {
    let bytes = tail
        .last_chunk::<TRAILER_LEN>()
        .ok_or_else(|| Error::damaged("pack trailer", "the pack is shorter than a trailer"))?;
    let mut end = Reader::new("pack trailer", &bytes[TRAILER_LEN - 8..]);
    let version = end.u16()?;
    let suite = end.u16()?;
    end.magic(TRAILER_MAGIC)?;
    // The magic is last, so that a cut pack is seen before its version is believed.
    if version != FORMAT {
        return Err(Error::UnknownVersion {
            what: "pack trailer",
            version,
        });
    }
    if suite != SUITE {
        return Err(Error::UnknownSuite {
            what: "pack trailer",
            suite,
        });
    }
    let mut reader = Reader::new("pack trailer", bytes);
    let trailer = Trailer {
        body_len: reader.u64()?,
        directory_len: reader.u64()?,
        sums_len: reader.u64()?,
        header_hash: Hash32(reader.array()?),
        directory_hash: Hash32(reader.array()?),
        sums_hash: Hash32(reader.array()?),
    };
    if !trailer.lengths_are_possible() || trailer.total_len() != total_len {
        return Err(reader.damaged("its lengths are not those of the pack"));
    }
    Ok(trailer)
}

impl Trailer {
    fn lengths_are_possible(&self) -> bool {
        let Some(directory_plain_len) = self.directory_len.checked_sub(TAG_LEN as u64) else {
            return false;
        };
        self.body_len <= BODY_LEN_MAX as u64
            && padme::is_padme(self.body_len)
            && directory_plain_len <= DIRECTORY_PLAIN_MAX as u64
            && padme::is_padme(directory_plain_len)
            && self.sums_len == self.body_len.div_ceil(BLOCK_LEN as u64) * SUM_LEN as u64
    }
}

/// Opens a pack's directory from its parts, checking all hashes before any key is used.
pub fn open_directory(
    secrets: &Secrets,
    name: &PackName,
    header: &[u8],
    trailer: &Trailer,
    directory: &[u8],
    sums: &[u8],
) -> Result<Directory, Error> {
    let header_bytes: &[u8; HEADER_LEN] = header
        .first_chunk()
        .ok_or_else(|| Error::damaged("pack header", "it ends early"))?;
    if Hash32::of(header_bytes) != trailer.header_hash {
        return Err(Error::damaged("pack header", "it does not match its hash"));
    }
    if Hash32::of(sums) != trailer.sums_hash {
        return Err(Error::damaged("pack block sums", "they do not match their hash"));
    }
    if Hash32::of(directory) != trailer.directory_hash {
        return Err(Error::damaged("pack directory", "it does not match its hash"));
    }
    let header = parse_header(header_bytes)?;
    if header.repository != secrets.repository() {
        return Err(Error::Foreign {
            what: WHAT,
            owner: "repository",
        });
    }
    if header.id != name.id {
        return Err(Error::Foreign {
            what: WHAT,
            owner: "name",
        });
    }
    check_commitment(secrets, Section::Directory, &header.birth())?;
    let key = secrets.key_for(
        Section::Directory,
        header.directory_epoch,
        label::DIRECTORY,
        &header.id.0,
    )?;
    let aad = directory_aad(header_bytes, name, &trailer.sums_hash);
    let mut sealed = Zeroizing::new(directory.to_vec());
    let plain = SealingKey::new(&key)
        .open(Nonce::counter(0), &aad, &mut sealed)
        .map_err(|_| Error::damaged("pack directory", "it is not the one sealed for this pack and name"))?;
    Directory::decode(plain, &header, trailer.body_len)
}

/// Bytes to read from the end of a pack of `pack_len` bytes to have trailer, sums and directory, most likely: an entry for
/// every quarter of an average chunk, since chunks compress.
pub fn tail_guess(pack_len: u64, chunk_avg: u32) -> u64 {
    let sums = pack_len.div_ceil(BLOCK_LEN as u64) * SUM_LEN as u64;
    let entries = pack_len / u64::from(chunk_avg / 4).max(1);
    // Directories are padded by up to an eighth.
    let directory = entries.min(ENTRIES_MAX as u64) * Entry::LEN as u64 * 9 / 8;
    (sums + directory).max(PACK_TAIL_GUESS).min(pack_len)
}

/// The header that a pack has, without reading it: what it says is one of a few things for these secrets, and the trailer
/// has its hash. `None` if it says something else.
pub fn restore_header(secrets: &Secrets, name: &PackName, trailer: &Trailer) -> Option<[u8; HEADER_LEN]> {
    let commitment = |section, epoch, label| {
        let secret = secrets.key_for(section, epoch, label, &name.id.0).ok()?;
        Some((epoch, *secret.expose()))
    };
    let no_data = std::iter::once((0, [0; 32]));
    let data = (secrets.data_epochs()).filter_map(|epoch| commitment(Section::Data, epoch, label::DATA_COMMIT));
    let data: Vec<_> = data.chain(no_data).collect();
    let directory =
        (secrets.directory_epochs()).filter_map(|epoch| commitment(Section::Directory, epoch, label::DIRECTORY_COMMIT));
    for (directory_epoch, directory_commitment) in directory {
        for (data_epoch, data_commitment) in &data {
            for kind in [PackKind::Chunk, PackKind::Commit] {
                let header = PackHeader {
                    kind,
                    repository: secrets.repository(),
                    id: name.id,
                    data_epoch: *data_epoch,
                    data_commitment: *data_commitment,
                    directory_epoch,
                    directory_commitment,
                };
                let bytes = header.encode();
                if Hash32::of(&bytes) == trailer.header_hash {
                    return Some(bytes);
                }
            }
        }
    }
    None
}

/// Opens the directory of a pack that is wholly in memory.
pub fn open_pack_directory(secrets: &Secrets, name: &PackName, pack: &[u8]) -> Result<Directory, Error> {
    let (trailer, directory, sums) = split_pack(pack)?;
    open_directory(secrets, name, pack, &trailer, directory, sums)
}

/// Opens the directory of a pack that is wholly in memory and checks its blocks: everything that can be checked without
/// opening its blobs.
pub fn verify_pack(secrets: &Secrets, name: &PackName, pack: &[u8]) -> Result<Directory, Error> {
    let (trailer, directory, sums) = split_pack(pack)?;
    let opened = open_directory(secrets, name, pack, &trailer, directory, sums)?;
    verify_block_sums(sums, 0, &pack[..trailer.body_len as usize])?;
    Ok(opened)
}

/// Trailer, sealed directory, block sums.
fn split_pack(pack: &[u8]) -> Result<(Trailer, &[u8], &[u8]), Error> {
    let trailer = parse_trailer(pack, pack.len() as u64)?;
    let (directory, sums) = trailer
        .split_tail(pack)
        .expect("the trailer's lengths are those of the pack");
    Ok((trailer, directory, sums))
}

/// Compares a commitment of a birth with the keys at hand: without a match no key is tried.
fn check_commitment(secrets: &Secrets, section: Section, birth: &Birth) -> Result<(), Error> {
    let (epoch, label, stored) = match section {
        Section::Data => (birth.data_epoch, label::DATA_COMMIT, &birth.data_commitment),
        Section::Directory => (
            birth.directory_epoch,
            label::DIRECTORY_COMMIT,
            &birth.directory_commitment,
        ),
    };
    let commitment = secrets.key_for(section, epoch, label, &birth.pack.0)?;
    if bool::from(commitment.expose().ct_eq(stored)) {
        Ok(())
    } else {
        Err(Error::CommitmentMismatch { what: WHAT })
    }
}

/// Indices of the blocks in `bytes` that do not match their sums. `bytes` is a run of the body of a pack that starts at
/// `offset`, a multiple of [`BLOCK_LEN`], and ends at a multiple or with the body; `sums` come from a pack whose directory
/// was opened, which authenticates them.
pub fn damaged_blocks<'a>(sums: &'a [u8], offset: u64, bytes: &'a [u8]) -> impl Iterator<Item = u64> + 'a {
    let first = offset / BLOCK_LEN as u64;
    let (sums, _) = sums.as_chunks::<SUM_LEN>();
    (first..)
        .zip(bytes.chunks(BLOCK_LEN))
        .filter_map(move |(index, block)| {
            let sum = usize::try_from(index).ok().and_then(|index| sums.get(index));
            (sum != Some(blake3::hash(block).as_bytes())).then_some(index)
        })
}

/// Checks a run of blocks: [`Error::DamagedBlock`] names the first that does not match. Arguments as for
/// [`damaged_blocks`].
pub fn verify_block_sums(sums: &[u8], offset: u64, bytes: &[u8]) -> Result<(), Error> {
    if !offset.is_multiple_of(BLOCK_LEN as u64) {
        return Err(Error::damaged("pack block sums", "a range does not start at a block"));
    }
    match damaged_blocks(sums, offset, bytes).next() {
        None => Ok(()),
        Some(block) => Err(Error::DamagedBlock { block }),
    }
}

/// Associated data of a blob: everything that says what it is, so that no blob passes for another.
fn blob_aad(repository: &RepositoryId, birth: &Birth, entry: &Entry) -> [u8; BLOB_AAD_LEN] {
    let epoch = match entry.kind {
        BlobKind::Data => birth.data_epoch,
        BlobKind::Leaf | BlobKind::Root => birth.directory_epoch,
    };
    let mut bytes = [0; BLOB_AAD_LEN];
    let mut out = bytes.as_mut_slice();
    out.put_slice(BLOB_TAG);
    out.put_u16_le(birth.format);
    out.put_u16_le(birth.suite);
    out.put_u8(entry.kind as u8);
    out.put_slice(&repository.0);
    out.put_slice(&birth.pack.0);
    out.put_u64_le(epoch);
    out.put_u32_le(entry.ordinal);
    out.put_u8(entry.codec as u8);
    out.put_u32_le(entry.plain_len);
    out.put_slice(&entry.id.0);
    bytes
}

/// Associated data of a directory: the clear parts and the name, so that none of them can be exchanged.
fn directory_aad(header: &[u8; HEADER_LEN], name: &PackName, sums_hash: &Hash32) -> [u8; DIRECTORY_AAD_LEN] {
    let mut bytes = [0; DIRECTORY_AAD_LEN];
    let mut out = bytes.as_mut_slice();
    out.put_slice(DIRECTORY_TAG);
    out.put_slice(header);
    name.encode(&mut out);
    out.put_slice(&sums_hash.0);
    bytes
}

/// Opens blobs that were sealed in one pack, wherever they are now.
pub struct BlobOpener {
    secrets: Secrets,
    birth: Birth,
    data: OnceLock<Result<SealingKey, Error>>,
    manifest: OnceLock<Result<SealingKey, Error>>,
}

impl BlobOpener {
    /// Checks the birth's commitments against the secrets; keys are derived when first needed. A maintenance role gets an
    /// opener for manifests alone.
    pub fn new(secrets: &Secrets, birth: &Birth) -> Result<Self, Error> {
        check_commitment(secrets, Section::Directory, birth)?;
        if secrets.has_data() && birth.data_epoch != 0 {
            check_commitment(secrets, Section::Data, birth)?;
        }
        Ok(Self {
            secrets: secrets.clone(),
            birth: *birth,
            data: OnceLock::new(),
            manifest: OnceLock::new(),
        })
    }

    /// Opens a blob in place: the compressed bytes. The caller decompresses them and checks the id.
    pub fn open<'a>(&self, entry: &Entry, sealed: &'a mut [u8]) -> Result<&'a mut [u8], Error> {
        let (key, aad) = self.key_for(entry, sealed.len())?;
        key.open(Nonce::counter(entry.ordinal), &aad, sealed)
            .map_err(|_| Self::not_described())
    }

    /// As [`open`](Self::open), but fills `out`, which has the length of the compressed bytes; `sealed` stays as it is.
    pub fn open_into(&self, entry: &Entry, sealed: &[u8], out: &mut [u8]) -> Result<(), Error> {
        let (key, aad) = self.key_for(entry, sealed.len())?;
        key.open_into(Nonce::counter(entry.ordinal), &aad, sealed, out)
            .map_err(|_| Self::not_described())
    }

    fn key_for(&self, entry: &Entry, sealed_len: usize) -> Result<(&SealingKey, [u8; BLOB_AAD_LEN]), Error> {
        if sealed_len as u64 != u64::from(entry.stored_len) {
            return Err(Error::damaged("blob", "it does not have its stored length"));
        }
        let aad = blob_aad(&self.secrets.repository(), &self.birth, entry);
        Ok((self.key(entry.kind)?, aad))
    }

    fn not_described() -> Error {
        Error::damaged("blob", "it is not the one its entry describes")
    }

    fn key(&self, kind: BlobKind) -> Result<&SealingKey, Error> {
        let (slot, section, epoch, label) = match kind {
            BlobKind::Data => (&self.data, Section::Data, self.birth.data_epoch, label::DATA),
            BlobKind::Leaf | BlobKind::Root => (
                &self.manifest,
                Section::Directory,
                self.birth.directory_epoch,
                label::MANIFEST,
            ),
        };
        slot.get_or_init(|| {
            let secret = self.secrets.key_for(section, epoch, label, &self.birth.pack.0)?;
            Ok(SealingKey::new(&secret))
        })
        .as_ref()
        .map_err(Clone::clone)
    }
}

/// A pack, finished: to be put as it is, once.
#[derive(Debug)]
pub struct FinishedPack {
    /// Its name.
    pub name: PackName,
    /// Whether it is an entry of the log.
    pub kind: PackKind,
    /// The whole object. Kept for a retry: a pack is never put a second time with other bytes.
    pub bytes: PackBuffer,
    /// BLAKE3 of its trailer.
    pub trailer_hash: Hash32,
    /// What it contains.
    pub directory: Directory,
}

/// An open pack: blobs are sealed into its buffer one after the other.
///
/// Never allocates for a blob but its entry, if the buffer has room for the target.
pub struct PackWriter {
    name: PackName,
    repository: RepositoryId,
    /// As if data will be born here; what is written is decided at the end.
    header: PackHeader,
    data_key: Option<SealingKey>,
    manifest_key: SealingKey,
    directory_key: SealingKey,
    /// Room for the header, then blobs.
    buffer: PackBuffer,
    body_target: usize,
    ordinal_next: u32,
    data_was_born: bool,
    entries: Vec<Entry>,
    births: Vec<Birth>,
    birth_rows: HashMap<PackId, u16>,
    moved: HashSet<(u16, u32)>,
}

impl PackWriter {
    /// Starts a pack with a fresh random id, under the newest epochs. `buffer` is cleared and reused, best with
    /// [`Self::buffer_capacity`]; the target is lowered to a Padmé size, so that a full pack needs little padding.
    pub fn new(secrets: &Secrets, name: PackName, mut buffer: PackBuffer, target_bytes: usize) -> Self {
        let key = |section, epoch, label| secrets.key_for(section, epoch, label, &name.id.0);
        let directory_epoch = secrets.directory_epoch();
        let structure = |label| {
            key(Section::Directory, directory_epoch, label).expect("a keyring has the newest of its own epochs")
        };
        let data_epoch = secrets.data_epoch();
        let data_key = key(Section::Data, data_epoch, label::DATA).ok();
        let data_commitment = key(Section::Data, data_epoch, label::DATA_COMMIT).ok();
        let header = PackHeader {
            kind: PackKind::Chunk,
            repository: secrets.repository(),
            id: name.id,
            data_epoch,
            data_commitment: data_commitment.map_or([0; 32], |commitment| *commitment.expose()),
            directory_epoch,
            directory_commitment: *structure(label::DIRECTORY_COMMIT).expose(),
        };
        buffer.clear();
        buffer.resize(HEADER_LEN);
        let births = vec![header.birth()];
        Self {
            name,
            repository: secrets.repository(),
            header,
            data_key: data_key.as_ref().map(SealingKey::new),
            manifest_key: SealingKey::new(&structure(label::MANIFEST)),
            directory_key: SealingKey::new(&structure(label::DIRECTORY)),
            buffer,
            body_target: padme::padme_below(target_bytes.min(BODY_LEN_MAX) as u64) as usize,
            ordinal_next: 0,
            data_was_born: false,
            entries: Vec::new(),
            births,
            birth_rows: HashMap::from([(name.id, 0)]),
            moved: HashSet::new(),
        }
    }

    /// Capacity with which a buffer never grows, unless the directory is far longer than usual.
    pub const fn buffer_capacity(target_bytes: usize) -> usize {
        target_bytes + PACK_TAIL_GUESS as usize
    }

    /// The name it will have.
    pub fn name(&self) -> &PackName {
        &self.name
    }

    /// Blobs so far.
    pub fn entries(&self) -> &[Entry] {
        &self.entries
    }

    /// Bytes of the body so far, without padding.
    pub fn stored_len(&self) -> usize {
        self.buffer.len()
    }

    /// The most that the whole pack has if it is finished now, without records of a commit.
    pub fn len_max(&self) -> u64 {
        // More than what stands before the tables in a directory, and between them.
        const FIXED: usize = 64;
        let body_len = padme::padme(self.buffer.len() as u64);
        let tables_len = FIXED + self.births.len() * Birth::LEN + self.entries.len() * Entry::LEN;
        let sums_len = body_len.div_ceil(BLOCK_LEN as u64) * SUM_LEN as u64;
        body_len + padme::padme(tables_len as u64) + (TAG_LEN + TRAILER_LEN) as u64 + sums_len
    }

    /// Whether it has no blob yet.
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// Whether one more blob of `compressed_len` bytes keeps the pack within its target. An empty pack takes any one blob
    /// that fits a pack at all.
    pub fn fits(&self, compressed_len: usize) -> bool {
        let body_limit = if self.is_empty() {
            BODY_LEN_MAX
        } else {
            self.body_target
        };
        let tables_len = (self.births.len() + 1) * Birth::LEN + (self.entries.len() + 1) * Entry::LEN;
        compressed_len <= BODY_LEN_MAX
            && self.buffer.len() + compressed_len + TAG_LEN <= body_limit
            && self.entries.len() < ENTRIES_MAX
            && tables_len <= TABLES_LEN_MAX
    }

    /// Seals `compressed` (bytes as they came from the compressor) into the pack and adds its entry; the entry's index.
    ///
    /// # Panics
    /// If it does not [fit a pack](Self::fits) at all, is empty, or is data and the secrets have no data part.
    pub fn push(&mut self, id: ChunkId, kind: BlobKind, codec: Codec, plain_len: u32, compressed: &[u8]) -> u32 {
        let ordinal = self.ordinal_next;
        assert!(
            ordinal < ENTRIES_MAX as u32,
            "a pack is closed before its ordinals run out"
        );
        self.ordinal_next += 1;
        let mut entry = Entry {
            id,
            kind,
            codec,
            plain_len,
            ordinal,
            birth: 0,
            offset: 0,
            stored_len: 0,
        };
        let start = self.append(&mut entry, compressed, TAG_LEN);
        let aad = blob_aad(&self.repository, &self.births[0], &entry);
        let key = match kind {
            BlobKind::Data => {
                self.data_was_born = true;
                self.data_key
                    .as_ref()
                    .expect("who stores data holds the data part of the keyring")
            }
            BlobKind::Leaf | BlobKind::Root => &self.manifest_key,
        };
        let tag = key.seal(Nonce::counter(ordinal), &aad, &mut self.buffer[start..]);
        self.buffer.extend_from_slice(&tag);
        self.add(entry)
    }

    /// Takes a blob over from another pack as it is: ciphertext, ordinal and birth are kept for life. `entry` and `birth`
    /// are those of the pack it comes from, `sealed` its stored bytes, of which the caller has verified the block sums.
    ///
    /// # Panics
    /// If the blob is here already, or does not [fit a pack](Self::fits) at all.
    pub fn push_moved(&mut self, entry: &Entry, birth: &Birth, sealed: &[u8]) -> u32 {
        assert_eq!(sealed.len(), entry.stored_len as usize, "a moved blob keeps its length");
        let mut entry = Entry {
            birth: self.birth_row(birth),
            ..*entry
        };
        assert!(
            self.moved.insert((entry.birth, entry.ordinal)),
            "a blob is moved into a pack once"
        );
        self.append(&mut entry, sealed, 0);
        self.add(entry)
    }

    fn birth_row(&mut self, birth: &Birth) -> u16 {
        assert_ne!(
            birth.pack, self.name.id,
            "a blob is not moved into the pack it was born in"
        );
        if let Some(&row) = self.birth_rows.get(&birth.pack) {
            assert_eq!(&self.births[usize::from(row)], birth, "a pack was born once");
            return row;
        }
        let row = u16::try_from(self.births.len()).expect("a full table has fewer than 65 536 births");
        self.births.push(*birth);
        self.birth_rows.insert(birth.pack, row);
        row
    }

    /// Copies a blob behind the others and fills in its place; where it starts in the buffer.
    fn append(&mut self, entry: &mut Entry, bytes: &[u8], tag_len: usize) -> usize {
        let start = self.buffer.len();
        let end = start + bytes.len() + tag_len;
        assert!(end <= BODY_LEN_MAX, "a pack's body is at most {BODY_LEN_MAX} bytes");
        assert!(
            !bytes.is_empty() && entry.plain_len <= BLOB_PLAIN_MAX,
            "a blob has a length within its limits"
        );
        entry.offset = start as u32;
        entry.stored_len = (end - start) as u32;
        self.buffer.extend_from_slice(bytes);
        start
    }

    fn add(&mut self, entry: Entry) -> u32 {
        let index = self.entries.len();
        assert!(index < ENTRIES_MAX, "a pack has at most {ENTRIES_MAX} entries");
        self.entries.push(entry);
        index as u32
    }

    /// Closes the pack: pads it, sums its blocks, seals its directory. With a commit section it becomes an entry of the
    /// log. `random_padding` fills its argument with random bytes.
    pub fn finish(mut self, commit: Option<CommitSection>, random_padding: impl FnOnce(&mut [u8])) -> FinishedPack {
        self.header.kind = if commit.is_some() {
            PackKind::Commit
        } else {
            PackKind::Chunk
        };
        if !self.data_was_born {
            self.header.data_epoch = 0;
            self.header.data_commitment = [0; 32];
        }
        self.births[0] = self.header.birth();
        let header = self.header.encode();
        let directory = Directory {
            births: self.births,
            entries: self.entries,
            commit,
        };

        let mut bytes = self.buffer;
        bytes[..HEADER_LEN].copy_from_slice(&header);
        let blobs_end = bytes.len();
        let body_len = padme::padme(blobs_end as u64) as usize;
        bytes.resize(body_len);
        random_padding(&mut bytes[blobs_end..]);
        let sums: Vec<u8> = bytes
            .chunks(BLOCK_LEN)
            .flat_map(|block| *blake3::hash(block).as_bytes())
            .collect();
        let sums_hash = Hash32::of(&sums);

        directory.encode(bytes.end());
        let aad = directory_aad(&header, &self.name, &sums_hash);
        let tag = self.directory_key.seal(Nonce::counter(0), &aad, &mut bytes[body_len..]);
        bytes.extend_from_slice(&tag);
        let trailer = Trailer {
            body_len: body_len as u64,
            directory_len: (bytes.len() - body_len) as u64,
            sums_len: sums.len() as u64,
            header_hash: Hash32::of(&header),
            directory_hash: Hash32::of(&bytes[body_len..]),
            sums_hash,
        };
        assert!(trailer.lengths_are_possible(), "a pack is written as it is read");
        bytes.extend_from_slice(&sums);
        bytes.extend_from_slice(&trailer.encode());
        FinishedPack {
            name: self.name,
            kind: self.header.kind,
            bytes,
            trailer_hash: trailer.hash(),
            directory,
        }
    }
}

#[cfg(test)]
#[path = "pack/tests.rs"]
mod tests;
