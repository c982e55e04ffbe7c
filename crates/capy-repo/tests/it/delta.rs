//! Deltas: what is stored against the previous backup, what comes back of it, what is said when a
//! base is lost, and that nothing is built on what may go.

use std::collections::HashSet;
use std::sync::Arc;

use capy_format::{BackupKind, FrameKind, ObjectKind, VERSION_DELTA, names};
use capy_objects::Store;
use capy_objects::testing::{Fault, FaultStore, RecordingStore};
use capy_repo::{
    DeltaPolicy, IngestOptions, PackInspection, ReadOptions, RepoError, Repository, verify_structure,
};
use capy_types::{Ctx, ErrorKind, PackId, Problem, Progress};
use futures::TryStreamExt as _;

use crate::damage;
use crate::fixture::{Files, bytes, cluster, commit, feed, init, key, memory_store, open, read};

/// A policy under which the chains of a few days are seen.
pub(crate) const DEEP: DeltaPolicy = DeltaPolicy { depth_max: 3, share_percent: 50 };

/// The cluster after `day` days: a few pages of each relation change each day, one relation grows,
/// one is cut, and a text gets a line in its middle.
pub(crate) fn day(day: u64) -> Files {
    let mut files = cluster(1);
    // The sweeps below read it hundreds of times.
    files.retain(|path, _| !path.starts_with("base/5/164") && path != "base/5/99999");
    files.get_mut("pg_wal/000000010000000000000001").unwrap().truncate(300_000);
    for n in 1..=day {
        for (path, content) in files.iter_mut().filter(|(path, _)| path.starts_with("base/")) {
            for page in content.chunks_exact_mut(8192).skip(n as usize % 5).step_by(7) {
                page[100..140].copy_from_slice(&bytes(n * 77 + path.len() as u64, 40));
            }
        }
        let grown = files.get_mut("base/5/16390").unwrap();
        grown.extend(bytes(n, 8192 * 9));
        let cut = files.get_mut("base/5/16391").unwrap();
        cut.truncate(cut.len() - 8192);
        let text = files.get_mut("pg_wal/000000010000000000000001").unwrap();
        let middle = text.len() / 2;
        text.splice(middle..middle, format!("line {n}\n").into_bytes());
    }
    files
}

pub(crate) async fn backup(
    repo: &Repository,
    id: &str,
    files: &Files,
    delta: DeltaPolicy,
) -> Result<(), RepoError> {
    backup_with(repo, &Ctx::default(), id, files, delta).await
}

async fn backup_with(
    repo: &Repository,
    ctx: &Ctx,
    id: &str,
    files: &Files,
    delta: DeltaPolicy,
) -> Result<(), RepoError> {
    let parent = Some(BackupKind::Base);
    let options = IngestOptions { jobs: 2, parent, delta, ..IngestOptions::new(key(id)) };
    let mut ingest = repo.begin(ctx, options).await?;
    feed(&mut ingest, files, 100_000).await?;
    commit(repo, id, ingest).await.map(|_| ())
}

pub(crate) async fn packs(store: &Arc<dyn Store>) -> Vec<PackId> {
    let listed: Vec<_> = store.list(names::PACKS_PREFIX).try_collect().await.unwrap();
    listed.iter().filter_map(|info| names::parse_pack(&info.name)).collect()
}

async fn inspect(repo: &Repository) -> Vec<(PackId, PackInspection)> {
    let mut found = Vec::new();
    for pack in packs(repo.store()).await {
        found.push((pack, repo.inspect_pack(&pack, None).await.unwrap()));
    }
    found
}

/// Full frames and deltas in the whole repository, and the bytes of each.
async fn frames(repo: &Repository) -> [(u64, u64); 2] {
    let mut sums = [(0, 0); 2];
    for frame in inspect(repo).await.iter().flat_map(|(_, pack)| &pack.frames) {
        assert_eq!(frame.problem, None);
        let sum = &mut sums[frame.frame.kind as usize];
        *sum = (sum.0 + 1, sum.1 + u64::from(frame.frame.stored_len));
    }
    sums
}

pub(crate) async fn check_whole(repo: &Repository, id: &str, files: &Files) {
    let back = read(repo, id).await.unwrap();
    assert!(back.defects.is_empty(), "{id}: {:?}", back.defects);
    assert!(back.files == *files, "{id} reads back otherwise");
}

#[tokio::test(flavor = "multi_thread")]
async fn changed_pages_take_little_room_and_every_day_reads_back() {
    let repo = init(&memory_store().await).await;
    backup(&repo, "0", &day(0), DEEP).await.unwrap();
    let [full, delta] = frames(&repo).await;
    assert_eq!(delta, (0, 0), "a first backup has no parent");
    for n in 1..=5 {
        backup(&repo, &n.to_string(), &day(n), DEEP).await.unwrap();
    }
    let [full_after, delta] = frames(&repo).await;
    assert!(delta.0 > 70, "{delta:?}");
    // Manifests and what grew are full.
    assert!(full_after.1 - full.1 < full.1 / 3, "{full:?} {full_after:?}");
    // What the last cell of a file grew by is in its delta.
    assert!(delta.1 < full.1 / 6, "five days of deltas: {delta:?}, {full:?}");
    for n in 0..=5 {
        check_whole(&repo, &n.to_string(), &day(n)).await;
    }
    let backups = repo.root().await.unwrap().backups;
    let report = verify_structure(&repo, &Ctx::default(), &ReadOptions::default(), &backups).await.unwrap();
    assert!(report.defects.is_empty(), "{:?}", report.defects);
}

#[tokio::test(flavor = "multi_thread")]
async fn no_chain_is_longer_than_the_policy_allows() {
    for depth_max in [0, 1, 2] {
        let policy = DeltaPolicy { depth_max, ..DEEP };
        let repo = init(&memory_store().await).await;
        for n in 0..=5 {
            backup(&repo, &n.to_string(), &day(n), policy).await.unwrap();
        }
        let frames: Vec<_> =
            inspect(&repo).await.into_iter().flat_map(|(_, pack)| pack.frames).map(|f| f.frame).collect();
        let depth = |mut frame: capy_format::FrameInfo| {
            let mut depth = 0;
            while let Some(base) = frame.base {
                frame = *frames.iter().find(|other| other.chunk == base).expect("every base is stored");
                depth += 1;
            }
            depth
        };
        let deepest = frames.iter().map(|frame| depth(*frame)).max().unwrap();
        assert_eq!(deepest, depth_max, "the bound is reached and kept");
        check_whole(&repo, "5", &day(5)).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_not_alike_is_stored_whole() {
    let repo = init(&memory_store().await).await;
    backup(&repo, "0", &cluster(1), DEEP).await.unwrap();
    backup(&repo, "1", &cluster(2), DEEP).await.unwrap();
    let [_, delta] = frames(&repo).await;
    assert_eq!(delta.0, 0, "other random bytes at the same places");
    check_whole(&repo, "1", &cluster(2)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_reader_of_version_1_refuses_at_the_root_once_there_are_deltas() {
    let store = memory_store().await;
    let repo = init(&store).await;
    let version = async || {
        let root = repo.root().await.unwrap();
        let object = store.get(&names::root(root.generation), 1 << 20).await.unwrap();
        capy_format::Header::decode("root", &object).unwrap().version
    };
    backup(&repo, "0", &day(0), DEEP).await.unwrap();
    assert_eq!(version().await, 1, "nothing in it that version 1 does not know");
    backup(&repo, "1", &day(1), DEEP).await.unwrap();
    assert_eq!(version().await, VERSION_DELTA);
    backup(&repo, "2", &day(1), DeltaPolicy::NONE).await.unwrap();
    assert_eq!(version().await, VERSION_DELTA, "it never goes back");
    for (pack, inspection) in inspect(&repo).await {
        let object = store.get(&names::pack(&pack), 64 << 20).await.unwrap();
        let header = capy_format::Header::decode("pack", &object).unwrap();
        let deltas = inspection.frames.iter().any(|frame| frame.frame.kind == FrameKind::Delta);
        assert_eq!((header.kind, header.version), (ObjectKind::Pack, 1 + u16::from(deltas)));
    }
}

/// Notes the problems that are told.
#[derive(Debug, Default)]
struct Problems(std::sync::Mutex<Vec<String>>);

impl Progress for Problems {
    fn problem(&self, problem: Problem) {
        self.0.lock().unwrap().push(format!("{}: {}", problem.subject, problem.message));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_parent_or_base_that_cannot_be_read_costs_room_and_never_the_backup() {
    // Of the first backup each pack in turn is damaged: those of its manifest make it no parent, the
    // others no bases.
    let probe = memory_store().await;
    let repo = init(&probe).await;
    backup(&repo, "0", &day(0), DEEP).await.unwrap();
    for n in 0..packs(&probe).await.len() {
        for lose in [true, false] {
            let store = memory_store().await;
            let repo = init(&store).await;
            backup(&repo, "0", &day(0), DEEP).await.unwrap();
            let name = names::pack(&packs(&store).await[n]);
            let mut object = store.get(&name, 64 << 20).await.unwrap().to_vec();
            store.delete(&name).await.unwrap();
            if !lose {
                // Every frame, so that none is a base by chance.
                object[64..].iter_mut().for_each(|byte| *byte ^= 1);
                store.put_new(&name, object.into()).await.unwrap();
            }
            let problems = Arc::new(Problems::default());
            let ctx = Ctx { progress: problems.clone(), ..Ctx::default() };
            backup_with(&repo, &ctx, "1", &day(1), DEEP).await.unwrap();
            let told = problems.0.lock().unwrap().clone();
            assert!(!told.is_empty(), "{name}: nothing is said");
            let back = read(&repo, "1").await.unwrap();
            let expected = day(1);
            back.files.iter().for_each(|(path, content)| assert!(expected[path] == *content, "{path}"));
            if lose {
                assert!(back.defects.is_empty(), "what is known to be lost is stored anew");
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lost_base_is_a_defect_of_every_file_that_rests_on_it_and_heals() {
    let store = memory_store().await;
    let repo = init(&store).await;
    backup(&repo, "0", &day(0), DEEP).await.unwrap();
    let first = packs(&store).await;
    backup(&repo, "1", &day(1), DEEP).await.unwrap();
    backup(&repo, "2", &day(2), DEEP).await.unwrap();
    // The largest, if there are several; it may hold the first day's manifest too.
    let mut sizes = Vec::new();
    for pack in first {
        sizes.push((store.head(&names::pack(&pack)).await.unwrap().size, pack));
    }
    let (_, lost) = sizes.into_iter().max().unwrap();
    store.delete(&names::pack(&lost)).await.unwrap();
    let repo = open(&store).await.unwrap();
    let backups = repo.root().await.unwrap().backups;
    let report = verify_structure(&repo, &Ctx::default(), &ReadOptions::default(), &backups).await.unwrap();
    let defect = report.defects.iter().find(|d| d.defect.pack == Some(lost)).expect("told");
    assert!(!defect.backups.is_empty(), "with the days that rest on it");
    let named: HashSet<_> = report.defects.iter().flat_map(|defect| &defect.backups).collect();
    assert_eq!(named.len(), 3, "the days that rest on it are named: {:?}", report.defects);
    let back = read(&repo, "2").await.unwrap();
    assert!(!back.defects.is_empty());
    for (path, defect) in &back.defects {
        assert_eq!(defect.pack, Some(lost), "{path}: the pack to blame is the base's");
    }
    let expected = day(2);
    back.files.iter().for_each(|(path, content)| assert!(expected[path] == *content, "{path}"));
    assert_eq!(report.damaged_packs, [lost]);
    // Known to be damaged, it is built on no more, neither itself nor what rests on it.
    repo.mark_damaged(&report.damaged_packs).await.unwrap();
    backup(&repo, "3", &day(2), DEEP).await.unwrap();
    for id in ["2", "3"] {
        check_whole(&repo, id, &day(2)).await;
    }
}

/// A store with two days, the second on the first.
async fn two_days() -> (Arc<dyn Store>, Repository) {
    let store = memory_store().await;
    let repo = init(&store).await;
    backup(&repo, "0", &day(0), DEEP).await.unwrap();
    backup(&repo, "1", &day(1), DEEP).await.unwrap();
    (store, repo)
}

#[tokio::test(flavor = "multi_thread")]
async fn whatever_happens_to_a_pack_wrong_bytes_are_never_read_and_the_damage_is_found() {
    let (probe, _) = two_days().await;
    let count = packs(&probe).await.len();
    for how in damage::ALL {
        for n in 0..count {
            let (store, _) = two_days().await;
            let names = damage::objects(&store, names::PACKS_PREFIX).await;
            damage::damage(&store, &names[n], &names[(n + 1) % count], how).await;
            let what = format!("{how:?} of {}", names[n]);
            let repo = open(&store).await.unwrap();
            let whole = async |id: &str, expected: &Files| match read(&repo, id).await {
                Ok(back) => {
                    back.files
                        .iter()
                        .for_each(|(path, content)| assert!(expected[path] == *content, "{what}: {path}"));
                    assert!(
                        back.files.len() == expected.len() || !back.defects.is_empty(),
                        "{what}: silent loss"
                    );
                    back.defects.is_empty()
                }
                Err(error) => {
                    assert!(
                        matches!(error.kind(), ErrorKind::Corrupt | ErrorKind::NotFound),
                        "{what}: {error}"
                    );
                    false
                }
            };
            whole("0", &day(0)).await;
            whole("1", &day(1)).await;
            assert!(!damage::verify(&store).await.is_empty(), "{what}: verification finds nothing");
            backup(&repo, "2", &day(2), DEEP).await.unwrap();
            let known = matches!(how, damage::Damage::Delete | damage::Damage::Truncate);
            assert!(
                whole("2", &day(2)).await || !known,
                "{what}: the next backup rests on what is known to be lost"
            );
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_failure_at_any_single_call_leaves_every_day_readable() {
    for fault in [Fault::FailBefore, Fault::FailAfter, Fault::NoSpace] {
        let mut failures = 0;
        for call in 0.. {
            let memory = memory_store().await;
            backup(&init(&memory).await, "0", &day(0), DEEP).await.unwrap();
            let faulty = Arc::new(FaultStore::new(memory.clone(), 43));
            let store: Arc<dyn Store> = faulty.clone();
            faulty.fail_call(call, fault);
            let outcome = match open(&store).await {
                Ok(repo) => backup(&repo, "1", &day(1), DEEP).await,
                Err(error) => Err(error),
            };
            let clean = open(&memory).await.unwrap();
            let visible = clean.root().await.unwrap().backups.iter().any(|b| b.key.id.as_str() == "1");
            assert!(visible || outcome.is_err(), "{fault:?} at call {call}: success was reported");
            failures += u32::from(outcome.is_err());
            if visible {
                check_whole(&clean, "1", &day(1)).await;
            }
            check_whole(&clean, "0", &day(0)).await;
            backup(&clean, "2", &day(2), DEEP).await.unwrap();
            check_whole(&clean, "2", &day(2)).await;
            if !faulty.fired() {
                break;
            }
        }
        assert!(failures > 5, "{fault:?}: the sweep must have hit something");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn several_writers_at_once_build_on_the_same_day() {
    for seed in 0..6 {
        println!("seed {seed}");
        let memory = memory_store().await;
        backup(&init(&memory).await, "0", &day(0), DEEP).await.unwrap();
        let slow = Arc::new(FaultStore::new(memory.clone(), seed));
        slow.delay_randomly(std::time::Duration::from_millis(2));
        let store: Arc<dyn Store> = slow;
        let tasks: Vec<_> = (1..4u64)
            .map(|n| {
                let store = store.clone();
                tokio::spawn(async move {
                    let repo = open(&store).await?;
                    backup(&repo, &n.to_string(), &day(n), DEEP).await
                })
            })
            .collect();
        for task in tasks {
            task.await.expect("no panic, no hang").unwrap();
        }
        let clean = open(&memory).await.unwrap();
        backup(&clean, "4", &day(4), DEEP).await.unwrap();
        for n in 0..5 {
            check_whole(&clean, &n.to_string(), &day(n)).await;
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn reading_deltas_takes_few_requests_more_than_reading_whole_chunks() {
    let recording = Arc::new(RecordingStore::new(memory_store().await));
    let store: Arc<dyn Store> = recording.clone();
    let repo = init(&store).await;
    let mut relation = bytes(1, 48 << 20);
    let mut files = Files::from([("base/5/1".to_owned(), relation.clone())]);
    let mut requests = Vec::new();
    for n in 0..4u8 {
        relation.chunks_exact_mut(8192 * 5).for_each(|page| page[100..110].fill(n));
        files.insert("base/5/1".to_owned(), relation.clone());
        backup(&repo, &n.to_string(), &files, DEEP).await.unwrap();
        recording.reset();
        check_whole(&repo, &n.to_string(), &files).await;
        requests.push(recording.counts().get_range);
    }
    let most = requests.iter().max().unwrap();
    // Three days of deltas, each in one pack.
    assert!(*most <= requests[0] + 3, "{requests:?}");
}
