//! The system call in which the kernel keeps a thread.

use std::ffi::OsString;
use std::os::unix::ffi::OsStringExt;
use std::path::PathBuf;

use rustix::fs::readlinkat;
use rustix::io::Errno;

use super::{Tasks, open_file, read_open_file};

/// What a thread of the process waits for in the kernel.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KernelCall {
    /// `fsync`, `page fault`; its number where it has no name here.
    pub name: String,
    /// Whether it reads or writes a file.
    pub is_file_call: bool,
    /// The file, where the call is for one that is open.
    pub file: Option<PathBuf>,
}

/// The calls for files, and which argument is the fd.
const CALLS: [(i64, &str, Option<usize>); 19] = [
    (libc::SYS_write, "write", Some(0)),
    (libc::SYS_pwrite64, "pwrite64", Some(0)),
    (libc::SYS_writev, "writev", Some(0)),
    (libc::SYS_pwritev, "pwritev", Some(0)),
    (libc::SYS_read, "read", Some(0)),
    (libc::SYS_pread64, "pread64", Some(0)),
    (libc::SYS_readv, "readv", Some(0)),
    (libc::SYS_preadv, "preadv", Some(0)),
    // To a socket, from a file.
    (libc::SYS_sendfile, "sendfile", Some(1)),
    (libc::SYS_fsync, "fsync", Some(0)),
    (libc::SYS_fdatasync, "fdatasync", Some(0)),
    (libc::SYS_ftruncate, "ftruncate", Some(0)),
    (libc::SYS_fallocate, "fallocate", Some(0)),
    (libc::SYS_close, "close", Some(0)),
    (libc::SYS_msync, "msync", None),
    (libc::SYS_openat, "openat", None),
    (libc::SYS_unlinkat, "unlinkat", None),
    (libc::SYS_renameat, "renameat", None),
    (libc::SYS_renameat2, "renameat2", None),
];

/// Those that only some architectures have.
#[cfg(target_arch = "x86_64")]
const OLD_CALLS: [(i64, &str, Option<usize>); 4] = [
    (libc::SYS_open, "open", None),
    (libc::SYS_unlink, "unlink", None),
    (libc::SYS_rename, "rename", None),
    (libc::SYS_mkdir, "mkdir", None),
];
#[cfg(not(target_arch = "x86_64"))]
const OLD_CALLS: [(i64, &str, Option<usize>); 0] = [];

impl Tasks {
    /// Returns the call that the thread is in; None where it runs, has ended, or may not be asked: that needs the right to
    /// trace it.
    pub fn kernel_call(&self, id: u32) -> Option<KernelCall> {
        let read = |name| {
            open_file(&self.folder, id, name)
                .and_then(|file| read_open_file(&file, 256))
                .ok()
        };
        // A paused container's threads (the freezer of cgroup v1) stand at the end of any call.
        let is_frozen = read("wchan").is_some_and(|at| at.ends_with(b"_refrigerator"));
        let (name, is_file_call, descriptor) = parse(&read("syscall")?)?;
        let is_file_call = is_file_call && !is_frozen;
        let file = descriptor.and_then(|descriptor| self.file(id, descriptor).ok());
        Some(KernelCall {
            name,
            // Sockets and pipes (`socket:[7]`) are written with the same calls.
            is_file_call: is_file_call && file.as_ref().is_none_or(|file| file.is_absolute()),
            file,
        })
    }

    /// The path of an open file. The kernel knows it without the disk.
    fn file(&self, id: u32, descriptor: u64) -> Result<PathBuf, Errno> {
        let path = readlinkat(&self.folder, format!("{id}/fd/{descriptor}"), Vec::new())?;
        Ok(PathBuf::from(OsString::from_vec(path.into_bytes())))
    }
}

/// Parses `74 0x5 0x0 ... SP PC`: the number of the call and its arguments. Outside of a call it is `-1 SP PC`.
fn parse(text: &[u8]) -> Option<(String, bool, Option<u64>)> {
    let text = std::str::from_utf8(text).ok()?;
    let mut words = text.split_ascii_whitespace();
    let number: i64 = words.next()?.parse().ok()?;
    if number < 0 {
        return Some(("page fault".into(), true, None));
    }
    let arguments: Vec<u64> = words
        .map_while(|word| u64::from_str_radix(word.strip_prefix("0x")?, 16).ok())
        .collect();
    let mut calls = CALLS.iter().chain(&OLD_CALLS);
    let Some((_, name, descriptor)) = calls.find(|(known, ..)| *known == number) else {
        return Some((format!("system call {number}"), false, None));
    };
    let descriptor = descriptor.and_then(|at| arguments.get(at).copied());
    Some(((*name).to_owned(), true, descriptor))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::super::{Allowance, ProcRoot};
    use super::*;

    #[test]
    fn calls_for_sockets_and_those_of_a_paused_container_wait_for_no_disk() {
        let folder = tempfile::tempdir().unwrap();
        let task = folder.path().join("7/task/7");
        std::fs::create_dir_all(task.join("fd")).unwrap();
        let own = std::process::id();
        std::fs::copy(format!("/proc/{own}/stat"), folder.path().join("7/stat")).unwrap();
        std::fs::write(task.join("schedstat"), "1 1 1\n").unwrap();
        std::os::unix::fs::symlink("/data/t-0/0.log", task.join("fd/5")).unwrap();
        std::os::unix::fs::symlink("socket:[7]", task.join("fd/6")).unwrap();
        let start = ProcRoot::new("/proc").stat(own).unwrap().start_ticks;
        let proc = ProcRoot::new(folder.path());
        let tasks = Tasks::open(&proc, 7, start, Allowance::new(1)).unwrap();
        let write = |descriptor: u32| format!("{} {descriptor:#x} 0x7f2 0x14", libc::SYS_write);
        let outside = || "-1 0x7ffd0f8 0x7f5c2".to_owned();
        let table = [
            (write(5), "io_schedule", true),
            (write(6), "__lock_sock", false),
            (write(5), "__refrigerator", false),
            (outside(), "folio_wait_bit_common", true),
            (outside(), "__refrigerator", false),
            // Where the kernel keeps no symbols.
            (write(5), "0", true),
        ];
        for (call, at, expected) in table {
            std::fs::write(task.join("syscall"), &call).unwrap();
            std::fs::write(task.join("wchan"), at).unwrap();
            let found = tasks.kernel_call(7).unwrap();
            assert_eq!(found.is_file_call, expected, "{call} {at}: {found:?}");
        }
        std::fs::remove_file(task.join("syscall")).unwrap();
        assert_eq!(tasks.kernel_call(7), None);
    }

    /// As Linux 6 prints them; the first one is of a thread at a frozen file system.
    #[test]
    fn calls_are_named_and_their_files_found() {
        let call = |number: i64| format!("{number} 0x5 0x7f2 0x14 0x0 0x0 0x0 0x7ffd0f8 0x7f5c2\n");
        let table = [
            (call(libc::SYS_write), Some(("write", true, Some(5)))),
            (
                call(libc::SYS_sendfile),
                Some(("sendfile", true, Some(0x7f2))),
            ),
            (call(libc::SYS_msync), Some(("msync", true, None))),
            (call(libc::SYS_futex), None),
            (
                "-1 0x7ffd0f8 0x7f5c2\n".into(),
                Some(("page fault", true, None)),
            ),
        ];
        for (text, expected) in table {
            let found = parse(text.as_bytes()).unwrap();
            let found = (found.0.as_str(), found.1, found.2);
            match expected {
                Some(expected) => assert_eq!(found, expected, "{text}"),
                None => assert!(!found.1, "{text}"),
            }
        }
        assert_eq!(parse(b"running\n"), None);
        assert_eq!(parse(b""), None);
    }
}
