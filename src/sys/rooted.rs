//! Opens a file by its path inside the root of another process, which may be hostile.
//!
//! The path is walked here, part by part, and each part is opened as a bare reference (`O_PATH | O_NOFOLLOW`). Links are
//! resolved here, against that root, and `..` goes back along the folders of the walk. So no path leads out of the root,
//! even if the other side renames folders and swaps links meanwhile. Links *inside* the root work: a properties file
//! from a Kubernetes ConfigMap needs them. A file is opened for reading only if it is a regular one, so a FIFO cannot
//! block the exporter and no device is touched.
//!
//! `openat2` does the same with `RESOLVE_IN_ROOT` (the tests compare the two). It is not used, because kernels before 5.6
//! lack it and the seccomp filters of older container runtimes refuse it. This walk is needed for those in any case.

use std::collections::VecDeque;
use std::ffi::{OsStr, OsString};
use std::io;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};

use rustix::fd::{AsRawFd, OwnedFd};
use rustix::fs::{CWD, FileType, Mode, OFlags};
use rustix::io::Errno;

/// Links in one path; the kernel has the same limit.
const MOST_LINKS: usize = 40;
/// Parts of one path after links are resolved. Bounds the folders that are open during a walk.
const MOST_PARTS: usize = 256;

/// Why a file below the root of another process was not read.
#[derive(Debug, thiserror::Error)]
pub enum RootedError {
    #[error("{} does not exist", path.display())]
    Missing { path: PathBuf },
    #[error("{} may not be read by uid {}", path.display(), rustix::process::geteuid().as_raw())]
    Denied { path: PathBuf },
    #[error("{} is a {found}, not a {wanted}", path.display())]
    WrongKind {
        path: PathBuf,
        found: &'static str,
        wanted: &'static str,
    },
    #[error("{} has more than {most} {what}", path.display())]
    TooBig {
        path: PathBuf,
        most: usize,
        what: &'static str,
    },
    #[error("{} leads through too many links or folders", path.display())]
    TooDeep { path: PathBuf },
    #[error("{}: {cause}", path.display())]
    Io { path: PathBuf, cause: io::Error },
}

/// The content of a regular file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FileContent {
    pub bytes: Vec<u8>,
    /// Last change, in seconds since 1970.
    pub modified: i64,
}

/// A folder that is `/` for everything opened through it.
#[derive(Debug)]
pub struct Rooted {
    root: OwnedFd,
    /// The path of the root, for messages.
    shown: PathBuf,
}

impl Rooted {
    /// The path `root` itself is trusted: `/proc/PID/root`, or a folder of the exporter.
    pub fn open(root: &Path) -> Result<Rooted, RootedError> {
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let fd = rustix::fs::openat(CWD, root, flags, Mode::empty())
            .map_err(|errno| failed(root, errno))?;
        Ok(Rooted {
            root: fd,
            shown: root.to_path_buf(),
        })
    }

    /// Takes a folder that is open already, as a bare reference or for reading.
    pub(super) fn of(root: OwnedFd, shown: PathBuf) -> Rooted {
        Rooted { root, shown }
    }

    /// Opens a bare reference to a folder.
    pub(super) fn folder(&self, path: &Path) -> Result<OwnedFd, RootedError> {
        Ok(self.find(path, FileType::Directory)?.0)
    }

    /// Reads a regular file of at most `most` bytes.
    pub fn read(&self, path: &Path, most: usize) -> Result<FileContent, RootedError> {
        let shown = self.show(path);
        let (file, stat) = self.reopen(path, FileType::RegularFile, OFlags::empty())?;
        // The size may be wrong or grow, so it only saves reading a file that is surely too big.
        let too_big = || RootedError::TooBig {
            path: shown.clone(),
            most,
            what: "bytes",
        };
        if usize::try_from(stat.st_size).map_or(true, |size| size > most) {
            return Err(too_big());
        }
        let bytes =
            super::proc::read_open_file(&file, most + 1).map_err(|errno| failed(&shown, errno))?;
        if bytes.len() > most {
            return Err(too_big());
        }
        Ok(FileContent {
            bytes,
            modified: stat.st_mtime,
        })
    }

    /// Lists a folder of at most `most` entries, without `.` and `..`.
    pub fn list(&self, path: &Path, most: usize) -> Result<Vec<OsString>, RootedError> {
        let shown = self.show(path);
        let (folder, _) = self.reopen(path, FileType::Directory, OFlags::DIRECTORY)?;
        let mut names = Vec::new();
        for entry in rustix::fs::Dir::new(folder).map_err(|errno| failed(&shown, errno))? {
            let entry = entry.map_err(|errno| failed(&shown, errno))?;
            if matches!(entry.file_name().to_bytes(), b"." | b"..") {
                continue;
            }
            if names.len() == most {
                return Err(RootedError::TooBig {
                    path: shown,
                    most,
                    what: "entries",
                });
            }
            names.push(OsStr::from_bytes(entry.file_name().to_bytes()).to_os_string());
        }
        Ok(names)
    }

    /// Returns the size of a regular file, without opening it for reading.
    pub fn size(&self, path: &Path) -> Result<u64, RootedError> {
        let (_, stat) = self.find(path, FileType::RegularFile)?;
        Ok(u64::try_from(stat.st_size).unwrap_or(0))
    }

    /// Returns the bytes of the folder's file system: first those that an ordinary user may still write, then all.
    pub fn space(&self, path: &Path) -> Result<(u64, u64), RootedError> {
        let folder = self.folder(path)?;
        // Through /proc, because fstatfs accepts no O_PATH fd before Linux 3.12.
        let of = rustix::fs::statvfs(format!("/proc/self/fd/{}", folder.as_raw_fd()))
            .map_err(|errno| failed(&self.show(path), errno))?;
        Ok((
            of.f_bavail.saturating_mul(of.f_frsize),
            of.f_blocks.saturating_mul(of.f_frsize),
        ))
    }

    fn show(&self, path: &Path) -> PathBuf {
        self.shown.join(path.strip_prefix("/").unwrap_or(path))
    }

    /// Opens for reading exactly what the walk found, through its fd, so that it cannot be replaced in between.
    fn reopen(
        &self,
        path: &Path,
        kind: FileType,
        flags: OFlags,
    ) -> Result<(OwnedFd, rustix::fs::Stat), RootedError> {
        let (found, stat) = self.find(path, kind)?;
        let reference = format!("/proc/self/fd/{}", found.as_raw_fd());
        let flags = flags | OFlags::RDONLY | OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::CLOEXEC;
        let file = rustix::fs::openat(CWD, reference, flags, Mode::empty());
        Ok((file.map_err(|errno| failed(&self.show(path), errno))?, stat))
    }

    /// Opens a bare reference to what `path` names inside the root, if it is of that kind.
    fn find(
        &self,
        path: &Path,
        kind: FileType,
    ) -> Result<(OwnedFd, rustix::fs::Stat), RootedError> {
        let found = self.walk(path)?;
        let stat = rustix::fs::fstat(&found).map_err(|errno| failed(&self.show(path), errno))?;
        let found_kind = FileType::from_raw_mode(stat.st_mode);
        if found_kind != kind {
            let (found, wanted) = (kind_name(found_kind), kind_name(kind));
            return Err(RootedError::WrongKind {
                path: self.show(path),
                found,
                wanted,
            });
        }
        Ok((found, stat))
    }

    fn walk(&self, path: &Path) -> Result<OwnedFd, RootedError> {
        let shown = self.show(path);
        let fail = |errno| failed(&shown, errno);
        let too_deep = || RootedError::TooDeep {
            path: shown.clone(),
        };
        let here = |fd: &OwnedFd, name: &OsStr| {
            rustix::fs::openat(
                fd,
                name,
                OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC,
                Mode::empty(),
            )
        };

        let mut pending: VecDeque<OsString> = parts(path.as_os_str().as_bytes()).collect();
        // The folders from the root to the current one, without the root itself.
        let mut trail: Vec<OwnedFd> = Vec::new();
        let (mut links, mut steps) = (0, 0);
        while let Some(part) = pending.pop_front() {
            steps += 1;
            if steps > MOST_PARTS {
                return Err(too_deep());
            }
            let folder = trail.last().unwrap_or(&self.root);
            if part == ".." || part == "." {
                // As in the kernel, the part before must be a folder that may be searched.
                here(folder, OsStr::new(".")).map_err(fail)?;
                if part == ".." {
                    trail.pop();
                }
                continue;
            }
            let next = here(folder, &part).map_err(fail)?;
            let stat = rustix::fs::fstat(&next).map_err(fail)?;
            if FileType::from_raw_mode(stat.st_mode) != FileType::Symlink {
                trail.push(next);
                continue;
            }
            links += 1;
            if links > MOST_LINKS {
                return Err(too_deep());
            }
            let target = rustix::fs::readlinkat(&next, "", Vec::new())
                .map_err(fail)?
                .into_bytes();
            if target.first() == Some(&b'/') {
                trail.clear();
            }
            for part in parts(&target).collect::<Vec<_>>().into_iter().rev() {
                pending.push_front(part);
            }
        }
        match trail.pop() {
            Some(found) => Ok(found),
            None => here(&self.root, OsStr::new(".")).map_err(fail),
        }
    }
}

/// Splits a path. A trailing `/` becomes a `.`, because both require a folder.
fn parts(path: &[u8]) -> impl Iterator<Item = OsString> {
    let folder = path.last() == Some(&b'/');
    let parts = path
        .split(|byte| *byte == b'/')
        .filter(|part| !part.is_empty());
    parts
        .map(|part| OsString::from_vec(part.to_vec()))
        .chain(folder.then(|| OsString::from(".")))
}

fn failed(path: &Path, errno: Errno) -> RootedError {
    let path = path.to_path_buf();
    match errno {
        Errno::NOENT | Errno::NOTDIR => RootedError::Missing { path },
        Errno::ACCESS | Errno::PERM => RootedError::Denied { path },
        Errno::LOOP => RootedError::TooDeep { path },
        errno => RootedError::Io {
            path,
            cause: errno.into(),
        },
    }
}

fn kind_name(kind: FileType) -> &'static str {
    match kind {
        FileType::RegularFile => "regular file",
        FileType::Directory => "folder",
        FileType::Symlink => "link",
        FileType::Fifo => "FIFO",
        FileType::Socket => "socket",
        FileType::CharacterDevice => "character device",
        FileType::BlockDevice => "block device",
        _ => "file of unknown kind",
    }
}

#[cfg(test)]
mod tests;
