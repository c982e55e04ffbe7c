//! The `capy-store` command: drive and inspect a backup repository.
//!
//! The only place that reads the environment, the terminal and the command line; all work is
//! the library's (`capy_store`). Standard output carries the answer (under `--json` exactly one
//! document, also on failure), standard error everything else. JSON.md documents the documents,
//! `exit` the exit codes.

mod account;
mod amounts;
mod args;
mod commands;
mod environment;
mod exit;
mod failure;
mod human;
mod output;
mod progress;
mod secrets;
mod session;

use std::process::ExitCode;

use capy_store::ErrorKind;
use clap::error::ErrorKind as ClapKind;
use tracing_subscriber::EnvFilter;

use crate::args::Cli;
use crate::exit::{Caller, Exit};
use crate::failure::{Failure, Shown};
use crate::output::Output;
use crate::session::Session;

fn main() -> ExitCode {
    let cli = match Cli::read() {
        Ok(cli) => cli,
        Err(error) => return refuse(&error),
    };
    start_log(cli.global.verbose);
    let caller = cli.command.caller();
    end_panics_as_faults(caller);
    let mut runtime = match cli.command.is_light() {
        true => tokio::runtime::Builder::new_current_thread(),
        false => tokio::runtime::Builder::new_multi_thread(),
    };
    let exit = match runtime.enable_all().build() {
        Ok(runtime) => {
            let exit = runtime.block_on(run(cli, caller));
            // A read of standard input may still hang in a blocking thread: do not wait for it.
            runtime.shutdown_background();
            exit
        }
        Err(error) => {
            eprintln!("error: start: {error}");
            Exit::Failed(ErrorKind::Internal)
        }
    };
    ExitCode::from(exit.code_for(caller))
}

/// A panic ends a process with 101, which restore_command must never end with.
fn end_panics_as_faults(caller: Caller) {
    if caller == Caller::Person {
        return;
    }
    let report = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |panic| {
        report(panic);
        let code = Exit::Failed(ErrorKind::Internal).code_for(caller);
        std::process::exit(i32::from(code));
    }));
}

async fn run(cli: Cli, caller: Caller) -> Exit {
    let mut session = Session::new(cli.global);
    let outcome = match session.watch_signals(caller) {
        Ok(()) => commands::run(cli.command, &mut session).await,
        Err(error) => Err(error),
    };
    session.finish_progress();
    outcome.unwrap_or_else(|error| {
        let shown = Shown::of(&error);
        show(session.output, &shown);
        Exit::Failed(shown.kind)
    })
}

/// Prints an error: on standard output as a document, or on standard error for people.
fn show(output: Output, shown: &Shown) {
    if !output.json || output.document(&shown.document()).is_err() {
        eprintln!("{}", shown.lines());
    }
}

/// Answers a command line that cannot be parsed, or that asks for help.
fn refuse(error: &clap::Error) -> ExitCode {
    if matches!(error.kind(), ClapKind::DisplayHelp | ClapKind::DisplayVersion) {
        let _ = error.print();
        return ExitCode::SUCCESS;
    }
    // Parsing failed, so that --json must be looked for by hand.
    if std::env::args_os().any(|argument| argument == "--json") {
        let text = error.to_string();
        let message = text.lines().next().unwrap_or_default().trim_start_matches("error: ");
        let failure = Failure::invalid(message).with_hint("see: capy-store --help");
        show(Output { json: true, quiet: false, stdout_is_data: false }, &Shown::of(&failure.into()));
    } else {
        let _ = error.print();
    }
    // A mistake in restore_command must not read as the end of WAL.
    let words: Vec<_> = std::env::args_os().filter(|word| word == "wal" || word == "fetch").collect();
    let caller = if words.len() > 1 { Caller::RestoreCommand } else { Caller::Person };
    ExitCode::from(Exit::Failed(ErrorKind::Invalid).code_for(caller))
}

/// Sends the library's log to standard error, as much of it as was asked for.
fn start_log(verbose: u8) {
    let level = match verbose {
        0 => "warn",
        1 => "capy=info,warn",
        2 => "capy=debug,info",
        _ => "trace",
    };
    let filter = environment::var("CAPY_LOG").map_or_else(|| EnvFilter::new(level), EnvFilter::new);
    tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr).with_target(false).init();
}
