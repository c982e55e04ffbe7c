//! Reading many files at once: chunks of a whole window of files are fetched in the order in
//! which packs hold them, then each file's length and CRC are checked in file order.
//!
//! Invariant: [`FileSink::finished`] is called only for a file all of whose chunks were proven
//! and whose length and whole-file CRC match the manifest.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicUsize, Ordering};

use capy_codec::join_crc32c;
use capy_format::Content;
use capy_types::{ChunkId, Ctx};

use super::gather::ReadFault;
use super::{Defect, DefectKind, Reader, RefCursor, Want};
use crate::RepoError;

/// Chunks planned together: 2 GiB of a relation, about 1 MiB of plan.
const WINDOW_CHUNKS: usize = 16_384;
/// Files planned together, for windows of empty files: about 4 MiB.
const WINDOW_FILES: usize = 65_536;

/// Threads that look for chunks that are there already: they wait for disks and hash.
const ASKING_THREADS_MAX: usize = 16;

/// Receives the files of a bulk read. Called on several blocking threads at once.
pub trait FileSink: Send + Sync {
    /// Whether [`holds`](Self::holds) is asked for every chunk before it is fetched.
    fn asks_first(&self) -> bool {
        false
    }

    /// The CRC-32C of `chunk` when its `size` bytes are at `offset` of `file` already: then it is not
    /// fetched. The implementation proves that they are.
    ///
    /// # Errors
    /// Any error ends the whole read.
    fn holds(&self, file: u64, offset: u64, chunk: &ChunkId, size: u32) -> std::io::Result<Option<u32>> {
        let _ = (file, offset, chunk, size);
        Ok(None)
    }

    /// `data` belongs at `offset` of file `file`.
    ///
    /// # Errors
    /// Any error ends the whole read.
    fn write(&self, file: u64, offset: u64, data: &[u8]) -> std::io::Result<()>;

    /// Every byte of `file` was written and checked.
    ///
    /// # Errors
    /// Any error ends the whole read.
    fn finished(&self, file: u64) -> std::io::Result<()>;

    /// A part of `file` cannot be read; the file is never finished.
    fn defect(&self, file: u64, defect: Defect);

    /// The name of `file` for error messages.
    fn describe(&self, file: u64) -> String {
        format!("file {file}")
    }
}

/// What a bulk read did.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct BulkReport {
    /// Files that were read whole.
    pub files: u64,
    /// Files that could not be.
    pub defective_files: u64,
    /// Plaintext bytes delivered.
    pub bytes: u64,
    /// Chunks delivered.
    pub chunks: u64,
    /// Of the bytes, those that the sink held already.
    pub held_bytes: u64,
}

/// One chunk of the window.
#[derive(Debug, Clone, Copy)]
struct Planned {
    file: usize,
    offset: u64,
}

/// One file with chunks in the window.
#[derive(Debug)]
struct OpenFile {
    number: u64,
    expected: (u64, u32),
    seen: (u64, u32),
    complete: bool,
    defective: bool,
}

/// A running bulk read.
pub struct BulkRead {
    reader: Reader,
    ctx: Ctx,
    sink: Arc<dyn FileSink>,
    wants: Vec<Want>,
    planned: Vec<Planned>,
    files: Vec<OpenFile>,
    report: BulkReport,
}

impl std::fmt::Debug for BulkRead {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("BulkRead").field("report", &self.report).finish_non_exhaustive()
    }
}

impl BulkRead {
    pub(super) fn new(reader: Reader, ctx: Ctx, sink: Arc<dyn FileSink>) -> Self {
        Self {
            reader,
            ctx,
            sink,
            wants: Vec::new(),
            planned: Vec::new(),
            files: Vec::new(),
            report: BulkReport::default(),
        }
    }

    /// Adds a file. It is read now or later, at the latest in [`finish`](Self::finish).
    ///
    /// # Errors
    /// Cancelled; store errors; sink errors. Defects go to the sink and are not errors.
    ///
    /// # Cancellation
    /// The read cannot go on after a dropped call.
    pub async fn file(&mut self, file: u64, content: &Content) -> Result<(), RepoError> {
        self.files.push(OpenFile {
            number: file,
            expected: (content.length, content.crc32c),
            seen: (0, 0),
            complete: false,
            defective: false,
        });
        let mut cursor = RefCursor::new(self.reader.clone(), content);
        let mut offset = 0;
        loop {
            let refs = match cursor.next(&self.ctx).await {
                Ok(refs) => refs,
                Err(ReadFault::Error(error)) => return Err(error),
                Err(ReadFault::Defect(defect)) => {
                    self.sink.defect(file, defect);
                    if let Some(open) = self.files.last_mut() {
                        open.defective = true;
                    }
                    break;
                }
            };
            if refs.is_empty() {
                break;
            }
            for chunk in refs {
                let token = self.wants.len() as u64;
                self.wants.push(Want { chunk: chunk.id, size: chunk.size, token });
                self.planned.push(Planned { file: self.files.len() - 1, offset });
                offset += chunk.len;
                if self.wants.len() >= WINDOW_CHUNKS {
                    self.run_window().await?;
                }
            }
        }
        if let Some(open) = self.files.last_mut() {
            open.complete = true;
        }
        if self.files.len() >= WINDOW_FILES { self.run_window().await } else { Ok(()) }
    }

    /// Reads what is left and ends.
    ///
    /// # Errors
    /// As [`file`](Self::file).
    pub async fn finish(mut self) -> Result<BulkReport, RepoError> {
        self.run_window().await?;
        Ok(self.report)
    }

    async fn run_window(&mut self) -> Result<(), RepoError> {
        let wants = std::mem::take(&mut self.wants);
        let planned: Arc<Vec<(Planned, u64)>> = Arc::new(
            std::mem::take(&mut self.planned)
                .into_iter()
                .map(|plan| (plan, self.files.get(plan.file).map_or(u64::MAX, |file| file.number)))
                .collect(),
        );
        let crcs: Arc<Vec<AtomicU32>> = Arc::new(wants.iter().map(|_| AtomicU32::new(0)).collect());
        let stop = Arc::new(AtomicBool::new(false));
        let accept = {
            let (planned, crcs, sink, ctx) =
                (planned.clone(), crcs.clone(), self.sink.clone(), self.ctx.clone());
            Arc::new(move |token: u64, plain: &[u8]| {
                let at = usize::try_from(token).unwrap_or(usize::MAX);
                let (Some((plan, file)), Some(crc)) = (planned.get(at), crcs.get(at)) else {
                    return Err(RepoError::Internal { what: "a chunk nobody asked for".to_owned() });
                };
                if stop.load(Ordering::Relaxed) {
                    return Err(RepoError::Cancelled);
                }
                crc.store(crc32c::crc32c(plain), Ordering::Relaxed);
                ctx.progress.advance(plain.len() as u64);
                sink.write(*file, plan.offset, plain).map_err(|source| {
                    stop.store(true, Ordering::Relaxed);
                    RepoError::Sink { what: sink.describe(*file), source }
                })
            })
        };
        let missing = self.ask(&wants, &planned, &crcs).await?;
        for (want, defect) in
            self.reader.fetch(&self.ctx, missing.as_deref().unwrap_or(&wants), accept).await?
        {
            let plan = usize::try_from(want.token).ok().and_then(|at| planned.get(at));
            if let Some((plan, number)) = plan {
                self.sink.defect(*number, defect);
                if let Some(file) = self.files.get_mut(plan.file) {
                    file.defective = true;
                }
            }
        }
        self.fold(&wants, &planned, &crcs);
        self.close_files()
    }

    /// The chunks that the sink does not hold, looked for by several threads; `None` for all.
    async fn ask(
        &mut self,
        wants: &[Want],
        planned: &Arc<Vec<(Planned, u64)>>,
        crcs: &Arc<Vec<AtomicU32>>,
    ) -> Result<Option<Vec<Want>>, RepoError> {
        if !self.sink.asks_first() {
            return Ok(None);
        }
        let threads =
            std::thread::available_parallelism().map_or(1, std::num::NonZero::get).min(ASKING_THREADS_MAX);
        let next = Arc::new(AtomicUsize::new(0));
        let wants: Arc<Vec<Want>> = Arc::new(wants.to_vec());
        let asking: Vec<_> = (0..threads)
            .map(|_| {
                let (next, wants, planned, crcs) =
                    (next.clone(), wants.clone(), planned.clone(), crcs.clone());
                let (sink, ctx) = (self.sink.clone(), self.ctx.clone());
                tokio::task::spawn_blocking(move || ask(&next, &wants, &planned, &crcs, &*sink, &ctx))
            })
            .collect();
        let mut missing = Vec::new();
        for asked in asking {
            let asked = asked.await;
            missing.extend(
                asked
                    .map_err(|_| RepoError::Internal { what: "a thread that compares died".to_owned() })??,
            );
        }
        missing.sort_unstable_by_key(|want: &Want| want.token);
        let bytes = |wants: &[Want]| wants.iter().map(|want| u64::from(want.size)).sum::<u64>();
        self.report.held_bytes += bytes(&wants) - bytes(&missing);
        Ok(Some(missing))
    }

    /// Adds the window's chunks, in file order, to the length and CRC of their files.
    fn fold(&mut self, wants: &[Want], planned: &[(Planned, u64)], crcs: &[AtomicU32]) {
        for ((want, (plan, _)), crc) in wants.iter().zip(planned).zip(crcs) {
            if let Some(file) = self.files.get_mut(plan.file) {
                let crc = crc.load(Ordering::Relaxed);
                file.seen.0 += u64::from(want.size);
                file.seen.1 = join_crc32c(file.seen.1, crc, u64::from(want.size));
                if !file.defective {
                    self.report.bytes += u64::from(want.size);
                    self.report.chunks += 1;
                }
            }
        }
    }

    /// Ends every file of which nothing is to come.
    fn close_files(&mut self) -> Result<(), RepoError> {
        for file in self.files.extract_if(.., |file| file.complete) {
            if !file.defective && file.seen != file.expected {
                let problem = format!(
                    "{} bytes with checksum {:08x} were read, {} with {:08x} were stored",
                    file.seen.0, file.seen.1, file.expected.0, file.expected.1
                );
                let name = self.sink.describe(file.number);
                self.sink.defect(file.number, Defect::of_object(name, DefectKind::Corrupt, problem));
                self.report.defective_files += 1;
            } else if file.defective {
                self.report.defective_files += 1;
            } else {
                self.report.files += 1;
                self.sink
                    .finished(file.number)
                    .map_err(|source| RepoError::Sink { what: self.sink.describe(file.number), source })?;
            }
        }
        Ok(())
    }
}

/// One thread's share of a window: whichever chunk is next. Returns those that are missing.
fn ask(
    next: &AtomicUsize,
    wants: &[Want],
    planned: &[(Planned, u64)],
    crcs: &[AtomicU32],
    sink: &dyn FileSink,
    ctx: &Ctx,
) -> Result<Vec<Want>, RepoError> {
    let mut missing = Vec::new();
    loop {
        let at = next.fetch_add(1, Ordering::Relaxed);
        let (Some(want), Some((plan, file)), Some(crc)) = (wants.get(at), planned.get(at), crcs.get(at))
        else {
            return Ok(missing);
        };
        ctx.check()?;
        let held = sink
            .holds(*file, plan.offset, &want.chunk, want.size)
            .map_err(|source| RepoError::Sink { what: sink.describe(*file), source })?;
        match held {
            Some(found) => {
                crc.store(found, Ordering::Relaxed);
                ctx.progress.advance(u64::from(want.size));
            }
            None => missing.push(*want),
        }
    }
}
