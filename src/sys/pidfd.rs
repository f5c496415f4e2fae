//! The kernel's notice of the end of a process.

use std::os::fd::OwnedFd;
use std::path::Path;
use std::task::{Context, Poll};

use rustix::process::{Pid, PidfdFlags, pidfd_open};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

use super::proc::ProcRoot;

/// Opens a descriptor that becomes readable when the process ends. None where the kernel has none (before 5.3), where a
/// seccomp filter refuses it, where `proc` numbers processes in another way than this process sees them, and where the
/// process has ended.
pub fn open(proc: &ProcRoot, pid: u32, start_ticks: u64) -> Option<OwnedFd> {
    let own = std::fs::read_link(proc.path().join("self")).ok()?;
    if own != Path::new(&std::process::id().to_string()) {
        return None;
    }
    let number = Pid::from_raw(i32::try_from(pid).ok()?)?;
    let opened = pidfd_open(number, PidfdFlags::empty()).ok()?;
    // The number may have been given to another process before it was opened.
    let stat = proc.stat(pid).ok()?;
    (stat.start_ticks == start_ticks && !stat.ended).then_some(opened)
}

/// Waits for the end of a process, on the runtime that waits for sockets anyway.
#[derive(Debug)]
pub struct Notice(AsyncFd<OwnedFd>);

impl Notice {
    /// Takes what [`open`] has opened. To be called on a runtime; None where that can wait for no more.
    pub fn of(opened: OwnedFd) -> Option<Notice> {
        // SAFETY: an `OwnedFd` is open until it is dropped, its number stays the same, and nobody else has this one.
        let registered = unsafe { AsyncFd::register_with_interest(opened, Interest::READABLE) };
        registered.ok().map(Notice)
    }

    /// Ready once the process has ended.
    pub fn poll(&self, context: &mut Context<'_>) -> Poll<()> {
        self.0.poll_read_ready(context).map(drop)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use std::process::Command;
    use std::time::Duration;

    use super::*;

    #[tokio::test]
    async fn it_is_readable_once_the_process_has_ended() {
        let proc = ProcRoot::new("/proc");
        let mut child = Command::new("sleep").arg("60").spawn().unwrap();
        let ticks = proc.stat(child.id()).unwrap().start_ticks;
        assert!(open(&proc, child.id(), ticks + 1).is_none());
        let notice = open(&proc, child.id(), ticks).unwrap();
        let notice = Notice::of(notice).unwrap();
        let end = || std::future::poll_fn(|context| notice.poll(context));
        let is_over = async |time| tokio::time::timeout(time, end()).await.is_ok();
        assert!(!is_over(Duration::from_millis(50)).await);
        child.kill().unwrap();
        assert!(is_over(Duration::from_secs(10)).await);
        child.wait().unwrap();
        assert!(open(&proc, child.id(), ticks).is_none());
    }

    #[test]
    fn no_process_of_another_procfs_is_opened() {
        let folder = tempfile::tempdir().unwrap();
        std::os::unix::fs::symlink("1", folder.path().join("self")).unwrap();
        let child = std::process::id();
        assert!(open(&ProcRoot::new(folder.path()), child, 0).is_none());
    }
}
