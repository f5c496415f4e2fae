#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::fs;
use std::os::unix::fs::symlink;
use std::os::unix::net::UnixListener;

use proptest::prelude::*;
use rustix::fs::{CWD, Mode, ResolveFlags};
use rustix::io::Errno;

use super::*;

/// Makes a root with a file of each kind, and a secret outside it.
fn tree() -> (tempfile::TempDir, Rooted) {
    let outside = tempfile::tempdir().unwrap();
    let root = outside.path().join("root");
    fs::create_dir_all(root.join("etc/kafka/..data")).unwrap();
    fs::create_dir_all(root.join("opt")).unwrap();
    fs::write(outside.path().join("secret"), "outside").unwrap();
    fs::write(root.join("secret"), "inside").unwrap();
    fs::write(
        root.join("etc/kafka/..data/server.properties"),
        "broker.id=1",
    )
    .unwrap();
    for (link, target) in [
        ("etc/kafka/server.properties", "..data/server.properties"),
        ("opt/kafka", "/etc/kafka"),
        ("up", "../secret"),
        ("far-up", "../../../../../../secret"),
        ("absolute", "/secret"),
        ("magic", "/proc/self/root/secret"),
        ("loop", "loop"),
        ("ping", "pong"),
        ("pong", "ping"),
        ("dangling", "nothing"),
        ("to-folder", "etc/"),
    ] {
        symlink(target, root.join(link)).unwrap();
    }
    rustix::fs::mknodat(
        CWD,
        root.join("fifo"),
        FileType::Fifo,
        Mode::RUSR | Mode::WUSR,
        0,
    )
    .unwrap();
    fs::write(root.join("huge"), vec![b'x'; 5000]).unwrap();
    fs::File::create(root.join("sparse"))
        .unwrap()
        .set_len(1 << 40)
        .unwrap();
    drop(UnixListener::bind(root.join("socket")).unwrap());
    let rooted = Rooted::open(&root).unwrap();
    (outside, rooted)
}

#[test]
fn only_regular_files_inside_have_a_size() {
    let (_folder, root) = tree();
    for (path, size) in [
        ("/sparse", 1 << 40),
        ("/up", 6),
        ("/etc/kafka/server.properties", 11),
    ] {
        assert_eq!(root.size(Path::new(path)).unwrap(), size, "{path}");
    }
    for path in ["/fifo", "/etc", "/nothing", "/loop"] {
        assert!(root.size(Path::new(path)).is_err(), "{path}");
    }
}

#[test]
fn reads_inside_and_never_outside() {
    let (_folder, root) = tree();
    let table = [
        ("/etc/kafka/server.properties", Ok("broker.id=1")),
        ("etc/kafka/server.properties", Ok("broker.id=1")),
        ("/opt/kafka/server.properties", Ok("broker.id=1")),
        ("/opt/kafka/../kafka/./server.properties", Ok("broker.id=1")),
        ("//etc///kafka/server.properties", Ok("broker.id=1")),
        ("/secret", Ok("inside")),
        ("/../secret", Ok("inside")),
        ("/../../../../../../../secret", Ok("inside")),
        ("/up", Ok("inside")),
        ("/far-up", Ok("inside")),
        ("/absolute", Ok("inside")),
        ("/magic", Err("does not exist")),
        ("/loop", Err("leads through too many links or folders")),
        ("/ping", Err("leads through too many links or folders")),
        ("/dangling", Err("does not exist")),
        ("/secret/", Err("does not exist")),
        ("/secret/..", Err("does not exist")),
        ("/none/../secret", Err("does not exist")),
        ("/", Err("is a folder, not a regular file")),
        ("/to-folder", Err("is a folder, not a regular file")),
        ("/fifo", Err("is a FIFO, not a regular file")),
        ("/socket", Err("is a socket, not a regular file")),
        ("/huge", Err("has more than 4096 bytes")),
        ("/sparse", Err("has more than 4096 bytes")),
    ];
    for (path, expected) in table {
        let found = root
            .read(Path::new(path), 4096)
            .map(|file| String::from_utf8(file.bytes).unwrap());
        match (found, expected) {
            (Ok(found), Ok(expected)) => assert_eq!(found, expected, "{path}"),
            (Err(error), Err(expected)) => {
                assert!(error.to_string().ends_with(expected), "{path}: {error}")
            }
            (found, expected) => panic!("{path}: {found:?}, not {expected:?}"),
        }
    }
    let deep = "a/../".repeat(200) + "secret";
    fs::create_dir(_folder.path().join("root/a")).unwrap();
    assert!(matches!(
        root.read(Path::new(&deep), 10),
        Err(FileError::TooDeep { .. })
    ));
}

#[test]
fn devices_are_not_opened() {
    let root = Rooted::open(Path::new("/dev")).unwrap();
    let error = root.read(Path::new("/null"), 10).unwrap_err().to_string();
    assert_eq!(error, "/dev/null is a character device, not a regular file");
}

#[test]
fn where_the_kernel_shows_itself_nothing_is_read() {
    let root = Rooted::open(Path::new("/")).unwrap();
    let (folder, _) = tree();
    let link = folder.path().join("link");
    let inside = link.strip_prefix("/").unwrap();
    for (path, system) in [
        ("/proc/kmsg", "procfs"),
        ("/proc/self/environ", "procfs"),
        ("/proc/self/root/etc/hostname", "procfs"),
        ("/proc/self/cwd/Cargo.toml", "procfs"),
        ("/sys/kernel/notes", "sysfs"),
    ] {
        let _ = fs::remove_file(&link);
        symlink(path, &link).unwrap();
        for path in [Path::new(path), inside] {
            let why = format!("is on {system}, where no files are stored: it is not read");
            let error = root.read(path, 100).unwrap_err().to_string();
            assert!(error.ends_with(&why), "{error}");
        }
    }
    for path in ["/proc", "/sys/kernel", "/proc/self/cwd"] {
        assert!(
            matches!(
                root.space(Path::new(path)),
                Err(FileError::NoStorage { .. })
            ),
            "{path}"
        );
    }
}

#[test]
fn a_folder_is_listed_up_to_a_bound() {
    let (_folder, root) = tree();
    let mut names = root.list(Path::new("/opt/kafka"), 10).unwrap();
    names.sort();
    assert_eq!(names, ["..data", "server.properties"]);
    assert!(
        root.list(Path::new("/opt/kafka"), 1)
            .unwrap_err()
            .to_string()
            .ends_with("has more than 1 entries")
    );
    assert!(matches!(
        root.list(Path::new("/secret"), 1),
        Err(FileError::WrongKind { .. })
    ));
}

/// Lets the kernel open the same path, and returns device and inode.
fn kernel(root: &Rooted, path: &Path) -> Result<(u64, u64), Errno> {
    let resolve = ResolveFlags::IN_ROOT;
    let fd = rustix::fs::openat2(
        &root.root,
        path,
        OFlags::PATH | OFlags::CLOEXEC,
        Mode::empty(),
        resolve,
    )?;
    let stat = rustix::fs::fstat(&fd).unwrap();
    Ok((stat.st_dev, stat.st_ino))
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, failure_persistence: None, ..ProptestConfig::default() })]

    /// Random trees of folders, files and links: the walk ends where the kernel's own `RESOLVE_IN_ROOT` does.
    #[test]
    fn agrees_with_openat2(
        links in prop::collection::vec(("[abc](/[abc]){0,2}", "/?(\\.\\./){0,3}([abc.]/){0,3}([abc]|\\.\\.|\\./)?"), 0..8),
        paths in prop::collection::vec("/?(\\.\\./){0,2}([abc]|\\.\\.|\\.)(/([abc]|\\.\\.|\\.)){0,4}/?", 1..20),
    ) {
        let outside = tempfile::tempdir().unwrap();
        let base = fs::canonicalize(outside.path()).unwrap().join("r");
        fs::create_dir_all(base.join("a/b/c")).unwrap();
        fs::write(base.join("b"), "").unwrap();
        for (link, target) in links.iter().filter(|(_, target)| !target.is_empty()) {
            // Links that do not fit the tree so far are left out, and none is made through another link.
            let place = base.join(link);
            if place.parent().is_some_and(|parent| fs::canonicalize(parent).is_ok_and(|real| real == parent)) {
                let _ = symlink(target, &place);
            }
        }
        let root = Rooted::open(&base).unwrap();
        if kernel(&root, Path::new("a")).err() != Some(Errno::NOSYS) {
            for path in &paths {
                let path = Path::new(path);
                let ours = root.walk(path, path).map(|fd| {
                    let stat = rustix::fs::fstat(&fd).unwrap();
                    (stat.st_dev, stat.st_ino)
                });
                match (kernel(&root, path), ours) {
                    (Ok(theirs), Ok(ours)) => prop_assert_eq!(theirs, ours, "{}", path.display()),
                    (Err(Errno::NOENT | Errno::NOTDIR), Err(FileError::Missing { .. })) => {}
                    (Err(Errno::LOOP), Err(FileError::TooDeep { .. })) => {}
                    (theirs, ours) => prop_assert!(false, "{}: {theirs:?} {ours:?}", path.display()),
                }
            }
        }
    }
}
