//! `min.insync.replicas` where ZooKeeper keeps the metadata: a topic or the cluster may override what the broker's file
//! says. The overrides are read where the brokers read them, so the broker answers no request for it, and versions before
//! 0.11, which have no request for it, are no exception.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use super::ensembles::{Ensemble, is_topic};
use super::plan::Plan;
use crate::collect::context::BrokerContext;
use crate::model::{ClusterCounts, Failure};

const WITHIN: Duration = Duration::from_secs(2);

/// Adds how many partitions have fewer replicas in the ISR than `min.insync.replicas`. Only those that are under-replicated
/// can have: where a topic has fewer replicas at all, newer brokers take their number for the minimum. `here` is that of
/// [`Plan::ensemble`].
pub(in crate::collect) async fn with_min_isr(
    context: &BrokerContext,
    counts: ClusterCounts,
    here: bool,
) -> ClusterCounts {
    let Ok(plan) = Plan::of(context) else {
        return counts;
    };
    let Some(short) = short_partitions(&counts, plan.id) else {
        return counts;
    };
    let under_min_isr = match short.is_empty() {
        true => Some(0),
        false => {
            let (ensemble, root) = (plan.ensemble(context, here), &context.broker.zookeeper_root);
            let own = context.broker.min_insync_replicas;
            // The collector `zookeeper` shows a failure.
            let minimums = minimums(&ensemble, root, plan.id, own, &short).await.ok();
            minimums.and_then(|minimums| under(&short, &minimums))
        }
    };
    ClusterCounts {
        under_min_isr,
        ..counts
    }
}

/// The under-replicated partitions that the broker leads, by topic and number of replicas in the ISR. None where not all of
/// them are listed, or a topic has a name that Kafka does not allow.
fn short_partitions(counts: &ClusterCounts, id: i32) -> Option<Vec<(&str, u32)>> {
    let listed = counts.under_replicated_partitions.iter();
    let led = listed.filter(|partition| partition.leader == Some(id));
    let short: Vec<_> = led.map(|one| (one.topic.as_str(), one.isr)).collect();
    let all = short.len() as u64 == counts.under_replicated;
    (all && short.iter().all(|(topic, _)| is_topic(topic))).then_some(short)
}

/// None if the minimum of one of the topics is unknown.
fn under(short: &[(&str, u32)], minimums: &Minimums) -> Option<u64> {
    let is_under = |(topic, isr): &(&str, u32)| {
        let least = minimums.get(topic).copied().flatten()?;
        Some(u64::from(*isr < least))
    };
    short.iter().map(is_under).sum()
}

/// By topic; None is unknown.
type Minimums<'a> = BTreeMap<&'a str, Option<u32>>;

/// The minimum of each of these topics. `own` is what the broker's file says, or Kafka's default; None is unknown.
async fn minimums<'a>(
    ensemble: &Ensemble,
    root: &str,
    id: i32,
    own: Option<u32>,
    short: &[(&'a str, u32)],
) -> Result<Minimums<'a>, Failure> {
    let topics: BTreeSet<&str> = short.iter().map(|(topic, _)| *topic).collect();
    let of_topic = |topic: &str| format!("{root}/config/topics/{topic}");
    let of_brokers = [id.to_string(), "<default>".to_owned()]
        .map(|name| format!("{root}/config/brokers/{name}"));
    let paths = topics.iter().map(|topic| of_topic(topic));
    let paths: Vec<String> = paths.chain(of_brokers.clone()).collect();
    let read = ensemble.min_isr(&paths, WITHIN).await?;
    let read = |path: &str| read.get(path).copied().flatten();
    let otherwise = of_brokers.iter().find_map(|path| read(path)).or(own);
    let minimum = |topic: &'a str| (topic, read(&of_topic(topic)).or(otherwise));
    Ok(topics.into_iter().map(minimum).collect())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used)]

    use super::*;
    use crate::model::PartitionState;

    #[test]
    fn only_partitions_that_are_all_listed_are_counted() {
        let partition = |topic: &str, leader, isr| PartitionState {
            topic: topic.into(),
            partition: 0,
            leader,
            replicas: 3,
            isr,
        };
        let counts = |under_replicated, partitions: &[PartitionState]| ClusterCounts {
            under_replicated,
            under_replicated_partitions: partitions.to_vec().into(),
            ..ClusterCounts::default()
        };
        let listed = [
            partition("a", Some(7), 1),
            partition("b", Some(7), 2),
            // Offline, which the lowest live broker lists.
            partition("a", None, 0),
        ];
        let complete = counts(2, &listed);
        let short = short_partitions(&complete, 7).unwrap();
        assert_eq!(short, [("a", 1), ("b", 2)]);
        assert_eq!(short_partitions(&counts(3, &listed), 7), None);
        assert_eq!(short_partitions(&counts(0, &[]), 7), Some(Vec::new()));
        for name in ["", "..", "a/b", "a\r\nb", "ä"] {
            let odd = counts(1, &[partition(name, Some(7), 1)]);
            assert_eq!(short_partitions(&odd, 7), None, "{name}");
        }
        let under = |a, b| under(&short, &BTreeMap::from([("a", a), ("b", b)]));
        assert_eq!(under(Some(1), Some(2)), Some(0));
        assert_eq!(under(Some(2), Some(2)), Some(1));
        assert_eq!(under(Some(2), Some(3)), Some(2));
        assert_eq!(under(Some(2), None), None);
    }
}
