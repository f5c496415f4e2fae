//! A folder of the exporter, used through an open handle alone: a user who renames it, or puts a link in the place of what is
//! in it, leads nothing elsewhere. No name in it is followed if it is a link, and nothing but regular files is opened.

use std::fs::File;
use std::io::{self, Write as _};
use std::path::Path;

use rustix::fd::OwnedFd;
use rustix::fs::{
    AtFlags, Dir, FlockOperation, Mode, OFlags, Stat, flock, fstat, fstatvfs, mkdirat, openat,
    renameat, statat, unlinkat,
};
use rustix::io::Errno;

use super::plain::{self, FileError};
use super::rooted::Rooted;

/// An open folder.
#[derive(Debug)]
pub struct Folder(OwnedFd);

impl Folder {
    /// Opens a folder of the operator. Links on the way are followed only if this user or root made them.
    pub fn open(path: &Path) -> Result<Folder, FileError> {
        let found = Rooted::of_operator()?.folder(path)?;
        let opened = plain::reopen(&found, OFlags::DIRECTORY);
        opened
            .map(Folder)
            .map_err(|errno| FileError::new(path, errno))
    }

    /// As [`Folder::open`], and creates what is missing of the path, for this user alone.
    pub fn open_or_create(path: &Path) -> Result<Folder, FileError> {
        match (Folder::open(path), path.parent(), path.file_name()) {
            (Err(FileError::Missing { .. }), Some(parent), Some(name)) => {
                let parent = Folder::open_or_create(parent)?;
                match mkdirat(&parent.0, name, Mode::RWXU) {
                    // Another exporter was faster, or a dangling link is there.
                    Ok(()) | Err(Errno::EXIST) => Folder::open(path),
                    Err(errno) => Err(FileError::Io {
                        path: path.to_path_buf(),
                        cause: errno.into(),
                    }),
                }
            }
            (opened, ..) => opened,
        }
    }

    /// Opens a folder in it.
    pub fn inner(&self, name: &str) -> io::Result<Folder> {
        let flags = OFlags::RDONLY
            | OFlags::DIRECTORY
            | OFlags::NOFOLLOW
            | OFlags::NONBLOCK
            | OFlags::CLOEXEC;
        Ok(Folder(openat(&self.0, name, flags, Mode::empty())?))
    }

    /// Creates a folder in it, for this user alone.
    pub fn create(&self, name: &str) -> io::Result<Folder> {
        mkdirat(&self.0, name, Mode::RWXU)?;
        let created = self.inner(name)?;
        let (stat, own) = (created.stat()?, rustix::process::geteuid().as_raw());
        // Another user who may write here can have put another in its place.
        if stat.st_uid != own || stat.st_mode & 0o077 != 0 {
            return Err(replaced(name));
        }
        Ok(created)
    }

    pub fn stat(&self) -> io::Result<Stat> {
        Ok(fstat(&self.0)?)
    }

    /// What has that name in it; a link is not followed.
    pub fn stat_of(&self, name: &str) -> io::Result<Stat> {
        Ok(statat(&self.0, name, AtFlags::SYMLINK_NOFOLLOW)?)
    }

    /// The names in it that are UTF-8, of the first `most`.
    pub fn names(&self, most: usize) -> io::Result<Vec<String>> {
        let mut names = Vec::new();
        for entry in Dir::read_from(&self.0)?.take(most) {
            let entry = entry?;
            match entry.file_name().to_str() {
                Ok("." | "..") | Err(_) => {}
                Ok(name) => names.push(name.to_owned()),
            }
        }
        Ok(names)
    }

    /// Reads a regular file of at most `most` bytes.
    pub fn read(&self, name: &str, most: usize) -> io::Result<Vec<u8>> {
        let found = plain::refer_in(&self.0, name)?;
        let read = plain::read_found(&found, Path::new(name), most);
        Ok(read.map_err(io::Error::other)?.0)
    }

    /// Writes a file that is not there yet, for this user alone, and syncs it. A part of one does not remain.
    pub fn write(&self, name: &str, content: &[u8]) -> io::Result<()> {
        let flags = OFlags::WRONLY
            | OFlags::CREATE
            | OFlags::EXCL
            | OFlags::NOFOLLOW
            | OFlags::NONBLOCK
            | OFlags::CLOEXEC;
        let mut file = File::from(openat(&self.0, name, flags, Mode::RUSR | Mode::WUSR)?);
        let written = file.write_all(content).and_then(|()| file.sync_all());
        if written.is_err() {
            // Its space may suffice for the next.
            let _ = unlinkat(&self.0, name, AtFlags::empty());
        }
        written
    }

    /// Renames the folder `from`, which `opened` is, onto a name that none with content has.
    pub fn rename(&self, from: &str, opened: &Folder, to: &str) -> io::Result<()> {
        let is_at = |name| -> io::Result<()> {
            let (stat, named) = (opened.stat()?, self.stat_of(name)?);
            if (stat.st_dev, stat.st_ino) == (named.st_dev, named.st_ino) {
                Ok(())
            } else {
                Err(replaced(from))
            }
        };
        is_at(from)?;
        renameat(&self.0, from, &self.0, to)?;
        is_at(to)
    }

    /// Removes a folder in it with the files in that; one with folders in it remains.
    pub fn remove(&self, name: &str, most: usize) -> io::Result<()> {
        let inner = self.inner(name)?;
        for name in inner.names(most)? {
            match unlinkat(&inner.0, name, AtFlags::empty()) {
                Ok(()) | Err(Errno::NOENT) => {}
                Err(errno) => return Err(errno.into()),
            }
        }
        Ok(unlinkat(&self.0, name, AtFlags::REMOVEDIR)?)
    }

    /// Locks it while it is open, unless another process has.
    pub fn lock(&self) -> io::Result<()> {
        Ok(flock(&self.0, FlockOperation::NonBlockingLockExclusive)?)
    }

    pub fn sync(&self) -> io::Result<()> {
        Ok(rustix::fs::fsync(&self.0)?)
    }

    /// The bytes that an ordinary user may still write to its file system.
    pub fn free(&self) -> io::Result<u64> {
        let space = fstatvfs(&self.0)?;
        Ok(space.f_bavail.saturating_mul(space.f_frsize))
    }
}

fn replaced(name: &str) -> io::Error {
    io::Error::other(format!(
        "another user has put something else in the place of {name}"
    ))
}
