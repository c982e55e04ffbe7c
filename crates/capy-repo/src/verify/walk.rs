//! Walking one backup: its record, every entry of its manifest, every chunk each file names.

use std::collections::{BTreeMap, HashMap};

use capy_format::{BackupEntry, Entry, names};
use capy_types::{Ctx, PackId};

use super::{AffectedDefect, StructureReport};
use crate::read::{ReadFault, RefCursor};
use crate::{Defect, DefectKind, Reader, RepoError};

/// Follows everything `backup` names into the index; notes what is missing or in a bad pack.
pub(super) async fn walk(
    reader: &Reader,
    ctx: &Ctx,
    backup: &BackupEntry,
    bad_packs: &HashMap<PackId, usize>,
    report: &mut StructureReport,
) -> Result<(), RepoError> {
    let record = match reader.repo().record(backup).await {
        Ok(record) => record,
        Err(error) if error.kind().is_transient() => return Err(error),
        Err(error) => {
            note(report, backup, None, defect_of(names::backup(&backup.key), &error));
            return Ok(());
        }
    };
    let mut manifest = reader.manifest(&record.manifest);
    let mut archive = String::new();
    loop {
        ctx.check()?;
        let entry = match manifest.next().await {
            Ok(Some(entry)) => entry,
            Ok(None) => return Ok(()),
            Err(error) if error.kind().is_transient() => return Err(error),
            Err(error) => {
                let object = format!("manifest of {}", backup.key);
                note(report, backup, None, defect_of(object, &error));
                return Ok(());
            }
        };
        report.entries += 1;
        match entry {
            Entry::Archive(header) => archive = header.kind.place(),
            Entry::File(file) => {
                let name = format!("{archive}{}", String::from_utf8_lossy(&file.meta.path));
                let mut cursor = RefCursor::new(reader.clone(), &file.content);
                let mut touched: BTreeMap<usize, ()> = BTreeMap::new();
                loop {
                    let refs = match cursor.next(ctx).await {
                        Ok(refs) => refs,
                        Err(ReadFault::Error(error)) => return Err(error),
                        Err(ReadFault::Defect(defect)) => {
                            note(report, backup, Some(&name), defect);
                            break;
                        }
                    };
                    if refs.is_empty() {
                        break;
                    }
                    report.chunks += refs.len() as u64;
                    for chunk in refs {
                        let (packs, broken) = reader.rests_on(&chunk.id)?;
                        touched
                            .extend(packs.iter().filter_map(|pack| bad_packs.get(pack)).map(|at| (*at, ())));
                        if let Some(defect) = broken {
                            note(report, backup, Some(&name), defect);
                        }
                    }
                }
                for at in touched.into_keys() {
                    if let Some(defect) = report.defects.get_mut(at) {
                        defect.touch(&backup.key, Some(&name));
                    }
                }
            }
            Entry::Directory(_) | Entry::Symlink { .. } | Entry::EndArchive { .. } => {}
        }
    }
}

fn defect_of(object: String, error: &RepoError) -> Defect {
    let kind = if error.is_missing_object() { DefectKind::Missing } else { DefectKind::Corrupt };
    Defect::of_object(object, kind, error.to_string())
}

/// Adds a defect, or its further effect when it is known already.
fn note(report: &mut StructureReport, backup: &BackupEntry, file: Option<&str>, defect: Defect) {
    let known = report.defects.iter().position(|known| known.defect == defect);
    let at = known.unwrap_or_else(|| {
        report.defects.push(AffectedDefect::new(defect));
        report.defects.len() - 1
    });
    if let Some(known) = report.defects.get_mut(at) {
        known.touch(&backup.key, file);
    }
}
