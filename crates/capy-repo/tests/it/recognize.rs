//! Cells that whoever reads them knows or has named: what is stored is what plain bytes would have
//! become, and only sound chunks are known.

use std::sync::{Arc, Mutex};

use capy_codec::SlotSecret;
use capy_format::{ArchiveHeader, ArchiveKind, names};
use capy_repo::{
    Env, Ingest, IngestOptions, InitOptions, Inspector, Recognizer, RepoError, Repository, Strategy,
};
use capy_types::{Ctx, ErrorKind};
use futures::TryStreamExt as _;

use crate::fixture::{
    Files, backup, begin, bytes, cluster, commit, init, key, memory_store, meta, options, read, secret,
};

/// Feeds `files` as a reader of files does: cells of relations by name, those that are known without
/// their bytes. Answers how many cells were known, and how many were not.
async fn feed_cells(ingest: &mut Ingest, files: &Files) -> Result<(u64, u64), RepoError> {
    let recognizer = ingest.recognizer().expect("a repository with a grid");
    let (mut known, mut new) = (0, 0);
    ingest.begin_archive(ArchiveHeader { kind: ArchiveKind::Base })?;
    ingest.directory(meta("base"))?;
    for (path, content) in files {
        if !path.starts_with("base/") {
            ingest.begin_file(meta(path), Strategy::Cdc, None).await?;
            ingest.write(content).await?;
            ingest.end_file().await?;
            continue;
        }
        ingest.begin_file(meta(path), Strategy::Grid, None).await?;
        let mut run: Vec<&[u8]> = Vec::new();
        for cell in content.chunks(recognizer.cell_bytes()) {
            if recognizer.is_known(&recognizer.name(cell)) {
                known += 1;
                run.push(cell);
                continue;
            }
            new += 1;
            write_known(ingest, &recognizer, &mut run).await?;
            ingest.write_named(&[(recognizer.name(cell), cell.len())], cell, true).await?;
        }
        write_known(ingest, &recognizer, &mut run).await?;
        ingest.end_file().await?;
    }
    ingest.end_archive(1024)?;
    Ok((known, new))
}

/// Hands on the names of a run of cells, which is empty afterwards.
async fn write_known(
    ingest: &mut Ingest,
    recognizer: &Recognizer,
    run: &mut Vec<&[u8]>,
) -> Result<(), RepoError> {
    let cells: Vec<_> = run.iter().map(|cell| (recognizer.name(cell), cell.len())).collect();
    let crc32c = run.drain(..).fold(0, crc32c::crc32c_append);
    if cells.is_empty() { Ok(()) } else { ingest.write_known(&cells, crc32c).await }
}

async fn manifest_of(repo: &Repository, id: &str) -> capy_format::Content {
    let entry = repo.resolve(&key(id).into()).await.unwrap();
    repo.record(&entry).await.unwrap().manifest
}

#[tokio::test(flavor = "multi_thread")]
async fn a_backup_of_cells_is_the_one_that_plain_bytes_give() {
    let store = memory_store().await;
    let repo = init(&store).await;
    let mut files = cluster(7);
    // A level of nodes, a last cell that is short, and one of a single byte.
    files.insert("base/5/deep".to_owned(), bytes(70, (40 << 20) + 5 * 8192));
    files.insert("base/5/odd".to_owned(), bytes(71, (1 << 20) + 1));
    for (before, after, change) in [("a", "b", false), ("c", "d", false), ("e", "f", true)] {
        if change {
            for (path, at) in [("base/5/deep", 20 << 20), ("base/5/odd", 1 << 20), ("base/5/99999", 0)] {
                files.get_mut(path).unwrap()[at] ^= 1;
            }
        }
        let mut ingest = begin(&repo, before).await.unwrap();
        let (known, new) = feed_cells(&mut ingest, &files).await.unwrap();
        match (before, change) {
            ("a", _) => assert!(known == 0 && new > 150, "the first time nothing is known: {known}"),
            (_, true) => assert_eq!(new, 3, "what changed"),
            _ => assert!(new == 0 && known > 150, "everything is known: {new} are not"),
        }
        let cells = commit(&repo, before, ingest).await.unwrap();
        assert!(before != "c" || cells.stored_bytes == 0, "{} bytes for nothing", cells.stored_bytes);
        let plain = backup(&repo, after, &files).await.unwrap();
        assert_eq!(plain.stored_bytes, 0, "the same chunks, nodes and entries");
        assert_eq!(cells.size_bytes, plain.size_bytes);
        assert_eq!(manifest_of(&repo, before).await, manifest_of(&repo, after).await);
        let back = read(&repo, before).await.unwrap();
        assert!(back.files == files && back.defects.is_empty());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_chunk_of_a_damaged_pack_is_not_known_and_is_stored_anew() {
    let store = memory_store().await;
    let repo = init(&store).await;
    let files = cluster(8);
    backup(&repo, "one", &files).await.unwrap();
    let listed: Vec<_> = store.list(names::PACKS_PREFIX).try_collect().await.unwrap();
    let packs: Vec<_> = listed.iter().filter_map(|info| names::parse_pack(&info.name)).collect();
    repo.mark_damaged(&packs).await.unwrap();
    let mut ingest = begin(&repo, "two").await.unwrap();
    let (known, new) = feed_cells(&mut ingest, &files).await.unwrap();
    assert!(known == 0 && new > 40, "{known} cells rest on damaged packs");
    let second = commit(&repo, "two", ingest).await.unwrap();
    assert!(second.stored_bytes > 4 << 20, "stored anew: {}", second.stored_bytes);
    assert!(read(&repo, "two").await.unwrap().files == files);
}

#[tokio::test(flavor = "multi_thread")]
async fn cells_where_none_can_be_are_refused() {
    let store = memory_store().await;
    let repo = init(&store).await;
    let mut ingest = begin(&repo, "one").await.unwrap();
    let recognizer = ingest.recognizer().unwrap();
    let (cell, short) = (vec![1; recognizer.cell_bytes()], vec![2; 100]);
    let named = |bytes: &[u8]| [(recognizer.name(bytes), bytes.len())];
    let refused = |outcome: Result<(), RepoError>| {
        assert_eq!(outcome.expect_err("refused").kind(), ErrorKind::Invalid);
    };
    ingest.begin_archive(ArchiveHeader { kind: ArchiveKind::Base }).unwrap();
    refused(ingest.write_known(&named(&cell), 0).await);
    ingest.begin_file(meta("text"), Strategy::Cdc, None).await.unwrap();
    refused(ingest.write_known(&named(&cell), 0).await);
    ingest.end_file().await.unwrap();
    ingest.begin_file(meta("base/5/1"), Strategy::Grid, None).await.unwrap();
    refused(ingest.write_named(&named(&short), &cell, true).await);
    ingest.end_file().await.unwrap();
    ingest.begin_file(meta("base/5/2"), Strategy::Grid, None).await.unwrap();
    ingest.write(&short).await.unwrap();
    refused(ingest.write_known(&named(&cell), 0).await);
    ingest.end_file().await.unwrap();
    ingest.begin_file(meta("base/5/3"), Strategy::Grid, None).await.unwrap();
    ingest.write_known(&named(&short), 0).await.unwrap();
    refused(ingest.write_known(&named(&short), 0).await);
    refused(ingest.write(&short).await);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_repository_without_a_grid_knows_no_cells() {
    let store = memory_store().await;
    let mut options: InitOptions = options();
    options.chunking.force_cdc = true;
    let secret = secret();
    let slot = SlotSecret::Passphrase(&secret);
    let repo = Repository::init(store, Env::default(), options, slot).await.unwrap();
    assert!(begin(&repo, "one").await.unwrap().recognizer().is_none());
}

/// Every piece that was shown: tag, offset, and its bytes.
#[derive(Default)]
struct Seen(Mutex<Vec<(u64, u64, Vec<u8>)>>);

impl Inspector for Seen {
    fn inspect(&self, tag: u64, offset: u64, chunk: &[u8]) {
        self.0.lock().unwrap().push((tag, offset, chunk.to_vec()));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn every_byte_is_shown_to_the_inspector_once_whether_it_is_known_or_not() {
    let store = memory_store().await;
    let repo = init(&store).await;
    let mut content = bytes(9, (3 << 20) + 8192 + 5);
    // More workers than leave the feeder anything to look for, and few; all new, some new, all known.
    for (round, (jobs, change)) in [(8, 0), (2, 0), (2, 1 << 20), (1, 0), (8, 0)].into_iter().enumerate() {
        content[change] ^= u8::from(change > 0);
        let (seen, id) = (Arc::new(Seen::default()), format!("b{round}"));
        let inspector = Some(Arc::clone(&seen) as Arc<dyn Inspector>);
        let options = IngestOptions { jobs, inspector, ..IngestOptions::new(key(&id)) };
        let mut ingest = repo.begin(&Ctx::default(), options).await.unwrap();
        ingest.begin_archive(ArchiveHeader { kind: ArchiveKind::Base }).unwrap();
        for (tag, piece) in [(1, 32_768), (2, 131_072), (3, 1_000_003), (4, 999)] {
            ingest.begin_file(meta(&format!("base/5/{tag}")), Strategy::Grid, Some(tag)).await.unwrap();
            for (number, part) in content.chunks(piece).enumerate() {
                match tag == 4 && number % 1000 != 0 {
                    true => ingest.write_inspected(part).await.unwrap(),
                    false => ingest.write(part).await.unwrap(),
                }
            }
            ingest.end_file().await.unwrap();
        }
        ingest.end_archive(0).unwrap();
        commit(&repo, &id, ingest).await.unwrap();
        let mut seen = std::mem::take(&mut *seen.0.lock().unwrap());
        seen.sort();
        for tag in 1..=3 {
            let of_tag = seen.iter().filter(|(of, ..)| *of == tag);
            let whole = of_tag.fold(Vec::new(), |mut whole, (_, offset, chunk)| {
                assert_eq!(whole.len() as u64, *offset, "round {round}: one after the other");
                whole.extend_from_slice(chunk);
                whole
            });
            assert!(whole == content, "round {round}, file {tag}");
        }
        let offsets: Vec<u64> = seen.iter().filter(|(tag, ..)| *tag == 4).map(|(_, at, _)| *at).collect();
        let expected: Vec<u64> = (0..4).map(|n| n * 999_000 / 262_144 * 262_144).collect();
        assert_eq!(offsets, expected, "round {round}: cells with bytes that nobody has looked at");
        let files = read(&repo, &id).await.unwrap().files;
        assert!(files.values().all(|file| *file == content), "round {round}");
    }
}
