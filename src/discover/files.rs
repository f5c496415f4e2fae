//! A broker's files, read as the broker itself sees them: inside its root, from its working folder.

use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::error::DiscoveryError;
use crate::sys::plain::FileError;
use crate::sys::proc::{Deadline, ProcError, ProcRoot};
use crate::sys::rooted::Rooted;

/// A JVM opens its jars and locks its log folders at the start, so they have low numbers.
const MOST_FDS: usize = 4096;

pub(super) struct Files {
    pub root: Rooted,
    /// Where the root is for us, if the process runs in a chroot. The kernel's links start with it.
    root_link: PathBuf,
    working_folder: Option<PathBuf>,
    uid: Option<u32>,
}

impl Files {
    pub(super) fn open(proc: &ProcRoot, pid: u32, uid: Option<u32>) -> Result<Files, ProcError> {
        // The link comes first: it shows a missing right as such, and where a chroot is.
        let root_link = proc.link(pid, "root")?;
        let root = Rooted::of_process(proc, pid).map_err(|error| match error {
            FileError::Missing { .. } => ProcError::Gone { pid },
            FileError::Denied { path, .. } => ProcError::Denied { pid, path },
            FileError::Io { path, cause } => ProcError::Io { path, cause },
            other => ProcError::Io {
                path: proc.file(pid, "root"),
                cause: std::io::Error::other(other),
            },
        })?;
        let mut files = Files {
            root,
            root_link,
            working_folder: None,
            uid,
        };
        files.working_folder = proc.link(pid, "cwd").ok().map(|link| files.inside(&link));
        Ok(files)
    }

    /// Turns a link of /proc into the path that the process itself would use.
    pub(super) fn inside(&self, link: &Path) -> PathBuf {
        link.strip_prefix(&self.root_link)
            .map_or_else(|_| link.to_path_buf(), |inside| Path::new("/").join(inside))
    }

    pub(super) fn absolute(&self, path: &Path) -> Option<PathBuf> {
        if path.is_absolute() {
            return Some(path.to_path_buf());
        }
        Some(self.working_folder.as_ref()?.join(path))
    }

    /// Adds the remedy where the broker's user is known and is another.
    pub(super) fn error(&self, cause: FileError) -> DiscoveryError {
        match (&cause, self.uid) {
            (FileError::Denied { uid: own, .. }, Some(uid)) if *own != uid => {
                DiscoveryError::DeniedFile { cause, uid }
            }
            _ => DiscoveryError::File { cause },
        }
    }
}

/// Shows the links of the first fds to `look`.
pub(super) fn first_fd_links(
    proc: &ProcRoot,
    pid: u32,
    mut look: impl FnMut(&[u8]),
) -> Result<(), ProcError> {
    let mut seen = 0;
    let deadline = Deadline::after(Duration::from_millis(200));
    proc.visit_fd_links(pid, deadline, |_, link| {
        look(link);
        seen += 1;
        if seen < MOST_FDS {
            ControlFlow::Continue(())
        } else {
            ControlFlow::Break(())
        }
    })
}
