//! A WAL object: the file as one sealed object, the facts about it as another, and a trailer that
//! says where the second begins.
//!
//! So one request stores a file with its facts, and one request for the end of the object reads
//! the facts alone.

use crate::FormatError;
use crate::bytes::Reader;
use crate::limits::WAL_FACTS_MAX_BYTES;
use crate::{FormatProblem, HEADER_BYTES};

/// Length of the trailer in bytes.
pub const WAL_TRAILER_BYTES: usize = 16;

const TRAILER_MAGIC: [u8; 8] = *b"capywalf";

/// The end of a WAL object.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct WalTrailer {
    /// Length in bytes of the sealed object with the facts, which ends where the trailer begins.
    pub facts_len: u32,
}

impl WalTrailer {
    /// The 16 bytes.
    #[must_use]
    pub fn encode(&self) -> [u8; WAL_TRAILER_BYTES] {
        let mut out = [0; WAL_TRAILER_BYTES];
        out[..4].copy_from_slice(&self.facts_len.to_le_bytes());
        out[8..].copy_from_slice(&TRAILER_MAGIC);
        out
    }

    /// Reads the trailer found at `offset` of the object.
    ///
    /// # Errors
    /// Another magic (a truncated object), or facts of a length that cannot be.
    pub fn decode(object: &str, bytes: &[u8; WAL_TRAILER_BYTES], offset: u64) -> Result<Self, FormatError> {
        let mut reader = Reader::new(object, bytes, offset);
        let (facts_len, zero) = (reader.u32()?, reader.u32()?);
        if zero != 0 || reader.array::<8>()? != TRAILER_MAGIC {
            let what = "the object does not end as WAL objects do: it is truncated or damaged";
            return Err(reader.fail_at(offset, what));
        }
        if facts_len as usize > WAL_FACTS_MAX_BYTES || (facts_len as usize) < HEADER_BYTES {
            let (found, limit) = (u64::from(facts_len), WAL_FACTS_MAX_BYTES as u64);
            return Err(FormatError::new(
                object,
                offset,
                FormatProblem::Limit { what: "facts length", found, limit },
            ));
        }
        Ok(Self { facts_len })
    }
}

/// Splits the last bytes of a WAL object, or all of it, into what is before the facts and the
/// sealed object of the facts. `offset` is where `bytes` begins in the object.
///
/// # Errors
/// No trailer; facts that begin before `bytes`.
pub fn split_wal<'a>(
    object: &str,
    bytes: &'a [u8],
    offset: u64,
) -> Result<(&'a [u8], &'a [u8]), FormatError> {
    let truncated = |expected: usize| {
        let problem = FormatProblem::Truncated { expected: expected as u64, found: bytes.len() as u64 };
        FormatError::new(object, offset, problem)
    };
    let (front, trailer) =
        bytes.split_last_chunk::<WAL_TRAILER_BYTES>().ok_or_else(|| truncated(WAL_TRAILER_BYTES))?;
    let trailer = WalTrailer::decode(object, trailer, offset + front.len() as u64)?;
    let facts_len = trailer.facts_len as usize;
    let at = front.len().checked_sub(facts_len).ok_or_else(|| truncated(facts_len + WAL_TRAILER_BYTES))?;
    Ok(front.split_at(at))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn object(file: usize, facts: usize) -> Vec<u8> {
        let trailer = WalTrailer { facts_len: u32::try_from(facts).expect("short") };
        [vec![1; file], vec![2; facts], trailer.encode().to_vec()].concat()
    }

    #[test]
    fn facts_are_found_from_the_whole_object_and_from_its_end() {
        let whole = object(1000, 100);
        let (file, facts) = split_wal("wal/x", &whole, 0).expect("whole");
        assert_eq!((file.len(), facts), (1000, &[2; 100][..]));
        let (_, facts) = split_wal("wal/x", &whole[900..], 900).expect("its end");
        assert_eq!(facts, &[2; 100]);
    }

    #[test]
    fn a_cut_or_changed_end_is_refused() {
        let whole = object(1000, 100);
        assert!(split_wal("wal/x", &whole[1010..], 1010).unwrap_err().to_string().contains("wal/x"));
        let cut = split_wal("wal/x", &whole[..whole.len() - 1], 0).unwrap_err().to_string();
        assert!(cut.contains("truncated or damaged"), "{cut}");
        for (facts_len, why) in [(63, "facts length of 63"), (u32::MAX, "facts length of 4294967295")] {
            let bytes = WalTrailer { facts_len }.encode();
            let error = WalTrailer::decode("wal/x", &bytes, 7).unwrap_err().to_string();
            assert!(error.contains(why), "{error}");
        }
    }
}
