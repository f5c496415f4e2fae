//! Asks one broker process about its groups and for a Fetch, one request after the other over one connection. Nothing is
//! sent to a broker that is suspect, nor while an answer is owed.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use tokio::time::{Duration, Instant};

use super::lag::{Commit, Ends, Lags, MOST_COMMITS, MOST_LAGS, Why};
use super::listing::{Detail, Listing};
use crate::collect::cluster::probe_of;
use crate::collect::cluster::way::Door;
use crate::collect::context::BrokerContext;
use crate::kafka::client::{Client, ClientError, Timing};
use crate::kafka::thread::on_thread;
use crate::kafka::wire::groups::{self as kafka, Request, TopicPartition};
use crate::kafka::wire::{GroupVersions, WireError};
use crate::model::{Failure, GROUPS_NAMED, GroupState, GroupsReport, Probe, Reason};

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
/// A connection that ended while it owed an answer may have left a request handler behind, which waits for a lock for ever.
/// Another request would take a second one.
const REST: Duration = Duration::from_secs(3600);

/// What the members of each group have; None where some of it could not be read.
type Assigned = BTreeMap<Arc<str>, Option<Vec<TopicPartition>>>;

/// What one run reads.
#[derive(Debug)]
pub struct Round {
    /// Why no Fetch was sent, or what came of it.
    pub fetch: Result<Probe, Failure>,
    pub groups: Result<GroupsReport, Failure>,
}

/// See the module.
pub(super) struct Asker {
    context: BrokerContext,
    name: String,
    timing: Timing,
    open: Option<(Door, Client)>,
    /// The groups of its last answer.
    known: Option<GroupsReport>,
    /// A Fetch that is not answered.
    fetch: Option<Probe>,
    owes: bool,
    rests_until: Option<Instant>,
    /// An answer that was owed for so long when its connection ended may never come.
    hung: Duration,
    /// Whether the newest round sent something.
    asked: bool,
    /// Whether it did not, because the broker is suspect.
    suspect: bool,
    /// Why nobody may ask it more than the collector of the cluster does.
    closed: Option<Failure>,
}

impl Asker {
    pub(super) fn new(context: &BrokerContext) -> Asker {
        Asker {
            context: context.clone(),
            name: context.broker.name(),
            timing: Timing {
                // A request that waits for a lock is not repeated on another connection.
                silence: REST,
                ..Timing::default()
            },
            open: None,
            known: None,
            fetch: None,
            owes: false,
            rests_until: None,
            hung: Duration::from_secs(10),
            asked: false,
            suspect: false,
            closed: None,
        }
    }

    /// Whether the newest round was answered, so that its time is a cost.
    pub(super) fn asked(&self) -> bool {
        self.asked && !self.owes
    }

    /// Whether the newest round sent nothing, because the broker is suspect.
    pub(super) fn suspected(&self) -> bool {
        self.suspect
    }

    pub(super) fn owes(&self) -> bool {
        self.owes
    }

    /// Why the newest round could not ask, if the collector of the cluster could not either and no group is known. That one
    /// says it.
    pub(super) fn closed(&self) -> Option<&Failure> {
        self.closed.as_ref().filter(|_| self.known.is_none())
    }

    pub(super) async fn round(&mut self) -> Round {
        let (door, led) = {
            let way = self.context.signals.way.borrow();
            (way.door.clone(), way.led.clone())
        };
        self.asked = false;
        self.suspect = self.is_suspect();
        self.closed = door.as_ref().and_then(|door| door.as_ref().err()).cloned();
        let door = match (self.hindrance(), door) {
            (_, Some(Err(why))) | (Some(why), _) => return self.unasked(why).await,
            (None, None) => {
                let why = format!("{}: not asked before its first answer", self.name);
                return self.unasked(Failure::new(Reason::Starting, why)).await;
            }
            (None, Some(Ok(door))) => door,
        };
        self.asked = true;
        let is_other = |(open, _): &(Door, Client)| !open.is(&door);
        // One that owes an answer is kept until it comes.
        if self.open.as_ref().is_none_or(is_other) && !self.owes {
            let client = door.client(self.timing);
            self.open = Some((door, client));
        }
        match self.api().await {
            Err(why) => self.unasked(why).await,
            Ok(()) => {
                self.fetch = None;
                let fetch = self.fetch(led).await;
                let hangs = fetch.as_ref().ok().and_then(|probe| probe.error.as_ref());
                let groups = match hangs {
                    Some(error) => Err(Failure::new(error.reason, error.message.clone())),
                    None => self.groups().await,
                };
                // A server that only speaks Kafka's protocol may have no groups.
                let unsupported = |why: &&Failure| why.reason == Reason::Unsupported;
                self.closed = groups.as_ref().err().filter(unsupported).cloned();
                let groups = groups.or_else(|why| self.remembered(why));
                Round { fetch, groups }
            }
        }
    }

    /// What is known of a broker that is not asked, or does not answer.
    async fn unasked(&mut self, why: Failure) -> Round {
        if let Some((_, client)) = &mut self.open
            && self.owes
        {
            self.owes = client.owes_answer().await;
        }
        if !self.owes {
            self.fetch = None;
        }
        Round {
            fetch: self.fetch.clone().ok_or_else(|| why.clone()),
            groups: self.remembered(why),
        }
    }

    fn remembered(&self, why: Failure) -> Result<GroupsReport, Failure> {
        match &self.known {
            Some(known) if !why.reason.is_of_access() => Ok(known.silent(why.message)),
            _ => Err(why),
        }
    }

    fn is_suspect(&self) -> bool {
        !self.context.signals.suspects.borrow().is_empty()
    }

    /// Why nothing may be sent now.
    fn hindrance(&self) -> Option<Failure> {
        let name = &self.name;
        if self.is_suspect() {
            let why = format!(
                "{name}: threads make no progress or an answer is owed, so it is asked for nothing that takes a lock"
            );
            return Some(Failure::new(Reason::Slow, why));
        }
        let until = self.rests_until.filter(|until| Instant::now() < *until)?;
        let minutes = (until - Instant::now()).as_secs().div_ceil(60);
        let why = format!(
            "{name}: it closed the connection while a request that takes a lock was unanswered for long, so it is asked for no more of them for {minutes} min"
        );
        Some(Failure::new(Reason::Timeout, why))
    }

    async fn api(&mut self) -> Result<(), Failure> {
        let Some((_, client)) = &mut self.open else {
            return Ok(());
        };
        let asked = client.api().await;
        self.notice_abandoned();
        if let Some(why) = self.hindrance() {
            return Err(why);
        }
        let Err(error) = asked.answer else {
            self.owes = false;
            return Ok(());
        };
        if let Some(fetch) = &mut self.fetch {
            *fetch = probe_of(&self.name, asked.connected_in, asked.duration, Some(&error));
        }
        Err(self.failure(&error))
    }

    /// Rests for long where a connection has ended with an answer owed.
    fn notice_abandoned(&mut self) {
        let owed = self.open.as_mut().and_then(|(_, open)| open.abandoned());
        if owed.is_some_and(|owed| owed >= self.hung) {
            self.rests_until = Some(Instant::now() + REST);
        }
    }

    fn failure(&mut self, error: &ClientError) -> Failure {
        self.notice_abandoned();
        // Where no connection was made, nothing is owed.
        self.owes = matches!(&self.open, Some((_, open)) if open.is_owed());
        Failure::new(error.reason(), format!("{}: {error}", self.name))
    }

    async fn request<T: Send + 'static>(
        &mut self,
        request: &Request,
        read: impl FnOnce(&[u8]) -> Result<T, WireError> + Send + 'static,
    ) -> Result<T, Failure> {
        // It may have become suspect since the last request.
        if let Some(why) = self.hindrance() {
            return Err(why);
        }
        let Some((_, client)) = &mut self.open else {
            let why = format!("{}: not connected", self.name);
            return Err(Failure::new(Reason::Closed, why));
        };
        let asked = client.request(request, read).await;
        match asked.answer {
            Ok(read) => Ok(read),
            Err(error) => Err(self.failure(&error)),
        }
    }

    /// Sends a Fetch for a partition, which takes its lock.
    async fn fetch(&mut self, led: Option<TopicPartition>) -> Result<Probe, Failure> {
        let name = self.name.clone();
        let failure = |reason, why: String| Err(Failure::new(reason, format!("{name}: {why}")));
        let Some((topic, index)) = led else {
            let why = "it leads no partition for which a Fetch could be sent".to_owned();
            return failure(Reason::Absent, why);
        };
        let Some((_, client)) = &mut self.open else {
            return failure(Reason::Closed, "not connected".to_owned());
        };
        let offered = client.group_versions().fetch;
        let versions = [kafka::FETCH_VERSION, kafka::FETCH_OF_0_10];
        let Some(version) = versions.into_iter().find(|one| offers(offered, *one)) else {
            let why = "it offers no version of Fetch that is known here".to_owned();
            return failure(Reason::Unsupported, why);
        };
        let request = Request::fetch(version, (Arc::clone(&topic), index));
        let asked = client.request(&request, kafka::fetch).await;
        let error = match asked.answer {
            // The offset is out of range of every partition, and only who has the lock knows that.
            Ok(Some(0 | kafka::OFFSET_OUT_OF_RANGE)) => None,
            Ok(Some(kafka::TOPIC_AUTHORIZATION)) => {
                let why = format!(
                    "the exporter's user (ANONYMOUS without a login) may not read {topic}: the ACLs should allow Read on topics"
                );
                return failure(Reason::NeedsCredentials, why);
            }
            Ok(code) => {
                let code = code.map_or("nothing".to_owned(), |code| format!("error {code}"));
                let why =
                    format!("it answered a Fetch for partition {index} of {topic} with {code}");
                return failure(Reason::Absent, why);
            }
            Err(error) => Some(error),
        };
        let (connected_in, duration) = (asked.connected_in, asked.duration);
        let probe = probe_of(&name, connected_in, duration, error.as_ref());
        if let Some(error) = error {
            self.failure(&error);
            self.fetch = Some(probe.clone());
        }
        Ok(probe)
    }

    async fn groups(&mut self) -> Result<GroupsReport, Failure> {
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
        let assigned = (!all_at_once).then_some(assigned);
        let lags = self.lags(&listing.groups, assigned, until).await?;
        Ok(GroupsReport {
            names,
            total,
            silence: None,
            states,
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
        for some in names.chunks(DESCRIBED_AT_ONCE) {
            if Instant::now() >= until {
                break;
            }
            let request = Request::describe_groups(some);
            let read = move |body: &[u8]| Detail::read(body, room);
            for detail in self.request(&request, read).await? {
                let Some(state) = groups.get_mut(&detail.group) else {
                    continue;
                };
                *state = Some(match detail.error {
                    0 => detail.state,
                    _ => GroupState::Unknown,
                });
                room = room.saturating_sub(detail.assigned.as_ref().map_or(0, Vec::len));
                assigned.insert(detail.group, detail.assigned);
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
        let (error, listing) = self.request(&request, read).await?;
        let name = &self.name;
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
                    Some(Some(named)) if !named.is_empty() => Some(named.as_slice()),
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
            let (error, of_group) = self.request(&request, read).await?;
            match (error, of_group) {
                (0, Some(of_group)) => commits.extend(of_group),
                (0, None) => lags.left_out += 1,
                (code, _) => lags.add_unknown(Why::of_error(code)),
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
            ends.extend(self.request(&request, read).await?);
        }
        Ok(ends)
    }
}

fn offers(range: Option<(i16, i16)>, version: i16) -> bool {
    range.is_some_and(|(oldest, newest)| (oldest..=newest).contains(&version))
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
mod tests;
