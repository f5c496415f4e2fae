//! What a healthy cluster goes through without being sick. Each is a scenario whose sick brokers are those that are
//! restarted, stopped or cut off; nothing may be said against the others.

use std::fs;
use std::io;
use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::Result;

use super::clients::{Clients, TOPIC};
use super::scenario::is_new;
use super::score::Expected;
use super::stage::{BROKERS, Stage, elect_preferred};
use crate::cell::Process;
use crate::client::Connection;
use crate::hosts::run;

/// The number of the next topic: none has the name of one that is being deleted.
static TOPICS: AtomicU32 = AtomicU32::new(0);

const ANSWER: Duration = Duration::from_secs(10);

/// Nothing is to be found.
pub const NOTHING: Expected = Expected {
    findings: &[],
    cause: &[],
    gray: false,
    before_harm: false,
};

/// Something that a healthy cluster bears.
pub struct Stress {
    pub name: &'static str,
    /// The brokers that it takes out of service meanwhile.
    pub out: &'static [i32],
    pub act: fn(&mut Stage) -> Result<()>,
}

pub const ALL: &[Stress] = &[
    Stress {
        name: "restart of broker 1",
        out: &[1],
        act: |stage| stage.cluster.restart(1),
    },
    Stress {
        name: "restart of broker 2",
        out: &[2],
        act: |stage| stage.cluster.restart(2),
    },
    Stress {
        name: "restart of broker 3",
        out: &[3],
        act: |stage| stage.cluster.restart(3),
    },
    Stress {
        name: "elections of the preferred leaders",
        out: &[],
        act: elections,
    },
    Stress {
        name: "reassignment from one replica to three, throttled",
        out: &[],
        act: reassignment,
    },
    Stress {
        name: "topics created and deleted",
        out: &[],
        act: topics,
    },
    Stress {
        name: "full garbage collections (jcmd GC.run)",
        out: &[],
        act: collections,
    },
    Stress {
        name: "a backup reads the disks",
        out: &[],
        act: backup,
    },
    Stress {
        name: "100 % CPU for 60 s",
        out: &[],
        act: busy,
    },
    Stress {
        name: "60 s of rebalances",
        out: &[],
        act: rebalances,
    },
    Stress {
        name: "broker 3 stopped for 20 s",
        out: &[3],
        act: |stage| {
            stage.cluster.pause(3)?;
            thread::sleep(Duration::from_secs(20));
            stage.cluster.resume(3)
        },
    },
    Stress {
        name: "broker 3 cut off for 30 s",
        out: &[3],
        act: cut_off,
    },
];

fn elections(stage: &mut Stage) -> Result<()> {
    (0..3).try_for_each(|_| elect_preferred(&stage.cluster))
}

/// 20 MB at 1 MB/s.
fn reassignment(stage: &mut Stage) -> Result<()> {
    let cluster = &stage.cluster;
    let old = !is_new(cluster.version().name);
    let topic = format!("moved-{}", TOPICS.fetch_add(1, Ordering::Relaxed));
    // Its one replica accepts what the others will fetch.
    cluster.create_topic_with(&topic, 1, 1, &["min.insync.replicas=1"])?;
    let metadata = cluster.metadata(1)?;
    let of_topic = metadata.partitions.iter().find(|one| one.topic == topic);
    let leader = of_topic.and_then(|one| one.leader).unwrap_or(1);
    let address = cluster.broker(leader)?.address();
    cluster.cell().in_network(|| -> io::Result<()> {
        let mut connection = Connection::open_at(address, ANSWER)?;
        for _ in 0..40 {
            connection.produce(old, &topic, 0, 500_000)?;
        }
        Ok(())
    })??;
    let mut replicas = BROKERS;
    replicas.sort_by_key(|id| *id != leader);
    let plan = format!(
        r#"{{"version":1,"partitions":[{{"topic":"{topic}","partition":0,"replicas":{replicas:?}}}]}}"#
    );
    let folder = cluster.broker(1)?.folder().with_file_name("plan.json");
    fs::write(cluster.cell().host_path(&folder), plan)?;
    let (class, server) = if old {
        let address = format!("{}:2181", cluster.coordinating_host().address);
        (
            "kafka.admin.ReassignPartitionsCommand",
            ["--zookeeper".to_owned(), address],
        )
    } else {
        let address = cluster.broker(1)?.address().to_string();
        (
            "org.apache.kafka.tools.reassign.ReassignPartitionsCommand",
            ["--bootstrap-server".to_owned(), address],
        )
    };
    let file = folder.display().to_string();
    let plan = ["--reassignment-json-file".to_owned(), file];
    let begin = ["--execute", "--throttle", "1000000"].map(str::to_owned);
    cluster.tool(class, &[&server[..], &plan, &begin].concat())?;
    cluster.wait_fully_replicated(Duration::from_secs(120))?;
    // It takes the throttle away.
    let verify = ["--verify".to_owned()];
    cluster.tool(class, &[&server[..], &plan, &verify].concat())?;
    cluster.topics(&["--delete", "--topic", &topic]).map(drop)
}

fn topics(stage: &mut Stage) -> Result<()> {
    for _ in 0..5 {
        let name = format!("churn-{}", TOPICS.fetch_add(1, Ordering::Relaxed));
        stage.cluster.create_topic(&name, 12, 3)?;
        stage.cluster.topics(&["--delete", "--topic", &name])?;
    }
    Ok(())
}

fn collections(stage: &mut Stage) -> Result<()> {
    for _ in 0..10 {
        for id in BROKERS {
            let broker = stage.cluster.broker(id)?;
            let pid = broker.cell_pid()?.to_string();
            run(&broker.host().cell, &["jcmd", &pid, "GC.run"])?;
        }
    }
    Ok(())
}

fn backup(stage: &mut Stage) -> Result<()> {
    for _ in 0..5 {
        for id in BROKERS {
            let broker = stage.cluster.broker(id)?;
            let data = broker.folder().join("data").display().to_string();
            let read = "find \"$0\" -type f -exec cat {} + >/dev/null 2>&1 || true";
            run(&broker.host().cell, &["sh", "-c", read, &data])?;
        }
    }
    Ok(())
}

fn busy(stage: &mut Stage) -> Result<()> {
    let cpus = thread::available_parallelism().map_or(2, usize::from);
    let spin = |_| {
        let mut command = Command::new("sh");
        command.args(["-c", "while :; do :; done"]);
        stage.cluster.cell().spawn(command)
    };
    let spinning = (0..cpus).map(spin).collect::<io::Result<Vec<Process>>>()?;
    thread::sleep(Duration::from_secs(60));
    drop(spinning);
    Ok(())
}

/// On 0.10.1.0 rebalances may truly deadlock: there, more clients take their place.
fn rebalances(stage: &mut Stage) -> Result<()> {
    let cluster = &stage.cluster;
    let end = Instant::now() + Duration::from_secs(60);
    if !is_new(cluster.version().name) {
        let _more = Clients::producers(cluster, 0, 12)?;
        thread::sleep(end.saturating_duration_since(Instant::now()));
        return Ok(());
    }
    let address = cluster.broker(1)?.address();
    let addresses: Vec<_> = cluster
        .brokers()
        .map(|broker| (broker.id(), broker.address()))
        .collect();
    thread::scope(|scope| {
        for client in 0..9 {
            let (network, addresses) = (cluster.cell().network(), &addresses);
            scope.spawn(move || {
                if network.and_then(|network| network.enter()).is_err() {
                    return;
                }
                let group = format!("storm-{}", client / 3);
                while Instant::now() < end {
                    let once = || -> io::Result<()> {
                        let id = Connection::open_at(address, ANSWER)?.coordinator(&group)?;
                        let own = addresses.iter().find(|(broker, _)| *broker == id);
                        let address = own.map_or(address, |(_, address)| *address);
                        Connection::open_at(address, ANSWER)?.rebalance(2, &group, TOPIC)
                    };
                    // Members are refused while others join.
                    let _ = once();
                }
            });
        }
    });
    Ok(())
}

fn cut_off(stage: &mut Stage) -> Result<()> {
    let own = stage.host(3)?.clone();
    let others = [
        stage.host(1)?.clone(),
        stage.host(2)?.clone(),
        stage.cluster.coordinating_host().clone(),
    ];
    for other in &others {
        stage.cut(&own, other)?;
        stage.cut(other, &own)?;
    }
    thread::sleep(Duration::from_secs(30));
    for other in &others {
        stage.join(&own, other)?;
        stage.join(other, &own)?;
    }
    Ok(())
}
