//! Brokers in containers (pid, mount, network and user namespaces and a `/tmp` of their own) and of other users.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod support;

use std::fs;
use std::net::{Ipv4Addr, TcpListener};
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use lab::{Cell, Cluster, ClusterOptions, cli_tools};
use support::agree::{agree, is_of_pulse};
use support::tools::{Readings, connections_in_ss};
use support::versions::{FAST_ROUNDS, collectors, fast_exporter, java_version};
use support::{Exporter, skip, wait_for};

const NOBODY: u32 = 65534;
const THIRD: u32 = 65533;

/// The JVM is pid 1 and root in its container, and its working folder is nobody else's, as with Docker and Podman.
const JAVA_OF_A_CONTAINER: &str = "#!/bin/sh\ncd /tmp\nexec unshare --user --map-root-user --pid --mount --mount-proc --fork --kill-child=KILL -- java \"$@\"\n";

/// Why no containers can be made here.
fn refusal(outer: &Cell) -> Option<&'static str> {
    if !outer.isolated() {
        return Some("may not make namespaces");
    }
    let run = |user: u32| {
        let user = user.to_string();
        let mut command = Command::new("setpriv");
        command.args([
            "--reuid",
            &user,
            "--regid",
            &user,
            "--clear-groups",
            "unshare",
            "--user",
            "--map-root-user",
        ]);
        command.args(["--pid", "--mount", "--mount-proc", "--fork", "true"]);
        outer
            .run_tool(command, Duration::from_secs(10))
            .unwrap()
            .status
            .success()
    };
    (!run(0) || !run(NOBODY)).then_some("may not make user namespaces")
}

/// A broker with id 1 in a container of its own.
struct Container {
    cell: Cell,
    cluster: Cluster,
    label: String,
    /// The JVM's pid for the host, the exporter, the container's network, and itself.
    pids: Vec<u32>,
}

impl Container {
    fn start(outer: &Cell, version: &str, user: Option<u32>) -> Container {
        let cell = Cell::within(outer).unwrap();
        let java = Path::new("/tmp/java");
        fs::write(cell.host_path(java), JAVA_OF_A_CONTAINER).unwrap();
        fs::set_permissions(cell.host_path(java), fs::Permissions::from_mode(0o755)).unwrap();
        let cluster = Cluster::start(ClusterOptions {
            brokers: vec![1],
            java: Some(java.to_path_buf()),
            user,
            cell: Some(cell.clone()),
            ..ClusterOptions::new(version)
        })
        .unwrap();
        cluster.create_topic("orders", 6, 1).unwrap();
        let broker = cluster.broker(1).unwrap();
        let starter = broker.pid().unwrap();
        let jvm = fs::read_to_string(format!("/proc/{starter}/task/{starter}/children")).unwrap();
        let status = fs::read_to_string(format!("/proc/{}/status", jvm.trim())).unwrap();
        let pids = status
            .lines()
            .find_map(|line| line.strip_prefix("NSpid:"))
            .unwrap();
        let pids: Vec<u32> = pids
            .split_whitespace()
            .map(|pid| pid.parse().unwrap())
            .collect();
        assert_eq!((pids.len(), pids[3]), (4, 1), "{pids:?}");
        let label = format!("1@{}", broker.port());
        Container {
            cell,
            cluster,
            label,
            pids,
        }
    }

    /// Found, read through its root, attached to, its sockets read; nothing of the wrong network asked.
    fn is_told(&self, exporter: &Exporter) {
        let label = &self.label;
        let metrics = exporter.metrics();
        let (version, java) = (self.cluster.version().name, java_version(Path::new("java")));
        let (mode, roles) = if self.cluster.zookeeper().is_some() {
            ("zookeeper", "broker")
        } else {
            ("kraft", "broker,controller")
        };
        let info = format!(
            "broker_info{{broker=\"{label}\",kafka_version=\"{version}\",java_version=\"{java}\",mode=\"{mode}\",roles=\"{roles}\",pid=\"{}\"}}",
            self.pids[1]
        );
        assert_eq!(
            metrics.get(&info),
            Some(1.0),
            "{info} in\n{}",
            exporter.scrape()
        );
        let of = |name: &str| metrics.get(&format!("{name}{{broker=\"{label}\"}}"));
        assert_eq!(of("deadlock_detected"), Some(0.0));
        assert_eq!(of("leader_partitions"), None);
        let queue = |name: &str| {
            let series =
                format!("accept_queue_{name}{{broker=\"{label}\",listener=\"PLAINTEXT\"}}");
            metrics.get(&series)
        };
        assert_eq!((queue("length"), queue("limit")), (Some(0.0), None));

        let handles = || {
            let folder = cli_tools::open_handles(self.pids[0]).unwrap() as u64;
            Readings::from([(format!("open_file_handles{{broker=\"{label}\"}}"), folder)])
        };
        agree(exporter, "handles", &[label], handles);
        for (reading, pulse) in [("sockets", true), ("connections", false)] {
            agree(exporter, reading, &[label], || {
                let all = self.connections_by_ss().into_iter();
                all.filter(|(series, _)| is_of_pulse(series) == pulse)
                    .collect()
            });
        }
    }

    fn connections_by_ss(&self) -> Readings {
        let mut ss = Command::new("ss");
        ss.args(["--no-header", "--tcp", "--all", "--numeric", "--processes"]);
        let output = self.cell.run_tool(ss, Duration::from_secs(10)).unwrap();
        let ports = self.cluster.broker(1).unwrap().ports().to_vec();
        let text = String::from_utf8(output.stdout).unwrap();
        let readings = connections_in_ss(&text, &[(1, self.pids[2], ports)], None).into_iter();
        let labelled =
            |series: String| series.replace("broker=\"1\"", &format!("broker=\"{}\"", self.label));
        readings
            .map(|(series, count)| (labelled(series), count))
            .collect()
    }
}

#[test]
fn brokers_with_equal_ids_and_pids_in_containers_are_told() {
    let outer = Cell::new().unwrap();
    if let Some(reason) = refusal(&outer) {
        return skip(
            "brokers_with_equal_ids_and_pids_in_containers_are_told",
            reason,
        );
    }
    // One of root, as with Docker; one of another user, as with rootless Podman.
    let first = Container::start(&outer, "0.10.1.0", None);
    let mut second = Container::start(&outer, "4.3.0", Some(NOBODY));
    while second.label == first.label {
        second = Container::start(&outer, "4.3.0", Some(NOBODY));
    }
    // What is at their addresses in the exporter's network is somebody else.
    let others: Vec<TcpListener> = [&first, &second]
        .map(|container| {
            let port = container.cluster.broker(1).unwrap().port();
            outer
                .in_network(|| TcpListener::bind((Ipv4Addr::LOCALHOST, port)).unwrap())
                .unwrap()
        })
        .into();
    let exporter = fast_exporter(&outer);
    wait_for(
        "all but the cluster to be read",
        Duration::from_secs(30),
        || {
            let metrics = exporter.metrics();
            [&first, &second].iter().all(|container| {
                let told = collectors(&metrics.0, &container.label);
                let asked = |name: &str| ["cluster", "probes"].contains(&name);
                told.len() >= 8
                    && told
                        .iter()
                        .all(|(name, success)| (*success == 1.0) != asked(name))
            })
        },
    );
    let page = exporter.page();
    for container in [&first, &second] {
        let port = container.cluster.broker(1).unwrap().port();
        let reason = format!("so 127.0.0.1:{port} here is not its listener PLAINTEXT");
        assert!(
            page.contains(&reason) && page.contains("brokers[].bootstrap"),
            "{reason} in {page}"
        );
        container.is_told(&exporter);
    }
    for other in others {
        other.set_nonblocking(true).unwrap();
        assert_eq!(
            other.accept().unwrap_err().kind(),
            std::io::ErrorKind::WouldBlock,
            "nobody may come"
        );
    }
}

/// Where another user finds the exporter; the folder of the build may be closed to it.
fn exporter_for_others(cell: &Cell) -> PathBuf {
    let inside = PathBuf::from("/tmp/kafka-vitals");
    // By another process: a descriptor open for writing here could be inherited and forbid to run the copy.
    let copied = Command::new("cp")
        .arg(env!("CARGO_BIN_EXE_kafka-vitals"))
        .arg(cell.host_path(&inside))
        .status();
    assert!(copied.unwrap().success());
    fs::write(cell.host_path(Path::new("/tmp/rounds.yml")), FAST_ROUNDS).unwrap();
    inside
}

/// An exporter with the rights that `setpriv` leaves it, once all collectors of the one broker have told; the broker's
/// label, and the collectors that failed.
fn told_to(cell: &Cell, program: &Path, setpriv: &[&str]) -> (Exporter, String, Vec<String>) {
    let exporter = Exporter::start_with(cell, "", |command| {
        let mut other = Command::new("setpriv");
        other
            .args(setpriv)
            .arg(program)
            .args(command.get_args())
            .arg("--config.file=/tmp/rounds.yml");
        other.current_dir("/").stdin(Stdio::null());
        *command = other;
    });
    let (mut label, mut failed) = (String::new(), Vec::new());
    wait_for("all collectors to tell", Duration::from_secs(30), || {
        let metrics = exporter.metrics().0;
        let mut infos = metrics
            .keys()
            .filter_map(|series| series.strip_prefix("broker_info{broker=\""));
        label = infos
            .next()
            .and_then(|series| series.split('"').next())
            .unwrap_or_default()
            .to_owned();
        let told = collectors(&metrics, &label);
        failed = told
            .iter()
            .filter(|(_, success)| **success != 1.0)
            .map(|(name, _)| name.clone())
            .collect();
        [
            "cluster",
            "connections",
            "handles",
            "log_dirs",
            "probes",
            "process",
            "sockets",
            "threads",
        ]
        .iter()
        .all(|name| told.contains_key(*name))
    });
    (exporter, label, failed)
}

/// The table of rights in the README.
#[test]
fn a_broker_of_another_user_is_told_as_far_as_the_rights_go() {
    let name = "a_broker_of_another_user_is_told_as_far_as_the_rights_go";
    if !rustix::process::geteuid().is_root() {
        return skip(name, "needs root");
    }
    let cell = Cell::new().unwrap();
    if !cell.isolated() {
        return skip(name, "may not make namespaces");
    }
    let options = ClusterOptions {
        brokers: vec![1],
        user: Some(NOBODY),
        cell: Some(cell.clone()),
        ..ClusterOptions::new("0.10.1.0")
    };
    let cluster = Cluster::start(options).unwrap();
    cluster.create_topic("orders", 6, 1).unwrap();
    let (jvm, pid) = (
        cluster.broker(1).unwrap().pid().unwrap(),
        cluster.broker(1).unwrap().cell_pid().unwrap(),
    );
    let program = exporter_for_others(&cell);
    let (same, third) = (NOBODY.to_string(), THIRD.to_string());
    let as_same = ["--reuid", &same, "--regid", &same, "--clear-groups"];
    let as_third = ["--reuid", &third, "--regid", &third, "--clear-groups"];
    let traces = ["--inh-caps=+sys_ptrace", "--ambient-caps=+sys_ptrace"];
    let traces_and_reads = [
        "--inh-caps=+sys_ptrace,+dac_read_search",
        "--ambient-caps=+sys_ptrace,+dac_read_search",
    ];
    let rows: [(Vec<&str>, &[&str], &[&str]); 5] = [
        (vec!["--clear-groups"], &[], &[]),
        (as_same.to_vec(), &[], &[]),
        (
            [&as_third[..], &traces_and_reads[..]].concat(),
            &["threads"],
            &["CAP_SETUID, CAP_SETGID and CAP_SYS_PTRACE"],
        ),
        (
            [&as_third[..], &traces[..]].concat(),
            &["connections", "handles", "threads"],
            &[
                "/fd may not be read by uid 65533",
                "or give it CAP_SYS_PTRACE and CAP_DAC_READ_SEARCH",
            ],
        ),
        (
            as_third.to_vec(),
            &[
                "cluster",
                "connections",
                "handles",
                "log_dirs",
                "probes",
                "sockets",
                "threads",
            ],
            &[
                "/root may not be read by uid 65533",
                "id, versions, listeners and log folders unknown",
            ],
        ),
    ];
    for (setpriv, unknown, reasons) in rows {
        let (exporter, label, failed) = told_to(&cell, &program, &setpriv);
        assert_eq!(failed, unknown, "{setpriv:?}: {}", exporter.page());
        assert_eq!(
            label,
            if unknown.contains(&"cluster") {
                format!("pid-{pid}")
            } else {
                "1".to_owned()
            }
        );
        let page = exporter.page();
        for reason in reasons {
            assert!(page.contains(reason), "{setpriv:?}: {reason} in {page}");
        }
        // Whatever the rights: the version, the process and the number of its handles.
        assert!(
            exporter.scrape().contains("kafka_version=\"0.10.1.0\""),
            "{setpriv:?}"
        );
        let series = format!("open_file_handles{{broker=\"{label}\"}}");
        if unknown.contains(&"handles") {
            // The size of the folder: the JVM's thread that waits for attaches has taken one that no entry shows.
            wait_for("the handles to be counted", Duration::from_secs(30), || {
                let (entries, told) = (
                    cli_tools::open_handles(jvm).unwrap() as f64,
                    exporter.metrics().get(&series),
                );
                [Some(entries), Some(entries + 1.0)].contains(&told)
            });
        } else {
            let folder =
                || Readings::from([(series.clone(), cli_tools::open_handles(jvm).unwrap() as u64)]);
            agree(&exporter, "handles", &[&label], folder);
        }
        // A row of unknown readings is a row of absent series.
        let metrics = exporter.metrics();
        for (collector, series) in [
            (
                "threads",
                format!("deadlock_detected{{broker=\"{label}\"}}"),
            ),
            (
                "cluster",
                format!("leader_partitions{{broker=\"{label}\"}}"),
            ),
            (
                "handles",
                format!("file_handles{{broker=\"{label}\",kind=\"socket\"}}"),
            ),
            (
                "sockets",
                format!("connections{{broker=\"{label}\",role=\"server\",state=\"close_wait\"}}"),
            ),
            (
                "connections",
                format!("connections{{broker=\"{label}\",role=\"client\",state=\"established\"}}"),
            ),
        ] {
            assert_eq!(
                metrics.get(&series).is_none(),
                unknown.contains(&collector),
                "{setpriv:?}: {series}"
            );
        }
    }
}
