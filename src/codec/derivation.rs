//! Secrets and the one way a secret gives another.
//!
//! `KDF(secret, label, context, length)` is HKDF-SHA-256 (RFC 5869) with the repository id as salt and
//! `"cairn/1 " ‖ label ‖ 00 ‖ context` as info. Labels are constants of the format and contain no zero byte, so the
//! separator keeps any two (label, context) pairs apart. Which labels exist is `format`'s concern.

use std::fmt;
use std::str::FromStr;

use hkdf::Hkdf;
use sha2::Sha256;
use zeroize::Zeroize;

use super::{Error, Secret};

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

/// The 32-byte secret that belongs to `label` and `context` under `secret` in this repository.
pub fn derive(secret: &Secret, repository: &RepositoryId, label: &str, context: &[u8]) -> Secret {
    Secret::fill(|bytes| derive_into(secret, repository, label, context, bytes))
}

/// Like [`derive()`], filling `out`: at most 8160 bytes.
///
/// Different lengths share a prefix, so one label is only ever used with one length. Wiping `out` is the caller's.
pub fn derive_into(secret: &Secret, repository: &RepositoryId, label: &str, context: &[u8], out: &mut [u8]) {
    assert!(!label.as_bytes().contains(&0), "a label contains no zero byte");
    assert!(
        out.len() <= DERIVED_LEN_MAX,
        "a derived key has at most {DERIVED_LEN_MAX} bytes"
    );
    let (mut extracted, hkdf) = Hkdf::<Sha256>::extract(Some(&repository.0), secret.expose());
    extracted.as_mut_slice().zeroize();
    hkdf.expand_multi_info(&[SCHEME, label.as_bytes(), &[0], context], out)
        .expect("the length was checked above");
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn secret() -> Secret {
        Secret::from_bytes(std::array::from_fn(|i| i as u8))
    }

    fn repository() -> RepositoryId {
        RepositoryId(std::array::from_fn(|i| 0x80 + i as u8))
    }

    /// Computed by an HMAC of another language, from the formula in this file's head.
    #[test]
    fn derived_secrets_never_change() {
        let no_context = derive(&secret(), &repository(), "chunk id", b"");
        assert_eq!(
            hex::encode(no_context.expose()),
            "e8e54aa75a66fbe135b6fe9a1a004b15f5b10b32aca7ea4a5b804b15914e4072"
        );

        let mut context = 1u64.to_le_bytes().to_vec();
        context.extend_from_slice(&[0x22; 32]);
        let with_context = derive(&secret(), &repository(), "pack", &context);
        assert_eq!(
            hex::encode(with_context.expose()),
            "c81c90e97394df8bc56608585cbc5bca8488e67ee082e644cff8163038c1665b"
        );
    }

    #[test]
    fn a_long_derivation_never_changes() {
        let mut table = [0; 2048];
        derive_into(&secret(), &repository(), "cut", b"", &mut table);
        assert_eq!(hex::encode(&table[..16]), "f8ff9dd28f3659bae85cb9ca47604c54");
        assert_eq!(hex::encode(&table[2032..]), "293c4a81cc1e9295aa0dfcae12b6f3f7");
        let digest = <Sha256 as sha2::Digest>::digest(table);
        assert_eq!(
            hex::encode(digest),
            "125d30c985e6830f5ec0a4651322b4561af08b579102f3ff0449e5501f05f727"
        );
    }

    #[test]
    fn every_input_of_a_derivation_matters() {
        let base = derive(&secret(), &repository(), "pack", b"x");
        let other_secret = Secret::from_bytes([1; 32]);
        assert_ne!(base, derive(&other_secret, &repository(), "pack", b"x"));
        assert_ne!(base, derive(&secret(), &RepositoryId([0; 16]), "pack", b"x"));
        assert_ne!(base, derive(&secret(), &repository(), "packx", b""));
        assert_ne!(base, derive(&secret(), &repository(), "pack", b""));
        assert_eq!(base, derive(&secret(), &repository(), "pack", b"x"));
    }

    #[test]
    #[should_panic(expected = "zero byte")]
    fn a_label_cannot_reach_into_the_context() {
        let _ = derive(&secret(), &repository(), "pack\0x", b"");
    }

    #[test]
    fn a_secret_is_not_printed() {
        assert_eq!(format!("{:?}", secret()), "Secret(..)");
    }

    #[test]
    fn other_spellings_of_a_repository_id_are_refused() {
        for text in [
            "",
            "00",
            "0123456789abcdef0123456789abcdeF",
            "0123456789abcdef0123456789abcdeg",
            "0123456789abcdef0123456789abcdef0",
            " 123456789abcdef0123456789abcdef",
        ] {
            assert_eq!(text.parse::<RepositoryId>(), Err(Error::RepositoryId), "{text:?}");
        }
    }

    proptest! {
        #[test]
        fn a_repository_id_survives_its_text(id: [u8; 16]) {
            let text = RepositoryId(id).to_string();
            prop_assert_eq!(text.len(), 32);
            prop_assert_eq!(text.parse(), Ok(RepositoryId(id)));
        }
    }
}
