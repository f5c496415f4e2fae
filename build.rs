//! Puts three things into the build: the commit, for `kafka_vitals_build_info` and `--version`, the list of the runbooks,
//! which is the content of their folder, and the tables of known issues and log signatures.

use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::{env, fs, io};

fn main() -> io::Result<()> {
    name_revision();
    list_runbooks()?;
    convert_tables()
}

fn name_revision() {
    println!("cargo:rerun-if-env-changed=KAFKA_VITALS_REVISION");
    let given = env::var("KAFKA_VITALS_REVISION").ok();
    // A build for tests has no revision, so that a commit does not compile everything again.
    let is_optimised = env::var("PROFILE").is_ok_and(|profile| profile == "release");
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

/// Writes the static `RUNBOOKS`: the name of each file in `docs/runbooks` with its text, in the order of the names.
fn list_runbooks() -> io::Result<()> {
    let root = env::var("CARGO_MANIFEST_DIR").map_err(io::Error::other)?;
    let folder = Path::new(&root).join("docs/runbooks");
    println!("cargo:rerun-if-changed={}", folder.display());
    let entries = fs::read_dir(&folder)?.map(|entry| entry.map(|entry| entry.path()));
    let mut files = entries.collect::<io::Result<Vec<PathBuf>>>()?;
    files.retain(|file| file.extension().is_some_and(|extension| extension == "md"));
    files.sort();
    let mut code = String::from("pub static RUNBOOKS: &[(&str, &str)] = &[\n");
    for file in &files {
        let name = file.file_stem().unwrap_or_default();
        let _ = writeln!(code, "    ({name:?}, include_str!({file:?})),");
    }
    code.push_str("];\n");
    let out = env::var("OUT_DIR").map_err(io::Error::other)?;
    fs::write(Path::new(&out).join("runbooks.rs"), code)
}

/// Writes the tables, which people edit as TOML, as JSON: the program reads that anyway, and the reader of TOML would be
/// a fiftieth of it.
fn convert_tables() -> io::Result<()> {
    let variable = |name| env::var(name).map(PathBuf::from).map_err(io::Error::other);
    let (root, out) = (variable("CARGO_MANIFEST_DIR")?, variable("OUT_DIR")?);
    for name in ["known_issues", "log_signatures"] {
        let file = root.join(format!("src/threads/{name}.toml"));
        println!("cargo:rerun-if-changed={}", file.display());
        let table = toml::from_str::<toml::Table>(&fs::read_to_string(&file)?);
        let json = serde_json::to_string(&table.map_err(io::Error::other)?)?;
        fs::write(out.join(format!("{name}.json")), json)?;
    }
    Ok(())
}
