//! What `kafka-consumer-groups --describe` shows: groups of which partitions are missing.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;

use super::gathering::{Gathering, by_topic, count, fact};
use crate::analyze::artifact::File;
use crate::analyze::explanation::{FactKind, Form};
use crate::analyze::formats::groups::{self, Line};

/// The number of partitions of topics.
pub(super) struct TopicSizes {
    described: BTreeMap<String, u64>,
    /// That of new topics, where settings give it.
    default: Option<u64>,
}

pub(super) fn topic_sizes(files: &[File<'_>]) -> TopicSizes {
    let mut described: BTreeMap<String, u64> = BTreeMap::new();
    for row in files.iter().flat_map(File::partitions) {
        let size = described.entry(row.topic.to_owned()).or_default();
        *size = (*size).max(u64::from(row.partition) + 1);
    }
    let settings = files.iter().filter_map(|file| file.properties.as_ref());
    let mut defaults = settings.filter_map(|settings| settings.get("num.partitions")?.parse().ok());
    TopicSizes {
        described,
        default: defaults.next_back(),
    }
}

impl Gathering<'_> {
    pub(super) fn groups(&mut self, file: &File<'_>, sizes: &TopicSizes) {
        if !file.is(Form::Groups) {
            return;
        }
        let mut has_table = false;
        let mut listed: BTreeMap<(&str, &str), BTreeSet<u32>> = BTreeMap::new();
        for line in groups::lines(file.text) {
            match line {
                Line::Header => has_table = true,
                Line::Partition {
                    group,
                    topic,
                    partition,
                } => {
                    let key = (group.unwrap_or("a group"), topic);
                    listed.entry(key).or_default().insert(partition);
                }
                Line::Error(error) => {
                    let fact = fact(FactKind::GroupNotDescribed, file, error, &[]);
                    self.add(None, fact.alone());
                }
            }
        }
        if has_table && listed.is_empty() {
            let text = "a group was described without any partition: its coordinator did not answer, or the group is empty";
            let fact = fact(FactKind::GroupWithoutPartitions, file, text, &[]);
            self.add(None, fact.alone());
        }
        for ((group, topic), partitions) in listed {
            let number = partitions.len() as u64;
            let mut text = format!(
                "{group}: {} listed: {}",
                count(number, "partition"),
                by_topic(partitions.iter().map(|number| (topic, *number)))
            );
            let mut figures = vec![("partitions", number)];
            // A topic that nothing describes has most likely as many as new topics get.
            let more = |size: Option<u64>| size.filter(|size| *size > number);
            if let Some(size) = more(sizes.described.get(topic).copied()) {
                let _ = write!(text, "; of {size}");
                figures.push(("of", size));
            } else if let Some(size) = more(sizes.default) {
                let _ = write!(text, "; new topics have {size}");
                figures.push(("default", size));
            }
            let fact = fact(FactKind::Group, file, text, &figures);
            self.add(None, fact.alone());
        }
    }
}
