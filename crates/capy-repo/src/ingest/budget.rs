//! What an ingest may hold in memory, and how large packs are so that it fits.
//!
//! Packs of full size make the fewest requests; with many workers, each filling a pack of its own,
//! they would not fit. So the budget stays, and packs get smaller.

use capy_types::limits::{MIB, PACK_SIZE_BYTES};

use super::batch::BATCH_BYTES;
use super::{IngestOptions, base, patch};
use crate::RepoError;

/// The program, its threads and their compressors.
const PROGRAM_BYTES: usize = 16 * MIB;
/// The index of chunks, before what is beyond spills to a file: 48 MiB of sorted runs and a table.
const INDEX_BYTES: usize = 64 * MIB;
/// Packs of full size that are on their way at most, however much memory there is.
const UPLOADS_MAX: usize = 16;
/// Smallest pack worth a request.
const PACK_MIN_BYTES: usize = 4 * MIB;

/// How the memory for packs is shared out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct PackBudget {
    /// The size packs are aimed at in bytes: at most 32 MiB, less where that would not fit.
    pub(super) pack_bytes: usize,
    /// What may be on its way to the store, in bytes: all that those in the making leave.
    pub(super) upload_bytes: usize,
}

/// Shares out what the rest of an ingest leaves of its memory.
pub(super) fn for_packs(options: &IngestOptions, deltas: bool) -> Result<PackBudget, RepoError> {
    let (jobs, uploads) = (options.jobs, options.uploads);
    let for_deltas = if deltas { base::memory_bytes(jobs) } else { 0 };
    let for_patches = if options.patch_from.is_some() { patch::MEMORY_BYTES } else { 0 };
    let fixed = PROGRAM_BYTES + INDEX_BYTES + BATCH_BYTES * (jobs + 2) + for_deltas + for_patches;
    // One in the making for each worker and one for the manifest, and those on their way.
    let packs = jobs + 1 + uploads;
    let free = options.memory_bytes.saturating_sub(fixed);
    let each = free / packs;
    if each < PACK_MIN_BYTES {
        let least = (fixed + packs * PACK_MIN_BYTES).div_ceil(MIB);
        let given = options.memory_bytes / MIB;
        let what = format!("{given} MiB of memory are too little for {jobs} jobs, which need {least} MiB");
        return Err(RepoError::Invalid { what });
    }
    let pack_bytes = each.min(PACK_SIZE_BYTES);
    let upload_bytes = (free - pack_bytes * (jobs + 1)).min(UPLOADS_MAX * PACK_SIZE_BYTES);
    Ok(PackBudget { pack_bytes, upload_bytes })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shares(jobs: usize, memory_mib: usize) -> Result<PackBudget, String> {
        let mut options = IngestOptions::new("main/x".parse().expect("a key"));
        (options.jobs, options.memory_bytes) = (jobs, memory_mib * MIB);
        for_packs(&options, false).map_err(|error| error.to_string())
    }

    fn size(jobs: usize, memory_mib: usize) -> Result<usize, String> {
        shares(jobs, memory_mib).map(|shares| shares.pack_bytes)
    }

    #[test]
    fn packs_are_of_full_size_while_they_fit_and_smaller_with_many_jobs() {
        assert_eq!(size(2, 256), Ok(32 * MIB));
        assert_eq!(size(2, 10_000), Ok(32 * MIB));
        let many = size(16, 256).expect("fits");
        assert!((4 * MIB..8 * MIB).contains(&many), "{many}");
    }

    #[test]
    fn what_packs_in_the_making_leave_may_be_on_its_way() {
        let uploads = |jobs, memory| shares(jobs, memory).expect("fits").upload_bytes / MIB;
        assert_eq!(uploads(2, 256), 64);
        assert_eq!(uploads(2, 512), 320);
        assert_eq!(uploads(2, 10_000), 512);
        assert!((2 * 4..32).contains(&uploads(16, 256)), "{}", uploads(16, 256));
    }

    #[test]
    fn too_little_memory_is_refused_with_what_would_do() {
        let error = size(64, 256).expect_err("too little");
        assert_eq!(error, "256 MiB of memory are too little for 64 jobs, which need 612 MiB");
        assert!(size(64, 612).is_ok());
    }
}
