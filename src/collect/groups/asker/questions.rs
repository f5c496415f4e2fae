//! What is asked about groups in a round: which there are, their states, what they have committed, and where partitions end.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use tokio::time::{Duration, Instant};

use super::super::lag::{Commit, Ends, Lags, MOST_COMMITS, MOST_LAGS, Why};
use super::super::listing::{Detail, Listing};
use super::{Asker, offers};
use crate::kafka::thread::on_thread;
use crate::kafka::wire::groups::{self as kafka, Request, TopicPartition};
use crate::kafka::wire::{GroupVersions, WireError};
use crate::model::{Failure, GROUPS_NAMED, GroupState, GroupsReport, Reason};

/// For all requests of a round. What is not asked by then is left out.
const BUDGET: Duration = Duration::from_secs(10);
/// Groups in one DescribeGroups, whose answer names every member.
const DESCRIBED_AT_ONCE: usize = 50;
/// Groups that are described in a round.
const MOST_DESCRIBED: usize = 2000;
/// Partitions in one ListOffsets.
const ENDS_AT_ONCE: usize = 1000;
/// So many are computed within a millisecond.
const FEW_COMMITS: usize = 1000;

/// What the members of each group have, or why that is unknown.
type Assigned = BTreeMap<Arc<str>, Result<Vec<TopicPartition>, Why>>;

impl Asker {
    pub(super) async fn groups(&mut self) -> Result<GroupsReport, Failure> {
        let until = Instant::now() + BUDGET;
        let mut listing = self.listing().await?;
        let all_at_once = offers(self.offered().offset_fetch, kafka::OFFSET_FETCH_ALL);
        let names = listing.groups.keys().take(GROUPS_NAMED);
        let names: Arc<[Arc<str>]> = names.cloned().collect();
        let total = listing.groups.len() as u64 + listing.left_out;
        // Their names are known now, even if a request for one of them hangs.
        self.known = Some(GroupsReport {
            names: Arc::clone(&names),
            total,
            ..GroupsReport::default()
        });
        let mut assigned = Assigned::new();
        if !all_at_once || listing.groups.values().any(Option::is_none) {
            let room = if all_at_once { 0 } else { MOST_COMMITS };
            assigned = self.describe(&mut listing.groups, room, until).await?;
        }
        let states = listing.states();
        self.rebalances = listing.rebalances(&self.rebalances, self.context.clock.now());
        let assigned = (!all_at_once).then_some(assigned);
        let lags = self.lags(&listing.groups, assigned, until).await?;
        Ok(GroupsReport {
            names,
            total,
            silence: None,
            states,
            rebalances: Arc::clone(&self.rebalances),
            lags: lags.known.into(),
            lags_left_out: lags.left_out,
            unknown_lags: lags.unknown,
            why_unknown: lags.why.map(|why| why.to_string().into()),
        })
    }

    /// Fills in the states of the groups, and returns what their members have: `room` partitions in all.
    async fn describe(
        &mut self,
        groups: &mut BTreeMap<Arc<str>, Option<GroupState>>,
        mut room: usize,
        until: Instant,
    ) -> Result<Assigned, Failure> {
        let mut assigned = Assigned::new();
        let names: Vec<Arc<str>> = groups.keys().take(MOST_DESCRIBED).cloned().collect();
        let mut chunks: Vec<&[Arc<str>]> = names.chunks(DESCRIBED_AT_ONCE).rev().collect();
        while let Some(some) = chunks.pop() {
            if Instant::now() >= until {
                break;
            }
            let request = Request::describe_groups(some);
            let read = move |body: &[u8]| Detail::read(body, room);
            let Some(details) = self.request(&request, read).await? else {
                // One of them has too many members: the others are described without it.
                match some {
                    [one] => drop(assigned.insert(Arc::clone(one), Err(Why::TooLong))),
                    _ => {
                        let (first, rest) = some.split_at(some.len() / 2);
                        chunks.extend([rest, first]);
                    }
                }
                continue;
            };
            for detail in details {
                let Some(state) = groups.get_mut(&detail.group) else {
                    continue;
                };
                *state = Some(match detail.error {
                    0 => detail.state,
                    _ => GroupState::Unknown,
                });
                room = room.saturating_sub(detail.assigned.as_ref().map_or(0, Vec::len));
                assigned.insert(detail.group, detail.assigned.ok_or(Why::NoMembers));
            }
        }
        Ok(assigned)
    }

    /// The versions of requests that the open connection's broker offers.
    fn offered(&self) -> GroupVersions {
        let open = self.open.as_ref();
        let versions = open.map(|(_, client)| client.group_versions());
        versions.unwrap_or_default()
    }

    async fn listing(&mut self) -> Result<Listing, Failure> {
        let offered = self.offered().list_groups;
        let versions = [kafka::LIST_GROUPS_WITH_STATES, kafka::LIST_GROUPS_VERSION];
        let Some(version) = versions.into_iter().find(|one| offers(offered, *one)) else {
            let why = format!(
                "{}: it offers no version of ListGroups that is known here",
                self.name
            );
            return Err(Failure::new(Reason::Unsupported, why));
        };
        let request = Request::list_groups(version);
        let read = move |body: &[u8]| Listing::read(body, version);
        let read = self.request(&request, read).await?;
        let name = &self.name;
        let Some((error, listing)) = read else {
            let why = format!(
                "{name}: its list of groups is longer than {} MiB, which is all that is read",
                request.cap >> 20
            );
            return Err(Failure::new(Reason::Protocol, why));
        };
        match error {
            0 => Ok(listing),
            kafka::CLUSTER_AUTHORIZATION | kafka::GROUP_AUTHORIZATION => Err(Failure::new(
                Reason::NeedsCredentials,
                format!(
                    "{name}: the exporter's user (ANONYMOUS without a login) may not list groups: the ACLs should allow Describe on the cluster, or on groups since 2.1"
                ),
            )),
            kafka::COORDINATOR_LOADING..=kafka::NOT_COORDINATOR => Err(Failure::new(
                Reason::Starting,
                format!("{name}: it does not know its groups yet (Kafka's error {error})"),
            )),
            other => Err(Failure::new(
                Reason::Protocol,
                format!("{name}: it answered ListGroups with Kafka's error {other}"),
            )),
        }
    }

    /// `assigned` is what the members of each group have, where the broker does not say all that a group has committed.
    async fn lags(
        &mut self,
        groups: &BTreeMap<Arc<str>, Option<GroupState>>,
        assigned: Option<Assigned>,
        until: Instant,
    ) -> Result<Lags, Failure> {
        let mut lags = Lags::default();
        let mut commits: Vec<Commit> = Vec::new();
        let offered = self.offered();
        let config = Arc::clone(&self.context.config);
        let wanted = groups.keys().filter(|group| config.groups.is_wanted(group));
        for (at, group) in wanted.enumerate() {
            if at >= MOST_LAGS || commits.len() >= MOST_COMMITS || Instant::now() >= until {
                lags.left_out += 1;
                continue;
            }
            let named = match &assigned {
                None => None,
                Some(assigned) => match assigned.get(group) {
                    Some(Ok(named)) if !named.is_empty() => Some(named.as_slice()),
                    Some(Err(why)) => {
                        lags.add_unknown(*why);
                        continue;
                    }
                    _ => {
                        lags.add_unknown(Why::NoMembers);
                        continue;
                    }
                },
            };
            // The oldest brokers do not know the end of a partition in a way that can be asked for.
            if !offers(offered.list_offsets, kafka::LIST_OFFSETS_VERSION) {
                lags.add_unknown(Why::NoMembers);
                continue;
            }
            let version = match named {
                None => kafka::OFFSET_FETCH_ALL,
                Some(_) => kafka::OFFSET_FETCH_NAMED,
            };
            let request = Request::offset_fetch(group, named);
            let (of, room) = (Arc::clone(group), MOST_COMMITS - commits.len());
            let read = move |body: &[u8]| committed(body, version, &of, room);
            match self.request(&request, read).await? {
                Some((0, Some(of_group))) => commits.extend(of_group),
                Some((0, None)) => lags.left_out += 1,
                Some((code, _)) => lags.add_unknown(Why::of_error(code)),
                None => lags.add_unknown(Why::TooLong),
            }
        }
        let size = commits.len();
        let partitions = move || {
            let of = |commit: &Commit| (Arc::clone(&commit.topic), commit.partition);
            let partitions: BTreeSet<TopicPartition> = commits.iter().map(of).collect();
            (commits, partitions.into_iter().collect::<Vec<_>>())
        };
        let (commits, partitions) = self.computed(size, partitions).await?;
        let ends = self.ends(&partitions, until).await?;
        let add = move || {
            lags.add(commits, &ends);
            lags
        };
        self.computed(size, add).await
    }

    /// What is made of so many commits: of many of them in another thread, so that no scrape waits for it.
    async fn computed<T: Send + 'static>(
        &self,
        commits: usize,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> Result<T, Failure> {
        if commits <= FEW_COMMITS {
            return Ok(work());
        }
        let name = &self.name;
        let failed = |error| {
            let why = format!("{name}: the lag of its groups was not computed: {error}");
            Failure::new(Reason::Io, why)
        };
        on_thread("groups", work).await.map_err(failed)
    }

    /// The end offsets of these partitions, as far as this broker knows them: those that it leads, and of those that it
    /// follows what it has itself, if it is in every ISR.
    async fn ends(
        &mut self,
        partitions: &[TopicPartition],
        until: Instant,
    ) -> Result<Ends, Failure> {
        let mut ends = self.ends_as(kafka::CLIENT, partitions, until).await?;
        let behind = self.context.signals.behind.borrow().clone();
        if behind.is_some_and(|behind| behind.is_empty()) {
            let of_others = ends.iter().filter(|(_, end)| **end == Err(Why::Elsewhere));
            let followed: Vec<_> = of_others.map(|(partition, _)| partition.clone()).collect();
            ends.extend(self.ends_as(kafka::DEBUGGING, &followed, until).await?);
        }
        Ok(ends)
    }

    async fn ends_as(
        &mut self,
        who: i32,
        partitions: &[TopicPartition],
        until: Instant,
    ) -> Result<Ends, Failure> {
        let mut ends = Ends::new();
        for some in partitions.chunks(ENDS_AT_ONCE) {
            if Instant::now() >= until {
                break;
            }
            let request = Request::list_offsets(who, some);
            let asked = some.to_vec();
            let read = move |body: &[u8]| read_ends(body, &asked);
            let unknown = || some.iter().map(|one| (one.clone(), Err(Why::TooLong)));
            let read = self.request(&request, read).await?;
            ends.extend(read.unwrap_or_else(|| unknown().collect()));
        }
        Ok(ends)
    }
}

/// What a group has committed, with Kafka's error code; None where that is more than there is room for.
fn committed(
    body: &[u8],
    version: i16,
    group: &Arc<str>,
    room: usize,
) -> Result<(i16, Option<Vec<Commit>>), WireError> {
    let mut commits: Vec<Commit> = Vec::new();
    let mut fits = true;
    let error = kafka::offset_fetch(body, version, |one| {
        // It has committed nothing there.
        if one.error == 0 && one.offset < 0 {
            return;
        }
        fits &= commits.len() < room;
        if !fits {
            return;
        }
        let before = commits.last().filter(|before| *before.topic == *one.topic);
        let topic = before.map_or_else(|| one.topic.into(), |before| Arc::clone(&before.topic));
        commits.push(Commit {
            group: Arc::clone(group),
            topic,
            partition: one.partition,
            offset: match one.error {
                0 => Ok(one.offset),
                code => Err(Why::of_error(code)),
            },
        });
    })?;
    Ok((error, fits.then_some(commits)))
}

/// The ends of what was `asked` for, which is sorted, and of nothing else that the answer may have.
fn read_ends(body: &[u8], asked: &[TopicPartition]) -> Result<Ends, WireError> {
    let mut ends = Ends::new();
    kafka::list_offsets(body, |one| {
        let key = (one.topic, one.partition);
        let at = asked.binary_search_by(|(topic, index)| (&**topic, *index).cmp(&key));
        let Some(partition) = at.ok().and_then(|at| asked.get(at)) else {
            return;
        };
        let end = match one.error {
            0 if one.offset >= 0 => Ok(one.offset),
            0 => Err(Why::Elsewhere),
            code => Err(Why::of_error(code)),
        };
        ends.insert(partition.clone(), end);
    })?;
    Ok(ends)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use kafka_protocol::messages::list_offsets_response::{
        ListOffsetsPartitionResponse, ListOffsetsTopicResponse,
    };
    use kafka_protocol::messages::{ListOffsetsResponse, TopicName};
    use kafka_protocol::protocol::{Encodable, StrBytes};

    use super::*;

    #[test]
    fn no_end_is_kept_that_nobody_asked_for() {
        let end = |index| {
            ListOffsetsPartitionResponse::default()
                .with_partition_index(index)
                .with_offset(7)
        };
        let of_topic = |name: &'static str| {
            ListOffsetsTopicResponse::default()
                .with_name(TopicName(StrBytes::from_static_str(name)))
                .with_partitions((0..1000).map(end).collect())
        };
        let message =
            ListOffsetsResponse::default().with_topics(vec![of_topic("a"), of_topic("t")]);
        let mut body = Vec::new();
        message.encode(&mut body, 1).unwrap();
        let asked = [2, 5, 4711].map(|index| ("t".into(), index));
        let ends = read_ends(&body, &asked).unwrap();
        let expected = [2, 5].map(|index| (("t".into(), index), Ok(7)));
        assert_eq!(ends, Ends::from(expected));
    }
}
