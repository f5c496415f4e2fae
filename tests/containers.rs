//! Brokers in containers: pid, mount, network and user namespaces and a `/tmp` of their own.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod support;

use std::fs;
use std::net::{Ipv4Addr, TcpListener};
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use lab::{Cell, Cluster, ClusterOptions, cli_tools};
use support::agree::{agree, is_of_pulse};
use support::tools::{Readings, connections_in_ss, isr_by_kafka_topics};
use support::versions::{collectors, fast_exporter, java_version};
use support::{Exporter, Metrics, skip, wait_for};

const NOBODY: u32 = 65534;

/// The JVM is pid 1 and root in its container, and its working folder is its own, as with Docker and Podman.
const JAVA_OF_A_CONTAINER: &str = "#!/bin/sh\ncd /tmp\nexec unshare --user --map-root-user --pid --mount --mount-proc --fork --kill-child=KILL -- java \"$@\"\n";

/// Returns why no containers can be made here.
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
        // Of two users with this id, the one that came first has it as its label.
        let label = user.map_or("1", |_| "1@nobody").to_owned();
        Container {
            cell,
            cluster,
            label,
            pids,
        }
    }

    /// The broker is found, read through its root and attached to, and its sockets are read.
    fn is_reported(&self, exporter: &Exporter, metrics: &Metrics) {
        let label = &self.label;
        let (version, java) = (self.cluster.version().name, java_version(Path::new("java")));
        let (mode, roles) = if self.cluster.zookeeper().is_some() {
            ("zookeeper", "broker")
        } else {
            ("kraft", "broker,controller")
        };
        let info = format!(
            "broker_info{{broker=\"{label}\",kafka_version=\"{version}\",java_version=\"{java}\",mode=\"{mode}\",roles=\"{roles}\",pid=\"{}\",",
            self.pids[1]
        );
        assert!(
            metrics.0.keys().any(|series| series.starts_with(&info)),
            "{info} in\n{}",
            exporter.scrape()
        );
        let of = |name: &str| metrics.get(&format!("{name}{{broker=\"{label}\"}}"));
        assert_eq!(of("deadlock_detected"), Some(0.0));
        // Its listener is out of reach, but not the metadata log.
        let led = match self.cluster.zookeeper() {
            Some(_) => None,
            None => isr_by_kafka_topics(&self.cluster)
                .get("leader_partitions{broker=\"1\"}")
                .map(|led| *led as f64),
        };
        assert_eq!(of("leader_partitions"), led);
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
        agree(exporter, "process", &[label], handles);
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
fn brokers_with_equal_ids_and_pids_in_containers_are_reported() {
    let outer = Cell::new().unwrap();
    if let Some(reason) = refusal(&outer) {
        return skip(
            "brokers_with_equal_ids_and_pids_in_containers_are_reported",
            reason,
        );
    }
    // One is root's, as with Docker; the other is another user's, as with rootless Podman.
    let first = Container::start(&outer, "0.10.1.0", None);
    let mut second = Container::start(&outer, "4.3.0", Some(NOBODY));
    let port = |container: &Container| container.cluster.broker(1).unwrap().port();
    while port(&second) == port(&first) {
        second = Container::start(&outer, "4.3.0", Some(NOBODY));
    }
    // Other processes listen at their addresses in the exporter's network.
    let others: Vec<TcpListener> = [&first, &second]
        .map(|container| {
            let port = container.cluster.broker(1).unwrap().port();
            outer
                .in_network(|| TcpListener::bind((Ipv4Addr::LOCALHOST, port)).unwrap())
                .unwrap()
        })
        .into();
    let exporter = fast_exporter(&outer);
    let mut metrics = exporter.metrics();
    wait_for(
        "all but the cluster to be read",
        Duration::from_secs(60),
        || {
            metrics = exporter.metrics();
            [&first, &second].iter().all(|container| {
                let reported = collectors(&metrics.0, &container.label);
                let unreachable = |name: &str| name == "cluster";
                reported.len() >= 8
                    && reported
                        .iter()
                        .all(|(name, success)| (*success == 1.0) != unreachable(name))
            })
        },
    );
    let page = exporter.page();
    for container in [&first, &second] {
        let port = container.cluster.broker(1).unwrap().port();
        let reason = format!("so 127.0.0.1:{port} does not lead to its listener PLAINTEXT");
        assert!(
            page.contains(&reason) && page.contains("brokers[].bootstrap"),
            "{reason} in {page}"
        );
        container.is_reported(&exporter, &metrics);
    }
    for other in others {
        other.set_nonblocking(true).unwrap();
        assert_eq!(
            other.accept().unwrap_err().kind(),
            std::io::ErrorKind::WouldBlock,
            "the exporter connected to another process"
        );
    }
}
