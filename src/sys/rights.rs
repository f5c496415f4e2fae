//! Opens files with the rights of the process that names them, so that nobody has a file read here that they could not
//! read themselves.
//!
//! Linux keeps the ids and capabilities by which it judges the opening of files for each thread, apart from those by which
//! others may signal or trace it. So the calling thread takes them for the time of a few calls, as file servers do.

use std::fs::File;
use std::path::Path;

use rustix::fs::{Gid, OFlags, Uid};
use rustix::io::Errno;
use rustix::process::{getegid, geteuid, getgroups};
use rustix::thread::{
    CapabilitySet, CapabilitySets, capabilities, set_capabilities, set_thread_groups,
};

use super::plain::{self, FileError, current_uid};
use super::proc::{ProcError, ProcRoot, lines, number, read_up_to, words};

/// The capabilities by which a process may read what the modes of a file forbid it.
const OVERRIDES: CapabilitySet = CapabilitySet::DAC_OVERRIDE.union(CapabilitySet::DAC_READ_SEARCH);

/// By what the kernel judges whether a process may open a file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FileRights {
    uid: u32,
    gid: u32,
    groups: Vec<u32>,
    overrides: CapabilitySet,
}

/// Why the rights of a process are not known.
#[derive(Debug, PartialEq, Eq)]
enum Unusable {
    Malformed,
    SeveralUsers,
}

impl FileRights {
    /// Reads them from `/proc/PID`.
    ///
    /// # Errors
    /// The process is gone, or has the ids of several users.
    pub fn of(proc: &ProcRoot, pid: u32) -> Result<FileRights, FileError> {
        let (path, bytes) = proc.small(pid, "status").map_err(|error| match error {
            ProcError::Denied { path, .. } => FileError::Denied {
                path,
                uid: current_uid(),
            },
            ProcError::Gone { .. } => FileError::Missing {
                path: proc.file(pid, "status"),
            },
            other => FileError::Io {
                path: proc.file(pid, "status"),
                cause: std::io::Error::other(other),
            },
        })?;
        let mut rights = parse(&bytes).map_err(|why| match why {
            Unusable::SeveralUsers => FileError::SeveralUsers { path },
            Unusable::Malformed => FileError::Io {
                path,
                cause: std::io::Error::other("not in the form that Linux writes (no ids)"),
            },
        })?;
        // `sudo` takes all ids of root before it asks for a password: under the name of a JVM it would stand for root.
        if rights.uid == 0
            && read_up_to(&proc.file(pid, "auxv"), AUXV_CAP).is_ok_and(|vector| is_setuid(&vector))
        {
            return Err(FileError::SeveralUsers {
                path: proc.file(pid, "status"),
            });
        }
        // In a user namespace of its own a process has each capability, and over its own files only.
        let namespace = |path: &Path| std::fs::read_link(path).ok();
        let theirs = namespace(&proc.file(pid, "ns/user"));
        if theirs.is_none() || theirs != namespace(Path::new("/proc/self/ns/user")) {
            rights.overrides = CapabilitySet::empty();
        }
        Ok(rights)
    }

    /// Opens a regular file that a process holds open or names, by `path` in `/proc/PID`. What the path leads to is fixed
    /// with the rights of the exporter, because only it and the process itself may follow such a link.
    ///
    /// # Errors
    /// As [`plain::open`], and `NoRights`.
    pub fn open(&self, path: &Path) -> Result<File, FileError> {
        let found = plain::refer(path, OFlags::empty());
        let found = found.map_err(|errno| FileError::new(path, errno))?;
        self.during(path, || Ok(plain::open_found(&found, path)?.0.into()))
    }

    /// Does a few system calls with these rights; an error of theirs is for `path`. A thread without `CAP_SETUID` keeps
    /// its own ids, unless these are root's, and loses the capabilities to read what its own user may not.
    ///
    /// # Errors
    /// `NoRights`, or that of `work`.
    pub fn during<R>(
        &self,
        path: &Path,
        work: impl FnOnce() -> Result<R, FileError>,
    ) -> Result<R, FileError> {
        let taken = self.take().map_err(|_| FileError::NoRights {
            path: path.to_path_buf(),
            uid: self.uid,
        })?;
        let result = work();
        drop(taken);
        result
    }

    fn take(&self) -> Result<Taken, Errno> {
        let own = capabilities(None)?;
        let mut taken = Taken {
            capabilities: own,
            ids: None,
        };
        let other_user = (geteuid().as_raw(), getegid().as_raw()) != (self.uid, self.gid);
        let may_switch = own
            .effective
            .contains(CapabilitySet::SETUID | CapabilitySet::SETGID);
        if may_switch {
            let groups: Vec<Gid> = self.groups.iter().copied().map(Gid::from_raw).collect();
            taken.ids = Some((geteuid(), getegid(), getgroups()?));
            set_thread_groups(&groups)?;
            set_file_ids(self.uid, self.gid)?;
        } else if other_user && geteuid().is_root() {
            // Root owns what is kept from all others.
            return Err(Errno::PERM);
        }
        let left = if may_switch {
            self.overrides & own.permitted
        } else {
            own.effective - OVERRIDES
        };
        if left != own.effective {
            set_capabilities(
                None,
                CapabilitySets {
                    effective: left,
                    ..own
                },
            )?;
        }
        Ok(taken)
    }
}

/// The rights that a thread had before. When dropped, it has them again; what could not be restored leaves it with less.
struct Taken {
    capabilities: CapabilitySets,
    ids: Option<(Uid, Gid, Vec<Gid>)>,
}

impl Drop for Taken {
    fn drop(&mut self) {
        // First, because they are needed for the rest.
        let _ = set_capabilities(None, self.capabilities);
        if let Some((uid, gid, groups)) = self.ids.take() {
            let _ = set_file_ids(uid.as_raw(), gid.as_raw());
            let _ = set_thread_groups(&groups);
            // The kernel takes some away and gives some back with the user id.
            let _ = set_capabilities(None, self.capabilities);
        }
    }
}

/// Sets the ids of the calling thread for access to files.
fn set_file_ids(uid: u32, gid: u32) -> Result<(), Errno> {
    // SAFETY: both calls take a number and touch no memory. They are plain system calls that return the id before, or,
    // where nothing is changed, the present one; no id is -1.
    let now = unsafe {
        libc::setfsgid(gid);
        libc::setfsuid(uid);
        (
            libc::setfsuid(libc::uid_t::MAX).cast_unsigned(),
            libc::setfsgid(libc::gid_t::MAX).cast_unsigned(),
        )
    };
    if now == (uid, gid) {
        Ok(())
    } else {
        Err(Errno::PERM)
    }
}

/// The auxiliary vector of a process has some 25 pairs.
const AUXV_CAP: usize = 4096;

/// Whether a program got other rights by being executed: its file is setuid or has capabilities (`AT_SECURE`). The vector
/// is made of pairs of words, of the size that the program has.
fn is_setuid(vector: &[u8]) -> bool {
    const AT_SECURE: u64 = 23;
    let has = |pair: usize| {
        vector.chunks_exact(pair).any(|pair| {
            let (key, value) = pair.split_at(pair.len() / 2);
            let word = |bytes: &[u8]| {
                let mut word = [0; 8];
                word.iter_mut()
                    .zip(bytes)
                    .for_each(|(to, from)| *to = *from);
                u64::from_le_bytes(word)
            };
            word(key) == AT_SECURE && word(value) == 1
        })
    };
    has(16) || has(8)
}

fn parse(status: &[u8]) -> Result<FileRights, Unusable> {
    // A last line without an end may be cut within a number.
    let complete = memchr::memrchr(b'\n', status).and_then(|end| status.get(..end));
    let complete = complete.ok_or(Unusable::Malformed)?;
    let field = |name: &[u8]| lines(complete).find_map(|line| line.strip_prefix(name));
    let id = |word: &[u8]| number(word).and_then(|id| u32::try_from(id).ok());
    // The real, the effective, the saved one, and that for files.
    let same = |name: &[u8]| {
        let ids: Option<Vec<u32>> = field(name).map(|line| words(line).filter_map(id).collect());
        match ids.as_deref() {
            Some([one, rest @ ..]) if rest.len() == 3 => rest
                .iter()
                .all(|other| other == one)
                .then_some(*one)
                .ok_or(Unusable::SeveralUsers),
            _ => Err(Unusable::Malformed),
        }
    };
    let effective = field(b"CapEff:").and_then(|line| std::str::from_utf8(line.trim_ascii()).ok());
    let effective = effective.and_then(|digits| u64::from_str_radix(digits, 16).ok());
    Ok(FileRights {
        uid: same(b"Uid:")?,
        gid: same(b"Gid:")?,
        groups: field(b"Groups:").map_or(Vec::new(), |line| words(line).filter_map(id).collect()),
        overrides: CapabilitySet::from_bits_retain(effective.unwrap_or(0)) & OVERRIDES,
    })
}

#[cfg(test)]
mod tests;
