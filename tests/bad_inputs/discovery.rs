//! Wrong `server.properties` and `/proc`, and what discovery reports.

use std::fs;
use std::os::unix::fs::symlink;
use std::time::Duration;

use kafka_vitals::collect::{fds, process};

use crate::Cases;
use crate::host::{Host, PROPERTIES, RIGHT};

/// The golden text is in the file itself, after `#= `.
#[test]
fn properties_files() {
    let mut checked = Cases::default();
    let mut cases = 0;
    for entry in fs::read_dir("tests/bad_inputs/properties").unwrap() {
        let path = entry.unwrap().path();
        let bytes = fs::read(&path).unwrap();
        let text = String::from_utf8(bytes.clone()).unwrap();
        let golden: Vec<&str> = text
            .lines()
            .filter_map(|line| line.strip_prefix("#= "))
            .collect();
        let host = Host::new();
        host.properties(bytes);
        checked.check(path.to_str().unwrap(), &golden.join("\n"), &host.scanned());
        cases += 1;
    }
    checked.finish(13, cases);
}

const NO_FILE: &str =
    "id unknown, mode unknown, listeners unknown, folders unknown\nserver.properties unknown: ";
const NO_ID: &str =
    "id unknown: neither in server.properties nor in meta.properties: no log folder has one";
const SERVER: &str = "PROC/77/root/opt/kafka/config/server.properties";

const STAT: &str = "? process 77 is skipped, although it may be a broker: PROC/77/stat is not in the form that Linux writes (no state or start time)";

type Case = (&'static str, fn(&Host), String);

#[test]
fn properties_of_odd_bytes_and_kinds() {
    let no_file = |problem: &str| format!("{NO_FILE}{SERVER} {problem}\n{NO_ID}");
    let big = |length: usize| {
        let mut bytes = b"broker.id=7\nzookeeper.connect=z\nlog.dirs=/data\n".to_vec();
        bytes.resize(length, b'#');
        bytes
    };
    #[rustfmt::skip] // a case a line
    let cases: [Case; 10] = [
        ("nothing spoilt", |_| {}, RIGHT.into()),
        ("missing", |host| host.remove(PROPERTIES), no_file("does not exist")),
        ("a long value", |host| host.properties(format!("broker.id=7\nlisteners={}\n", "x".repeat(16385))), format!("{NO_FILE}/opt/kafka/config/server.properties: listeners has more than 16384 bytes\n{NO_ID}")),
        ("more than a megabyte", |host| host.properties(vec![b'a'; (1 << 20) + 1]), no_file("has more than 1048576 bytes")),
        ("bytes that are no text", |host| host.properties(b"\0\xff\xfe\x80broker.id\0=\x01"), "id unknown, mode unknown, listeners PLAINTEXT@*:9092, folders /tmp/kafka-logs\nmode unknown: server.properties has neither process.roles nor zookeeper.connect\nid unknown: neither in server.properties nor in meta.properties: PROC/77/root/tmp/kafka-logs/meta.properties does not exist".into()),
        ("a byte order mark belongs to the first key", |host| host.properties("\u{feff}a=b\nbroker.id=7\r\nzookeeper.connect=z\rlog.dirs=/data"), RIGHT.into()),
        (
            "FIFO",
            |host| {
                host.remove(PROPERTIES);
                let path = host.path(PROPERTIES);
                rustix::fs::mknodat(rustix::fs::CWD, path, rustix::fs::FileType::Fifo, 0o600.into(), 0).unwrap();
            },
            no_file("is a FIFO, not a regular file"),
        ),
        (
            "folder",
            |host| {
                host.remove(PROPERTIES);
                fs::create_dir(host.path(PROPERTIES)).unwrap();
            },
            no_file("is a folder, not a regular file"),
        ),
        (
            "link out of the root",
            |host| {
                host.remove(PROPERTIES);
                symlink("../../../../../../../../../../etc/hostname", host.path(PROPERTIES)).unwrap();
            },
            no_file("does not exist"),
        ),
        (
            "link to itself",
            |host| {
                host.remove(PROPERTIES);
                symlink("server.properties", host.path(PROPERTIES)).unwrap();
            },
            no_file("leads through too many links or folders"),
        ),
    ];
    scan_each(&cases);
    let host = Host::new();
    host.properties(big(1 << 20));
    assert_eq!(host.scanned(), RIGHT, "a whole megabyte is read");
}

#[test]
fn proc_files() {
    let warning = |why: &str| {
        format!("? process 77 (java) may be a broker: {why}; name its pid file in the config file")
    };
    #[rustfmt::skip] // a case a line
    let cases: [Case; 19] = [
        ("empty cmdline", |host| host.write("cmdline", ""), String::new()),
        ("cmdline of more than a megabyte", |host| host.write("cmdline", format!("java\0-cp\0{}", "x".repeat(1 << 20))), warning("its command line is read up to 1048576 bytes and is not shorter; shorten it, for example by an @file")),
        ("cmdline of NULs", |host| host.write("cmdline", [0; 5000]), String::new()),
        ("cmdline not UTF-8", |host| host.write("cmdline", b"java\0\xff\xfe\0"), String::new()),
        ("properties' name not UTF-8", |host| host.write("cmdline", b"java\0kafka.Kafka\0/\xff\0"), format!("{NO_FILE}PROC/77/root/\u{fffd} does not exist\n{NO_ID}")),
        ("no properties named", |host| host.write("cmdline", "java\0kafka.Kafka\0"), format!("{NO_FILE}the command line names no file; name the broker in the config file\n{NO_ID}")),
        ("a JVM that is no broker", |host| host.replace("cmdline", "kafka.Kafka", "org.apache.zookeeper.server.quorum.QuorumPeerMain"), String::new()),
        ("a client's tool", |host| host.replace("cmdline", "kafka.Kafka", "kafka.tools.ConsoleConsumer"), String::new()),
        ("its argument file is missing", |host| host.write("cmdline", "java\0@args\0"), warning("its argument file: PROC/77/root/opt/kafka/args does not exist")),
        ("zombie", |host| host.replace("stat", ") S ", ") Z "), String::new()),
        ("empty stat", |host| host.write("stat", ""), STAT.into()),
        ("stat cut in its name", |host| host.write("stat", "77 (ja"), STAT.into()),
        ("stat with a name of parentheses", |host| host.replace("stat", "(java)", "(java)) S 1 (java)"), RIGHT.into()),
        ("stat with too few fields", |host| host.write("stat", "77 (java) S 1 77 77 0 -1 4194560\n"), STAT.into()),
        ("stat with words for numbers", |host| host.replace("stat", " 5000 ", " soon "), STAT.into()),
        ("status without NSpid", |host| host.replace("status", "NSpid:\t77\n", ""), RIGHT.into()),
        ("status that is garbage", |host| host.write("status", b"\xff\0\xff"), "id unknown, mode unknown, listeners unknown, folders unknown\nuser unknown: PROC/77/status is not in the form that Linux writes (no Uid or Gid)\nid, versions, listeners and log folders unknown: PROC/77/status: not in the form that Linux writes (no ids)".into()),
        ("uptime that is garbage", |host| fs::write(host.folder.path().join("uptime"), "-1e999 x").unwrap(), "! io: brokers unknown: PROC/uptime is not in the form that Linux writes (no seconds)".into()),
        (
            "no jars, no JDK",
            |host| {
                host.remove("fd/5");
                host.remove("tree/opt/jdk/release");
            },
            format!(
                "{RIGHT}\nKafka version unknown: the broker has no class path, and no Kafka jar is open\nJava version unknown: PROC/77/root/opt/release does not exist"
            ),
        ),
    ];
    scan_each(&cases);
}

fn scan_each(cases: &[Case]) {
    let mut checked = Cases::default();
    for (name, spoil, golden) in cases {
        let host = Host::new();
        spoil(&host);
        checked.check(name, golden, &host.scanned());
    }
    checked.finish(cases.len(), cases.len());
}

#[test]
fn readings_of_a_process_whose_files_are_garbage() {
    #[rustfmt::skip] // a case a line
    let cases: [Case; 4] = [
        ("limits", |host| host.write("limits", "Max open files\n"), "PROC/77/limits is not in the form that Linux writes (no Max open files)".into()),
        ("stat", |host| host.write("stat", "77"), "PROC/77/stat is not in the form that Linux writes (no state or start time)".into()),
        ("another process", |host| host.replace("stat", " 5000 ", " 5001 "), "has ended or was restarted".into()),
        ("no files", |host| fs::remove_dir_all(host.path("")).unwrap(), "has ended or was restarted".into()),
    ];
    let mut checked = Cases::default();
    for (name, spoil, golden) in &cases {
        let host = Host::new();
        let broker = host.discovery().scan().unwrap().remove(0);
        assert!(process::read(&host.proc(), &broker).vitals.is_ok());
        spoil(&host);
        let failure = process::read(&host.proc(), &broker).vitals.unwrap_err();
        let text = failure
            .message
            .replace(host.folder.path().to_str().unwrap(), "PROC");
        let colon = if golden.starts_with("PROC") { ":" } else { "" };
        checked.check(name, &format!("broker 7 (pid 77){colon} {golden}"), &text);
    }
    checked.finish(4, cases.len());
    let host = Host::new();
    let broker = host.discovery().scan().unwrap().remove(0);
    fs::remove_dir_all(host.path("fd")).unwrap();
    assert!(fds::read(&host.proc(), &broker, Duration::from_secs(1)).is_err());
}

/// The broker gets its id from ZooKeeper and writes it to a file. The host has just booted, so the broker is young.
#[test]
fn an_id_that_comes_later() {
    let host = Host::new();
    fs::write(host.folder.path().join("uptime"), "55.0 1.0\n").unwrap();
    host.properties("zookeeper.connect=z\nlog.dirs=/data\n");
    let mut discovery = host.discovery();
    let before = discovery.scan().unwrap();
    assert_eq!(discovery.labels(&before)[0].text, "pid-77");
    fs::create_dir(host.path("tree/data")).unwrap();
    host.write("tree/data/meta.properties", "broker.id=1001\n");
    let after = discovery.scan().unwrap();
    assert_eq!(discovery.labels(&after)[0].text, "1001");
    assert_eq!(after[0].process, before[0].process);
}
