use proptest::prelude::*;

use super::*;

pub(super) const IMPLEMENTATIONS: &[Implementation] = &[
    Implementation::PureRust,
    #[cfg(feature = "aws-lc")]
    Implementation::AwsLc,
];

fn keys(secret: [u8; 32]) -> Vec<SealingKey> {
    let secret = Secret::from_bytes(secret);
    IMPLEMENTATIONS
        .iter()
        .map(|&implementation| SealingKey::with(implementation, &secret))
        .collect()
}

fn sealed(key: &SealingKey, nonce: [u8; 12], aad: &[u8], plain: &[u8]) -> Vec<u8> {
    let mut bytes = plain.to_vec();
    let tag = key.seal(Nonce(nonce), aad, &mut bytes);
    bytes.extend_from_slice(&tag);
    bytes
}

/// Opens in place and into other bytes, which has to come to the same: on an error all zeros.
fn opened(key: &SealingKey, nonce: [u8; 12], aad: &[u8], sealed: &[u8]) -> Result<Vec<u8>, Error> {
    let mut bytes = sealed.to_vec();
    let in_place = key.open(Nonce(nonce), aad, &mut bytes).map(|plain| plain.to_vec());
    let mut out = vec![1; sealed.len().saturating_sub(TAG_LEN)];
    let into = key.open_into(Nonce(nonce), aad, sealed, &mut out);
    assert_eq!(into.clone().map(|()| out.clone()), in_place);
    let is_shown = [bytes, out].concat().iter().any(|&byte| byte != 0);
    assert!(into.is_ok() || sealed.len() < TAG_LEN || !is_shown);
    let mut longer = vec![1; sealed.len()];
    assert_eq!(
        key.open_into(Nonce(nonce), aad, sealed, &mut longer),
        Err(Error::Unauthentic)
    );
    in_place
}

pub(super) fn hex_array<const N: usize>(text: &str) -> [u8; N] {
    hex::decode(text).unwrap().try_into().unwrap()
}

/// Test cases 13, 14 and 16 of the GCM submission to NIST (McGrew and Viega), the ones with a 256-bit key.
#[test]
fn every_implementation_gives_the_published_bytes() {
    let zero = "00".repeat(32);
    let key = "feffe9928665731c6d6a8f9467308308".repeat(2);
    let plain = "d9313225f88406e5a55909c5aff5269a86a7a9531534f7da2e4c303d8a318a721c3c0c95956809532fcf0e2449a6b525\
                 b16aedf5aa0de657ba637b39";
    let cipher = "522dc1f099567d07f47f37a32a84427d643a8cdcbfe5c0c97598a2bd2555d1aa8cb08e48590dbb3da7b08b1056828838\
                  c5f61e6393ba7a0abcc9f66276fc6ece0f4e1768cddf8853bb2d551b";
    let cases = [
        (&zero, "00".repeat(12), "", "", "530f8afbc74536b9a963b4f1c4cb738b"),
        (
            &zero,
            "00".repeat(12),
            "",
            "00000000000000000000000000000000",
            "cea7403d4d606b6e074ec5d3baf39d18d0d1c8a799996bf0265b98b5d48ab919",
        ),
        (
            &key,
            "cafebabefacedbaddecaf888".to_owned(),
            "feedfacedeadbeeffeedfacedeadbeefabaddad2",
            plain,
            cipher,
        ),
    ];
    for (key, nonce, aad, plain, expected) in cases {
        let (aad, plain) = (hex::decode(aad).unwrap(), hex::decode(plain).unwrap());
        for key in keys(hex_array(key)) {
            let sealed = sealed(&key, hex_array(&nonce), &aad, &plain);
            assert_eq!(hex::encode(&sealed), expected);
            assert_eq!(opened(&key, hex_array(&nonce), &aad, &sealed).unwrap(), plain);
        }
    }
}

proptest! {
    #[test]
    fn implementations_agree_and_open_each_other(
        secret: [u8; 32],
        counter: u32,
        aad in prop::collection::vec(any::<u8>(), 0..200),
        plain in prop::collection::vec(any::<u8>(), 0..5000),
    ) {
        let nonce = Nonce::counter(counter).0;
        let all: Vec<_> = keys(secret).iter().map(|key| sealed(key, nonce, &aad, &plain)).collect();
        for (one, key) in all.iter().zip(keys(secret).iter().rev()) {
            prop_assert_eq!(one, &all[0]);
            prop_assert_eq!(opened(key, nonce, &aad, one).unwrap(), &plain[..]);
        }
    }

    #[test]
    fn a_change_of_any_byte_is_found_and_nothing_is_shown(
        plain in prop::collection::vec(any::<u8>(), 0..300),
        at: prop::sample::Index,
        change in 1u8..,
    ) {
        for key in keys([7; 32]) {
            let mut bytes = sealed(&key, [0; 12], b"aad", &plain);
            let at = at.index(bytes.len());
            bytes[at] ^= change;
            prop_assert_eq!(opened(&key, [0; 12], b"aad", &bytes), Err(Error::Unauthentic));
        }
    }
}

#[test]
fn another_key_nonce_or_associated_data_is_found() {
    for (key, other) in keys([1; 32]).iter().zip(keys([2; 32])) {
        let fresh = || sealed(key, Nonce::counter(5).0, b"here", b"plain");
        assert_eq!(
            opened(&other, Nonce::counter(5).0, b"here", &fresh()),
            Err(Error::Unauthentic)
        );
        assert_eq!(
            opened(key, Nonce::counter(6).0, b"here", &fresh()),
            Err(Error::Unauthentic)
        );
        assert_eq!(
            opened(key, Nonce::counter(5).0, b"there", &fresh()),
            Err(Error::Unauthentic)
        );
        assert_eq!(opened(key, Nonce::counter(5).0, b"here", &fresh()).unwrap(), b"plain");
    }
}

#[test]
fn less_than_a_tag_is_refused() {
    for key in keys([1; 32]) {
        for len in 0..TAG_LEN {
            assert_eq!(opened(&key, [0; 12], b"", &vec![0; len]), Err(Error::Unauthentic));
        }
    }
}

#[test]
fn a_counter_is_the_big_endian_end_of_its_nonce() {
    assert_eq!(Nonce::counter(0x0102_0304).0, [0, 0, 0, 0, 0, 0, 0, 0, 1, 2, 3, 4]);
}

#[test]
fn a_key_is_not_printed() {
    assert_eq!(
        format!("{:?}", SealingKey::new(&Secret::from_bytes([3; 32]))),
        "SealingKey(..)"
    );
}
