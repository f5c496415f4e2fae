//! What each file says of each broker.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;

use super::artifact::{File, REGISTERED, SOCKETS};
use super::bundle::{Bundle, Found};
use super::explanation::{By, Fact, Source};
use super::names::{Name, Names, Owner};
use super::signals::{Signal, Signals};
use super::stalls::{self, StoodStill};
use crate::analyze::dumps::Analysis;
use crate::analyze::formats::server_log::Log;
use crate::analyze::formats::topics::{self, Partition};
use crate::analyze::formats::{groups, handles, sockets, zookeeper};
use crate::model::TcpState;
use crate::threads::stalls::stall_text;
use crate::verdict::finding::BrokerState;

/// A broker that works closes what its clients closed at once: so many that it has not closed are no accident.
const MANY: u64 = 10;

struct Gathering<'a> {
    told: BTreeMap<Name, Signals>,
    elsewhere: Vec<Fact>,
    names: &'a Names,
}

pub fn gather(
    files: &[File<'_>],
    logs: &[Option<Log<'_>>],
    owners: &[Owner],
    names: &Names,
    analysis: &Analysis,
    bundles: &[Bundle<'_>],
) -> (BTreeMap<Name, Signals>, Vec<Fact>) {
    let told = names
        .all()
        .into_iter()
        .map(|name| (name, Signals::default()))
        .collect();
    let mut all = Gathering {
        told,
        elsewhere: Vec::new(),
        names,
    };
    bundles.iter().for_each(|bundle| all.bundle(bundle));
    let sizes = topic_sizes(files);
    for ((file, log), owner) in files.iter().zip(logs).zip(owners) {
        all.found(file, owner);
        all.dumps(file, owner, analysis);
        all.topics(file);
        all.sockets(file);
        all.handles(file, owner);
        all.zookeeper(file);
        all.groups(file, &sizes);
        if let Some(log) = log {
            all.broker_log(
                file,
                log,
                owner.as_ref().map(|(name, _)| name).filter(|_| log.broker),
            );
            all.client_log(file, log);
        }
    }
    stalls::find(files, owners)
        .into_iter()
        .for_each(|stood| all.stall(stood, files, owners));
    all.ends_of_logs(files, logs, owners);
    (all.told, all.elsewhere)
}

fn fact(
    kind: &'static str,
    file: &File<'_>,
    text: String,
    figures: &[(&'static str, u64)],
) -> Fact {
    Fact {
        against: None,
        kind,
        source: file.source.to_owned(),
        text,
        figures: figures.iter().copied().collect(),
        partitions: Vec::new(),
    }
}

fn list<T: ToString>(items: impl IntoIterator<Item = T>) -> String {
    items
        .into_iter()
        .map(|item| item.to_string())
        .collect::<Vec<_>>()
        .join(", ")
}

impl Gathering<'_> {
    /// Of names beyond the bound of [`Names`] nothing is kept.
    fn charge(
        &mut self,
        name: &Name,
        against: Option<Source>,
        sufferers: BTreeSet<Name>,
        fact: Fact,
    ) {
        if let Some(told) = self.told.get_mut(name) {
            told.facts.push(Signal {
                fact: Fact { against, ..fact },
                sufferers,
            });
        }
    }

    fn explain(&mut self, name: &Name, fact: Fact) {
        self.charge(name, None, BTreeSet::new(), fact);
    }

    fn bundle(&mut self, bundle: &Bundle<'_>) {
        match bundle.id().map(Name::Id) {
            Some(name) => {
                if let Some(told) = self.told.get_mut(&name) {
                    told.version.clone_from(&bundle.manifest.kafka_version);
                    told.judged_gray |= bundle.says_gray();
                }
                let against = bundle.says_gray().then_some(Source::Exporter);
                self.charge(&name, against, BTreeSet::new(), bundle.fact());
            }
            None => self.elsewhere.push(bundle.fact()),
        }
    }

    /// What an exporter found at the time.
    fn found(&mut self, file: &File<'_>, owner: &Owner) {
        let Some(found @ Found { state, .. }) = &file.found else {
            return;
        };
        let told = fact(
            "found",
            file,
            found.text(),
            &[("findings", found.findings.len() as u64)],
        );
        let Some((name, _)) = owner else {
            return self.elsewhere.push(told);
        };
        if let Some(told) = self.told.get_mut(name) {
            told.judged_gray |= *state == BrokerState::Gray;
            told.known_issues.extend(found.known_issues.iter().cloned());
        }
        let against =
            matches!(state, BrokerState::Gray | BrokerState::Suspect).then_some(Source::Exporter);
        self.charge(name, against, BTreeSet::new(), told);
    }

    fn stall(&mut self, stood: StoodStill, files: &[File<'_>], owners: &[Owner]) {
        let StoodStill {
            stall,
            file,
            from,
            until,
        } = stood;
        let (Some(file), Some(owner)) = (files.get(file), owners.get(file)) else {
            return;
        };
        let mut text = format!("{}, {from} to {until}", stall_text(&stall));
        if let Some(thread) = &stall.unblocked_by {
            let _ = write!(text, "; perhaps until {thread} is done");
        }
        let told = fact(
            "stall",
            file,
            text,
            &[("threads", stall.threads.len() as u64)],
        );
        let Some((name, by)) = owner else {
            return self.elsewhere.push(told);
        };
        if let Some(told) = self.told.get_mut(name) {
            told.surely_its_dump |= *by != By::FileName;
            told.known_issues.extend(stall.known_issues);
        }
        self.charge(name, Some(Source::Dump), BTreeSet::new(), told);
    }

    fn dumps(&mut self, file: &File<'_>, owner: &Owner, analysis: &Analysis) {
        let Some((name, by)) = owner else { return };
        for index in file.dumps.clone() {
            let Some(dump) = analysis.dumps.get(index) else {
                continue;
            };
            let at = dump
                .time
                .as_ref()
                .map(|time| format!(" at {time}"))
                .unwrap_or_default();
            if analysis.deadlocks_of(index).next().is_none() {
                self.explain(
                    name,
                    fact(
                        "no_deadlock",
                        file,
                        format!("no deadlock in its dump{at}"),
                        &[],
                    ),
                );
            }
            for (number, deadlock) in analysis.deadlocks_of(index) {
                let members = list(deadlock.cycle.iter().map(|member| &member.thread));
                let hint = if *by == By::FileName {
                    ", its dump by the file's name alone"
                } else {
                    ""
                };
                let text = format!("deadlock of {members}{at}{hint}");
                if let Some(told) = self.told.get_mut(name) {
                    told.deadlocks.push(number);
                    told.surely_its_dump |= *by != By::FileName;
                }
                let figures = [("threads", deadlock.cycle.len() as u64)];
                self.charge(
                    name,
                    Some(Source::Dump),
                    BTreeSet::new(),
                    fact("deadlock", file, text, &figures),
                );
            }
        }
    }

    fn sockets(&mut self, file: &File<'_>) {
        #[derive(Default)]
        struct Tally {
            sockets: u64,
            queued: u64,
            bytes: u64,
            hosts: BTreeSet<Name>,
        }
        let mut tallies: BTreeMap<(Name, bool, TcpState), Tally> = BTreeMap::new();
        for socket in sockets::sockets(&file.text) {
            let served = self.names.at(socket.local);
            let Some(name) = served.or_else(|| self.names.at(socket.peer)) else {
                continue;
            };
            let tally = tallies
                .entry((name.clone(), served.is_some(), socket.state))
                .or_default();
            let bytes = match (served, socket.state) {
                // The peer's FIN counts 1.
                (Some(_), TcpState::CloseWait) => socket.receive_queue.saturating_sub(1),
                (Some(_), _) => socket.receive_queue,
                (None, _) => socket.send_queue,
            };
            tally.sockets += 1;
            tally.queued += u64::from(bytes > 0);
            tally.bytes = tally.bytes.saturating_add(bytes);
            if served.is_none() {
                tally.hosts.extend(
                    self.names
                        .on_host(socket.local.ip())
                        .map(|(host, _)| host.clone()),
                );
            }
        }
        if tallies.is_empty() && file.is(SOCKETS) {
            let text =
                "none of these sockets is at a port that is known to be a broker's".to_owned();
            self.elsewhere
                .push(fact("sockets_of_no_broker", file, text, &[]));
        }
        for (
            (name, serves, state),
            Tally {
                sockets,
                queued,
                bytes,
                hosts,
            },
        ) in tallies
        {
            let connections = count(sockets, "connection");
            let unread = if queued > 0 {
                format!("; {queued} with {bytes} unread bytes")
            } else {
                String::new()
            };
            let of = if hosts.is_empty() {
                String::new()
            } else {
                format!(" of broker {}", list(&hosts))
            };
            let (kind, against, text) = match (serves, state) {
                (true, TcpState::CloseWait) => (
                    "close_wait",
                    (queued > 0 || sockets >= MANY).then_some(Source::Own),
                    format!(
                        "{connections} in CLOSE_WAIT, closed by the other side and not by it{unread}"
                    ),
                ),
                (true, TcpState::Established) if queued > 0 => (
                    "unread",
                    None,
                    format!(
                        "{queued} of {sockets} established connections hold {bytes} unread bytes"
                    ),
                ),
                (true, TcpState::Listen) if bytes > 0 => (
                    "accept_queue",
                    None,
                    format!("{bytes} connections wait to be accepted"),
                ),
                (false, TcpState::FinWait1) if queued > 0 => (
                    "fin_wait1_towards_it",
                    Some(Source::Peers),
                    format!(
                        "{connections}{of} to it in FIN_WAIT1, with {bytes} bytes that it does not take"
                    ),
                ),
                (false, TcpState::FinWait2) => (
                    "fin_wait2_towards_it",
                    None,
                    format!(
                        "{connections}{of} to it in FIN_WAIT2: closed by the other side and not by it"
                    ),
                ),
                _ => continue,
            };
            let figures = [
                ("connections", sockets),
                ("with_bytes", queued),
                ("bytes", bytes),
            ];
            self.charge(&name, against, hosts, fact(kind, file, text, &figures));
        }
    }

    fn handles(&mut self, file: &File<'_>, owner: &Owner) {
        let (mut handles, mut sockets, mut untracked) = (0, 0, 0);
        for handle in handles::handles(&file.text) {
            handles += 1;
            sockets += u64::from(handle.socket);
            untracked += u64::from(handle.untracked);
        }
        if handles == 0 {
            return;
        }
        let mut text = format!("{handles} open handles, {sockets} of them sockets");
        if untracked > 0 {
            let _ = write!(text, ", {untracked} in no table of the kernel any more");
        }
        let told = fact(
            "handles",
            file,
            text,
            &[
                ("handles", handles),
                ("sockets", sockets),
                ("untracked", untracked),
            ],
        );
        match owner {
            Some((name, _)) => self.charge(
                name,
                (untracked >= MANY).then_some(Source::Own),
                BTreeSet::new(),
                told,
            ),
            None => self.elsewhere.push(told),
        }
    }

    fn topics(&mut self, file: &File<'_>) {
        #[derive(Default)]
        struct Missing {
            partitions: u64,
            leaders: BTreeSet<i32>,
        }
        let mut led: BTreeMap<Option<i32>, Vec<Partition<'_>>> = BTreeMap::new();
        let mut missing: BTreeMap<i32, Missing> = BTreeMap::new();
        for row in topics::partitions(&file.text) {
            led.entry(row.leader).or_default().push(row);
            for id in out_of_sync(&row).filter(|_| row.leader.is_some()) {
                let missing = missing.entry(id).or_default();
                missing.partitions += 1;
                missing.leaders.extend(row.leader);
            }
        }
        // A follower that is gone leaves every leader; a leader that is stuck loses every follower.
        let is_gone = |id: &i32, found: &Missing| {
            found.leaders.len() > 1 || (missing.len() == 1 && !led.contains_key(&Some(*id)))
        };
        let gone: BTreeSet<i32> = missing
            .iter()
            .filter(|(id, found)| is_gone(id, found))
            .map(|(id, _)| *id)
            .collect();
        for (leader, rows) in &led {
            let Some(leader) = leader else {
                let text = format!(
                    "without a leader: {}",
                    by_topic(rows.iter().map(|row| (row.topic, row.partition)))
                );
                self.elsewhere.push(fact(
                    "no_leader",
                    file,
                    text,
                    &[("partitions", rows.len() as u64)],
                ));
                continue;
            };
            let alone = |row: &&Partition<'_>| {
                topics::ids(row.isr).eq([*leader]) && out_of_sync(row).next().is_some()
            };
            let alone: Vec<&Partition<'_>> = rows.iter().filter(alone).collect();
            if alone.is_empty() {
                continue;
            }
            let without: BTreeSet<i32> = alone.iter().flat_map(|row| out_of_sync(row)).collect();
            let own_fault = !without.is_subset(&gone);
            let text = format!(
                "leads {} and is alone in the ISR of {}: {}; missing there: {}{}",
                count(rows.len() as u64, "partition"),
                alone.len(),
                by_topic(alone.iter().map(|row| (row.topic, row.partition))),
                list(&without),
                if own_fault {
                    ", which it threw out and which are not to blame"
                } else {
                    ""
                }
            );
            let figures = [("leads", rows.len() as u64), ("alone", alone.len() as u64)];
            let mut told = fact("leader_alone", file, text, &figures);
            told.partitions = alone
                .iter()
                .map(|row| format!("{}-{}", row.topic, row.partition))
                .collect();
            let without = without.into_iter().map(Name::Id).collect();
            self.charge(
                &Name::Id(*leader),
                own_fault.then_some(Source::Isr),
                without,
                told,
            );
        }
        for id in gone {
            let Some(Missing {
                partitions,
                leaders,
            }) = missing.get(&id)
            else {
                continue;
            };
            let text = format!(
                "missing from the ISR of {}, led by {}",
                count(*partitions, "partition"),
                list(leaders)
            );
            let told = fact(
                "missing_from_isr",
                file,
                text,
                &[("partitions", *partitions)],
            );
            self.charge(&Name::Id(id), Some(Source::Isr), BTreeSet::new(), told);
        }
    }

    fn broker_log(&mut self, file: &File<'_>, log: &Log<'_>, own: Option<&Name>) {
        for (id, times) in &log.disconnects {
            let who = own.map_or("a client".to_owned(), |own| format!("broker {own}"));
            let text = format!(
                "{who} lost its connection to it {}",
                times_of(times.count, times.first, times.last)
            );
            let told = fact("disconnects", file, text, &[("times", times.count)]);
            self.charge(
                &Name::Id(*id),
                Some(Source::Peers),
                own.cloned().into_iter().collect(),
                told,
            );
        }
        let Some(own) = own else { return };
        if let (Some(told), Some(version)) = (self.told.get_mut(own), log.version) {
            told.version = Some(version.to_owned());
        }
        let id = own.to_string();
        let alone = || {
            log.isr_changes
                .iter()
                .filter(|(_, change)| change.from.contains(',') && change.to == id)
        };
        let times = || alone().map(|(_, change)| change.time);
        if let (Some(first), Some(last)) = (times().min(), times().max()) {
            let out = alone()
                .flat_map(|(_, change)| topics::ids(change.from))
                .map(Name::Id)
                .filter(|name| name != own);
            let partitions = alone().count() as u64;
            let text = format!(
                "shrank {} to itself alone, {first} to {last}, and has not grown them since",
                count(partitions, "ISR")
            );
            let mut told = fact(
                "shrank_to_itself",
                file,
                text,
                &[("partitions", partitions)],
            );
            let plain = |name: &str| name.trim_matches(['[', ']']).replace(',', "-");
            told.partitions = alone().map(|(partition, _)| plain(partition)).collect();
            self.charge(own, Some(Source::Isr), out.collect(), told);
        }
    }

    fn client_log(&mut self, file: &File<'_>, log: &Log<'_>) {
        let mut errors: BTreeMap<&str, (u64, Vec<&str>)> = BTreeMap::new();
        for ((error, partition), times) in &log.produce_errors {
            let (sum, partitions) = errors.entry(error).or_default();
            *sum += times;
            partitions.push(partition);
        }
        for (error, (times, partitions)) in errors {
            let pairs = partitions.iter().filter_map(|name| {
                name.rsplit_once('-')?
                    .1
                    .parse()
                    .ok()
                    .zip(name.rsplit_once('-'))
            });
            let which = by_topic(pairs.map(|(partition, (topic, _))| (topic, partition)));
            let text = format!("a producer met {error} {}: {which}", count(times, "time"));
            let figures = [
                ("times", times),
                ("partitions", partitions.len() as u64),
                ("unanswered", log.unanswered),
            ];
            let mut told = fact("produce_errors", file, text, &figures);
            told.partitions = partitions.into_iter().map(str::to_owned).collect();
            self.elsewhere.push(told);
        }
        if log.unanswered > 0 {
            let text = format!(
                "a client was disconnected {} before its answer",
                count(log.unanswered, "time")
            );
            self.elsewhere
                .push(fact("unanswered", file, text, &[("times", log.unanswered)]));
        }
    }

    /// A broker's log that stops while others go on; only beside something that speaks against it.
    fn ends_of_logs(&mut self, files: &[File<'_>], logs: &[Option<Log<'_>>], owners: &[Owner]) {
        let ends = files
            .iter()
            .zip(logs)
            .zip(owners)
            .filter_map(|((file, log), owner)| {
                let (log, (name, _)) = log.as_ref().filter(|log| log.broker).zip(owner.as_ref())?;
                Some((file, log.last, name))
            });
        let ends: Vec<_> = ends.collect();
        for (file, end, name) in &ends {
            let later = ends
                .iter()
                .filter(|(_, _, other)| other != name)
                .map(|(_, end, _)| *end)
                .max();
            let accused = self.told.get(name).is_some_and(|told| {
                told.facts
                    .iter()
                    .any(|charge| charge.fact.against.is_some())
            });
            if let Some(later) = later.filter(|later| later > end && accused) {
                let text = format!("its log ends at {end}, others' go on until {later}");
                self.explain(name, fact("log_ends", file, text, &[]));
            }
        }
    }

    fn zookeeper(&mut self, file: &File<'_>) {
        for id in zookeeper::registered(&file.text)
            .into_iter()
            .flatten()
            .collect::<BTreeSet<_>>()
        {
            let text = "registered in ZooKeeper: its session lives".to_owned();
            self.explain(&Name::Id(id), fact(REGISTERED, file, text, &[]));
        }
    }

    fn groups(&mut self, file: &File<'_>, sizes: &BTreeMap<String, u64>) {
        let mut tables = 0;
        let mut listed: BTreeMap<(&str, &str), BTreeSet<u32>> = BTreeMap::new();
        for line in groups::lines(&file.text) {
            match line {
                groups::Line::Header => tables += 1,
                groups::Line::Partition {
                    group,
                    topic,
                    partition,
                } => {
                    listed
                        .entry((group.unwrap_or("a group"), topic))
                        .or_default()
                        .insert(partition);
                }
                groups::Line::Error(error) => {
                    self.elsewhere
                        .push(fact("group_not_described", file, error.to_owned(), &[]));
                }
            }
        }
        if tables > 0 && listed.is_empty() {
            let text = "a group was described without any partition: its coordinator did not tell, or the group is empty";
            self.elsewhere
                .push(fact("group_without_partitions", file, text.to_owned(), &[]));
        }
        for ((group, topic), partitions) in listed {
            let mut text = format!(
                "{group}: {} told: {}",
                count(partitions.len() as u64, "partition"),
                by_topic(partitions.iter().map(|number| (topic, *number)))
            );
            let mut figures = vec![("partitions", partitions.len() as u64)];
            // A topic that nothing described has as many as new ones get, most likely.
            for (key, of, size) in [
                ("of", "of", sizes.get(topic)),
                ("default", "new topics have", sizes.get("")),
            ] {
                if let Some(size) = size.filter(|size| **size > partitions.len() as u64) {
                    let _ = write!(text, "; {of} {size}");
                    figures.push((key, *size));
                    break;
                }
            }
            self.elsewhere.push(fact("group", file, text, &figures));
        }
    }
}

/// Partitions of each topic, and of new ones, under the empty name, where settings tell it.
fn topic_sizes(files: &[File<'_>]) -> BTreeMap<String, u64> {
    let mut sizes: BTreeMap<String, u64> = BTreeMap::new();
    for file in files {
        for row in topics::partitions(&file.text) {
            let size = sizes.entry(row.topic.to_owned()).or_default();
            *size = (*size).max(u64::from(row.partition) + 1);
        }
        let default = file
            .properties
            .as_ref()
            .and_then(|settings| settings.get("num.partitions")?.parse().ok());
        sizes.extend(default.map(|default| (String::new(), default)));
    }
    sizes
}

fn count(number: u64, what: &str) -> String {
    format!("{number} {what}{}", if number == 1 { "" } else { "s" })
}

fn times_of(number: u64, first: &str, last: &str) -> String {
    if number == 1 {
        format!("at {first}")
    } else {
        format!("{number} times, {first} to {last}")
    }
}

/// Replicas that are not in the ISR.
fn out_of_sync<'a>(row: &Partition<'a>) -> impl Iterator<Item = i32> + use<'a> {
    let isr: BTreeSet<i32> = topics::ids(row.isr).collect();
    topics::ids(row.replicas).filter(move |id| !isr.contains(id))
}

/// `t 1, 7, 10; u 0`, at most 40 partitions.
fn by_topic<'a>(partitions: impl Iterator<Item = (&'a str, u32)>) -> String {
    let mut topics: BTreeMap<&str, BTreeSet<u32>> = BTreeMap::new();
    let mut left_out = 0;
    for (number, (topic, partition)) in partitions.enumerate() {
        if number < 40 {
            topics.entry(topic).or_default().insert(partition);
        } else {
            left_out += 1;
        }
    }
    let mut text = topics
        .iter()
        .map(|(topic, numbers)| format!("{topic} {}", list(numbers)))
        .collect::<Vec<_>>()
        .join("; ");
    if left_out > 0 {
        let _ = write!(text, " and {left_out} more");
    }
    text
}
