//! The local cache of backups (`--cache-dir`): what it saves, and that nothing that happens to it makes a
//! backup wrong.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Stdio;

use serde_json::Value;

use crate::documents::is_documented;
use crate::harness::{Cli, noise, snapshot};

/// Length of the stream that is backed up each day.
const LENGTH: usize = 12 << 20;
/// One change in so many bytes: every chunk or every other one changes, and is read as a base.
const CHANGED_EVERY: usize = 200_000;

/// The stream after `day` days: a generator's own bytes, which do not compress, with some replaced.
fn day(day: u64) -> Vec<u8> {
    let mut data = noise(LENGTH);
    for change in data.chunks_exact_mut(CHANGED_EVERY) {
        change[500..508].copy_from_slice(&day.to_le_bytes());
    }
    data
}

/// Takes the backup of a day with these arguments more; its document.
fn back_up(cli: &Cli, n: u64, arguments: &[&str]) -> Value {
    let backup = ["backup", "--cluster", "main", "--stdin-as", "dump", "--json", "-j", "1"];
    let document = cli.run_with_input(&[&backup[..], arguments].concat(), &day(n)).ok().json();
    is_documented(&document);
    document
}

fn is_whole(cli: &Cli, n: u64) {
    let back = cli.run(&["restore", "main/latest", "--tar", "-", "--quiet"]).ok();
    assert!(back.stdout == day(n), "day {n} comes back otherwise");
}

/// A repository of two days, and a cache that holds what the third wants.
fn two_days() -> Cli {
    let cli = Cli::with_repository();
    let cache = cli.path("cache");
    for n in 0..2 {
        back_up(&cli, n, &["--cache-dir", text(&cache)]);
    }
    cli
}

fn text(path: &Path) -> &str {
    path.to_str().expect("temporary paths are text")
}

fn number(document: &Value, path: &str) -> u64 {
    document.pointer(path).and_then(Value::as_u64).unwrap_or_else(|| panic!("{path}: {document}"))
}

/// Both stored the same. The names of packs in an index object are random, and compress as they like.
fn stored_the_same(one: &Value, other: &Value, what: &str) {
    let without_length = |document: &Value| {
        let mut stats = document["stats"].clone();
        stats.as_object_mut().expect("an object").remove("stored_bytes");
        stats
    };
    assert_eq!(without_length(one), without_length(other), "{what}");
    let length = |document: &Value| number(document, "/stats/stored_bytes");
    assert!(length(one).abs_diff(length(other)) < 100, "{what}: {one}, {other}");
}

/// All files of the cache.
fn blocks(cache: &Path) -> Vec<PathBuf> {
    let all = snapshot(cache).into_iter().map(|(path, _)| path);
    all.filter(|path| path.extension().is_some_and(|suffix| suffix == "block")).collect()
}

/// Makes the repository what it was.
fn put_back(cli: &Cli, kept: &[(PathBuf, Vec<u8>)]) {
    fs::remove_dir_all(cli.repo()).expect("removed");
    for (path, bytes) in kept {
        fs::create_dir_all(path.parent().expect("below")).expect("made");
        fs::write(path, bytes).expect("written");
    }
}

#[test]
fn the_next_day_asks_the_store_for_little_and_stores_the_same() {
    let cli = two_days();
    let repository = snapshot(&cli.repo());
    let plain = back_up(&cli, 2, &[]);
    assert_eq!(plain["cache"], Value::Null);
    is_whole(&cli, 2);
    put_back(&cli, &repository);
    let cached = back_up(&cli, 2, &["--cache-dir", text(&cli.path("cache"))]);
    is_whole(&cli, 2);
    stored_the_same(&cached, &plain, "with a cache and without");
    let (without, with) = (number(&plain, "/store_read_bytes"), number(&cached, "/store_read_bytes"));
    assert!(without > 4 << 20, "there is something to be saved: {without}");
    assert!(with * 20 < without, "{with} bytes from the store, {without} without a cache");
    assert!(number(&cached, "/cache/hit_bytes") * 10 > without * 9, "{cached}");
    assert_eq!((number(&cached, "/cache/misses"), number(&cached, "/cache/damaged")), (0, 0), "{cached}");
}

#[test]
fn whatever_happens_to_the_cache_the_backup_is_the_same_and_says_what_was_wrong() {
    let cli = two_days();
    let (repository, cache) = (snapshot(&cli.repo()), cli.path("cache"));
    let kept = snapshot(&cache);
    let expected = back_up(&cli, 2, &[]);
    let flip = |path: &PathBuf| {
        let mut bytes = fs::read(path).expect("read");
        let middle = bytes.len() / 2;
        bytes[middle] ^= 1;
        fs::write(path, bytes).expect("written");
    };
    let disturbances: [(&str, &dyn Fn()); 5] = [
        ("untouched", &|| {}),
        ("removed", &|| fs::remove_dir_all(&cache).expect("removed")),
        ("every file damaged", &|| blocks(&cache).iter().for_each(flip)),
        ("every file empty", &|| {
            blocks(&cache).iter().for_each(|path| fs::write(path, "").expect("written"))
        }),
        ("a file in its place", &|| {
            fs::remove_dir_all(&cache).expect("removed");
            fs::write(&cache, "").expect("written");
        }),
    ];
    for (what, disturb) in disturbances {
        put_back(&cli, &repository);
        let _ = fs::remove_file(&cache);
        let _ = fs::remove_dir_all(&cache);
        for (path, bytes) in &kept {
            fs::create_dir_all(path.parent().expect("below")).expect("made");
            fs::write(path, bytes).expect("written");
        }
        let files = blocks(&cache).len() as u64;
        disturb();
        let document = back_up(&cli, 2, &["--cache-dir", text(&cache)]);
        stored_the_same(&document, &expected, what);
        is_whole(&cli, 2);
        let damaged = number(&document, "/cache/damaged");
        match what {
            "untouched" => assert_eq!((damaged, number(&document, "/cache/misses")), (0, 0), "{document}"),
            "removed" => assert!(damaged == 0 && !blocks(&cache).is_empty(), "{document}"),
            "a file in its place" => {
                let fault = document.pointer("/cache/fault").and_then(Value::as_str);
                assert!(fault.is_some_and(|fault| fault.contains(text(&cache))), "{document}");
            }
            _ => assert!(damaged > files / 2, "{damaged} of {files}: {document}"),
        }
        if what != "a file in its place" {
            assert_eq!(document["cache"]["fault"], Value::Null, "{what}");
        }
    }
    let account = ["backup", "--cluster", "main", "--stdin-as", "dump", "--cache-dir", text(&cache)];
    let said = cli.run_with_input(&account, &day(3)).ok();
    assert!(said.text().contains("nothing more is kept"), "{}", said.text());
}

#[test]
fn a_cache_that_is_too_small_stays_within_its_bound_and_one_that_can_keep_nothing_is_refused() {
    let cli = Cli::with_repository();
    let cache = cli.path("cache");
    let limits = ["--cache-dir", text(&cache), "--cache-size", "8MiB"];
    for n in 0..3 {
        let document = back_up(&cli, n, &limits);
        let taken: u64 = blocks(&cache).iter().map(|path| path.metadata().expect("there").len()).sum();
        assert!(taken <= 8 << 20, "{taken} bytes: {document}");
        is_whole(&cli, n);
    }
    assert!(!blocks(&cache).is_empty());
    let backup = ["backup", "--cluster", "main", "--stdin-as", "dump"];
    for size in ["1MiB", "0", "many"] {
        cli.run_with_input(&[&backup[..], &["--cache-dir", "x", "--cache-size", size]].concat(), b"x")
            .with_code(2);
    }
    let alone = cli.run_with_input(&[&backup[..], &["--cache-size", "1GiB"]].concat(), b"x").with_code(2);
    assert!(alone.stderr.contains("CAPY_CACHE_DIR"), "{}", alone.stderr);
}

#[test]
fn the_directory_may_be_named_in_the_environment_and_is_its_owners_alone() {
    use std::os::unix::fs::PermissionsExt;
    let mut cli = Cli::with_repository();
    let cache = cli.path("deep/cache");
    cli.set_variable("CAPY_CACHE_DIR", text(&cache).to_owned());
    for n in 0..2 {
        assert_eq!(back_up(&cli, n, &[])["cache"]["fault"], Value::Null);
    }
    let mode = |path: &Path| path.metadata().expect("there").permissions().mode() & 0o777;
    let blocks = blocks(&cache);
    assert!(blocks.iter().all(|block| mode(block) == 0o600));
    let below = blocks.first().and_then(|block| block.parent()).expect("there is one");
    assert_eq!([below, &cache, &cli.path("deep")].map(mode), [0o700; 3]);
}

#[test]
fn processes_and_repositories_share_one_cache() {
    let (one, two) = (two_days(), Cli::with_repository());
    let cache = one.path("cache");
    let small = ["--cache-dir", text(&cache), "--cache-size", "16MiB"];
    // The other repository has objects of its own, and finds none of the first's.
    let first = back_up(&two, 0, &small);
    assert_eq!((number(&first, "/cache/hits"), number(&first, "/cache/damaged")), (0, 0), "{first}");
    for n in 2..4 {
        let running: Vec<_> = [(&one, "main"), (&one, "beside"), (&two, "main")]
            .into_iter()
            .map(|(cli, cluster)| {
                let input = cli.path(&format!("{cluster}.{n}"));
                fs::write(&input, day(n)).expect("written");
                let backup = ["backup", "--cluster", cluster, "--stdin-as", "dump", "--json"];
                cli.command(&[&backup[..], &small].concat())
                    .stdin(fs::File::open(&input).expect("just written"))
                    .stdout(Stdio::piped())
                    .spawn()
                    .expect("the binary runs")
            })
            .collect();
        for run in running {
            let output = run.wait_with_output().expect("it ends");
            assert!(output.status.success());
            let document: Value = serde_json::from_slice(&output.stdout).expect("a document");
            assert_eq!(document["cache"]["fault"], Value::Null, "{document}");
            assert_eq!(number(&document, "/cache/damaged"), 0, "{document}");
        }
        is_whole(&one, n);
        is_whole(&two, n);
    }
    for cli in [&one, &two] {
        cli.run(&["verify", "--level", "full"]).ok();
    }
}
