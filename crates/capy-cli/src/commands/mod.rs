//! The commands: each file holds one command's arguments, its work and its text for people.

pub(crate) mod backup;
pub(crate) mod check;
pub(crate) mod completions;
pub(crate) mod delete;
pub(crate) mod expire;
pub(crate) mod explain;
pub(crate) mod init;
pub(crate) mod inspect;
pub(crate) mod key;
pub(crate) mod list;
pub(crate) mod pin;
pub(crate) mod probe;
pub(crate) mod restore;
pub(crate) mod restore_point;
pub(crate) mod show;
pub(crate) mod stats;
pub(crate) mod verify;
pub(crate) mod wal;

use crate::args::Command;
use crate::exit::Exit;
use crate::session::Session;

/// Runs one command.
pub(crate) async fn run(command: Command, session: &mut Session) -> anyhow::Result<Exit> {
    match command {
        Command::Init(args) => init::run(args, session).await,
        Command::Backup(args) => backup::run(args, session).await,
        Command::Restore(args) => restore::run(args, session).await,
        Command::Verify(args) => verify::run(args, session).await,
        Command::List(args) => list::run(args, session).await,
        Command::Show(args) => show::run(args, session).await,
        Command::Explain(args) => explain::run(args, session).await,
        Command::Stats(args) => stats::run(args, session).await,
        Command::Delete(args) => delete::run(args, session).await,
        Command::Expire(args) => expire::run(args, session).await,
        Command::Pin(args) => pin::run_pin(args, session).await,
        Command::Unpin(args) => pin::run_unpin(args, session).await,
        Command::Inspect(args) => inspect::run(args, session).await,
        Command::Key(args) => key::run(args, session).await,
        Command::Wal(args) => wal::run(args, session).await,
        Command::RestorePoint(args) => restore_point::run(args, session).await,
        Command::Check(args) => check::run(args, session).await,
        Command::Probe(args) => probe::run(args, session).await,
        Command::Completions(args) => completions::run(args, session),
    }
}
