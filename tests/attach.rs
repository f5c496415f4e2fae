//! Attaches to real JVMs: the JDK of JAVA_HOME or PATH, and one of 24 or later if there is one.
#![allow(clippy::unwrap_used)]

#[path = "attach/jvm.rs"]
mod jvm;

use std::fs;
use std::io::{Read, Write};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::thread::sleep;
use std::time::{Duration, Instant};

use kafka_vitals::collect::jvm_dumper::{JvmDumper, RawDump};
use kafka_vitals::model::{Broker, ProcessKey};
use kafka_vitals::model::{Failure, Reason};
use kafka_vitals::sys::attach::ask::Ask;
use kafka_vitals::sys::attach::child::{Header, Outcome, Request};

use jvm::{How, JDKS, Jdk, Jvm, can_unshare, is_root, newest_jdk, start_ticks, wait_until};

const EXE: &str = env!("CARGO_BIN_EXE_kafka-vitals");
const DEADLINE: Duration = Duration::from_secs(10);
const NOBODY: u32 = 65534;

fn collector(exe: impl Into<PathBuf>, pid: u32, deadline: Duration) -> JvmDumper {
    let process = ProcessKey {
        pid,
        start_ticks: start_ticks(pid),
    };
    let broker = Broker {
        id: Some(3),
        ..Broker::unknown(process)
    };
    JvmDumper::new(exe, "/proc", Arc::new(broker), deadline)
}

fn request(pid: u32) -> Request {
    Request {
        proc_root: "/proc".into(),
        pid,
        start_ticks: start_ticks(pid),
        deadline: DEADLINE,
        max_bytes: 64 << 20,
        may_signal: true,
        listener: None,
        ask: Ask::ThreadDump { with_locks: false },
    }
}

/// Runs only the child, without the collector.
fn run_child(command: &mut Command) -> (Header, Vec<u8>) {
    let output = command.output().unwrap();
    let line_end = output
        .stdout
        .iter()
        .position(|byte| *byte == b'\n')
        .unwrap();
    (
        serde_json::from_slice(&output.stdout[..line_end]).unwrap(),
        output.stdout[line_end + 1..].to_vec(),
    )
}

fn reason(result: Result<RawDump, Failure>) -> Reason {
    result.unwrap_err().reason
}

/// Removes the time of the dump and the counters that change without an action.
fn normalised(dump: &[u8]) -> Vec<String> {
    let text = String::from_utf8(dump.to_vec()).unwrap();
    let moving = |word: &&str| word.starts_with("cpu=") || word.starts_with("elapsed=");
    let lines = text.lines().skip(1).filter(|line| !line.is_empty());
    lines
        .map(|line| {
            line.split(' ')
                .filter(|word| !moving(word))
                .collect::<Vec<_>>()
                .join(" ")
        })
        .collect()
}

async fn compare_with_jstack(jdk: &Jdk) {
    let jvm = Jvm::start(
        jdk,
        How {
            threads: 40,
            ..How::default()
        },
    );
    let mut collector = jvm.collector();
    collector.collect().await.unwrap();
    let jstack = || {
        let output = Command::new(jdk.tool("jstack"))
            .arg(jvm.pid.to_string())
            .output()
            .unwrap();
        assert!(output.status.success());
        normalised(&output.stdout)
    };
    let mut agreed = false;
    for _ in 0..5 {
        let before = jstack();
        let dump = collector.collect().await.unwrap();
        // Where two dumps of the tool agree, ours must agree with them.
        if before == jstack() {
            assert_eq!(normalised(&dump.bytes), before);
            let text = String::from_utf8(dump.bytes).unwrap();
            assert_eq!(text.matches("Found one Java-level deadlock").count(), 2);
            assert_eq!(text.matches("\"kafka-request-handler-").count(), 40);
            assert!(
                dump.pause.unwrap() > Duration::ZERO,
                "a dump takes a safepoint"
            );
            agreed = true;
            break;
        }
    }
    assert!(agreed, "jstack never agreed with itself");
    assert_eq!(jvm.trigger_files(), 0);
    assert_eq!(
        jvm.output().trim(),
        "READY",
        "no dump on the JVM's own output"
    );
}

#[tokio::test]
async fn the_dump_is_jstacks() {
    compare_with_jstack(&JDKS[0]).await;
}

#[tokio::test]
async fn the_dump_of_a_newer_jdk_is_jstacks() {
    if let Some(jdk) = newest_jdk("the_dump_of_a_newer_jdk_is_jstacks") {
        compare_with_jstack(jdk).await;
    }
}

#[tokio::test]
async fn root_attaches_to_a_jvm_of_another_user() {
    if !is_root("root_attaches_to_a_jvm_of_another_user") {
        return;
    }
    for jdk in &*JDKS {
        let jvm = Jvm::start(
            jdk,
            How {
                uid: Some(NOBODY),
                ..How::default()
            },
        );
        let dump = jvm.collector().collect().await.unwrap();
        assert!(
            String::from_utf8(dump.bytes)
                .unwrap()
                .contains("\"monitor-left\"")
        );
        // With the rights of a root in a container: no CAP_SYS_PTRACE.
        let mut child = Command::new("setpriv");
        child
            .args(["--bounding-set=-sys_ptrace", EXE])
            .args(request(jvm.pid).arguments());
        assert!(matches!(
            run_child(&mut child).0.outcome,
            Outcome::Ok { .. }
        ));
        assert_eq!(jvm.trigger_files(), 0);
    }
}

#[tokio::test]
async fn a_container_with_its_own_tmp_is_attached_to() {
    let name = "a_container_with_its_own_tmp_is_attached_to";
    if !is_root(name) || !can_unshare(name) {
        return;
    }
    for jdk in &*JDKS {
        let jvm = Jvm::start(
            jdk,
            How {
                own_namespaces: true,
                ..How::default()
            },
        );
        let dump = jvm.collector().collect().await.unwrap();
        assert!(
            String::from_utf8(dump.bytes)
                .unwrap()
                .contains("\"monitor-left\"")
        );
        assert!(!jvm.socket().exists(), "its socket is in its own /tmp");
        assert!(Path::new(&format!("/proc/{}/root/tmp/.java_pid1", jvm.pid)).exists());
    }
}

#[tokio::test]
async fn a_stopped_jvm_is_reported_in_time_and_dumped_when_it_continues() {
    for jdk in &*JDKS {
        let jvm = Jvm::start(jdk, How::default());
        let mut collector = jvm.collector();
        for attached_before in [false, true] {
            jvm.signal(rustix::process::Signal::STOP);
            wait_until("stopped", || {
                fs::read_to_string(format!("/proc/{}/status", jvm.pid))
                    .unwrap()
                    .contains("State:\tT")
            });
            let start = Instant::now();
            let failure = collector.collect().await.unwrap_err();
            assert_eq!(
                failure.reason,
                Reason::Stopped,
                "attached before: {attached_before}"
            );
            assert!(
                failure
                    .message
                    .contains(&format!("broker 3 (pid {})", jvm.pid)),
                "{}",
                failure.message
            );
            assert!(start.elapsed() < Duration::from_secs(5));
            jvm.signal(rustix::process::Signal::CONT);
            collector.collect().await.unwrap();
        }
    }
}

#[tokio::test]
async fn a_jvm_that_forbids_attaching_prints_no_dump() {
    for jdk in &*JDKS {
        let jvm = Jvm::start(
            jdk,
            How {
                options: &["-XX:+DisableAttachMechanism"],
                ..How::default()
            },
        );
        assert_eq!(reason(jvm.collector().collect().await), Reason::Disabled);
        assert_eq!(jvm.output().trim(), "READY");
    }
}

#[tokio::test]
async fn a_jvm_whose_options_hide_that_it_forbids_attaching_is_signalled_once() {
    let jdk = &JDKS[0];
    // Neither the command line nor the performance data show it.
    let options = tempfile::NamedTempFile::new().unwrap();
    fs::write(
        options.path(),
        "-XX:+DisableAttachMechanism -XX:-UsePerfData",
    )
    .unwrap();
    let file = format!("-XX:VMOptionsFile={}", options.path().display());
    let jvm = Jvm::start(
        jdk,
        How {
            options: &[&file],
            ..How::default()
        },
    );
    let mut collector = collector(EXE, jvm.pid, Duration::from_millis(700));
    let start = Instant::now();
    assert_eq!(reason(collector.collect().await), Reason::Timeout);
    assert!(start.elapsed() < Duration::from_secs(3));
    for _ in 0..3 {
        assert_eq!(reason(collector.collect().await), Reason::Refused);
    }
    wait_until("the dump is complete", || {
        jvm.output().contains("Found 2 deadlocks")
    });
    assert_eq!(jvm.output().matches("Full thread dump").count(), 1);
    assert_eq!(jvm.trigger_files(), 0);
}

#[test]
fn a_jvm_that_opens_its_socket_too_late_is_dumped_the_next_time() {
    for jdk in &*JDKS {
        let jvm = Jvm::start(jdk, How::default());
        let ask = |deadline, may_signal| {
            let request = Request {
                deadline,
                may_signal,
                ..request(jvm.pid)
            };
            run_child(Command::new(EXE).args(request.arguments())).0
        };
        // The deadline has passed when the signal is sent.
        let header = ask(Duration::ZERO, true);
        let timed_out =
            matches!(&header.outcome, Outcome::Error { reason, .. } if *reason == Reason::Timeout);
        assert!(header.signalled && timed_out, "{header:?}");
        wait_until("its socket is open", || jvm.socket().exists());
        assert_eq!(jvm.trigger_files(), 1);
        let header = ask(DEADLINE, false);
        assert!(matches!(header.outcome, Outcome::Ok { .. }), "{header:?}");
        assert_eq!((jvm.output().trim(), jvm.trigger_files()), ("READY", 0));
    }
}

#[tokio::test]
async fn reduced_signals_never_kill() {
    for jdk in &*JDKS {
        let mut jvm = Jvm::start(
            jdk,
            How {
                options: &["-Xrs"],
                ..How::default()
            },
        );
        jvm.collector().collect().await.unwrap();
        // Such a JVM has its socket from the start; without it only the signal that kills it could restore the socket.
        fs::remove_file(jvm.socket()).unwrap();
        assert_eq!(
            reason(jvm.collector().collect().await),
            Reason::NoSignalHandler
        );
        assert!(jvm.starter.try_wait().unwrap().is_none(), "it lives");
    }
}

#[tokio::test]
async fn a_socket_that_an_earlier_process_left_is_replaced() {
    for jdk in &*JDKS {
        let jvm = Jvm::start(jdk, How::default());
        drop(UnixListener::bind(jvm.socket()).unwrap());
        let dump = jvm.collector().collect().await.unwrap();
        assert!(
            String::from_utf8(dump.bytes)
                .unwrap()
                .contains("\"monitor-left\"")
        );
        assert_eq!(
            jvm.output().trim(),
            "READY",
            "no dump on the JVM's own output"
        );
    }
}

#[tokio::test]
async fn what_is_no_jvm_is_left_alone() {
    let mut other = Command::new("setpriv")
        .args(["--pdeathsig", "KILL", "sleep", "1000"])
        .spawn()
        .unwrap();
    let mut ours = collector(EXE, other.id(), DEADLINE);
    assert_eq!(reason(ours.collect().await), Reason::NotHotspot);
    // Another process serves a socket with its name.
    let socket = PathBuf::from(format!("/tmp/.java_pid{}", other.id()));
    let listener = UnixListener::bind(&socket).unwrap();
    let failure = ours.collect().await.unwrap_err();
    drop(listener);
    fs::remove_file(&socket).unwrap();
    assert_eq!(failure.reason, Reason::Refused);
    assert!(
        failure
            .message
            .contains(&format!("served by pid {}", std::process::id())),
        "{}",
        failure.message
    );
    assert!(other.try_wait().unwrap().is_none(), "it lives");
    other.kill().unwrap();
    other.wait().unwrap();
    assert_eq!(reason(ours.collect().await), Reason::Gone);
}

#[tokio::test]
async fn a_socket_that_never_answers_delays_no_caller_beyond_the_deadline() {
    let pid = std::process::id();
    let socket = PathBuf::from(format!("/tmp/.java_pid{pid}"));
    let listener = UnixListener::bind(&socket).unwrap();
    let mut ours = collector(EXE, pid, Duration::from_millis(500));
    let mut collect = async || {
        let start = Instant::now();
        let failure = ours.collect().await.unwrap_err();
        assert!(
            start.elapsed() < Duration::from_secs(3),
            "{:?}",
            start.elapsed()
        );
        assert_eq!(failure.reason, Reason::Timeout);
        failure.message
    };
    let silent = collect().await;
    rustix::net::listen(&listener, 0).unwrap();
    let _in_the_queue = connect_without_waiting(&socket);
    let full = collect().await;
    drop(listener);
    fs::remove_file(&socket).unwrap();
    assert!(silent.contains("reading the reply"), "{silent}");
    assert!(full.contains("a place in the queue"), "{full}");
}

/// Connects without waiting for a place in the queue.
fn connect_without_waiting(path: &Path) -> std::os::fd::OwnedFd {
    use rustix::net::{
        AddressFamily, SocketAddrUnix, SocketFlags, SocketType, connect, socket_with,
    };
    let flags = SocketFlags::NONBLOCK | SocketFlags::CLOEXEC;
    let socket = socket_with(AddressFamily::UNIX, SocketType::STREAM, flags, None).unwrap();
    let _ = connect(&socket, &SocketAddrUnix::new(path).unwrap());
    socket
}

/// The record HEAP DUMP END, which is empty.
const END_OF_HEAP_DUMP: &[u8] = &[0x2c, 0, 0, 0, 0, 0, 0, 0, 0];

#[tokio::test]
async fn a_heap_is_dumped_once_and_only_where_there_is_room() {
    for jdk in &*JDKS {
        let jvm = Jvm::start(jdk, How::default());
        let mut collector = jvm.collector();
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("kafka-vitals-broker-3.hprof");
        let failure = collector
            .heap_dump(&file, 1 << 60, DEADLINE)
            .await
            .unwrap_err();
        assert_eq!(failure.reason, Reason::Refused);
        let times = if jdk.major < 22 {
            "2 times the memory"
        } else {
            "4 times the memory"
        };
        let message = &failure.message;
        assert!(
            message.contains("heap dump of broker 3")
                && message.contains("MiB are free")
                && message.contains(times),
            "{message}"
        );
        assert!(!file.exists());

        collector.collect().await.unwrap();
        let before = (jdk.collections(jvm.pid), jdk.safepoint_time(jvm.pid));
        let (bytes, took) = collector.heap_dump(&file, 0, DEADLINE).await.unwrap();
        let after = (jdk.collections(jvm.pid), jdk.safepoint_time(jvm.pid));
        println!(
            "JDK {}: {bytes} bytes in {took:?}, stood {:?}",
            jdk.major,
            after.1 - before.1
        );
        assert_eq!(before.0, after.0, "it collected first");
        let written = fs::read(&file).unwrap();
        assert_eq!(written.len() as u64, bytes);
        assert!(written.starts_with(b"JAVA PROFILE 1.0.2\0"));
        assert!(written.ends_with(END_OF_HEAP_DUMP));
        assert!(written.windows(12).any(|window| window == b"monitor-left"));
        assert_eq!(
            fs::metadata(&file).unwrap().permissions().mode() & 0o777,
            0o600
        );
        let listed: Vec<_> = fs::read_dir(folder.path())
            .unwrap()
            .map(|entry| entry.unwrap().file_name())
            .collect();
        assert_eq!(listed, ["kafka-vitals-broker-3.hprof"]);

        let failure = collector.heap_dump(&file, 0, DEADLINE).await.unwrap_err();
        assert!(
            failure
                .message
                .contains(&format!("exists already ({bytes} bytes)")),
            "{}",
            failure.message
        );
        // The JVM itself refuses too.
        let mut stream = UnixStream::connect(jvm.socket()).unwrap();
        stream
            .write_all(format!("1\0dumpheap\0{}\0-all\0\0", file.display()).as_bytes())
            .unwrap();
        let mut reply = String::new();
        stream.read_to_string(&mut reply).unwrap();
        assert!(
            reply.starts_with("0\n") && reply.contains("File exists"),
            "{reply}"
        );
        assert_eq!(fs::read(&file).unwrap(), written);

        // The dump is written even if the caller does not wait for its end.
        let second = folder.path().join("second.hprof");
        let mut stream = UnixStream::connect(jvm.socket()).unwrap();
        stream
            .write_all(format!("1\0dumpheap\0{}\0-all\0\0", second.display()).as_bytes())
            .unwrap();
        drop(stream);
        wait_until("the second is complete", || {
            fs::read(&second).is_ok_and(|bytes| bytes.ends_with(END_OF_HEAP_DUMP))
        });
        collector.collect().await.unwrap();
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 2);

        let nowhere = folder.path().join("nowhere/a.hprof");
        let failure = collector
            .heap_dump(&nowhere, 0, DEADLINE)
            .await
            .unwrap_err();
        assert!(
            failure
                .message
                .contains("nowhere does not exist; create that folder"),
            "{}",
            failure.message
        );
    }
}

#[tokio::test]
async fn a_heap_is_dumped_where_the_jvm_may_write_and_sees_the_folder() {
    let name = "a_heap_is_dumped_where_the_jvm_may_write_and_sees_the_folder";
    if !is_root(name) || !can_unshare(name) {
        return;
    }
    for jdk in &*JDKS {
        let file = Path::new("/tmp/kafka-vitals-broker-of-the-test.hprof");
        let jvm = Jvm::start(
            jdk,
            How {
                own_namespaces: true,
                ..How::default()
            },
        );
        let (bytes, _) = jvm.collector().heap_dump(file, 0, DEADLINE).await.unwrap();
        assert!(!file.exists(), "it is in its own /tmp");
        assert_eq!(
            fs::metadata(format!("/proc/{}/root{}", jvm.pid, file.display()))
                .unwrap()
                .len(),
            bytes
        );

        let jvm = Jvm::start(
            jdk,
            How {
                uid: Some(NOBODY),
                ..How::default()
            },
        );
        let folder = tempfile::tempdir().unwrap();
        fs::set_permissions(folder.path(), fs::Permissions::from_mode(0o755)).unwrap();
        let file = folder.path().join("a.hprof");
        let failure = jvm
            .collector()
            .heap_dump(&file, 0, DEADLINE)
            .await
            .unwrap_err();
        assert!(
            failure
                .message
                .contains("Permission denied; check that its user (uid 65534)"),
            "{}",
            failure.message
        );
        std::os::unix::fs::chown(folder.path(), Some(NOBODY), None).unwrap();
        let (bytes, _) = jvm.collector().heap_dump(&file, 0, DEADLINE).await.unwrap();
        let written = fs::metadata(&file).unwrap();
        assert_eq!(
            (written.len(), std::os::unix::fs::MetadataExt::uid(&written)),
            (bytes, NOBODY)
        );
    }
}

#[tokio::test]
async fn a_slow_reader_does_not_stop_the_jvm() {
    let Some(jdk) = newest_jdk("a_slow_reader_does_not_stop_the_jvm") else {
        return;
    };
    let jvm = Jvm::start(
        jdk,
        How {
            threads: 400,
            ..How::default()
        },
    );
    jvm.collector().collect().await.unwrap();
    let stood_while = |slow: &dyn Fn()| {
        let before = jdk.safepoint_time(jvm.pid);
        slow();
        jdk.safepoint_time(jvm.pid) - before
    };
    let ours = stood_while(&|| {
        let mut child = Command::new(EXE)
            .args(request(jvm.pid).arguments())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut stdout = child.stdout.take().unwrap();
        let mut start = [0; 200];
        stdout.read_exact(&mut start).unwrap();
        assert!(
            String::from_utf8_lossy(&start).contains("\"protocol\":2"),
            "asked to buffer"
        );
        sleep(Duration::from_secs(1));
        assert!(stdout.read_to_end(&mut Vec::new()).unwrap() > 300_000);
        assert!(child.wait().unwrap().success());
    });
    let streamed = stood_while(&|| {
        let mut stream = UnixStream::connect(jvm.socket()).unwrap();
        stream.write_all(b"1\0threaddump\0\0\0\0").unwrap();
        stream.read_exact(&mut [0]).unwrap();
        sleep(Duration::from_secs(1));
        assert!(stream.read_to_end(&mut Vec::new()).unwrap() > 300_000);
    });
    assert!(
        streamed > Duration::from_millis(900),
        "the measure is wrong: {streamed:?}"
    );
    assert!(ours < Duration::from_millis(500), "{ours:?}");
}

#[tokio::test]
async fn a_reply_is_bounded() {
    let jvm = Jvm::start(&JDKS[0], How::default());
    let request = Request {
        max_bytes: 5000,
        ..request(jvm.pid)
    };
    let (header, bytes) = run_child(Command::new(EXE).args(request.arguments()));
    let Outcome::Error {
        reason, message, ..
    } = header.outcome
    else {
        panic!("too long a reply was taken")
    };
    assert_eq!((reason, bytes.len()), (Reason::Protocol, 0));
    assert!(message.contains("longer than 5000 bytes"), "{message}");
}

/// Writes a program that replaces the attach child and writes its pid to `FILE.pid`.
fn impostor(folder: &Path, name: &str, script: &str) -> PathBuf {
    let path = folder.join(name);
    let text = format!("#!/bin/sh\necho $$ > \"$0.pid\"\n{script}\n");
    let write = "printf %s \"$1\" > \"$2\" && chmod 755 \"$2\"";
    let status = Command::new("sh")
        .args(["-c", write, "sh", &text])
        .arg(&path)
        .status()
        .unwrap();
    assert!(status.success());
    path
}

fn has_ended(exe: &Path) -> bool {
    let pid = fs::read_to_string(exe.with_extension("pid")).unwrap();
    !Path::new("/proc").join(pid.trim()).exists()
}

#[tokio::test]
async fn a_child_that_hangs_is_killed_at_the_deadline_and_reaped() {
    let folder = tempfile::tempdir().unwrap();
    let exe = impostor(folder.path(), "hangs", "exec /bin/sleep 1000");
    let mut ours = collector(&exe, std::process::id(), Duration::from_millis(300));
    let start = Instant::now();
    assert_eq!(reason(ours.collect().await), Reason::Timeout);
    assert!(
        start.elapsed() < Duration::from_secs(3),
        "{:?}",
        start.elapsed()
    );
    assert!(has_ended(&exe));
    // A caller that stops waiting for a dump leaves no child either.
    fs::remove_file(exe.with_extension("pid")).unwrap();
    let mut ours = collector(&exe, std::process::id(), DEADLINE);
    let started = async {
        while !fs::read_to_string(exe.with_extension("pid")).is_ok_and(|text| text.ends_with('\n'))
        {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::select! {
        _ = ours.collect() => panic!("it hangs"),
        () = started => {}
    }
    let dropped = async {
        while !has_ended(&exe) {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(DEADLINE, dropped).await.unwrap();
}

#[tokio::test]
async fn a_child_that_talks_nonsense_is_a_failure() {
    let folder = tempfile::tempdir().unwrap();
    let header = r#"{"outcome":{"ok":{"duration":{"secs":0,"nanos":1},"protocol":1}},"signalled":false,"bytes":SIZE}"#;
    let say = |size: &str| format!("echo '{}'; echo hello", header.replace("SIZE", size));
    let cases = [
        ("silent", "exit 1".to_owned(), "no header"),
        (
            "babbles",
            "while :; do echo nonsense nonsense; done | tr -d '\\n'".replace("tr", "/usr/bin/tr"),
            "no header",
        ),
        ("short", say("7"), "announced 7 bytes and sent 6"),
        ("long", say("5"), "announced 5 bytes and sent 6"),
        ("boasts", say("99999999999"), "announces 99999999999 bytes"),
    ];
    for (name, script, message) in cases {
        let exe = impostor(folder.path(), name, &script);
        let failure = collector(&exe, std::process::id(), DEADLINE)
            .collect()
            .await
            .unwrap_err();
        assert_eq!(failure.reason, Reason::Protocol, "{name}");
        assert!(
            failure.message.contains(message),
            "{name}: {}",
            failure.message
        );
    }
    let exe = impostor(folder.path(), "right", &say("6"));
    let dump = collector(&exe, std::process::id(), DEADLINE)
        .collect()
        .await
        .unwrap();
    assert_eq!(dump.bytes, b"hello\n");
    assert_eq!(
        reason(
            collector(folder.path(), std::process::id(), DEADLINE)
                .collect()
                .await
        ),
        Reason::Protocol
    );
}

#[test]
fn a_child_without_its_parent_does_nothing() {
    let mut arguments = request(std::process::id()).arguments();
    arguments[1] = arguments[1].replace(&format!(",{}]", std::process::id()), ",1]");
    let output = Command::new(EXE).args(arguments).output().unwrap();
    assert_eq!((output.status.code(), output.stdout.len()), (Some(1), 0));
}
