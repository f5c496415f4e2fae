//! The output of `ls /brokers/ids` in ZooKeeper's shell.

use std::sync::LazyLock;

use super::Pattern;

/// The command is typed into the shell, or given on its command line: then the client's own messages come first.
static IDS: LazyLock<Pattern> = LazyLock::new(|| {
    Pattern::new(
        r"(?: ls\ /brokers/ids | WatchedEvent\ state:SyncConnected .* ) \s*? \n \s* \[ (?<ids>[\d,\ ]*) \]",
    )
});

/// The registered broker ids; None where the text has no such list.
pub fn registered(text: &str) -> Option<Vec<i32>> {
    let [ids] = IDS.groups(text)?;
    let ids = ids.split(',').map(str::trim).filter(|id| !id.is_empty());
    ids.map(|id| id.parse().ok()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_lists_of_ids() {
        let read = registered;
        assert_eq!(
            read("[zk: h:5181(CONNECTED) 4] ls /brokers/ids\n[217, 218, 219]\n"),
            Some(vec![217, 218, 219])
        );
        assert_eq!(
            read("Connecting to h\n\nWatchedEvent state:SyncConnected type:None path:null\n[]\n"),
            Some(vec![])
        );
        for other in [
            "",
            "ls /brokers/ids",
            "ls /brokers/ids\n[a, b]",
            "ls /brokers/ids\nNode does not exist",
            "[1, 2]",
        ] {
            assert_eq!(read(other), None, "{other}");
        }
    }
}
