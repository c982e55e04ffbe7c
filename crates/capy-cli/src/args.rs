//! The command line: global options and the tree of commands.
//!
//! Contained by: `main`. Each command's own arguments live beside its code in `commands/`.
//! Invariant: no argument ever carries a secret; secrets come from a file, the environment or
//! a prompt (see `secrets`).

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand};

use crate::commands::{
    backup, check, completions, delete, expire, explain, init, inspect, key, list, pin, probe, restore,
    restore_point, show, stats, verify, wal,
};
use crate::exit::Caller;

/// Encrypted, deduplicated backups of PostgreSQL on any object store.
#[derive(Debug, Parser)]
#[command(
    name = "capy-store",
    version,
    propagate_version = true,
    arg_required_else_help = true,
    subcommand_required = true,
    disable_help_subcommand = true,
    after_help = "Start here:\n  \
        export CAPY_REPO=/backup/repo CAPY_PASSPHRASE=...\n  \
        capy-store init\n  \
        capy-store backup --cluster main --pg \"host=/run/postgresql user=postgres\"\n  \
        capy-store verify main/latest --level full\n  \
        capy-store restore main/latest --to /var/lib/postgresql/restored\n\n\
        Every command explains itself: capy-store backup --help",
    after_long_help = after_long_help()
)]
pub(crate) struct Cli {
    #[command(flatten)]
    pub(crate) global: Global,
    #[command(subcommand)]
    pub(crate) command: Command,
}

/// Options that every command understands.
#[derive(Debug, Clone, Args)]
#[command(next_help_heading = "Global options")]
pub(crate) struct Global {
    /// The repository: a path, file:///path, s3://bucket/prefix, gs:// or az://
    #[arg(long, short = 'r', env = "CAPY_REPO", global = true, value_name = "URL", hide_env_values = true)]
    pub(crate) repo: Option<String>,

    /// Read the passphrase from the first line of this file (else CAPY_PASSPHRASE, else a prompt)
    #[arg(long, global = true, value_name = "FILE")]
    pub(crate) passphrase_file: Option<PathBuf>,

    /// Open the repository with this key file (else CAPY_KEY_FILE)
    #[arg(long, global = true, value_name = "FILE")]
    pub(crate) key_file: Option<PathBuf>,

    /// Print exactly one JSON document on standard output, also on failure
    #[arg(long, global = true)]
    pub(crate) json: bool,

    /// Print no progress and no account; errors are still printed
    #[arg(long, short = 'q', global = true, conflicts_with = "verbose")]
    pub(crate) quiet: bool,

    /// Say more on standard error; -vv for debugging, -vvv for everything
    #[arg(long, short = 'v', global = true, action = clap::ArgAction::Count)]
    pub(crate) verbose: u8,

    /// Endpoint of an S3-compatible store (else AWS_ENDPOINT_URL)
    #[arg(long, global = true, value_name = "URL", hide_short_help = true)]
    pub(crate) endpoint: Option<String>,

    /// Region of the S3 bucket (else AWS_REGION)
    #[arg(long, global = true, value_name = "NAME", hide_short_help = true)]
    pub(crate) region: Option<String>,

    /// Put the bucket into the path, not into the host name (most S3-compatible stores want this)
    #[arg(long, global = true, hide_short_help = true)]
    pub(crate) path_style: bool,
}

/// What to do.
#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    Init(init::InitArgs),
    Backup(backup::BackupArgs),
    Restore(restore::RestoreArgs),
    Verify(verify::VerifyArgs),
    List(list::ListArgs),
    Show(show::ShowArgs),
    Explain(explain::ExplainArgs),
    Stats(stats::StatsArgs),
    Delete(delete::DeleteArgs),
    Expire(expire::ExpireArgs),
    Pin(pin::PinArgs),
    Unpin(pin::UnpinArgs),
    Inspect(inspect::InspectArgs),
    Key(key::KeyArgs),
    Wal(wal::WalArgs),
    RestorePoint(restore_point::RestorePointArgs),
    Check(check::CheckArgs),
    Probe(probe::ProbeArgs),
    Completions(completions::CompletionsArgs),
}

/// The part of the command line that a server uses, see [`wal::ServerWalArgs`].
#[derive(Debug, Parser)]
#[command(name = "capy-store", disable_help_subcommand = true)]
struct ServerCli {
    #[command(flatten)]
    global: Global,
    #[command(subcommand)]
    command: ServerCommand,
}

#[derive(Debug, Subcommand)]
enum ServerCommand {
    Wal(wal::ServerWalArgs),
}

impl Cli {
    /// Reads this process's command line.
    pub(crate) fn read() -> Result<Self, clap::Error> {
        if std::env::args_os().any(|word| word == "wal")
            && let Ok(ServerCli { global, command: ServerCommand::Wal(args) }) = ServerCli::try_parse()
        {
            return Ok(Self { global, command: Command::Wal(args.into()) });
        }
        // Whatever else it is, a question for help or a mistake: this one knows what to say.
        Self::try_parse()
    }
}

impl Command {
    /// Whether one thread is enough for it.
    pub(crate) fn is_light(&self) -> bool {
        matches!(self, Self::Wal(args) if args.is_light())
    }

    /// Who asked for this run, as far as exit codes depend on it.
    pub(crate) fn caller(&self) -> Caller {
        match self {
            Self::Wal(args) => args.caller(),
            _ => Caller::Person,
        }
    }
}

/// Environment and exit codes, at the end of the long help.
fn after_long_help() -> String {
    format!(
        "Start here:\n  \
         export CAPY_REPO=/backup/repo CAPY_PASSPHRASE=...\n  \
         capy-store init\n  \
         capy-store backup --cluster main --pg \"host=/run/postgresql user=postgres\"\n  \
         pg_basebackup -D - -Ft -X none | capy-store backup --cluster main --tar -\n  \
         capy-store list\n  \
         capy-store verify main/latest --level full\n  \
         capy-store restore main/latest --to /var/lib/postgresql/restored\n\n\
         Environment:\n  \
         CAPY_REPO             the repository, as --repo\n  \
         CAPY_PASSPHRASE       the passphrase\n  \
         CAPY_PASSPHRASE_FILE  a file whose first line is the passphrase, as --passphrase-file\n  \
         CAPY_KEY_FILE         a key file, as --key-file\n  \
         CAPY_CACHE_DIR        a directory for backups to keep what they read, as backup --cache-dir\n  \
         AWS_*                 credentials, region and endpoint of S3 stores\n  \
         PG*, ~/.pgpass        how to reach PostgreSQL, as libpq reads them\n  \
         CAPY_LOG              what to log, as a filter (capy_repo=debug), instead of -v\n\n{}",
        crate::exit::table_text()
    )
}
