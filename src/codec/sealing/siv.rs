//! AES-256-GCM-SIV (RFC 8452), in place: for what is sealed again under the same key and nonce. All that a repeated nonce
//! shows is whether the message is the same as before.

use std::fmt;

use aes_gcm_siv::aead::AeadInOut;
use aes_gcm_siv::{Aes256GcmSiv, KeyInit};

#[cfg(feature = "aws-lc")]
use super::aws_lc;
use super::{Error, Implementation, Secret, TAG_LEN};

/// An AES-256-GCM-SIV key, ready for use.
pub struct SivKey(Cipher);

enum Cipher {
    PureRust(Box<Aes256GcmSiv>),
    #[cfg(feature = "aws-lc")]
    AwsLc(aws_lc_rs::aead::LessSafeKey),
}

impl SivKey {
    /// Expands the key, by the fastest implementation.
    pub fn new(secret: &Secret) -> Self {
        Self::with(Implementation::FASTEST, secret)
    }

    /// Like [`new`](Self::new), by an implementation of one's choice.
    pub fn with(implementation: Implementation, secret: &Secret) -> Self {
        Self(match implementation {
            Implementation::PureRust => Cipher::PureRust(Box::new(Aes256GcmSiv::new(secret.expose().into()))),
            #[cfg(feature = "aws-lc")]
            Implementation::AwsLc => Cipher::AwsLc(aws_lc::key(&aws_lc_rs::aead::AES_256_GCM_SIV, secret)),
        })
    }

    /// Encrypts `bytes` in place; the tag returned is to be stored with them.
    pub fn seal(&self, nonce: [u8; 12], aad: &[u8], bytes: &mut [u8]) -> [u8; TAG_LEN] {
        match &self.0 {
            Cipher::PureRust(key) => key
                .encrypt_inout_detached(&nonce.into(), aad, bytes.into())
                .expect("a message is far below the 64 GiB that AES-GCM-SIV can take")
                .into(),
            #[cfg(feature = "aws-lc")]
            Cipher::AwsLc(key) => aws_lc::seal(key, super::Nonce(nonce), aad, bytes),
        }
    }

    /// Decrypts `bytes` in place. On an error nothing in them is to be looked at.
    ///
    /// # Errors
    /// `Unauthentic` unless they were sealed by this key with this nonce and these associated data.
    pub fn open(&self, nonce: [u8; 12], aad: &[u8], bytes: &mut [u8], tag: &[u8; TAG_LEN]) -> Result<(), Error> {
        match &self.0 {
            Cipher::PureRust(key) => key
                .decrypt_inout_detached(&nonce.into(), aad, bytes.into(), tag.into())
                .map_err(|_| Error::Unauthentic),
            #[cfg(feature = "aws-lc")]
            Cipher::AwsLc(key) => aws_lc::open(key, super::Nonce(nonce), aad, bytes, tag),
        }
    }
}

impl fmt::Debug for SivKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("SivKey(..)")
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::codec::sealing::tests::{IMPLEMENTATIONS, hex_array};

    fn keys(secret: [u8; 32]) -> Vec<SivKey> {
        let secret = Secret::from_bytes(secret);
        let with = |&implementation| SivKey::with(implementation, &secret);
        IMPLEMENTATIONS.iter().map(with).collect()
    }

    /// The first two cases of RFC 8452, C.2.
    #[test]
    fn every_implementation_gives_the_published_bytes() {
        let secret = hex_array(&format!("01{}", "00".repeat(31)));
        let nonce = hex_array("030000000000000000000000");
        let cases = [
            ("", "07f5f4169bbf55a8400cd47ea6fd400f"),
            ("0100000000000000", "c2ef328e5c71c83b843122130f7364b761e0b97427e3df28"),
        ];
        for (plain, expected) in cases {
            for key in keys(secret) {
                let mut bytes = hex::decode(plain).unwrap();
                let tag = key.seal(nonce, &[], &mut bytes);
                assert_eq!(hex::encode([&bytes[..], &tag].concat()), expected);
            }
        }
    }

    proptest! {
        #[test]
        fn implementations_agree_and_open_each_other(
            secret: [u8; 32],
            nonce: [u8; 12],
            aad in prop::collection::vec(any::<u8>(), 0..40),
            plain in prop::collection::vec(any::<u8>(), 0..500),
            flipped: prop::sample::Index,
        ) {
            let sealed = |key: &SivKey| {
                let mut bytes = plain.clone();
                let tag = key.seal(nonce, &aad, &mut bytes);
                (bytes, tag)
            };
            let all: Vec<_> = keys(secret).iter().map(sealed).collect();
            for ((bytes, tag), key) in all.iter().zip(keys(secret).iter().rev()) {
                prop_assert_eq!(&(bytes.clone(), *tag), &all[0]);
                let mut opened = bytes.clone();
                prop_assert_eq!(key.open(nonce, &aad, &mut opened, tag), Ok(()));
                prop_assert_eq!(&opened, &plain);
                let mut wrong = [&bytes[..], tag].concat();
                let at = flipped.index(wrong.len());
                wrong[at] ^= 1;
                let (bytes, tag) = wrong.split_last_chunk_mut::<TAG_LEN>().unwrap();
                prop_assert_eq!(key.open(nonce, &aad, bytes, tag), Err(Error::Unauthentic));
            }
        }
    }
}
