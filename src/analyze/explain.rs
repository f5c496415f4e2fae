//! Saved output of many tools explained together: which broker is to blame, by what, and which ones only suffer from it.
//!
//! A deadlock in a broker's own dump decides, so do threads that are stalled over several dumps, and what the exporter
//! found when it saved a bundle. Without these at least two independent views must agree: the broker's own sockets and
//! file descriptors, what its peers saw of it, what the ISRs say.

use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet};

use super::artifact::File;
use super::bundle::Bundle;
use super::dumps::Analysis;
use super::explanation::{
    BrokerFacts, Explanation, Fact, FactKind, FileFacts, NotRecognised, Source, Verdict,
};
use super::facts;
use super::formats::wrapped::{self, Part};
use super::metadata::{self, Metadata};
use super::names::{Name, Names};
use super::signals::{Signal, Signals};
use crate::model::NamedIssue;
use crate::parse::thread_dump;
use crate::threads::known_issues::each_once;

/// Explains files, each given with its name and its bytes.
pub fn explain(artifacts: &[(String, Vec<u8>)]) -> Explanation {
    let mut analysis = Analysis::default();
    let mut not_recognised = Vec::new();
    let mut files = Vec::new();
    let bundles = Bundle::find(artifacts);
    let metadata = metadata::read(artifacts);
    let (logs, other_batches): (Vec<&Metadata<'_>>, Vec<_>) =
        metadata.iter().partition(|log| !log.is_empty());
    let is_of_log = |source: &str| metadata.iter().any(|log| log.sources.contains(&source));
    for log in other_batches {
        let reason = log
            .problem
            .as_ref()
            .map_or_else(String::new, |problem| format!(": {problem}"));
        not_recognised.extend(log.sources.iter().map(|source| NotRecognised {
            source: (*source).to_owned(),
            reason: format!("record batches that are no metadata log{reason}"),
        }));
    }
    let texts: Vec<Text<'_>> = artifacts
        .iter()
        .filter(|(source, _)| !is_of_log(source))
        .flat_map(|(source, bytes)| texts(source, bytes))
        .collect();
    let decoded: Vec<Cow<'_, str>> = texts
        .iter()
        .map(|text| thread_dump::mended(Cow::Borrowed(&text.part.text)))
        .collect();
    for (Text { source, part }, text) in texts.iter().zip(&decoded) {
        match File::recognise(source, part.container.as_deref(), text, &mut analysis) {
            Ok(file) => files.push(file),
            Err(_) if Bundle::with(&bundles, source).is_some() => {
                files.push(File::evidence(source));
            }
            Err(reason) => not_recognised.push(NotRecognised {
                source: source.to_string(),
                reason: reason.to_string(),
            }),
        }
    }
    files.extend(logs.into_iter().flat_map(File::metadata));
    let names = Names::learn(&files, &bundles);
    let owners: Vec<_> = files
        .iter()
        .map(|file| {
            let in_manifest = Bundle::with(&bundles, file.source).and_then(Bundle::id);
            names.owner(file, in_manifest)
        })
        .collect();
    let (signals, elsewhere) = facts::gather(&files, &owners, &names, &analysis, &bundles);
    let brokers = decide(&signals, &names, &analysis);
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

/// A text, and the name by which facts refer to it.
struct Text<'a> {
    source: Cow<'a, str>,
    part: Part<'a>,
}

/// The texts in a file: one, or one of each container that wrote into it.
fn texts<'a>(source: &'a str, bytes: &'a [u8]) -> Vec<Text<'a>> {
    let parts = match thread_dump::characters(bytes) {
        Cow::Borrowed(text) => wrapped::unwrap(text),
        Cow::Owned(text) => wrapped::unwrap(&text)
            .into_iter()
            .map(Part::into_owned)
            .collect(),
    };
    let several = parts.len() > 1;
    let text = |part: Part<'a>| Text {
        source: match part.container.as_ref().filter(|_| several) {
            Some(container) => Cow::Owned(format!("{source} ({container})")),
            None => Cow::Borrowed(source),
        },
        part,
    };
    parts.into_iter().map(text).collect()
}

fn decide(
    signals: &BTreeMap<Name, Signals>,
    names: &Names,
    analysis: &Analysis,
) -> Vec<BrokerFacts> {
    let mut gray: BTreeSet<&Name> = BTreeSet::new();
    // Those whose dump decides come first: what they did to others speaks against no other.
    for by_dump in [true, false] {
        let found: Vec<&Name> = signals
            .iter()
            .filter(|(_, signals)| is_gray(signals, &gray, by_dump))
            .map(|(name, _)| name)
            .collect();
        gray.extend(found);
    }
    let mut suffers_from: BTreeMap<&Name, BTreeSet<&Name>> = BTreeMap::new();
    for name in &gray {
        let facts = signals.get(*name).into_iter().flat_map(|of| &of.facts);
        for affected in facts.flat_map(|signal| &signal.affected) {
            suffers_from.entry(affected).or_default().insert(name);
        }
    }
    suffers_from.retain(|name, _| !gray.contains(name));
    let broker = |(name, signals): (&Name, &Signals)| BrokerFacts {
        broker: name.to_string(),
        verdict: match () {
            () if gray.contains(name) => Verdict::Gray,
            () if views(signals, &gray, |_| true).is_empty() => Verdict::NoFinding,
            () => Verdict::Suspect,
        },
        addresses: names.addresses(name),
        version: signals.version.clone(),
        deadlocks: signals.deadlocks.clone(),
        known_issues: known_issues(signals, analysis),
        suffers_from: suffers_from
            .get(name)
            .into_iter()
            .flatten()
            .map(ToString::to_string)
            .collect(),
        facts: facts_against_first(signals),
    };
    let mut brokers: Vec<BrokerFacts> = signals.iter().map(broker).collect();
    brokers.sort_by_key(|broker| broker.verdict);
    brokers
}

/// Whether a broker is alive but not working: by its dump or its bundle, else by views that agree.
fn is_gray(signals: &Signals, gray: &BTreeSet<&Name>, by_dump: bool) -> bool {
    let views = views(signals, gray, |fact| {
        // A disk that failed explains by itself that replicas are missing; the broker works with its other disks.
        fact.kind != FactKind::LogDirOffline
    });
    let agreeing = views
        .iter()
        .filter(|view| !matches!(view, Source::Dump | Source::Exporter))
        .count();
    if by_dump {
        let dump = views.contains(&Source::Dump) && (signals.dump_is_certain || agreeing > 0);
        signals.gray_in_bundle || dump
    } else {
        // Where one file says that it is registered and another one denies it, nothing shows which is the later one.
        let is_registered = |signal: &Signal| signal.fact.kind == FactKind::Registered;
        let is_registered =
            signals.facts.iter().any(is_registered) && !views.contains(&Source::Registration);
        let alive = views.contains(&Source::Own) || is_registered;
        alive && agreeing > 1
    }
}

/// The views that speak against a broker, by the facts that are wanted. A fact that affects only brokers to blame is left
/// out.
fn views(
    signals: &Signals,
    gray: &BTreeSet<&Name>,
    is_wanted: impl Fn(&Fact) -> bool,
) -> BTreeSet<Source> {
    let counts = |signal: &&Signal| {
        let affected = &signal.affected;
        let is_against = affected.is_empty() || affected.iter().any(|name| !gray.contains(name));
        is_against && is_wanted(&signal.fact)
    };
    let facts = signals.facts.iter().filter(counts);
    facts.filter_map(|signal| signal.fact.against).collect()
}

fn known_issues(signals: &Signals, analysis: &Analysis) -> Vec<NamedIssue> {
    let deadlocks = signals.deadlocks.iter();
    let in_deadlocks = deadlocks
        .filter_map(|index| analysis.deadlocks.get(*index))
        .flat_map(|found| &found.known_issues);
    let mut issues: Vec<&NamedIssue> = in_deadlocks.chain(&signals.known_issues).collect();
    // A report that was cut off is a probable match of what a complete dump matches exactly.
    issues.sort_by_key(|issue| issue.by);
    each_once(issues.into_iter().cloned())
}

fn facts_against_first(signals: &Signals) -> Vec<Fact> {
    let facts = signals.facts.iter().map(|signal| &signal.fact);
    let mut facts: Vec<Fact> = facts.cloned().collect();
    facts.sort_by_key(|fact| (fact.against.is_none(), fact.against));
    facts
}
