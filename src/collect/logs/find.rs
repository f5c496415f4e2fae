//! Which files a broker writes its log to. Log4j keeps each file that its settings name open, so the open file handles show
//! them all, whichever settings are in use and whatever they substitute.

use std::fs::Metadata;
use std::ops::ControlFlow;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::model::Broker;
use crate::sys::proc::{Deadline, ProcError, ProcRoot, file_path};

/// A JVM opens its logs at the start, so they have low numbers.
const MOST_FDS: usize = 4096;
/// So many of these are asked whether they are written to.
const MOST_ASKED: usize = 256;
const DEADLINE: Duration = Duration::from_millis(200);

/// The access modes and the flag O_APPEND, as `/proc/PID/fdinfo` has them on all architectures.
const WRITES: u32 = 0o3;
const APPENDS: u32 = 0o2000;

/// A file by device and inode, which no other has while it is open.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct FileId {
    device: u64,
    inode: u64,
}

impl FileId {
    pub(super) fn of(metadata: &Metadata) -> FileId {
        FileId {
            device: metadata.dev(),
            inode: metadata.ino(),
        }
    }
}

/// A file that the broker writes to.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Written {
    /// As the broker sees it. Where it was deleted, another may be there.
    pub path: PathBuf,
    pub id: FileId,
    /// The number of the file descriptor.
    pub fd: String,
}

/// Where the log of a broker goes.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Destination {
    Files(Vec<Written>),
    /// To standard output, which leads to this: `pipe:[4711]`.
    Output(String),
}

/// Finds where the log of a broker goes.
pub(super) fn find(proc: &ProcRoot, broker: &Broker) -> Result<Destination, ProcError> {
    let pid = broker.process.pid;
    // The kernel's links start with it where the process runs in a chroot.
    let root = proc.link(pid, "root")?;
    let (mut candidates, mut output, mut seen) = (Vec::new(), String::new(), 0);
    proc.visit_fd_links(pid, Deadline::after(DEADLINE), |fd, link| {
        seen += 1;
        if fd == "1" {
            output = String::from_utf8_lossy(link).into_owned();
        }
        let link = file_path(link);
        let path = link
            .strip_prefix(&root)
            .map(|rest| Path::new("/").join(rest));
        let path = path.unwrap_or_else(|_| link.to_path_buf());
        if link.is_absolute() && may_be_log(&path, broker) {
            candidates.push((fd.to_owned(), path));
        }
        match seen < MOST_FDS && candidates.len() < MOST_ASKED {
            true => ControlFlow::Continue(()),
            false => ControlFlow::Break(()),
        }
    })?;
    let (mut files, mut outputs): (Vec<Written>, Vec<Written>) = Default::default();
    for (fd, path) in candidates {
        let Some(flags) = flags(proc, pid, &fd).filter(|flags| flags & WRITES != 0) else {
            continue;
        };
        let metadata = std::fs::metadata(proc.file(pid, &format!("fd/{fd}")));
        let Some(metadata) = metadata.ok().filter(Metadata::is_file) else {
            continue;
        };
        let is_output = matches!(fd.as_str(), "1" | "2");
        let known = match is_output {
            true => &mut outputs,
            false => &mut files,
        };
        let id = FileId::of(&metadata);
        if (is_output || flags & APPENDS != 0 || is_log_name(&path))
            && known.iter().all(|other| other.id != id)
        {
            known.push(Written { path, id, fd });
        }
    }
    // What goes to standard output mostly stands in a file as well.
    Ok(match (files.is_empty(), outputs.is_empty()) {
        (false, _) => Destination::Files(files),
        (true, false) => Destination::Files(outputs),
        (true, true) => Destination::Output(output),
    })
}

/// Whether a file may be a log of the broker: no data of topics, and nothing that a JVM keeps open besides.
fn may_be_log(path: &Path, broker: &Broker) -> bool {
    let mut data = broker.log_dirs.iter().chain(&broker.metadata_log_dir);
    let name = name(path);
    let is_other = [
        ".jar",
        ".jsa",
        ".so",
        ".jfr",
        ".lock",
        ".index",
        ".timeindex",
    ]
    .iter()
    .any(|end| name.ends_with(end));
    // `kafkaServer-gc.log`, and segments of a folder that is no log dir any more.
    let is_odd = name.contains("gc") || name.starts_with(|c: char| c.is_ascii_digit());
    let of_kernel = ["/dev", "/proc", "/sys"];
    let is_memory = name.starts_with("memfd:");
    !is_other
        && !is_odd
        && !is_memory
        && !of_kernel.iter().any(|of| path.starts_with(of))
        && !data.any(|dir| path.starts_with(dir))
}

fn is_log_name(path: &Path) -> bool {
    let name = name(path);
    name.contains(".log") || name.ends_with(".out") || name.ends_with(".txt")
}

fn name(path: &Path) -> String {
    let name = path.file_name().unwrap_or_default();
    name.to_string_lossy().into_owned()
}

/// The flags with which it was opened. None where it was closed meanwhile.
fn flags(proc: &ProcRoot, pid: u32, fd: &str) -> Option<u32> {
    let (_, bytes) = proc.small(pid, &format!("fdinfo/{fd}")).ok()?;
    let text = String::from_utf8_lossy(&bytes);
    let line = text.lines().find_map(|line| line.strip_prefix("flags:"))?;
    u32::from_str_radix(line.trim(), 8).ok()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use std::fs::File;
    use std::os::fd::AsRawFd as _;

    use super::*;
    use crate::model::ProcessKey;

    /// The files that this process holds open itself are found by the kernel's own description.
    #[test]
    fn what_is_open_for_writing_outside_of_the_log_dirs_is_a_log() {
        let folder = tempfile::tempdir().unwrap();
        let at = |name: &str| folder.path().join(name);
        std::fs::create_dir(at("data")).unwrap();
        let append = || File::options().create(true).append(true).clone();
        let write = |name: &str| append().open(at(name)).unwrap();
        let (log, same) = (
            write("server.log"),
            append().open(at("server.log")).unwrap(),
        );
        let odd = write("kafka-root");
        let others = [
            write("data/00000000000000000000.log"),
            write("kafkaServer-gc.log"),
            File::create(at("plain")).unwrap(),
            File::open(at("server.log")).unwrap(),
        ];
        let gone = write("controller.log");
        std::fs::remove_file(at("controller.log")).unwrap();
        let broker = Broker {
            log_dirs: vec![at("data")],
            ..Broker::unknown(ProcessKey {
                pid: std::process::id(),
                start_ticks: 0,
            })
        };
        let found = find(&ProcRoot::new("/proc"), &broker).unwrap();
        let Destination::Files(files) = found else {
            panic!("{found:?}");
        };
        // Other tests of this process have files open as well.
        let ours: Vec<(&Path, &str)> = files
            .iter()
            .filter(|file| file.path.starts_with(folder.path()))
            .map(|file| (file.path.as_path(), file.fd.as_str()))
            .collect();
        let fd = |file: &File| file.as_raw_fd().to_string();
        let first = log.as_raw_fd().min(same.as_raw_fd()).to_string();
        let mut expected = [
            (at("server.log"), first),
            (at("kafka-root"), fd(&odd)),
            (at("controller.log"), fd(&gone)),
        ];
        expected.sort();
        let mut ours: Vec<(PathBuf, String)> = ours
            .into_iter()
            .map(|(path, fd)| (path.to_path_buf(), fd.to_owned()))
            .collect();
        ours.sort();
        assert_eq!(ours, expected);
        drop(others);
    }
}
