//! `kafka-vitals install`: copies this program, for images that have no `cp`.

use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt as _;
use std::process::ExitCode;

use anyhow::Context as _;

use crate::cli::InstallArgs;
use crate::collect::jvm_dumper::THIS_PROGRAM;

pub fn run(args: &InstallArgs) -> anyhow::Result<ExitCode> {
    let target = args.folder.join("kafka-vitals");
    // Renamed when it is whole: a probe never starts half of it, and one that runs keeps its own.
    let new = args.folder.join(".kafka-vitals.new");
    fs::copy(THIS_PROGRAM, &new)
        .and_then(|_| fs::set_permissions(&new, Permissions::from_mode(0o755)))
        .and_then(|()| fs::rename(&new, &target))
        .with_context(|| format!("cannot copy this program to {}", target.display()))?;
    Ok(ExitCode::SUCCESS)
}
