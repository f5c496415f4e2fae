//! Deadlocks of old versions, on brokers that have them.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};

use super::clients::TOPIC;
use super::scenario::{About, Scenario, Struck};
use super::score::Expected;
use super::stage::Stage;
use crate::client::{Connection, Member};
use crate::cluster::{Cluster, ClusterOptions};
use crate::deadlock::{self, Deadlock, Form, offsets_partition};
use crate::sleep_between_polls;

const ANSWER: Duration = Duration::from_secs(10);

pub fn all() -> Vec<Box<dyn Scenario>> {
    vec![
        Box::new(MadeDeadlock { made: None }),
        Box::new(QuietDeadlock {
            sick: 0,
            unanswered: None,
        }),
        Box::new(ReadLocks {
            unanswered: Vec::new(),
        }),
    ]
}

/// Adds the rules of `known.btm`.
fn with_rules(options: &mut ClusterOptions) {
    if let Some(agent) = options.jvm_options.first_mut() {
        agent.push_str(",script:{folder}/../known.btm");
    }
}

struct MadeDeadlock {
    made: Option<Deadlock>,
}

impl Scenario for MadeDeadlock {
    fn about(&self) -> About {
        About {
            name: "deadlock",
            kind: 1,
            what: "KAFKA-3994, by requests and a pause of the followers",
            expected: Expected {
                findings: &["jvm_deadlock"],
                cause: &["executor-heartbeat"],
                gray: true,
                before_harm: true,
            },
        }
    }

    fn runs_on(&self, version: &str) -> bool {
        version == "0.10.1.0"
    }

    fn strike(&mut self, stage: &mut Stage) -> Result<Struck> {
        let made = deadlock::make(&stage.cluster, Form::Expire)?;
        let struck = Struck {
            at: made.followers_continued,
            sick: vec![made.broker],
        };
        self.made = Some(made);
        Ok(struck)
    }

    fn heal(&mut self, stage: &mut Stage) -> Result<()> {
        match self.made.take() {
            Some(made) => stage.replace(made.broker),
            None => Ok(()),
        }
    }
}

/// Only two threads are in it, which sleep for minutes in a healthy broker. The API still answers.
struct QuietDeadlock {
    sick: i32,
    unanswered: Option<Connection>,
}

impl Scenario for QuietDeadlock {
    fn about(&self) -> About {
        About {
            name: "quiet-deadlock",
            kind: 2,
            what: "KAFKA-5970, with waits, and followers that are stopped until it stands",
            expected: Expected {
                findings: &["jvm_deadlock"],
                cause: &["executor-heartbeat", "kafka-scheduler"],
                gray: true,
                before_harm: true,
            },
        }
    }

    fn runs_on(&self, version: &str) -> bool {
        version == "0.10.1.1"
    }

    fn change(&self) -> Option<fn(&mut ClusterOptions)> {
        Some(|options| {
            with_rules(options);
            // The followers pause until the ISR shrinks to the leader, and the commit waits for them meanwhile.
            let properties = [
                ("offsets.commit.timeout.ms", "60000"),
                ("replica.lag.time.max.ms", "2000"),
                ("zookeeper.session.timeout.ms", "60000"),
                ("min.insync.replicas", "1"),
            ];
            let properties = properties.map(|(name, value)| (name.to_owned(), value.to_owned()));
            options.properties.extend(properties);
        })
    }

    fn strike(&mut self, stage: &mut Stage) -> Result<Struck> {
        let cluster = &stage.cluster;
        self.sick = deadlock::coordinator(cluster, "quiet")?;
        let address = cluster.broker(self.sick)?.address();
        let brokers = cluster.brokers().map(|broker| broker.id());
        let followers: Vec<i32> = brokers.filter(|id| *id != self.sick).collect();
        stage.harm(self.sick, "quiet", false)?;
        let commits = || -> Result<Connection> {
            let mut connection = Connection::open_at(address, ANSWER)?;
            connection.send_join(0, "quiet", TOPIC, Duration::from_secs(7))?;
            let member = connection.receive_join(0, "quiet")?;
            connection.send_sync(&member, TOPIC)?;
            connection.receive_sync(&member)?;
            followers.iter().try_for_each(|id| cluster.pause(*id))?;
            connection.send_commit(&member, TOPIC, 1)?;
            Ok(connection)
        };
        let start = Instant::now();
        let formed = cluster.cell().in_network(commits)?.and_then(|unanswered| {
            self.unanswered = Some(unanswered);
            // The session ends, which empties the group.
            while stage.harm_stands(self.sick, "quiet")? {
                ensure!(start.elapsed() < 3 * ANSWER, "the deadlock did not form");
                sleep_between_polls()?;
            }
            Ok(Instant::now())
        });
        followers.iter().try_for_each(|id| cluster.resume(*id))?;
        Ok(Struck {
            at: formed?,
            sick: vec![self.sick],
        })
    }

    fn heal(&mut self, stage: &mut Stage) -> Result<()> {
        self.unanswered = None;
        stage.replace(self.sick)
    }
}

/// No JVM reports it, because the owners of read locks are unknown.
struct ReadLocks {
    unanswered: Vec<Connection>,
}

impl Scenario for ReadLocks {
    fn about(&self) -> About {
        About {
            name: "read-lock-deadlock",
            kind: 3,
            what: "KAFKA-7697: two handlers with a read lock each want the other one",
            expected: Expected {
                findings: &["stalled_pool", "lock_cycle"],
                cause: &[
                    "request handler|request_handler|request-handler",
                    "readlock|read lock|reentrantreadwritelock|7697",
                ],
                gray: true,
                before_harm: true,
            },
        }
    }

    fn runs_on(&self, version: &str) -> bool {
        version == "2.1.0"
    }

    fn change(&self) -> Option<fn(&mut ClusterOptions)> {
        Some(|options| {
            with_rules(options);
            options.offsets_partitions = 2;
        })
    }

    /// One broker leads two partitions, and each has a follower of its own that causes a write lock.
    fn furnish(&self, cluster: &Cluster) -> Result<()> {
        let assigned = [
            "--create",
            "--topic",
            "__consumer_offsets",
            "--replica-assignment",
        ];
        let assigned = [
            &assigned[..],
            &["1:2,1:3", "--config", "cleanup.policy=compact"],
        ];
        cluster.topics(&assigned.concat())?;
        cluster.wait_fully_replicated(Duration::from_secs(60))
    }

    fn strike(&mut self, stage: &mut Stage) -> Result<Struck> {
        let address = stage.cluster.broker(1)?.address();
        let group = |partition| {
            let mut names = (0_u32..).map(|number| format!("g{number}"));
            names.find(|name| offsets_partition(name, 2) == partition)
        };
        let groups = [0, 1].map(group);
        let strike = || -> Result<Vec<Connection>> {
            let mut waiting = Vec::new();
            for _ in 0..2 {
                let mut fetch = Connection::open_at(address, ANSWER)?;
                let time = Duration::from_secs(100);
                fetch.send_fetch(3, "__consumer_offsets", &[0, 1], time, 1 << 20)?;
                waiting.push(fetch);
            }
            // They have come to the purgatory when nothing has come back.
            let last = waiting.last_mut().context("a fetch")?;
            let answered = last
                .receive(Instant::now() + Duration::from_secs(1))
                .is_ok();
            ensure!(!answered, "the fetches do not wait");
            stage.harm(1, "appends", false)?;
            for group in groups.iter().flatten() {
                let mut commit = Connection::open_at(address, ANSWER)?;
                commit.send_commit(&Member::simple(group), TOPIC, 1)?;
                waiting.push(commit);
            }
            Ok(waiting)
        };
        self.unanswered = stage.cluster.cell().in_network(strike)??;
        let start = Instant::now();
        while stage
            .cluster
            .broker(1)?
            .log()?
            .matches("lab: holds a read lock")
            .count()
            < 2
        {
            ensure!(start.elapsed() < ANSWER, "the appends did not meet");
            sleep_between_polls()?;
        }
        Ok(Struck::now(&[1]))
    }

    fn heal(&mut self, stage: &mut Stage) -> Result<()> {
        self.unanswered.clear();
        stage.unharm(1, "appends")?;
        stage.replace(1)
    }
}
