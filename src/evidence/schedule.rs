//! When to save the evidence of which broker: as soon as it becomes gray, of two brokers at a time.

use std::collections::{BTreeSet, HashMap};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use futures_util::StreamExt as _;
use futures_util::stream::FuturesUnordered;
use tokio::sync::watch;
use tokio::time::Instant;

use super::error::SaveError;
use super::history::History;
use super::saver::Saver;
use super::store;
use crate::collect::dump_service::DumpService;
use crate::config::EvidenceSettings;
use crate::model::{BrokerEvidence, Clock, EvidenceStatus, Moment, ProcessKey, SavedBundle};
use crate::sys::proc::ProcRoot;
use crate::verdict::View;
use crate::verdict::finding::{BrokerDiagnosis, BrokerState, FindingId, Severity};

/// The least time between two bundles of one process.
const FLOOR: Duration = Duration::from_secs(600);
/// The time until a bundle that could not be written is tried again.
const RETRY: Duration = Duration::from_secs(60);
/// How often the limits of the folder are enforced while nothing is written.
const TIDY_EVERY: Duration = Duration::from_secs(3600);

/// What is remembered about one process: how often it was saved, and for which findings.
#[derive(Debug, Clone, Default)]
struct Tried {
    findings: BTreeSet<FindingId>,
    bundles: u32,
    at: Moment,
    failed: bool,
}

impl Tried {
    /// The least time until a bundle of a later episode: it doubles with each bundle, up to 21 hours, so that a broker
    /// which is gray on and off does not displace the evidence of others.
    fn floor(&self) -> Duration {
        FLOOR * 2_u32.pow(self.bundles.saturating_sub(1).min(7))
    }
}

/// How many bundles are written at a time: the evidence of one broker does not wait for that of another user's process.
const WRITERS: usize = 2;

/// What the two writers do and did.
#[derive(Debug, Default)]
struct Turns {
    /// The processes whose bundles are written now, each with its user.
    writing: Vec<(ProcessKey, Option<u32>)>,
    /// How often each label had its turn.
    by_label: HashMap<String, u32>,
}

impl Turns {
    /// Whether a bundle of the process may be written now. The brokers of one user have one writer, unless all brokers
    /// are of that user.
    fn admit(&self, view: &View, process: ProcessKey) -> bool {
        let own = user_of(view, process);
        let running = || view.snapshot.brokers.iter().filter(|b| b.ended.is_none());
        self.writing.len() < WRITERS
            && self.writing.iter().all(|(other, _)| *other != process)
            && (self.writing.iter().all(|(_, user)| *user != own)
                || running().all(|broker| broker.broker.uid == own))
    }

    fn of(&self, label: &str) -> u32 {
        self.by_label.get(label).copied().unwrap_or(0)
    }
}

fn user_of(view: &View, process: ProcessKey) -> Option<u32> {
    view.snapshot.of(process)?.broker.uid
}

/// The gray broker whose evidence is due and may be written; of several the one whose label had the fewest turns, then the
/// one that has been gray for longest.
fn due<'a>(
    view: &'a View,
    tried: &HashMap<ProcessKey, Tried>,
    turns: &Turns,
    now: Moment,
) -> Option<&'a BrokerDiagnosis> {
    let is_due = |broker: &&BrokerDiagnosis| match tried.get(&broker.process) {
        _ if broker.state != BrokerState::Gray => false,
        None => true,
        Some(before) if before.failed => now.since(before.at) >= RETRY,
        Some(before) => {
            let (new, apart) = (&critical(broker) - &before.findings, now.since(before.at));
            let joined =
                !new.is_empty() && (apart >= FLOOR || STUCK.iter().any(|id| new.contains(id)));
            joined || (broker.since > before.at && apart >= before.floor())
        }
    };
    view.diagnosis
        .brokers
        .iter()
        .filter(is_due)
        .filter(|broker| turns.admit(view, broker.process))
        .min_by_key(|broker| (turns.of(&broker.label), broker.since))
}

/// The findings that cause a restart: their traces end with the process, so they do not wait.
const STUCK: [FindingId; 3] = [
    FindingId::JvmDeadlock,
    FindingId::LockCycle,
    FindingId::StalledPool,
];

/// Whether the broker is deadlocked or stalled: only then a heap dump may pause it.
pub fn is_stuck(broker: &BrokerDiagnosis) -> bool {
    broker.state == BrokerState::Gray
        && broker
            .findings
            .iter()
            .any(|finding| STUCK.contains(&finding.id))
}

/// The critical findings.
fn critical(broker: &BrokerDiagnosis) -> BTreeSet<FindingId> {
    let ids = broker.findings.iter().map(|finding| finding.id);
    ids.filter(|id| id.kind().severity == Severity::Critical)
        .collect()
}

/// Saves the evidence of every broker that becomes gray, of two at a time, until `views` ends. Without a folder it
/// says so once and saves nothing.
pub async fn run(
    views: watch::Receiver<Arc<View>>,
    publish: watch::Sender<Arc<EvidenceStatus>>,
    settings: EvidenceSettings,
    proc: ProcRoot,
    dumps: DumpService,
    clock: Clock,
) {
    if settings.dir.is_none() {
        let off = "evidence is off: there is no folder for it (STATE_DIRECTORY, XDG_STATE_HOME and HOME are not \
                   set); give --evidence.dir";
        tracing::warn!("{off}");
        publish.send_replace(Arc::new(EvidenceStatus {
            off: Some(off.to_owned()),
            ..EvidenceStatus::default()
        }));
        return std::future::pending().await;
    }
    let history = History::default();
    let saver = Saver::new(settings, proc, dumps, clock, true);
    tokio::select! {
        () = history.follow(views.clone()) => {}
        () = save(views, publish, saver, &history) => {}
    }
}

/// A bundle that was tried.
struct Attempt {
    saver: Saver,
    broker: BrokerDiagnosis,
    at: Moment,
    result: Result<PathBuf, SaveError>,
}

async fn save(
    mut views: watch::Receiver<Arc<View>>,
    publish: watch::Sender<Arc<EvidenceStatus>>,
    mut saver: Saver,
    history: &History,
) {
    // A folder that is refused is reported at the start, and not first when a broker needs it.
    saver.tidy().await;
    let (mut tried, mut saved) = remembered(&mut saver).await;
    publish.send_replace(Arc::new(saved.clone()));
    let (mut tidied, mut over) = (Instant::now(), false);
    let mut turns = Turns::default();
    let mut writing = FuturesUnordered::new();
    let clock = saver.clock;
    let mut idle = vec![saver.another(), saver];
    loop {
        let view = Arc::clone(&views.borrow_and_update());
        while let Some(broker) = due(&view, &tried, &turns, clock.now()).cloned()
            && let Some(saver) = idle.pop()
        {
            let process = broker.process;
            turns.writing.push((process, user_of(&view, process)));
            *turns.by_label.entry(broker.label.clone()).or_default() += 1;
            writing.push(attempt(
                saver,
                Arc::clone(&view),
                broker,
                views.clone(),
                history,
            ));
        }
        if let Some(saver) = idle.first_mut()
            && writing.is_empty()
            && tidied.elapsed() >= TIDY_EVERY
        {
            tidied = Instant::now();
            saver.tidy().await;
        }
        let done = tokio::select! {
            Some(done) = writing.next() => done,
            changed = views.changed(), if !over => {
                over = changed.is_err();
                continue;
            }
            else => return,
        };
        let Attempt {
            saver,
            broker,
            at,
            result,
        } = done;
        idle.push(saver);
        turns
            .writing
            .retain(|(process, _)| *process != broker.process);
        let entry = saved.brokers.entry(broker.label.clone());
        let entry = entry.or_insert(BrokerEvidence {
            process: broker.process,
            newest: None,
            total: 0,
            failure: None,
        });
        if std::mem::replace(&mut entry.process, broker.process) != broker.process {
            entry.newest = None;
        }
        let known = tried.entry(broker.process).or_default();
        (known.at, known.failed) = (at, result.is_err());
        match result {
            Ok(path) => {
                tracing::warn!(broker = broker.label, path = %path.display(), "saved the evidence");
                known.findings.extend(critical(&broker));
                known.bundles += 1;
                (entry.total, entry.newest, entry.failure) =
                    (entry.total + 1, Some(SavedBundle { path, at }), None);
            }
            Err(error) => {
                tracing::error!(broker = broker.label, "no evidence could be saved: {error}");
                entry.failure = Some(error.to_string());
            }
        }
        let view = Arc::clone(&views.borrow());
        let is_listed = |process: &ProcessKey| view.diagnosis.of(*process).is_some();
        let has_label = |label: &String| {
            let mut labels = view.diagnosis.brokers.iter().map(|broker| &broker.label);
            labels.any(|known| known == label)
        };
        tried.retain(|process, _| is_listed(process));
        turns.by_label.retain(|label, _| has_label(label));
        saved
            .brokers
            .retain(|label, saved| is_listed(&saved.process) || has_label(label));
        for saver in &mut idle {
            saver.readers.retain(|(process, _), _| is_listed(process));
        }
        publish.send_replace(Arc::new(saved.clone()));
    }
}

async fn attempt(
    mut saver: Saver,
    view: Arc<View>,
    broker: BrokerDiagnosis,
    views: watch::Receiver<Arc<View>>,
    history: &History,
) -> Attempt {
    let at = saver.clock.now();
    let still_stuck = || {
        let newest = views.borrow();
        newest.diagnosis.of(broker.process).is_some_and(is_stuck)
    };
    let result = saver.save(&view, &broker, history, still_stuck).await;
    Attempt {
        saver,
        broker,
        at,
        result,
    }
}

/// The bundles of an earlier exporter for processes that still run: they are not saved again after its restart.
async fn remembered(saver: &mut Saver) -> (HashMap<ProcessKey, Tried>, EvidenceStatus) {
    let settings = Arc::clone(&saver.settings);
    let proc = saver.proc.clone();
    let found = saver.in_folder(move |_| {
        let mut found = store::manifests(&settings);
        // After a reboot another process may have the same id and start ticks.
        found.retain(|(_, manifest)| {
            let ticks = manifest.process.start_ticks;
            let started = proc
                .started(ticks)
                .ok()
                .map(|since_1970| Moment(0).plus(since_1970));
            let apart = started
                .zip(manifest.started)
                .map(|(a, b)| a.since(b).max(b.since(a)));
            apart.is_some_and(|apart| apart < Duration::from_secs(60))
                && proc
                    .stat(manifest.process.pid)
                    .is_ok_and(|stat| stat.start_ticks == ticks)
        });
        found
    });
    let (mut tried, mut saved) = (
        HashMap::<ProcessKey, Tried>::new(),
        EvidenceStatus::default(),
    );
    for (path, manifest) in found.await.unwrap_or_default() {
        let known = tried.entry(manifest.process).or_default();
        known.at = manifest.at;
        known.findings.extend(manifest.findings);
        known.bundles += 1;
        let newest = Some(SavedBundle {
            path,
            at: manifest.at,
        });
        let entry = BrokerEvidence {
            process: manifest.process,
            newest,
            total: 0,
            failure: None,
        };
        saved.brokers.insert(manifest.broker, entry);
    }
    (tried, saved)
}

#[cfg(test)]
mod tests;
