//! JVMs that give no dump, and answers that are no dump.

use std::io::{Read as _, Write as _};
use std::os::unix::net::UnixListener;
use std::sync::Arc;
use std::time::Duration;

use kafka_vitals::collect::jvm_dumper::{JvmDumper, RawDump};
use kafka_vitals::collect::threads::{ThreadHistory, report};
use kafka_vitals::model::{Broker, ProcessKey};
use kafka_vitals::model::{Failure, Moment, ThreadReport};
use kafka_vitals::sys::proc::ProcRoot;

use crate::memory::deadlocked;
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
    let one = read(deadlocked(120_000)).unwrap();
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
    for kept in [&one, &many] {
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
