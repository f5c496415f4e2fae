//! Saved output of many tools explained together: which broker is to blame, by what, and who merely suffers from it.
//!
//! A deadlock in a broker's own dump decides, so do threads that stand still over several, and what the exporter judged
//! when it saved a bundle; without these at least two views that know nothing of each other must agree:
//! its own sockets and handles, what its peers saw of it, what the ISRs say.

use std::collections::{BTreeMap, BTreeSet};

use super::artifact::*;
use super::bundle::{Bundle, Found};
use super::dumps::Analysis;
use super::explanation::*;
use super::facts;
use super::formats::server_log::{self, Log};
use super::formats::{groups, handles, sockets, topics, zookeeper};
use super::names::{self, Name, Names};
use super::signals::{Signal, Signals};
use crate::discover::properties::{FILE_CAP, Properties};
use crate::model::NamedIssue;
use crate::parse::thread_dump;
use crate::threads::known_issues::each_once;

/// Explains files, each with its name and its bytes.
pub fn explain(saved: &[(String, Vec<u8>)]) -> Explanation {
    let mut analysis = Analysis::default();
    let mut not_recognised = Vec::new();
    let mut files = Vec::new();
    let bundles = Bundle::find(saved);
    for (source, bytes) in saved {
        match recognise(source, bytes, &mut analysis) {
            Ok(file) => files.push(file),
            Err(_) if Bundle::with(&bundles, source).is_some() => {
                files.push(File {
                    source,
                    forms: vec![EVIDENCE],
                    ..File::default()
                });
            }
            Err(reason) => not_recognised.push(NotRecognised {
                source: source.clone(),
                reason,
            }),
        }
    }
    let logs: Vec<Option<Log<'_>>> = files
        .iter()
        .map(|file| server_log::parse(&file.text))
        .collect();
    let names = Names::learn(&files, &logs, &bundles);
    let owners: Vec<_> = files
        .iter()
        .zip(&logs)
        .map(|(file, log)| {
            let of_bundle = Bundle::with(&bundles, file.source).and_then(Bundle::id);
            names.owner(file, log.as_ref(), of_bundle)
        })
        .collect();
    let (told, elsewhere) = facts::gather(&files, &logs, &owners, &names, &analysis, &bundles);
    let brokers = judge(told, &names, &analysis);
    let files = files.into_iter().zip(owners).map(|(file, owner)| {
        let (broker, by) = owner.map(|(name, by)| (name.to_string(), by)).unzip();
        FileFacts {
            source: file.source.to_owned(),
            forms: file.forms,
            broker,
            by,
        }
    });
    Explanation {
        brokers,
        elsewhere,
        files: files.collect(),
        analysis,
        not_recognised,
    }
}

/// Every form is looked for in every file: a terminal's record may hold several.
fn recognise<'a>(
    source: &'a str,
    bytes: &'a [u8],
    analysis: &mut Analysis,
) -> Result<File<'a>, String> {
    let text = thread_dump::decode(bytes);
    if text.trim().is_empty() {
        return Err("empty: a command that hung prints nothing".to_owned());
    }
    if text.bytes().take(4096).any(|byte| byte == 0) {
        return Err("not text".to_owned());
    }
    let first_dump = analysis.dumps.len();
    let mut dump_ids = BTreeSet::new();
    let dumps = thread_dump::parse(&text);
    for dump in dumps.iter().flatten() {
        dump_ids.extend(
            dump.threads
                .iter()
                .filter_map(|thread| names::id_of_thread(thread.name)),
        );
        analysis.add(source, dump);
    }
    let log = server_log::parse(&text);
    // A log lists the settings as well, each on a line of its own.
    let other = dumps.is_err() && log.is_none() && text.len() <= FILE_CAP;
    let properties = other
        .then(|| Properties::parse(text.as_bytes()).ok())
        .flatten();
    let properties = properties.filter(|settings| names::own_id(settings).is_some());
    let found_by_exporter = Found::parse(&text);
    let group = |line| matches!(line, groups::Line::Header | groups::Line::Error(_));
    let found = [
        (DUMP, dumps.is_ok()),
        (SOCKETS, sockets::sockets(&text).next().is_some()),
        (TOPICS, topics::partitions(&text).next().is_some()),
        (GROUPS, groups::lines(&text).any(group)),
        (HANDLES, handles::handles(&text).next().is_some()),
        (ZOOKEEPER, zookeeper::registered(&text).is_some()),
        (BROKER_LOG, log.as_ref().is_some_and(|log| log.broker)),
        (CLIENT_LOG, log.as_ref().is_some_and(|log| !log.broker)),
        (SETTINGS, properties.is_some()),
        (FINDINGS, found_by_exporter.is_some()),
    ];
    let forms: Vec<_> = found
        .into_iter()
        .filter_map(|(form, is_it)| is_it.then_some(form))
        .collect();
    if forms.is_empty() {
        return Err(match dumps {
            Err(error @ thread_dump::DumpError::OpenJ9) => error.to_string(),
            _ => "of no form that is known here".to_owned(),
        });
    }
    let dumps = first_dump..analysis.dumps.len();
    Ok(File {
        source,
        text,
        forms,
        dumps,
        dump_ids,
        properties,
        found: found_by_exporter,
    })
}

fn judge(told: BTreeMap<Name, Signals>, names: &Names, analysis: &Analysis) -> Vec<BrokerFacts> {
    let mut gray: BTreeSet<&Name> = BTreeSet::new();
    // Those whose dump decides come first: what they did to others speaks against no other.
    for by_dump in [true, false] {
        let decided = |(name, told): (_, &Signals)| {
            let views = views(told, &gray);
            let dump = views.contains(&Source::Dump);
            let agreeing = views
                .iter()
                .filter(|view| !matches!(view, Source::Dump | Source::Exporter))
                .count();
            let alive = views.contains(&Source::Own)
                || told
                    .facts
                    .iter()
                    .any(|charge| charge.fact.kind == REGISTERED);
            let is_gray = match by_dump {
                true => told.judged_gray || dump && (told.surely_its_dump || agreeing > 0),
                false => alive && agreeing > 1,
            };
            is_gray.then_some(name)
        };
        let found: Vec<&Name> = told.iter().filter_map(decided).collect();
        gray.extend(found);
    }
    let broker = |(name, told): (&Name, &Signals)| {
        let mut facts: Vec<Fact> = told
            .facts
            .iter()
            .map(|charge| charge.fact.clone())
            .collect();
        facts.sort_by_key(|fact| (fact.against.is_none(), fact.against));
        let deadlocks = told
            .deadlocks
            .iter()
            .filter_map(|index| analysis.deadlocks.get(*index));
        let of_deadlocks = deadlocks.flat_map(|found| &found.known_issues);
        let mut known_issues: Vec<&NamedIssue> = of_deadlocks.chain(&told.known_issues).collect();
        // A report cut short is like what a whole dump matches.
        known_issues.sort_by_key(|issue| issue.by);
        BrokerFacts {
            broker: name.to_string(),
            verdict: match () {
                () if gray.contains(name) => Verdict::Gray,
                () if views(told, &gray).is_empty() => Verdict::NoFinding,
                () => Verdict::Suspect,
            },
            addresses: names.addresses(name),
            version: told.version.clone(),
            deadlocks: told.deadlocks.clone(),
            known_issues: each_once(known_issues.into_iter().cloned()),
            suffers_from: Vec::new(),
            facts,
        }
    };
    let mut brokers: Vec<BrokerFacts> = told.iter().map(broker).collect();
    let mut suffers_from: BTreeMap<&Name, BTreeSet<&Name>> = BTreeMap::new();
    for name in &gray {
        let charges = told.get(*name).into_iter().flat_map(|told| &told.facts);
        for sufferer in charges.flat_map(|charge| &charge.sufferers) {
            suffers_from.entry(sufferer).or_default().insert(name);
        }
    }
    for (broker, name) in brokers
        .iter_mut()
        .zip(told.keys())
        .filter(|(_, name)| !gray.contains(name))
    {
        let from = suffers_from.get(name).into_iter().flatten();
        broker.suffers_from = from.map(|other| other.to_string()).collect();
    }
    brokers.sort_by_key(|broker| broker.verdict);
    brokers
}

/// Without what only brokers to blame suffer by.
fn views(told: &Signals, gray: &BTreeSet<&Name>) -> BTreeSet<Source> {
    let counts = |charge: &&Signal| {
        charge.sufferers.is_empty()
            || charge
                .sufferers
                .iter()
                .any(|sufferer| !gray.contains(sufferer))
    };
    told.facts
        .iter()
        .filter(counts)
        .filter_map(|charge| charge.fact.against)
        .collect()
}
