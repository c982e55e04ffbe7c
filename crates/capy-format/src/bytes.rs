//! Reading and writing little-endian fields, varints and byte strings.
//!
//! Invariants: a [`Reader`] never reads past its bytes, never allocates, and every failure names
//! object and offset. Each number has exactly one encoding, so what decodes encodes back to the
//! same bytes.

use crate::{FormatError, FormatProblem};

/// Reads fields from a part of an object.
pub(crate) struct Reader<'a> {
    object: &'a str,
    bytes: &'a [u8],
    at: usize,
    base: u64,
}

impl<'a> Reader<'a> {
    /// Reads `bytes`, which start at `base` of `object`.
    pub(crate) const fn new(object: &'a str, bytes: &'a [u8], base: u64) -> Self {
        Self { object, bytes, at: 0, base }
    }

    /// Where the next field starts in the object, in bytes.
    pub(crate) const fn offset(&self) -> u64 {
        self.base.saturating_add(self.at as u64)
    }

    /// Bytes not read yet.
    pub(crate) const fn remaining(&self) -> usize {
        self.bytes.len() - self.at
    }

    /// A value at `offset` that makes no sense.
    pub(crate) fn fail_at(&self, offset: u64, what: impl Into<String>) -> FormatError {
        FormatError::value(self.object, offset, what)
    }

    /// A count or length at `offset` beyond its limit.
    pub(crate) fn limit_at(&self, offset: u64, what: &'static str, found: u64, limit: u64) -> FormatError {
        FormatError::new(self.object, offset, FormatProblem::Limit { what, found, limit })
    }

    /// The next `count` bytes.
    pub(crate) fn take(&mut self, count: usize) -> Result<&'a [u8], FormatError> {
        let end = self.at.checked_add(count);
        match end.and_then(|end| self.bytes.get(self.at..end)) {
            Some(taken) => {
                self.at += count;
                Ok(taken)
            }
            None => {
                let problem =
                    FormatProblem::Truncated { expected: count as u64, found: self.remaining() as u64 };
                Err(FormatError::new(self.object, self.offset(), problem))
            }
        }
    }

    /// The next `N` bytes.
    pub(crate) fn array<const N: usize>(&mut self) -> Result<[u8; N], FormatError> {
        Ok(*self.take(N)?.first_chunk().expect("exactly N bytes were taken"))
    }

    pub(crate) fn u8(&mut self) -> Result<u8, FormatError> {
        Ok(u8::from_le_bytes(self.array()?))
    }

    pub(crate) fn u16(&mut self) -> Result<u16, FormatError> {
        Ok(u16::from_le_bytes(self.array()?))
    }

    pub(crate) fn u32(&mut self) -> Result<u32, FormatError> {
        Ok(u32::from_le_bytes(self.array()?))
    }

    /// A count of items of at least `item_bytes` each: checked against `limit` and against the
    /// bytes left, so that the caller may allocate for it.
    pub(crate) fn count_u32(
        &mut self,
        what: &'static str,
        limit: usize,
        item_bytes: usize,
    ) -> Result<usize, FormatError> {
        let start = self.offset();
        let count = self.u32()? as usize;
        if count > limit {
            return Err(self.limit_at(start, what, count as u64, limit as u64));
        }
        let expected = count as u64 * item_bytes as u64;
        let found = self.remaining() as u64;
        if expected > found {
            let problem = FormatProblem::Truncated { expected, found };
            return Err(FormatError::new(self.object, self.offset(), problem));
        }
        Ok(count)
    }

    /// An unsigned LEB128 number in its shortest form.
    pub(crate) fn varint(&mut self) -> Result<u64, FormatError> {
        let start = self.offset();
        let mut value = 0u64;
        for shift in (0..64).step_by(7) {
            let byte = self.u8()?;
            let bits = u64::from(byte & 0x7f);
            let too_wide = shift == 63 && bits > 1;
            let padded = byte == 0 && shift > 0;
            if too_wide || padded {
                break;
            }
            value |= bits << shift;
            if byte & 0x80 == 0 {
                return Ok(value);
            }
        }
        Err(self.fail_at(start, "not a 64-bit number in its shortest form"))
    }

    /// A varint of at most `limit`.
    pub(crate) fn bounded(&mut self, what: &'static str, limit: u64) -> Result<u64, FormatError> {
        let start = self.offset();
        let found = self.varint()?;
        if found > limit { Err(self.limit_at(start, what, found, limit)) } else { Ok(found) }
    }

    /// A varint of at most `limit`.
    pub(crate) fn bounded_u32(&mut self, what: &'static str, limit: u32) -> Result<u32, FormatError> {
        Ok(u32::try_from(self.bounded(what, u64::from(limit))?).expect("bounded by a u32"))
    }

    /// A signed number, zigzag encoded.
    pub(crate) fn signed(&mut self) -> Result<i64, FormatError> {
        let n = self.varint()?;
        Ok((n >> 1).cast_signed() ^ -(n & 1).cast_signed())
    }

    /// A byte string with its length before it.
    pub(crate) fn string(&mut self, what: &'static str, limit: usize) -> Result<&'a [u8], FormatError> {
        let length = self.bounded(what, limit as u64)?;
        self.take(usize::try_from(length).expect("bounded by a usize"))
    }

    /// A UTF-8 string with its length in bytes before it.
    pub(crate) fn text(&mut self, what: &'static str, limit: usize) -> Result<&'a str, FormatError> {
        let start = self.offset();
        let bytes = self.string(what, limit)?;
        std::str::from_utf8(bytes).map_err(|_| self.fail_at(start, format!("{what} is not UTF-8")))
    }

    /// Refuses bytes that nobody has read.
    pub(crate) fn finish(&self) -> Result<(), FormatError> {
        if self.remaining() == 0 {
            return Ok(());
        }
        let problem = FormatProblem::TooLong { expected: self.at as u64, found: self.bytes.len() as u64 };
        Err(FormatError::new(self.object, self.offset(), problem))
    }
}

/// Appends an unsigned LEB128 number.
pub(crate) fn put_varint(out: &mut Vec<u8>, mut value: u64) {
    while value >= 0x80 {
        out.push(value.to_le_bytes()[0] | 0x80);
        value >>= 7;
    }
    out.push(value.to_le_bytes()[0]);
}

/// Appends a signed number, zigzag encoded.
pub(crate) fn put_signed(out: &mut Vec<u8>, value: i64) {
    put_varint(out, (value << 1 ^ value >> 63).cast_unsigned());
}

/// Appends a byte string with its length before it.
pub(crate) fn put_string(out: &mut Vec<u8>, bytes: &[u8]) {
    put_varint(out, bytes.len() as u64);
    out.extend_from_slice(bytes);
}

#[cfg(test)]
mod tests {
    use super::*;

    fn varint(bytes: &[u8]) -> Result<u64, FormatError> {
        let mut reader = Reader::new("number", bytes, 0);
        let value = reader.varint()?;
        reader.finish().map(|()| value)
    }

    #[test]
    fn numbers_have_one_encoding() {
        for value in [0, 1, 127, 128, 16_383, 16_384, u64::from(u32::MAX), u64::MAX - 1, u64::MAX] {
            let mut out = Vec::new();
            put_varint(&mut out, value);
            assert_eq!(varint(&out), Ok(value));
        }
        assert!(varint(&[0x80, 0x00]).is_err(), "0 in two bytes");
        assert!(varint(&[0xff; 10]).is_err(), "more than 64 bits");
        let mut eleven = vec![0x80; 10];
        eleven.push(1);
        assert!(varint(&eleven).is_err(), "eleven bytes");
    }

    #[test]
    fn signed_numbers_read_back() {
        for value in [0, 1, -1, 63, -64, 64, i64::MAX, i64::MIN] {
            let mut out = Vec::new();
            put_signed(&mut out, value);
            assert_eq!(Reader::new("number", &out, 0).signed(), Ok(value));
        }
    }

    #[test]
    fn a_count_that_the_bytes_cannot_hold_is_refused_before_anything_is_allocated() {
        let bytes = [0xff, 0xff, 0, 0, 1, 2, 3];
        let error = Reader::new("list", &bytes, 100).count_u32("items", 1 << 20, 48).unwrap_err();
        assert_eq!(error.to_string(), "list: truncated: 3145680 bytes expected, 3 found (at offset 104)");
        let error = Reader::new("list", &bytes, 100).count_u32("items", 10, 48).unwrap_err();
        assert_eq!(error.to_string(), "list: items of 65535 is beyond the limit of 10 (at offset 100)");
    }
}
