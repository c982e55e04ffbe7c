//! End to end over [`capy_store`]: a base backup into an encrypted repository, again, changed by
//! 5 %, out again as a directory and as a tar, and proven by `verify --full`.
//!
//! Then with 1, 2, 4 … workers, and into a real S3 server beside what that server takes by itself.
//!
//! The repository is a directory of the temporary directory's disk; every object is synced, as in
//! earnest. `in memory` leaves the disk out. The backup is a tar of 1 GiB read through the page
//! cache, with page checksums and a `backup_manifest`, both checked; criterion's `--quick` makes it
//! 128 MiB. Throughput is of the cluster's size; its tar is about as large. What has to be made before (repositories, copies of
//! them) is not timed.

use std::cell::LazyCell;
use std::fs::{self, File};
use std::io::BufWriter;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use capy_benches::Cluster;
use capy_objects::{Store, open_store};
use capy_store::{
    BackupOptions, BackupReport, BackupSource, Ctx, InitOptions, Key, Location, Repository, RestoreOptions,
    TarTarget, VerifyLevel, VerifyOptions, VerifyScope,
};
use capy_testkit::S3Server;
use capy_types::limits::MIB;
use criterion::measurement::WallTime;
use criterion::{
    BatchSize, BenchmarkGroup, BenchmarkId, Criterion, SamplingMode, Throughput, criterion_group,
    criterion_main,
};
use futures::{StreamExt, TryStreamExt, stream};
use tempfile::TempDir;
use tokio::runtime::Runtime;

type Group<'a> = BenchmarkGroup<'a, WallTime>;

/// Size of the cluster in MiB. `--test` is what `cargo test --benches` says.
fn size_mib() -> usize {
    if std::env::args().any(|argument| argument == "--quick" || argument == "--test") { 128 } else { 1024 }
}

fn id(name: &str) -> BenchmarkId {
    BenchmarkId::new(name, format!("{} MiB", size_mib()))
}

/// Writes a base backup, and waits for the disk, which is to be idle when the clock runs.
fn write_tar(cluster: Cluster, path: PathBuf) -> PathBuf {
    let mut file = BufWriter::new(File::create_new(&path).expect("the directory is ours"));
    cluster.write_tar(&mut file).expect("there is room on the disk");
    file.get_ref().sync_all().expect("there is room on the disk");
    path
}

/// A repository, and the directory that goes with it.
struct Place {
    repository: Repository,
    directory: TempDir,
}

/// The two moments of the cluster, and a repository that holds the first.
struct Scene {
    runtime: Runtime,
    ctx: Ctx,
    first: PathBuf,
    later: PathBuf,
    holding: Place,
    /// Holds the tars.
    _scratch: TempDir,
}

impl Scene {
    fn new() -> Self {
        let runtime = Runtime::new().expect("threads can be started");
        let (ctx, scratch) = (Ctx::default(), temporary());
        let cluster = Cluster::of(size_mib() * MIB);
        let first = write_tar(cluster, scratch.path().join("first.tar"));
        let later = write_tar(cluster.five_percent_later(), scratch.path().join("later.tar"));
        let holding = fresh(&runtime);
        let scene = Self { runtime, ctx, first, later, holding, _scratch: scratch };
        let taken = scene.back_up(&scene.holding.repository, &scene.first);
        assert!(taken.is_complete(), "{:?}", taken.problems);
        scene
    }

    fn back_up(&self, repository: &Repository, tar: &Path) -> BackupReport {
        let options = BackupOptions::new("main".parse().expect("a valid name"));
        let source = BackupSource::tar(tar);
        self.runtime.block_on(repository.backup(&self.ctx, source, options)).expect("it is a base backup")
    }

    /// A copy of the repository that holds the first moment. Objects never change, so links do.
    fn copied(&self) -> Place {
        let directory = temporary();
        link_all(self.holding.directory.path(), directory.path());
        let (place, key) = (location(directory.path()), key());
        let open = Repository::open(&self.ctx, &place, &key);
        Place { repository: self.runtime.block_on(open).expect("it is a repository"), directory }
    }
}

fn temporary() -> TempDir {
    tempfile::tempdir().expect("a temporary directory")
}

fn key() -> Key {
    Key::passphrase("correct horse battery staple")
}

fn location(directory: &Path) -> Location {
    Location::new(directory.to_str().expect("a temporary directory's path is text"))
}

async fn init(location: Location) -> Repository {
    let mut options = InitOptions::default();
    // Opening is not what is timed.
    options.kdf_memory_kib = Some(1024);
    Repository::init(&Ctx::default(), &location, &[key()], options).await.expect("an empty place")
}

fn fresh(runtime: &Runtime) -> Place {
    let directory = temporary();
    Place { repository: runtime.block_on(init(location(directory.path()))), directory }
}

fn link_all(from: &Path, to: &Path) {
    for entry in fs::read_dir(from).expect("it is a directory") {
        let entry = entry.expect("nobody changes it");
        let target = to.join(entry.file_name());
        if entry.path().is_dir() {
            fs::create_dir_all(&target).expect("there is room on the disk");
            link_all(&entry.path(), &target);
        } else {
            fs::hard_link(entry.path(), target).expect("both are on one disk");
        }
    }
}

fn group<'a>(criterion: &'a mut Criterion, name: &str) -> Group<'a> {
    let mut group = criterion.benchmark_group(name);
    group.warm_up_time(Duration::from_millis(100)).measurement_time(Duration::from_secs(3)).sample_size(10);
    group.sampling_mode(SamplingMode::Flat).throughput(Throughput::Bytes((size_mib() * MIB) as u64));
    group
}

fn ingest(criterion: &mut Criterion, scene: &LazyCell<Scene>) {
    let mut group = group(criterion, "ingest");
    let first = |repository: Repository| (scene.back_up(&repository, &scene.first), repository);
    group.bench_function(id("first"), |bencher| {
        let work = |place: Place| (first(place.repository), place.directory);
        bencher.iter_batched(|| fresh(&scene.runtime), work, BatchSize::PerIteration);
    });
    group.bench_function(id("first in memory"), |bencher| {
        let memory = || scene.runtime.block_on(init(Location::new("memory://")));
        bencher.iter_batched(memory, first, BatchSize::PerIteration);
    });
    group.bench_function(id("unchanged"), |bencher| {
        bencher.iter(|| {
            let taken = scene.back_up(&scene.holding.repository, &scene.first);
            assert_eq!(taken.stats.new_bytes, 0);
        });
    });
    group.bench_function(id("5 % changed"), |bencher| {
        let work = |place: Place| (scene.back_up(&place.repository, &scene.later), place);
        bencher.iter_batched(|| scene.copied(), work, BatchSize::PerIteration);
    });
}

/// How the first backup gets faster with workers, as far as this machine has cores and once beyond: kept
/// in memory, so that no disk bends the curve.
fn jobs(criterion: &mut Criterion, scene: &LazyCell<Scene>) {
    let mut group = group(criterion, "jobs");
    let cores = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    for jobs in (0..7).map(|power| 1 << power).take_while(|jobs| *jobs <= 2 * cores) {
        let mut options = BackupOptions::new("main".parse().expect("a valid name"));
        (options.jobs, options.memory_bytes) = (Some(jobs), Some(1024 * MIB));
        let first = |repository: Repository| {
            let source = BackupSource::tar(&scene.first);
            let taken = repository.backup(&scene.ctx, source, options.clone());
            (scene.runtime.block_on(taken).expect("it is a base backup"), repository)
        };
        group.bench_function(id(&format!("first, {jobs} jobs")), |bencher| {
            let memory = || scene.runtime.block_on(init(Location::new("memory://")));
            bencher.iter_batched(memory, first, BatchSize::PerIteration);
        });
    }
}

fn restore(criterion: &mut Criterion, scene: &LazyCell<Scene>) {
    let mut group = group(criterion, "restore");
    let latest = "main/latest".parse().expect("a valid selector");
    group.bench_function(id("directory"), |bencher| {
        let work = |target: TempDir| {
            let options = RestoreOptions::to(target.path().join("data"));
            let restoring = scene.holding.repository.restore(&scene.ctx, &latest, options);
            scene.runtime.block_on(restoring).expect("it is whole");
            target
        };
        bencher.iter_batched(temporary, work, BatchSize::PerIteration);
    });
    group.bench_function(id("tar"), |bencher| {
        bencher.iter(|| {
            let nowhere = TarTarget::writer(tokio::io::sink());
            let restoring = scene.holding.repository.restore_tar(&scene.ctx, &latest, nowhere);
            scene.runtime.block_on(restoring).expect("it is whole")
        });
    });
}

fn verify(criterion: &mut Criterion, scene: &LazyCell<Scene>) {
    let mut group = group(criterion, "verify");
    let mut options = VerifyOptions::default();
    (options.level, options.record) = (VerifyLevel::Full, false);
    let newest = VerifyScope::Backups(vec!["main/latest".parse().expect("a valid selector")]);
    group.bench_function(id("full"), |bencher| {
        bencher.iter(|| {
            let verifying = scene.holding.repository.verify(&scene.ctx, &newest, options.clone());
            let report = scene.runtime.block_on(verifying).expect("it runs to its end");
            assert!(report.ok, "{}", report.verdict);
        });
    });
}

/// A real S3 server on this machine: a first backup into it and out of it, and what the server itself
/// takes: the same objects stored and fetched with nothing done to them. Both share the processors.
fn s3(criterion: &mut Criterion, scene: &LazyCell<Scene>) {
    let mut group = group(criterion, "s3");
    let server: LazyCell<S3Server> = LazyCell::new(S3Server::start);
    let options = |server: &S3Server| {
        let find = |name: &str| server.env().into_iter().find(|(known, _)| *known == name);
        Location::options_from_vars(|name| find(name).map(|(_, value)| value))
            .expect("it says how to reach it")
    };
    let place = |server: &S3Server| Location::new(server.fresh_url()).with_options(options(server));
    let first = |repository: Repository| (scene.back_up(&repository, &scene.first), repository);

    group.bench_function(id("first"), |bencher| {
        let remote = || scene.runtime.block_on(init(place(&server)));
        bencher.iter_batched(remote, first, BatchSize::PerIteration);
    });
    group.bench_function(id("tar"), |bencher| {
        let (_, repository) = first(scene.runtime.block_on(init(place(&server))));
        let latest = "main/latest".parse().expect("a valid selector");
        bencher.iter(|| {
            let nowhere = TarTarget::writer(tokio::io::sink());
            let restoring = repository.restore_tar(&scene.ctx, &latest, nowhere);
            scene.runtime.block_on(restoring).expect("it is whole")
        });
    });
    let packs = LazyCell::new(|| packs_in(&scene.holding.directory.path().join("packs")));
    let open = || {
        let (url, options) = (server.fresh_url(), options(&server));
        scene.runtime.block_on(open_store(&url, &options, true)).expect("it can be reached")
    };
    let put_all = |store: &Arc<dyn Store>| {
        let puts = packs.iter().enumerate().map(|(n, pack)| {
            let (store, pack) = (store.clone(), pack.clone());
            async move { store.put_new(&format!("packs/{n}"), pack).await }
        });
        let all = stream::iter(puts).buffer_unordered(2).try_collect::<Vec<()>>();
        scene.runtime.block_on(all).expect("it takes them");
    };
    group.bench_function(id("its packs put as they are"), |bencher| {
        bencher.iter_batched(open, |store| put_all(&store), BatchSize::PerIteration);
    });
    group.bench_function(id("its packs got as they are"), |bencher| {
        let store = open();
        put_all(&store);
        bencher.iter(|| {
            let gets = (0..packs.len()).map(|n| {
                let store = store.clone();
                async move { store.get(&format!("packs/{n}"), u64::MAX).await.map(|bytes| bytes.len()) }
            });
            let all = stream::iter(gets).buffer_unordered(4).try_collect::<Vec<usize>>();
            scene.runtime.block_on(all).expect("it has them")
        });
    });
}

/// The packs of a repository on disk.
fn packs_in(directory: &Path) -> Vec<Bytes> {
    let mut packs = Vec::new();
    for entry in fs::read_dir(directory).expect("it is a directory") {
        let path = entry.expect("nobody changes it").path();
        match path.is_dir() {
            true => packs.extend(packs_in(&path)),
            false => packs.push(fs::read(path).expect("nobody changes it").into()),
        }
    }
    packs
}

/// The tars are made when the first bench that was asked for needs them, and go with the scene.
fn engine(criterion: &mut Criterion) {
    let scene: LazyCell<Scene> = LazyCell::new(Scene::new);
    ingest(criterion, &scene);
    jobs(criterion, &scene);
    restore(criterion, &scene);
    verify(criterion, &scene);
    s3(criterion, &scene);
}

criterion_group!(benches, engine);
criterion_main!(benches);
