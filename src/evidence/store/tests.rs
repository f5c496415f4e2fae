#![allow(clippy::unwrap_used)]

use std::fs::{self, Permissions};
use std::os::unix::fs::{PermissionsExt as _, chown, lchown, symlink};
use std::process::Command;
use std::sync::mpsc;
use std::time::Duration;

use rustix::fs::{CWD, Mode, mknodat};

use super::*;
use crate::model::ProcessKey;

fn settings(dir: &Path) -> EvidenceSettings {
    EvidenceSettings {
        dir: Some(dir.to_owned()),
        min_free: 0,
        ..EvidenceSettings::default()
    }
}

fn manifest(label: &str) -> Manifest {
    Manifest {
        made_by: String::new(),
        broker: label.into(),
        kafka_version: None,
        process: ProcessKey {
            pid: 1,
            start_ticks: 1,
        },
        started: None,
        at: Moment(0),
        verdict: String::new(),
        findings: Vec::new(),
        files: Vec::new(),
        heap_dump: None,
        missing: Vec::new(),
    }
}

fn save(settings: &EvidenceSettings, label: &str) -> Result<PathBuf, SaveError> {
    let mut writer = Writer::begin(settings, label, Moment(0), true)?;
    writer.add("limits.txt", Ok(b"abc".to_vec()));
    writer.commit(manifest(label))
}

fn fifo(path: &Path) {
    mknodat(CWD, path, FileType::Fifo, Mode::RUSR | Mode::WUSR, 0).unwrap();
}

fn names(dir: &Path) -> Vec<String> {
    let entries = fs::read_dir(dir).unwrap();
    let mut names: Vec<String> = entries
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    names.sort();
    names
}

fn write(settings: &EvidenceSettings, label: &str, hour: u64, content: usize) -> ListedFile {
    let at = Moment(0).plus(Duration::from_secs(3600 * hour));
    let mut writer = Writer::begin(settings, label, at, true).unwrap();
    writer.add("big.txt", Ok(vec![b'x'; content]));
    writer.add("small.txt", Ok(b"abc".to_vec()));
    writer.commit(manifest(label)).unwrap();
    let (_, manifest) = manifests(settings).pop().unwrap();
    assert_eq!(manifest.files.len() + manifest.missing.len(), 2);
    manifest.files.last().unwrap().clone()
}

#[test]
fn the_oldest_are_removed_first_and_never_the_newest_of_a_broker() {
    let folder = tempfile::tempdir().unwrap();
    let dir = folder.path().join("evidence");
    let all = EvidenceSettings {
        max_bundles: 3,
        ..settings(&dir)
    };
    write(&all, "2", 1, 10);
    fs::create_dir(dir.join("of-somebody-else")).unwrap();
    (2..6).for_each(|hour| drop(write(&all, "1", hour, 10)));
    let small = write(&all, "1", 6, 10);
    // The hash of `abc` as FIPS 180-2 gives it.
    assert_eq!(
        small.sha256,
        "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
    );
    let hours = |hours: &[u64]| -> Vec<String> {
        let mut names: Vec<String> = hours
            .iter()
            .map(|hour| {
                format!(
                    "1970-01-01T0{hour}-00-00Z-broker-{}",
                    if *hour == 1 { 2 } else { 1 }
                )
            })
            .collect();
        names.push("of-somebody-else".into());
        names
    };
    assert_eq!(names(&dir), hours(&[1, 5, 6]));

    // A bundle that is being written stays, a leftover is removed.
    let writer = Writer::begin(
        &all,
        "1",
        Moment(0).plus(Duration::from_secs(7 * 3600)),
        true,
    )
    .unwrap();
    fs::create_dir(dir.join(".left-over.partial")).unwrap();
    tidy(&all).unwrap();
    let hidden = names(&dir).into_iter().filter(|name| name.starts_with('.'));
    assert_eq!(hidden.count(), 1);
    drop(writer);
    tidy(&EvidenceSettings {
        max_age: Some(Duration::from_secs(60)),
        ..all.clone()
    })
    .unwrap();
    assert_eq!(names(&dir), hours(&[1, 6]));

    // One bundle has at most a quarter of all bytes, and all together have at most all.
    let bytes = EvidenceSettings {
        max_bytes: 400 << 10,
        ..settings(&dir)
    };
    for hour in 10..20 {
        write(&bytes, "1", hour, 80 << 10);
    }
    let du = Command::new("du")
        .args(["--bytes", "--summarize"])
        .arg(&dir)
        .output()
        .unwrap();
    let used: u64 = String::from_utf8(du.stdout)
        .unwrap()
        .split_whitespace()
        .next()
        .unwrap()
        .parse()
        .unwrap();
    assert!(
        (300 << 10..400 << 10).contains(&used),
        "{used} bytes, {:?}",
        names(&dir)
    );
    write(&bytes, "1", 20, 90 << 10);
    let (_, newest) = manifests(&bytes).pop().unwrap();
    assert_eq!(
        (
            newest.files[0].name.as_str(),
            newest.missing[0].name.as_str()
        ),
        ("small.txt", "big.txt")
    );
}

#[test]
fn a_bundle_whose_dumps_do_not_fit_is_not_kept() {
    let folder = tempfile::tempdir().unwrap();
    let dir = folder.path().join("evidence");
    let small = EvidenceSettings {
        max_bytes: 400 << 10,
        ..settings(&dir)
    };
    let read = |bytes: usize| Ok(vec![b'x'; bytes]);
    let no_jvm = || Err(PartError::read("no JVM"));
    // The results of the dumps and of another file, and the expected error.
    let table = [
        ("all fit", [read(10), read(10), read(10), read(10)], None),
        (
            "one dump fits",
            [read(10), read(90 << 10), read(90 << 10), read(10)],
            None,
        ),
        (
            "no dump fits",
            [read(90 << 10), read(90 << 10), no_jvm(), read(10)],
            Some("no thread dump fits: its 92160 bytes"),
        ),
        (
            "no dump is read",
            [no_jvm(), no_jvm(), no_jvm(), read(10)],
            None,
        ),
        (
            "nothing is read",
            [no_jvm(), no_jvm(), no_jvm(), no_jvm()],
            Some("not one file could be saved: no JVM"),
        ),
        (
            "nothing but empty files",
            [no_jvm(), no_jvm(), no_jvm(), read(0)],
            Some("not one file could be saved"),
        ),
    ];
    for (index, (name, contents, wanted)) in table.into_iter().enumerate() {
        let mut writer = Writer::begin(&small, "1", Moment(index as u64 * 1000), true).unwrap();
        std::iter::zip([DUMPS.as_slice(), &["limits.txt"]].concat(), contents)
            .for_each(|(n, c)| writer.add(n, c));
        let before = names(&dir).len();
        let committed = writer.commit(manifest("1"));
        assert_eq!(committed.is_ok(), wanted.is_none(), "{name}: {committed:?}");
        assert!(
            committed
                .as_ref()
                .err()
                .is_none_or(|why| why.to_string().contains(wanted.unwrap())),
            "{name}: {committed:?}"
        );
        assert_eq!(
            names(&dir).len() + usize::from(wanted.is_some()),
            before,
            "{name}: nothing partial is left"
        );
    }
}

/// Otherwise a writer whose folder is just being removed would use it, and commit what is left of it.
#[test]
fn removing_leftovers_holds_the_lock_until_all_is_gone() {
    let folder = tempfile::tempdir().unwrap();
    let settings = settings(&folder.path().join("evidence"));
    let left_over = folder.path().join("evidence/.left-over.partial");
    fs::create_dir_all(&left_over).unwrap();
    const FILES: usize = 5_000;
    (0..FILES).for_each(|n| fs::write(left_over.join(n.to_string()), "").unwrap());
    let lock = fs::File::open(&left_over).unwrap();
    let count = || fs::read_dir(&left_over).map_or(0, Iterator::count);
    let sweeper = std::thread::spawn(move || tidy(&settings));
    while count() == FILES {
        std::thread::yield_now();
    }
    let locked = rustix::fs::flock(&lock, rustix::fs::FlockOperation::NonBlockingLockExclusive);
    assert!(
        locked.is_err() || count() == 0,
        "{} files are left",
        count()
    );
    sweeper.join().unwrap().unwrap();
    assert!(!left_over.exists());
}

/// Before, the first of them held up all evidence for ever.
#[test]
fn a_fifo_or_a_link_under_any_of_the_names_holds_up_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let (dir, outside) = (
        folder.path().join("evidence"),
        folder.path().join("outside"),
    );
    let all = EvidenceSettings {
        max_bundles: 1,
        ..settings(&dir)
    };
    fs::create_dir(&outside).unwrap();
    fs::write(outside.join("manifest.json"), "{}").unwrap();
    save(&all, "1").unwrap();
    fifo(&dir.join(".a.partial"));
    fifo(&dir.join("1970-01-01T00-00-00Z-broker-2"));
    symlink(&outside, dir.join(".b.partial")).unwrap();
    symlink(&outside, dir.join("1970-01-01T00-00-00Z-broker-3")).unwrap();
    let of_fifos = dir.join("1970-01-01T00-00-00Z-broker-4");
    fs::create_dir(&of_fifos).unwrap();
    fifo(&of_fifos.join("manifest.json"));
    let (send, done) = mpsc::channel();
    let own = all.clone();
    std::thread::spawn(move || {
        tidy(&own).unwrap();
        let known = manifests(&own).len();
        send.send((known, save(&own, "1").unwrap())).unwrap();
    });
    let (known, saved) = done.recv_timeout(Duration::from_secs(10)).unwrap();
    assert_eq!(known, 1);
    assert!(
        saved.ends_with("1970-01-01T00-00-00Z-broker-1+2"),
        "{saved:?}"
    );
    assert_eq!(names(&outside), ["manifest.json"]);
}

/// Before, all eight files were written where the link leads.
#[test]
fn a_folder_that_is_swapped_while_it_is_written_leads_nothing_elsewhere() {
    let folder = tempfile::tempdir().unwrap();
    let (dir, outside) = (
        folder.path().join("evidence"),
        folder.path().join("outside"),
    );
    fs::create_dir(&outside).unwrap();
    for swap in ["link", "folder"] {
        let mut writer = Writer::begin(&settings(&dir), "1", Moment(0), true).unwrap();
        writer.add("limits.txt", Ok(b"abc".to_vec()));
        let partial = dir.join(&writer.temporary);
        fs::rename(&partial, folder.path().join(format!("taken-{swap}"))).unwrap();
        if swap == "link" {
            symlink(&outside, &partial).unwrap();
        } else {
            fs::create_dir(&partial).unwrap();
        }
        for name in DUMPS {
            writer.add(name, Ok(b"abc".to_vec()));
        }
        let error = writer.commit(manifest("1")).unwrap_err().to_string();
        assert!(
            error.contains("another user has put something else"),
            "{swap}: {error}"
        );
        assert_eq!(names(&outside), [""; 0], "{swap}");
        assert_eq!(names(&folder.path().join(format!("taken-{swap}"))).len(), 5);
    }
}

#[test]
fn a_folder_of_others_is_refused_unless_it_is_shared_on_purpose() {
    let folder = tempfile::tempdir().unwrap();
    let dir = folder.path().join("evidence");
    let is_root = geteuid().is_root();
    // The owner of the folder, its mode, and the words of the refusal.
    let table = [
        (None, 0o700, None),
        (None, 0o755, None),
        (None, 0o777, Some("others may write to it (mode 777)")),
        (None, 0o1777, Some("others may write to it (mode 1777)")),
        (None, 0o770, Some("others may write to it (mode 770)")),
        (Some(65534), 0o700, Some("uid 65534 owns it")),
    ];
    for (owner, mode, wanted) in table {
        if owner.is_some() && !is_root {
            continue;
        }
        fs::create_dir(&dir).unwrap();
        chown(&dir, owner, None).unwrap();
        fs::set_permissions(&dir, Permissions::from_mode(mode)).unwrap();
        let error = save(&settings(&dir), "1")
            .err()
            .map(|error| error.to_string());
        assert_eq!(error.is_some(), wanted.is_some(), "{mode:o}: {error:?}");
        let error = error.unwrap_or_default();
        assert!(error.contains(wanted.unwrap_or_default()), "{error}");
        assert_eq!(
            error.contains("set evidence.shared: true"),
            wanted.is_some()
        );
        let shared = EvidenceSettings {
            shared: true,
            ..settings(&dir)
        };
        save(&shared, "2").unwrap();
        fs::remove_dir_all(&dir).unwrap();
    }
    if !is_root {
        return;
    }
    // In a shared folder a bundle of another user is neither counted nor removed.
    fs::create_dir(&dir).unwrap();
    fs::set_permissions(&dir, Permissions::from_mode(0o777)).unwrap();
    let shared = EvidenceSettings {
        shared: true,
        max_bundles: 1,
        ..settings(&dir)
    };
    for name in ["2000-01-01T00-00-00Z-broker-1", ".x.partial"] {
        fs::create_dir(dir.join(name)).unwrap();
        chown(dir.join(name), Some(65534), None).unwrap();
    }
    save(&shared, "1").unwrap();
    save(&shared, "1").unwrap();
    assert_eq!(
        names(&dir),
        [
            ".x.partial",
            "1970-01-01T00-00-00Z-broker-1+2",
            "2000-01-01T00-00-00Z-broker-1"
        ]
    );
    // The owner of a folder on the way leads it nowhere.
    let of_other = folder.path().join("of-other");
    symlink(folder.path().join("taken"), &of_other).unwrap();
    fs::create_dir(folder.path().join("taken")).unwrap();
    save(&settings(&of_other.join("evidence")), "1").unwrap();
    lchown(&of_other, Some(65534), None).unwrap();
    let error = save(&settings(&of_other.join("evidence")), "1")
        .unwrap_err()
        .to_string();
    assert!(
        error.contains("uid 65534 made a link on its path"),
        "{error}"
    );
    assert_eq!(names(&folder.path().join("taken/evidence")).len(), 1);
}

/// Each of them leaves room for the other.
#[test]
fn two_bundles_that_are_written_at_once_stay_within_the_limit() {
    let folder = tempfile::tempdir().unwrap();
    let small = EvidenceSettings {
        max_bytes: 400 << 10,
        max_bundles: 3,
        ..settings(&folder.path().join("evidence"))
    };
    let full = vec![b'x'; 84 << 10];
    let begin = |label: &str| Writer::begin(&small, label, Moment(0), true).unwrap();
    let finish = |mut writer: Writer, label: &str| {
        writer.add("limits.txt", Ok(full.clone()));
        writer.commit(manifest(label)).unwrap();
    };
    for _ in 0..4 {
        finish(begin("1"), "1");
    }
    let (first, second) = (begin("1"), begin("2"));
    finish(second, "2");
    finish(first, "1");
    let labels: Vec<String> = manifests(&small)
        .into_iter()
        .map(|(_, it)| it.broker)
        .collect();
    let bytes: u64 = manifests(&small)
        .iter()
        .flat_map(|(_, it)| &it.files)
        .map(|file| file.bytes)
        .sum();
    assert!(
        labels.contains(&"1".into()) && labels.contains(&"2".into()),
        "{labels:?}"
    );
    assert!(
        bytes <= 400 << 10 && labels.len() <= 3,
        "{bytes} {labels:?}"
    );
}

/// One removed the folder that another had made and not locked yet.
#[test]
fn writers_that_start_together_leave_each_other_s_folders() {
    let folder = tempfile::tempdir().unwrap();
    let settings = settings(&folder.path().join("evidence"));
    let begins = || {
        for _ in 0..100 {
            let writer = Writer::begin(&settings, "1", Moment(0), false).unwrap();
            let path = writer.path("");
            assert!(path.is_dir(), "{}", path.display());
        }
    };
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(begins);
        }
    });
}
