//! The analysis of thread dumps as text for a terminal.

use std::fmt::Write as _;

use crate::diagnose::dump::{Analysis, ConvoyFacts, DeadlockFacts};
use crate::snapshot::NamedIssue;

/// Plain text, a paragraph for each dump and each finding.
pub fn text(analysis: &Analysis) -> String {
    let mut out = String::new();
    // Writing to a String cannot fail, here and below.
    for (index, dump) in analysis.dumps.iter().enumerate() {
        let _ = match dump.threads {
            0 => write!(out, "{}: the JVM's report without its threads", dump.source),
            threads => write!(out, "{}: {threads} threads", dump.source),
        };
        for detail in [&dump.time, &dump.vm].into_iter().flatten() {
            let _ = write!(out, ", {detail}");
        }
        out.push_str(if dump.truncated { ", cut off\n" } else { "\n" });
        let deadlocks: Vec<_> = analysis.deadlocks.iter().filter(|deadlock| deadlock.dump == index).collect();
        let convoys: Vec<_> = analysis.convoys.iter().filter(|convoy| convoy.dump == index).collect();
        if deadlocks.is_empty() {
            out.push_str("No deadlock.\n");
        }
        deadlocks.into_iter().for_each(|found| deadlock(&mut out, found));
        convoys.into_iter().for_each(|found| convoy(&mut out, found));
        out.push('\n');
    }
    out
}

fn deadlock(out: &mut String, found: &DeadlockFacts) {
    let _ = writeln!(out, "Deadlock of {} threads; only a restart frees them:", found.cycle.len());
    for member in &found.cycle {
        let _ = writeln!(out, "  {} holds {} and wants {}", member.thread, member.holds, member.wants);
        for frame in member.frames.iter().take(3) {
            let _ = writeln!(out, "      at {frame}");
        }
    }
    if !found.waiting.is_empty() {
        let _ = writeln!(out, "  merely waiting for them: {}", found.waiting.join(", "));
    }
    if found.known_issues.is_empty() {
        out.push_str("  no known issue of Kafka looks like this\n");
    }
    found.known_issues.iter().for_each(|known| issue(out, known));
}

fn issue(out: &mut String, known: &NamedIssue) {
    let by = if known.exact { "threads, locks and frames match" } else { "by likeness" };
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
        let _ = writeln!(out, "    relatives: {}", known.relatives.join(", "));
    }
}

fn convoy(out: &mut String, found: &ConvoyFacts) {
    let owner = found.owner.as_deref().unwrap_or("a thread that the dump does not name");
    let _ = writeln!(out, "{} threads wait for {}, held by {owner}", found.waiters.len(), found.lock);
    for frame in found.owner_frames.iter().take(3) {
        let _ = writeln!(out, "      at {frame}");
    }
}
