//! How many files a process may open, as `/proc/PID/limits` and `prlimit` print it.

use std::sync::LazyLock;

use super::Pattern;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct OpenFiles {
    /// None: without limit.
    pub soft: Option<u64>,
    pub hard: Option<u64>,
}

/// `Max open files  1024  4096  files`; of prlimit `NOFILE  max number of open files  1024  4096 files`.
static LINE: LazyLock<Pattern> = LazyLock::new(|| {
    Pattern::new(
        r"(?: Max\ open\ files | max\ number\ of\ open\ files ) \s+ (?<soft> \d+ | unlimited ) \s+ (?<hard> \d+ | unlimited ) \s+ files",
    )
});

/// None where the text has no such line.
pub fn open_files(text: &str) -> Option<OpenFiles> {
    let [soft, hard] = LINE.groups(text)?;
    Some(OpenFiles {
        soft: soft.parse().ok(),
        hard: hard.parse().ok(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_tools() {
        let limits = Some(OpenFiles {
            soft: Some(1024),
            hard: None,
        });
        let proc = "Limit                     Soft Limit           Hard Limit           Units     \n\
                    Max processes             7                    7                    processes \n\
                    Max open files            1024                 unlimited            files     \n";
        assert_eq!(open_files(proc), limits);
        assert_eq!(
            open_files(
                "NOFILE     max number of open files                1024   unlimited files\n"
            ),
            limits
        );
        assert_eq!(open_files("Max open files: 7\n"), None);
    }
}
