//! Links between hosts that drop what they should carry.

use anyhow::Result;

use super::scenario::{About, Scenario, Struck};
use super::score::Expected;
use super::stage::Stage;
use crate::hosts::Host;

/// What says that a broker has lost ZooKeeper or the controller.
const NO_COORDINATION: &[&str] = &[
    "not_registered",
    "broker_fenced",
    "stale_view",
    "metadata_stalled",
    "zookeeper_unreachable",
];

pub fn all() -> Vec<Box<dyn Scenario>> {
    let direction = Expected {
        findings: &["path_cut", "peer_unreachable"],
        cause: &["from broker 1|to broker 2|does not arrive|not acknowledged"],
        gray: false,
        before_harm: false,
    };
    vec![
        Box::new(Cut {
            about: About {
                name: "one-way-partition",
                kind: 18,
                what: "what broker 1 sends to broker 2 is dropped",
                expected: direction,
            },
            links: |stage| Ok(vec![(stage.host(1)?.clone(), stage.host(2)?.clone())]),
            sick: &[1, 2],
        }),
        Box::new(Cut {
            about: About {
                name: "partition-of-two",
                kind: 18,
                what: "brokers 1 and 2 cannot reach each other",
                expected: Expected {
                    findings: &["path_cut", "peer_unreachable"],
                    cause: &["network|path|route|not acknowledged"],
                    gray: false,
                    before_harm: false,
                },
            },
            links: |stage| Ok(both(stage.host(1)?, stage.host(2)?)),
            sick: &[1, 2],
        }),
        Box::new(Cut {
            about: About {
                name: "cut-off",
                kind: 18,
                what: "broker 2 reaches neither the other brokers nor ZooKeeper or the controller; clients reach it",
                expected: Expected {
                    findings: &[
                        "cut_off",
                        "peer_unreachable",
                        "not_registered",
                        "broker_fenced",
                        "metadata_stalled",
                    ],
                    cause: &["cut off|network|does not answer"],
                    gray: true,
                    before_harm: false,
                },
            },
            links: |stage| {
                let (own, others) = (stage.host(2)?, [stage.host(1)?, stage.host(3)?]);
                let others = others
                    .into_iter()
                    .chain([stage.cluster.coordinating_host()]);
                Ok(others.flat_map(|other| both(own, other)).collect())
            },
            sick: &[2],
        }),
        Box::new(Cut {
            about: About {
                name: "session-lost",
                kind: 16,
                what: "broker 2 does not reach ZooKeeper or the controller; clients and brokers reach it",
                expected: Expected {
                    findings: NO_COORDINATION,
                    cause: &["zookeeper|controller"],
                    gray: true,
                    before_harm: false,
                },
            },
            links: |stage| Ok(both(stage.host(2)?, stage.cluster.coordinating_host())),
            sick: &[2],
        }),
        Box::new(Cut {
            about: About {
                name: "no-quorum",
                kind: 17,
                what: "no broker reaches ZooKeeper or the controller",
                expected: Expected {
                    findings: NO_COORDINATION,
                    cause: &["zookeeper|controller|quorum"],
                    gray: false,
                    before_harm: false,
                },
            },
            links: |stage| {
                let quorum = stage.cluster.coordinating_host();
                let mut links = Vec::new();
                for id in super::stage::BROKERS {
                    links.extend(both(stage.host(id)?, quorum));
                }
                Ok(links)
            },
            sick: &[1, 2, 3],
        }),
    ]
}

/// From where to where nothing comes.
type Links = Vec<(Host, Host)>;

fn both(one: &Host, other: &Host) -> Links {
    vec![(one.clone(), other.clone()), (other.clone(), one.clone())]
}

struct Cut {
    about: About,
    links: fn(&Stage) -> Result<Links>,
    sick: &'static [i32],
}

impl Scenario for Cut {
    fn about(&self) -> About {
        self.about
    }

    fn strike(&mut self, stage: &mut Stage) -> Result<Struck> {
        let links = (self.links)(stage)?;
        let struck = Struck::now(self.sick);
        for (from, to) in links {
            stage.cut(&from, &to)?;
        }
        Ok(struck)
    }

    fn heal(&mut self, stage: &mut Stage) -> Result<()> {
        for (from, to) in (self.links)(stage)? {
            stage.join(&from, &to)?;
        }
        Ok(())
    }
}
