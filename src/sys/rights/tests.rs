#![allow(clippy::unwrap_used)]

use std::fs;
use std::os::fd::AsRawFd as _;
use std::os::unix::fs::{FileTypeExt as _, PermissionsExt as _, chown};
use std::sync::atomic::{AtomicBool, Ordering};

use rustix::process::geteuid;

use super::*;

const STATUS: &str = "Name:\tjava\nUid:\t1000\t1000\t1000\t1000\nGid:\t1001\t1001\t1001\t1001\nGroups:\t4 24 1001 \nCapEff:\t0000000000000006\n";

#[test]
fn rights_are_read_from_a_whole_status_of_one_user() {
    let rights = parse(STATUS.as_bytes()).unwrap();
    let wanted = FileRights {
        uid: 1000,
        gid: 1001,
        groups: vec![4, 24, 1001],
        overrides: OVERRIDES,
    };
    assert_eq!(rights, wanted);
    let without = STATUS.replace("0006", "0000");
    assert!(parse(without.as_bytes()).unwrap().overrides.is_empty());
    // `su` or `sudo` under the name of a JVM, and a process that has taken the file ids of another.
    for ids in ["1000\t0\t0\t0", "1000\t1000\t1000\t0", "0\t1000\t0\t0"] {
        let several = STATUS.replace("1000\t1000\t1000\t1000", ids);
        assert_eq!(parse(several.as_bytes()), Err(Unusable::SeveralUsers));
    }
    for end in [0, 5, STATUS.find("1000\nGid").unwrap()] {
        let cut = parse(&STATUS.as_bytes()[..end]);
        assert_eq!(cut, Err(Unusable::Malformed), "{end}");
    }
    // A number that is cut would be the id of another group.
    let cut = &STATUS[..STATUS.find("24 1001").unwrap() + 1];
    assert_eq!(parse(cut.as_bytes()).unwrap().groups, [0; 0]);
}

#[test]
fn a_setuid_program_is_seen_in_its_auxiliary_vector() {
    let words = |pairs: &[(u64, u64)], size: usize| -> Vec<u8> {
        let words = pairs.iter().flat_map(|(key, value)| [*key, *value]);
        words
            .flat_map(|word| word.to_le_bytes()[..size].to_vec())
            .collect()
    };
    for size in [4, 8] {
        for (secure, wanted) in [(0, false), (1, true)] {
            let pairs = [(33, 0x7fff_1000), (6, 4096), (23, secure), (25, 7), (0, 0)];
            assert_eq!(is_setuid(&words(&pairs, size)), wanted, "{size} {secure}");
        }
    }
    assert!(!is_setuid(b"") && !is_setuid(&[23, 0, 0]));
    // This process is none; `su`, started by another user, waits for a password as one.
    assert!(!is_setuid(&fs::read("/proc/self/auxv").unwrap()));
}

/// The ids, groups and effective capabilities of the calling thread.
fn own() -> Vec<String> {
    let status = fs::read_to_string("/proc/thread-self/status").unwrap();
    let fields = ["Uid:", "Gid:", "Groups:", "CapEff:"].map(|name| {
        let line = status.lines().find(|line| line.starts_with(name));
        line.unwrap().split_whitespace().skip(1).collect::<Vec<_>>()
    });
    fields.map(|words| words.join(" ")).to_vec()
}

#[test]
fn one_thread_has_the_rights_of_another_user_for_a_moment() {
    if !geteuid().is_root() {
        // Without CAP_SETUID nothing changes.
        let rights = parse(STATUS.as_bytes()).unwrap();
        let before = own();
        let inside = rights.during(Path::new("/x"), || Ok(own())).unwrap();
        return assert_eq!(inside, before);
    }
    let folder = tempfile::tempdir().unwrap();
    fs::set_permissions(folder.path(), fs::Permissions::from_mode(0o755)).unwrap();
    let file = |name: &str, mode, gid| {
        let path = folder.path().join(name);
        fs::write(&path, name).unwrap();
        chown(&path, Some(0), Some(gid)).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
        path
    };
    let [of_root, of_group, of_all] = [("root", 0o600, 0), ("group", 0o640, 24), ("all", 0o644, 0)]
        .map(|(name, mode, gid)| file(name, mode, gid));
    let rights = FileRights {
        overrides: CapabilitySet::empty(),
        ..parse(STATUS.as_bytes()).unwrap()
    };
    let before = own();
    let inside = rights
        .during(Path::new("/x"), || {
            let other = std::thread::spawn(own).join().unwrap();
            // A thread takes over what the one has that starts it.
            assert_eq!(other, own());
            Ok(own())
        })
        .unwrap();
    // Only the last ids differ: those by which others may signal or trace the thread are root's.
    assert_eq!(
        inside,
        ["0 0 0 1000", "0 0 0 1001", "4 24 1001", "0000000000000000"]
    );
    assert_eq!(own(), before);
    assert!(rights.open(&of_all).is_ok() && rights.open(&of_group).is_ok());
    let error = rights.open(&of_root).unwrap_err().to_string();
    assert!(
        error.ends_with("root may not be read by uid 1000"),
        "{error}"
    );
    assert_eq!(own(), before);
    // What is known of the others while one has other rights.
    let (seen, others) = std::sync::mpsc::channel();
    let (go, wait) = std::sync::mpsc::channel::<()>();
    let other = std::thread::spawn(move || {
        wait.recv().unwrap();
        seen.send(own()).unwrap();
    });
    rights
        .during(Path::new("/x"), || {
            go.send(()).unwrap();
            assert_eq!(others.recv().unwrap(), before);
            Ok(())
        })
        .unwrap();
    other.join().unwrap();
    // A panic leaves nothing behind either.
    let panics = || {
        rights.during(Path::new("/x"), || -> Result<(), FileError> {
            panic!("by the test")
        })
    };
    assert!(std::panic::catch_unwind(panics).is_err());
    assert_eq!(own(), before);
}

/// A process puts another file under the same number between the look and the opening.
#[test]
fn what_was_found_is_what_is_opened() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("server.log");
    fs::write(&path, "a line\n").unwrap();
    let regular = File::open(&path).unwrap();
    let device = File::open("/dev/null").unwrap();
    let slot = File::open(&path).unwrap();
    let number = slot.as_raw_fd();
    let over = AtomicBool::new(false);
    let rights = FileRights {
        uid: geteuid().as_raw(),
        gid: getegid().as_raw(),
        groups: Vec::new(),
        overrides: CapabilitySet::empty(),
    };
    let link = format!("/proc/self/fd/{number}");
    let (mut opened, mut refused) = (0, 0);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let mut slot = rustix::fd::OwnedFd::from(slot);
            while !over.load(Ordering::Relaxed) {
                rustix::io::dup2(&device, &mut slot).unwrap();
                rustix::io::dup2(&regular, &mut slot).unwrap();
            }
        });
        for _ in 0..20_000 {
            match rights.open(Path::new(&link)) {
                Ok(file) => {
                    let kind = file.metadata().unwrap().file_type();
                    assert!(!kind.is_char_device() && kind.is_file());
                    opened += 1;
                }
                Err(FileError::WrongKind { found, .. }) => {
                    assert_eq!(found, "character device");
                    refused += 1;
                }
                Err(error) => panic!("{error}"),
            }
        }
        over.store(true, Ordering::Relaxed);
    });
    assert!(opened > 100 && refused > 100, "{opened} {refused}");
}
