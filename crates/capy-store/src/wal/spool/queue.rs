//! What is to be archived next. No input or output: the worker lists, this decides.
//!
//! The order is the server's: timeline histories first, then by name. A file that was asked for
//! goes before all others. A file that fails waits longer and longer and holds up no other; but
//! when several fail, something is wrong with all of them, and only what is asked for is tried.

use std::collections::{HashMap, HashSet, VecDeque};
use std::time::{Duration, Instant};

use capy_types::{ErrorKind, WalFile, WalFileKind};

/// Files uploaded ahead of the server's asking: at 16 MiB each this is 16 GiB of WAL, more than a
/// server asks for in a minute.
pub(super) const AHEAD_MAX: usize = 1000;
/// Failing files at which nothing is tried any more that was not asked for: each try reads a
/// segment, and files that conflict are kept in the store.
const FAILING_MAX: usize = 8;
/// The pause after a first failure; it doubles with each further one.
const BACKOFF_FIRST: Duration = Duration::from_secs(1);
/// The longest pause after the store did not answer: it may be back any moment.
const BACKOFF_STORE_MAX: Duration = Duration::from_secs(30);
/// The longest pause of a file that was refused: somebody must do something first.
const BACKOFF_FILE_MAX: Duration = Duration::from_secs(3600);

/// Files to be archived, and what became of those that were tried.
#[derive(Debug, Default)]
pub(super) struct Queue {
    asked: VecDeque<WalFile>,
    /// What the server waits for, in order.
    ready: VecDeque<WalFile>,
    /// Acknowledged, and still waited for.
    done: HashSet<WalFile>,
    failing: HashMap<WalFile, Backoff>,
    /// Set while the store does not answer.
    store: Option<Backoff>,
}

/// How long something is left alone.
#[derive(Debug, Clone, Copy)]
struct Backoff {
    attempts: u32,
    until: Instant,
}

impl Backoff {
    fn after(before: Option<Self>, now: Instant, longest: Duration) -> Self {
        let attempts = before.map_or(0, |b| b.attempts).saturating_add(1);
        let pause = BACKOFF_FIRST.saturating_mul(1 << (attempts - 1).min(20)).min(longest);
        Self { attempts, until: now + pause }
    }
}

/// Whether a failure says something about the file, or about everything.
pub(super) const fn is_of_one_file(kind: ErrorKind) -> bool {
    matches!(kind, ErrorKind::Invalid | ErrorKind::Conflict | ErrorKind::Corrupt | ErrorKind::Internal)
}

/// The server's order: histories first, so that a timeline is known before its WAL; then by name.
pub(super) fn order(a: &WalFile, b: &WalFile) -> std::cmp::Ordering {
    let key = |file: &WalFile| file.kind() != WalFileKind::History;
    key(a).cmp(&key(b)).then_with(|| a.as_str().cmp(b.as_str()))
}

impl Queue {
    /// Takes note of all files the server waits to have archived.
    pub(super) fn list(&mut self, mut ready: Vec<WalFile>) {
        ready.sort_unstable_by(order);
        ready.truncate(AHEAD_MAX);
        self.done.retain(|file| ready.binary_search_by(|other| order(other, file)).is_ok());
        self.failing.retain(|file, _| ready.binary_search_by(|other| order(other, file)).is_ok());
        self.ready = ready.into_iter().filter(|file| !self.done.contains(file)).collect();
    }

    /// A file that somebody waits for now.
    pub(super) fn ask(&mut self, file: WalFile) {
        if !self.asked.contains(&file) {
            self.asked.push_back(file);
        }
    }

    /// The next file to try, out of those that are not `busy`.
    pub(super) fn next(&mut self, now: Instant, busy: impl Fn(&WalFile) -> bool) -> Option<WalFile> {
        if let Some(at) = self.asked.iter().position(|file| !busy(file)) {
            return self.asked.remove(at);
        }
        let is_due = |backoff: &Backoff| backoff.until <= now;
        if self.store.as_ref().is_some_and(|backoff| !is_due(backoff)) {
            return None;
        }
        let hopeless = self.failing.len() >= FAILING_MAX;
        let at = self.ready.iter().position(|file| {
            let may = match self.failing.get(file) {
                Some(backoff) => is_due(backoff),
                None => !hopeless,
            };
            may && !busy(file)
        })?;
        self.ready.remove(at)
    }

    /// Whether something will be tried sooner or later.
    pub(super) fn is_idle(&self) -> bool {
        self.asked.is_empty() && self.ready.is_empty()
    }

    /// `file` is durable and acknowledged.
    pub(super) fn succeeded(&mut self, file: &WalFile) {
        self.done.insert(file.clone());
        self.ready.retain(|other| other != file);
        self.store = None;
        if self.failing.remove(file).is_some() {
            // What was wrong with it may have been wrong with the others.
            for backoff in self.failing.values_mut() {
                backoff.attempts = 0;
            }
            if let Some(soon) = self.failing.values().map(|backoff| backoff.until).min() {
                self.failing.values_mut().for_each(|backoff| backoff.until = soon);
            }
        }
    }

    /// `file` could not be archived. Returns how often that happened now.
    pub(super) fn failed(&mut self, file: &WalFile, kind: ErrorKind, now: Instant) -> u32 {
        self.done.remove(file);
        if !is_of_one_file(kind) {
            let backoff = Backoff::after(self.store, now, BACKOFF_STORE_MAX);
            self.store = Some(backoff);
            return backoff.attempts;
        }
        let before = self.failing.get(file).copied();
        let backoff = Backoff::after(before, now, BACKOFF_FILE_MAX);
        self.failing.insert(file.clone(), backoff);
        backoff.attempts
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file(name: &str) -> WalFile {
        name.parse().expect(name)
    }

    fn segment(number: usize) -> WalFile {
        file(&format!("0000000100000000{number:08X}"))
    }

    fn drain(queue: &mut Queue, now: Instant) -> Vec<String> {
        std::iter::from_fn(|| queue.next(now, |_| false)).map(|file| file.to_string()).collect()
    }

    #[test]
    fn histories_come_first_then_names_and_what_is_asked_for_before_all() {
        let mut queue = Queue::default();
        let names = ["000000020000000000000003", "000000010000000000000003.partial", "00000002.history"];
        queue.list(names.map(file).to_vec());
        queue.ask(segment(9));
        let order = [
            "000000010000000000000009",
            "00000002.history",
            "000000010000000000000003.partial",
            "000000020000000000000003",
        ];
        assert_eq!(drain(&mut queue, Instant::now()), order);
    }

    #[test]
    fn a_thousand_files_ahead_and_no_more() {
        let mut queue = Queue::default();
        let all: Vec<_> = (0..3 * AHEAD_MAX).rev().map(segment).collect();
        queue.list(all.clone());
        let now = Instant::now();
        let first = drain(&mut queue, now);
        assert_eq!((first.len(), first[0].as_str()), (AHEAD_MAX, segment(0).as_str()));
        (0..AHEAD_MAX).for_each(|n| queue.succeeded(&segment(n)));
        queue.list(all.clone());
        assert!(queue.is_idle(), "the server has asked for none of them");
        queue.list(all[..all.len() - 10].to_vec());
        assert_eq!(drain(&mut queue, now).len(), 10);
    }

    #[test]
    fn a_refused_file_waits_longer_and_longer_and_holds_up_no_other() {
        let mut queue = Queue::default();
        let now = Instant::now();
        let all = || (1..=3).map(segment).collect::<Vec<_>>();
        queue.list(all());
        assert_eq!(queue.next(now, |_| false), Some(segment(1)));
        assert_eq!(queue.failed(&segment(1), ErrorKind::Conflict, now), 1);
        queue.list(all());
        assert_eq!(drain(&mut queue, now), [2, 3].map(|n| segment(n).to_string()));
        for attempt in 2..=5 {
            let later = now + Duration::from_secs(2000 * u64::from(attempt));
            queue.list(all());
            assert_eq!(queue.next(later, |_| false), Some(segment(1)));
            assert_eq!(queue.failed(&segment(1), ErrorKind::Conflict, later), attempt);
            queue.list(all());
            let soon = later + Duration::from_secs((1 << (attempt - 1)) - 1);
            assert!(!drain(&mut queue, soon).contains(&segment(1).to_string()));
        }
        // Asked for, it is tried at once.
        queue.ask(segment(1));
        assert_eq!(queue.next(now, |_| false), Some(segment(1)));
    }

    #[test]
    fn a_store_that_does_not_answer_is_left_alone_for_all_files() {
        let mut queue = Queue::default();
        let now = Instant::now();
        queue.list((1..=3).map(segment).collect());
        let first = queue.next(now, |_| false).expect("a file");
        assert_eq!(queue.failed(&first, ErrorKind::Unavailable, now), 1);
        assert_eq!(queue.next(now, |_| false), None);
        assert_eq!(queue.next(now + BACKOFF_FIRST, |_| false), Some(segment(2)));
        queue.ask(segment(1));
        assert_eq!(queue.next(now, |_| false), Some(segment(1)), "asked for, it is tried at once");
        queue.succeeded(&segment(1));
        assert_eq!(queue.next(now, |_| false), Some(segment(3)), "it answers again");
    }

    #[test]
    fn when_many_fail_only_what_is_asked_for_is_tried() {
        let mut queue = Queue::default();
        let now = Instant::now();
        let all = || (0..100).map(segment).collect::<Vec<_>>();
        let mut tried = 0;
        loop {
            queue.list(all());
            let Some(file) = queue.next(now, |_| false) else { break };
            queue.failed(&file, ErrorKind::Conflict, now);
            tried += 1;
        }
        assert_eq!(tried, FAILING_MAX);
        queue.ask(segment(0));
        assert_eq!(queue.next(now, |_| false), Some(segment(0)));
    }
}
