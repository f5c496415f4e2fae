//! What every scenario says of itself, and the list of all.

use std::time::{Duration, Instant};

use anyhow::Result;

use super::score::Expected;
use super::stage::Stage;
use super::{cluster, disks, known, network, process, threads};
use crate::cluster::{Cluster, ClusterOptions};

/// What a scenario is, for people and for the scores.
#[derive(Debug, Clone, Copy)]
pub struct About {
    /// `one-way-partition`
    pub name: &'static str,
    /// The number in the list of partial failures.
    pub kind: u8,
    /// What is done, in a few words.
    pub what: &'static str,
    pub expected: Expected,
}

/// A partial failure that can be made and ended.
pub trait Scenario {
    fn about(&self) -> About;

    fn runs_on(&self, version: &str) -> bool {
        super::VERSIONS.contains(&version)
    }

    /// What the cluster needs beyond the usual; then it gets a cluster of its own.
    fn change(&self) -> Option<fn(&mut ClusterOptions)> {
        None
    }

    /// What is created before the clients come.
    fn furnish(&self, _cluster: &Cluster) -> Result<()> {
        Ok(())
    }

    /// How long it stands at most.
    fn lasts(&self) -> Duration {
        Duration::from_secs(60)
    }

    /// What is done before the strike; a healthy state must come of it.
    fn prepare(&mut self, _stage: &mut Stage) -> Result<()> {
        Ok(())
    }

    fn strike(&mut self, stage: &mut Stage) -> Result<Struck>;

    fn heal(&mut self, stage: &mut Stage) -> Result<()>;
}

pub struct Struck {
    pub at: Instant,
    /// All brokers that the fault is in, or whose link it is.
    pub sick: Vec<i32>,
}

impl Struck {
    pub fn now(sick: &[i32]) -> Struck {
        Struck {
            at: Instant::now(),
            sick: sick.to_vec(),
        }
    }
}

/// Whether it is the newest version of the lab, as against the one of the incident.
pub fn is_new(version: &str) -> bool {
    version.starts_with("4.")
}

pub fn all() -> Vec<Box<dyn Scenario>> {
    [
        threads::all(),
        known::all(),
        process::all(),
        network::all(),
        disks::all(),
        cluster::all(),
    ]
    .into_iter()
    .flatten()
    .collect()
}
