//! Dumps as they are pasted: with a page's entities and quotes, without line breaks, behind the prefixes of a log; and what
//! is said where a part of them is not understood.

use std::borrow::Cow;

use kafka_vitals::analyze::dumps::{Analysis, read_all};
use kafka_vitals::analyze::report::text;
use kafka_vitals::parse::thread_dump::{DumpError, decode, from_jvm, parse};
use kafka_vitals::threads::wait_graph::WaitGraph;

use super::{deadlocks_of, fixture};

const HANDLER: &str = "\"kafka-request-handler-3\" #30 daemon prio=5 os_prio=0 tid=0x00007f0000000001 nid=0x1e waiting for monitor entry [0x00007f0000001000]\n\
    \x20  java.lang.Thread.State: BLOCKED (on object monitor)\n\
    \tat kafka.coordinator.GroupMetadataManager.putCacheCallback$2(GroupMetadataManager.scala:301)\n\
    \t- waiting to lock <0x00000000000000a1> (a kafka.coordinator.GroupMetadata)\n\
    \tat kafka.server.DelayedOperationPurgatory$Watchers.tryCompleteWatched(DelayedOperation.scala:200)\n\
    \t- locked <0x00000000000000b2> (a java.util.LinkedList)\n\
    \tat java.lang.Thread.run(Thread.java:745)\n\n";

const EXPIRY: &str = "\"group-metadata-manager-0\" #40 daemon prio=5 os_prio=0 tid=0x00007f0000000002 nid=0x28 waiting for monitor entry [0x00007f0000002000]\n\
    \x20  java.lang.Thread.State: BLOCKED (on object monitor)\n\
    \tat kafka.server.DelayedOperationPurgatory$Watchers.tryCompleteWatched(DelayedOperation.scala:199)\n\
    \t- waiting to lock <0x00000000000000b2> (a java.util.LinkedList)\n\
    \tat kafka.coordinator.GroupMetadataManager$$anonfun$cleanupGroupMetadata$1.apply(GroupMetadataManager.scala:640)\n\
    \t- locked <0x00000000000000a1> (a kafka.coordinator.GroupMetadata)\n\
    \tat java.lang.Thread.run(Thread.java:745)\n\n";

const REPORT: &str = "Found one Java-level deadlock:\n=============================\n\
    \"group-metadata-manager-0\":\n\
    \x20 waiting to lock monitor 0x00007f00000000f1 (object 0x00000000000000b2, a java.util.LinkedList),\n\
    \x20 which is held by \"kafka-request-handler-3\"\n\
    \"kafka-request-handler-3\":\n\
    \x20 waiting to lock monitor 0x00007f00000000f2 (object 0x00000000000000a1, a kafka.coordinator.GroupMetadata),\n\
    \x20 which is held by \"group-metadata-manager-0\"\n\n";

const REPORT_END: &str = "Java stack information for the threads listed above:\n====\n\
    \"group-metadata-manager-0\":\n\tat a.B.c(B.java:1)\n\"kafka-request-handler-3\":\n\tat a.B.d(B.java:2)\n\n\
    Found 1 deadlock.\n\n";

/// What is read: the cycle, and what was not understood.
fn read(bytes: &[u8]) -> (Vec<String>, Vec<String>) {
    let text = decode(bytes);
    let dumps = parse(&text).unwrap_or_else(|error| panic!("{error} in {text}"));
    let graphs: Vec<_> = dumps.iter().map(WaitGraph::of).collect();
    let deadlocks = graphs.iter().flat_map(WaitGraph::deadlocks);
    let members = deadlocks.flat_map(|deadlock| deadlock.cycle);
    let mut cycle: Vec<String> = members
        .map(|member| format!("{} wants {}", member.thread, member.wants))
        .collect();
    cycle.sort();
    let not = graphs.iter().flat_map(WaitGraph::not_understood).collect();
    (cycle, not)
}

fn expected() -> (Vec<String>, Vec<String>) {
    let cycle = [
        "group-metadata-manager-0 wants java.util.LinkedList",
        "kafka-request-handler-3 wants kafka.coordinator.GroupMetadata",
    ];
    (cycle.map(str::to_owned).to_vec(), Vec::new())
}

fn entities(text: &str) -> String {
    text.replace('&', "&amp;")
        .replace('"', "&quot;")
        .replace('<', "&lt;")
        .replace('>', "&gt;")
}

/// As a word processor writes quotes and the hyphens of lists.
fn typographic(text: &str) -> String {
    let mut opens = false;
    let quote = |c| {
        if c != '"' {
            return c;
        }
        opens = !opens;
        if opens { '\u{201c}' } else { '\u{201d}' }
    };
    let quoted: String = text.chars().map(quote).collect();
    quoted
        .replace("\t- locked", "\t\u{2013} locked")
        .replace("\t- waiting", "\t\u{2013} waiting")
}

fn one_line(text: &str) -> String {
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}

/// As a mail breaks lines, at blanks.
fn wrapped(text: &str, width: usize) -> String {
    let mut out = String::new();
    for line in text.lines() {
        let mut length = 0;
        for word in line.split(' ') {
            if length > 0 && length + word.len() > width {
                out.push('\n');
                length = 0;
            } else if length > 0 {
                out.push(' ');
            }
            out.push_str(word);
            length += word.len() + 1;
        }
        out.push('\n');
    }
    out
}

fn prefixed(text: &str, prefix: &str) -> String {
    let line = |(number, line): (usize, &str)| {
        format!(
            "{}{line}\n",
            prefix.replace('N', &(10 + number).to_string())
        )
    };
    text.lines().enumerate().map(line).collect()
}

fn docker(text: &str) -> String {
    let line = |line: &str| {
        let log = serde_json::Value::from(format!("{line}\n"));
        format!(
            "{{\"log\":{log},\"stream\":\"stdout\",\"time\":\"2026-11-22T14:33:28.727069993Z\"}}\n"
        )
    };
    text.lines().map(line).collect()
}

#[test]
fn what_pages_mails_and_logs_do_to_a_dump_is_undone() {
    let threads = format!("{HANDLER}{EXPIRY}");
    let bare_report = REPORT.replace(
        "Found one Java-level deadlock:\n=============================\n",
        "",
    );
    let all = format!("{threads}{REPORT}{REPORT_END}");
    for text in [
        &threads,
        &all,
        &format!("{REPORT}{REPORT_END}"),
        &format!("{bare_report}{REPORT_END}"),
    ] {
        let forms = [
            text.clone(),
            entities(text),
            typographic(text),
            one_line(text),
            entities(&one_line(text)),
            wrapped(text, 40),
            wrapped(text, 72),
            docker(text),
        ];
        for form in forms {
            assert_eq!(read(form.as_bytes()), expected(), "{form}");
        }
    }
    for prefix in [
        "2026-11-22T14:33:28.7270699NZ stdout F ",
        "kafka-1  | ",
        "[pod/kafka-0/kafka] ",
        "Nov 22 14:33:N broker-1 kafka[123]: ",
        "[2026-11-22 14:33:28,0N] INFO ",
    ] {
        let form = prefixed(&all, prefix);
        assert_eq!(read(form.as_bytes()), expected(), "{form}");
    }
    // With lines around it that are none of the dump.
    let pasted = format!(
        "Hi,\n\nour broker hangs, see below.\n\n{}\n\nRegards\n",
        one_line(&all)
    );
    assert_eq!(read(pasted.as_bytes()), expected());
}

#[test]
fn a_dump_as_a_jvm_prints_it_is_not_touched() {
    for path in [
        "incident/jstack/219.txt",
        "thread-dumps/own/jhsdb-jdk17.txt",
        "thread-dumps/own/zoo-jdk25-l.txt",
    ] {
        assert!(matches!(decode(&fixture(path)), Cow::Borrowed(_)), "{path}");
    }
    // A JVM's own reply is never touched, whatever the names of its threads are: copies of it have no bound in memory.
    let name = format!(
        "\"java.lang.Thread.State: &quot;{}\" #1 prio=5\n",
        "x\n".repeat(9)
    );
    assert!(matches!(decode(name.as_bytes()), Cow::Owned(_)));
    assert_eq!(from_jvm(name.as_bytes()), Cow::Borrowed(&*name));
    // A page's entities in a log that has no dump.
    let log =
        "[2026-11-22 14:33:28,001] WARN &quot;x&quot; &lt;0x1&gt; (kafka.server.KafkaServer)\n";
    assert!(matches!(decode(log.as_bytes()), Cow::Borrowed(_)));
}

/// What is left of a dump, and what is said of it.
#[test]
fn where_something_was_not_understood_no_deadlock_is_never_said() {
    let dump = |text: &str| read(text.as_bytes()).1;
    let lockless = HANDLER.replace(
        "\t- waiting to lock <0x00000000000000a1> (a kafka.coordinator.GroupMetadata)\n",
        "",
    );
    assert_eq!(
        dump(&lockless),
        ["the lock that kafka-request-handler-3 waits for"]
    );
    let two = format!("{lockless}{}", lockless.replace("handler-3", "handler-4"));
    assert_eq!(
        dump(&two),
        ["the locks that kafka-request-handler-3, kafka-request-handler-4 wait for"]
    );
    let cut = HANDLER.replace(
        "<0x00000000000000a1> (a kafka.coordinator.GroupMetadata)",
        "<0x0000",
    );
    assert_eq!(
        dump(&cut),
        [
            "the lock that kafka-request-handler-3 waits for",
            "the line `- waiting to lock <0x0000`"
        ]
    );
    let unnamed = HANDLER.replace("\"kafka-request-handler-3\"", "kafka-request-handler-3");
    assert_eq!(dump(&format!("{EXPIRY}{unnamed}")), ["1 BLOCKED thread"]);
    let sentence = format!("{HANDLER}Found one Java-level deadlock:\n=====\n\nFound 1 deadlock.\n");
    assert_eq!(dump(&sentence), ["1 deadlock that the JVM reports"]);
    assert_eq!(
        dump(&format!("{HANDLER}Found 2 deadlocks.\n")),
        ["2 deadlocks that the JVM reports"]
    );
    let holders = format!(
        "{HANDLER}  waiting to lock monitor 0x1 (object 0x2, a C),\n  which is held by \"x\"\n"
    );
    assert_eq!(
        dump(&holders),
        ["1 line `which is held by` of the JVM's deadlock report"]
    );
    let dead_owner = "Found one Java-level deadlock:\n=====\n\"u\":\n  waiting to lock monitor 0x1 (object 0xc, a C),\n  which is held by UNKNOWN_owner_addr=0x7f\n\nFound 1 deadlock.\n";
    assert_eq!(
        dump(dead_owner),
        ["the deadlock of u that the JVM reports: no cycle is in the text"]
    );
    let banner = "Full thread dump OpenJDK 64-Bit Server VM (17.0.15+6 mixed mode):\n\n";
    assert_eq!(
        dump(&format!("{banner}{EXPIRY}")),
        ["the end, which is cut off"]
    );
    // Two dumps: each has its own.
    let end = "JNI global refs: 4, weak refs: 0\n\n";
    let both = format!("{banner}{EXPIRY}{unnamed}{end}{banner}{HANDLER}{end}");
    let dumps = parse(&both).unwrap();
    let not: Vec<_> = dumps
        .iter()
        .map(|dump| WaitGraph::of(dump).not_understood())
        .collect();
    assert_eq!(not, [vec!["1 BLOCKED thread".to_owned()], vec![]]);
    // A form without locks.
    let file = "7371\n2026-11-22T14:33:35.089380400Z\n21.0.8+9-LTS\n\n#9 \"a\"\n      java.base/java.lang.ref.Reference.run(Unknown Source)\n";
    assert_eq!(
        dump(file),
        ["the locks: Thread.dump_to_file prints them from JDK 25 on"]
    );
    // No thread at all: a debugger that could not attach, and `jstack -F` of JDK 8.
    let attaches = "Attaching to process ID 4711, please wait...\n";
    for rest in [
        "Error attaching to process: sun.jvm.hotspot.debugger.DebuggerException: Can't attach to the process\n",
        "Debugger attached successfully.\nServer compiler detected.\nJVM version is 25.362-b09\nDeadlock Detection:\n\n\
         No deadlocks found.\n\nThread 4712: (state = BLOCKED)\n - java.lang.Object.wait(long) @bci=0 (Compiled frame)\n",
    ] {
        let text = format!("{attaches}{rest}");
        assert_eq!(dump(&text), ["the threads: none was read"], "{text}");
    }
    let error = parse(&unnamed).unwrap_err();
    assert!(matches!(error, DumpError::NoThread(_)));
    assert_eq!(
        error.to_string(),
        "parts of a thread dump, of which no thread was read: 1 BLOCKED thread"
    );
}

#[test]
fn the_answer_says_what_was_not_understood() {
    let mut analysis = Analysis::default();
    let lockless = HANDLER.replace(
        "\t- waiting to lock <0x00000000000000a1> (a kafka.coordinator.GroupMetadata)\n",
        "",
    );
    for dump in parse(&lockless).unwrap() {
        analysis.add("a.txt", &dump);
    }
    for dump in parse(EXPIRY).unwrap() {
        analysis.add("b.txt", &dump);
    }
    let banner = "Full thread dump OpenJDK 64-Bit Server VM (17.0.15+6 mixed mode):\n\n";
    for dump in parse(&format!(
        "{banner}{EXPIRY}JNI global refs: 4, weak refs: 0\n"
    ))
    .unwrap()
    {
        analysis.add("d.txt", &dump);
    }
    let DumpError::NoThread(unread) = parse(&HANDLER.replace('"', "")).unwrap_err() else {
        panic!()
    };
    analysis.add_unread("c.txt", unread);
    assert_eq!(
        text(&analysis),
        "a.txt: 1 threads\nWhether there is a deadlock is not known.\n\
         Not understood: the lock that kafka-request-handler-3 waits for\n\
         Not understood: whether it has all threads: it does not begin as a whole dump does\n\n\
         b.txt: 1 threads\nWhether there is a deadlock is not known.\n\
         Not understood: whether it has all threads: it does not begin as a whole dump does\n\n\
         d.txt: 1 threads, OpenJDK 64-Bit Server VM (17.0.15+6 mixed mode)\nNo deadlock.\n\n\
         c.txt: parts of a thread dump, no thread was read\nWhether there is a deadlock is not known.\n\
         Not understood: 1 BLOCKED thread\n\n"
    );
}

/// A JVM that was asked at a quiet moment prints nothing that is not understood.
#[test]
fn dumps_of_brokers_at_rest_are_understood_whole() {
    let folder = format!(
        "{}/tests/fixtures/thread_dumps/at_rest",
        env!("CARGO_MANIFEST_DIR")
    );
    let mut tried = 0;
    for file in std::fs::read_dir(folder).unwrap() {
        let analysis = read_all(&std::fs::read(file.unwrap().path()).unwrap());
        assert!(!analysis.dumps.is_empty());
        for dump in &analysis.dumps {
            assert_eq!(dump.not_understood, Vec::<String>::new());
        }
        assert_eq!(analysis.likely_deadlocks, []);
        tried += 1;
    }
    assert_eq!(tried, 7);
    for path in ["incident/jstack/219.txt"] {
        let text = fixture(path);
        let dumps = parse(std::str::from_utf8(&text).unwrap()).unwrap();
        for dump in &dumps {
            assert_eq!(
                WaitGraph::of(dump).not_understood(),
                Vec::<String>::new(),
                "{path}"
            );
        }
    }
    assert_eq!(deadlocks_of(&fixture("incident/jstack/219.txt")).len(), 1);
}
