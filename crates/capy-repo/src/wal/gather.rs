//! Gathering the facts of many segments into one object.
//!
//! A run is segments of one timeline that follow each other without a gap: a segment that arrives
//! late is then always outside of the runs, where names are listed. Facts objects are a cache: what
//! is written here can be lost at any moment, and two processes that gather at once do no harm.

use capy_format::{ObjectKind, WalFacts, names};
use capy_objects::StoreErrorKind;
use capy_types::{ClusterName, Nonce, SegmentName, WalFile, WalFileKind};
use futures::TryStreamExt;

use super::catalog::{Gathered, WalCatalog};
use crate::{RepoError, Repository, sealed};

/// Loose segments that follow each other before they are worth an object.
const GATHER_MIN: usize = 64;
/// A run is written anew, longer, once this share of it is new: so every fact is written about as
/// many times as runs double, and their number stays small.
const GROWTH_DIVISOR: usize = 4;

/// Segments that follow each other.
struct Run<'a> {
    facts: Vec<&'a WalFacts>,
    loose: usize,
    /// Facts objects within it, which it replaces.
    within: Vec<&'a str>,
}

impl Repository {
    /// Writes the facts of runs that have grown, and deletes the objects they replace.
    pub(super) async fn gather(
        &self,
        cluster: &ClusterName,
        catalog: &WalCatalog,
        gathered: &[Gathered],
    ) -> Result<(), RepoError> {
        for run in runs(catalog, gathered) {
            let due = run.loose >= GATHER_MIN.max(run.facts.len() / GROWTH_DIVISOR) || run.within.len() > 1;
            let (Some(first), Some(last)) = (run.facts.first(), run.facts.last()) else { continue };
            if !due {
                continue;
            }
            let name = names::wal_facts(cluster, &first.file, &last.file);
            self.write_gathered(&name, &run.facts).await?;
            for replaced in run.within.iter().filter(|within| **within != name) {
                self.store().delete(replaced).await?;
            }
        }
        Ok(())
    }

    async fn write_gathered(&self, name: &str, facts: &[&WalFacts]) -> Result<(), RepoError> {
        let mut lines = Vec::new();
        for one in facts {
            serde_json::to_writer(&mut lines, one).expect("facts are plain data");
            lines.push(b'\n');
        }
        let nonce = Nonce::random(&*self.env().entropy);
        let object = sealed::seal(self.keys(), self.id(), ObjectKind::WalFacts, name, nonce, &lines)?;
        match self.store().put_new(name, object).await {
            // Another process gathered the same run.
            Err(error) if !matches!(error.kind, StoreErrorKind::AlreadyExists) => Err(error.into()),
            _ => Ok(()),
        }
    }

    /// Deletes the facts objects that speak of `removed`, before those files themselves are.
    pub(super) async fn forget_gathered(
        &self,
        cluster: &ClusterName,
        removed: &[WalFile],
    ) -> Result<(), RepoError> {
        let prefix = format!("{}{cluster}/", names::WAL_FACTS_PREFIX);
        let listed: Vec<_> = self.store().list(&prefix).try_collect().await?;
        for info in listed {
            let Some((_, first, last)) = names::parse_wal_facts(&info.name) else { continue };
            if removed.iter().any(|file| (&first..=&last).contains(&file)) {
                self.store().delete(&info.name).await?;
            }
        }
        Ok(())
    }
}

/// The runs of a catalog, each with what is gathered of it already.
fn runs<'a>(catalog: &'a WalCatalog, gathered: &'a [Gathered]) -> Vec<Run<'a>> {
    let mut runs: Vec<Run<'a>> = Vec::new();
    let mut last: Option<SegmentName> = None;
    let segments = catalog.files.iter().filter(|(file, _)| file.kind() == WalFileKind::Segment);
    for (file, listed) in segments {
        let facts = listed.facts.as_ref();
        let segment = facts.and_then(|f| file.segment(f.segment.as_ref()?.segment_size));
        let (Some(facts), Some(segment)) = (facts, segment) else {
            last = None;
            continue;
        };
        if last.map(SegmentName::next) != Some(segment) {
            runs.push(Run { facts: Vec::new(), loose: 0, within: Vec::new() });
        }
        last = Some(segment);
        let Some(run) = runs.last_mut() else { continue };
        run.facts.push(facts);
        run.loose += usize::from(listed.stored_bytes.is_some());
    }
    for run in &mut runs {
        let (Some(first), Some(end)) = (run.facts.first(), run.facts.last()) else { continue };
        let inside = gathered.iter().filter(|old| old.first >= first.file && old.last <= end.file);
        run.within = inside.map(|old| old.name.as_str()).collect();
    }
    runs
}
