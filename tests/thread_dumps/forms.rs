//! The forms of a dump, line by line as JVMs print them; the values were read off the lines by eye.

use kafka_vitals::parse::thread_dump::{LockKind, State, ThreadDump, decode, parse};
use kafka_vitals::threads::wait_graph::WaitGraph;

const BANNER: &str = "Full thread dump OpenJDK 64-Bit Server VM (17.0.15+6-Debian-1deb12u1 mixed mode, sharing):\n\n";

fn dump(threads: &str) -> ThreadDump<'_> {
    parse(threads).unwrap().remove(0)
}

#[test]
fn headers_of_every_jdk() {
    // Name, number, nid and CPU time in milliseconds.
    type Expected = (&'static str, Option<u64>, Option<u64>, Option<f64>);
    let table: [(&str, Expected); 10] = [
        (
            r#""data-plane-kafka-request-handler-0" #12 daemon prio=5 os_prio=0 cpu=0.71ms elapsed=2.29s tid=0x00007ff5b00bdab0 nid=0x1b7f waiting on condition  [0x00007ff589ffd000]"#,
            (
                "data-plane-kafka-request-handler-0",
                Some(12),
                Some(0x1b7f),
                Some(0.71),
            ),
        ),
        // 25 with -e: the kernel's id in brackets, nid decimal; a locale's decimal comma.
        (
            r#""main" #3 [7705] prio=5 os_prio=0 cpu=387,10ms elapsed=82679,68s allocated=1479K defined_classes=92 tid=0x00007fa12002a8f0 nid=7705 in Object.wait()  [0x00007fa127ffe000]"#,
            ("main", Some(3), Some(7705), Some(387.10)),
        ),
        // A carrier of JDK 25 has no nid, a thread of the JVM itself no number.
        (
            r#""ForkJoinPool-1-worker-1" #65 [62471] daemon prio=5 os_prio=31 cpu=305.89ms elapsed=15.79s tid=0x000000013e056a00  [0x0000000174151000]"#,
            ("ForkJoinPool-1-worker-1", Some(65), None, Some(305.89)),
        ),
        (
            r#""GC Thread#0" os_prio=0 cpu=0.10ms elapsed=2.41s tid=0x00007ff5b0038a90 nid=0x1bb9 runnable  "#,
            ("GC Thread#0", None, Some(0x1bb9), Some(0.10)),
        ),
        // HP's JDK 5, VisualVM, JMX.
        (
            r#""w13 [container1-361]" prio=10 tid=60000000044e3840 nid=1194 lwp_id=9992026 runnable [9fffffffb6f00000..9fffffffb6f00a40]"#,
            ("w13 [container1-361]", None, Some(1194), None),
        ),
        (
            r#""Timer-180" - Thread t@332"#,
            ("Timer-180", Some(332), None, None),
        ),
        (
            r#""RMI TCP Connection(23)-127.0.1.1" id=3149 in RUNNABLE (running in native)"#,
            ("RMI TCP Connection(23)-127.0.1.1", Some(3149), None, None),
        ),
        // Names that look like attributes, with quotes, empty.
        (
            r#""a "quoted", #7 prio=9 | [x]" #8 prio=5 tid=0x1 nid=0x2 runnable"#,
            (r#"a "quoted", #7 prio=9 | [x]"#, Some(8), Some(2), None),
        ),
        (
            r#""" #8 prio=5 tid=0x1 nid=0x2 runnable"#,
            ("", Some(8), Some(2), None),
        ),
        (
            "\"h\u{e9}l\u{e8}ne-\u{1f600}\" #8 prio=5 tid=0x1",
            ("h\u{e9}l\u{e8}ne-\u{1f600}", Some(8), None, None),
        ),
    ];
    for (line, expected) in table {
        let text = format!("{line}\n");
        let thread = dump(&text).threads[0];
        let header = thread.header();
        assert_eq!(
            (thread.name, header.number, header.nid, header.cpu_ms),
            expected,
            "{line}"
        );
    }
}

#[test]
fn states() {
    let state = |text: &str| dump(text).threads[0].state();
    assert_eq!(
        state("\"a\" #1 prio=5\n   java.lang.Thread.State: TIMED_WAITING (sleeping)\n"),
        Some(State::TimedWaiting)
    );
    assert_eq!(
        state("\"a\" id=3149 in RUNNABLE (running in native)\n"),
        Some(State::Runnable)
    );
    assert_eq!(
        state("#341 \"virt-1\" virtual BLOCKED 2026-11-22T14:33:40.735096668Z\n"),
        Some(State::Blocked)
    );
    assert_eq!(
        state("\"VM Thread\" os_prio=0 tid=0x1 nid=0x2 runnable\n"),
        None
    );
}

#[test]
fn frames_and_locks() {
    let text = "\"a\" #1 prio=5 tid=0x1\n   java.lang.Thread.State: BLOCKED (on object monitor)\n\
        \tat app//kafka.server.KafkaApis.handle(KafkaApis.scala:93)\n\
        \t- waiting to lock <0x00000000ffd1e738> (a java.lang.Class for kafka.Kafka$)\n\
        \t- eliminated <owner is scalar replaced> (a A)\n\t- eliminated <0x00000000000000e1> (a B)\n\
        \tat Load$$Lambda$2/0x00007ff53c000c30.run(Unknown Source)\n\t- locked <0x00000000ffd1e740> (a [Ljava.lang.Object;)\n\
        \tat java.lang.Object.wait(java.base@17.0.15/Native Method)\n\t- waiting on <no object reference available>\n\
        \t- parking to wait for  <0x000000000000000c> (a C)\n\t- waiting to re-lock in wait() <0x000000000000000d> (a D)\n\
        \t- waiting on the Class initialization monitor for Load$CB\n\n\
        \x20  Locked ownable synchronizers:\n\t- <0x00000000ffd5e0b8> (a E)\n\n";
    let thread = dump(text).threads[0];
    let frames: Vec<_> = thread
        .frames()
        .map(|frame| (frame.class_method, frame.location))
        .collect();
    assert_eq!(
        frames,
        [
            ("kafka.server.KafkaApis.handle", "KafkaApis.scala:93"),
            ("Load$$Lambda$2/0x00007ff53c000c30.run", "Unknown Source"),
            ("java.lang.Object.wait", "java.base@17.0.15/Native Method"),
        ]
    );
    let locks: Vec<_> = thread
        .locks()
        .map(|lock| (lock.kind, lock.address, lock.class))
        .collect();
    assert_eq!(
        locks,
        [
            (
                LockKind::WaitingToLock,
                Some(0xffd1_e738),
                "java.lang.Class for kafka.Kafka$"
            ),
            (LockKind::Eliminated, None, "A"),
            (LockKind::Eliminated, Some(0xe1), "B"),
            (LockKind::Locked, Some(0xffd1_e740), "[Ljava.lang.Object;"),
            (LockKind::WaitingOn, None, ""),
            (LockKind::ParkingToWaitFor, Some(0xc), "C"),
            (LockKind::WaitingToRelock, Some(0xd), "D"),
            (LockKind::ClassInit, None, "Load$CB"),
            (LockKind::OwnedSynchronizer, Some(0xffd5_e0b8), "E"),
        ]
    );
}

#[test]
fn frames_of_the_debugger_and_of_dump_to_file() {
    let text = "\"a\" #1 prio=5 tid=0x1\n - java.util.concurrent.locks.LockSupport.park(java.lang.Object) @bci=14, line=211 (Compiled frame)\n\
        \t- waiting to lock <0x00000000ffd9c5d8> (a java.lang.Object)\n";
    let thread = dump(text).threads[0];
    let frame = thread.frames().next().unwrap();
    assert_eq!(
        frame.class_method,
        "java.util.concurrent.locks.LockSupport.park"
    );
    assert_eq!(frame.location, "@bci=14, line=211 (Compiled frame)");
    assert_eq!(thread.locks().count(), 1);
    let text = "7371\n2026-11-22T14:33:35.089380400Z\n21.0.8+9-LTS\n\n#9 \"Reference Handler\"\n      java.base/java.lang.ref.Reference.run(Unknown Source)\n";
    let dumps = parse(text).unwrap();
    assert_eq!(
        (dumps[0].time, dumps[0].vm),
        (Some("2026-11-22T14:33:35.089380400Z"), Some("21.0.8+9-LTS"))
    );
    let frame = dumps[0].threads[0].frames().next().unwrap();
    assert_eq!(
        (frame.class_method, frame.location),
        ("java.lang.ref.Reference.run", "Unknown Source")
    );
}

#[test]
fn encodings_and_wrappings() {
    let text = format!(
        "2026-11-22 14:33:28\n{BANNER}\"m\u{e9}\" #1 prio=5 tid=0x1\n\tat a.b(c)\n\nJNI global refs: 4, weak refs: 0\n\n"
    );
    let expected = parse(&text).unwrap();
    assert_eq!(
        (expected[0].time, expected[0].truncated),
        (Some("2026-11-22 14:33:28"), false)
    );
    let little: Vec<u8> = text.encode_utf16().flat_map(u16::to_le_bytes).collect();
    let big: Vec<u8> = text.encode_utf16().flat_map(u16::to_be_bytes).collect();
    let marked = |mark: &[u8], bytes: &[u8]| [mark, bytes].concat();
    let forms = [
        text.clone().into_bytes(),
        marked(b"\xef\xbb\xbf", text.as_bytes()),
        marked(b"\xff\xfe", &little),
        marked(b"\xfe\xff", &big),
        little,
        big,
        prefixed(&text, |n| format!("2026-11-22T14:33:28.{n}Z stdout F ")),
        prefixed(&text, |n| {
            format!("Nov 22 14:33:{} broker-1 kafka[123]: ", n % 60)
        }),
    ];
    for bytes in &forms {
        assert_eq!(
            parse(&decode(bytes)).unwrap(),
            expected,
            "{}",
            String::from_utf8_lossy(&bytes[..60])
        );
    }
    // CRLF: the same threads and frames; a pasted page: bullets and lost indents.
    for text in [
        text.replace('\n', "\r\n"),
        text.replace("\n\tat", "\n\u{2022} at"),
    ] {
        let dumps = parse(&text).unwrap();
        assert_eq!(dumps[0].threads[0].header().number, Some(1));
        assert_eq!(dumps[0].threads[0].frames().next().unwrap().location, "c");
        assert!(!dumps[0].truncated && dumps[0].vm == expected[0].vm);
    }
    // Not UTF-8: the rest is read all the same.
    let damaged = [
        b"\"m\xe9\" #1 prio=5 tid=0x1\n".as_slice(),
        b"\tat a.\xff(c)\n",
    ]
    .concat();
    assert_eq!(
        parse(&decode(&damaged)).unwrap()[0].threads[0].name,
        "m\u{fffd}"
    );
    // A log line that the banner was printed into is no prefix.
    assert!(decode(format!("some log {text}").as_bytes()).contains("\n\tat a.b(c)\n"));
}

fn prefixed(text: &str, prefix: impl Fn(usize) -> String) -> Vec<u8> {
    text.split_inclusive('\n')
        .enumerate()
        .map(|(number, line)| prefix(number) + line)
        .collect::<String>()
        .into_bytes()
}

#[test]
fn several_dumps_among_log_lines() {
    let text = format!(
        "[2026-11-22 14:33:00,123] INFO \"quoted\" started (kafka.server.KafkaServer)\n\
        java.io.IOException: x\n\tat kafka.Log.append(Log.scala:1)\n\
        2026-11-22 14:33:28\n{BANNER}\"a\" #1 prio=5 tid=0x1\n\tat a.b(c)\n\nJNI global refs: 4, weak refs: 0\n\nHeap\n garbage-first heap   total 65536K\n\n\
        [2026-11-22 14:34:00,123] ERROR \"more\" (kafka)\n\tat kafka.Log.read(Log.scala:2)\n\
        2026-11-22 14:35:28\n{BANNER}\"b\" #1 prio=5 tid=0x1\n\tat b.b(c)\n\n\"c\" #2 prio=5 ti"
    );
    let dumps = parse(&text).unwrap();
    let found: Vec<_> = dumps
        .iter()
        .map(|dump| (dump.time.unwrap(), dump.threads.len(), dump.truncated))
        .collect();
    assert_eq!(
        found,
        [
            ("2026-11-22 14:33:28", 1, false),
            ("2026-11-22 14:35:28", 2, true)
        ]
    );
    let frames: Vec<_> = dumps
        .iter()
        .flat_map(|dump| &dump.threads)
        .flat_map(|t| t.frames())
        .map(|f| f.class_method)
        .collect();
    assert_eq!(frames, ["a.b", "b.b"]);
    let banner_alone = parse(BANNER).unwrap();
    assert_eq!(
        (
            banner_alone.len(),
            banner_alone[0].threads.len(),
            banner_alone[0].truncated
        ),
        (1, 0, true)
    );
}

#[test]
fn owners_that_the_report_cannot_name_and_threads_of_one_name() {
    let text = "Found one Java-level deadlock:\n=============================\n\"t\":\n  waiting for ownable synchronizer 0x000000000000000a, (a java.util.concurrent.locks.ReentrantLock$NonfairSync),\n  which is held by \"t\"\n\n\"t\":\n  waiting to lock monitor 0x0000000000000001 (object 0x000000000000000b, a java.lang.Object)\n  in JNI, which is held by \"t\"\n\nJava stack information for the threads listed above:\n===================================================\n\"t\":\n\tat a.first(A.java:1)\n\"t\":\n\tat a.second(A.java:2)\n\nFound 1 deadlock.\n\nFound one Java-level deadlock:\n=============================\n\"u\":\n  waiting to lock monitor 0x0000000000000001 (object 0x000000000000000c, a java.lang.Object),\n  which is held by UNKNOWN_owner_addr=0x00007f0000000000\n\nFound 1 deadlock.\n";
    let dumps = parse(text).unwrap();
    let [pair, alone] = dumps[0].reported.as_slice() else {
        panic!("{:?}", dumps[0].reported)
    };
    let kinds: Vec<_> = pair
        .iter()
        .map(|t| t.wants.map(|lock| (lock.kind, lock.address, t.held_by)))
        .collect();
    assert_eq!(
        kinds,
        [
            Some((LockKind::ParkingToWaitFor, Some(0xa), Some("t"))),
            Some((LockKind::WaitingToLock, Some(0xb), Some("t"))),
        ]
    );
    assert_eq!(alone[0].held_by, None);
    let deadlocks = WaitGraph::of(&dumps[0]).deadlocks();
    let tops: Vec<&str> = deadlocks[0]
        .cycle
        .iter()
        .map(|thread| thread.frames[0].as_str())
        .collect();
    assert_eq!(
        (deadlocks.len(), tops),
        (1, vec!["a.first(A.java:1)", "a.second(A.java:2)"])
    );
}

/// For a thread that was notified and wants its monitor back, JDK 8 prints `waiting on`, later ones `waiting to re-lock`.
#[test]
fn a_monitor_wanted_back_after_a_wait() {
    for words in ["waiting on", "waiting to re-lock in wait()"] {
        for (state, deadlocked) in [
            ("BLOCKED (on object monitor)", true),
            ("WAITING (on object monitor)", false),
        ] {
            let text = format!(
                "\"a\" #1 prio=5 tid=0x1\n   java.lang.Thread.State: {state}\n\tat java.lang.Object.wait(Native Method)\n\t- {words} <0xa> (a X)\n\
                \tat a.b(c)\n\t- locked <0xa> (a X)\n\t- locked <0xb> (a Y)\n\n\
                \"b\" #2 prio=5 tid=0x2\n   java.lang.Thread.State: BLOCKED (on object monitor)\n\tat a.b(c)\n\t- waiting to lock <0xb> (a Y)\n\
                \tat a.b(c)\n\t- locked <0xa> (a X)\n\n"
            );
            let deadlocks = WaitGraph::of(&dump(&text)).deadlocks();
            assert_eq!(!deadlocks.is_empty(), deadlocked, "{words} {state}");
        }
    }
}
