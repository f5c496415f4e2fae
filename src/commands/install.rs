//! `kafka-vitals install`: copies this program, for images that have no `cp`.

use std::fs::{self, File, Permissions};
use std::io;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::process::ExitCode;

use anyhow::Context as _;

use crate::cli::InstallArgs;
use crate::collect::jvm_dumper::THIS_PROGRAM;

pub fn run(args: &InstallArgs) -> anyhow::Result<ExitCode> {
    let target = args.folder.join("kafka-vitals");
    // Renamed when it is whole: a probe never starts half of it, and one that runs keeps its own.
    let new = args.folder.join(".kafka-vitals.new");
    copy(&new)
        .and_then(|()| fs::rename(&new, &target))
        .with_context(|| format!("cannot copy this program to {}", target.display()))?;
    Ok(ExitCode::SUCCESS)
}

fn copy(to: &Path) -> io::Result<()> {
    // What an interrupted copy left. A link of somebody else must not lead elsewhere.
    match fs::remove_file(to) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let mut copy = File::create_new(to)?;
    io::copy(&mut File::open(THIS_PROGRAM)?, &mut copy)?;
    copy.set_permissions(Permissions::from_mode(0o755))
}
