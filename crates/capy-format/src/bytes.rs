//! Reading and writing little-endian fields and varints, with bounds and offsets.

use crate::{FormatError, FormatProblem};

/// Reads fields from bytes of an object; every failure names object and offset.
pub(crate) struct Reader<'a> {
    object: &'a str,
    bytes: &'a [u8],
    at: usize,
    base: usize,
}

impl<'a> Reader<'a> {
    /// Reads `bytes`, which start at `base` of `object`.
    pub(crate) const fn new(object: &'a str, bytes: &'a [u8], base: usize) -> Self {
        Self { object, bytes, at: 0, base }
    }

    pub(crate) const fn offset(&self) -> usize {
        self.base + self.at
    }

    pub(crate) const fn remaining(&self) -> usize {
        self.bytes.len() - self.at
    }

    pub(crate) fn fail(&self, what: impl Into<String>) -> FormatError {
        FormatError::value(self.object, self.offset(), what)
    }

    pub(crate) fn take(&mut self, count: usize) -> Result<&'a [u8], FormatError> {
        let end = self.at.checked_add(count);
        match end.and_then(|end| self.bytes.get(self.at..end)) {
            Some(taken) => {
                self.at += count;
                Ok(taken)
            }
            None => Err(FormatError::new(
                self.object,
                self.offset(),
                FormatProblem::Truncated { expected: count as u64, found: self.remaining() as u64 },
            )),
        }
    }

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

    /// An unsigned LEB128 number in its shortest form.
    pub(crate) fn varint(&mut self) -> Result<u64, FormatError> {
        let start = self.offset();
        let mut value = 0u64;
        for shift in (0..64).step_by(7) {
            let byte = self.u8()?;
            let bits = u64::from(byte & 0x7f);
            if shift == 63 && bits > 1 {
                break;
            }
            value |= bits << shift;
            if byte & 0x80 == 0 {
                if byte == 0 && shift > 0 {
                    break;
                }
                return Ok(value);
            }
        }
        Err(FormatError::value(self.object, start, "not a number in its shortest form"))
    }

    /// A varint of at most `limit`.
    pub(crate) fn bounded(&mut self, what: &'static str, limit: u64) -> Result<u64, FormatError> {
        let start = self.offset();
        let found = self.varint()?;
        if found > limit {
            return Err(FormatError::new(self.object, start, FormatProblem::Limit { what, found, limit }));
        }
        Ok(found)
    }

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

    /// Refuses bytes that nobody has read.
    pub(crate) fn finish(&self) -> Result<(), FormatError> {
        if self.remaining() == 0 {
            return Ok(());
        }
        let expected = self.at as u64;
        let found = self.bytes.len() as u64;
        Err(FormatError::new(self.object, self.offset(), FormatProblem::TooLong { expected, found }))
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
