//! Rebuilding chunks that are stored as deltas, while the full frame they rest on is at hand.
//!
//! Invariants: what is handed on was matched against the chunk id that was asked for, however many
//! deltas lie between; of chunks that share deltas each delta is applied once; memory holds one
//! plaintext for each delta between a full frame and a chunk.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};

use super::plan::{FrameAt, Located};
use super::{Defect, DefectKind, Want};
use crate::RepoError;
use crate::pack::{FrameOpener, FrameProblem};

/// Deltas, each once, and their bodies.
#[derive(Debug, Default)]
pub(super) struct DeltaSet {
    numbers: HashMap<(u32, u32), u32>,
    frames: Vec<FrameAt>,
    bodies: Vec<Option<Box<[u8]>>>,
    failed: HashMap<u32, Defect>,
}

impl DeltaSet {
    /// The number of a delta, which is the same each time it is met.
    pub(super) fn number(&mut self, frame: FrameAt) -> u32 {
        let next = u32::try_from(self.frames.len()).expect("a batch has fewer than 2^32 deltas");
        let place = (frame.location.pack, frame.location.ordinal);
        let number = *self.numbers.entry(place).or_insert(next);
        if number == next {
            self.frames.push(frame);
            self.bodies.push(None);
        }
        number
    }

    pub(super) fn frames(&self) -> &[FrameAt] {
        &self.frames
    }

    /// Takes bodies that were read.
    pub(super) fn fill(&mut self, bodies: Vec<(u64, Box<[u8]>)>) {
        for (number, body) in bodies {
            if let Some(place) = usize::try_from(number).ok().and_then(|number| self.bodies.get_mut(number)) {
                *place = Some(body);
            }
        }
    }

    /// Notes deltas that cannot be read.
    pub(super) fn fail(&mut self, failed: impl Iterator<Item = (u64, Defect)>) {
        self.failed.extend(failed.filter_map(|(number, defect)| Some((u32::try_from(number).ok()?, defect))));
    }

    /// What `want` cannot be had for.
    fn defect(&self, number: u32, want: &Want, problem: Option<FrameProblem>) -> Option<Defect> {
        let frame = self.frames.get(number as usize)?;
        match self.failed.get(&number) {
            Some(defect) => Some(frame.defect(want, defect.kind, &defect.problem)),
            None => Some(frame.defect(want, DefectKind::Corrupt, &problem?.to_string())),
        }
    }
}

/// Chunks under reconstruction: each rests on the one before it.
#[derive(Default)]
struct Stack {
    levels: Vec<(u32, Vec<u8>)>,
    spare: Vec<Vec<u8>>,
}

impl Stack {
    /// Keeps as many levels as are the same deltas; returns how many.
    fn keep(&mut self, deltas: &[u32]) -> usize {
        let same = self.levels.iter().zip(deltas).take_while(|((level, _), delta)| level == *delta).count();
        self.spare.extend(self.levels.drain(same..).map(|(_, plain)| plain));
        same
    }

    fn top<'a>(&'a self, root: &'a [u8]) -> &'a [u8] {
        self.levels.last().map_or(root, |(_, plain)| plain)
    }
}

/// Receives a proven chunk.
type Accept = dyn Fn(u64, &[u8]) -> Result<(), RepoError> + Send + Sync;

/// Opens a full frame and hands on everything in `group` that is it or rests on it.
pub(super) fn emit(
    opener: &mut FrameOpener,
    group: &[Located],
    stored: &mut [u8],
    deltas: &DeltaSet,
    accept: &Accept,
    failed: &Mutex<Vec<(Want, Defect)>>,
) -> Result<Result<(), FrameProblem>, RepoError> {
    let Some(Located { frame, .. }) = group.first() else { return Ok(Ok(())) };
    let root = match opener.open(&frame.pack, frame.location.ordinal, &frame.info(), stored) {
        Ok(root) => root,
        Err(problem) => return Ok(Err(problem)),
    };
    let (whole, rebuilt) = group.split_at(group.iter().take_while(|l| l.deltas.is_empty()).count());
    whole.iter().try_for_each(|l| accept(l.want.token, root))?;
    if rebuilt.is_empty() {
        return Ok(Ok(()));
    }
    let root = root.to_vec();
    let mut stack = Stack::default();
    for Located { want, deltas: numbers, .. } in rebuilt {
        match climb(opener, &root, numbers, deltas, &mut stack) {
            Ok(()) if opener.is(&want.chunk, stack.top(&root)) => accept(want.token, stack.top(&root))?,
            Ok(()) => note(
                failed,
                want,
                deltas.defect(first_wrong(opener, &stack, deltas), want, Some(FrameProblem::WrongChunk)),
            ),
            Err((number, problem)) => note(failed, want, deltas.defect(number, want, problem)),
        }
    }
    Ok(Ok(()))
}

/// Applies `numbers` to `root`, taking what the stack has already; answers with the delta at fault.
fn climb(
    opener: &mut FrameOpener,
    root: &[u8],
    numbers: &[u32],
    deltas: &DeltaSet,
    stack: &mut Stack,
) -> Result<(), (u32, Option<FrameProblem>)> {
    let have = stack.keep(numbers);
    for number in numbers.iter().skip(have) {
        let at = *number as usize;
        let (Some(frame), Some(Some(body))) = (deltas.frames.get(at), deltas.bodies.get(at)) else {
            return Err((*number, None));
        };
        let mut plain = stack.spare.pop().unwrap_or_default();
        opener
            .apply(stack.top(root), body, frame.size, &mut plain)
            .map_err(|problem| (*number, Some(problem)))?;
        stack.levels.push((*number, plain));
    }
    Ok(())
}

/// The lowest delta that did not make the chunk it is named for.
fn first_wrong(opener: &FrameOpener, stack: &Stack, deltas: &DeltaSet) -> u32 {
    let right = |number: u32, plain: &[u8]| {
        deltas.frames.get(number as usize).is_some_and(|frame| opener.is(&frame.chunk, plain))
    };
    let wrong = stack.levels.iter().find(|(number, plain)| !right(*number, plain));
    wrong.or(stack.levels.last()).map_or(0, |(number, _)| *number)
}

fn note(failed: &Mutex<Vec<(Want, Defect)>>, want: &Want, defect: Option<Defect>) {
    let defect = defect.unwrap_or_else(|| Defect::unknown_chunk(want.chunk));
    failed.lock().unwrap_or_else(PoisonError::into_inner).push((*want, defect));
}
