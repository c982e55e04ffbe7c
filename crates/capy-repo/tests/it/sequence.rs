//! A backup read as one stream, in its order: what comes out, what it costs, and what damage does to it.

use std::sync::Arc;

use capy_format::{Entry, names};
use capy_objects::Store;
use capy_objects::testing::{Counts, RecordingStore};
use capy_repo::{Piece, ReadOptions, RepoError, Repository};
use capy_types::{Ctx, ErrorKind};

use crate::damage::{Damage, damage, objects};
use crate::delta::{self, DEEP, day};
use crate::fixture::{Files, backup, bytes, cluster, init, key, memory_store, open};

/// What a stream held: the files that ended, in its order, and why it broke off, if so.
struct Streamed {
    files: Vec<(String, Vec<u8>)>,
    fault: Option<RepoError>,
}

async fn stream(repo: &Repository, id: &str) -> Streamed {
    let record = repo.record(&repo.resolve(&key(id).into()).await.unwrap()).await.unwrap();
    let reader = repo.reader(&Ctx::default(), ReadOptions::default()).await.unwrap();
    let mut pieces = reader.sequence(&record.manifest);
    let mut streamed = Streamed { files: Vec::new(), fault: None };
    let mut open: Option<(String, Vec<u8>)> = None;
    loop {
        match pieces.next().await {
            Ok(Some(Piece::Entry(Entry::File(file)))) => {
                assert!(open.is_none(), "a file begins where the last has ended");
                open = Some((String::from_utf8(file.meta.path).unwrap(), Vec::new()));
            }
            Ok(Some(Piece::Entry(_))) => assert!(open.is_none()),
            Ok(Some(Piece::Bytes(bytes))) => open.as_mut().unwrap().1.extend_from_slice(&bytes),
            Ok(Some(Piece::EndFile)) => streamed.files.push(open.take().unwrap()),
            Ok(None) => {
                assert!(open.is_none());
                return streamed;
            }
            Err(error) => {
                streamed.fault = Some(error);
                return streamed;
            }
        }
    }
}

fn in_order(files: &Files) -> Vec<(String, Vec<u8>)> {
    files.iter().map(|(path, content)| (path.clone(), content.clone())).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn everything_comes_out_in_its_order_whole_chunks_and_differences() {
    let store = memory_store().await;
    let repo = init(&store).await;
    backup(&repo, "whole", &cluster(3)).await.unwrap();
    for n in 0..3 {
        delta::backup(&repo, &n.to_string(), &day(n), DEEP).await.unwrap();
    }
    for (id, files) in [("whole", cluster(3)), ("0", day(0)), ("2", day(2))] {
        let streamed = stream(&repo, id).await;
        assert!(streamed.fault.is_none(), "{id}: {:?}", streamed.fault);
        assert!(streamed.files == in_order(&files), "{id}");
    }
}

/// What reading `files` as one stream asks the store for.
async fn asked(files: &Files) -> Counts {
    let recording = Arc::new(RecordingStore::new(memory_store().await));
    let store: Arc<dyn Store> = recording.clone();
    backup(&init(&store).await, "one", files).await.unwrap();
    let repo = open(&store).await.unwrap();
    recording.reset();
    assert!(stream(&repo, "one").await.files == in_order(files));
    recording.counts()
}

#[tokio::test(flavor = "multi_thread")]
async fn many_small_files_cost_as_few_requests_as_one_large_one() {
    const BYTES: usize = 32 << 20;
    let one = asked(&Files::from([("base/5/1".to_owned(), bytes(1, BYTES))])).await;
    let small = (0..2000_usize).map(|n| (format!("base/5/{n:04}"), bytes(n as u64, BYTES / 2000)));
    let many = asked(&small.collect()).await;
    println!("{one:?}\n{many:?}");
    assert!(one.get_range <= 16, "16 MiB as stored, in turns in two packs: {one:?}");
    assert!(many.get_range <= one.get_range * 2, "{many:?}, {one:?} for one file");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_damaged_chunk_ends_the_stream_where_it_is() {
    let store = memory_store().await;
    let files = Files::from_iter((0..6).map(|n| (format!("base/5/{n}"), bytes(n, 20 << 20))));
    backup(&init(&store).await, "one", &files).await.unwrap();
    let packs = objects(&store, names::PACKS_PREFIX).await;
    let mut cut_short = 0;
    for pack in &packs {
        let sound = store.get(pack, 1 << 30).await.unwrap();
        damage(&store, pack, pack, Damage::FlipMiddle).await;
        let streamed = stream(&open(&store).await.unwrap(), "one").await;
        let whole = in_order(&files);
        assert!(streamed.files.len() < whole.len() && whole.starts_with(&streamed.files), "{pack}");
        assert_eq!(streamed.fault.map(|fault| fault.kind()), Some(ErrorKind::Corrupt), "{pack}");
        cut_short += usize::from(!streamed.files.is_empty());
        store.delete(pack).await.unwrap();
        store.put_new(pack, sound).await.unwrap();
    }
    assert!(
        packs.len() > 2 && cut_short > 0,
        "what came before the damage came out: {cut_short} of {}",
        packs.len()
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stream_that_is_dropped_stops_asking() {
    let recording = Arc::new(RecordingStore::new(memory_store().await));
    let store: Arc<dyn Store> = recording.clone();
    let files = Files::from([("base/5/1".to_owned(), bytes(1, 200 << 20))]);
    backup(&init(&store).await, "one", &files).await.unwrap();
    let repo = open(&store).await.unwrap();
    let record = repo.record(&repo.resolve(&key("one").into()).await.unwrap()).await.unwrap();
    let reader = repo.reader(&Ctx::default(), ReadOptions::default()).await.unwrap();
    recording.reset();
    let mut pieces = reader.sequence(&record.manifest);
    while !matches!(pieces.next().await.unwrap(), Some(Piece::Bytes(_))) {}
    tokio::time::sleep(std::time::Duration::from_millis(300)).await;
    let ahead = recording.counts().read_bytes;
    assert!(ahead < 64 << 20, "no more than is to be ahead, half as long as stored: {ahead}");
    drop(pieces);
    tokio::time::sleep(std::time::Duration::from_millis(300)).await;
    assert!(recording.counts().read_bytes < 80 << 20, "{:?}", recording.counts());
}
