//! Which known fault of Kafka a deadlock or a stall is. The faults are data, in `known_issues.toml`; a deadlock that
//! matches none is unknown and never gets the name of a similar one.

use std::collections::BTreeSet;
use std::sync::LazyLock;

use serde::Deserialize;

use super::pools::without_plane;
use crate::model::{Deadlock, DeadlockedThread, MatchQuality, NamedIssue, Stall};

/// A row of `known_issues.toml`, which explains the fields.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct KnownIssue {
    pub key: String,
    pub title: String,
    pub affected: Vec<String>,
    pub fixed_in: Vec<String>,
    pub advise: Option<String>,
    pub relatives: Vec<String>,
    #[serde(default, rename = "thread")]
    threads: Vec<Signature>,
    stall: Option<Signature>,
}

/// One member of the deadlock.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
struct Signature {
    name: String,
    wants: String,
    #[serde(default)]
    frames: Vec<String>,
}

/// Every known issue, in the order of the data.
pub fn known_issues() -> &'static [KnownIssue] {
    #[derive(Deserialize)]
    struct Table {
        issue: Vec<KnownIssue>,
    }
    static ISSUES: LazyLock<Vec<KnownIssue>> = LazyLock::new(|| {
        let table: Result<Table, _> = toml::from_str(include_str!("known_issues.toml"));
        // The data is part of the program, and a test reads it.
        #[expect(clippy::expect_used)]
        table
            .expect("known_issues.toml is not as its schema says")
            .issue
    });
    &ISSUES
}

/// The issues that this version of Kafka is known to have; none for an unknown version.
pub fn exposed(version: &str) -> Vec<&'static KnownIssue> {
    known_issues()
        .iter()
        .filter(|issue| issue.affected.iter().any(|affected| affected == version))
        .collect()
}

/// The known issues that this deadlock is: those that match exactly, else those that are similar. Empty means unknown.
pub fn matching(deadlock: &Deadlock) -> Vec<NamedIssue> {
    let matches = known_issues()
        .iter()
        .filter_map(|issue| Some(issue.named(issue.quality(&deadlock.cycle)?)));
    let mut matches: Vec<NamedIssue> = matches.collect();
    if matches.iter().any(NamedIssue::is_exact) {
        matches.retain(NamedIssue::is_exact);
    }
    matches
}

/// The known issues whose threads stall like these. No dump shows who holds what they wait for, so the match is never
/// exact.
pub fn matching_stall(stall: &Stall) -> Vec<NamedIssue> {
    let thread = DeadlockedThread {
        thread: stall.threads.first().cloned().unwrap_or_default(),
        wants: stall.lock_class.clone().unwrap_or_default(),
        held_by: String::new(),
        frames: stall.frames.clone(),
    };
    let is_it = |issue: &&KnownIssue| {
        issue
            .stall
            .as_ref()
            .is_some_and(|signature| signature.quality(&thread) == Some(MatchQuality::Exact))
    };
    known_issues()
        .iter()
        .filter(is_it)
        .map(|issue| issue.named(MatchQuality::Similar))
        .collect()
}

/// Each issue once, in the order of the first appearance.
pub fn each_once(issues: impl Iterator<Item = NamedIssue>) -> Vec<NamedIssue> {
    let mut seen = BTreeSet::new();
    issues
        .filter(|issue| seen.insert(issue.issue.clone()))
        .collect()
}

impl KnownIssue {
    fn named(&self, by: MatchQuality) -> NamedIssue {
        NamedIssue {
            issue: self.key.clone(),
            by,
            title: self.title.clone(),
            fixed_in: self.fixed_in.clone(),
            advise: self.advise.clone(),
            relatives: self.relatives.clone(),
        }
    }

    /// Each member must match one of the signatures, and the other way round; the cycle may start anywhere.
    fn quality(&self, cycle: &[DeadlockedThread]) -> Option<MatchQuality> {
        if self.threads.is_empty() || self.threads.len() != cycle.len() {
            return None;
        }
        // The issues have two or three members, so trying every rotation is cheap.
        (0..cycle.len())
            .filter_map(|rotation| {
                let members = cycle.iter().cycle().skip(rotation);
                let pairs = self
                    .threads
                    .iter()
                    .zip(members)
                    .map(|(signature, member)| signature.quality(member));
                pairs
                    .collect::<Option<Vec<MatchQuality>>>()?
                    .into_iter()
                    .max()
            })
            .min()
    }
}

impl Signature {
    fn quality(&self, thread: &DeadlockedThread) -> Option<MatchQuality> {
        let name = without_plane(&thread.thread);
        let class = thread.wants.rsplit(['.', '/']).next().unwrap_or("");
        if !self.name.split('|').any(|start| name.starts_with(start))
            || !self.wants.split('|').any(|wanted| wanted == class)
        {
            return None;
        }
        let mut frames = thread.frames.iter();
        let in_order = self
            .frames
            .iter()
            .take_while(|pattern| frames.any(|frame| is_frame(frame, pattern)))
            .count();
        match (in_order, thread.frames.is_empty()) {
            (found, _) if found == self.frames.len() && found > 0 => Some(MatchQuality::Exact),
            // A known stack must at least contain the issue's first frame: the same locks are taken in many places.
            (0, false) if !self.frames.is_empty() => None,
            _ => Some(MatchQuality::Similar),
        }
    }
}

/// Whether `frame` is a method of the pattern `Class.method|Class.method`, closures made from it included:
/// `kafka.coordinator.GroupMetadataManager.kafka$coordinator$GroupMetadataManager$$putCacheCallback$2(..)` and
/// `kafka.coordinator.GroupMetadataManager$$anonfun$cleanupGroupMetadata$1.apply(..)`.
fn is_frame(frame: &str, pattern: &str) -> bool {
    let called = frame.split('(').next().unwrap_or(frame);
    pattern
        .split('|')
        .filter_map(|one| one.rsplit_once('.'))
        .any(|(class, method)| {
            after_word(called, class, ".")
                .is_some_and(|after| after_word(after, method, ".$").is_some())
        })
}

/// What follows `word` in `text` where it is a whole word: after one of `before` or at the start, and before `.`, `$` or
/// the end.
fn after_word<'a>(text: &'a str, word: &str, before: &str) -> Option<&'a str> {
    text.match_indices(word).find_map(|(start, _)| {
        let after = text.get(start + word.len()..)?;
        let begins = text
            .get(..start)?
            .chars()
            .next_back()
            .is_none_or(|c| before.contains(c));
        let ends = after.chars().next().is_none_or(|c| c == '.' || c == '$');
        (begins && ends).then_some(after)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frames_with_and_without_closures() {
        let put = "GroupMetadataManager.putCacheCallback";
        let old = "kafka.coordinator.GroupMetadataManager.kafka$coordinator$GroupMetadataManager$$putCacheCallback$2(GroupMetadataManager.scala:301)";
        assert!(is_frame(old, put));
        assert!(is_frame(
            "kafka.coordinator.group.GroupMetadataManager.$anonfun$putCacheCallback$1(G.scala:3)",
            put
        ));
        assert!(is_frame(
            "GroupMetadataManager$$anonfun$1$$anonfun$putCacheCallback$1.apply(G.scala:3)",
            put
        ));
        assert!(is_frame(
            "x.GroupMetadataManager.putCacheCallback(putIt.scala:3)",
            put
        ));
        assert!(!is_frame(
            "x.NoGroupMetadataManager.putCacheCallback(G.scala:3)",
            put
        ));
        assert!(!is_frame(
            "x.GroupMetadataManager.putCacheCallbacks(G.scala:3)",
            put
        ));
        assert!(!is_frame(
            "x.GroupMetadataManager.get(putCacheCallback.scala:3)",
            put
        ));
        assert!(is_frame(
            "k.DelayedOperationPurgatory$Watchers.watch(D.scala:1)",
            "A.b|DelayedOperationPurgatory$Watchers.watch"
        ));
    }
}
