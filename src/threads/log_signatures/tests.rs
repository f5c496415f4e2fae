#![allow(clippy::unwrap_used)]

use std::collections::BTreeSet;

use super::*;

fn read(text: &[u8], matcher: &LogMatcher) -> Vec<(String, Found)> {
    let mut found = Vec::new();
    LogReader::default().read(text, matcher, &mut |line| {
        let (name, _) = matcher.signature(line.signature).unwrap();
        found.push((name.to_owned(), line));
    });
    found
}

fn names(text: &str, matcher: &LogMatcher) -> Vec<String> {
    let found = read(text.as_bytes(), matcher);
    found.into_iter().map(|(name, _)| name).collect()
}

#[test]
fn the_data_is_as_its_schema_says() {
    let mut seen = BTreeSet::new();
    for of in log_signatures() {
        let name = &of.name;
        assert!(seen.insert(name), "{name} twice");
        let plain = |c: char| c.is_ascii_lowercase() || c == '_';
        assert!(name.chars().all(plain) && name.len() <= 40, "{name}");
        assert!(!of.patterns.is_empty() && !of.examples.is_empty(), "{name}");
        for pattern in &of.patterns {
            check_pattern(pattern).unwrap();
            let regex = builder(pattern).build().unwrap();
            for group in regex.capture_names().flatten() {
                assert!(["peer", "thread"].contains(&group), "{name}: {group}");
            }
            let examples = of.examples.iter();
            let used = examples.filter(|line| regex.is_match(line.as_bytes()));
            let alone = of.patterns.len() == 1;
            assert!(
                !alone || used.count() == of.examples.len(),
                "{name}: {pattern}"
            );
        }
        for text in [&of.meaning, &of.what_to_do] {
            let first = text.chars().next().unwrap();
            assert!(
                first.is_uppercase() && text.ends_with('.'),
                "{name}: {text}"
            );
        }
        let needs_peer = of.blames == Blamed::Peer && of.severity != Severity::Info;
        let has_peer = of.patterns.iter().any(|text| text.contains("(?P<peer>"));
        assert!(
            !needs_peer || has_peer || name == "corrupt_record",
            "{name}"
        );
    }
    assert!(log_signatures().len() < MOST_SIGNATURES / 2);
}

/// `make docs` rewrites the page.
#[test]
fn golden_docs_page_is_the_data() {
    let mut page = String::from(
        "# Signatures of the log\n\nGenerated from `src/threads/log_signatures.toml` by `make docs`; do not edit. The collector `logs` counts \
         them in `kafka_vitals_log_signatures_total`. Own ones: `log_signatures` in the config file.\n\n\
         | signature | severity | cause | meaning | what to do |\n|---|---|---|---|---|\n",
    );
    for of in log_signatures() {
        let LogSignature {
            name,
            severity,
            blames,
            meaning,
            what_to_do,
            ..
        } = of;
        let (severity, blames) = (severity.name(), blames.name());
        page += &format!("| `{name}` | {severity} | {blames} | {meaning} | {what_to_do} |\n");
    }
    page += "\n## One line of each\n```text\n";
    for of in log_signatures() {
        page += &format!("{}\n", of.examples[0]);
    }
    page += "```\n";
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/docs/log-signatures.md");
    if std::env::var_os("KAFKA_VITALS_REFRESH").is_some() {
        std::fs::write(path, &page).unwrap();
    }
    let written = std::fs::read_to_string(path).unwrap();
    assert!(
        written == page,
        "docs/log-signatures.md is not what the data says: make docs"
    );
}

#[test]
fn each_example_has_its_signature_and_no_other() {
    let matcher = LogMatcher::new(&[]).unwrap();
    for of in log_signatures() {
        for example in &of.examples {
            let found = names(&format!("{example}\n"), &matcher);
            assert_eq!(found, [of.name.as_str()], "{example}");
        }
    }
}

#[test]
fn lines_of_a_healthy_broker_have_none() {
    let matcher = LogMatcher::new(&[]).unwrap();
    let lines = "\
[2016-11-22 14:33:06,485] INFO KafkaConfig values: \n\tlog.dirs = /srv\n (kafka.server.KafkaConfig)
[2016-11-22 14:33:06,500] INFO [Kafka Server 1], started (kafka.server.KafkaServer)
[2016-11-22 14:33:07,000] INFO [ReplicaFetcherThread-0-3], Starting  (kafka.server.ReplicaFetcherThread)
[2021-05-04 07:15:11,001] INFO [ReplicaFetcher replicaId=1, leaderId=3, fetcherId=0] Node 3 disconnected. (org.apache.kafka.clients.NetworkClient)
[2021-05-04 07:15:11,001] INFO [GroupCoordinator 1]: Finished loading of metadata from __consumer_offsets-3 in 5 milliseconds (x.y)
[2021-05-04 07:15:11,001] WARN [RequestSendThread controllerId=2] Connection to node 3 (h/127.0.0.1:59094) could not be established. Broker may not be available. (org.apache.kafka.clients.NetworkClient)
";
    assert_eq!(names(lines, &matcher), [""; 0]);
}

#[test]
fn an_exception_is_counted_with_the_line_above_it_and_once() {
    let matcher = LogMatcher::new(&[]).unwrap();
    // 0.10.1.0 and 2.8 wrote these.
    let disconnect = "\
[2026-11-22 14:33:54,555] WARN [ReplicaFetcherThread-0-3], Error in fetch kafka.server.FetchRequest@1 (kafka.server.ReplicaFetcherThread)
java.io.IOException: Connection to 3 was disconnected before the response was read
\tat kafka.utils.ShutdownableThread.run(ShutdownableThread.scala:63)
Caused by: java.io.IOException: Connection to 3 was disconnected before the response was read
\t... 5 more
";
    let found = read(disconnect.as_bytes(), &matcher);
    let [(name, found)] = found.as_slice() else {
        panic!("{found:?}");
    };
    assert_eq!((name.as_str(), found.peer), ("peer_disconnected", Some(3)));
    assert!(found.text.contains("Error in fetch"), "{}", found.text);
    assert!(
        found.text.contains(" | java.io.IOException"),
        "{}",
        found.text
    );

    // The line counts, so its exception does not, but for what it says of the memory.
    let died = "\
[2026-11-22 14:33:54,555] ERROR [ReplicaFetcher replicaId=1, leaderId=3, fetcherId=2] Error due to (kafka.server.ReplicaFetcherThread)
kafka.common.KafkaException: Connection to 3 was disconnected before the response was read
\tat x.y.Z(Z.java:1)
Caused by: java.lang.OutOfMemoryError: Java heap space
Caused by: java.lang.OutOfMemoryError: Java heap space
";
    let found = read(died.as_bytes(), &matcher);
    let names: Vec<&str> = found.iter().map(|(name, _)| name.as_str()).collect();
    assert_eq!(names, ["thread_died", "out_of_memory"]);
    let thread = found[0].1.thread.as_deref();
    assert_eq!(thread, Some("ReplicaFetcherThread-2-3"));

    // The next line is another event.
    let twice = format!("{disconnect}{disconnect}");
    assert_eq!(names_of(&twice, &matcher), 2);
}

fn names_of(text: &str, matcher: &LogMatcher) -> usize {
    names(text, matcher).len()
}

#[test]
fn threads_are_named_as_in_a_dump() {
    let matcher = LogMatcher::new(&[]).unwrap();
    let table = [
        (
            "[ReplicaFetcherThread-0-3], Error due to  (x)",
            "ReplicaFetcherThread-0-3",
        ),
        (
            "[kafka-log-cleaner-thread-0]: Error due to (x)",
            "kafka-log-cleaner-thread-0",
        ),
        (
            "Uncaught exception in thread 'data-plane-kafka-request-handler-3': (x)",
            "data-plane-kafka-request-handler-3",
        ),
        (
            "Uncaught exception in kafka-network-thread-1-ListenerName(P)-PLAINTEXT-0:  (x)",
            "kafka-network-thread-1-ListenerName(P)-PLAINTEXT-0",
        ),
    ];
    for (line, thread) in table {
        let found = read(format!("ERROR {line}\n").as_bytes(), &matcher);
        assert_eq!(found[0].1.thread.as_deref(), Some(thread), "{line}");
    }
}

#[test]
fn lines_may_come_in_pieces_and_have_any_length_and_bytes() {
    let matcher = LogMatcher::new(&[]).unwrap();
    let mut text = Vec::new();
    text.extend_from_slice(b"half a line of before: Too many open files\n");
    text.extend(std::iter::repeat_n(b'x', 3 * MOST_OF_LINE));
    text.extend_from_slice(b"Too many open files\nERROR Shrinking ISR from 1 to 2\r\n");
    text.extend([0, 0xff, 0xc3, b'\n', 0]);
    text.extend_from_slice(b"ERROR Expanding ISR from 1 to 2\nERROR Shrinking ISR ");
    for size in [1, 2, 7, 1000, text.len()] {
        let (mut reader, mut found) = (LogReader::default(), Vec::new());
        reader.skip_line();
        for piece in text.chunks(size) {
            reader.read(piece, &matcher, &mut |line| {
                found.push(matcher.signature(line.signature).unwrap().0.to_owned());
            });
        }
        // What is too far to the right is not seen, and what has not ended neither.
        assert_eq!(found, ["isr_shrunk", "isr_expanded"], "{size}");
        assert!(reader.line.len() <= MOST_OF_LINE && reader.head.len() <= MOST_OF_HEAD);
    }
}

#[test]
fn patterns_of_the_config_file_are_checked() {
    let long = format!("(a{{100}}){{{}}}", 1000);
    let table = [
        ("ok|fine", None),
        ("(", Some("unclosed group")),
        (r"\p{Greek}", Some("nicode")),
        ("x*", Some("every one")),
        (long.as_str(), Some("too large")),
        (r"a(?=b)", Some("look-around")),
    ];
    for (pattern, expected) in table {
        let error = check_pattern(pattern).err();
        match expected {
            None => assert_eq!(error, None, "{pattern}"),
            Some(part) => {
                let error = error.unwrap();
                assert!(error.contains(part), "{pattern}: {error}");
            }
        }
    }
    let own = |name: &str, pattern: &str| OwnSignature {
        name: name.into(),
        pattern: pattern.into(),
        severity: Severity::Critical,
    };
    let own = [own("mine", "ours (?P<peer>7)"), own("other", "^theirs")];
    let matcher = LogMatcher::new(&own).unwrap();
    let found = read(b"INFO ours 7\ntheirs\n", &matcher);
    let names: Vec<(&str, Option<i32>)> = found
        .iter()
        .map(|(name, found)| (name.as_str(), found.peer))
        .collect();
    assert_eq!(names, [("mine", Some(7)), ("other", None)]);
}
