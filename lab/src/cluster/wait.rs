//! Waits for what the brokers of a cluster and `kafka-topics` report.

use std::time::{Duration, Instant};

use anyhow::{Result, bail, ensure};

use super::Cluster;
use crate::cli_tools::described_partitions;
use crate::client::{Metadata, Partition};
use crate::sleep_between_polls;

impl Cluster {
    /// Waits until the Metadata of every running broker satisfies `enough`.
    pub fn wait_for(
        &self,
        what: &str,
        time: Duration,
        enough: impl Fn(&Metadata) -> bool,
    ) -> Result<()> {
        let deadline = Instant::now() + time;
        for node in self.brokers().filter(|node| node.process.is_some()) {
            loop {
                let answer = self.metadata(node.id);
                if answer.as_ref().is_ok_and(&enough) {
                    break;
                }
                if Instant::now() > deadline {
                    let last = answer.map_or_else(
                        |error| format!("{error:#}"),
                        |metadata| format!("{metadata:?}"),
                    );
                    bail!(
                        "{what}: not reached within {time:?}; the last answer of broker {} was {last}",
                        node.id
                    );
                }
                sleep_between_polls()?;
            }
        }
        Ok(())
    }

    /// Waits until every running broker reports every partition as fully replicated.
    pub fn wait_fully_replicated(&self, time: Duration) -> Result<()> {
        self.wait_for("all partitions fully replicated", time, |metadata| {
            metadata
                .partitions
                .iter()
                .all(|one| one.is_fully_replicated())
        })
    }

    /// Waits until `kafka-topics` and all other running brokers report at the same time that broker `id` leads no
    /// partition and is in no ISR. Returns the partitions by `kafka-topics`.
    ///
    /// With ZooKeeper either view can be behind the other: leaders write changes of an ISR there at once, and brokers
    /// learn of them in batches.
    pub fn wait_until_excluded(&self, id: i32, time: Duration) -> Result<Vec<Partition>> {
        let deadline = Instant::now() + time;
        let excluded = |view: &Result<Vec<Partition>>| {
            view.as_ref().is_ok_and(|partitions| {
                let without = |one: &Partition| one.leader != Some(id) && !one.isr.contains(&id);
                !partitions.is_empty() && partitions.iter().all(without)
            })
        };
        loop {
            let described = self
                .topics_describe()
                .map(|text| described_partitions(&text));
            let others = self
                .brokers()
                .filter(|node| node.id != id && node.process.is_some());
            let mut behind: Vec<_> = others
                .map(|node| {
                    let view = self.metadata(node.id).map(|metadata| metadata.partitions);
                    (format!("broker {}", node.id), view)
                })
                .collect();
            behind.retain(|(_, view)| !excluded(view));
            if behind.is_empty() && excluded(&described) {
                return described;
            }
            ensure!(
                Instant::now() < deadline,
                "broker {id} still leads partitions or is in an ISR after {time:?}; kafka-topics: {described:?}; \
                 brokers that report it or do not answer: {behind:?}"
            );
            sleep_between_polls()?;
        }
    }
}
