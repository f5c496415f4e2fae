//! Writes the man pages and the shells' completions, which packages have, from the flags:
//! `cargo run --example manual -- DIR`. It is an example so that what it needs stays out of the exporter.

use std::fs;
use std::path::PathBuf;

use clap::CommandFactory as _;
use clap_complete::Shell;
use kafka_vitals::cli::Cli;

fn main() -> anyhow::Result<()> {
    let folder = PathBuf::from(std::env::args_os().nth(1).unwrap_or_default());
    anyhow::ensure!(
        folder.is_dir(),
        "usage: manual DIR, where DIR is a folder that exists"
    );
    // The commit is no part of a man page: the same version has the same manual.
    let mut command = Cli::command().version(env!("CARGO_PKG_VERSION"));
    for shell in [Shell::Bash, Shell::Zsh, Shell::Fish] {
        let shells = folder.join(shell.to_string());
        fs::create_dir_all(&shells)?;
        clap_complete::generate_to(shell, &mut command, "kafka-vitals", shells)?;
    }
    let pages = folder.join("man");
    fs::create_dir_all(&pages)?;
    clap_mangen::generate_to(command, pages)?;
    Ok(())
}
