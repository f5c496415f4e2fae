//! Threads that end, sleep, or wait for each other.

use anyhow::{Context, Result};

use super::clients::Clients;
use super::scenario::{About, Scenario, Struck, is_new};
use super::score::Expected;
use super::stage::Stage;

/// The broker that rules strike.
const SICK: i32 = 2;

pub fn all() -> Vec<Box<dyn Scenario>> {
    vec![
        Box::new(Rule {
            about: About {
                name: "fetcher-dies",
                kind: 8,
                what: "an error ends a replica fetcher",
                expected: Expected {
                    findings: &["missing_thread", "replica_behind"],
                    cause: &["fetcher"],
                    gray: false,
                    before_harm: true,
                },
            },
            rule: "fetcher",
            taken: true,
            since: "0.10",
        }),
        Box::new(Rule {
            about: About {
                name: "cleaner-dies",
                kind: 9,
                what: "an error ends the log cleaner",
                expected: Expected {
                    findings: &["missing_thread"],
                    cause: &["cleaner"],
                    gray: false,
                    before_harm: true,
                },
            },
            rule: "cleaner",
            taken: true,
            since: "0.10",
        }),
        Box::new(Rule {
            about: About {
                name: "out-of-memory-ends-handler",
                kind: 23,
                what: "OutOfMemoryError ends a request handler",
                expected: Expected {
                    findings: &["missing_thread"],
                    cause: &["handler"],
                    gray: false,
                    before_harm: true,
                },
            },
            rule: "handler",
            taken: true,
            since: "4",
        }),
        Box::new(Rule {
            about: About {
                name: "handlers-asleep",
                kind: 10,
                what: "every request handler sleeps in the request that it has taken",
                expected: Expected {
                    findings: &["stalled_pool", "api_unresponsive"],
                    cause: &["request_handler|request handler", "kafkaapis.handle"],
                    gray: true,
                    before_harm: false,
                },
            },
            rule: "asleep",
            taken: false,
            since: "0.10",
        }),
        Box::new(Rule {
            about: About {
                name: "network-threads-asleep",
                kind: 11,
                what: "every network thread sleeps",
                expected: Expected {
                    findings: &["stalled_pool", "api_unresponsive"],
                    cause: &["network thread|network-thread|of network", "processor.poll"],
                    gray: true,
                    before_harm: false,
                },
            },
            rule: "network",
            taken: false,
            since: "0.10",
        }),
        Box::new(Rule {
            about: About {
                name: "full-collections",
                kind: 12,
                what: "every request causes a full garbage collection",
                expected: Expected {
                    findings: &["jvm_paused"],
                    cause: &["garbage|collection|safepoint"],
                    gray: true,
                    before_harm: false,
                },
            },
            rule: "collect",
            taken: false,
            since: "0.10",
        }),
        Box::new(Rule {
            about: About {
                name: "slow-leader",
                kind: 14,
                what: "fetches of followers wait for 40 s in the leader (KAFKA-8733)",
                expected: Expected {
                    findings: &["followers_lost", "partial_stall"],
                    cause: &["alone in the isr", "brokers 1, 3"],
                    gray: false,
                    before_harm: false,
                },
            },
            rule: "followers",
            taken: false,
            since: "0.10",
        }),
        Box::new(Convoy { more: None }),
    ]
}

/// A rule of `rules.btm`, which a restart ends.
struct Rule {
    about: About,
    rule: &'static str,
    /// Whether it strikes once.
    taken: bool,
    /// The beginning of the first version in which it strikes: `0.10` or `4`.
    since: &'static str,
}

impl Scenario for Rule {
    fn about(&self) -> About {
        self.about
    }

    fn runs_on(&self, version: &str) -> bool {
        is_new(version) || self.since == "0.10" && version == "0.10.1.0"
    }

    fn strike(&mut self, stage: &mut Stage) -> Result<Struck> {
        let at = stage.harm(SICK, self.rule, self.taken)?;
        Ok(Struck {
            at,
            sick: vec![SICK],
        })
    }

    fn heal(&mut self, stage: &mut Stage) -> Result<()> {
        if !self.taken {
            stage.unharm(SICK, self.rule)?;
        }
        stage.replace(SICK)
    }
}

/// A handler that sleeps while it holds the lock of a partition's log, for which many producers come.
struct Convoy {
    more: Option<Clients>,
}

impl Scenario for Convoy {
    fn about(&self) -> About {
        About {
            name: "convoy",
            kind: 5,
            what: "a request handler sleeps with the lock of a log, and twelve producers want it",
            expected: Expected {
                findings: &["stalled_pool", "lock_cycle"],
                cause: &[
                    "request handler|request_handler|request-handler",
                    "held by|holds",
                ],
                gray: true,
                before_harm: false,
            },
        }
    }

    fn prepare(&mut self, stage: &mut Stage) -> Result<()> {
        let partition = stage
            .led(SICK)?
            .context("a partition that the broker leads")?;
        self.more = Some(Clients::producers(&stage.cluster, partition, 12)?);
        Ok(())
    }

    fn strike(&mut self, stage: &mut Stage) -> Result<Struck> {
        let at = stage.harm(SICK, "lock", true)?;
        Ok(Struck {
            at,
            sick: vec![SICK],
        })
    }

    fn heal(&mut self, stage: &mut Stage) -> Result<()> {
        self.more = None;
        stage.replace(SICK)
    }
}
