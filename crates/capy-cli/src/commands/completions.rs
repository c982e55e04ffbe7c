//! `capy-store completions`: completion scripts for shells.

use clap::{Args, CommandFactory};
use clap_complete::Shell;

use crate::args::Cli;
use crate::exit::Exit;
use crate::session::Session;

/// Print a completion script for a shell
#[derive(Debug, Args)]
#[command(after_help = "Example:\n  \
    capy-store completions bash > /etc/bash_completion.d/capy-store")]
pub(crate) struct CompletionsArgs {
    /// The shell
    shell: Shell,
}

pub(crate) fn run(args: CompletionsArgs, _session: &Session) -> anyhow::Result<Exit> {
    clap_complete::generate(args.shell, &mut Cli::command(), "capy-store", &mut std::io::stdout());
    Ok(Exit::Success)
}
