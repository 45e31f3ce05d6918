//! AES-256-GCM: what makes bytes secret and unforgeable.
//!
//! Two implementations give the same bytes. The pure Rust one is always there; AWS-LC (feature `aws-lc`) is three times
//! as fast and used if built in. Keys are used for one pack, file or section each, with nonces from a counter, so that a
//! nonce never repeats under a key; keeping that rule is the caller's. Where it cannot be kept, [`SivKey`] is for.

mod siv;

use std::fmt;

use aes_gcm::aead::AeadInOut;
use aes_gcm::aead::inout::InOutBuf;
use aes_gcm::{Aes256Gcm, KeyInit};

pub use self::siv::SivKey;
use super::{Error, Secret};

/// What sealing adds to the length.
pub const TAG_LEN: usize = 16;

/// Distinguishes the messages under one key. Not `Copy`: one nonce, one message.
#[derive(Debug, PartialEq, Eq)]
pub struct Nonce([u8; 12]);

impl Nonce {
    /// Eight zero bytes and the counter, big-endian (the deterministic construction of SP 800-38D, 8.2.1).
    pub fn counter(counter: u32) -> Self {
        let mut bytes = [0; 12];
        bytes[8..].copy_from_slice(&counter.to_be_bytes());
        Self(bytes)
    }
}

/// Who computes AES-256-GCM and AES-256-GCM-SIV. The bytes are the same.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Implementation {
    /// The `aes-gcm` and `aes-gcm-siv` crates.
    PureRust,
    /// AWS-LC.
    #[cfg(feature = "aws-lc")]
    AwsLc,
}

impl Implementation {
    /// The fastest in this build.
    pub const FASTEST: Self = {
        #[cfg(feature = "aws-lc")]
        {
            Self::AwsLc
        }
        #[cfg(not(feature = "aws-lc"))]
        {
            Self::PureRust
        }
    };
}

/// An AES-256-GCM key, ready for use.
pub struct SealingKey(Cipher);

enum Cipher {
    PureRust(Box<Aes256Gcm>),
    #[cfg(feature = "aws-lc")]
    AwsLc(aws_lc_rs::aead::LessSafeKey),
}

impl SealingKey {
    /// Expands the key, by the fastest implementation: some 200 ns.
    pub fn new(secret: &Secret) -> Self {
        Self::with(Implementation::FASTEST, secret)
    }

    /// Like [`new`](Self::new), by an implementation of one's choice.
    pub fn with(implementation: Implementation, secret: &Secret) -> Self {
        Self(match implementation {
            Implementation::PureRust => Cipher::PureRust(Box::new(Aes256Gcm::new(secret.expose().into()))),
            #[cfg(feature = "aws-lc")]
            Implementation::AwsLc => Cipher::AwsLc(aws_lc::key(&aws_lc_rs::aead::AES_256_GCM, secret)),
        })
    }

    /// Encrypts `bytes` in place; the tag returned is to be stored behind them.
    pub fn seal(&self, nonce: Nonce, aad: &[u8], bytes: &mut [u8]) -> [u8; TAG_LEN] {
        match &self.0 {
            Cipher::PureRust(key) => key
                .encrypt_inout_detached(&nonce.0.into(), aad, bytes.into())
                .expect("a message is far below the 64 GiB that AES-GCM can take")
                .into(),
            #[cfg(feature = "aws-lc")]
            Cipher::AwsLc(key) => aws_lc::seal(key, nonce, aad, bytes),
        }
    }

    /// Decrypts ciphertext and tag in place; the plaintext is the front of `sealed`.
    ///
    /// On an error `sealed` is all zeros: what failed to authenticate is not to be looked at.
    pub fn open<'a>(&self, nonce: Nonce, aad: &[u8], sealed: &'a mut [u8]) -> Result<&'a mut [u8], Error> {
        let (bytes, tag) = sealed.split_last_chunk_mut::<TAG_LEN>().ok_or(Error::Unauthentic)?;
        let opened = match &self.0 {
            Cipher::PureRust(key) => key
                .decrypt_inout_detached(&nonce.0.into(), aad, (&mut *bytes).into(), (&*tag).into())
                .map_err(|_| Error::Unauthentic),
            #[cfg(feature = "aws-lc")]
            Cipher::AwsLc(key) => aws_lc::open(key, nonce, aad, bytes, tag),
        };
        match opened {
            Ok(()) => Ok(bytes),
            Err(error) => {
                bytes.fill(0);
                tag.fill(0);
                Err(error)
            }
        }
    }

    /// As [`open`](Self::open), but fills `out`, which has the length of the plaintext; `sealed` stays as it is. On an error `out` is
    /// all zeros.
    pub fn open_into(&self, nonce: Nonce, aad: &[u8], sealed: &[u8], out: &mut [u8]) -> Result<(), Error> {
        let opened = match sealed.split_last_chunk::<TAG_LEN>() {
            Some((bytes, tag)) if bytes.len() == out.len() => match &self.0 {
                Cipher::PureRust(key) => InOutBuf::new(bytes, &mut *out)
                    .map_err(|_| Error::Unauthentic)
                    .and_then(|buffer| {
                        key.decrypt_inout_detached(&nonce.0.into(), aad, buffer, tag.into())
                            .map_err(|_| Error::Unauthentic)
                    }),
                #[cfg(feature = "aws-lc")]
                Cipher::AwsLc(key) => aws_lc::open_into(key, nonce, aad, bytes, tag, out),
            },
            _ => Err(Error::Unauthentic),
        };
        if opened.is_err() {
            out.fill(0);
        }
        opened
    }
}

impl fmt::Debug for SealingKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("SealingKey(..)")
    }
}

#[cfg(feature = "aws-lc")]
mod aws_lc {
    //! The same operations by AWS-LC.

    use aws_lc_rs::aead::{Aad, Algorithm, LessSafeKey, Nonce as RawNonce, UnboundKey};

    use super::{Error, Nonce, Secret, TAG_LEN};

    pub(super) fn key(algorithm: &'static Algorithm, secret: &Secret) -> LessSafeKey {
        LessSafeKey::new(UnboundKey::new(algorithm, secret.expose()).expect("an AES-256 key has 32 bytes"))
    }

    pub(super) fn seal(key: &LessSafeKey, nonce: Nonce, aad: &[u8], bytes: &mut [u8]) -> [u8; TAG_LEN] {
        let tag = key
            .seal_in_place_separate_tag(raw(nonce), Aad::from(aad), bytes)
            .expect("a message is far below the 64 GiB that AES-GCM can take");
        tag.as_ref().try_into().expect("an AES-GCM tag has 16 bytes")
    }

    pub(super) fn open(
        key: &LessSafeKey,
        nonce: Nonce,
        aad: &[u8],
        bytes: &mut [u8],
        tag: &[u8; TAG_LEN],
    ) -> Result<(), Error> {
        key.open_in_place_separate_tag(raw(nonce), Aad::from(aad), tag, bytes)
            .map(|_| ())
            .map_err(|_| Error::Unauthentic)
    }

    pub(super) fn open_into(
        key: &LessSafeKey,
        nonce: Nonce,
        aad: &[u8],
        bytes: &[u8],
        tag: &[u8; TAG_LEN],
        out: &mut [u8],
    ) -> Result<(), Error> {
        key.open_separate_gather(raw(nonce), Aad::from(aad), bytes, tag, out)
            .map_err(|_| Error::Unauthentic)
    }

    fn raw(nonce: Nonce) -> RawNonce {
        RawNonce::assume_unique_for_key(nonce.0)
    }
}

#[cfg(test)]
mod tests;
