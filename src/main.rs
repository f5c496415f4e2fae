//! Stands in for the command line: only the child that attaches.

use std::process::ExitCode;

use kafka_vitals::sys::attach::child;

fn main() -> ExitCode {
    let mut arguments = std::env::args_os().skip(1);
    match arguments.next() {
        Some(name) if name == child::SUBCOMMAND => child::child_main(arguments),
        _ => ExitCode::from(2),
    }
}
