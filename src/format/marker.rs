//! The two small files in clear: `metadata.yaml`, which tells a person what the directory is, and owner files, whose
//! existence is what counts.

use bytes::BufMut;
use serde::Deserialize;

use super::names::Hash32;
use super::wire::Reader;
use super::{Error, FORMAT};
use crate::codec::RepositoryId;

/// Length of an owner file.
pub const OWNER_LEN: usize = 4 + 2 + 2 + 16 + 8 + INSTANCE_DIGITS + 32;

const METADATA_LEN_MAX: usize = 64 * 1024;
const METADATA_WHAT: &str = "metadata.yaml";
const OWNER_MAGIC: &[u8; 4] = b"CRNO";
const OWNER_WHAT: &str = "owner file";
const INSTANCE_DIGITS: usize = 32;

/// What `metadata.yaml` says. Informative: nothing in it changes behaviour, the keyrings are what counts.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Metadata {
    /// The store's random id.
    pub store_id: [u8; 16],
    /// When the store was made, RFC 3339.
    pub created: String,
}

/// The file as YAML, before its values are looked at. A later version may add fields.
#[derive(Deserialize)]
struct RawMetadata {
    format: u16,
    store_id: String,
    created: String,
}

impl Metadata {
    /// The bytes of the file.
    pub fn encode(&self) -> Vec<u8> {
        let store_id = hex::encode(self.store_id);
        format!(
            "# A backing store of Cairn. For people only: what counts is in the keyrings.\n\
             format: {FORMAT}\n\
             store_id: \"{store_id}\"\n\
             created: \"{}\"\n",
            self.created
        )
        .into_bytes()
    }

    /// Reads the file.
    pub fn parse(bytes: &[u8]) -> Result<Self, Error> {
        let damaged = |problem| Error::damaged(METADATA_WHAT, problem);
        if bytes.len() > METADATA_LEN_MAX {
            return Err(damaged("it is too long"));
        }
        let raw: RawMetadata =
            serde_norway::from_slice(bytes).map_err(|_| damaged("it is not YAML with the fields it must have"))?;
        if raw.format != FORMAT {
            return Err(Error::UnknownVersion {
                what: METADATA_WHAT,
                version: raw.format,
            });
        }
        let mut store_id = [0; 16];
        hex::decode_to_slice(&raw.store_id, &mut store_id)
            .map_err(|_| damaged("its store id is not 32 hexadecimal digits"))?;
        Ok(Self {
            store_id,
            created: raw.created,
        })
    }
}

/// A claim to an owner epoch. A file that does not parse has claimed its epoch all the same.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Owner {
    /// The repository claimed.
    pub repository: RepositoryId,
    /// The epoch claimed.
    pub epoch: u64,
    /// Random id of the process that claims it: read back, it tells who won.
    pub instance: [u8; 16],
}

impl Owner {
    /// The bytes of the file.
    pub fn encode(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(OWNER_LEN);
        out.put_slice(OWNER_MAGIC);
        out.put_u16_le(FORMAT);
        out.put_u16_le(0);
        out.put_slice(&self.repository.0);
        out.put_u64_le(self.epoch);
        out.put_slice(hex::encode(self.instance).as_bytes());
        let sum = Hash32::of(&out);
        out.put_slice(&sum.0);
        out
    }

    /// Reads the file.
    pub fn parse(bytes: &[u8]) -> Result<Self, Error> {
        let mut reader = Reader::new(OWNER_WHAT, bytes);
        reader.magic(OWNER_MAGIC)?;
        reader.format()?;
        reader.zeros(2)?;
        let repository = RepositoryId(reader.array()?);
        let epoch = reader.u64()?;
        let digits = reader.take(INSTANCE_DIGITS)?;
        let mut instance = [0; 16];
        hex::decode_to_slice(digits, &mut instance)
            .map_err(|_| reader.damaged("its instance id is not hexadecimal"))?;
        // The crate takes upper case too; there is one spelling, as of names.
        if digits.iter().any(u8::is_ascii_uppercase) {
            return Err(reader.damaged("its instance id is not in lower case"));
        }
        let summed = &bytes[..bytes.len() - reader.remaining()];
        if Hash32::of(summed).0 != reader.array::<32>()? {
            return Err(reader.damaged("it does not match its hash"));
        }
        reader.end()?;
        Ok(Self {
            repository,
            epoch,
            instance,
        })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn metadata_reads_back_and_is_plain_yaml() {
        // An id of digits only must not turn into a number.
        let metadata = Metadata {
            store_id: [0x11; 16],
            created: "2026-01-02T03:04:05Z".into(),
        };
        assert_eq!(Metadata::parse(&metadata.encode()), Ok(metadata));
        let later = b"format: 2\nstore_id: \"00\"\ncreated: x\n";
        assert_eq!(
            Metadata::parse(later),
            Err(Error::UnknownVersion {
                what: "metadata.yaml",
                version: 2
            })
        );
        assert!(Metadata::parse(b"").is_err());
    }

    #[test]
    fn a_torn_owner_file_does_not_parse() {
        let owner = Owner {
            repository: RepositoryId([7; 16]),
            epoch: 3,
            instance: [9; 16],
        };
        let file = owner.encode();
        assert_eq!(file.len(), OWNER_LEN);
        assert_eq!(Owner::parse(&file), Ok(owner));
        for len in 0..file.len() {
            assert!(Owner::parse(&file[..len]).is_err(), "{len}");
            let mut zeroed = file.clone();
            zeroed[len..].fill(0);
            assert!(Owner::parse(&zeroed).is_err(), "{len}");
        }
    }

    #[test]
    fn an_instance_id_has_one_spelling() {
        let owner = Owner {
            repository: RepositoryId([7; 16]),
            epoch: 3,
            instance: [0xab; 16],
        };
        let file = owner.encode();
        let mut body = file[..OWNER_LEN - 32].to_vec();
        body[OWNER_LEN - 32 - INSTANCE_DIGITS..].make_ascii_uppercase();
        let upper = [body.as_slice(), &Hash32::of(&body).0].concat();
        assert_ne!(upper, file);
        assert!(Owner::parse(&upper).is_err());
    }

    proptest! {
        #[test]
        fn no_bytes_panic(bytes: Vec<u8>) {
            let _ = (Owner::parse(&bytes), Metadata::parse(&bytes));
        }
    }
}
