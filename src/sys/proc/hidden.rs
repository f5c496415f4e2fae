//! Whether procfs hides processes of other users: its mount option `hidepid`.

use std::path::Path;

use procfs::process::MountInfo;
use rustix::thread::CapabilitySet;

use super::ProcRoot;
use crate::sys::lacking::REMEDY;

/// How a procfs is mounted.
#[derive(Debug, PartialEq, Eq)]
struct Hiding {
    /// As the kernel spells it: `2`, since Linux 5.8 `invisible`.
    hidepid: String,
    /// The group that sees everything. Group 0 is what the kernel takes where none is given.
    gid: u32,
}

impl ProcRoot {
    /// Whether the kernel shows its processes there, and not a recording of another host.
    pub fn is_procfs(&self) -> bool {
        rustix::fs::statfs(self.path())
            .is_ok_and(|statistics| statistics.f_type == rustix::fs::PROC_SUPER_MAGIC)
    }

    /// Returns why this process does not see all processes, and the remedy; None if it sees them.
    pub fn hides_processes(&self) -> Option<String> {
        let mounts = std::fs::read_to_string("/proc/self/mountinfo").ok()?;
        let path = self.path().canonicalize().ok()?;
        let Hiding { hidepid, gid } = hiding(&mounts, &path)?;
        let group = rustix::process::getegid();
        let groups = rustix::process::getgroups().unwrap_or_default();
        if groups.iter().chain([&group]).any(|id| id.as_raw() == gid) {
            return None;
        }
        let may_trace = rustix::thread::capabilities(None)
            .is_ok_and(|own| own.effective.contains(CapabilitySet::SYS_PTRACE));
        // The capability may be one of a user namespace, which counts for nothing outside of it.
        if may_trace && self.stat(1).is_ok() {
            return None;
        }
        let path = path.display();
        Some(format!(
            "{path} is mounted with hidepid={hidepid}, so processes of other users are hidden: \
             {REMEDY}, or mount {path} with the option gid= of one of its groups (in a \
             systemd unit, ProtectProc= sets the option)"
        ))
    }
}

/// What the last procfs that is mounted at `path` hides; None: nothing, or no procfs is mounted there.
fn hiding(mounts: &str, path: &Path) -> Option<Hiding> {
    let mounts = mounts
        .lines()
        .filter_map(|line| MountInfo::from_line(line).ok());
    let mut at_path = mounts.filter(|mount| mount.mount_point == path);
    let mount = at_path
        .next_back()
        .filter(|mount| mount.fs_type == "proc")?;
    let option = |name| mount.super_options.get(name).cloned().flatten();
    let hidepid = option("hidepid").filter(|value| value != "0" && value != "off")?;
    let gid = option("gid").and_then(|gid| gid.parse().ok());
    Some(Hiding {
        hidepid,
        gid: gid.unwrap_or(0),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_options_of_the_mount_that_is_on_top_count() {
        let table = [
            ("22 27 0:21 / /proc rw,relatime - proc proc rw\n", None),
            ("22 27 0:21 / /proc rw - proc proc rw,hidepid=off\n", None),
            ("22 27 0:21 / /proc rw - proc proc rw,hidepid=0\n", None),
            (
                "22 27 0:21 / /proc rw - proc proc rw,gid=4,hidepid=2\n",
                Some(("2", 4)),
            ),
            (
                "22 27 0:21 / /proc rw shared:7 - proc proc rw,hidepid=invisible\n",
                Some(("invisible", 0)),
            ),
            (
                "22 27 0:21 / /other/proc rw - proc proc rw,hidepid=2\n",
                None,
            ),
            ("22 27 0:21 / /proc rw - tmpfs proc rw,hidepid=2\n", None),
            (
                "22 27 0:21 / /proc rw - proc proc rw,hidepid=2\nno mount\n23 22 0:22 / /proc rw - proc proc rw\n",
                None,
            ),
        ];
        for (mounts, expected) in table {
            let expected = expected.map(|(hidepid, gid): (&str, _)| Hiding {
                hidepid: hidepid.to_owned(),
                gid,
            });
            assert_eq!(hiding(mounts, Path::new("/proc")), expected, "{mounts}");
        }
    }
}
