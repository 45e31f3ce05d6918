//! Padmé (Nikitin et al., "Reducing Metadata Leakage from Encrypted Files and Communication with PURBs", PETS 2019):
//! lengths are rounded up to a floating-point number with as many mantissa bits as its exponent has digits, so that a
//! length shows O(log log n) bits of itself at a cost of at most 12 %, and about 3 % at the size of a pack.

/// The smallest padded length.
pub const FLOOR: u64 = 2048;

/// `len` rounded up to a Padmé size of at least [`FLOOR`]. Saturates above 2⁶³, far beyond any limit of the format.
pub fn padme(len: u64) -> u64 {
    let len = len.max(FLOOR);
    let mask = granularity(len) - 1;
    len.checked_add(mask).map_or(!mask, |sum| sum & !mask)
}

/// The largest Padmé size that does not exceed `len`, at least [`FLOOR`].
pub fn padme_below(len: u64) -> u64 {
    let len = len.max(FLOOR);
    len & !(granularity(len) - 1)
}

/// Whether `len` is a length that [`padme`] returns.
pub fn is_padme(len: u64) -> bool {
    padme(len) == len
}

/// Distance between neighbouring Padmé sizes at `len` (at least [`FLOOR`], so the exponent is at least 11).
fn granularity(len: u64) -> u64 {
    let exponent = len.ilog2();
    let mantissa_bits = exponent.ilog2() + 1;
    1 << (exponent - mantissa_bits)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn known_sizes() {
        let sizes = [
            (0, 2048),
            (2048, 2048),
            (2049, 2176),
            (4097, 4352),
            (100_000, 100_352),
            (33_000_000, 33_030_144),
            (33_554_432, 33_554_432),
            (33_554_433, 34_603_008),
        ];
        for (len, padded) in sizes {
            assert_eq!(padme(len), padded, "{len}");
        }
    }

    proptest! {
        #[test]
        fn padding_covers_is_stable_and_costs_little(len in 0u64..1 << 40) {
            let padded = padme(len);
            prop_assert!(padded >= len && padded >= FLOOR);
            prop_assert!(is_padme(padded));
            prop_assert_eq!(padme_below(padded), padded);
            prop_assert!(len < FLOOR || padded - len <= len * 12 / 100);
            prop_assert!(padme_below(len) <= len.max(FLOOR) && is_padme(padme_below(len)));
        }

        #[test]
        fn no_length_overflows(len: u64) {
            prop_assert!(padme(len) >= len || len > 1 << 63);
        }
    }
}
