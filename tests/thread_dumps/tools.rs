//! The forms of tools that read threads through JMX or a debugger: who wants what, and who holds it.

use kafka_vitals::parse::thread_dump::{decode, parse};
use kafka_vitals::threads::wait_graph::WaitGraph;

/// The members of the deadlocks, `a wants C of b`, and how many threads were read.
fn read(text: &str) -> (Vec<String>, usize) {
    let text = decode(text.as_bytes());
    let dumps = parse(&text).unwrap();
    let mut waits = Vec::new();
    for dump in &dumps {
        let graph = WaitGraph::of(dump);
        assert_eq!(graph.not_understood(), Vec::<String>::new(), "{text}");
        let deadlocks = graph.deadlocks();
        let members = deadlocks.iter().flat_map(|deadlock| &deadlock.cycle);
        waits.extend(members.map(|t| format!("{} wants {} of {}", t.thread, t.wants, t.held_by)));
    }
    (waits, dumps.iter().map(|dump| dump.threads.len()).sum())
}

fn pair(a: &str, b: &str) -> Vec<String> {
    vec![
        format!("{a} wants x.C of {b}"),
        format!("{b} wants x.D of {a}"),
    ]
}

/// `ThreadInfo.toString()`, with and without the locks of the frames, which only some callers ask for.
#[test]
fn jmx() {
    let with_locks = "\"a\" daemon prio=5 Id=56 BLOCKED on x.C@39 owned by \"b\" Id=59\n\
        \tat x.A.first(A.java:1)\n\t-  blocked on x.C@39\n\tat x.A.second(A.java:2)\n\t-  locked x.D@40\n\n\
        \"b\" prio=5 Id=59 BLOCKED on x.D@40 owned by \"a\" Id=56 (suspended)\n\
        \tat x.B.first(B.java:1)\n\t-  blocked on x.D@40\n\t-  locked x.C@39\n\t...\n\n\
        \tNumber of locked synchronizers = 1\n\t- java.util.concurrent.locks.ReentrantLock$NonfairSync@41\n\n";
    assert_eq!(read(with_locks), (pair("a", "b"), 2));
    let without: String = with_locks
        .lines()
        .filter(|line| !line.contains("-  "))
        .map(|line| format!("{line}\n"))
        .collect();
    assert_eq!(read(&without), (pair("a", "b"), 2));
    // The number chooses between threads of one name.
    let same_name = "\"p\" Id=1 RUNNABLE\n\tat x.A.b(A.java:1)\n\n\
        \"p\" Id=2 BLOCKED on x.C@39 owned by \"p\" Id=3\n\tat x.A.b(A.java:1)\n\n\
        \"p\" Id=3 BLOCKED on x.C@40 owned by \"p\" Id=2\n\tat x.A.b(A.java:1)\n\n";
    assert_eq!(read(same_name), (vec!["p wants x.C of p".to_owned(); 2], 3));
    // A lock of java.util.concurrent; `waiting on` is no wait for a notification here.
    let parked = "\"a\" Id=1 WAITING on java.util.concurrent.locks.ReentrantLock$NonfairSync@39 owned by \"b\" Id=2\n\
        \tat x.A.b(A.java:1)\n\t-  waiting on java.util.concurrent.locks.ReentrantLock$NonfairSync@39\n\t-  locked x.C@40\n\n\
        \"b\" Id=2 BLOCKED on x.C@40 owned by \"a\" Id=1\n\tat x.A.b(A.java:1)\n\t-  blocked on x.C@40\n\n\
        \tNumber of locked synchronizers = 1\n\t- java.util.concurrent.locks.ReentrantLock$NonfairSync@39\n\n";
    let lock = "java.util.concurrent.locks.ReentrantLock$NonfairSync";
    let expected = vec![
        format!("a wants {lock} of b"),
        "b wants x.C of a".to_owned(),
    ];
    assert_eq!(read(parked), (expected, 2));
    // It waits for a notification, and somebody holds the monitor meanwhile: no edge.
    let notified = "\"a\" Id=1 WAITING on x.C@39 owned by \"b\" Id=2\n\tat java.lang.Object.wait(Native Method)\n\t-  waiting on x.C@39\n\
        \tat x.A.b(A.java:1)\n\t-  locked x.D@40\n\n\
        \"b\" Id=2 BLOCKED on x.D@40 owned by \"a\" Id=1\n\tat x.A.b(A.java:1)\n\t-  blocked on x.D@40\n\t-  locked x.C@39\n\n";
    assert_eq!(read(notified), (vec![], 2));
}

/// The JDK's example `FullThreadDump`, Dropwizard's `/threads`.
#[test]
fn jmx_in_words_of_other_tools() {
    let example = "\"a\" Id=5 in BLOCKED on lock=x.C@39\n     owned by b Id=7\n    at x.A.b(A.java:1)\n      - locked x.D@40\n\n\
        \"b\" Id=7 in BLOCKED on lock=x.D@40\n     owned by a Id=5\n    at x.A.b(A.java:1)\n      - locked x.C@39\n\n";
    assert_eq!(read(example), (pair("a", "b"), 2));
    let dropwizard = "\"a\" id=5 state=BLOCKED\n    - waiting to lock <0x00000039> (a x.C)\n     owned by b id=7\n    at x.A.b(A.java:1)\n\n\
        \"b\" id=7 state=BLOCKED\n    - waiting to lock <0x00000040> (a x.D)\n     owned by a id=5\n    at x.A.b(A.java:1)\n\n";
    assert_eq!(read(dropwizard), (pair("a", "b"), 2));
}

/// VisualVM, and the plain text of Spring's `/actuator/threaddump`.
#[test]
fn visualvm() {
    let text = "\"a\" - Thread t@56\n   java.lang.Thread.State: BLOCKED\n\tat x.A.b(A.java:1)\n\
        \t- waiting to lock <39> (a x.C) owned by \"b\" t@59\n\tat x.A.c(A.java:2)\n\t- locked <40> (a x.D)\n\n\
        \x20  Locked ownable synchronizers:\n\t- None\n\n\
        \"b\" - Thread t@59\n   java.lang.Thread.State: BLOCKED\n\tat x.A.b(A.java:1)\n\
        \t- waiting to lock <40> (a x.D) owned by \"a\" t@56\n\n   Locked ownable synchronizers:\n\t- None\n\n";
    assert_eq!(read(text), (pair("a", "b"), 2));
    // A parked thread is printed in the same words.
    let lock = "java.util.concurrent.locks.ReentrantLock$NonfairSync";
    let parked = format!(
        "\"a\" - Thread t@1\n   java.lang.Thread.State: WAITING\n\tat jdk.internal.misc.Unsafe.park(Native Method)\n\
         \t- waiting to lock <5f> (a {lock}) owned by \"b\" t@2\n\n   Locked ownable synchronizers:\n\t- <60> (a {lock})\n\n\
         \"b\" - Thread t@2\n   java.lang.Thread.State: WAITING\n\tat jdk.internal.misc.Unsafe.park(Native Method)\n\
         \t- waiting to lock <60> (a {lock}) owned by \"a\" t@1\n\n   Locked ownable synchronizers:\n\t- <5f> (a {lock})\n\n"
    );
    let expected = vec![
        format!("a wants {lock} of b"),
        format!("b wants {lock} of a"),
    ];
    assert_eq!(read(&parked), (expected, 2));
}

/// What JConsole shows of a thread, copied from one after the other.
#[test]
fn jconsole() {
    let text = "Name: a\nState: BLOCKED on x.C@39 owned by: b\nTotal blocked: 1  Total waited: 0\n\nStack trace: \n\
        x.A.first(A.java:1)\n   - locked x.D@40\nx.A.second(A.java:2)\n\n\n\
        Name: b\nState: BLOCKED on x.D@40 owned by: a\nTotal blocked: 2  Total waited: 1\n\nStack trace: \n\
        x.B.first(B.java:1)\n   - locked x.C@39\njava.lang.Thread.run(Thread.java:748)\n\n\
        Name: c\nState: RUNNABLE\nTotal blocked: 0  Total waited: 0\n\nStack trace: \nx.E.f(E.java:3)\n";
    assert_eq!(read(text), (pair("a", "b"), 3));
    // One of which only the first lines were copied takes nothing from the next one.
    let part = format!("Name: d\nState: RUNNABLE\nTotal blocked: 0  Total waited: 0\n\n{text}");
    assert_eq!(read(&part), (pair("a", "b"), 4));
}

#[test]
fn intellij() {
    // The debugger.
    let debugger = "\"a@1\" prio=5 tid=0x11 nid=NA waiting for monitor entry\n  java.lang.Thread.State: BLOCKED\n\
        \t blocks b@2\n\t waiting for b@2 to release lock on <0x11> (a x.C)\n\t  at x.A.b(A.java:1)\n\t  - locked <0x12> (a x.D)\n\n\
        \"b@2\" prio=5 tid=0x12 nid=NA waiting for monitor entry\n  java.lang.Thread.State: BLOCKED\n\
        \t blocks a@1\n\t waiting for a@1 to release lock on <0x12> (a x.D)\n\t  at x.A.b(A.java:1)\n\n";
    assert_eq!(read(debugger), (pair("a@1", "b@2"), 2));
    // The dumps of the program itself.
    let of_itself = "\"a\" prio=0 tid=0x0 nid=0x0 blocked\n     java.lang.Thread.State: BLOCKED\n on x.C@39 owned by \"b\" Id=59\n\tat x.A.b(A.java:1)\n\n\
        \"b\" prio=0 tid=0x0 nid=0x0 blocked\n     java.lang.Thread.State: BLOCKED\n on x.D@40 owned by \"a\" Id=56\n\tat x.A.b(A.java:1)\n\n";
    assert_eq!(read(of_itself), (pair("a", "b"), 2));
}

/// As monitoring agents print them.
#[test]
fn class_and_hash_without_brackets() {
    let text = "\"a\" #56\n   java.lang.Thread.State: BLOCKED\n        at x.A.b(A.java:221)\n        - waiting to lock x.C@39fa\n\
        \x20       at x.A.c(A.java:270)\n        - locked on x.D@1948\n\n\
        \"b\" #59\n   java.lang.Thread.State: BLOCKED\n        at x.A.b(A.java:221)\n        - waiting to lock x.D@1948\n\
        \x20       at x.A.c(A.java:270)\n        - locked on x.C@39fa\n\n";
    assert_eq!(read(text), (pair("a", "b"), 2));
}

/// SAP's JVM prints more fields, some of them in quotes.
#[test]
fn fields_after_the_name() {
    let text = "\"a \"q\" b\" cpu=1.00 [reset 1.00] ms elapsed=2.00 s prio=5 tid=0x00007f0000000001 nid=0x1e runnable\n\tat x.A.b(A.java:1)\n\n\
        \"a\" cpu=1.50 [reset 1.00] ms elapsed=2.00 s user=\"A\" application=\"x\" tid=0x00007f0000000001 nid=0x1f runnable\n\tat x.A.b(A.java:1)\n\n";
    let dumps = parse(text).unwrap();
    let headers: Vec<_> = dumps[0]
        .threads
        .iter()
        .map(|thread| (thread.name, thread.header().cpu_ms, thread.header().nid))
        .collect();
    assert_eq!(
        headers,
        [
            ("a \"q\" b", Some(1.0), Some(0x1e)),
            ("a", Some(1.5), Some(0x1f))
        ]
    );
}
