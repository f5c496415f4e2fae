//! Puts the commit that is built into the optimised build, for `kafka_vitals_build_info` and `--version`.

use std::path::Path;
use std::process::Command;

fn main() {
    println!("cargo:rerun-if-env-changed=KAFKA_VITALS_REVISION");
    let given = std::env::var("KAFKA_VITALS_REVISION").ok();
    // A build for tests has no revision, so that a commit does not compile everything again.
    let is_optimised = std::env::var("PROFILE").is_ok_and(|profile| profile == "release");
    let revision = given.or_else(|| is_optimised.then(head).flatten());
    let revision = revision.as_deref().unwrap_or("unknown");
    println!("cargo:rustc-env=KAFKA_VITALS_REVISION={revision}");
}

/// The commit of the checkout; None in a source archive. A packager sets the variable `KAFKA_VITALS_REVISION`.
fn head() -> Option<String> {
    let log = Path::new(".git/logs/HEAD");
    if log.exists() {
        println!("cargo:rerun-if-changed={}", log.display());
    }
    let output = Command::new("git")
        .args(["rev-parse", "--short=12", "HEAD"])
        .output()
        .ok()?;
    let text = String::from_utf8(output.stdout).ok()?;
    let revision = text.trim();
    (output.status.success() && !revision.is_empty()).then(|| revision.to_owned())
}
