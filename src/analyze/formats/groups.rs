//! Consumer groups as `kafka-consumer-groups --describe` of 0.10.1 to 4.x prints them.

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Line<'a> {
    /// The names of the columns. With no row below it, the coordinator reported no partition.
    Header,
    Partition {
        group: Option<&'a str>,
        topic: &'a str,
        partition: u32,
    },
    /// What the tool printed in place of a table.
    Error(&'a str),
}

/// The lines in a text that belong to such a table. The last header gives the places of the columns.
pub fn lines(text: &str) -> impl Iterator<Item = Line<'_>> {
    let mut columns = None;
    text.lines().filter_map(move |line| {
        if line.trim_start().starts_with("Error: ") && line.contains("consumer group") {
            return Some(Line::Error(line));
        }
        let place = |name| line.split_ascii_whitespace().position(|word| word == name);
        if let Some(end) = place("LOG-END-OFFSET") {
            columns = Some((place("GROUP"), place("TOPIC")?, place("PARTITION")?, end));
            return Some(Line::Header);
        }
        let (group, topic, partition, end) = columns?;
        let word = |place| line.split_ascii_whitespace().nth(place);
        word(end)
            .filter(|offset| matches!(*offset, "-" | "unknown") || offset.parse::<u64>().is_ok())?;
        let partition = word(partition)?.parse().ok()?;
        Some(Line::Partition {
            group: group.and_then(word),
            topic: word(topic)?,
            partition,
        })
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn old_and_new_tables_among_other_lines() {
        // The columns of 0.10.1 and of 1.1, and what 0.10.1 prints when the coordinator does not answer.
        let text = "Note: This will only show information about consumers that use the Java consumer API.\n\n\
                    GROUP  TOPIC  PARTITION  CURRENT-OFFSET  LOG-END-OFFSET  LAG  OWNER\n\
                    g      t      3          515             515             0    c_/192.168.1.216\n\
                    tcp    0      0 ::ffff:192.168.1.217:33408  ::ffff:192.168.1.219:9092   FIN_WAIT1\n\
                    TOPIC   PARTITION  CURRENT-OFFSET  LOG-END-OFFSET  LAG  CONSUMER-ID  HOST  CLIENT-ID\n\
                    u       0          -               7               -    -            -     -\n\
                    Error: Executing consumer group command failed due to Request METADATA failed on brokers List(a)\n";
        let found: Vec<_> = lines(text).collect();
        let rows = [("t", 3, Some("g")), ("u", 0, None)].map(|(topic, partition, group)| {
            Line::Partition {
                group,
                topic,
                partition,
            }
        });
        assert_eq!(found[..4], [Line::Header, rows[0], Line::Header, rows[1]]);
        assert!(matches!(found[4..], [Line::Error(_)]));
        assert_eq!(lines("a b c\nError: no such file\n").count(), 0);
    }
}
