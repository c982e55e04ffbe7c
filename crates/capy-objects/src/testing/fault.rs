//! A store that fails, delays and lies as told, repeatably: the same seed and the same calls give
//! the same faults.

use std::ops::Range;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use capy_types::SeededEntropy;
use futures::future::BoxFuture;
use futures::stream::{self, BoxStream, StreamExt, TryStreamExt};

use crate::{BucketSettings, ObjectInfo, Store, StoreError, StoreErrorKind, StoreOp};

/// How a call fails.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// Unavailable, and nothing happened.
    FailBefore,
    /// Unavailable, but it happened: the answer is lost.
    FailAfter,
    /// The store is full. Calls other than writes answer that it is unavailable.
    NoSpace,
    /// A read comes back short: `get` silently, `get_range` as `Truncated`. Other calls are
    /// unavailable.
    Truncate,
}

/// How a store breaks its promise to create only what is absent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Lie {
    /// Every create succeeds and replaces what is there.
    IgnoresIfAbsent,
    /// It looks first and writes a little later: right one after another, wrong at once.
    ChecksThenWrites,
}

/// Time between look and write of a store that is not atomic. Any number of writers that start
/// together have looked by then.
const CHECK_TO_WRITE: Duration = Duration::from_millis(20);

#[derive(Debug)]
struct Plan {
    entropy: SeededEntropy,
    calls: u64,
    fired: u64,
    fail_call: Option<(u64, Fault)>,
    fail_every: Option<(u64, Fault)>,
    fail_share: f64,
    delay_max: Duration,
    room: Option<u64>,
    lie: Option<Lie>,
    hidden: Vec<String>,
}

/// A store that fails, delays and lies as told.
#[derive(Debug)]
pub struct FaultStore {
    inner: Arc<dyn Store>,
    plan: Mutex<Plan>,
}

impl FaultStore {
    /// A faultless wrapper of `inner` until told otherwise.
    #[must_use]
    pub fn new(inner: Arc<dyn Store>, seed: u64) -> Self {
        let plan = Plan {
            entropy: SeededEntropy::new(seed),
            calls: 0,
            fired: 0,
            fail_call: None,
            fail_every: None,
            fail_share: 0.0,
            delay_max: Duration::ZERO,
            room: None,
            lie: None,
            hidden: Vec::new(),
        };
        Self { inner, plan: Mutex::new(plan) }
    }

    fn plan(&self) -> MutexGuard<'_, Plan> {
        self.plan.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Call number `call`, counted from now and from 0, fails.
    pub fn fail_call(&self, call: u64, fault: Fault) {
        let mut plan = self.plan();
        plan.calls = 0;
        plan.fail_call = Some((call, fault));
    }

    /// Every `n`-th call, counted from now, fails; `None` ends that.
    ///
    /// # Panics
    /// When `n` is 0.
    pub fn fail_every(&self, every: Option<(u64, Fault)>) {
        assert!(every.is_none_or(|(n, _)| n > 0), "every 0th call is none");
        let mut plan = self.plan();
        plan.calls = 0;
        plan.fail_every = every;
    }

    /// Every call fails with this probability, before or after its effect.
    pub fn fail_randomly(&self, share: f64) {
        self.plan().fail_share = share;
    }

    /// Every call takes up to this much longer.
    pub fn delay_randomly(&self, up_to: Duration) {
        self.plan().delay_max = up_to;
    }

    /// Writes fail once this many more bytes have been stored; `None` gives room again.
    pub fn full_after(&self, bytes: Option<u64>) {
        self.plan().room = bytes;
    }

    /// How the store lies about creating; `None` makes it honest.
    pub fn lie(&self, lie: Option<Lie>) {
        self.plan().lie = lie;
    }

    /// Listings pass over names that start with `prefix`; reads still find them.
    pub fn hide_from_list(&self, prefix: impl Into<String>) {
        self.plan().hidden.push(prefix.into());
    }

    /// Whether any fault has happened.
    #[must_use]
    pub fn fired(&self) -> bool {
        self.plan().fired > 0
    }

    /// Calls made since the last `fail_call` or `fail_every`, or since the start.
    #[must_use]
    pub fn calls(&self) -> u64 {
        self.plan().calls
    }

    fn error(&self, op: StoreOp, name: &str, kind: StoreErrorKind) -> StoreError {
        StoreError::new(op, name, self.url(), kind).because(std::io::Error::other("injected fault"))
    }

    fn is_hidden(&self, name: &str) -> bool {
        self.plan().hidden.iter().any(|prefix| name.starts_with(prefix))
    }

    /// Counts a call, lets it wait, and fails it before or after its effect when it is its turn.
    async fn run<T>(
        &self,
        op: StoreOp,
        name: &str,
        call: impl Future<Output = Result<T, StoreError>>,
    ) -> Result<T, StoreError> {
        let (delay, fault) = self.plan().next_call();
        if !delay.is_zero() {
            tokio::time::sleep(delay).await;
        }
        match fault {
            None => call.await,
            Some(Fault::FailAfter) => {
                let _ = call.await;
                Err(self.error(op, name, StoreErrorKind::Unavailable))
            }
            Some(Fault::NoSpace) if op == StoreOp::PutNew => {
                Err(self.error(op, name, StoreErrorKind::NoSpace))
            }
            Some(Fault::FailBefore | Fault::NoSpace | Fault::Truncate) => {
                Err(self.error(op, name, StoreErrorKind::Unavailable))
            }
        }
    }

    /// As `run`, for reads: they can come back short.
    async fn run_read(
        &self,
        op: StoreOp,
        name: &str,
        call: impl Future<Output = Result<Bytes, StoreError>>,
    ) -> Result<Bytes, StoreError> {
        if !self.plan().truncates_next() {
            return self.run(op, name, call).await;
        }
        self.plan().next_call();
        let body = call.await?;
        let (expected, found) = (body.len() as u64, body.len() as u64 / 2);
        if op == StoreOp::Get {
            return Ok(body.slice(..body.len() / 2));
        }
        Err(self.error(op, name, StoreErrorKind::Truncated { expected, found }))
    }

    async fn create(&self, name: &str, body: Bytes) -> Result<(), StoreError> {
        let lie = self.plan().lie;
        match lie {
            None => return self.inner.put_new(name, body).await,
            Some(Lie::IgnoresIfAbsent) => {}
            Some(Lie::ChecksThenWrites) => {
                if self.inner.head(name).await.is_ok() {
                    return Err(self.error(StoreOp::PutNew, name, StoreErrorKind::AlreadyExists));
                }
                tokio::time::sleep(CHECK_TO_WRITE).await;
            }
        }
        loop {
            self.inner.delete(name).await?;
            match self.inner.put_new(name, body.clone()).await {
                Err(error) if error.kind == StoreErrorKind::AlreadyExists => {}
                outcome => return outcome,
            }
        }
    }

    /// Takes room for a write, where room is limited.
    fn take_room(&self, name: &str, bytes: u64) -> Result<(), StoreError> {
        let mut plan = self.plan();
        let left = match plan.room {
            None => return Ok(()),
            Some(room) => room.checked_sub(bytes),
        };
        if left.is_none() {
            plan.fired += 1;
            return Err(self.error(StoreOp::PutNew, name, StoreErrorKind::NoSpace));
        }
        plan.room = left;
        Ok(())
    }
}

impl Plan {
    fn chance(&self) -> f64 {
        self.entropy.next_u64() as f64 / u64::MAX as f64
    }

    /// The fault due at call number `calls` by count, not by chance.
    fn due(&self) -> Option<Fault> {
        match (self.fail_call, self.fail_every) {
            (Some((at, fault)), _) if at == self.calls => Some(fault),
            (_, Some((n, fault))) if (self.calls + 1).is_multiple_of(n) => Some(fault),
            _ => None,
        }
    }

    fn truncates_next(&self) -> bool {
        self.due() == Some(Fault::Truncate)
    }

    /// What happens to the next call: how long it waits and how it fails.
    fn next_call(&mut self) -> (Duration, Option<Fault>) {
        let delay =
            if self.delay_max.is_zero() { Duration::ZERO } else { self.delay_max.mul_f64(self.chance()) };
        let mut fault = self.due();
        if fault.is_none() && self.fail_share > 0.0 && self.chance() < self.fail_share {
            fault = Some(if self.chance() < 0.5 { Fault::FailBefore } else { Fault::FailAfter });
        }
        self.calls += 1;
        self.fired += u64::from(fault.is_some());
        (delay, fault)
    }
}

impl Store for FaultStore {
    fn put_new<'a>(&'a self, name: &'a str, body: Bytes) -> BoxFuture<'a, Result<(), StoreError>> {
        Box::pin(self.run(StoreOp::PutNew, name, async move {
            self.take_room(name, body.len() as u64)?;
            self.create(name, body).await
        }))
    }

    fn get<'a>(&'a self, name: &'a str, max_bytes: u64) -> BoxFuture<'a, Result<Bytes, StoreError>> {
        Box::pin(self.run_read(StoreOp::Get, name, self.inner.get(name, max_bytes)))
    }

    fn get_range<'a>(&'a self, name: &'a str, range: Range<u64>) -> BoxFuture<'a, Result<Bytes, StoreError>> {
        Box::pin(self.run_read(StoreOp::GetRange, name, self.inner.get_range(name, range)))
    }

    fn head<'a>(&'a self, name: &'a str) -> BoxFuture<'a, Result<ObjectInfo, StoreError>> {
        Box::pin(self.run(StoreOp::Head, name, self.inner.head(name)))
    }

    fn list<'a>(&'a self, prefix: &'a str) -> BoxStream<'a, Result<ObjectInfo, StoreError>> {
        let begin = async move {
            self.run(StoreOp::List, prefix, async {
                let listing = self.inner.list(prefix);
                Ok(listing.try_filter(|info| std::future::ready(!self.is_hidden(&info.name))))
            })
            .await
        };
        stream::once(begin).try_flatten().boxed()
    }

    fn first<'a>(&'a self, prefix: &'a str) -> BoxFuture<'a, Result<Option<ObjectInfo>, StoreError>> {
        Box::pin(self.run(StoreOp::First, prefix, async move {
            let first = self.inner.first(prefix).await?;
            if first.as_ref().is_none_or(|info| !self.is_hidden(&info.name)) {
                return Ok(first);
            }
            let mut names: Vec<ObjectInfo> = self.inner.list(prefix).try_collect().await?;
            names.retain(|info| !self.is_hidden(&info.name));
            Ok(names.into_iter().min())
        }))
    }

    fn delete<'a>(&'a self, name: &'a str) -> BoxFuture<'a, Result<(), StoreError>> {
        Box::pin(self.run(StoreOp::Delete, name, self.inner.delete(name)))
    }

    fn url(&self) -> String {
        self.inner.url()
    }

    fn bucket_settings(&self) -> BoxFuture<'_, BucketSettings> {
        self.inner.bucket_settings()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::MemoryStore;

    fn faulty() -> FaultStore {
        FaultStore::new(Arc::new(MemoryStore::default()), 1)
    }

    async fn put(store: &FaultStore, name: &str) -> Result<(), StoreErrorKind> {
        store.put_new(name, Bytes::from_static(b"body")).await.map_err(|error| error.kind)
    }

    #[tokio::test]
    async fn a_call_fails_before_or_after_its_effect() {
        for (fault, exists) in [(Fault::FailBefore, false), (Fault::FailAfter, true)] {
            let store = faulty();
            store.fail_call(1, fault);
            assert_eq!(put(&store, "a").await, Ok(()));
            assert_eq!(put(&store, "b").await, Err(StoreErrorKind::Unavailable));
            assert_eq!(store.head("b").await.is_ok(), exists, "{fault:?}");
            assert!(store.fired());
        }
    }

    #[tokio::test]
    async fn every_nth_call_fails_and_reads_come_back_short() {
        let store = faulty();
        put(&store, "a").await.unwrap();
        store.fail_every(Some((2, Fault::Truncate)));
        assert_eq!(store.get("a", 10).await.unwrap(), "body");
        assert_eq!(store.get("a", 10).await.unwrap(), "bo");
        assert_eq!(store.get_range("a", 0..4).await.unwrap(), "body");
        let error = store.get_range("a", 0..4).await.unwrap_err();
        assert_eq!(error.kind, StoreErrorKind::Truncated { expected: 4, found: 2 });
    }

    #[tokio::test]
    async fn a_full_store_takes_no_more_until_it_has_room() {
        let store = faulty();
        store.full_after(Some(5));
        assert_eq!(put(&store, "a").await, Ok(()));
        assert_eq!(put(&store, "b").await, Err(StoreErrorKind::NoSpace));
        store.full_after(None);
        assert_eq!(put(&store, "b").await, Ok(()));
    }

    #[tokio::test]
    async fn hidden_names_are_not_listed_and_still_read() {
        let store = faulty();
        for name in ["x/a", "x/b"] {
            put(&store, name).await.unwrap();
        }
        store.hide_from_list("x/a");
        let names: Vec<_> = store.list("x/").map_ok(|info| info.name).try_collect().await.unwrap();
        assert_eq!(names, ["x/b"]);
        assert_eq!(store.first("x/").await.unwrap().unwrap().name, "x/b");
        assert!(store.get("x/a", 10).await.is_ok());
    }

    #[tokio::test]
    async fn the_same_seed_gives_the_same_faults() {
        let mut runs = Vec::new();
        for _ in 0..2 {
            let store = FaultStore::new(Arc::new(MemoryStore::default()), 77);
            store.fail_randomly(0.3);
            let mut outcomes = Vec::new();
            for n in 0..40 {
                outcomes.push(put(&store, &format!("{n}")).await.is_ok());
            }
            runs.push(outcomes);
        }
        assert_eq!(runs[0], runs[1]);
        assert!(runs[0].contains(&true) && runs[0].contains(&false));
    }
}
