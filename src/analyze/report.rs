//! The answer of `analyze` and `threads` as text for a terminal.

use std::collections::HashMap;
use std::fmt::Write as _;

use crate::analyze::dumps::{Analysis, ConvoyFacts, DeadlockFacts, LikelyFacts, Member};
use crate::analyze::{Address, BrokerFacts, By, Explanation, Fact, Form, Verdict};
use crate::model::NamedIssue;
use crate::model::text::first_of;
use crate::threads::stack;

/// Queues for locks that are shown of one dump, the longest first.
const QUEUES: usize = 8;

/// Plain text: the brokers, those to blame first; facts that are not about one broker; the dumps; the files.
pub fn explained(explanation: &Explanation) -> String {
    let mut out = String::new();
    explanation
        .brokers
        .iter()
        .for_each(|found| broker(&mut out, found));
    if !explanation.elsewhere.is_empty() {
        out.push_str("Not about one broker\n");
        explanation
            .elsewhere
            .iter()
            .for_each(|found| fact(&mut out, found));
        out.push('\n');
    }
    out.push_str(&text(&explanation.analysis));
    out.push_str("Files\n");
    for file in &explanation.files {
        let forms: Vec<&str> = file.forms.iter().map(|form| form.name()).collect();
        let _ = write!(out, "  {}: {}", file.source, forms.join(", "));
        let _ = match (&file.broker, file.by) {
            (Some(broker), Some(by)) => writeln!(out, "; broker {broker}, {}", known_by(by)),
            _ if file.forms.contains(&Form::Dump) => {
                writeln!(out, "; nothing shows of which broker")
            }
            _ => writeln!(out),
        };
    }
    if !explanation.not_recognised.is_empty() {
        out.push_str("\nNot recognised, left out\n");
    }
    for file in &explanation.not_recognised {
        let _ = writeln!(out, "  {}: {}", file.source, file.reason);
    }
    out
}

fn known_by(by: By) -> &'static str {
    match by {
        By::Content => "by its content",
        By::Manifest => "by its bundle's manifest",
        By::LastPartOfAddress => "by the last part of its address",
        By::Container => "only by the name of its container or host",
        By::FileName => "only by the file's name",
    }
}

fn broker(out: &mut String, found: &BrokerFacts) {
    let _ = write!(out, "Broker {}", found.broker);
    for Address { address, by } in found
        .addresses
        .iter()
        .filter(|place| place.address != found.broker)
    {
        let _ = match by {
            By::Content => write!(out, ", {address}"),
            by => write!(out, ", {address} ({})", known_by(*by)),
        };
    }
    if let Some(version) = &found.version {
        let _ = write!(out, ", Kafka {version}");
    }
    let suffers = || found.suffers_from.join(", ");
    let _ = match found.verdict {
        Verdict::Gray if found.deadlocks.is_empty() => writeln!(out, ": alive but not working"),
        Verdict::Gray => writeln!(out, ": alive but deadlocked; only a restart helps"),
        Verdict::Suspect if found.suffers_from.is_empty() => writeln!(out, ": suspect"),
        Verdict::Suspect => writeln!(out, ": suspect, but suffers from broker {}", suffers()),
        Verdict::NoFinding if found.suffers_from.is_empty() => {
            writeln!(out, ": nothing here speaks against it")
        }
        Verdict::NoFinding => writeln!(out, ": not to blame, suffers from broker {}", suffers()),
    };
    found
        .known_issues
        .iter()
        .for_each(|known| issue(out, known));
    found.facts.iter().for_each(|found| fact(out, found));
    out.push('\n');
}

fn fact(out: &mut String, found: &Fact) {
    let _ = writeln!(out, "  - {} [{}]", found.text, found.source);
}

/// Plain text, a paragraph for each dump and each finding.
pub fn text(analysis: &Analysis) -> String {
    let mut out = String::new();
    let mut seen: HashMap<&[Member], &str> = HashMap::new();
    // Writing to a String cannot fail, here and below.
    for (index, dump) in analysis.dumps.iter().enumerate() {
        let _ = match dump.threads {
            0 if !dump.not_understood.is_empty()
                && analysis.deadlocks_of(index).next().is_none() =>
            {
                write!(
                    out,
                    "{}: parts of a thread dump, no thread was read",
                    dump.source
                )
            }
            0 => write!(
                out,
                "{}: the JVM's deadlock report, without threads",
                dump.source
            ),
            threads => write!(out, "{}: {threads} threads", dump.source),
        };
        for detail in [&dump.time, &dump.vm].into_iter().flatten() {
            let _ = write!(out, ", {detail}");
        }
        out.push_str(if dump.truncated { ", cut off\n" } else { "\n" });
        if analysis.deadlocks_of(index).next().is_none() {
            out.push_str(match dump.not_understood.is_empty() {
                true => "No deadlock.\n",
                false => "Whether there is a deadlock is not known.\n",
            });
        }
        for what in &dump.not_understood {
            let _ = writeln!(out, "Not understood: {what}");
        }
        for (_, found) in analysis.deadlocks_of(index) {
            // Later dumps of a process show the same threads at the same place.
            match seen.insert(found.cycle.as_slice(), dump.source.as_str()) {
                Some(before) => {
                    let _ = writeln!(out, "The same deadlock as in {before}");
                    waiting(&mut out, found);
                }
                None => deadlock(&mut out, found, dump.of_node),
            }
        }
        for found in analysis.likely_of(index) {
            likely(&mut out, found);
        }
        let first = analysis
            .convoys
            .partition_point(|convoy| convoy.dump < index);
        let convoys = analysis
            .convoys
            .iter()
            .skip(first)
            .take_while(|convoy| convoy.dump == index);
        convoys
            .clone()
            .take(QUEUES)
            .for_each(|found| convoy(&mut out, found));
        let more = convoys.count().saturating_sub(QUEUES);
        if more > 0 {
            let _ = writeln!(out, "and {more} more queues for locks");
        }
        out.push('\n');
    }
    out
}

/// `of_node`: it is a Kafka node's, so what is known of Kafka may be said of it.
fn deadlock(out: &mut String, found: &DeadlockFacts, of_node: bool) {
    let remedy = if of_node {
        "; only a restart frees them"
    } else {
        ""
    };
    let _ = writeln!(out, "Deadlock of {} threads{remedy}:", found.members());
    for member in &found.cycle {
        let _ = writeln!(
            out,
            "  {} holds {} and wants {}",
            member.thread, member.holds, member.wants
        );
        frames(out, &member.frames);
    }
    if found.cycle_left_out > 0 {
        let _ = writeln!(out, "  and {} more", found.cycle_left_out);
    }
    waiting(out, found);
    if found.known_issues.is_empty() && of_node {
        out.push_str("  no known issue of Kafka matches\n");
    }
    found
        .known_issues
        .iter()
        .for_each(|known| issue(out, known));
}

fn likely(out: &mut String, found: &LikelyFacts) {
    let _ = writeln!(out, "Likely deadlock: {}", found.text);
    let _ = writeln!(out, "  {}", found.thread);
    frames(out, &found.frames);
    if let Some(thread) = &found.may_await {
        let _ = writeln!(out, "  {thread}");
        frames(out, &found.may_await_frames);
    }
}

fn waiting(out: &mut String, found: &DeadlockFacts) {
    if !found.waiting.is_empty() {
        let all = found.waiting.len() + found.waiting_left_out;
        let waiting = first_of(&found.waiting, all);
        let _ = writeln!(out, "  blocked behind the deadlock: {waiting}");
    }
}

fn issue(out: &mut String, known: &NamedIssue) {
    let by = if known.is_exact() {
        "threads, locks and frames match"
    } else {
        "probable match"
    };
    let _ = writeln!(out, "  {} ({by}): {}", known.issue, known.title);
    if known.fixed_in.is_empty() {
        out.push_str("    no release with a fix is known\n");
    } else {
        let _ = writeln!(out, "    fixed in {}", known.fixed_in.join(", "));
    }
    if let Some(advise) = &known.advise {
        let _ = writeln!(out, "    move to {advise}");
    }
    if !known.relatives.is_empty() {
        let _ = writeln!(out, "    related issues: {}", known.relatives.join(", "));
    }
}

fn convoy(out: &mut String, found: &ConvoyFacts) {
    let owner = found
        .owner
        .as_deref()
        .unwrap_or("a thread that the dump does not name");
    let all = found.waiters.len() + found.waiters_left_out;
    let _ = match found.waiters.as_slice() {
        [waiter] if all == 1 => {
            writeln!(out, "{waiter} waits for {}, held by {owner}", found.lock)
        }
        waiters => writeln!(
            out,
            "{all} threads ({}) wait for {}, held by {owner}",
            first_of(waiters, all),
            found.lock
        ),
    };
    frames(out, &found.owner_frames);
}

/// The topmost frames of a thread.
fn frames(out: &mut String, frames: &[String]) {
    for frame in stack::shown(frames).take(3) {
        let _ = writeln!(out, "      at {frame}");
    }
}

#[cfg(test)]
mod tests;
