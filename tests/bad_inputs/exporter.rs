//! The running exporter: bad requests, missing rights, and how often it logs them.

use std::fs;
use std::net::{TcpListener, TcpStream};
use std::os::unix::fs::PermissionsExt;
use std::process::{Command, Stdio};
use std::time::Duration;

use crate::host::{Host, skip};
use crate::running::{Exporter, Guard, get, wait_for};
use crate::{Cases, EXE};

#[test]
fn requests() {
    let host = Host::new();
    let mut command = host.exporter();
    command.arg("--web.max-requests=18446744073709551615");
    let exporter = Exporter::start(command);
    let with =
        |head: &str| format!("{head}\r\nHost: localhost\r\nConnection: close\r\n\r\n").into_bytes();
    #[rustfmt::skip] // a case a line
    let cases: Vec<(&str, Vec<u8>, &str)> = vec![
        ("right", with("GET /-/healthy HTTP/1.1"), "HTTP/1.1 200 OK"),
        ("unknown method", with("BREW /metrics HTTP/1.1"), "HTTP/1.1 405 Method Not Allowed"),
        ("POST", with("POST /metrics HTTP/1.1\r\nContent-Length: 99999999999"), "HTTP/1.1 405 Method Not Allowed"),
        ("unknown page", with("GET /../../etc/passwd HTTP/1.1"), "HTTP/1.1 404 Not Found"),
        ("broken escape", with("GET /%zz%00 HTTP/1.1"), "HTTP/1.1 404 Not Found"),
        ("huge URL", with(&format!("GET /{} HTTP/1.1", "x".repeat(70_000))), "HTTP/1.1 4*"),
        ("huge header", with(&format!("GET / HTTP/1.1\r\nX: {}", "x".repeat(200_000))), "HTTP/1.1 431 Request Header Fields Too Large"),
        ("many headers", with(&format!("GET / HTTP/1.1{}", "\r\nX: y".repeat(1000))), "HTTP/1.1 431 Request Header Fields Too Large"),
        ("a header without a name", with("GET / HTTP/1.1\r\n: x"), "HTTP/1.1 400 Bad Request"),
        ("two lengths", with("GET / HTTP/1.1\r\nContent-Length: 1\r\nContent-Length: 2"), "HTTP/1.1 400 Bad Request"),
        ("length below zero", with("GET / HTTP/1.1\r\nContent-Length: -1"), "HTTP/1.1 400 Bad Request"),
        ("another version", with("GET / HTTP/7.3"), "HTTP/1.1 400 Bad Request"),
        ("no version", b"GET /\r\n\r\n".to_vec(), "HTTP/1.1 400 Bad Request"),
        ("HTTP/2", b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_vec(), "*"),
        ("TLS", b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03".to_vec(), "HTTP/1.1 400 Bad Request"),
        ("garbage", (0..=255).rev().cycle().take(100_000).collect(), "HTTP/1.1 400 Bad Request"),
        ("nothing", vec![], ""),
        ("half a request", b"GET /metrics HT".to_vec(), ""),
    ];
    let mut checked = Cases::default();
    for (name, request, golden) in &cases {
        checked.check(
            name,
            golden,
            exporter.send(request).lines().next().unwrap_or_default(),
        );
    }
    checked.finish(18, cases.len());
    assert!(
        exporter.get("/-/healthy").starts_with("HTTP/1.1 200"),
        "it still serves"
    );
    assert_eq!(exporter.logged("panicked"), [""; 0]);
}

/// The rounds take 100 ms, so a message that was logged in each round would appear many times.
#[test]
fn what_lasts_is_logged_once_with_broker_collector_and_reason() {
    let host = Host::new();
    host.properties("broker.id=7\nzookeeper.connect=z\nlog.dirs=/data\nlisteners=ODD://:1\n");
    host.broker(88);
    let config = host.folder.path().join("config.yml");
    let pid_file = host.folder.path().join("88.pid");
    fs::write(&pid_file, "88\n").unwrap();
    let text = format!(
        "intervals: {{process: 100ms, discovery: 100ms, cluster: 100ms}}\nbrokers:\n  - match: {{id: 4711}}\n  \
         - match: {{pid_file: /nowhere/broker.pid}}\n  - match: {{pid_file: {}}}\n    bootstrap: 127.0.0.1:1\n",
        pid_file.display()
    );
    host.write("limits", "garbage");
    let command = host.exporter_with(&text);
    let exporter = Exporter::start(command);
    let once = [
        "WARN brokers[0] of the config file matches no broker that runs on this host: id 4711; start that broker, or mend or remove the entry",
        "WARN pid file /nowhere/broker.pid: does not exist; is the broker down?",
        "WARN 2 brokers of this host have the id 7; their label `broker` is: 7@1 (pid 77), 7@9092 (pid 88)",
        "INFO found a broker broker=\"7@1\" pid=77 version=\"2.8.2\"",
        "WARN broker 7 (pid 88): nothing listens on 127.0.0.1:1: ",
        "limits is not in the form that Linux writes (no Max open files) broker=\"7@1\" collector=\"process\" reason=\"protocol\"",
        "name a PLAINTEXT one as `probe_listener` in the config broker=\"7@1\" collector=\"cluster\" reason=\"unsupported\"",
    ];
    for text in once {
        wait_for(text, || !exporter.logged(text).is_empty());
    }
    for text in [
        "brokers[0] of the config file",
        "/nowhere/broker.pid",
        "2 brokers of this host",
        "no Max open files",
    ] {
        wait_for(&format!("{text} on the page"), || {
            exporter.get("/").contains(text)
        });
    }
    host.write("limits", "Max open files  1000  2000  files\n");
    fs::write(&config, "").unwrap();
    let again = "INFO the collector works again broker=\"7@1\" collector=\"process\"";
    wait_for(again, || !exporter.logged(again).is_empty());
    fs::remove_dir_all(host.path("")).unwrap();
    let gone = "WARN the broker's process 77 has ended broker=\"7@1\"";
    wait_for(gone, || !exporter.logged(gone).is_empty());
    let unique = "INFO no longer so: 2 brokers of this host have the id 7";
    wait_for(unique, || !exporter.logged(unique).is_empty());
    assert_eq!(
        exporter.logged("has ended or was restarted"),
        [""; 0],
        "its end is logged once"
    );
    for text in once.into_iter().chain([again, gone, unique]) {
        assert_eq!(exporter.logged(text).len(), 1, "{text}");
    }
}

/// The lack of fds lasts as long as a client holds the connections, so a line for each attempt would fill the log's disk.
#[test]
fn running_out_of_fds_is_logged_once() {
    let host = Host::without_brokers();
    let mut command = Command::new("prlimit");
    command
        .args(["--nofile=40", EXE, "--path.procfs"])
        .arg(host.folder.path());
    let exporter = Exporter::start(command);
    let held: Vec<TcpStream> = (0..60)
        .map(|_| TcpStream::connect(exporter.address).unwrap())
        .collect();
    let refusal = "WARN cannot accept connections";
    wait_for(refusal, || !exporter.logged(refusal).is_empty());
    // Enough time for many more attempts.
    std::thread::sleep(Duration::from_millis(500));
    drop(held);
    let again = "accepted again";
    wait_for(again, || !exporter.logged(again).is_empty());
    let log = exporter.logged("accept");
    assert!(
        log[0].contains(refusal) && log[1].contains(again),
        "{log:#?}"
    );
}

#[test]
fn a_full_disk_under_the_log_ends_nothing() {
    let host = Host::new();
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    drop(listener);
    let full = fs::OpenOptions::new()
        .write(true)
        .open("/dev/full")
        .unwrap();
    let mut command = host.exporter();
    command
        .arg(format!("--web.listen-address={address}"))
        .stderr(full);
    let mut exporter = Guard(command.spawn().unwrap());
    // When it is ready, it has logged that it listens and that it found a broker.
    wait_for("it to be ready", || {
        assert!(exporter.0.try_wait().unwrap().is_none(), "it ended");
        TcpStream::connect(address).is_ok() && get(address, "/-/ready").starts_with("HTTP/1.1 200")
    });
}

/// Each limit ends the exporter, or lets it run; it never panics or aborts.
#[test]
fn low_limits_of_processes_and_memory_are_messages() {
    if !rustix::process::geteuid().is_root() {
        return skip(
            "low_limits_of_processes_and_memory_are_messages",
            "needs root",
        );
    }
    let folder = tempfile::Builder::new()
        .permissions(PermissionsExt::from_mode(0o755))
        .tempdir()
        .unwrap();
    let exe = folder.path().join("kafka-vitals");
    fs::copy(EXE, &exe).unwrap();
    // No other test has this user, whose processes count.
    let limited = |limit: &str| {
        let mut command = Command::new("setpriv");
        command
            .args([
                "--reuid=64990",
                "--regid=64990",
                "--clear-groups",
                "prlimit",
                limit,
            ])
            .arg(&exe);
        command
    };
    let refused = [
        (
            "--nproc=1",
            "kafka-vitals: no thread can be started: Resource temporarily unavailable (os error 11); raise the limit of processes (ulimit -u, TasksMax=): *",
        ),
        (
            "--as=67108864",
            "kafka-vitals: the limit of address space is 64 MiB, but 384 MiB are needed: raise it (ulimit -v, LimitAS=), *",
        ),
    ];
    for (limit, golden) in refused {
        let output = limited(limit).output().unwrap();
        let text = String::from_utf8_lossy(&output.stderr);
        assert!(crate::is_golden(golden, &text), "{limit}: {text}");
        assert_eq!(output.status.code(), Some(1), "{limit}");
    }
    for limit in ["--nproc=2", "--nproc=3"] {
        let exporter = Exporter::start(limited(limit));
        let why = "no thread can be started: Resource temporarily unavailable (os error 11); raise the limit of processes";
        wait_for(why, || !exporter.logged(why).is_empty());
        assert!(exporter.get("/-/healthy").starts_with("HTTP/1.1 200"));
    }
    let exporter = Exporter::start({
        let mut enough = Command::new("prlimit");
        enough.arg("--as=402653184").arg(EXE);
        enough
    });
    wait_for("its first round", || {
        exporter.get("/-/ready").starts_with("HTTP/1.1 200")
    });
}

/// The exporter may not read the files of a real process that looks like a broker.
#[test]
fn log_page_and_metric_name_the_right_that_another_user_lacks() {
    if !rustix::process::geteuid().is_root() {
        return skip(
            "log_page_and_metric_name_the_right_that_another_user_lacks",
            "needs root",
        );
    }
    // Other tests start what looks like brokers of `nobody`, which would then come before this one.
    let _alone = crate::MEASURED.lock();
    let folder = tempfile::Builder::new()
        .permissions(PermissionsExt::from_mode(0o755))
        .tempdir()
        .unwrap();
    // The user `nobody` can run the copy; the build's folder may be closed to it.
    let exe = folder.path().join("kafka-vitals");
    assert!(
        Command::new("cp")
            .arg(EXE)
            .arg(&exe)
            .status()
            .unwrap()
            .success()
    );
    fs::write(folder.path().join("kafka.Kafka"), "read -r line\n").unwrap();
    fs::write(folder.path().join("server.properties"), "broker.id=7\n").unwrap();
    let mut broker = Command::new("bash");
    broker
        .args(["-c", "exec -a java sh kafka.Kafka server.properties"])
        .current_dir(folder.path())
        .stdin(Stdio::piped());
    let broker = Guard(broker.spawn().unwrap());
    let pid = broker.0.id();
    wait_for("the broker's own command line", || {
        fs::read(format!("/proc/{pid}/cmdline")).unwrap()
            == b"java\0kafka.Kafka\0server.properties\0"
    });
    let config = folder.path().join("config.yml");
    fs::write(&config, "").unwrap();
    fs::set_permissions(&config, PermissionsExt::from_mode(0o600)).unwrap();
    let as_nobody = || {
        let mut command = Command::new("setpriv");
        command
            .args(["--reuid=65534", "--regid=65534", "--clear-groups"])
            .arg(&exe)
            .arg("--config.file")
            .arg(&config);
        command
    };
    let output = as_nobody().arg("--config.check").output().unwrap();
    let golden = "config.yml: Permission denied (os error 13); check the path and that uid 65534 may read it\n";
    assert!(
        String::from_utf8_lossy(&output.stderr).ends_with(golden),
        "{output:?}"
    );
    assert_eq!(output.status.code(), Some(2));
    fs::set_permissions(&config, PermissionsExt::from_mode(0o644)).unwrap();
    fs::write(
        &config,
        "intervals: {process: 100ms, discovery: 100ms, cluster: 100ms, threads: 100ms, fds: 100ms}\n",
    )
    .unwrap();
    let exporter = Exporter::start(as_nobody());
    // One cause, one warning, with a remedy that opens everything. Other brokers of the host are in it as well.
    let lacks = "lacks CAP_SYS_PTRACE, CAP_DAC_READ_SEARCH, CAP_SETUID, CAP_SETGID for the brokers";
    let warning =
        format!("WARN kafka-vitals runs as uid 65534 gid 65534 and {lacks} of uid 0 gid 0 (");
    wait_for(&warning, || !exporter.logged(&warning).is_empty());
    let remedy = "run it as their user and group (User= and Group= of its systemd unit), or give it these capabilities";
    let warned = exporter.logged(&warning);
    assert!(
        warned.iter().all(|line| line.contains(remedy)),
        "{warned:?}"
    );
    // Failed dumps are counted. By the fifth, the other rounds have failed several times too.
    let failures = format!(
        "kafka_vitals_thread_dump_failures_total{{broker=\"pid-{pid}\",reason=\"denied\"}} "
    );
    let dumps = || {
        exporter
            .get("/metrics")
            .lines()
            .find_map(|line| line.strip_prefix(&failures)?.parse::<f64>().ok())
    };
    wait_for("five dumps", || dumps().is_some_and(|dumps| dumps >= 5.0));
    let of_broker = format!("broker=\"pid-{pid}\"");
    let warnings = exporter.logged(" WARN ");
    let of_broker: Vec<_> = warnings
        .iter()
        .filter(|line| line.contains(&of_broker))
        .collect();
    assert_eq!(of_broker, [""; 0], "one warning stands for all");
    // Any one reading can be late on a busy machine.
    wait_for("the rights in each answer", || {
        let pages = ["/", "/check", "/api/v1/brokers"].map(|path| exporter.get(path));
        pages.iter().all(|page| page.matches(lacks).count() == 1)
    });
    let page = exporter.get("/");
    let own = page
        .split(&format!("<span>Broker pid-{pid}</span>"))
        .nth(1)
        .unwrap();
    let own = own.split("</section>").next().unwrap();
    assert!(
        own.contains("<strong>what its files say, file handles by kind, "),
        "{own}"
    );
    assert_eq!(own.matches(" lacks CAP_").count(), 1, "{own}");
    let lines = [("fds", 0), ("threads", 0), ("process", 1)].map(|(collector, value)| {
        format!(
            "kafka_vitals_collector_success{{broker=\"pid-{pid}\",collector=\"{collector}\"}} {value}\n"
        )
    });
    wait_for(&lines.concat(), || {
        let metrics = exporter.get("/metrics");
        lines.iter().all(|line| metrics.contains(line))
    });
}
