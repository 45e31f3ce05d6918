//! Names: of objects in the store, of repositories, of users' objects. Owns every path below a store's prefix and how it
//! is read back; knows no contents.
//!
//! Fixed-width lower-case hexadecimal, most significant number first, so that a sorted listing is in order of creation.

use std::fmt;
use std::str::FromStr;

use bytes::BufMut;
use thiserror::Error as ThisError;

use super::Error;
use super::wire::Reader;
use crate::codec::RepositoryId;

/// Informative description of a store, at its root.
pub const METADATA: &str = "metadata.yaml";
/// Lock file of a store on a volume, at its root. Not an object.
pub const LOCK: &str = "lock";
/// Packs of one epoch that share a directory.
pub const PACKS_PER_DIRECTORY: u64 = 4096;

/// Hex digits that `counter % PACKS_PER_DIRECTORY` takes in a pack's name, and a directory's name leaves out.
const DIRECTORY_DIGITS: usize = 3;

macro_rules! random_id {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name(pub [u8; 32]);

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&hex::encode(self.0))
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "{}({self})", stringify!($name))
            }
        }
    };
}

random_id! {
    /// A pack's random id: bound into its keys and associated data.
    PackId
}
random_id! {
    /// A checkpoint file's random id: bound into its key and associated data.
    CheckpointId
}
random_id! {
    /// An unkeyed BLAKE3 hash of stored bytes: a trailer hash, a log head, the hash of a keyring file.
    Hash32
}

impl Hash32 {
    /// What stands where there is nothing to hash: before the first commit pack, before the first keyring.
    pub const ZERO: Self = Self([0; 32]);

    /// BLAKE3 of `bytes`.
    pub fn of(bytes: &[u8]) -> Self {
        Self(*blake3::hash(bytes).as_bytes())
    }
}

impl FromStr for Hash32 {
    type Err = NameError;

    fn from_str(text: &str) -> Result<Self, NameError> {
        parse_hex32(text).map(Self).ok_or(NameError::NotHex { digits: 64 })
    }
}

/// A pack's place in the order of creation: owner epoch, then a counter of that owner.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PackNumber {
    /// Owner epoch of the writer.
    pub epoch: u64,
    /// Counts the packs of that epoch.
    pub counter: u64,
}

impl PackNumber {
    /// Epoch then counter, big-endian: sorts as the number does. For keys; stored structures are little-endian.
    pub fn to_bytes(self) -> [u8; 16] {
        ((u128::from(self.epoch) << 64) | u128::from(self.counter)).to_be_bytes()
    }

    /// The reverse of [`Self::to_bytes`].
    pub fn from_bytes(bytes: [u8; 16]) -> Self {
        let both = u128::from_be_bytes(bytes);
        Self {
            epoch: (both >> 64) as u64,
            counter: both as u64,
        }
    }
}

impl fmt::Display for PackNumber {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016x}-{:016x}", self.epoch, self.counter)
    }
}

/// A pack's full name. Ordered by number, then id.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PackName {
    /// Place in the order of creation.
    pub number: PackNumber,
    /// Random id.
    pub id: PackId,
}

impl PackName {
    /// Length in stored structures: epoch, counter (u64 each), id.
    pub const LEN: usize = 8 + 8 + 32;

    /// Appends the name as it stands in stored structures.
    pub fn encode(&self, out: &mut impl BufMut) {
        out.put_u64_le(self.number.epoch);
        out.put_u64_le(self.number.counter);
        out.put_slice(&self.id.0);
    }

    /// Reads what [`Self::encode`] wrote.
    pub fn decode(reader: &mut Reader<'_>) -> Result<Self, Error> {
        let number = PackNumber {
            epoch: reader.u64()?,
            counter: reader.u64()?,
        };
        Ok(Self {
            number,
            id: PackId(reader.array()?),
        })
    }
}

impl fmt::Display for PackName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}-{}", self.number, self.id)
    }
}

/// A checkpoint file's full name, root or segment. Ordered by epoch, log number, id.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct CheckpointName {
    /// Owner epoch of the writer.
    pub epoch: u64,
    /// Log number of the tip it was written at.
    pub log_number: u64,
    /// Random id.
    pub id: CheckpointId,
}

impl CheckpointName {
    /// Length in stored structures: epoch, log number (u64 each), id.
    pub const LEN: usize = 8 + 8 + 32;

    /// Appends the name as it stands in stored structures.
    pub fn encode(&self, out: &mut impl BufMut) {
        out.put_u64_le(self.epoch);
        out.put_u64_le(self.log_number);
        out.put_slice(&self.id.0);
    }

    /// Reads what [`Self::encode`] wrote.
    pub fn decode(reader: &mut Reader<'_>) -> Result<Self, Error> {
        Ok(Self {
            epoch: reader.u64()?,
            log_number: reader.u64()?,
            id: CheckpointId(reader.array()?),
        })
    }
}

impl fmt::Display for CheckpointName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016x}-{:016x}-{}", self.epoch, self.log_number, self.id)
    }
}

/// Which of the two identical files of a keyring generation.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum KeyringCopy {
    /// `<generation>`
    First,
    /// `<generation>.copy`
    Second,
}

/// Paths of one repository, relative to the store's prefix.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Layout {
    repository: RepositoryId,
}

impl Layout {
    /// Paths of `repository`.
    pub fn new(repository: RepositoryId) -> Self {
        Self { repository }
    }

    /// The directory everything of the repository is in, without a final slash.
    pub fn prefix(&self) -> String {
        self.repository.to_string()
    }

    /// Where a pack is.
    pub fn pack(&self, name: &PackName) -> String {
        format!("{}/{name}", self.pack_directory(&name.number))
    }

    /// The directory of all packs.
    pub fn packs_prefix(&self) -> String {
        format!("{}/packs", self.repository)
    }

    /// The directory a pack with this number is in.
    pub fn pack_directory(&self, number: &PackNumber) -> String {
        format!("{}/packs/{}", self.repository, directory_name(number))
    }

    /// Where the file is that claims an owner epoch.
    pub fn owner(&self, epoch: u64) -> String {
        format!("{}/owner/{epoch:016x}", self.repository)
    }

    /// The directory of owner files.
    pub fn owners_prefix(&self) -> String {
        format!("{}/owner", self.repository)
    }

    /// Where one copy of a keyring generation is.
    pub fn keyring(&self, generation: u64, copy: KeyringCopy) -> String {
        let suffix = match copy {
            KeyringCopy::First => "",
            KeyringCopy::Second => ".copy",
        };
        format!("{}/keyring/{generation:016x}{suffix}", self.repository)
    }

    /// The directory of keyring files.
    pub fn keyrings_prefix(&self) -> String {
        format!("{}/keyring", self.repository)
    }

    /// Where a checkpoint file is.
    pub fn checkpoint(&self, name: &CheckpointName) -> String {
        format!("{}/checkpoints/{name}", self.repository)
    }

    /// The directory of checkpoint files.
    pub fn checkpoints_prefix(&self) -> String {
        format!("{}/checkpoints", self.repository)
    }
}

/// Kinds of object in a store.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum StoredKind {
    /// `metadata.yaml`.
    Metadata,
    /// One copy of a keyring.
    Keyring,
    /// A claim to an owner epoch.
    Owner,
    /// A chunk pack or commit pack.
    Pack,
    /// A checkpoint's root or segment.
    Checkpoint,
}

impl StoredKind {
    /// Every kind: what goes over all of them starts here.
    pub const ALL: [Self; 5] = [Self::Metadata, Self::Keyring, Self::Owner, Self::Pack, Self::Checkpoint];

    /// The kind as one word.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Metadata => "metadata",
            Self::Keyring => "keyring",
            Self::Owner => "owner",
            Self::Pack => "pack",
            Self::Checkpoint => "checkpoint",
        }
    }
}

impl fmt::Display for StoredKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// An object of a store, by its path.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum StoredName {
    /// `metadata.yaml`.
    Metadata,
    /// One copy of a keyring generation.
    Keyring(RepositoryId, u64, KeyringCopy),
    /// The claim to an owner epoch.
    Owner(RepositoryId, u64),
    /// A pack.
    Pack(RepositoryId, PackName),
    /// A checkpoint's root or segment.
    Checkpoint(RepositoryId, CheckpointName),
}

impl StoredName {
    /// Reads a whole path, relative to the store's prefix. `None` for what is not an object of ours.
    pub fn parse(path: &str) -> Option<Self> {
        if path == METADATA {
            return Some(Self::Metadata);
        }
        let (repository, rest) = path.split_once('/')?;
        let repository = repository.parse::<RepositoryId>().ok()?;
        let (folder, _) = rest.split_once('/')?;
        let name = match folder {
            "keyring" => parse_keyring(path).map(|(generation, copy)| Self::Keyring(repository, generation, copy)),
            "owner" => parse_owner(path).map(|epoch| Self::Owner(repository, epoch)),
            "packs" => parse_pack(path).map(|name| Self::Pack(repository, name)),
            "checkpoints" => parse_checkpoint(path).map(|name| Self::Checkpoint(repository, name)),
            _ => None,
        };
        name.filter(|name| name.path() == path)
    }

    /// Where it is, relative to the store's prefix.
    pub fn path(&self) -> String {
        match self {
            Self::Metadata => METADATA.to_owned(),
            Self::Keyring(repository, generation, copy) => Layout::new(*repository).keyring(*generation, *copy),
            Self::Owner(repository, epoch) => Layout::new(*repository).owner(*epoch),
            Self::Pack(repository, name) => Layout::new(*repository).pack(name),
            Self::Checkpoint(repository, name) => Layout::new(*repository).checkpoint(name),
        }
    }

    /// What it is.
    pub fn kind(&self) -> StoredKind {
        match self {
            Self::Metadata => StoredKind::Metadata,
            Self::Keyring(..) => StoredKind::Keyring,
            Self::Owner(..) => StoredKind::Owner,
            Self::Pack(..) => StoredKind::Pack,
            Self::Checkpoint(..) => StoredKind::Checkpoint,
        }
    }
}

/// Reads a pack's name from its path or its last segment. `None` for anything else, and for a pack in a directory that
/// is not its own.
pub fn parse_pack(path: &str) -> Option<PackName> {
    let (directories, segment) = split_last(path);
    let (epoch, counter, id) = parse_numbered(segment)?;
    let number = PackNumber { epoch, counter };
    let directory = directories.map(|directories| split_last(directories).1);
    if directory.is_some_and(|directory| directory != directory_name(&number)) {
        return None;
    }
    Some(PackName { number, id: PackId(id) })
}

/// Reads a checkpoint file's name from its path or its last segment.
pub fn parse_checkpoint(path: &str) -> Option<CheckpointName> {
    let (epoch, log_number, id) = parse_numbered(split_last(path).1)?;
    Some(CheckpointName {
        epoch,
        log_number,
        id: CheckpointId(id),
    })
}

/// Reads the epoch from an owner file's path or its last segment.
pub fn parse_owner(path: &str) -> Option<u64> {
    parse_hex64(split_last(path).1)
}

/// Reads generation and copy from a keyring file's path or its last segment.
pub fn parse_keyring(path: &str) -> Option<(u64, KeyringCopy)> {
    let segment = split_last(path).1;
    match segment.strip_suffix(".copy") {
        Some(generation) => Some((parse_hex64(generation)?, KeyringCopy::Second)),
        None => Some((parse_hex64(segment)?, KeyringCopy::First)),
    }
}

fn directory_name(number: &PackNumber) -> String {
    let mut name = number.to_string();
    name.truncate(name.len() - DIRECTORY_DIGITS);
    name
}

fn split_last(path: &str) -> (Option<&str>, &str) {
    match path.rsplit_once('/') {
        Some((directories, segment)) => (Some(directories), segment),
        None => (None, path),
    }
}

/// `<16 hex>-<16 hex>-<64 hex>`
fn parse_numbered(segment: &str) -> Option<(u64, u64, [u8; 32])> {
    let (first, rest) = segment.split_once('-')?;
    let (second, id) = rest.split_once('-')?;
    Some((parse_hex64(first)?, parse_hex64(second)?, parse_hex32(id)?))
}

fn parse_hex64(text: &str) -> Option<u64> {
    (text.len() == 16 && is_lower_hex(text)).then(|| u64::from_str_radix(text, 16).ok())?
}

fn parse_hex32(text: &str) -> Option<[u8; 32]> {
    if !is_lower_hex(text) {
        return None;
    }
    let mut bytes = [0; 32];
    hex::decode_to_slice(text, &mut bytes).ok()?;
    Some(bytes)
}

/// One spelling only, so that two names never mean one object.
fn is_lower_hex(text: &str) -> bool {
    text.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'))
}

/// What is wrong with a name somebody gave.
#[derive(Debug, Clone, PartialEq, Eq, ThisError)]
#[non_exhaustive]
pub enum NameError {
    /// Nothing was given.
    #[error("a name cannot be empty")]
    Empty,
    /// Longer than allowed.
    #[error("the name is {len} bytes long; at most {max} are allowed")]
    TooLong {
        /// Its length in bytes.
        len: usize,
        /// The limit.
        max: usize,
    },
    /// Bytes that are not text.
    #[error("the name is not valid UTF-8")]
    NotUtf8,
    /// A repository name with a character outside its alphabet.
    #[error("a repository name cannot contain {found:?}; it is made of a-z, 0-9 and '-'")]
    Character {
        /// The first such character.
        found: char,
    },
    /// A repository name that starts with a hyphen.
    #[error("a repository name starts with a letter or a digit, not '-'")]
    LeadingHyphen,
    /// Not the expected hexadecimal number.
    #[error("expected {digits} lower-case hexadecimal digits")]
    NotHex {
        /// How many.
        digits: usize,
    },
}

/// A repository's name: `[a-z0-9][a-z0-9-]{0,62}`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RepositoryName(String);

impl RepositoryName {
    /// Longest name, in bytes.
    pub const LEN_MAX: usize = 63;

    /// Checks a name.
    pub fn new(name: impl Into<String>) -> Result<Self, NameError> {
        let name = name.into();
        check_len(name.len(), Self::LEN_MAX)?;
        let allowed = |c: char| matches!(c, 'a'..='z' | '0'..='9' | '-');
        if let Some(found) = name.chars().find(|&c| !allowed(c)) {
            return Err(NameError::Character { found });
        }
        if name.starts_with('-') {
            return Err(NameError::LeadingHyphen);
        }
        Ok(Self(name))
    }

    /// The name as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// The name of a stored object: 1 to 1024 bytes of UTF-8, opaque to Cairn.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ObjectName(String);

impl ObjectName {
    /// Longest name, in bytes.
    pub const LEN_MAX: usize = 1024;

    /// Checks a name.
    pub fn new(name: impl Into<String>) -> Result<Self, NameError> {
        let name = name.into();
        check_len(name.len(), Self::LEN_MAX)?;
        Ok(Self(name))
    }

    /// Checks a name that came as bytes.
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, NameError> {
        check_len(bytes.len(), Self::LEN_MAX)?;
        Self::new(std::str::from_utf8(bytes).map_err(|_| NameError::NotUtf8)?)
    }

    /// The name as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

fn check_len(len: usize, max: usize) -> Result<(), NameError> {
    match len {
        0 => Err(NameError::Empty),
        len if len > max => Err(NameError::TooLong { len, max }),
        _ => Ok(()),
    }
}

macro_rules! text_name {
    ($name:ident) => {
        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }

        impl FromStr for $name {
            type Err = NameError;

            fn from_str(text: &str) -> Result<Self, NameError> {
                Self::new(text)
            }
        }

        impl AsRef<str> for $name {
            fn as_ref(&self) -> &str {
                &self.0
            }
        }
    };
}

text_name!(RepositoryName);
text_name!(ObjectName);

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn layout() -> Layout {
        Layout::new(RepositoryId([0xab; 16]))
    }

    #[test]
    fn paths_are_as_documented() {
        let name = PackName {
            number: PackNumber {
                epoch: 3,
                counter: 0x1234_5678,
            },
            id: PackId([0xcd; 32]),
        };
        let r = "ab".repeat(16);
        assert_eq!(
            layout().pack(&name),
            format!(
                "{r}/packs/0000000000000003-0000000012345/0000000000000003-0000000012345678-{}",
                "cd".repeat(32)
            )
        );
        assert_eq!(layout().owner(17), format!("{r}/owner/0000000000000011"));
        assert_eq!(
            layout().keyring(1, KeyringCopy::Second),
            format!("{r}/keyring/0000000000000001.copy")
        );
    }

    #[test]
    fn other_spellings_are_not_names() {
        let name = PackName {
            number: PackNumber { epoch: 10, counter: 1 },
            id: PackId([0xcd; 32]),
        };
        let path = layout().pack(&name);
        assert_eq!(parse_pack(&path), Some(name));
        assert_eq!(parse_pack(&name.to_string()), Some(name));
        assert_eq!(parse_pack(&path.to_uppercase()), None);
        assert_eq!(parse_pack(&path.replacen("/packs/0000", "/packs/0010", 1)), None);
        assert_eq!(parse_pack(&format!("{path}#1")), None);
        assert_eq!(parse_pack(""), None);
        assert_eq!(parse_owner("+000000000000001"), None);
        assert_eq!(parse_keyring("0000000000000001.copy.copy"), None);
    }

    #[test]
    fn repository_names_follow_their_pattern() {
        for good in ["a", "0", "default", "a-b", "a-", &"a".repeat(63)] {
            assert!(RepositoryName::new(good).is_ok(), "{good}");
        }
        assert_eq!(RepositoryName::new(""), Err(NameError::Empty));
        assert_eq!(RepositoryName::new("-a"), Err(NameError::LeadingHyphen));
        assert_eq!(RepositoryName::new("aB"), Err(NameError::Character { found: 'B' }));
        assert_eq!(RepositoryName::new("a/b"), Err(NameError::Character { found: '/' }));
        assert_eq!(
            RepositoryName::new("a".repeat(64)),
            Err(NameError::TooLong { len: 64, max: 63 })
        );
    }

    #[test]
    fn object_names_are_any_short_text() {
        assert!(ObjectName::new("a/../\n\0ü").is_ok());
        assert!(ObjectName::new("x".repeat(1024)).is_ok());
        assert_eq!(
            ObjectName::new("x".repeat(1025)),
            Err(NameError::TooLong { len: 1025, max: 1024 })
        );
        assert_eq!(ObjectName::from_bytes(&[0xff]), Err(NameError::NotUtf8));
        assert_eq!(ObjectName::from_bytes(&[]), Err(NameError::Empty));
    }

    proptest! {
        #[test]
        fn every_name_reads_back(epoch: u64, counter: u64, id: [u8; 32]) {
            let pack = PackName { number: PackNumber { epoch, counter }, id: PackId(id) };
            prop_assert_eq!(parse_pack(&layout().pack(&pack)), Some(pack));
            prop_assert_eq!(PackNumber::from_bytes(pack.number.to_bytes()), pack.number);
            let checkpoint = CheckpointName { epoch, log_number: counter, id: CheckpointId(id) };
            prop_assert_eq!(parse_checkpoint(&layout().checkpoint(&checkpoint)), Some(checkpoint));
            prop_assert_eq!(parse_owner(&layout().owner(epoch)), Some(epoch));
            for copy in [KeyringCopy::First, KeyringCopy::Second] {
                prop_assert_eq!(parse_keyring(&layout().keyring(epoch, copy)), Some((epoch, copy)));
            }
            prop_assert_eq!(Hash32(id).to_string().parse(), Ok(Hash32(id)));
        }

        #[test]
        fn every_object_is_known_by_its_path(epoch: u64, number: u64, id: [u8; 32]) {
            let repository = RepositoryId([0x3c; 16]);
            let pack = PackName { number: PackNumber { epoch, counter: number }, id: PackId(id) };
            let names = [
                StoredName::Metadata,
                StoredName::Keyring(repository, number, KeyringCopy::First),
                StoredName::Keyring(repository, number, KeyringCopy::Second),
                StoredName::Owner(repository, epoch),
                StoredName::Pack(repository, pack),
                StoredName::Checkpoint(repository, CheckpointName { epoch, log_number: number, id: CheckpointId(id) }),
            ];
            for name in names {
                prop_assert_eq!(StoredName::parse(&name.path()), Some(name));
                prop_assert_eq!(StoredName::parse(&format!("{}0", name.path())), None);
                prop_assert_eq!(StoredName::parse(&format!("x/{}", name.path())), None);
            }
        }

        #[test]
        fn paths_sort_as_numbers_do(a: (u64, u64), b: (u64, u64)) {
            let pack = |(epoch, counter)| PackName { number: PackNumber { epoch, counter }, id: PackId([0; 32]) };
            prop_assert_eq!(pack(a).cmp(&pack(b)), layout().pack(&pack(a)).cmp(&layout().pack(&pack(b))));
        }

        #[test]
        fn no_path_panics(path in "\\PC{0,120}") {
            let _ = (parse_pack(&path), parse_checkpoint(&path), parse_owner(&path), parse_keyring(&path));
            let _ = StoredName::parse(&path);
        }
    }
}
