//! A pack's footer and trailer.

use crate::bytes::Reader;
use crate::frame::{FRAME_BYTES, put_frame, read_frame};
use crate::{FormatError, FormatProblem, FrameInfo, HEADER_BYTES};

/// Length of the trailer in bytes.
pub const PACK_TRAILER_BYTES: usize = 16;
/// What a pack ends with.
const TRAILER_MAGIC: [u8; 8] = *b"capypack";
/// Largest sealed footer in bytes: 65 536 frames of at most 80 bytes, and room.
const FOOTER_MAX_BYTES: u32 = 8 << 20;

/// The list of a pack's frames, in order; a frame's position is its ordinal.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PackFooter {
    /// The frames.
    pub frames: Vec<FrameInfo>,
}

impl PackFooter {
    /// The plaintext of the footer.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(4 + self.frames.len() * FRAME_BYTES);
        put_frames(&mut out, &self.frames);
        out
    }

    /// Reads a footer whose plaintext starts (as far as offsets in messages go) at
    /// `footer_offset` of the pack.
    ///
    /// # Errors
    /// Frames that do not follow each other from the header on, or are beyond the limits.
    pub fn decode(object: &str, bytes: &[u8], footer_offset: u64) -> Result<Self, FormatError> {
        let mut reader = Reader::new(object, bytes, usize::try_from(footer_offset).unwrap_or(usize::MAX));
        let frames = read_frames(&mut reader)?;
        reader.finish()?;
        Ok(Self { frames })
    }
}

pub(crate) fn put_frames(out: &mut Vec<u8>, frames: &[FrameInfo]) {
    let count = u32::try_from(frames.len()).expect("a pack has at most 65 536 frames");
    out.extend_from_slice(&count.to_le_bytes());
    frames.iter().for_each(|frame| put_frame(out, frame));
}

pub(crate) fn read_frames(reader: &mut Reader<'_>) -> Result<Vec<FrameInfo>, FormatError> {
    let count = reader.u32()? as usize;
    if count > reader.remaining() / FRAME_BYTES {
        return Err(reader.fail(format!("{count} frames announced, {} bytes left", reader.remaining())));
    }
    let mut frames = Vec::with_capacity(count);
    let mut offset = u32::try_from(HEADER_BYTES).expect("64 fits");
    for _ in 0..count {
        let frame = read_frame(reader, offset)?;
        offset = frame.offset + frame.stored_len;
        frames.push(frame);
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
    /// Another magic (a truncated pack), a footer beyond the limit.
    pub fn decode(object: &str, bytes: &[u8; PACK_TRAILER_BYTES], offset: u64) -> Result<Self, FormatError> {
        let mut reader = Reader::new(object, bytes, usize::try_from(offset).unwrap_or(usize::MAX));
        let (footer_len, frame_count) = (reader.u32()?, reader.u32()?);
        if reader.array::<8>()? != TRAILER_MAGIC {
            return Err(reader.fail("the pack does not end as packs do: it is truncated or damaged"));
        }
        if footer_len > FOOTER_MAX_BYTES {
            let problem = FormatProblem::Limit {
                what: "footer length",
                found: u64::from(footer_len),
                limit: u64::from(FOOTER_MAX_BYTES),
            };
            return Err(FormatError { object: object.to_owned(), offset, problem });
        }
        Ok(Self { footer_len, frame_count })
    }
}
