//! The incident as operators have it: three hosts, on each a broker and an exporter that sees this one alone, and a deadlock
//! that nobody ends for ten minutes.

use std::collections::BTreeSet;
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use lab::cli_tools::described_partitions;
use lab::client::{Connection, Member};
use lab::{Cluster, ClusterOptions, Form, deadlock};

use super::support::groups::member;
use super::support::{Exporter, wait_for};

const DEADLOCKED_FOR: Duration = Duration::from_secs(600);
/// From a change of what `kafka-topics` says to the same value in `/metrics`.
const LATEST: Duration = Duration::from_secs(7);
const MOST_HANDLES: usize = 8;
const MOST_HANDLERS: usize = 1;

/// Starts an exporter in a mount namespace where the processes of the other brokers cannot be read, as on another host.
fn beside(cluster: &Cluster, id: i32) -> Exporter {
    let others = cluster.brokers().filter(|broker| broker.id() != id);
    let others: Vec<String> = others
        .map(|broker| broker.cell_pid().unwrap().to_string())
        .collect();
    let hide =
        "for pid in $HIDDEN; do mount -t tmpfs none /proc/$pid || exit 1; done; exec \"$0\" \"$@\"";
    Exporter::start_with(cluster.cell(), "", |command| {
        let mut hidden = Command::new("unshare");
        hidden
            .args(["--mount", "sh", "-c", hide])
            .arg(command.get_program())
            .args(command.get_args())
            .env("HIDDEN", others.join(" "))
            .stdin(std::process::Stdio::null());
        for (name, value) in command.get_envs() {
            match value {
                Some(value) => hidden.env(name, value),
                None => hidden.env_remove(name),
            };
        }
        *command = hidden;
    })
}

/// Clients that commit offsets of their groups, with a new connection after each silence of 5 s: they take every request
/// handler of a deadlocked coordinator, and send none of the requests that the exporter sends.
fn commit_until(stop: &AtomicBool, cluster: &Cluster, port: u16, group: &str) {
    let commits = || {
        while !stop.load(Ordering::Relaxed) {
            let commit = || -> std::io::Result<()> {
                let mut connection = Connection::open(port, Duration::from_secs(5))?;
                loop {
                    connection.commit(&Member::simple(group), deadlock::TOPIC)?;
                    std::thread::sleep(Duration::from_secs(1));
                    if stop.load(Ordering::Relaxed) {
                        return Ok(());
                    }
                }
            };
            // They are impatient, as clients are.
            let _ = commit();
        }
    };
    cluster.cell().in_network(commits).unwrap();
}

struct Stops<'a>(&'a AtomicBool);

impl Drop for Stops<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// Connections to the broker's port that belong to an exporter, by `ss`.
fn handles(cluster: &Cluster, port: u16, exporters: &[Exporter]) -> usize {
    let mut ss = Command::new("ss");
    ss.args(["--no-header", "--tcp", "--numeric", "--processes"])
        .args(["state", "established", "dport", "=", &format!(":{port}")]);
    let output = cluster
        .cell()
        .run_tool(ss, Duration::from_secs(10))
        .unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    let pids: Vec<String> = exporters
        .iter()
        .map(|exporter| format!("pid={},", exporter.process.cell_pid().unwrap()))
        .collect();
    let is_ours = |line: &&str| pids.iter().any(|pid| line.contains(pid));
    text.lines().filter(is_ours).count()
}

/// Request handlers that work on what only exporters ask for, by `jstack`. A Fetch of the exporter looks like that of a
/// follower, so it counts where the exporter says that it owes the answer.
fn handlers(cluster: &Cluster, sick: i32, exporter: &Exporter) -> usize {
    const OURS: [&str; 6] = [
        "handleApiVersions",
        "handleTopicMetadata",
        "handleListGroups",
        "handleDescribeGroup",
        "handleOffsetFetch",
        "handleOffsetRequest",
    ];
    let dump = cluster.jstack(sick).unwrap();
    let threads = dump.split("\n\n");
    let handlers = threads.filter(|thread| thread.starts_with("\"kafka-request-handler"));
    let ours = |thread: &&str| OURS.iter().any(|method| thread.contains(method));
    let fetch = format!("probe_success{{broker=\"{sick}\",path=\"fetch\"}}");
    let fetch = exporter.metrics().get(&fetch) == Some(0.0);
    handlers.filter(ours).count() + usize::from(fetch)
}

/// Partitions that the broker leads, by `kafka-topics`, with fewer replicas in the ISR than assigned.
fn under_replicated(cluster: &Cluster, id: i32) -> f64 {
    let described = described_partitions(&cluster.topics_describe().unwrap());
    let led = described.iter().filter(|one| one.leader == Some(id));
    led.filter(|one| one.isr.len() < one.replicas.len()).count() as f64
}

#[test]
fn ten_minutes_of_deadlock_with_one_exporter_for_each_broker() {
    let cluster = Cluster::start(ClusterOptions::incident()).unwrap();
    cluster.create_topic(deadlock::TOPIC, 32, 3).unwrap();
    let ids: Vec<i32> = cluster.brokers().map(|broker| broker.id()).collect();
    let sick = deadlock::coordinator(&cluster, "mm").unwrap();
    let partition = |name: &str| deadlock::offsets_partition(name, cluster.offsets_partitions());
    let of_sick: Vec<String> = (0..)
        .map(|n| format!("app-{n}"))
        .filter(|name| partition(name) == partition("mm"))
        .take(12)
        .collect();
    let _member = member(&cluster, sick, &of_sick[0], deadlock::TOPIC);
    let exporters: Vec<Exporter> = ids.iter().map(|id| beside(&cluster, *id)).collect();
    let of = |id: i32| &exporters[ids.iter().position(|one| *one == id).unwrap()];
    for id in &ids {
        wait_for(
            "each exporter to see its broker alone",
            Duration::from_secs(60),
            || {
                let metrics = of(*id).metrics();
                let seen: BTreeSet<i32> = ids
                    .iter()
                    .copied()
                    .filter(|seen| metrics.state(*seen, "healthy").is_some())
                    .collect();
                seen == [*id].into()
                    && metrics.state(*id, "healthy") == Some(1.0)
                    && metrics.success(*id, "groups") == Some(true)
                    && metrics.success(*id, "threads") == Some(true)
            },
        );
    }
    let port = cluster.broker(sick).unwrap().port();
    let stop = AtomicBool::new(false);
    std::thread::scope(|scope| {
        // Also where an assertion fails, or the clients would never end.
        let _stops = Stops(&stop);
        for group in &of_sick[1..] {
            let (stop, cluster) = (&stop, &cluster);
            scope.spawn(move || commit_until(stop, cluster, port, group));
        }
        let made = deadlock::make(&cluster, Form::Expire).unwrap();
        assert_eq!(made.broker, sick);
        let begun = Instant::now();
        let (mut most_handles, mut most_handlers, mut latest) = (0, 0, Duration::ZERO);
        let (mut compared, mut next_dump) = (0, begun);
        let mut dead_since = None;
        // The newest figure of the tool, and since when ours is another one.
        let (mut said, mut differs) = (f64::NAN, None);
        while begun.elapsed() < DEADLOCKED_FOR {
            let now_said = under_replicated(&cluster, sick);
            if now_said != said {
                (said, differs) = (now_said, None);
            }
            let since = *differs.get_or_insert_with(Instant::now);
            // While they differ the tool is asked again, because ours may be the newer one.
            let until = Instant::now() + Duration::from_secs(1);
            let mut equal = false;
            while !equal && Instant::now() < until {
                let ours = of(sick).metrics().of("under_replicated_partitions", sick);
                equal = ours == Some(said);
                std::thread::sleep(Duration::from_millis(if equal { 0 } else { 100 }));
            }
            if since.elapsed() > latest {
                latest = since.elapsed();
                println!(
                    "{said} of kafka-topics after {:.1?}, {latest:.1?} later",
                    begun.elapsed()
                );
            }
            if equal {
                (compared, differs) = (compared + 1, None);
            }
            let metrics = of(sick).metrics();
            let dead = metrics.finding(sick, "registered_but_dead", "warning");
            match (dead_since, dead == Some(1.0)) {
                (None, true) => dead_since = Some(begun.elapsed()),
                (Some(since), false) => panic!("{dead:?} after it was there since {since:?}"),
                _ => {}
            }
            let named =
                begun.elapsed() < Duration::from_secs(60) || of(sick).page().contains(&of_sick[0]);
            assert!(named, "{}", of(sick).page());
            most_handles = most_handles.max(handles(&cluster, port, &exporters));
            if Instant::now() >= next_dump {
                most_handlers = most_handlers.max(handlers(&cluster, sick, of(sick)));
                next_dump += Duration::from_secs(30);
            }
            assert!(most_handles <= MOST_HANDLES, "{most_handles} handles");
            assert!(most_handlers <= MOST_HANDLERS, "{most_handlers} handlers");
        }
        println!(
            "{compared} times as kafka-topics, {latest:.1?} later at most; registered_but_dead after {dead_since:.0?}; \
             {most_handles} handles and {most_handlers} handlers at most"
        );
        assert!(latest <= LATEST, "{latest:?} later");
        assert!(dead_since.is_some(), "registered_but_dead");
        assert!(compared > 50, "compared {compared} times");
    });
}
