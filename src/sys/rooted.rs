//! Opens a file by its path inside the root of another process, which may be hostile.
//!
//! The path is walked here, part by part, and each part is opened as a bare reference (`O_PATH | O_NOFOLLOW`). Links are
//! resolved here, against that root, and `..` goes back along the folders of the walk. So no path leads out of the root,
//! even if the other side renames folders and swaps links meanwhile. Links *inside* the root work: a properties file
//! from a Kubernetes ConfigMap needs them. A file is opened for reading only if it is a regular one, so a FIFO cannot
//! block the exporter and no device is touched; nothing is read where the kernel shows itself, such as procfs. All this
//! is done with the rights of that process (`rights.rs`).
//!
//! `openat2` does the same with `RESOLVE_IN_ROOT` (the tests compare the two). It is not used, because kernels before 5.6
//! lack it and the seccomp filters of older container runtimes refuse it. This walk is needed for those in any case.

use std::collections::VecDeque;
use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};

use rustix::fd::OwnedFd;
use rustix::fs::{FileType, OFlags, Stat};

use super::plain::{self, FileError};
use super::proc::ProcRoot;
use super::rights::FileRights;

/// Links in one path; the kernel has the same limit.
const MOST_LINKS: usize = 40;
/// Parts of one path after links are resolved. Bounds the folders that are open during a walk.
const MOST_PARTS: usize = 256;

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
    /// Those of the process whose root it is. None: those of the exporter.
    rights: Option<FileRights>,
    /// Whether links are followed only if this user or root made them.
    own_links: bool,
}

impl Rooted {
    /// Opens the root of a process, in which files are opened with that process's rights.
    pub fn of_process(proc: &ProcRoot, pid: u32) -> Result<Rooted, FileError> {
        let rights = FileRights::of(proc, pid)?;
        Ok(Rooted {
            rights: Some(rights),
            ..Rooted::open(&proc.file(pid, "root"))?
        })
    }

    /// Opens a folder of the exporter or its operator. The path `root` itself is trusted.
    pub fn open(root: &Path) -> Result<Rooted, FileError> {
        let fd =
            plain::refer(root, OFlags::DIRECTORY).map_err(|errno| FileError::new(root, errno))?;
        Ok(Rooted::of(fd, root.to_path_buf()))
    }

    /// Takes a folder that is open already, as a bare reference or for reading. For a caller that has become the user of
    /// the process.
    pub(super) fn of(root: OwnedFd, shown: PathBuf) -> Rooted {
        Rooted {
            root,
            shown,
            rights: None,
            own_links: false,
        }
    }

    /// The exporter's own root, for a path of the operator that is written to: the owner of a folder on its way cannot
    /// lead it elsewhere by a link.
    pub(super) fn of_operator() -> Result<Rooted, FileError> {
        Ok(Rooted {
            own_links: true,
            ..Rooted::open(Path::new("/"))?
        })
    }

    /// A folder below the root as a root of its own, with the same rights.
    pub fn below(&self, path: &Path) -> Result<Rooted, FileError> {
        Ok(Rooted {
            root: self.folder(path)?,
            shown: self.shown.join(path.strip_prefix("/").unwrap_or(path)),
            rights: self.rights.clone(),
            own_links: self.own_links,
        })
    }

    /// The path of the root, for messages.
    pub fn shown(&self) -> &Path {
        &self.shown
    }

    /// When an entry of the root itself was last added, removed or renamed, in nanoseconds since 1970.
    pub fn changed(&self) -> Result<i128, FileError> {
        let stat = rustix::fs::fstat(&self.root);
        let stat = stat.map_err(|errno| FileError::new(&self.shown, errno))?;
        Ok(i128::from(stat.st_mtime) * 1_000_000_000 + i128::from(stat.st_mtime_nsec))
    }

    /// Opens a regular file for reading.
    pub fn file(&self, path: &Path) -> Result<File, FileError> {
        self.with_rights(path, |shown| {
            let (file, _) = plain::open_found(&self.walk(path, shown)?, shown)?;
            Ok(file.into())
        })
    }

    /// Opens a bare reference to a folder.
    pub(super) fn folder(&self, path: &Path) -> Result<OwnedFd, FileError> {
        self.with_rights(path, |shown| {
            Ok(self.find(path, shown, FileType::Directory)?.0)
        })
    }

    /// Reads a regular file of at most `most` bytes.
    pub fn read(&self, path: &Path, most: usize) -> Result<FileContent, FileError> {
        self.with_rights(path, |shown| self.read_at(path, shown, most))
    }

    fn read_at(&self, path: &Path, shown: &Path, most: usize) -> Result<FileContent, FileError> {
        let (bytes, stat) = plain::read_found(&self.walk(path, shown)?, shown, most)?;
        Ok(FileContent {
            bytes,
            modified: stat.st_mtime,
        })
    }

    /// Lists a folder of at most `most` entries, without `.` and `..`.
    pub fn list(&self, path: &Path, most: usize) -> Result<Vec<OsString>, FileError> {
        self.with_rights(path, |shown| self.list_at(path, shown, most))
    }

    fn list_at(&self, path: &Path, shown: &Path, most: usize) -> Result<Vec<OsString>, FileError> {
        let (found, _) = self.find(path, shown, FileType::Directory)?;
        let fail = |errno| FileError::new(shown, errno);
        let folder = plain::reopen(&found, OFlags::DIRECTORY).map_err(fail)?;
        let mut names = Vec::new();
        for entry in rustix::fs::Dir::new(folder).map_err(fail)? {
            let entry = entry.map_err(fail)?;
            if matches!(entry.file_name().to_bytes(), b"." | b"..") {
                continue;
            }
            if names.len() == most {
                return Err(FileError::TooBig {
                    path: shown.to_path_buf(),
                    most,
                    what: "entries",
                });
            }
            names.push(OsStr::from_bytes(entry.file_name().to_bytes()).to_os_string());
        }
        Ok(names)
    }

    /// Returns the size of a regular file, without opening it for reading.
    pub fn size(&self, path: &Path) -> Result<u64, FileError> {
        self.with_rights(path, |shown| {
            let (_, stat) = self.find(path, shown, FileType::RegularFile)?;
            Ok(u64::try_from(stat.st_size).unwrap_or(0))
        })
    }

    /// Returns the bytes of the folder's file system: first those that an ordinary user may still write, then those with
    /// what is written. What is kept for root, or left out by a quota, is in neither, so their ratio is that of df.
    pub fn space(&self, path: &Path) -> Result<(u64, u64), FileError> {
        self.with_rights(path, |shown| {
            let (folder, _) = self.find(path, shown, FileType::Directory)?;
            let of = rustix::fs::statvfs(plain::by_number(&folder))
                .map_err(|errno| FileError::new(shown, errno))?;
            let free = of.f_bavail.saturating_mul(of.f_frsize);
            let used = of.f_blocks.saturating_sub(of.f_bfree);
            Ok((free, free.saturating_add(used.saturating_mul(of.f_frsize))))
        })
    }

    /// Gives `work` the path for messages.
    fn with_rights<R>(
        &self,
        path: &Path,
        work: impl FnOnce(&Path) -> Result<R, FileError>,
    ) -> Result<R, FileError> {
        let shown = self.shown.join(path.strip_prefix("/").unwrap_or(path));
        match &self.rights {
            Some(rights) => rights.during(&shown, || work(&shown)),
            None => work(&shown),
        }
    }

    /// Opens a bare reference to what `path` names inside the root, if it is of that kind.
    fn find(
        &self,
        path: &Path,
        shown: &Path,
        kind: FileType,
    ) -> Result<(OwnedFd, Stat), FileError> {
        let found = self.walk(path, shown)?;
        let stat = plain::check(&found, shown, kind)?;
        Ok((found, stat))
    }

    fn walk(&self, path: &Path, shown: &Path) -> Result<OwnedFd, FileError> {
        let fail = |errno| FileError::new(shown, errno);
        let too_deep = || FileError::TooDeep {
            path: shown.to_path_buf(),
        };
        let mut pending: VecDeque<OsString> = parts(path.as_os_str().as_bytes()).collect();
        // The folders from the root to the current one, without the root itself.
        let mut trail: Vec<OwnedFd> = Vec::new();
        let (mut links, mut steps) = (0, 0);
        let mut device = None;
        while let Some(part) = pending.pop_front() {
            steps += 1;
            if steps > MOST_PARTS {
                return Err(too_deep());
            }
            let folder = trail.last().unwrap_or(&self.root);
            if part == ".." || part == "." {
                // As in the kernel, the part before must be a folder that may be searched.
                plain::refer_in(folder, ".").map_err(fail)?;
                if part == ".." {
                    trail.pop();
                }
                continue;
            }
            let next = plain::refer_in(folder, &part).map_err(fail)?;
            let stat = rustix::fs::fstat(&next).map_err(fail)?;
            // Links of procfs lead to what belongs to the reader: /proc/self.
            if device.replace(stat.st_dev) != Some(stat.st_dev) {
                plain::check_system(&next, shown)?;
            }
            if FileType::from_raw_mode(stat.st_mode) != FileType::Symlink {
                trail.push(next);
                continue;
            }
            if self.own_links
                && stat.st_uid != 0
                && stat.st_uid != rustix::process::geteuid().as_raw()
            {
                return Err(FileError::StrangersLink {
                    path: shown.to_path_buf(),
                    uid: stat.st_uid,
                });
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
            None => plain::refer_in(&self.root, ".").map_err(fail),
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

#[cfg(test)]
mod tests;
