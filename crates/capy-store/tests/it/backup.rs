//! What is taken, what is marked as damaged, and what is refused.

use capy_store::{BackupOptions, BackupSource, BackupState, Ctx, ErrorKind};

use crate::base_tar::{BaseTar, Item, PAGES, RELATION, START, STOP, set_page_header};
use crate::fixture::Fixture;

#[tokio::test]
async fn a_whole_backup_is_complete_and_knows_its_cluster() {
    let fixture = Fixture::new().await;
    let report = fixture.back_up(BaseTar::new(1).bytes()).await;
    assert!(report.is_complete(), "{:?}", report.problems);
    let wal = report.wal_needed.expect("no WAL is inside");
    assert_eq!(wal.first_segment, "000000010000000000000002");
    assert_eq!((wal.start_lsn.as_u64(), wal.stop_lsn.map(|l| l.as_u64())), (START, Some(STOP)));

    let details = fixture.repository.get_backup(&fixture.ctx, &crate::fixture::latest()).await.unwrap();
    let postgres = details.postgres.expect("a base backup");
    assert_eq!((postgres.version_num, postgres.version.as_str()), (150_000, "15"));
    assert_eq!(postgres.data_checksums, Some(true));
    let manifest = postgres.backup_manifest.expect("compared");
    assert_eq!((manifest.files, manifest.checked, manifest.mismatches), (7, 7, 0));
}

#[tokio::test]
async fn the_second_backup_of_the_same_stores_next_to_nothing() {
    let fixture = Fixture::new().await;
    let first = fixture.back_up(BaseTar::new(1).bytes()).await;
    assert!(first.stats.new_bytes > 0);
    let second = fixture.back_up(BaseTar::new(1).bytes()).await;
    assert_eq!(second.stats.new_bytes, 0);
    assert_eq!(second.stats.deduplicated_bytes, second.stats.size_bytes);
    assert!(second.stats.stored_bytes < 10_000, "{}", second.stats.stored_bytes);
}

/// A backup whose content differs from what its manifest says is kept, damaged, with these words.
async fn is_damaged(written: &BaseTar, listed: &BaseTar, words: &str) {
    let fixture = Fixture::new().await;
    let report = fixture.back_up(written.bytes_with_manifest_of(listed)).await;
    assert_eq!(report.backup.state, BackupState::Damaged);
    assert_eq!(report.problems_total, report.problems.len() as u64);
    assert!(report.problems.iter().any(|p| p.contains(words)), "{words:?} not in {:?}", report.problems);
    let listed = fixture.repository.list_backups(&fixture.ctx, None).await.unwrap();
    assert_eq!(listed.first().map(|b| b.state), Some(BackupState::Damaged), "it is kept");
}

#[tokio::test]
async fn every_way_to_disagree_with_the_manifest_marks_the_backup() {
    let sound = BaseTar::new(1);
    let mut changed = BaseTar::new(1);
    changed.set("postgresql.conf", &b"port = 5433\n".repeat(1000));
    is_damaged(&changed, &sound, "postgresql.conf CRC32C is").await;
    let mut shorter = BaseTar::new(1);
    shorter.set("postgresql.conf", b"");
    is_damaged(&shorter, &sound, "postgresql.conf has 0 bytes, the manifest says 12000").await;
    let mut missing = BaseTar::new(1);
    missing.remove("postgresql.conf");
    is_damaged(&missing, &sound, "postgresql.conf is listed, but not in the backup").await;
    let mut extra = BaseTar::new(1);
    extra.set("base/5/99999", b"x");
    is_damaged(&extra, &sound, "base/5/99999 is in the backup, but not listed").await;
}

#[tokio::test]
async fn latest_passes_over_a_damaged_backup() {
    let fixture = Fixture::new().await;
    let sound = BaseTar::new(1);
    let first = fixture.back_up(sound.bytes()).await.backup;
    let mut changed = BaseTar::new(1);
    changed.set("postgresql.conf", b"port = 1\n");
    let damaged = fixture.back_up(changed.bytes_with_manifest_of(&sound)).await.backup;
    assert_eq!(damaged.state, BackupState::Damaged);
    let latest = fixture.repository.get_backup(&fixture.ctx, &crate::fixture::latest()).await.unwrap();
    assert_eq!(latest.info.backup_key, first.backup_key);
    let by_key = fixture.repository.get_backup(&fixture.ctx, &damaged.backup_key.clone().into()).await;
    assert_eq!(by_key.unwrap().info.backup_key, damaged.backup_key);
}

#[tokio::test]
async fn files_that_tools_write_later_are_no_disagreement() {
    let fixture = Fixture::new().await;
    let mut backup = BaseTar::new(1);
    backup.set("postgresql.auto.conf", b"primary_conninfo = ''\n");
    backup.set("standby.signal", b"");
    backup.set("pg_wal/000000010000000000000002", &[0; 1000]);
    let report = fixture.back_up(backup.bytes_with_manifest_of(&BaseTar::new(1))).await;
    assert!(report.is_complete(), "{:?}", report.problems);
    assert!(report.wal_needed.is_none(), "the one segment needed is inside");
}

#[tokio::test]
async fn a_manifest_that_was_changed_itself_marks_the_backup() {
    let fixture = Fixture::new().await;
    let mut bytes = BaseTar::new(1).bytes();
    let at = bytes.windows(12).rposition(|w| w == b"\"Checksum\": ").expect("a manifest");
    bytes[at + 13] ^= 1;
    let report = fixture.back_up(bytes).await;
    assert_eq!(report.backup.state, BackupState::Damaged);
}

#[tokio::test]
async fn files_in_another_order_than_the_manifest_agree_with_it() {
    let fixture = Fixture::new().await;
    let mut shuffled = BaseTar::new(1);
    shuffled.items.reverse();
    let report = fixture.back_up(shuffled.bytes_with_manifest_of(&BaseTar::new(1))).await;
    assert!(report.is_complete(), "{:?}", report.problems);
}

/// The relation with byte 5000 of one page flipped, the page given this position before.
fn with_bad_page(block: usize, position: u64) -> BaseTar {
    let mut backup = BaseTar::new(1);
    let mut file = backup.content(RELATION);
    let page: &mut [u8; 8192] = (&mut file[block * 8192..(block + 1) * 8192]).try_into().unwrap();
    set_page_header(page, u32::try_from(block).unwrap(), position);
    page[5000] ^= 1;
    backup.set(RELATION, &file);
    backup
}

#[tokio::test]
async fn a_bad_page_marks_the_backup_and_names_file_and_block() {
    for content_defined in [false, true] {
        let fixture = Fixture::with(|options| options.content_defined = content_defined).await;
        for block in [0, 17, PAGES - 1] {
            let report = fixture.back_up(with_bad_page(block, START - 8).bytes()).await;
            assert_eq!(report.problems_total, 1, "{:?}", report.problems);
            let words = format!("{RELATION}: block {block} ");
            assert!(report.problems[0].contains(&words), "{words:?} not in {:?}", report.problems);
        }
    }
}

#[tokio::test]
async fn a_page_that_recovery_rewrites_is_excused_and_one_from_the_future_is_not() {
    let fixture = Fixture::new().await;
    assert!(fixture.back_up(with_bad_page(3, START + 8).bytes()).await.is_complete());
    let report = fixture.back_up(with_bad_page(3, STOP + 8).bytes()).await;
    assert_eq!(report.problems_total, 1, "{:?}", report.problems);
}

#[tokio::test]
async fn pages_of_a_cluster_without_checksums_and_new_pages_are_let_pass() {
    let fixture = Fixture::new().await;
    let mut without = with_bad_page(3, START - 8);
    without.checksums = false;
    let report = fixture.back_up(without.bytes()).await;
    assert!(report.is_complete(), "{:?}", report.problems);
    assert!(report.notices.iter().any(|n| n.contains("no page checksums")), "{:?}", report.notices);
    let mut grown = BaseTar::new(1);
    let mut file = grown.content(RELATION);
    file.extend_from_slice(&[0; 3 * 8192]);
    grown.set(RELATION, &file);
    assert!(fixture.back_up(grown.bytes()).await.is_complete());
}

#[tokio::test]
async fn second_segments_and_status_files_raise_no_alarm() {
    let fixture = Fixture::new().await;
    let mut backup = BaseTar::new(1);
    let mut page = [7; 8192];
    set_page_header(&mut page, 131_072, START - 8);
    backup.set("base/5/16384.1", &page);
    // All digits, but no pages.
    backup.set("pg_xact/0000", &[0x55; 8192]);
    let report = fixture.back_up(backup.bytes()).await;
    assert!(report.is_complete(), "{:?}", report.problems);
}

#[tokio::test]
async fn a_backup_without_what_it_must_have_is_refused() {
    let fixture = Fixture::new().await;
    for name in ["backup_label", "PG_VERSION"] {
        let mut backup = BaseTar::new(1);
        backup.remove(name);
        let error = fixture.refuses(backup.bytes()).await;
        assert_eq!(error.kind(), ErrorKind::Invalid);
        assert!(error.to_string().contains(name), "{error}");
    }
}

#[tokio::test]
async fn a_tar_cut_off_anywhere_commits_nothing() {
    let fixture = Fixture::new().await;
    let whole = BaseTar::new(1).bytes();
    for cut in [1, 511, 512, 600, 100_000, whole.len() - 3000] {
        let error = fixture.refuses(whole[..cut].to_vec()).await;
        assert!(matches!(error.kind(), ErrorKind::Corrupt | ErrorKind::Invalid), "{cut}: {error:?}");
    }
}

#[tokio::test]
async fn what_no_server_sends_is_refused() {
    let fixture = Fixture::new().await;
    let mut twice = BaseTar::new(1);
    twice.items.push(Item::File("PG_VERSION".to_owned(), b"15\n".to_vec()));
    assert!(fixture.refuses(twice.bytes()).await.to_string().contains("PG_VERSION twice"));
    let mut outside = BaseTar::new(1);
    outside.set("../../etc/cron.d/x", b"boo");
    assert!(fixture.refuses(outside.bytes()).await.to_string().contains("climbs out"));
    let mut incremental = BaseTar::new(1);
    let label = incremental.content("backup_label");
    let label = [label.as_slice(), b"INCREMENTAL FROM LSN: 0/1000028\nINCREMENTAL FROM TLI: 1\n"].concat();
    incremental.set("backup_label", &label);
    assert!(fixture.refuses(incremental.bytes()).await.to_string().contains("incremental backup"));
    let mut tablespace = BaseTar::new(1);
    tablespace.set("tablespace_map", b"16385 /mnt/fast\n");
    assert!(fixture.refuses(tablespace.bytes()).await.to_string().contains("tablespace 16385 at /mnt/fast"));
}

#[tokio::test]
async fn a_cancelled_backup_commits_nothing_and_the_next_one_works() {
    let fixture = Fixture::new().await;
    let cancelled = Ctx::default();
    cancelled.cancel.cancel();
    let source = BackupSource::stream("a", &b"data"[..]);
    let options = BackupOptions::new("main".parse().unwrap());
    let error = fixture.repository.backup(&cancelled, source, options).await.expect_err("cancelled");
    assert_eq!(error.kind(), ErrorKind::Cancelled);
    fixture.back_up(BaseTar::new(1).bytes()).await;
}
