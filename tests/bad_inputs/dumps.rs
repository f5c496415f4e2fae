//! JVMs that give no dump, and answers that are no dump.

use std::io::{Read as _, Write as _};
use std::os::unix::net::UnixListener;
use std::sync::Arc;
use std::time::Duration;

use kafka_vitals::collect::jvm_dumper::{JvmDumper, RawDump};
use kafka_vitals::collect::threads::{ThreadHistory, report};
use kafka_vitals::evidence::bundle::cut_dump;
use kafka_vitals::model::{Broker, ProcessKey};
use kafka_vitals::model::{Failure, Moment, ThreadReport};
use kafka_vitals::parse::thread_dump::parse;
use kafka_vitals::sys::proc::ProcRoot;

use crate::memory::{deadlocked, long_frames};
use crate::{Cases, EXE};

#[test]
fn texts() {
    let none = "the JVM's answer is no thread dump: no thread dump in this text: take one with `jstack PID` or `jcmd PID Thread.print`";
    let javacore = b"0SECTION       TITLE subcomponent dump routine\nNULL           ===============================\n1TICHARSET     UTF-8\n".to_vec();
    let cases: Vec<(&str, Vec<u8>, &str)> = vec![
        ("empty", vec![], none),
        ("blanks", b" \n\r\n\t\n".to_vec(), none),
        ("garbage", (0..=255).cycle().take(100_000).collect(), none),
        ("cut UTF-8", b"\xe2\x82".to_vec(), none),
        ("HTML", b"<html><body>404</body></html>".to_vec(), none),
        (
            "an error of the JVM",
            b"java.io.IOException: Too many open files\n".to_vec(),
            none,
        ),
        (
            "OpenJ9 javacore",
            javacore,
            "the JVM's answer is no thread dump: OpenJ9 javacore: not supported",
        ),
    ];
    let mut checked = Cases::default();
    for (name, bytes, golden) in &cases {
        let dump = RawDump {
            bytes: bytes.clone(),
            duration: Duration::ZERO,
            pause: None,
            paused: None,
            ..RawDump::default()
        };
        checked.check(
            name,
            golden,
            &report(&dump, &mut ThreadHistory::default(), None, Moment(0))
                .unwrap_err()
                .message,
        );
    }
    checked.finish(7, cases.len());
}

/// A bundle keeps 4 MiB of a dump: whole threads, and the JVM's report of deadlocks at its end.
#[test]
fn a_huge_dump_is_cut_between_threads_for_a_bundle() {
    const REPORT: &str = "Found one Java-level deadlock:\n=============================\n\"a\":\n  \
        waiting to lock monitor 0x1 (object 0x2, a java.lang.Object),\n  which is held by \"b\"\n\"b\":\n  \
        waiting to lock monitor 0x3 (object 0x4, a java.lang.Object),\n  which is held by \"a\"\n\n\
        Java stack information for the threads listed above:\n\
        ===================================================\n\"a\":\n\tat A.a(A.java:1)\n\"b\":\n\tat B.b(B.java:1)\n\n\
        Found 1 deadlock.\n\n";
    let threads = (0..100_000).map(|number| {
        format!(
            "\"thread-{number}\" #{number} prio=5 os_prio=0 tid=0x00007f1 nid=0x1 runnable [0x00007f1]\n   \
             java.lang.Thread.State: RUNNABLE\n\tat A.of{number}(A.java:{number})\n\tat A.run(A.java:1)\n\n"
        )
    });
    let head = "2026-11-22 10:14:02\nFull thread dump OpenJDK 64-Bit Server VM (17.0.15+6 mixed mode, sharing):\n\n";
    let text: String = std::iter::once(head.to_owned()).chain(threads).collect();
    let text = text + "JNI global refs: 1, weak refs: 0\n\n" + REPORT;
    assert!(text.len() > 15 << 20, "{}", text.len());
    let cut = String::from_utf8(cut_dump(text.clone().into_bytes())).unwrap();
    assert!(cut.len() > (4 << 20) - 1000 && cut.len() < (4 << 20) + 200);
    assert!(cut.starts_with(head) && cut.ends_with(REPORT));
    let note = cut.lines().find(|line| line.starts_with('#')).unwrap();
    let left_out = text.len() - (cut.len() - note.len() - 2);
    assert_eq!(
        note,
        format!(
            "# kafka-vitals left out {left_out} bytes here: a bundle keeps the first 3 MiB of a thread dump and the last MiB"
        )
    );
    let (whole, cut) = (parse(&text).unwrap(), parse(&cut).unwrap());
    assert_eq!((whole.len(), cut.len()), (1, 1));
    assert_eq!(cut[0].reported, whole[0].reported);
    assert_eq!(cut[0].reported.len(), 1);
    assert!(cut[0].threads.len() > 20_000 && cut[0].threads.len() < whole[0].threads.len());
    // No thread has frames of another.
    for thread in &cut[0].threads {
        let number = thread.name.strip_prefix("thread-").unwrap();
        let frames: Vec<String> = thread.frames().map(|frame| format!("{frame:?}")).collect();
        assert_eq!(frames.len(), 2, "{thread:?}");
        assert!(frames[0].contains(&format!("of{number}")), "{thread:?}");
    }
    let small = b"\n\n".repeat(2 << 20);
    assert_eq!(cut_dump(small.clone()), small);
    assert_eq!(cut_dump(vec![b'x'; 5 << 20]).len() >> 20, 4);
}

fn read(bytes: Vec<u8>) -> Result<ThreadReport, Failure> {
    let dump = RawDump {
        bytes,
        ..RawDump::default()
    };
    let read = report(&dump, &mut ThreadHistory::default(), None, Moment(0));
    read.map(|(report, _)| report)
}

/// What is kept of a dump is bounded; what is left out is counted.
#[test]
fn deadlocks_of_any_size_are_reported_with_their_true_number() {
    let one = read(deadlocked(120_000, "")).unwrap();
    let [cycle] = &one.deadlocks[..] else {
        panic!("{} deadlocks", one.deadlocks.len());
    };
    assert_eq!((cycle.members(), cycle.cycle.len()), (120_000, 256));
    assert_eq!(one.by_state["blocked"], 120_000);
    let pairs: Vec<u8> = (0..30_000_usize)
        .flat_map(|pair| {
            let (a, b) = (pair * 2 + 1, pair * 2 + 2);
            [(a, b), (b, a)]
                .map(|(holds, wants)| {
                    let name = "n".repeat(300);
                    format!(
                        "\"{name}\" #{holds} prio=5 tid=0x1 nid=1 waiting\n\tat {name}(A.java:1)\n\t- waiting to lock <{wants:#x}> (a X)\n\t- locked <{holds:#x}> (a X)\n\n"
                    )
                })
                .concat()
                .into_bytes()
        })
        .collect();
    let many = read(pairs).unwrap();
    let listed: usize = many.deadlocks.iter().map(|one| one.members()).sum();
    assert_eq!(listed + many.more_deadlocks.threads, 60_000);
    assert_eq!(many.deadlocks.len() + many.more_deadlocks.deadlocks, 30_000);
    let long = read(deadlocked(16, &long_frames())).unwrap();
    let frames = long.deadlocks.iter().flat_map(|one| &one.cycle);
    let bytes: usize = frames.flat_map(|t| &t.frames).map(String::len).sum();
    assert!((31 << 10..=32 << 10).contains(&bytes), "{bytes} bytes");
    for kept in [&one, &many, &long] {
        let json = serde_json::to_vec(kept).unwrap().len();
        assert!(json < 1_000_000, "{json} bytes");
    }
}

#[test]
fn a_dump_with_too_many_threads_is_not_read() {
    for line in [
        "\"\" id=\n",
        "Found one Java-level deadlock\n",
        "Full thread dump x\n",
    ] {
        let text = format!("\"a\" id=1\n{}", line.repeat(140_000));
        let message = read(text.into_bytes()).unwrap_err().message;
        let golden = "it has more than 131072 threads, which is more than are read";
        assert!(message.ends_with(golden), "{line}: {message}");
    }
}

/// This process acts as the JVM: its attach socket gives the same answer to every request.
#[tokio::test]
async fn answers_of_a_jvm() {
    #[rustfmt::skip] // a case a line
    let cases: [(&str, &[u8], &str); 5] = [
        ("error code", b"101\nNo such operation\n", "the JVM answered code 101 to `threaddump`: No such operation"),
        ("no code", b"\xff\xfe\0 threads", "the JVM's reply does not start with a code: \"\u{fffd}\u{fffd}\\0 threads\""),
        ("code without a line", b"0", "the JVM's reply does not start with a code: \"0\""),
        ("HTTP", b"HTTP/1.1 400 Bad Request\r\n\r\n", "the JVM's reply does not start with a code: \"HTTP/1.1 400 Bad Request\\r\\n\\r\\n\""),
        ("nothing", b"", "the JVM closed the connection without a reply: the ids are the same, but the JVM has capabilities that the exporter lacks, or may not be traced: give the exporter CAP_SYS_PTRACE"),
    ];
    let pid = std::process::id();
    let start_ticks = ProcRoot::new("/proc").stat(pid).unwrap().start_ticks;
    let broker = Arc::new(Broker {
        id: Some(3),
        ..Broker::unknown(ProcessKey { pid, start_ticks })
    });
    let socket = format!("/tmp/.java_pid{pid}");
    let mut checked = Cases::default();
    for (name, answer, golden) in cases {
        let listener = UnixListener::bind(&socket).unwrap();
        let serving = std::thread::spawn(move || {
            while let Ok((mut stream, _)) = listener.accept() {
                let mut request = [0; 64];
                // An empty request ends the test.
                if stream.read(&mut request).unwrap_or_default() == 0 {
                    return;
                }
                let _ = stream.write_all(answer);
            }
        });
        let mut collector =
            JvmDumper::new(EXE, "/proc", Arc::clone(&broker), Duration::from_secs(5));
        let text = collector.collect().await.unwrap_err().message;
        drop(std::os::unix::net::UnixStream::connect(&socket).unwrap());
        serving.join().unwrap();
        std::fs::remove_file(&socket).unwrap();
        checked.check(
            name,
            &format!("thread dump of broker 3 (pid {pid}): {golden}"),
            &text,
        );
    }
    checked.finish(5, 5);
}
