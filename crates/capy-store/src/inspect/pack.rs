//! A pack's frames, each opened; and one chunk wherever it lies.

use capy_format::{ChunkClass, FrameInfo, FrameKind, HEADER_BYTES, Header, names};
use capy_repo::{PackInspection, ReadOptions, RepoError};
use capy_types::{ChunkId, Ctx, ErrorKind, PackId};
use serde_json::{Value, json};

use super::{Inspection, is_about_object, object};
use crate::{Error, Repository, Result};

pub(super) fn frame_fields(frame: &FrameInfo) -> Value {
    json!({
        "chunk": frame.chunk,
        "kind": match frame.kind { FrameKind::Full => "full", FrameKind::Delta => "delta" },
        "class": match frame.class { ChunkClass::Data => "data", ChunkClass::Meta => "meta" },
        "compression": frame.compression,
        "offset": frame.offset,
        "stored_len": frame.stored_len,
        "plain_len": frame.plain_len,
        "base": frame.base,
    })
}

pub(super) async fn inspect(repository: &Repository, pack: PackId) -> Result<Inspection> {
    let (mut found, inside) = take_apart(repository, pack).await?;
    found.problems.extend(inside.problems.iter().cloned());
    let mut frames = Vec::new();
    for frame in &inside.frames {
        let mut fields = frame_fields(&frame.frame);
        fields["problem"] = json!(frame.problem);
        frames.push(fields);
        if let Some(problem) = &frame.problem {
            found.problem(format!("frame at byte {}: {problem}", frame.frame.offset));
        }
    }
    found.content = json!({ "frames_from_footer": inside.from_footer, "frames": frames });
    Ok(found)
}

/// Opens a pack by its own footer; when that is damaged, by what an index says of it.
async fn take_apart(repository: &Repository, pack: PackId) -> Result<(Inspection, PackInspection)> {
    let name = names::pack(&pack);
    let mut inside = repository.repo.inspect_pack(&pack, None).await?;
    if !inside.from_footer
        && let Some(frames) = frames_by_index(repository, pack).await?
    {
        inside = repository.repo.inspect_pack(&pack, Some(&frames)).await?;
    }
    let mut found = Inspection::of(name.clone(), inside.size);
    let header_end = inside.size.min(HEADER_BYTES as u64);
    let header = repository.repo.store().get_range(&name, 0..header_end).await?;
    if let Ok(header) = Header::decode(&name, &header) {
        found.header = object::header_fields(&header);
    }
    Ok((found, inside))
}

async fn frames_by_index(repository: &Repository, pack: PackId) -> Result<Option<Vec<FrameInfo>>> {
    for index in repository.repo.root().await?.indexes {
        // An index that cannot be read knows nothing of the pack; that is not what was asked.
        let Ok(object) = repository.repo.inspect_index(&index).await else { continue };
        if let Some(known) = object.packs.into_iter().find(|known| known.id == pack) {
            return Ok(Some(known.frames));
        }
    }
    Ok(None)
}

pub(super) async fn inspect_chunk(
    repository: &Repository,
    ctx: &Ctx,
    chunk: ChunkId,
) -> Result<(Inspection, Option<Vec<u8>>)> {
    let reader = repository.repo.reader(ctx, ReadOptions::default()).await?;
    let Some(place) = reader.locate(&chunk)? else {
        return Err(Error::new(ErrorKind::NotFound, format!("chunk {chunk} is in no index")));
    };
    let (pack, inside) = take_apart(repository, place.pack).await?;
    let mut found = Inspection::of(pack.object, u64::from(place.stored_len));
    found.content = json!({ "pack": place.pack, "offset": place.offset, "stored_len": place.stored_len });
    let Some(frame) =
        inside.frames.iter().map(|inspected| inspected.frame).find(|frame| frame.chunk == chunk)
    else {
        found.problem("the pack does not list this chunk");
        return Ok((found, None));
    };
    found.content["frame"] = frame_fields(&frame);
    if frame.kind == FrameKind::Delta {
        let bases = reader.bases(&chunk)?;
        let bases = bases.iter().skip(1).map(|(chunk, pack)| json!({ "chunk": chunk, "pack": pack }));
        found.content["bases"] = bases.collect();
    }
    match reader.chunk(ctx, chunk, frame.plain_len).await {
        Ok(plain) => Ok((found, Some(plain))),
        Err(RepoError::Store(error)) if !is_about_object(&error) => Err(error.into()),
        Err(error) => {
            found.problem(error);
            Ok((found, None))
        }
    }
}
