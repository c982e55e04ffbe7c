//! What an agent does with the library: create a repository, back up with progress, verify,
//! restore, all in its own process.
//!
//! ```text
//! pg_basebackup -D - -Ft -X fetch > base.tar
//! cargo run --example agent -- /tmp/repo base.tar /tmp/restored
//! ```
//!
//! Without arguments it runs on a repository in memory with a small stream as its data.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use capy_store::{
    BackupOptions, BackupSelector, BackupSource, Ctx, Error, InitOptions, Key, Location, Phase, Problem,
    Progress, Repository, RestoreOptions, VerifyLevel, VerifyOptions, VerifyScope,
};

/// Prints each phase and each tenth of a gigabyte; an agent would update its job's row.
#[derive(Default)]
struct Printer {
    done: AtomicU64,
}

const PRINT_EVERY_BYTES: u64 = 100_000_000;

impl Progress for Printer {
    fn phase(&self, phase: Phase, total_bytes: Option<u64>) {
        self.done.store(0, Ordering::Relaxed);
        match total_bytes {
            Some(total) => println!("{}: {total} bytes to do", phase.as_str()),
            None => println!("{}", phase.as_str()),
        }
    }

    fn advance(&self, bytes: u64) {
        let before = self.done.fetch_add(bytes, Ordering::Relaxed);
        if before / PRINT_EVERY_BYTES != (before + bytes) / PRINT_EVERY_BYTES {
            println!("  {} bytes", before + bytes);
        }
    }

    fn problem(&self, problem: Problem) {
        println!("  {}: {}", problem.subject, problem.message);
    }
}

#[tokio::main]
async fn main() {
    if let Err(error) = run().await {
        // The kind says what to do next: an agent retries what is transient and reports the rest.
        eprintln!("{} ({}; transient: {})", error.chain(), error.kind(), error.is_transient());
        std::process::exit(1);
    }
}

async fn run() -> Result<(), Error> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let scratch = tempfile::tempdir().expect("a temporary directory");
    let (url, source, target) = match arguments.as_slice() {
        [url, tar, target] => (url.clone(), BackupSource::tar(tar), PathBuf::from(target)),
        _ => {
            let data: &[u8] = b"select 'a dump, or any other stream';\n";
            ("memory://".to_owned(), BackupSource::stream("dump.sql", data), scratch.path().join("restored"))
        }
    };
    let ctx = Ctx::with_progress(Arc::new(Printer::default()));
    let repository = open_or_init(&ctx, &Location::new(url), &Key::passphrase("a long passphrase")).await?;

    let cluster = "main".parse().expect("a valid cluster name");
    let mut options = BackupOptions::new(cluster);
    options.label = Some("from the example".to_owned());
    let taken = repository.backup(&ctx, source, options).await?;
    println!(
        "{}: {} bytes read, {} new, {} stored",
        taken.backup.backup_key, taken.read_bytes, taken.stats.new_bytes, taken.stats.stored_bytes
    );

    let this = BackupSelector::Key(taken.backup.backup_key.clone());
    let mut how = VerifyOptions::default();
    how.level = VerifyLevel::Full;
    let verified = repository.verify(&ctx, &VerifyScope::Backups(vec![this.clone()]), how).await?;
    println!("{}", verified.verdict);

    let restored = repository.restore(&ctx, &this, RestoreOptions::to(target)).await?;
    println!("{} files, {} bytes restored", restored.files, restored.restored_bytes);
    Ok(())
}

/// Opens the repository, or creates it where there is none.
async fn open_or_init(ctx: &Ctx, place: &Location, key: &Key) -> Result<Repository, Error> {
    match Repository::open(ctx, place, key).await {
        Err(error) if error.kind() == capy_store::ErrorKind::NotFound => {
            Repository::init(ctx, place, std::slice::from_ref(key), InitOptions::default()).await
        }
        other => other,
    }
}
