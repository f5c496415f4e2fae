//! Flags and config files, tried with the real command.

use std::fs;
use std::net::TcpListener;
use std::path::Path;
use std::process::{Command, Output, Stdio};
use std::time::{Duration, Instant};

use clap::CommandFactory as _;
use kafka_vitals::cli::Cli;
use kafka_vitals::model::{CollectorName, Schedule};

use crate::{Cases, EXE};

/// Runs the exporter for at most ten seconds; then the code is 124.
fn run(arguments: &[&str]) -> Output {
    let command = ["10", EXE]
        .iter()
        .chain(arguments)
        .copied()
        .collect::<Vec<_>>();
    Command::new("timeout")
        .args(command)
        .stdin(Stdio::null())
        .output()
        .unwrap()
}

/// Returns the exit code and the first line of the errors.
fn code_and_line(output: &Output) -> String {
    let text = String::from_utf8_lossy(&output.stderr);
    assert!(!text.contains("panicked"), "{text}");
    format!(
        "{}: {}",
        output.status.code().unwrap(),
        text.lines().next().unwrap_or_default()
    )
}

#[test]
fn config_files() {
    let mut checked = Cases::default();
    let mut cases = 0;
    for entry in fs::read_dir("tests/bad_inputs/config").unwrap() {
        let path = entry.unwrap().path();
        let text = fs::read_to_string(&path).unwrap();
        let golden = text.lines().next().unwrap().strip_prefix("# ").unwrap();
        let path = path.to_str().unwrap();
        let output = run(&["--config.check", "--config.file", path]);
        checked.check(
            path,
            &format!("2: kafka-vitals: config file {path}: {golden}"),
            &code_and_line(&output),
        );
        assert_eq!(
            String::from_utf8_lossy(&output.stderr).lines().count(),
            1,
            "{path}"
        );
        cases += 1;
    }
    checked.finish(41, cases);
}

#[test]
fn config_files_of_odd_bytes_and_kinds() {
    let folder = tempfile::tempdir().unwrap();
    let list = |n: usize, item: &str| vec![item; n].join(",");
    let (nine_a, nine_b) = (list(9, "*a"), list(9, "*b"));
    let bomb = format!(
        "brokers: [{}]\nintervals: &a [x,x]\ncollectors: &b [{nine_a}]\nx: [{nine_b}]\n",
        list(9, "&c {match: {id: 1}}")
    );
    let files: [(&str, Vec<u8>, &str); 8] = [
        (
            "not-utf8",
            b"intervals: {}\n# K\xf6ln\n".to_vec(),
            "not UTF-8 at line 2; save it as UTF-8",
        ),
        (
            "utf16",
            b"\xff\xfer\0o\0".to_vec(),
            "not UTF-8 at line 1; save it as UTF-8",
        ),
        (
            "nul",
            b"\0".to_vec(),
            "unexpected character: *at line 1, column 1",
        ),
        (
            "huge",
            vec![b'#'; (1 << 20) + 1],
            "larger than 1048576 bytes; this is not a config file of kafka-vitals",
        ),
        (
            "deep",
            vec![b'['; 500_000],
            "recursion limit exceeded at line 1, column *",
        ),
        (
            "many",
            brokers(300).into(),
            "brokers: 300 entries, at most 256 are taken",
        ),
        (
            "bomb",
            bomb.into(),
            "`key: value` lines are expected at line 2, column 15",
        ),
        (
            "folded-bomb",
            folded_bomb().into(),
            "`key: value` lines are expected at line 3, column 9",
        ),
    ];
    let mut checked = Cases::default();
    let mut check = |path: &str, golden: &str| {
        let start = Instant::now();
        let output = run(&["--config.check", "--config.file", path]);
        checked.check(
            path,
            &format!("2: kafka-vitals: config file {path}: {golden}"),
            &code_and_line(&output),
        );
        assert!(
            start.elapsed() < Duration::from_secs(9),
            "{path} took {:?}",
            start.elapsed()
        );
    };
    for (name, bytes, golden) in &files {
        let path = folder.path().join(name);
        fs::write(&path, bytes).unwrap();
        check(path.to_str().unwrap(), golden);
    }
    let fifo = folder.path().join("fifo");
    mkfifo(&fifo);
    check(
        fifo.to_str().unwrap(),
        "* is a FIFO, not a regular file; name the file itself",
    );
    check(
        folder.path().to_str().unwrap(),
        "* is a folder, not a regular file; name the file itself",
    );
    check(
        "/dev/zero",
        "* is a character device, not a regular file; name the file itself",
    );
    check(
        "/proc/self/status",
        "* is on procfs, where no files are stored: it is not read; name the file itself",
    );
    check(
        "/nowhere/x.yml",
        "No such file or directory (os error 2); check the path and that uid * may read it",
    );
    checked.finish(12, files.len() + 5);
}

fn mkfifo(path: impl AsRef<Path>) {
    let (cwd, kind) = (rustix::fs::CWD, rustix::fs::FileType::Fifo);
    rustix::fs::mknodat(cwd, path.as_ref(), kind, 0o600.into(), 0).unwrap();
}

fn brokers(count: u32) -> String {
    (0..count).fold("brokers:\n".to_owned(), |text, id| {
        text + &format!("  - match: {{id: {id}}}\n")
    })
}

/// Returns a valid file that would expand to 9 to the power of 7 entries.
fn folded_bomb() -> String {
    let mut text = "brokers:\n  - &a0 {match: {id: 1}}\n".to_owned();
    for level in 1..8 {
        let inner = vec![format!("*a{}", level - 1); 9].join(",");
        text += &format!("  - &a{level} [{inner}]\n");
    }
    text
}

#[test]
fn flags_and_commands() {
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let taken = format!("--web.listen-address={}", taken.local_addr().unwrap());
    let listen = "expected IP:PORT, [IPV6]:PORT or :PORT, e.g. 127.0.0.1:10052";
    let path = "only letters, digits and / - . _ ~ may stand in it, e.g. /metrics";
    let procfs = "/nowhere: no procfs is mounted there (/nowhere/uptime: No such file or directory (os error 2)); leave it at /proc";
    let (device, procfs_file) = (
        "is a character device, not a regular file",
        "is on procfs, where no files are stored: it is not read",
    );
    let record = "name a file, e.g. /var/lib/kafka-vitals/record.jsonl";
    let folder = tempfile::tempdir().unwrap();
    let fifo = folder.path().join("fifo").to_str().unwrap().to_owned();
    let inside_fifo = format!("{fifo}/x");
    mkfifo(&fifo);
    let cases: Vec<(Vec<&str>, String)> = vec![
        (vec!["--web.listen-addres=:1"], "2: error: unexpected argument '--web.listen-addres' found".into()),
        (vec!["--web.listen-address=localhost:1"], format!("2: error: invalid value 'localhost:1' for '--web.listen-address <ADDRESS>': {listen}")),
        (vec!["--web.listen-address=:99999"], format!("2: error: invalid value ':99999' for '--web.listen-address <ADDRESS>': {listen}")),
        (vec!["--web.listen-address="], format!("2: error: invalid value '' for '--web.listen-address <ADDRESS>': {listen}")),
        (vec!["--web.telemetry-path=metrics"], "2: kafka-vitals: --web.telemetry-path \"metrics\": must begin with / and name a path, e.g. /metrics".into()),
        (vec!["--web.telemetry-path=/"], "2: kafka-vitals: --web.telemetry-path \"/\": must begin with / and name a path, e.g. /metrics".into()),
        (vec!["--web.telemetry-path=/:x"], format!("2: kafka-vitals: --web.telemetry-path \"/:x\": {path}")),
        (vec!["--web.telemetry-path=/{x}"], format!("2: kafka-vitals: --web.telemetry-path \"/{{x}}\": {path}")),
        (vec!["--web.telemetry-path=/-/ready"], "2: kafka-vitals: --web.telemetry-path \"/-/ready\": is taken, choose another".into()),
        (vec!["--web.max-requests=many"], "2: error: invalid value 'many' for '--web.max-requests <N>': invalid digit found in string".into()),
        (vec!["--log.level=loud"], "2: error: invalid value 'loud' for '--log.level <LEVEL>'".into()),
        (vec!["--path.procfs=/nowhere"], format!("2: kafka-vitals: --path.procfs {procfs}")),
        (vec!["thread", "1"], "2: error: unrecognized subcommand 'thread'".into()),
        (vec!["threads"], "2: error: the following required arguments were not provided:".into()),
        (vec!["threads", "0"], "2: error: invalid value '0' for '<PID>': 0 is not in 1..=4294967295".into()),
        (vec!["threads", "4294967295"], "2: kafka-vitals: process 4294967295 is gone".into()),
        (vec!["threads", "1", "--path.procfs=/nowhere"], format!("2: kafka-vitals: --path.procfs {procfs}")),
        (vec!["analyze"], "2: error: the following required arguments were not provided:".into()),
        (vec!["analyze", "/nowhere"], "2: kafka-vitals: nothing here can be explained: /nowhere: does not exist".into()),
        (vec!["analyze", "/dev/null"], format!("2: kafka-vitals: nothing here can be explained: /dev/null: {device}")),
        (vec!["analyze", "/dev/zero"], format!("2: kafka-vitals: nothing here can be explained: /dev/zero: {device}")),
        (vec!["analyze", "/proc/kmsg"], format!("2: kafka-vitals: nothing here can be explained: /proc/kmsg: {procfs_file}")),
        (vec!["analyze", &fifo], format!("2: kafka-vitals: nothing here can be explained: {fifo}: is a FIFO, not a regular file")),
        (vec!["replay", "/dev/zero"], format!("2: kafka-vitals: /dev/zero: {device}")),
        (vec!["replay", "/proc/kmsg"], format!("2: kafka-vitals: /proc/kmsg: {procfs_file}")),
        (vec!["replay", &fifo], format!("2: kafka-vitals: {fifo}: is a FIFO, not a regular file")),
        (vec!["--config.check", "--evidence.dir=evidence"], "2: kafka-vitals: --evidence.dir \"evidence\": no absolute path of a folder, write e.g. /var/lib/kafka-vitals/evidence".into()),
        (vec!["--config.check", "--evidence.dir="], "2: error: a value is required for '--evidence.dir <DIR>' but none was supplied".into()),
        (vec!["--config.check", "--record="], "2: error: a value is required for '--record <FILE>' but none was supplied".into()),
        (vec!["--config.check", "--record=/"], format!("2: kafka-vitals: --record \"/\": is no path of a file; {record}")),
        (vec!["--config.check", "--record=/tmp"], format!("2: kafka-vitals: --record \"/tmp\": /tmp is a folder, not a regular file; {record}")),
        (vec!["--config.check", "--record=/dev/null"], format!("2: kafka-vitals: --record \"/dev/null\": /dev/null {device}; {record}")),
        (vec!["--config.check", "--record=/proc/x"], format!("2: kafka-vitals: --record \"/proc/x\": /proc {procfs_file}; {record}")),
        (vec!["--config.check", "--record=/nowhere/x"], format!("2: kafka-vitals: --record \"/nowhere/x\": /nowhere does not exist; {record}")),
        (vec!["--config.check", "--record", &inside_fifo], format!("2: kafka-vitals: --record \"{inside_fifo}\": {fifo} is a FIFO, not a folder; {record}")),
        (vec!["--config.check", "--discovery.users=root,no-such-user"], "2: kafka-vitals: --discovery.users: /etc/passwd has no user \"no-such-user\"; correct the name, or give the user's id, as of one that LDAP knows".into()),
        (vec!["--config.check", "--discovery.users="], "2: kafka-vitals: --discovery.users: a name is empty; name the brokers' users, by name or id".into()),
        (vec!["live", "--tiemout=1s"], "0: error: unexpected argument '--tiemout' found".into()),
        (vec!["live", "--address=127.0.0.1:1", "--timeout=1s"], "0: ".into()),
        (vec!["attach-child"], "2: kafka-vitals attach-child is started by kafka-vitals itself; for a dump: kafka-vitals threads PID".into()),
        (vec![&taken], "1: kafka-vitals: cannot listen on *: Address already in use (os error 98); another process uses this port: end it, or choose another port with --web.listen-address".into()),
        (vec!["--web.listen-address=203.0.113.1:10052"], "1: kafka-vitals: cannot listen on 203.0.113.1:10052: Cannot assign requested address (os error 99); this host has no such address: choose another with --web.listen-address".into()),
    ];
    let mut checked = Cases::default();
    for (arguments, golden) in &cases {
        checked.check(
            &arguments.join(" "),
            golden,
            &code_and_line(&run(arguments)),
        );
    }
    checked.finish(42, cases.len());
}

/// Without rights, every port below 1024 is refused; root runs it without this capability.
#[test]
fn a_privileged_port() {
    let mut command = Command::new("timeout");
    command.arg("10");
    if rustix::process::geteuid().is_root() {
        command.args([
            "setpriv",
            "--bounding-set=-net_bind_service",
            "--inh-caps=-net_bind_service",
        ]);
    }
    let start = fs::read_to_string("/proc/sys/net/ipv4/ip_unprivileged_port_start").unwrap();
    if start.trim().parse::<u16>().unwrap() <= 1 {
        return crate::host::skip(
            "a_privileged_port",
            "every port of this host may be bound by anybody",
        );
    }
    let output = command
        .args([EXE, "--web.listen-address=127.0.0.1:1"])
        .output()
        .unwrap();
    let golden = "1: kafka-vitals: cannot listen on 127.0.0.1:1: Permission denied (os error 13); ports below 1024 \
                  need CAP_NET_BIND_SERVICE: choose one above with --web.listen-address";
    assert_eq!(code_and_line(&output), golden);
}

#[test]
fn valid_settings_are_confirmed_and_a_full_disk_is_no_panic() {
    let output = run(&["--config.check"]);
    assert_eq!(
        (output.status.code(), output.stdout.as_slice()),
        (Some(0), &b"kafka-vitals: the settings are valid\n"[..])
    );
    let full = || {
        fs::OpenOptions::new()
            .write(true)
            .open("/dev/full")
            .unwrap()
    };
    let status = Command::new(EXE)
        .arg("--config.check")
        .stdout(full())
        .stderr(full())
        .status()
        .unwrap();
    assert_eq!(status.code(), Some(1));
    let status = Command::new(EXE)
        .arg("--config.file=/nowhere")
        .stderr(full())
        .status()
        .unwrap();
    assert_eq!(status.code(), Some(2));
}

#[test]
fn the_reference_lists_every_flag_and_no_other() {
    let reference = fs::read_to_string("docs/reference.md").unwrap();
    let (_, rest) = reference.split_once("\n## Flags\n").unwrap();
    let table = rest
        .split_once("\n## ")
        .unwrap()
        .0
        .lines()
        .filter_map(|line| line.strip_prefix("| `--"));
    let mut listed: Vec<String> = Vec::new();
    for row in table {
        let mut cells = row.split('|').map(str::trim);
        let (names, default) = (
            cells.next().unwrap(),
            cells.next().unwrap().trim_matches('`'),
        );
        for name in names.split("`, `--").map(|name| name.trim_end_matches('`')) {
            if name.contains(".X") {
                let all = CollectorName::ALL.into_iter().filter(|x| x.may_be_off());
                listed.extend(all.map(|x| {
                    let name = name.replace(".X", &format!(".{}", x.name()));
                    format!("{name}={default}")
                }));
            } else {
                listed.push(format!("{name}={default}"));
            }
        }
    }
    listed.sort();
    let command = Cli::command();
    let default = |argument: &clap::Arg| {
        let values = argument.get_default_values().join(" ".as_ref());
        if argument
            .get_long()
            .is_some_and(|name| name.contains("collector."))
        {
            "on".to_owned()
        } else if argument.get_action().takes_values() {
            values.into_string().unwrap()
        } else {
            String::new()
        }
    };
    let flags = command
        .get_arguments()
        .filter_map(|argument| Some(format!("{}={}", argument.get_long()?, default(argument))));
    let mut flags: Vec<String> = flags
        .filter(|flag| !["help=", "version="].contains(&flag.as_str()))
        .collect();
    flags.sort();
    assert_eq!(listed, flags);
}

/// The reference lists every collector with what it reads, and its config file has the defaults.
#[test]
fn the_reference_lists_every_collector() {
    let reference = fs::read_to_string("docs/reference.md").unwrap();
    let line = |key: &str| {
        let mut lines = reference.lines();
        let found = lines.find_map(|line| line.strip_prefix(key)).unwrap();
        format!("{},", found.trim_matches([' ', '{', '}']))
    };
    let (intervals, switches) = (line("intervals:"), line("collectors:"));
    for collector in CollectorName::ALL {
        let name = collector.name();
        let (reads, schedule) = collector.about();
        if let Schedule::Every(interval) = schedule {
            let default = format!("{name}: {},", humantime::format_duration(interval));
            assert!(
                intervals.contains(&default),
                "{default} is not in {intervals}"
            );
        }
        let switch = format!("{name}: true,");
        assert_eq!(switches.contains(&switch), collector.may_be_off(), "{name}");
        assert!(
            reference.contains(&format!("\n| `{name}` | {reads}")),
            "{name}"
        );
    }
}
