//! Threads as `top -H` prints them.

#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Thread<'a> {
    /// The kernel's thread id, in a dump `nid`.
    pub tid: u64,
    /// Of one core.
    pub cpu_percent: f64,
    /// The first 15 bytes of its name; top may cut it again and end it with a plus.
    pub name: &'a str,
}

/// The threads of the last table in a text; none where top shows processes.
pub fn threads(text: &str) -> Vec<Thread<'_>> {
    let mut shows_threads = false;
    let mut columns: Option<(usize, usize, usize)> = None;
    let mut found = Vec::new();
    for line in text.lines() {
        if line.trim_start().starts_with("Threads:") {
            shows_threads = true;
        } else if line.contains("%CPU") && line.contains("PID") && line.contains("COMMAND") {
            let place = |name| line.split_ascii_whitespace().position(|word| word == name);
            columns = place("PID")
                .zip(place("%CPU"))
                .zip(place("COMMAND"))
                .map(|((pid, cpu), command)| (pid, cpu, command));
            found.clear();
        } else if let Some(thread) = columns.and_then(|columns| thread(line, columns)) {
            found.push(thread);
        }
    }
    let of_a_broker = |thread: &Thread<'_>| {
        let name = thread.name.trim_end_matches('+');
        ["kafka-", "data-plane-", "ReplicaFetcher", "executor-"]
            .iter()
            .any(|start| name.starts_with(start))
    };
    if shows_threads || found.iter().any(of_a_broker) {
        found
    } else {
        Vec::new()
    }
}

fn thread(line: &str, (pid, cpu, command): (usize, usize, usize)) -> Option<Thread<'_>> {
    let word = |place| line.split_ascii_whitespace().nth(place);
    // A name may have blanks.
    let mut name = line.trim();
    for _ in 0..command {
        name = name.get(name.find(' ')?..)?.trim_start();
    }
    Some(Thread {
        tid: word(pid)?.parse().ok()?,
        cpu_percent: word(cpu)?.replace(',', ".").parse().ok()?,
        name,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn threads_of_the_last_table() {
        let table = |cpu: &str| {
            format!(
                "top - 10:14:02 up 3 days,  1 user,  load average: 1.00, 1.00, 1.00\n\
                 Threads: 120 total,   1 running, 119 sleeping,   0 stopped,   0 zombie\n\n\
                 \x20   PID USER      PR  NI    VIRT    RES    SHR S  %CPU  %MEM     TIME+ COMMAND\n\
                 \x20 12345 kafka     20   0   10.2g   4.1g  20132 R  {cpu}  12.3   1:23.45 kafka-request-h\n\
                 \x20 12346 kafka     20   0   10.2g   4.1g  20132 S   0.3  12.3   0:00.45 GC Thread#0\n"
            )
        };
        let text = table("12.0") + &table("99,9");
        let thread = |tid, cpu_percent, name| Thread {
            tid,
            cpu_percent,
            name,
        };
        assert_eq!(
            threads(&text),
            [
                thread(12345, 99.9, "kafka-request-h"),
                thread(12346, 0.3, "GC Thread#0")
            ]
        );
        let processes = "Tasks: 3 total\n  PID USER %CPU COMMAND\n  1 root 0.0 java\n";
        assert_eq!(threads(processes), []);
    }
}
