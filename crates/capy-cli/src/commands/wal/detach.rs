//! Starting a worker of this program that outlives the process the server waits for.
//!
//! The worker is the same binary with the same global options and environment, in a session of its
//! own, with its output in a log file. It gets nothing else of the server's: a descriptor it kept
//! open would hold files that the server has removed.

#![expect(unsafe_code, reason = "a descriptor that was inherited is known by its number only")]

use std::ffi::OsString;
use std::fs::OpenOptions;
use std::os::fd::BorrowedFd;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use rustix::io::{FdFlags, fcntl_setfd};

use crate::args::Global;

/// A log that is longer than this in bytes when a worker starts is put aside, once.
const LOG_MAX_BYTES: u64 = 1 << 20;
/// Keeps the memory of the last file for the next one: giving 100 MB back to the system and asking
/// for it again takes as long as compressing a segment. Names and values are the C library's.
const KEEP_MEMORY: [(&str, &str); 4] = [
    ("MALLOC_ARENA_MAX", "1"),
    ("MALLOC_MMAP_THRESHOLD_", "1073741824"),
    ("MALLOC_TRIM_THRESHOLD_", "536870912"),
    ("MALLOC_TOP_PAD_", "16777216"),
];

/// Starts `capy-store <global options> wal <words>`.
pub(super) fn start(global: &Global, words: Vec<OsString>, log: &Path) -> std::io::Result<()> {
    put_long_log_aside(log);
    let output = OpenOptions::new().create(true).append(true).mode(0o600).open(log)?;
    let errors = output.try_clone()?;
    let mut command = Command::new(this_program()?);
    command.args(global_words(global)).arg("wal").args(words);
    command.stdin(Stdio::null()).stdout(output).stderr(errors);
    for (name, value) in KEEP_MEMORY {
        command.env(name, value);
    }
    close_inherited_on_exec();
    // Not waited for: it becomes a child of the first process when this one ends.
    command.spawn().map(drop)
}

/// What a worker does first: from here on no signal to the server's processes reaches it.
pub(super) fn become_detached() {
    // Fails only for a process that leads a session or group already.
    let _ = rustix::process::setsid();
    // Where the server is the first process, it takes over this one and reads its exit code: with
    // anything above 1 it would take it for a crash and restart itself.
    let report = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |panic| {
        report(panic);
        std::process::exit(1);
    }));
}

/// The options every command understands, as they were given.
fn global_words(global: &Global) -> Vec<OsString> {
    let mut words: Vec<OsString> = Vec::new();
    let mut add = |name: &str, value: Option<OsString>| {
        if let Some(value) = value {
            words.extend([name.into(), value]);
        }
    };
    add("--repo", global.repo.clone().map(Into::into));
    add("--passphrase-file", global.passphrase_file.clone().map(Into::into));
    add("--key-file", global.key_file.clone().map(Into::into));
    add("--endpoint", global.endpoint.clone().map(Into::into));
    add("--region", global.region.clone().map(Into::into));
    words.extend(global.path_style.then(|| "--path-style".into()));
    words.extend(global.quiet.then(|| "--quiet".into()));
    words.extend((0..global.verbose).map(|_| "--verbose".into()));
    words
}

/// The program that runs; after an upgrade the one that took its place.
fn this_program() -> std::io::Result<PathBuf> {
    let program = std::env::current_exe()?;
    let replaced = program.to_str().and_then(|path| path.strip_suffix(" (deleted)"));
    Ok(match replaced {
        Some(path) if !program.exists() => PathBuf::from(path),
        _ => program,
    })
}

fn put_long_log_aside(log: &Path) {
    if std::fs::metadata(log).is_ok_and(|meta| meta.len() > LOG_MAX_BYTES) {
        let _ = std::fs::rename(log, log.with_extension("log.1"));
    }
}

/// Marks whatever this process inherited so that a program started from it does not.
fn close_inherited_on_exec() {
    let numbers = std::fs::read_dir("/proc/self/fd").into_iter().flatten().flatten();
    let numbers = numbers.filter_map(|entry| entry.file_name().to_str()?.parse::<i32>().ok());
    for number in numbers.filter(|number| *number > 2) {
        // SAFETY: the flag of a descriptor of this process is set, nothing is read, written or
        // closed. One that was closed since it was listed is refused by the system.
        let descriptor = unsafe { BorrowedFd::borrow_raw(number) };
        let _ = fcntl_setfd(descriptor, FdFlags::CLOEXEC);
    }
}
