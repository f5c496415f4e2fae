//! The output of `ls /brokers/ids` in ZooKeeper's shell.

/// The registered broker ids; None where the text has no such list.
pub fn registered(text: &str) -> Option<impl Iterator<Item = i32>> {
    let mut lines = text.lines().map(str::trim);
    // The command was typed into the shell, or given on its command line: then the client's own messages come first.
    lines.find(|line| {
        line.ends_with("ls /brokers/ids") || line.starts_with("WatchedEvent state:SyncConnected")
    })?;
    let list = lines
        .find(|line| !line.is_empty())?
        .strip_prefix('[')?
        .strip_suffix(']')?;
    let ids = || {
        list.split(',')
            .map(str::trim)
            .filter(|id| !id.is_empty())
            .map(str::parse::<i32>)
    };
    ids().all(|id| id.is_ok()).then(|| ids().flatten())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_lists_of_ids() {
        let read = |text| registered(text).map(Vec::from_iter);
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
