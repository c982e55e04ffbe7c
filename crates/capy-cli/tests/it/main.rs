//! The command as its users run it: one process per step, judged by exit code and output.

mod documents;
mod errors;
mod harness;
mod interruptions;
mod postgres;
mod retention;
mod secrets;
mod server;
mod streams;
