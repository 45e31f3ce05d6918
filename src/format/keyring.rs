//! The keyring: a repository's secrets, wrapped by a KEK; and every key derived from them. Owns the file's bytes, the
//! labels of all derivations and which section a key hangs on; where KEKs come from is unknown here.
//!
//! ```text
//! clear header                          names, KEK id, per section: salt, commitment, wrapped W, sealed length
//! BLAKE3 of sealed section 1, 2         outside the associated data, since they depend on it
//! BLAKE3 of all the above
//! sealed section 1 (data) · sealed section 2 (directory)       associated data: the clear header
//! ```
//!
//! Hashes are checked first and commitments next, so that damage and a wrong key are told apart.

use std::collections::BTreeMap;
use std::fmt;
use std::ops::Range;
use std::sync::Arc;

use bytes::BufMut;
use subtle::ConstantTimeEq;
use zeroize::{Zeroize, ZeroizeOnDrop, Zeroizing};

use super::names::{Hash32, RepositoryName};
use super::record::put_text;
use super::wire::Reader;
use super::{Error, FORMAT, SUITE};
use crate::codec::chunker::NORMALISATION;
use crate::codec::{
    ChunkSizes, Codec, GearTable, IdKey, Level, Nonce, RepositoryId, SealingKey, Secret, TAG_LEN, derive, derive_into,
};

/// Longest keyring file: some 26 000 epochs.
pub const KEYRING_LEN_MAX: usize = 1 << 20;
/// Longest KEK id, in bytes.
pub const KEK_ID_LEN_MAX: usize = 1024;
/// Generation of a repository's first keyring.
pub const FIRST_GENERATION: u64 = 1;
/// Number of the first data and directory secret; 0 stands for "none".
pub const FIRST_EPOCH: u64 = 1;

const MAGIC: &[u8; 4] = b"CRNK";
const WHAT: &str = "keyring";
/// W is wrapped by AES-256-GCM under a key derived from a KEK of 32 bytes (a file, the core).
const WRAP_LOCAL: u8 = 1;
const SALT_LEN: usize = 32;
const WRAPPED_LEN: usize = 32 + TAG_LEN;
const EPOCH_LEN: usize = 8 + 32;

/// The label of every derivation but those of packs and checkpoints, which stand with their formats.
mod label {
    pub(super) const WRAP: &str = "wrap";
    pub(super) const WRAP_COMMIT: &str = "wrap commit";
    pub(super) const KEYRING: &str = "keyring";
    pub(super) const CHUNK_ID: &str = "chunk id";
    pub(super) const CUT: &str = "cut";
    pub(super) const LEAF_ID: &str = "leaf id";
    pub(super) const ROOT_ID: &str = "root id";
    pub(super) const CATALOG_CHUNK: &str = "catalog chunk";
    pub(super) const CATALOG_NAME: &str = "catalog name";
    pub(super) const CATALOG_ROW: &str = "catalog row";
}

/// A half of the keyring that can be given away alone.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Section {
    /// What opens users' data.
    Data = 1,
    /// What opens structure: manifests, directories, checkpoints.
    Directory = 2,
}

impl fmt::Display for Section {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Data => "data",
            Self::Directory => "directory",
        })
    }
}

/// A key-encryption key, held outside.
#[derive(Debug, Clone)]
pub struct Kek {
    /// What it is called; stands in clear in keyrings, so that one sees which key is missing.
    pub id: String,
    /// The key.
    pub secret: Secret,
}

/// What is chosen once, when a repository is created.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RepositoryParameters {
    /// What people call it.
    pub name: RepositoryName,
    /// The store it was created in.
    pub store_id: [u8; 16],
    /// Where its streams are cut.
    pub chunk_sizes: ChunkSizes,
    /// How hard its chunks are compressed.
    pub level: Level,
}

macro_rules! seed {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        pub struct $name([u8; 128]);

        impl $name {
            /// Bytes of randomness needed.
            pub const LEN: usize = 128;

            /// Takes bytes fresh from the operating system.
            pub fn from_bytes(mut bytes: [u8; 128]) -> Self {
                let seed = Self(bytes);
                bytes.zeroize();
                seed
            }

            fn part(&self, index: usize) -> [u8; 32] {
                let (parts, _) = self.0.as_chunks::<32>();
                parts[index]
            }

            fn secret(&self, index: usize) -> Secret {
                Secret::from_bytes(self.part(index))
            }
        }

        impl Drop for $name {
            fn drop(&mut self) {
                self.0.zeroize();
            }
        }

        impl ZeroizeOnDrop for $name {}
    };
}

seed! {
    /// Randomness for the secrets of a new repository.
    KeyringSeed
}
seed! {
    /// Randomness for one keyring generation: a wrapped secret W and a salt for each section.
    WrapSeed
}

/// The keys a catalog seals its rows with.
#[derive(Debug, Clone)]
pub struct CatalogKeys {
    /// Encrypts chunk ids into row keys.
    pub chunk: Secret,
    /// Hashes names into row keys.
    pub name: Secret,
    /// Seals row values.
    pub row: Secret,
}

/// Identity and numbered secrets of one section.
#[derive(Clone)]
struct SectionSecrets {
    identity: Secret,
    epochs: BTreeMap<u64, Secret>,
}

impl SectionSecrets {
    fn newest(&self) -> u64 {
        self.epochs.last_key_value().map_or(0, |(&epoch, _)| epoch)
    }

    fn with_next(&self, secret: Secret) -> Self {
        let mut next = self.clone();
        next.epochs.insert(self.newest() + 1, secret);
        next
    }
}

/// What hangs on the data identity.
#[derive(Clone)]
struct Data {
    secrets: SectionSecrets,
    id_key: IdKey,
    gear_table: Arc<GearTable>,
}

impl Data {
    fn new(secrets: SectionSecrets, repository: &RepositoryId) -> Self {
        let mut table = Zeroizing::new([0; 2048]);
        derive_into(&secrets.identity, repository, label::CUT, &[], table.as_mut_slice());
        Self {
            id_key: IdKey::new(&derive(&secrets.identity, repository, label::CHUNK_ID, &[])),
            gear_table: Arc::new(GearTable::from_bytes(&table)),
            secrets,
        }
    }
}

/// A keyring, opened: everything a repository's keys are derived from.
///
/// A maintenance role has no data part: what needs one answers [`Error::KeyMissing`]. A clone shares the same memory.
#[derive(Clone)]
pub struct Secrets(Arc<Opened>);

#[derive(Clone)]
struct Opened {
    repository: RepositoryId,
    parameters: RepositoryParameters,
    generation: u64,
    previous: Hash32,
    data: Option<Data>,
    directory: SectionSecrets,
    leaf_id_key: IdKey,
    root_id_key: IdKey,
}

impl fmt::Debug for Secrets {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Secrets")
            .field("repository", &self.0.repository)
            .field("generation", &self.0.generation)
            .finish_non_exhaustive()
    }
}

impl Secrets {
    /// The secrets of a new repository, with one data and one directory epoch. Not to be used before a keyring with them
    /// was written and read back.
    pub fn create(parameters: RepositoryParameters, repository: RepositoryId, random: KeyringSeed) -> Self {
        let section = |identity, first| SectionSecrets {
            identity: random.secret(identity),
            epochs: BTreeMap::from([(FIRST_EPOCH, random.secret(first))]),
        };
        let shared = Shared {
            repository,
            store_id: parameters.store_id,
            generation: FIRST_GENERATION,
            parameters,
            previous: Hash32::ZERO,
        };
        Self::assemble(shared, Some(section(0, 1)), section(2, 3))
    }

    fn assemble(shared: Shared, data: Option<SectionSecrets>, directory: SectionSecrets) -> Self {
        let repository = shared.repository;
        let id_key = |label| IdKey::new(&derive(&directory.identity, &repository, label, &[]));
        Self(Arc::new(Opened {
            leaf_id_key: id_key(label::LEAF_ID),
            root_id_key: id_key(label::ROOT_ID),
            repository,
            parameters: shared.parameters,
            generation: shared.generation,
            previous: shared.previous,
            data: data.map(|secrets| Data::new(secrets, &repository)),
            directory,
        }))
    }

    /// The same secrets and a new data epoch, which new packs will use once a keyring with it was written and read back.
    ///
    /// # Panics
    /// Without a data part: a maintenance role rotates nothing.
    pub fn with_data_epoch(&self, secret: Secret) -> Self {
        let data = self.0.data.as_ref().expect("who rotates data secrets holds them");
        let data = Data {
            secrets: data.secrets.with_next(secret),
            ..data.clone()
        };
        self.with(|opened| opened.data = Some(data))
    }

    /// The same secrets and a new directory epoch.
    pub fn with_directory_epoch(&self, secret: Secret) -> Self {
        let directory = self.0.directory.with_next(secret);
        self.with(|opened| opened.directory = directory)
    }

    /// The same secrets for a copy of the repository in another store. The keyring with them is of the generation after the
    /// one these came from, so that it counts wherever both should meet.
    pub fn for_store(&self, store_id: [u8; 16]) -> Self {
        self.with(|opened| opened.parameters.store_id = store_id)
    }

    /// The same secrets without the data part: what a maintenance role works with.
    pub fn without_data(&self) -> Self {
        self.with(|opened| opened.data = None)
    }

    fn with(&self, change: impl FnOnce(&mut Opened)) -> Self {
        let mut opened = Opened::clone(&self.0);
        change(&mut opened);
        Self(Arc::new(opened))
    }

    /// Whose secrets these are.
    pub fn repository(&self) -> RepositoryId {
        self.0.repository
    }

    /// What was chosen when the repository was created.
    pub fn parameters(&self) -> &RepositoryParameters {
        &self.0.parameters
    }

    /// Generation of the keyring these came from; the first one for new secrets.
    pub fn generation(&self) -> u64 {
        self.0.generation
    }

    /// BLAKE3 of the keyring file of the generation before; zero for the first.
    pub fn previous(&self) -> Hash32 {
        self.0.previous
    }

    /// The newest data epoch; 0 without a data part.
    pub fn data_epoch(&self) -> u64 {
        self.0.data.as_ref().map_or(0, |data| data.secrets.newest())
    }

    /// The newest directory epoch.
    pub fn directory_epoch(&self) -> u64 {
        self.0.directory.newest()
    }

    /// Whether users' data can be read and written with these.
    pub fn has_data(&self) -> bool {
        self.0.data.is_some()
    }

    /// Names chunks.
    pub fn id_key(&self) -> Result<&IdKey, Error> {
        self.data().map(|data| &data.id_key)
    }

    /// Cuts streams.
    pub fn gear_table(&self) -> Result<Arc<GearTable>, Error> {
        self.data().map(|data| Arc::clone(&data.gear_table))
    }

    /// Names manifest leaves.
    pub fn leaf_id_key(&self) -> &IdKey {
        &self.0.leaf_id_key
    }

    /// Names manifest roots.
    pub fn root_id_key(&self) -> &IdKey {
        &self.0.root_id_key
    }

    /// Seals the catalog.
    pub fn catalog_keys(&self) -> CatalogKeys {
        let key = |label| derive(&self.0.directory.identity, &self.0.repository, label, &[]);
        CatalogKeys {
            chunk: key(label::CATALOG_CHUNK),
            name: key(label::CATALOG_NAME),
            row: key(label::CATALOG_ROW),
        }
    }

    /// The data epochs whose secrets are here, newest first.
    pub(super) fn data_epochs(&self) -> impl Iterator<Item = u64> {
        let data = self.0.data.iter();
        data.flat_map(|data| data.secrets.epochs.keys().rev().copied())
    }

    /// The directory epochs whose secrets are here, newest first.
    pub(super) fn directory_epochs(&self) -> impl Iterator<Item = u64> {
        self.0.directory.epochs.keys().rev().copied()
    }

    /// The key of one pack or checkpoint file: derived from a section's secret of `epoch`, bound to `id`.
    pub(super) fn key_for(&self, section: Section, epoch: u64, label: &str, id: &[u8; 32]) -> Result<Secret, Error> {
        let secrets = match section {
            Section::Data => &self.data()?.secrets,
            Section::Directory => &self.0.directory,
        };
        let secret = secrets.epochs.get(&epoch).ok_or(Error::KeyMissing { section, epoch })?;
        let mut context = [0; 40];
        context[..8].copy_from_slice(&epoch.to_le_bytes());
        context[8..].copy_from_slice(id);
        Ok(derive(secret, &self.0.repository, label, &context))
    }

    fn data(&self) -> Result<&Data, Error> {
        self.0.data.as_ref().ok_or(Error::KeyMissing {
            section: Section::Data,
            epoch: 0,
        })
    }
}

/// The clear part of a keyring file, readable without any key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KeyringHeader {
    /// The repository whose secrets these are.
    pub repository: RepositoryId,
    /// The store it was created in.
    pub store_id: [u8; 16],
    /// Counts the keyrings of the repository.
    pub generation: u64,
    /// The repository's name.
    pub name: RepositoryName,
    /// The KEK that opens it.
    pub kek_id: String,
    sections: [WrappedSection; 2],
    /// Bytes of the file that are associated data of both sections.
    bound: Range<usize>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct WrappedSection {
    section: Section,
    salt: [u8; SALT_LEN],
    commitment: [u8; 32],
    wrapped: [u8; WRAPPED_LEN],
    /// Where the sealed bytes are in the file.
    sealed: Range<usize>,
}

impl KeyringHeader {
    /// Reads the clear part and checks all hashes: what passes is a whole keyring file as written.
    pub fn parse(bytes: &[u8]) -> Result<Self, Error> {
        let mut reader = Reader::new(WHAT, bytes);
        if bytes.len() > KEYRING_LEN_MAX {
            return Err(reader.damaged("it is too long"));
        }
        reader.magic(MAGIC)?;
        reader.format()?;
        reader.suite()?;
        let repository = RepositoryId(reader.array()?);
        let store_id = reader.array()?;
        let generation = reader.u64()?;
        match reader.u8()? {
            WRAP_LOCAL => {}
            value => {
                return Err(Error::UnknownValue {
                    what: WHAT,
                    field: "wrapping",
                    value: value.into(),
                });
            }
        }
        reader.zeros(7)?;
        let name = RepositoryName::new(reader.text()?).map_err(|_| reader.damaged("its repository name is not one"))?;
        let kek_id = reader.text()?.to_owned();
        let (data, data_len) = WrappedSection::parse(Section::Data, &mut reader)?;
        let (directory, directory_len) = WrappedSection::parse(Section::Directory, &mut reader)?;
        let bound = 0..bytes.len() - reader.remaining();
        let sums: [[u8; 32]; 2] = [reader.array()?, reader.array()?];
        let hashed = bytes.len() - reader.remaining();
        let header_sum: [u8; 32] = reader.array()?;
        if Hash32::of(&bytes[..hashed]).0 != header_sum {
            return Err(reader.damaged("its header does not match its hash"));
        }
        let mut sections = [data, directory];
        for ((section, len), sum) in sections.iter_mut().zip([data_len, directory_len]).zip(sums) {
            let start = bytes.len() - reader.remaining();
            if Hash32::of(reader.take(len)?).0 != sum {
                return Err(reader.damaged("a sealed section does not match its hash"));
            }
            section.sealed = start..start + len;
        }
        reader.end()?;
        Ok(Self {
            repository,
            store_id,
            generation,
            name,
            kek_id,
            sections,
            bound,
        })
    }
}

impl WrappedSection {
    /// The section without its place, and the length of its sealed bytes.
    fn parse(section: Section, reader: &mut Reader<'_>) -> Result<(Self, usize), Error> {
        if reader.u8()? != section as u8 {
            return Err(reader.damaged("its sections are not data, then directory"));
        }
        let salt = reader.array()?;
        let commitment = reader.array()?;
        if usize::from(reader.u16()?) != WRAPPED_LEN {
            return Err(reader.damaged("a wrapped secret has the wrong length"));
        }
        let wrapped = reader.array()?;
        let len = usize::try_from(reader.u32()?).map_err(|_| reader.damaged("a section is too long"))?;
        Ok((
            Self {
                section,
                salt,
                commitment,
                wrapped,
                sealed: 0..0,
            },
            len,
        ))
    }
}

/// Wraps the secrets in a new generation: the bytes of the file, to be written twice. `previous` is the hash of the file of
/// the generation before, zero for the first.
///
/// # Panics
/// Without a data part, and if the KEK's id is longer than [`KEK_ID_LEN_MAX`].
pub fn seal_keyring(secrets: &Secrets, kek: &Kek, generation: u64, previous: Hash32, random: WrapSeed) -> Vec<u8> {
    assert!(
        kek.id.len() <= KEK_ID_LEN_MAX,
        "a KEK's id has at most {KEK_ID_LEN_MAX} bytes"
    );
    let shared = Shared {
        repository: secrets.0.repository,
        store_id: secrets.0.parameters.store_id,
        generation,
        parameters: secrets.0.parameters.clone(),
        previous,
    };
    let data = &secrets
        .0
        .data
        .as_ref()
        .expect("who writes keyrings holds both parts")
        .secrets;
    let parts = [(Section::Data, data), (Section::Directory, &secrets.0.directory)];

    let mut file = Vec::new();
    shared.encode_header(&kek.id, &mut file);
    let mut opened = Vec::new();
    for (index, (section, part)) in parts.into_iter().enumerate() {
        let secret = random.secret(index);
        let plain = shared.encode_section(part);
        let salt = random.part(2 + index);
        encode_wrapped(&shared, section, kek, &salt, &secret, plain.len() + TAG_LEN, &mut file);
        opened.push((section, secret, plain));
    }
    let sealed: Vec<Vec<u8>> = opened
        .into_iter()
        .map(|(section, secret, mut plain)| {
            let key = section_key(&shared, section, &secret);
            let tag = key.seal(Nonce::counter(0), &file, &mut plain);
            [plain.as_slice(), &tag].concat()
        })
        .collect();
    sealed.iter().for_each(|section| file.put_slice(&Hash32::of(section).0));
    let header_sum = Hash32::of(&file);
    file.put_slice(&header_sum.0);
    sealed.iter().for_each(|section| file.put_slice(section));
    assert!(
        file.len() <= KEYRING_LEN_MAX,
        "a keyring has at most {KEYRING_LEN_MAX} bytes"
    );
    file
}

/// Opens both sections of a keyring file.
pub fn open_keyring(bytes: &[u8], kek: &Kek) -> Result<Secrets, Error> {
    let header = KeyringHeader::parse(bytes)?;
    let [data, directory] = &header.sections;
    let (data_shared, data) = header.open_section(bytes, data, kek)?;
    let (shared, directory) = header.open_section(bytes, directory, kek)?;
    if data_shared != shared {
        return Err(Error::damaged(WHAT, "its sections do not belong together"));
    }
    Ok(Secrets::assemble(shared, Some(data), directory))
}

/// Opens the directory section alone: the secrets of a maintenance role.
pub fn open_keyring_directory(bytes: &[u8], kek: &Kek) -> Result<Secrets, Error> {
    let header = KeyringHeader::parse(bytes)?;
    let (shared, directory) = header.open_section(bytes, &header.sections[1], kek)?;
    Ok(Secrets::assemble(shared, None, directory))
}

/// Reads the plaintext of a section and writes what was read. A fuzzer does not get past the seal.
#[cfg(any(test, feature = "testkit"))]
pub(crate) fn rewritten_section(plain: &[u8]) -> Result<Vec<u8>, Error> {
    let (shared, secrets) = Shared::decode_section(plain)?;
    Ok(shared.encode_section(&secrets).to_vec())
}

impl KeyringHeader {
    fn open_section(
        &self,
        bytes: &[u8],
        wrapped: &WrappedSection,
        kek: &Kek,
    ) -> Result<(Shared, SectionSecrets), Error> {
        let context = wrap_context(wrapped.section, self.generation, &wrapped.salt);
        let commitment = derive(&kek.secret, &self.repository, label::WRAP_COMMIT, &context);
        if !bool::from(commitment.expose().ct_eq(&wrapped.commitment)) {
            return Err(Error::WrongKey {
                expected: self.kek_id.clone(),
            });
        }
        let unauthentic = |_| Error::damaged(WHAT, "a section does not open with the key it is committed to");

        let wrap_key = SealingKey::new(&derive(&kek.secret, &self.repository, label::WRAP, &context));
        let mut secret = Zeroizing::new(wrapped.wrapped);
        wrap_key
            .open(Nonce::counter(0), &[], secret.as_mut_slice())
            .map_err(unauthentic)?;
        let secret = Secret::from_bytes(
            *secret
                .first_chunk()
                .expect("a wrapped secret is longer than the secret"),
        );

        let context = keyring_context(wrapped.section, self.generation);
        let key = SealingKey::new(&derive(&secret, &self.repository, label::KEYRING, &context));
        let mut sealed = Zeroizing::new(bytes[wrapped.sealed.clone()].to_vec());
        let aad = &bytes[self.bound.clone()];
        let plain = key.open(Nonce::counter(0), aad, &mut sealed).map_err(unauthentic)?;
        let (shared, secrets) = Shared::decode_section(plain)?;
        if !shared.agrees_with(self) {
            return Err(Error::damaged(WHAT, "a section does not belong to its header"));
        }
        Ok((shared, secrets))
    }
}

/// What header and both sections say alike.
#[derive(PartialEq, Eq)]
struct Shared {
    repository: RepositoryId,
    store_id: [u8; 16],
    generation: u64,
    parameters: RepositoryParameters,
    previous: Hash32,
}

impl Shared {
    fn agrees_with(&self, header: &KeyringHeader) -> bool {
        self.repository == header.repository
            && self.store_id == header.store_id
            && self.generation == header.generation
            && self.parameters.name == header.name
    }

    /// The clear header up to the first section's description.
    fn encode_header(&self, kek_id: &str, out: &mut Vec<u8>) {
        out.put_slice(MAGIC);
        out.put_u16_le(FORMAT);
        out.put_u16_le(SUITE);
        out.put_slice(&self.repository.0);
        out.put_slice(&self.store_id);
        out.put_u64_le(self.generation);
        out.put_u8(WRAP_LOCAL);
        out.put_bytes(0, 7);
        put_text(out, self.parameters.name.as_str());
        put_text(out, kek_id);
    }

    /// The plaintext of a section. Allocated once, so that no unwiped copy is left behind by growth.
    fn encode_section(&self, secrets: &SectionSecrets) -> Zeroizing<Vec<u8>> {
        let mut out = Zeroizing::new(Vec::with_capacity(512 + secrets.epochs.len() * EPOCH_LEN));
        out.put_slice(&self.repository.0);
        out.put_slice(&self.store_id);
        out.put_u64_le(self.generation);
        out.put_slice(&self.previous.0);
        let RepositoryParameters {
            name,
            chunk_sizes,
            level,
            ..
        } = &self.parameters;
        out.put_u32_le(chunk_sizes.min());
        out.put_u32_le(chunk_sizes.avg());
        out.put_u32_le(chunk_sizes.max());
        out.put_u8(NORMALISATION);
        out.put_u8(codec_of(*level) as u8);
        out.put_u8(level.number() as u8);
        out.put_u8(0);
        put_text(&mut out, name.as_str());
        out.put_slice(secrets.identity.expose());
        out.put_u32_le(u32::try_from(secrets.epochs.len()).expect("a keyring has few epochs"));
        for (&epoch, secret) in &secrets.epochs {
            out.put_u64_le(epoch);
            out.put_slice(secret.expose());
        }
        out
    }

    fn decode_section(plain: &[u8]) -> Result<(Self, SectionSecrets), Error> {
        let mut reader = Reader::new("keyring section", plain);
        let repository = RepositoryId(reader.array()?);
        let store_id = reader.array()?;
        let generation = reader.u64()?;
        let previous = Hash32(reader.array()?);
        let chunk_sizes = ChunkSizes::new(reader.u32()?, reader.u32()?, reader.u32()?)
            .map_err(|_| reader.damaged("its chunk sizes are not allowed"))?;
        if reader.u8()? != NORMALISATION {
            return Err(reader.damaged("its normalisation level is not known"));
        }
        let level = decode_level(&mut reader)?;
        reader.zeros(1)?;
        let name = RepositoryName::new(reader.text()?).map_err(|_| reader.damaged("its repository name is not one"))?;
        let secrets = SectionSecrets::decode(&mut reader)?;
        reader.end()?;
        let parameters = RepositoryParameters {
            name,
            store_id,
            chunk_sizes,
            level,
        };
        Ok((
            Self {
                repository,
                store_id,
                generation,
                parameters,
                previous,
            },
            secrets,
        ))
    }
}

impl SectionSecrets {
    fn decode(reader: &mut Reader<'_>) -> Result<Self, Error> {
        let identity = Secret::from_bytes(reader.array()?);
        let count = reader.count(EPOCH_LEN, usize::MAX)?;
        let mut epochs = BTreeMap::new();
        let mut last = 0;
        for _ in 0..count {
            let epoch = reader.u64()?;
            if epoch <= last {
                return Err(reader.damaged("its epochs are not in order"));
            }
            last = epoch;
            epochs.insert(epoch, Secret::from_bytes(reader.array()?));
        }
        if epochs.is_empty() {
            return Err(reader.damaged("it has no epoch"));
        }
        Ok(Self { identity, epochs })
    }
}

fn codec_of(level: Level) -> Codec {
    match level {
        Level::Off => Codec::Raw,
        Level::Zstd(_) => Codec::Zstd,
    }
}

fn decode_level(reader: &mut Reader<'_>) -> Result<Level, Error> {
    let codec = reader.u8()?;
    let level = Level::new(reader.u8()?.into()).map_err(|_| reader.damaged("its compression level is not allowed"))?;
    if codec_of(level) as u8 != codec {
        return Err(reader.damaged("its codec and compression level do not fit"));
    }
    Ok(level)
}

fn encode_wrapped(
    shared: &Shared,
    section: Section,
    kek: &Kek,
    salt: &[u8; SALT_LEN],
    secret: &Secret,
    sealed_len: usize,
    out: &mut Vec<u8>,
) {
    let context = wrap_context(section, shared.generation, salt);
    let key = SealingKey::new(&derive(&kek.secret, &shared.repository, label::WRAP, &context));
    let mut wrapped = *secret.expose();
    let tag = key.seal(Nonce::counter(0), &[], &mut wrapped);
    out.put_u8(section as u8);
    out.put_slice(salt);
    out.put_slice(derive(&kek.secret, &shared.repository, label::WRAP_COMMIT, &context).expose());
    out.put_u16_le(WRAPPED_LEN as u16);
    out.put_slice(&wrapped);
    out.put_slice(&tag);
    out.put_u32_le(u32::try_from(sealed_len).expect("a keyring is at most 1 MiB"));
}

fn section_key(shared: &Shared, section: Section, secret: &Secret) -> SealingKey {
    let context = keyring_context(section, shared.generation);
    SealingKey::new(&derive(secret, &shared.repository, label::KEYRING, &context))
}

/// section ‖ generation
fn keyring_context(section: Section, generation: u64) -> [u8; 9] {
    let mut context = [0; 9];
    context[0] = section as u8;
    context[1..].copy_from_slice(&generation.to_le_bytes());
    context
}

/// section ‖ generation ‖ salt
fn wrap_context(section: Section, generation: u64, salt: &[u8; SALT_LEN]) -> [u8; 9 + SALT_LEN] {
    let mut context = [0; 9 + SALT_LEN];
    context[..9].copy_from_slice(&keyring_context(section, generation));
    context[9..].copy_from_slice(salt);
    context
}

#[cfg(test)]
#[path = "keyring/tests.rs"]
mod tests;
