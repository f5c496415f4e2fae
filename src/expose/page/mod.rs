//! The page `/`: the verdict in a sentence, then what it rests on, what to do, and what is unknown and why.
//!
//! For an operator at night: no script, nothing from another host, nothing that moves by itself. Whatever a broker can
//! make long (names of threads, messages) is cut, and lists end with the number of omitted entries.

mod broker;
mod graph;
mod peers;
mod style;

use maud::{DOCTYPE, Markup, PreEscaped, html};

use super::overview::{Level, overview, worst_first};
use super::vitals::cut;
use crate::model::EvidenceStatus;
use crate::model::Moment;
use crate::model::clock_text;
use crate::model::duration_text;
use crate::model::routes;
use crate::model::visible;
use crate::verdict::View;
use crate::verdict::finding::Change;
use style::{TEXT, class};

const STYLE: &str = include_str!("style.css");

/// Brokers shown in full, the worst first.
const BROKERS: usize = 8;
const EVENTS: usize = 50;

/// Where this exporter serves what the page links to.
#[derive(Debug, Clone, Copy)]
pub struct Own<'a> {
    pub telemetry_path: &'a str,
    /// That of the page. None where no other exporter has the same.
    pub port: Option<u16>,
}

impl<'a> From<&'a str> for Own<'a> {
    fn from(telemetry_path: &'a str) -> Own<'a> {
        Own {
            telemetry_path,
            port: None,
        }
    }
}

/// The page at `now`.
pub fn render<'a>(
    view: &View,
    saved: &EvidenceStatus,
    now: Moment,
    own: impl Into<Own<'a>>,
) -> Markup {
    let Own {
        telemetry_path,
        port,
    } = own.into();
    let snapshot = &*view.snapshot;
    let overview = overview(view, saved);
    let headline = overview
        .sentences
        .first()
        .map(|sentence| cut(sentence, TEXT))
        .unwrap_or_default();
    let brokers = worst_first(view);
    let unavailable = view
        .diagnosis
        .brokers
        .iter()
        .flat_map(|broker| &broker.unavailable);
    let mut down: Vec<_> = unavailable.filter(|other| other.until.is_none()).collect();
    down.sort_by_key(|other| other.id);
    down.dedup_by_key(|other| other.id);
    down.truncate(BROKERS);
    let title = format!("{}: {headline}", overview.level.name());
    let page = shell(
        &title,
        &html! {
            header {
                p.top {
                    span { strong { "kafka-vitals" } ", as of " (clock_text(snapshot.at)) }
                    a href=(routes::PAGE) { "Reload" }
                }
                div class={ "verdict " (class(overview.level)) } {
                    p { span.badge { (overview.level.name().to_lowercase()) } }
                    h1 { (headline) }
                    @for sentence in overview.sentences.iter().skip(1).take(BROKERS) { p { (cut(sentence, TEXT)) } }
                }
                @if brokers.len() > 1 {
                    nav aria-label="Brokers" {
                        @for (index, (_, diagnosis)) in brokers.iter().enumerate().take(BROKERS) {
                            a href={ "#broker-" (index) } class=(class(Level::of(diagnosis))) {
                                (diagnosis.label) " " span.badge { (diagnosis.state.text()) }
                            }
                        }
                    }
                }
                (peers::links(view, port, now))
            }
            main {
                @if snapshot.discovery.error.is_some() || !snapshot.discovery_warnings.is_empty() || !down.is_empty() {
                    section {
                        h2 { "This host" }
                        ul {
                            @if let Some(error) = &snapshot.discovery.error { li { "Discovery: " (cut(error, TEXT)) } }
                            @for warning in snapshot.discovery_warnings.iter().take(BROKERS) { li { (cut(warning, TEXT)) } }
                            @for other in down {
                                li { "Broker " (other.id) " of the cluster has been down since " (clock_text(other.since)) "." }
                            }
                        }
                    }
                }
                @for (index, (broker, diagnosis)) in brokers.iter().enumerate().take(BROKERS) {
                    (broker::section(view, broker, diagnosis, diagnosis.evidence(saved), index, now))
                }
                @if brokers.len() > BROKERS { p { (brokers.len() - BROKERS) " more brokers: see the metrics." } }
                (timeline(view, now))
            }
            footer {
                p {
                    "kafka-vitals " (env!("CARGO_PKG_VERSION")) ". "
                    a href=(routes::RUNBOOKS) { "Runbooks" } ", "
                    a href=(telemetry_path) { "metrics" } ", "
                    a href=(routes::HEALTHY) { "health" } ", "
                    a href=(routes::READY) { "readiness" } ". The page does not reload by itself."
                }
            }
        },
    );
    // None of these characters is the page's own.
    PreEscaped(visible(&page.0).into_owned())
}

/// The frame of every page of the exporter.
pub fn shell(title: &str, body: &Markup) -> Markup {
    html! {
        (DOCTYPE)
        html lang="en" {
            head {
                meta charset="utf-8";
                meta name="viewport" content="width=device-width,initial-scale=1";
                title { (title) }
                style { (PreEscaped(STYLE)) }
            }
            body { (body) }
        }
    }
}

/// The events, the newest first.
fn timeline(view: &View, now: Moment) -> Markup {
    let events = &view.diagnosis.timeline;
    let severity = |change: Change| match change {
        Change::FindingStarted { finding } => Some(finding.kind().severity.name()),
        _ => None,
    };
    html! {
        section {
            h2 { "Timeline" }
            @if events.is_empty() { p.dim { "Nothing has happened since the exporter started." } }
            ol.timeline {
                @for event in events.iter().rev().take(EVENTS) {
                    li class=[severity(event.change)] {
                        span.dim { (clock_text(event.at)) ", " (duration_text(now.since(event.at))) " ago" } " "
                        span { "Broker " (event.broker) ": " strong { (event.change) } }
                        @if let Some(severity) = severity(event.change) { span.dim { " (" (severity) ")" } }
                    }
                }
            }
            @if events.len() > EVENTS { p.dim { "and " (events.len() - EVENTS) " older ones" } }
        }
    }
}

#[cfg(test)]
mod tests;
