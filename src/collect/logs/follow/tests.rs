#![allow(clippy::unwrap_used)]

use std::fs::{self, File};
use std::io::Write as _;
use std::os::unix::fs::FileExt as _;
use std::process::Command;

use super::*;

/// A log in a folder, its writer and its follower.
struct Written {
    folder: tempfile::TempDir,
    root: Rooted,
    matcher: LogMatcher,
    log: LogFile,
    seen: Vec<String>,
    lines: u32,
}

impl Written {
    /// With one line that was there before.
    fn new() -> Written {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("server.log");
        fs::write(&path, "INFO Shrinking ISR of before\nINFO half a li").unwrap();
        let log = LogFile::new("/server.log".into(), File::open(&path).unwrap(), true).unwrap();
        let new = Written {
            root: Rooted::open(folder.path()).unwrap(),
            matcher: LogMatcher::new(&[]).unwrap(),
            log,
            folder,
            seen: Vec::new(),
            lines: 0,
        };
        new.append("server.log", "ne\n");
        new
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn append(&self, name: &str, text: &str) {
        let file = File::options()
            .create(true)
            .append(true)
            .open(self.path(name));
        file.unwrap().write_all(text.as_bytes()).unwrap();
    }

    /// Writes the next line.
    fn line(&mut self) {
        self.lines += 1;
        self.append(
            "server.log",
            &format!("INFO Shrinking ISR {}\n", self.lines),
        );
    }

    /// Reads, and returns the numbers of all lines until now.
    fn read(&mut self) -> Vec<u32> {
        self.read_at_most(1 << 20, |_| false)
    }

    fn read_at_most(
        &mut self,
        budget: usize,
        mut is_written: impl FnMut(FileId) -> bool,
    ) -> Vec<u32> {
        let mut found = |line: Found| self.seen.push(line.text);
        let mut run = Run {
            root: &self.root,
            matcher: &self.matcher,
            found: &mut found,
            budget,
            is_written: &mut is_written,
        };
        if self.log.has_news().unwrap() {
            self.log.read(&mut run).unwrap();
        }
        let number = |line: &String| line.rsplit_once(' ').unwrap().1.parse().unwrap();
        self.seen.iter().map(number).collect()
    }

    fn rotate(&self, to: &str) {
        fs::rename(self.path("server.log"), self.path(to)).unwrap();
    }
}

fn all(lines: u32) -> Vec<u32> {
    (1..=lines).collect()
}

#[test]
fn what_is_new_is_read_once() {
    let mut log = Written::new();
    assert_eq!(log.read(), all(0));
    log.line();
    assert_eq!(log.read(), [1]);
    assert!(!log.log.has_news().unwrap());
    assert_eq!(log.read(), [1]);
    log.line();
    log.line();
    assert_eq!(log.read(), [1, 2, 3]);
}

#[test]
fn no_line_is_lost_where_the_log_is_renamed_and_begun_again() {
    let mut log = Written::new();
    log.line();
    log.read();
    // Between two reads, several times: as RollingFileAppender does with a small size.
    for round in 0..5 {
        for step in 0..=round {
            log.line();
            for number in (1..10).rev() {
                let from = log.path(&format!("server.log.{number}"));
                if from.exists() {
                    fs::rename(from, log.path(&format!("server.log.{}", number + 1))).unwrap();
                }
            }
            log.rotate("server.log.1");
            // The clock of the kernel that stamps files ticks each few milliseconds.
            std::thread::sleep(std::time::Duration::from_millis(10));
            for _ in 0..step {
                log.line();
            }
        }
        log.line();
        assert_eq!(log.read(), all(log.lines), "{round}");
    }
    assert_eq!(log.log.open_files(), 1);
    // By day, with nothing new yet, and a pause in which there is no file.
    log.line();
    log.rotate("server.log.2026-11-30-12");
    assert_eq!(log.read(), all(log.lines));
    assert_eq!(log.read(), all(log.lines));
    log.line();
    assert_eq!(log.read(), all(log.lines));
}

#[test]
fn a_log_that_is_cut_off_or_deleted_begins_again() {
    let mut log = Written::new();
    for _ in 0..20 {
        log.line();
    }
    assert_eq!(log.read(), all(20));
    // copytruncate
    let copied = Command::new("cp")
        .args([log.path("server.log"), log.path("server.log.1")])
        .status();
    assert!(copied.unwrap().success());
    File::create(log.path("server.log")).unwrap();
    log.line();
    assert_eq!(log.read(), all(21));
    // Grown beyond the old place since.
    File::create(log.path("server.log")).unwrap();
    for _ in 0..30 {
        log.line();
    }
    assert_eq!(log.read(), all(51));
    // A writer that goes on at its old place leaves a hole.
    let file = File::create(log.path("server.log")).unwrap();
    file.write_at(b"INFO Shrinking ISR 52\n", 200_000).unwrap();
    log.lines = 52;
    assert_eq!(log.read(), all(52));
    fs::remove_file(log.path("server.log")).unwrap();
    assert_eq!(log.read(), all(52));
    log.line();
    assert_eq!(log.read(), all(53));
}

#[test]
fn a_log_that_another_program_renamed_is_followed_while_it_is_written() {
    let mut log = Written::new();
    log.line();
    log.read();
    log.rotate("server.log.1");
    File::create(log.path("server.log")).unwrap();
    log.append("server.log.1", "INFO Shrinking ISR 2\n");
    assert_eq!(log.read_at_most(1 << 20, |_| true), [1, 2]);
    log.append("server.log.1", "INFO Shrinking ISR 3\n");
    assert_eq!(log.read_at_most(1 << 20, |_| true), [1, 2, 3]);
    // Until log4j opens the new one.
    log.append("server.log.1", "INFO Shrinking ISR 4\n");
    log.append("server.log", "INFO Shrinking ISR 5\n");
    assert_eq!(log.read(), [1, 2, 3, 4, 5]);
}

#[test]
fn what_is_put_in_the_place_of_the_log_does_no_harm() {
    let mut log = Written::new();
    log.line();
    log.read();
    let outside = tempfile::tempdir().unwrap();
    fs::write(outside.path().join("secret"), "INFO Shrinking ISR 77\n").unwrap();
    log.line();
    log.rotate("server.log.1");
    let path = log.path("server.log");
    for kind in ["fifo", "link out of the root", "folder", "link to itself"] {
        match kind {
            "fifo" => drop(Command::new("mkfifo").arg(&path).status().unwrap()),
            "folder" => fs::create_dir(&path).unwrap(),
            "link to itself" => std::os::unix::fs::symlink("server.log", &path).unwrap(),
            _ => std::os::unix::fs::symlink(outside.path().join("secret"), &path).unwrap(),
        }
        assert_eq!(log.read(), [1, 2], "{kind}");
        match kind {
            "folder" => fs::remove_dir(&path).unwrap(),
            _ => fs::remove_file(&path).unwrap(),
        }
    }
    log.line();
    assert_eq!(log.read(), [1, 2, 3]);
}

#[test]
fn a_log_that_grows_too_fast_is_read_later_and_then_passed_over() {
    let mut log = Written::new();
    for _ in 0..100 {
        log.line();
    }
    // A little at a time, of which each reading is one piece.
    assert!(log.read_at_most(1, |_| false).len() <= 100);
    while log.log.has_news().unwrap() {
        log.read_at_most(1, |_| false);
    }
    assert_eq!(log.read(), all(100));
    let file = File::options()
        .write(true)
        .open(log.path("server.log"))
        .unwrap();
    let size = file.metadata().unwrap().len();
    // A hole of 200 MiB takes no space.
    file.set_len(size + (200 << 20)).unwrap();
    log.append("server.log", "\nINFO Shrinking ISR 101\n");
    log.lines = 101;
    assert_eq!(log.read_at_most(4 << 20, |_| false), all(101));
    let skipped = log.log.skipped;
    assert!(skipped > 190 << 20 && skipped < 200 << 20, "{skipped}");
}

#[test]
fn names_of_rotated_files() {
    use Rotated::{Compressed, Plain};
    let table = [
        ("server.log.1", Some(Plain)),
        ("server.log.2026-11-30-12", Some(Plain)),
        ("server-7.log", Some(Plain)),
        ("server.2026-11-30.log", Some(Plain)),
        ("server.log.1.gz", Some(Compressed)),
        ("server.log", None),
        ("server.log.lock", None),
        ("server.log.gz", None),
        ("controller.log.1", None),
        ("serverless.log.1", None),
    ];
    for (name, expected) in table {
        assert_eq!(Rotated::of("server.log", name), expected, "{name}");
    }
}

/// What was compressed before it could be read is counted; the file that is still open here is read to its end.
#[test]
fn compressed_files_that_were_not_read_are_counted() {
    let mut log = Written::new();
    let compress = |log: &Written, name: &str| {
        let path = log.path(name);
        let status = Command::new("gzip").arg(&path).status().unwrap();
        assert!(status.success());
        fs::metadata(path.with_extension(format!("{}.gz", &name["server.log.".len()..]))).unwrap()
    };
    log.line();
    log.rotate("server.log.1");
    compress(&log, "server.log.1");
    log.line();
    assert_eq!((log.read(), log.log.skipped), (all(2), 0));
    std::thread::sleep(std::time::Duration::from_millis(10));
    // Twice between two reads: the lines of the second file are lost.
    log.line();
    log.rotate("server.log.2");
    compress(&log, "server.log.2");
    std::thread::sleep(std::time::Duration::from_millis(10));
    log.line();
    log.rotate("server.log.3");
    let lost = compress(&log, "server.log.3");
    log.line();
    assert_eq!(log.read(), [1, 2, 3, 5]);
    assert_eq!(log.log.skipped, lost.len());
}
