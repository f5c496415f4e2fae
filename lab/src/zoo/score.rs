//! What the observations of a scenario are worth: pure functions.

use std::collections::BTreeSet;
use std::time::Instant;

use serde::{Deserialize, Serialize};

use super::clients::Complaint;
use super::watch::{Found, Said};

/// Findings that any broker reports of the whole cluster, and that accuse none.
const OF_CLUSTER: &[&str] = &["offline_partitions"];

/// What the exporter should find, fixed before the run.
#[derive(Clone, Copy, Debug)]
pub struct Expected {
    /// The findings that name the right component; any of them.
    pub findings: &'static [&'static str],
    /// The words of the exact cause, in verdict or findings of the sick brokers. Each entry must be there; `a|b` is
    /// either of the two.
    pub cause: &'static [&'static str],
    /// Whether the broker cannot serve its clients: then the verdict must be gray, or say that it does not serve.
    pub gray: bool,
    /// Whether the kind must be found before the first client is harmed.
    pub before_harm: bool,
}

/// What was done and seen.
#[derive(Clone, Debug)]
pub struct Observed {
    pub struck: Instant,
    pub healed: Instant,
    /// All brokers that the fault is in, or whose link it is.
    pub sick: Vec<i32>,
    pub said: Vec<Said>,
    pub complaints: Vec<Complaint>,
}

/// Times are seconds after the strike, but for `healthy`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Score {
    pub harm: Option<f64>,
    pub slow: Option<f64>,
    /// The first sign at a sick broker.
    pub suspicion: Option<f64>,
    /// The right component, and gray or down where the broker cannot serve.
    pub verdict: Option<f64>,
    pub component: Option<f64>,
    pub cause: Option<f64>,
    /// The findings at sick brokers, in the order in which they came.
    pub named: Vec<String>,
    /// Verdicts other than right ones, and critical findings that do not name the sick one, at other brokers.
    pub wrong: Vec<Wrong>,
    /// Seconds from the heal until all brokers were healthy again.
    pub healthy: Option<f64>,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Wrong {
    pub at: f64,
    pub broker: i32,
    pub kind: WrongKind,
    pub what: String,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum WrongKind {
    /// A broker that is not sick is gray or down, or suspect without naming the sick one.
    Verdict,
    /// A critical finding at such a broker does not name the sick one.
    Name,
}

impl Score {
    /// Returns the seconds from the first harm to the verdict; negative where the verdict came first.
    pub fn after_harm(&self) -> Option<f64> {
        Some(self.verdict? - self.harm?)
    }
}

pub fn score(expected: &Expected, observed: &Observed) -> Score {
    let seconds = |at: Instant| at.saturating_duration_since(observed.struck).as_secs_f64();
    let complained = |failed: bool| {
        let of_kind = observed
            .complaints
            .iter()
            .filter(|one| one.failed == failed && one.at >= observed.struck)
            .filter(|one| one.at < observed.healed);
        of_kind.map(|one| seconds(one.at)).reduce(f64::min)
    };
    let before = standing_before(observed);
    let mut recovering = out_before(observed);
    let mut score = Score {
        harm: complained(true),
        slow: complained(false),
        ..Score::default()
    };
    for said in observed
        .said
        .iter()
        .filter(|said| said.at >= observed.struck)
    {
        let new = new_alarms(said, &before);
        let at = seconds(said.at);
        if observed.sick.contains(&said.broker) {
            if said.at < observed.healed {
                sick_broker(&mut score, expected, said, &new, at);
            }
        } else if said.state == "healthy" || !recovering.contains(&said.broker) {
            recovering.remove(&said.broker);
            wrong_words(&mut score, observed, said, &new, at);
        }
    }
    score.healthy = healthy_again(observed, &before);
    score
}

/// Findings that stood at the moment of the strike: they are not its signs.
fn standing_before(observed: &Observed) -> BTreeSet<(i32, String)> {
    let mut standing: BTreeSet<(i32, String)> = BTreeSet::new();
    for said in observed
        .said
        .iter()
        .filter(|said| said.at < observed.struck)
    {
        standing.retain(|(broker, _)| *broker != said.broker);
        let names = said.findings.iter().map(|found| found.name.clone());
        standing.extend(names.map(|name| (said.broker, name)));
    }
    standing
}

/// Brokers that were not healthy at the moment of the strike, such as followers that were stopped to make it: they are not
/// accused before they have recovered.
fn out_before(observed: &Observed) -> BTreeSet<i32> {
    let mut out = BTreeSet::new();
    for said in observed
        .said
        .iter()
        .filter(|said| said.at < observed.struck)
    {
        if said.state == "healthy" {
            out.remove(&said.broker);
        } else {
            out.insert(said.broker);
        }
    }
    out
}

fn new_alarms<'a>(said: &'a Said, before: &BTreeSet<(i32, String)>) -> Vec<&'a Found> {
    let is_new = |found: &&Found| {
        found.severity != "info" && !before.contains(&(said.broker, found.name.clone()))
    };
    said.findings.iter().filter(is_new).collect()
}

fn is_out(state: &str) -> bool {
    ["gray", "starting", "closed", "ended"].contains(&state)
}

fn sick_broker(score: &mut Score, expected: &Expected, said: &Said, new: &[&Found], at: f64) {
    if !new.is_empty() || is_out(&said.state) || said.state == "suspect" {
        score.suspicion.get_or_insert(at);
    }
    for found in new {
        if !score.named.contains(&found.name) {
            score.named.push(found.name.clone());
        }
    }
    let right = new.iter().any(|one| expected.findings.contains(&one.name.as_str()))
        // A process that has ended is a state and no finding.
        || expected.findings.contains(&said.state.as_str());
    if right {
        score.component.get_or_insert(at);
    }
    if right && (!expected.gray || is_out(&said.state)) {
        score.verdict.get_or_insert(at);
    }
    let words = new.iter().map(|found| found.text.as_str());
    let words: Vec<&str> = words.chain([said.verdict.as_str()]).collect();
    let words = words.join(" ").to_lowercase();
    let has = |entry: &&str| {
        entry
            .split('|')
            .any(|word| words.contains(&word.to_lowercase()))
    };
    if right && expected.cause.iter().all(has) {
        score.cause.get_or_insert(at);
    }
}

fn wrong_words(score: &mut Score, observed: &Observed, said: &Said, new: &[&Found], at: f64) {
    let names_sick = |text: &str| observed.sick.iter().any(|id| names(text, *id));
    let all = new.iter().map(|found| found.text.as_str());
    let all: Vec<&str> = all.chain([said.verdict.as_str()]).collect();
    if is_out(&said.state) || said.state == "suspect" && !names_sick(&all.join(" ")) {
        score.accuse(
            at,
            said.broker,
            WrongKind::Verdict,
            &said.state,
            &said.verdict,
        );
    }
    for found in new.iter().filter(|found| found.severity == "critical") {
        if !names_sick(&found.text) && !OF_CLUSTER.contains(&found.name.as_str()) {
            score.accuse(at, said.broker, WrongKind::Name, &found.name, &found.text);
        }
    }
}

impl Score {
    /// Each word against a broker counts once.
    fn accuse(&mut self, at: f64, broker: i32, kind: WrongKind, word: &str, text: &str) {
        let known = |one: &Wrong| {
            (one.broker, one.kind) == (broker, kind) && one.what.starts_with(&format!("{word}: "))
        };
        if !self.wrong.iter().any(known) {
            let what = format!("{word}: {text}");
            self.wrong.push(Wrong {
                at,
                broker,
                kind,
                what,
            });
        }
    }
}

/// Whether a text names the broker: `broker 2`, `brokers 1 and 2`, `2 (10.9.2.2:9092)`.
pub fn names(text: &str, id: i32) -> bool {
    let id = id.to_string();
    let is_word = |(at, _): (usize, &str)| {
        let (before, after) = (&text[..at], &text[at + id.len()..]);
        let part_of_number =
            |character: Option<char>| character.is_some_and(|c| c.is_ascii_digit());
        let own_number =
            !part_of_number(before.chars().next_back()) && !part_of_number(after.chars().next());
        // A list of brokers has only numbers, commas and `and` between the word and this number.
        let list = before
            .trim_end_matches(|c: char| c.is_ascii_digit() || [' ', ','].contains(&c))
            .trim_end_matches(" and");
        let list = list.trim_end_matches(|c: char| c.is_ascii_digit() || [' ', ','].contains(&c));
        let list = list.to_lowercase();
        own_number
            && (["broker", "brokers", "peer", "peers"]
                .iter()
                .any(|word| list.ends_with(word)))
    };
    text.match_indices(&id).any(is_word) || text.contains(&format!("10.9.{id}.2"))
}

/// Returns the seconds from the heal to the moment since which every broker is healthy, without an alarm that did not stand
/// before the strike.
fn healthy_again(observed: &Observed, before: &BTreeSet<(i32, String)>) -> Option<f64> {
    let brokers: BTreeSet<i32> = observed.said.iter().map(|said| said.broker).collect();
    let mut well: BTreeSet<i32> = BTreeSet::new();
    let mut since = None;
    for said in &observed.said {
        let is_well = said.state == "healthy" && new_alarms(said, before).is_empty();
        if is_well {
            well.insert(said.broker);
        } else {
            well.remove(&said.broker);
        }
        let all = well.len() == brokers.len();
        since = match (all, since) {
            (false, _) => None,
            (true, None) => Some(said.at.max(observed.healed)),
            (true, since) => since,
        };
    }
    since.map(|at| at.saturating_duration_since(observed.healed).as_secs_f64())
}

/// The figures over all scenarios.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct Summary {
    pub made: usize,
    pub component: usize,
    pub cause: usize,
    /// Median and worst of verdict minus first harm, over those with both.
    pub median: Option<f64>,
    pub worst: Option<f64>,
    pub compared: usize,
    pub wrong_verdicts: usize,
    pub wrong_names: usize,
    /// Those that harmed clients before, or without, a verdict that must come before.
    pub too_late: usize,
}

/// Of each score with whether its kind must be found before the first client is harmed.
pub fn summary<'a>(scores: impl Iterator<Item = (bool, &'a Score)>) -> Summary {
    let mut summary = Summary::default();
    let mut after = Vec::new();
    for (before_harm, score) in scores {
        summary.made += 1;
        summary.component += usize::from(score.component.is_some());
        summary.cause += usize::from(score.cause.is_some());
        after.extend(score.after_harm());
        let early = match (score.verdict, score.harm) {
            (Some(verdict), Some(harm)) => verdict <= harm,
            (verdict, _) => verdict.is_some(),
        };
        summary.too_late += usize::from(before_harm && !early);
        let count = |kind| {
            score
                .wrong
                .iter()
                .filter(|wrong| wrong.kind == kind)
                .count()
        };
        summary.wrong_verdicts += count(WrongKind::Verdict);
        summary.wrong_names += count(WrongKind::Name);
    }
    after.sort_by(f64::total_cmp);
    summary.compared = after.len();
    summary.median = median(&after);
    summary.worst = after.last().copied();
    summary
}

/// Of sorted values; the mean of the two in the middle.
fn median(sorted: &[f64]) -> Option<f64> {
    let half = sorted.len() / 2;
    let upper = *sorted.get(half)?;
    Some(if sorted.len() % 2 == 1 {
        upper
    } else {
        (sorted[half - 1] + upper) / 2.0
    })
}

#[cfg(test)]
#[path = "score_tests.rs"]
mod tests;
