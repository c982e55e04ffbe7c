//! A pack's footer and trailer.
//!
//! A pack is `header ‖ sealed frames ‖ sealed footer ‖ trailer`. The footer makes a pack
//! self-describing: an index can be rebuilt from packs alone. Nothing in a pack but header and
//! trailer is in the clear, not even the lengths of its frames.

use crate::bytes::Reader;
use crate::frame::{end_of, put_frame, read_frame};
use crate::limits::{DELTA_FRAME_BYTES, FOOTER_MAX_BYTES, FRAME_BYTES, PACK_FRAMES_MAX, TAG_BYTES};
use crate::{FormatError, FormatProblem, FrameInfo};

/// Length of the trailer in bytes.
pub const PACK_TRAILER_BYTES: usize = 16;
/// What a pack ends with.
const TRAILER_MAGIC: [u8; 8] = *b"capypack";
/// Length of the frame count before the frames, in bytes.
const COUNT_BYTES: usize = 4;

/// The list of a pack's frames, in order; a frame's position is its ordinal.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PackFooter {
    /// The frames: at least one.
    pub frames: Vec<FrameInfo>,
}

impl PackFooter {
    /// The plaintext of the footer.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(COUNT_BYTES + self.frames.len() * FRAME_BYTES);
        put_frames(&mut out, &self.frames);
        out
    }

    /// Reads a footer whose sealed form starts at `footer_offset` of the pack.
    ///
    /// # Errors
    /// Frames that do not follow each other from the header on to the footer, or that are beyond
    /// the limits. Offsets in messages are those of the pack.
    pub fn decode(object: &str, bytes: &[u8], footer_offset: u64) -> Result<Self, FormatError> {
        let mut reader = Reader::new(object, bytes, footer_offset);
        let frames = read_frames(&mut reader)?;
        reader.finish()?;
        let end = end_of(&frames);
        if end != footer_offset {
            let what = format!("the frames end at {end} but the footer starts at {footer_offset}");
            return Err(FormatError::value(object, footer_offset, what));
        }
        Ok(Self { frames })
    }
}

/// Length in bytes of the whole pack that holds exactly `frames`: nothing in a pack is optional.
#[must_use]
pub fn pack_len(frames: &[FrameInfo]) -> u64 {
    let list: usize = frames.iter().map(FrameInfo::encoded_len).sum();
    end_of(frames) + (COUNT_BYTES + list + TAG_BYTES + PACK_TRAILER_BYTES) as u64
}

pub(crate) fn put_frames(out: &mut Vec<u8>, frames: &[FrameInfo]) {
    let count = u32::try_from(frames.len()).expect("a pack has at most 65 536 frames");
    out.extend_from_slice(&count.to_le_bytes());
    frames.iter().for_each(|frame| put_frame(out, frame));
}

pub(crate) fn read_frames(reader: &mut Reader<'_>) -> Result<Vec<FrameInfo>, FormatError> {
    let start = reader.offset();
    let count = reader.count_u32("frame count", PACK_FRAMES_MAX, FRAME_BYTES)?;
    if count == 0 {
        return Err(reader.fail_at(start, "a pack without frames"));
    }
    let mut frames = Vec::with_capacity(count);
    for _ in 0..count {
        let offset = end_of(&frames);
        frames.push(read_frame(reader, offset)?);
    }
    Ok(frames)
}

/// The last 16 bytes of a pack: where its footer is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PackTrailer {
    /// Stored length of the sealed footer in bytes.
    pub footer_len: u32,
    /// How many frames the footer lists.
    pub frame_count: u32,
}

impl PackTrailer {
    /// The 16 bytes.
    #[must_use]
    pub fn encode(&self) -> [u8; PACK_TRAILER_BYTES] {
        let mut out = [0; PACK_TRAILER_BYTES];
        out[..4].copy_from_slice(&self.footer_len.to_le_bytes());
        out[4..8].copy_from_slice(&self.frame_count.to_le_bytes());
        out[8..].copy_from_slice(&TRAILER_MAGIC);
        out
    }

    /// Reads the trailer found at `offset` of the pack.
    ///
    /// # Errors
    /// Another magic (a truncated pack), a footer beyond the limit, or of a length that its
    /// number of frames cannot have.
    pub fn decode(object: &str, bytes: &[u8; PACK_TRAILER_BYTES], offset: u64) -> Result<Self, FormatError> {
        let mut reader = Reader::new(object, bytes, offset);
        let (footer_len, frame_count) = (reader.u32()?, reader.u32()?);
        if reader.array::<8>()? != TRAILER_MAGIC {
            let what = "the pack does not end as packs do: it is truncated or damaged";
            return Err(reader.fail_at(offset, what));
        }
        let limit = |what, found: u32, limit: usize| {
            let (found, limit) = (u64::from(found), limit as u64);
            Err(FormatError::new(object, offset, FormatProblem::Limit { what, found, limit }))
        };
        if frame_count as usize > PACK_FRAMES_MAX {
            return limit("frame count", frame_count, PACK_FRAMES_MAX);
        }
        if footer_len as usize > FOOTER_MAX_BYTES {
            return limit("footer length", footer_len, FOOTER_MAX_BYTES);
        }
        let around = COUNT_BYTES + TAG_BYTES;
        let shortest = around + frame_count as usize * FRAME_BYTES;
        let longest = around + frame_count as usize * DELTA_FRAME_BYTES;
        if frame_count == 0 || !(shortest..=longest).contains(&(footer_len as usize)) {
            let what = format!("a footer of {footer_len} bytes cannot list {frame_count} frames");
            return Err(reader.fail_at(offset, what));
        }
        Ok(Self { footer_len, frame_count })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tests::samples;

    #[test]
    fn a_footer_whose_frames_do_not_reach_it_is_refused() {
        let footer = PackFooter { frames: samples::frames() };
        let end = end_of(&footer.frames);
        assert_eq!(PackFooter::decode("packs/x", &footer.encode(), end), Ok(footer.clone()));
        let gap = PackFooter::decode("packs/x", &footer.encode(), end + 1).unwrap_err().to_string();
        assert!(gap.contains("but the footer starts at"), "{gap}");
    }

    #[test]
    fn overlapping_or_parted_frames_are_refused() {
        for shift in [-1, 1] {
            let mut frames = samples::frames();
            frames[1].offset = frames[1].offset.checked_add_signed(shift).unwrap();
            let error = PackFooter::decode("packs/x", &PackFooter { frames }.encode(), 0).unwrap_err();
            assert!(error.to_string().contains("where the one before ends at"), "{error}");
        }
    }

    #[test]
    fn a_pack_is_as_long_as_its_frames_say() {
        let frames = samples::frames();
        let footer = PackFooter { frames: frames.clone() }.encode().len() + TAG_BYTES;
        assert_eq!(pack_len(&frames), end_of(&frames) + footer as u64 + 16);
        assert_eq!(pack_len(&frames[..1]), 64 + u64::from(frames[0].stored_len) + 4 + 48 + 16 + 16);
    }

    #[test]
    fn a_trailer_that_disagrees_with_itself_is_refused() {
        let refused = |footer_len, frame_count| {
            let bytes = PackTrailer { footer_len, frame_count }.encode();
            PackTrailer::decode("packs/x", &bytes, 1000).unwrap_err().to_string()
        };
        assert!(refused(20 + 48, 0).contains("cannot list 0 frames (at offset 1000)"));
        assert!(refused(20 + 47, 1).contains("cannot list 1 frames"));
        assert!(refused(20 + 81, 1).contains("cannot list 1 frames"));
        assert!(refused(u32::MAX, 1).contains("footer length of 4294967295 is beyond the limit"));
        assert!(refused(20, u32::MAX).contains("frame count of 4294967295 is beyond the limit of 65536"));
        let mut bytes = PackTrailer { footer_len: 68, frame_count: 1 }.encode();
        assert!(PackTrailer::decode("packs/x", &bytes, 0).is_ok());
        bytes[15] ^= 1;
        let cut = PackTrailer::decode("packs/x", &bytes, 0).unwrap_err().to_string();
        assert!(cut.contains("truncated or damaged"), "{cut}");
    }
}
