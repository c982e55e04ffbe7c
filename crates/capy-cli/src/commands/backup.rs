//! `capy-store backup`: a PostgreSQL cluster, a tar, or any stream into the repository.

use std::num::NonZeroU64;
use std::path::{Path, PathBuf};

use capy_store::{
    BackupId, BackupOptions, BackupSource, CacheOptions, Checkpoint, ClusterName, Incremental, Location,
    PostgresSource, StoreRates,
};
use clap::{ArgGroup, Args, ValueEnum};

use crate::account::{self, WithMemory};
use crate::environment;
use crate::exit::Exit;
use crate::failure::Failure;
use crate::session::Session;

/// Back up a PostgreSQL cluster, a tar, or any stream
///
/// With --pg the running server sends a base backup over its replication protocol, tablespaces
/// included; the role needs REPLICATION. On the server's own host --pgdata reads its files in place
/// instead, by several threads, which is faster; the role then needs the right to call
/// pg_backup_start and pg_backup_stop, and you to read the files. With --tar the input is what `pg_basebackup -Ft` writes:
/// one tar (a file, or - for standard input), or a directory of tars. With --stdin-as standard
/// input is stored as one file of that name: a dump, an export.
///
/// With --incremental auto a server of 17 or later sends only the blocks that changed since the
/// newest sound backup of the cluster, and they are put together with that: what is stored is a whole
/// backup, which restores without any other. Where that is not possible everything is sent, and the
/// reason is said.
///
/// Only what the repository does not hold yet is stored. Page checksums are checked where the
/// cluster has them, and backup_manifest is compared with what was stored; a backup that fails
/// is kept, marked damaged, and the command ends with exit code 1. A broken or incomplete input
/// commits nothing.
#[derive(Debug, Args)]
#[command(
    group(ArgGroup::new("source").required(true).args(["pg", "tar", "stdin_as"])),
    after_help = "Examples:\n  \
    capy-store backup --cluster main --pg \"host=/run/postgresql port=5432 user=postgres\" --label nightly\n  \
    capy-store backup --cluster main --pg \"host=/run/postgresql user=postgres\" --pgdata /var/lib/postgresql/15/main\n  \
    capy-store backup --cluster main --pg \"host=/run/postgresql user=postgres\" --incremental auto\n  \
    pg_basebackup -D - -Ft -X none | capy-store backup --cluster main --tar -\n  \
    pg_basebackup -D /tmp/tars -Ft -X fetch && capy-store backup --cluster main --tar /tmp/tars\n  \
    set -o pipefail; pg_dump shop | capy-store backup --cluster main --stdin-as shop.sql --database shop"
)]
pub(crate) struct BackupArgs {
    /// The name of the PostgreSQL cluster inside the repository: it gathers its backups
    #[arg(long, value_name = "NAME")]
    cluster: ClusterName,

    /// Connect to this server: key=value pairs or a postgresql:// URI, as libpq reads them
    #[arg(long, value_name = "CONNINFO")]
    pg: Option<String>,

    /// Read the server's files in its data directory, on this host, instead of having them sent
    /// (--pg)
    #[arg(long, value_name = "DIR", requires = "pg")]
    pgdata: Option<PathBuf>,

    /// Read a tar from this file, all tars of this directory, or standard input (-)
    #[arg(long, value_name = "FILE|DIR|-")]
    tar: Option<PathBuf>,

    /// Store standard input as one file of this name
    #[arg(long, value_name = "NAME")]
    stdin_as: Option<String>,

    /// A name of your own for the backup
    #[arg(long, value_name = "TEXT")]
    label: Option<String>,

    /// The database the backup is of, as a remark
    #[arg(long, value_name = "NAME")]
    database: Option<String>,

    /// The id of the backup inside its cluster; made from time and chance by default
    #[arg(long, value_name = "ID")]
    id: Option<BackupId>,

    /// How the server's checkpoint at the start is made (--pg)
    #[arg(long, value_enum, default_value_t = CheckpointArg::Fast, requires = "pg")]
    checkpoint: CheckpointArg,

    /// Have the server send only the blocks that changed since an earlier backup of the cluster, and
    /// put a whole backup together (--pg; PostgreSQL 17 and later with summarize_wal = on)
    #[arg(long, value_enum, default_value_t = IncrementalArg::Off, requires = "pg", conflicts_with = "pgdata")]
    incremental: IncrementalArg,

    /// Leave out the WAL that makes the backup consistent by itself (--pg); recovery then needs it
    /// from an archive
    #[arg(long, requires = "pg")]
    no_wal: bool,

    /// Do not check page checksums
    #[arg(long)]
    no_page_checks: bool,

    /// Worker threads; by default one per processor
    #[arg(long, short = 'j', value_name = "N", value_parser = clap::value_parser!(u16).range(1..=64))]
    jobs: Option<u16>,

    /// Read at most so many bytes a second from the source: 50M, 1.5GiB, plain bytes
    #[arg(long, value_name = "RATE", value_parser = crate::amounts::rate)]
    read_rate: Option<NonZeroU64>,

    /// Write at most so many bytes a second to the repository
    #[arg(long, value_name = "RATE", value_parser = crate::amounts::rate)]
    upload_rate: Option<NonZeroU64>,

    /// Keep what is read of the repository in this directory, for the next backup (else CAPY_CACHE_DIR).
    /// It is as encrypted as the repository, checked when it is read, and may be removed at any moment
    #[arg(long, value_name = "DIR")]
    cache_dir: Option<PathBuf>,

    /// Most bytes the directory of --cache-dir takes, of all repositories that share it: 500M, 2GiB, plain
    /// bytes; 1GiB by default
    #[arg(long, value_name = "BYTES", value_parser = crate::amounts::size)]
    cache_size: Option<u64>,

    /// Memory to get along with, in MiB; many jobs then fill smaller packs
    #[arg(long, value_name = "MIB", default_value_t = 256, value_parser = clap::value_parser!(u32).range(64..))]
    memory: u32,

    /// Most differences on a whole chunk: changed chunks are stored as differences to the previous
    /// backup's. More of them store less and read slower; 0 stores every chunk whole
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u8).range(0..=16))]
    delta_depth: Option<u8>,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum CheckpointArg {
    /// At once, with a burst of writing
    Fast,
    /// Spread over time, as the server's settings say
    Spread,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum IncrementalArg {
    /// It sends everything
    Off,
    /// Where that is possible; otherwise it sends everything, and the reason is said
    Auto,
    /// Where it is not possible, the command fails
    Require,
}

pub(crate) async fn run(args: BackupArgs, session: &mut Session) -> anyhow::Result<Exit> {
    let source = source(&args)?;
    let repository = session.open_at(location(&args, session)?).await?;
    let mut options = BackupOptions::new(args.cluster);
    options.label = args.label;
    options.database = args.database;
    options.id = args.id;
    options.check_pages = !args.no_page_checks;
    options.jobs = args.jobs.map(usize::from);
    options.read_rate = args.read_rate;
    options.memory_bytes = Some((args.memory as usize) << 20);
    options.delta_depth = args.delta_depth;
    options.incremental = match args.incremental {
        IncrementalArg::Off => Incremental::Off,
        IncrementalArg::Auto => Incremental::Auto,
        IncrementalArg::Require => Incremental::Require,
    };
    // On a thread of the runtime, not on the first one: who waits for a server there waits for its socket
    // itself. Here each of its messages would be waited for by another thread, which wakes this one.
    let ctx = session.ctx.clone();
    let taking = tokio::spawn(async move { repository.backup(&ctx, source, options).await });
    let report = taking.await.unwrap_or_else(|died| std::panic::resume_unwind(died.into_panic()))?;
    session.finish_progress();
    let with_memory = WithMemory::of(&report);
    let complete = report.is_complete();
    if complete {
        session.output.account(&with_memory, |with| account::backup(&report, &with.memory_text()))?;
    } else {
        // What is wrong is said even when quiet.
        session.output.answer(&with_memory, |with| account::backup(&report, &with.memory_text()))?;
    }
    Ok(if complete { Exit::Success } else { Exit::Problems })
}

/// Where the repository is, how fast it is written to, and what of it is kept on this machine.
fn location(args: &BackupArgs, session: &Session) -> anyhow::Result<Location> {
    let rates = StoreRates { upload: args.upload_rate, ..StoreRates::default() };
    let location = session.location()?.with_rates(rates);
    let directory = args.cache_dir.clone().or_else(|| environment::path_var("CAPY_CACHE_DIR"));
    match (directory, args.cache_size) {
        (Some(directory), size) => {
            let max_bytes = size.unwrap_or(CacheOptions::DEFAULT_MAX_BYTES);
            Ok(location.with_cache(CacheOptions { directory, max_bytes }))
        }
        (None, Some(_)) => Err(Failure::invalid("--cache-size is of no use without a cache")
            .with_hint("name its directory with --cache-dir or CAPY_CACHE_DIR")
            .into()),
        (None, None) => Ok(location),
    }
}

fn source(args: &BackupArgs) -> anyhow::Result<BackupSource> {
    if let Some(conninfo) = &args.pg {
        let mut source = PostgresSource::connect_with(conninfo, environment::var)?;
        source.include_wal = !args.no_wal;
        source.data_directory.clone_from(&args.pgdata);
        source.checkpoint = match args.checkpoint {
            CheckpointArg::Fast => Checkpoint::Fast,
            CheckpointArg::Spread => Checkpoint::Spread,
        };
        return Ok(BackupSource::postgres(source));
    }
    if let Some(path) = &args.tar {
        let stdin = path == Path::new("-");
        return Ok(if stdin { BackupSource::tar_stdin() } else { BackupSource::tar(path) });
    }
    match &args.stdin_as {
        Some(name) => Ok(BackupSource::stream_stdin(name)),
        None => Err(Failure::invalid("name a source with --pg, --tar or --stdin-as").into()),
    }
}
