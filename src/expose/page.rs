//! The page `/`: what is known of each broker, for a person, and what is unknown and why.

use std::time::Duration;

use maud::{DOCTYPE, Markup, PreEscaped, html};

use crate::diagnose::View;
use crate::snapshot::{
    BrokerSnapshot, ClusterSource, Deadlock, DeadlockedThread, Moment, NamedIssue, Snapshot, Stall, StandingDeadlock,
    TcpState, ThreadReport,
};

const STYLE: &str = "
:root{color-scheme:light dark;--bad:#b3261e;--line:#8884;--dim:#6b6b6b}
@media(prefers-color-scheme:dark){:root{--bad:#ff8a80;--dim:#a0a0a0}}
body{font:16px/1.5 system-ui,sans-serif;margin:0 auto;padding:1rem;max-width:60rem}
h1{font-size:1.3rem}h2{font-size:1.15rem;border-top:1px solid var(--line);padding-top:1rem;margin-top:2rem}
h3{font-size:1rem}.bad{color:var(--bad);font-weight:600}.dim{color:var(--dim)}
dl{display:grid;grid-template-columns:minmax(9rem,max-content) 1fr;gap:.15rem 1rem}dt{color:var(--dim)}dd{margin:0}
code{font-size:.9em;overflow-wrap:anywhere}pre{overflow-x:auto;font-size:.8em}li{margin:.4rem 0}
";

pub fn render(view: &View, now: Moment) -> Markup {
    let snapshot = &*view.snapshot;
    let summary = summary(snapshot);
    html! {
        (DOCTYPE)
        html lang="en" {
            head {
                meta charset="utf-8";
                meta name="viewport" content="width=device-width,initial-scale=1";
                title { "kafka-vitals: " (summary) }
                style { (PreEscaped(STYLE)) }
            }
            body {
                main {
                    h1 { (summary) }
                    @if let Some(error) = &snapshot.discovery.error {
                        p.bad { "Discovery: " (error) }
                    }
                    @if !snapshot.doubts.is_empty() {
                        ul { @for doubt in &snapshot.doubts { li { (doubt) } } }
                    }
                    @for broker in &snapshot.brokers { (broker_section(broker, now)) }
                }
                footer {
                    p.dim {
                        "kafka-vitals " (env!("CARGO_PKG_VERSION")) ". "
                        a href="/metrics" { "Metrics" } ", "
                        a href="/-/healthy" { "health" } ", "
                        a href="/-/ready" { "readiness" } ". Reload for newer readings."
                    }
                }
            }
        }
    }
}

/// The first line: the worst that is known.
fn summary(snapshot: &Snapshot) -> String {
    let stuck: Vec<&str> = labels(snapshot, |b| b.deadlock.is_some());
    if !stuck.is_empty() {
        let verb = if stuck.len() == 1 { "is" } else { "are" };
        let standing = snapshot.brokers.iter().filter_map(|broker| broker.deadlock.as_ref());
        let mut known: Vec<String> = standing.flat_map(|standing| &standing.known_issues).map(by_issue).collect();
        known.dedup();
        return format!("Broker {} {verb} alive but deadlocked{}", stuck.join(", "), known.concat());
    }
    let still = labels(snapshot, |b| {
        let report = b.threads.fresh(snapshot.at);
        report.and_then(|report| report.stalls.as_ref()).is_some_and(|stalls| !stalls.found.is_empty())
    });
    if !still.is_empty() {
        let verb = if still.len() == 1 { "has" } else { "have" };
        return format!("Broker {} {verb} threads that do not move", still.join(", "));
    }
    let gone = labels(snapshot, |b| b.ended.is_some());
    if !gone.is_empty() {
        return format!("The process of broker {} has ended", gone.join(", "));
    }
    match (snapshot.brokers.len(), snapshot.discovery.success) {
        (0, None) => "Looking for brokers".to_owned(),
        (0, Some(_)) => "No Kafka broker runs on this host".to_owned(),
        (1, _) => "1 broker, no deadlock seen".to_owned(),
        (n, _) => format!("{n} brokers, no deadlock seen"),
    }
}

/// ` by KAFKA-4399, fixed in 0.10.1.1`
fn by_issue(known: &NamedIssue) -> String {
    let likely = if known.exact { "by" } else { "by what looks like" };
    let fixed = known.fixed_in.first().map(|version| format!(", fixed in {version}")).unwrap_or_default();
    format!(" {likely} {}{fixed}", known.issue)
}

fn labels(snapshot: &Snapshot, wanted: impl Fn(&BrokerSnapshot) -> bool) -> Vec<&str> {
    snapshot.brokers.iter().filter(|broker| wanted(broker)).map(|broker| broker.label.as_str()).collect()
}

fn broker_section(snapshot: &BrokerSnapshot, now: Moment) -> Markup {
    let broker = &snapshot.broker;
    let unknown = unknown(snapshot, now);
    html! {
        section {
            h2 { "Broker " (snapshot.label) }
            @if let Some(ended) = snapshot.ended {
                p.bad { "Process " (broker.process.pid) " ended " (ago(now, ended)) " ago and is not back." }
            }
            @if let Some(standing) = &snapshot.deadlock { (deadlocks(standing, now)) }
            @if let Some(report) = snapshot.threads.fresh(now) { (thread_findings(report, now)) }
            dl {
                dt { "Kafka" } dd { (broker.kafka_version.as_deref().unwrap_or("unknown version")) }
                dt { "Java" } dd { (broker.java_version.as_deref().unwrap_or("unknown version")) }
                dt { "Process" } dd {
                    (broker.process.pid)
                    @if let Some(started) = broker.started { ", up " (ago(now, started)) }
                    @if let Some(vitals) = snapshot.process.fresh(now) {
                        @if vitals.state == 'T' { ", " span.bad { "stopped (SIGSTOP)" } }
                        ", " (vitals.resident_bytes >> 20) " MiB resident"
                    }
                }
                @if let Some(count) = snapshot.handles.fresh(now) {
                    dt { "Open file handles" } dd {
                        (count)
                        @if let Some(limit) = snapshot.process.fresh(now).and_then(|v| v.handle_limit_soft) { " of " (limit) }
                        @if let Some(untracked) = snapshot.untracked_sockets.fresh(now) {
                            @if *untracked > 0 { ", " (untracked) " of them sockets that no table shows" }
                        }
                    }
                }
                @if let Some(pulse) = snapshot.sockets.fresh(now) {
                    @let waiting = pulse.server.get(TcpState::CloseWait);
                    dt { "CLOSE_WAIT" } dd {
                        (waiting.connections) ", " (pulse.unread_close_wait) " with unread bytes"
                    }
                    @for queue in &pulse.accept_queues {
                        dt { "Accept queue " (queue.listener) } dd {
                            (queue.length) @if let Some(limit) = queue.limit { " of " (limit) }
                        }
                    }
                }
                @if let Some(owners) = snapshot.connections.fresh(now) {
                    dt { "Established" } dd {
                        (owners.server_established.connections) " from clients, "
                        (owners.client.get(TcpState::Established).connections) " of its own"
                    }
                }
                @if let Some(counts) = snapshot.cluster.fresh(now) {
                    dt { "Partitions" } dd {
                        "leads " (counts.leader) ", " (counts.under_replicated) " under-replicated, "
                        (counts.isr_leader_alone) " with the leader alone in the ISR; missing in the ISR of " (counts.not_in_isr)
                        @if let ClusterSource::Peer(id) = counts.source {
                            " (told by broker " (id) ": " (counts.own_silence.as_deref().unwrap_or("this one is silent")) ")"
                        }
                    }
                }
                @if let Some(progress) = snapshot.progress.fresh(now) {
                    @if !progress.suspects.is_empty() {
                        dt { "Hardly moving" } dd {
                            @for (i, suspect) in progress.suspects.iter().enumerate() {
                                @if i > 0 { ", " } (suspect.thread)
                            }
                        }
                    }
                }
                @if let Some((report, at)) = snapshot.threads.last() {
                    dt { "Thread dump" } dd {
                        (ago(now, at)) " ago, took " (report.duration.as_millis()) " ms, "
                        (report.by_state.values().sum::<u64>()) " threads"
                    }
                }
            }
            @if !unknown.is_empty() {
                h3 { "Unknown" }
                ul { @for (what, why) in &unknown { li { (what) ": " span.dim { (why) } } } }
            }
        }
    }
}

fn deadlocks(standing: &StandingDeadlock, now: Moment) -> Markup {
    html! {
        p.bad {
            "Deadlocked for at least " (ago(now, standing.since)) " (newest dump that shows it: "
            (ago(now, standing.confirmed)) " ago). Only a restart frees these threads."
        }
        @for known in &standing.known_issues { (issue(known)) }
        @if standing.known_issues.is_empty() { p { "No known issue of Kafka looks like this." } }
        @for deadlock in &standing.deadlocks { (cycle(deadlock)) }
    }
}

/// Threads that do not move, that are gone, that queue.
fn thread_findings(report: &ThreadReport, now: Moment) -> Markup {
    let stalls = report.stalls.as_ref().map_or(&[][..], |stalls| &stalls.found);
    let missing = report.missing.as_ref().map_or(&[][..], |missing| &missing.found);
    html! {
        @if !stalls.is_empty() {
            h3.bad { "Threads that do not move" }
            ul { @for stall in stalls { (stalled(stall, now)) } }
        }
        @if !missing.is_empty() {
            h3.bad { "Threads that have ended though their work has not" }
            ul { @for thread in missing { li { strong { (thread.thread) } @if thread.count > 1 { " (" (thread.count) ")" } ", gone for " (ago(now, thread.since)) } } }
        }
        @if !report.convoys.is_empty() {
            h3 { "Queues for locks" }
            ul {
                @for queue in &report.convoys {
                    li {
                        (queue.waiters.len()) " threads wait for " code { (queue.lock_class) }
                        @if let Some(owner) = &queue.owner { ", which " strong { (owner) } " holds" (stack(&queue.owner_frames)) }
                    }
                }
            }
        }
    }
}

fn stalled(stall: &Stall, now: Moment) -> Markup {
    html! {
        li {
            strong { (stall.threads.join(", ")) } ", for at least " (ago(now, stall.since))
            @if let Some(frame) = &stall.frame { ", in " code { (frame) } }
            @if let Some(class) = &stall.lock_class { ", waiting for " code { (class) } }
            @for holder in &stall.holders { ", held by " strong { (holder) } }
            (stack(&stall.frames))
            @for known in &stall.known_issues { (issue(known)) }
        }
    }
}

fn stack(frames: &[String]) -> Markup {
    html! {
        @if !frames.is_empty() {
            details { summary { "Where" } pre { @for frame in frames { (frame) "\n" } } }
        }
    }
}

fn issue(known: &NamedIssue) -> Markup {
    html! {
        p {
            strong { (known.issue) } @if !known.exact { " (by likeness)" } ": " (known.title) ". "
            @if known.fixed_in.is_empty() { "No release with a fix is known." }
            @else { "Fixed in " (known.fixed_in.join(", ")) "." }
            @if let Some(advise) = &known.advise { " Move to " (advise) "." }
            @if !known.relatives.is_empty() { " Relatives: " (known.relatives.join(", ")) "." }
        }
    }
}

fn cycle(deadlock: &Deadlock) -> Markup {
    html! {
        h3 { (deadlock.cycle.len()) " threads wait for each other" }
        ul { @for thread in &deadlock.cycle { (waiting_thread(thread)) } }
        @if !deadlock.waiting.is_empty() {
            h3 { "Merely waiting for them" }
            ul { @for thread in &deadlock.waiting { (waiting_thread(thread)) } }
        }
    }
}

fn waiting_thread(thread: &DeadlockedThread) -> Markup {
    html! {
        li {
            strong { (thread.thread) } " wants " code { (thread.wants) } ", which " strong { (thread.held_by) } " holds"
            (stack(&thread.frames))
        }
    }
}

/// What is unknown of this broker, and why.
fn unknown(snapshot: &BrokerSnapshot, now: Moment) -> Vec<(String, String)> {
    let readings = [
        ("process", snapshot.process.reason(now)),
        ("open file handles", snapshot.handles.reason(now)),
        ("handles by kind", snapshot.handle_kinds.reason(now)),
        ("memory maps", snapshot.memory_maps.reason(now)),
        ("sockets", snapshot.sockets.reason(now)),
        ("connections by owner", snapshot.connections.reason(now)),
        ("cluster state", snapshot.cluster.reason(now)),
        ("threads", snapshot.threads.reason(now)),
        ("progress of threads", snapshot.progress.reason(now)),
        ("pauses of the JVM", snapshot.jvm_pauses.reason(now)),
    ];
    let mut list: Vec<(String, String)> = Vec::new();
    if snapshot.ended.is_none() {
        let told = readings.into_iter().filter_map(|(what, why)| Some((what.to_owned(), why?)));
        list.extend(told);
    }
    for (collector, status) in &snapshot.collectors {
        if let Some(error) = &status.error
            && !list.iter().any(|(_, why)| why == error)
        {
            list.push((format!("collector {collector}"), error.clone()));
        }
    }
    list.extend(snapshot.broker.problems.iter().map(|problem| ("discovery".to_owned(), problem.clone())));
    list
}

/// `42 s`, `3 min`, `5 h`, `2 d`.
fn ago(now: Moment, then: Moment) -> String {
    span(now.since(then))
}

fn span(span: Duration) -> String {
    match span.as_secs() {
        s if s < 120 => format!("{s} s"),
        s if s < 7200 => format!("{} min", s / 60),
        s if s < 172_800 => format!("{} h", s / 3600),
        s => format!("{} d", s / 86_400),
    }
}
