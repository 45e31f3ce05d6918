//! Checked reading of stored bytes. Owns the rule that no length or count is believed before the bytes it speaks of
//! are there; knows nothing of what the bytes mean.
//!
//! Integers are little-endian. Writing needs no checks and goes through [`bytes::BufMut`].

use super::{Error, FORMAT, SUITE};

/// A cursor over untrusted bytes. Every method either returns what it names or a [`Error::Damaged`] that names the
/// structure being read; none allocates more than the bytes that remain.
pub struct Reader<'a> {
    what: &'static str,
    rest: &'a [u8],
}

impl<'a> Reader<'a> {
    /// Reads `bytes` as a structure called `what` in errors.
    pub fn new(what: &'static str, bytes: &'a [u8]) -> Self {
        Self { what, rest: bytes }
    }

    /// What the structure is called in errors.
    pub fn what(&self) -> &'static str {
        self.what
    }

    /// Bytes not read yet.
    pub fn remaining(&self) -> usize {
        self.rest.len()
    }

    /// An error about this structure.
    pub fn damaged(&self, problem: &'static str) -> Error {
        Error::damaged(self.what, problem)
    }

    /// The next `len` bytes.
    pub fn take(&mut self, len: usize) -> Result<&'a [u8], Error> {
        let (taken, rest) = self
            .rest
            .split_at_checked(len)
            .ok_or_else(|| self.damaged("it ends early"))?;
        self.rest = rest;
        Ok(taken)
    }

    /// The next `N` bytes.
    pub fn array<const N: usize>(&mut self) -> Result<[u8; N], Error> {
        let (taken, rest) = self
            .rest
            .split_first_chunk::<N>()
            .ok_or_else(|| self.damaged("it ends early"))?;
        self.rest = rest;
        Ok(*taken)
    }

    /// One byte.
    pub fn u8(&mut self) -> Result<u8, Error> {
        self.array::<1>().map(|[byte]| byte)
    }

    /// Two bytes.
    pub fn u16(&mut self) -> Result<u16, Error> {
        self.array().map(u16::from_le_bytes)
    }

    /// Four bytes.
    pub fn u32(&mut self) -> Result<u32, Error> {
        self.array().map(u32::from_le_bytes)
    }

    /// Eight bytes.
    pub fn u64(&mut self) -> Result<u64, Error> {
        self.array().map(u64::from_le_bytes)
    }

    /// Eight bytes, two's complement.
    pub fn i64(&mut self) -> Result<i64, Error> {
        self.array().map(i64::from_le_bytes)
    }

    /// A u32 count of rows of at least `row_len` bytes each; refused if the rows cannot all be there, or are more than
    /// `max`. So a `Vec::with_capacity` of it is bounded by the input.
    pub fn count(&mut self, row_len: usize, max: usize) -> Result<usize, Error> {
        let count = usize::try_from(self.u32()?).map_err(|_| self.damaged("a count is too large"))?;
        if count > max {
            return Err(self.damaged("a count is above its limit"));
        }
        match count.checked_mul(row_len) {
            Some(len) if len <= self.remaining() => Ok(count),
            _ => Err(self.damaged("a count exceeds the bytes that follow")),
        }
    }

    /// A u16 length and as many bytes of UTF-8.
    pub fn text(&mut self) -> Result<&'a str, Error> {
        let len = usize::from(self.u16()?);
        self.text_of(len)
    }

    /// `len` bytes of UTF-8.
    pub fn text_of(&mut self, len: usize) -> Result<&'a str, Error> {
        let bytes = self.take(len)?;
        std::str::from_utf8(bytes).map_err(|_| self.damaged("a text is not UTF-8"))
    }

    /// The four bytes every object begins (a trailer: ends) with.
    pub fn magic(&mut self, magic: &[u8; 4]) -> Result<(), Error> {
        if &self.array::<4>()? == magic {
            Ok(())
        } else {
            Err(self.damaged("its magic bytes are not there"))
        }
    }

    /// A format number this version knows.
    pub fn format(&mut self) -> Result<u16, Error> {
        match self.u16()? {
            FORMAT => Ok(FORMAT),
            version => Err(Error::UnknownVersion {
                what: self.what,
                version,
            }),
        }
    }

    /// A cipher suite this version knows.
    pub fn suite(&mut self) -> Result<u16, Error> {
        match self.u16()? {
            SUITE => Ok(SUITE),
            suite => Err(Error::UnknownSuite { what: self.what, suite }),
        }
    }

    /// `len` reserved bytes, which must be zero: what nobody reads, nobody may hide a change in.
    pub fn zeros(&mut self, len: usize) -> Result<(), Error> {
        if self.take(len)?.iter().all(|&byte| byte == 0) {
            Ok(())
        } else {
            Err(self.damaged("bytes that must be zero are not"))
        }
    }

    /// Ends the reading; nothing may be left.
    pub fn end(self) -> Result<(), Error> {
        if self.rest.is_empty() {
            Ok(())
        } else {
            Err(self.damaged("bytes follow its end"))
        }
    }

    /// Ends the reading of a structure that was padded with zeros.
    pub fn end_padded(mut self) -> Result<(), Error> {
        self.zeros(self.remaining())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_count_is_not_believed_beyond_its_bytes() {
        let bytes = [3, 0, 0, 0, 1, 2, 3, 4, 5];
        assert!(Reader::new("t", &bytes).count(2, 10).is_err());
        assert!(Reader::new("t", &bytes).count(1, 2).is_err());
        assert_eq!(Reader::new("t", &bytes).count(1, 10), Ok(3));
        assert!(Reader::new("t", &[0xff; 4]).count(usize::MAX, usize::MAX).is_err());
    }

    #[test]
    fn every_read_stops_at_the_end() {
        let mut reader = Reader::new("t", &[1, 2, 3]);
        assert!(reader.u32().is_err());
        assert_eq!(reader.u16(), Ok(0x0201));
        assert!(reader.u16().is_err());
        assert!(reader.take(2).is_err());
        assert_eq!(reader.u8(), Ok(3));
        assert!(reader.u8().is_err());
        assert_eq!(reader.end(), Ok(()));
    }

    #[test]
    fn padding_must_be_zero() {
        assert!(Reader::new("t", &[0, 0]).end_padded().is_ok());
        assert!(Reader::new("t", &[0, 1]).end_padded().is_err());
        assert!(Reader::new("t", &[0]).end().is_err());
    }
}
