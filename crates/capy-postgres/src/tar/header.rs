//! One 512-byte tar header: its fields, its numbers, its checksum.
//!
//! Reading accepts what v7, ustar and GNU tar write; writing follows PostgreSQL's
//! `print_tar_number` and `tarCreateHeader`: octal closed by one space, base-256 when octal is
//! too narrow, checksum last.

use super::BLOCK_BYTES;

/// A field's place: offset and length in bytes.
#[derive(Clone, Copy)]
pub(super) struct Field(usize, usize);

pub(super) const NAME: Field = Field(0, 100);
pub(super) const MODE: Field = Field(100, 8);
pub(super) const UID: Field = Field(108, 8);
pub(super) const GID: Field = Field(116, 8);
pub(super) const SIZE: Field = Field(124, 12);
pub(super) const MTIME: Field = Field(136, 12);
pub(super) const CHECKSUM: Field = Field(148, 8);
pub(super) const TYPE: Field = Field(156, 1);
pub(super) const LINK: Field = Field(157, 100);
pub(super) const MAGIC: Field = Field(257, 8);
pub(super) const OWNER: Field = Field(265, 32);
pub(super) const GROUP: Field = Field(297, 32);
pub(super) const DEVICE_MAJOR: Field = Field(329, 8);
pub(super) const DEVICE_MINOR: Field = Field(337, 8);
pub(super) const PREFIX: Field = Field(345, 155);

/// The magic and version of POSIX ustar, which PostgreSQL writes.
pub(super) const USTAR: &[u8; 8] = b"ustar\x0000";

/// Which dialect a header speaks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Dialect {
    /// Before POSIX: no owner names, no prefix.
    V7,
    /// POSIX ustar.
    Ustar,
    /// GNU: owner names, but other things where ustar keeps the prefix.
    Gnu,
}

/// One header block.
#[derive(Clone)]
pub(super) struct Block(pub(super) [u8; BLOCK_BYTES]);

impl Block {
    pub(super) const fn zeroed() -> Self {
        Self([0; BLOCK_BYTES])
    }

    pub(super) fn is_zero(&self) -> bool {
        self.0.iter().all(|&b| b == 0)
    }

    pub(super) fn bytes(&self, Field(offset, len): Field) -> &[u8] {
        // Every field above lies inside the block.
        self.0.get(offset..offset + len).unwrap_or_default()
    }

    fn bytes_mut(&mut self, Field(offset, len): Field) -> &mut [u8] {
        self.0.get_mut(offset..offset + len).unwrap_or_default()
    }

    /// A text field up to its first NUL, or its whole width.
    pub(super) fn text(&self, field: Field) -> &[u8] {
        until_nul(self.bytes(field))
    }

    pub(super) fn type_flag(&self) -> u8 {
        self.bytes(TYPE).first().copied().unwrap_or_default()
    }

    pub(super) fn dialect(&self) -> Dialect {
        match self.bytes(MAGIC) {
            b"ustar  \0" => Dialect::Gnu,
            magic if magic.starts_with(b"ustar") => Dialect::Ustar,
            _ => Dialect::V7,
        }
    }

    /// Reads a number that must not be negative. `None` when it is neither octal nor base-256, or
    /// does not fit.
    pub(super) fn number(&self, field: Field) -> Option<u64> {
        u64::try_from(read_number(self.bytes(field))?).ok()
    }

    /// Reads a number that may be negative.
    pub(super) fn signed(&self, field: Field) -> Option<i64> {
        i64::try_from(read_number(self.bytes(field))?).ok()
    }

    /// Whether the stored checksum is the sum of the block, counted with unsigned bytes or, as
    /// some old writers did, with signed ones.
    pub(super) fn checksum_holds(&self) -> bool {
        let Some(stored) = self.signed(CHECKSUM) else { return false };
        let (mut unsigned, mut signed) = (0_i64, 0_i64);
        for (at, &byte) in self.0.iter().enumerate() {
            let counted = if (CHECKSUM.0..CHECKSUM.0 + CHECKSUM.1).contains(&at) { b' ' } else { byte };
            unsigned += i64::from(counted);
            signed += i64::from(counted.cast_signed());
        }
        stored == unsigned || stored == signed
    }

    /// Writes text, cut to the field's width.
    pub(super) fn set_text(&mut self, field: Field, text: &[u8]) {
        let target = self.bytes_mut(field);
        let len = text.len().min(target.len());
        if let (Some(to), Some(from)) = (target.get_mut(..len), text.get(..len)) {
            to.copy_from_slice(from);
        }
    }

    pub(super) fn set_number(&mut self, field: Field, value: i64) {
        write_number(self.bytes_mut(field), value);
    }

    /// Computes and writes the checksum; every other field must be final.
    pub(super) fn seal(&mut self) {
        self.bytes_mut(CHECKSUM).fill(b' ');
        let sum: i64 = self.0.iter().map(|&b| i64::from(b)).sum();
        self.set_number(CHECKSUM, sum);
    }
}

pub(super) fn until_nul(bytes: &[u8]) -> &[u8] {
    bytes.split(|&b| b == 0).next().unwrap_or_default()
}

fn read_number(field: &[u8]) -> Option<i128> {
    match field.split_first()? {
        // Base-256, two's complement over the whole field; the first byte's top bit marks it.
        (&first @ (0x80 | 0xff), rest) => {
            let sign = if first == 0xff { -1_i128 } else { 0 };
            rest.iter().try_fold(sign, |value, &byte| value.checked_mul(256)?.checked_add(i128::from(byte)))
        }
        _ => {
            let digits = field.trim_ascii_start();
            let end = digits.iter().position(|&b| b == 0 || b == b' ').unwrap_or(digits.len());
            let (digits, tail) = digits.split_at_checked(end)?;
            if !tail.iter().all(|&b| b == 0 || b == b' ') {
                return None;
            }
            digits.iter().try_fold(0_i128, |value, &digit| match digit {
                b'0'..=b'7' => Some(value * 8 + i128::from(digit - b'0')),
                _ => None,
            })
        }
    }
}

/// PostgreSQL's `print_tar_number`, and base-256 two's complement for negative times.
fn write_number(field: &mut [u8], value: i64) {
    let octal_digits = field.len().saturating_sub(1);
    let fits = value >= 0 && i128::from(value) < 1_i128 << (3 * octal_digits);
    let mut rest = value;
    let Some((edge, others)) = (if fits { field.split_last_mut() } else { field.split_first_mut() }) else {
        return;
    };
    *edge = match (fits, value < 0) {
        (true, _) => b' ',
        (false, false) => 0x80,
        (false, true) => 0xff,
    };
    for byte in others.iter_mut().rev() {
        // Masked first, so the cast loses nothing.
        *byte = if fits { b'0' + (rest & 7) as u8 } else { (rest & 0xff) as u8 };
        rest >>= if fits { 3 } else { 8 };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn written(len: usize, value: i64) -> Vec<u8> {
        let mut field = vec![0; len];
        write_number(&mut field, value);
        field
    }

    #[test]
    fn numbers_are_written_as_postgresql_writes_them() {
        assert_eq!(written(8, 0o600), b"0000600 ");
        assert_eq!(written(12, 8 * 1024 * 1024 * 1024 - 1), b"77777777777 ");
        // 9 GiB, as measured in a real stream: 80 00 ... 02 40 00 00 00.
        assert_eq!(written(12, 9 << 30), [0x80, 0, 0, 0, 0, 0, 0, 2, 0x40, 0, 0, 0]);
    }

    #[test]
    fn numbers_round_trip_at_the_edges_of_octal() {
        for len in [8, 12] {
            let limit = 1_i64 << (3 * (len - 1));
            for value in [0, 1, 7, 8, limit - 1, limit, limit + 1, -1, -86_400, i64::from(u32::MAX)] {
                assert_eq!(read_number(&written(len, value)), Some(i128::from(value)), "{value} in {len}");
            }
        }
        for value in [i64::MAX, i64::MIN] {
            assert_eq!(read_number(&written(12, value)), Some(i128::from(value)));
        }
    }

    #[test]
    fn foreign_spellings_of_numbers_are_read_and_nonsense_is_not() {
        assert_eq!(read_number(b"   644 \0"), Some(0o644));
        assert_eq!(read_number(b"0000644\0"), Some(0o644));
        assert_eq!(read_number(b"00000644"), Some(0o644));
        assert_eq!(read_number(b"\0\0\0\0\0\0\0\0"), Some(0));
        assert_eq!(read_number(b"        "), Some(0));
        for bad in [&b"0000689\0"[..], b"-0000644", b"644 644 ", b"0x1\0\0\0\0\0"] {
            assert_eq!(read_number(bad), None, "{bad:?}");
        }
    }
}
