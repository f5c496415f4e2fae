//! The metadata log of real KRaft nodes, read without a request, says what `kafka-topics` says at the same moment.
use std::collections::BTreeMap;
use std::fs;
use std::sync::Arc;
use std::time::{Duration, Instant};

use kafka_vitals::collect::frame::BlockingCollector as _;
use kafka_vitals::collect::metadata_log::{MetadataLogs, Update};
use kafka_vitals::discover::Discovery;
use kafka_vitals::model::{Broker, Clock, ClusterCounts, MetadataLog};
use kafka_vitals::sys::proc::ProcRoot;
use lab::cli_tools::described_partitions;
use lab::client::Partition;
use lab::security::{Listener, Security};
use lab::{Cluster, ClusterOptions};

use super::{Exporter, byteman, wait_for};

/// What the tools, and brokers that start, may take on a busy machine.
const PATIENCE: Duration = Duration::from_secs(120);
/// From the change of an ISR to its count on `/metrics`.
const SEEN_WITHIN: Duration = Duration::from_secs(2);
/// As many as a broker has followers.
const HANDLERS: &str = "2";

/// The logs of a cluster's nodes.
struct Logs(BTreeMap<i32, MetadataLogs>);

impl Logs {
    /// Follows those of the nodes that run, each from its newest snapshot on.
    fn follow(cluster: &Cluster) -> Logs {
        let proc = ProcRoot::new("/proc");
        let found = Discovery::new(proc.clone(), Vec::new()).scan().unwrap();
        let running = cluster.nodes().iter().filter_map(|node| node.pid().ok());
        let follow = |pid| {
            let mut brokers = found.iter();
            let broker: &Arc<Broker> = brokers.find(|broker| broker.process.pid == pid).unwrap();
            assert_eq!(broker.cluster_id.as_deref(), Some("4L6g3nShT-eMCtK--X86sw"));
            let logs = MetadataLogs::of(&proc, broker, Clock::start());
            (broker.id.unwrap(), logs)
        };
        Logs(running.map(follow).collect())
    }

    /// Reads the log of each node to its end; None while one is not there yet.
    fn read(&mut self) -> Option<BTreeMap<i32, MetadataLog>> {
        let read = |(id, logs): (&i32, &mut MetadataLogs)| match logs.collect().unwrap().update {
            Update::Read(log) => Some((*id, *log)),
            Update::CatchingUp => None,
        };
        self.0.iter_mut().map(read).collect()
    }

    #[track_caller]
    fn wait_for(&mut self, what: &str, holds: impl Fn(&MetadataLog) -> bool) {
        wait_for(what, PATIENCE, || {
            self.read().is_some_and(|read| read.values().all(&holds))
        });
    }
}

/// What is compared. Each broker counts the partitions that it leads, so the sum is that of the cluster.
#[derive(Debug, PartialEq, Eq, Clone)]
struct Counts {
    partitions: usize,
    leaders: BTreeMap<i32, usize>,
    /// Topic, partition. Of those that have a leader, as all that follow but `unavailable` and `under_min_isr`.
    under_replicated: Vec<(String, i32)>,
    unavailable: Vec<(String, i32)>,
    under_min_isr: usize,
    at_min_isr: usize,
    reassigning: usize,
    brokers: Vec<i32>,
}

/// None while the nodes do not know the same.
fn counted(logs: &BTreeMap<i32, MetadataLog>) -> Option<Counts> {
    let counts = logs
        .iter()
        .map(|(id, log)| Some((*id, log.counts.as_ref()?)));
    let counts = counts.collect::<Option<BTreeMap<i32, &ClusterCounts>>>()?;
    let first = *counts.values().next()?;
    let sum = |of: fn(&ClusterCounts) -> u64| counts.values().map(|c| of(c)).sum::<u64>() as usize;
    let leaders = counts.iter().filter(|(_, counts)| counts.leader > 0);
    let listed = |with_leader: bool| {
        let all = counts
            .values()
            .flat_map(|c| c.under_replicated_partitions.iter());
        let wanted = all.filter(|state| state.leader.is_some() == with_leader);
        let mut wanted: Vec<_> = wanted
            .map(|state| (state.topic.clone(), state.partition))
            .collect();
        wanted.sort();
        wanted
    };
    let of_all = |c: &ClusterCounts| (c.partitions, c.offline, Arc::clone(&c.live_brokers));
    let agreed = counts
        .values()
        .all(|counts| of_all(counts) == of_all(first));
    let compared = Counts {
        partitions: first.partitions as usize,
        leaders: leaders.map(|(id, c)| (*id, c.leader as usize)).collect(),
        under_replicated: listed(true),
        unavailable: listed(false),
        under_min_isr: sum(|c| c.under_min_isr.unwrap()) + first.offline as usize,
        at_min_isr: sum(|c| c.at_min_isr.unwrap()),
        reassigning: sum(|c| c.reassigning.unwrap()),
        brokers: first.live_brokers.iter().map(|peer| peer.id).collect(),
    };
    assert_eq!(sum(|c| c.under_replicated), compared.under_replicated.len());
    agreed.then_some(compared)
}

fn by_the_tool(cluster: &Cluster) -> Counts {
    let describe = cluster.topics_describe().unwrap();
    let partitions = described_partitions(&describe);
    let mut leaders = BTreeMap::new();
    for partition in &partitions {
        if let Some(leader) = partition.leader {
            *leaders.entry(leader).or_default() += 1;
        }
    }
    let listed = |flag| described_partitions(&cluster.topics(&["--describe", flag]).unwrap());
    let has_leader = |partition: &Partition| partition.leader.is_some();
    let named = |partitions: Vec<Partition>| {
        let named = partitions.into_iter();
        let mut named: Vec<_> = named
            .map(|partition| (partition.topic, partition.partition))
            .collect();
        named.sort();
        named
    };
    let mut under_replicated = listed("--under-replicated-partitions");
    under_replicated.retain(has_leader);
    let mut at_min_isr = listed("--at-min-isr-partitions");
    at_min_isr.retain(has_leader);
    // Since Kafka 3.7.0 a leader demands no more replicas than there are, and the tool has the raw number.
    let under_min_isr = listed("--under-min-isr-partitions");
    let is_complete = |one: &&Partition| has_leader(one) && one.isr.len() == one.replicas.len();
    let capped = under_min_isr.iter().filter(is_complete).count();
    let running = cluster.brokers().filter(|node| node.pid().is_ok());
    Counts {
        partitions: partitions.len(),
        leaders,
        under_replicated: named(under_replicated),
        unavailable: named(listed("--unavailable-partitions")),
        under_min_isr: under_min_isr.len() - capped,
        at_min_isr: at_min_isr.len() + capped,
        reassigning: describe.matches("Adding Replicas:").count(),
        brokers: running.map(|node| node.id()).collect(),
    }
}

/// Compares at a time when nothing changes: the logs say the same before and after the tool ran.
#[track_caller]
fn agree(when: &str, cluster: &Cluster, logs: &mut Logs) -> Counts {
    let started = Instant::now();
    loop {
        let before = logs.read().and_then(|logs| counted(&logs));
        let tool = by_the_tool(cluster);
        let after = logs.read().and_then(|logs| counted(&logs));
        if let (Some(before), true) = (&before, before == after) {
            assert_eq!(*before, tool, "{when}");
            println!("{when}: {tool:?}");
            return tool;
        }
        // The tool was started five times.
        assert!(
            started.elapsed() < PATIENCE * 5,
            "{when}: {before:?}, {after:?}"
        );
    }
}

/// Compares with the Metadata of a broker while another one works for nobody, because `kafka-topics` would wait for that one.
#[track_caller]
fn agree_with_metadata(cluster: &Cluster, logs: &mut Logs, asked: i32) {
    let started = Instant::now();
    loop {
        let before = logs.read().and_then(|logs| counted(&logs));
        let mut partitions = cluster.metadata(asked).unwrap().partitions;
        let after = logs.read().and_then(|logs| counted(&logs));
        assert!(started.elapsed() < PATIENCE, "{before:?}, {after:?}");
        let (Some(counts), true) = (&before, before == after) else {
            continue;
        };
        partitions.sort_by(|one, other| {
            (&one.topic, one.partition).cmp(&(&other.topic, other.partition))
        });
        let named = |wanted: fn(&Partition) -> bool| -> Vec<_> {
            let wanted = partitions.iter().filter(|one| wanted(one));
            wanted
                .map(|one| (one.topic.clone(), one.partition))
                .collect()
        };
        let short = named(|one| one.leader.is_some() && !one.is_fully_replicated());
        assert_eq!(counts.under_replicated, short);
        assert_eq!(counts.unavailable, named(|one| one.leader.is_none()));
        let mut leaders = BTreeMap::new();
        for leader in partitions.iter().filter_map(|one| one.leader) {
            *leaders.entry(leader).or_default() += 1;
        }
        assert_eq!(counts.leaders, leaders);
        println!("no request handler works: {counts:?}");
        return;
    }
}

/// Kills a broker, and waits for its absence in an ISR of the broker `leader` on `/metrics`. Returns how much later that is
/// than the controller's decision, as the broker `asked` knows it.
fn seen_after(
    cluster: &mut Cluster,
    exporter: &Exporter,
    [killed, leader, asked]: [i32; 3],
) -> Duration {
    cluster.kill(killed).unwrap();
    let series = format!("under_replicated_partitions{{broker=\"{leader}\"}}");
    let mut decided = None;
    let mut seen = None;
    wait_for("the ISR to shrink", PATIENCE, || {
        if decided.is_none() {
            let metadata = cluster.metadata(asked).unwrap();
            let mut led = metadata.partitions.iter();
            let shrunk = led.any(|of| of.leader == Some(leader) && !of.is_fully_replicated());
            decided = shrunk.then(Instant::now);
        }
        if seen.is_none() && exporter.metrics().get(&series).is_some_and(|n| n > 0.0) {
            seen = Some(Instant::now());
        }
        decided.is_some() && seen.is_some()
    });
    seen.unwrap().saturating_duration_since(decided.unwrap())
}

/// Makes all request handlers of a broker wait, 25 s with each request, until [`go_on`].
fn hold_handlers(cluster: &Cluster, id: i32) {
    let hold = format!("/tmp/hold-{id}");
    fs::write(cluster.cell().host_path(hold.as_ref()), "").unwrap();
    let broker = cluster.broker(id).unwrap();
    // The followers' requests come all the time.
    wait_for("all request handlers to wait", PATIENCE, || {
        let log = broker.log().unwrap();
        let waiting = log.matches("lab: a request handler waits").count();
        waiting.to_string() == HANDLERS
    });
}

fn go_on(cluster: &Cluster, id: i32) {
    let hold = format!("/tmp/hold-{id}");
    fs::remove_file(cluster.cell().host_path(hold.as_ref())).unwrap();
}

/// Runs a tool that talks to the brokers; `config` is its flag for a file with a login.
fn admin(cluster: &Cluster, class: &str, config: &str, arguments: &[&str]) -> String {
    let file = cluster
        .command_config()
        .map(|file| file.display().to_string());
    let login = file.as_deref().map_or(vec![], |file| vec![config, file]);
    cluster
        .tool(class, &[&login[..], arguments].concat())
        .unwrap()
}

fn active_controller(cluster: &Cluster) -> i32 {
    let running = cluster.brokers().find(|node| node.pid().is_ok()).unwrap();
    let address = format!("127.0.0.1:{}", running.port());
    let arguments = ["--bootstrap-server", &address, "describe", "--status"];
    let tool = "org.apache.kafka.tools.MetadataQuorumCommand";
    let status = admin(cluster, tool, "--command-config", &arguments);
    let leader = status
        .lines()
        .find_map(|line| line.strip_prefix("LeaderId:"));
    leader.unwrap().trim().parse().unwrap()
}

/// Gives a partition with one replica three, so slowly that it lasts.
struct Moving {
    address: String,
    plan: String,
}

impl Moving {
    fn start(cluster: &Cluster) -> Moving {
        let broker = cluster.broker(1).unwrap();
        let address = format!("127.0.0.1:{}", broker.port());
        let bootstrap = format!("bootstrap.servers={address}");
        // Some MB in each of its partitions.
        let produce = [
            "--topic",
            "single",
            "--num-records",
            "6000",
            "--record-size",
            "1000",
        ];
        let how = ["--throughput", "-1", "--producer-props", &bootstrap];
        let tool = "org.apache.kafka.tools.ProducerPerformance";
        admin(
            cluster,
            tool,
            "--producer.config",
            &[&produce[..], &how[..]].concat(),
        );
        let inside = broker.folder().join("plan.json");
        let plan =
            r#"{"version":1,"partitions":[{"topic":"single","partition":0,"replicas":[1,2,3]}]}"#;
        fs::write(cluster.cell().host_path(&inside), plan).unwrap();
        let plan = inside.display().to_string();
        let moving = Moving { address, plan };
        moving.run(cluster, 1);
        moving
    }

    /// With so many bytes a second.
    fn run(&self, cluster: &Cluster, throttle: u64) {
        let throttle = throttle.to_string();
        let arguments = [
            "--bootstrap-server",
            &self.address,
            "--reassignment-json-file",
            &self.plan,
            "--execute",
            "--additional",
            "--throttle",
            &throttle,
        ];
        let tool = "org.apache.kafka.tools.reassign.ReassignPartitionsCommand";
        admin(cluster, tool, "--command-config", &arguments);
    }
}

/// With listeners of this kind alone. The exporter has no credentials.
pub fn logs_say_what_the_tool_says(version: &str, security: Security) {
    let properties = [
        ("metadata.log.max.record.bytes.between.snapshots", "3000"),
        ("metadata.log.segment.ms", "4000"),
        ("metadata.max.retention.ms", "10000"),
        ("metadata.max.retention.bytes", "4000"),
        // Else leaders move while the tools run.
        ("auto.leader.rebalance.enable", "false"),
        // One batch at a time, for the reassignment that lasts.
        ("replica.fetch.max.bytes", "1024"),
        ("num.io.threads", HANDLERS),
    ];
    let properties = properties.map(|(key, value)| (key.to_owned(), value.to_owned()));
    let mut cluster = Cluster::start(ClusterOptions {
        properties: properties.to_vec(),
        listeners: vec![Listener::new(security)],
        jvm_options: vec![byteman("waiting-handlers.btm")],
        ..ClusterOptions::new(version)
    })
    .unwrap();
    let exporter = Exporter::start(cluster.cell());
    cluster.create_topic("orders", 6, 3).unwrap();
    cluster.create_topic("single", 3, 1).unwrap();
    let min_isr = ["min.insync.replicas=2"];
    cluster.create_topic_with("pair", 4, 2, &min_isr).unwrap();
    let mut logs = Logs::follow(&cluster);
    let healthy = agree("healthy", &cluster, &mut logs);
    assert_eq!(
        (&healthy.under_replicated[..], healthy.at_min_isr),
        (&[][..], 7)
    );

    cluster
        .topics(&["--create", "--topic", "gone", "--partitions", "3"])
        .unwrap();
    cluster.topics(&["--delete", "--topic", "gone"]).unwrap();
    let same = agree("after a topic was deleted", &cluster, &mut logs);
    assert_eq!(same.partitions, healthy.partitions);

    let controller = active_controller(&cluster);
    let [victim, asked] = match controller {
        3 => [2, 1],
        2 => [3, 1],
        _ => [3, 2],
    };
    hold_handlers(&cluster, asked);
    let delay = seen_after(&mut cluster, &exporter, [victim, asked, controller]);
    println!("{version}: seen {delay:.1?} after the broker knew it");
    assert!(delay < SEEN_WITHIN, "{delay:?}");
    logs.0.remove(&victim);
    logs.wait_for("the killed broker to be fenced", |log| {
        log.brokers[&victim].fenced
    });
    agree_with_metadata(&cluster, &mut logs, controller);
    assert!(cluster.metadata(asked).is_err(), "its handlers work");
    go_on(&cluster, asked);
    let killed = agree("a broker killed", &cluster, &mut logs);
    assert!(killed.under_replicated.len() >= 6, "{killed:?}");
    assert!(
        killed.unavailable.len() == 1 && killed.under_min_isr > 1,
        "{killed:?}"
    );

    cluster.start_again(victim).unwrap();
    let mut logs = Logs::follow(&cluster);
    logs.wait_for("all replicas to be in sync", |log| {
        log.counts.as_ref().unwrap().under_replicated == 0
    });
    agree("all back", &cluster, &mut logs);

    let moving = Moving::start(&cluster);
    let moved = agree(
        "during a reassignment from 1 to 3 replicas",
        &cluster,
        &mut logs,
    );
    assert_eq!(
        (moved.reassigning, &moved.under_replicated[..]),
        (1, &[][..])
    );
    moving.run(&cluster, 1_000_000_000);
    logs.wait_for("the reassignment to end", |log| {
        log.counts.as_ref().unwrap().reassigning == Some(0)
    });
    agree("after the reassignment", &cluster, &mut logs);

    cluster.kill(controller).unwrap();
    logs.0.remove(&controller);
    logs.wait_for("the controller to be fenced", |log| {
        log.brokers[&controller].fenced
    });
    assert_ne!(active_controller(&cluster), controller);
    agree("another node is the controller", &cluster, &mut logs);
    cluster.start_again(controller).unwrap();
    let mut logs_of_all = Logs::follow(&cluster);
    agree("the controller is back", &cluster, &mut logs_of_all);

    let of_node = |id| {
        let folder = cluster
            .broker(id)
            .unwrap()
            .folder()
            .join("data/__cluster_metadata-0");
        let entries = fs::read_dir(cluster.cell().host_path(&folder)).unwrap();
        let names = entries.map(|entry| entry.unwrap().file_name().into_string().unwrap());
        names.collect::<Vec<_>>()
    };
    wait_for("the first segment to be deleted", PATIENCE, || {
        let names = of_node(asked);
        // Those who follow read what comes meanwhile.
        logs.read();
        names.iter().any(|name| name.ends_with(".checkpoint"))
            && !names.contains(&format!("{:020}.log", 0))
    });
    println!("{:?}", of_node(asked));
    agree("after segments were deleted", &cluster, &mut logs_of_all);
    agree(
        "from the newest snapshot on",
        &cluster,
        &mut Logs::follow(&cluster),
    );
}
