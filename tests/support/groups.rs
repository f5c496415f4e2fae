//! Consumer groups of real brokers: what the exporter says of them, against `kafka-consumer-groups`.

use std::collections::BTreeMap;
use std::time::Duration;

use lab::Cluster;
use lab::client::{Connection, Member};

use super::{Exporter, Metrics, step, wait_for};

const PATIENCE: Duration = Duration::from_secs(60);
const TOPIC: &str = "orders";

fn bootstrap(cluster: &Cluster) -> String {
    let ports = cluster.brokers().map(|broker| broker.port());
    let addresses: Vec<String> = ports.map(|port| format!("127.0.0.1:{port}")).collect();
    addresses.join(",")
}

/// Runs that version's `kafka-consumer-groups --describe`.
fn describe(cluster: &Cluster, group: &str, more: &[&str]) -> String {
    let old = cluster.version().name.starts_with("0.10");
    let (class, first) = match old {
        true => ("kafka.admin.ConsumerGroupCommand", &["--new-consumer"][..]),
        false => (
            "org.apache.kafka.tools.consumer.group.ConsumerGroupCommand",
            &[][..],
        ),
    };
    let servers = bootstrap(cluster);
    let arguments = [
        "--bootstrap-server",
        &servers,
        "--describe",
        "--group",
        group,
    ];
    cluster
        .tool(class, &[first, &arguments, more].concat())
        .unwrap()
}

/// The lag of a group by topic, as `kafka-consumer-groups` adds it up for each partition.
pub fn lag_by_the_tool(cluster: &Cluster, group: &str) -> BTreeMap<String, f64> {
    let mut lags = BTreeMap::new();
    let text = describe(cluster, group, &[]);
    for line in text.lines() {
        let words: Vec<&str> = line.split_whitespace().collect();
        // Group, topic, partition, committed offset, end offset, lag.
        if let [of, topic, partition, _, _, lag, ..] = words[..]
            && of == group
            && partition.parse::<i32>().is_ok()
            && let Ok(lag) = lag.parse::<f64>()
        {
            *lags.entry(topic.to_owned()).or_default() += lag;
        }
    }
    assert!(!lags.is_empty(), "{text}");
    lags
}

/// The state of a group, which stands before the number of its members.
fn state_by_the_tool(cluster: &Cluster, group: &str) -> String {
    let text = describe(cluster, group, &["--state"]);
    let mut lines = text
        .lines()
        .map(|line| line.split_whitespace().collect::<Vec<_>>());
    let line = lines.find(|words| words.first() == Some(&group));
    let line = line.unwrap_or_else(|| panic!("no {group}: {text}"));
    line[line.len() - 2].to_owned()
}

/// The lag of a group by topic, by whichever broker coordinates it.
pub fn lag_by_the_exporter(metrics: &Metrics, group: &str) -> BTreeMap<String, f64> {
    let of_group = format!("group=\"{group}\",topic=\"");
    let of = |(series, lag): (&String, &f64)| {
        let series = series.strip_prefix("consumer_group_lag{")?;
        let (_, topic) = series.split_once(&of_group)?;
        Some((topic.strip_suffix("\"}")?.to_owned(), *lag))
    };
    metrics.0.iter().filter_map(of).collect()
}

/// Groups in a state, over all brokers.
fn in_state(metrics: &Metrics, state: &str) -> f64 {
    let of_state = format!("state=\"{state}\"}}");
    let is_it =
        |series: &String| series.starts_with("consumer_groups{") && series.ends_with(&of_state);
    let of = metrics.0.iter().filter(|(series, _)| is_it(series));
    of.map(|(_, count)| count).sum()
}

pub fn produce(cluster: &Cluster, topic: &str, records: usize) {
    let (servers, records) = (bootstrap(cluster), records.to_string());
    let produced = match cluster.version().name.starts_with("0.10") {
        true => cluster.tool(
            "kafka.tools.ProducerPerformance",
            &[
                &["--broker-list", &*servers, "--topics", topic][..],
                &["--messages", &records, "--message-size", "10"],
                &["--new-producer"],
            ]
            .concat(),
        ),
        false => cluster.tool(
            "org.apache.kafka.tools.VerifiableProducer",
            &[
                &["--bootstrap-server", &*servers, "--topic", topic][..],
                &["--max-messages", &records],
            ]
            .concat(),
        ),
    };
    produced.unwrap();
}

/// Consumes so many records from the beginning, commits and ends.
fn consume(cluster: &Cluster, group: &str, records: usize, property: Option<&str>) {
    let (servers, records) = (bootstrap(cluster), records.to_string());
    let mut arguments = vec!["--bootstrap-server", &*servers, "--topic", TOPIC];
    arguments.extend([
        "--group",
        group,
        "--from-beginning",
        "--max-messages",
        &records,
    ]);
    if let Some(property) = property {
        arguments.extend(["--consumer-property", property]);
    }
    cluster
        .tool(
            "org.apache.kafka.tools.consumer.ConsoleConsumer",
            &arguments,
        )
        .unwrap();
}

fn equal_to_the_tool(cluster: &Cluster, exporter: &Exporter, groups: &[&str]) {
    for group in groups {
        let lag = lag_by_the_tool(cluster, group);
        wait_for(&format!("{group} to have {lag:?}"), PATIENCE, || {
            lag_by_the_exporter(&exporter.metrics(), group) == lag
        });
    }
    let states: Vec<String> = groups
        .iter()
        .map(|group| state_by_the_tool(cluster, group))
        .collect();
    let metrics = exporter.metrics();
    for (word, state) in [("Stable", "stable"), ("Empty", "empty")] {
        let by_the_tool = states.iter().filter(|found| *found == word).count();
        assert_eq!(in_state(&metrics, state), by_the_tool as f64, "{states:?}");
    }
}

/// A group that is behind and empty, one that reads along, and with `kip_848` one of the newer protocol.
pub fn groups_are_as_the_tool_says(cluster: &Cluster, exporter: &Exporter, kip_848: bool) {
    cluster.create_topic(TOPIC, 3, 3).unwrap();
    step("records are produced", || produce(cluster, TOPIC, 300));
    step("a group reads some of them and ends", || {
        consume(cluster, "behind", 40, None);
    });
    let mut groups = vec!["behind", "active"];
    groups.extend(kip_848.then_some("newer"));
    std::thread::scope(|scope| {
        // They end when they have read all that is produced below.
        scope.spawn(|| consume(cluster, "active", 350, None));
        if kip_848 {
            let property = Some("group.protocol=consumer");
            scope.spawn(move || consume(cluster, "newer", 350, property));
        }
        step("groups that read along are stable and have no lag", || {
            let active = &groups[1..];
            let caught_up = BTreeMap::from([(TOPIC.to_owned(), 0.0)]);
            wait_for("stable groups", PATIENCE, || {
                let metrics = exporter.metrics();
                let lag = |group: &&str| lag_by_the_exporter(&metrics, group);
                in_state(&metrics, "stable") == active.len() as f64
                    && active.iter().all(|group| lag(group) == caught_up)
            });
            equal_to_the_tool(cluster, exporter, &groups);
        });
        step("they read the rest and end", || produce(cluster, TOPIC, 50));
    });
    step(
        "all groups are empty, and the lag is as the tool says",
        || {
            equal_to_the_tool(cluster, exporter, &groups);
            let behind = lag_by_the_exporter(&exporter.metrics(), "behind");
            assert_eq!(behind.values().sum::<f64>(), 310.0);
        },
    );
    step(
        "a Fetch takes the lock of a partition and is answered",
        || {
            for broker in cluster.brokers() {
                let series = format!("probe_success{{broker=\"{}\",path=\"fetch\"}}", broker.id());
                wait_for(&series, PATIENCE, || {
                    exporter.metrics().get(&series) == Some(1.0)
                });
            }
        },
    );
}

/// A member of a group that has committed offset 5 of a partition with so many records. It does not end before its session.
pub fn member(cluster: &Cluster, coordinator: i32, group: &str, topic: &str) -> Connection {
    let port = cluster.broker(coordinator).unwrap().port();
    let join = || -> std::io::Result<Connection> {
        let mut connection = Connection::open(port, Duration::from_secs(10))?;
        connection.send_join(0, group, topic, Duration::from_secs(300))?;
        let member: Member = connection.receive_join(0, group)?;
        connection.send_sync(&member, topic)?;
        connection.receive_sync(&member)?;
        connection.commit(&member, topic)?;
        Ok(connection)
    };
    cluster.cell().in_network(join).unwrap().unwrap()
}

/// 0.10.1.0 says only what members of a group have committed.
pub fn groups_of_0_10_are_as_the_tool_says(cluster: &Cluster, exporter: &Exporter) {
    cluster.create_topic(TOPIC, 1, 3).unwrap();
    step("records are produced", || produce(cluster, TOPIC, 200));
    let coordinator = lab::deadlock::coordinator(cluster, "members").unwrap();
    let _member = member(cluster, coordinator, "members", TOPIC);
    step("the lag is as the tool says", || {
        let lag = lag_by_the_tool(cluster, "members");
        assert_eq!(lag, BTreeMap::from([(TOPIC.to_owned(), 195.0)]));
        wait_for("the lag", PATIENCE, || {
            let metrics = exporter.metrics();
            in_state(&metrics, "stable") == 1.0 && lag_by_the_exporter(&metrics, "members") == lag
        });
    });
}
