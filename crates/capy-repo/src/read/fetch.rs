//! Fetching chunks: planned by pack, neighbours joined into one ranged request, several requests
//! in flight, every frame proven on a blocking thread.
//!
//! Chunks stored as deltas are planned with the rest: the deltas of a batch are read first, they are
//! short and lie together, and kept sealed off from anybody as bodies; then the full frames are read
//! in the order of their packs, each once, and everything that rests on one is rebuilt while it is
//! at hand ([`super::rebuild`]).
//!
//! Invariant: a frame that does not open is fetched once more, alone and from the store itself, before
//! it is called a defect: a bad transfer is not damage, and neither is a bad cache.

use std::ops::{ControlFlow, Range};
use std::sync::{Arc, Mutex, PoisonError};

use bytes::Bytes;
use capy_format::names;
use capy_objects::StoreError;
use capy_types::limits::{KIB, MIB};
use capy_types::{ChunkId, Ctx, PackId};
use futures::{StreamExt, TryStreamExt};

use super::plan::{FrameAt, Located, RangePlan, plan};
use super::rebuild::{DeltaSet, emit};
use super::{Defect, DefectKind, IN_FLIGHT_BYTES, Reader};
use crate::RepoError;
use crate::index::BrokenChain;
use crate::pack::{FrameOpener, FrameProblem};

/// Bodies of deltas held at once in bytes. At 1000 bytes a delta of a 256 KiB chunk, some 8 000 of
/// them: a GiB of a cluster at a mean depth of two.
const DELTAS_MAX_BYTES: u64 = 8 * MIB as u64;

/// A chunk somebody wants. `token` is the caller's.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Want {
    pub(crate) chunk: ChunkId,
    pub(crate) size: u32,
    pub(crate) token: u64,
}

/// Receives chunks, each proven, on blocking threads, in any order.
pub(crate) type Accept = Arc<dyn Fn(u64, &[u8]) -> Result<(), RepoError> + Send + Sync>;

/// What is done with the sealed bytes of one frame, for all that want it.
type Open = Arc<
    dyn Fn(&mut FrameOpener, &[Located], &mut Vec<u8>) -> Result<Result<(), FrameProblem>, RepoError>
        + Send
        + Sync,
>;

fn broken(want: &Want, broken: BrokenChain) -> Defect {
    match broken {
        BrokenChain::Unknown(chunk) if chunk == want.chunk => Defect::unknown_chunk(chunk),
        BrokenChain::Unknown(base) => Defect {
            problem: format!("its base {base} is in no index: its pack or index object is lost"),
            ..Defect::unknown_chunk(want.chunk)
        },
        BrokenChain::Endless => Defect {
            kind: DefectKind::Corrupt,
            problem: "its bases lead to no full frame".to_owned(),
            ..Defect::unknown_chunk(want.chunk)
        },
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
        for batch in self.batches(wants)? {
            let mut deltas = DeltaSet::default();
            let located = self.locate_all(&batch, &mut deltas, &mut defects)?;
            self.read_deltas(ctx, &mut deltas).await?;
            let deltas = Arc::new(deltas);
            let failed = Arc::new(Mutex::new(Vec::new()));
            let open: Open = {
                let (accept, failed) = (accept.clone(), failed.clone());
                Arc::new(move |opener, group, stored| emit(opener, group, stored, &deltas, &*accept, &failed))
            };
            defects.extend(self.run(ctx, located, open).await?);
            defects.append(&mut failed.lock().unwrap_or_else(PoisonError::into_inner));
        }
        Ok(defects)
    }

    /// The wants in the order of the full frames they rest on, in batches whose deltas fit memory.
    fn batches(&self, wants: &[Want]) -> Result<Vec<Vec<Want>>, RepoError> {
        let index = self.index().read();
        let mut placed = Vec::with_capacity(wants.len());
        for want in wants {
            let (mut place, mut delta_bytes) = ((u32::MAX, 0), 0);
            // A broken chain is met again, and reported, when its batch is located.
            let _ = index.follow(&want.chunk, |link| {
                let stored_len = u64::from(link.location.stored_len);
                delta_bytes += if link.base.is_some() { stored_len } else { 0 };
                place = (link.location.pack, link.location.offset);
                ControlFlow::Continue(())
            })?;
            placed.push((place, delta_bytes, *want));
        }
        placed.sort_by_key(|(place, ..)| *place);
        let mut batches = vec![Vec::with_capacity(wants.len())];
        let mut held = 0;
        for (_, delta_bytes, want) in placed {
            if held + delta_bytes > DELTAS_MAX_BYTES && held > 0 {
                batches.push(Vec::new());
                held = 0;
            }
            held += delta_bytes;
            batches.last_mut().expect("there is always one").push(want);
        }
        Ok(batches)
    }

    fn locate_all(
        &self,
        wants: &[Want],
        deltas: &mut DeltaSet,
        defects: &mut Vec<(Want, Defect)>,
    ) -> Result<Vec<Located>, RepoError> {
        let index = self.index().read();
        let mut located = Vec::with_capacity(wants.len());
        for want in wants {
            let mut numbers = Vec::new();
            let (mut root, mut other_size) = (None, false);
            let end = index.follow(&want.chunk, |link| {
                let Some(frame) = FrameAt::new(&index, &link) else { return ControlFlow::Break(()) };
                if frame.chunk == want.chunk && frame.size != want.size {
                    let problem = format!("a chunk of {} bytes, where {} were stored", frame.size, want.size);
                    defects.push((*want, frame.defect(want, DefectKind::Corrupt, &problem)));
                    other_size = true;
                    return ControlFlow::Break(());
                }
                match link.base {
                    Some(_) => numbers.push(deltas.number(frame)),
                    None => root = Some(frame),
                }
                ControlFlow::Continue(())
            })?;
            match (end, root) {
                _ if other_size => {}
                (Ok(_), Some(frame)) => {
                    numbers.reverse();
                    located.push(Located { want: *want, frame, deltas: numbers });
                }
                (Ok(_), None) => defects.push((*want, Defect::unknown_chunk(want.chunk))),
                (Err(fault), _) => defects.push((*want, broken(want, fault))),
            }
        }
        Ok(located)
    }

    /// Reads the bodies of all deltas of the set, or what is wrong with them.
    async fn read_deltas(&self, ctx: &Ctx, deltas: &mut DeltaSet) -> Result<(), RepoError> {
        let located = (0..).zip(deltas.frames()).map(|(token, frame)| Located {
            want: Want { chunk: frame.chunk, size: frame.size, token },
            frame: *frame,
            deltas: Vec::new(),
        });
        let located: Vec<_> = located.collect();
        if located.is_empty() {
            return Ok(());
        }
        let bodies = Arc::new(Mutex::new(Vec::with_capacity(located.len())));
        let open: Open = {
            let bodies = bodies.clone();
            Arc::new(move |opener, group, stored| {
                let Some(Located { want, frame, .. }) = group.first() else { return Ok(Ok(())) };
                Ok(opener.open_delta(&frame.pack, frame.location.ordinal, &frame.info(), stored).map(
                    |body| {
                        let body: Box<[u8]> = body.into();
                        bodies.lock().unwrap_or_else(PoisonError::into_inner).push((want.token, body));
                    },
                ))
            })
        };
        let failed = self.run(ctx, located, open).await?;
        deltas.fill(std::mem::take(&mut *bodies.lock().unwrap_or_else(PoisonError::into_inner)));
        deltas.fail(failed.into_iter().map(|(want, defect)| (want.token, defect)));
        Ok(())
    }

    /// What a chunk rests on: itself and its pack, then for a delta its base, and so on to a whole
    /// chunk, as far as that is known.
    ///
    /// # Errors
    /// Local errors of a spilled index.
    pub fn bases(&self, chunk: &ChunkId) -> Result<Vec<(ChunkId, PackId)>, RepoError> {
        let index = self.index().read();
        let mut bases = Vec::new();
        let _ = index.follow(chunk, |link| {
            bases.extend(index.pack(link.location.pack).map(|pack| (link.chunk, pack.id)));
            ControlFlow::Continue(())
        })?;
        Ok(bases)
    }

    /// The packs that a chunk needs, its own first, and what keeps it from leading to a full frame.
    pub(crate) fn rests_on(&self, chunk: &ChunkId) -> Result<(Vec<PackId>, Option<Defect>), RepoError> {
        let index = self.index().read();
        let mut packs = Vec::with_capacity(1);
        let end = index.follow(chunk, |link| {
            packs.extend(index.pack(link.location.pack).map(|pack| pack.id));
            ControlFlow::Continue(())
        })?;
        let want = Want { chunk: *chunk, size: 0, token: 0 };
        Ok((packs, end.err().map(|fault| broken(&want, fault))))
    }

    async fn run(
        &self,
        ctx: &Ctx,
        located: Vec<Located>,
        open: Open,
    ) -> Result<Vec<(Want, Defect)>, RepoError> {
        let found: Vec<_> = futures::stream::iter(plan(located))
            .map(|plan| self.run_plan(ctx, plan, open.clone()))
            .buffer_unordered(self.options().requests)
            .try_collect()
            .await?;
        Ok(found.into_iter().flatten().collect())
    }

    async fn run_plan(
        &self,
        ctx: &Ctx,
        plan: RangePlan,
        open: Open,
    ) -> Result<Vec<(Want, Defect)>, RepoError> {
        ctx.check()?;
        let Some(first) = plan.frames.first() else { return Ok(Vec::new()) };
        let start = plan.range.start;
        // A range is a few MiB: far below what there is room for.
        let kib = (plan.range.end - start).div_ceil(KIB as u64).min((IN_FLIGHT_BYTES / KIB) as u64);
        let _room = self.room().acquire_many(u32::try_from(kib).unwrap_or(1)).await;
        let bytes = match self.read_range(&first.frame, plan.range, plan.blocks).await {
            Ok(bytes) => bytes,
            Err(error) => return self.one_by_one(ctx, plan.frames, open, error).await,
        };
        let mut defects = Vec::new();
        for (group, _) in self.open_frames(start, bytes, plan.frames, open.clone()).await? {
            defects.extend(self.once_more(ctx, group, open.clone()).await?);
        }
        Ok(defects)
    }

    /// Reads a range of the pack of `frame`, out of blocks that are kept or by itself.
    async fn read_range(
        &self,
        frame: &FrameAt,
        range: Range<u64>,
        blocks: bool,
    ) -> Result<Bytes, StoreError> {
        let name = &names::pack(&frame.pack);
        let read = async |range| match self.cache() {
            Some(cache) => cache.get_range(name, range, u64::from(frame.pack_end)).await,
            None => self.repo().store().get_range(name, range).await,
        };
        if !blocks {
            return read(range).await;
        }
        self.blocks().get(frame.location.pack, frame.pack_end, range, read).await
    }

    /// The range could not be read whole: read what can be, frame by frame.
    async fn one_by_one(
        &self,
        ctx: &Ctx,
        frames: Vec<Located>,
        open: Open,
        error: StoreError,
    ) -> Result<Vec<(Want, Defect)>, RepoError> {
        let mut defects = Vec::new();
        for group in frames.chunk_by(|a, b| a.frame.is_where(&b.frame)) {
            match group.first().and_then(|first| first.frame.store_defect(&first.want, &error)) {
                None => return Err(error.into()),
                Some(defect) if defect.kind == DefectKind::Missing => {
                    defects.extend(with_store_defect(group, &error));
                }
                Some(_) => defects.extend(self.once_more(ctx, group.to_vec(), open.clone()).await?),
            }
        }
        Ok(defects)
    }

    /// Reads one frame alone, for all who want it; what fails now is a defect.
    async fn once_more(
        &self,
        ctx: &Ctx,
        group: Vec<Located>,
        open: Open,
    ) -> Result<Vec<(Want, Defect)>, RepoError> {
        ctx.check()?;
        let Some(first) = group.first() else { return Ok(Vec::new()) };
        let range = first.frame.range();
        let start = range.start;
        if let Some(cache) = self.cache() {
            cache.forget(&names::pack(&first.frame.pack), range.clone()).await;
        }
        let bytes = match self.repo().store().get_range(&names::pack(&first.frame.pack), range).await {
            Ok(bytes) => bytes,
            Err(error) => {
                let defects = with_store_defect(&group, &error);
                return if defects.is_empty() { Err(error.into()) } else { Ok(defects) };
            }
        };
        let failed = self.open_frames(start, bytes, group, open).await?;
        let defects = failed.iter().flat_map(|(group, problem)| {
            let problem = problem.to_string();
            group.iter().map(move |l| (l.want, l.frame.defect(&l.want, DefectKind::Corrupt, &problem)))
        });
        Ok(defects.collect())
    }

    /// Opens frames on a blocking thread; returns those that do not open, with all who want them.
    async fn open_frames(
        &self,
        start: u64,
        bytes: Bytes,
        frames: Vec<Located>,
        open: Open,
    ) -> Result<Vec<(Vec<Located>, FrameProblem)>, RepoError> {
        let reader = self.clone();
        let _turn = self.decoders().acquire().await;
        tokio::task::spawn_blocking(move || {
            let mut opener = FrameOpener::new(reader.repo().keys(), reader.repo().id());
            let mut stored = Vec::new();
            let mut failed = Vec::new();
            for group in frames.chunk_by(|a, b| a.frame.is_where(&b.frame)) {
                let Some(first) = group.first() else { continue };
                let from = usize::try_from(first.frame.range().start - start).unwrap_or(usize::MAX);
                let sealed = bytes.get(from..from.saturating_add(first.frame.location.stored_len as usize));
                stored.clear();
                stored.extend_from_slice(sealed.unwrap_or_default());
                if let Err(problem) = open(&mut opener, group, &mut stored)? {
                    failed.push((group.to_vec(), problem));
                }
            }
            Ok(failed)
        })
        .await
        .map_err(|_| RepoError::Internal { what: "a reading thread panicked".to_owned() })?
    }
}

fn with_store_defect(group: &[Located], error: &StoreError) -> Vec<(Want, Defect)> {
    group.iter().filter_map(|l| Some((l.want, l.frame.store_defect(&l.want, error)?))).collect()
}
