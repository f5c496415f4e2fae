//! What the logs of brokers and clients say.

use std::collections::BTreeMap;

use super::gathering::{Gathering, by_topic, count, fact};
use crate::analyze::artifact::File;
use crate::analyze::explanation::{FactKind, Source};
use crate::analyze::formats::server_log::{KEPT_ALIKE, Log, SECONDS, Times};
use crate::analyze::formats::topics;
use crate::analyze::names::{Name, Owner};

impl Gathering<'_> {
    /// `own` is the broker that wrote the log; None for a client's log, and where nothing shows which broker wrote it.
    pub(super) fn broker_log(&mut self, file: &File<'_>, log: &Log<'_>, own: Option<&Name>) {
        let more = or_more(log);
        for (id, times) in &log.disconnects {
            let who = own.map_or("a client".to_owned(), |own| format!("broker {own}"));
            let text = format!("{who} lost its connection to it {}", text_of(times, more));
            let figures = [("times", times.count)];
            let fact = fact(FactKind::Disconnects, file, text, &figures);
            let signal = fact.against(Some(Source::Peers)).affecting(own.cloned());
            self.add(Some(&Name::Id(*id)), signal);
        }
        let Some(own) = own else { return };
        if let (Some(signals), Some(version)) = (self.of(Some(own)), log.version) {
            signals.version = Some(version.to_owned());
        }
        self.shrunk_to_itself(file, log, own);
    }

    fn shrunk_to_itself(&mut self, file: &File<'_>, log: &Log<'_>, own: &Name) {
        let id = own.to_string();
        let alone = || {
            log.isr_changes
                .iter()
                .filter(|(_, change)| change.from.contains(',') && change.to == id)
        };
        let times = || alone().map(|(_, change)| change.time);
        let (Some(first), Some(last)) = (times().min(), times().max()) else {
            return;
        };
        let removed = alone()
            .flat_map(|(_, change)| topics::ids(change.from))
            .map(Name::Id)
            .filter(|name| name != own);
        let partitions = alone().count() as u64;
        let text = format!(
            "shrank {} to itself alone, {first} to {last}, and did not expand them since",
            count(partitions, "ISR")
        );
        let figures = [("partitions", partitions)];
        let mut fact = fact(FactKind::ShrankToItself, file, text, &figures);
        let plain = |name: &str| name.trim_matches(['[', ']']).replace(',', "-");
        fact.partitions = alone().map(|(partition, _)| plain(partition)).collect();
        let signal = fact.against(Some(Source::Isr)).affecting(removed);
        self.add(Some(own), signal);
    }

    pub(super) fn client_log(&mut self, file: &File<'_>, log: &Log<'_>) {
        let more = or_more(log);
        let mut errors: BTreeMap<&str, (u64, Vec<&str>)> = BTreeMap::new();
        for ((error, partition), times) in &log.produce_errors {
            let (sum, partitions) = errors.entry(error).or_default();
            *sum += times;
            partitions.push(partition);
        }
        for (error, (times, partitions)) in errors {
            let pairs = partitions.iter().filter_map(|name| {
                let (topic, partition) = name.rsplit_once('-')?;
                Some((topic, partition.parse().ok()?))
            });
            let which = by_topic(pairs);
            let number = count(times, "time");
            let text = format!("a producer met {error} {number}{more}: {which}");
            let figures = [
                ("times", times),
                ("partitions", partitions.len() as u64),
                ("unanswered", log.unanswered),
            ];
            let mut fact = fact(FactKind::ProduceErrors, file, text, &figures);
            fact.partitions = partitions.into_iter().map(str::to_owned).collect();
            self.add(None, fact.alone());
        }
        if log.unanswered > 0 {
            let times = count(log.unanswered, "time");
            let text = format!("a client was disconnected {times}{more} before its answer");
            let figures = [("times", log.unanswered)];
            let fact = fact(FactKind::Unanswered, file, text, &figures);
            self.add(None, fact.alone());
        }
    }

    /// A broker's log that stops while others go on; only beside something that speaks against the broker.
    pub(super) fn ends_of_logs(&mut self, files: &[File<'_>], owners: &[Owner]) {
        let ends = files.iter().zip(owners).filter_map(|(file, owner)| {
            let (log, (name, _)) = file.broker_log().zip(owner.as_ref())?;
            // Times of day alone are not comparable.
            let end = log.last.replace('T', " ");
            (end.len() == SECONDS).then_some((file, end, name))
        });
        let ends: Vec<_> = ends.collect();
        for (file, end, name) in &ends {
            let others = ends.iter().filter(|(_, _, other)| other != name);
            let later = others.map(|(_, end, _)| end).max();
            let accused = self.signals.get(name).is_some_and(|signals| {
                let mut facts = signals.facts.iter();
                facts.any(|signal| signal.fact.against.is_some())
            });
            if let Some(later) = later.filter(|later| *later > end && accused) {
                let text = format!("its log ends at {end}, those of others continue until {later}");
                let fact = fact(FactKind::LogEnds, file, text, &[]);
                self.add(Some(name), fact.alone());
            }
        }
    }
}

fn text_of(times: &Times<'_>, or_more: &str) -> String {
    let Times { count, first, last } = times;
    if *count == 1 {
        format!("at {first}")
    } else {
        format!("{count} times{or_more}, {first} to {last}")
    }
}

/// Of a long log no more lines that are alike are kept.
fn or_more(log: &Log<'_>) -> &'static str {
    match log.alike() < KEPT_ALIKE {
        true => "",
        false => " or more",
    }
}
