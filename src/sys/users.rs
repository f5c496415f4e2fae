//! The users of this host, as `/etc/passwd` names them. A name service (LDAP) is not asked: a statically linked program
//! cannot, and it may hang.

use std::io::Read as _;
use std::path::Path;

/// Hosts have some kilobytes.
const FILE_CAP: u64 = 4 << 20;
/// Longer names are not shown. Linux itself allows 32 bytes.
const LONGEST_NAME: usize = 32;

/// The text of `/etc/passwd`; empty where it cannot be read, as in a container without one.
pub fn read() -> String {
    let mut bytes = Vec::new();
    let read = std::fs::File::open(Path::new("/etc/passwd"))
        .and_then(|file| file.take(FILE_CAP).read_to_end(&mut bytes));
    match read {
        Ok(_) => String::from_utf8_lossy(&bytes).into_owned(),
        Err(_) => String::new(),
    }
}

fn entries(passwd: &str) -> impl Iterator<Item = (&str, u32)> {
    passwd.lines().filter_map(|line| {
        let mut fields = line.split(':');
        let name = fields.next()?;
        Some((name, fields.nth(1)?.parse().ok()?))
    })
}

/// The id of the user with this name.
pub fn uid_of(passwd: &str, name: &str) -> Option<u32> {
    entries(passwd)
        .find(|(known, _)| *known == name)
        .map(|(_, uid)| uid)
}

/// The name of a user for labels and messages, `uid-N` where it has none that is short and plain.
pub fn name_of(passwd: &str, uid: u32) -> String {
    let plain = |name: &str| {
        name.len() <= LONGEST_NAME
            && name.starts_with(|c: char| c.is_ascii_alphabetic() || c == '_')
            && name
                .chars()
                .all(|c| c.is_ascii_alphanumeric() || matches!(c, '_' | '-' | '.'))
    };
    entries(passwd)
        .find(|(name, known)| *known == uid && plain(name))
        .map_or_else(|| format!("uid-{uid}"), |(name, _)| name.to_owned())
}

/// The id that the kernel shows for every user that this user namespace does not map, if there are such users: nothing
/// distinguishes them.
pub fn unmapped() -> Option<u32> {
    let map = std::fs::read_to_string("/proc/self/uid_map").unwrap_or_default();
    if map.split_ascii_whitespace().eq(["0", "0", "4294967295"]) {
        return None;
    }
    let overflow = std::fs::read_to_string("/proc/sys/kernel/overflowuid").ok();
    Some(
        overflow
            .and_then(|id| id.trim().parse().ok())
            .unwrap_or(65534),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_short_and_plain_or_numbers() {
        let long = "a".repeat(33);
        let passwd = format!(
            "root:x:0:0:root:/root:/bin/sh\n# no user\nkafka:x:1001:1001::/:\n9001:x:1002:1002::/:\n\
             a\u{202e}b:x:1003:1003::/:\n{long}:x:1004:1004::/:\nbroken:x\nworse:x:many:1::/:\n"
        );
        let names = [0, 1001, 1002, 1003, 1004, 77].map(|uid| name_of(&passwd, uid));
        assert_eq!(
            names,
            [
                "root", "kafka", "uid-1002", "uid-1003", "uid-1004", "uid-77"
            ]
        );
        assert_eq!(uid_of(&passwd, "kafka"), Some(1001));
        assert_eq!(uid_of(&passwd, "worse"), None);
        assert_eq!(uid_of(&passwd, ""), None);
    }
}
