//! The beginning of an ingest: its session, index, parent and workers.

use std::sync::Arc;
use std::time::Duration;

use capy_codec::Cutter;
use capy_format::{Root, names};
use capy_types::{Ctx, Problem};

use super::base::{self, Bases};
use super::batch::{self, Batch};
use super::manifest::ManifestAssembler;
use super::parent::{self, Parent};
use super::recognize::Gathering;
use super::worker::{self, Shared};
use super::{Ingest, IngestOptions, budget, check_policy, session};
use crate::index::{ChunkIndex, SharedIndex, list_indexes, load_indexes};
use crate::{ReadOptions, Reader, RepoError, Repository};

impl Ingest {
    pub(crate) async fn begin(repo: Repository, ctx: Ctx, options: IngestOptions) -> Result<Self, RepoError> {
        if !(1..=64).contains(&options.jobs) || options.uploads == 0 {
            return Err(RepoError::Invalid {
                what: format!(
                    "{} jobs and {} uploads: 1 to 64 jobs, at least 1 upload",
                    options.jobs, options.uploads
                ),
            });
        }
        let without_deltas = budget::for_packs(&options, false)?;
        let (session, root) = session::register(&repo, &options.key).await?;
        let mut index = ChunkIndex::new(options.spill_dir.clone());
        // After the session was registered: from then on nothing that is listed goes away unseen.
        let listed = list_indexes(&**repo.store()).await?;
        let loaded = load_indexes(&repo, &root, listed, &mut index, true).await?;
        for problem in &loaded.problems {
            ctx.progress.problem(Problem {
                subject: names::index(&problem.index),
                message: format!("not used: {}", problem.error),
            });
        }
        for (pack, size) in &loaded.lost_packs {
            ctx.progress.problem(Problem {
                subject: names::pack(pack),
                message: size.map_or_else(
                    || "missing from the store: its chunks are stored anew as they are met".to_owned(),
                    |size| {
                        format!("is {size} bytes, not its size: its chunks are stored anew as they are met")
                    },
                ),
            });
        }
        let level = options.compression_level.unwrap_or(repo.config().compression_level);
        let index = SharedIndex::new(index);
        let spill_dir = options.spill_dir.clone();
        let read =
            ReadOptions { spill_dir, kept_bytes: base::KEPT_BYTES, cached: true, ..ReadOptions::default() };
        let reader = Reader::over(repo.clone(), index.clone(), read);
        let parent = match open_parent(&reader, &ctx, &options, &root).await {
            Ok(parent) => parent,
            Err(error) => {
                // The first error is the one to report; the collector fences a session that stays.
                let _ = session::remove(&repo, session).await;
                return Err(error);
            }
        };
        let packs = match &parent {
            Some(_) => budget::for_packs(&options, true)?,
            None => without_deltas,
        };
        let shared = Arc::new(Shared::new(&repo, &options, index, level, packs));
        if parent.is_some() {
            shared.use_bases(Bases::new(&reader, &ctx, options.delta, options.jobs));
        }
        let batches = base::batches(options.jobs, parent.is_some());
        let (to_workers, from_feeder) = async_channel::bounded(batches);
        let (to_free, free) = async_channel::bounded(batches);
        for _ in 0..batches {
            to_free.try_send(Batch::default()).expect("as many places as batches");
        }
        let (to_results, results) = async_channel::unbounded();
        let workers = (0..options.jobs)
            .map(|n| {
                let worker = worker::Worker::new(
                    shared.clone(),
                    from_feeder.clone(),
                    to_free.clone(),
                    to_results.clone(),
                )?;
                std::thread::Builder::new()
                    .name(format!("ingest-{n}"))
                    .spawn(move || worker.run())
                    .map_err(|source| RepoError::Local { what: "start a worker thread", source })
            })
            .collect::<Result<Vec<_>, _>>()?;
        let policy = &repo.config().chunking;
        check_policy(policy)?;
        let sizes = batch::data_sizes(policy)?;
        let cutter = Cutter::new(repo.keys().gear(), sizes);
        let namer = repo.keys().chunk_namer();
        let assembler = ManifestAssembler::new(&repo, level)?;
        Ok(Self {
            repo,
            ctx,
            options,
            session,
            shared,
            workers,
            to_workers: Some(to_workers),
            free,
            results,
            batch: None,
            sent: 0,
            received: 0,
            file: None,
            parent,
            file_parent: None,
            gathering: Gathering::default(),
            patched: None,
            lost_parent: None,
            damaged_packs: Vec::new(),
            waited_for_parent: Duration::ZERO,
            cutter,
            namer,
            assembler,
            own_indexes: Vec::new(),
            indexed_packs: 0,
            waited_for_workers: Duration::ZERO,
            cutting: Duration::ZERO,
            flushed: None,
        })
    }
}

/// Opens the parent, if there is one to be had.
async fn open_parent(
    reader: &Reader,
    ctx: &Ctx,
    options: &IngestOptions,
    root: &Root,
) -> Result<Option<Parent>, RepoError> {
    let entropy = reader.repo().env().entropy.clone();
    if let Some(key) = &options.patch_from {
        let entry = root.backups.iter().find(|entry| entry.key == *key);
        let entry = entry.ok_or_else(|| RepoError::NoSuchBackup { what: key.to_string() })?;
        return Ok(Some(Parent::open(reader.clone(), ctx, entry, &*entropy).await?.needed()));
    }
    let kind = options.parent.filter(|_| options.delta.depth_max > 0);
    let Some(entry) = kind.and_then(|kind| parent::choose(root, &options.key, kind)) else {
        return Ok(None);
    };
    if let Err(error) = budget::for_packs(options, true) {
        return note_parent(ctx, &entry.key.to_string(), &error).map(|()| None);
    }
    match Parent::open(reader.clone(), ctx, entry, &*entropy).await {
        Ok(parent) => Ok(Some(parent)),
        Err(error) => note_parent(ctx, &entry.key.to_string(), &error).map(|()| None),
    }
}

/// A parent that cannot be read is told of; only the caller's own wish to stop is an error.
pub(super) fn note_parent(ctx: &Ctx, subject: &str, error: &RepoError) -> Result<(), RepoError> {
    ctx.check()?;
    let message = format!("not used as parent, so that changed chunks are stored whole: {error}");
    ctx.progress.problem(Problem { subject: subject.to_owned(), message });
    Ok(())
}
