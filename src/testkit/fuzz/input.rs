//! The bytes a fuzzer chose, read as decisions.

/// Decisions yet to be made. Once the bytes are used up, every number is zero.
pub(super) struct Input<'a> {
    rest: &'a [u8],
}

impl<'a> Input<'a> {
    pub(super) fn new(bytes: &'a [u8]) -> Self {
        Self { rest: bytes }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.rest.is_empty()
    }

    /// At most `len` bytes.
    pub(super) fn bytes(&mut self, len: usize) -> &'a [u8] {
        let (taken, rest) = self.rest.split_at(len.min(self.rest.len()));
        self.rest = rest;
        taken
    }

    /// All bytes left.
    pub(super) fn rest(&mut self) -> &'a [u8] {
        self.bytes(self.rest.len())
    }

    pub(super) fn array<const N: usize>(&mut self) -> [u8; N] {
        let taken = self.bytes(N);
        let mut array = [0; N];
        array[..taken.len()].copy_from_slice(taken);
        array
    }

    pub(super) fn u8(&mut self) -> u8 {
        u8::from_le_bytes(self.array())
    }

    pub(super) fn u16(&mut self) -> u16 {
        u16::from_le_bytes(self.array())
    }

    pub(super) fn u64(&mut self) -> u64 {
        u64::from_le_bytes(self.array())
    }

    /// A number below `bound`, or zero.
    pub(super) fn below(&mut self, bound: usize) -> usize {
        let number = u32::from_le_bytes(self.array()) as usize;
        number.checked_rem(bound).unwrap_or(0)
    }

    /// One of several.
    pub(super) fn choice<'c, T>(&mut self, choices: &'c [T]) -> &'c T {
        &choices[usize::from(self.u8()) % choices.len()]
    }

    /// `sample` after as many edits as there are bytes for.
    pub(super) fn edited(&mut self, sample: &[u8]) -> Vec<u8> {
        let mut bytes = sample.to_vec();
        while !self.is_empty() {
            self.edit(&mut bytes);
        }
        bytes
    }

    /// Never adds more bytes than it takes, so that the length stays in proportion.
    fn edit(&mut self, bytes: &mut Vec<u8>) {
        let kind = self.u8() % 8;
        let at = self.below(bytes.len() + 1);
        match kind {
            0 => bytes.truncate(at),
            1 => {
                let len = self.u8().into();
                bytes.splice(at..at, self.bytes(len).iter().copied());
            }
            2 => {
                let end = at + self.below(bytes.len() - at + 1);
                bytes.drain(at..end);
            }
            3 => {
                let from = self.below(bytes.len());
                let len = self.below(bytes.len() - at.max(from) + 1);
                bytes.copy_within(from..from + len, at);
            }
            4 => {
                let by = self.below(bytes.len() - at + 1);
                bytes[at..].rotate_left(by);
            }
            5 => {
                let len = self.u8().into();
                let new = self.bytes(len);
                bytes[at..].iter_mut().zip(new).for_each(|(byte, new)| *byte = *new);
            }
            6 => {
                let bits = self.u8();
                bytes[at..].iter_mut().take(1).for_each(|byte| *byte ^= bits);
            }
            // All of it from the fuzzer: seldom near anything valid, but what it learns here fits everywhere.
            _ => *bytes = self.rest().to_vec(),
        }
    }
}

/// `len` bytes of a pseudo-random stream.
pub(super) fn seeded(seed: u64, len: usize) -> Vec<u8> {
    let mut bytes = vec![0; len];
    let mut hasher = blake3::Hasher::new();
    hasher.update(&seed.to_le_bytes()).finalize_xof().fill(&mut bytes);
    bytes
}
