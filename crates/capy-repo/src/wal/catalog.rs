//! What an archive holds: every file with the facts about it, in the order of their names.
//!
//! Gathered facts say of whole runs of segments that they are there; only the names between and
//! after those runs are listed, and only the facts of files outside of them are read one by one. A
//! run is believed as long as its first segment exists: expiry removes WAL from the oldest on. Who
//! relies on a segment within a run, as a restore does, asks
//! [`absent_wal`](Repository::absent_wal): that lists the names of these.

use std::collections::{BTreeMap, BTreeSet};

use capy_format::{ObjectKind, WalFacts, names};
use capy_objects::{ObjectInfo, StoreErrorKind};
use capy_types::{ClusterName, Ctx, Problem, WalFile};
use futures::{StreamExt, TryStreamExt};

use crate::{RepoError, Repository, sealed};

/// Requests for facts at once.
const READS_AT_ONCE: usize = 32;
/// Largest facts object read in bytes: a million segments with a few events each.
pub(super) const GATHERED_MAX_BYTES: u64 = 512 << 20;

/// A file of an archive.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ListedWal {
    /// What is known about it; `None` when its object is damaged.
    pub facts: Option<WalFacts>,
    /// Size of its object in bytes, where it was listed: not of files in gathered runs.
    pub stored_bytes: Option<u64>,
}

/// The files of an archive.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct WalCatalog {
    /// By name.
    pub files: BTreeMap<WalFile, ListedWal>,
    /// Object names of the other copies of files that were archived with two contents.
    pub conflicts: Vec<String>,
    /// Objects whose facts cannot be read, and why.
    pub problems: Vec<(String, String)>,
}

/// A facts object: the run it covers and what it holds.
pub(super) struct Gathered {
    pub(super) name: String,
    pub(super) first: WalFile,
    pub(super) last: WalFile,
    /// Until they are in the catalog.
    facts: Vec<WalFacts>,
}

impl Repository {
    /// Lists the archive of `cluster`, with facts; also gathers facts that lie loose, once there
    /// are many.
    ///
    /// # Errors
    /// Store errors. Damaged objects are the catalog's problems.
    ///
    /// # Cancellation
    /// Safe to drop; at worst a cache object is left that says what is true.
    pub async fn wal_catalog(&self, ctx: &Ctx, cluster: &ClusterName) -> Result<WalCatalog, RepoError> {
        let mut catalog = WalCatalog::default();
        let mut runs = self.gathered(cluster, &mut catalog).await?;
        self.drop_expired_runs(cluster, &mut runs).await?;
        ctx.check()?;
        let loose = self.list_between(cluster, &runs).await?;
        let conflicts: Vec<_> = self.store().list(&names::wal_conflicts(cluster)).try_collect().await?;
        catalog.conflicts = conflicts.into_iter().map(|info| info.name).collect();
        for facts in runs.iter_mut().flat_map(|run| std::mem::take(&mut run.facts)) {
            let file = facts.file.clone();
            catalog.files.insert(file, ListedWal { facts: Some(facts), stored_bytes: None });
        }
        self.read_loose(ctx, cluster, loose, &mut catalog).await?;
        for (object, problem) in &catalog.problems {
            ctx.progress.problem(Problem { subject: object.clone(), message: problem.clone() });
        }
        // Only a help for the next reader: a store that lets us only read is no fault here.
        if let Err(error) = self.gather(cluster, &catalog, &runs).await {
            tracing::debug!(%error, "the facts of the archive stay loose");
        }
        Ok(catalog)
    }

    /// The files of an archive, by name, with the sizes of their objects in bytes.
    ///
    /// # Errors
    /// Store errors.
    ///
    /// # Cancellation
    /// Safe to drop; nothing is written.
    pub async fn list_wal(&self, cluster: &ClusterName) -> Result<Vec<(WalFile, u64)>, RepoError> {
        self.list_between(cluster, &[]).await
    }

    /// Those of `files`, in the order of their names, that are not there.
    ///
    /// # Errors
    /// Store errors.
    ///
    /// # Cancellation
    /// Safe to drop: nothing is written.
    pub async fn absent_wal(
        &self,
        cluster: &ClusterName,
        files: &[WalFile],
    ) -> Result<Vec<WalFile>, RepoError> {
        let mut absent = Vec::new();
        for files in files.chunk_by(|a, b| a.timeline() == b.timeline()) {
            let (Some(first), Some(last)) = (files.first(), files.last()) else { continue };
            let prefix = names::wal_timeline(cluster, first.timeline());
            let (first, last) = (names::wal(cluster, first), names::wal(cluster, last));
            // Names after another, which has to be before the first.
            let before = first.get(..first.len() - 1).unwrap_or_default();
            let mut listed = self.store().list_after(&prefix, before);
            let mut there = BTreeSet::new();
            while let Some(info) = listed.try_next().await? {
                if info.name > last {
                    break;
                }
                there.insert(info.name);
            }
            absent.extend(files.iter().filter(|file| !there.contains(&names::wal(cluster, file))).cloned());
        }
        Ok(absent)
    }

    /// The facts objects, by the runs they cover. Of two that overlap, the longer is kept.
    async fn gathered(
        &self,
        cluster: &ClusterName,
        catalog: &mut WalCatalog,
    ) -> Result<Vec<Gathered>, RepoError> {
        let prefix = format!("{}{cluster}/", names::WAL_FACTS_PREFIX);
        let listed: Vec<ObjectInfo> = self.store().list(&prefix).try_collect().await?;
        let reads = listed.into_iter().filter_map(|info| {
            let (_, first, last) = names::parse_wal_facts(&info.name)?;
            Some(async move { (info.name.clone(), first, last, self.read_gathered(&info.name).await) })
        });
        let mut read: Vec<_> = futures::stream::iter(reads).buffer_unordered(READS_AT_ONCE).collect().await;
        read.sort_by(|a, b| (&a.1, std::cmp::Reverse(&a.2)).cmp(&(&b.1, std::cmp::Reverse(&b.2))));
        let mut runs: Vec<Gathered> = Vec::new();
        for (name, first, last, facts) in read {
            if runs.last().is_some_and(|before| first <= before.last) {
                continue;
            }
            match facts {
                Ok(Some(facts)) => runs.push(Gathered { name, first, last, facts }),
                Ok(None) => {}
                Err(error) => catalog.problems.push((name, error.to_string())),
            }
        }
        Ok(runs)
    }

    /// `None` when it was replaced since it was listed.
    async fn read_gathered(&self, name: &str) -> Result<Option<Vec<WalFacts>>, RepoError> {
        let object = match self.store().get(name, GATHERED_MAX_BYTES).await {
            Ok(object) => object,
            Err(error) if matches!(error.kind, StoreErrorKind::NotFound) => return Ok(None),
            Err(error) => return Err(error.into()),
        };
        let (_, lines) = sealed::open(self.keys(), self.id(), ObjectKind::WalFacts, name, &object)?;
        Ok(Some(WalFacts::from_json_lines(name, &lines)?))
    }

    /// Expiry removes the oldest first: a run whose first segment is gone says nothing any more.
    async fn drop_expired_runs(
        &self,
        cluster: &ClusterName,
        runs: &mut Vec<Gathered>,
    ) -> Result<(), RepoError> {
        let checks = runs.iter().map(|run| async {
            match self.store().head(&names::wal(cluster, &run.first)).await {
                Ok(_) => Ok(true),
                Err(error) if matches!(error.kind, StoreErrorKind::NotFound) => Ok(false),
                Err(error) => Err(RepoError::from(error)),
            }
        });
        let checks: Vec<_> = checks.collect();
        let exist: Vec<bool> = futures::stream::iter(checks).buffered(READS_AT_ONCE).try_collect().await?;
        let mut exist = exist.into_iter();
        runs.retain(|_| exist.next().unwrap_or(false));
        Ok(())
    }

    /// The files outside the runs, with the sizes of their objects.
    async fn list_between(
        &self,
        cluster: &ClusterName,
        runs: &[Gathered],
    ) -> Result<Vec<(WalFile, u64)>, RepoError> {
        let prefix = names::wal_cluster(cluster);
        let mut found = Vec::new();
        let mut after = prefix.clone();
        for run in runs.iter().map(Some).chain([None]) {
            let until = run.map(|run| names::wal(cluster, &run.first));
            let mut names = self.store().list_after(&prefix, &after);
            while let Some(info) = names.try_next().await? {
                if until.as_ref().is_some_and(|until| info.name >= *until) {
                    break;
                }
                if let Some((_, file)) = names::parse_wal(&info.name) {
                    found.push((file, info.size));
                }
            }
            drop(names);
            if let Some(run) = run {
                after = names::wal(cluster, &run.last);
            }
        }
        Ok(found)
    }

    async fn read_loose(
        &self,
        ctx: &Ctx,
        cluster: &ClusterName,
        loose: Vec<(WalFile, u64)>,
        catalog: &mut WalCatalog,
    ) -> Result<(), RepoError> {
        let reads = loose.into_iter().map(|(file, size)| async move {
            let facts = self.wal_facts(cluster, &file, size).await;
            (file, size, facts)
        });
        let mut reads = futures::stream::iter(reads).buffer_unordered(READS_AT_ONCE);
        while let Some((file, size, facts)) = reads.next().await {
            ctx.check()?;
            let facts = match facts {
                Ok(facts) => Some(facts),
                // Expired since it was listed.
                Err(error) if error.is_missing_object() => continue,
                Err(error) if error.kind() == capy_types::ErrorKind::Corrupt => {
                    catalog.problems.push((names::wal(cluster, &file), error.to_string()));
                    None
                }
                Err(error) => return Err(error),
            };
            catalog.files.insert(file, ListedWal { facts, stored_bytes: Some(size) });
        }
        Ok(())
    }
}
