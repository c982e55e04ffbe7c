//! Fetching chunks: planned by pack, neighbours joined into one ranged request, several requests
//! in flight, every frame proven on a blocking thread.
//!
//! Invariant: a frame that does not open is fetched once more, alone, before it is called a
//! defect: a bad transfer is not damage.

use std::ops::Range;
use std::sync::Arc;

use bytes::Bytes;
use capy_format::names;
use capy_objects::{StoreError, StoreErrorKind};
use capy_types::limits::{KIB, MIB};
use capy_types::{ChunkId, Ctx, PackId};
use futures::{StreamExt, TryStreamExt};

use super::{Defect, DefectKind, Reader};
use crate::RepoError;
use crate::index::Location;
use crate::pack::{FrameOpener, FrameProblem};

/// Longest ranged request in bytes: object stores answer best at 4 to 16 MiB, and memory is this
/// times the requests in flight.
const RANGE_MAX_BYTES: u64 = 4 * MIB as u64;
/// A gap that is cheaper to read than to ask around: at 100 MB/s and 10 ms a request, 1 MB; local
/// stores prefer none. Unwanted frames in between cost only their bytes.
const GAP_MAX_BYTES: u64 = 128 * KIB as u64;

/// A chunk somebody wants. `token` is the caller's.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Want {
    pub(crate) chunk: ChunkId,
    pub(crate) size: u32,
    pub(crate) token: u64,
}

/// Receives chunks, each proven, on blocking threads, in any order.
pub(crate) type Accept = Arc<dyn Fn(u64, &[u8]) -> Result<(), RepoError> + Send + Sync>;

/// A want whose place is known.
#[derive(Debug, Clone, Copy)]
struct Located {
    want: Want,
    location: Location,
}

/// One ranged request and the frames it serves, by offset.
struct RangePlan {
    pack: PackId,
    range: Range<u64>,
    frames: Vec<Located>,
}

fn plan(pack: PackId, located: &[Located], plans: &mut Vec<RangePlan>) {
    for frame in located {
        let start = u64::from(frame.location.offset);
        let end = start + u64::from(frame.location.stored_len);
        match plans.last_mut() {
            Some(open)
                if open.pack == pack
                    && start <= open.range.end + GAP_MAX_BYTES
                    && end - open.range.start <= RANGE_MAX_BYTES =>
            {
                open.range.end = open.range.end.max(end);
                open.frames.push(*frame);
            }
            _ => plans.push(RangePlan { pack, range: start..end, frames: vec![*frame] }),
        }
    }
}

fn object_defect(pack: &PackId, frame: &Located, error: &StoreError) -> Option<Defect> {
    let kind = match error.kind {
        StoreErrorKind::NotFound => DefectKind::Missing,
        StoreErrorKind::Truncated { .. } => DefectKind::Truncated,
        _ => return None,
    };
    Some(frame_defect(pack, frame, kind, error.to_string()))
}

fn frame_defect(pack: &PackId, frame: &Located, kind: DefectKind, problem: String) -> Defect {
    Defect {
        object: names::pack(pack),
        offset: Some(u64::from(frame.location.offset)),
        chunk: Some(frame.want.chunk),
        pack: Some(*pack),
        kind,
        problem,
    }
}

impl Reader {
    /// Fetches all `wants`; those that cannot be had are returned with what is wrong.
    ///
    /// # Errors
    /// Cancelled; the store being unavailable; what `accept` answers.
    pub(crate) async fn fetch(
        &self,
        ctx: &Ctx,
        wants: &[Want],
        accept: Accept,
    ) -> Result<Vec<(Want, Defect)>, RepoError> {
        let mut defects = Vec::new();
        let mut located = Vec::with_capacity(wants.len());
        for want in wants {
            match self.location(&want.chunk)? {
                Some((location, pack)) => located.push((pack, Located { want: *want, location })),
                None => defects.push((*want, Defect::unknown_chunk(want.chunk))),
            }
        }
        located.sort_unstable_by_key(|(_, frame)| (frame.location.pack, frame.location.offset));
        let mut plans = Vec::new();
        for group in located.chunk_by(|a, b| a.0 == b.0) {
            let frames: Vec<_> = group.iter().map(|(_, frame)| *frame).collect();
            if let Some((pack, _)) = group.first() {
                plan(*pack, &frames, &mut plans);
            }
        }
        let found: Vec<_> = futures::stream::iter(plans)
            .map(|plan| self.run_plan(ctx, plan, accept.clone()))
            .buffer_unordered(self.options().requests)
            .try_collect()
            .await?;
        defects.extend(found.into_iter().flatten());
        Ok(defects)
    }

    async fn run_plan(
        &self,
        ctx: &Ctx,
        plan: RangePlan,
        accept: Accept,
    ) -> Result<Vec<(Want, Defect)>, RepoError> {
        ctx.check()?;
        let name = names::pack(&plan.pack);
        let bytes = match self.repo().store().get_range(&name, plan.range.clone()).await {
            Ok(bytes) => bytes,
            Err(error) => return self.one_by_one(ctx, &plan, accept, error).await,
        };
        let failed =
            self.open_frames(plan.pack, plan.range.start, bytes, plan.frames.clone(), accept.clone()).await?;
        let mut defects = Vec::new();
        for (frame, _) in failed {
            defects.extend(self.once_more(ctx, &plan.pack, frame, accept.clone()).await?);
        }
        Ok(defects)
    }

    /// The range could not be read whole: read what can be, frame by frame.
    async fn one_by_one(
        &self,
        ctx: &Ctx,
        plan: &RangePlan,
        accept: Accept,
        error: StoreError,
    ) -> Result<Vec<(Want, Defect)>, RepoError> {
        let mut defects = Vec::new();
        for frame in &plan.frames {
            match object_defect(&plan.pack, frame, &error) {
                None => return Err(error.into()),
                Some(defect) if defect.kind == DefectKind::Missing => defects.push((frame.want, defect)),
                Some(_) => defects.extend(self.once_more(ctx, &plan.pack, *frame, accept.clone()).await?),
            }
        }
        Ok(defects)
    }

    /// Reads one frame alone; what fails now is a defect.
    async fn once_more(
        &self,
        ctx: &Ctx,
        pack: &PackId,
        frame: Located,
        accept: Accept,
    ) -> Result<Option<(Want, Defect)>, RepoError> {
        ctx.check()?;
        let start = u64::from(frame.location.offset);
        let range = start..start + u64::from(frame.location.stored_len);
        let bytes = match self.repo().store().get_range(&names::pack(pack), range).await {
            Ok(bytes) => bytes,
            Err(error) => {
                let defect = object_defect(pack, &frame, &error);
                return defect.map(|defect| Some((frame.want, defect))).ok_or(RepoError::Store(error));
            }
        };
        let failed = self.open_frames(*pack, start, bytes, vec![frame], accept).await?;
        Ok(failed.first().map(|(frame, problem)| {
            (frame.want, frame_defect(pack, frame, DefectKind::Corrupt, problem.to_string()))
        }))
    }

    /// Opens frames on a blocking thread and hands them on; returns those that do not open.
    async fn open_frames(
        &self,
        pack: PackId,
        start: u64,
        bytes: Bytes,
        frames: Vec<Located>,
        accept: Accept,
    ) -> Result<Vec<(Located, FrameProblem)>, RepoError> {
        let reader = self.clone();
        tokio::task::spawn_blocking(move || {
            let mut opener = FrameOpener::new(reader.repo().keys(), reader.repo().id());
            let mut stored = Vec::new();
            let mut failed = Vec::new();
            for group in frames.chunk_by(|a, b| a.want.chunk == b.want.chunk) {
                let Some(frame) = group.first() else { continue };
                let from = usize::try_from(u64::from(frame.location.offset) - start).unwrap_or(usize::MAX);
                let sealed = bytes.get(from..from.saturating_add(frame.location.stored_len as usize));
                stored.clear();
                stored.extend_from_slice(sealed.unwrap_or_default());
                let info = frame.location.frame(frame.want.chunk, frame.want.size);
                match opener.open(&pack, frame.location.ordinal, &info, &mut stored) {
                    Ok(plain) => group.iter().try_for_each(|frame| accept(frame.want.token, plain))?,
                    Err(problem) => failed.extend(group.iter().map(|frame| (*frame, problem))),
                }
            }
            Ok(failed)
        })
        .await
        .map_err(|_| RepoError::Internal { what: "a reading thread panicked".to_owned() })?
    }
}
