//! Which known fault of Kafka a deadlock or a stall is, and to which ones a broker is exposed. The faults are data, in
//! `known_issues.toml`, of which a test makes `docs/known-issues.md`; a deadlock that matches none is unknown and never gets
//! the name of a similar one.

pub mod conditions;
mod data;
pub mod exposure;
#[cfg(test)]
mod reference;

use std::collections::BTreeSet;

pub use self::data::{KnownIssue, Releases, Where, known_issues, releases};
use self::data::{Signature, StallSignature};
use super::pools::without_plane;
use crate::model::{Deadlock, DeadlockedThread, MatchQuality, NamedIssue, Stall};

/// The known issues that this deadlock is: those that match exactly, else those that are similar. Empty means unknown.
pub fn matching(deadlock: &Deadlock) -> Vec<NamedIssue> {
    // The members that are kept of a longer cycle are none by themselves.
    if deadlock.cycle_left_out > 0 {
        return Vec::new();
    }
    let matches = known_issues()
        .iter()
        .filter_map(|issue| Some(issue.named(issue.quality(&deadlock.cycle)?)));
    let mut matches: Vec<NamedIssue> = matches.collect();
    if matches.iter().any(NamedIssue::is_exact) {
        matches.retain(NamedIssue::is_exact);
    }
    matches
}

/// The known issues whose threads stall like these. `holders` returns the stacks of the threads that hold what they wait for
/// in the end, where the dump shows them; only few stalls need them. The match is never exact: other threads may matter, which nothing names.
pub fn matching_stall(stall: &Stall, holders: impl Fn() -> Vec<Vec<String>>) -> Vec<NamedIssue> {
    let thread = DeadlockedThread {
        thread: stall.threads.first().cloned().unwrap_or_default(),
        wants: stall.lock_class.clone().unwrap_or_default(),
        held_by: String::new(),
        frames: stall.frames.clone(),
    };
    let is_it = |issue: &&KnownIssue| {
        let signature = issue.stall.as_ref();
        signature.is_some_and(|signature| signature.matches(&thread, &holders))
    };
    known_issues()
        .iter()
        .filter(is_it)
        .map(|issue| issue.named(MatchQuality::Similar))
        .collect()
}

/// Whether a thread of this name may be in a loop that is a known issue.
pub fn may_loop(thread: &str) -> bool {
    let mut loops = known_issues()
        .iter()
        .filter_map(|issue| issue.endless.as_ref());
    loops.any(|signature| begins_with_one(thread, &signature.name))
}

/// The known issues by which a thread never comes out of one of these frames. Only how long it lasts distinguishes them from
/// work, so the match is never exact.
pub fn matching_loop(thread: &str, frames: &[String]) -> Vec<NamedIssue> {
    let is_it = |issue: &&KnownIssue| {
        issue.endless.as_ref().is_some_and(|signature| {
            begins_with_one(thread, &signature.name)
                && found_in_order(frames, &signature.frames) == signature.frames.len()
        })
    };
    let issues = known_issues().iter().filter(is_it);
    issues
        .map(|issue| issue.named(MatchQuality::Similar))
        .collect()
}

/// Whether the thread's name begins with one of `a|b`, after the name of its plane.
fn begins_with_one(thread: &str, starts: &str) -> bool {
    let name = without_plane(thread);
    starts.split('|').any(|start| name.starts_with(start))
}

/// Each issue once, in the order of the first appearance.
pub fn each_once(issues: impl Iterator<Item = NamedIssue>) -> Vec<NamedIssue> {
    let mut seen = BTreeSet::new();
    issues
        .filter(|issue| seen.insert(issue.issue.clone()))
        .collect()
}

impl KnownIssue {
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
        let class = thread.wants.rsplit(['.', '/']).next().unwrap_or("");
        if !begins_with_one(&thread.thread, &self.name)
            || !self.wants.split('|').any(|wanted| wanted == class)
        {
            return None;
        }
        let in_order = found_in_order(&thread.frames, &self.frames);
        match (in_order, thread.frames.is_empty()) {
            (found, _) if found == self.frames.len() && found > 0 => Some(MatchQuality::Exact),
            // A known stack must at least contain the issue's first frame: the same locks are taken in many places.
            (0, false) if !self.frames.is_empty() => None,
            _ => Some(MatchQuality::Similar),
        }
    }
}

impl StallSignature {
    fn matches(&self, waiter: &DeadlockedThread, holders: &impl Fn() -> Vec<Vec<String>>) -> bool {
        let is_holder =
            |frames: &Vec<String>| found_in_order(frames, &self.holder) == self.holder.len();
        self.waiter.quality(waiter) == Some(MatchQuality::Exact)
            && (self.holder.is_empty() || holders().iter().any(is_holder))
    }
}

/// How many of the patterns the frames have from the top down, with anything between.
fn found_in_order(frames: &[String], patterns: &[String]) -> usize {
    let mut frames = frames.iter();
    let found = |pattern: &&String| frames.any(|frame| is_frame(frame, pattern));
    patterns.iter().take_while(found).count()
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
