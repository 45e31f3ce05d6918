//! Stored bytes that lie about what they are.

use zstd::zstd_safe;

use super::input::{Input, seeded};
use crate::codec::{Codec, Compressor, Decompressor, Level};

/// Longest plaintext tried: a frame of a few bytes can promise far more.
const PLAIN_LEN_MAX: usize = 1 << 20;
const BEFORE: &[u8] = b"what was there before";

/// Any stored bytes give exactly the length promised or an error that leaves no trace, in no more memory than promised;
/// and a decompressor that met them still reads what is intact.
pub fn decompression(data: &[u8]) {
    let mut input = Input::new(data);
    let intact = Stored::compressed(&mut input);
    let any_len = input.below(PLAIN_LEN_MAX);
    let hostile = intact.changed(&mut input, any_len);

    let mut decompressor = Decompressor::new();
    let mut out = BEFORE.to_vec();
    let refused = hostile.read(&mut decompressor, &mut out).is_err();
    assert!(out.starts_with(BEFORE));
    assert_eq!(out.len(), BEFORE.len() + if refused { 0 } else { hostile.plain_len });
    assert!(
        out.capacity() <= 2 * (BEFORE.len() + hostile.plain_len),
        "memory beyond what was promised"
    );

    let mut back = Vec::new();
    let read = intact.read(&mut decompressor, &mut back);
    assert_eq!(read, Ok(()));
    assert!(back == intact.plain, "another plaintext came back");
}

/// Bytes of a blob and what its entry says of them.
struct Stored {
    codec: Codec,
    bytes: Vec<u8>,
    plain_len: usize,
    /// What they should be; unknown of hostile ones.
    plain: Vec<u8>,
}

impl Stored {
    /// A plaintext of few decisions, compressed.
    fn compressed(input: &mut Input<'_>) -> Self {
        let level = Level::new((input.u8() % 4).into()).expect("levels up to 19 exist");
        let random_len = input.u8().into();
        let random = seeded(input.u8().into(), random_len);
        let plain = random.repeat(1 + usize::from(input.u8()));
        let mut bytes = Vec::new();
        let codec = Compressor::new(level).compress(&plain, &mut bytes);
        let plain_len = plain.len();
        Self {
            codec,
            bytes,
            plain_len,
            plain,
        }
    }

    /// The same with edits, or the fuzzer's own bytes. The length promised is mostly the frame's own: a frame that
    /// contradicts its entry is refused before it is read.
    fn changed(&self, input: &mut Input<'_>, any_len: usize) -> Self {
        let (source, promise) = (input.u8(), input.u8());
        let magic = zstd_safe::MAGICNUMBER.to_le_bytes();
        let (codec, bytes) = match source % 4 {
            0 => (self.codec, input.edited(&self.bytes)),
            1 => (Codec::Raw, input.rest().to_vec()),
            2 => (Codec::Zstd, input.rest().to_vec()),
            _ => (Codec::Zstd, [&magic, input.rest()].concat()),
        };
        let by_frame = zstd_safe::get_frame_content_size(&bytes).ok().flatten();
        let plain_len = match (promise % 8, by_frame) {
            (0, _) => self.plain_len,
            (1, _) => any_len,
            (_, Some(len)) if len <= PLAIN_LEN_MAX as u64 => len as usize,
            _ => bytes.len(),
        };
        Self {
            codec,
            bytes,
            plain_len,
            plain: Vec::new(),
        }
    }

    fn read(&self, decompressor: &mut Decompressor, out: &mut Vec<u8>) -> Result<(), crate::codec::Error> {
        let before = out.len();
        let read = decompressor.decompress(self.codec, &self.bytes, self.plain_len, out);
        let mut filled = vec![0; self.plain_len];
        let into = decompressor.decompress_into(self.codec, &self.bytes, &mut filled);
        assert_eq!(into, read, "appended and filled in differ");
        assert!(
            read.is_err() || out[before..] == filled,
            "appended and filled in differ"
        );
        read
    }
}
