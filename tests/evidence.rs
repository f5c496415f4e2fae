//! Evidence when the disk is full, rights are missing or the writer is killed: a bundle is complete, or there is none.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod support;

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::process::Command;

use lab::Cell;
use support::evidence::{bundle_command, complete, folder, run, verified, why_missing};
use support::fakes::fake_broker;
use support::skip;

const ID: i32 = 890_001;

/// Runs `bundle` in a mount namespace of its own after `prepare`, whose `$1` is the output folder. Copies the result to
/// `out` before the mounts are gone.
fn in_mounts(
    cell: &Cell,
    prepare: &str,
    dir: &Path,
    out: &Path,
    config: &str,
) -> (Option<i32>, String, String) {
    fs::write(out.join("config.yml"), config).unwrap();
    let inner = bundle_command(ID, dir);
    let script = format!(
        "dir=$1; out=$2; shift 2; {prepare}; \"$@\"; code=$?; cp -a \"$dir\" \"$out/copy\"; exit $code"
    );
    let mut command = Command::new("unshare");
    command
        .args(["--mount", "sh", "-c", &script, "sh"])
        .arg(dir)
        .arg(out)
        .arg(inner.get_program());
    command
        .args(inner.get_args())
        .arg("--config.file")
        .arg(out.join("config.yml"));
    run(cell, command)
}

#[test]
fn what_cannot_be_written_is_reported_and_no_half_bundle_counts() {
    let cell = Cell::new().unwrap();
    if !cell.isolated() {
        return skip(
            "what_cannot_be_written_is_reported_and_no_half_bundle_counts",
            "may not make namespaces",
        );
    }
    let home = folder();
    let _fake = fake_broker(&cell, home.path(), ID);
    let tmpfs = |options: &str| format!("mount -t tmpfs -o mode=700,{options} none \"$dir\"");
    let no_floor = "evidence: {min_free: 0}\n";
    // There is no JVM.
    let no_dump = " lacks thread-dump-1.txt: ";
    // Name, preparation, config, exit code, message, and whether there is a bundle.
    let table = [
        (
            "space for all",
            tmpfs("size=10m"),
            no_floor,
            1,
            no_dump,
            true,
        ),
        // Some files fit, in blocks of 4 KiB.
        (
            "space for some",
            tmpfs("size=36k"),
            no_floor,
            1,
            no_dump,
            true,
        ),
        // Only a manifest would fit.
        (
            "space for no file",
            tmpfs("size=16k"),
            no_floor,
            1,
            "not one file could be saved",
            false,
        ),
        (
            "no space",
            tmpfs("size=4k"),
            no_floor,
            1,
            "less is free there than evidence.min_free (0 MiB)",
            false,
        ),
        (
            "filled by another",
            format!(
                "{}; head -c 9950k /dev/zero >\"$dir/other\"",
                tmpfs("size=10m")
            ),
            no_floor,
            1,
            no_dump,
            true,
        ),
        (
            "no inode left",
            tmpfs("size=10m,nr_inodes=2"),
            no_floor,
            1,
            "No space left on device",
            false,
        ),
        (
            "below the floor",
            tmpfs("size=10m"),
            "",
            1,
            "less is free there than evidence.min_free (1024 MiB)",
            false,
        ),
        (
            "read-only",
            tmpfs("size=10m,ro"),
            no_floor,
            1,
            "Read-only file system",
            false,
        ),
    ];
    for (name, prepare, config, code, message, exists) in table {
        let (dir, out) = (folder(), folder());
        let (status, stdout, stderr) = in_mounts(&cell, &prepare, dir.path(), out.path(), config);
        assert_eq!(
            (status, stdout.is_empty()),
            (Some(code), !exists),
            "{name}: {stdout}{stderr}"
        );
        assert!(
            stderr.contains(message)
                && (exists || stderr.contains("evidence.dir") || stderr.contains("min_free")),
            "{name}: {stderr}"
        );
        let copy = out.path().join("copy");
        let found: Vec<_> = complete(&copy)
            .into_iter()
            .filter(|path| path.is_dir())
            .collect();
        assert_eq!(found.len(), usize::from(exists), "{name}: {found:?}");
        let left: Vec<_> = fs::read_dir(&copy)
            .unwrap()
            .map(|entry| entry.unwrap().file_name())
            .collect();
        assert!(
            !left
                .iter()
                .any(|name| name.to_string_lossy().ends_with(".partial")),
            "{name}: {left:?}"
        );
        for bundle in found {
            let manifest = verified(&bundle);
            assert!(why_missing(&manifest, "thread-dump-1.txt").is_some());
            let full =
                why_missing(&manifest, "snapshots.jsonl").or(why_missing(&manifest, "sockets.txt"));
            let some = full.is_some_and(|why| {
                why.contains("evidence.min_free") || why.contains("No space left")
            });
            assert_eq!(some, name == "space for some", "{name}: {manifest:#}");
        }
    }
}

#[test]
fn a_folder_that_may_not_be_written_is_named() {
    let cell = Cell::new().unwrap();
    if !rustix::process::geteuid().is_root() {
        return skip("a_folder_that_may_not_be_written_is_named", "needs root");
    }
    let (home, dir) = (folder(), folder());
    let _fake = fake_broker(&cell, home.path(), ID);
    fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o755)).unwrap();
    let inner = bundle_command(ID, dir.path());
    let mut command = Command::new("setpriv");
    command
        .args(["--reuid=65534", "--regid=65534", "--clear-groups", "--"])
        .arg(inner.get_program());
    command.args(["bundle", "--output"]).arg(dir.path());
    let (code, stdout, stderr) = run(&cell, command);
    assert_eq!((code, stdout.as_str()), (Some(1), ""), "{stderr}");
    assert!(
        stderr.contains("Permission denied") && stderr.contains("let uid 65534 write there"),
        "{stderr}"
    );
    assert!(complete(dir.path()).is_empty());

    let (code, _, stderr) = run(&cell, bundle_command(ID + 1, dir.path()));
    assert!(
        code == Some(1) && stderr.contains(&format!("no broker {} runs on this host", ID + 1)),
        "{stderr}"
    );
}

#[test]
fn a_writer_killed_at_any_moment_leaves_a_complete_bundle_or_none() {
    support::evidence::kill_in_a_loop(10);
}
