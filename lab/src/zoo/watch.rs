//! Reads what every exporter says, several times a second.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use serde_json::Value;

use crate::cell::Cell;
use crate::http;

/// The exporter's own port, as on every host.
pub const PORT: u16 = 10052;
const APART: Duration = Duration::from_millis(250);
const ANSWER: Duration = Duration::from_secs(2);
/// Readings that differ, of one exporter; a scenario has some hundred.
const MOST_SAID: usize = 20_000;

/// What the exporter of a host said of the broker there.
#[derive(Clone, Debug, PartialEq)]
pub struct Said {
    pub at: Instant,
    /// The broker of the host.
    pub broker: i32,
    /// As `broker_state` has it; empty where the exporter lists no broker.
    pub state: String,
    pub verdict: String,
    pub findings: Vec<Found>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Found {
    pub name: String,
    pub severity: String,
    /// Title and facts.
    pub text: String,
}

/// A running reader for each exporter; dropping it ends them.
pub struct Watch {
    said: Arc<Mutex<Vec<Said>>>,
    stop: Arc<AtomicBool>,
    threads: Vec<JoinHandle<()>>,
}

impl Watch {
    pub fn start(hosts: &[(i32, Cell)]) -> Result<Watch> {
        let mut watch = Watch {
            said: Arc::default(),
            stop: Arc::default(),
            threads: Vec::new(),
        };
        for (broker, cell) in hosts {
            let (said, stop, broker) = (Arc::clone(&watch.said), Arc::clone(&watch.stop), *broker);
            let network = cell.network()?;
            let run = move || {
                if network.enter().is_err() {
                    return;
                }
                drop(network);
                let mut last = None;
                while !stop.load(Ordering::Relaxed) {
                    let at = Instant::now();
                    // Where the exporter does not answer, nothing is said; what it said last stands.
                    if let Ok(new) = read(broker, at)
                        && last.as_ref().is_none_or(|last| differs(last, &new))
                    {
                        let mut all = said.lock().unwrap_or_else(PoisonError::into_inner);
                        if all.len() < MOST_SAID {
                            all.push(new.clone());
                        }
                        last = Some(new);
                    }
                    thread::sleep(APART.saturating_sub(at.elapsed()));
                }
            };
            let thread = thread::Builder::new().name("watch".into()).spawn(run)?;
            watch.threads.push(thread);
        }
        Ok(watch)
    }

    /// Returns everything said until now, in the order of time.
    pub fn said(&self) -> Vec<Said> {
        let mut all = self
            .said
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone();
        all.sort_by_key(|said| said.at);
        all
    }

    /// Forgets all but what stands now.
    pub fn forget(&self) {
        let now = self.now();
        let mut all = self.said.lock().unwrap_or_else(PoisonError::into_inner);
        all.retain(|said| now.contains(said) || now.iter().all(|known| known.at < said.at));
    }

    /// Returns what stands now, of each broker.
    pub fn now(&self) -> Vec<Said> {
        let mut newest: Vec<Said> = Vec::new();
        for said in self.said().into_iter().rev() {
            if newest.iter().all(|known| known.broker != said.broker) {
                newest.push(said);
            }
        }
        newest
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        for thread in self.threads.drain(..) {
            let _ = thread.join();
        }
    }
}

fn differs(last: &Said, new: &Said) -> bool {
    (&last.state, &last.verdict, &last.findings) != (&new.state, &new.verdict, &new.findings)
}

/// Asks the exporter in the calling thread's network.
fn read(broker: i32, at: Instant) -> Result<Said> {
    let (status, body) = http::get(PORT, "/api/v1/brokers", ANSWER)?;
    ensure!(status == 200, "status {status}");
    said(broker, at, &body)
}

fn said(broker: i32, at: Instant, body: &str) -> Result<Said> {
    let answer: Value = serde_json::from_str(body)?;
    let brokers = answer["brokers"].as_array().context("no list of brokers")?;
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    // After a restart the ended process is listed for a while too, after the one that runs.
    let own = brokers.iter().find(|one| one["id"] == broker);
    let finding = |value: &Value| {
        let facts = value["facts"].as_array().into_iter().flatten().map(text);
        let mut words = vec![text(&value["title"])];
        words.extend(facts);
        Found {
            name: text(&value["finding"]),
            severity: text(&value["severity"]),
            text: words.join(". "),
        }
    };
    let findings = own.and_then(|own| own["findings"].as_array());
    Ok(Said {
        at,
        broker,
        state: own.map(|own| text(&own["state"])).unwrap_or_default(),
        verdict: own
            .map(|own| format!("{} {}", text(&own["verdict"]), text(&own["what_to_do"])))
            .unwrap_or_default(),
        findings: findings.into_iter().flatten().map(finding).collect(),
    })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn the_broker_of_the_host_is_read_with_its_findings() {
        let body = r#"{"at": "", "brokers": [{"broker": "2", "id": 2, "state": "gray", "verdict": "Broker 2 hangs.",
            "what_to_do": "Restart it.", "findings": [{"finding": "stalled_pool", "severity": "critical",
            "title": "Stalled threads", "facts": ["8 of 8", "since 10:00"]}]}]}"#;
        let at = Instant::now();
        let read = said(2, at, body).unwrap();
        assert_eq!(
            (read.state.as_str(), read.verdict.as_str()),
            ("gray", "Broker 2 hangs. Restart it.")
        );
        assert_eq!(
            read.findings,
            [Found {
                name: "stalled_pool".into(),
                severity: "critical".into(),
                text: "Stalled threads. 8 of 8. since 10:00".into(),
            }]
        );
        let none = said(2, at, r#"{"brokers": []}"#).unwrap();
        assert_eq!((none.state.as_str(), none.findings.len()), ("", 0));
        assert!(said(2, at, "{}").is_err());
    }
}
