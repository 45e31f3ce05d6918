//! What keeps the catalog's files silent about what is stored: keys of rows are keyed hashes or numbers that the store
//! shows anyway, values are sealed and bound to their table and key.
//!
//! Chunk ids and names are hashed by keys of their own kind, so equal bytes in both roles give unrelated row keys. The
//! nonce is the row key itself: a row that is written again re-uses it, which AES-GCM-SIV is made for; all that shows is
//! whether the row is the same as before.

use std::fmt;
use std::ops::Deref;

use aes::Aes256;
use aes::cipher::{BlockCipherEncrypt, KeyInit};
use hmac::{Hmac, Mac};
use sha2::Sha256;

use crate::codec::{ChunkId, SivKey, TAG_LEN};
use crate::format::{CatalogKeys, PackNumber};

use super::error::Error;
use super::numbers::Prefix;
use super::tables::Table;

const NONCE_LEN: usize = 12;

/// The longest row key: a marker of dirty packs.
const ROW_KEY_LEN_MAX: usize = 17;

/// The key of a row within its table and repository. Small, so that it lives where it is used.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RowKey {
    // Ordered and compared as the bytes are: what follows `len` is zero, and a shorter key sorts before a longer one.
    bytes: [u8; ROW_KEY_LEN_MAX],
    len: u8,
}

impl RowKey {
    /// A key of at most 17 bytes.
    pub(super) fn new(parts: &[&[u8]]) -> Self {
        let mut bytes = [0; ROW_KEY_LEN_MAX];
        let mut len = 0;
        for part in parts {
            bytes[len..len + part.len()].copy_from_slice(part);
            len += part.len();
        }
        Self { bytes, len: len as u8 }
    }

    pub(super) fn pack(number: PackNumber) -> Self {
        Self::new(&[&number.to_bytes()])
    }

    pub(super) fn number(number: u64) -> Self {
        Self::new(&[&number.to_be_bytes()])
    }

    /// A key as the tables gave it.
    pub(super) fn from_stored(table: Table, bytes: &[u8]) -> Result<Self, Error> {
        if bytes.len() > ROW_KEY_LEN_MAX {
            return Err(Error::Row {
                table,
                problem: "its key is too long",
            });
        }
        Ok(Self::new(&[bytes]))
    }

    /// The bytes of the key.
    pub fn as_bytes(&self) -> &[u8] {
        &self.bytes[..usize::from(self.len)]
    }

    fn nonce(&self) -> [u8; NONCE_LEN] {
        *self
            .bytes
            .first_chunk()
            .expect("a row key has room for more than a nonce")
    }
}

impl fmt::Debug for RowKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "RowKey({})", hex::encode(self.as_bytes()))
    }
}

/// The key of a row within its table, behind what stands for its repository.
pub(super) struct StoredKey {
    bytes: [u8; Self::LEN_MAX],
    len: usize,
}

impl StoredKey {
    const LEN_MAX: usize = Prefix::LEN_MAX + ROW_KEY_LEN_MAX;
}

impl Deref for StoredKey {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        &self.bytes[..self.len]
    }
}

/// The keys of one repository's rows.
pub struct RowSealer {
    prefix: Prefix,
    chunk: Aes256,
    name: Hmac<Sha256>,
    row: SivKey,
}

impl RowSealer {
    pub(super) fn new(prefix: Prefix, keys: &CatalogKeys) -> Self {
        Self {
            prefix,
            chunk: Aes256::new(keys.chunk.expose().into()),
            name: Hmac::new_from_slice(keys.name.expose()).expect("HMAC takes keys of any length"),
            row: SivKey::new(&keys.row),
        }
    }

    /// The row key of a chunk, a leaf or a root. The first half of an id is enough to find it; the row repeats it whole.
    pub(super) fn chunk_key(&self, id: &ChunkId) -> RowKey {
        let first_half: &[u8; 16] = id.0.first_chunk().expect("an id has 32 bytes");
        let mut block = (*first_half).into();
        self.chunk.encrypt_block(&mut block);
        RowKey::new(&[&block])
    }

    /// The hash that stands for a name, or for a put id.
    pub(super) fn name_hash(&self, name: &[u8]) -> [u8; 16] {
        let hash: [u8; 32] = self.name.clone().chain_update(name).finalize().into_bytes().into();
        *hash.first_chunk().expect("a hash has 32 bytes")
    }

    /// The key under which the tables keep the row.
    pub(super) fn stored_key(&self, key: &RowKey) -> StoredKey {
        let (prefix, key) = (self.prefix.as_bytes(), key.as_bytes());
        let mut bytes = [0; StoredKey::LEN_MAX];
        bytes[..prefix.len()].copy_from_slice(prefix);
        let len = prefix.len() + key.len();
        bytes[prefix.len()..len].copy_from_slice(key);
        StoredKey { bytes, len }
    }

    /// What every key of this repository starts with.
    pub(super) fn stored_prefix(&self) -> &[u8] {
        self.prefix.as_bytes()
    }

    /// Seals the encoded row, in place.
    pub(super) fn seal(&self, table: Table, key: &RowKey, mut row: Vec<u8>) -> Vec<u8> {
        let tag = self
            .row
            .seal(key.nonce(), associated_data(table, key).as_bytes(), &mut row);
        row.extend_from_slice(&tag);
        row
    }

    /// Opens what [`RowSealer::seal`] gave, in place.
    pub(super) fn open(&self, table: Table, key: &RowKey, mut sealed: Vec<u8>) -> Result<Vec<u8>, Error> {
        let damaged = |problem| Error::Row { table, problem };
        let len = sealed
            .len()
            .checked_sub(TAG_LEN)
            .ok_or_else(|| damaged("it is cut short"))?;
        let (row, tag) = sealed.split_at_mut(len);
        let tag: &[u8; TAG_LEN] = (&*tag).try_into().expect("the tag was split off by its length");
        self.row
            .open(key.nonce(), associated_data(table, key).as_bytes(), row, tag)
            .map_err(|_| damaged("it does not authenticate"))?;
        sealed.truncate(len);
        Ok(sealed)
    }
}

/// Table and row key, in one piece.
struct AssociatedData {
    bytes: [u8; 1 + ROW_KEY_LEN_MAX],
    len: usize,
}

impl AssociatedData {
    fn as_bytes(&self) -> &[u8] {
        &self.bytes[..self.len]
    }
}

fn associated_data(table: Table, key: &RowKey) -> AssociatedData {
    let mut bytes = [0; 1 + ROW_KEY_LEN_MAX];
    bytes[0] = table as u8;
    bytes[1..].copy_from_slice(&key.bytes);
    AssociatedData {
        bytes,
        len: 1 + usize::from(key.len),
    }
}
