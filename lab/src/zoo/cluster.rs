//! What the cluster does wrong as a whole: a controller that is stuck, a group that never gets ready.

use std::time::{Duration, Instant};

use anyhow::{Result, bail};

use super::clients::TOPIC;
use super::scenario::{About, Scenario, Struck, is_new};
use super::score::Expected;
use super::stage::Stage;
use crate::client::{Connection, Member};
use crate::sleep_between_polls;

const ANSWER: Duration = Duration::from_secs(10);
/// Longer than the scenario lasts.
const SESSION: Duration = Duration::from_secs(240);
/// Of the one that waits: it never gets ready, and is forgotten so soon after the heal.
const SHORT_SESSION: Duration = Duration::from_secs(10);

pub fn all() -> Vec<Box<dyn Scenario>> {
    vec![
        Box::new(StuckController { stuck: None }),
        Box::new(StuckGroup { joined: None }),
    ]
}

struct StuckController {
    stuck: Option<i32>,
}

impl Scenario for StuckController {
    fn about(&self) -> About {
        About {
            name: "controller-stuck",
            kind: 17,
            what: "the controller's event thread waits in an event, with its lock, for what never comes",
            expected: Expected {
                findings: &["stalled_pool", "partial_stall", "metadata_stalled"],
                cause: &["controller"],
                gray: false,
                before_harm: false,
            },
        }
    }

    fn lasts(&self) -> Duration {
        Duration::from_secs(90)
    }

    fn strike(&mut self, stage: &mut Stage) -> Result<Struck> {
        let nodes: Vec<(i32, bool)> = stage
            .cluster
            .nodes()
            .iter()
            .map(|node| (node.id(), node.is_broker()))
            .collect();
        let kraft = nodes.iter().any(|(_, is_broker)| !is_broker);
        if kraft {
            // Heartbeats of brokers are events.
            let controller = nodes.iter().find(|(_, is_broker)| !is_broker);
            let id = controller.map_or(4, |(id, _)| *id);
            let at = stage.harm(id, "controller", true)?;
            self.stuck = Some(id);
            // Without a controller nobody learns of anything.
            let sick = nodes.iter().map(|(id, _)| *id).collect();
            return Ok(Struck { at, sick });
        }
        for (id, _) in &nodes {
            stage.harm(*id, "controller", false)?;
        }
        // ZooKeeper has the topic, and the controller begins to send it to the brokers.
        let create = ["--create", "--topic", "unknown", "--partitions", "1"];
        stage
            .cluster
            .topics(&[&create[..], &["--replication-factor", "3"]].concat())?;
        let start = Instant::now();
        while start.elapsed() < ANSWER {
            for (id, _) in &nodes {
                if !stage.harm_stands(*id, "controller")? {
                    self.stuck = Some(*id);
                }
            }
            if let Some(id) = self.stuck {
                for (other, _) in nodes.iter().filter(|(other, _)| *other != id) {
                    stage.unharm(*other, "controller")?;
                }
                return Ok(Struck {
                    at: start,
                    sick: vec![id],
                });
            }
            sleep_between_polls()?;
        }
        bail!("no controller came to the rule")
    }

    fn heal(&mut self, stage: &mut Stage) -> Result<()> {
        match self.stuck.take() {
            Some(id) => stage.replace(id),
            None => Ok(()),
        }
    }
}

/// A member that neither joins again nor leaves while another one wants to join.
struct StuckGroup {
    joined: Option<Joined>,
}

struct Joined {
    member: Member,
    connection: Connection,
    _waiting: Connection,
}

impl Scenario for StuckGroup {
    fn about(&self) -> About {
        About {
            name: "stuck-group",
            kind: 24,
            what: "a member of a group does not join again, and its time-out is 4 minutes",
            expected: Expected {
                findings: &["stuck_group"],
                cause: &["stuck-group"],
                gray: false,
                before_harm: false,
            },
        }
    }

    /// Groups are read every 30 s, and other rebalances last some seconds.
    fn lasts(&self) -> Duration {
        Duration::from_secs(150)
    }

    fn strike(&mut self, stage: &mut Stage) -> Result<Struck> {
        let group = "stuck-group";
        let version = if is_new(stage.cluster.version().name) {
            2
        } else {
            0
        };
        let first = stage.cluster.broker(1)?.address();
        let addresses: Vec<_> = stage
            .cluster
            .brokers()
            .map(|broker| (broker.id(), broker.address()))
            .collect();
        let joined = stage.cluster.cell().in_network(|| -> Result<_> {
            let id = Connection::open_at(first, ANSWER)?.coordinator(group)?;
            let own = addresses.iter().find(|(broker, _)| *broker == id);
            let address = own.map_or(first, |(_, address)| *address);
            let mut connection = Connection::open_at(address, ANSWER)?;
            connection.send_join(version, group, TOPIC, SESSION)?;
            let member = connection.receive_join(version, group)?;
            connection.send_sync(&member, TOPIC)?;
            connection.receive_sync(&member)?;
            let mut waiting = Connection::open_at(address, ANSWER)?;
            waiting.send_join(version, group, TOPIC, SHORT_SESSION)?;
            let joined = Joined {
                member,
                connection,
                _waiting: waiting,
            };
            Ok((id, joined))
        })?;
        let (id, joined) = joined?;
        self.joined = Some(joined);
        Ok(Struck::now(&[id]))
    }

    fn heal(&mut self, _stage: &mut Stage) -> Result<()> {
        if let Some(mut joined) = self.joined.take() {
            joined.connection.send_leave(&joined.member)?;
            joined.connection.receive(Instant::now() + ANSWER)?;
        }
        Ok(())
    }
}
