//! Which pool a broker's thread belongs to, by its Java name, from Kafka 0.10 to 4.x.

use std::collections::BTreeSet;

use crate::model::PoolFindings;
use crate::model::named::named;

named! {
    /// What the threads of a broker do. Threads of the JVM, of libraries and of plug-ins belong to no pool.
    pub enum Pool {
        RequestHandler = "request_handler",
        Network = "network",
        Acceptor = "acceptor",
        /// `ExpirationReaper-*` of the purgatories and similar ones (`*-reaper`): each polls a timer every 200 ms.
        ExpirationReaper = "expiration_reaper",
        /// The threads of the group and share coordinators, from 3.7 on.
        EventProcessor = "event_processor",
        ReplicaFetcher = "replica_fetcher",
        /// Moves replicas between the log dirs of one broker.
        LogDirFetcher = "log_dir_fetcher",
        Scheduler = "scheduler",
        GroupMetadataManager = "group_metadata_manager",
        TransactionLogManager = "transaction_log_manager",
        /// `executor-Heartbeat`: completes what expires in the heartbeat purgatory, up to 3.x.
        Heartbeat = "heartbeat",
        /// `executor-*` of the other timers.
        Executor = "executor",
        LogCleaner = "log_cleaner",
        /// The ZooKeeper controller and its senders, before 1.1 in the event thread of ZooKeeper's client, and the quorum
        /// controller.
        Controller = "controller",
        RaftIo = "raft_io",
        RaftOutbound = "raft_outbound",
        MetadataLoader = "metadata_loader",
        LifecycleManager = "lifecycle_manager",
        /// `ThrottledRequestReaper-*`, `ThrottledChannelReaper-*`: a timer of one second.
        ThrottledReaper = "throttled_reaper",
    }
}

impl Pool {
    /// What was found in the pools that could be checked, as readings carry it.
    pub fn findings<T>(found: Vec<T>, pools: BTreeSet<Pool>) -> PoolFindings<T> {
        PoolFindings {
            found,
            pools: pools
                .into_iter()
                .map(|pool| pool.name().to_owned())
                .collect(),
        }
    }

    /// The pool of a thread by its full Java name.
    pub fn of(thread: &str) -> Option<Pool> {
        let name = without_plane(thread);
        // Later names carry the node's id in the middle: `kafka-1-raft-io-thread`.
        let by_end = [
            ("raft-io-thread", Pool::RaftIo),
            ("raft-outbound-request-thread", Pool::RaftOutbound),
            ("metadata-loader-event-handler", Pool::MetadataLoader),
            ("lifecycle-manager-event-handler", Pool::LifecycleManager),
            ("-reaper", Pool::ExpirationReaper),
        ];
        let by_begin = [
            ("kafka-request-handler-", Pool::RequestHandler),
            ("kafka-network-thread-", Pool::Network),
            ("kafka-socket-acceptor-", Pool::Acceptor),
            ("ExpirationReaper-", Pool::ExpirationReaper),
            ("ReplicaFetcherThread-", Pool::ReplicaFetcher),
            ("ReplicaAlterLogDirsThread-", Pool::LogDirFetcher),
            ("kafka-scheduler-", Pool::Scheduler),
            ("group-metadata-manager-", Pool::GroupMetadataManager),
            ("transaction-log-manager-", Pool::TransactionLogManager),
            ("executor-Heartbeat", Pool::Heartbeat),
            ("executor-", Pool::Executor),
            ("kafka-log-cleaner-thread-", Pool::LogCleaner),
            ("controller-event-thread", Pool::Controller),
            ("Controller-", Pool::Controller),
            ("ZkClient-EventThread-", Pool::Controller),
            ("quorum-controller-", Pool::Controller),
        ];
        let by_middle = [
            ("-coordinator-event-processor-", Pool::EventProcessor),
            ("Throttled", Pool::ThrottledReaper),
        ];
        let begins = by_begin.iter().find(|(part, _)| name.starts_with(part));
        let ends = || by_end.iter().find(|(part, _)| name.ends_with(part));
        let holds = || by_middle.iter().find(|(part, _)| name.contains(part));
        begins.or_else(ends).or_else(holds).map(|(_, pool)| *pool)
    }

    /// The pool by the first 15 bytes of the name, which the kernel keeps; None where they are ambiguous. They suffice on
    /// 0.10 to 2.0; from 2.1 on handlers, network threads and acceptors are all `data-plane-kafk`.
    pub fn of_kernel_name(name: &str) -> Option<Pool> {
        let table = [
            ("kafka-request-h", Pool::RequestHandler),
            ("kafka-network-t", Pool::Network),
            ("kafka-socket-ac", Pool::Acceptor),
            ("ExpirationReape", Pool::ExpirationReaper),
            ("ReplicaFetcherT", Pool::ReplicaFetcher),
            ("kafka-scheduler", Pool::Scheduler),
            ("group-metadata-", Pool::GroupMetadataManager),
            ("executor-Heartb", Pool::Heartbeat),
        ];
        table
            .iter()
            .find(|(known, _)| *known == name)
            .map(|(_, pool)| *pool)
    }
}

/// Whether only a Kafka node has a thread of this name: other programs have executors and schedulers as well.
pub fn is_of_node(thread: &str) -> bool {
    match Pool::of(thread) {
        Some(
            Pool::RequestHandler
            | Pool::Network
            | Pool::Acceptor
            | Pool::ReplicaFetcher
            | Pool::LogDirFetcher
            | Pool::LogCleaner
            | Pool::RaftIo,
        ) => true,
        Some(Pool::ExpirationReaper) => thread.starts_with("ExpirationReaper-"),
        Some(Pool::Heartbeat) => true,
        _ => false,
    }
}

/// From 2.1 on the threads of each plane have its name before theirs: `data-plane-kafka-request-handler-3`.
pub fn without_plane(thread: &str) -> &str {
    let planes = ["data-plane-", "control-plane-"];
    planes
        .iter()
        .find_map(|plane| thread.strip_prefix(plane))
        .unwrap_or(thread)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Names as brokers of the versions print them.
    #[test]
    fn names_of_all_versions_fall_into_their_pools() {
        let table: &[(Pool, &[&str])] = &[
            (
                Pool::RequestHandler,
                &[
                    "kafka-request-handler-3",
                    "data-plane-kafka-request-handler-7",
                ],
            ),
            (
                Pool::Network,
                &[
                    "kafka-network-thread-217-PLAINTEXT-0",
                    "kafka-network-thread-1-ListenerName(PLAINTEXT)-PLAINTEXT-2",
                    "data-plane-kafka-network-thread-3-CONTROLLER-PLAINTEXT-1",
                    "data-plane-kafka-network-thread-1-ListenerName(PLAINTEXT)-PLAINTEXT-0",
                ],
            ),
            (
                Pool::Acceptor,
                &[
                    "kafka-socket-acceptor-PLAINTEXT-49092",
                    "data-plane-kafka-socket-acceptor-ListenerName(PLAINTEXT)-PLAINTEXT-9092",
                ],
            ),
            (
                Pool::ExpirationReaper,
                &[
                    "ExpirationReaper-217",
                    "ExpirationReaper-1-Produce",
                    "ExpirationReaper-1-topic",
                    "group-coordinator-reaper",
                    "raft-expiration-reaper",
                    "client-metrics-reaper",
                ],
            ),
            (
                Pool::EventProcessor,
                &[
                    "group-coordinator-event-processor-0",
                    "share-coordinator-event-processor-3",
                ],
            ),
            (Pool::ReplicaFetcher, &["ReplicaFetcherThread-0-218"]),
            (Pool::Scheduler, &["kafka-scheduler-9"]),
            (Pool::GroupMetadataManager, &["group-metadata-manager-0"]),
            (Pool::TransactionLogManager, &["transaction-log-manager-0"]),
            (Pool::Heartbeat, &["executor-Heartbeat"]),
            (
                Pool::Executor,
                &[
                    "executor-Produce",
                    "executor-Fetch",
                    "executor-raft-expiration-executor",
                ],
            ),
            (Pool::LogCleaner, &["kafka-log-cleaner-thread-0"]),
            (
                Pool::Controller,
                &[
                    "controller-event-thread",
                    "ZkClient-EventThread-17-127.0.0.1:42181",
                    "Controller-1-to-broker-2-send-thread",
                ],
            ),
            (Pool::Controller, &["quorum-controller-1-event-handler"]),
            (Pool::RaftIo, &["kafka-1-raft-io-thread"]),
            (
                Pool::RaftOutbound,
                &["kafka-1-raft-outbound-request-thread"],
            ),
            (
                Pool::MetadataLoader,
                &["kafka-1-metadata-loader-event-handler"],
            ),
            (
                Pool::LifecycleManager,
                &["broker-1-lifecycle-manager-event-handler"],
            ),
            (
                Pool::ThrottledReaper,
                &[
                    "ThrottledRequestReaper-Produce",
                    "ThrottledChannelReaper-Fetch",
                ],
            ),
            (
                Pool::ThrottledReaper,
                &["controller-3-ThrottledChannelReaper-ControllerMutation"],
            ),
        ];
        for (pool, names) in table {
            for name in *names {
                assert_eq!(Pool::of(name), Some(*pool), "{name}");
            }
        }
        let none = [
            "",
            "main",
            "VM Thread",
            "main-SendThread(127.0.0.1:2181)",
            "process reaper (pid 93620)",
            "kafka-1-raft-scheduler0",
            "broker-1-to-controller-heartbeat-channel-manager",
            "/config/changes-event-process-thread",
            "metrics-meter-tick-thread-1",
            "my-kafka-request-handler",
        ];
        for name in none {
            assert_eq!(Pool::of(name), None, "{name}");
        }
    }

    #[test]
    fn the_kernel_s_short_names_identify_the_pools_of_old_versions() {
        for name in [
            "kafka-request-handler-3",
            "kafka-network-thread-217-PLAINTEXT-0",
            "kafka-socket-acceptor-PLAINTEXT-49092",
            "ExpirationReaper-217",
            "ReplicaFetcherThread-0-218",
            "kafka-scheduler-9",
            "group-metadata-manager-0",
            "executor-Heartbeat",
        ] {
            assert_eq!(
                Pool::of_kernel_name(&name[..name.len().min(15)]),
                Pool::of(name),
                "{name}"
            );
        }
        // A processor or a reaper; a handler, a network thread or an acceptor.
        for name in ["group-coordinat", "data-plane-kafk", "executor-Fetch", ""] {
            assert_eq!(Pool::of_kernel_name(name), None, "{name}");
        }
    }

    #[test]
    fn each_pool_has_a_name_of_its_own() {
        let names: BTreeSet<_> = Pool::ALL.iter().map(|pool| pool.name()).collect();
        assert_eq!(names.len(), Pool::ALL.len());
    }
}
