//! Damage of every kind to every kind of object is found, named, and laid to the right backups.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use capy_store::{Ctx, ErrorKind, Progress, VerificationState, VerifyLevel, VerifyOptions, VerifyScope};
use tokio_util::sync::CancellationToken;

use crate::base_tar::{BaseTar, RELATION};
use crate::fixture::Fixture;

#[derive(Debug, Clone, Copy)]
enum Damage {
    Delete,
    Truncate,
    Flip,
}

const ALL: [Damage; 3] = [Damage::Delete, Damage::Truncate, Damage::Flip];

fn damage(path: &Path, how: Damage) {
    let bytes = std::fs::read(path).unwrap();
    match how {
        Damage::Delete => std::fs::remove_file(path).unwrap(),
        Damage::Truncate => std::fs::write(path, &bytes[..bytes.len() - 1]).unwrap(),
        Damage::Flip => {
            let mut bytes = bytes;
            let middle = bytes.len() / 2;
            bytes[middle] ^= 0x10;
            std::fs::write(path, bytes).unwrap();
        }
    }
}

/// Two backups that share everything but the relation, then damage to one object.
async fn damaged(prefix: &str, how: Damage) -> (Fixture, PathBuf) {
    let fixture = Fixture::new().await;
    fixture.back_up(BaseTar::new(1).bytes()).await;
    fixture.back_up(BaseTar::new(2).bytes()).await;
    let object = fixture.objects(prefix).remove(0);
    damage(&object, how);
    (fixture, object)
}

#[tokio::test]
async fn sound_backups_are_verified_and_say_so() {
    let fixture = Fixture::new().await;
    fixture.back_up(BaseTar::new(1).bytes()).await;
    fixture.back_up(BaseTar::new(2).bytes()).await;
    for level in [VerifyLevel::Structure, VerifyLevel::Full] {
        let report = fixture.verify(level).await;
        assert!(report.ok, "{:?}", report.defects);
        assert!(report.verdict.starts_with("verified: 2 backups, no defects"), "{}", report.verdict);
        for backup in fixture.repository.list_backups(&fixture.ctx, None).await.unwrap() {
            assert_eq!(backup.verification_state, VerificationState::Verified);
            assert_eq!(backup.verification_level.as_deref(), Some(level.as_str()));
            assert!(backup.verified_at.is_some() && backup.verification_error.is_none());
        }
    }
}

#[tokio::test]
async fn damage_to_any_object_is_found_and_recorded() {
    for prefix in ["packs", "index", "backups"] {
        for how in ALL {
            let (fixture, object) = damaged(prefix, how).await;
            let report = fixture.verify(VerifyLevel::Full).await;
            assert!(!report.ok, "{how:?} of {}", object.display());
            let name = object.file_name().unwrap().to_str().unwrap();
            let named = report.defects.iter().any(|defect| defect.object.contains(name));
            assert!(named, "{how:?}: {name} not in {:?}", report.defects);
            let backups = fixture.repository.list_backups(&fixture.ctx, None).await.unwrap();
            let failed = backups.iter().filter(|b| b.verification_state == VerificationState::Failed);
            assert!(failed.clone().count() > 0, "{how:?} of {prefix}");
            assert!(failed.clone().all(|b| b.verification_error.is_some()));
        }
    }
}

#[tokio::test]
async fn a_defect_names_the_files_it_touches_and_only_backups_that_have_them() {
    let fixture = Fixture::new().await;
    let first = fixture.back_up(BaseTar::new(1).bytes()).await.backup.backup_key;
    let packs = fixture.objects("packs");
    let second = fixture.back_up(BaseTar::new(2).bytes()).await.backup.backup_key;
    let new = fixture.objects("packs").into_iter().find(|pack| !packs.contains(pack)).expect("a new pack");
    // In its middle lies the relation; at its end, whole, the manifest.
    damage(&new, Damage::Flip);
    let report = fixture.verify(VerifyLevel::Full).await;
    let touched: Vec<_> = report.defects.iter().flat_map(|defect| &defect.backups).collect();
    assert!(touched.contains(&&second) && !touched.contains(&&first), "{:?}", report.defects);
    let files: Vec<_> = report.defects.iter().flat_map(|defect| &defect.files).collect();
    assert!(files.iter().any(|file| file.contains(RELATION)), "{files:?}");
    assert!(report.verdict.contains("1 of 2 backups"), "{}", report.verdict);
    // Without the pack there is no manifest that could name files; the backup is named all the same.
    damage(&new, Damage::Delete);
    let report = fixture.verify(VerifyLevel::Full).await;
    let touched: Vec<_> = report.defects.iter().flat_map(|defect| &defect.backups).collect();
    assert!(touched.contains(&&second) && !touched.contains(&&first), "{:?}", report.defects);
}

#[tokio::test]
async fn a_backup_taken_after_the_damage_was_found_heals_the_older_one() {
    let (fixture, _) = damaged("packs", Damage::Flip).await;
    assert!(!fixture.verify(VerifyLevel::Full).await.ok);
    fixture.back_up(BaseTar::new(1).bytes()).await;
    fixture.back_up(BaseTar::new(2).bytes()).await;
    let backups = fixture.repository.list_backups(&fixture.ctx, None).await.unwrap();
    for newer in backups.iter().skip(2) {
        let target = fixture.path(newer.id.as_str());
        let options = capy_store::RestoreOptions::to(target);
        fixture.repository.restore(&fixture.ctx, &newer.backup_key.clone().into(), options).await.unwrap();
    }
}

/// Cancels as soon as anything is counted.
#[derive(Debug)]
struct CancelAtWork(CancellationToken);

impl Progress for CancelAtWork {
    fn advance(&self, _: u64) {
        self.0.cancel();
    }
}

#[tokio::test]
async fn a_cancelled_verification_leaves_what_was_recorded_before() {
    let fixture = Fixture::new().await;
    fixture.back_up(BaseTar::new(1).bytes()).await;
    assert!(fixture.verify(VerifyLevel::Structure).await.ok);
    let mut ctx = Ctx::default();
    ctx.progress = Arc::new(CancelAtWork(ctx.cancel.clone()));
    let mut options = VerifyOptions::default();
    options.level = VerifyLevel::Full;
    let error = fixture.repository.verify(&ctx, &VerifyScope::All, options).await.expect_err("cancelled");
    assert_eq!(error.kind(), ErrorKind::Cancelled);
    let backups = fixture.repository.list_backups(&fixture.ctx, None).await.unwrap();
    assert_eq!(backups[0].verification_state, VerificationState::Verified);
    assert_eq!(backups[0].verification_level.as_deref(), Some("structure"));
}
