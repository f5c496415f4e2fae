//! One broker: its vitals, the findings, the deadlock, stalled threads, and what is unknown.

use maud::{Markup, html};

use super::graph::{self, DRAWN};
use super::style::{TEXT, class};
use crate::expose::overview::Level;
use crate::expose::vitals::{Vital, cut, not_read, pools, unknown, vitals};
use crate::model::clock_text;
use crate::model::duration_text;
use crate::model::routes;
use crate::model::{
    BrokerSnapshot, Deadlock, DeadlockedThread, LogReport, Moment, NamedIssue, ProcessKey, Stall,
    StandingDeadlock, ThreadReport,
};
use crate::threads::likely::likely_text;
use crate::threads::log_signatures::log_signatures;
use crate::threads::stack::shown;
use crate::verdict::View;
use crate::verdict::finding::{BrokerDiagnosis, BrokerState, Finding, Recovery, Severity};

/// Deadlocks, stalls and queues shown of each; the first deadlock is drawn as well.
const FOUND: usize = 2;
const UNKNOWN: usize = 16;
/// Facts of one finding, names of threads in a row.
const LINES: usize = 8;
/// Facts of a finding that is no problem yet, which is folded.
const FOLDED: usize = 32;
const LINE: usize = 200;
const NAME: usize = 80;
/// Members of a deadlock whose stacks are shown.
const STACKS: usize = 2;
const FRAMES: usize = 8;
const FRAME: usize = 200;

pub(super) fn section(
    view: &View,
    broker: &BrokerSnapshot,
    diagnosis: &BrokerDiagnosis,
    evidence: Option<Result<String, &str>>,
    index: usize,
    now: Moment,
) -> Markup {
    let (unknown, not_read) = (unknown(broker, now), not_read(broker, now));
    let live = view
        .live
        .iter()
        .find(|answer| answer.process == diagnosis.process);
    let report = broker.threads.fresh(now);
    html! {
        section id={ "broker-" (index) } class=(class(Level::of(diagnosis))) {
            h2 {
                span { "Broker " (broker.label) } " "
                span.badge { (diagnosis.state.text()) }
            }
            // The head of the page has the sentence and the remedy.
            p.dim { "Since " (clock_text(diagnosis.since)) ", " (duration_text(now.since(diagnosis.since))) " ago." }
            // Where the probe restarts it, it says the same.
            @if let Some(only) = &diagnosis.restart_required && !live.is_some_and(|answer| answer.restart) {
                p {
                    @if only.last > only.first { "Only a restart cures it: dumps " (duration_text(only.seen_for())) " apart show that " }
                    @else { "One thread dump so far shows that " }
                    (cut(&only.what, TEXT)) "."
                }
            }
            @if diagnosis.state == BrokerState::Gray && let Some(answer) = live {
                p {
                    "The liveness probe " (if answer.restart { "will restart it. " } else { "will not restart it. " })
                    // Where it has no other reason, that is the remedy.
                    @if answer.reason != diagnosis.remedy { (cut(&answer.reason, TEXT)) }
                }
            }
            @match evidence {
                Some(Ok(path)) => p { strong { "Evidence saved: " } code { (path) } }
                Some(Err(why)) => p { strong { "No evidence is saved: " } (cut(why, TEXT)) }
                None => {}
            }
            @if let Some(Recovery { from, back, in_every_isr: None }) = &diagnosis.recovery {
                p { "It was " (from.text()) ", is back since " (clock_text(*back)) " and not yet in every ISR." }
            }
            @if broker.ended.is_none() {
                h3 { "Vitals" }
                dl.vitals {
                    @for vital in vitals(&view.snapshot, broker, diagnosis, now) { (tile(&vital)) }
                    @for vital in pools(broker, now) { (tile(&vital)) }
                }
            }
            @if !diagnosis.findings.is_empty() {
                h3 { "Findings" }
                @for found in &diagnosis.findings { (finding(found, diagnosis.process, now)) }
            }
            @if let Some(present) = &broker.deadlock { (deadlocks(present, index)) }
            @if let Some(report) = report { (other_threads(report, now)) }
            @if let Some(log) = broker.log.fresh(now) { (lines_of_log(log)) }
            @if !unknown.is_empty() {
                h3 { "Unknown, and why" }
                ul {
                    @for (what, why) in unknown.iter().take(UNKNOWN) { li { strong { (what) } ": " (cut(why, TEXT)) } }
                    (more(unknown.len(), UNKNOWN))
                }
            }
            @if !not_read.is_empty() {
                h3 { "Not read, and why" }
                ul { @for (what, why) in &not_read { li { (what) ": " (cut(why, TEXT)) } } }
            }
        }
    }
}

fn tile(vital: &Vital) -> Markup {
    html! {
        div class=[vital.concern.map(Severity::name)] {
            dt { (vital.name) }
            dd {
                (vital.value)
                @if let Some(used) = vital.used {
                    span.bar aria-hidden="true" { i style={ "width:" (format!("{:.0}", 100.0 * used.clamp(0.0, 1.0))) "%" } {} }
                }
                @for note in &vital.notes { small { (cut(note, NAME)) } }
            }
        }
    }
}

fn finding(found: &Finding, process: ProcessKey, now: Moment) -> Markup {
    let kind = found.id.kind();
    let lines = match kind.severity {
        Severity::Info => FOLDED,
        _ => LINES,
    };
    let details = html! {
        ul {
            @for fact in found.facts.iter().take(lines) { li { (cut(fact, LINE)) } }
            (more(found.facts.len(), lines))
        }
        p { (kind.meaning) }
        p { b { "What to do: " } (found.what_to_do(process)) " " a href=(routes::of(routes::RUNBOOK, found.id.runbook())) { "Runbook: " (found.id.runbook()) } }
    };
    html! {
        article class=(kind.severity.name()) {
            // A finding that is no problem yet stays folded.
            @if kind.severity == Severity::Info {
                details { summary { (kind.title) " " span.badge { (kind.severity.name()) } } (details) }
            } @else {
                header {
                    h4 { (kind.title) }
                    span.badge { (kind.severity.name()) }
                    span.dim { "since " (clock_text(found.since)) (found.clearing(now)) }
                }
                (details)
            }
        }
    }
}

fn deadlocks(present: &StandingDeadlock, broker: usize) -> Markup {
    html! {
        @for (index, deadlock) in present.deadlocks.iter().enumerate().take(FOUND) {
            h3 { (deadlock.members()) " threads wait for each other" }
            div.deadlock {
                @if index == 0 { figure { (graph::draw(deadlock, &format!("graph-{broker}"))) } }
                (in_words(deadlock))
            }
        }
        @let more = present.deadlocks.len().saturating_sub(FOUND) + present.more.deadlocks;
        @if more > 0 { p { "and " (more) " more" } }
        @for known in present.known_issues.iter().take(FOUND) { (issue(known)) }
        @if present.known_issues.is_empty() { p { "No known issue of Kafka looks like this." } }
    }
}

/// The content of the drawing, with the stacks.
fn in_words(deadlock: &Deadlock) -> Markup {
    let waiting = |thread: &DeadlockedThread| {
        html! {
            strong { (cut(&thread.thread, NAME)) } " wants " code { (cut(&thread.wants, NAME)) }
            ", which " strong { (cut(&thread.held_by, NAME)) } " holds"
        }
    };
    html! {
        div {
            ul {
                @for (index, thread) in deadlock.cycle.iter().enumerate().take(DRAWN) {
                    li { (waiting(thread)) @if index < STACKS { (stack(&thread.frames)) } }
                }
                (more(deadlock.members(), DRAWN))
            }
            @if !deadlock.waiting.is_empty() {
                details {
                    summary { (deadlock.blocked()) " more are blocked behind the deadlock" }
                    ul {
                        @for thread in deadlock.waiting.iter().take(DRAWN) { li { (waiting(thread)) } }
                        (more(deadlock.blocked(), DRAWN))
                    }
                }
            }
        }
    }
}

/// Threads that are stalled, missing or queued at a lock.
fn other_threads(report: &ThreadReport, now: Moment) -> Markup {
    let stalls = report
        .stalls
        .as_ref()
        .map_or(&[][..], |stalls| &stalls.found);
    let missing = report
        .missing
        .as_ref()
        .map_or(&[][..], |missing| &missing.found);
    html! {
        @if !stalls.is_empty() {
            h3 { "Stalled threads" }
            ul { @for stall in stalls.iter().take(FOUND) { (stalled(stall, now)) } (more(stalls.len(), FOUND)) }
        }
        @if !report.likely_deadlocks.is_empty() {
            h3 { "Likely deadlocks" }
            ul {
                @for likely in report.likely_deadlocks.iter().take(FOUND) {
                    li { (cut(&likely_text(likely), TEXT)) (stack(&likely.frames)) (stack(&likely.may_await_frames)) }
                }
                (more(report.likely_deadlocks.len(), FOUND))
            }
        }
        @if !missing.is_empty() {
            h3 { "Threads that have ended while there is work for them" }
            ul {
                @for thread in missing.iter().take(LINES) {
                    li {
                        strong { (cut(&thread.thread, NAME)) } @if thread.count > 1 { " (" (thread.count) ")" }
                        ", gone for " (duration_text(now.since(thread.since)))
                    }
                }
                (more(missing.len(), LINES))
            }
        }
        @if !report.loops.is_empty() {
            h3 { "Threads that do not come out of one method" }
            ul {
                @for found in report.loops.iter().take(FOUND) {
                    li {
                        strong { (cut(&found.thread, NAME)) } ", a core used for at least " (duration_text(now.since(found.since)))
                        (stack(&found.frames))
                        @for known in found.known_issues.iter().take(FOUND) { (issue(known)) }
                    }
                }
                (more(report.loops.len(), FOUND))
            }
        }
        @if !report.convoys.is_empty() {
            h3 { "Queues for locks" }
            ul {
                @for queue in report.convoys.iter().take(FOUND) {
                    li {
                        (queue.blocked()) " threads wait for " code { (cut(&queue.lock_class, NAME)) }
                        @if let Some(owner) = &queue.owner { ", which " strong { (cut(owner, NAME)) } " holds" (stack(&queue.owner_frames)) }
                    }
                }
            }
        }
    }
}

/// The last line of each kind, the most severe kinds first.
fn lines_of_log(log: &LogReport) -> Markup {
    let seen = log.signatures.iter();
    let mut seen: Vec<_> = seen
        .filter_map(|(name, count)| Some((name, count, count.last.as_ref()?)))
        .collect();
    seen.sort_by_key(|(_, count, last)| std::cmp::Reverse((count.severity, last.at)));
    html! {
        @if !seen.is_empty() {
            h3 { "In its log" }
            ul {
                @for (name, count, last) in seen.iter().take(LINES) {
                    li {
                        strong { (name) } " " span.badge { (count.severity.name()) } " "
                        @if count.count > 1 { (count.count) " times, last " }
                        (clock_text(last.at)) ". "
                        @if let Some(known) = log_signatures().iter().find(|known| known.name == **name) {
                            (known.meaning) " Where to look: " (known.blames.name()) ". " (known.what_to_do)
                        }
                        br; code { (cut(&last.text, LINE)) }
                    }
                }
                (more(seen.len(), LINES))
            }
        }
        @if log.skipped_bytes > 0 { p { (log.skipped_bytes) " bytes of its log were not read: it grew too fast, or was compressed before." } }
    }
}

fn stalled(stall: &Stall, now: Moment) -> Markup {
    let names: Vec<String> = stall
        .threads
        .iter()
        .take(LINES)
        .map(|name| cut(name, NAME))
        .collect();
    html! {
        li {
            strong { (names.join(", ")) }
            @if stall.threads.len() > LINES { " and " (stall.threads.len() - LINES) " more" }
            ", for at least " (duration_text(now.since(stall.since)))
            @if let Some(frame) = &stall.frame { ", in " code { (cut(frame, FRAME)) } }
            @if let Some(class) = &stall.lock_class { ", waiting for " code { (cut(class, NAME)) } }
            @for holder in stall.holders.iter().take(LINES) { ", held by " strong { (cut(holder, NAME)) } }
            @for broker in stall.awaits_brokers.iter().take(LINES) { ", until " strong { "broker " (broker) } " answers" }
            (stack(&stall.frames))
            @for known in stall.known_issues.iter().take(FOUND) { (issue(known)) }
        }
    }
}

fn stack(frames: &[String]) -> Markup {
    html! {
        @if !frames.is_empty() {
            details {
                summary { "Where" }
                pre { @for frame in shown(frames).take(FRAMES) { (cut(frame, FRAME)) "\n" } }
            }
        }
    }
}

fn issue(known: &NamedIssue) -> Markup {
    html! {
        p {
            strong { (known.issue) } @if !known.is_exact() { " (probable match)" } ": " (known.title) ". "
            @if known.fixed_in.is_empty() { "No release with a fix is known." }
            @else { "Fixed in " (known.fixed_in.join(", ")) "." }
            @if let Some(advise) = &known.advise { " Move to " (advise) "." }
            @if !known.relatives.is_empty() { " Related issues: " (known.relatives.join(", ")) "." }
        }
    }
}

fn more(all: usize, shown: usize) -> Markup {
    html! { @if all > shown { li { "and " (all - shown) " more" } } }
}
