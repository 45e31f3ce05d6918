//! Why stored bytes were refused.

use thiserror::Error as ThisError;

use super::keyring::Section;

/// Why stored bytes were refused. Carries what a caller needs to act; never key material, names or ids of users' data.
#[derive(Debug, Clone, PartialEq, Eq, ThisError)]
#[non_exhaustive]
pub enum Error {
    /// Bytes are not what was written: scrub, repair or fetch another copy.
    #[error("{what} is damaged: {problem}")]
    Damaged {
        /// Which structure.
        what: &'static str,
        /// What is wrong with it.
        problem: &'static str,
    },
    /// One 64 KiB block of a pack does not match its sum.
    #[error("pack is damaged: block {block} does not match its sum")]
    DamagedBlock {
        /// Index of the block from the start of the pack.
        block: u64,
    },
    /// A later version of Cairn wrote this.
    #[error("{what} has format {version}, which this version does not know")]
    UnknownVersion {
        /// Which structure.
        what: &'static str,
        /// The format number found.
        version: u16,
    },
    /// A later version of Cairn sealed this.
    #[error("{what} uses cipher suite {suite}, which this version does not know")]
    UnknownSuite {
        /// Which structure.
        what: &'static str,
        /// The suite number found.
        suite: u16,
    },
    /// A number that selects a kind or a codec has no meaning in this version.
    #[error("{what} has {field} {value}, which this version does not know")]
    UnknownValue {
        /// Which structure.
        what: &'static str,
        /// Which field: `kind`, `codec`, …
        field: &'static str,
        /// The number found.
        value: u64,
    },
    /// The keyring is intact and was wrapped by another key.
    #[error("wrong key: the keyring is wrapped by {expected}")]
    WrongKey {
        /// Id of the KEK that opens it.
        expected: String,
    },
    /// A key commitment differs. Whether the key is wrong or the bytes are damaged cannot be told.
    #[error("{what} does not match the key commitment: wrong key, or damaged")]
    CommitmentMismatch {
        /// Which structure.
        what: &'static str,
    },
    /// The opened keyring has no secret of this section and epoch.
    #[error("the keyring in use has no {section} secret of epoch {epoch}")]
    KeyMissing {
        /// Section the secret belongs to.
        section: Section,
        /// Epoch asked for; 0 for the section as a whole.
        epoch: u64,
    },
    /// Intact bytes that belong elsewhere: another repository, another name.
    #[error("{what} belongs to another {owner}")]
    Foreign {
        /// Which structure.
        what: &'static str,
        /// What it does not belong to: `repository`, `name`, `store`.
        owner: &'static str,
    },
}

impl Error {
    pub(crate) fn damaged(what: &'static str, problem: &'static str) -> Self {
        Self::Damaged { what, problem }
    }
}
