#![allow(clippy::unwrap_used)]

use std::fs::File;
use std::io::{Read as _, Write as _};
use std::path::Path;
use std::process::{Child, Command, Stdio};

use super::*;
use crate::model::ProcessKey;

/// `cat`, whose standard output is the log, stands for a broker.
fn started(log: &Path) -> (Child, ProcRoot, Arc<Broker>) {
    let file = File::options().create(true).append(true).open(log).unwrap();
    let mut command = Command::new("cat");
    command
        .stdin(Stdio::piped())
        .stdout(file)
        .stderr(Stdio::null());
    let child = command.spawn().unwrap();
    let (proc, pid) = (ProcRoot::new("/proc"), child.id());
    let start_ticks = proc.stat(pid).unwrap().start_ticks;
    let broker = Broker::unknown(ProcessKey { pid, start_ticks });
    (child, proc, Arc::new(broker))
}

#[test]
fn lines_are_counted_from_the_end_on_and_deaths_call_for_a_dump() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("server.log");
    std::fs::write(&path, "ERROR Shrinking ISR of before\n").unwrap();
    let (mut child, proc, broker) = started(&path);
    let mut file = File::options().append(true).open(&path).unwrap();
    let mut logs = Logs {
        own: vec![OwnSignature {
            name: "mine".into(),
            pattern: "^ours ".into(),
            severity: Severity::Critical,
        }],
        ..Logs::of(&proc, &broker, Clock::start())
    };
    let suspects = logs.suspects.subscribe();
    let deaths = logs.deaths.subscribe();
    let read = |logs: &mut Logs, now| match logs.read(Moment(now)).unwrap() {
        Update::Read(report) => report,
        Update::NoFile(why) => panic!("{why}"),
    };
    let first = read(&mut logs, 1_000);
    assert_eq!(first.files, [path]);
    let ours = |report: &LogReport, name: &str| report.signatures.get(name).map(|of| of.count);
    assert_eq!(
        (ours(&first, "mine"), ours(&first, "isr_shrunk")),
        (Some(0), None)
    );

    let lines = "\
[2026-11-30 12:00:00,000] INFO Shrinking ISR 1 (x)
[2026-11-30 12:00:00,000] INFO Shrinking ISR 2 password=hunter2\u{1b}[2J (x)
ours too
[2026-11-30 12:00:00,000] ERROR [ReplicaFetcher replicaId=1, leaderId=3, fetcherId=0] Error due to (x)
java.lang.IllegalStateException: made by a test
\tat x.Y.z(Y.java:1)
[2026-11-30 12:00:00,000] INFO [ReplicaFetcher replicaId=1, leaderId=3, fetcherId=0] Stopped (x)
";
    file.write_all(lines.as_bytes()).unwrap();
    let second = read(&mut logs, 2_000);
    let counts = ["isr_shrunk", "mine", "thread_died", "thread_stopped"];
    assert_eq!(
        counts.map(|name| ours(&second, name)),
        [2, 1, 1, 1].map(Some)
    );
    let last = second.signatures["isr_shrunk"].last.clone().unwrap();
    assert_eq!(last.at, Moment(2_000));
    let text = "INFO Shrinking ISR 2 password=[hidden]";
    assert!(
        last.text.contains(text) && !last.text.contains('\u{1b}'),
        "{}",
        last.text
    );
    assert!(suspects.borrow().contains(&LOGGED));
    let mut expected = Deaths::default();
    expected.add_logged("ReplicaFetcherThread-0-3".into(), Moment(2_000));
    assert_eq!(*deaths.borrow(), expected);

    // The reason is over, and nothing is counted twice.
    let third = read(&mut logs, 5_000);
    assert_eq!(third, second);
    assert!(!suspects.borrow().contains(&LOGGED));

    // `cat` ends with its input. What was written last is read, and where nothing is open yet it is gone.
    file.write_all(b"ours at last\n").unwrap();
    drop(child.stdin.take());
    child.wait().unwrap();
    assert_eq!(ours(&read(&mut logs, 60_000), "mine"), Some(2));
    let mut late = Logs::of(&proc, &broker, Clock::start());
    let gone = late.read(Moment(60_000)).unwrap_err();
    assert_eq!(gone.reason, Reason::Gone, "{}", gone.message);
}

#[test]
fn a_log_that_goes_to_a_pipe_is_not_read() {
    let mut command = Command::new("cat");
    command
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::null());
    let mut child = command.spawn().unwrap();
    let proc = ProcRoot::new("/proc");
    let start_ticks = proc.stat(child.id()).unwrap().start_ticks;
    let key = ProcessKey {
        pid: child.id(),
        start_ticks,
    };
    let broker = Arc::new(Broker::unknown(key));
    let mut logs = Logs::of(&proc, &broker, Clock::start());
    let read = logs.collect();
    let Ok(Update::NoFile(why)) = &read else {
        panic!("{read:?}");
    };
    assert!(
        why.contains("leads to a pipe: only its reader sees it"),
        "{why}"
    );
    let mut snapshot = BrokerSnapshot::default();
    let stamp = Stamp {
        at: Moment(1),
        took: Duration::ZERO,
        interval: Duration::from_secs(1),
    };
    Logs::store(&mut snapshot, read.clone(), stamp);
    // No run that could have failed.
    assert!(snapshot.collectors.is_empty());
    assert_eq!(snapshot.log, crate::model::Reading::unknown(why.as_str()));
    drop(child.stdin.take());
    child.wait().unwrap();
}

#[test]
fn where_a_log_goes_that_is_no_file() {
    let table = [
        ("pipe:[4711]", "leads to a pipe: only its reader"),
        ("socket:[4711]", "leads to a socket: only its reader"),
        ("/dev/null", "leads to /dev/null"),
        ("", "its standard output is closed"),
    ];
    for (output, expected) in table {
        let broker = Broker::unknown(ProcessKey::default());
        let text = no_file(&broker, output, None);
        assert!(text.contains(expected), "{output}: {text}");
    }
}

/// What log4j's settings say beside a handle on standard output alone: whether that is meant so.
#[test]
fn settings_say_whether_a_file_is_missing() {
    let broker = Broker::unknown(ProcessKey::default());
    let of = |file: Option<&str>| Settings {
        path: "/etc/kafka/log4j.properties".into(),
        file: file.map(str::to_owned),
    };
    let missing = FileError::Missing {
        path: "/gone.yaml".into(),
    };
    for (settings, expected) in [
        (
            Ok(of(None)),
            "its log4j settings (/etc/kafka/log4j.properties) name no file; have them name one as well",
        ),
        (
            Ok(of(Some("/logs/server.log"))),
            "(/etc/kafka/log4j.properties) name /logs/server.log, which it has not opened",
        ),
        (
            Err(missing),
            "its log4j settings: /gone.yaml does not exist",
        ),
    ] {
        let text = no_file(&broker, "pipe:[4711]", Some(settings));
        assert!(text.contains("leads to a pipe: only its reader"), "{text}");
        assert!(text.contains(expected), "{text}");
    }
}

/// Beside this process, whose command line names none, a child has one that does.
#[test]
fn settings_are_read_as_the_process_sees_them() {
    let folder = tempfile::tempdir().unwrap();
    let text = "log4j.rootLogger=INFO, f, g\nlog4j.appender.f.File=${kafka.logs.dir}/server.log\nlog4j.appender.g.File=/g.log\n";
    std::fs::write(folder.path().join("log4j.properties"), text).unwrap();
    let mut child = Command::new("sh")
        .args(["-c", "echo started; read wait", "-Dkafka.logs.dir=/logs"])
        .arg("-Dlog4j.configuration=file:log4j.properties")
        .current_dir(folder.path())
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let proc = ProcRoot::new("/proc");
    // Its command line appears a moment after its start.
    let mut started = [0; 8];
    let output = child.stdout.as_mut().unwrap();
    output.read_exact(&mut started).unwrap();
    let read = settings::read(&proc, child.id()).unwrap().unwrap();
    let path = folder.path().canonicalize().unwrap();
    let expected = Settings {
        path: path.join("log4j.properties"),
        file: Some("/logs/server.log".to_owned()),
    };
    assert_eq!(read, expected);
    assert!(settings::read(&proc, std::process::id()).is_none());
    drop(child.stdin.take());
    child.wait().unwrap();
}
