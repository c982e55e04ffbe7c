//! Every pack the index knows: present, of its size, with a header and a footer that open and
//! agree with the index.

use capy_format::{HEADER_BYTES, PackFooter, names};
use capy_objects::StoreErrorKind;
use capy_types::{Ctx, PackId};
use futures::{StreamExt, TryStreamExt};

use super::StructureReport;
use crate::index::{KnownPack, list_packs};
use crate::pack::open_footer;
use crate::{Defect, DefectKind, Reader, RepoError};

/// Enough of a pack's tail to hold the footer of a usual pack (a few hundred frames of 60 bytes)
/// in the first request.
const TAIL_BYTES: u64 = 128 * 1024;

/// Checks all packs; returns those that are damaged.
pub(super) async fn check(
    reader: &Reader,
    ctx: &Ctx,
    report: &mut StructureReport,
) -> Result<Vec<(PackId, Defect)>, RepoError> {
    let present = list_packs(&**reader.repo().store()).await?;
    let packs: Vec<KnownPack> = reader.index().read().packs().to_vec();
    report.packs = packs.len() as u64;
    let checks = packs.into_iter().map(|pack| {
        let size = present.get(&pack.id).copied();
        async move {
            ctx.check()?;
            check_pack(reader, &pack.id, size).await.map(|defect| defect.map(|defect| (pack.id, defect)))
        }
    });
    let found: Vec<_> =
        futures::stream::iter(checks).buffer_unordered(reader.options().requests).try_collect().await?;
    let mut found: Vec<_> = found.into_iter().flatten().collect();
    found.sort_by_key(|(pack, _)| *pack);
    Ok(found)
}

async fn check_pack(reader: &Reader, pack: &PackId, size: Option<u64>) -> Result<Option<Defect>, RepoError> {
    let defect = |kind, offset: Option<u64>, problem: String| {
        Ok(Some(Defect { object: names::pack(pack), offset, chunk: None, pack: Some(*pack), kind, problem }))
    };
    let Some(size) = size else {
        return defect(DefectKind::Missing, None, "the pack is not in the store".to_owned());
    };
    match read_footer(reader, pack, size).await {
        Ok(footer) => match disagreement(reader, pack, &footer)? {
            Some(problem) => defect(DefectKind::Corrupt, None, problem),
            None => Ok(None),
        },
        Err(RepoError::Store(error)) => match error.kind {
            StoreErrorKind::NotFound => defect(DefectKind::Missing, None, error.to_string()),
            StoreErrorKind::Truncated { .. } => defect(DefectKind::Truncated, Some(size), error.to_string()),
            _ => Err(RepoError::Store(error)),
        },
        Err(error) => defect(DefectKind::Corrupt, None, error.to_string()),
    }
}

/// Reads and opens the footer of a pack of `size` bytes.
async fn read_footer(reader: &Reader, pack: &PackId, size: u64) -> Result<PackFooter, RepoError> {
    let name = names::pack(pack);
    let store = reader.repo().store();
    let too_short = || RepoError::Inconsistent {
        object: name.clone(),
        problem: format!("truncated: {size} bytes are too few for a pack"),
    };
    if size < (HEADER_BYTES + capy_format::PACK_TRAILER_BYTES) as u64 {
        return Err(too_short());
    }
    let header = store.get_range(&name, 0..HEADER_BYTES as u64).await?;
    let header = header.first_chunk::<HEADER_BYTES>().copied().ok_or_else(too_short)?;
    let mut from = size.saturating_sub(TAIL_BYTES).max(HEADER_BYTES as u64);
    let mut tail = store.get_range(&name, from..size).await?;
    let trailer = tail.last_chunk::<{ capy_format::PACK_TRAILER_BYTES }>().ok_or_else(too_short)?;
    let offset = size - trailer.len() as u64;
    let needed = u64::from(capy_format::PackTrailer::decode(&name, trailer, offset)?.footer_len)
        + trailer.len() as u64;
    if needed > size - from {
        from = size.checked_sub(needed).filter(|from| *from >= HEADER_BYTES as u64).ok_or_else(too_short)?;
        tail = store.get_range(&name, from..size).await?;
    }
    open_footer(reader.repo().keys(), reader.repo().id(), pack, &header, &tail, from)
}

/// Whether the index says otherwise than the pack's own footer.
fn disagreement(reader: &Reader, pack: &PackId, footer: &PackFooter) -> Result<Option<String>, RepoError> {
    for (ordinal, frame) in (0u32..).zip(&footer.frames) {
        let Some((location, at)) = reader.location(&frame.chunk)? else {
            return Ok(Some(format!("chunk {} of its footer is in no index", frame.chunk)));
        };
        // Another pack may hold the same chunk; then the index points there.
        let same = location.ordinal == ordinal
            && location.offset == frame.offset
            && location.stored_len == frame.stored_len;
        let same = same && reader.index().read().base(location)? == frame.base;
        if at == *pack && !same {
            return Ok(Some(format!("the index places chunk {} elsewhere than its footer", frame.chunk)));
        }
    }
    Ok(None)
}
