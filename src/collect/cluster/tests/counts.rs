use super::*;
use crate::model::{Elsewhere, LostFollower};

// The figures of the next two tests were counted with awk in the output of kafka-topics.

#[test]
fn the_incident_is_counted_as_kafka_topics_showed_it() {
    let described = include_str!("../../../../tests/fixtures/kafka/incident-describe.txt");
    let partitions: Vec<Partition<'_>> = topics::partitions(described).collect();
    let live = [218, 217, 219];
    assert_eq!(
        figures(&counted(&live, &partitions, 217)),
        [10, 0, 0, 4, 0, 32]
    );
    assert_eq!(
        figures(&counted(&live, &partitions, 218)),
        [11, 0, 0, 4, 0, 32]
    );
    let sick = counted(&live, &partitions, 219);
    assert_eq!(figures(&sick), [11, 4, 4, 0, 0, 32]);
    let listed: Vec<_> = sick
        .under_replicated_partitions
        .iter()
        .map(|state| (state.partition, state.replicas, state.isr))
        .collect();
    assert_eq!(listed, [(1, 3, 1), (7, 3, 1), (10, 3, 1), (25, 3, 1)]);
    assert!(
        sick.under_replicated_partitions
            .iter()
            .all(|state| state.topic == "st.topic.yery.test" && state.leader == Some(219))
    );
    assert_eq!(*sick.live_brokers, *peers(&live));
    // The stuck leader lacks both followers, which are in sync with each other: no follower is to blame.
    let lost = LostFollower {
        partitions: 4,
        elsewhere: Elsewhere::InSync,
    };
    assert_eq!(sick.lost_followers, [(217, lost), (218, lost)].into());
    for id in live {
        let counts = counted(&live, &partitions, id);
        assert_eq!(counts.behind_alone, [].into());
        assert_eq!(counts.lost_followers.is_empty(), id != 219);
    }
}

#[test]
fn replicas_that_a_reassignment_adds_are_not_missed() {
    let mut whole = Whole::default();
    let mut figures_of = |replicas: &str, isr: &str| {
        let led = partition(0, 1, replicas, isr);
        let followed = partition(1, 2, "2,1", "2,1");
        let body = response(&peers(&[1, 2, 3]), &[led, followed]);
        let metadata = Metadata::new(&body, 1);
        let counts = count_after(metadata, 1, ClusterSource::Own, None, &mut whole).unwrap();
        (
            figures(&counts),
            counts.lost_followers.into_keys().collect::<Vec<_>>(),
        )
    };
    assert_eq!(figures_of("1", "1"), ([1, 0, 0, 0, 0, 2], vec![]));
    assert_eq!(figures_of("1,2,3", "1"), ([1, 0, 0, 0, 0, 2], vec![]));
    assert_eq!(figures_of("1,2,3", "1,2"), ([1, 0, 0, 0, 0, 2], vec![]));
    assert_eq!(figures_of("1,2,3", "1,2,3"), ([1, 0, 0, 0, 0, 2], vec![]));
    assert_eq!(figures_of("1,2,3", "1"), ([1, 1, 1, 0, 0, 2], vec![2, 3]));
}

/// As in a cluster of three brokers under KRaft, of which one is down.
#[test]
fn a_new_topic_lacks_the_replicas_of_a_broker_that_is_down() {
    let mut whole = Whole::default();
    let mut short = |partitions: &[Partition<'_>]| {
        let body = response(&peers(&[1, 2]), partitions);
        let metadata = Metadata::new(&body, 1);
        let counts = count_after(metadata, 1, ClusterSource::Own, None, &mut whole).unwrap();
        let listed = counts.under_replicated_partitions.iter();
        listed
            .map(|one| (one.isr, one.replicas))
            .collect::<Vec<_>>()
    };
    let before = partition(0, 1, "1,2,3", "1,2");
    assert_eq!(short(&[before]), [(2, 3)]);
    let created = partition(1, 1, "1,2,3", "1,2");
    assert_eq!(short(&[before, created]), [(2, 3), (2, 3)]);
    // Broker 2 is live, so it may be added.
    let grown = partition(2, 1, "1,2,3", "1");
    assert_eq!(short(&[before, grown]), [(2, 3), (1, 2)]);
}

/// A broker that has just started answers before it knows its cluster, and is then in no ISR.
#[test]
fn after_an_empty_answer_replicas_are_missed_as_after_none() {
    let mut whole = Whole::default();
    let mut of = |live: &[i32], partitions: &[Partition<'_>]| {
        let body = response(&peers(live), partitions);
        let metadata = Metadata::new(&body, 1);
        count_after(metadata, 1, ClusterSource::Own, None, &mut whole).unwrap()
    };
    of(&[], &[]);
    of(&[1, 2, 3], &[]);
    let behind = [
        partition(0, 2, "2,1", "2"),
        partition(1, 3, "3,1", "3"),
        partition(2, 1, "1,2", "1"),
    ];
    let counts = of(&[1, 2, 3], &behind);
    assert_eq!(figures(&counts), [1, 1, 1, 2, 0, 3]);
    assert_eq!(counts.behind_alone, [(2, 1), (3, 1)].into());
}

/// An answer may have as many ids as it has room for. Compared one by one, these would take minutes.
#[test]
fn partitions_with_very_many_replicas_are_counted_within_seconds() {
    let ids: Vec<String> = (2..60_000).map(|id: u32| id.to_string()).collect();
    let isr = ids.join(",");
    let replicas = format!("{isr},1");
    let partitions = [0, 1, 2, 3].map(|index| partition(index, 2, &replicas, &isr));
    let started = std::time::Instant::now();
    let counts = counted(&[1, 2, 3], &partitions, 1);
    assert_eq!(figures(&counts), [0, 0, 0, 4, 0, 4]);
    assert_eq!(counts.behind_alone, [(2, 4)].into());
    assert!(started.elapsed() < Duration::from_secs(20));
}

#[test]
fn recorded_answers_count_as_kafkas_own_tool_does() {
    let healthy =
        include_bytes!("../../../../tests/fixtures/kafka/0.10.1.0-healthy.metadata-v1.bin")
            .as_slice();
    let old =
        include_bytes!("../../../../tests/fixtures/kafka/0.10.1.0-one-stopped.metadata-v1.bin")
            .as_slice();
    let new = include_bytes!("../../../../tests/fixtures/kafka/4.3.0-one-stopped.metadata-v1.bin")
        .as_slice();
    // Two partitions have their only replica on broker 2, which is stopped: `--unavailable-partitions` lists both. For
    // those two, ZooKeeper still has the dead broker as leader and ISR and the brokers do not, so the old tool shows 86
    // of the 88 partitions in whose ISR it is missing.
    for (body, expected) in [
        (
            healthy,
            [
                [31, 0, 0, 0, 0, 94],
                [31, 0, 0, 0, 0, 94],
                [32, 0, 0, 0, 0, 94],
            ],
        ),
        (
            old,
            [
                [45, 42, 2, 0, 2, 94],
                [0, 0, 0, 88, 2, 94],
                [47, 44, 2, 0, 2, 94],
            ],
        ),
        (
            new,
            [
                [43, 41, 2, 0, 2, 94],
                [0, 0, 0, 88, 2, 94],
                [49, 45, 2, 0, 2, 94],
            ],
        ),
    ] {
        assert_eq!([1, 2, 3].map(|id| figures(&counted_in(body, id))), expected);
    }
    let offline = |id| {
        counted_in(old, id)
            .under_replicated_partitions
            .iter()
            .filter(|state| state.leader.is_none())
            .count()
    };
    assert_eq!(
        [1, 2, 3].map(offline),
        [2, 0, 0],
        "only the lowest live broker lists them"
    );
}

#[test]
fn a_partition_with_one_replica_is_fully_replicated() {
    let counts = counted(&[1], &[partition(0, 1, "1", "1")], 1);
    assert_eq!(figures(&counts), [1, 0, 0, 0, 0, 1]);
    assert_eq!(*counts.under_replicated_partitions, []);
}

#[test]
fn the_list_of_under_replicated_partitions_is_bounded() {
    let partitions: Vec<_> = (0..130)
        .map(|index| partition(index, 1, "1,2", "1"))
        .collect();
    let counts = counted(&[1], &partitions, 1);
    assert_eq!(
        (
            counts.under_replicated_partitions.len(),
            counts.under_replicated_left_out
        ),
        (100, 30)
    );
    assert_eq!(counts.under_replicated, 130);
}

#[test]
fn a_partition_whose_leader_lacks_the_asked_listener_is_not_offline() {
    let partitions = [
        partition(0, 1, "1,2", "1,2"),
        Partition {
            leader: None,
            ..partition(1, 0, "1,2", "1,2")
        },
    ];
    for (error, offline) in [(72, 0), (5, 1)] {
        let body = response_in(6, &peers(&[1]), &partitions, error);
        let counts = count(Metadata::new(&body, 6), 1, ClusterSource::Own, None).unwrap();
        assert_eq!(figures(&counts), [1, 0, 0, 0, offline, 2]);
        assert_eq!(counts.under_replicated_partitions.len() as u64, offline);
    }
}

/// A list of 10,000 long hosts is 2.6 MB, for each broker that is watched.
#[test]
fn only_hosts_that_may_be_asked_are_kept() {
    let live: Vec<i32> = (0..10_000).collect();
    let counts = counted_in(&response(&peers(&live), &[]), 9_990);
    let kept = counts
        .live_brokers
        .iter()
        .filter(|peer| !peer.host.is_empty());
    let kept: Vec<i32> = kept.map(|peer| peer.id).collect();
    let expected: Vec<i32> = (0..55).chain(9_990..10_000).collect();
    assert_eq!(kept, expected);
    assert_eq!(counts.live_brokers.len(), 10_000);
}

#[test]
fn the_largest_answer_is_counted_in_seconds() {
    // A search through the list would make 20,000 million comparisons.
    let live: Vec<i32> = (0..10_000).collect();
    let replicas: Vec<String> = live.iter().rev().map(i32::to_string).collect();
    let body = response(
        &peers(&live),
        &[partition(
            0,
            0,
            &vec![replicas.join(","); 400].join(","),
            "0",
        )],
    );
    let started = std::time::Instant::now();
    assert_eq!(counted_in(&body, 0).under_replicated, 1);
    assert!(
        started.elapsed() < Duration::from_secs(60),
        "{:?}",
        started.elapsed()
    );
}
