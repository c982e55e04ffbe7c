//! Looking into stored objects, damaged ones included: decodes as much as it can, changes nothing.

use std::sync::{Arc, Mutex, PoisonError};

use capy_format::{FrameInfo, FrameKind, HEADER_BYTES, IndexObject, ObjectKind, PACK_TRAILER_BYTES, names};
use capy_types::limits::PACK_MAX_BYTES;
use capy_types::{ChunkId, Ctx, IndexId, PackId};

use crate::pack::{FrameOpener, open_footer};
use crate::read::Want;
use crate::{Reader, RepoError, Repository, sealed};

/// One frame of an inspected pack.
#[derive(Debug, Clone)]
pub struct FrameInspection {
    /// The frame as the footer (or, failing that, the index) lists it.
    pub frame: FrameInfo,
    /// What is wrong with it, if anything.
    pub problem: Option<String>,
}

/// What could be learned of a pack.
#[derive(Debug, Clone)]
pub struct PackInspection {
    /// Length of the object in bytes.
    pub size: u64,
    /// Problems of the pack as a whole: header, footer, trailer.
    pub problems: Vec<String>,
    /// Whether the frames come from the pack's own footer; otherwise the index was asked.
    pub from_footer: bool,
    /// The frames, each opened and checked.
    pub frames: Vec<FrameInspection>,
}

impl Repository {
    /// Reads a pack whole and opens every frame in it. Of deltas the bodies are opened; whether they
    /// make their chunk of their base, [`Reader::chunk`] tells.
    ///
    /// With a damaged footer the frames are taken from `known`, which the caller has from an
    /// index object.
    ///
    /// # Errors
    /// Store errors, `NotFound` among them. Damage is part of the answer.
    pub async fn inspect_pack(
        &self,
        pack: &PackId,
        known: Option<&[FrameInfo]>,
    ) -> Result<PackInspection, RepoError> {
        let object = self.store().get(&names::pack(pack), PACK_MAX_BYTES as u64).await?;
        let mut problems = Vec::new();
        let header = object.first_chunk::<HEADER_BYTES>().copied().unwrap_or([0; HEADER_BYTES]);
        let tail_from = HEADER_BYTES.min(object.len().saturating_sub(PACK_TRAILER_BYTES));
        let tail = object.get(tail_from..).unwrap_or_default();
        let footer = open_footer(self.keys(), self.id(), pack, &header, tail, tail_from as u64);
        let (listed, from_footer) = match footer {
            Ok(footer) => (footer.frames, true),
            Err(error) => {
                problems.push(error.to_string());
                (known.unwrap_or_default().to_vec(), false)
            }
        };
        let mut opener = FrameOpener::new(self.keys(), self.id());
        let mut frames = Vec::with_capacity(listed.len());
        for (ordinal, frame) in (0u32..).zip(listed) {
            let range =
                frame.offset as usize..(frame.offset as usize).saturating_add(frame.stored_len as usize);
            let problem = match object.get(range) {
                None => {
                    let problem = Some("beyond the end of the object".to_owned());
                    frames.push(FrameInspection { frame, problem });
                    continue;
                }
                Some(stored) if frame.kind == FrameKind::Delta => {
                    opener.open_delta(pack, ordinal, &frame, &mut stored.to_vec()).map(|_| ()).err()
                }
                Some(stored) => opener.open(pack, ordinal, &frame, &mut stored.to_vec()).map(|_| ()).err(),
            };
            frames.push(FrameInspection { frame, problem: problem.map(|problem| problem.to_string()) });
        }
        Ok(PackInspection { size: object.len() as u64, problems, from_footer, frames })
    }

    /// Opens and decodes an index object.
    ///
    /// # Errors
    /// Corrupt when it does not authenticate or decode; store errors.
    pub async fn inspect_index(&self, index: &IndexId) -> Result<IndexObject, RepoError> {
        let name = names::index(index);
        let object = self.store().get(&name, crate::index::INDEX_MAX_BYTES).await?;
        let (_, body) = sealed::open(self.keys(), self.id(), ObjectKind::Index, &name, &object)?;
        Ok(IndexObject::decode(&name, &body)?)
    }
}

impl Reader {
    /// Reads one chunk of `size` plaintext bytes, proven.
    ///
    /// # Errors
    /// Corrupt when it is unknown or damaged; store errors.
    pub async fn chunk(&self, ctx: &Ctx, chunk: ChunkId, size: u32) -> Result<Vec<u8>, RepoError> {
        let plain = Arc::new(Mutex::new(Vec::new()));
        let filled = plain.clone();
        let accept = Arc::new(move |_: u64, bytes: &[u8]| {
            *filled.lock().unwrap_or_else(PoisonError::into_inner) = bytes.to_vec();
            Ok(())
        });
        match self.fetch(ctx, &[Want { chunk, size, token: 0 }], accept).await?.into_iter().next() {
            Some((_, defect)) => Err(defect.into()),
            None => Ok(std::mem::take(&mut *plain.lock().unwrap_or_else(PoisonError::into_inner))),
        }
    }
}
