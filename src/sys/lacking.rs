//! What this process lacks to read everything of another one, as docs/rights.md shows.

use rustix::process::{getegid, geteuid};
use rustix::thread::{CapabilitySet, capabilities};

/// What lets the exporter read everything, whatever it lacks now.
pub const REMEDY: &str = "run kafka-vitals as the brokers' user and group, or give it CAP_SYS_PTRACE, CAP_DAC_READ_SEARCH, \
                          CAP_SETUID and CAP_SETGID";

/// All that is needed for processes of other users.
const NEEDED: [(CapabilitySet, &str); 4] = [
    (CapabilitySet::SYS_PTRACE, "CAP_SYS_PTRACE"),
    (
        CapabilitySet::DAC_READ_SEARCH.union(CapabilitySet::DAC_OVERRIDE),
        "CAP_DAC_READ_SEARCH",
    ),
    (CapabilitySet::SETUID, "CAP_SETUID"),
    (CapabilitySet::SETGID, "CAP_SETGID"),
];

/// The capabilities that this process lacks to read all of the one with these effective ids. `is_denied`: the kernel refuses
/// to show it, as it does between processes of one user where the other one has capabilities.
pub fn lacking(its: (u32, u32), is_denied: bool) -> Vec<&'static str> {
    let own = (geteuid().as_raw(), getegid().as_raw());
    let effective = capabilities(None).map_or(CapabilitySet::empty(), |own| own.effective);
    of(own, effective, its, is_denied)
}

fn of(
    own: (u32, u32),
    effective: CapabilitySet,
    its: (u32, u32),
    is_denied: bool,
) -> Vec<&'static str> {
    let needed = match (own == its, is_denied) {
        (true, false) => 0,
        (true, true) => 1,
        (false, _) => NEEDED.len(),
    };
    let lacks = NEEDED.into_iter().take(needed);
    let lacks = lacks.filter(|(any_of, _)| !effective.intersects(*any_of));
    lacks.map(|(_, name)| name).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The rows of docs/rights.md.
    #[test]
    fn what_a_process_lacks_depends_on_whose_the_other_one_is() {
        use CapabilitySet as C;
        let (root, kafka, other) = ((0, 0), (1000, 1000), (65534, 65534));
        let all = C::SYS_PTRACE | C::DAC_READ_SEARCH | C::SETUID | C::SETGID;
        let [ptrace, read, uid, gid] = NEEDED.map(|(_, name)| name);
        type Case<'a> = ((u32, u32), C, (u32, u32), bool, &'a [&'a str]);
        let table: [Case; 11] = [
            (kafka, C::empty(), kafka, false, &[]),
            (root, C::all(), kafka, false, &[]),
            (root, C::all() - C::SYS_PTRACE, kafka, true, &[ptrace]),
            (root, C::all() - C::DAC_READ_SEARCH, kafka, false, &[]),
            (
                root,
                C::all() - C::DAC_READ_SEARCH - C::DAC_OVERRIDE,
                kafka,
                false,
                &[read],
            ),
            (
                root,
                C::all() - C::SETUID - C::SETGID,
                kafka,
                false,
                &[uid, gid],
            ),
            (root, C::empty(), root, true, &[ptrace]),
            (other, all, kafka, false, &[]),
            (
                other,
                C::SYS_PTRACE | C::DAC_READ_SEARCH,
                kafka,
                false,
                &[uid, gid],
            ),
            (other, C::empty(), kafka, true, &[ptrace, read, uid, gid]),
            // HotSpot compares the group as well.
            (
                (1000, 7),
                C::empty(),
                kafka,
                false,
                &[ptrace, read, uid, gid],
            ),
        ];
        for (own, effective, its, is_denied, expected) in table {
            let lacks = of(own, effective, its, is_denied);
            assert_eq!(lacks, expected, "{own:?} {effective:?} {its:?}");
        }
        for (_, name) in NEEDED {
            assert!(REMEDY.contains(name));
        }
    }
}
