//! Stands in for the command line: only the child that attaches.

use std::process::ExitCode;

use kafka_vitals::sys::attach::{child::SUBCOMMAND, child_main};

fn main() -> ExitCode {
    let mut arguments = std::env::args_os().skip(1);
    match arguments.next() {
        Some(name) if name == SUBCOMMAND => child_main(arguments),
        _ => ExitCode::from(2),
    }
}
