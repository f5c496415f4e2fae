//! Opens files that somebody else names: a broker, or who calls `analyze`. A path may lead to anything, and may lead to
//! something else a moment later. So it is opened as a bare reference (`O_PATH`), which touches nothing; what that is,
//! is read from it; and the same reference is then opened for reading.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};

use rustix::fd::{AsRawFd, OwnedFd};
use rustix::fs::{CWD, FileType, Mode, OFlags, Stat};
use rustix::io::Errno;
use rustix::path::Arg;

use super::lacking;
use super::proc::read_open_file;

/// Why a file or a folder was not read.
#[derive(Debug, thiserror::Error)]
pub enum FileError {
    #[error("{} does not exist", path.display())]
    Missing { path: PathBuf },
    #[error("{} may not be read by uid {uid}", path.display())]
    Denied { path: PathBuf, uid: u32 },
    #[error("{} is a {found}, not a {wanted}", path.display())]
    WrongKind {
        path: PathBuf,
        found: &'static str,
        wanted: &'static str,
    },
    #[error("{} is on {system}, where no files are stored: it is not read", path.display())]
    NoStorage { path: PathBuf, system: &'static str },
    #[error("{} has more than {most} {what}", path.display())]
    TooBig {
        path: PathBuf,
        most: usize,
        what: &'static str,
    },
    #[error("{} leads through too many links or folders", path.display())]
    TooDeep { path: PathBuf },
    #[error(
        "{} is read only with the rights of its process (uid {uid}), and uid {} may not take them: {} (and the system calls \
         setfsuid and capset)",
        path.display(), rustix::process::geteuid().as_raw(), lacking::REMEDY
    )]
    NoRights { path: PathBuf, uid: u32 },
    #[error("{} is not read: its process has the ids of several users, as a setuid program", path.display())]
    SeveralUsers { path: PathBuf },
    #[error("{} leads through a link of uid {uid}, who may lead it elsewhere", path.display())]
    StrangersLink { path: PathBuf, uid: u32 },
    #[error("{}: {cause}", path.display())]
    Io { path: PathBuf, cause: io::Error },
}

impl FileError {
    /// The message without the path, which must be `path`.
    pub fn without(&self, path: &Path) -> String {
        let text = self.to_string();
        let rest = text.strip_prefix(&*path.to_string_lossy());
        rest.map_or(&*text, |rest| rest.trim_start_matches([' ', ':']))
            .to_owned()
    }

    pub(super) fn new(path: &Path, errno: Errno) -> FileError {
        let path = path.to_path_buf();
        match errno {
            Errno::NOENT | Errno::NOTDIR => FileError::Missing { path },
            Errno::ACCESS | Errno::PERM => FileError::Denied {
                path,
                uid: current_uid(),
            },
            Errno::LOOP => FileError::TooDeep { path },
            errno => FileError::Io {
                path,
                cause: errno.into(),
            },
        }
    }
}

/// By which user's rights the calling thread opens files.
pub(super) fn current_uid() -> u32 {
    // SAFETY: the call takes a number and touches no memory. No id is -1, so it changes nothing and returns the present
    // one.
    match unsafe { libc::setfsuid(libc::uid_t::MAX) } {
        // A filter of system calls refuses it, as in a systemd unit without @privileged: then no thread has changed its
        // ids.
        -1 => rustix::process::geteuid().as_raw(),
        uid => uid.cast_unsigned(),
    }
}

/// Opens a regular file by a path of the caller, whose links are followed.
///
/// # Errors
/// It is none, or lies where the kernel shows itself and no file is stored, or it may not be read.
pub fn open(path: &Path) -> Result<File, FileError> {
    open_with(path, OFlags::empty())
}

/// As [`open`], and the last part of the path may be no link.
///
/// # Errors
/// As [`open`].
pub fn open_no_link(path: &Path) -> Result<File, FileError> {
    open_with(path, OFlags::NOFOLLOW)
}

fn open_with(path: &Path, flags: OFlags) -> Result<File, FileError> {
    let found = refer(path, flags).map_err(|errno| FileError::new(path, errno))?;
    Ok(open_found(&found, path)?.0.into())
}

/// Whether a path leads to a file or folder of that kind, where such are stored. Nothing is opened for reading.
///
/// # Errors
/// As [`open`].
pub fn find(path: &Path, wanted: FileType) -> Result<(), FileError> {
    let found = refer(path, OFlags::empty()).map_err(|errno| FileError::new(path, errno))?;
    check(&found, path, wanted).map(drop)
}

/// As [`open`], and an anonymous pipe is taken as well: the shell makes one of `<(jstack PID)`. A named one (FIFO) would
/// have no end, or block its reader.
///
/// # Errors
/// As [`open`].
pub fn open_or_pipe(path: &Path) -> Result<File, FileError> {
    let fail = |errno| FileError::new(path, errno);
    let found = refer(path, OFlags::empty()).map_err(fail)?;
    let stat = rustix::fs::fstat(&found).map_err(fail)?;
    if FileType::from_raw_mode(stat.st_mode) != FileType::Fifo
        || system_of(&found).map_err(fail)? != PIPEFS
    {
        check(&found, path, FileType::RegularFile)?;
    }
    // Without O_NONBLOCK: a pipe is waited for.
    let flags = OFlags::RDONLY | OFlags::NOCTTY | OFlags::CLOEXEC;
    let file = rustix::fs::openat(CWD, by_number(&found), flags, Mode::empty());
    Ok(file.map_err(fail)?.into())
}

/// Opens a bare reference.
pub(super) fn refer(path: &Path, flags: OFlags) -> Result<OwnedFd, Errno> {
    let flags = flags | OFlags::PATH | OFlags::CLOEXEC;
    rustix::fs::openat(CWD, path, flags, Mode::empty())
}

/// Opens a bare reference to what has that name in a folder; a link is not followed.
pub(super) fn refer_in(folder: &OwnedFd, name: impl Arg) -> Result<OwnedFd, Errno> {
    let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    rustix::fs::openat(folder, name, flags, Mode::empty())
}

/// Opens for reading what the reference stands for, if that is a regular file.
pub(super) fn open_found(found: &OwnedFd, path: &Path) -> Result<(OwnedFd, Stat), FileError> {
    let stat = check(found, path, FileType::RegularFile)?;
    let file = reopen(found, OFlags::empty()).map_err(|errno| FileError::new(path, errno))?;
    Ok((file, stat))
}

/// Reads a regular file of at most `most` bytes that the reference stands for.
pub(super) fn read_found(
    found: &OwnedFd,
    path: &Path,
    most: usize,
) -> Result<(Vec<u8>, Stat), FileError> {
    let (file, stat) = open_found(found, path)?;
    // The size may be wrong or grow, so it only saves reading a file that is surely too big.
    let too_big = || FileError::TooBig {
        path: path.to_path_buf(),
        most,
        what: "bytes",
    };
    if usize::try_from(stat.st_size).map_or(true, |size| size > most) {
        return Err(too_big());
    }
    let bytes = read_open_file(&file, most + 1).map_err(|errno| FileError::new(path, errno))?;
    if bytes.len() > most {
        return Err(too_big());
    }
    Ok((bytes, stat))
}

/// Opens for reading exactly what the reference stands for.
pub(super) fn reopen(found: &OwnedFd, flags: OFlags) -> Result<OwnedFd, Errno> {
    let flags = flags | OFlags::RDONLY | OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::CLOEXEC;
    rustix::fs::openat(CWD, by_number(found), flags, Mode::empty())
}

/// A path of a reference, for the calls that take none itself: fstatfs, for one, before Linux 3.12.
pub(super) fn by_number(found: &OwnedFd) -> String {
    format!("/proc/self/fd/{}", found.as_raw_fd())
}

/// Whether a reference is of that kind and stored somewhere.
pub(super) fn check(found: &OwnedFd, path: &Path, wanted: FileType) -> Result<Stat, FileError> {
    let stat = rustix::fs::fstat(found).map_err(|errno| FileError::new(path, errno))?;
    let kind = FileType::from_raw_mode(stat.st_mode);
    if kind != wanted {
        return Err(FileError::WrongKind {
            path: path.to_path_buf(),
            found: kind_name(kind),
            wanted: kind_name(wanted),
        });
    }
    check_system(found, path)?;
    Ok(stat)
}

/// Whether a reference is on a file system that stores files. Reading those of the kernel can have effects, wait for
/// ever, or show what only the reader may know.
pub(super) fn check_system(found: &OwnedFd, path: &Path) -> Result<(), FileError> {
    let magic = system_of(found).map_err(|errno| FileError::new(path, errno))?;
    let known = OF_THE_KERNEL.iter().find(|(number, _)| *number == magic);
    match known {
        None => Ok(()),
        Some((_, system)) => Err(FileError::NoStorage {
            path: path.to_path_buf(),
            system,
        }),
    }
}

fn system_of(found: &OwnedFd) -> Result<u32, Errno> {
    // The numbers have 32 bits; the type of the field differs by architecture.
    #[allow(clippy::unnecessary_cast)]
    Ok(rustix::fs::statfs(by_number(found))?.f_type as u32)
}

const PIPEFS: u32 = 0x5049_5045;

/// The file systems in which the kernel shows itself, by their numbers in `linux/magic.h`.
const OF_THE_KERNEL: [(u32, &str); 27] = [
    (0x0000_9fa0, "procfs"),
    (0x6265_6572, "sysfs"),
    (0x7472_6163, "tracefs"),
    (0x6462_6720, "debugfs"),
    (0x0027_e0eb, "cgroupfs"),
    (0x6367_7270, "cgroup2"),
    (0x7363_6673, "securityfs"),
    (0x6265_6570, "configfs"),
    (0xcafe_4a11, "bpffs"),
    (0x6165_676c, "pstore"),
    (0xde5e_81e4, "efivarfs"),
    (0xf97c_ff8c, "selinuxfs"),
    (0x4341_5d53, "smackfs"),
    (0x5a3c_69f0, "apparmorfs"),
    (0x0000_1cd1, "devpts"),
    (0x1980_0202, "mqueue"),
    (0x6e73_6673, "nsfs"),
    (0x4249_4e4d, "binfmt_misc"),
    (0x6573_5543, "fusectl"),
    (0x6759_6969, "rpc_pipefs"),
    (0x6e66_7364, "nfsd"),
    (0x0765_5821, "resctrl"),
    (0x0000_9fa2, "usbdevfs"),
    (0x0904_1934, "anon_inodefs"),
    (PIPEFS, "pipefs"),
    (0x534f_434b, "sockfs"),
    (0x444d_4142, "dmabuffs"),
];

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

/// Reads from this place on. Fewer bytes than there is room for are the end of the file.
pub fn read_at(file: &File, buffer: &mut [u8], at: u64) -> io::Result<usize> {
    loop {
        match file.read_at(buffer, at) {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            result => return result,
        }
    }
}
