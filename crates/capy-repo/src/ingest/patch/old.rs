//! What touched cells held in the parent, read a group ahead of its use.
//!
//! Memory: two groups of cells. Invariant: cells are taken in the order in which they were planned.

use std::collections::VecDeque;
use std::sync::Arc;

use bytes::Bytes;
use capy_format::ChunkRef;
use capy_types::Ctx;
use tokio::task::JoinHandle;

use crate::{Reader, RepoError};

/// Bytes of cells read at once: a few ranges of packs.
const GROUP_BYTES: u64 = 4 << 20;

type Read = Result<Vec<(u64, Bytes)>, RepoError>;

/// The parent's bytes, cell by cell.
pub(super) struct OldCells {
    reader: Reader,
    ctx: Ctx,
    refs: Arc<Vec<(u64, ChunkRef)>>,
    cell_bytes: u64,
    /// Bytes of the file that count.
    kept: u64,
    /// Cells to be read.
    planned: VecDeque<u64>,
    ahead: Option<JoinHandle<Read>>,
    ready: VecDeque<(u64, Bytes)>,
}

impl Drop for OldCells {
    fn drop(&mut self) {
        self.ahead.iter().for_each(JoinHandle::abort);
    }
}

impl OldCells {
    pub(super) fn new(
        reader: Reader,
        ctx: Ctx,
        refs: Arc<Vec<(u64, ChunkRef)>>,
        cell_bytes: u64,
        kept: u64,
    ) -> Self {
        let (planned, ready) = (VecDeque::new(), VecDeque::new());
        Self { reader, ctx, refs, cell_bytes, kept, planned, ahead: None, ready }
    }

    /// What reads the parent.
    pub(super) fn reader(&self) -> &Reader {
        &self.reader
    }

    /// These cells will be taken, as far as the parent has something of them; reading begins.
    pub(super) fn plan(&mut self, touched: &[bool]) {
        let cells =
            (0..).zip(touched).filter(|(cell, touched)| **touched && cell * self.cell_bytes < self.kept);
        self.planned = cells.map(|(cell, _)| cell).collect();
        self.read_ahead();
    }

    fn read_ahead(&mut self) {
        let group = ((GROUP_BYTES / self.cell_bytes).max(1) as usize).min(self.planned.len());
        if group == 0 {
            return;
        }
        let cells: Vec<u64> = self.planned.drain(..group).collect();
        let (reader, ctx, refs) = (self.reader.clone(), self.ctx.clone(), self.refs.clone());
        let (cell_bytes, kept) = (self.cell_bytes, self.kept);
        self.ahead = Some(tokio::spawn(async move {
            let mut read = Vec::with_capacity(cells.len());
            let spans = cells.iter().map(|cell| (cell * cell_bytes, ((cell + 1) * cell_bytes).min(kept)));
            let spans: Vec<_> = spans.collect();
            for (cell, bytes) in cells.iter().zip(read_spans(&reader, &ctx, &refs, &spans).await?) {
                read.push((*cell, bytes));
            }
            Ok(read)
        }));
    }

    /// The kept bytes of the next planned cell, which must be this one.
    ///
    /// # Errors
    /// When the parent cannot be read as it was written.
    pub(super) async fn take(&mut self, cell: u64) -> Result<Bytes, RepoError> {
        if self.ready.is_empty()
            && let Some(ahead) = &mut self.ahead
        {
            let read = ahead.await;
            self.ahead = None;
            let read = read.map_err(|_| RepoError::Internal { what: "reading ahead panicked".to_owned() })?;
            self.ready.extend(read?);
            self.read_ahead();
        }
        match self.ready.pop_front() {
            Some((ready, bytes)) if ready == cell => Ok(bytes),
            _ => Err(RepoError::Internal { what: format!("cell {cell} was not planned") }),
        }
    }

    /// The checksum of the `bytes` last bytes of the file, which begin with this cell.
    ///
    /// # Errors
    /// When the parent cannot be read as it was written.
    pub(super) async fn checksum_from(&self, cell: u64, bytes: u64) -> Result<u32, RepoError> {
        let (mut at, mut crc32c) = (cell * self.cell_bytes, 0);
        let end = at + bytes;
        while at < end {
            let to = (at + GROUP_BYTES.max(self.cell_bytes)).min(end);
            for piece in read_spans(&self.reader, &self.ctx, &self.refs, &[(at, to)]).await? {
                crc32c = crc32c::crc32c_append(crc32c, &piece);
            }
            at = to;
        }
        Ok(crc32c)
    }
}

/// The bytes of stretches of a file, from start to end, which rise; each chunk is read once.
async fn read_spans(
    reader: &Reader,
    ctx: &Ctx,
    refs: &[(u64, ChunkRef)],
    spans: &[(u64, u64)],
) -> Result<Vec<Bytes>, RepoError> {
    let over = |span: &(u64, u64)| {
        let first = refs.partition_point(|(start, chunk)| start + chunk.len <= span.0);
        let last = refs.partition_point(|(start, _)| *start < span.1);
        first..last.max(first)
    };
    let mut wanted: Vec<usize> = spans.iter().flat_map(over).collect();
    wanted.dedup();
    let chunks = wanted.iter().filter_map(|at| refs.get(*at)).map(|(_, chunk)| chunk);
    let plains = reader.fetch_all(ctx, chunks).await?;
    let stretch = |span: &(u64, u64)| {
        let mut parts = over(span).filter_map(|at| {
            let place = wanted.binary_search(&at).ok()?;
            let ((start, _), plain) = (refs.get(at)?, plains.get(place)?);
            let from = span.0.saturating_sub(*start) as usize;
            let to = ((span.1 - start) as usize).min(plain.len());
            Some(plain.slice(from.min(to)..to))
        });
        match (parts.next(), parts.next()) {
            (Some(only), None) => only,
            (first, second) => {
                let all = first.into_iter().chain(second).chain(parts);
                all.fold(Vec::new(), |mut bytes, part| {
                    bytes.extend_from_slice(&part);
                    bytes
                })
                .into()
            }
        }
    };
    Ok(spans.iter().map(stretch).collect())
}
