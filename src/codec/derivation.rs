//! Secrets and the one way a secret gives another.
//!
//! `KDF(secret, label, context, length)` is HKDF-SHA-256 (RFC 5869) with the repository id as salt and
//! `"cairn/1 " ‖ label ‖ 00 ‖ context` as info. Labels are constants of the format and contain no zero byte, so the
//! separator keeps any two (label, context) pairs apart. Which labels exist is `format`'s concern.

use std::fmt;
use std::str::FromStr;

use hkdf::Hkdf;
use sha2::Sha256;
use subtle::ConstantTimeEq;
use zeroize::{Zeroize, ZeroizeOnDrop};

use super::Error;

/// Starts the info of every derivation: a new scheme of keys gets a new number, and so disjoint keys.
const SCHEME: &[u8] = b"cairn/1 ";

/// The longest output HKDF-SHA-256 has: 255 hashes.
const DERIVED_LEN_MAX: usize = 255 * 32;

/// A repository: the domain of dedupe and of keys. Random, public, and part of every path and every derivation.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RepositoryId(pub [u8; 16]);

impl fmt::Display for RepositoryId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for RepositoryId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "RepositoryId({self})")
    }
}

impl FromStr for RepositoryId {
    type Err = Error;

    /// Upper-case digits are refused: an id is also a path, and a path has one spelling.
    fn from_str(text: &str) -> Result<Self, Error> {
        if text.bytes().any(|byte| byte.is_ascii_uppercase()) {
            return Err(Error::RepositoryId);
        }
        let mut id = [0; 16];
        hex::decode_to_slice(text, &mut id).map_err(|_| Error::RepositoryId)?;
        Ok(Self(id))
    }
}

/// 32 secret bytes: wiped when dropped, compared in constant time, never printed.
#[derive(Clone)]
pub struct Secret(Box<[u8; 32]>);

impl Secret {
    /// Takes the bytes over. The caller's copy, if it keeps one, is the caller's to wipe.
    pub fn from_bytes(mut bytes: [u8; 32]) -> Self {
        let secret = Self(Box::new(bytes));
        bytes.zeroize();
        secret
    }

    /// The bytes, for a cipher or a wrapping.
    pub fn expose(&self) -> &[u8; 32] {
        &self.0
    }
}

impl Drop for Secret {
    fn drop(&mut self) {
        self.0.zeroize();
    }
}

impl ZeroizeOnDrop for Secret {}

impl PartialEq for Secret {
    fn eq(&self, other: &Self) -> bool {
        self.0.ct_eq(&*other.0).into()
    }
}

impl Eq for Secret {}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret(..)")
    }
}

/// The 32-byte secret that belongs to `label` and `context` under `secret` in this repository.
pub fn derive(secret: &Secret, repository: &RepositoryId, label: &str, context: &[u8]) -> Secret {
    let mut derived = Secret(Box::new([0; 32]));
    derive_into(secret, repository, label, context, derived.0.as_mut_slice());
    derived
}

/// Like [`derive`], filling `out`: at most 8160 bytes.
///
/// Different lengths share a prefix, so one label is only ever used with one length. Wiping `out` is the caller's.
pub fn derive_into(
    secret: &Secret,
    repository: &RepositoryId,
    label: &str,
    context: &[u8],
    out: &mut [u8],
) {
    assert!(
        !label.as_bytes().contains(&0),
        "a label contains no zero byte"
    );
    assert!(
        out.len() <= DERIVED_LEN_MAX,
        "a derived key has at most {DERIVED_LEN_MAX} bytes"
    );
    let (mut extracted, hkdf) = Hkdf::<Sha256>::extract(Some(&repository.0), secret.expose());
    extracted.as_mut_slice().zeroize();
    hkdf.expand_multi_info(&[SCHEME, label.as_bytes(), &[0], context], out)
        .expect("the length was checked above");
}
