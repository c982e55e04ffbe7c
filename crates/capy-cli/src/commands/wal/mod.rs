//! `capy-store wal`: the archive's way in and out, and what it can be recovered to.

mod detach;
mod events;
mod fetch;
mod prefetch;
mod push;
mod receive;
mod spool;
mod status;
mod verify;
mod when;
mod windows;

use clap::{Args, Subcommand};

use crate::exit::Exit;
use crate::session::Session;

/// Archive WAL, and fetch it for recovery
///
/// In postgresql.conf (the server's environment holds CAPY_REPO and CAPY_KEY_FILE, or the options
/// say it):
///
///   archive_mode = on
///   archive_command = 'capy-store wal push --cluster main %p'
///   restore_command = 'capy-store wal fetch --cluster main %f %p'     # set by `restore` itself
#[derive(Debug, Args)]
#[command(arg_required_else_help = true)]
pub(crate) struct WalArgs {
    #[command(subcommand)]
    command: WalCommand,
}

#[derive(Debug, Subcommand)]
enum WalCommand {
    Push(push::PushArgs),
    Receive(receive::ReceiveArgs),
    Fetch(fetch::FetchArgs),
    Agent(spool::AgentArgs),
    Status(status::StatusArgs),
    Windows(windows::WindowsArgs),
    Verify(verify::VerifyArgs),
    Events(events::EventsArgs),
    When(when::WhenArgs),
    #[command(hide = true)]
    SpoolWorker(spool::WorkerArgs),
    #[command(hide = true)]
    PrefetchWorker(prefetch::PrefetchArgs),
}

/// What a server calls, once for each segment: making the arguments of all other commands would take
/// a good part of such a call. It understands nothing that [`WalArgs`] does not.
#[derive(Debug, Args)]
pub(crate) struct ServerWalArgs {
    #[command(subcommand)]
    command: ServerWalCommand,
}

#[derive(Debug, Subcommand)]
enum ServerWalCommand {
    Push(push::PushArgs),
    Fetch(fetch::FetchArgs),
}

impl From<ServerWalArgs> for WalArgs {
    fn from(args: ServerWalArgs) -> Self {
        let command = match args.command {
            ServerWalCommand::Push(args) => WalCommand::Push(args),
            ServerWalCommand::Fetch(args) => WalCommand::Fetch(args),
        };
        Self { command }
    }
}

pub(crate) async fn run(args: WalArgs, session: &mut Session) -> anyhow::Result<Exit> {
    match args.command {
        WalCommand::Push(args) => push::run(args, session).await,
        WalCommand::Receive(args) => receive::run(args, session).await,
        WalCommand::Fetch(args) => fetch::run(args, session).await,
        WalCommand::Agent(args) => spool::run_agent(args, session).await,
        WalCommand::Status(args) => status::run(args, session).await,
        WalCommand::Windows(args) => windows::run(args, session).await,
        WalCommand::Verify(args) => verify::run(args, session).await,
        WalCommand::Events(args) => events::run(args, session).await,
        WalCommand::When(args) => when::run(args, session).await,
        WalCommand::SpoolWorker(args) => spool::run_worker(args, session).await,
        WalCommand::PrefetchWorker(args) => prefetch::run(args, session).await,
    }
}

impl WalArgs {
    /// Whether it mostly waits for others, so that one thread is enough.
    pub(crate) fn is_light(&self) -> bool {
        match &self.command {
            WalCommand::Push(args) => args.hands_over(),
            WalCommand::Fetch(_) => true,
            _ => false,
        }
    }

    /// What asked for this run, if it was the server: its own rules for exit codes hold then.
    pub(crate) fn caller(&self) -> crate::exit::Caller {
        match self.command {
            WalCommand::Push(_) => crate::exit::Caller::ArchiveCommand,
            WalCommand::Fetch(_) => crate::exit::Caller::RestoreCommand,
            _ => crate::exit::Caller::Person,
        }
    }
}
