//! Whether a store can hold a repository: asked by doing, never assumed by vendor. Several
//! S3-compatible engines accept `If-None-Match: *` and ignore it; one checks it, but not
//! atomically. On such a store two writers would both believe they had committed.
//!
//! Contained by: `init`, and whoever asks. Invariant: what was made is removed again, also when a
//! test fails.

#[cfg(feature = "s3")]
pub(crate) mod s3;
#[cfg(test)]
mod tests;

use bytes::Bytes;
use capy_types::Entropy;
use futures::TryStreamExt;
use futures::future::join_all;

use crate::{Store, StoreError, StoreErrorKind};

/// Writers that race for one name. More would only wait: some engines serve a contended name once
/// a second.
const RACERS: usize = 8;

/// Names raced for. A check that is not atomic lets one race pass by luck, three seldom.
const RACES: usize = 3;

/// Size of a raced object: large enough that its upload takes longer than a check.
const RACE_BODY_BYTES: usize = 64 * 1024;

/// Objects listed.
const LISTED: usize = 5;

/// What a store was seen to do. `None` is unknown: not asked, or not answered.
#[derive(Debug, Clone, Default, PartialEq, Eq, serde::Serialize)]
pub struct ProbeReport {
    /// Where.
    pub url: String,
    /// Whether two writers can never both create the same name: a repository may be shared.
    pub multi_writer_safe: bool,
    /// A second create of a name, after the first, is refused and changes nothing.
    pub conditional_create: bool,
    /// Of several creates of a name at once, exactly one succeeds.
    pub conditional_create_concurrent: bool,
    /// A part of an object reads as that part, and one past the end as an error.
    pub range_reads: bool,
    /// A listing names every object with its size, and only those asked for.
    pub listing: bool,
    /// What was written reads back at once, and what was removed is gone at once.
    pub read_after_write: bool,
    /// Removed and replaced objects are kept as versions.
    pub versioning: Option<bool>,
    /// Objects can be locked against deletion.
    pub object_lock: Option<bool>,
    /// A lifecycle rule removes abandoned multipart uploads.
    pub aborts_multipart: Option<bool>,
    /// What the store does wrong, one sentence each. Any of them makes it unfit.
    pub faults: Vec<String>,
    /// What the operator may want to know or change.
    pub advice: Vec<String>,
}

/// Tests what `store` can do, with a few small objects under `probe/` that it removes again.
///
/// # Errors
/// `Denied`, `Unavailable`, `NoSpace`, `Invalid` when the store does not serve the test at all.
/// What it serves wrongly is in the report.
///
/// # Cancellation
/// Safe to drop; a few small objects under `probe/` may be left, which nothing reads.
pub async fn probe(store: &dyn Store, entropy: &dyn Entropy) -> Result<ProbeReport, StoreError> {
    let prober = Prober { store, directory: format!("probe/{:016x}", random(entropy)) };
    let mut report = ProbeReport { url: store.url(), ..ProbeReport::default() };
    let outcome = prober.run(&mut report, entropy).await;
    let removed = prober.remove_all().await;
    outcome?;
    removed?;
    prober.check_removed(&mut report).await?;
    prober.ask_settings(&mut report).await;
    report.multi_writer_safe =
        report.conditional_create && report.conditional_create_concurrent && report.faults.is_empty();
    Ok(report)
}

fn random(entropy: &dyn Entropy) -> u64 {
    let mut bytes = [0; 8];
    entropy.fill(&mut bytes);
    u64::from_le_bytes(bytes)
}

struct Prober<'a> {
    store: &'a dyn Store,
    directory: String,
}

impl Prober<'_> {
    fn name(&self, what: &str) -> String {
        format!("{}/{what}", self.directory)
    }

    async fn run(&self, report: &mut ProbeReport, entropy: &dyn Entropy) -> Result<(), StoreError> {
        self.create_twice(report).await?;
        self.read_parts(report).await?;
        self.list(report).await?;
        // Pointless once a plain second create is accepted.
        if report.conditional_create {
            self.race(report, entropy).await?;
        }
        Ok(())
    }

    /// Creates a name twice, one after the other.
    async fn create_twice(&self, report: &mut ProbeReport) -> Result<(), StoreError> {
        let name = self.name("create");
        let (first, second) = (Bytes::from_static(b"the first"), Bytes::from_static(b"another"));
        self.store.put_new(&name, first.clone()).await?;
        report.read_after_write = self.holds(&name, &first).await?;
        if !report.read_after_write {
            report.faults.push("an object does not read back as it was written".to_owned());
        }
        let refused = created(self.store.put_new(&name, second).await)? == Created::Refused;
        let kept = self.holds(&name, &first).await?;
        report.conditional_create = refused && kept;
        if !refused {
            report.faults.push(
                "the store ignores if-none-match: it accepted a second create of an existing object"
                    .to_owned(),
            );
        } else if !kept {
            report.faults.push(
                "the store ignores if-none-match: it refused a second create but replaced the object"
                    .to_owned(),
            );
        }
        Ok(())
    }

    /// Creates the same names from many writers at once.
    async fn race(&self, report: &mut ProbeReport, entropy: &dyn Entropy) -> Result<(), StoreError> {
        for round in 0..RACES {
            let name = self.name(&format!("race-{round}"));
            let bodies: Vec<Bytes> = (0..RACERS).map(|_| race_body(entropy)).collect();
            let outcomes = join_all(bodies.iter().map(|body| self.store.put_new(&name, body.clone()))).await;
            let mut winners = Vec::new();
            let mut unclear = None;
            for (outcome, body) in outcomes.into_iter().zip(&bodies) {
                match created(outcome) {
                    Ok(Created::Made) => winners.push(body),
                    Ok(Created::Refused) => {}
                    Err(error) => unclear = Some(error),
                }
            }
            if winners.len() > 1 {
                report.faults.push(format!(
                    "the store checks if-none-match but not atomically: {} of {RACERS} concurrent creates of one \
                     object succeeded",
                    winners.len()
                ));
                return Ok(());
            }
            match winners.first() {
                Some(winner) if !self.holds(&name, winner).await? => {
                    report.faults.push(
                        "the store checks if-none-match but not atomically: a create succeeded and another's \
                         content is there"
                            .to_owned(),
                    );
                    return Ok(());
                }
                Some(_) => {}
                None => {
                    // Not one answer: the store is in trouble, which says nothing of its honesty.
                    if let Some(error) = unclear {
                        return Err(error);
                    }
                    report.faults.push("all concurrent creates of one new object were refused".to_owned());
                    return Ok(());
                }
            }
        }
        report.conditional_create_concurrent = true;
        Ok(())
    }

    /// Reads parts of an object, and one that is not there.
    async fn read_parts(&self, report: &mut ProbeReport) -> Result<(), StoreError> {
        let name = self.name("range");
        let body: Bytes = (0..=255).collect::<Vec<u8>>().into();
        self.store.put_new(&name, body.clone()).await?;
        let mut right = true;
        for range in [0..1, 100..200, 255..256, 0..256] {
            let (from, to) = (range.start as usize, range.end as usize);
            right &= match self.store.get_range(&name, range).await {
                Ok(found) => found == body.slice(from..to),
                Err(error) if matches!(error.kind, StoreErrorKind::Truncated { .. }) => false,
                Err(error) => return Err(error),
            };
        }
        right &= match self.store.get_range(&name, 200..300).await {
            Ok(_) => false,
            Err(error) if matches!(error.kind, StoreErrorKind::Truncated { .. }) => true,
            Err(error) => return Err(error),
        };
        report.range_reads = right;
        if !right {
            report.faults.push("a part of an object does not read as that part".to_owned());
        }
        Ok(())
    }

    /// Writes a few objects, lists them, and asks for the smallest.
    async fn list(&self, report: &mut ProbeReport) -> Result<(), StoreError> {
        let prefix = format!("{}/list/", self.directory);
        let mut expected = Vec::new();
        for ordinal in 0..LISTED {
            let name = format!("{prefix}{ordinal}");
            self.store.put_new(&name, Bytes::from(vec![0; ordinal])).await?;
            expected.push((name, ordinal as u64));
        }
        let mut found: Vec<(String, u64)> =
            self.store.list(&prefix).map_ok(|info| (info.name, info.size)).try_collect().await?;
        found.sort();
        let first = self.store.first(&prefix).await?;
        report.listing = found == expected && first.map(|info| info.name) == Some(format!("{prefix}0"));
        if !report.listing {
            report.faults.push("a listing does not show the objects that are there".to_owned());
        }
        Ok(())
    }

    async fn holds(&self, name: &str, body: &Bytes) -> Result<bool, StoreError> {
        match self.store.get(name, RACE_BODY_BYTES as u64 * 2).await {
            Ok(found) => Ok(found == *body),
            Err(error) => match error.kind {
                StoreErrorKind::NotFound
                | StoreErrorKind::Truncated { .. }
                | StoreErrorKind::TooLarge { .. } => Ok(false),
                _ => Err(error),
            },
        }
    }

    /// Every name this run can have written; not by listing, which may be what is broken.
    fn all_names(&self) -> Vec<String> {
        let races = (0..RACES).map(|round| format!("race-{round}"));
        let listed = (0..LISTED).map(|ordinal| format!("list/{ordinal}"));
        ["create".to_owned(), "range".to_owned()]
            .into_iter()
            .chain(races)
            .chain(listed)
            .map(|n| self.name(&n))
            .collect()
    }

    async fn remove_all(&self) -> Result<(), StoreError> {
        let names = self.all_names();
        join_all(names.iter().map(|name| self.store.delete(name))).await.into_iter().collect()
    }

    async fn check_removed(&self, report: &mut ProbeReport) -> Result<(), StoreError> {
        let name = self.name("create");
        let gone = match self.store.head(&name).await {
            Ok(_) => false,
            Err(error) if error.kind == StoreErrorKind::NotFound => true,
            Err(error) => return Err(error),
        };
        if !gone {
            report.read_after_write = false;
            report.faults.push("a removed object is still there".to_owned());
        }
        Ok(())
    }

    /// What the bucket says of itself. Not knowing is no fault.
    async fn ask_settings(&self, report: &mut ProbeReport) {
        let settings = self.store.bucket_settings().await;
        report.versioning = settings.versioning;
        report.object_lock = settings.object_lock;
        report.aborts_multipart = settings.aborts_multipart;
        report.advice.extend(settings.problems);
        if settings.versioning == Some(true) {
            report.advice.push(
                "the bucket keeps versions: space is given back only by a lifecycle rule that expires noncurrent \
                 versions"
                    .to_owned(),
            );
        }
        if settings.aborts_multipart == Some(false) {
            report.advice.push(
                "no lifecycle rule removes abandoned multipart uploads: add AbortIncompleteMultipartUpload"
                    .to_owned(),
            );
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Created {
    Made,
    Refused,
}

fn created(outcome: Result<(), StoreError>) -> Result<Created, StoreError> {
    match outcome {
        Ok(()) => Ok(Created::Made),
        Err(error) if error.kind == StoreErrorKind::AlreadyExists => Ok(Created::Refused),
        Err(error) => Err(error),
    }
}

/// Different for every racer: equal contents would all succeed.
fn race_body(entropy: &dyn Entropy) -> Bytes {
    let mut body = vec![0; RACE_BODY_BYTES];
    body[..8].copy_from_slice(&random(entropy).to_le_bytes());
    body.into()
}
