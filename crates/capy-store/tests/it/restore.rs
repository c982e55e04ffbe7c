//! What comes out: the same files, the same stream, and nothing outside the target.

use std::os::unix::fs::PermissionsExt;

use capy_store::{ErrorKind, RestoreOptions, TarTarget};

use crate::base_tar::{BaseTar, Item, RELATION};
use crate::fixture::{Fixture, files_below, latest};

#[tokio::test]
async fn files_directories_links_and_modes_come_back() {
    let fixture = Fixture::new().await;
    let mut backup = BaseTar::new(2);
    backup.items.push(Item::Symlink("log".to_owned(), "/var/log/postgresql".to_owned()));
    fixture.back_up(backup.bytes_with_manifest_of(&BaseTar::new(2))).await;
    let target = fixture.restore("target").await;
    for path in ["backup_label", RELATION, "postgresql.conf", "base/5/PG_VERSION"] {
        assert!(std::fs::read(target.join(path)).unwrap() == backup.content(path), "{path}");
    }
    assert_eq!(std::fs::read(target.join("global/pg_control")).unwrap().len(), 8192);
    for empty in ["pg_notify", "pg_wal/archive_status"] {
        assert!(target.join(empty).is_dir(), "{empty}");
    }
    assert_eq!(std::fs::read_link(target.join("log")).unwrap().to_str(), Some("/var/log/postgresql"));
    let mode = |path: &std::path::Path| path.metadata().unwrap().permissions().mode() & 0o7777;
    assert_eq!((mode(&target), mode(&target.join(RELATION))), (0o700, 0o600));
    assert!(!files_below(&target).iter().any(|path| path.to_string_lossy().contains("capy-restore")));
}

#[tokio::test]
async fn the_stream_comes_back_byte_for_byte() {
    let fixture = Fixture::new().await;
    let tar = BaseTar::new(3).bytes();
    fixture.back_up(tar.clone()).await;
    let file = fixture.path("out.tar");
    let writer = tokio::fs::File::create(&file).await.unwrap();
    fixture.repository.restore_tar(&fixture.ctx, &latest(), TarTarget::writer(writer)).await.unwrap();
    assert!(std::fs::read(&file).unwrap() == tar);
    let directory = fixture.path("tars");
    fixture.repository.restore_tar(&fixture.ctx, &latest(), TarTarget::directory(&directory)).await.unwrap();
    assert!(std::fs::read(directory.join("base.tar")).unwrap() == tar);
}

#[tokio::test]
async fn a_link_cannot_lead_a_later_file_out_of_the_target() {
    let fixture = Fixture::new().await;
    let outside = fixture.path("outside");
    std::fs::create_dir(&outside).unwrap();
    let mut backup = BaseTar::new(1);
    backup.items.push(Item::Symlink("trap".to_owned(), outside.to_str().unwrap().to_owned()));
    backup.items.push(Item::File("trap/x".to_owned(), b"boo".to_vec()));
    backup.manifest = false;
    fixture.back_up(backup.bytes()).await;
    let error = fixture.try_restore(RestoreOptions::to(fixture.path("target"))).await.expect_err("refused");
    assert!(error.to_string().contains("trap"), "{error:?}");
    assert_eq!(std::fs::read_dir(&outside).unwrap().count(), 0, "nothing was written through the link");
    assert!(!fixture.path("target/global/pg_control").exists(), "what is left does not start");
}

#[tokio::test]
async fn chosen_files_replace_what_is_there_and_nothing_else_is_touched() {
    let fixture = Fixture::new().await;
    fixture.back_up(BaseTar::new(4).bytes()).await;
    let target = fixture.path("target");
    std::fs::create_dir_all(target.join("base/5")).unwrap();
    std::fs::write(target.join("base/5/16384"), b"old and short").unwrap();
    std::fs::write(target.join("mine"), b"mine").unwrap();
    let mut options = RestoreOptions::to(&target);
    options.files = vec!["base/*/1*".to_owned(), "backup_label".to_owned()];
    let report = fixture.try_restore(options).await.unwrap();
    assert_eq!(report.files, 2);
    assert!(std::fs::read(target.join(RELATION)).unwrap() == BaseTar::new(4).content(RELATION));
    assert_eq!(std::fs::read(target.join("mine")).unwrap(), b"mine");
    assert_eq!(files_below(&target).len(), 3);
    let mut none = RestoreOptions::to(&target);
    none.files = vec!["no/such/*".to_owned()];
    assert_eq!(fixture.try_restore(none).await.expect_err("nothing matches").kind(), ErrorKind::NotFound);
}

#[tokio::test]
async fn a_damaged_pack_fails_the_restore_names_the_file_and_leaves_no_control_file() {
    let fixture = Fixture::new().await;
    fixture.back_up(BaseTar::new(5).bytes()).await;
    let pack = fixture.objects("packs").remove(0);
    let mut bytes = std::fs::read(&pack).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    std::fs::write(&pack, bytes).unwrap();
    let error = fixture.try_restore(RestoreOptions::to(fixture.path("target"))).await.expect_err("damaged");
    assert_eq!(error.kind(), ErrorKind::Corrupt);
    assert!(error.to_string().contains("target/"), "{error}");
    assert!(error.to_string().contains("packs/"), "{error}");
    assert!(!fixture.path("target/global/pg_control").exists());
}
