//! Asynchronous push and fetching ahead as whole processes beside a real server: workers that are
//! killed at random moments, stores that are away, spools that cannot be written.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use capy_testkit::postgres::{Cluster, text};
use rustix::process::{Pid, Signal, kill_process};

use crate::archiving::{Archiving, until};
use crate::harness::Run;

/// A server of 1 MiB segments that archives through a spool, and keeps the segments it wrote.
struct Spooling {
    archiving: Archiving,
    options: String,
}

impl Spooling {
    fn start() -> Self {
        let server = Cluster::builder().initdb(&["--wal-segsize=1"]).setting("wal_keep_size = 1GB");
        let archiving = Archiving::start_without_command(server);
        let spool = archiving.path("spool");
        let options = format!("--spool {} --timeout 10", text(&spool));
        let spooling = Self { archiving, options };
        let command = spooling.archiving.archive_command();
        let command = command.replace(" %p", &format!(" {} %p", spooling.options));
        spooling.archiving.set("archive_command", &command);
        spooling
    }

    fn pgwal(&self) -> PathBuf {
        self.archiving.server.data().join("pg_wal")
    }

    fn spool(&self) -> PathBuf {
        self.archiving.path("spool/main")
    }

    /// Where the archive keeps a segment of the first timeline.
    fn object(&self, segment: &str) -> PathBuf {
        self.archiving.path("repo/wal/main/00000001").join(segment)
    }

    /// Lets the server finish `count` segments.
    fn finish_segments(&self, count: u32) {
        let sql = "select pg_logical_emit_message(false, 'test', repeat(md5(random()::text), 20000)), \
                   pg_switch_wal() from generate_series(1, ";
        self.archiving.server.sql(&format!("{sql}{count})"));
    }

    /// The segments the server knows to be in this state, `ready` or `done`.
    fn segments(&self, state: &str) -> BTreeSet<String> {
        segments_with(&self.pgwal().join("archive_status"), state)
    }

    fn until_nothing_waits(&self) {
        until("nothing waits", || self.segments("ready").is_empty());
    }

    /// Whatever is acknowledged, to the server or in the spool, is in the archive.
    fn assert_acknowledged_is_archived(&self) {
        // The objects are looked at last: meanwhile more may be acknowledged, none may go.
        let mut acknowledged = self.segments("done");
        acknowledged.extend(segments_with(&self.spool(), "ok"));
        for segment in acknowledged {
            assert!(self.object(&segment).exists(), "{segment} is acknowledged and not archived");
        }
    }

    /// Fetches a file by itself.
    fn fetch(&self, segment: &str, target: &Path) -> Run {
        self.archiving.run(&["wal", "fetch", "--cluster", "main", segment, text(target)])
    }

    fn status(&self) -> Run {
        let (pgwal, spool) = (self.pgwal(), self.archiving.path("spool"));
        let status = ["wal", "status", "--cluster", "main", "--json", "--pgwal", text(&pgwal)];
        self.archiving.run(&[&status, &["--spool", text(&spool)][..]].concat())
    }

    /// Pushes one file as the server would, with options of one's own.
    fn push(&self, file: &Path, spool: &Path, timeout: &str) -> Run {
        let push = ["wal", "push", "--cluster", "main", "--spool", text(spool), "--timeout", timeout];
        self.archiving.run(&[&push, &[text(file)][..]].concat())
    }

    /// A directory that holds a copy of an archived segment under its name.
    fn copy_of(&self, segment: &str, name: &str) -> PathBuf {
        let directory = self.archiving.server.make_directory(name);
        let copy = directory.join(segment);
        let mut copying = self.archiving.command("cp");
        Archiving::finish(copying.args([text(&self.pgwal().join(segment)), text(&copy)])).ok();
        copy
    }
}

fn segments_with(directory: &Path, suffix: &str) -> BTreeSet<String> {
    let entries = std::fs::read_dir(directory).into_iter().flatten().flatten();
    let names = entries.filter_map(|entry| entry.file_name().into_string().ok());
    let stems = names.filter_map(|name| Some(name.strip_suffix(&format!(".{suffix}"))?.to_owned()));
    stems.filter(|stem| stem.len() == 24).collect()
}

/// The processes of the built binary that have `word` in their command line and work in `place`.
fn workers(word: &str, place: &Path) -> Vec<Pid> {
    let processes = std::fs::read_dir("/proc").expect("read").flatten();
    let numbers = processes.filter_map(|entry| entry.file_name().to_str()?.parse::<i32>().ok());
    let ours = numbers.filter(|number| {
        let line = std::fs::read(format!("/proc/{number}/cmdline")).unwrap_or_default();
        let line = String::from_utf8_lossy(&line).into_owned();
        let words: Vec<_> = line.split('\0').collect();
        words.contains(&word) && words.contains(&text(place))
    });
    ours.filter_map(Pid::from_raw).collect()
}

/// Kills whichever worker there is; says whether there was one.
fn kill_worker(word: &str, place: &Path) -> bool {
    let found = workers(word, place);
    found.iter().filter(|pid| kill_process(**pid, Signal::KILL).is_ok()).count() > 0
}

/// Moments to kill at: a plain generator, its seed printed.
struct Random(u64);

impl Random {
    fn new() -> Self {
        let seed = u64::from(std::process::id());
        println!("seed {seed}");
        Self(seed)
    }

    fn below(&mut self, limit: u64) -> u64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % limit
    }

    fn sleep(&mut self) {
        std::thread::sleep(std::time::Duration::from_millis(self.below(120)));
    }
}

#[test]
fn a_worker_killed_at_any_moment_loses_nothing_and_acknowledges_nothing_that_is_not_there() {
    let spooling = Spooling::start();
    let (mut random, mut killed) = (Random::new(), 0);
    for _ in 0..15 {
        spooling.finish_segments(1 + u32::try_from(random.below(5)).expect("small"));
        random.sleep();
        killed += u32::from(kill_worker("spool-worker", &spooling.archiving.path("spool")));
        spooling.assert_acknowledged_is_archived();
    }
    assert!(killed > 0, "no worker was met");
    spooling.until_nothing_waits();
    let done = spooling.segments("done");
    assert!(done.len() >= 15, "{done:?}");
    let back = spooling.archiving.path("back");
    for segment in &done {
        spooling.fetch(segment, &back).ok();
        let original = std::fs::read(spooling.pgwal().join(segment)).expect("the server keeps it");
        assert!(std::fs::read(&back).expect("fetched") == original, "{segment}");
    }
    assert_eq!(
        spooling.archiving.server.sql("select count(*) from pg_stat_archiver where failed_count > 0"),
        "0"
    );
}

#[test]
fn while_the_store_is_away_pushes_fail_countably_the_lag_shows_and_then_it_drains() {
    let spooling = Spooling::start();
    spooling.finish_segments(2);
    spooling.until_nothing_waits();
    let first = spooling.segments("done").first().expect("one").clone();
    let (repo, away) = (spooling.archiving.path("repo"), spooling.archiving.path("away"));
    std::fs::rename(&repo, &away).expect("moved away");
    spooling.finish_segments(4);
    // What the server's archiver dies of is not counted: a code above 125 would never be seen here.
    until("a counted failure", || {
        spooling.archiving.server.sql("select failed_count > 0 from pg_stat_archiver") == "t"
    });
    assert!(!repo.exists(), "nothing is made where the repository was");
    let waiting = spooling.segments("ready");
    assert!(waiting.len() >= 4, "{waiting:?}");
    let oldest = waiting.first().expect("one");
    let pushed = spooling.push(&spooling.pgwal().join(oldest), &spooling.archiving.path("spool"), "5");
    assert!((1..=125).contains(&pushed.code), "{}: {}", pushed.code, pushed.stderr);

    let status = spooling.status();
    assert_eq!(status.code, 1, "{}", status.stderr);
    let status = status.json();
    let server = &status["server"];
    assert_eq!(server["ready"].as_u64(), Some(waiting.len() as u64), "{status}");
    assert_eq!(server["oldest_ready"]["file"].as_str(), Some(oldest.as_str()), "{status}");
    assert!(server["rates"]["generated_per_minute"].as_f64().is_some_and(|rate| rate > 0.0), "{status}");
    assert!(server["full_in_seconds"].as_u64().is_some(), "{status}");
    assert!(!status["problems"].as_array().expect("a list").is_empty(), "{status}");

    // Nor does an outage say that a file is absent.
    let target = spooling.archiving.path("back");
    for segment in [first.as_str(), "0000000100000000000000F0"] {
        spooling.fetch(segment, &target).with_code(126);
    }

    std::fs::rename(&away, &repo).expect("moved back");
    spooling.finish_segments(1);
    until("it drains", || spooling.segments("ready").is_empty());
    assert!(spooling.segments("done").is_superset(&waiting));
    spooling.assert_acknowledged_is_archived();
    let status = spooling.status().json();
    assert_eq!(status["server"]["unarchived"].as_u64(), Some(0), "{status}");
    assert!(status["server"]["rates"]["drained_per_minute"].as_f64().is_some_and(|rate| rate > 0.0));
    assert_eq!(status["spool"]["failing"].as_array().map(Vec::len), Some(0), "{status}");
}

#[test]
fn spools_that_cannot_be_used_and_files_that_contradict_the_archive_are_never_acknowledged() {
    let spooling = Spooling::start();
    spooling.finish_segments(2);
    spooling.until_nothing_waits();
    let segment = spooling.segments("done").first().expect("one").clone();
    let refused = |run: Run, says: &str| {
        assert!((1..=125).contains(&run.code), "{}: {}", run.code, run.stderr);
        assert!(run.stderr.contains(says), "{}", run.stderr);
    };

    // The same content again, from elsewhere: a worker of its own finds it there.
    let copy = spooling.copy_of(&segment, "again");
    let own = spooling.archiving.path("own");
    let pushed = spooling.push(&copy, &own, "30").ok();
    assert!(pushed.text().contains("archived already, with the same content"), "{}", pushed.text());

    // Another content.
    let other = spooling.copy_of(&segment, "other");
    let mut bytes = std::fs::read(&other).expect("read");
    *bytes.last_mut().expect("not empty") ^= 1;
    std::fs::write(&other, bytes).expect("written");
    refused(spooling.push(&other, &spooling.archiving.path("others"), "30").with_code(4), "another content");
    let status = spooling.status().with_code(1).json();
    let conflicts = status["archive"]["conflicts"].as_array().expect("a list");
    assert_eq!(conflicts.len(), 1, "{status}");

    // A spool in which nothing can be made, and one on a disk that takes no byte more.
    let locked = spooling.archiving.server.make_directory("locked");
    std::fs::set_permissions(&locked, std::os::unix::fs::PermissionsExt::from_mode(0o500)).expect("set");
    refused(spooling.push(&copy, &locked, "5"), "the spool");
    let full = spooling.archiving.path("full");
    let mut limited = spooling.archiving.command("sh");
    limited.args(["-c", "trap '' XFSZ; ulimit -f 0; exec \"$0\" \"$@\"", env!("CARGO_BIN_EXE_capy-store")]);
    let (repo, key) = (spooling.archiving.path("repo"), spooling.archiving.path("key"));
    limited.args(["--repo", text(&repo), "--key-file", text(&key), "wal", "push", "--cluster", "main"]);
    limited.args(["--spool", text(&full), "--timeout", "5", text(&copy)]);
    refused(Archiving::finish(&mut limited), "the spool");

    // A second worker finds the first one, and does nothing.
    let worker = || workers("spool-worker", &spooling.archiving.path("spool"));
    spooling.finish_segments(1);
    spooling.until_nothing_waits();
    let before = worker();
    let (pgwal, spool) = (spooling.pgwal(), spooling.archiving.path("spool"));
    let second = ["wal", "spool-worker", "--cluster", "main", "--spool", text(&spool), "--pgwal"];
    spooling.archiving.run(&[&second, &[text(&pgwal)][..]].concat()).ok();
    assert_eq!((before.len(), worker()), (1, before));
    for (place, word) in [(&own, "own"), (&spooling.archiving.path("others"), "others")] {
        assert!(kill_worker("spool-worker", place), "{word}");
    }
    kill_worker("spool-worker", &spool);
}

#[test]
fn recovery_gets_every_byte_whatever_becomes_of_the_worker_ahead_of_it() {
    let spooling = Spooling::start();
    spooling.finish_segments(24);
    spooling.until_nothing_waits();
    let done: Vec<_> = spooling.segments("done").into_iter().collect();
    // A data directory by its looks: what is ahead is kept as long as it recovers.
    let copy = spooling.archiving.server.make_directory("copy");
    std::fs::write(copy.join("standby.signal"), "").expect("written");
    let beside = spooling.archiving.server.make_directory("copy/pg_wal");
    let target = beside.join("RECOVERYXLOG");
    let is_right = |segment: &str| {
        let original = std::fs::read(spooling.pgwal().join(segment)).expect("the server keeps it");
        assert!(std::fs::read(&target).expect("fetched") == original, "{segment}");
    };
    let ahead = |segment: &str| {
        let entries = |path: &Path| std::fs::read_dir(path).into_iter().flatten().flatten();
        let files = entries(&beside.join(".capy-fetch")).flat_map(|place| entries(&place.path()));
        let mut paths = files.map(|entry| entry.path());
        paths.find(|path| path.file_stem().is_some_and(|stem| stem == segment))
    };
    let (mut random, mut killed) = (Random::new(), 0);
    for segment in &done {
        spooling.fetch(segment, &target).ok();
        is_right(segment);
        if random.below(3) == 0 {
            random.sleep();
            killed += u32::from(kill_worker("prefetch-worker", &beside));
        }
    }
    assert!(killed > 0, "no worker was met");

    // Not there yet, then there: absent is the archive's word of that moment.
    let last = done.last().expect("many").clone();
    spooling.archiving.server.sql("select pg_logical_emit_message(false, 'test', 'x')");
    let next = spooling.archiving.server.sql("select pg_walfile_name(pg_current_wal_insert_lsn())");
    assert!(next > last);
    spooling.fetch(&next, &target).with_code(1);
    spooling.finish_segments(1);
    until(&next, || spooling.object(&next).exists());
    spooling.fetch(&next, &target).ok();
    is_right(&next);

    // Changed on disk since it was fetched ahead.
    let (first, second, third) = (&done[0], &done[1], &done[2]);
    spooling.fetch(first, &target).ok();
    until("the next one is ahead", || ahead(second).is_some() && ahead(third).is_some());
    let path = ahead(second).expect("there");
    let mut bytes = std::fs::read(&path).expect("read");
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    std::fs::write(&path, bytes).expect("written");
    spooling.fetch(second, &target).ok();
    is_right(second);

    // The store goes away: what is ahead is right, and the rest is a fault.
    until("the third is ahead", || ahead(third).is_some());
    let (repo, away) = (spooling.archiving.path("repo"), spooling.archiving.path("away"));
    std::fs::rename(&repo, &away).expect("moved away");
    spooling.fetch(third, &target).ok();
    is_right(third);
    spooling.fetch("0000000100000000000000F0", &target).with_code(126);
    std::fs::rename(&away, &repo).expect("moved back");
    spooling.fetch("0000000100000000000000F0", &target).with_code(1);
    kill_worker("prefetch-worker", &beside);
}
