#![forbid(unsafe_code)]
//! Picks the subcommand; what each one does is in [`kafka_vitals::commands`].

use std::process::ExitCode;

use clap::Parser as _;
use kafka_vitals::cli::{Cli, Command};
use kafka_vitals::commands::{
    analyze, bundle, check, exit_code_of_failure, exit_code_of_usage, install, live, replay, serve,
    threads,
};
use kafka_vitals::sys::allocator;
use kafka_vitals::sys::attach::child;

fn main() -> ExitCode {
    let mut arguments = std::env::args_os().skip(1);
    if arguments
        .next()
        .is_some_and(|first| first == child::SUBCOMMAND)
    {
        // Before any thread exists: the child changes the user ids of its only thread.
        return child::child_main(arguments);
    }
    allocator::give_back_large_blocks();
    let Cli {
        serve: serve_args,
        command,
    } = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => return exit_code_of_usage(&error),
    };
    let failure = exit_code_of_failure(command.as_ref());
    let result = match command {
        None => serve::run(serve_args),
        Some(Command::Check(args)) => check::run(args),
        Some(Command::Threads(args)) => threads::run(&args),
        Some(Command::Bundle(args)) => bundle::run(args),
        Some(Command::Analyze(args)) => analyze::run(&args),
        Some(Command::Replay(args)) => replay::run(&args),
        Some(Command::Live(args)) => Ok(live::run(&args)),
        Some(Command::Install(args)) => install::run(&args),
    };
    result.unwrap_or_else(failure)
}
