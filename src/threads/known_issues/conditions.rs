//! What a known fault needs besides a version: whether a broker has it, as it is configured.
//!
//! `server.properties` and the mode of the cluster decide. Kafka changes none of these settings at run time, so dynamic
//! configurations, which are not read, do not matter. What only the cluster's features or its clients decide is unknown.

use serde::Deserialize;

use crate::model::{Broker, Mode, Release, Role};

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Condition {
    #[serde(rename = "kraft")]
    KRaft,
    #[serde(rename = "zookeeper")]
    ZooKeeper,
    RequestMemoryBounded,
    Reauthentication,
    SeveralLogDirs,
    TieredStorage,
    RemoteMetadataInTopic,
    ControllerOrNewGroupCoordinator,
    ShareGroups,
    Transactions,
    DirectoryAssignments,
}

/// Whether a condition holds for a broker.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Answer {
    Yes,
    No,
    Unknown(&'static str),
}

const NOT_SHOWN: &str = "server.properties does not show whether this broker has what it needs";

/// The first release that can be without ZooKeeper, and the first that cannot be with it.
const FIRST_KRAFT: (u32, u32) = (2, 8);
const ONLY_KRAFT: (u32, u32) = (4, 0);
/// Here the settings alone decide about share groups; from the next release on the feature share.version does as well.
const SHARE_GROUPS_BY_SETTINGS: (u32, u32) = (4, 0);

impl Condition {
    /// Whether it holds for `broker` with its configuration, if it runs `release`.
    pub fn holds(self, broker: &Broker, release: Release) -> Answer {
        let features = &broker.features;
        let setting = |value: Option<bool>| match value {
            Some(true) => Answer::Yes,
            Some(false) => Answer::No,
            None => Answer::Unknown(NOT_SHOWN),
        };
        match self {
            Condition::KRaft => setting(mode(broker, release).map(|mode| mode == Mode::KRaft)),
            Condition::ZooKeeper => {
                setting(mode(broker, release).map(|mode| mode == Mode::ZooKeeper))
            }
            Condition::RequestMemoryBounded => setting(features.request_memory_bounded),
            Condition::Reauthentication => setting(features.reauthentication),
            Condition::SeveralLogDirs => setting(features.several_log_dirs),
            Condition::TieredStorage => setting(features.tiered_storage),
            Condition::RemoteMetadataInTopic => setting(features.remote_metadata_in_topic),
            Condition::ControllerOrNewGroupCoordinator => {
                match has_role(broker, release, Role::Controller) {
                    Answer::No => setting(features.new_group_coordinator),
                    answer => answer,
                }
            }
            Condition::ShareGroups => match features.share_groups {
                Some(false) if release.major_minor() > SHARE_GROUPS_BY_SETTINGS => Answer::Unknown(
                    "whether the cluster's share.version permits share groups is not read",
                ),
                value => setting(value),
            },
            Condition::Transactions => {
                Answer::Unknown("whether clients use transactions is not read")
            }
            Condition::DirectoryAssignments => Answer::Unknown(
                "whether the cluster's metadata.version is 3.7-IV2 or later is not read",
            ),
        }
    }
}

/// Whether the process has this role, if it runs `release`.
pub(super) fn has_role(broker: &Broker, release: Release, role: Role) -> Answer {
    match mode(broker, release) {
        // Which of the brokers is the controller is not configured.
        Some(Mode::ZooKeeper) if role == Role::Broker => Answer::Yes,
        Some(Mode::ZooKeeper) => Answer::No,
        _ if broker.roles.is_empty() => Answer::Unknown(NOT_SHOWN),
        _ if broker.roles.contains(&role) => Answer::Yes,
        _ => Answer::No,
    }
}

fn mode(broker: &Broker, release: Release) -> Option<Mode> {
    match release.major_minor() {
        old if old < FIRST_KRAFT => Some(Mode::ZooKeeper),
        new if new >= ONLY_KRAFT => Some(Mode::KRaft),
        _ => broker.mode,
    }
}
