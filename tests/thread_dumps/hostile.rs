//! Damaged and hostile text: no panic, and time that grows with the length alone.

use std::time::{Duration, Instant};

use kafka_vitals::analyze::dumps::read_all;
use kafka_vitals::parse::thread_dump::{DumpError, decode, parse};
use proptest::prelude::*;

use super::fixture;

#[test]
fn cut_after_any_byte() {
    let complete = fixture("incident/jstack/219.txt");
    let small = fixture("thread-dumps/own/rwlock-cycle-jdk11-l.txt");
    let report = fixture("thread-dumps/own/jhsdb-jdk17.txt");
    for bytes in [
        &complete[..],
        &small[..],
        &report[..2000],
        &fixture("thread-dumps/own/dump_to_file-jdk25.json")[..3000],
    ] {
        for length in 0..bytes.len() {
            read_all(&bytes[..length]);
        }
    }
    for length in 0..small.len() - "JNI global refs: 4, weak refs: 0\n\n".len() {
        let text = decode(&small[..length]);
        if let Ok(dumps) = parse(&text)
            && dumps[0].vm.is_some_and(|vm| vm.ends_with(')'))
        {
            assert!(dumps[0].truncated, "cut after {length} bytes");
        }
    }
    assert!(!parse(&decode(&small)).unwrap()[0].truncated);
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(300) })]

    #[test]
    fn lines_lost_doubled_cut_and_mixed(seed in prop::collection::vec((any::<u16>(), 0u8..6, any::<u16>()), 1..40)) {
        let bytes = fixture("thread-dumps/own/zoo-jdk17-l.txt");
        let mut lines: Vec<Vec<u8>> = bytes.split(|&byte| byte == b'\n').map(<[u8]>::to_vec).collect();
        for (at, what, with) in seed {
            let (at, with) = (usize::from(at) % lines.len(), usize::from(with));
            let other = lines[with % lines.len()].clone();
            let line = &mut lines[at];
            match what {
                0 => line.clear(),
                1 => line.extend(other),
                2 => line.truncate(with % (line.len() + 1)),
                3 => line.insert(with % (line.len() + 1), b"\"<-@\xe2("[with % 6]),
                4 => *line = other,
                _ => lines.swap(at, with % (at + 1)),
            }
        }
        read_all(&lines.join(&b'\n'));
    }

    #[test]
    fn any_bytes(bytes in prop::collection::vec(any::<u8>(), 0..2000)) {
        read_all(&bytes);
    }

    #[test]
    fn any_text_of_the_words_of_dumps(words in prop::collection::vec(prop::sample::select(vec![
        "\"a\"", "\"b\"", ":", "\n", "\n\n", " #1", " prio=5", " tid=0x1", "Full thread dump X VM (17):", "\tat a.b(c)",
        "\t- locked <0x1> (a C)", "\t- waiting to lock <0x1> (a C)", "\t- waiting on <no object reference available>",
        "Found one Java-level deadlock:", "  waiting to lock monitor 0x1 (object 0x1, a C),", "  which is held by \"a\"",
        "  which is held by \"b\"", "Java stack information for the threads listed above:", "Found 1 deadlock.", "JNI global refs: 1",
        "   java.lang.Thread.State: BLOCKED", "\t- waiting on the Class initialization monitor for C", "\tat C.<clinit>(C.java)",
        " Id=5 BLOCKED on C@1 owned by \"a\" Id=6", " id=5 state=BLOCKED", "     owned by a Id=5", " - Thread t@5", " user=\"x\" ",
        "\t waiting for a to release lock on <0x1> (a C)", " on C@1 owned by \"b\"", "\t- waiting to lock <1> (a C) owned by \"a\" t@5",
        "\t- locked on C@1", "&quot;", "&lt;0x1&gt;", "\u{201c}", "\u{201d}", "\u{2013} locked <0x1>", "{\"log\":\"x\\n\"}", " (a",
        "\tat java.lang.Thread.join(T)", "\tat java.lang.ApplicationShutdownHooks.runHooks(A)", "\tat kafka.utils.ShutdownableThread.run(S)",
        "   java.lang.Thread.State: WAITING", "\tat java.util.concurrent.CountDownLatch.await(C)", "# kafka-vitals left out 5 bytes",
        "\u{2022}", "\r", "2026-11-22 14:33:28", "2026-11-22T14:33:28Z", "#3 ", "<0x", "os_prio=1 tid=0x2",
    ]), 0..80)) {
        read_all(words.concat().as_bytes());
    }
}

#[test]
fn no_text_makes_it_slow() {
    // Each of these would take minutes where something is done again for each line, quote or name.
    let megabyte = |piece: &str| piece.repeat(1_000_000 / piece.len());
    let banner = "Full thread dump OpenJDK 64-Bit Server VM (17):\n\n";
    let report = format!("{banner}Found one Java-level deadlock:\n====\n");
    let entry =
        "\"a\":\n  waiting to lock monitor 0x1 (object 0x1, a C),\n  which is held by \"a\"\n";
    let texts = [
        megabyte("\""),
        megabyte("\"\n"),
        megabyte("- "),
        megabyte("\n"),
        megabyte("\u{2022}"),
        banner.to_owned() + &megabyte("\"a\" #1 prio=5 tid=0x1 nid=0x1 runnable\n"),
        banner.to_owned()
            + &megabyte(
                "\"a\" #1 prio=5\n\t- waiting to lock <0x1> (a C)\n\t- locked <0x2> (a C)\n",
            ),
        banner.to_owned() + "\"a\" #1 prio=5 tid=0x1\n" + &megabyte("\t- locked <0x1> (a C)\n"),
        banner.to_owned() + "\"a\" #1 prio=5 tid=0x1\n" + &megabyte(" - "),
        banner.to_owned() + "\"a\" #1 prio=5 tid=0x1\n" + &megabyte("\u{2022}- "),
        banner.to_owned()
            + &megabyte(
                "\"a\" #1 tid=0x1\n\t- waiting on the Class initialization monitor for C\n\tat C.<clinit>(C.java)\n",
            ),
        report.clone() + &megabyte(entry),
        report.clone()
            + &megabyte(entry)
            + "Java stack information for the threads listed above:\n"
            + &megabyte("\"a\":\n\tat b.c(d)\n"),
        megabyte(banner),
        megabyte(&report),
        "x ".to_owned() + banner + &megabyte("x y\n"),
        "{\"threadDump\":".repeat(70_000),
        megabyte("\" java.lang.Thread.State: "),
        megabyte("java.lang.Thread.State:\n(a"),
        "\"a\" #1 java.lang.Thread.State: ".to_owned() + &megabyte(" at a.b(c) \"d"),
        "\"a\" #1 java.lang.Thread.State: ".to_owned() + &megabyte(" \"a\" "),
        "Full thread dump ".to_owned() + &megabyte("&quot;\u{201d}&"),
        megabyte("{\"log\":\"\\n\"}\n"),
        megabyte("\"a\" Id=5 BLOCKED on C@1 owned by \"b\" Id=6\n"),
        megabyte("\"a\" #1 prio=5\n\t- waiting to lock <0x1> (a C)\n owned by \"a\"\n"),
        megabyte("Found one Java-level deadlock:\n"),
        megabyte("which is held by \"a\"\n"),
    ];
    for text in texts {
        let start = Instant::now();
        read_all(text.as_bytes());
        let took = start.elapsed();
        assert!(
            took < Duration::from_secs(20),
            "{took:?} for {:?}...",
            text.get(..80).unwrap_or_default()
        );
    }
}

/// What is kept of a dump is short, however long the names in it are.
#[test]
fn long_names_are_cut() {
    let long = "x".repeat(1 << 20);
    let dump = format!(
        "\"a\" #1 prio=5 tid=0x1\n   java.lang.Thread.State: WAITING\n\tat java.lang.Thread.join(T)\n\
         \tat {long}ShutdownableThread.shutdown({long}/{long})\n\t- locked <0x1> (a {long})\n\n\
         \"b\" #2 prio=5 tid=0x2\n   java.lang.Thread.State: BLOCKED\n\tat kafka.utils.ShutdownableThread.run(S)\n\
         \t- waiting to lock <0x1> (a {long})\n\n\
         \"c\" Id=3 BLOCKED on {long}@9 owned by \"{long}\" Id=4\n\tat {long}.m({long})\n\n"
    );
    let analysis = read_all(dump.as_bytes());
    let found = (analysis.likely_deadlocks.len(), analysis.convoys.len());
    assert_eq!(found, (1, 2));
    let kept = serde_json::to_string(&analysis).unwrap().len();
    assert!(kept < 16 << 10, "{kept}");
}

#[test]
fn a_text_without_a_dump_is_an_error() {
    let javacore = "NULL           ------------------------------------------------------------------------\n\
        0SECTION       TITLE subcomponent dump routine\n1TISIGINFO     Dump Event \"user\" (00004000) received\n\
        3XMTHREADINFO      \"main\" J9VMThread:0x0000000000017200, java/lang/Thread:0x00000000E0000000, state:CW, prio=5\n";
    assert_eq!(parse(javacore), Err(DumpError::OpenJ9));
    assert_eq!(
        parse(javacore).unwrap_err().to_string(),
        "OpenJ9 javacore: not supported"
    );
    assert_eq!(parse("101\n"), Err(DumpError::NoDump));
    assert_eq!(parse(""), Err(DumpError::NoDump));
}
