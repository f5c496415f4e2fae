//! Checks bundles of evidence with other tools.
#![allow(dead_code)] // each test binary uses a part
#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::fs;
use std::io::Write as _;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::time::{Duration, Instant};

use lab::Cell;
use tempfile::TempDir;

use super::fakes::fake_broker;

/// Creates a folder that cells see too.
pub fn folder() -> TempDir {
    tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap()
}

/// Returns the command `kafka-vitals bundle` for one broker.
pub fn bundle_command(broker: i32, output: &Path) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_kafka-vitals"));
    command
        .args(["bundle", "--broker", &broker.to_string(), "--output"])
        .arg(output);
    command
}

pub fn run(cell: &Cell, command: Command) -> (Option<i32>, String, String) {
    let Output {
        status,
        stdout,
        stderr,
    } = cell.run_tool(command, Duration::from_secs(90)).unwrap();
    let text = |bytes| String::from_utf8(bytes).unwrap();
    (status.code(), text(stdout), text(stderr))
}

/// Returns the complete bundles: folders whose names do not begin with a dot.
pub fn complete(dir: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(dir)
        .unwrap()
        .map(|entry| entry.unwrap().path());
    let mut complete: Vec<PathBuf> = entries
        .filter(|path| !path.file_name().unwrap().to_str().unwrap().starts_with('.'))
        .collect();
    complete.sort();
    complete
}

/// Checks that exactly the files of the bundle are listed, that `sha256sum` agrees, and that only the owner may read it.
/// Returns the manifest.
#[track_caller]
pub fn verified(bundle: &Path) -> serde_json::Value {
    let manifest: serde_json::Value =
        serde_json::from_slice(&fs::read(bundle.join("manifest.json")).unwrap()).unwrap();
    let listed = manifest["files"].as_array().unwrap();
    let text = |value: &serde_json::Value| value.as_str().unwrap().to_owned();
    let sums: String = listed
        .iter()
        .map(|file| format!("{}  {}\n", text(&file["sha256"]), text(&file["name"])))
        .collect();
    let mut tool = Command::new("sha256sum");
    tool.args(["--check", "--strict", "-"])
        .current_dir(bundle)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped());
    let mut tool = tool.spawn().unwrap();
    tool.stdin
        .take()
        .unwrap()
        .write_all(sums.as_bytes())
        .unwrap();
    let output = tool.wait_with_output().unwrap();
    // `sha256sum` fails without a line.
    assert!(
        listed.is_empty() || output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stdout)
    );
    let mut names: Vec<String> = listed.iter().map(|file| text(&file["name"])).collect();
    names.push("manifest.json".to_owned());
    names.sort();
    let mut found = Vec::new();
    for entry in fs::read_dir(bundle).unwrap() {
        let entry = entry.unwrap();
        assert_eq!(
            entry.metadata().unwrap().permissions().mode() & 0o777,
            0o600,
            "{entry:?}"
        );
        found.push(entry.file_name().into_string().unwrap());
    }
    found.sort();
    assert_eq!(found, names);
    assert_eq!(
        fs::metadata(bundle).unwrap().permissions().mode() & 0o777,
        0o700
    );
    manifest
}

/// Returns why a file is missing, or None if it exists.
pub fn why_missing(manifest: &serde_json::Value, name: &str) -> Option<String> {
    let missing = manifest["missing"].as_array().unwrap();
    let found = missing.iter().find(|missing| missing["name"] == name)?;
    Some(found["why"].as_str().unwrap().to_owned())
}

/// Kills writers at every moment of their writing. Every bundle must be complete, and the next writer removes the rest.
pub fn kill_in_a_loop(times: u32) {
    const ID: i32 = 890_100;
    let cell = Cell::new().unwrap();
    let (home, dir) = (folder(), folder());
    let _fake = fake_broker(&cell, home.path(), ID);
    let dir = dir.path();
    let names = || -> Vec<String> {
        fs::read_dir(dir)
            .unwrap()
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect()
    };
    let config = home.path().join("no-floor.yml");
    fs::write(&config, "evidence: {min_free: 0}\n").unwrap();
    let command = || {
        let mut command = bundle_command(ID, dir);
        command
            .arg("--config.file")
            .arg(&config)
            .stdout(Stdio::null());
        command
    };
    // Without a JVM the dumps are missing.
    let parts_are_missing = Some(1);
    assert_eq!(run(&cell, command()).0, parts_are_missing);
    let all = fs::read_dir(dir.join(&names()[0])).unwrap().count();
    let (mut complete_before, mut killed_midway) = (1, 0);
    for round in 0..times {
        let before = names();
        let mut writer = cell.spawn(command()).unwrap();
        // Writers are killed with every number of files, from more than there are, which is after their end, to none.
        let files = (all + 1) * (times - 1 - round) as usize / (times - 1) as usize;
        let far_enough = || match names().iter().find(|name| !before.contains(name)) {
            Some(name) if name.starts_with('.') => {
                fs::read_dir(dir.join(name)).map_or(true, |now| now.count() >= files)
            }
            other => other.is_some(),
        };
        let until = Instant::now() + Duration::from_secs(30);
        while !far_enough() {
            assert!(Instant::now() < until, "no file is written");
            std::thread::sleep(Duration::from_micros(100));
        }
        writer.kill().unwrap();
        let now = complete(dir);
        now.iter().for_each(|bundle| drop(verified(bundle)));
        assert!(now.len() - complete_before <= 1, "{now:?}");
        killed_midway += u32::from(now.len() == complete_before);
        complete_before = now.len();
    }
    println!(
        "{killed_midway} of {times} killed while they wrote, {} after their end",
        times - killed_midway
    );
    assert!(killed_midway >= times / 5 && killed_midway < times);
    assert!(
        names().iter().any(|name| name.starts_with('.')),
        "no unfinished bundle is left to remove"
    );
    assert_eq!(run(&cell, command()).0, parts_are_missing);
    let left: Vec<String> = names()
        .into_iter()
        .filter(|name| name.starts_with('.'))
        .collect();
    assert_eq!(left, Vec::<String>::new(), "unfinished bundles are left");
}
